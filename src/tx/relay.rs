//! Streams whose calls only seal, while another thread hands what they have sealed to the kernel.
//!
//! In long streams the kernel's part of a record takes longer than sealing it, and both can go on at the same time. So,
//! with `auto`, a stream that has a batch to transmit gives it to a thread of the engine's and goes on; what it seals
//! meanwhile that thread takes along. If none is free, or the kernel has no room, calls transmit by themselves.
//!
//! `RELAYED` is the thread's promise to look at the list. Nothing is left behind: a call queues what it has sealed, under
//! the list's lock, before it looks at the bit; the thread looks at the list, under the same lock, after it has cleared it.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::ready_list::Head;
use super::room::BATCH;
use super::transmit::By;
use super::writer::Outcome;
use super::{BLOCKED, Connection, RELAYED, Sender};
use crate::engine::{Kind, Relay};

impl Connection {
    /// Has what is queued, and what is going to be, transmitted by another thread, if that is worthwhile and one is free.
    pub(super) fn relay_if_due(self: &Arc<Self>, sender: &mut Sender) {
        let due = BATCH.min(self.settings.queue_max / 4) as u64;
        if self.settings.engine != Kind::Auto
            || self.settings.cores < RELAY_CORES
            || self.counts.queued.load(Ordering::Relaxed) < due
            || self.is(RELAYED)
        {
            return;
        }
        if self.is(BLOCKED) {
            // The reader decides how fast it goes.
            sender.unrelayed = REST;
            return;
        }
        if sender.unrelayed > 0 {
            sender.unrelayed -= 1;
            return;
        }
        if !self.shared.streamers.is_alone(self.id) {
            return;
        }
        self.publish(sender);
        // Records in flight are transmitted by those who seal them.
        if self.list.outlook() != (Head::Ready, 0) {
            return;
        }
        self.set(RELAYED);
        let this: Arc<dyn Relay> = Arc::<Connection>::clone(self);
        if !self.shared.pool.relay(&this) {
            self.unset(RELAYED);
        }
    }

    fn transmit_on(self: &Arc<Self>) {
        loop {
            let outcome = self.transmit(By::Relay, true);
            self.unset(RELAYED);
            let drained = matches!(outcome, Some(Outcome::Drained(_)));
            if !drained || self.is_wanted() || self.list.head() != Head::Ready || self.set(RELAYED)
            {
                return;
            }
        }
    }
}

impl Relay for Connection {
    fn relay(self: Arc<Self>) {
        if catch_unwind(AssertUnwindSafe(|| self.transmit_on())).is_err() {
            self.poison();
            self.unset(RELAYED);
        }
        // Whoever has slept because this thread was at it looks again.
        self.moved.signal();
        self.room.signal();
    }
}

/// Who has streamed of late, in a process. Where several threads do, on connections of their own, they keep the processors
/// busy by themselves, and another thread would only take turns with them.
#[derive(Debug, Default)]
pub struct Streamers {
    thread: AtomicUsize,
    connection: AtomicU64,
    /// Batches until the last thread counts as the only one.
    others: AtomicU32,
}

impl Streamers {
    /// A batch of `connection` is due. Whether its calls are the only ones that stream.
    fn is_alone(&self, connection: u64) -> bool {
        thread_local! {
            /// Its address tells threads apart.
            static SELF: u8 = const { 0 };
        }
        // During a thread's end there is no SELF; then it is like another thread.
        let thread = SELF.try_with(|this| core::ptr::from_ref(this).addr());
        // Relaxed: a guess from what was seen last.
        let same_thread = thread.is_ok_and(|it| self.thread.swap(it, Ordering::Relaxed) == it);
        let same_connection = self.connection.swap(connection, Ordering::Relaxed) == connection;
        if !same_thread && !same_connection {
            self.others.store(ALONE, Ordering::Relaxed);
            return false;
        }
        let others = self.others.load(Ordering::Relaxed);
        self.others
            .store(others.saturating_sub(1), Ordering::Relaxed);
        others <= 1
    }
}

/// After so many batches in a row of one thread it streams alone.
const ALONE: u32 = 8;

/// Fewer processors than this, and the calls would wait for the other thread.
const RELAY_CORES: usize = 2;

/// After the kernel had no room, so many batches are transmitted by the calls themselves.
const REST: u8 = 16;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::pace::Pace;
    use super::super::testing::{Setup, flags};
    use super::*;
    use crate::aead::Cipher;
    use crate::engine::{Engine, Job};
    use crate::record::Version;

    /// All its threads have other streams.
    struct Taken;

    impl Engine for Taken {
        fn submit(&self, job: Job) {
            job.run();
        }
    }

    /// AS-20: what no thread takes is left to the worker, also where the queue has room for more.
    #[test]
    fn what_is_not_relayed_is_deferred() {
        let setup = Setup::over(
            Arc::new(Taken),
            Kind::Auto,
            Version::Tls13,
            Cipher::AesGcm128,
            false,
        );
        setup.give_room(usize::MAX);
        let connection = &setup.connection;
        while !connection.shared.streamers.is_alone(connection.id()) {}
        connection.set_max_payload(3000).unwrap();
        connection.private().unwrap().pace = Pace::of_a_stream();
        assert_eq!(
            connection.send_bytes(&[&[7; 17_000]], None, flags()),
            Ok(17_000)
        );
        assert_eq!(setup.sys.socket().wire.len(), 0, "a stream gathers more");
        assert!(connection.deferral.is_scheduled(), "nobody is to send it");
    }

    #[test]
    fn one_thread_or_one_connection_streams_alone() {
        let streamers = Streamers::default();
        assert!(!streamers.is_alone(1), "the first is not known yet");
        let found: Vec<bool> = (0..ALONE).map(|_| streamers.is_alone(1)).collect();
        assert_eq!(found.iter().filter(|alone| **alone).count(), 1, "{found:?}");
        assert!(streamers.is_alone(2), "the same thread");
        let elsewhere = |connection| {
            std::thread::scope(|scope| scope.spawn(|| streamers.is_alone(connection)).join())
        };
        assert!(!elsewhere(3).unwrap());
        assert!(!streamers.is_alone(1));
        let found = (0..ALONE).filter(|_| streamers.is_alone(1)).count();
        assert_eq!(found, 1);
        assert!(elsewhere(1).unwrap(), "the same connection");
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::RELAYED;
    use crate::sync::atomic::{AtomicU32, Ordering};
    use crate::sync::{Arc, Mutex, lock};

    /// A queue and the bit: the protocol without the records.
    #[derive(Default)]
    struct Model {
        queued: Mutex<u32>,
        sent: Mutex<u32>,
        state: AtomicU32,
        tasks: Mutex<u32>,
    }

    impl Model {
        fn transmit(&self) {
            let taken = core::mem::take(&mut *lock(&self.queued));
            *lock(&self.sent) += taken;
        }
        fn call(&self) {
            *lock(&self.queued) += 1;
            if self.state.load(Ordering::Acquire) & RELAYED == 0 {
                self.state.fetch_or(RELAYED, Ordering::AcqRel);
                *lock(&self.tasks) += 1;
            }
        }
        fn relay(&self) {
            if core::mem::take(&mut *lock(&self.tasks)) == 0 {
                return;
            }
            loop {
                self.transmit();
                self.state.fetch_and(!RELAYED, Ordering::AcqRel);
                let more = *lock(&self.queued) != 0;
                if !more || self.state.fetch_or(RELAYED, Ordering::AcqRel) & RELAYED != 0 {
                    return;
                }
            }
        }
    }

    /// Whatever a call leaves to the other thread goes out, wherever that thread is.
    #[test]
    fn calls_against_a_relay() {
        loom::model(|| {
            let model = Arc::new(Model::default());
            let other = {
                let model = Arc::clone(&model);
                loom::thread::spawn(move || {
                    model.relay();
                    model.relay();
                })
            };
            model.call();
            model.call();
            other.join().unwrap();
            model.relay();
            assert_eq!(*lock(&model.sent), 2, "a record was left behind");
        });
    }
}
