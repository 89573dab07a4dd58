//! Settings and figures of the process and of its connections.

use core::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::time::Duration;

use super::guard::{guard, guard_infallible};
use super::types::{
    UKTLS_AEAD_AUTO, UKTLS_AEAD_AWS_LC, UKTLS_AEAD_OPENSSL, UKTLS_AEAD_RUSTCRYPTO,
    UKTLS_ENGINE_AUTO, UKTLS_ENGINE_INLINE, UKTLS_ENGINE_THREADS, UKTLS_MODE_ALWAYS,
    UKTLS_MODE_AUTO, UKTLS_MODE_OFF, uktls_config, uktls_info, uktls_stats,
};
use crate::aead::{Choice, Provider};
use crate::config::{Config, Mode, TX_QUEUE_MIN};
use crate::engine::Kind;
use crate::error::{Error, Result};
use crate::registry;
use crate::stats::STATS;
use crate::sys::abi::{TLS_CONF_BASE, TLS_CONF_SW};

/// Replace the settings of this process. They start from the environment variables of the same
/// names (uktls(7)); connections that exist keep the settings they were set up with.
///
/// Returns 0, or -1 with errno, nothing having changed: EFAULT `config` is NULL; EINVAL its `size`
/// is not that of a known version, or a field has no such value.
/// Any thread may call it. Since 0.1.
///
/// # Safety
/// `config` is NULL or points to a struct as large as its `size` says; its strings are NULL or end
/// with a NUL.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn uktls_configure(config: *const uktls_config) -> c_int {
    guard(-1, || {
        // SAFETY: our caller promises NULL or a struct of the size that it names.
        let config = unsafe { read(config) }?;
        let (mut new, complaints) = Config::from_lookup(|_| None);
        debug_assert!(complaints.is_empty());
        new.mode = mode(config.mode)?;
        new.engine = engine(config.engine)?;
        new.aead = aead(config.aead)?;
        new.threads = (config.threads != 0).then_some(config.threads as usize);
        if config.tx_queue != 0 {
            let enough = config.tx_queue >= TX_QUEUE_MIN;
            new.tx_queue = enough.then_some(config.tx_queue).ok_or(Error::Invalid)?;
        }
        if config.linger_ms != 0 {
            new.linger = Duration::from_millis(config.linger_ms.into());
        }
        // SAFETY: NULL or a string, by our caller's promise.
        new.stats_file = unsafe { text(config.stats_file) }?.map(PathBuf::from);
        // SAFETY: as above.
        let log = unsafe { text(config.log) }?;
        new.log = log
            .map(|log| log.parse().map_err(|()| Error::Invalid))
            .transpose()?;
        registry::configure(|current| *current = new);
        Ok(0)
    })
}

/// Fill in the counters of this process; the caller sets `size` first.
///
/// Returns 0, or -1 with errno: EFAULT `stats` is NULL; EINVAL `size` is not that of a known
/// version. Each counter is exact, but one may be seen before another has moved.
/// Any thread may call it. Since 0.1.
///
/// # Safety
/// `stats` is NULL or points to a writable struct as large as its `size` says.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn uktls_get_stats(stats: *mut uktls_stats) -> c_int {
    guard(-1, || {
        // SAFETY: our caller promises NULL or a struct of the size that it names.
        let size = unsafe { read(stats.cast_const()) }?.size;
        let s = &STATS;
        let filled = uktls_stats {
            size,
            tls_curr_tx_sw: s.curr_tx_sw.get(),
            tls_curr_rx_sw: 0,
            tls_tx_sw: s.tx_sw.get(),
            tls_rx_sw: 0,
            tls_decrypt_error: 0,
            tls_tx_rekey_ok: s.tx_rekey_ok.get(),
            tls_tx_rekey_error: s.tx_rekey_error.get(),
            tx_records: s.tx_records.get(),
            tx_bytes: s.tx_bytes.get(),
            tx_wire_bytes: s.tx_wire_bytes.get(),
            deferred_scheduled: s.deferred_scheduled.get(),
            deferred_cancelled: s.deferred_cancelled.get(),
            records_from_caller: s.records_from_caller.get(),
            records_from_worker: s.records_from_worker.get(),
            transmit_calls: s.transmit_calls.get(),
            transmit_records_max: s.transmit_records_max.get(),
            queue_bytes_max: s.queue_bytes_max.get(),
            queue_records_max: s.queue_records_max.get(),
            sealed_inline: s.sealed_inline.get(),
            sealed_threads: s.sealed_threads.get(),
            errors: s.errors.get(),
        };
        // SAFETY: `read` checked that the struct is as large as ours.
        unsafe { stats.write_unaligned(filled) };
        Ok(0)
    })
}

/// Fill in the figures of the connection on `fd`; the caller sets `size` first.
///
/// Returns 0, or -1 with errno: EFAULT `info` is NULL; EINVAL `size` is not that of a known
/// version; EBADF, ENOTSOCK; ENOPROTOOPT `fd` has no keys; ENOTRECOVERABLE keys set before a raw
/// clone(2).
/// Any thread may call it. Since 0.1.
///
/// # Safety
/// `info` is NULL or points to a writable struct as large as its `size` says.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn uktls_get_info(fd: c_int, info: *mut uktls_info) -> c_int {
    guard(fd, || {
        // SAFETY: our caller promises NULL or a struct of the size that it names.
        let size = unsafe { read(info.cast_const()) }?.size;
        let found = registry::entry(fd)?;
        let figures = found.get()?.info()?;
        let filled = uktls_info {
            size,
            version: figures.version.code(),
            cipher: figures.cipher.id(),
            txconf: TLS_CONF_SW,
            rxconf: TLS_CONF_BASE,
            tx_rec_seq: figures.number.rec_seq.to_be_bytes(),
            tx_max_payload_len: figures.max_payload,
            reserved: 0,
            engine: match figures.engine {
                Kind::Auto => UKTLS_ENGINE_AUTO,
                Kind::Inline => UKTLS_ENGINE_INLINE,
                Kind::Threads => UKTLS_ENGINE_THREADS,
            },
            aead: match figures.aead {
                Provider::AwsLc => UKTLS_AEAD_AWS_LC,
                Provider::OpenSsl => UKTLS_AEAD_OPENSSL,
                Provider::RustCrypto => UKTLS_AEAD_RUSTCRYPTO,
            },
            reserved2: 0,
            tx_records: figures.records,
            tx_bytes: figures.bytes,
            pending_bytes: figures.pending,
            pending_records: figures.queued_records,
        };
        // SAFETY: `read` checked that the struct is as large as ours.
        unsafe { info.write_unaligned(filled) };
        Ok(0)
    })
}

/// The version of the library, as "MAJOR.MINOR.PATCH". Static, never NULL. Since 0.1.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub extern "C" fn uktls_version() -> *const c_char {
    guard_infallible(core::ptr::null(), || VERSION.as_ptr())
}

/// A struct that starts with its own size.
trait Sized_: Copy {
    fn size(&self) -> usize;
}

macro_rules! sized {
    ($($name:ident),*) => {
        $(impl Sized_ for $name {
            fn size(&self) -> usize {
                self.size
            }
        })*
    };
}

sized!(uktls_config, uktls_stats, uktls_info);

/// # Safety
/// `value` is NULL or points to a struct that starts with its size and is as large as that.
unsafe fn read<T: Sized_>(value: *const T) -> Result<T> {
    if value.is_null() {
        return Err(Error::BadAddress);
    }
    // SAFETY: every version of these structs starts with its size.
    let size = unsafe { value.cast::<usize>().read_unaligned() };
    // There is one version yet. A later one will accept the sizes of all before it.
    if size != size_of::<T>() {
        return Err(Error::Invalid);
    }
    // SAFETY: as large as its size says, and the size is right.
    let value = unsafe { value.read_unaligned() };
    debug_assert_eq!(value.size(), size);
    Ok(value)
}

/// # Safety
/// `text` is NULL or ends with a NUL.
unsafe fn text<'a>(text: *const c_char) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: ends with a NUL by our caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Error::Invalid)
}

fn mode(value: c_int) -> Result<Mode> {
    match value {
        UKTLS_MODE_AUTO => Ok(Mode::Auto),
        UKTLS_MODE_ALWAYS => Ok(Mode::Always),
        UKTLS_MODE_OFF => Ok(Mode::Off),
        _ => Err(Error::Invalid),
    }
}

fn engine(value: c_int) -> Result<Kind> {
    match value {
        UKTLS_ENGINE_AUTO => Ok(Kind::Auto),
        UKTLS_ENGINE_INLINE => Ok(Kind::Inline),
        UKTLS_ENGINE_THREADS => Ok(Kind::Threads),
        _ => Err(Error::Invalid),
    }
}

fn aead(value: c_int) -> Result<Choice> {
    match value {
        UKTLS_AEAD_AUTO => Ok(Choice::Auto),
        UKTLS_AEAD_AWS_LC => Ok(Choice::AwsLc),
        UKTLS_AEAD_OPENSSL => Ok(Choice::OpenSsl),
        UKTLS_AEAD_RUSTCRYPTO => Ok(Choice::RustCrypto),
        _ => Err(Error::Invalid),
    }
}

const VERSION: &CStr = {
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL in it"),
    }
};
