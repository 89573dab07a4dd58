//! Property tests of a connection that several processes share. A process is played by a handle of
//! its own on the same shared memory, its death by the end of a thread that holds the lock.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use proptest::prelude::*;

use super::tests::{FILE_LEN, Setup, flags, info};
use super::*;
use crate::aead::RecordOpener;
use crate::crypto_info::CryptoInfo;

#[derive(Clone, Debug)]
enum Step {
    Send {
        len: usize,
        more: bool,
    },
    Control {
        len: usize,
    },
    File {
        count: usize,
        more: bool,
    },
    Fork,
    Close,
    Room(usize),
    Rekey,
    MaxPayload(usize),
    Interrupt,
    Flush,
    Push,
    /// Killed around a `sendmsg` of so many bytes, or while it seals.
    Die(usize),
    DieSealing,
}

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

/// The handles of a connection: one per process that has it, and those that linger.
struct Processes {
    setup: Setup,
    alive: Vec<Arc<Connection>>,
    lingering: Vec<Arc<Connection>>,
}

impl Processes {
    fn fork(&mut self, who: usize) {
        let parent = &self.alive[who];
        parent.before_fork().unwrap();
        let child = parent.in_child(parent.shared.clone(), Arc::default());
        self.alive.push(child.expect("just shared"));
    }

    fn close(&mut self, who: usize) {
        if self.alive.len() > 1 {
            let connection = self.alive.remove(who);
            let null = || Ok(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
            if !connection.close(null).unwrap() {
                self.lingering.push(connection);
            }
        }
    }

    fn room(&self, room: usize) {
        self.setup.sys.0.lock().unwrap().room = room;
        for connection in self.alive.iter().chain(&self.lingering) {
            connection.room();
        }
    }
}

fn run(engine: Kind, version: Version, cipher: Cipher, blocking: bool, steps: &[(usize, Step)]) {
    let setup = Setup::new(engine, version, cipher, blocking);
    let alive = vec![Arc::clone(&setup.connection)];
    let mut all = Processes {
        setup,
        alive,
        lingering: Vec::new(),
    };
    let mut expected: Vec<(u8, u8)> = Vec::new();
    let (mut fill, mut tag) = (0u8, 0u8);
    for (who, step) in steps {
        let who = who % all.alive.len();
        let connection = Arc::clone(&all.alive[who]);
        fill = fill.wrapping_add(1);
        let sent = match *step {
            Step::Send { len, more } => {
                let data: Vec<u8> = (0..len).map(|i| fill ^ (i / 7) as u8).collect();
                let flags = SendFlags { more, ..flags() };
                let (one, two) = data.split_at(len / 3);
                let sent = connection.send(&[one, two], None, flags);
                Some((23, data, sent))
            }
            Step::Control { len } => {
                let data = vec![fill; len];
                let sent = connection.send(&[&data], Some(22), flags());
                Some((22, data, sent))
            }
            Step::File { count, more } => {
                let source = FileSource {
                    fd: 0,
                    offset: Some(0),
                    count,
                    no_wait: false,
                    pipe: false,
                };
                let flags = SendFlags { more, ..flags() };
                let sent = connection.send_file(source, flags);
                Some((23, vec![b'f'; FILE_LEN], sent))
            }
            Step::Fork => {
                all.fork(who);
                None
            }
            Step::Close => {
                all.close(who);
                None
            }
            Step::Room(room) => {
                all.room(room);
                None
            }
            Step::Rekey => {
                tag = tag.wrapping_add(1);
                let new = info(version, cipher, tag);
                let done = connection.rekey(|| CryptoInfo::parse(&new));
                if version == Version::Tls12 {
                    assert_eq!(done, Err(Error::KeysPresent));
                } else {
                    assert_eq!(done, Ok(()));
                    let keys = CryptoInfo::parse(&new).unwrap();
                    let opener = RecordOpener::new(&keys, Choice::Auto).unwrap();
                    let first = keys.numbers().peek();
                    all.setup.openers.push((opener, first, usize::MAX));
                }
                None
            }
            Step::MaxPayload(len) => {
                // Refused while a record is open.
                let _ = connection.set_max_payload(len);
                None
            }
            Step::Interrupt => {
                all.setup.sys.0.lock().unwrap().interrupt = true;
                None
            }
            Step::Flush => {
                let _ = connection.flush(Some(std::time::Duration::ZERO));
                None
            }
            Step::Push => {
                connection.push();
                None
            }
            Step::Die(taken) => {
                dies(&connection, move |locked| locked.die_sending(taken));
                None
            }
            Step::DieSealing => {
                dies(&connection, |locked| locked.die_sealing());
                None
            }
        };
        match sent {
            None => {}
            Some((kind, data, Ok(accepted))) => {
                assert!(accepted <= data.len() && accepted > 0, "{accepted}");
                expected.extend(data[..accepted].iter().map(|byte| (kind, *byte)));
            }
            Some((_, _, Err(Error::WouldBlock))) => {
                let room = all.setup.sys.0.lock().unwrap().room;
                assert!(!blocking && room == 0, "EAGAIN with room (rule 4)");
            }
            Some((_, _, Err(Error::Interrupted))) => assert!(blocking),
            Some((_, _, Err(error))) => panic!("{step:?}: {error}"),
        }
    }
    all.room(usize::MAX);
    for connection in &all.alive {
        connection.flush(None).unwrap();
    }
    for connection in &all.alive {
        assert_eq!(connection.pending(), 0);
        let (here, there) = (connection.info().unwrap(), all.alive[0].info().unwrap());
        assert_eq!(here.number, there.number);
        assert_eq!((here.queued_records, here.records), (0, there.records));
    }
    // What is left is told through a handle that is still open.
    all.setup.connection = Arc::clone(&all.alive[0]);
    let arrived: Vec<(u8, u8)> = all
        .setup
        .finish()
        .into_iter()
        .flat_map(|(kind, bytes)| bytes.into_iter().map(move |byte| (kind, byte)))
        .collect();
    assert_eq!(arrived.len(), expected.len(), "bytes lost or doubled");
    assert!(arrived == expected, "bytes differ");
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

fn dies(connection: &Arc<Connection>, how: impl FnOnce(shared::Locked<'_>) + Send + 'static) {
    let connection = Arc::clone(connection);
    std::thread::spawn(move || {
        if let Some(joint) = connection.joint() {
            how(connection.lock_joint(joint).unwrap());
        }
    })
    .join()
    .unwrap();
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
    assert_eq!(child.send(&[b"a"], None, more), Ok(1));
    dies(&child, |locked| locked.die_sealing());
    assert_eq!(setup.connection.send(&[b"b"], None, flags()), Ok(1));
    let records = setup.finish();
    assert_eq!(records, [(23, b"a".to_vec()), (23, b"b".to_vec())]);
}

/// MT-7: the pending error is everybody's.
#[test]
fn the_sticky_error_is_shared() {
    let (setup, child) = shared_pair();
    setup.sys.0.lock().unwrap().dead = Some(Errno::CONNRESET);
    let reset = Err(Error::Os(Errno::CONNRESET));
    assert_eq!(child.send(&[b"x"], None, flags()), reset);
    assert_eq!(setup.connection.send(&[b"x"], None, flags()), reset);
    assert_eq!(child.pending(), 0);
    assert_eq!(setup.connection.take_error(), Some(Errno::CONNRESET));
    let gone = child.send(&[b"x"], None, flags());
    assert_eq!(gone, Err(Error::BrokenPipe));
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
    assert_eq!(setup.connection.send(&[b"open "], None, more), Ok(5));
    assert_eq!(child.send(&[b"record"], None, more), Ok(6));
    assert_eq!(setup.connection.close(|| Err(Errno::MFILE)), Ok(true));
    assert!(setup.sys.0.lock().unwrap().wire.is_empty());
    assert_eq!(child.pending(), 11);
    assert_eq!(child.close(|| Err(Errno::MFILE)), Ok(true));
    assert_eq!(setup.sys.0.lock().unwrap().wire.len(), 11 + 22);
}

/// TX-54: the end of the stream is for all, and comes behind what was accepted.
#[test]
fn a_shutdown_counts_for_every_process() {
    let (setup, child) = shared_pair();
    assert!(child.shutdown_write().is_ok());
    let refused = setup.connection.send(&[b"x"], None, flags());
    assert_eq!(refused, Err(Error::BrokenPipe));
}
