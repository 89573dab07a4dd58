//! A lock between processes that survives the death of its holder.
//!
//! It is the C library's process-shared robust mutex: the kernel marks it when a thread dies with
//! it, by `SIGKILL` too, and the next one that takes it is told.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use rustix::io::Errno;

use super::steps::step;

/// A lock that guards nothing by itself; it lives in [`Shared`](super::shared::Shared)
/// memory.
pub struct RobustLock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: every access goes through the C library's own functions, which are made for threads of
// many processes.
unsafe impl Sync for RobustLock {}

/// The lock is held; its drop lets it go. Belongs to the thread that took it.
#[must_use]
pub struct RobustGuard<'a> {
    lock: &'a RobustLock,
    owner_died: bool,
    /// Not `Send`: only the owner may unlock.
    stays: PhantomData<*const ()>,
}

impl RobustLock {
    /// A lock that is none yet: [`RobustLock::set_up`] makes it one where it stays.
    pub(super) const fn unset() -> RobustLock {
        RobustLock(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER))
    }

    /// Makes it a lock.
    ///
    /// # Errors
    /// What `pthread_mutex_init(3)` returns.
    ///
    /// # Safety
    /// Nobody has used it yet, and from now on it does not move, in any process that uses it.
    pub(super) unsafe fn set_up(&self) -> Result<(), Errno> {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: the room of one attribute object.
        check(unsafe { libc::pthread_mutexattr_init(attributes) })?;
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: initialised by the line above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes, shared) })?;
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attributes, robust) })?;
        // SAFETY: nobody uses it, says our caller; the attributes are initialised.
        let done = check(unsafe { libc::pthread_mutex_init(self.0.get(), attributes) });
        // SAFETY: as above; not used again.
        unsafe { libc::pthread_mutexattr_destroy(attributes) };
        done
    }

    /// Takes the lock, waiting as long as it takes.
    ///
    /// # Errors
    /// None that a lock which was set up has; passed on all the same.
    pub fn lock(&self) -> Result<RobustGuard<'_>, Errno> {
        // SAFETY: initialised: at least as the default mutex that `unset` makes.
        self.taken(unsafe { libc::pthread_mutex_lock(self.0.get()) })
    }

    /// Takes the lock unless somebody holds it.
    ///
    /// # Errors
    /// As for [`RobustLock::lock`].
    pub fn try_lock(&self) -> Result<Option<RobustGuard<'_>>, Errno> {
        // SAFETY: initialised: at least as the default mutex that `unset` makes.
        match unsafe { libc::pthread_mutex_trylock(self.0.get()) } {
            libc::EBUSY => Ok(None),
            result => self.taken(result).map(Some),
        }
    }

    fn taken(&self, result: i32) -> Result<RobustGuard<'_>, Errno> {
        let owner_died = result == libc::EOWNERDEAD;
        if owner_died {
            // At once: if we die as well before everything is put right, the next is told again.
            // SAFETY: we hold the lock, and it is inconsistent.
            check(unsafe { libc::pthread_mutex_consistent(self.0.get()) })?;
        } else {
            check(result)?;
        }
        step();
        Ok(RobustGuard {
            lock: self,
            owner_died,
            stays: PhantomData,
        })
    }
}

impl RobustGuard<'_> {
    /// Whether the one who held the lock before died with it.
    #[must_use]
    pub fn owner_died(&self) -> bool {
        self.owner_died
    }
}

impl Drop for RobustGuard<'_> {
    fn drop(&mut self) {
        step();
        // SAFETY: held by this thread since the guard exists, and the guard does not change threads.
        unsafe { libc::pthread_mutex_unlock(self.lock.0.get()) };
        step();
    }
}

fn check(result: i32) -> Result<(), Errno> {
    match result {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}
