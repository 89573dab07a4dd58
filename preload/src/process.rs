//! The process: its end, its program's end, and children that share its memory.

use core::ffi::{c_int, c_uint};
use core::time::Duration;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use uktls::capi::guard::{guard, guard_infallible};
use uktls::registry::{Clone, Deadline};
use uktls::sys::{family, in_flight, reserve, streams};
use uktls::{fork, registry, stats};

/// The library has just been loaded. The settings are read before the program changes its environment
/// (nginx does) or its user.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_start() {
    prepare();
    guard_infallible((), || stats::open_file_early(&registry::config()));
    guard_infallible((), registry::look_at_inherited);
}

/// Before the first socket has keys, which may be in the constructor of another library.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        registry::see_all();
        in_flight::set_own(uktls_own_slot);
        streams::set(streams::Hooks {
            leave: uktls_leave_number,
            back: uktls_streams_return,
            leave_number: uktls_streams_leave_marked,
            leave_watched: uktls_streams_leave_watched,
            hold: uktls_streams_hold,
            release: uktls_streams_release,
            release_in_child: in_child,
            is_queued: uktls_is_queued,
        });
        guard_infallible((), family::map);
        SELF.store(pid(), Ordering::Relaxed);
        fork::watch();
    });
}

/// A child that shares the memory of this process is about to come into being.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_before_vfork() {
    HAS_VFORKED.store(true, Ordering::Relaxed);
    guard_infallible((), registry::forget_sole);
}

/// In the child of a fork: whose memory this is.
fn note_child() {
    SELF.store(pid(), Ordering::Relaxed);
    if is_remembered() {
        PID.store(pid(), Ordering::Relaxed);
    }
}

extern "C" fn in_child() {
    note_child();
    uktls_streams_release_in_child();
}

unsafe extern "C" {
    safe fn uktls_own_slot() -> *const in_flight::Slot;
    safe fn uktls_leave_number(fd: c_int, is_tls: bool) -> c_int;
    safe fn uktls_streams_return(fd: c_int);
    safe fn uktls_streams_leave_marked(fd: c_int);
    safe fn uktls_streams_leave_watched();
    safe fn uktls_is_queued(fd: c_int) -> bool;
    safe fn uktls_streams_hold();
    safe fn uktls_streams_release();
    safe fn uktls_streams_release_in_child();
}

/// Remembers which process this is, before it has its first connection.
pub(crate) fn remember() {
    prepare();
    if PID.load(Ordering::Relaxed) == 0 {
        PID.store(pid(), Ordering::Relaxed);
    }
}

fn pid() -> c_int {
    // SAFETY: takes no pointer.
    unsafe { libc::getpid() }
}

/// The child of a vfork runs on its parent's memory, without fork handlers.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_in_vfork() -> bool {
    let remembered = match PID.load(Ordering::Relaxed) {
        0 if HAS_VFORKED.load(Ordering::Relaxed) => SELF.load(Ordering::Relaxed),
        pid => pid,
    };
    let own = pid();
    // Negative: a sandbox refuses to tell.
    remembered != 0 && own > 0 && remembered != own
}

/// A `clone(2)` with these flags is about to be made by a call that the C library does not see through: 0, or -1 with
/// `errno` if it is refused. `returns`: to the caller, in both processes.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_before_clone(flags: u64, returns: bool) -> c_int {
    guard(-1, || {
        reserve::admit()?;
        if matches!(Clone::of(flags), Clone::Vfork | Clone::InMemory) {
            HAS_VFORKED.store(true, Ordering::Relaxed);
        }
        fork::before_raw(Clone::of(flags), returns).map(|()| 0)
    })
}

/// It is over, in this process.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_after_clone(is_child: bool) {
    guard_infallible((), || {
        if fork::after_raw(is_child) {
            note_child();
        }
    });
}

/// The calling thread is about to get a descriptor table of its own: 0, or -1 with `errno` if it is refused.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_before_unshare() -> c_int {
    guard(-1, || registry::unshare().map(|()| 0))
}

/// Whether there has been anything that could be a TLS socket, in this process or its parents.
pub(crate) fn is_remembered() -> bool {
    PID.load(Ordering::Relaxed) != 0
}

/// Whether this process has had a connection.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_had_connections() -> bool {
    PID.load(Ordering::Relaxed) != 0 && !uktls_preload_in_vfork()
}

/// Whether a number of this process is a TLS socket's.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_has_connections() -> bool {
    guard_infallible(true, || registry::numbers().next().is_some())
}

/// Sends what was accepted, as far as its readers take it.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_drain() {
    if uktls_preload_had_connections() {
        guard_infallible((), fork::end_of_process);
    }
}

/// As [`uktls_preload_drain`], where the process may go on.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_drain_for_a_child() {
    if uktls_preload_had_connections() {
        guard_infallible((), fork::may_end);
    }
}

/// Asked every `period_ms` in a signal handler while [`uktls_preload_drain`] runs: whether it never ends.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_drain_stalled(period_ms: c_uint) -> bool {
    registry::stalled(Duration::from_millis(period_ms.into()))
}

/// As [`uktls_preload_drain`], before another program takes the process over. That program would have
/// the sockets without their keys, and send in the clear (design rule 2): so they are closed to it.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_before_exec() {
    let as_child = uktls_preload_in_vfork();
    guard_infallible((), || registry::before_exec(as_child));
    if PID.load(Ordering::Relaxed) == 0 {
        return;
    }
    // The child of a vfork may have put something else there, for its program.
    let ours = || registry::numbers().filter(|fd| registry::is_same(*fd));
    guard_infallible((), || ours().for_each(close_on_exec));
    if !uktls_preload_in_vfork() {
        guard_infallible((), || registry::drain_all(Deadline::OfProgram));
        guard_infallible((), registry::unpublish);
    }
}

/// Sets `FD_CLOEXEC`.
pub(crate) fn close_on_exec(fd: c_int) {
    let arguments = [fd.into(), libc::F_SETFD.into(), libc::FD_CLOEXEC.into()];
    // SAFETY: takes no pointer. By the instruction: `fcntl` is our own.
    let _ = unsafe { uktls::sys::raw::call(libc::SYS_fcntl, arguments) };
}

/// This process, and whether a child may have shared its memory.
static SELF: AtomicI32 = AtomicI32::new(0);
static HAS_VFORKED: AtomicBool = AtomicBool::new(false);
/// 0 before the first connection, and then the process that the table belongs to.
static PID: AtomicI32 = AtomicI32::new(0);
