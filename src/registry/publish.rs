//! Lets others of the user look at the counters while the process runs (`uktls stat`).
//!
//! A process shows them from its first connection on, or the first that was left to it. Where it cannot
//! (no `/dev/shm`, or a full one), nothing but that is lost.
//!
//! A process that is killed, and one that ends by `_exit` with the C library, leaves its file: the next
//! that shows its own takes it away.

use core::ffi::CStr;
use core::fmt;
use core::str::FromStr;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::stats::{STATS, Segment};
use crate::sys::segment::PlainAtomics;

// SAFETY: the header's fields are atomic numbers, and the counters are.
unsafe impl PlainAtomics for Segment {}

/// Shows the counters of this process, unless it does already.
pub fn publish() {
    if PUBLISHED.swap(true, Ordering::AcqRel) {
        return;
    }
    let Some(name) = FileName::own() else { return };
    remove_left_files(name.namespace);
    NAMESPACE.store(name.namespace, Ordering::Relaxed);
    STATS.pid.store(name.pid, Ordering::Relaxed);
    STATS.start.store(name.start, Ordering::Relaxed);
    let program = rustix::thread::name().unwrap_or_default();
    for (to, from) in STATS.program.iter().zip(program.as_bytes()) {
        to.store(*from, Ordering::Relaxed);
    }
    STATS.version.store(Segment::VERSION, Ordering::Relaxed);
    STATS.magic.store(Segment::MAGIC, Ordering::Release);
    if let Err(errno) = name.with_path(|path| STATS.publish(path)) {
        STATS.magic.store(0, Ordering::Relaxed);
        log::info!("counters are not shown in {}: {errno}", Segment::DIRECTORY);
    }
}

/// The process ends, or its program does: takes the file away. Takes no memory, as it may be called in a
/// handler of a signal that came inside `malloc`.
pub fn unpublish() {
    let name = FileName {
        pid: std::process::id(),
        start: STATS.start.load(Ordering::Relaxed),
        namespace: NAMESPACE.load(Ordering::Relaxed),
    };
    // A child of vfork has its parent's memory.
    if STATS.magic.load(Ordering::Acquire) == Segment::MAGIC
        && STATS.pid.load(Ordering::Relaxed) == name.pid
    {
        let _ = name.with_path(|path| rustix::fs::unlink(path));
    }
}

/// In a forked child: its counters are its own, and zero. System calls only.
pub(crate) fn reset_in_child() {
    if PUBLISHED.swap(false, Ordering::AcqRel) {
        STATS.withdraw();
    }
    STATS.clear();
}

/// What a file of counters is called: whose it is. Numbers of processes mean something in one namespace
/// only, and containers can have their `/dev/shm` in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName {
    /// The process.
    pub pid: u32,
    /// When it began, in ticks since the machine did.
    pub start: u64,
    /// The inode of its namespace of process numbers.
    pub namespace: u64,
}

/// Whether the process of a [`FileName`] is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It runs.
    Runs,
    /// It has ended.
    Gone,
    /// It is one of another namespace.
    Elsewhere,
}

impl FileName {
    /// This process's; none without `/proc`.
    fn own() -> Option<FileName> {
        let pid = std::process::id();
        Some(FileName {
            pid,
            start: start_of(pid)?,
            namespace: own_namespace()?,
        })
    }

    /// Calls `with` with the path of the file, which is on the stack.
    fn with_path<T>(&self, with: impl FnOnce(&CStr) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut path = [0u8; 128];
        let mut rest = &mut path[..];
        write!(rest, "{}/{self}\0", Segment::DIRECTORY).map_err(|_| Errno::NAMETOOLONG)?;
        with(CStr::from_bytes_until_nul(&path).map_err(|_| Errno::NAMETOOLONG)?)
    }

    /// Looks for the process.
    #[must_use]
    pub fn presence(&self) -> Presence {
        if own_namespace() != Some(self.namespace) {
            Presence::Elsewhere
        } else if start_of(self.pid) == Some(self.start) {
            Presence::Runs
        } else {
            Presence::Gone
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "uktls-{}-{}-{}", self.pid, self.start, self.namespace)
    }
}

impl FromStr for FileName {
    type Err = ();

    fn from_str(text: &str) -> Result<FileName, ()> {
        let mut fields = text.strip_prefix("uktls-").ok_or(())?.splitn(3, '-');
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (pid, start, namespace) = (number(), number(), number());
        Ok(FileName {
            pid: pid.ok_or(())?.try_into().map_err(drop)?,
            start: start.ok_or(())?,
            namespace: namespace.ok_or(())?,
        })
    }
}

/// How many files one process looks at: there may be a thousand of processes that run.
const LOOKED_AT: usize = 32;

fn remove_left_files(namespace: u64) {
    let Ok(files) = std::fs::read_dir(Segment::DIRECTORY) else {
        return;
    };
    let names = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse::<FileName>().ok());
    for name in names
        .filter(|name| name.namespace == namespace)
        .take(LOOKED_AT)
    {
        if name.presence() == Presence::Gone {
            // Not allowed for what is another user's.
            let _ = name.with_path(|path| rustix::fs::unlink(path));
        }
    }
}

fn own_namespace() -> Option<u64> {
    Some(std::fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

/// When the process began, in ticks since the machine did: the 22nd field of its `stat`.
fn start_of(pid: u32) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(
        rustix::fs::CWD,
        format!("/proc/{pid}/stat"),
        flags,
        Mode::empty(),
    )
    .ok()?;
    let mut text = [0; 1024];
    let len = rustix::io::read(&file, &mut text).ok()?;
    // The name, in parentheses, may have anything in it.
    let behind = text[..len].iter().rposition(|byte| *byte == b')')? + 1;
    let fields = core::str::from_utf8(&text[behind..len]).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

static PUBLISHED: AtomicBool = AtomicBool::new(false);
static NAMESPACE: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_read_as_it_is_written() {
        let Some(own) = FileName::own() else { return };
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!(own.presence(), Presence::Runs);
        let before = FileName {
            start: own.start.wrapping_sub(1),
            ..own
        };
        assert_eq!(before.presence(), Presence::Gone);
        let elsewhere = FileName {
            namespace: own.namespace + 1,
            ..own
        };
        assert_eq!(elsewhere.presence(), Presence::Elsewhere);
    }

    #[test]
    fn other_files_are_not_ours() {
        for name in [
            "",
            "uktls",
            "uktls-",
            "uktls-1-2",
            "uktls-1-2-",
            "uktls-1-2-3-4",
            "uktls-4294967296-2-3",
            "uktls--1-2-3",
            "sem.uktls-1-2-3",
        ] {
            assert_eq!(name.parse::<FileName>(), Err(()), "{name}");
        }
    }
}
