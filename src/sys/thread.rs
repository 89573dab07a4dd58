//! Threads that stay out of the program's way.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::thread::JoinHandle;

use rustix::io::Errno;

use super::{fork_guard, raw, reserve, signals};

/// How long a thread of the library's stays when it has nothing to do. Short, so that a program of one thread is one
/// again soon; long, so that a program that sends now and then starts none each time.
pub const IDLE: Duration = Duration::from_millis(100);

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
    let body = move || {
        body();
        leave_process();
    };
    spawn(name, body).is_some()
}

/// [`spawn_quiet`], for a caller that waits for the end of the thread, and so is never left alone by it: this thread does not
/// look whether the program has others. It may have descriptors of its own, which would be those of the process's end.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    // std aborts if it has no memory for the thread's name.
    if !reserve::malloc_has_memory() {
        return None;
    }
    if !IS_QUIET.get() {
        PROGRAMS_MASK.store(signals::of_program(), Ordering::Relaxed);
    }
    // The new thread inherits the mask, so it is blocked before the thread exists and there is no
    // moment at which a signal could be taken.
    let before = signals::block_all();
    let started = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(move || {
            IS_QUIET.set(true);
            let _here = Here::new();
            body();
        });
    signals::restore(before);
    started.ok()
}

/// A thread of the library's that is at work.
struct Here;

impl Here {
    fn new() -> Here {
        // By the thread itself: until then the kernel counts more threads than this, and so nobody takes the last
        // thread of the program's for one of these.
        change_count(1);
        Here
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        change_count(-1);
    }
}

/// A thread is about to end. If the program has none left, its process ends as it would without the library.
fn leave_process() {
    for _ in 0..LEAVING {
        if end_process_if_left_alone() || !has_main_ended() {
            return;
        }
        // Another thread may be counted by the kernel that is about to end, too.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the calling thread is one of the library's.
#[must_use]
pub fn is_quiet() -> bool {
    IS_QUIET.get()
}

/// In a thread that ends the process: from now on it takes the signals that the program takes. The C library has the last
/// thread of a process end it, and that may be one of the library's.
pub fn take_signals() {
    if IS_QUIET.get() {
        signals::restore(PROGRAMS_MASK.load(Ordering::Relaxed));
    }
}

/// To be called now and then by threads of the library that live on. If main has ended by `pthread_exit(3)` and no other
/// thread of the program is left either, the process ends as by the end of the last of them: by `exit(3)`, with 0, in a
/// thread that takes signals. Returns whether it does.
pub fn end_process_if_left_alone() -> bool {
    let own = fork_guard::epoch();
    if !has_main_ended() || !has_only(count()) {
        return false;
    }
    // Relaxed: one of the threads is the first.
    if ENDING.swap(own, Ordering::Relaxed) == own {
        return true;
    }
    // The handlers of `atexit` are the program's: they get a stack as its threads have. The caller has something to do meanwhile.
    if !reserve::malloc_has_memory() {
        end_process();
    }
    let began = std::thread::Builder::new()
        .name("uktls-end".to_owned())
        .stack_size(STACK_OF_PROGRAM)
        .spawn(|| {
            IS_QUIET.set(true);
            end_process();
        });
    if began.is_err() {
        end_process();
    }
    true
}

fn end_process() {
    take_signals();
    // SAFETY: called once, and no thread of the program is left that could. What has handlers is the program's and this
    // library's, and they may be run by any thread.
    unsafe { libc::exit(0) }
}

/// Whether the main thread is a zombie: it has no program then. Takes no descriptor, as the program's threads open theirs.
fn has_main_ended() -> bool {
    let mut byte = [0; 1];
    rustix::fs::readlinkat_raw(rustix::fs::CWD, c"/proc/self/exe", &mut byte).err()
        == Some(Errno::NOENT)
}

/// Whether the process has so many threads, and the main one.
fn has_only(count: u32) -> bool {
    // A link for each thread, and two.
    rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink == u64::from(count) + 3)
}

/// The library's threads in this process.
fn count() -> u32 {
    let here = HERE.load(Ordering::Relaxed);
    match here >> 32 == epoch_bits() {
        true => here as u32,
        false => 0,
    }
}

fn change_count(by: i32) {
    let epoch = epoch_bits();
    // Relaxed: compared with what the kernel says, again and again. A child begins at 0.
    let _ = HERE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |here| {
        let count = match here >> 32 == epoch {
            true => here as u32,
            false => 0,
        };
        Some(epoch << 32 | u64::from(count.saturating_add_signed(by)))
    });
}

fn epoch_bits() -> u64 {
    fork_guard::epoch() & u64::from(u32::MAX)
}

/// The epoch of the process, and how many threads the library has in it.
static HERE: AtomicU64 = AtomicU64::new(0);
/// The epoch of the process that such a thread ends.
static ENDING: AtomicU64 = AtomicU64::new(0);
/// The signals that the program's thread had blocked which needed one of these last.
static PROGRAMS_MASK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

const STACK: usize = 256 * 1024;
const STACK_OF_PROGRAM: usize = 8 << 20;
/// How often a thread that ends looks whether the program has others.
const LEAVING: u32 = 10;
