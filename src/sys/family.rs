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
//! is loaded, before any fork.
//!
//! A program that is started anew by `exec`, or that has got a number by a message, does not share the page: it is a
//! *stranger*. The page has a bit for each socket that strangers may have. A call by a number of such a socket takes a
//! lock on the byte of the sign instead of a cell (`Readers`): it cannot have it while there is the sign, and the sign
//! cannot be left while it has it.

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
    /// A bit for each socket that strangers may have, by the low bits of its identity. They stay: a socket that is
    /// taken for another's pays some system calls.
    strangers: Bits,
    /// A bit for each socket that has got keys without a sign, as it had one number only.
    unsigned: Bits,
}

/// One bit for all identities that end in the same 20.
struct Bits([AtomicU64; BITS / 64]);

impl Bits {
    fn place(&self, identity: u64) -> (&AtomicU64, u64) {
        let at = identity as usize % BITS;
        (&self.0[at / 64], 1 << (at % 64))
    }

    /// Returns whether it was set before.
    fn set(&self, identity: u64) -> bool {
        let (word, bit) = self.place(identity);
        word.fetch_or(bit, Ordering::AcqRel) & bit != 0
    }

    fn is_set(&self, identity: u64) -> bool {
        let (word, bit) = self.place(identity);
        word.load(Ordering::Acquire) & bit != 0
    }
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

/// A cell that is in use, a note that there was none, or a lock of `Readers`.
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

    fn of_reader(fd: RawFd, part: Part) -> Cell {
        Cell(CELLS as i32 + 2 * fd + i32::from(part == Part::Nested))
    }

    fn as_reader(&self) -> Option<(RawFd, Part)> {
        let at = self.0 - CELLS as i32;
        let part = if at % 2 == 0 {
            Part::Counted
        } else {
            Part::Nested
        };
        (at >= 0).then_some((at / 2, part))
    }
}

/// A call is about to move bytes by `fd`, which another process may have.
pub fn begin(fd: RawFd) -> Found {
    let Some(watched) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) else {
        return Found::NoStream;
    };
    // Where not all changes of a number are seen, what was found out about it need not be so any more.
    let is_certain = marks::floor() == marks::PLAIN;
    let known = watched.identity.load(Ordering::Relaxed);
    let identity = match if is_certain { known } else { 0 } {
        0 => match identity::of(fd).filter(|_| identity::is_stream(fd)) {
            Some(identity) => {
                watched.identity.store(identity.get(), Ordering::Relaxed);
                identity.get()
            }
            None => return Found::NoStream,
        },
        known => known,
    };
    let mut round = 0;
    while let Some(region) = region().filter(|region| !is_with_strangers(region, identity)) {
        let cell = occupy(region, WRITES, identity);
        // SeqCst, with the ones in `Claim::new` and `pass_on`: either its cell is seen there, or it sees ours.
        core::sync::atomic::fence(Ordering::SeqCst);
        if is_with_strangers(region, identity) {
            end(cell);
            break;
        }
        let generation = region.generation.load(Ordering::Relaxed);
        if is_certain && watched.seen.load(Ordering::Relaxed) == generation {
            return Found::Plain(cell);
        }
        if !others(region, CLAIMS, identity) {
            if identity::is_signed(fd) != Ok(false) {
                end(cell);
                return Found::Signed;
            }
            watched.seen.store(generation, Ordering::Relaxed);
            return Found::Plain(cell);
        }
        // Somebody sets keys at this moment.
        end(cell);
        pause(round);
        round += 1;
    }
    match watched.readers.lock(fd) {
        Some(part) => Found::Plain(Cell::of_reader(fd, part)),
        None => Found::Signed,
    }
}

/// The call is over.
pub fn end(cell: Cell) {
    if let Some((fd, part)) = cell.as_reader() {
        if let Some(watched) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) {
            watched.readers.unlock(fd, part);
        }
        return;
    }
    let Some(region) = region() else { return };
    match usize::try_from(cell.0)
        .ok()
        .and_then(|at| region.cells.get(at))
    {
        // Release: pairs with the Acquire in `others`; the bytes are with the kernel.
        Some(cell) => cell.store(0, Ordering::Release),
        None => {
            region.uncelled.fetch_sub(1, Ordering::Release);
        }
    }
}

/// `fd` has come to be one that another process may have.
pub fn watch(fd: RawFd) {
    if let Some(watched) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) {
        watched.identity.store(0, Ordering::Relaxed);
        watched.seen.store(0, Ordering::Relaxed);
    }
}

/// Strangers may have the socket of `fd`, or are about to get it.
pub fn pass_on(fd: RawFd) {
    if let Some(region) = region()
        && let Some(identity) = identity::of(fd)
    {
        if region.strangers.set(identity.get()) {
            return;
        }
        core::sync::atomic::fence(Ordering::SeqCst);
        // Calls that have seen the bit unset. One that sleeps in the kernel is not waited for to its end.
        let mut round = 0;
        while others(region, WRITES, identity.get()) && pause(round) {
            round += 1;
        }
    }
}

/// Whether strangers may have the socket.
#[must_use]
pub fn is_passed_on(identity: Identity) -> bool {
    region().is_some_and(|region| is_with_strangers(region, identity.get()))
}

fn is_with_strangers(region: &Region, identity: u64) -> bool {
    region.strangers.is_set(identity)
}

/// The socket, which has one number only, has got keys: who takes it out of this process (`pidfd_getfd(2)`) finds no sign.
pub fn note_unsigned(identity: Identity) {
    if let Some(region) = region() {
        region.unsigned.set(identity.get());
        // SeqCst, with the one in `may_be_unsigned`: one of the two sees the other's bit.
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Whether that may be so of this socket, which has been passed on before ([`pass_on`]).
#[must_use]
pub fn may_be_unsigned(identity: Identity) -> bool {
    core::sync::atomic::fence(Ordering::SeqCst);
    region().is_some_and(|region| region.unsigned.is_set(identity.get()))
}

/// This process sets keys on a socket that others may have, and no other does until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Claim {
    fd: RawFd,
    cell: Option<Cell>,
}

impl Claim {
    /// Waits until no other process moves bytes by a number of the socket, and leaves the sign on it. This process moves
    /// none.
    ///
    /// # Errors
    /// `EBUSY`: another process has set keys, or sets them now, or a call there does not end; others if the kernel,
    /// or a sandbox, has no such locks.
    pub fn new(fd: RawFd, identity: Identity) -> Result<Claim, Errno> {
        let cell = match region() {
            Some(region) => match occupy(region, CLAIMS, identity.get()) {
                Cell(Cell::UNCELLED) => return Err(Errno::BUSY),
                cell => Some(cell),
            },
            None => None,
        };
        let claim = Claim { fd, cell };
        // Against processes that are not of the family.
        lock(fd, libc::F_WRLCK, CLAIM).map_err(busy)?;
        let mut round = 0;
        if let Some(region) = region() {
            region.generation.fetch_add(1, Ordering::SeqCst);
            core::sync::atomic::fence(Ordering::SeqCst);
            if others(region, CLAIMS, identity.get()) {
                return Err(Errno::BUSY);
            }
            while others(region, WRITES, identity.get()) {
                if !pause(round) {
                    return Err(Errno::BUSY);
                }
                round += 1;
            }
        }
        // What calls of this process have left that were jumped out of.
        let _ = lock(fd, libc::F_UNLCK, identity::SIGN);
        loop {
            match identity::is_signed(fd)? {
                true => return Err(Errno::BUSY),
                false => match identity::sign(fd).map_err(busy) {
                    Ok(()) => return Ok(claim),
                    // A stranger's call.
                    Err(Errno::BUSY) if pause(round) => round += 1,
                    Err(errno) => return Err(errno),
                },
            }
        }
    }

    /// No keys were set after all.
    pub fn withdraw(self) {
        identity::unsign(self.fd);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = lock(self.fd, libc::F_UNLCK, CLAIM);
        if let Some(cell) = self.cell.take() {
            end(cell);
        }
    }
}

/// Calls of this process by a number of a socket that strangers may have. The process has the lock on the byte of the sign
/// as long as there is one.
///
/// The kernel knows one such lock of a process, and not how many threads want it: so the last call that ends gives it
/// back, and calls that come meanwhile wait for that. A signal handler that comes meanwhile would wait for its own
/// thread: it takes the lock and gives it back by itself.
struct Readers(AtomicU64);

/// How a call takes part in the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Counted,
    Nested,
}

impl Readers {
    /// Above the number of calls: the thread that gives the lock back.
    const GIVER: u32 = 32;

    /// `None` if there is the sign, or nothing can be known.
    fn lock(&self, fd: RawFd) -> Option<Part> {
        let part = self.enter(fd);
        let mut round = 0;
        loop {
            match lock(fd, libc::F_RDLCK, identity::SIGN) {
                Ok(()) => return Some(part),
                Err(_) => {
                    // Between two looks the sign may have been taken off again.
                    let is_signed = identity::is_signed(fd) != Ok(false);
                    if is_signed || !pause(round) {
                        self.unlock(fd, part);
                        return None;
                    }
                }
            }
            round += 1;
        }
    }

    fn enter(&self, fd: RawFd) -> Part {
        let thread = u64::from(super::thread::number());
        let mut round = 0;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            match word >> Self::GIVER {
                0 => {
                    // Others have the lock: whoever sets keys would never see it given back.
                    if word > 0 && is_claimed(fd) && pause(round) {
                        round += 1;
                        continue;
                    }
                    if self.swap(word, word + 1) {
                        return Part::Counted;
                    }
                }
                giver if giver == thread => return Part::Nested,
                _ if pause(round) => round += 1,
                // It has been jumped out of.
                _ => {
                    self.swap(word, word & u64::from(u32::MAX));
                }
            }
        }
    }

    fn unlock(&self, fd: RawFd, part: Part) {
        let give_back = || {
            let _ = lock(fd, libc::F_UNLCK, identity::SIGN);
        };
        if part == Part::Nested {
            return give_back();
        }
        let giver = u64::from(super::thread::number()) << Self::GIVER;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            match word & u64::from(u32::MAX) {
                0 => return,
                1 if self.swap(word, giver) => {
                    give_back();
                    self.0.store(0, Ordering::Release);
                    return;
                }
                count if count > 1 && self.swap(word, word - 1) => return,
                _ => {}
            }
        }
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        self.0.compare_exchange(from, to, success, failure).is_ok()
    }
}

/// The byte of the socket, beside that of the sign, on which whoever sets keys has a lock.
const CLAIM: libc::off_t = identity::SIGN + 1;

/// The byte on which each process that shares the connection has one ([`super::presence`]).
pub(super) const PRESENCE: libc::off_t = identity::SIGN + 2;

/// Whether another process is about to set keys.
fn is_claimed(fd: RawFd) -> bool {
    is_locked(fd, libc::F_RDLCK, CLAIM) == Some(true)
}

/// Whether a lock of another process on the byte is in the way of one of this `kind`.
pub(super) fn is_locked(fd: RawFd, kind: libc::c_int, at: libc::off_t) -> Option<bool> {
    let mut lock = identity::lock_at(kind, at);
    // SAFETY: the struct that the command takes.
    unsafe {
        raw::call(
            libc::SYS_fcntl,
            [fd.into(), libc::F_GETLK.into(), (&raw mut lock).into()],
        )
    }
    .ok()?;
    Some(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// Takes the process's lock on the byte, or gives it back.
pub(super) fn lock(fd: RawFd, kind: libc::c_int, at: libc::off_t) -> Result<(), Errno> {
    let mut lock = identity::lock_at(kind, at);
    // SAFETY: the struct that the command takes.
    unsafe {
        raw::call(
            libc::SYS_fcntl,
            [fd.into(), libc::F_SETLK.into(), (&raw mut lock).into()],
        )
    }
    .map(drop)
}

fn busy(errno: Errno) -> Errno {
    match errno {
        Errno::AGAIN | Errno::ACCESS => Errno::BUSY,
        errno => errno,
    }
}

fn region() -> Option<&'static Region> {
    // SAFETY: NULL, or the mapping made by `map`, which stays and holds atomics only, of which zeroes are values.
    unsafe { REGION.load(Ordering::Acquire).as_ref() }
}

/// Puts this process into a cell.
fn occupy(region: &Region, kind: u64, identity: u64) -> Cell {
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
fn others(region: &Region, kind: u64, identity: u64) -> bool {
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
    readers: Readers,
}

static WATCHED: [Watched; NUMBERS] = [const {
    Watched {
        identity: AtomicU64::new(0),
        seen: AtomicU32::new(0),
        readers: Readers(AtomicU64::new(0)),
    }
}; NUMBERS];

static REGION: AtomicPtr<Region> = AtomicPtr::new(core::ptr::null_mut());
/// The low bits of the inode number of the process's namespace for process ids.
static NAMESPACE: AtomicU32 = AtomicU32::new(0);

const CELLS: usize = 4000;
const BITS: usize = 1 << 20;

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
        watch(fd);
        watch(b.as_raw_fd());
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
        watch(file.as_raw_fd());
        assert_eq!(begin(file.as_raw_fd()), Found::NoStream);
    }

    #[test]
    fn readers_leave_nothing() {
        let (a, _b) = UnixStream::pair().unwrap();
        let fd = a.as_raw_fd();
        let readers = Readers(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let part = readers.lock(fd).expect("nobody has set keys");
                        assert_eq!(part, Part::Counted);
                        assert_ne!(readers.0.load(Ordering::Relaxed), 0);
                        readers.unlock(fd, part);
                    }
                });
            }
        });
        assert_eq!(readers.0.load(Ordering::Relaxed), 0);
        // A handler that comes while its own thread gives the lock back.
        let giver = u64::from(super::super::thread::number()) << Readers::GIVER;
        readers.0.store(giver, Ordering::Relaxed);
        assert_eq!(readers.lock(fd), Some(Part::Nested));
        readers.unlock(fd, Part::Nested);
        assert_eq!(readers.0.load(Ordering::Relaxed), giver);
        readers.0.store(0, Ordering::Relaxed);
        identity::sign(fd).unwrap();
        assert_eq!(readers.lock(fd), None);
        assert_eq!(readers.0.load(Ordering::Relaxed), 0);
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
        assert!(!others(region, WRITES, identity));
        assert_eq!(region.cells[0].load(Ordering::Relaxed), 0);
        // Of another namespace nothing is known.
        let elsewhere = namespace ^ 1 << NAMESPACE_SHIFT;
        region.cells[0].store(
            WRITES | elsewhere | PID_MASK << PID_SHIFT | identity,
            Ordering::Relaxed,
        );
        assert!(others(region, WRITES, identity) && !others(region, WRITES, identity + 1));
    }
}
