//! `uktls stat`: what running processes do.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use uktls::stats::Stats;

use crate::segments::{self, Process};
use crate::{Failure, args};

/// Prints the counters, once or until it is interrupted. Fails if one process was asked for and is not there.
pub fn stat(options: &args::Stat) -> Result<ExitCode, Failure> {
    let read = || -> Result<Vec<Process>, Failure> {
        let all = segments::read_all().map_err(|error| {
            Failure::new(1, format!("{}: {error}", segments::directory().display()))
        })?;
        let wanted = |process: &Process| options.pid.is_none_or(|pid| process.pid == pid);
        Ok(all.into_iter().filter(wanted).collect())
    };
    let processes = read()?;
    if let Some(pid) = options.pid
        && processes.is_empty()
    {
        return Err(Failure::new(1, format!("process {pid} shows no counters")));
    }
    let on_terminal = std::io::stdout().is_terminal();
    let watch = options
        .watch
        .or_else(|| on_terminal.then_some(Duration::from_secs(1)));
    let text = match (options.json, options.prometheus, watch) {
        (true, _, _) => json(&processes),
        (_, true, _) => prometheus(&processes),
        (_, _, None) => table(&processes, None),
        (_, _, Some(interval)) => return refresh(processes, read, interval, on_terminal),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn refresh(
    first: Vec<Process>,
    read: impl Fn() -> Result<Vec<Process>, Failure>,
    interval: Duration,
    on_terminal: bool,
) -> Result<ExitCode, Failure> {
    let (mut before, mut then) = (Before::of(&first), Instant::now());
    let mut text = table(&first, None);
    loop {
        // From the top of a cleared screen.
        let clear = if on_terminal { "\x1b[H\x1b[J" } else { "" };
        print(&format!("{clear}{text}"))?;
        std::thread::sleep(interval);
        let (processes, now) = (read()?, Instant::now());
        text = table(&processes, Some((&before, now - then)));
        (before, then) = (Before::of(&processes), now);
    }
}

/// A reader that has gone is not an error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Failure::new(1, format!("standard output: {error}"))),
    }
}

/// Bytes of each process at the last look.
struct Before(HashMap<u32, (u64, u64)>);

impl Before {
    fn of(processes: &[Process]) -> Before {
        let bytes = |process: &Process| (process.get("tx_bytes"), process.get("rx_bytes"));
        Before(
            processes
                .iter()
                .map(|process| (process.pid, bytes(process)))
                .collect(),
        )
    }
}

fn table(processes: &[Process], rates: Option<(&Before, Duration)>) -> String {
    let mut text = format!(
        "{:>7} {:15} {:>7} {:>7} {:>11} {:>11} {:>10} {:>10} {:>8} {:>6}\n",
        "PID",
        "PROGRAM",
        "TX NOW",
        "RX NOW",
        "TX BYTES",
        "RX BYTES",
        "TX/s",
        "RX/s",
        "DECLINED",
        "ERRORS"
    );
    for process in processes {
        let (sent, received) = (process.get("tx_bytes"), process.get("rx_bytes"));
        let rate = |now: u64, then: fn(&(u64, u64)) -> u64| match rates {
            Some((before, time)) => {
                let then = before.0.get(&process.pid).map_or(now, then);
                short(now.saturating_sub(then) as f64 / time.as_secs_f64())
            }
            None => "-".to_owned(),
        };
        let _ = writeln!(
            text,
            "{:>7} {:15} {:>7} {:>7} {:>11} {:>11} {:>10} {:>10} {:>8} {:>6}",
            process.pid,
            process.program,
            process.get("curr_tx_sw"),
            process.get("curr_rx_sw"),
            short(sent as f64),
            short(received as f64),
            rate(sent, |then| then.0),
            rate(received, |then| then.1),
            process.get("declined"),
            process.get("errors"),
        );
    }
    for process in processes
        .iter()
        .filter(|process| process.get("declined") > 0)
    {
        let reasons = [
            (
                "declined_own_bio",
                "its TLS library writes by functions of the program",
            ),
            ("declined_stream", "they are standard error"),
        ];
        for (name, reason) in reasons
            .into_iter()
            .filter(|(name, _)| process.get(name) > 0)
        {
            let _ = writeln!(
                text,
                "{:>7} left {} sockets alone: {reason}",
                process.pid,
                process.get(name)
            );
        }
    }
    text
}

fn short(number: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P"];
    let mut at = 0;
    let mut number = number;
    while number >= 10_000.0 && at + 1 < units.len() {
        number /= 1000.0;
        at += 1;
    }
    format!("{number:.0}{}", units[at])
}

fn json(processes: &[Process]) -> String {
    let all: Vec<_> = processes
        .iter()
        .map(|process| {
            let mut object = serde_json::Map::new();
            object.insert("pid".to_owned(), process.pid.into());
            object.insert("program".to_owned(), process.program.clone().into());
            for (name, value) in Stats::NAMES.iter().zip(&process.values) {
                object.insert((*name).to_owned(), (*value).into());
            }
            serde_json::Value::Object(object)
        })
        .collect();
    format!("{}\n", serde_json::Value::Array(all))
}

/// The text format, version 0.0.4.
fn prometheus(processes: &[Process]) -> String {
    let mut text = String::new();
    for (i, name) in Stats::NAMES.iter().enumerate() {
        let is_gauge = name.starts_with("curr_") || name.ends_with("_max");
        let (suffix, kind) = if is_gauge {
            ("", "gauge")
        } else {
            ("_total", "counter")
        };
        let _ = writeln!(text, "# HELP uktls_{name}{suffix} See uktls_get_stats(3).");
        let _ = writeln!(text, "# TYPE uktls_{name}{suffix} {kind}");
        for process in processes {
            let program = process.program.replace('\\', "\\\\").replace('"', "\\\"");
            let value = process.values.get(i).copied().unwrap_or(0);
            let _ = writeln!(
                text,
                "uktls_{name}{suffix}{{pid=\"{}\",program=\"{program}\"}} {value}",
                process.pid
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        Process {
            pid: 7,
            program: "a\"b".to_owned(),
            values: (0..Stats::NAMES.len() as u64).collect(),
        }
    }

    #[test]
    fn prometheus_has_every_counter_with_its_type() {
        let text = prometheus(&[process()]);
        for name in Stats::NAMES {
            assert!(text.contains(&format!("# TYPE uktls_{name}")), "{name}");
        }
        assert!(
            text.contains("uktls_tx_sw_total{pid=\"7\",program=\"a\\\"b\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE uktls_curr_tx_sw gauge\n"), "{text}");
    }

    #[test]
    fn json_names_every_counter() {
        let parsed: serde_json::Value = serde_json::from_str(&json(&[process()])).unwrap();
        assert_eq!(parsed[0]["pid"], 7);
        assert_eq!(parsed[0]["program"], "a\"b");
        assert_eq!(parsed[0][Stats::NAMES[3]], 3);
    }

    #[test]
    fn large_numbers_are_short() {
        assert_eq!(
            [short(9999.0), short(12_345.0), short(2.5e10)],
            ["9999", "12k", "25G"]
        );
    }
}
