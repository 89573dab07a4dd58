//! The C types of `uktls.h`. This file uses nothing outside `core`, so that the `ctest` crate can
//! compare every layout with the generated header.
#![allow(non_camel_case_types)]

use core::ffi::{c_char, c_int};

/// Version of the header; `uktls_version` tells that of the library.
pub const UKTLS_VERSION_MAJOR: c_int = 0;
/// Second part of the header's version.
pub const UKTLS_VERSION_MINOR: c_int = 1;
/// Third part of the header's version.
pub const UKTLS_VERSION_PATCH: c_int = 0;

/// Decide from the kernel's abilities (preload library only).
pub const UKTLS_MODE_AUTO: c_int = 0;
/// Take every TLS socket over.
pub const UKTLS_MODE_ALWAYS: c_int = 1;
/// Take none over.
pub const UKTLS_MODE_OFF: c_int = 2;

/// Decide per record from what the connection is doing.
pub const UKTLS_ENGINE_AUTO: c_int = 0;
/// Seal in the calling thread.
pub const UKTLS_ENGINE_INLINE: c_int = 1;
/// Seal on the thread pool.
pub const UKTLS_ENGINE_THREADS: c_int = 2;
/// Seal on an accelerator behind OpenSSL: the one that `engine_id` names, or else `UKTLS_ENGINE=openssl:<id>`; EINVAL for
/// `uktls_configure` if neither does.
pub const UKTLS_ENGINE_OPENSSL: c_int = 3;

/// As the environment says (`UKTLS_ENGINE_FALLBACK`), or else by software.
pub const UKTLS_ENGINE_FALLBACK_DEFAULT: c_int = 0;
/// What the accelerator does not seal is sealed by the processor.
pub const UKTLS_ENGINE_FALLBACK_SOFTWARE: c_int = 1;
/// What the accelerator does not seal breaks the connection; without an accelerator, keys are refused (ENOENT).
pub const UKTLS_ENGINE_FALLBACK_ERROR: c_int = 2;

/// The fastest AEAD implementation present, per cipher.
pub const UKTLS_AEAD_AUTO: c_int = 0;
/// AWS-LC.
pub const UKTLS_AEAD_AWS_LC: c_int = 1;
/// OpenSSL's EVP interface.
pub const UKTLS_AEAD_OPENSSL: c_int = 2;
/// RustCrypto.
pub const UKTLS_AEAD_RUSTCRYPTO: c_int = 3;
/// ring, on x86-64.
pub const UKTLS_AEAD_RING: c_int = 4;

/// Settings for `uktls_configure`. Zero or NULL in a field keeps that setting's default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uktls_config {
    /// `sizeof(struct uktls_config)`, set by the caller.
    pub size: usize,
    /// `UKTLS_MODE_*`: which sockets the preload library takes over. Calls of this interface always
    /// do what they say.
    pub mode: c_int,
    /// `UKTLS_ENGINE_*`.
    pub engine: c_int,
    /// `UKTLS_AEAD_*`.
    pub aead: c_int,
    /// Sealing threads, at most 1024; 0: one less than there are processors, at least one. Counts
    /// for the first connection of the process only.
    pub threads: u32,
    /// Accepted and not yet transmitted bytes of one connection at which a send waits; 0: 1 MiB.
    pub tx_queue: usize,
    /// Milliseconds for which the end of the process waits for its readers, all together;
    /// 0: 60000.
    pub linger_ms: u32,
    /// `UKTLS_ENGINE_FALLBACK_*`. This and what else is about an accelerator counts for the first connection of the process only.
    pub engine_fallback: c_int,
    /// Milliseconds after which a record counts as lost by the accelerator; 0: as the environment says, or else 5000.
    pub engine_timeout_ms: u32,
    /// Most records, those of all connections, that the accelerator has at a time, up to 65536; 0: as the environment says, or
    /// else 4096.
    pub engine_in_flight: u32,
    /// The name or path of an OpenSSL provider or ENGINE, for `UKTLS_ENGINE_OPENSSL`; NULL: that of the environment. Once
    /// the process has had a connection, another one is refused (EBUSY).
    pub engine_id: *const c_char,
    /// A JSON line with the counters is appended to this file at exit; NULL: none.
    pub stats_file: *const c_char,
    /// `LEVEL` or `LEVEL:FILE`, LEVEL being error, warn, info, debug or trace; NULL: no log.
    pub log: *const c_char,
}

/// Counters of the process, filled in by `uktls_get_stats`. Those that start with `tls_` are named
/// after `/proc/net/tls_stat`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uktls_stats {
    /// `sizeof(struct uktls_stats)`, set by the caller.
    pub size: usize,
    /// TlsCurrTxSw: connections that have TX keys now.
    pub tls_curr_tx_sw: u64,
    /// TlsCurrRxSw: connections that have RX keys now.
    pub tls_curr_rx_sw: u64,
    /// TlsTxSw: connections that were given TX keys.
    pub tls_tx_sw: u64,
    /// TlsRxSw: connections that were given RX keys.
    pub tls_rx_sw: u64,
    /// TlsDecryptError: received records that were not authentic, each attempt.
    pub tls_decrypt_error: u64,
    /// TlsDecryptRetry: with TLS_RX_EXPECT_NO_PAD, records that the kernel would have opened twice.
    pub tls_decrypt_retry: u64,
    /// TlsRxNoPadViolation: of those, padded ones.
    pub tls_rx_no_pad_violation: u64,
    /// TlsRxRekeyOk: RX keys replaced.
    pub tls_rx_rekey_ok: u64,
    /// TlsRxRekeyError: refused attempts to replace RX keys.
    pub tls_rx_rekey_error: u64,
    /// TlsTxRekeyOk: TX keys replaced.
    pub tls_tx_rekey_ok: u64,
    /// TlsTxRekeyError: refused attempts to replace TX keys.
    pub tls_tx_rekey_error: u64,
    /// TlsRxRekeyReceived: KeyUpdate messages received.
    pub tls_rx_rekey_received: u64,
    /// Records opened.
    pub rx_records: u64,
    /// Plaintext bytes delivered to the program.
    pub rx_bytes: u64,
    /// Records handed to the kernel completely.
    pub tx_records: u64,
    /// Their plaintext bytes.
    pub tx_bytes: u64,
    /// Bytes handed to the kernel, record headers and tags included.
    pub tx_wire_bytes: u64,
    /// Deferred transmissions scheduled.
    pub deferred_scheduled: u64,
    /// Deferred transmissions cancelled, because a call had transmitted everything by itself.
    pub deferred_cancelled: u64,
    /// Records that went out in a call of the program.
    pub records_from_caller: u64,
    /// Records that went out in a worker's context.
    pub records_from_worker: u64,
    /// `sendmsg(2)` calls that took bytes; `tx_records / transmit_calls` is the mean gathered.
    pub transmit_calls: u64,
    /// The most records completed by one `sendmsg(2)`.
    pub transmit_records_max: u64,
    /// The most sealed bytes ever queued on one connection.
    pub queue_bytes_max: u64,
    /// The most records ever queued on one connection, sealed or being sealed.
    pub queue_records_max: u64,
    /// Records sealed in the calling thread.
    pub sealed_inline: u64,
    /// Records sealed on the thread pool.
    pub sealed_threads: u64,
    /// Records sealed on an accelerator.
    pub sealed_accelerator: u64,
    /// Records that the accelerator has failed or lost; the processor has sealed them, or the connection has broken.
    pub accelerator_failed: u64,
    /// Connections that broke: by the network, by a failed seal, by an internal fault.
    pub errors: u64,
}

/// Figures of one connection, filled in by `uktls_get_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uktls_info {
    /// `sizeof(struct uktls_info)`, set by the caller.
    pub size: usize,
    /// `TLS_1_2_VERSION` or `TLS_1_3_VERSION`; 0 before keys are set.
    pub version: u16,
    /// `TLS_CIPHER_*`; 0 before keys are set.
    pub cipher: u16,
    /// `TLS_CONF_SW` (2) if TX keys are set, `TLS_CONF_BASE` (1) if not.
    pub txconf: u16,
    /// The same for RX.
    pub rxconf: u16,
    /// Sequence number of the next TX record, big-endian; 0 without TX keys.
    pub tx_rec_seq: [u8; 8],
    /// Sequence number of the next RX record to be opened, big-endian; 0 without RX keys.
    pub rx_rec_seq: [u8; 8],
    /// Most plaintext bytes in a TX record.
    pub tx_max_payload_len: u16,
    /// Whether TLS_RX_EXPECT_NO_PAD is set.
    pub rx_no_pad: u8,
    /// Whether TLS_TX_ZEROCOPY_RO is set.
    pub zc_ro_tx: u8,
    /// `UKTLS_ENGINE_*` in force for this connection.
    pub engine: c_int,
    /// `UKTLS_AEAD_*` in use.
    pub aead: c_int,
    /// Padding, 0.
    pub reserved2: u32,
    /// Records handed to the kernel completely.
    pub tx_records: u64,
    /// Their plaintext bytes.
    pub tx_bytes: u64,
    /// Plaintext bytes accepted and not yet handed to the kernel.
    pub pending_bytes: u64,
    /// Records sealed or being sealed, and not yet completely with the kernel.
    pub pending_records: u64,
    /// Records opened.
    pub rx_records: u64,
    /// Plaintext bytes delivered to the program.
    pub rx_bytes: u64,
    /// TlsDecryptError, of this connection; and so on.
    pub tls_decrypt_error: u64,
    /// TlsDecryptRetry.
    pub tls_decrypt_retry: u64,
    /// TlsRxNoPadViolation.
    pub tls_rx_no_pad_violation: u64,
    /// TlsRxRekeyOk.
    pub tls_rx_rekey_ok: u64,
    /// TlsRxRekeyError.
    pub tls_rx_rekey_error: u64,
    /// TlsTxRekeyOk.
    pub tls_tx_rekey_ok: u64,
    /// TlsTxRekeyError.
    pub tls_tx_rekey_error: u64,
    /// TlsRxRekeyReceived.
    pub tls_rx_rekey_received: u64,
}
