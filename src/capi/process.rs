//! Settings and figures of the process and of its connections.

use core::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::time::Duration;

use super::guard::{guard, guard_infallible};
use super::memory;
use super::types::{
    UKTLS_AEAD_AUTO, UKTLS_AEAD_AWS_LC, UKTLS_AEAD_OPENSSL, UKTLS_AEAD_RING, UKTLS_AEAD_RUSTCRYPTO,
    UKTLS_ENGINE_AUTO, UKTLS_ENGINE_FALLBACK_DEFAULT, UKTLS_ENGINE_FALLBACK_ERROR,
    UKTLS_ENGINE_FALLBACK_SOFTWARE, UKTLS_ENGINE_INLINE, UKTLS_ENGINE_OPENSSL,
    UKTLS_ENGINE_THREADS, UKTLS_MODE_ALWAYS, UKTLS_MODE_AUTO, UKTLS_MODE_OFF, uktls_config,
    uktls_info, uktls_stats,
};
use crate::aead::{Choice, Provider};
use crate::config::{Config, IN_FLIGHT_MAX, Mode, THREADS_MAX, TX_QUEUE_MIN};
use crate::engine::{Fallback, Kind};
use crate::error::{Error, Result};
use crate::registry;
use crate::stats::STATS;
use crate::sys::abi::{TLS_CONF_BASE, TLS_CONF_SW};

/// Replace the settings of this process. They start from the environment variables of the same
/// names (uktls(7)); connections that exist keep the settings they were set up with.
///
/// Returns 0, or -1 with errno, nothing having changed: EFAULT `config` is NULL; EINVAL its `size`
/// is not that of a known version, or a field has no such value; EBUSY another accelerator is named, and the process has
/// had connections already.
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
        // SAFETY: NULL or a string, by our caller's promise.
        set_accelerator(&mut new, &config, unsafe { text(config.engine_id) }?)?;
        new.engine = engine(config.engine, new.accelerator.is_some())?;
        new.aead = aead(config.aead)?;
        new.threads = (config.threads != 0).then_some(config.threads as usize);
        if new.threads.is_some_and(|threads| threads > THREADS_MAX) {
            return Err(Error::Invalid);
        }
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
        registry::configure(|current| *current = new)?;
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
            tls_curr_rx_sw: s.curr_rx_sw.get(),
            tls_tx_sw: s.tx_sw.get(),
            tls_rx_sw: s.rx_sw.get(),
            tls_decrypt_error: s.decrypt_error.get(),
            tls_decrypt_retry: s.decrypt_retry.get(),
            tls_rx_no_pad_violation: s.rx_no_pad_violation.get(),
            tls_rx_rekey_ok: s.rx_rekey_ok.get(),
            tls_rx_rekey_error: s.rx_rekey_error.get(),
            tls_rx_rekey_received: s.rx_rekey_received.get(),
            rx_records: s.rx_records.get(),
            rx_bytes: s.rx_bytes.get(),
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
            sealed_accelerator: s.sealed_accelerator.get(),
            accelerator_failed: s.accelerator_failed.get(),
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
        let socket = found.get()?;
        let (tx, rx) = (
            socket
                .tx()
                .map(|connection| connection.info())
                .transpose()?,
            socket.rx().map(|receiver| receiver.info()).transpose()?,
        );
        let suite = socket.suite();
        let tally = rx.map_or_else(Default::default, |rx| rx.tally);
        let tx_rekeys = socket.tx().map_or((0, 0), |connection| connection.rekeys());
        let conf = |has_keys| if has_keys { TLS_CONF_SW } else { TLS_CONF_BASE };
        let aead = tx.map(|tx| tx.aead).or_else(|| rx.map(|rx| rx.aead));
        let filled = uktls_info {
            size,
            version: suite.map_or(0, |(version, _)| version.code()),
            cipher: suite.map_or(0, |(_, cipher)| cipher.id()),
            txconf: conf(tx.is_some()),
            rxconf: conf(rx.is_some()),
            tx_rec_seq: tx.map_or([0; 8], |tx| tx.number.rec_seq.to_be_bytes()),
            rx_rec_seq: rx.map_or([0; 8], |rx| rx.number.rec_seq.to_be_bytes()),
            tx_max_payload_len: u16::try_from(socket.max_payload()?).unwrap_or(u16::MAX),
            rx_no_pad: socket.rx().is_some_and(|rx| rx.expects_no_pad()).into(),
            zc_ro_tx: socket.zerocopy().into(),
            engine: match tx.map_or(Kind::Auto, |tx| tx.engine) {
                Kind::Auto => UKTLS_ENGINE_AUTO,
                Kind::Inline => UKTLS_ENGINE_INLINE,
                Kind::Threads => UKTLS_ENGINE_THREADS,
                Kind::Accelerator => UKTLS_ENGINE_OPENSSL,
            },
            aead: match aead {
                None => UKTLS_AEAD_AUTO,
                Some(Provider::AwsLc) => UKTLS_AEAD_AWS_LC,
                Some(Provider::OpenSsl) => UKTLS_AEAD_OPENSSL,
                Some(Provider::RustCrypto) => UKTLS_AEAD_RUSTCRYPTO,
                Some(Provider::Ring) => UKTLS_AEAD_RING,
            },
            reserved2: 0,
            tx_records: tx.map_or(0, |tx| tx.records),
            tx_bytes: tx.map_or(0, |tx| tx.bytes),
            pending_bytes: tx.map_or(0, |tx| tx.pending),
            pending_records: tx.map_or(0, |tx| tx.queued_records),
            rx_records: rx.map_or(0, |rx| rx.records),
            rx_bytes: rx.map_or(0, |rx| rx.bytes),
            tls_decrypt_error: tally.decrypt_error,
            tls_decrypt_retry: tally.decrypt_retry,
            tls_rx_no_pad_violation: tally.rx_no_pad_violation,
            tls_rx_rekey_ok: tally.rx_rekey_ok,
            tls_rx_rekey_error: tally.rx_rekey_error,
            tls_tx_rekey_ok: tx_rekeys.0,
            tls_tx_rekey_error: tx_rekeys.1,
            tls_rx_rekey_received: tally.rx_rekey_received,
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
/// None: structs of integers and raw pointers are looked at only if they can be read.
unsafe fn read<T: Sized_>(value: *const T) -> Result<T> {
    // SAFETY: an integer; every version of these structs starts with its size.
    let size = unsafe { memory::read(value.cast::<usize>()) }?;
    // There is one version yet. A later one will accept the sizes of all before it.
    if size != size_of::<T>() {
        return Err(Error::Invalid);
    }
    // SAFETY: structs of integers and raw pointers.
    let value = unsafe { memory::read(value) }?;
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

/// What is said of an accelerator; where nothing is, what has been said before, by the environment at first.
fn set_accelerator(new: &mut Config, config: &uktls_config, id: Option<&str>) -> Result<()> {
    let current = registry::config();
    new.accelerator = id
        .map(str::to_owned)
        .or_else(|| current.accelerator.clone());
    if new.accelerator.as_deref() == Some("") {
        return Err(Error::Invalid);
    }
    new.fallback = match config.engine_fallback {
        UKTLS_ENGINE_FALLBACK_DEFAULT => current.fallback,
        UKTLS_ENGINE_FALLBACK_SOFTWARE => Fallback::Software,
        UKTLS_ENGINE_FALLBACK_ERROR => Fallback::Error,
        _ => return Err(Error::Invalid),
    };
    new.engine_timeout = match config.engine_timeout_ms {
        0 => current.engine_timeout,
        ms => Duration::from_millis(ms.into()),
    };
    new.engine_in_flight = match config.engine_in_flight as usize {
        0 => current.engine_in_flight,
        records @ 1..=IN_FLIGHT_MAX => records,
        _ => return Err(Error::Invalid),
    };
    Ok(())
}

fn engine(value: c_int, has_accelerator: bool) -> Result<Kind> {
    match value {
        UKTLS_ENGINE_AUTO => Ok(Kind::Auto),
        UKTLS_ENGINE_INLINE => Ok(Kind::Inline),
        UKTLS_ENGINE_THREADS => Ok(Kind::Threads),
        UKTLS_ENGINE_OPENSSL if has_accelerator => Ok(Kind::Accelerator),
        _ => Err(Error::Invalid),
    }
}

fn aead(value: c_int) -> Result<Choice> {
    match value {
        UKTLS_AEAD_AUTO => Ok(Choice::Auto),
        UKTLS_AEAD_AWS_LC => Ok(Choice::AwsLc),
        UKTLS_AEAD_OPENSSL => Ok(Choice::OpenSsl),
        UKTLS_AEAD_RUSTCRYPTO => Ok(Choice::RustCrypto),
        UKTLS_AEAD_RING => Ok(Choice::Ring),
        _ => Err(Error::Invalid),
    }
}

const VERSION: &CStr = {
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL in it"),
    }
};
