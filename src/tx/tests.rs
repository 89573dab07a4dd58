//! Property tests: whatever is sent, however the kernel takes it, what arrives is exactly what was
//! accepted, in order, in records with strictly increasing numbers (design rules 1 to 3).

use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::aead::RecordOpener;
use crate::crypto_info::{CryptoInfo, expected_len};
use crate::engine::threads::Pool;
use crate::record::{HEADER_LEN, parse_header};
use core::result::Result;

/// A kernel whose socket takes what the test says.
#[derive(Default)]
pub(super) struct FakeSys(pub Mutex<FakeSocket>);

#[derive(Default)]
pub(super) struct FakeSocket {
    pub wire: Vec<u8>,
    /// Bytes there is room for.
    pub room: usize,
    /// Answer the next send with EINTR, or with this error for good.
    pub interrupt: bool,
    pub dead: Option<Errno>,
    blocking: bool,
}

impl Sys for FakeSys {
    fn send(&self, _: RawFd, bytes: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let mut socket = self.0.lock().unwrap();
        if let Some(errno) = socket.dead {
            return Err(errno);
        }
        let offered: usize = bytes.iter().map(|b| b.len()).sum();
        let taken = offered.min(socket.room);
        if taken == 0 {
            return Err(Errno::AGAIN);
        }
        let all: Vec<u8> = bytes.iter().flat_map(|b| b.iter().copied()).collect();
        socket.wire.extend(&all[..taken]);
        socket.room = socket.room.saturating_sub(taken);
        Ok(taken)
    }
    fn wait_for_room(&self, _: RawFd, _: Option<Duration>) -> Result<bool, Errno> {
        let mut socket = self.0.lock().unwrap();
        if core::mem::take(&mut socket.interrupt) {
            return Err(Errno::INTR);
        }
        socket.room = socket.room.saturating_add(5000);
        Ok(true)
    }
    fn is_nonblocking(&self, _: RawFd) -> bool {
        !self.0.lock().unwrap().blocking
    }
    fn send_timeout(&self, _: RawFd) -> Option<Duration> {
        None
    }
    fn segments_in(&self, _: RawFd) -> Option<u32> {
        None
    }
    fn written(&self, _: RawFd) -> Option<u64> {
        Some(self.0.lock().unwrap().wire.len() as u64)
    }
    fn handlers_restart(&self) -> bool {
        false
    }
    fn shutdown_write(&self, _: RawFd) -> Result<(), Errno> {
        Ok(())
    }
    fn read(&self, _: RawFd, buf: &mut [u8], offset: Option<u64>) -> Result<usize, Errno> {
        let rest = FILE_LEN.saturating_sub(usize::try_from(offset.unwrap_or(0)).unwrap());
        let len = buf.len().min(rest);
        buf[..len].fill(b'f');
        Ok(len)
    }
    fn is_readable(&self, _: RawFd) -> bool {
        true
    }
}

/// A worker that, for a non-blocking socket, leaves everything to the test; for a blocking one it
/// lets the peer read on, as nobody else would wake the caller.
struct TestWorker(&'static FakeSys);

impl Waker for TestWorker {
    fn defer(&self, _: &Arc<Connection>) {}
    fn watch(&self, connection: &Arc<Connection>) {
        if self.0.0.lock().unwrap().blocking {
            let (sys, connection) = (self.0, Arc::clone(connection));
            std::thread::spawn(move || {
                let mut socket = sys.0.lock().unwrap();
                socket.room = socket.room.saturating_add(5000);
                drop(socket);
                connection.room();
            });
        }
    }
    fn forget(&self, _: &Connection, _: RawFd) {}
}

pub(super) const FILE_LEN: usize = 40_000;

pub(super) struct Setup {
    pub sys: &'static FakeSys,
    pub connection: Arc<Connection>,
    /// With the number and the place in the stream of the first record; `usize::MAX`: the first
    /// that does not open with the keys before.
    pub openers: Vec<(RecordOpener, RecordNumber, usize)>,
    info: Vec<u8>,
}

pub(super) fn info(version: Version, cipher: Cipher, seed: u8) -> Vec<u8> {
    let mut info: Vec<u8> = (0..expected_len(cipher)).map(|i| i as u8 ^ seed).collect();
    info[..2].copy_from_slice(&version.code().to_ne_bytes());
    info[2..4].copy_from_slice(&cipher.id().to_ne_bytes());
    let at = info.len() - 8;
    info[at..].copy_from_slice(&u64::from(seed).to_be_bytes());
    info
}

impl Setup {
    pub(super) fn new(engine: Kind, version: Version, cipher: Cipher, blocking: bool) -> Setup {
        let sys: &'static FakeSys = Box::leak(Box::default());
        sys.0.lock().unwrap().blocking = blocking;
        let shared = Arc::new(Shared {
            sys,
            pool: Arc::new(Pool::new(2)),
            waker: Arc::new(TestWorker(sys)),
        });
        let settings = Settings {
            engine,
            aead: Choice::Auto,
            queue_max: 64 * 1024,
            cores: 8,
        };
        let info = info(version, cipher, 0);
        let keys = CryptoInfo::parse(&info).unwrap();
        let opener = RecordOpener::new(&keys, Choice::Auto).unwrap();
        let openers = vec![(opener, keys.numbers().peek(), 0)];
        let connection = Connection::new(shared, settings, 0, keys, Arc::default()).unwrap();
        Setup {
            sys,
            connection,
            openers,
            info,
        }
    }

    pub(super) fn give_room(&self, room: usize) {
        self.sys.0.lock().unwrap().room = room;
        self.connection.room();
    }

    /// Everything out, then the wire as (type, bytes) records.
    pub(super) fn finish(self) -> Vec<(u8, Vec<u8>)> {
        self.sys.0.lock().unwrap().room = usize::MAX;
        self.connection
            .flush(Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(self.connection.pending(), 0);
        let wire = core::mem::take(&mut self.sys.0.lock().unwrap().wire);
        let (version, cipher) = self.connection.suite();
        let mut openers = self.openers.into_iter();
        let (mut opener, mut number, _) = openers.next().unwrap();
        let mut next_keys = openers.next();
        let (mut rest, mut records, mut at) = (&wire[..], Vec::new(), 0);
        while !rest.is_empty() {
            let head = *rest.first_chunk::<HEADER_LEN>().expect("a whole header");
            let header = parse_header(head, version, cipher.nonce_form(version)).unwrap();
            let (record, behind) = rest.split_at(HEADER_LEN + header.fragment_len);
            if let Some((_, _, first)) = &next_keys
                && records.len() == *first
            {
                (opener, number, _) = next_keys.take().unwrap();
                next_keys = openers.next();
            }
            let mut out = vec![0; record.len()];
            let mut opened = opener.open(number.rec_seq, record, &mut out);
            while opened.is_err()
                && let Some((next, first, usize::MAX)) = next_keys.take()
            {
                (opener, number) = (next, first);
                next_keys = openers.next();
                opened = opener.open(number.rec_seq, record, &mut out);
            }
            let (kind, len) = opened.unwrap_or_else(|e| panic!("record {at}: {e}"));
            out.truncate(len);
            assert!(len > 0, "an empty record (TX-22)");
            records.push((kind, out));
            number.rec_seq += 1;
            at += 1;
            rest = behind;
        }
        records
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        len: usize,
        pieces: usize,
        more: bool,
    },
    Control {
        kind: u8,
        len: usize,
    },
    File {
        count: usize,
    },
    Pages {
        len: usize,
        more: bool,
    },
    Room(usize),
    Interrupt,
    Look,
    Flush,
}

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
    ]
}

/// Pages that live as long as the program.
fn lend(bytes: Vec<u8>) -> crate::sys::pages::Pages {
    crate::sys::pages::Pages::lent_for_ever(Box::leak(bytes.into_boxed_slice()))
}

fn run(engine: Kind, version: Version, cipher: Cipher, blocking: bool, steps: &[Step]) {
    let setup = Setup::new(engine, version, cipher, blocking);
    // What must arrive: the type of each byte, and the byte.
    let mut expected: Vec<(u8, u8)> = Vec::new();
    let mut fill = 0u8;
    for step in steps {
        let flags = SendFlags {
            more: false,
            dont_wait: false,
            no_signal: true,
        };
        let connection = &setup.connection;
        fill = fill.wrapping_add(1);
        let outcome = match *step {
            Step::Send { len, pieces, more } => {
                let data: Vec<u8> = (0..len).map(|i| fill ^ (i / 7) as u8).collect();
                let slices: Vec<&[u8]> = data.chunks(len.div_ceil(pieces)).collect();
                let sent = connection.send(&slices, None, SendFlags { more, ..flags });
                Some((23, data, sent))
            }
            Step::Control { kind, len } => {
                let data = vec![fill; len];
                Some((
                    kind,
                    data.clone(),
                    connection.send(&[&data], Some(kind), flags),
                ))
            }
            Step::File { count } => {
                let source = FileSource {
                    fd: 0,
                    offset: Some(0),
                    count,
                    no_wait: false,
                    pipe: false,
                };
                Some((
                    23,
                    vec![b'f'; FILE_LEN],
                    connection.send_file(source, flags),
                ))
            }
            Step::Pages { len, more } => {
                let data: Vec<u8> = (0..len).map(|i| fill ^ (i / 5) as u8).collect();
                let pages = lend(data.clone());
                let sent = connection.send_pages(pages, SendFlags { more, ..flags });
                Some((23, data, sent))
            }
            Step::Room(room) => {
                setup.give_room(room);
                None
            }
            Step::Interrupt => {
                setup.sys.0.lock().unwrap().interrupt = true;
                None
            }
            Step::Look => {
                connection.look(&mut 0, true);
                None
            }
            Step::Flush => {
                // Without room it cannot end, which is what the time-out is for.
                let _ = connection.flush(Some(Duration::ZERO));
                None
            }
        };
        match outcome {
            None => {}
            Some((kind, data, Ok(accepted))) => {
                assert!(
                    accepted <= data.len() && accepted > 0,
                    "{step:?}: {accepted}"
                );
                expected.extend(data[..accepted].iter().map(|byte| (kind, *byte)));
            }
            Some((_, _, Err(Error::WouldBlock))) => {
                // Rule 4: the kernel has just refused bytes.
                assert!(
                    !blocking && setup.sys.0.lock().unwrap().room == 0,
                    "EAGAIN with room"
                );
            }
            Some((_, _, Err(Error::Interrupted))) => assert!(blocking),
            Some((_, _, Err(error))) => panic!("{step:?}: {error}"),
        }
    }
    let arrived: Vec<(u8, u8)> = setup
        .finish()
        .into_iter()
        .flat_map(|(kind, bytes)| bytes.into_iter().map(move |byte| (kind, byte)))
        .collect();
    assert_eq!(arrived.len(), expected.len(), "bytes lost or doubled");
    assert!(arrived == expected, "bytes differ");
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

pub(super) fn flags() -> SendFlags {
    SendFlags {
        no_signal: true,
        ..SendFlags::default()
    }
}

/// RK-2 to RK-5: records before the change open with the old keys, those after it with the new, and
/// the open record goes with the new.
#[test]
fn a_rekey_separates_records() {
    for engine in [Kind::Inline, Kind::Threads] {
        let mut setup = Setup::new(engine, Version::Tls13, Cipher::AesGcm128, true);
        let big = vec![1u8; 40_000];
        setup.connection.send(&[&big], None, flags()).unwrap();
        let more = SendFlags {
            more: true,
            ..flags()
        };
        setup.connection.send(&[b"open"], None, more).unwrap();
        let new = info(Version::Tls13, Cipher::AesGcm128, 9);
        setup.connection.rekey(|| CryptoInfo::parse(&new)).unwrap();
        let keys = CryptoInfo::parse(&new).unwrap();
        let opener = RecordOpener::new(&keys, Choice::Auto).unwrap();
        setup.openers.push((opener, keys.numbers().peek(), 3));
        setup.connection.send(&[b" record"], None, flags()).unwrap();
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
    setup.connection.send(&[b"x"], None, flags()).unwrap();
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
    setup.sys.0.lock().unwrap().dead = Some(Errno::CONNRESET);
    let reset = Err(Error::Os(Errno::CONNRESET));
    for _ in 0..3 {
        assert_eq!(setup.connection.send(&[b"x"], None, flags()), reset);
    }
    assert_eq!(setup.connection.send(&[], None, flags()), Ok(0), "TX-11");
    assert_eq!(setup.connection.take_error(), Some(Errno::CONNRESET));
    assert_eq!(
        setup.connection.send(&[b"x"], None, flags()),
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
    assert_eq!(setup.connection.send(&[b"a"], None, flags()), Ok(1));
    assert_eq!(setup.connection.send(&[b"b"], None, flags()), Ok(1));
    for _ in 0..2 {
        assert_eq!(
            setup.connection.send(&[b"c"], None, flags()),
            Err(Error::SealFailed)
        );
        assert_eq!(
            setup.connection.take_error(),
            Some(Errno::BADMSG),
            "not forgiven"
        );
    }
    assert_eq!(setup.connection.pending(), 0);
    let wire = setup.sys.0.lock().unwrap().wire.len();
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
        connection.send(&[b"open"], None, more).unwrap();
        assert_eq!(connection.set_max_payload(1000), Err(Error::KeysPresent));
        connection.send(&[b"!"], None, flags()).unwrap();
        connection.set_max_payload(1000).unwrap();
        assert_eq!(connection.info().unwrap().max_payload, 1000);
        let data = vec![1u8; 2500];
        assert_eq!(connection.send(&[&data], None, flags()), Ok(2500));
        assert_eq!(connection.send(&[&data], Some(22), flags()), Ok(2500));
        let source = FileSource {
            fd: 0,
            offset: Some(0),
            count: 1500,
            no_wait: false,
            pipe: false,
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
