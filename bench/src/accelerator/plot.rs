//! The plot: a panel a latency and number of connections; records a second against records in flight, a line a number of lanes,
//! and dashed what the accelerator can do.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Point, Report};

pub fn write(path: &Path, report: &Report) -> Result<()> {
    let (rows, columns) = (connections(report).len(), latencies(report).len());
    let size = (460 * columns as u32, HEAD + 380 * rows as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    draw(&root, report).map_err(|error| anyhow!("drawing {}: {error}", path.display()))?;
    root.present()
        .map_err(|error| anyhow!("writing {}: {error}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

const HEAD: u32 = 72;
const COLORS: [RGBColor; 4] = [
    RGBColor(0x7f, 0xb8, 0xe0),
    RGBColor(0x2f, 0x7f, 0xbf),
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0xd9, 0x95, 0x3c),
];

fn draw(root: &Area<'_>, report: &Report) -> Drawn {
    root.fill(&WHITE)?;
    let (head, panels) = root.split_vertically(HEAD);
    let machine = &report.machine;
    head.draw_text(
        "records over an accelerator, by how many are in flight",
        &("sans-serif", 22).into_text_style(&head),
        (16, 8),
    )?;
    let note = format!(
        "dashed: what the accelerator can do; grey: what this machine can do with one that takes no time · 1 KiB records · {} · {} cores · {} · {}",
        machine.cpu, machine.cores, machine.commit, machine.date
    );
    head.draw_text(&note, &("sans-serif", 13).into_text_style(&head), (16, 42))?;
    let (connections, latencies) = (connections(report), latencies(report));
    let areas = panels.split_evenly((connections.len(), latencies.len()));
    let each = connections
        .iter()
        .flat_map(|&connections| latencies.iter().map(move |&latency| (connections, latency)));
    for (area, (connections, latency)) in areas.iter().zip(each) {
        panel(area, report, connections, latency)?;
    }
    Ok(())
}

fn panel(area: &Area<'_>, report: &Report, connections: usize, latency: u64) -> Drawn {
    let points: Vec<&Point> = report
        .points
        .iter()
        .filter(|point| {
            point.setting.connections == connections && point.setting.latency_us == latency
        })
        .collect();
    let ceiling = report
        .ceiling
        .iter()
        .find(|(count, _)| *count == connections)
        .map_or(0.0, |(_, rate)| *rate);
    let most = points
        .iter()
        .map(|point| point.records_per_s)
        .fold(ceiling, f64::max);
    let least = points
        .iter()
        .map(|point| point.records_per_s)
        .fold(most, f64::min);
    let deepest = points.iter().map(|point| point.setting.depth).max();
    let deepest = deepest.unwrap_or(1).max(2) as f64;
    let caption = match connections {
        1 => format!("{latency} us, one connection"),
        _ => format!("{latency} us, {connections} connections"),
    };
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 17))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (1.0..deepest).log_scale().base(2.0),
            (least / 1.5..most * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("records in flight")
        .y_desc("records/s")
        .x_label_formatter(&|depth| format!("{depth}"))
        .y_label_formatter(&|rate| format!("{rate}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    chart.draw_series([PathElement::new(
        [(1.0, ceiling), (deepest, ceiling)],
        BLACK.mix(0.4).stroke_width(2),
    )])?;
    let mut lanes: Vec<u64> = points.iter().map(|point| point.setting.lanes).collect();
    lanes.sort_unstable();
    lanes.dedup();
    for (lanes, color) in lanes.into_iter().zip(COLORS.into_iter().cycle()) {
        let of_lanes = points.iter().filter(|point| point.setting.lanes == lanes);
        let line: Vec<(f64, f64)> = of_lanes
            .clone()
            .map(|point| (point.setting.depth as f64, point.records_per_s))
            .collect();
        let limit = of_lanes.map(|point| {
            let limit = point.limit_per_s.min(most * 1.5);
            (point.setting.depth as f64, limit)
        });
        chart.draw_series(DashedLineSeries::new(
            limit.collect::<Vec<_>>(),
            5,
            4,
            color.stroke_width(1),
        ))?;
        chart
            .draw_series(LineSeries::new(line.clone(), color.stroke_width(2)))?
            .label(match lanes {
                1 => "1 lane".to_owned(),
                _ => format!("{lanes} lanes"),
            })
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(line.iter().map(|&at| Circle::new(at, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

fn connections(report: &Report) -> Vec<usize> {
    let mut all: Vec<usize> = report
        .points
        .iter()
        .map(|point| point.setting.connections)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn latencies(report: &Report) -> Vec<u64> {
    let mut all: Vec<u64> = report
        .points
        .iter()
        .map(|point| point.setting.latency_us)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}
