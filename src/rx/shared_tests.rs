//! Property test of a connection that several processes receive on: whoever asks, each byte is
//! delivered once, in order, with its type.

use std::sync::Arc;

use proptest::prelude::*;

use super::testing::{Peer, receive, setup};
use super::*;
use crate::error::Error;
use crate::testing::crypto_info;

#[derive(Clone, Debug)]
enum Step {
    Send { alert: bool, len: usize },
    Arrive(usize),
    Receive { who: usize, len: usize, peek: bool },
    Fork { who: usize },
    Rekey { who: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1usize..100, 1usize..5000, Just(16384)];
    prop_oneof![
        4 => (prop::bool::weighted(0.2), len).prop_map(|(alert, len)| Step::Send { alert, len }),
        4 => prop_oneof![1usize..100, 1usize..20_000, Just(1 << 20)].prop_map(Step::Arrive),
        8 => (0usize..8, prop_oneof![1usize..40, 1usize..20_000], any::<bool>())
            .prop_map(|(who, len, peek)| Step::Receive { who, len, peek }),
        1 => (0usize..8).prop_map(|who| Step::Fork { who }),
        1 => (0usize..8).prop_map(|who| Step::Rekey { who }),
    ]
}

struct World {
    version: Version,
    sys: &'static testing::FakeSys,
    peer: Peer,
    keys: u8,
    processes: Vec<Arc<Receiver>>,
    /// Type and content of what has been sent and not delivered, and where its record ends in the stream.
    due: std::collections::VecDeque<(u8, u8, usize)>,
    /// Bytes of the stream.
    end: usize,
    /// Of each process: the edges that it has been told of; whether it waits for another.
    told: Vec<(u64, bool)>,
    fill: u8,
}

impl World {
    fn new(version: Version, room: usize) -> World {
        let info = crypto_info(version, Cipher::AesGcm128, 0);
        let (sys, receiver) = setup(&info);
        sys.socket().room = room;
        World {
            version,
            sys,
            peer: Peer::new(&info),
            keys: 0,
            processes: vec![receiver],
            due: std::collections::VecDeque::new(),
            end: 0,
            told: vec![(0, true)],
            fill: 0,
        }
    }

    fn who(&self, who: usize) -> Arc<Receiver> {
        Arc::clone(&self.processes[who % self.processes.len()])
    }

    fn send(&mut self, kind: u8, len: usize) {
        self.fill = self.fill.wrapping_add(1);
        let content: Vec<u8> = (0..len).map(|i| self.fill ^ (i / 9) as u8).collect();
        self.put(kind, &content);
    }

    fn put(&mut self, kind: u8, content: &[u8]) {
        let before = self.sys.socket().arriving.len();
        self.peer.send(self.sys, kind, content, 0);
        self.end += self.sys.socket().arriving.len() - before;
        let end = self.end;
        self.due
            .extend(content.iter().map(|byte| (kind, *byte, end)));
    }

    /// RX-53: every process that waits for an edge gets one for what can be had, and for what only its next call could
    /// make room for.
    fn check_edges(&self) {
        let socket = self.sys.socket();
        let had = self
            .due
            .front()
            .is_some_and(|due| due.2 <= socket.arrived());
        let stuck = socket.is_full() && !socket.arriving.is_empty();
        for (who, &(told, waits)) in self.told.iter().enumerate() {
            let missed = waits && socket.edges <= told;
            assert!(!(missed && had), "process {who} is owed an edge");
            assert!(!(missed && stuck), "the rest of a record has no room");
        }
    }

    fn receive(&mut self, who: usize, len: usize, peek: bool) -> crate::error::Result<usize> {
        let request = Request {
            peek,
            can_tell: true,
            ..Request::default()
        };
        let edges = self.sys.socket().edges;
        let (result, bytes, told) = receive(self.sys, &self.who(who), len, 2, request);
        let waits = match result {
            Ok(got) => got < len && !peek,
            Err(error) => error == Error::WouldBlock,
        };
        let process = who % self.processes.len();
        self.told[process] = (edges, waits);
        for (at, byte) in bytes.iter().enumerate() {
            let due = self.due.get(at).copied();
            let due = due.map(|(kind, byte, _)| (kind, byte));
            assert_eq!(due, Some((told.content_type.expect("of something"), *byte)));
        }
        if !peek {
            self.due.drain(..bytes.len());
        }
        result
    }

    /// All that is on its way arrives and is received, by one process after the other.
    fn finish(&mut self) {
        self.sys.socket().blocking = true;
        for turn in 0.. {
            if self.due.is_empty() {
                break;
            }
            self.receive(turn, 3000, false).expect("it comes");
        }
        self.sys.socket().blocking = false;
    }

    /// The peer changes its keys; one process reads the message, one sets the new ones.
    fn rekey(&mut self, who: usize) {
        self.finish();
        self.put(22, &[24, 0, 0, 1, 0]);
        self.finish();
        for process in 0..self.processes.len() {
            assert_eq!(
                self.receive(process, 10, false),
                Err(Error::KeyExpired),
                "RK-8"
            );
        }
        self.keys = self.keys.wrapping_add(1);
        let info = crypto_info(self.version, Cipher::AesGcm128, self.keys);
        self.peer = Peer::new(&info);
        let keys = || crate::crypto_info::CryptoInfo::parse(&info);
        self.who(who + 1).rekey(keys).expect("well-formed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// MT-5, MT-7, RX-6, RK-7 to RK-10 between processes.
    #[test]
    fn processes_share_what_comes(
        version in prop_oneof![Just(Version::Tls12), Just(Version::Tls13)],
        room in prop_oneof![2 => Just(0usize), 1 => Just(2304)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(version, room);
        for step in &steps {
            match *step {
                Step::Send { alert, len } => world.send(if alert { 21 } else { 23 }, len),
                Step::Arrive(len) => world.sys.socket().arrive(len),
                Step::Receive { who, len, peek } => match world.receive(who, len, peek) {
                    Ok(_) | Err(Error::WouldBlock) => {}
                    Err(error) => panic!("{step:?}: {error}"),
                },
                // Refused where data that was peeked at is in one process's memory only.
                Step::Fork { who } => if world.processes.len() < 4
                    && world.who(who).before_fork().is_ok()
                {
                    let child = world.who(who).in_child(Arc::default());
                    world.processes.push(child.expect("just shared"));
                    // It has the same epoll set, or one in which the socket is new.
                    let told = world.told[who % world.told.len()];
                    world.told.push(told);
                },
                Step::Rekey { who } if version == Version::Tls13 => world.rekey(who),
                Step::Rekey { .. } => {}
            }
            world.check_edges();
        }
        world.finish();
    }
}
