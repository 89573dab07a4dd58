//! Settings: the environment variables and `uktls_configure`.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::aead::Choice;
use crate::engine::{Fallback, Kind};

/// When sockets are taken over by the preload library (`UKTLS_MODE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Where the kernel's own kTLS does not do it.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Off,
}

/// The settings of a process.
#[derive(Clone, Debug)]
pub struct Config {
    /// `UKTLS_MODE`.
    pub mode: Mode,
    /// `UKTLS_ENGINE`.
    pub engine: Kind,
    /// The accelerator of `UKTLS_ENGINE=openssl:<id>`: the name or path of a provider or ENGINE.
    pub accelerator: Option<String>,
    /// `UKTLS_ENGINE_FALLBACK`.
    pub fallback: Fallback,
    /// `UKTLS_ENGINE_TIMEOUT_MS`: when a record counts as lost by the accelerator.
    pub engine_timeout: Duration,
    /// `UKTLS_ENGINE_IN_FLIGHT`: most records that the accelerator has at a time, those of all connections.
    pub engine_in_flight: usize,
    /// `UKTLS_AEAD`.
    pub aead: Choice,
    /// `UKTLS_THREADS`: sealing threads; by default one less than there are processors.
    pub threads: Option<usize>,
    /// `UKTLS_TX_QUEUE`: accepted bytes per connection at which a send waits.
    pub tx_queue: usize,
    /// `UKTLS_LINGER_MS`: how long the end of the process waits for its readers, all together.
    pub linger: Duration,
    /// `UKTLS_LOG`.
    pub log: Option<LogTarget>,
    /// `UKTLS_STATS_FILE`.
    pub stats_file: Option<PathBuf>,
}

/// What is logged, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    /// Messages up to this level.
    pub level: log::LevelFilter,
    /// Appended to; standard error if `None`.
    pub file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mode: Mode::Auto,
            engine: Kind::Auto,
            accelerator: None,
            fallback: Fallback::Software,
            engine_timeout: Duration::from_secs(5),
            engine_in_flight: 4096,
            aead: Choice::Auto,
            threads: None,
            tx_queue: 1024 * 1024,
            linger: Duration::from_secs(60),
            log: None,
            stats_file: None,
        }
    }
}

impl Config {
    /// The settings of the environment. A value that cannot be parsed is named on standard error,
    /// and its default is used. Returns the messages, so that they can be tested.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> (Config, Vec<String>) {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let mut config = Config::default();
        let mut complaints = Vec::new();
        let mut set = |name: &str, apply: &mut dyn FnMut(&str) -> Option<()>| {
            if let Some(value) = lookup(name)
                && value.to_str().and_then(apply).is_none()
            {
                let value = value.display();
                complaints.push(format!(
                    "uktls: {name}: cannot use \"{value}\", using the default"
                ));
            }
        };
        set("UKTLS_MODE", &mut |v| {
            v.parse().ok().map(|v| config.mode = v)
        });
        set("UKTLS_ENGINE", &mut |v| {
            match v.strip_prefix("openssl:").filter(|id| !id.is_empty()) {
                Some(id) => {
                    config.engine = Kind::Accelerator;
                    config.accelerator = Some(id.to_owned());
                }
                None => config.engine = v.parse().ok()?,
            }
            Some(())
        });
        set("UKTLS_ENGINE_FALLBACK", &mut |v| {
            v.parse().ok().map(|v| config.fallback = v)
        });
        set("UKTLS_ENGINE_TIMEOUT_MS", &mut |v| {
            let ms = v.parse().ok().filter(|ms| *ms > 0)?;
            config.engine_timeout = Duration::from_millis(ms);
            Some(())
        });
        set("UKTLS_ENGINE_IN_FLIGHT", &mut |v| {
            let records = v.parse().ok().filter(|n| (1..=IN_FLIGHT_MAX).contains(n))?;
            config.engine_in_flight = records;
            Some(())
        });
        set("UKTLS_AEAD", &mut |v| {
            v.parse().ok().map(|v| config.aead = v)
        });
        set("UKTLS_THREADS", &mut |v| {
            v.parse()
                .ok()
                .filter(|n| (1..=THREADS_MAX).contains(n))
                .map(|v| config.threads = Some(v))
        });
        set("UKTLS_TX_QUEUE", &mut |v| {
            v.parse()
                .ok()
                .filter(|n| *n >= TX_QUEUE_MIN)
                .map(|v| config.tx_queue = v)
        });
        set("UKTLS_LINGER_MS", &mut |v| {
            v.parse()
                .ok()
                .map(|v| config.linger = Duration::from_millis(v))
        });
        set("UKTLS_LOG", &mut |v| {
            v.parse().ok().map(|v| config.log = Some(v))
        });
        // A path is any bytes.
        config.stats_file = lookup("UKTLS_STATS_FILE").map(PathBuf::from);
        (config, complaints)
    }
}

impl FromStr for Mode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Mode::Auto),
            "always" => Ok(Mode::Always),
            "off" => Ok(Mode::Off),
            _ => Err(()),
        }
    }
}

impl FromStr for Kind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Kind::Auto),
            "inline" => Ok(Kind::Inline),
            "threads" => Ok(Kind::Threads),
            _ => Err(()),
        }
    }
}

impl FromStr for Fallback {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "software" => Ok(Fallback::Software),
            "error" => Ok(Fallback::Error),
            _ => Err(()),
        }
    }
}

impl FromStr for LogTarget {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (level, file) = match text.split_once(':') {
            Some((level, file)) if !file.is_empty() => (level, Some(PathBuf::from(file))),
            Some(_) => return Err(()),
            None => (text, None),
        };
        Ok(LogTarget {
            level: level.parse().map_err(|_| ())?,
            file,
        })
    }
}

/// More sealing threads than any machine has processors for.
pub const THREADS_MAX: usize = 1024;

/// More records in flight than any accelerator has room for; each takes some 60 KiB.
pub const IN_FLIGHT_MAX: usize = 65_536;

/// Less room than one full record would never let a send proceed.
pub const TX_QUEUE_MIN: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &'static str, value: &'static str) -> (Config, Vec<String>) {
        Config::from_lookup(|asked| (asked == name).then(|| value.into()))
    }

    #[test]
    fn values_are_taken() {
        assert_eq!(parse("UKTLS_ENGINE", "threads").0.engine, Kind::Threads);
        assert_eq!(parse("UKTLS_THREADS", "3").0.threads, Some(3));
        assert_eq!(
            parse("UKTLS_LINGER_MS", "250").0.linger,
            Duration::from_millis(250)
        );
        let log = parse("UKTLS_LOG", "debug:/tmp/x").0.log.unwrap();
        assert_eq!(
            (log.level, log.file),
            (log::LevelFilter::Debug, Some("/tmp/x".into()))
        );
    }

    #[test]
    fn what_cannot_be_parsed_is_named_and_the_default_stays() {
        for (name, value) in [
            ("UKTLS_MODE", "perhaps"),
            ("UKTLS_ENGINE", "warp"),
            ("UKTLS_ENGINE_FALLBACK", "none"),
            ("UKTLS_ENGINE_TIMEOUT_MS", "0"),
            ("UKTLS_ENGINE_IN_FLIGHT", "0"),
            ("UKTLS_AEAD", "rot13"),
            ("UKTLS_THREADS", "0"),
            ("UKTLS_TX_QUEUE", "1"),
            ("UKTLS_LINGER_MS", "-1"),
            ("UKTLS_LOG", "loud"),
        ] {
            let (config, complaints) = parse(name, value);
            assert_eq!(complaints.len(), 1, "{name}");
            assert!(complaints[0].contains(name) && complaints[0].contains(value));
            assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        }
    }
}
