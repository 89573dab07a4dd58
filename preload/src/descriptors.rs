//! What becomes of a connection when its number is closed, duplicated or given out again.

use core::ffi::c_int;

use uktls::capi;
use uktls::capi::guard::{guard, guard_infallible};
use uktls::error::Error;
use uktls::registry::{self, Way};
use uktls::sys::in_flight::{self, Slot};
use uktls::sys::{family, marks, net, reserve};

use crate::process;

/// `shutdown(2)` on a TLS socket.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_shutdown(fd: c_int, how: c_int) -> c_int {
    capi::tls_shutdown(fd, how)
}

/// `close(2)` on a TLS socket.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_close(fd: c_int) -> c_int {
    capi::uktls_close(fd)
}

/// What a call by a marked number does (`WAY_PLAIN` to `WAY_REFUSED` of `interpose.h`), or -1.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_way(fd: c_int, writes: bool) -> c_int {
    guard(fd, || {
        Ok(match registry::way(fd, writes)? {
            Way::Plain => 0,
            Way::Served => 1,
            Way::Watched => 2,
            Way::Refused => 3,
        })
    })
}

/// A cell for a call that moves bytes by a number that another process may have; `NO_CELL` if none is needed; -1 if the
/// number has to be looked at again.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_watch(fd: c_int) -> c_int {
    const NO_CELL: c_int = -3;
    guard_infallible(-1, || match family::begin(fd) {
        family::Found::Plain(cell) => match cell.into_raw() {
            // Counted, but nowhere by itself.
            -1 => -2,
            raw => raw,
        },
        family::Found::Signed => {
            // By this process, or by another.
            registry::signed(fd);
            -1
        }
        family::Found::NoStream => {
            registry::fresh(fd, marks::PLAIN);
            NO_CELL
        }
    })
}

/// The call is over.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_unwatch(cell: c_int) {
    family::end(family::Cell::from_raw(if cell == -2 { -1 } else { cell }));
}

/// `dup(2)` or `fcntl(F_DUPFD)` of a TLS socket; `ENOPROTOOPT` if it is none any more.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_duplicate(old: c_int, least: c_int) -> c_int {
    guard(old, || {
        reserve::admit()?;
        registry::entry(old)?;
        registry::duplicate(old, (least >= 0).then_some(least))
    })
}

/// `dup3(2)` of or over a TLS socket.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_replace(old: c_int, new: c_int, flags: c_int) -> c_int {
    guard(old, || {
        reserve::admit()?;
        registry::replace(old, new, flags)
    })
}

/// The lowest free number, from `least` on if that is not negative, as a descriptor that can do nothing.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_placeholder(least: c_int) -> c_int {
    guard(-1, || {
        net::placeholder((least >= 0).then_some(least)).map_err(Error::Os)
    })
}

/// Whether a TLS socket's number is that in the table of the calling process, too.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_is_here(fd: c_int) -> bool {
    guard_infallible(true, || {
        !process::uktls_preload_in_vfork() || registry::is_same(fd)
    })
}

/// Whether the number is another socket's by system calls that no library sees.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_has_been_replaced(fd: c_int) -> bool {
    guard_infallible(false, || registry::has_been_replaced(fd))
}

/// The kernel has just given the number out anew.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_fresh(fd: c_int, is_stream: bool) {
    let mark = if is_stream { marks::SOLE } else { marks::PLAIN };
    guard_infallible((), || registry::fresh(fd, mark));
}

/// `new` has just been made a plain duplicate of `old`.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_inherit(old: c_int, new: c_int) {
    guard_infallible((), || {
        let class = match marks::get(old) {
            mark if mark & (marks::SOLE | marks::TWIN) != 0 => marks::TWIN,
            mark => mark & (marks::WATCHED | marks::REFUSED),
        };
        if class == marks::WATCHED {
            family::watch(new);
        }
        registry::fresh(new, class);
    });
}

/// The call that has made the plain duplicate `new` is over.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_came_over(new: c_int) {
    if process::is_remembered() {
        guard_infallible((), || registry::came_over(new));
    }
}

/// Whether somebody has set keys on the number's socket, or can.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_may_have_keys(fd: c_int) -> bool {
    guard_infallible(true, || registry::may_have_keys(fd))
}

/// The number has come from another process, or may have.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_number_came(fd: c_int) {
    if !process::uktls_preload_in_vfork() {
        guard_infallible((), || registry::came(fd));
    }
}

/// The number has been taken out of a process that does not know of that.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_number_was_taken(fd: c_int) {
    if !process::uktls_preload_in_vfork() {
        guard_infallible((), || registry::came_unnoticed(fd));
    }
}

/// The number's socket has been passed on.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_passed(fd: c_int) {
    guard_infallible((), || registry::passed(fd));
}

/// A slot for the calls of a thread; NULL if there is none left.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_take_slot() -> *const Slot {
    in_flight::TABLE
        .take()
        .map_or(core::ptr::null(), core::ptr::from_ref)
}

/// The thread ends.
///
/// # Safety
/// `slot` is one of `uktls_preload_take_slot`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_give_slot(slot: *const Slot) {
    // SAFETY: our caller's promise; slots are never freed.
    if let Some(slot) = unsafe { slot.as_ref() } {
        in_flight::TABLE.give(slot);
    }
}

/// A call for which there is no slot begins (1) or ends (-1).
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_unnoted(change: c_int) {
    in_flight::TABLE.count_unnoted(change > 0);
}

/// The process is about to fork.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_before_fork() {
    guard_infallible((), registry::before_fork);
}

/// Somebody may have got a number of this process, in a way that does not tell of which.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_forget_sole() {
    guard_infallible((), registry::forget_sole);
}

/// Another program is about to be started.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_before_spawn() {
    guard_infallible((), registry::before_spawn);
}
