//! A process of its own for what is measured: this program once more, with a hidden subcommand.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// This program with the arguments of a hidden subcommand.
pub fn command<const N: usize>(args: [&str; N]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args).stderr(Stdio::inherit());
    Ok(command)
}

/// Runs `command`; what it has printed.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .context("starting the process to be measured")?;
    ensure!(
        output.status.success(),
        "the process measured has failed: {}",
        output.status
    );
    Ok(output.stdout)
}
