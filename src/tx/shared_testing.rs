//! The model of `testing` for a connection that several processes share. A process is played by a
//! handle of its own on the same shared memory, its death by the end of a thread that holds the lock.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::testing::{End, FILE_LEN, Setup, flags, flush};
use super::*;
use crate::aead::{Cipher, RecordOpener};
use crate::crypto_info::CryptoInfo;
use crate::error::Error;
use crate::record::Version;
use crate::testing::{Input, Story, crypto_info as info};

#[derive(Clone, Debug)]
pub(super) enum Step {
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
            let null = || Ok(Kept::new(std::fs::File::open("/dev/null").unwrap().into()));
            if !connection.close(false, null).unwrap() {
                self.lingering.push(connection);
            }
        }
    }

    fn room(&self, room: usize) {
        self.setup.sys.socket().room = room;
        for connection in self.alive.iter().chain(&self.lingering) {
            connection.room();
        }
    }
}

pub(super) fn run(
    engine: Kind,
    version: Version,
    cipher: Cipher,
    blocking: bool,
    steps: &[(usize, Step)],
) {
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
                let sent = connection.send_bytes(&[one, two], None, flags);
                Some((23, data, sent))
            }
            Step::Control { len } => {
                let data = vec![fill; len];
                let sent = connection.send_bytes(&[&data], Some(22), flags());
                Some((22, data, sent))
            }
            Step::File { count, more } => {
                let source = FileSource {
                    fd: 0,
                    offset: Some(0),
                    count,
                    no_wait: false,
                    pipe: false,
                    is_odd: false,
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
                all.setup.sys.socket().interrupt = true;
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
                let room = all.setup.sys.socket().room;
                assert!(!blocking && room == 0, "EAGAIN with room (rule 4)");
            }
            Some((_, _, Err(Error::Interrupted))) => assert!(blocking),
            Some((_, _, Err(error))) => panic!("{step:?}: {error}"),
        }
    }
    all.room(usize::MAX);
    for connection in &all.alive {
        flush(connection);
    }
    for connection in &all.alive {
        assert_eq!(connection.pending(), 0);
        let (here, there) = (connection.info().unwrap(), all.alive[0].info().unwrap());
        assert_eq!(here.number, there.number);
        assert_eq!((here.queued_records, here.records), (0, there.records));
    }
    // What is left is told through a handle that is still open.
    all.setup.connection = Arc::clone(&all.alive[0]);
    let Processes {
        setup,
        alive,
        lingering,
    } = all;
    let end = End::of(&setup);
    let arrived: Vec<(u8, u8)> = setup
        .finish()
        .into_iter()
        .flat_map(|(kind, bytes)| bytes.into_iter().map(move |byte| (kind, byte)))
        .collect();
    assert_eq!(arrived.len(), expected.len(), "bytes lost or doubled");
    assert!(arrived == expected, "bytes differ");
    drop((alive, lingering));
    end.wait();
}

/// The part of the fuzz target that has several processes.
pub(super) fn fuzz(
    engine: Kind,
    version: Version,
    cipher: Cipher,
    blocking: bool,
    input: &mut Input<'_>,
) {
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < 60 {
        let byte = input.byte();
        steps.push((usize::from(byte >> 5), decode(byte & 31, input)));
    }
    let story = (engine, version, cipher, blocking, &steps);
    let _story = Story(&story);
    run(engine, version, cipher, blocking, &steps);
}

fn decode(kind: u8, input: &mut Input<'_>) -> Step {
    match kind {
        0..=7 => Step::Send {
            len: 1 + input.up_to(50_000),
            more: input.flag(),
        },
        8 | 9 => Step::Control {
            len: 1 + input.up_to(300),
        },
        10 | 11 => Step::File {
            count: 1 + input.up_to(50_000),
            more: input.flag(),
        },
        12..=15 => Step::Fork,
        16 | 17 => Step::Close,
        18..=23 => Step::Room(match input.up_to(1 << 20) {
            0 => 1 << 20,
            room => room,
        }),
        24 | 25 => Step::Rekey,
        26 => Step::MaxPayload(64 * (1 + usize::from(input.byte()))),
        27 => Step::Interrupt,
        28 => Step::Flush,
        29 => Step::Push,
        30 => Step::DieSealing,
        _ => Step::Die(input.up_to(20_000)),
    }
}

/// A process that shares the connection dies with its lock.
pub(super) fn dies(
    connection: &Arc<Connection>,
    how: impl FnOnce(shared::Locked<'_>) + Send + 'static,
) {
    let connection = Arc::clone(connection);
    std::thread::spawn(move || {
        if let Some(joint) = connection.joint() {
            how(connection.lock_joint(joint).unwrap());
        }
    })
    .join()
    .unwrap();
}
