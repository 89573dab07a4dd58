//! The ciphers measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A cipher suite of TLS 1.3 (RFC 8446 §B.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Cipher {
    #[default]
    #[value(name = "aes-128-gcm")]
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
    #[value(name = "chacha20-poly1305")]
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Cipher {
    pub const ALL: [Self; 2] = [Self::Aes128Gcm, Self::ChaCha20Poly1305];

    /// The suite's own name, which OpenSSL knows it by.
    pub fn suite(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
            Self::ChaCha20Poly1305 => "TLS_CHACHA20_POLY1305_SHA256",
        }
    }

    /// The name that rustls has for the suite.
    pub fn rustls_name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "TLS13_AES_128_GCM_SHA256",
            Self::ChaCha20Poly1305 => "TLS13_CHACHA20_POLY1305_SHA256",
        }
    }

    /// What the name of a scenario says of it: nothing of the usual one.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "",
            Self::ChaCha20Poly1305 => " ChaCha20",
        }
    }
}
