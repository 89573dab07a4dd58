//! Property tests of a connection that several processes share, and of their deaths.

use std::sync::Arc;

use proptest::prelude::*;

use super::shared_testing::{Step, dies, run};
use super::testing::{Setup, flags};
use super::*;
use crate::aead::Cipher;
use crate::error::Error;
use crate::record::Version;
use rustix::io::Errno;

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1usize..200, 1usize..20_000, Just(16384), Just(50_000)];
    prop_oneof![
        6 => (len, any::<bool>()).prop_map(|(len, more)| Step::Send { len, more }),
        1 => (1usize..300).prop_map(|len| Step::Control { len }),
        1 => (1usize..50_000, any::<bool>()).prop_map(|(count, more)| Step::File { count, more }),
        2 => Just(Step::Fork),
        1 => Just(Step::Close),
        4 => prop_oneof![1usize..100, 1usize..40_000, Just(1 << 20)].prop_map(Step::Room),
        1 => Just(Step::Rekey),
        1 => prop_oneof![64usize..16384, Just(16384)].prop_map(Step::MaxPayload),
        1 => Just(Step::Interrupt),
        1 => Just(Step::Flush),
        1 => Just(Step::Push),
        1 => prop_oneof![Just(0), 1usize..20_000].prop_map(Step::Die),
        1 => Just(Step::DieSealing),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// MT-5 to MT-8, TX-56, RK-2: whichever process sends, what is accepted arrives, in order, in
    /// records of one sequence of numbers.
    #[test]
    fn processes_share_one_stream(
        engine in prop_oneof![Just(Kind::Inline), Just(Kind::Threads), Just(Kind::Auto)],
        version in prop_oneof![Just(Version::Tls12), Just(Version::Tls13)],
        cipher in prop_oneof![Just(Cipher::AesGcm128), Just(Cipher::ChaCha20Poly1305),
                              Just(Cipher::AesCcm128)],
        blocking in any::<bool>(),
        steps in prop::collection::vec((0usize..8, step()), 1..60),
    ) {
        run(engine, version, cipher, blocking, &steps);
    }
}

fn shared_pair() -> (Setup, Arc<Connection>) {
    let setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, false);
    setup.connection.before_fork().unwrap();
    let child = setup
        .connection
        .in_child(setup.connection.shared.clone(), Arc::default());
    (setup, child.unwrap())
}

/// MT-8, design rule 1: the record that a process was sealing when it died is sealed by the next
/// one, with its own number and its own bytes.
#[test]
fn a_record_is_finished_for_a_dead_process() {
    let (setup, child) = shared_pair();
    setup.give_room(1 << 20);
    let more = SendFlags {
        more: true,
        ..flags()
    };
    assert_eq!(child.send_bytes(&[b"a"], None, more), Ok(1));
    dies(&child, |locked| locked.die_sealing());
    assert_eq!(setup.connection.send_bytes(&[b"b"], None, flags()), Ok(1));
    let records = setup.finish();
    assert_eq!(records, [(23, b"a".to_vec()), (23, b"b".to_vec())]);
}

/// MT-7: the pending error is everybody's.
#[test]
fn the_sticky_error_is_shared() {
    let (setup, child) = shared_pair();
    setup.sys.socket().dead = Some(Errno::CONNRESET);
    let reset = Err(Error::Os(Errno::CONNRESET));
    assert_eq!(child.send_bytes(&[b"x"], None, flags()), reset);
    assert_eq!(setup.connection.send_bytes(&[b"x"], None, flags()), reset);
    assert_eq!(child.pending(), 0);
    assert_eq!(setup.connection.take_error(), Some(Errno::CONNRESET));
    let gone = child.send_bytes(&[b"x"], None, flags());
    assert_eq!(gone, Err(Error::BrokenPipe));
}

/// MT-6: a process that closes its descriptor while others send breaks nothing for them, and a call of
/// its own that comes too late leaves nothing in the queue.
#[test]
fn a_closed_descriptor_is_one_processes_own() {
    let (setup, child) = shared_pair();
    setup.give_room(1 << 20);
    let rest = child.at_rest().unwrap();
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| child.send_bytes(&[b"x"], None, flags()));
        // The call waits, or will: either way it must find the descriptor gone.
        rest.close();
        late.join().unwrap()
    });
    assert_eq!(late, Err(Error::Closed));
    assert_eq!(setup.connection.send_bytes(&[b"y"], None, flags()), Ok(1));
    assert_eq!(setup.finish(), [(23, b"y".to_vec())]);
}

/// MT-7: what the number of one process comes to is not everybody's error.
#[test]
fn a_wrong_number_breaks_nothing_for_others() {
    let (setup, child) = shared_pair();
    assert_eq!(
        setup.connection.send_bytes(&[b"queued"], None, flags()),
        Ok(6)
    );
    setup.sys.socket().dead = Some(Errno::BADF);
    assert_eq!(child.pending(), 6);
    child.push();
    setup.sys.socket().dead = None;
    setup.give_room(1 << 20);
    setup.connection.push();
    assert_eq!(setup.finish(), [(23, b"queued".to_vec())]);
}

/// MT-6, TX-56: an open record survives the close of one process and goes out with the last.
#[test]
fn the_last_close_seals_the_open_record() {
    let (setup, child) = shared_pair();
    setup.give_room(1 << 20);
    let more = SendFlags {
        more: true,
        ..flags()
    };
    assert_eq!(setup.connection.send_bytes(&[b"open "], None, more), Ok(5));
    assert_eq!(child.send_bytes(&[b"record"], None, more), Ok(6));
    assert_eq!(
        setup.connection.close(false, || Err(Errno::MFILE)),
        Ok(true)
    );
    assert!(setup.sys.socket().wire.is_empty());
    assert_eq!(child.pending(), 11);
    assert_eq!(child.close(false, || Err(Errno::MFILE)), Ok(true));
    assert_eq!(setup.sys.socket().wire.len(), 11 + 22);
}

/// TX-54: the end of the stream is for all, and comes behind what was accepted.
#[test]
fn a_shutdown_counts_for_every_process() {
    let (setup, child) = shared_pair();
    assert!(child.shutdown_write().is_ok());
    let refused = setup.connection.send_bytes(&[b"x"], None, flags());
    assert_eq!(refused, Err(Error::BrokenPipe));
}

/// Design rule 1: keys that were in force before the fork are refused after it, by whichever process.
#[test]
fn keys_are_taken_once_across_a_fork() {
    let keys = |seed| {
        let info = crate::testing::crypto_info(Version::Tls13, Cipher::AesGcm128, seed);
        move || crate::crypto_info::CryptoInfo::parse(&info)
    };
    let setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, false);
    setup.connection.rekey(keys(77)).unwrap();
    setup.connection.rekey(keys(78)).unwrap();
    setup.connection.before_fork().unwrap();
    let shared = setup.connection.shared.clone();
    let child = setup.connection.in_child(shared, Arc::default()).unwrap();
    assert_eq!(child.rekey(keys(77)), Err(Error::Invalid));
    assert_eq!(setup.connection.rekey(keys(77)), Err(Error::Invalid));
    assert_eq!(child.rekey(keys(79)), Ok(()));
    assert_eq!(setup.connection.rekey(keys(78)), Err(Error::Invalid));
    assert_eq!(setup.connection.rekey(keys(79)), Ok(()));
}
