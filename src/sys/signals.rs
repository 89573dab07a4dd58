//! Signals that wait.

use core::cell::Cell;

use rustix::io::Errno;

use super::net::Mask;
use super::raw;

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

/// Replaces the mask of the calling thread.
fn set(mask: Mask) -> Result<Mask, Errno> {
    let mut before: Mask = 0;
    let (new, old) = (&raw const mask, &raw mut before);
    // SAFETY: both are masks of the length that is told. By the system call, as the C library's function
    // leaves two signals of its own out.
    unsafe {
        raw::call(
            libc::SYS_rt_sigprocmask,
            [
                libc::SIG_SETMASK.into(),
                new.into(),
                old.into(),
                size_of::<Mask>().into(),
            ],
        )
    }?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

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
