//! Threads that stay out of the program's way.

use rustix::io::Errno;

use super::{raw, reserve};

/// A number of 31 bits that this thread has alone in its process; not 0. Makes no system call.
#[must_use]
pub fn number() -> u32 {
    // SAFETY: takes nothing.
    let own = unsafe { libc::pthread_self() };
    // The address of the thread's descriptor: two are a stack apart at least. That they are eight TiB apart, or a
    // multiple, is not to be expected; one would then be taken for the other's signal handler (EDEADLK).
    ((own >> 12) as u32 & (u32::MAX >> 1)).max(1)
}

/// Whether no other task has the memory of the calling one: no thread, and no child of a `vfork(2)`.
#[must_use]
pub fn is_alone() -> bool {
    let flags = [libc::CLONE_VM.into()];
    // SAFETY: takes no pointer. It changes nothing: a task that shares its memory is refused, and any other has it alone.
    match unsafe { raw::call(libc::SYS_unshare, flags) } {
        Ok(_) => true,
        Err(Errno::INVAL) => false,
        // A sandbox. Other processes that have the memory cannot be told here: a link for each thread, and two.
        Err(_) => rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink == 3),
    }
}

/// Whether a thread that is started now stays: the child of a `vfork(2)` has its parent's memory, but its threads end with
/// it.
#[must_use]
pub fn would_stay() -> bool {
    !super::fork_guard::is_child_of_vfork()
}

/// Starts a detached thread with every signal blocked, so that no handler of the program ever runs
/// on it (design rule 6). Returns whether it could be started.
pub fn spawn_quiet(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    if !reserve::malloc_has_memory() {
        return false;
    }
    let mut all = core::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is a sigset_t to be written.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: written by the call above, which cannot fail for a valid pointer.
    let all = unsafe { all.assume_init() };
    let mut before = core::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // The new thread inherits the mask, so it is blocked before the thread exists and there is no
    // moment at which a signal could be taken.
    // SAFETY: both sets are valid for the call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, before.as_mut_ptr()) };
    let started = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024)
        .spawn(body)
        .is_ok();
    // SAFETY: `before` was written by the call above.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), core::ptr::null_mut());
    }
    started
}
