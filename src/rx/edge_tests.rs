//! RX-53 for a program on edge-triggered epoll that takes a short count or EAGAIN for "drained": what stands behind it is told
//! by one edge, and what has no room to come is made room for.

use super::testing::{Peer, receive, setup};
use super::*;
use crate::error::Error;
use crate::testing::crypto_info;

const ASKS: Request = Request {
    peek: false,
    wait_all: false,
    dont_wait: true,
    can_tell: true,
};

/// What stands behind the first record.
enum Next {
    Record(u8),
    Spoiled,
    NoRecord,
}

fn put(sys: &testing::FakeSys, peer: &mut Peer, next: &Next) {
    let mut wire = peer.record(
        if let Next::Record(kind) = *next {
            kind
        } else {
            23
        },
        b"next",
        0,
    );
    match next {
        Next::Record(_) => {}
        Next::Spoiled => *wire.last_mut().unwrap() ^= 1,
        Next::NoRecord => wire[1] = 9,
    }
    sys.socket().arriving.extend(wire);
}

/// A control record behind data, data and another one behind a control record, and what cannot be opened.
#[test]
fn one_edge_for_the_next_record() {
    for (first, next) in [
        (23, Next::Record(22)),
        (22, Next::Record(23)),
        (21, Next::Record(22)),
        (23, Next::Spoiled),
        (23, Next::NoRecord),
    ] {
        for version in [Version::Tls12, Version::Tls13] {
            let info = crypto_info(version, Cipher::AesGcm128, 0);
            let (sys, receiver) = setup(&info);
            let mut peer = Peer::new(&info);
            peer.send(sys, first, b"first", 0);
            put(sys, &mut peer, &next);
            sys.socket().arrive(usize::MAX);
            let edges = sys.socket().edges;
            assert_eq!(receive(sys, &receiver, 100, 1, ASKS).1, b"first");
            assert_eq!(sys.socket().edges, edges + 1, "{first} {version:?}");
            assert!(sys.socket().readable());
            let (result, ..) = receive(sys, &receiver, 100, 1, ASKS);
            assert_eq!(result.is_ok(), matches!(next, Next::Record(_)));
            let _ = receive(sys, &receiver, 100, 1, ASKS);
            assert_eq!(sys.socket().edges, edges + 1, "nothing has come since");
        }
    }
}

/// A program that could not take the record asks again with more room; it is not called for that.
#[test]
fn no_edge_without_progress() {
    let info = crypto_info(Version::Tls13, Cipher::AesGcm128, 0);
    let (sys, receiver) = setup(&info);
    let mut peer = Peer::new(&info);
    peer.send(sys, 22, b"control", 0);
    peer.send(sys, 23, b"more data", 0);
    sys.socket().arrive(usize::MAX);
    let edges = sys.socket().edges;
    for peek in [false, true, false] {
        let request = Request {
            can_tell: false,
            peek,
            ..ASKS
        };
        let (result, ..) = receive(sys, &receiver, 100, 1, request);
        assert_eq!(result, Err(Error::ControlRecord));
    }
    assert_eq!(receive(sys, &receiver, 3, 1, ASKS).1, b"con");
    assert_eq!(sys.socket().edges, edges, "a part of a record");
    assert_eq!(receive(sys, &receiver, 100, 1, ASKS).1, b"trol");
    assert_eq!(sys.socket().edges, edges + 1);
}

#[test]
fn one_edge_for_each_record_of_a_splice() {
    let info = crypto_info(Version::Tls13, Cipher::AesGcm128, 0);
    let (sys, receiver) = setup(&info);
    let mut peer = Peer::new(&info);
    for _ in 0..3 {
        peer.send(sys, 23, b"spliced", 0);
    }
    sys.socket().arrive(usize::MAX);
    sys.socket().pipe_room = 1000;
    let edges = sys.socket().edges;
    assert_eq!(receiver.splice(1, 4, true), Ok(4));
    assert_eq!(sys.socket().edges, edges, "RX-53: a part of a record");
    for after in [1, 2, 2] {
        assert!(receiver.splice(1, 1000, true).unwrap() > 0);
        assert_eq!(sys.socket().edges, edges + after);
    }
    assert_eq!(receiver.splice(1, 1000, true), Err(Error::WouldBlock));
}

/// What was there before the keys, and before the next keys, of which nobody was told as a record.
#[test]
fn one_edge_when_keys_are_set() {
    let info = crypto_info(Version::Tls13, Cipher::AesGcm128, 0);
    let sys = testing::kernel();
    let mut peer = Peer::new(&info);
    peer.send(sys, 23, b"early", 0);
    sys.socket().arrive(usize::MAX);
    let edges = sys.socket().edges;
    let receiver = testing::receiver(sys, &info);
    assert_eq!(sys.socket().edges, edges + 1);
    assert_eq!(receive(sys, &receiver, 100, 1, ASKS).1, b"early");

    peer.send(sys, 22, &[24, 0, 0, 1, 0], 0);
    let next = crypto_info(Version::Tls13, Cipher::AesGcm128, 1);
    Peer::new(&next).send(sys, 23, b"late", 0);
    sys.socket().arrive(usize::MAX);
    let _ = receive(sys, &receiver, 100, 1, ASKS);
    let expired = Err(Error::KeyExpired);
    assert_eq!(receive(sys, &receiver, 100, 1, ASKS).0, expired);
    let edges = sys.socket().edges;
    let keys = || crate::crypto_info::CryptoInfo::parse(&next);
    receiver.rekey(keys).unwrap();
    assert!(sys.socket().edges > edges);
    assert_eq!(receive(sys, &receiver, 100, 1, ASKS).1, b"late");
}

/// RX-6: the beginning of a record, behind others that are read, in a segment whose memory it keeps: the rest has no
/// room, and nobody would be told of it. After a short count, EAGAIN, a splice, and when keys are set.
#[test]
fn a_shut_window_is_opened_by_the_call_itself() {
    const ROOM: usize = 8192;
    #[derive(Debug, PartialEq)]
    enum By {
        ShortCount,
        Again,
        Splice,
        Keys,
    }
    for by in [By::ShortCount, By::Again, By::Splice, By::Keys] {
        let info = crypto_info(Version::Tls13, Cipher::AesGcm128, 0);
        let sys = testing::kernel();
        sys.socket().room = ROOM;
        let early = (by != By::Keys).then(|| testing::receiver(sys, &info));
        let mut peer = Peer::new(&info);
        if by == By::ShortCount || by == By::Splice {
            peer.send(sys, 23, b"read", 0);
        }
        let content = vec![7; ROOM + 100];
        peer.send(sys, 23, &content, 0);
        sys.socket().arrive(usize::MAX);
        assert!(sys.socket().is_full());
        let receiver = early.unwrap_or_else(|| testing::receiver(sys, &info));
        match by {
            By::ShortCount => assert_eq!(receive(sys, &receiver, 100, 1, ASKS).1, b"read"),
            By::Again => {
                let (result, ..) = receive(sys, &receiver, 100, 1, ASKS);
                assert_eq!(result, Err(Error::WouldBlock));
            }
            By::Splice => {
                sys.socket().pipe_room = 1000;
                assert_eq!(receiver.splice(1, 1000, true), Ok(4));
            }
            By::Keys => {}
        }
        assert!(!sys.socket().is_full(), "{by:?}");
        assert!(!sys.socket().readable(), "an edge that leads to EAGAIN");
        let edges = sys.socket().edges;
        sys.socket().arrive(usize::MAX);
        assert!(sys.socket().edges > edges, "{by:?}");
        assert_eq!(
            receive(sys, &receiver, 2 * ROOM, 1, ASKS).1,
            content,
            "{by:?}"
        );
    }
}

/// A call that found another at work was told EAGAIN: what that one leaves is told once more.
#[test]
fn an_edge_for_who_was_sent_away() {
    let info = crypto_info(Version::Tls13, Cipher::AesGcm128, 0);
    let (sys, receiver) = setup(&info);
    let mut peer = Peer::new(&info);
    peer.send(sys, 23, b"for two", 0);
    sys.socket().arrive(usize::MAX);
    let turn = receiver.take_turn(&mut waiting::Patience::new(&receiver, true));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| receive(sys, &receiver, 100, 1, ASKS).0);
        assert_eq!(other.join().unwrap(), Err(Error::WouldBlock));
    });
    let edges = sys.socket().edges;
    drop(turn);
    assert_eq!(sys.socket().edges, edges + 1);
    assert_eq!(receive(sys, &receiver, 3, 1, ASKS).1, b"for");
    assert_eq!(sys.socket().edges, edges + 1, "told once");
}
