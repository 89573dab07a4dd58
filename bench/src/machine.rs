//! Where and when the figures were taken.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Written into every JSON row.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub commit: String,
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub openssl: &'static str,
    pub date: String,
}

impl Machine {
    pub fn here() -> Self {
        Self {
            commit: said(
                "git",
                &[
                    "-C",
                    env!("CARGO_MANIFEST_DIR"),
                    "describe",
                    "--always",
                    "--dirty",
                    "--abbrev=12",
                ],
            ),
            cpu: cpu_model().unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: said("uname", &["-sr"]),
            openssl: openssl::version::version(),
            date: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// What `command` prints.
fn said(command: &str, args: &[&str]) -> String {
    Command::new(command)
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(unknown, |text| text.trim().to_owned())
}

fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
