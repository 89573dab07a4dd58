//! What property tests and fuzz targets share: the bytes of a fuzzer as a source of decisions, and
//! one function per target. The fake kernels and the models stand in the rooms that they test, in
//! files named `testing.rs`. Not in a release: see the feature `testing`.
#![forbid(unsafe_code)]

use std::sync::Mutex;

use crate::aead::{Choice, Cipher, RecordOpener, RecordSealer};
use crate::crypto_info::{CryptoInfo, encode, expected_len};
use crate::error::Error;
use crate::record::{HEADER_LEN, Header, Layout, RecordNumber, Version, parse_header};

pub use crate::rx::testing::fuzz as rx;
pub use crate::tx::testing::fuzz as tx;

/// The parsers of what comes from the peer and from the program, on arbitrary bytes: headers,
/// records, crypto_info, control messages.
pub fn record(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => header(&mut input),
        1 => opener(&mut input),
        2 => keys(input.rest()),
        _ => crate::capi::testing::control(&mut input),
    }
}

/// RX-3: the result of each header, derived anew from the limits.
fn header(input: &mut Input<'_>) {
    let (version, cipher) = input.suite();
    let bytes: [u8; HEADER_LEN] = core::array::from_fn(|_| input.byte());
    let form = cipher.nonce_form(version);
    let len = usize::from(bytes[3]) << 8 | usize::from(bytes[4]);
    let layout = Layout::new(version, form);
    let fits = len + HEADER_LEN <= (1 << 14) + layout.overhead();
    let holds_tag = len + HEADER_LEN >= layout.prefix_len + 16;
    let good = fits && holds_tag && bytes[1..3] == [3, 3];
    let expected = good.then_some(Header {
        content_type: bytes[0],
        fragment_len: len,
    });
    assert_eq!(parse_header(bytes, version, form).ok(), expected);
}

/// Only what was sealed opens: bytes of any length never do, a sealed record does, and not with
/// any change of it.
fn opener(input: &mut Input<'_>) {
    let (version, cipher) = input.suite();
    let keys = CryptoInfo::parse(&crypto_info(version, cipher, 1)).expect("well-formed");
    let choice = match input.byte() % 4 {
        0 => Choice::Auto,
        1 => Choice::OpenSsl,
        2 => Choice::Ring,
        _ => Choice::RustCrypto,
    };
    let opener = RecordOpener::new(&keys, choice).expect("some provider has it");
    let sealer = RecordSealer::new(&keys, choice).expect("some provider has it");
    let (content_type, rec_seq) = (input.byte(), u64::from(input.byte()));
    let (spoil, mask) = (input.up_to(1 << 15), input.byte());
    let content = input.rest();
    let content = &content[..content.len().min(1 << 14)];
    let mut out = vec![0xee; content.len()];
    let opened = opener.open(rec_seq, content, &mut out);
    assert!(opened.is_err(), "bytes that nobody sealed are opened");

    let mut wire = vec![0; content.len() + sealer.overhead()];
    let number = RecordNumber {
        rec_seq,
        nonce_explicit: 7,
    };
    sealer
        .seal_from(number, content_type, content, &mut wire)
        .expect("a record of a legal length");
    let mut out = vec![0; wire.len()];
    let opened = opener.open(rec_seq, &wire, &mut out);
    match effective(version, content_type, content) {
        Some((content_type, content)) => {
            assert_eq!(opened, Ok((content_type, content.len())));
            assert_eq!(&out[..content.len()], content);
        }
        None => assert_eq!(opened, Err(Error::BadRecord), "REC-9"),
    }
    out.fill(0);
    let other = opener.open(rec_seq ^ 1, &wire, &mut out);
    assert_eq!(other, Err(Error::SealFailed), "another number");
    let spoil = spoil % wire.len();
    // Version and length are the header parser's; the bytes of the length follow from the slice.
    if mask != 0 && !(1..HEADER_LEN).contains(&spoil) {
        wire[spoil] ^= mask;
        out.fill(0xee);
        let opened = opener.open(rec_seq, &wire, &mut out);
        assert!(opened.is_err(), "a changed record is opened");
        // Either wiped or never written.
        let shown = out.iter().filter(|byte| ![0, 0xee].contains(byte)).count();
        assert_eq!(shown, 0, "plaintext of a record that is not authentic");
    }
}

/// The content type and content that a receiver finds in a record (REC-9); `None`: no type.
pub(crate) fn effective(version: Version, content_type: u8, content: &[u8]) -> Option<(u8, &[u8])> {
    if version == Version::Tls12 || content_type != 0 {
        return Some((content_type, content));
    }
    let last = content.iter().rposition(|byte| *byte != 0)?;
    Some((content[last], &content[..last]))
}

/// CI-1, CI-12: what parses is written back as it was, and everything else is refused.
fn keys(bytes: &[u8]) {
    let head = CryptoInfo::head(bytes);
    match CryptoInfo::parse(bytes) {
        Ok(keys) => {
            assert_eq!(head, Ok((keys.version, keys.cipher)));
            let mut out = vec![0; expected_len(keys.cipher)];
            encode(&keys, keys.numbers().peek(), &mut out);
            assert_eq!(out, bytes);
            RecordOpener::new(&keys, Choice::Auto).expect("every cipher has a provider");
        }
        Err(error) => {
            assert_eq!(error, Error::Invalid);
            if let Ok((_, cipher)) = head {
                assert_ne!(bytes.len(), expected_len(cipher));
            }
        }
    }
}

/// A crypto_info whose bytes, and whose `rec_seq`, depend on `seed`.
pub(crate) fn crypto_info(version: Version, cipher: Cipher, seed: u8) -> Vec<u8> {
    let mut info: Vec<u8> = (0..expected_len(cipher)).map(|i| i as u8 ^ seed).collect();
    info[..2].copy_from_slice(&version.code().to_ne_bytes());
    info[2..4].copy_from_slice(&cipher.id().to_ne_bytes());
    let at = info.len() - 8;
    info[at..].copy_from_slice(&u64::from(seed).to_be_bytes());
    info
}

/// Decisions from the bytes of a fuzzer; when they are used up, every decision is 0.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *first
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// A number of at most `max`, which is less than 2^24. Small ones, and `max` itself, take one byte.
    pub(crate) fn up_to(&mut self, max: usize) -> usize {
        let number = match usize::from(self.byte()) {
            0xff => max,
            first @ 0xf0.. => {
                (first & 0xf) << 16 | usize::from(self.byte()) << 8 | usize::from(self.byte())
            }
            first @ 0x80.. => (first & 0x7f) << 8 | usize::from(self.byte()),
            first => first,
        };
        number.min(max)
    }

    /// The next `len` bytes, or all.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    pub(crate) fn suite(&mut self) -> (Version, Cipher) {
        let byte = usize::from(self.byte());
        let version = match byte & 1 {
            0 => Version::Tls12,
            _ => Version::Tls13,
        };
        let cipher = Cipher::ALL[(byte >> 1) % Cipher::ALL.len()];
        match cipher.is_in(version) {
            true => (version, cipher),
            false => (version, Cipher::AesGcm128),
        }
    }
}

/// Fake kernels, which connections name for the rest of the process: used again where a test is
/// known to be done with one, and never forgotten, as a leak checker would tell.
pub(crate) struct Kernels<T: 'static> {
    all: Mutex<Vec<&'static T>>,
    free: Mutex<Vec<&'static T>>,
}

impl<T: Default> Kernels<T> {
    pub(crate) const fn new() -> Kernels<T> {
        Kernels {
            all: Mutex::new(Vec::new()),
            free: Mutex::new(Vec::new()),
        }
    }

    /// One that nobody uses, in whatever state.
    pub(crate) fn take(&self) -> &'static T {
        let free = self.free.lock().expect("a list of pointers").pop();
        free.unwrap_or_else(|| {
            let new: &'static T = Box::leak(Box::default());
            self.all.lock().expect("a list of pointers").push(new);
            new
        })
    }

    pub(crate) fn give_back(&self, kernel: &'static T) {
        self.free.lock().expect("a list of pointers").push(kernel);
    }
}

/// Says what a failing input means.
pub(crate) struct Story<'a, T: core::fmt::Debug>(pub &'a T);

impl<T: core::fmt::Debug> Drop for Story<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.0);
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::fs;
    use std::path::Path;

    /// What a fuzzer has found interesting, and what it has found wrong, on every run.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let mut count = 0;
        for entry in fs::read_dir(folder.join(target)).expect("the corpus is there") {
            let path = entry.expect("the corpus is readable").path();
            let _story = super::Story(&path);
            run(&fs::read(&path).expect("the corpus is readable"));
            count += 1;
        }
        assert!(count > 0, "no corpus: this test is blind");
    }

    #[test]
    fn corpus_of_record() {
        replay("record", super::record);
    }

    #[test]
    fn corpus_of_rx() {
        replay("rx", super::rx);
    }

    #[test]
    fn corpus_of_tx() {
        replay("tx", super::tx);
    }
}
