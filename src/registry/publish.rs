//! Lets others of the user look at the counters while the process runs (`uktls stat`).
//!
//! A process shows them from its first connection on, or the first that was left to it. Where it cannot (no `/dev/shm`, or a full one), nothing but
//! that is lost.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::stats::{STATS, Segment};
use crate::sys::segment::PlainAtomics;

// SAFETY: the header's fields are atomic numbers, and the counters are.
unsafe impl PlainAtomics for Segment {}

/// Shows the counters of this process, unless it does already.
pub fn publish() {
    if PUBLISHED.swap(true, Ordering::AcqRel) {
        return;
    }
    let pid = std::process::id();
    let Some(start) = start_of(pid) else { return };
    let Ok(path) = path(pid, start) else { return };
    STATS.pid.store(pid, Ordering::Relaxed);
    STATS.start.store(start, Ordering::Relaxed);
    let name = rustix::thread::name().unwrap_or_default();
    for (to, from) in STATS.program.iter().zip(name.as_bytes()) {
        to.store(*from, Ordering::Relaxed);
    }
    STATS.version.store(Segment::VERSION, Ordering::Relaxed);
    STATS.magic.store(Segment::MAGIC, Ordering::Release);
    if let Err(errno) = STATS.publish(&path) {
        STATS.magic.store(0, Ordering::Relaxed);
        log::info!("counters are not shown in {}: {errno}", Segment::DIRECTORY);
    }
}

/// The process ends, or its program does: takes the file away.
pub fn unpublish() {
    let pid = std::process::id();
    // A child of vfork has its parent's memory.
    if STATS.magic.load(Ordering::Acquire) == Segment::MAGIC
        && STATS.pid.load(Ordering::Relaxed) == pid
        && let Ok(path) = path(pid, STATS.start.load(Ordering::Relaxed))
    {
        let _ = rustix::fs::unlink(path);
    }
}

/// In a forked child: its counters are its own, and zero. System calls only.
pub(crate) fn reset_in_child() {
    if PUBLISHED.swap(false, Ordering::AcqRel) {
        STATS.withdraw();
    }
    STATS.clear();
}

/// When the process began, in ticks since the machine did: the 22nd field of its `stat`.
pub fn start_of(pid: u32) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(format!("/proc/{pid}/stat"), flags, Mode::empty()).ok()?;
    let mut text = [0; 1024];
    let len = rustix::io::read(&file, &mut text).ok()?;
    // The name, in parentheses, may have anything in it.
    let behind = text[..len].iter().rposition(|byte| *byte == b')')? + 1;
    let fields = core::str::from_utf8(&text[behind..len]).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn path(pid: u32, start: u64) -> Result<CString, std::ffi::NulError> {
    CString::new(format!(
        "{}/{}",
        Segment::DIRECTORY,
        Segment::file_name(pid, start)
    ))
}

static PUBLISHED: AtomicBool = AtomicBool::new(false);
