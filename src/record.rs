//! The record layer's pure rules: header, nonce, additional data, limits, numbers.
//!
//! RFC 8446 section 5, RFC 5246 section 6.2.3.3, RFC 5288, RFC 7905; section 3 of the kTLS
//! behaviour. Nothing here allocates, fails with an errno, or knows a key.
#![forbid(unsafe_code)]

/// Record header: type (1), version (2), length (2).
pub const HEADER_LEN: usize = 1 + 2 + 2;
/// Most plaintext bytes in a record: 2^14.
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// Authentication tag; the same for every kTLS cipher.
pub const TAG_LEN: usize = 16;
/// AEAD nonce; the same for every kTLS cipher.
pub const NONCE_LEN: usize = 12;
/// The part of the nonce that TLS 1.2 GCM and CCM put on the wire.
pub const NONCE_EXPLICIT_LEN: usize = 8;

/// TLS content types (RFC 8446 section 5.1).
pub mod content_type {
    /// change_cipher_spec.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// alert.
    pub const ALERT: u8 = 21;
    /// handshake.
    pub const HANDSHAKE: u8 = 22;
    /// application_data.
    pub const APPLICATION_DATA: u8 = 23;
}

/// Protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Version {
    /// The code of `<linux/tls.h>`.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Version::Tls12 => 0x0303,
            Version::Tls13 => 0x0304,
        }
    }

    /// The version with this code, if it is one that kTLS knows.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Version> {
        match code {
            0x0303 => Some(Version::Tls12),
            0x0304 => Some(Version::Tls13),
            _ => None,
        }
    }
}

/// How a record's nonce comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceForm {
    /// Salt, then eight bytes that stand on the wire (TLS 1.2 GCM and CCM, RFC 5288).
    Explicit,
    /// A static IV, its last eight bytes XORed with the sequence number (TLS 1.3, and ChaCha20
    /// in both versions, RFC 7905).
    Xor,
}

/// The lengths of a record around its plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Header and explicit nonce.
    pub prefix_len: usize,
    /// Inner content type (TLS 1.3) and tag.
    pub suffix_len: usize,
}

impl Layout {
    /// The layout for a version and nonce form.
    #[must_use]
    pub const fn new(version: Version, form: NonceForm) -> Layout {
        let prefix_len = match form {
            NonceForm::Explicit => HEADER_LEN + NONCE_EXPLICIT_LEN,
            NonceForm::Xor => HEADER_LEN,
        };
        let suffix_len = match version {
            Version::Tls12 => TAG_LEN,
            Version::Tls13 => 1 + TAG_LEN,
        };
        Layout {
            prefix_len,
            suffix_len,
        }
    }

    /// Bytes of a record that are not plaintext.
    #[must_use]
    pub const fn overhead(self) -> usize {
        self.prefix_len + self.suffix_len
    }
}

/// The two numbers of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordNumber {
    /// The sequence number: in the AAD (TLS 1.2) or the nonce (`NonceForm::Xor`).
    pub rec_seq: u64,
    /// What goes into the nonce and onto the wire (`NonceForm::Explicit`); else unused.
    pub nonce_explicit: u64,
}

/// The numbers of one direction. Each is given out once.
#[derive(Debug)]
pub struct RecordNumbers {
    next: RecordNumber,
}

impl RecordNumbers {
    /// Numbers that start here. They may differ (REC-4).
    #[must_use]
    pub fn new(rec_seq: u64, nonce_explicit: u64) -> RecordNumbers {
        RecordNumbers {
            next: RecordNumber {
                rec_seq,
                nonce_explicit,
            },
        }
    }

    /// The number of the next record.
    #[must_use]
    pub fn peek(&self) -> RecordNumber {
        self.next
    }

    /// Spends the next number. `None` for good once only 2^64 - 1 is left (REC-13), so that no
    /// number can come twice.
    pub fn reserve(&mut self) -> Option<RecordNumber> {
        let number = self.next;
        self.next.rec_seq = number.rec_seq.checked_add(1)?;
        // May start anywhere and so may pass 2^64; fewer than 2^64 records never repeat it.
        self.next.nonce_explicit = number.nonce_explicit.wrapping_add(1);
        Some(number)
    }
}

/// The header of a record that carries `fragment_len` bytes behind it (REC-1).
#[must_use]
pub fn header(version: Version, content_type: u8, fragment_len: usize) -> [u8; HEADER_LEN] {
    let outer_type = match version {
        Version::Tls12 => content_type,
        Version::Tls13 => content_type::APPLICATION_DATA,
    };
    let [high, low] = wire_len(fragment_len);
    [outer_type, 0x03, 0x03, high, low]
}

/// Nonce of `NonceForm::Explicit` (REC-4).
#[must_use]
pub fn nonce_from_explicit(salt: [u8; 4], explicit: [u8; NONCE_EXPLICIT_LEN]) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..4].copy_from_slice(&salt);
    nonce[4..].copy_from_slice(&explicit);
    nonce
}

/// Nonce of `NonceForm::Xor` (REC-6).
#[must_use]
pub fn nonce_from_sequence(static_iv: &[u8; NONCE_LEN], rec_seq: u64) -> [u8; NONCE_LEN] {
    let mut nonce = *static_iv;
    for (byte, number) in nonce[4..].iter_mut().zip(rec_seq.to_be_bytes()) {
        *byte ^= number;
    }
    nonce
}

/// Additional data of TLS 1.2 (REC-2).
#[must_use]
pub fn aad_tls12(rec_seq: u64, content_type: u8, plaintext_len: usize) -> [u8; 8 + HEADER_LEN] {
    let mut aad = [0; 8 + HEADER_LEN];
    aad[..8].copy_from_slice(&rec_seq.to_be_bytes());
    aad[8..].copy_from_slice(&header(Version::Tls12, content_type, plaintext_len));
    aad
}

/// Additional data of TLS 1.3: the header itself (REC-3).
#[must_use]
pub fn aad_tls13(fragment_len: usize) -> [u8; HEADER_LEN] {
    header(Version::Tls13, content_type::APPLICATION_DATA, fragment_len)
}

/// A header as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Outer content type.
    pub content_type: u8,
    /// Bytes behind the header.
    pub fragment_len: usize,
}

/// Why a received header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Longer than any record can be: `EMSGSIZE`.
    TooLong,
    /// Too short for nonce and tag: `EBADMSG`.
    TooShort,
    /// Version bytes other than 03 03: `EINVAL`.
    BadVersion,
}

/// Parses a received header, with the kernel's checks in the kernel's order (RX-3). The type is
/// not looked at.
///
/// # Errors
/// The first check that fails.
pub fn parse_header(
    bytes: [u8; HEADER_LEN],
    version: Version,
    form: NonceForm,
) -> Result<Header, BadHeader> {
    let [content_type, major, minor, high, low] = bytes;
    let fragment_len = usize::from(u16::from_be_bytes([high, low]));
    let layout = Layout::new(version, form);
    // The inner type does not count for the minimum: such a record fails later (REC-9).
    let shortest = layout.prefix_len - HEADER_LEN + TAG_LEN;
    let longest = MAX_PLAINTEXT + layout.overhead() - HEADER_LEN;
    if fragment_len > longest {
        return Err(BadHeader::TooLong);
    }
    if fragment_len < shortest {
        return Err(BadHeader::TooShort);
    }
    if (major, minor) != (0x03, 0x03) {
        return Err(BadHeader::BadVersion);
    }
    Ok(Header {
        content_type,
        fragment_len,
    })
}

fn wire_len(len: usize) -> [u8; 2] {
    u16::try_from(len)
        .expect("a fragment is at most 2^14 + 2048 bytes long")
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// REC-13: the record that would use 2^64 - 1 is refused, and so is every later one.
    #[test]
    fn numbers_end_and_never_wrap() {
        let mut numbers = RecordNumbers::new(u64::MAX - 2, u64::MAX);
        let first = RecordNumber {
            rec_seq: u64::MAX - 2,
            nonce_explicit: u64::MAX,
        };
        assert_eq!(numbers.reserve(), Some(first));
        let second = RecordNumber {
            rec_seq: u64::MAX - 1,
            nonce_explicit: 0,
        };
        assert_eq!(numbers.reserve(), Some(second));
        for _ in 0..3 {
            assert_eq!(numbers.reserve(), None);
            assert_eq!(numbers.peek().rec_seq, u64::MAX);
        }
    }

    /// REC-1, REC-2, REC-3, REC-4, REC-6.
    #[test]
    fn wire_forms() {
        assert_eq!(header(Version::Tls12, 21, 26), [21, 3, 3, 0, 26]);
        assert_eq!(header(Version::Tls13, 21, 19), [23, 3, 3, 0, 19]);
        assert_eq!(
            aad_tls12(1, 22, 0x1234),
            [0, 0, 0, 0, 0, 0, 0, 1, 22, 3, 3, 0x12, 0x34]
        );
        assert_eq!(aad_tls13(17), [23, 3, 3, 0, 17]);
        let nonce = nonce_from_sequence(&[0xff; 12], 0x0102);
        assert_eq!(
            nonce,
            [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0xfe, 0xfd]
        );
        let nonce = nonce_from_explicit([1, 2, 3, 4], [9; 8]);
        assert_eq!(nonce, [1, 2, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9]);
    }

    /// The limits of the length field, and which check comes first.
    #[test]
    fn header_checks() {
        use BadHeader::{BadVersion, TooLong, TooShort};
        use NonceForm::{Explicit, Xor};
        for (version, form, longest, shortest) in [
            (Version::Tls12, Explicit, 16408, 24),
            (Version::Tls12, Xor, 16400, 16),
            (Version::Tls13, Xor, 16401, 16),
        ] {
            let parse = |major: u8, len: usize| {
                let [high, low] = (len as u16).to_be_bytes();
                parse_header([99, major, 3, high, low], version, form)
            };
            assert_eq!(
                parse(3, longest),
                Ok(Header {
                    content_type: 99,
                    fragment_len: longest
                })
            );
            assert_eq!(
                parse(3, shortest),
                Ok(Header {
                    content_type: 99,
                    fragment_len: shortest
                })
            );
            assert_eq!(parse(3, longest + 1), Err(TooLong));
            assert_eq!(parse(2, longest + 1), Err(TooLong));
            assert_eq!(parse(3, shortest - 1), Err(TooShort));
            assert_eq!(parse(2, shortest - 1), Err(TooShort));
            assert_eq!(parse(2, shortest), Err(BadVersion));
        }
    }
}
