//! A fake kernel and a model of the transmit direction: whatever is sent, however the kernel takes
//! it, what arrives is exactly what was accepted, in order, in records with strictly increasing
//! numbers (design rules 1 to 3).
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::aead::{Cipher, RecordOpener};
use crate::crypto_info::CryptoInfo;
use crate::engine::threads::Pool;
use crate::error::Error;
use crate::record::{
    HEADER_LEN, NONCE_EXPLICIT_LEN, NonceForm, RecordNumber, Version, parse_header,
};
use crate::sys::pages::Pages;
use crate::testing::{Input, Kernels, Story, crypto_info as info};
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
    /// System calls that may still be made.
    pub patience: usize,
    /// Who has sent.
    pub senders: HashSet<ThreadId>,
    /// What happens at the begin of the next send.
    pub before_send: Option<Box<dyn FnOnce() + Send>>,
}

impl FakeSys {
    pub(super) fn socket(&self) -> MutexGuard<'_, FakeSocket> {
        self.0.lock().expect("no test has failed with it")
    }

    /// In a system call: counts it.
    fn call(&self) -> MutexGuard<'_, FakeSocket> {
        let mut socket = self.socket();
        assert!(socket.patience > 0, "the kernel is asked without end");
        socket.patience -= 1;
        socket
    }
}

impl Sys for FakeSys {
    fn send(&self, _: RawFd, bytes: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let before = self.socket().before_send.take();
        if let Some(before) = before {
            before();
        }
        let mut socket = self.call();
        socket.senders.insert(std::thread::current().id());
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
    fn wait_for_room(&self, _: RawFd, timeout: Option<Duration>) -> Result<bool, Errno> {
        let mut socket = self.call();
        if timeout == Some(Duration::ZERO) {
            return Ok(socket.room > 0);
        }
        if core::mem::take(&mut socket.interrupt) {
            return Err(Errno::INTR);
        }
        socket.room = socket.room.saturating_add(5000);
        Ok(true)
    }
    fn is_nonblocking(&self, _: RawFd) -> bool {
        !self.socket().blocking
    }
    fn send_timeout(&self, _: RawFd) -> Option<Duration> {
        None
    }
    fn segments_in(&self, _: RawFd) -> Option<u32> {
        None
    }
    fn written(&self, _: RawFd) -> Option<u64> {
        Some(self.socket().wire.len() as u64)
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
    fn take(
        &self,
        fd: RawFd,
        buf: &mut [u8],
        offset: Option<u64>,
        _: bool,
    ) -> Result<usize, Errno> {
        self.read(fd, buf, offset)
    }
    fn is_readable(&self, _: RawFd) -> bool {
        true
    }
    fn wait_until_readable(&self, _: RawFd) -> Result<(), Errno> {
        Ok(())
    }
}

/// A worker that, for a non-blocking socket, leaves everything to the test; for a blocking one it
/// lets the peer read on, as nobody else would wake the caller.
pub(super) struct TestWorker {
    sys: &'static FakeSys,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

impl Waker for TestWorker {
    fn defer(&self, _: &Arc<Connection>) {}
    fn watch(&self, connection: &Arc<Connection>) {
        if self.sys.socket().blocking {
            let (sys, connection) = (self.sys, Arc::clone(connection));
            let reader = std::thread::spawn(move || {
                let mut socket = sys.socket();
                socket.room = socket.room.saturating_add(5000);
                drop(socket);
                connection.room();
            });
            self.readers.lock().expect("no reader panics").push(reader);
        }
    }
    fn forget(&self, _: &Connection, _: RawFd) {}
}

/// Ends with the last reader of a world; keeps its socket for another.
pub(super) struct End(Arc<TestWorker>);

impl End {
    pub(super) fn of(setup: &Setup) -> End {
        End(Arc::clone(&setup.worker))
    }

    pub(super) fn wait(self) {
        // A reader may bring about another.
        loop {
            let reader = self.0.readers.lock().expect("no reader panics").pop();
            let Some(reader) = reader else { break };
            reader.join().expect("no reader panics");
        }
        // A connection that broke may have records in flight, which come to a dead socket at last.
        if self.0.sys.socket().dead.is_none() {
            KERNELS.give_back(self.0.sys);
        }
    }
}

pub(super) const FILE_LEN: usize = 40_000;

pub(super) struct Setup {
    pub sys: &'static FakeSys,
    pub connection: Arc<Connection>,
    worker: Arc<TestWorker>,
    /// With the number and the place in the stream of the first record; `usize::MAX`: the first
    /// that does not open with the keys before.
    pub openers: Vec<(RecordOpener, RecordNumber, usize)>,
    #[cfg(test)]
    pub info: Vec<u8>,
}

impl Setup {
    pub(super) fn new(engine: Kind, version: Version, cipher: Cipher, blocking: bool) -> Setup {
        let pool = POOL.get_or_init(|| Arc::new(Pool::new(2))).clone();
        Setup::over(pool, engine, version, cipher, blocking)
    }

    pub(super) fn over(
        pool: Arc<dyn Engine>,
        engine: Kind,
        version: Version,
        cipher: Cipher,
        blocking: bool,
    ) -> Setup {
        let sys = KERNELS.take();
        *sys.socket() = FakeSocket {
            blocking,
            patience: 100_000,
            ..FakeSocket::default()
        };
        let worker = Arc::new(TestWorker {
            sys,
            readers: Mutex::default(),
        });
        let shared = Shared {
            sys,
            pool,
            waker: worker.clone(),
            streamers: Default::default(),
        };
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
        let connection =
            Connection::new(Arc::new(shared), settings, 0, keys, Arc::default()).unwrap();
        Setup {
            sys,
            connection,
            worker,
            openers,
            #[cfg(test)]
            info,
        }
    }

    pub(super) fn give_room(&self, room: usize) {
        self.sys.socket().room = room;
        self.connection.room();
    }

    /// Everything out, then the wire as (type, bytes) records.
    pub(super) fn finish(self) -> Vec<(u8, Vec<u8>)> {
        self.sys.socket().room = usize::MAX;
        flush(&self.connection);
        assert_eq!(self.connection.pending(), 0);
        self.opened(true)
    }

    /// The wire as records; what stands behind the last whole one is looked at if all of them have
    /// to be `whole`.
    fn opened(self, whole: bool) -> Vec<(u8, Vec<u8>)> {
        let wire = core::mem::take(&mut self.sys.socket().wire);
        let (version, cipher) = self.connection.suite();
        let mut openers = self.openers.into_iter();
        let (mut opener, mut number, _) = openers.next().unwrap();
        let mut next_keys = openers.next();
        let (mut rest, mut records, mut at) = (&wire[..], Vec::new(), 0);
        while !rest.is_empty() {
            let form = cipher.nonce_form(version);
            let header = rest.first_chunk::<HEADER_LEN>();
            let header = header.map(|head| parse_header(*head, version, form).unwrap());
            let split = header.and_then(|h| rest.split_at_checked(HEADER_LEN + h.fragment_len));
            let Some((record, behind)) = split else {
                assert!(!whole, "a record that is cut off");
                break;
            };
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
            if form == NonceForm::Explicit {
                // REC-4: the nonce on the wire counts with the record.
                let explicit = &record[HEADER_LEN..][..NONCE_EXPLICIT_LEN];
                assert_eq!(explicit, number.nonce_explicit.to_be_bytes());
            }
            out.truncate(len);
            assert!(len > 0, "an empty record (TX-22)");
            records.push((kind, out));
            number.rec_seq += 1;
            number.nonce_explicit = number.nonce_explicit.wrapping_add(1);
            at += 1;
            rest = behind;
        }
        records
    }
}

/// Everything out. libFuzzer's own timer interrupts a wait now and then.
pub(super) fn flush(connection: &Arc<Connection>) {
    loop {
        match connection.flush(Some(Duration::from_secs(20))) {
            Err(Error::Interrupted) => {}
            done => return done.unwrap(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
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
    MaxPayload(usize),
    /// The connection breaks.
    Reset,
}

pub(super) fn flags() -> SendFlags {
    SendFlags {
        no_signal: true,
        ..SendFlags::default()
    }
}

pub(super) fn run(engine: Kind, version: Version, cipher: Cipher, blocking: bool, steps: &[Step]) {
    let setup = Setup::new(engine, version, cipher, blocking);
    // What must arrive: the type of each byte, and the byte.
    let mut expected: Vec<(u8, u8)> = Vec::new();
    let (mut fill, mut reset) = (0u8, false);
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
                let sent = connection.send_bytes(&slices, None, SendFlags { more, ..flags });
                Some((23, data, sent))
            }
            Step::Control { kind, len } => {
                let data = vec![fill; len];
                Some((
                    kind,
                    data.clone(),
                    connection.send_bytes(&[&data], Some(kind), flags),
                ))
            }
            Step::File { count } => {
                let source = FileSource {
                    fd: 0,
                    offset: Some(0),
                    count,
                    no_wait: false,
                    pipe: false,
                    is_odd: false,
                };
                Some((
                    23,
                    vec![b'f'; FILE_LEN],
                    connection.send_file(source, flags),
                ))
            }
            Step::Pages { len, more } => {
                let data = &PAGES[usize::from(fill)..][..len];
                let pages = Pages::lent_for_ever(data);
                let sent = connection.send_pages(pages, SendFlags { more, ..flags });
                Some((23, data.to_vec(), sent))
            }
            Step::Room(room) => {
                setup.give_room(room);
                None
            }
            Step::Interrupt => {
                setup.sys.socket().interrupt = true;
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
            Step::MaxPayload(len) => {
                // Refused while a record is open.
                let _ = connection.set_max_payload(len);
                None
            }
            Step::Reset => {
                setup.sys.socket().dead = Some(Errno::CONNRESET);
                reset = true;
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
                    !blocking && setup.sys.socket().room == 0,
                    "EAGAIN with room"
                );
            }
            Some((_, _, Err(Error::Interrupted))) => assert!(blocking),
            Some((_, _, Err(Error::Os(Errno::CONNRESET) | Error::BrokenPipe))) => assert!(reset),
            Some((_, _, Err(error))) => panic!("{step:?}: {error}"),
        }
    }
    let end = End::of(&setup);
    let records = match reset {
        true => setup.opened(false),
        false => setup.finish(),
    };
    let arrived: Vec<(u8, u8)> = records
        .into_iter()
        .flat_map(|(kind, bytes)| bytes.into_iter().map(move |byte| (kind, byte)))
        .collect();
    if reset {
        expected.truncate(arrived.len());
    }
    assert_eq!(arrived.len(), expected.len(), "bytes lost or doubled");
    assert!(arrived == expected, "bytes differ");
    end.wait();
}

/// The fuzz target: engine, suite, then steps of one process or of several.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.byte();
    let engine = [Kind::Inline, Kind::Threads, Kind::Auto][usize::from(bits >> 2) % 3];
    let (blocking, several) = (bits & 1 != 0, bits & 2 != 0);
    let (version, cipher) = input.suite();
    if several {
        #[cfg(not(miri))]
        super::shared_testing::fuzz(engine, version, cipher, blocking, &mut input);
        return;
    }
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < 60 {
        steps.push(decode(&mut input));
    }
    let story = (engine, version, cipher, blocking, &steps);
    let _story = Story(&story);
    run(engine, version, cipher, blocking, &steps);
}

fn decode(input: &mut Input<'_>) -> Step {
    match input.byte() % 16 {
        0..=4 => Step::Send {
            len: 1 + input.up_to(50_000),
            pieces: 1 + usize::from(input.byte() & 7),
            more: input.flag(),
        },
        5 => Step::Control {
            // Type 0 would be stripped as padding, and the last byte taken for the type.
            kind: input.byte().max(1),
            len: 1 + input.up_to(300),
        },
        6 => Step::File {
            count: 1 + input.up_to(50_000),
        },
        7 | 8 => Step::Pages {
            len: 1 + input.up_to(40_000),
            more: input.flag(),
        },
        9..=11 => Step::Room(match input.up_to(1 << 20) {
            0 => 1 << 20,
            room => room,
        }),
        12 => Step::Interrupt,
        13 => Step::Look,
        14 => Step::Flush,
        _ => match input.byte() {
            0xff => Step::Reset,
            len => Step::MaxPayload(64 * (1 + usize::from(len))),
        },
    }
}

/// Pages that the program lends, at one offset or another.
static PAGES: [u8; 48 * 1024] = {
    let mut pages = [0; 48 * 1024];
    let mut at = 0;
    while at < pages.len() {
        pages[at] = (at / 5 + at / 251) as u8;
        at += 1;
    }
    pages
};

/// Its threads serve every test of the process.
static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
static KERNELS: Kernels<FakeSys> = Kernels::new();
