//! The sending side.
#![forbid(unsafe_code)]

use super::*;

/// The sending side.
pub(in crate::rx) struct Peer {
    pub sealer: RecordSealer,
    pub(super) numbers: RecordNumbers,
    pub(super) version: Version,
    /// Which keys: the seed of their crypto_info.
    pub(super) seed: u8,
}

impl Peer {
    pub(in crate::rx) fn new(info: &[u8]) -> Peer {
        let keys = CryptoInfo::parse(info).expect("well-formed");
        Peer {
            sealer: RecordSealer::new(&keys, Choice::Auto).expect("some provider has it"),
            numbers: keys.numbers(),
            version: keys.version,
            seed: keys.rec_seq as u8,
        }
    }

    pub(in crate::rx) fn record(
        &mut self,
        content_type: u8,
        content: &[u8],
        padding: usize,
    ) -> Vec<u8> {
        let number = self.numbers.reserve().expect("numbers are left");
        let padding = padding.min(crate::record::MAX_PLAINTEXT - content.len());
        let mut plain = content.to_vec();
        let mut inner = content_type;
        if self.version == Version::Tls13 && padding > 0 {
            // The sealer's own type byte becomes the last byte of the padding.
            plain.push(content_type);
            plain.resize(content.len() + padding, 0);
            inner = 0;
        }
        let mut out = vec![0; plain.len() + self.sealer.overhead()];
        self.sealer
            .seal_from(number, inner, &plain, &mut out)
            .expect("a record of a legal length");
        out
    }

    pub(in crate::rx) fn send(
        &mut self,
        sys: &FakeSys,
        content_type: u8,
        content: &[u8],
        padding: usize,
    ) {
        let wire = self.record(content_type, content, padding);
        sys.socket().arriving.extend(wire);
    }

    /// The keys and the number of the next record.
    pub(super) fn key(&self) -> (u8, u64) {
        (self.seed, self.numbers.peek().rec_seq)
    }
}
