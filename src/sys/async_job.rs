//! OpenSSL's async jobs: a function that an accelerator pauses, and that goes on when that has done its part.
//!
//! A job runs on a stack of its own, of 32 KiB, and always on the thread that began it.

use core::ffi::{c_int, c_void};
use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::libcrypto::{Libcrypto, Opaque};

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

/// A job that was begun, or is about to be. One that is dropped before its end is lost, and so is its memory, which
/// the accelerator may still be writing to.
#[derive(Debug)]
pub struct AsyncJob<T> {
    library: &'static Libcrypto,
    inner: NonNull<Inner<T>>,
    job: Opaque,
    wait: Opaque,
    ended: bool,
    /// Stays on its thread.
    thread: PhantomData<*mut T>,
}

struct Inner<T> {
    body: Option<Box<dyn FnOnce() -> T>>,
    result: Option<T>,
    told: Box<dyn Fn() + Send + Sync>,
}

/// This thread is going to have up to `most` jobs.
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

impl<T> AsyncJob<T> {
    /// A job that runs `body`. `told` is called, on any thread, when it is to be resumed: once a pause, as accelerators do,
    /// so never when the job has ended.
    ///
    /// # Errors
    /// No libcrypto, no memory.
    pub fn new(
        body: Box<dyn FnOnce() -> T>,
        told: Box<dyn Fn() + Send + Sync>,
    ) -> Result<AsyncJob<T>, String> {
        let library = Libcrypto::get()?;
        // SAFETY: takes nothing.
        let wait = unsafe { (library.ASYNC_WAIT_CTX_new)() };
        if wait.is_null() {
            return Err(library.error());
        }
        let inner = NonNull::from(Box::leak(Box::new(Inner {
            body: Some(body),
            result: None,
            told,
        })));
        // SAFETY: a live context; `inner` is freed with it, or never.
        unsafe { (library.ASYNC_WAIT_CTX_set_callback)(wait, on_told::<T>, inner.as_ptr().cast()) };
        Ok(AsyncJob {
            library,
            inner,
            job: null_mut(),
            wait,
            ended: false,
            thread: PhantomData,
        })
    }

    /// Starts or resumes it.
    pub fn run(&mut self) -> Progress<T> {
        let mut status = 0;
        let mut inner = self.inner.as_ptr();
        // SAFETY: a number.
        unsafe { (self.library.ASYNC_WAIT_CTX_set_status)(self.wait, 0) };
        // SAFETY: the job is null or paused, and of this thread; the argument, which is copied when it starts, is the
        // pointer that `run_body` takes.
        let became = unsafe {
            (self.library.ASYNC_start_job)(
                &raw mut self.job,
                self.wait,
                &raw mut status,
                run_body::<T>,
                (&raw mut inner).cast(),
                size_of::<*mut Inner<T>>(),
            )
        };
        match became {
            ASYNC_FINISH => {
                self.ended = true;
                // SAFETY: the job has ended: nobody else has the memory.
                Progress::Finished(unsafe { self.inner.as_mut() }.result.take())
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

impl<T> Drop for AsyncJob<T> {
    fn drop(&mut self) {
        // Started and not ended: the accelerator may come back to it.
        if !self.ended && !self.job.is_null() {
            return;
        }
        // SAFETY: made by ASYNC_WAIT_CTX_new, and no job has it any more.
        unsafe { (self.library.ASYNC_WAIT_CTX_free)(self.wait) };
        // SAFETY: made by `Box::leak`, and neither job nor accelerator has it any more.
        drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
    }
}

extern "C" fn run_body<T>(argument: *mut c_void) -> c_int {
    // SAFETY: `run` passes a pointer to this.
    let inner = unsafe { *argument.cast::<*mut Inner<T>>() };
    // SAFETY: alive until the job has ended; nobody else touches the body.
    let body = unsafe { (*inner).body.take() };
    // Unwinding must not leave the job's stack.
    let result = body.and_then(|body| catch_unwind(AssertUnwindSafe(body)).ok());
    // SAFETY: as above.
    unsafe { (*inner).result = result };
    1
}

extern "C" fn on_told<T>(argument: *mut c_void) -> c_int {
    // SAFETY: alive as long as the accelerator can have it; the function in it is never changed.
    let told = unsafe { &raw const (*argument.cast::<Inner<T>>()).told };
    // SAFETY: as above.
    unsafe { (*told)() };
    1
}

const ASYNC_PAUSE: c_int = 2;
const ASYNC_FINISH: c_int = 3;
const ASYNC_STATUS_EAGAIN: c_int = 3;
