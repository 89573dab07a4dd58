//! Signals that wait.

use core::cell::Cell;

use rustix::io::Errno;

use super::net::Mask;
use super::raw::{self, Argument};

/// Until this is dropped no signal handler of the program runs in the calling thread, so that it cannot
/// find a number in the middle of a change of its own thread's.
///
/// Within one, another costs no system call: the last that is dropped brings the mask back.
#[derive(Debug)]
#[must_use]
pub struct Blocked {
    /// Not `Send`: the mask is the thread's.
    stays: core::marker::PhantomData<*const ()>,
}

thread_local! {
    /// How many there are in this thread, and its mask before the first.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static BEFORE: Cell<Mask> = const { Cell::new(0) };
}

impl Blocked {
    /// Blocks all signals but those by which the thread itself has done wrong.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Blocked {
        // A handler that comes before the system call leaves the count as it was.
        if DEPTH.get() == 0 {
            // It only fails in a sandbox that kills for less; then nothing was blocked.
            BEFORE.set(set(!OWN_FAULTS).unwrap_or(0));
        }
        DEPTH.set(DEPTH.get() + 1);
        Blocked {
            stays: core::marker::PhantomData,
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if DEPTH.get() == 0 {
            let _ = set(BEFORE.get());
        }
    }
}

/// `SIGILL`, `SIGTRAP`, `SIGBUS`, `SIGFPE`, `SIGSEGV`, `SIGSYS`: a thread that is sent one of them for what it does
/// would be killed if it blocked them.
const OWN_FAULTS: Mask = 1 << (libc::SIGILL - 1)
    | 1 << (libc::SIGTRAP - 1)
    | 1 << (libc::SIGBUS - 1)
    | 1 << (libc::SIGFPE - 1)
    | 1 << (libc::SIGSEGV - 1)
    | 1 << (libc::SIGSYS - 1);

/// Has `write` write to a file of the library's own. The kernel tells of some failures by a signal, which is for a program that
/// is about to write for itself, and deadly: a limit on the size of files (`SIGXFSZ`), a pipe without a reader
/// (`SIGPIPE`), a terminal of others (`SIGTTOU`). The library's failures are errors only.
pub fn without_those_of_files<T>(write: impl FnOnce() -> T) -> T {
    let Ok(before) = change(libc::SIG_BLOCK, OF_FILES) else {
        return write();
    };
    let were_pending = pending();
    let result = write();
    let ours = OF_FILES & !were_pending;
    // One that has waited since before is the program's.
    while pending() & ours != 0 && take(ours).is_ok() {}
    let _ = set(before);
    result
}

const OF_FILES: Mask =
    1 << (libc::SIGXFSZ - 1) | 1 << (libc::SIGPIPE - 1) | 1 << (libc::SIGTTOU - 1);

/// The signals that wait for the thread, or for any of the process.
fn pending() -> Mask {
    let mut pending: Mask = 0;
    let to = &raw mut pending;
    // SAFETY: a mask of the length that is told.
    let _ = unsafe {
        raw::call(
            libc::SYS_rt_sigpending,
            [to.into(), size_of::<Mask>().into()],
        )
    };
    pending
}

/// Takes one of `signals`, which are blocked, away.
fn take(signals: Mask) -> Result<(), Errno> {
    let now = [0 as libc::c_long; 2];
    // SAFETY: a mask of the length that is told, no place for what the signal says, and a time of zero.
    unsafe {
        raw::call(
            libc::SYS_rt_sigtimedwait,
            [
                (&raw const signals).into(),
                Argument::NONE,
                now.as_ptr().into(),
                size_of::<Mask>().into(),
            ],
        )
    }
    .map(drop)
}

/// The signals that the calling thread blocks by the program's will.
#[must_use]
pub fn of_program() -> Mask {
    match DEPTH.get() {
        0 => change(libc::SIG_BLOCK, 0).unwrap_or(0),
        _ => BEFORE.get(),
    }
}

/// Blocks all signals; what was blocked before.
#[must_use]
pub fn block_all() -> Mask {
    // It only fails in a sandbox that kills for less.
    set(Mask::MAX).unwrap_or(0)
}

/// Has the calling thread block what [`block_all`] has found.
pub fn restore(mask: Mask) {
    let _ = set(mask);
}

/// Replaces the mask of the calling thread.
fn set(mask: Mask) -> Result<Mask, Errno> {
    change(libc::SIG_SETMASK, mask)
}

/// Changes it as `how` says; what it was.
fn change(how: i32, mask: Mask) -> Result<Mask, Errno> {
    let mut before: Mask = 0;
    let (new, old) = (&raw const mask, &raw mut before);
    // SAFETY: both are masks of the length that is told. By the system call, as the C library's function
    // leaves two signals of its own out.
    unsafe {
        raw::call(
            libc::SYS_rt_sigprocmask,
            [how.into(), new.into(), old.into(), size_of::<Mask>().into()],
        )
    }?;
    Ok(before)
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    fn raise(signal: i32) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let arguments = [std::process::id().into(), thread.into(), signal.into()];
        // SAFETY: the signal is blocked in this thread.
        unsafe { raw::call(libc::SYS_tgkill, arguments) }.unwrap();
    }

    /// Unblocked, each of these would be the end of the test.
    #[test]
    fn a_failed_write_sends_no_signal() {
        let before = set(0).unwrap();
        assert_eq!(without_those_of_files(|| raise(libc::SIGXFSZ)), ());
        without_those_of_files(|| [libc::SIGXFSZ, libc::SIGTTOU].map(raise));
        assert_eq!(set(before).unwrap(), 0);
        assert_eq!(pending() & OF_FILES, 0);
    }

    #[test]
    fn what_waited_before_waits_on() {
        let before = change(libc::SIG_BLOCK, OF_FILES).unwrap();
        raise(libc::SIGXFSZ);
        without_those_of_files(|| [libc::SIGXFSZ, libc::SIGTTOU].map(raise));
        assert_eq!(pending() & OF_FILES, 1 << (libc::SIGXFSZ - 1));
        take(OF_FILES).unwrap();
        set(before).unwrap();
    }

    #[test]
    fn the_mask_comes_back() {
        let before = set(0).unwrap();
        set(before).unwrap();
        let now = || set(0).and_then(|mask| set(mask).map(|_| mask)).unwrap();
        let outer = Blocked::new();
        let inner = Blocked::new();
        // Neither those, nor SIGKILL and SIGSTOP.
        assert_eq!(now().count_ones(), 64 - 8);
        drop(outer);
        assert_eq!(now().count_ones(), 64 - 8);
        drop(inner);
        assert_eq!(now(), before);
    }
}
