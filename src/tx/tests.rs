//! Property tests of the model in `testing`, and sequences with a known outcome.

use proptest::prelude::*;
use rustix::io::Errno;

use super::testing::{Setup, Step, flags, run};
use super::*;
use crate::aead::{Cipher, RecordOpener};
use crate::crypto_info::CryptoInfo;
use crate::error::Error;
use crate::record::Version;
use crate::testing::crypto_info as info;

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![
        1usize..200,
        1usize..20_000,
        Just(16384),
        Just(16385),
        Just(50_000)
    ];
    let pages = prop_oneof![1usize..9000, Just(16384), Just(40_000)];
    prop_oneof![
        6 => (len, 1usize..4, any::<bool>())
            .prop_map(|(len, pieces, more)| Step::Send { len, pieces, more }),
        1 => (prop_oneof![Just(21u8), Just(22), Just(23)], 1usize..300)
            .prop_map(|(kind, len)| Step::Control { kind, len }),
        1 => (1usize..50_000).prop_map(|count| Step::File { count }),
        1 => (pages, any::<bool>()).prop_map(|(len, more)| Step::Pages { len, more }),
        3 => prop_oneof![1usize..100, 1usize..40_000, Just(1 << 20)].prop_map(Step::Room),
        1 => Just(Step::Interrupt),
        1 => Just(Step::Look),
        1 => Just(Step::Flush),
        1 => prop_oneof![64usize..16384, Just(16384)].prop_map(Step::MaxPayload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// TX-7 to TX-9, TX-20, TX-24, TX-27 to TX-29, AS-3, AS-4, AS-7, AS-8: every sequence of sends
    /// arrives as it was accepted, in records with strictly increasing numbers, a partly taken
    /// record before anything else.
    #[test]
    fn what_is_accepted_arrives(
        engine in prop_oneof![Just(Kind::Inline), Just(Kind::Threads), Just(Kind::Auto)],
        version in prop_oneof![Just(Version::Tls12), Just(Version::Tls13)],
        cipher in prop_oneof![Just(Cipher::AesGcm128), Just(Cipher::AesGcm256),
                              Just(Cipher::ChaCha20Poly1305), Just(Cipher::AesCcm128)],
        blocking in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        run(engine, version, cipher, blocking, &steps);
    }
}

/// RK-2 to RK-5: records before the change open with the old keys, those after it with the new, and
/// the open record goes with the new.
#[test]
fn a_rekey_separates_records() {
    for engine in [Kind::Inline, Kind::Threads] {
        let mut setup = Setup::new(engine, Version::Tls13, Cipher::AesGcm128, true);
        let big = vec![1u8; 40_000];
        setup.connection.send_bytes(&[&big], None, flags()).unwrap();
        let more = SendFlags {
            more: true,
            ..flags()
        };
        setup.connection.send_bytes(&[b"open"], None, more).unwrap();
        let new = info(Version::Tls13, Cipher::AesGcm128, 9);
        setup.connection.rekey(|| CryptoInfo::parse(&new)).unwrap();
        let keys = CryptoInfo::parse(&new).unwrap();
        let opener = RecordOpener::new(&keys, Choice::Auto).unwrap();
        setup.openers.push((opener, keys.numbers().peek(), 3));
        setup
            .connection
            .send_bytes(&[b" record"], None, flags())
            .unwrap();
        let wrong = info(Version::Tls13, Cipher::AesGcm256, 9);
        let refused = setup.connection.rekey(|| CryptoInfo::parse(&wrong));
        assert_eq!(refused, Err(Error::Invalid), "RK-1");
        let mut out = new.clone();
        setup.connection.crypto_info(&mut out).unwrap();
        assert_eq!(out.last(), Some(&10), "CI-12");
        let records = setup.finish();
        assert_eq!(records.last(), Some(&(23, b"open record".to_vec())));
        assert_eq!(records.len(), 4);
    }
}

/// CI-7, design rule 1: keys that have sealed are not taken again from a number that is spent, nor
/// after others.
#[test]
fn a_rekey_repeats_no_nonce() {
    let setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, false);
    let again = |info: &[u8]| setup.connection.rekey(|| CryptoInfo::parse(info));
    let first = setup.info.clone();
    assert_eq!(again(&first), Ok(()), "none of them is spent");
    setup.give_room(1 << 20);
    setup.connection.send_bytes(&[b"x"], None, flags()).unwrap();
    assert_eq!(again(&first), Err(Error::Invalid));
    let mut later = first.clone();
    *later.last_mut().unwrap() = 1;
    assert_eq!(again(&later), Ok(()));
    later[4] ^= 1;
    assert_eq!(again(&later), Err(Error::Invalid), "another IV");
    assert_eq!(again(&info(Version::Tls13, Cipher::AesGcm128, 9)), Ok(()));
    assert_eq!(again(&first), Err(Error::Invalid), "keys from before");
}

/// CI-3: TLS 1.2 keys are set once, whatever the new struct looks like.
#[test]
fn tls12_keys_are_not_replaced() {
    let setup = Setup::new(Kind::Inline, Version::Tls12, Cipher::AesGcm128, true);
    let refused = setup.connection.rekey(|| panic!("not looked at"));
    assert_eq!(refused, Err(Error::KeysPresent));
}

/// TX-34: the error of a deferred transmission is sticky, and nothing follows it.
#[test]
fn a_dead_connection_says_so_every_time() {
    let setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, false);
    setup.sys.socket().dead = Some(Errno::CONNRESET);
    let reset = Err(Error::Os(Errno::CONNRESET));
    for _ in 0..3 {
        assert_eq!(setup.connection.send_bytes(&[b"x"], None, flags()), reset);
    }
    assert_eq!(
        setup.connection.send_bytes(&[], None, flags()),
        Ok(0),
        "TX-11"
    );
    assert_eq!(setup.connection.take_error(), Some(Errno::CONNRESET));
    assert_eq!(
        setup.connection.send_bytes(&[b"x"], None, flags()),
        Err(Error::BrokenPipe),
        "TX-38"
    );
}

/// REC-13: the last number is refused for good; what was sealed before it still goes out.
#[test]
fn numbers_run_out() {
    let mut setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, false);
    let at = setup.info.len() - 8;
    setup.info[at..].copy_from_slice(&(u64::MAX - 2).to_be_bytes());
    let keys = CryptoInfo::parse(&setup.info).unwrap();
    let opener = RecordOpener::new(&keys, Choice::Auto).unwrap();
    setup.openers = vec![(opener, keys.numbers().peek(), 0)];
    setup.connection.rekey(|| Ok(keys)).unwrap();
    setup.give_room(1 << 20);
    assert_eq!(setup.connection.send_bytes(&[b"a"], None, flags()), Ok(1));
    assert_eq!(setup.connection.send_bytes(&[b"b"], None, flags()), Ok(1));
    for _ in 0..2 {
        assert_eq!(
            setup.connection.send_bytes(&[b"c"], None, flags()),
            Err(Error::SealFailed)
        );
        assert_eq!(
            setup.connection.take_error(),
            Some(Errno::BADMSG),
            "not forgiven"
        );
    }
    assert_eq!(setup.connection.pending(), 0);
    let wire = setup.sys.socket().wire.len();
    assert_eq!(wire, 2 * (1 + 22));
}

/// CI-19, CI-21: the limit of a record's plaintext holds for sends, control records and files, and
/// is not changed under an open record.
#[test]
fn the_largest_payload_can_be_lowered() {
    for engine in [Kind::Inline, Kind::Threads] {
        let setup = Setup::new(engine, Version::Tls13, Cipher::AesGcm128, true);
        let connection = &setup.connection;
        let more = SendFlags {
            more: true,
            ..flags()
        };
        connection.send_bytes(&[b"open"], None, more).unwrap();
        assert_eq!(connection.set_max_payload(1000), Err(Error::KeysPresent));
        connection.send_bytes(&[b"!"], None, flags()).unwrap();
        connection.set_max_payload(1000).unwrap();
        assert_eq!(connection.info().unwrap().max_payload, 1000);
        let data = vec![1u8; 2500];
        assert_eq!(connection.send_bytes(&[&data], None, flags()), Ok(2500));
        assert_eq!(connection.send_bytes(&[&data], Some(22), flags()), Ok(2500));
        let source = FileSource {
            fd: 0,
            offset: Some(0),
            count: 1500,
            no_wait: false,
            pipe: false,
            is_odd: false,
        };
        assert_eq!(connection.send_file(source, flags()), Ok(1500));
        let records = setup.finish();
        let layout: Vec<_> = records
            .iter()
            .map(|(kind, data)| (*kind, data.len()))
            .collect();
        let expected = [
            (23, 5),
            (23, 1000),
            (23, 1000),
            (23, 500),
            (22, 1000),
            (22, 1000),
            (22, 500),
            (23, 1000),
            (23, 500),
        ];
        assert_eq!(layout, expected);
    }
}

/// A program that has always sent a head and a body has both in one system call; a head without its
/// body does not stay.
#[test]
fn a_head_goes_out_with_its_body() {
    let file = FileSource {
        fd: 0,
        offset: Some(0),
        count: 10_000,
        no_wait: false,
        pipe: false,
        is_odd: false,
    };
    for engine in [Kind::Inline, Kind::Threads, Kind::Auto] {
        for body in [true, false] {
            let setup = Setup::new(engine, Version::Tls13, Cipher::AesGcm128, false);
            setup.give_room(1 << 20);
            let connection = &setup.connection;
            connection.private().unwrap().pace = Pace::after_answers_of(2);
            assert_eq!(connection.send_bytes(&[b"head"], None, flags()), Ok(4));
            assert_eq!(setup.sys.socket().wire.len(), 0);
            assert!(connection.waits_briefly());
            let patience = setup.sys.socket().patience;
            if body {
                assert_eq!(connection.send_file(file, flags()), Ok(10_000));
                connection.flush(None).unwrap();
                if engine == Kind::Inline {
                    assert_eq!(patience - setup.sys.socket().patience, 1);
                }
            } else {
                let mut calls = 0;
                assert_eq!(connection.look(&mut calls, false), Look::Again);
                assert_eq!(
                    setup.sys.socket().wire.len(),
                    0,
                    "there may still be a body"
                );
                assert_eq!(connection.look(&mut calls, false), Look::Again);
            }
            assert!(setup.sys.socket().wire.len() > 4);
            let records = setup.finish();
            assert_eq!(records[0], (23, b"head".to_vec()));
            assert_eq!(records.len(), 1 + usize::from(body));
        }
    }
}

/// AS-3, AS-4: a long stream of which another thread transmits a part is whole and in order, whether the kernel
/// always has room, or now and then none.
#[test]
fn a_relayed_stream_is_whole() {
    for (blocking, room) in [
        (true, usize::MAX),
        (true, 3 << 20),
        (false, usize::MAX),
        (false, 1 << 20),
    ] {
        let setup = Setup::new(Kind::Auto, Version::Tls13, Cipher::AesGcm128, blocking);
        setup.give_room(room);
        let mut expected = Vec::new();
        for message in 0..100usize {
            let data = vec![message as u8; 60_000 + message * 1001];
            let mut sent = setup.connection.send_bytes(&[&data], None, flags());
            while sent == Err(Error::WouldBlock) {
                setup.give_room(1 << 20);
                sent = setup.connection.send_bytes(&[&data], None, flags());
            }
            // A part of it, where the kernel had no room for more.
            expected.extend_from_slice(&data[..sent.unwrap()]);
        }
        let sys = setup.sys;
        flush_all(&setup);
        let senders = sys.socket().senders.len();
        let arrived: Vec<u8> = setup.finish().into_iter().flat_map(|it| it.1).collect();
        assert!(arrived == expected, "blocking {blocking}, room {room}");
        assert!(
            senders > 1,
            "blocking {blocking}, room {room}: nothing was relayed"
        );
    }
}

/// What is left, so that every sender is known.
fn flush_all(setup: &Setup) {
    setup.give_room(usize::MAX);
    super::testing::flush(&setup.connection);
}

/// AS-9: what was deferred is transmitted when it has waited long enough, although the program goes on calling.
#[test]
fn what_is_overdue_goes_out() {
    let setup = Setup::new(Kind::Inline, Version::Tls13, Cipher::AesGcm128, false);
    let connection = &setup.connection;
    let sent = connection.send_bytes(&[b"x"], None, flags());
    assert_eq!(sent, Ok(1), "there is no room, and a queue");
    setup.sys.socket().room = 1 << 20;
    connection.defer(false);
    let wire = || setup.sys.socket().wire.len();
    let calls = connection.calls.load(Ordering::Relaxed);
    let busy = || calls.wrapping_sub(1);
    assert_eq!(connection.look(&mut busy(), false), Look::Again);
    assert_eq!(wire(), 0, "it has just called");
    assert_eq!(connection.look(&mut busy(), true), Look::Again);
    assert_eq!(wire(), 1 + 22);
    connection.defer(false);
    assert_eq!(connection.look(&mut { calls }, false), Look::Again);
}
