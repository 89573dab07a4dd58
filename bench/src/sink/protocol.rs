//! What sender and sink say to each other around the measured bytes, in the clear.

use std::io::{self, Read, Write};

use crate::cipher::Cipher;

/// Sent by the sink when the connection is ready for the measured bytes: after the handshake, if there is one.
pub const READY: u8 = b'+';
/// The responder's answer to one request.
pub const ANSWER: u8 = b'.';

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes are dropped until the sender shuts down.
    Stream = 0,
    /// Each `wire_len` bytes are answered with one byte.
    Request = 1,
    /// The connection is put aside, unread.
    Park = 2,
    /// No connection to measure: asks for the bytes that the parked and the active ones have received.
    Collect = 3,
    /// The sink sends: the receiver asks for a number of records of `wire_len` bytes each, again and again, until it shuts down.
    DeliverPlain = 4,
    /// The same, sealed: with the keys of the handshake, or with those of [`CRYPTO_INFO`].
    DeliverSealed = 5,
    /// Bytes are dropped by one thread for all connections of this kind, until the sender shuts down.
    Active = 6,
}

/// `struct tls12_crypto_info_aes_gcm_128` of `<linux/tls.h>` (version, cipher, iv, key, salt, rec_seq): some TLS 1.3 keys.
pub const CRYPTO_INFO: [u8; 40] = {
    let mut info = [0x21; 40];
    [info[0], info[1]] = 0x0304u16.to_ne_bytes();
    [info[2], info[3]] = 51u16.to_ne_bytes();
    let mut i = info.len() - 8;
    while i < info.len() {
        info[i] = 0;
        i += 1;
    }
    info
};

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub kind: Kind,
    /// A TLS 1.3 handshake with this cipher follows, with the sink as the server.
    pub handshake: Option<Cipher>,
    /// [`Kind::Request`]: the length of one request on the wire. [`Kind::DeliverPlain`], [`Kind::DeliverSealed`]: the payload of
    /// one record.
    pub wire_len: u64,
    /// The processor on which the sink is to serve this connection.
    pub processor: Option<usize>,
}

const HELLO_LEN: usize = 1 + 1 + 8 + 8;
const ANY_PROCESSOR: u64 = u64::MAX;
const NO_HANDSHAKE: u8 = u8::MAX;

impl Hello {
    /// A connection for `kind`, with neither a handshake nor requests.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            handshake: None,
            wire_len: 0,
            processor: None,
        }
    }

    pub fn write_to(self, writer: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; HELLO_LEN];
        bytes[0] = self.kind as u8;
        bytes[1] = self.handshake.map_or(NO_HANDSHAKE, |cipher| cipher as u8);
        let processor = self.processor.map_or(ANY_PROCESSOR, |number| number as u64);
        bytes[2..10].copy_from_slice(&self.wire_len.to_be_bytes());
        bytes[10..].copy_from_slice(&processor.to_be_bytes());
        writer.write_all(&bytes)
    }

    pub fn read_from(reader: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; HELLO_LEN];
        reader.read_exact(&mut bytes)?;
        let [kind, handshake, numbers @ ..] = bytes;
        let kind = match kind {
            0 => Kind::Stream,
            1 => Kind::Request,
            2 => Kind::Park,
            3 => Kind::Collect,
            4 => Kind::DeliverPlain,
            5 => Kind::DeliverSealed,
            6 => Kind::Active,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let mut numbers = numbers.as_slice();
        let wire_len = read_total(&mut numbers)?;
        let processor = read_total(&mut numbers)?;
        Ok(Self {
            kind,
            handshake: Cipher::ALL.get(usize::from(handshake)).copied(),
            wire_len,
            processor: usize::try_from(processor)
                .ok()
                .filter(|_| processor != ANY_PROCESSOR),
        })
    }
}

pub fn write_total(writer: &mut impl Write, total: u64) -> io::Result<()> {
    writer.write_all(&total.to_be_bytes())
}

pub fn read_total(reader: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_survives_the_wire() {
        for kind in [
            Kind::Stream,
            Kind::Request,
            Kind::Park,
            Kind::Collect,
            Kind::DeliverPlain,
            Kind::DeliverSealed,
            Kind::Active,
        ] {
            let hello = Hello {
                wire_len: 16_406,
                processor: Some(1),
                handshake: Some(Cipher::ChaCha20Poly1305),
                ..Hello::new(kind)
            };
            let mut wire = Vec::new();
            hello.write_to(&mut wire).unwrap();
            assert_eq!(Hello::read_from(&mut wire.as_slice()).unwrap(), hello);
        }
    }
}
