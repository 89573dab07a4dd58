//! A memory barrier that one thread makes all others of the process pass (`membarrier(2)`).
//!
//! It lets the common path of a Dekker-style agreement (note, then look) do without a barrier of its
//! own: the rare path pays for both.

use core::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::io::Errno;

use super::raw;

/// Prepares [`all_threads`].
///
/// # Errors
/// Why the kernel does not do it: `ENOSYS` (before Linux 4.14), `EPERM` (a sandbox).
pub fn register() -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe {
        raw::call(
            libc::SYS_membarrier,
            [REGISTER.into(), 0_i32.into(), 0_i32.into()],
        )
    }?;
    REGISTERED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Every thread of the process has passed a full barrier when this returns.
///
/// # Errors
/// As [`register`], which it calls if nobody has.
pub fn all_threads() -> Result<(), Errno> {
    fence(Ordering::SeqCst);
    if !REGISTERED.load(Ordering::Relaxed) {
        register()?;
    }
    // SAFETY: takes no pointer.
    match unsafe {
        raw::call(
            libc::SYS_membarrier,
            [EXPEDITED.into(), 0_i32.into(), 0_i32.into()],
        )
    } {
        // A forked child may have to register anew.
        Err(Errno::PERM) => {
            register()?;
            // SAFETY: takes no pointer.
            unsafe {
                raw::call(
                    libc::SYS_membarrier,
                    [EXPEDITED.into(), 0_i32.into(), 0_i32.into()],
                )
            }
            .map(drop)
        }
        result => result.map(drop),
    }
}

/// `MEMBARRIER_CMD_PRIVATE_EXPEDITED` and its registration (linux/membarrier.h).
const EXPEDITED: libc::c_int = 1 << 3;
const REGISTER: libc::c_int = 1 << 4;

static REGISTERED: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    #[test]
    fn this_kernel_has_it() {
        assert_eq!(super::all_threads(), Ok(()));
        assert_eq!(super::all_threads(), Ok(()));
    }
}
