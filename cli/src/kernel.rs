//! What the kernel's own TLS can do here.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use uktls::crypto_info::{self, CryptoInfo};
use uktls::sys::abi::{SOL_TCP, SOL_TLS, TCP_ULP, TLS_1_2_VERSION, TLS_1_3_VERSION, TLS_TX};
use uktls::sys::net;

const CIPHERS: [(u16, &str); 8] = [
    (51, "AES-128-GCM"),
    (52, "AES-256-GCM"),
    (53, "AES-128-CCM"),
    (54, "ChaCha20-Poly1305"),
    (55, "SM4-GCM"),
    (56, "SM4-CCM"),
    (57, "ARIA-128-GCM"),
    (58, "ARIA-256-GCM"),
];

/// What it takes for one version of the protocol.
pub struct Ciphers {
    pub version: &'static str,
    pub names: Vec<&'static str>,
}

/// The ciphers that the kernel takes, for each version of the protocol; `None` if it has no TLS.
pub fn ciphers() -> std::io::Result<Option<Vec<Ciphers>>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let attached = || -> std::io::Result<Option<TcpStream>> {
        let stream = TcpStream::connect(listener.local_addr()?)?;
        listener.accept()?;
        let name = b"tls\0";
        // SAFETY: readable for its length.
        let set = unsafe {
            net::setsockopt(
                stream.as_raw_fd(),
                SOL_TCP,
                TCP_ULP,
                name.as_ptr().cast(),
                4,
            )
        };
        Ok(set.is_ok().then_some(stream))
    };
    if attached()?.is_none() {
        return Ok(None);
    }
    let mut all = Vec::new();
    for (number, version) in [(TLS_1_2_VERSION, "TLS 1.2"), (TLS_1_3_VERSION, "TLS 1.3")] {
        let mut names = Vec::new();
        for (cipher, name) in CIPHERS {
            // A socket takes keys once.
            if let Some(stream) = attached()?
                && takes(&stream, number, cipher)
            {
                names.push(name);
            }
        }
        all.push(Ciphers { version, names });
    }
    Ok(Some(all))
}

fn takes(stream: &TcpStream, version: u16, cipher: u16) -> bool {
    let head = [version.to_ne_bytes(), cipher.to_ne_bytes()].concat();
    let Ok((_, known)) = CryptoInfo::head(&head) else {
        return false;
    };
    let mut info = vec![0u8; crypto_info::expected_len(known)];
    info[..4].copy_from_slice(&head);
    let len = info.len() as u32;
    // SAFETY: readable for its length.
    unsafe {
        net::setsockopt(
            stream.as_raw_fd(),
            SOL_TLS,
            TLS_TX,
            info.as_ptr().cast(),
            len,
        )
    }
    .is_ok()
}
