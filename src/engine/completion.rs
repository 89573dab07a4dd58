//! The promise that whoever submitted a record hears of it.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Sealed, SealedRecord};
use crate::error::{Error, Result};

/// What a job tells when it is done, exactly once. Dropped untold, as by a panic of the thread that had
/// the job, it says that the record has failed: otherwise its connection would wait for it for good.
pub struct Completion(Option<(Arc<dyn Sealed>, u64)>);

impl Completion {
    /// `done` is given `ticket` back.
    #[must_use]
    pub fn new(done: Arc<dyn Sealed>, ticket: u64) -> Completion {
        Completion(Some((done, ticket)))
    }

    /// The record is sealed, or cannot be.
    pub fn tell(mut self, result: Result<SealedRecord>) {
        if let Some((done, ticket)) = self.0.take() {
            done.sealed(ticket, result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some((done, ticket)) = self.0.take() {
            // A second panic while one unwinds would end the program.
            let tell = || done.sealed(ticket, Err(Error::NotRecoverable));
            let _ = catch_unwind(AssertUnwindSafe(tell));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(u64, bool)>>);

    impl Sealed for Heard {
        fn sealed(self: Arc<Self>, ticket: u64, result: Result<SealedRecord>) {
            self.0.lock().unwrap().push((ticket, result.is_ok()));
        }
    }

    /// Once each, whichever way it ends.
    #[test]
    fn every_completion_is_heard_of_once() {
        let heard = Arc::new(Heard::default());
        let completion = |ticket| Completion::new(Arc::<Heard>::clone(&heard), ticket);
        completion(1).tell(Err(Error::SealFailed));
        drop(completion(2));
        let (third, buffer) = (completion(3), super::super::Buffer::take());
        third.tell(Ok(SealedRecord {
            buffer,
            len: 0,
            plain: 0,
        }));
        assert_eq!(
            *heard.0.lock().unwrap(),
            [(1, false), (2, false), (3, true)]
        );
    }
}
