//! Where log messages go: lines appended to a file, or to standard error.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, Once, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

use crate::config::LogTarget;
use crate::sys::kept::Kept;
use crate::sys::signals::without_those_of_files;

/// Starts or redirects logging. Without a target nothing is logged.
pub(crate) fn start(target: Option<&LogTarget>) {
    let Some(target) = target else {
        return;
    };
    let file = target.file.as_ref().and_then(|path| {
        File::options()
            .append(true)
            .create(true)
            .open(path)
            .map(|file| Kept::new(file.into()))
            .map_err(|error| {
                eprintln!("uktls: UKTLS_LOG: {}: {error}", path.display());
            })
            .ok()
    });
    *SINK.0.lock().unwrap_or_else(PoisonError::into_inner) = file;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails if a logger was set before, by a Rust program that links us as a crate: then it is
        // the program's own, and the right one.
        let _ = log::set_logger(&SINK);
    });
    log::set_max_level(target.level);
}

struct Sink(Mutex<Option<Kept>>);

static SINK: Sink = Sink(Mutex::new(None));

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && log::max_level() != LevelFilter::Off
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // One write a line, so that the lines of several processes do not mix.
        let line = format!(
            "uktls[{}] {}: {}\n",
            std::process::id(),
            record.level(),
            record.args()
        );
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk loses log lines, not the program.
        let _ = without_those_of_files(|| match file.as_mut() {
            Some(file) => rustix::io::write(file, line.as_bytes())
                .map(drop)
                .map_err(std::io::Error::from),
            None => std::io::stderr().write_all(line.as_bytes()),
        });
    }

    fn flush(&self) {}
}
