//! Threads that meet on one connection, at points which the fake kernel and engine hold open.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::testing::{End, Setup, flags, flush};
use super::*;
use crate::aead::Cipher;
use crate::engine::Job;
use crate::error::Error;
use crate::record::Version;

/// An engine that seals nothing until it is told to.
#[derive(Default)]
struct Held(Mutex<Option<Vec<Job>>>);

impl Held {
    fn new() -> Arc<Held> {
        Arc::new(Held(Mutex::new(Some(Vec::new()))))
    }

    fn let_go(&self) {
        let held = self.0.lock().unwrap().take();
        held.into_iter().flatten().for_each(Job::run);
    }
}

impl Engine for Held {
    fn submit(&self, job: Job) {
        let mut held = self.0.lock().unwrap();
        match &mut *held {
            Some(jobs) => jobs.push(job),
            None => {
                drop(held);
                job.run();
            }
        }
    }
}

/// Rule 4, TX-26: a call that does not wait says EAGAIN beside one that waits for the engine only if the kernel
/// has refused bytes: nobody is owed an EPOLLOUT here.
#[test]
fn a_wait_for_the_engine_is_no_reason_for_eagain() {
    let engine = Held::new();
    let (version, cipher) = (Version::Tls13, Cipher::AesGcm128);
    let setup = Setup::over(engine.clone(), Kind::Threads, version, cipher, true);
    setup.sys.socket().room = usize::MAX;
    let end = End::of(&setup);
    let connection = &setup.connection;
    let more_than_the_queue = vec![1u8; 200_000];
    let is_over = AtomicBool::new(false);
    let dont_wait = SendFlags {
        dont_wait: true,
        ..flags()
    };
    let second = std::thread::scope(|scope| {
        let first = scope.spawn(|| connection.send_bytes(&[&more_than_the_queue], None, flags()));
        while !connection.is(SLEEPING) {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| {
            let sent = connection.send_bytes(&[b"x"], None, dont_wait);
            is_over.store(true, Ordering::SeqCst);
            sent
        });
        while !is_over.load(Ordering::SeqCst) && !connection.turn.is_awaited() {
            std::thread::yield_now();
        }
        engine.let_go();
        assert_eq!(first.join().unwrap(), Ok(more_than_the_queue.len()));
        second.join().unwrap()
    });
    assert_eq!(second, Ok(1));
    flush(connection);
    end.wait();
}

/// Rule 4, TX-51: beside a sender that the kernel has refused and that sleeps, EAGAIN is the kernel's own answer of now. If room
/// has come since, its edge may be spent, and the sender may leave without being refused again.
#[test]
fn a_sleeper_that_is_about_to_wake_is_no_reason_for_eagain() {
    let setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, true);
    let end = End::of(&setup);
    let connection = &setup.connection;
    let dont_wait = SendFlags {
        dont_wait: true,
        ..flags()
    };
    let send = || connection.send_bytes(&[b"x"], None, dont_wait);
    let sleeper = connection.turn.try_take();
    connection.set(SLEEPING);
    connection.set(BLOCKED);
    std::thread::scope(|scope| {
        assert_eq!(scope.spawn(send).join().unwrap(), Err(Error::WouldBlock));
        setup.sys.socket().room = usize::MAX;
        let second = scope.spawn(send);
        while !second.is_finished() && !connection.turn.is_awaited() {
            std::thread::yield_now();
        }
        connection.unset(BLOCKED);
        connection.unset(SLEEPING);
        drop(sleeper);
        assert_eq!(second.join().unwrap(), Ok(1));
    });
    flush(connection);
    end.wait();
}

/// Design rule 2: a number of the connection means nothing else before the write by it is over.
#[test]
fn a_number_changes_between_writes() {
    let setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, true);
    setup.sys.socket().room = usize::MAX;
    let end = End::of(&setup);
    let connection = Arc::clone(&setup.connection);
    let is_changed = Arc::new(AtomicBool::new(false));
    let is_inside = Arc::new(AtomicBool::new(false));
    let (changed, inside, of) = (is_changed.clone(), is_inside.clone(), connection.clone());
    setup.sys.socket().before_send = Some(Box::new(move || {
        inside.store(true, Ordering::SeqCst);
        // Until the other thread has changed the number, or waits for that.
        while !changed.load(Ordering::SeqCst) && !of.is_wanted() {
            std::thread::yield_now();
        }
        assert_eq!(of.fd(), 0, "changed under a write");
    }));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| connection.send_bytes(&[b"x"], None, flags()));
        while !is_inside.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        connection.move_to(7);
        is_changed.store(true, Ordering::SeqCst);
        assert_eq!(sender.join().unwrap(), Ok(1));
    });
    assert_eq!(connection.fd(), 7);
    flush(&connection);
    end.wait();
}
