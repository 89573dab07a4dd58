//! Signals that this program was started to ignore, which the one that it starts is to ignore as well.
//!
//! Rust's runtime ignores `SIGPIPE` for itself and takes that back in what it starts, so how it was before
//! has to be looked up before the runtime begins.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

static PIPE: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    // SAFETY: all zeroes are a value of this struct of integers and a null pointer.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: nothing is changed, and there is room for what is told.
    let told = unsafe { libc::sigaction(libc::SIGPIPE, core::ptr::null(), &mut action) };
    PIPE.store(
        told == 0 && action.sa_sigaction == libc::SIG_IGN,
        Ordering::Relaxed,
    );
}

// SAFETY: the section holds functions of this type, which are called before `main`; this one needs nothing
// that is set up later.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// What is started by `command` ignores `SIGPIPE` if this program was started so.
pub fn hand_on(command: &mut Command) {
    if !PIPE.load(Ordering::Relaxed) {
        return;
    }
    let ignore = || {
        // SAFETY: async-signal-safe, and of no consequence for this process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: it allocates nothing and takes no lock, as it may not between fork and exec.
    unsafe { command.pre_exec(ignore) };
}

/// Whether this program ignores the signal.
pub fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 != 0)
}
