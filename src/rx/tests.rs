//! Property tests of the model in `testing`, and sequences with a known outcome.

use proptest::prelude::*;
use rustix::io::Errno;

use super::testing::{Peer, Step, receive, run, setup};
use super::*;
use crate::error::Error;
use crate::testing::crypto_info as info;
use core::result::Result;

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(0usize), 1usize..100, 1usize..5000, Just(16384)];
    let asked = prop_oneof![1usize..50, 1usize..20_000, Just(16384), Just(70_000)];
    let kind = prop_oneof![6 => Just(23u8), 1 => Just(21u8), 1 => Just(22)];
    let flag = any::<bool>;
    let request = (flag(), prop::bool::weighted(0.1), flag(), flag()).prop_map(
        |(peek, wait_all, dont_wait, can_tell)| Request {
            peek,
            wait_all,
            dont_wait,
            can_tell,
        },
    );
    prop_oneof![
        20 => (kind, len.clone(), 0usize..200).prop_map(|(kind, len, padding)| Step::Send {
            kind, len, padding: padding.saturating_sub(150)
        }),
        20 => prop_oneof![1usize..30, 1usize..20_000, Just(1usize << 20)].prop_map(Step::Arrive),
        24 => (asked.clone(), 1usize..4, request)
            .prop_map(|(len, pieces, request)| Step::Receive { len, pieces, request }),
        4 => (asked, flag()).prop_map(|(len, dont_wait)| Step::Splice { len, dont_wait }),
        4 => Just(Step::Rekey),
        1 => flag().prop_map(|announced| Step::Update { announced }),
        1 => Just(Step::Keys),
        1 => Just(Step::BadKeys),
        4 => Just(Step::Poll),
        1 => (len, any::<usize>(), any::<u8>())
            .prop_map(|(len, at, mask)| Step::Spoiled { len, at, mask }),
        1 => Just(Step::Eof),
        1 => Just(Step::Interrupt),
        1 => (flag(), flag()).prop_map(|(blocking, timed)| Step::Blocking { blocking, timed }),
        1 => (0usize..20_000).prop_map(Step::LowWater),
        2 => (0usize..20_000).prop_map(Step::PipeRoom),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// RX-8 to RX-12, RX-15, RX-31, RX-36 to RX-49, RK-6 to RK-11, REC-9.
    #[test]
    fn what_was_sent_is_delivered(
        version in prop_oneof![Just(Version::Tls12), Just(Version::Tls13)],
        cipher in prop_oneof![Just(Cipher::AesGcm128), Just(Cipher::ChaCha20Poly1305),
                              Just(Cipher::AesCcm128)],
        room in prop_oneof![3 => Just(0usize), 1 => Just(2304), 1 => Just(8192)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(version, cipher, room, &steps);
    }
}

fn tls13() -> Vec<u8> {
    info(Version::Tls13, Cipher::AesGcm128, 0)
}

fn asks() -> Request {
    Request {
        can_tell: true,
        ..Request::default()
    }
}

/// RX-40: the sequences of empty and non-empty records.
#[test]
fn empty_records() {
    type Expected = &'static [Result<(usize, u8), Error>];
    const AGAIN: Result<(usize, u8), Error> = Err(Error::WouldBlock);
    let rows: [(&str, Expected); 8] = [
        ("DDD", &[Ok((33, 23)), AGAIN]),
        ("DcD", &[Ok((11, 23)), Ok((0, 21)), Ok((11, 23)), AGAIN]),
        ("ddd", &[AGAIN]),
        ("ddC", &[Ok((0, 23)), Ok((11, 21)), AGAIN]),
        ("ddc", &[Ok((0, 23)), Ok((0, 21)), AGAIN]),
        ("ccc", &[Ok((0, 21)), Ok((0, 21)), Ok((0, 21)), AGAIN]),
        ("ddD", &[Ok((11, 23)), AGAIN]),
        ("Ddd", &[Ok((11, 23)), AGAIN]),
    ];
    for (records, expected) in rows {
        for version in [Version::Tls12, Version::Tls13] {
            let info = info(version, Cipher::AesGcm128, 0);
            let (sys, receiver) = setup(&info);
            let mut peer = Peer::new(&info);
            for letter in records.chars() {
                let kind = if letter.eq_ignore_ascii_case(&'d') {
                    23
                } else {
                    21
                };
                let content: &[u8] = if letter.is_uppercase() {
                    b"hello world"
                } else {
                    b""
                };
                peer.send(sys, kind, content, 0);
            }
            sys.socket().arrive(usize::MAX);
            for expected in expected {
                let (result, _, received) = receive(sys, &receiver, 100, 1, asks());
                let found = result.map(|len| (len, received.content_type.unwrap()));
                assert_eq!(found, *expected, "{records} {version:?}");
            }
        }
    }
}

/// RX-3, RX-4: which header is refused how; once, then EAGAIN for who does not wait, and again for
/// who would wait for ever. Sends are refused meanwhile (TX-35).
#[test]
fn bad_headers() {
    for (header, errno) in [
        ([23, 3, 3, 0xff, 0xff], Errno::MSGSIZE),
        ([23, 3, 3, 0, 15], Errno::BADMSG),
        ([23, 3, 1, 0, 40], Errno::INVAL),
        ([23, 9, 9, 0xff, 0xff], Errno::MSGSIZE),
        ([20, 3, 3, 0, 1], Errno::BADMSG),
    ] {
        let (sys, receiver) = setup(&tls13());
        let mut peer = Peer::new(&tls13());
        peer.send(sys, 23, b"good", 0);
        sys.socket().arriving.extend(header.iter().chain(&[7; 60]));
        sys.socket().arrive(usize::MAX);
        // RX-21: what is good comes first.
        assert_eq!(receive(sys, &receiver, 100, 1, asks()).1, b"good");
        let refused = Err(Error::from(errno));
        assert_eq!(
            receive(sys, &receiver, 100, 1, asks()).0,
            refused,
            "{header:x?}"
        );
        assert_eq!(
            receive(sys, &receiver, 100, 1, asks()).0,
            Err(Error::WouldBlock)
        );
        assert!(!sys.socket().readable(), "nobody is woken for it again");
        sys.socket().blocking = true;
        assert_eq!(receive(sys, &receiver, 100, 1, asks()).0, refused, "LIM-7");
        sys.socket().blocking = false;
        sys.socket().eof = true;
        // RX-23: an error of the connection comes before its end.
        sys.socket().error = Some(Errno::CONNRESET);
        let reset = Err(Error::from(Errno::CONNRESET));
        assert_eq!(receive(sys, &receiver, 100, 1, asks()).0, reset);
        assert_eq!(receive(sys, &receiver, 100, 1, asks()).0, Ok(0), "RX-4");
    }
}

/// RX-47: what was peeked at is announced, also when what comes behind it has been refused and told.
#[test]
fn peeked_data_before_a_bad_header_is_readable() {
    let (sys, receiver) = setup(&tls13());
    let mut peer = Peer::new(&tls13());
    peer.send(sys, 23, b"good", 0);
    sys.socket().arriving.extend([23, 9, 9, 0, 40]);
    sys.socket().arrive(usize::MAX);
    let peek = Request {
        peek: true,
        wait_all: true,
        ..asks()
    };
    assert_eq!(receive(sys, &receiver, 100, 1, peek).1, b"good");
    // As SO_ERROR does, after which a poll finds the stop told.
    receiver.pending.take();
    assert!(receiver.readiness().readable);
    assert!(sys.socket().readable(), "nobody is woken");
    assert_eq!(receive(sys, &receiver, 100, 1, asks()).1, b"good");
    assert!(!receiver.readiness().readable);
    assert!(!sys.socket().readable(), "nobody is woken for it again");
}

/// RX-20: a record that is not authentic fails every time, and keeps the socket readable.
#[test]
fn bad_records_stay() {
    for version in [Version::Tls12, Version::Tls13] {
        let info = info(version, Cipher::AesGcm128, 0);
        let (sys, receiver) = setup(&info);
        let mut peer = Peer::new(&info);
        let mut wire = peer.record(23, b"spoiled", 0);
        *wire.last_mut().unwrap() ^= 1;
        sys.socket().arriving.extend(wire);
        sys.socket().arrive(usize::MAX);
        let before = STATS.decrypt_error.get();
        for _ in 0..3 {
            let (result, bytes, _) = receive(sys, &receiver, 100, 1, asks());
            assert_eq!((result, bytes), (Err(Error::SealFailed), Vec::new()));
            assert!(sys.socket().readable());
            assert!(receiver.readiness().error, "RX-51");
        }
        assert_eq!(receiver.splice(1, 10, true), Err(Error::SealFailed));
        assert!(STATS.decrypt_error.get() >= before + 4, "ST-3");
        assert_eq!(receiver.info().unwrap().number.rec_seq, 0, "not counted");
    }
}

/// RX-25: the end inside a record looks like the end. RX-24: after a reset, what is complete, then
/// the error, then the end.
#[test]
fn ends_of_the_stream() {
    let (sys, receiver) = setup(&tls13());
    let mut peer = Peer::new(&tls13());
    peer.send(sys, 23, b"whole", 0);
    let part = peer.record(23, b"not whole", 0);
    sys.socket().arriving.extend(&part[..part.len() - 1]);
    sys.socket().arrive(usize::MAX);
    sys.socket().eof = true;
    assert_eq!(receive(sys, &receiver, 100, 1, asks()).1, b"whole");
    for blocking in [false, true, false] {
        sys.socket().blocking = blocking;
        assert_eq!(receive(sys, &receiver, 100, 1, asks()).0, Ok(0));
    }

    let (sys, receiver) = setup(&tls13());
    Peer::new(&tls13()).send(sys, 23, b"whole", 0);
    sys.socket().arrive(usize::MAX);
    sys.socket().error = Some(Errno::CONNRESET);
    assert_eq!(receive(sys, &receiver, 100, 1, asks()).1, b"whole");
    let reset = Err(Error::Os(Errno::CONNRESET));
    assert_eq!(receive(sys, &receiver, 100, 1, asks()).0, reset);
    sys.socket().eof = true;
    assert_eq!(receive(sys, &receiver, 100, 1, asks()).0, Ok(0));
}

/// REC-14: the record with the last number is delivered, and no other.
#[test]
fn numbers_run_out() {
    let mut info = tls13();
    let at = info.len() - 8;
    info[at..].copy_from_slice(&(u64::MAX - 1).to_be_bytes());
    let (sys, receiver) = setup(&info);
    let mut peer = Peer::new(&info);
    peer.send(sys, 23, b"last but one", 0);
    // The sender's own numbers end one earlier (REC-13), so the last is sealed as if by the kernel.
    let mut last = vec![0; 4 + peer.sealer.overhead()];
    let number = RecordNumber {
        rec_seq: u64::MAX,
        nonce_explicit: 0,
    };
    peer.sealer
        .seal_from(number, 23, b"last", &mut last)
        .unwrap();
    sys.socket().arriving.extend(last);
    sys.socket()
        .arriving
        .extend([23, 3, 3, 0, 17].iter().chain(&[0; 17]));
    sys.socket().arrive(usize::MAX);
    assert_eq!(
        receive(sys, &receiver, 100, 1, asks()).1,
        b"last but onelast"
    );
    assert_eq!(
        receive(sys, &receiver, 100, 1, asks()).0,
        Err(Error::Os(Errno::BADMSG))
    );
    assert_eq!(
        receive(sys, &receiver, 100, 1, asks()).0,
        Err(Error::WouldBlock)
    );
}

/// RX-30: MSG_WAITALL waits for all, and ends early at another type.
#[test]
fn wait_all() {
    let (sys, receiver) = setup(&tls13());
    sys.socket().blocking = true;
    let mut peer = Peer::new(&tls13());
    for piece in [&b"one"[..], b"two", b"three"] {
        peer.send(sys, 23, piece, 0);
    }
    peer.send(sys, 21, &[1, 0], 0);
    let all = Request {
        wait_all: true,
        ..asks()
    };
    assert_eq!(receive(sys, &receiver, 7, 2, all).1, b"onetwot");
    assert_eq!(receive(sys, &receiver, 100, 1, all).1, b"hree");
    assert_eq!(
        receive(sys, &receiver, 100, 1, all).2.content_type,
        Some(21)
    );
}

/// RX-6, RX-49: of a record that had to be taken out of a small receive buffer only a few bytes may
/// be left in the socket; they keep it readable until all of the record is read.
#[test]
fn the_rest_of_a_taken_record_is_readable() {
    const ROOM: usize = 2304;
    let (sys, receiver) = setup(&tls13());
    sys.socket().room = ROOM;
    let mut peer = Peer::new(&tls13());
    let content = vec![7; 3 * ROOM + 5 - peer.sealer.overhead()];
    peer.send(sys, 23, &content, 0);
    for _ in 0..3 {
        sys.socket().arrive(usize::MAX);
        let (result, ..) = receive(sys, &receiver, 100, 1, asks());
        assert_eq!(result, Err(Error::WouldBlock));
    }
    sys.socket().arrive(usize::MAX);
    let mut left = content.len();
    while left > 0 {
        assert!(sys.socket().readable(), "{left} bytes are left");
        left -= receive(sys, &receiver, 100, 1, asks()).0.unwrap();
    }
    assert!(!sys.socket().readable());
}
