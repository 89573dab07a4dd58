//! What fails inside the core stays inside: a panic at the C border, a record that cannot be
//! sealed. Needs the feature `fault-injection`.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uktls::capi::types::*;
use uktls::capi::*;
use uktls::engine::fault::{Fault, inject};

/// The settings and the armed fault belong to the process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // The panics of these tests are meant; their traces would only hide real ones.
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<&str>() != Some(&"injected") {
            eprintln!("{info}");
        }
    }));
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (out, listener.accept().unwrap().0)
}

fn init(socket: &TcpStream) -> RawFd {
    let fd = socket.as_raw_fd();
    let mut info = [7u8; 40];
    info[..2].copy_from_slice(&0x0304u16.to_ne_bytes());
    info[2..4].copy_from_slice(&51u16.to_ne_bytes());
    info[32..].fill(0);
    // SAFETY: `info` is readable for its length.
    let result = unsafe { tls_tx_init(fd, info.as_ptr().cast(), info.len()) };
    assert_eq!(result, 0);
    fd
}

fn send(fd: RawFd, len: usize) -> Result<isize, i32> {
    let data = vec![1u8; len];
    // SAFETY: `data` is readable for its length.
    let sent = unsafe { tls_send(fd, data.as_ptr().cast(), len, libc::MSG_NOSIGNAL) };
    match sent {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
        sent => Ok(sent),
    }
}

fn engine(engine: i32) {
    // SAFETY: plain old data, for which zero is a value.
    let mut config: uktls_config = unsafe { std::mem::zeroed() };
    config.size = size_of::<uktls_config>();
    config.engine = engine;
    // SAFETY: a whole struct whose strings are NULL.
    assert_eq!(unsafe { uktls_configure(&raw const config) }, 0);
}

/// Everything that arrives until the end of the stream, as lengths of records.
fn records(mut peer: TcpStream) -> Vec<usize> {
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).unwrap();
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let len = usize::from(bytes[at + 3]) << 8 | usize::from(bytes[at + 4]);
        assert!(at + 5 + len <= bytes.len(), "a record was cut off");
        found.push(len - 17);
        at += 5 + len;
    }
    found
}

/// Design rule 7: the call fails, the connection is marked broken for good, the program and its
/// other connections go on. TX-36, AS-6, AS-15: nothing goes out behind a record that failed.
fn check(fault: Fault, len: usize, kind: i32, errno: i32) {
    let _alone = alone();
    engine(kind);
    let (bad, bad_peer) = pair();
    let (good, good_peer) = pair();
    let (bad_fd, good_fd) = (init(&bad), init(&good));
    assert_eq!(send(bad_fd, 100), Ok(100));
    inject(fault);
    let mut result = send(bad_fd, len);
    // A record on its way through the pool may fail after its call has returned.
    for _ in 0..1000 {
        if result.is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        result = send(bad_fd, len);
    }
    assert_eq!(result, Err(errno));
    assert_eq!(send(bad_fd, 1), Err(errno));
    assert_eq!(send(good_fd, 5), Ok(5));
    for (socket, fd) in [(bad, bad_fd), (good, good_fd)] {
        // The number is given up by the socket's owner and closed by the library.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(socket);
        assert_eq!(uktls_close(fd), 0);
    }
    assert_eq!(records(bad_peer), [100]);
    assert_eq!(records(good_peer), [5]);
}

#[test]
fn a_panic_in_the_caller() {
    for len in [1, 5000, 16384] {
        check(
            Fault::Panic,
            len,
            UKTLS_ENGINE_INLINE,
            libc::ENOTRECOVERABLE,
        );
    }
}

#[test]
fn a_panic_in_the_pool() {
    check(
        Fault::Panic,
        16384,
        UKTLS_ENGINE_THREADS,
        libc::ENOTRECOVERABLE,
    );
}

#[test]
fn a_record_that_cannot_be_sealed() {
    for kind in [UKTLS_ENGINE_INLINE, UKTLS_ENGINE_THREADS, UKTLS_ENGINE_AUTO] {
        check(Fault::Fail, 16384, kind, libc::EBADMSG);
        check(Fault::Fail, 1, kind, libc::EBADMSG);
    }
}

/// The thread that has an accelerator's jobs: what it had fails, what comes afterwards is sealed by the processor.
#[test]
#[ignore = "wants UKTLS_ENGINE=openssl:ACCELERATOR and UKTLS_ENGINE_FALLBACK=error; make test-rust"]
fn a_panic_in_the_accelerators_thread() {
    let works = || {
        let _alone = alone();
        engine(UKTLS_ENGINE_OPENSSL);
        let (socket, peer) = pair();
        let fd = init(&socket);
        assert_eq!(send(fd, 16384), Ok(16384));
        let _ = std::os::fd::IntoRawFd::into_raw_fd(socket);
        assert_eq!(uktls_close(fd), 0);
        assert_eq!(records(peer), [16384]);
        sealed_by_accelerator()
    };
    assert_eq!(works(), 1);
    check(Fault::Fail, 16384, UKTLS_ENGINE_OPENSSL, libc::EBADMSG);
    check(
        Fault::Panic,
        16384,
        UKTLS_ENGINE_OPENSSL,
        libc::ENOTRECOVERABLE,
    );
    assert_eq!(works(), 1);
}

fn sealed_by_accelerator() -> u64 {
    // SAFETY: plain old data, for which zero is a value.
    let mut stats: uktls_stats = unsafe { std::mem::zeroed() };
    stats.size = size_of::<uktls_stats>();
    // SAFETY: a whole struct that says its size.
    assert_eq!(unsafe { uktls_get_stats(&raw mut stats) }, 0);
    stats.sealed_accelerator
}
