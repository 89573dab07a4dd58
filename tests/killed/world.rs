//! Processes, sockets and calls, as the tests need them.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use uktls::aead::TrafficKeys;
use uktls::capi::*;
use uktls::crypto_info::CryptoInfo;
use uktls::sys::steps;

pub const SOL_TLS: i32 = 282;
pub const TLS_TX: i32 = 1;
pub const SET_RECORD_TYPE: i32 = 1;
pub const GET_RECORD_TYPE: i32 = 2;
pub const DATA: u8 = 23;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;

/// Bytes with the type of their record.
pub type Stream = Vec<(u8, u8)>;

/// The armed step belongs to the process, and each child has all descriptors: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        // In front of the library's handler, so that a child can die in that one too.
        // SAFETY: the handler only stores a number.
        assert_eq!(unsafe { libc::pthread_atfork(None, None, Some(arm)) }, 0);
    });
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Whatever sleeps for good ends the test.
    // SAFETY: takes no pointer.
    unsafe { libc::alarm(300) };
    guard
}

/// The step at which the next child dies, counted from its handler of `fork`.
static AT_FORK: AtomicU64 = AtomicU64::new(0);

extern "C" fn arm() {
    steps::die_at(AT_FORK.load(Ordering::SeqCst));
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    /// It has done all that it had to do.
    Done,
}

/// When a child dies.
#[derive(Clone, Copy, Debug)]
pub enum Death {
    /// At so many steps in its work.
    AtWork(u64),
    /// The same, the handlers of `fork` included.
    AtFork(u64),
}

/// Runs `work` in a child that dies so; what `work` tells is the second result, 8 bytes each.
pub fn child(death: Death, work: impl FnOnce(&mut dyn FnMut(u64))) -> (End, Vec<u64>) {
    let (mut reader, writer): (PipeReader, PipeWriter) = std::io::pipe().unwrap();
    if let Death::AtFork(n) = death {
        AT_FORK.store(n, Ordering::SeqCst);
    }
    #[expect(clippy::disallowed_methods, reason = "a test may fork")]
    // SAFETY: the child only does what a child of a program with threads may do: the test has none
    // that hold a lock of the C library's.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // Not inherited.
        // SAFETY: takes no pointer.
        unsafe { libc::alarm(30) };
        let mut tell = |value: u64| (&writer).write_all(&value.to_ne_bytes()).unwrap();
        if let Death::AtWork(n) = death {
            steps::die_at(n);
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut tell)));
        steps::die_at(0);
        // SAFETY: takes no pointer; ends the child without the test's own handlers.
        unsafe { libc::syscall(libc::SYS_exit_group, i32::from(worked.is_err())) };
    }
    AT_FORK.store(0, Ordering::SeqCst);
    drop(writer);
    let mut told = Vec::new();
    reader.read_to_end(&mut told).unwrap();
    let mut status = 0;
    // SAFETY: `status` is an int of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    let end = match libc::WIFSIGNALED(status) {
        true => {
            assert_eq!(libc::WTERMSIG(status), libc::SIGKILL);
            End::Killed
        }
        false => {
            assert_eq!(
                libc::WEXITSTATUS(status),
                0,
                "{death:?}: the child says why"
            );
            End::Done
        }
    };
    let (values, rest) = told.as_chunks::<8>();
    assert!(rest.is_empty());
    (
        end,
        values
            .iter()
            .map(|value| u64::from_ne_bytes(*value))
            .collect(),
    )
}

/// The kind of a connected pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    /// With buffers so small that the kernel refuses bytes.
    Full,
    Unix,
}

pub fn pair(kind: Kind) -> (OwnedFd, OwnedFd) {
    if kind == Kind::Unix {
        let (ours, peers) = UnixStream::pair().unwrap();
        return (ours.into(), peers.into());
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    if kind == Kind::Full {
        set(listener.as_raw_fd(), libc::SO_RCVBUF, 4096);
    }
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let peers = listener.accept().unwrap().0;
    peers.set_nodelay(true).unwrap();
    if kind == Kind::Full {
        set(ours.as_raw_fd(), libc::SO_SNDBUF, 4096);
    }
    (ours.into(), peers.into())
}

pub fn set(fd: RawFd, name: i32, value: i32) {
    let (at, len) = ((&raw const value).cast(), size_of::<i32>() as u32);
    // SAFETY: `at` is an int.
    let done = unsafe { tls_setsockopt(fd, libc::SOL_SOCKET, name, at, len) };
    assert_eq!(done, 0);
}

/// A suite: TLS version, cipher, and the lengths that the crypto_info has.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    version: u16,
    cipher: u16,
    secret: usize,
}

impl Suite {
    pub fn is_tls13(self) -> bool {
        self.version == 0x0304
    }

    /// Keys told apart by `tag`.
    pub fn keys(self, tag: u8) -> Vec<u8> {
        let mut info = Vec::new();
        info.extend(self.version.to_ne_bytes());
        info.extend(self.cipher.to_ne_bytes());
        info.extend((0..self.secret as u8).map(|at| at.wrapping_mul(7) ^ tag));
        info.extend([0; 8]);
        info
    }
}

pub const SUITES: [Suite; 2] = [
    // AES-128-GCM: iv 8, key 16, salt 4.
    Suite {
        version: 0x0304,
        cipher: 51,
        secret: 28,
    },
    // ChaCha20-Poly1305: iv 12, key 32.
    Suite {
        version: 0x0303,
        cipher: 54,
        secret: 44,
    },
];

pub fn parsed(info: &[u8]) -> TrafficKeys {
    CryptoInfo::parse(info).unwrap()
}

fn result(value: isize) -> Result<usize, i32> {
    usize::try_from(value).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap())
}

pub fn set_tx_keys(fd: RawFd, info: &[u8]) -> Result<usize, i32> {
    // SAFETY: `info` is readable for its length.
    result(unsafe { tls_tx_init(fd, info.as_ptr().cast(), info.len()) } as isize)
}

pub fn set_rx_keys(fd: RawFd, info: &[u8]) -> Result<usize, i32> {
    // SAFETY: `info` is readable for its length.
    result(unsafe { tls_rx_init(fd, info.as_ptr().cast(), info.len()) } as isize)
}

/// The secret part of the keys that are in force.
pub fn tx_keys_in_force(fd: RawFd, suite: Suite) -> Vec<u8> {
    let mut info = suite.keys(0);
    let mut len = info.len() as u32;
    let at = info.as_mut_ptr().cast();
    // SAFETY: `info` has room for as much as `len` says.
    let done = unsafe { tls_getsockopt(fd, SOL_TLS, TLS_TX, at, &raw mut len) };
    assert_eq!(done, 0);
    let numbers = info.len() - 8;
    info[numbers..].fill(0);
    info
}

pub fn send(fd: RawFd, bytes: &[u8], flags: i32) -> Result<usize, i32> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable for its length.
    result(unsafe { tls_send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

pub fn send_file(fd: RawFd, len: usize, content: impl Fn(usize) -> u8) -> Result<usize, i32> {
    // SAFETY: a constant string.
    let file = unsafe { libc::memfd_create(c"killed".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(file >= 0);
    // SAFETY: new, and nobody else's.
    let mut file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(file) });
    let bytes: Vec<u8> = (0..len).map(content).collect();
    file.write_all(&bytes).unwrap();
    let mut at = 0;
    // SAFETY: `at` is an offset of ours.
    result(unsafe { tls_sendfile(fd, file.as_raw_fd(), &raw mut at, len) })
}

/// Room for one control message of one byte.
#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);
// SAFETY: computes a length.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(1) } as usize;

fn message(vector: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: plain old data, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (vector, 1);
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN as _;
    message
}

pub fn send_typed(fd: RawFd, content_type: u8, bytes: &[u8]) -> Result<usize, i32> {
    let (base, len) = (bytes.as_ptr().cast_mut().cast(), bytes.len());
    let mut vector = libc::iovec {
        iov_base: base,
        iov_len: len,
    };
    let mut control = Control([0; CONTROL_LEN]);
    // SAFETY: as above.
    let mut head: libc::cmsghdr = unsafe { std::mem::zeroed() };
    // SAFETY: computes a length.
    head.cmsg_len = unsafe { libc::CMSG_LEN(1) } as _;
    (head.cmsg_level, head.cmsg_type) = (SOL_TLS, SET_RECORD_TYPE);
    // SAFETY: there is room for it, and it is aligned.
    unsafe { control.0.as_mut_ptr().cast::<libc::cmsghdr>().write(head) };
    control.0[size_of::<libc::cmsghdr>()] = content_type;
    let message = message(&mut vector, &mut control);
    // SAFETY: all that the message names is there.
    result(unsafe { tls_sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) })
}

/// One receive: bytes with their type.
pub fn receive(fd: RawFd, len: usize, flags: i32) -> Result<Stream, i32> {
    let mut bytes = vec![0; len];
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: len,
    };
    let mut control = Control([0; CONTROL_LEN]);
    let mut message = message(&mut vector, &mut control);
    // SAFETY: all that the message names is there and writable.
    let got = result(unsafe { tls_recvmsg(fd, &raw mut message, flags) })?;
    let told = message.msg_controllen as usize == CONTROL_LEN;
    let content_type = control.0[size_of::<libc::cmsghdr>()];
    // SAFETY: the buffer of a whole head, aligned.
    let head = unsafe { control.0.as_ptr().cast::<libc::cmsghdr>().read() };
    assert!(got == 0 || told && (head.cmsg_level, head.cmsg_type) == (SOL_TLS, GET_RECORD_TYPE));
    Ok(bytes[..got]
        .iter()
        .map(|byte| (content_type, *byte))
        .collect())
}

/// The peer's side, to its end, which has to come.
pub fn read_all(peer: OwnedFd) -> Vec<u8> {
    let long = Some(Duration::from_secs(20));
    sockopt::set_socket_timeout(&peer, sockopt::Timeout::Recv, long).unwrap();
    let mut bytes = Vec::new();
    std::fs::File::from(peer).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Does it for 1, 2 and so on, until nobody is killed any more; says for how many.
pub fn at_each(mut tell: impl FnMut(u64) -> End) -> u64 {
    (1..).take_while(|step| tell(*step) == End::Killed).count() as u64
}

/// Says where a test fails.
pub struct Place(pub String);

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}
