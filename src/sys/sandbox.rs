//! What a sandbox may refuse: asked before keys are taken, as a socket with keys cannot do without.

use core::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;

use super::raw::{self, Argument};

/// Whether a sandbox leaves a connection what it needs. It is asked the first time, and whenever the answer has been forgotten.
#[must_use]
pub fn allows_connections(makes_numbers: bool) -> bool {
    match KNOWN.load(Ordering::Relaxed) {
        UNKNOWN => {
            let allows = asks(makes_numbers);
            KNOWN.store(if allows { ALLOWS } else { REFUSES }, Ordering::Relaxed);
            allows
        }
        known => known == ALLOWS,
    }
}

/// The program has closed its sandbox further, or may have. The preload library sees that; with the C library the first
/// answer stays, and what is refused later fails.
pub fn forget() {
    KNOWN.store(UNKNOWN, Ordering::Relaxed);
}

const UNKNOWN: u8 = 0;
const ALLOWS: u8 = 1;
const REFUSES: u8 = 2;
static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether the kernel makes the calls by which a connection sends, receives, waits and is shared with a child, and, if the
/// library `makes_numbers` for the program, by which it gets another. They are asked for with arguments that the kernel
/// refuses by itself, in other words.
fn asks(makes_numbers: bool) -> bool {
    let nobody: Argument = (-1).into();
    let (none, no_len): (Argument, Argument) = (Argument::NONE, 0usize.into());
    let flags = |flags: i32| Argument::from(flags | libc::MSG_DONTWAIT);
    let receive = |with: i32| [nobody, none, no_len, flags(with), none, none];
    let (protection, shared) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    let now = [0 as libc::c_long; 2];
    let calls = [
        (libc::SYS_sendto, receive(libc::MSG_NOSIGNAL)),
        (
            libc::SYS_sendmsg,
            [nobody, none, flags(libc::MSG_NOSIGNAL), none, none, none],
        ),
        (libc::SYS_recvfrom, receive(libc::MSG_PEEK)),
        (libc::SYS_recvfrom, receive(libc::MSG_TRUNC)),
        (
            libc::SYS_fcntl,
            [nobody, libc::F_GETFL.into(), none, none, none, none],
        ),
        (
            libc::SYS_ppoll,
            [none, no_len, now.as_ptr().into(), none, none, none],
        ),
        // Of no length.
        (
            libc::SYS_mmap,
            [
                none,
                no_len,
                protection.into(),
                shared.into(),
                nobody,
                no_len,
            ],
        ),
    ];
    // dup2(2) does not stand in for it: the number would for a moment outlive an exec.
    let dup3 = (
        libc::SYS_dup3,
        [nobody, nobody, libc::O_CLOEXEC.into(), none, none, none],
    );
    // Beside other threads each change of a number passes a barrier (`sys/barrier.rs`).
    let barrier = (
        libc::SYS_membarrier,
        [nobody, no_len, no_len, none, none, none],
    );
    let numbers = makes_numbers.then_some([dup3, barrier]);
    let mut calls = calls.into_iter().chain(numbers.into_iter().flatten());
    calls.all(|(number, arguments)| {
        // SAFETY: no memory is named but the time, and no descriptor that there is.
        let result = unsafe { raw::call(number, arguments) };
        matches!(result, Ok(_) | Err(Errno::BADF | Errno::INVAL))
    })
}

/// Whether `errno` is how a sandbox refuses a call, which another one may stand in for.
#[must_use]
pub fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::NOSYS | Errno::ACCESS)
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    #[test]
    fn nothing_is_refused_here() {
        assert!(super::asks(true) && super::allows_connections(true));
        super::forget();
        assert!(super::allows_connections(true));
    }
}
