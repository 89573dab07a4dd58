//! What happens around `fork`, and at the end of the process.
//!
//! Before: the process-wide locks are taken, so that the child does not inherit them locked by a
//! thread that it does not have. In the parent they are let go. The child lets them go, begins a
//! new epoch (so that it refuses to seal with inherited keys) and forgets worker and pool, whose
//! threads stayed with the parent; its own connections start new ones.

use std::cell::RefCell;
use std::sync::{MutexGuard, Once};

use crate::engine::buffer;
use crate::registry;
use crate::rx::window;
use crate::stats::STATS;
use crate::sys::{fork_guard, secret};

/// Installs the handlers, once. They stay for the life of the process, which is why the library is
/// linked so that it is never unloaded.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the three are plain functions of this library, which is never unloaded.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        // SAFETY: as above.
        unsafe { libc::atexit(at_exit) };
    });
}

type Held = (
    registry::Held,
    MutexGuard<'static, Vec<Box<[u8]>>>,
    MutexGuard<'static, Vec<Box<[u8]>>>,
    secret::Held,
);

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

extern "C" fn before() {
    let held = (
        registry::hold(),
        buffer::hold(),
        window::hold(),
        secret::hold(),
    );
    HELD.with_borrow_mut(|slot| *slot = Some(held));
}

extern "C" fn in_parent() {
    HELD.with_borrow_mut(Option::take);
}

extern "C" fn in_child() {
    HELD.with_borrow_mut(|held| {
        if let Some(((_, lingering), ..)) = held {
            // The parent's to finish. A strong reference is leaked, not dropped: its locks may be
            // held by threads that this process does not have.
            for connection in lingering.drain(..).filter_map(|weak| weak.upgrade()) {
                connection.abandon();
                core::mem::forget(connection);
            }
        }
        *held = None;
    });
    fork_guard::new_epoch();
    STATS.clear();
    registry::reset_in_child();
}

extern "C" fn at_exit() {
    let drained = std::panic::catch_unwind(|| {
        registry::drain_all();
        crate::stats::append_to_file(&registry::config());
    });
    // A panic must not cross into the C library; there is nobody left to tell.
    drop(drained);
}
