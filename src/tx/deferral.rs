//! The schedule/cancel protocol of deferred transmission.
//!
//! Two bits, one atomic. `SCHEDULED`: somebody must transmit later what the caller left behind.
//! `ENQUEUED`: the worker holds a reference to this connection and will look at it again. A
//! connection is handed to the worker only when `ENQUEUED` rises, so a burst costs one hand-over;
//! a caller that has transmitted everything by itself cancels by clearing `SCHEDULED` and leaves
//! the worker's entry to be dropped at its next look (AS-9).
//!
//! Invariant: whenever a record is queued and no caller is about to transmit, `SCHEDULED` is set
//! or the connection waits for room in the socket; and `SCHEDULED` implies `ENQUEUED`.
#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicU32, Ordering};

const SCHEDULED: u32 = 1;
const ENQUEUED: u32 = 2;

/// The deferral state of one connection.
#[derive(Debug)]
pub(crate) struct Deferral {
    bits: AtomicU32,
}

/// What [`Deferral::schedule`] asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheduled {
    /// It was scheduled before: nothing to do.
    Already,
    /// The worker still has the connection on its list and will see the bit.
    Again,
    /// The connection has to be handed to the worker.
    HandOver,
}

impl Deferral {
    pub(crate) fn new() -> Self {
        Deferral {
            bits: AtomicU32::new(0),
        }
    }

    /// Asks for a deferred transmission. What is to be transmitted was queued before this call.
    pub(crate) fn schedule(&self) -> Scheduled {
        // AcqRel: the Release publishes the queued records to the worker's `begin` (Acquire); the
        // Acquire orders us behind the `begin` or `cancel` whose effect we see.
        match self.bits.fetch_or(SCHEDULED | ENQUEUED, Ordering::AcqRel) {
            0 => Scheduled::HandOver,
            ENQUEUED => Scheduled::Again,
            _ => Scheduled::Already,
        }
    }

    /// Whether a deferred transmission is due.
    pub(crate) fn is_scheduled(&self) -> bool {
        // Acquire: pairs with the Release in `schedule`.
        self.bits.load(Ordering::Acquire) & SCHEDULED != 0
    }

    /// Called by a caller that has transmitted everything; says whether there was something to
    /// cancel. What is queued after this call is scheduled again by whoever queues it.
    pub(crate) fn cancel(&self) -> bool {
        // Without this load every call that is not part of a burst would pay for a locked write.
        if !self.is_scheduled() {
            return false;
        }
        // AcqRel: as in `schedule`.
        self.bits.fetch_and(!SCHEDULED, Ordering::AcqRel) & SCHEDULED != 0
    }

    /// The worker, before it transmits: clears `SCHEDULED`, so that what is queued from now on is
    /// scheduled anew; says whether it had been set.
    pub(crate) fn begin(&self) -> bool {
        // AcqRel: the Acquire pairs with `schedule`, so that its records are found.
        self.bits.fetch_and(!SCHEDULED, Ordering::AcqRel) & SCHEDULED != 0
    }

    /// The worker wants to drop its entry; it may if this returns true. Otherwise the connection
    /// was scheduled meanwhile and the worker keeps it.
    pub(crate) fn release(&self) -> bool {
        // AcqRel on success: the next `schedule` that sees 0 is ordered behind the drop.
        self.bits
            .compare_exchange(ENQUEUED, 0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_handed_over_once() {
        let deferral = Deferral::new();
        assert_eq!(deferral.schedule(), Scheduled::HandOver);
        assert_eq!(deferral.schedule(), Scheduled::Already);
        assert!(deferral.cancel());
        assert!(!deferral.cancel());
        assert_eq!(deferral.schedule(), Scheduled::Again);
        assert!(deferral.begin());
        assert!(deferral.release());
        assert_eq!(deferral.schedule(), Scheduled::HandOver);
    }

    #[test]
    fn an_entry_that_was_scheduled_again_is_kept() {
        let deferral = Deferral::new();
        deferral.schedule();
        deferral.begin();
        deferral.schedule();
        assert!(!deferral.release());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::{Arc, Mutex, lock};

    /// A queue, its deferral, and the worker's list: the protocol without the records.
    struct Model {
        queued: Mutex<u32>,
        sent: Mutex<u32>,
        deferral: Deferral,
        inbox: Mutex<u32>,
    }

    impl Model {
        fn transmit(&self) {
            let taken = core::mem::take(&mut *lock(&self.queued));
            *lock(&self.sent) += taken;
        }
        /// A call that leaves its record to the worker.
        fn deferring_call(&self) {
            *lock(&self.queued) += 1;
            if self.deferral.schedule() == Scheduled::HandOver {
                *lock(&self.inbox) += 1;
            }
        }
        /// A call that transmits by itself and cancels.
        fn direct_call(&self) {
            *lock(&self.queued) += 1;
            self.deferral.cancel();
            self.transmit();
        }
        /// One look of the worker at its list. Returns whether it still has the entry.
        fn worker_look(&self, holds: bool) -> bool {
            let holds = holds || core::mem::take(&mut *lock(&self.inbox)) != 0;
            if holds {
                if self.deferral.begin() {
                    self.transmit();
                }
                return !self.deferral.release();
            }
            false
        }
        /// The worker runs on until it holds nothing: everything must have been sent then.
        fn settle(&self, mut holds: bool, total: u32) {
            while holds || *lock(&self.inbox) != 0 {
                holds = self.worker_look(holds);
            }
            assert_eq!(
                *lock(&self.sent),
                total,
                "an accepted record was left behind"
            );
        }
    }

    fn model(caller: fn(&Model)) {
        loom::model(move || {
            let model = Arc::new(Model {
                queued: Mutex::new(0),
                sent: Mutex::new(0),
                deferral: Deferral::new(),
                inbox: Mutex::new(0),
            });
            let worker = {
                let model = Arc::clone(&model);
                loom::thread::spawn(move || {
                    let holds = model.worker_look(false);
                    model.worker_look(holds)
                })
            };
            caller(&model);
            let holds = worker.join().unwrap();
            model.settle(holds, 2);
        });
    }

    /// AS-20: nothing that was deferred is forgotten, whenever the worker looks.
    #[test]
    fn two_deferring_calls_against_the_worker() {
        model(|m| {
            m.deferring_call();
            m.deferring_call();
        });
    }

    /// AS-9: a caller that cancels takes the duty over; the worker's entry does no harm.
    #[test]
    fn schedule_then_cancel_against_the_worker() {
        model(|m| {
            m.deferring_call();
            m.direct_call();
        });
    }

    /// The same with the order turned round: a cancel without a schedule, then a burst.
    #[test]
    fn cancel_then_schedule_against_the_worker() {
        model(|m| {
            m.direct_call();
            m.deferring_call();
        });
    }
}
