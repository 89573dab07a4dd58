//! What the processes that descend from one another by `fork` tell each other before keys are set.
//!
//! A process that sets keys on a socket leaves a sign on the socket itself ([`super::identity::sign`]), which every
//! process that has a number of it can see. To look costs a system call, so there is a page that all of them
//! share: its *generation* rises whenever one of them is about to set keys on a socket that others may have, and as
//! long as it stays, nobody has to look again.
//!
//! A process may have looked, and not be in the kernel yet, when another sets keys. So who moves bytes by such a
//! number says so in a *cell* before it looks, and who sets keys says so and then waits for the others' cells. A cell
//! names its process, so one that was killed is known by that. The page holds no keys. It is mapped when the library
//! is loaded, before any fork; a program that is started anew by `exec` has a page of its own, and goes by the sign
//! on the socket alone.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::os::fd::RawFd;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::identity::{self, Identity};
use super::marks::{self, NUMBERS};
use super::raw;

/// The shared page, or pages.
struct Region {
    /// Rises when a process is about to set keys; 0 is "never looked" to a number.
    generation: AtomicU32,
    /// Writers for whom there was no cell.
    uncelled: AtomicU32,
    cells: [AtomicU64; CELLS],
}

/// Maps the page, once. Without it numbers that others may have are looked at in every call.
pub fn map() {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let region = unsafe {
        rustix::mm::mmap_anonymous(
            core::ptr::null_mut(),
            size_of::<Region>(),
            protection,
            flags,
        )
    };
    if let Ok(region) = region {
        let region: *mut Region = region.cast();
        // SAFETY: zeroed, page-aligned, and nobody else's yet.
        let generation = unsafe { &(*region).generation };
        generation.store(1, Ordering::Relaxed);
        REGION.store(region, Ordering::Release);
    }
    remember_process();
}

/// In which namespace this process has its id, for its cells. Called at the start and in every forked child.
pub fn remember_process() {
    let namespace = rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino);
    NAMESPACE.store(namespace as u32 & NAMESPACE_MASK, Ordering::Relaxed);
}

/// What a call that moves bytes finds out about a number that another process may have.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nobody has set keys, and nobody can before [`end`] is called.
    Plain(Cell),
    /// Somebody has.
    Signed,
    /// It is no stream socket, so nobody can.
    NoStream,
}

/// A cell that is in use, or a note that there was none.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Cell(i32);

impl Cell {
    const UNCELLED: i32 = -1;

    /// As the C part keeps it.
    #[must_use]
    pub fn into_raw(self) -> i32 {
        self.0
    }

    /// The cell that [`Cell::into_raw`] has made a number of.
    pub fn from_raw(raw: i32) -> Cell {
        Cell(raw)
    }
}

/// A call is about to move bytes by `fd`, which another process may have.
pub fn begin(fd: RawFd) -> Found {
    let Some(watched) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) else {
        return Found::NoStream;
    };
    // Where not all changes of a number are seen, what was found out about it need not be so any more.
    let is_certain = marks::floor() == marks::PLAIN;
    if watched.identity.load(Ordering::Relaxed) == 0 || !is_certain {
        match identity::of(fd).filter(|_| identity::is_stream(fd)) {
            Some(identity) => watched.identity.store(identity.get(), Ordering::Relaxed),
            None => return Found::NoStream,
        }
    }
    let identity = watched.identity.load(Ordering::Relaxed);
    let mut round = 0;
    loop {
        let cell = occupy(WRITES, identity);
        // SeqCst, with the one in `Claim::new`: either its cell is seen below, or it sees ours.
        core::sync::atomic::fence(Ordering::SeqCst);
        let generation = region().map_or(0, |region| region.generation.load(Ordering::Relaxed));
        if generation != 0 && is_certain && watched.seen.load(Ordering::Relaxed) == generation {
            return Found::Plain(cell);
        }
        if !others(CLAIMS, identity) {
            if identity::is_signed(fd) != Ok(false) {
                end(cell);
                return Found::Signed;
            }
            if watched.is_of_family.load(Ordering::Relaxed) == 1 {
                watched.seen.store(generation, Ordering::Relaxed);
            }
            return Found::Plain(cell);
        }
        // Somebody sets keys at this moment.
        end(cell);
        pause(round);
        round += 1;
    }
}

/// The call is over.
pub fn end(cell: Cell) {
    let Some(region) = region() else { return };
    match usize::try_from(cell.0)
        .ok()
        .and_then(|at| region.cells.get(at))
    {
        // Release: pairs with the Acquire in `others`; the bytes are with the kernel.
        Some(cell) => cell.store(0, Ordering::Release),
        None if cell.0 == Cell::UNCELLED => {
            region.uncelled.fetch_sub(1, Ordering::Release);
        }
        None => {}
    }
}

/// `new` is a number of the same socket as `old`, which another process may have.
pub fn watch_as(old: RawFd, new: RawFd) {
    let watched = |fd: RawFd| usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd));
    if let Some(old) = watched(old) {
        watch(new, old.is_of_family.load(Ordering::Relaxed) == 1);
    }
}

/// `fd` has come to be one that another process may have. `by_fork`: a process of this family, which will tell by the
/// generation.
pub fn watch(fd: RawFd, by_fork: bool) {
    if let Some(watched) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) {
        watched.identity.store(0, Ordering::Relaxed);
        watched.seen.store(0, Ordering::Relaxed);
        watched
            .is_of_family
            .store(by_fork.into(), Ordering::Relaxed);
    }
}

/// This process sets keys on a socket that others may have, and no other does until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Claim {
    fd: RawFd,
    cell: Cell,
}

impl Claim {
    /// Waits until no other process moves bytes by a number of the socket, and leaves the sign on it.
    ///
    /// # Errors
    /// `EBUSY`: another process has set keys, or sets them now, or a call there does not end; others if the kernel,
    /// or a sandbox, has no such locks.
    pub fn new(fd: RawFd, identity: Identity) -> Result<Claim, Errno> {
        let claim = Claim {
            fd,
            cell: occupy(CLAIMS, identity.get()),
        };
        if claim.cell == Cell(Cell::UNCELLED) && region().is_some() {
            return Err(Errno::BUSY);
        }
        // Against processes that are not of the family.
        set_lock(fd, libc::F_WRLCK).map_err(|errno| match errno {
            Errno::AGAIN | Errno::ACCESS => Errno::BUSY,
            errno => errno,
        })?;
        if let Some(region) = region() {
            region.generation.fetch_add(1, Ordering::SeqCst);
            core::sync::atomic::fence(Ordering::SeqCst);
        }
        if others(CLAIMS, identity.get()) {
            return Err(Errno::BUSY);
        }
        let mut round = 0;
        while others(WRITES, identity.get()) {
            if !pause(round) {
                return Err(Errno::BUSY);
            }
            round += 1;
        }
        match identity::is_signed(fd)? {
            true => Err(Errno::BUSY),
            false => identity::sign(fd).map(|()| claim),
        }
    }
}

impl Claim {
    /// No keys were set after all.
    pub fn withdraw(self) {
        identity::unsign(self.fd);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = set_lock(self.fd, libc::F_UNLCK);
        end(Cell(self.cell.0));
    }
}

fn set_lock(fd: RawFd, kind: libc::c_int) -> Result<(), Errno> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // Beside the sign.
        l_start: 0x75_6b74_6c74,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the struct that the command takes.
    unsafe {
        raw::call(
            libc::SYS_fcntl,
            [fd.into(), libc::F_SETLK.into(), (&raw mut lock).into()],
        )
    }
    .map(drop)
}

fn region() -> Option<&'static Region> {
    // SAFETY: NULL, or the mapping made by `map`, which stays and holds atomics only, of which zeroes are values.
    unsafe { REGION.load(Ordering::Acquire).as_ref() }
}

/// Puts this process into a cell.
fn occupy(kind: u64, identity: u64) -> Cell {
    let Some(region) = region() else {
        return Cell(Cell::UNCELLED - 1);
    };
    let (pid, namespace) = (own_pid(), u64::from(NAMESPACE.load(Ordering::Relaxed)));
    let word = kind
        | namespace << NAMESPACE_SHIFT
        | (pid & PID_MASK) << PID_SHIFT
        | identity & IDENTITY_MASK;
    let start = (pid.wrapping_mul(31) ^ identity) as usize % CELLS;
    for at in (start..CELLS).chain(0..start) {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let cell = &region.cells[at];
        if cell.load(Ordering::Relaxed) == 0
            && cell.compare_exchange(0, word, success, failure).is_ok()
        {
            return Cell(at as i32);
        }
    }
    if kind == WRITES {
        region.uncelled.fetch_add(1, Ordering::AcqRel);
    }
    Cell(Cell::UNCELLED)
}

/// Whether another process that lives has a cell of this kind and socket. Empties those of processes that do not.
fn others(kind: u64, identity: u64) -> bool {
    let Some(region) = region() else { return false };
    let own = own_pid() & PID_MASK;
    let namespace = u64::from(NAMESPACE.load(Ordering::Relaxed));
    let found = region.cells.iter().any(|cell| {
        let word = cell.load(Ordering::Acquire);
        if word == 0
            || word & WRITES != kind & WRITES
            || word & IDENTITY_MASK != identity & IDENTITY_MASK
        {
            return false;
        }
        let pid = word >> PID_SHIFT & PID_MASK;
        let of = word >> NAMESPACE_SHIFT & u64::from(NAMESPACE_MASK);
        let is_here = of == namespace;
        if is_here && pid == own {
            return false;
        }
        // A process id says something in its own namespace only.
        if is_here && !lives(pid as i32) {
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = cell.compare_exchange(word, 0, success, failure);
            return false;
        }
        true
    });
    found || (kind == WRITES && region.uncelled.load(Ordering::Acquire) > 0)
}

/// Asked each time: the child of a raw `clone` has its parent's memory.
fn own_pid() -> u64 {
    rustix::process::getpid().as_raw_nonzero().get() as u64
}

fn lives(pid: i32) -> bool {
    // SAFETY: takes no pointer, and signal 0 is none.
    let answer = unsafe { raw::call(libc::SYS_kill, [pid.into(), 0_i32.into()]) };
    answer != Err(Errno::SRCH)
}

/// Lets others go on; false when it has been long enough.
fn pause(round: u32) -> bool {
    match round {
        0..64 => rustix::thread::sched_yield(),
        _ => std::thread::sleep(core::time::Duration::from_micros(100)),
    }
    round < PATIENCE
}

/// What this process knows of a number that another process may have.
struct Watched {
    /// The socket; 0 as long as nobody has asked.
    identity: AtomicU64,
    /// The generation at which it had no keys.
    seen: AtomicU32,
    /// 1 if those who may have it are of this family.
    is_of_family: AtomicU32,
}

static WATCHED: [Watched; NUMBERS] = [const {
    Watched {
        identity: AtomicU64::new(0),
        seen: AtomicU32::new(0),
        is_of_family: AtomicU32::new(0),
    }
}; NUMBERS];

static REGION: AtomicPtr<Region> = AtomicPtr::new(core::ptr::null_mut());
/// The low bits of the inode number of the process's namespace for process ids.
static NAMESPACE: AtomicU32 = AtomicU32::new(0);

const CELLS: usize = 4000;

/// The parts of a cell: its kind, a namespace, a process id (`PID_MAX_LIMIT` is 2^22), the low bits of an identity.
const WRITES: u64 = 1 << 63;
const CLAIMS: u64 = 0;
const NAMESPACE_SHIFT: u32 = 48;
const NAMESPACE_MASK: u32 = (1 << 15) - 1;
const PID_SHIFT: u32 = 26;
const PID_MASK: u64 = (1 << 22) - 1;
const IDENTITY_MASK: u64 = (1 << PID_SHIFT) - 1;

/// Half a second.
const PATIENCE: u32 = 5000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_claims_is_seen_by_who_writes() {
        map();
        let (a, b) = UnixStream::pair().unwrap();
        let (fd, identity) = (a.as_raw_fd(), identity::of(a.as_raw_fd()).unwrap());
        watch(fd, true);
        watch(b.as_raw_fd(), true);
        let Found::Plain(cell) = begin(fd) else {
            panic!("nobody has set keys")
        };
        end(cell);
        let claim = Claim::new(fd, identity).unwrap();
        assert_eq!(begin(fd), Found::Signed);
        drop(claim);
        assert_eq!(begin(fd), Found::Signed);
        assert_eq!(Claim::new(fd, identity).err(), Some(Errno::BUSY));
        // Its other end is another socket.
        let Found::Plain(cell) = begin(b.as_raw_fd()) else {
            panic!("nobody has set keys")
        };
        end(cell);
        let file = std::fs::File::open("/dev/null").unwrap();
        watch(file.as_raw_fd(), true);
        assert_eq!(begin(file.as_raw_fd()), Found::NoStream);
    }

    #[test]
    fn the_cell_of_a_dead_process_is_emptied() {
        map();
        let (identity, region) = (0x123_4567, region().unwrap());
        let namespace = u64::from(NAMESPACE.load(Ordering::Relaxed)) << NAMESPACE_SHIFT;
        // No process has the greatest number.
        region.cells[0].store(
            WRITES | namespace | PID_MASK << PID_SHIFT | identity,
            Ordering::Relaxed,
        );
        assert!(!others(WRITES, identity));
        assert_eq!(region.cells[0].load(Ordering::Relaxed), 0);
        // Of another namespace nothing is known.
        let elsewhere = namespace ^ 1 << NAMESPACE_SHIFT;
        region.cells[0].store(
            WRITES | elsewhere | PID_MASK << PID_SHIFT | identity,
            Ordering::Relaxed,
        );
        assert!(others(WRITES, identity) && !others(WRITES, identity + 1));
    }
}
