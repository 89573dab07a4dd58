//! OpenSSL's async jobs: a function that an accelerator pauses, and that goes on when that has done its part.
//!
//! A job runs on a stack of its own, of 32 KiB, and always on the thread that began it.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::marker::PhantomData;
use core::ptr::null_mut;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::libcrypto::{Libcrypto, Opaque};

/// What a job does.
pub trait Work {
    /// What it ends with.
    type Result;

    /// May be paused in calls of OpenSSL, any number of times.
    fn work(self) -> Self::Result;
}

/// What has become of a job.
#[derive(Debug)]
pub enum Progress<T> {
    /// It has ended; `None` if it panicked.
    Finished(Option<T>),
    /// It waits for the accelerator: to be resumed when told, or when one of the descriptors is readable.
    Paused(Vec<RawFd>),
    /// The accelerator has no room: to be resumed a little later.
    Busy,
    /// No more jobs can be had now: to be started later.
    NoRoom,
}

/// A place for one job after the other. What the accelerator knows of it stays for good, so that it may tell of a job
/// that has ended already: a driver that has done its part before the job got to pause does.
pub struct JobSlot<W: Work + 'static> {
    library: &'static Libcrypto,
    inner: &'static Inner<W>,
    job: Opaque,
    wait: Opaque,
    /// Stays on its thread.
    thread: PhantomData<*mut W>,
}

/// The job's own; touched by the thread that runs it.
struct Inner<W: Work> {
    work: UnsafeCell<Option<W>>,
    result: UnsafeCell<Option<W::Result>>,
}

/// What is called when a job is to be resumed.
struct Told(Box<dyn Fn() + Send + Sync>);

/// This thread is going to have up to `most` jobs; 0 is any number.
///
/// # Errors
/// Why it cannot.
pub fn prepare_thread(most: usize) -> Result<(), String> {
    let library = Libcrypto::get()?;
    // SAFETY: two numbers.
    match unsafe { (library.ASYNC_init_thread)(most, 0) } {
        1 => Ok(()),
        _ => Err(library.error()),
    }
}

impl<W: Work + 'static> JobSlot<W> {
    /// A place without a job. `told` is called on any thread, when the job is to be resumed, or for no reason.
    ///
    /// # Errors
    /// No libcrypto, no memory.
    pub fn new(told: Box<dyn Fn() + Send + Sync>) -> Result<JobSlot<W>, String> {
        let library = Libcrypto::get()?;
        // SAFETY: takes nothing.
        let wait = unsafe { (library.ASYNC_WAIT_CTX_new)() };
        if wait.is_null() {
            return Err(library.error());
        }
        let told: &'static Told = Box::leak(Box::new(Told(told)));
        let argument = core::ptr::from_ref(told).cast_mut().cast();
        // SAFETY: a live context; what the argument points to is never freed, and never changed.
        unsafe { (library.ASYNC_WAIT_CTX_set_callback)(wait, on_told, argument) };
        Ok(JobSlot {
            library,
            inner: Box::leak(Box::new(Inner {
                work: UnsafeCell::new(None),
                result: UnsafeCell::new(None),
            })),
            job: null_mut(),
            wait,
            thread: PhantomData,
        })
    }

    /// The next job, to be started by [`JobSlot::run`].
    ///
    /// # Panics
    /// There is one that has not ended.
    pub fn put(&mut self, work: W) {
        assert!(self.job.is_null(), "one job at a time");
        // SAFETY: no job runs, and this is its thread.
        unsafe { *self.inner.work.get() = Some(work) };
    }

    /// Whether the next job can be put here. One that could not be resumed never ends.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.job.is_null()
    }

    /// Starts or resumes the job.
    pub fn run(&mut self) -> Progress<W::Result> {
        let mut status = 0;
        let mut inner: *const Inner<W> = self.inner;
        // SAFETY: a number.
        unsafe { (self.library.ASYNC_WAIT_CTX_set_status)(self.wait, 0) };
        // SAFETY: the job is null or paused, and of this thread; the argument, which is copied when it starts, is the
        // pointer that `run_work` takes.
        let became = unsafe {
            (self.library.ASYNC_start_job)(
                &raw mut self.job,
                self.wait,
                &raw mut status,
                run_work::<W>,
                (&raw mut inner).cast(),
                size_of::<*const Inner<W>>(),
            )
        };
        match became {
            ASYNC_FINISH => {
                self.job = null_mut();
                // SAFETY: the job has ended, and this is its thread.
                Progress::Finished(unsafe { (*self.inner.result.get()).take() })
            }
            ASYNC_PAUSE => {
                // SAFETY: a live context.
                match unsafe { (self.library.ASYNC_WAIT_CTX_get_status)(self.wait) } {
                    ASYNC_STATUS_EAGAIN => Progress::Busy,
                    _ => Progress::Paused(self.descriptors()),
                }
            }
            _ if self.job.is_null() => Progress::NoRoom,
            _ => Progress::Finished(None),
        }
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let mut count = 0;
        let all = self.library.ASYNC_WAIT_CTX_get_all_fds;
        // SAFETY: null asks for the number.
        if unsafe { all(self.wait, null_mut(), &raw mut count) } != 1 || count == 0 {
            return Vec::new();
        }
        let mut fds = vec![-1; count];
        // SAFETY: room for as many as there are.
        if unsafe { all(self.wait, fds.as_mut_ptr(), &raw mut count) } != 1 {
            return Vec::new();
        }
        fds.truncate(count);
        fds
    }
}

extern "C" fn run_work<W: Work>(argument: *mut c_void) -> c_int {
    // SAFETY: `run` passes a pointer to this.
    let inner = unsafe { *argument.cast::<*const Inner<W>>() };
    // SAFETY: never freed.
    let inner = unsafe { &*inner };
    // SAFETY: `run` does not touch it while the job runs, and nobody else does.
    let work = unsafe { (*inner.work.get()).take() };
    // Unwinding must not leave the job's stack.
    let result = work.and_then(|work| catch_unwind(AssertUnwindSafe(|| work.work())).ok());
    // SAFETY: as above.
    unsafe { *inner.result.get() = result };
    1
}

extern "C" fn on_told(argument: *mut c_void) -> c_int {
    // SAFETY: `JobSlot::new` gave a pointer to this, which is never freed and never changed.
    let told = unsafe { &*argument.cast::<Told>() };
    (told.0)();
    1
}

const ASYNC_PAUSE: c_int = 2;
const ASYNC_FINISH: c_int = 3;
const ASYNC_STATUS_EAGAIN: c_int = 3;
