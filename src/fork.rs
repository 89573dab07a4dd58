//! What happens around `fork`, and at the end of the process.
//!
//! Before: every connection moves to memory that parent and child share (design rule 5), and the
//! process-wide locks are taken, so that the child does not inherit them locked by a thread that it
//! does not have. In the parent they are let go. The child lets them go, begins a new epoch (so that
//! it refuses to seal with keys that it does not share), puts connections of its own in the place
//! of the shared ones, and forgets worker and pool, whose threads stayed with the parent; new ones
//! start when they are needed.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{MutexGuard, Once};

use crate::engine::buffer;
use crate::error::Result;
use crate::registry::{self, Clone, Deadline};
use crate::rx::window;
use crate::sync::patiently;
use crate::sys::{errno, fork_guard, secret, streams, thread, user_memory};

/// Installs the handlers, once. They stay for the life of the process, which is why the library is
/// linked so that it is never unloaded.
pub fn install() {
    watch();
    INSTALLED.call_once(|| {
        // Handlers of `atexit` run last one first: what seals the last records has to be there behind this one's.
        crate::aead::prepare();
        // SAFETY: a plain function of this library, which is never unloaded.
        unsafe { libc::atexit(at_exit) };
    });
}

/// Installs those for forks alone: when the library is loaded, as a fork may be in the middle when it is first called.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the three are plain functions of this library, which is never unloaded.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
}

extern "C" fn at_load() {
    watch();
}

// SAFETY: the loader calls what stands in this section, once, before anything that depends on the library.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

type Held = (
    registry::Held,
    [MutexGuard<'static, Vec<Box<[u8]>>>; 2],
    secret::Held,
    u64,
);

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

extern "C" fn before() {
    // While no lock is held: calls that it waits for may want one.
    registry::before_fork();
    let table = registry::hold();
    // Before the rest is held: records in flight need buffers and come to their end here.
    let share = std::panic::AssertUnwindSafe(|| registry::share_all(&table.table));
    let shared = std::panic::catch_unwind(share);
    // What a panic left unshared is refused in the child.
    drop(shared);
    let memory = [buffer::hold(), window::hold()];
    let held = (table, memory, secret::hold(), fork_guard::epoch());
    // Last: whoever sets keys holds locks of the table, and waits for this one.
    streams::hold();
    HELD.with_borrow_mut(|slot| *slot = Some(held));
    ERRNO.set(errno::get());
    // In the parent it tells whether the fork has failed.
    errno::set(0);
}

thread_local! {
    /// The program's, before.
    static ERRNO: Cell<i32> = const { Cell::new(0) };
}

extern "C" fn in_parent() {
    // The C library calls the handlers of a failed fork as those of another. Should a handler of somebody else's have left
    // such a number, a child is taken for none: the last close of this process then sends what the child could have
    // gone on with.
    let has_failed = matches!(
        errno::get(),
        libc::EAGAIN | libc::ENOMEM | libc::ENOSYS | libc::EPERM
    );
    if has_failed {
        HELD.with_borrow(|slot| {
            if let Some(held) = slot {
                registry::share_none(&held.0.table);
            }
        });
    } else {
        errno::set(ERRNO.get());
    }
    streams::release();
    // While no keys can be set.
    registry::has_forked();
    HELD.with_borrow_mut(Option::take);
    streams::leave_watched();
}

extern "C" fn in_child() {
    errno::set(ERRNO.get());
    streams::release_in_child();
    if let Some(held) = HELD.with_borrow_mut(Option::take) {
        let parent = held.3;
        begin_child(held, parent);
    }
    registry::after_fork();
}

/// A system call is about to make a process, of which no handler of `pthread_atfork` will be told. The locks are taken for
/// it, so that the child finds nothing in the middle of a change of another thread's. `returns`: in both processes to
/// whoever asks here, who then calls [`after_raw`].
///
/// # Errors
/// `EOPNOTSUPP`, as of [`registry::part`].
pub fn before_raw(clone: Clone, returns: bool) -> Result<()> {
    if clone.parts() {
        registry::part()?;
    }
    fork_guard::epoch();
    match clone {
        Clone::Thread => return Ok(()),
        Clone::Vfork => registry::forget_sole(),
        Clone::Fork | Clone::ForkInTable | Clone::InMemory => registry::before_fork(),
    }
    if returns && matches!(clone, Clone::Fork | Clone::ForkInTable) {
        // In a signal handler one of these may be the interrupted call's own: the child goes without them then.
        HELD.with_borrow_mut(|slot| {
            *slot = (|| {
                let table = registry::hold_patiently()?;
                let memory = [patiently(buffer::try_hold)?, patiently(window::try_hold)?];
                let secrets = patiently(secret::try_hold)?;
                streams::hold();
                Some((table, memory, secrets, fork_guard::epoch()))
            })();
        });
    }
    Ok(())
}

/// What [`before_raw`] has begun is over. Returns whether this is the child, and one that has been seen to: it shares no
/// connection with its parent, as the C library does not know of it and its locks do not either, so what the parent has
/// keys for is refused here.
pub fn after_raw(is_child: bool) -> bool {
    let Some(held) = HELD.with_borrow_mut(Option::take) else {
        return false;
    };
    match is_child {
        true => {
            streams::release_in_child();
            // No state is of epoch 0.
            begin_child(held, 0);
            registry::after_fork();
        }
        false => {
            streams::release();
            registry::has_forked();
        }
    }
    is_child
}

/// `parent`: the epoch of the states that are shared.
fn begin_child((mut table, buffers, secrets, _): Held, parent: u64) {
    drop((buffers, secrets));
    // The parent's to finish. A strong reference is leaked, not dropped: its locks may be held by
    // threads that this process does not have.
    for connection in table.lingering.drain(..).filter_map(|weak| weak.upgrade()) {
        connection.abandon();
        core::mem::forget(connection);
    }
    fork_guard::new_epoch();
    registry::has_forked();
    user_memory::forget_all();
    registry::forget_published();
    WRITTEN.store(false, Ordering::Relaxed);
    registry::reset_in_child();
    table.survivors.reset_in_child();
    // What a panic leaves out is refused.
    let adopt = std::panic::AssertUnwindSafe(|| registry::adopt_in_child(parent, &mut table.table));
    let adopted = std::panic::catch_unwind(adopt);
    drop((adopted, table));
}

/// Sends what was accepted, and writes the line of `UKTLS_STATS_FILE`, once: the end of the process by
/// another way than `exit(3)`. Does nothing in a process that has had no connection.
pub fn end_of_process() {
    if INSTALLED.is_completed() {
        at_exit();
    }
}

/// As [`end_of_process`], where the caller cannot know whether its process ends (`daemon(3)`).
pub fn may_end() {
    if INSTALLED.is_completed() {
        end(Deadline::OfProgram);
    }
}

extern "C" fn at_exit() {
    // It may take its time.
    thread::take_signals();
    end(Deadline::OfProcess);
}

fn end(deadline: Deadline) {
    let drained = std::panic::catch_unwind(|| {
        registry::drain_all(deadline);
        if !WRITTEN.swap(true, Ordering::Relaxed) {
            crate::stats::append_to_file(&registry::config());
            registry::unpublish();
        }
    });
    // A panic must not cross into the C library; there is nobody left to tell.
    drop(drained);
}

static INSTALLED: Once = Once::new();
/// The line of statistics is with the file.
static WRITTEN: AtomicBool = AtomicBool::new(false);
