//! `uktls`: kernel TLS without the kernel, for programs that were never changed.

mod args;
mod check;
mod elf;
mod ignored;
mod kernel;
mod openssl_conf;
mod preload;
mod run;
mod segments;
mod stat;
mod summary;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Check(options) => check::check(options.program.as_deref()),
        Command::Stat(options) => stat::stat(&options),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "uktls", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("uktls: {error}");
        ExitCode::from(error.status)
    })
}

/// What went wrong, for a person, and the exit status.
#[derive(Debug)]
struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    fn new(status: u8, message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            status,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
