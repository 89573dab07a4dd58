//! `uktls run`: a program that finds kernel TLS.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;

use crate::{Failure, args, elf, ignored, openssl_conf, preload, summary};

/// Runs the program in the place of this one, or, if its counters are wanted, beside it.
pub fn run(options: &args::Run) -> Result<ExitCode, Failure> {
    let [program, arguments @ ..] = &options.command[..] else {
        return Err(Failure::new(2, "no program"));
    };
    let library = preload::find(options.preload.as_deref())?;
    if let Some(path) = elf::find(program)
        && let Some(obstacle) = elf::obstacle(&path)
    {
        eprintln!(
            "uktls: {} will run without uktls: {obstacle}",
            path.display()
        );
    }
    let mut command = Command::new(program);
    command.args(arguments);
    let before = std::env::var_os("LD_PRELOAD");
    command.env("LD_PRELOAD", preload::in_front(&library, before.as_deref()));
    for (name, value) in settings(options) {
        command.env(name, value);
    }
    if options.openssl_ktls {
        command.env("OPENSSL_CONF", openssl_conf::write()?);
    }
    ignored::hand_on(&mut command);
    match options.stats {
        false => Err(cannot_run(program, &command.exec())),
        true => with_summary(program, &mut command),
    }
}

/// The environment that the options stand for.
fn settings(options: &args::Run) -> Vec<(&'static str, OsString)> {
    let mut settings = Vec::new();
    let mut set = |name, value: Option<OsString>| settings.extend(value.map(|value| (name, value)));
    set("UKTLS_MODE", options.mode.map(|mode| mode.text().into()));
    set("UKTLS_ENGINE", options.engine.clone().map(Into::into));
    set("UKTLS_AEAD", options.aead.map(|aead| aead.text().into()));
    set(
        "UKTLS_THREADS",
        options.threads.map(|n| n.to_string().into()),
    );
    set(
        "UKTLS_TX_QUEUE",
        options.tx_queue.map(|n| n.to_string().into()),
    );
    set(
        "UKTLS_LINGER_MS",
        options.linger_ms.map(|n| n.to_string().into()),
    );
    set("UKTLS_LOG", options.log.as_ref().map(OsString::from));
    // The program may go elsewhere before it writes.
    set(
        "UKTLS_STATS_FILE",
        options
            .stats_file
            .as_deref()
            .map(|path| absolute(path).into()),
    );
    settings
}

fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// As env(1) says it: 127 for what is not there, 126 for what cannot be run.
fn cannot_run(program: &OsStr, error: &std::io::Error) -> Failure {
    let status = if error.kind() == ErrorKind::NotFound {
        127
    } else {
        126
    };
    Failure::new(status, format!("{}: {error}", program.display()))
}

fn with_summary(program: &OsStr, command: &mut Command) -> Result<ExitCode, Failure> {
    let internal = |error: std::io::Error| Failure::new(125, format!("--stats: {error}"));
    // Processes that have changed their user must still be able to write to it.
    let file = tempfile::Builder::new()
        .prefix("uktls-")
        .tempfile()
        .map_err(internal)?;
    command.env("UKTLS_STATS_FILE", file.path());
    // What is sent to us is for the program. Before it starts, so that nothing is missed.
    // What it ignores (nohup) it goes on ignoring.
    let passed = [
        SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH,
    ];
    let signals = Signals::new(
        passed
            .iter()
            .filter(|signal| !ignored::is_ignored(**signal)),
    );
    let mut signals = signals.map_err(internal)?;
    let mut child = command
        .spawn()
        .map_err(|error| cannot_run(program, &error))?;
    let pid = Pid::from_child(&child);
    let from_terminal = std::io::IsTerminal::is_terminal(&std::io::stdin());
    let forwarding = signals.handle();
    let forward = std::thread::spawn(move || {
        for signal in signals.forever() {
            // The terminal sends these to the whole group, the program included.
            if from_terminal && matches!(signal, SIGINT | SIGQUIT | SIGWINCH) {
                continue;
            }
            if let Some(signal) = Signal::from_named_raw(signal) {
                let _ = kill_process(pid, signal);
            }
        }
    });
    let status = child.wait().map_err(internal)?;
    forwarding.close();
    let _ = forward.join();
    eprint!(
        "{}",
        summary::of(&std::fs::read_to_string(file.path()).unwrap_or_default())
    );
    drop(file);
    Ok(end_as(status))
}

/// The program's end is ours, by a signal as well.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        // Ends this process if the signal does by itself, as it did the program.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        return ExitCode::from(128u8.saturating_add(u8::try_from(signal).unwrap_or(0)));
    }
    ExitCode::from(u8::try_from(status.code().unwrap_or(125)).unwrap_or(125))
}
