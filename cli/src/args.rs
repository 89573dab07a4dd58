//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use uktls::config::{LogTarget, THREADS_MAX, TX_QUEUE_MIN};

/// Kernel TLS without the kernel, for programs that were never changed.
#[derive(Debug, Parser)]
#[command(name = "uktls", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program that finds kernel TLS
    Run(Run),
    /// Tell whether this machine, and a program, can use it
    Check(Check),
    /// Show the counters of the running processes of this user
    Stat(Stat),
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// Which sockets are taken over: those that the kernel's own TLS would not serve, all, or none
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Who seals records: the calling thread (inline), a pool (threads), whoever is faster (auto), or the
    /// accelerator that an OpenSSL provider or ENGINE has (openssl:ID)
    #[arg(long, value_name = "auto|inline|threads|openssl:ID", value_parser = engine)]
    pub engine: Option<String>,
    /// Whose implementation of the ciphers
    #[arg(long, value_enum)]
    pub aead: Option<Aead>,
    /// Threads of the pool
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=THREADS_MAX as u64))]
    pub threads: Option<u64>,
    /// Bytes that a connection may hold accepted and not yet sent
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(TX_QUEUE_MIN as u64..))]
    pub tx_queue: Option<u64>,
    /// Milliseconds for which the end of a process waits for a reader that takes nothing
    #[arg(long, value_name = "MS")]
    pub linger_ms: Option<u64>,
    /// Log messages of this level and above: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL[:FILE]", value_parser = log)]
    pub log: Option<String>,
    /// Each process appends its counters to this file at its end
    #[arg(long, value_name = "FILE", conflicts_with = "stats")]
    pub stats_file: Option<PathBuf>,
    /// Print the counters of all processes when the program has ended
    #[arg(long)]
    pub stats: bool,
    /// Have every program on OpenSSL 3 ask for kernel TLS
    #[arg(long)]
    pub openssl_ktls: bool,
    /// The preload library, if it is not where it was installed
    #[arg(long, value_name = "FILE")]
    pub preload: Option<PathBuf>,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The program, by path or as the shell finds it
    pub program: Option<OsString>,
}

#[derive(Debug, Args)]
pub struct Stat {
    /// One process only
    pub pid: Option<u32>,
    /// As a JSON array
    #[arg(long, conflicts_with_all = ["prometheus", "watch"])]
    pub json: bool,
    /// In the text format of Prometheus
    #[arg(long, conflicts_with = "watch")]
    pub prometheus: bool,
    /// Refresh every so many seconds, and show rates; the default on a terminal
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
          value_parser = seconds)]
    pub watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match seconds >= 0.1 {
        true => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        false => Err("less than 0.1".to_owned()),
    }
}

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, ValueEnum)]
        pub enum $name { $(#[value(name = $text)] $variant),* }

        impl $name {
            /// As the environment variable has it.
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }
    };
}

choices! {
    /// `UKTLS_MODE`.
    Mode { Auto = "auto", Always = "always", Off = "off" }
}
choices! {
    /// `UKTLS_AEAD`, less what the preload library does not have.
    Aead { Auto = "auto", AwsLc = "aws-lc", Ring = "ring", RustCrypto = "rustcrypto" }
}

fn log(text: &str) -> Result<String, &'static str> {
    match text.parse::<LogTarget>() {
        Ok(_) => Ok(text.to_owned()),
        Err(()) => Err("off, error, warn, info, debug or trace, and perhaps a colon and a file"),
    }
}

fn engine(text: &str) -> Result<String, &'static str> {
    let named = text
        .strip_prefix("openssl:")
        .is_some_and(|id| !id.is_empty());
    match named || ["auto", "inline", "threads"].contains(&text) {
        true => Ok(text.to_owned()),
        false => Err("auto, inline, threads, or openssl: and an ID"),
    }
}
