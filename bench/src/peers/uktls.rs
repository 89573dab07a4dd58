//! uktls through its C interface, as a C server would use it.

use std::ffi::c_int;
use std::io::Error;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::ptr;

use anyhow::{Result, bail, ensure};
use openssl::rand::rand_bytes;
use uktls::capi::types::{
    UKTLS_AEAD_AUTO, UKTLS_ENGINE_AUTO, UKTLS_MODE_ALWAYS, uktls_config, uktls_stats,
};
use uktls::capi::{
    tls_recv, tls_rx_init, tls_send, tls_tx_init, uktls_close, uktls_configure, uktls_flush,
    uktls_get_stats,
};

use super::{Receiver, Sender};
use crate::cipher::Cipher;
use crate::sink::protocol::CRYPTO_INFO;

/// A connection with keys.
pub struct Uktls {
    /// Closed by `uktls_close`.
    socket: ManuallyDrop<TcpStream>,
}

impl Uktls {
    /// Give `socket` random TLS 1.3 keys of `cipher`, with `UKTLS_ENGINE_*` to seal the records.
    pub fn attach(socket: TcpStream, cipher: Cipher, engine: c_int) -> Result<Self> {
        Self::attach_with_queue(socket, cipher, engine, DEFAULT_QUEUE)
    }

    /// As [`Self::attach`], with room for `queue` bytes that are accepted and not yet sent.
    pub fn attach_with_queue(
        socket: TcpStream,
        cipher: Cipher,
        engine: c_int,
        queue: usize,
    ) -> Result<Self> {
        configure(engine, queue)?;
        let crypto_info = crypto_info(cipher)?;
        // SAFETY: `crypto_info` is readable for its length.
        let done = unsafe {
            tls_tx_init(
                socket.as_raw_fd(),
                crypto_info.as_ptr().cast(),
                crypto_info.len(),
            )
        };
        ensure!(done == 0, "tls_tx_init: {}", Error::last_os_error());
        Ok(Self {
            socket: ManuallyDrop::new(socket),
        })
    }

    /// Give `socket` the keys that the sink seals with for those who do not come from a handshake.
    pub fn attach_receiver(socket: TcpStream) -> Result<Self> {
        configure(UKTLS_ENGINE_AUTO, DEFAULT_QUEUE)?;
        receive(&socket)?;
        Ok(Self {
            socket: ManuallyDrop::new(socket),
        })
    }
}

impl Sender for Uktls {
    #[inline]
    fn send(&mut self, mut message: &[u8]) -> Result<()> {
        while !message.is_empty() {
            // SAFETY: `message` is readable for its length.
            let sent = unsafe {
                tls_send(
                    self.socket.as_raw_fd(),
                    message.as_ptr().cast(),
                    message.len(),
                    0,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => message = &message[sent..],
                _ => bail!("tls_send: {}", Error::last_os_error()),
            }
        }
        Ok(())
    }

    fn receive_too(&mut self) -> Result<()> {
        receive(&self.socket)
    }

    fn flush(&mut self) -> Result<()> {
        let done = uktls_flush(self.socket.as_raw_fd(), FLUSH_MS);
        ensure!(done == 0, "uktls_flush: {}", Error::last_os_error());
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Receiver for Uktls {
    #[inline]
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: `buffer` is writable for its length.
        let received = unsafe {
            tls_recv(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        match usize::try_from(received) {
            Ok(received) => Ok(received),
            Err(_) => bail!("tls_recv: {}", Error::last_os_error()),
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Drop for Uktls {
    fn drop(&mut self) {
        // The socket that owns the descriptor is never dropped, so it is closed once.
        uktls_close(self.socket.as_raw_fd());
    }
}

fn receive(socket: &TcpStream) -> Result<()> {
    // SAFETY: `CRYPTO_INFO` is readable for its length.
    let done = unsafe {
        tls_rx_init(
            socket.as_raw_fd(),
            CRYPTO_INFO.as_ptr().cast(),
            CRYPTO_INFO.len(),
        )
    };
    ensure!(done == 0, "tls_rx_init: {}", Error::last_os_error());
    Ok(())
}

/// The counters of this process by name, those that only go up.
pub fn counters() -> Result<Vec<(&'static str, u64)>> {
    macro_rules! stats {
        ($($counter:ident)* ; $($other:ident)*) => {{
            let size = size_of::<uktls_stats>();
            let mut stats = uktls_stats { size, $($counter: 0,)* $($other: 0),* };
            // SAFETY: `stats` is writable for the size that it begins with.
            let done = unsafe { uktls_get_stats(&raw mut stats) };
            ensure!(done == 0, "uktls_get_stats: {}", Error::last_os_error());
            Ok(vec![$((stringify!($counter), stats.$counter)),*])
        }};
    }
    stats! {
        tls_tx_sw tls_rx_sw tls_decrypt_error tls_decrypt_retry tls_rx_no_pad_violation tls_tx_rekey_ok
        tls_tx_rekey_error tls_rx_rekey_ok tls_rx_rekey_error tls_rx_rekey_received rx_records rx_bytes tx_records tx_bytes tx_wire_bytes deferred_scheduled
        deferred_cancelled records_from_caller records_from_worker transmit_calls sealed_inline sealed_threads
        sealed_accelerator accelerator_failed
        errors;
        tls_curr_tx_sw tls_curr_rx_sw transmit_records_max queue_bytes_max
        queue_records_max
    }
}

/// `uktls_configure` takes it for the default.
const DEFAULT_QUEUE: usize = 0;

/// More than a sink that keeps reading can ever need.
const FLUSH_MS: c_int = 30_000;

/// The engine of the connections set up from now on; kernel TLS is never used.
fn configure(engine: c_int, tx_queue: usize) -> Result<()> {
    let config = uktls_config {
        size: size_of::<uktls_config>(),
        mode: UKTLS_MODE_ALWAYS,
        engine,
        aead: UKTLS_AEAD_AUTO,
        threads: 0,
        tx_queue,
        linger_ms: 0,
        engine_fallback: 0,
        engine_timeout_ms: 0,
        engine_in_flight: 0,
        engine_id: ptr::null(),
        stats_file: ptr::null(),
        log: ptr::null(),
    };
    // SAFETY: `config` is readable for the size that it begins with; its strings are null.
    let done = unsafe { uktls_configure(&raw const config) };
    ensure!(done == 0, "uktls_configure: {}", Error::last_os_error());
    Ok(())
}

/// `struct tls12_crypto_info_aes_gcm_128` or `_chacha20_poly1305` of `<linux/tls.h>`: version, cipher, iv, key, salt (which the
/// latter has none of), rec_seq.
pub fn crypto_info(cipher: Cipher) -> Result<Vec<u8>> {
    const TLS_1_3_VERSION: u16 = 0x0304;
    const TLS_CIPHER_AES_GCM_128: u16 = 51;
    const TLS_CIPHER_CHACHA20_POLY1305: u16 = 54;
    const REC_SEQ_LEN: usize = 8;

    let (number, secrets_len) = match cipher {
        Cipher::Aes128Gcm => (TLS_CIPHER_AES_GCM_128, 8 + 16 + 4),
        Cipher::ChaCha20Poly1305 => (TLS_CIPHER_CHACHA20_POLY1305, 12 + 32),
    };
    let mut secrets = vec![0; secrets_len];
    rand_bytes(&mut secrets)?;
    Ok([
        &TLS_1_3_VERSION.to_ne_bytes()[..],
        &number.to_ne_bytes(),
        &secrets,
        &[0; REC_SEQ_LEN],
    ]
    .concat())
}
