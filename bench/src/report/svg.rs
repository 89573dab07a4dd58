//! The plot: six panels of grouped bars, ratios on a log scale, each goal as a dash across the bar that it is about.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::Report;
use crate::goals::{Against, Goal};
use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::rounds::Results;
use crate::scenario::Mode;

pub fn write(path: &Path, report: &Report, goals: &[Goal]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    draw(&root, report, goals).map_err(|error| anyhow!("drawing {}: {error}", path.display()))?;
    root.present()
        .map_err(|error| anyhow!("writing {}: {error}", path.display()))
}

const SIZE: (u32, u32) = (1400, 1450);
const LEGEND_HEIGHT: u32 = 92;
/// Part of the width between two groups that their bars fill.
const GROUP_WIDTH: f64 = 0.84;
/// The least range of a panel, so that noise does not look like a difference.
const NARROWEST: (f64, f64) = (0.5, 2.0);

/// One panel: a figure of one mode as a ratio to one peer.
struct Panel {
    title: &'static str,
    mode: Mode,
    metric: Metric,
    against: Against,
}

const PANELS: [Panel; 6] = [
    Panel {
        title: "streaming: messages/s, ratio to SSL_write (more is better)",
        mode: Mode::Stream,
        metric: Metric::MessagesPerS,
        against: Against::SslWrite,
    },
    Panel {
        title: "streaming: messages/s, ratio to plain send (more is better)",
        mode: Mode::Stream,
        metric: Metric::MessagesPerS,
        against: Against::Plain,
    },
    Panel {
        title: "streaming: CPU of the calling thread, ratio to SSL_write (less is better)",
        mode: Mode::Stream,
        metric: Metric::CallerCpuNsPerByte,
        against: Against::SslWrite,
    },
    Panel {
        title: "request/response: round trip p50, ratio to SSL_write (less is better)",
        mode: Mode::Request,
        metric: Metric::RoundTripP50Ns,
        against: Against::SslWrite,
    },
    Panel {
        title: "receiving: GB/s, ratio to SSL_read (more is better)",
        mode: Mode::Receive,
        metric: Metric::GbPerS,
        against: Against::SslWrite,
    },
    Panel {
        title: "receiving: GB/s, ratio to plain recv (more is better)",
        mode: Mode::Receive,
        metric: Metric::GbPerS,
        against: Against::Plain,
    },
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(root: &Area<'_>, report: &Report, goals: &[Goal]) -> Drawn {
    root.fill(&WHITE)?;
    let (legend, panels) = root.split_vertically(LEGEND_HEIGHT);
    draw_legend(&legend, report)?;
    for (area, panel) in panels.split_evenly((3, 2)).iter().zip(&PANELS) {
        panel.draw(area, &report.results, goals)?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, report: &Report) -> Drawn {
    const STEP: i32 = 124;
    let machine = &report.machine;
    area.draw_text(
        "uktls against other TLS libraries and plain TCP",
        &("sans-serif", 24).into_text_style(area),
        (20, 10),
    )?;
    let where_and_when = format!(
        "{} · {} cores · {} · {} · uktls {} · {} · medians of {} rounds",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.openssl,
        machine.commit,
        machine.date,
        report.rounds
    );
    area.draw_text(
        &where_and_when,
        &("sans-serif", 13).into_text_style(area),
        (20, 42),
    )?;
    let text = ("sans-serif", 15).into_text_style(area);
    for (x, peer) in (20..).step_by(STEP as usize).zip(PeerKind::ALL) {
        area.draw(&Rectangle::new(
            [(x, 66), (x + 16, 82)],
            color(peer).filled(),
        ))?;
        area.draw_text(peer.label(), &text, (x + 22, 67))?;
    }
    let x = 20 + STEP * PeerKind::ALL.len() as i32;
    area.draw(&PathElement::new([(x, 74), (x + 24, 74)], goal_style()))?;
    area.draw_text("goal", &text, (x + 32, 67))?;
    Ok(())
}

impl Panel {
    fn draw(&self, area: &Area<'_>, results: &[Results], goals: &[Goal]) -> Drawn {
        let groups: Vec<&Results> = results
            .iter()
            .filter(|results| results.scenario.mode == self.mode)
            .collect();
        let bars = self.bars(&groups);
        let marks = self.marks(&groups, &bars, goals);
        let heights = bars.iter().chain(&marks).map(|bar| bar.ratio);
        let (low, high) = heights.fold(NARROWEST, |(low, high), ratio| {
            (low.min(ratio), high.max(ratio))
        });
        let (low, high) = (low / 1.25, high * 1.25);
        let width = groups.len().max(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 17))
            .margin(10)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..width, (low..high).log_scale().base(2.0))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.15))
            .y_labels(12)
            .y_label_formatter(&|ratio| format!("{ratio}"))
            .label_style(("sans-serif", 14))
            .draw()?;
        // A ratio has no zero: bars stand on, or hang from, 1.
        chart.draw_series(bars.iter().map(|bar| {
            Rectangle::new(
                [(bar.left, 1.0), (bar.right, bar.ratio)],
                color(bar.peer).filled(),
            )
        }))?;
        chart.draw_series([PathElement::new([(0.0, 1.0), (width, 1.0)], BLACK)])?;
        chart.draw_series(marks.iter().map(|mark| {
            PathElement::new(
                [(mark.left, mark.ratio), (mark.right, mark.ratio)],
                goal_style(),
            )
        }))?;
        let plotting = chart.plotting_area();
        let (left, top) = area.get_base_pixel();
        for bar in &bars {
            let (x, y) = plotting.map_coordinate(&((bar.left + bar.right) / 2.0, bar.ratio));
            let beyond = if bar.ratio >= 1.0 { -13 } else { 3 };
            let label = if bar.ratio >= 9.95 {
                format!("{:.0}", bar.ratio)
            } else {
                format!("{:.2}", bar.ratio)
            };
            let half = 3 * label.len() as i32;
            area.draw_text(
                &label,
                &("sans-serif", 11).into_text_style(area),
                (x - left - half, y - top + beyond),
            )?;
        }
        for (index, group) in groups.iter().enumerate() {
            let (x, y) = plotting.map_coordinate(&(index as f64 + 0.5, low));
            let name = group.scenario.sizes();
            let half = 4 * name.len() as i32;
            area.draw_text(
                &name,
                &("sans-serif", 15).into_text_style(area),
                (x - left - half, y - top + 6),
            )?;
        }
        Ok(())
    }

    fn bars(&self, groups: &[&Results]) -> Vec<Bar> {
        let base = match self.against {
            Against::Plain => PeerKind::Plain,
            Against::SslWrite | Against::BestPeer | Against::BetterEngine => PeerKind::SslWrite,
        };
        let mut bars = Vec::new();
        for (index, results) in groups.iter().enumerate() {
            let width = GROUP_WIDTH / results.peers.len() as f64;
            let start = index as f64 + (1.0 - GROUP_WIDTH) / 2.0;
            for (place, &(peer, _)) in results.peers.iter().enumerate() {
                if let Some(ratio) = results.ratio(peer, base, self.metric) {
                    let left = start + place as f64 * width;
                    bars.push(Bar {
                        left,
                        right: left + width * 0.92,
                        ratio,
                        peer,
                    });
                }
            }
        }
        bars
    }

    /// The goals as bars without a body, a little wider than the bar that each is about.
    fn marks(&self, groups: &[&Results], bars: &[Bar], goals: &[Goal]) -> Vec<Bar> {
        const OVERHANG: f64 = 0.03;
        let mut marks = Vec::new();
        for (index, results) in groups.iter().enumerate() {
            for goal in goals {
                let Some(ratio) = goal.mark(results.scenario, self.metric, self.against) else {
                    continue;
                };
                let about = bars
                    .iter()
                    .find(|bar| bar.left.floor() == index as f64 && bar.peer == goal.peer);
                if let Some(&Bar { left, right, .. }) = about {
                    marks.push(Bar {
                        left: left - OVERHANG,
                        right: right + OVERHANG,
                        ratio,
                        peer: goal.peer,
                    });
                }
            }
        }
        marks
    }
}

struct Bar {
    left: f64,
    right: f64,
    ratio: f64,
    peer: PeerKind,
}

fn goal_style() -> ShapeStyle {
    RGBColor(0xc0, 0x10, 0x20).stroke_width(2)
}

/// Greys for what is compared with, blues and greens for uktls.
fn color(peer: PeerKind) -> RGBColor {
    match peer {
        PeerKind::Plain => RGBColor(0xb8, 0xb8, 0xb8),
        PeerKind::SslWrite => RGBColor(0x6e, 0x6e, 0x6e),
        PeerKind::Rustls => RGBColor(0xd9, 0x95, 0x3c),
        PeerKind::RustlsRing => RGBColor(0xe8, 0xc0, 0x85),
        PeerKind::GnuTls => RGBColor(0x9c, 0x7b, 0xb5),
        PeerKind::S2n => RGBColor(0xc7, 0x6b, 0x6b),
        PeerKind::Ktls => RGBColor(0x40, 0x40, 0x40),
        PeerKind::Inline => RGBColor(0x7f, 0xb8, 0xe0),
        PeerKind::Threads => RGBColor(0x2f, 0x7f, 0xbf),
        PeerKind::Auto => RGBColor(0x1b, 0x9e, 0x77),
    }
}
