//! The ready list: records enter it in sequence order when they are submitted, become ready in any
//! order, and leave it in sequence order.
//!
//! Invariant: a slot leaves the list only from the head and only when it is ready; behind a failed
//! slot nothing ever leaves (AS-4, AS-6, AS-15). The lock is a leaf: no other lock is taken and no
//! system call is made under it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::sync::{Mutex, lock, try_lock};

/// What stands at the head of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Nothing is queued.
    Empty,
    /// The head is still being sealed; its completion will come.
    InFlight,
    /// The head can be transmitted.
    Ready,
    /// The head could not be sealed. Nothing is transmitted any more.
    Failed,
}

/// What a completion found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completed {
    /// The head of the list.
    pub head: Head,
    /// Slots that are still being sealed.
    pub in_flight: usize,
    /// Slots that are ready, contiguous with the head or not.
    pub ready: usize,
}

/// Records between submission and transmission.
#[derive(Debug)]
pub(crate) struct ReadyList<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    slots: VecDeque<Slot<T>>,
    /// Ticket of the slot at the head.
    first: u64,
    in_flight: usize,
    failed: bool,
}

#[derive(Debug)]
enum Slot<T> {
    InFlight,
    Ready(T),
    Failed,
}

impl<T> ReadyList<T> {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            slots: VecDeque::new(),
            first: 0,
            in_flight: 0,
            failed: false,
        };
        ReadyList {
            inner: Mutex::new(inner),
        }
    }

    /// Adds a slot for a record about to be sealed. Called in sequence order: the caller holds the
    /// lock under which it reserved the record's number.
    pub(crate) fn reserve(&self) -> u64 {
        let mut inner = lock(&self.inner);
        inner.slots.push_back(Slot::InFlight);
        inner.in_flight += 1;
        inner.first + inner.slots.len() as u64 - 1
    }

    /// Adds a record that is sealed already.
    pub(crate) fn push(&self, record: T) {
        lock(&self.inner).slots.push_back(Slot::Ready(record));
    }

    /// Fills the slot of `ticket`: with a sealed record, or with `None` for one that failed.
    pub(crate) fn complete(&self, ticket: u64, record: Option<T>) -> Completed {
        let mut inner = lock(&self.inner);
        // After `clear` the slots of late completions are gone.
        let slot = ticket
            .checked_sub(inner.first)
            .and_then(|at| usize::try_from(at).ok());
        let mut dropped = None;
        if let Some(slot) = slot.and_then(|at| inner.slots.get_mut(at)) {
            match record {
                Some(record) => *slot = Slot::Ready(record),
                None => *slot = Slot::Failed,
            }
            inner.in_flight -= 1;
        } else {
            dropped = record;
        }
        let completed = Completed {
            head: inner.head(),
            in_flight: inner.in_flight,
            ready: inner.slots.len() - inner.in_flight,
        };
        drop(inner);
        drop(dropped);
        completed
    }

    /// What stands at the head.
    pub(crate) fn head(&self) -> Head {
        lock(&self.inner).head()
    }

    /// Whether nobody is looking at the list.
    pub fn is_free(&self) -> bool {
        try_lock(&self.inner).is_some()
    }

    /// What stands at the head, and how many slots are still being sealed.
    pub(crate) fn outlook(&self) -> (Head, usize) {
        let inner = lock(&self.inner);
        (inner.head(), inner.in_flight)
    }

    /// Moves ready records from the head to `out`, as long as `more` says so for the one that
    /// comes next; returns what then stands at the head.
    pub(crate) fn take(&self, out: &mut VecDeque<T>, mut more: impl FnMut(&T) -> bool) -> Head {
        let mut inner = lock(&self.inner);
        while let Some(Slot::Ready(record)) = inner.slots.front() {
            if inner.failed || !more(record) {
                break;
            }
            if let Some(Slot::Ready(record)) = inner.slots.pop_front() {
                out.push_back(record);
            }
            inner.first += 1;
        }
        inner.head()
    }

    /// Drops everything and refuses to hand out anything from now on: the connection is broken.
    pub(crate) fn fail(&self) {
        let mut inner = lock(&self.inner);
        inner.failed = true;
        inner.first += inner.slots.len() as u64;
        inner.in_flight = 0;
        let slots = core::mem::take(&mut inner.slots);
        // Dropping records returns their buffers to the free list, which has a lock of its own.
        drop(inner);
        drop(slots);
    }

    /// Gives back the memory of an empty list that was long once.
    pub(crate) fn trim(&self) {
        let mut inner = lock(&self.inner);
        if inner.slots.is_empty() {
            inner.slots.shrink_to(0);
        }
    }
}

impl<T> Inner<T> {
    fn head(&self) -> Head {
        match self.slots.front() {
            _ if self.failed => Head::Failed,
            None => Head::Empty,
            Some(Slot::InFlight) => Head::InFlight,
            Some(Slot::Ready(_)) => Head::Ready,
            Some(Slot::Failed) => Head::Failed,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn drain(list: &ReadyList<u32>) -> (Vec<u32>, Head) {
        let mut out = VecDeque::new();
        let head = list.take(&mut out, |_| true);
        (out.into(), head)
    }

    /// AS-4: completion in any order, transmission in sequence order.
    #[test]
    fn only_a_contiguous_head_leaves() {
        let list = ReadyList::new();
        let tickets: Vec<u64> = (0..4).map(|_| list.reserve()).collect();
        list.push(4);
        assert_eq!(list.complete(tickets[2], Some(2)).head, Head::InFlight);
        assert_eq!(drain(&list), (vec![], Head::InFlight));
        assert_eq!(list.complete(tickets[0], Some(0)).head, Head::Ready);
        assert_eq!(drain(&list), (vec![0], Head::InFlight));
        list.complete(tickets[3], Some(3));
        let last = list.complete(tickets[1], Some(1));
        assert_eq!((last.in_flight, last.ready), (0, 4));
        assert_eq!(drain(&list), (vec![1, 2, 3, 4], Head::Empty));
    }

    /// AS-6, AS-15: nothing behind a failed record is ever handed out.
    #[test]
    fn nothing_passes_a_failed_record() {
        let list = ReadyList::new();
        let (a, b) = (list.reserve(), list.reserve());
        list.push(2);
        list.complete(b, Some(1));
        assert_eq!(list.complete(a, None).head, Head::Failed);
        assert_eq!(drain(&list), (vec![], Head::Failed));
        list.fail();
        list.push(3);
        assert_eq!(drain(&list), (vec![], Head::Failed));
    }

    #[test]
    fn a_late_completion_after_failure_is_dropped() {
        let list = ReadyList::new();
        let ticket = list.reserve();
        list.fail();
        assert_eq!(list.complete(ticket, Some(7)).head, Head::Failed);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::Arc;

    /// AS-4: whatever the interleaving of two completions and a drain, the records come out in
    /// sequence order, each once, and none is left behind.
    #[test]
    fn drain_equals_sequence_order() {
        loom::model(|| {
            let list = Arc::new(ReadyList::new());
            let (a, b) = (list.reserve(), list.reserve());
            let completers: Vec<_> = [(b, 1u32), (a, 0u32)]
                .into_iter()
                .map(|(ticket, value)| {
                    let list = Arc::clone(&list);
                    loom::thread::spawn(move || {
                        list.complete(ticket, Some(value));
                    })
                })
                .collect();
            let mut out = VecDeque::new();
            list.take(&mut out, |_| true);
            for completer in completers {
                completer.join().unwrap();
            }
            assert_eq!(list.take(&mut out, |_| true), Head::Empty);
            assert_eq!(out, [0, 1]);
        });
    }

    /// AS-10: the hand-over between transmitters (`Connection::transmit`): who finds the writer busy leaves
    /// at once, and its record still goes out, because the holder looks again after letting go.
    #[test]
    fn no_record_is_stranded_between_two_transmitters() {
        loom::model(|| {
            let list = Arc::new(ReadyList::new());
            let writer = Arc::new(Mutex::new(VecDeque::new()));
            let (a, b) = (list.reserve(), list.reserve());
            let transmit = |list: &ReadyList<u32>, writer: &Mutex<VecDeque<u32>>| {
                loop {
                    let Ok(mut sent) = writer.try_lock() else {
                        return;
                    };
                    list.take(&mut sent, |_| true);
                    drop(sent);
                    if list.head() != Head::Ready {
                        return;
                    }
                }
            };
            let threads: Vec<_> = [(b, 1u32), (a, 0u32)]
                .into_iter()
                .map(|(ticket, value)| {
                    let (list, writer) = (Arc::clone(&list), Arc::clone(&writer));
                    loom::thread::spawn(move || {
                        list.complete(ticket, Some(value));
                        transmit(&list, &writer);
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(*lock(&writer), [0, 1]);
        });
    }
}
