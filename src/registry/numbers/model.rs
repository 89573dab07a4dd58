//! The table under loom, over a model of the kernel's.
//!
//! The model's kernel has descriptors, files behind them, and sockets that know whether keys have been set: a plain byte
//! on such a socket, or sealed bytes on any file but their own socket, end the test. What the interposed functions do
//! around the table (note, look, system call) is written here as in `preload/c/interpose.h` and `registry/`.

use std::sync::Arc;

use super::{Attaching, Inner, Numbers, OfSocket, World};
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use crate::sync::slot::ArcSlot;
use crate::sync::{Mutex, lock};
use crate::sys::identity::Identity;
use crate::sys::in_flight::Under;
use crate::sys::marks::{BUSY, PLAIN, SLOW_OUT, SOLE, TLS, TWIN, TX};

use rustix::io::Errno;

const NUMBERS: usize = 3;
const THREADS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum File {
    /// A file, a pipe, a placeholder.
    Other,
    Socket(u64),
}

#[derive(Default)]
struct Kernel {
    files: [Option<File>; NUMBERS],
    /// Sockets with keys, and how often they were set for the first time.
    keyed: Vec<u64>,
}

impl Kernel {
    fn file(&self, fd: i32) -> Result<File> {
        let file = self.files.get(usize::try_from(fd).map_err(|_| bad())?);
        file.copied().flatten().ok_or(bad())
    }

    fn lowest(&mut self, file: File) -> Result<i32> {
        let free = self.files.iter().position(Option::is_none);
        let free = free.ok_or(Error::Os(Errno::MFILE))?;
        self.files[free] = Some(file);
        Ok(free as i32)
    }
}

fn bad() -> Error {
    Error::Os(Errno::BADF)
}

/// A connection.
struct Conn {
    socket: u64,
    keys: AtomicBool,
    /// The number that it writes by; held while it does.
    fd: Mutex<i32>,
}

impl OfSocket for Conn {
    fn identity(&self) -> Identity {
        Identity::new(self.socket).unwrap()
    }
    fn marks(&self) -> u8 {
        match self.keys.load(Ordering::Acquire) {
            true => TLS | TX,
            false => TLS,
        }
    }
    fn has_keys(&self) -> bool {
        self.keys.load(Ordering::Acquire)
    }
}

struct Machine {
    kernel: Mutex<Kernel>,
    marks: [AtomicU8; NUMBERS],
    slots: [ArcSlot<Conn>; NUMBERS],
    /// Two for each thread: `dup2` is about two numbers.
    notes: [[AtomicI32; 2]; THREADS],
    /// Calls under way are not looked for: the models must notice.
    is_careless: bool,
}

loom::thread_local! {
    static THREAD: std::cell::Cell<u32> = std::cell::Cell::new(0);
}

fn me() -> u32 {
    THREAD.with(std::cell::Cell::get)
}

impl World<Conn> for Machine {
    type Quiet = ();

    fn mark(&self, fd: i32) -> Option<&AtomicU8> {
        self.marks.get(usize::try_from(fd).ok()?)
    }
    fn slot(&self, fd: i32, _make: bool) -> Option<&ArcSlot<Conn>> {
        self.slots.get(usize::try_from(fd).ok()?)
    }
    fn barrier(&self) -> Result<()> {
        // The other half of what `membarrier(2)` does is in `note`.
        loom::sync::atomic::fence(Ordering::SeqCst);
        Ok(())
    }
    fn under(&self, fd: i32) -> Under {
        if self.is_careless {
            return Under::Nobody;
        }
        let noted = |thread: &usize| {
            let mut notes = self.notes[*thread].iter();
            notes.any(|note| note.load(Ordering::Acquire) == fd + 1)
        };
        match (0..THREADS).find(noted) {
            None => Under::Nobody,
            Some(thread) if thread as u32 == me() => Under::Caller,
            Some(_) => Under::Other,
        }
    }
    fn thread(&self) -> u32 {
        me() + 1
    }
    fn quiet(&self) {}
    fn pause(&self, _round: u32) -> bool {
        loom::thread::yield_now();
        true
    }
}

/// A process with its table.
struct Process(Numbers<Conn, Machine>);

struct Of<'a>(&'a Process, u64);

impl Attaching for Of<'_> {
    fn twins(&self) -> Vec<i32> {
        let open = 0..NUMBERS as i32;
        open.filter(|fd| self.is_of(*fd)).collect()
    }
    fn is_of(&self, fd: i32) -> bool {
        lock(&self.0.machine().kernel).file(fd) == Ok(File::Socket(self.1))
    }
    fn prepare(&self, _fd: i32) -> Result<()> {
        Ok(())
    }
    fn undo(&self, _fd: i32) {}
}

impl Process {
    /// `files` are open; `sole` has no other number.
    fn new(files: [Option<File>; NUMBERS], sole: &[i32], is_careless: bool) -> Process {
        let machine = Machine {
            kernel: Mutex::new(Kernel {
                files,
                keyed: Vec::new(),
            }),
            marks: core::array::from_fn(|fd| {
                AtomicU8::new(match files[fd] {
                    Some(File::Socket(_)) if sole.contains(&(fd as i32)) => SOLE,
                    Some(File::Socket(_)) => TWIN,
                    _ => PLAIN,
                })
            }),
            slots: core::array::from_fn(|_| ArcSlot::empty()),
            notes: core::array::from_fn(|_| core::array::from_fn(|_| AtomicI32::new(0))),
            is_careless,
        };
        Process(Numbers::with(machine, Mutex::new(Inner::new())))
    }

    fn machine(&self) -> &Machine {
        self.0.world()
    }

    fn note(&self, fd: i32) {
        let notes = &self.machine().notes[me() as usize];
        let free = notes.iter().find(|note| note.load(Ordering::Relaxed) == 0);
        free.unwrap().store(fd + 1, Ordering::Relaxed);
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    fn end_note(&self) {
        for note in &self.machine().notes[me() as usize] {
            note.store(0, Ordering::Release);
        }
    }

    fn mark(&self, fd: i32) -> u8 {
        self.machine().marks[fd as usize].load(Ordering::Relaxed)
    }

    /// As `OUT` of `interpose.h`.
    fn write(&self, fd: i32) -> Result<()> {
        loop {
            self.note(fd);
            if self.mark(fd) & SLOW_OUT == 0 {
                let kernel = lock(&self.machine().kernel);
                let file = kernel.file(fd);
                if let Ok(File::Socket(socket)) = file {
                    assert!(!kernel.keyed.contains(&socket), "a plain byte on {socket}");
                }
                drop(kernel);
                self.end_note();
                return file.map(drop);
            }
            self.end_note();
            if self.0.settle(fd)? & TX == 0 {
                continue;
            }
            match self.0.find(fd) {
                Err(Error::NoTls) => {}
                Err(error) => return Err(error),
                Ok(found) => {
                    let conn = Option::clone(&found).unwrap();
                    let by = lock(&conn.fd);
                    if *by >= 0 {
                        let file = lock(&self.machine().kernel).file(*by);
                        let own = Ok(File::Socket(conn.socket));
                        assert_eq!(file, own, "sealed bytes on another file");
                        return Ok(());
                    }
                    drop(by);
                    // Closed under the call: once more, if the number is another's by now.
                    match self.0.find(fd) {
                        Ok(now) if Arc::ptr_eq(now.as_ref().as_ref().unwrap(), &conn) => {
                            return Err(bad());
                        }
                        Err(error) if error != Error::NoTls => return Err(error),
                        _ => {}
                    }
                }
            }
        }
    }

    /// As `registry::set_keys`; `fails`: what comes after the numbers are held.
    fn keys(&self, fd: i32, fails: bool) -> Result<()> {
        loop {
            let file = lock(&self.machine().kernel).file(fd)?;
            let File::Socket(socket) = file else {
                return Err(Error::Os(Errno::NOTSOCK));
            };
            let identity = Identity::new(socket).unwrap();
            let new = || {
                Arc::new(Conn {
                    socket,
                    keys: AtomicBool::new(false),
                    fd: Mutex::new(fd),
                })
            };
            let (conn, is_new) = self.0.attach(identity, fd, new, &Of(self, socket))?;
            if conn.has_keys() {
                return Err(Error::KeysPresent);
            }
            let mut is_set = false;
            let result = self.0.promote(fd, &conn, true, &Of(self, socket), |_| {
                is_set = true;
                if fails {
                    return Err(Error::Invalid);
                }
                if conn.has_keys() {
                    return Err(Error::KeysPresent);
                }
                conn.keys.store(true, Ordering::Release);
                let mut kernel = lock(&self.machine().kernel);
                assert!(!kernel.keyed.contains(&socket), "two states for {socket}");
                kernel.keyed.push(socket);
                Ok(())
            });
            match result {
                Err(Error::NoTls) if !is_set => {}
                Err(error) => {
                    if is_new {
                        self.0.withdraw(identity, |conn| !conn.has_keys());
                    }
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// As `dup` of `descriptors.c`, and `registry::duplicate`.
    fn dup(&self, old: i32) -> Result<i32> {
        loop {
            self.note(old);
            let mark = self.mark(old);
            if mark & (TLS | BUSY) == 0 {
                self.make_twin(old);
                let mut kernel = lock(&self.machine().kernel);
                let result = kernel.file(old).and_then(|file| kernel.lowest(file));
                drop(kernel);
                if let Ok(new) = result {
                    self.0.fresh(new, TWIN);
                }
                self.end_note();
                if let Ok(new) = result {
                    self.came_over(new);
                }
                return result;
            }
            self.end_note();
            match self.0.find(old) {
                Err(Error::NoTls) => continue,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            let new = lock(&self.machine().kernel).lowest(File::Other)?;
            let result = match new == old {
                true => Err(Error::NoTls),
                false => self.put_over(old, new),
            };
            if result.is_err() {
                lock(&self.machine().kernel).files[new as usize] = None;
            }
            if result == Err(Error::NoTls) {
                continue;
            }
            return result.map(|()| new);
        }
    }

    fn make_twin(&self, fd: i32) {
        let place = &self.machine().marks[fd as usize];
        if place.load(Ordering::Relaxed) & SOLE != 0 {
            place.fetch_or(TWIN, Ordering::AcqRel);
            place.fetch_and(!SOLE, Ordering::AcqRel);
        }
    }

    fn came_over(&self, fd: i32) {
        let file = lock(&self.machine().kernel).file(fd);
        if let Ok(File::Socket(socket)) = file {
            let identity = Identity::new(socket).unwrap();
            if self.0.by_identity(identity).is_some() {
                let joined = self.0.join(identity, fd, &Of(self, socket));
                assert!(!matches!(joined, Err(Error::Os(_))));
            }
        }
    }

    /// As `dup2` of `descriptors.c`, and `registry::replace`.
    fn dup2(&self, old: i32, new: i32) -> Result<()> {
        self.note(old);
        self.note(new);
        let marks = self.mark(new) | self.mark(old);
        if marks & (TLS | BUSY) == 0 {
            self.make_twin(old);
            let mut kernel = lock(&self.machine().kernel);
            let result = kernel.file(old);
            if let Ok(file) = result {
                kernel.files[new as usize] = Some(file);
            }
            drop(kernel);
            if result.is_ok() {
                self.0.fresh(new, TWIN);
            }
            self.end_note();
            if result.is_ok() {
                self.came_over(new);
            }
            return result.map(drop);
        }
        self.end_note();
        self.put_over(old, new)
    }

    fn put_over(&self, old: i32, new: i32) -> Result<()> {
        loop {
            match self.try_put_over(old, new) {
                Err(Error::Changed) => self.0.give_way(0),
                result => return result,
            }
        }
    }

    fn try_put_over(&self, old: i32, new: i32) -> Result<()> {
        let mut change = self.0.begin(new)?;
        change.wait_out()?;
        let result = change.take_after(old, true, |mine, other| {
            if let Some(mine) = mine {
                // The library's own descriptor, which the model leaves out, takes over from the last.
                *lock(&mine.fd) = other.unwrap_or(-1);
            }
            let mut kernel = lock(&self.machine().kernel);
            match kernel.file(old) {
                Ok(file) => {
                    kernel.files[new as usize] = Some(file);
                    Ok(())
                }
                Err(error) => {
                    drop(kernel);
                    if let Some(mine) = mine {
                        *lock(&mine.fd) = new;
                    }
                    Err(error)
                }
            }
        });
        let ((), left) = result?;
        drop(change);
        drop(left);
        Ok(())
    }

    /// As `registry::close`.
    fn close(&self, fd: i32) -> Result<()> {
        self.note(fd);
        let mark = self.mark(fd);
        if mark & (TLS | BUSY) == 0 {
            let closed = lock(&self.machine().kernel).files[fd as usize].take();
            let place = &self.machine().marks[fd as usize];
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = place.compare_exchange(mark, PLAIN, success, failure);
            self.end_note();
            return closed.map(drop).ok_or(bad());
        }
        self.end_note();
        let change = self.0.begin(fd)?;
        let left = change.leave();
        if let Some(left) = &left {
            *lock(&left.socket.fd) = left.other.unwrap_or(-1);
        }
        let closed = lock(&self.machine().kernel).files[fd as usize].take();
        match &left {
            Some(left) => change.freed(Some(left)),
            None => drop(change),
        }
        closed.map(drop).ok_or(bad())
    }

    /// `accept(2)` of the socket `socket`.
    fn accept(&self, socket: u64) -> Result<i32> {
        let fd = lock(&self.machine().kernel).lowest(File::Socket(socket))?;
        self.0.fresh(fd, SOLE);
        Ok(fd)
    }

    /// What must be true when nothing is under way: each open number of a socket with keys is marked and has its
    /// state, and no other is.
    fn check(&self) {
        let open: Vec<(i32, Option<File>)> = {
            let kernel = lock(&self.machine().kernel);
            (0..).zip(kernel.files).collect()
        };
        let keyed = lock(&self.machine().kernel).keyed.clone();
        for (fd, file) in open {
            let mark = self.mark(fd);
            assert_eq!(mark & BUSY, 0, "{fd} is busy for ever");
            let state = self.0.find(fd).ok().and_then(|found| Option::clone(&found));
            match file {
                Some(File::Socket(socket)) if keyed.contains(&socket) => {
                    assert_eq!(mark & (TLS | TX), TLS | TX, "{fd} is not marked");
                    let state = state.expect("a state");
                    assert_eq!(state.socket, socket);
                    let by = *lock(&state.fd);
                    let by = lock(&self.machine().kernel).file(by);
                    assert_eq!(
                        by,
                        Ok(File::Socket(socket)),
                        "it writes by a number that is gone"
                    );
                }
                _ => assert!(
                    state.is_none_or(|state| !state.has_keys()),
                    "{fd} is {file:?} and has the state of a socket"
                ),
            }
        }
    }
}

type Act = fn(&Process);

/// Every interleaving of two threads' acts, after `before`.
fn model(
    files: [Option<File>; NUMBERS],
    sole: &'static [i32],
    is_careless: bool,
    before: Act,
    acts: [Act; 2],
) {
    let mut every = loom::model::Builder::new();
    // A thread that waits for another looks again and again.
    every.max_branches = 20_000;
    every.check(move || {
        let process = Arc::new(Process::new(files, sole, is_careless));
        before(&process);
        let threads: Vec<_> = (1u32..)
            .zip(acts)
            .map(|(thread, act)| {
                let process = Arc::clone(&process);
                loom::thread::spawn(move || {
                    THREAD.with(|number| number.set(thread));
                    act(&process);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        process.check();
    });
}

const A: Option<File> = Some(File::Socket(1));
const B: Option<File> = Some(File::Socket(2));
const OTHER: Option<File> = Some(File::Other);

fn nothing(_: &Process) {}

#[test]
fn loom_keys_beside_a_write() {
    let acts: [Act; 2] = [
        |process| process.keys(0, false).unwrap(),
        |process| process.write(0).unwrap(),
    ];
    model([A, None, None], &[0], false, nothing, acts);
}

#[test]
#[should_panic(expected = "a plain byte")]
fn loom_a_model_without_waiting_fails() {
    let acts: [Act; 2] = [
        |process| process.keys(0, false).unwrap(),
        |process| process.write(0).unwrap(),
    ];
    model([A, None, None], &[0], true, nothing, acts);
}

#[test]
fn loom_keys_beside_a_write_by_another_number() {
    let acts: [Act; 2] = [
        |process| process.keys(0, false).unwrap(),
        |process| process.write(1).unwrap(),
    ];
    model([A, A, None], &[], false, nothing, acts);
}

#[test]
fn loom_keys_by_two_numbers() {
    let acts: [Act; 2] = [
        |process| {
            let _ = process.keys(0, false);
        },
        |process| {
            let _ = process.keys(1, false);
        },
    ];
    model([A, A, None], &[], false, nothing, acts);
}

/// Whose keys are refused does not take those of the other away.
#[test]
fn loom_keys_beside_keys_that_are_refused() {
    let acts: [Act; 2] = [
        |process| process.keys(0, false).unwrap(),
        |process| assert!(process.keys(0, true).is_err()),
    ];
    model([A, None, None], &[0], false, nothing, acts);
}

#[test]
fn loom_keys_beside_a_dup() {
    let acts: [Act; 2] = [
        |process| process.keys(0, false).unwrap(),
        |process| {
            let new = process.dup(0).unwrap();
            process.write(new).unwrap();
        },
    ];
    model([A, None, None], &[0], false, nothing, acts);
}

#[test]
fn loom_keys_beside_a_dup_over() {
    let acts: [Act; 2] = [
        |process| process.keys(0, false).unwrap(),
        |process| {
            process.dup2(0, 1).unwrap();
            process.write(1).unwrap();
        },
    ];
    model([A, None, None], &[0], false, nothing, acts);
}

fn keys_on_0(process: &Process) {
    process.keys(0, false).unwrap();
}

fn keys_on_both(process: &Process) {
    process.keys(0, false).unwrap();
    process.keys(1, false).unwrap();
}

#[test]
fn loom_dup_over_a_file_beside_a_write() {
    let acts: [Act; 2] = [
        |process| process.dup2(0, 1).unwrap(),
        |process| process.write(1).unwrap(),
    ];
    model([A, OTHER, None], &[0], false, keys_on_0, acts);
}

#[test]
fn loom_a_file_over_a_number_beside_a_write() {
    let acts: [Act; 2] = [
        |process| process.dup2(1, 0).unwrap(),
        |process| process.write(0).unwrap(),
    ];
    model([A, OTHER, None], &[0], false, keys_on_0, acts);
}

#[test]
fn loom_one_socket_over_another_beside_a_write() {
    let acts: [Act; 2] = [
        |process| process.dup2(0, 1).unwrap(),
        |process| process.write(1).unwrap(),
    ];
    model([A, B, None], &[0, 1], false, keys_on_both, acts);
}

#[test]
fn loom_sockets_over_each_other() {
    let acts: [Act; 2] = [
        |process| process.dup2(0, 1).unwrap(),
        |process| process.dup2(1, 0).unwrap(),
    ];
    model([A, B, None], &[0, 1], false, keys_on_both, acts);
}

#[test]
fn loom_close_beside_a_write() {
    let acts: [Act; 2] = [
        |process| process.close(0).unwrap(),
        |process| {
            let _ = process.write(0);
        },
    ];
    model([A, None, None], &[0], false, keys_on_0, acts);
}

#[test]
fn loom_close_beside_a_dup() {
    let acts: [Act; 2] = [
        |process| process.close(0).unwrap(),
        |process| {
            let _ = process.dup(0);
        },
    ];
    model([A, None, None], &[0], false, keys_on_0, acts);
}

#[test]
fn loom_close_of_both_numbers() {
    let acts: [Act; 2] = [
        |process| process.close(0).unwrap(),
        |process| process.close(1).unwrap(),
    ];
    let before: Act = |process| {
        process.keys(0, false).unwrap();
        process.dup(0).unwrap();
    };
    model([A, None, None], &[0], false, before, acts);
}

/// A number that is closed comes back as another socket's, which gets keys.
#[test]
fn loom_close_and_reuse_beside_a_write() {
    let acts: [Act; 2] = [
        |process| {
            process.close(0).unwrap();
            if process.accept(2) == Ok(0) {
                process.keys(0, false).unwrap();
            }
        },
        |process| {
            let _ = process.write(0);
        },
    ];
    model([A, None, None], &[0], false, keys_on_0, acts);
}

/// One thread gives the number out anew that another is closing.
#[test]
fn loom_close_beside_reuse() {
    let acts: [Act; 2] = [
        |process| process.close(0).unwrap(),
        |process| {
            if process.accept(2) == Ok(0) {
                process.keys(0, false).unwrap();
                process.write(0).unwrap();
            }
        },
    ];
    model([A, None, None], &[0], false, keys_on_0, acts);
}

#[test]
fn loom_dup_beside_dup_over() {
    let acts: [Act; 2] = [
        |process| {
            let new = process.dup(0).unwrap();
            process.write(new).unwrap();
        },
        |process| {
            let _ = process.dup2(1, 0);
        },
    ];
    model([A, OTHER, None], &[0], false, keys_on_0, acts);
}
