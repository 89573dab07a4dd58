//! System calls by their instruction.
//!
//! `syscall(2)` is a function of the C library, and another preloaded library may have one of its own
//! (torsocks does), which calls functions that are interposed here: each would call the other for ever.

use core::ffi::{c_long, c_void};

use rustix::io::Errno;

/// What a register takes: a number or a pointer.
#[derive(Clone, Copy, Debug)]
pub struct Argument(*mut c_void);

impl Argument {
    /// A null pointer, or 0.
    pub const NONE: Argument = Argument(core::ptr::null_mut());
}

impl<T> From<*const T> for Argument {
    fn from(pointer: *const T) -> Self {
        Argument(pointer.cast_mut().cast())
    }
}

impl<T> From<*mut T> for Argument {
    fn from(pointer: *mut T) -> Self {
        Argument(pointer.cast())
    }
}

impl From<usize> for Argument {
    fn from(number: usize) -> Self {
        Argument(core::ptr::without_provenance_mut(number))
    }
}

impl From<i32> for Argument {
    fn from(number: i32) -> Self {
        // With its sign, as a C compiler passes an int where the kernel takes a long.
        Argument::from(number as isize as usize)
    }
}

impl From<u32> for Argument {
    fn from(number: u32) -> Self {
        Argument::from(number as usize)
    }
}

/// Makes the system call `number` (`SYS_*`); what is missing of six arguments is 0. Changes errno nowhere.
///
/// # Safety
/// As for the system call, whose arguments the kernel checks as far as it can.
///
/// # Errors
/// Those of the system call.
pub unsafe fn call<const N: usize>(
    number: c_long,
    arguments: [Argument; N],
) -> Result<usize, Errno> {
    const { assert!(N <= 6) };
    let mut six = [Argument::NONE; 6];
    six[..N].copy_from_slice(&arguments);
    // SAFETY: our caller's promise.
    let result = unsafe { issue(number, six.map(|argument| argument.0)) };
    // The last page of the addresses is the kernel's for errors.
    match usize::try_from(result.wrapping_neg()) {
        Ok(errno @ 1..4096) => Err(Errno::from_raw_os_error(errno as i32)),
        _ => Ok(result as usize),
    }
}

/// # Safety
/// As for [`call`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn issue(number: c_long, [a, b, c, d, e, f]: [*mut c_void; 6]) -> isize {
    let result;
    // SAFETY: the kernel changes the named registers only; memory as our caller has promised.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// # Safety
/// As for [`call`].
#[cfg(all(target_arch = "aarch64", not(miri)))]
unsafe fn issue(number: c_long, [a, b, c, d, e, f]: [*mut c_void; 6]) -> isize {
    let result;
    // SAFETY: the kernel changes the named register only; memory as our caller has promised.
    unsafe {
        core::arch::asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") e,
            in("x5") f,
            options(nostack),
        );
    }
    result
}

/// Elsewhere, and where nothing else than functions can be called, by the C library.
///
/// # Safety
/// As for [`call`].
#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
unsafe fn issue(number: c_long, [a, b, c, d, e, f]: [*mut c_void; 6]) -> isize {
    let saved = super::errno::get();
    // SAFETY: our caller's promise.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) } as isize;
    if result != -1 {
        return result;
    }
    let errno = super::errno::get();
    super::errno::set(saved);
    -(errno as isize)
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn results_and_errors_are_the_kernels() {
        super::super::errno::set(7);
        // SAFETY: takes nothing.
        let pid = unsafe { call(libc::SYS_getpid, []) };
        assert_eq!(pid, Ok(std::process::id() as usize));
        // SAFETY: a descriptor that there is not.
        let closed = unsafe { call(libc::SYS_close, [(-1).into()]) };
        assert_eq!(closed, Err(Errno::BADF));
        assert_eq!(super::super::errno::get(), 7);
    }

    #[test]
    fn every_argument_has_its_place() {
        let len = 1usize << 16;
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: new memory, at no address that is in use.
        let start = unsafe {
            call(
                libc::SYS_mmap,
                [
                    Argument::NONE,
                    len.into(),
                    protection.into(),
                    flags.into(),
                    (-1).into(),
                    0usize.into(),
                ],
            )
        };
        let start = core::ptr::with_exposed_provenance_mut::<u8>(start.expect("memory"));
        let last = start.wrapping_add(len - 1);
        // SAFETY: the last byte of what was just mapped for writing.
        unsafe { last.write(1) };
        // An offset that is not of whole pages shows that the sixth arrives.
        // SAFETY: fails.
        let odd = unsafe {
            call(
                libc::SYS_mmap,
                [
                    Argument::NONE,
                    len.into(),
                    protection.into(),
                    flags.into(),
                    (-1).into(),
                    1usize.into(),
                ],
            )
        };
        assert_eq!(odd, Err(Errno::INVAL));
        // SAFETY: mapped above, and used no more.
        let unmapped = unsafe { call(libc::SYS_munmap, [start.into(), len.into()]) };
        assert_eq!(unmapped, Ok(0));
    }
}
