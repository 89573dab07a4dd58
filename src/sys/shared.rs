//! Memory that parent and child go on sharing after `fork`.
//!
//! A [`Shared`] is one anonymous `MAP_SHARED` mapping, kept out of core dumps: a *head* that
//! everybody reads and changes through atomics, a *state* with a byte area behind it that only the
//! holder of the [robust lock](super::robust) touches, and a second robust lock, the *turn*, that
//! orders whole calls and guards no memory. Handles are cloned freely within a process; a child has
//! its parent's handles, as the mapping stands at the same address there.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::members::Members;
use super::robust::{RobustGuard, RobustLock};

/// A handle to the memory.
///
/// `H` and `S` are plain values without destructors; neither they nor what is written to them later
/// may refer to memory that only one process has (the bounds cannot say so). What is secret is written to the
/// state under the lock, in place: a first state that had it would be copied on its way here.
pub struct Shared<H, S> {
    member: Arc<Member<H, S>>,
}

/// One process's part in it.
struct Member<H, S> {
    mapping: Arc<Mapping<H, S>>,
    /// This process has signed off.
    left: AtomicBool,
}

/// What stands at the start of the mapping.
#[repr(C)]
struct Layout<H, S> {
    turn: RobustLock,
    lock: RobustLock,
    members: Members,
    /// Members with a handle left; those of a killed process are counted for ever.
    handles: AtomicU32,
    head: H,
    state: UnsafeCell<S>,
}

struct Mapping<H, S> {
    start: NonNull<Layout<H, S>>,
    len: usize,
    /// Where the byte area begins.
    area: usize,
    owns: PhantomData<(H, S)>,
}

// SAFETY: `H` is shared between threads as `Sync` allows, `S` is only handed out under the lock.
unsafe impl<H: Sync, S: Send> Send for Mapping<H, S> {}
// SAFETY: as above.
unsafe impl<H: Sync, S: Send> Sync for Mapping<H, S> {}

impl<H, S> Clone for Shared<H, S> {
    fn clone(&self) -> Self {
        Shared {
            member: Arc::clone(&self.member),
        }
    }
}

impl<H: Sync + 'static, S: Send + 'static> Shared<H, S> {
    /// Maps the memory, with `area_len` zero bytes behind the state; pages of it that nobody
    /// touches cost nothing. This process is its first member.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(head: H, state: S, area_len: usize) -> Result<Self, Errno> {
        const { assert!(!core::mem::needs_drop::<(H, S)>() && align_of::<Layout<H, S>>() <= GRAIN) };
        let area = size_of::<Layout<H, S>>().next_multiple_of(GRAIN);
        let len = area.checked_add(area_len).ok_or(Errno::NOMEM)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start =
            unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), len, protection, flags) }?;
        // Refused by kernels without the advice: then a core dump holds what it always held.
        // SAFETY: the range is the mapping just made.
        let _ = unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontDump) };
        let start = NonNull::new(start)
            .ok_or(Errno::NOMEM)?
            .cast::<Layout<H, S>>();
        // Unmapped by its drop if something fails below.
        let mapping = Mapping {
            start,
            len,
            area,
            owns: PhantomData,
        };
        let layout = Layout {
            turn: RobustLock::unset(),
            lock: RobustLock::unset(),
            members: Members::new(),
            handles: AtomicU32::new(1),
            head,
            state: UnsafeCell::new(state),
        };
        // SAFETY: the mapping is page-aligned and large enough, and nobody else knows it yet.
        unsafe { start.write(layout) };
        for lock in [&mapping.layout().turn, &mapping.layout().lock] {
            // SAFETY: new; and the mapping keeps its address, in children too.
            unsafe { lock.set_up() }?;
        }
        let mapping = Arc::new(mapping);
        mapping.layout().members.expect();
        Ok(Self::join(mapping))
    }

    /// The lock of whole calls. Its holder may sleep; its death is harmless.
    #[must_use]
    pub fn turn(&self) -> &RobustLock {
        &self.layout().turn
    }

    /// Takes state and area; never held across a sleep.
    ///
    /// # Errors
    /// None that is expected, see [`RobustLock::lock`].
    pub fn lock(&self) -> Result<Held<'_, S>, Errno> {
        self.layout().lock.lock().map(|guard| self.held(guard))
    }

    /// [`Shared::lock`], unless somebody has it.
    ///
    /// # Errors
    /// As for [`Shared::lock`].
    pub fn try_lock(&self) -> Result<Option<Held<'_, S>>, Errno> {
        let guard = self.layout().lock.try_lock()?;
        Ok(guard.map(|guard| self.held(guard)))
    }

    /// The processes that have the memory.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.layout().members
    }

    /// This process is about to fork: the child is counted from now on.
    pub fn before_fork(&self) {
        self.layout().handles.fetch_add(1, Ordering::SeqCst);
        self.members().expect();
    }

    /// The fork has failed.
    pub fn fork_failed(&self) {
        self.layout().handles.fetch_sub(1, Ordering::SeqCst);
        self.members().expect_no_more();
    }

    /// In the child: it is here. The child's handle is a new one and signs off for itself. The
    /// inherited handles are leaked, never dropped: a drop would sign off in the parent's name.
    #[must_use]
    pub fn in_child(&self) -> Self {
        Self::join(Arc::clone(&self.member.mapping))
    }

    /// Signs this process off, once, and says whether it was the last; it may go on with what it
    /// has left to do.
    pub fn leave(&self) -> bool {
        if self.member.left.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.members().leave()
    }

    fn join(mapping: Arc<Mapping<H, S>>) -> Self {
        mapping.layout().members.join();
        let left = AtomicBool::new(false);
        Shared {
            member: Arc::new(Member { mapping, left }),
        }
    }

    fn layout(&self) -> &Layout<H, S> {
        self.member.mapping.layout()
    }

    fn held<'a>(&'a self, guard: RobustGuard<'a>) -> Held<'a, S> {
        let state = self.layout().state.get();
        let mapping = &self.member.mapping;
        let bytes = mapping.start.cast::<u8>().as_ptr();
        let area_len = mapping.len - mapping.area;
        // SAFETY: `area` is inside the mapping, or at its end if the area is empty.
        let area = unsafe { bytes.add(mapping.area) };
        // SAFETY: `guard` is the lock under which alone these bytes are touched, by whoever.
        let area = unsafe { core::slice::from_raw_parts_mut(area, area_len) };
        // SAFETY: as above.
        let state = unsafe { &mut *state };
        Held { state, area, guard }
    }
}

impl<H: Sync + 'static, S: Send + 'static> Deref for Shared<H, S> {
    type Target = H;
    fn deref(&self) -> &H {
        &self.layout().head
    }
}

impl<H, S> Drop for Member<H, S> {
    fn drop(&mut self) {
        let layout = self.mapping.layout();
        if !self.left.load(Ordering::SeqCst) {
            layout.members.leave();
        }
        if layout.handles.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.mapping.wipe();
        }
    }
}

impl<H, S> Mapping<H, S> {
    fn layout(&self) -> &Layout<H, S> {
        // SAFETY: initialised by `Shared::new` before anybody gets here, mapped as long as we live,
        // only changed through atomics, the locks and the cell.
        unsafe { self.start.as_ref() }
    }

    /// Wipes what may be secret; nobody has a handle any more.
    fn wipe(&self) {
        let state = self.layout().state.get().cast::<u8>();
        for at in 0..size_of::<S>() {
            // SAFETY: inside the state.
            let byte = unsafe { state.add(at) };
            // SAFETY: as above, and nobody else looks; volatile, so that it is not optimised away.
            unsafe { byte.write_volatile(0) };
        }
        // Takes the pages away from every mapping of them, without touching those never used.
        // SAFETY: the mapping; what its pages held is not looked at any more.
        let _ = unsafe {
            rustix::mm::madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxRemove)
        };
    }
}

impl<H, S> Drop for Mapping<H, S> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every handle and guard that borrows from it is gone.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The lock is held: state and area are this thread's alone.
pub struct Held<'a, S> {
    state: &'a mut S,
    area: &'a mut [u8],
    guard: RobustGuard<'a>,
}

impl<S> Held<'_, S> {
    /// Both at once.
    pub fn parts(&mut self) -> (&mut S, &mut [u8]) {
        (self.state, self.area)
    }

    /// The area.
    #[must_use]
    pub fn area(&self) -> &[u8] {
        self.area
    }

    /// Whether the one who had the lock before died with it. State and area are as it left them.
    #[must_use]
    pub fn owner_died(&self) -> bool {
        self.guard.owner_died()
    }
}

impl<S> Deref for Held<'_, S> {
    type Target = S;
    fn deref(&self) -> &S {
        self.state
    }
}

impl<S> DerefMut for Held<'_, S> {
    fn deref_mut(&mut self) -> &mut S {
        self.state
    }
}

/// State and area start on a cache line of their own.
const GRAIN: usize = 64;

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use rustix::process::Signal;
    use std::sync::atomic::AtomicU64;

    type Pair = Shared<AtomicU64, [u64; 2]>;

    /// Runs `child` in a forked process, which ends by SIGKILL where `child` returns.
    fn fork_and_kill(shared: &Pair, child: impl FnOnce(&Pair)) {
        shared.before_fork();
        #[expect(clippy::disallowed_methods, reason = "a test may fork")]
        // SAFETY: the child makes raw system calls and touches the shared memory only.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            child(&shared.in_child());
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        }
        let mut status = 0;
        // SAFETY: `status` is an int of ours.
        let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(reaped, pid);
        assert!(libc::WIFSIGNALED(status));
    }

    /// Both sides see one memory, and the area is there to its end.
    #[test]
    fn a_child_shares_head_state_and_area() {
        let shared = Pair::new(AtomicU64::new(1), [2, 3], 100_000).unwrap();
        fork_and_kill(&shared, |shared| {
            shared.store(10, Ordering::SeqCst);
            let mut held = shared.lock().unwrap();
            let (state, area) = held.parts();
            state[1] = 30;
            area[99_999] = 7;
        });
        assert_eq!(shared.load(Ordering::SeqCst), 10);
        let held = shared.lock().unwrap();
        assert!(!held.owner_died());
        assert_eq!(*held, [2, 30]);
        assert_eq!(held.area()[99_998..], [0, 7]);
    }

    /// MT-8: the death of a holder is told once, and the lock goes on.
    #[test]
    fn a_killed_holder_leaves_a_usable_lock() {
        let shared = Pair::new(AtomicU64::new(0), [0, 0], 0).unwrap();
        for round in 1..4 {
            fork_and_kill(&shared, |shared| {
                let mut held = shared.lock().unwrap();
                held[0] += 1;
                core::mem::forget(held);
                core::mem::forget(shared.turn().lock());
            });
            let held = shared.lock().unwrap();
            assert!(held.owner_died());
            assert_eq!(held[0], round);
            drop(held);
            assert!(!shared.lock().unwrap().owner_died());
            let turn = shared.turn().try_lock().unwrap();
            assert!(turn.is_some_and(|turn| turn.owner_died()));
        }
    }

    /// A thread that ends with the lock counts as dead, too.
    #[test]
    fn a_held_lock_is_refused_and_an_ended_thread_lets_go() {
        let shared = Pair::new(AtomicU64::new(0), [0, 0], 0).unwrap();
        let held = shared.lock().unwrap();
        let other = shared.clone();
        let busy = std::thread::spawn(move || other.try_lock().unwrap().is_none());
        assert!(busy.join().unwrap());
        drop(held);
        let other = shared.clone();
        std::thread::spawn(move || core::mem::forget(other.lock()))
            .join()
            .unwrap();
        assert!(shared.lock().unwrap().owner_died());
    }

    /// With the last handle go keys and plaintext, from every mapping of them: a process that is
    /// still there, as one that a handler has not reached, has nothing of them.
    #[test]
    fn the_last_handle_wipes() {
        let shared = Pair::new(AtomicU64::new(0), [2, 3], 10_000).unwrap();
        let second = shared.clone();
        shared.lock().unwrap().parts().1.fill(7);
        let mapping = Arc::clone(&shared.member.mapping);
        let content = || {
            // SAFETY: mapped as long as `mapping` lives, and nobody uses it.
            let state = unsafe { mapping.layout().state.get().read() };
            let bytes = mapping.start.cast::<u8>().as_ptr();
            // SAFETY: the area ends with the mapping.
            let last = unsafe { bytes.add(mapping.len - 1) };
            // SAFETY: as for the state.
            (state, unsafe { last.read() })
        };
        drop(shared);
        assert_eq!(content(), ([2, 3], 7));
        drop(second);
        assert_eq!(content(), ([0, 0], 0));
    }

    /// Who is last, also when the others were killed.
    #[test]
    fn the_last_member_knows() {
        let shared = Pair::new(AtomicU64::new(0), [0, 0], 0).unwrap();
        assert!(shared.members().is_alone());
        shared.before_fork();
        assert!(!shared.members().is_alone(), "a child is coming");
        let second = shared.in_child();
        assert!(!shared.leave());
        assert!(second.leave());
        let shared = Pair::new(AtomicU64::new(0), [0, 0], 0).unwrap();
        fork_and_kill(&shared, |_| {});
        assert!(shared.members().is_alone());
        assert!(shared.leave());
    }
}
