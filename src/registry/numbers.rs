//! What each descriptor number means, and who may change that.
//!
//! TLS belongs to a socket, and a socket has any number of numbers (design rule 8). This table says of
//! each number whether it is one of a TLS socket's, and of each TLS socket which numbers it has. The
//! kernel's own table says the same of files, and the two change together: that is what this file is
//! about. `docs/architecture.md` ("Numbers and sockets") has the argument; the models in
//! `numbers/model.rs` run this code under loom, with the kernel's table as a part of the model.
//!
//! - A number changes its meaning in one *change* ([`Change`]): the mark says [`BUSY`], calls that come
//!   wait, and before a number becomes a TLS socket's, calls that have seen the mark before it was busy
//!   are waited out. Those that do not end (a write that sleeps on whatever the number was) make the
//!   change fail with `EBUSY`, since the kernel would look their number up again after a signal.
//! - A change holds one number busy at a time while it waits, and no lock. The lock is held for short steps;
//!   where the kernel's call decides what the number means (`dup3`), that call is one of them.
//! - A socket gets its state in one step: the entry by its identity is made under the lock, and who comes
//!   second finds it.
#![forbid(unsafe_code)]

#[cfg(all(test, loom))]
#[path = "numbers/model.rs"]
mod model;

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::slot::{ArcSlot, Loaded};
use crate::sync::{Mutex, MutexGuard, lock, try_lock};
use crate::sys::identity::Identity;
use crate::sys::in_flight::Under;
use crate::sys::marks::{BUSY, PLAIN, REFUSED, SOLE, TLS, TWIN, TX, WATCHED};

/// What the table stands on. The real one is `registry/world.rs`; the models bring their own.
pub(crate) trait World<S> {
    /// As long as it lives, the thread's signal handlers wait.
    type Quiet;

    /// The mark of a number; `None` beyond the table.
    fn mark(&self, fd: RawFd) -> Option<&AtomicU8>;
    /// The state of a number; made if `make` says so.
    fn slot(&self, fd: RawFd, make: bool) -> Option<&ArcSlot<S>>;
    /// All threads of the process have passed a barrier when it returns.
    fn barrier(&self) -> Result<()>;
    /// Whether a call that moves bytes by `fd` has looked at the mark and is not over.
    fn under(&self, fd: RawFd) -> Under;
    /// The calling thread; not 0.
    fn thread(&self) -> u32;
    /// Signal handlers wait.
    fn quiet(&self) -> Self::Quiet;
    /// Lets others go on, for the n-th time; false when it has been long enough.
    fn pause(&self, round: u32) -> bool;

    /// A mark has been stored: it gets what every number is marked with in this process.
    fn keep_floor(&self, _mark: &AtomicU8) {}

    /// The number means this from now on. Under the table's lock.
    fn set(&self, fd: RawFd, mark: u8, socket: Option<Arc<S>>) {
        let is_tls = socket.is_some();
        if is_tls && let Some(slot) = self.slot(fd, true) {
            slot.store(socket);
        }
        if let Some(place) = self.mark(fd) {
            // Release: pairs with the Acquire in `find`.
            place.store(mark, Ordering::Release);
            self.keep_floor(place);
        }
        if !is_tls && let Some(slot) = self.slot(fd, false) {
            slot.store(None);
        }
    }
}

/// A state that knows which socket it is of.
pub(crate) trait OfSocket {
    /// The socket.
    fn identity(&self) -> Identity;
    /// What its numbers are marked with: [`TLS`], and [`TX`](crate::sys::marks::TX) once it has keys for sending.
    fn marks(&self) -> u8;
    /// Whether it has keys for a direction.
    fn has_keys(&self) -> bool;
}

/// The table.
pub(crate) struct Numbers<S, W> {
    world: W,
    inner: Mutex<Inner<S>>,
}

/// What the lock guards.
pub(crate) struct Inner<S> {
    sockets: BTreeMap<Identity, Known<S>>,
    changes: Vec<Running>,
    /// Rises with every change.
    serial: u64,
}

/// A TLS socket.
struct Known<S> {
    socket: Arc<S>,
    /// Its numbers in this process.
    numbers: Vec<RawFd>,
    /// The thread that is making or ending it; 0 if none is. Others wait.
    changer: u32,
}

/// A change that is under way.
struct Running {
    fd: RawFd,
    serial: u64,
    thread: u32,
}

/// What the kernel and the streams of the C library have to do with keys that are set.
pub(crate) trait Attaching {
    /// All numbers of the process that the socket has.
    fn twins(&self) -> Vec<RawFd>;
    /// Whether the number is one of the socket's.
    fn is_of(&self, fd: RawFd) -> bool;
    /// The number is about to become a TLS socket's.
    fn prepare(&self, fd: RawFd) -> Result<()>;
    /// It has not become one.
    fn undo(&self, fd: RawFd);
}

impl<S, W> Numbers<S, W> {
    pub(crate) const fn with(world: W, inner: Mutex<Inner<S>>) -> Numbers<S, W> {
        Numbers { world, inner }
    }
}

impl<S: OfSocket, W: World<S>> Numbers<S, W> {
    #[cfg(all(test, loom))]
    pub(crate) fn world(&self) -> &W {
        &self.world
    }

    /// The state behind `fd`.
    ///
    /// # Errors
    /// [`Error::NoTls`] if it is none of a TLS socket's; `EBADF` if the caller is a signal handler, and the number is
    /// being changed by the call that it has interrupted.
    pub(crate) fn find(&self, fd: RawFd) -> Result<Loaded<S>> {
        loop {
            let Some(mark) = self.world.mark(fd) else {
                return Err(Error::NoTls);
            };
            // Acquire: pairs with the Release of whoever marked it; the state is there.
            let mark = mark.load(Ordering::Acquire);
            if mark & BUSY != 0 {
                self.settle(fd)?;
            } else if mark & TLS == 0 {
                return Err(Error::NoTls);
            } else if let Some(slot) = self.world.slot(fd, false) {
                let loaded = slot.load();
                // Empty: it has just ceased to be one.
                if loaded.is_some() {
                    return Ok(loaded);
                }
            }
        }
    }

    /// Waits until nobody changes the meaning of `fd`; returns the mark then.
    ///
    /// # Errors
    /// As [`Numbers::find`].
    pub(crate) fn settle(&self, fd: RawFd) -> Result<u8> {
        let mut round = 0;
        loop {
            let Some(mark) = self.world.mark(fd) else {
                return Ok(PLAIN);
            };
            let mark = mark.load(Ordering::Acquire);
            if mark & BUSY == 0 {
                return Ok(mark);
            }
            // A handler of a signal that came under the lock could fork, or look here: it waits.
            let quiet = self.world.quiet();
            let inner = lock(&self.inner);
            let running = inner.changes.iter().find(|running| running.fd == fd);
            if running.is_some_and(|running| running.thread == self.world.thread()) {
                return Err(Error::Os(Errno::BADF));
            }
            drop(inner);
            drop(quiet);
            // However long it takes: a change ends.
            self.world.pause(round);
            round += 1;
        }
    }

    /// Gives the socket `identity`, one of whose numbers is `fd`, a state, unless it has one. Returns its state, and
    /// whether that is new.
    ///
    /// # Errors
    /// As [`Numbers::join`].
    pub(crate) fn attach(
        &self,
        identity: Identity,
        fd: RawFd,
        new: impl FnOnce() -> Arc<S>,
        kernel: &dyn Attaching,
    ) -> Result<(Arc<S>, bool)> {
        let mut new = Some(new);
        loop {
            let (socket, is_new, is_known) = {
                let mut inner = self.lock_unchanged(identity)?;
                match inner.sockets.get(&identity) {
                    Some(known) => {
                        let is_known = known.numbers.contains(&fd);
                        (Arc::clone(&known.socket), false, is_known)
                    }
                    None => {
                        // Made once: an attempt that has lost its entry has not made it.
                        let Some(new) = new.take() else {
                            return Err(Error::NoTls);
                        };
                        let socket = new();
                        let known = Known {
                            socket: Arc::clone(&socket),
                            numbers: Vec::new(),
                            changer: 0,
                        };
                        inner.sockets.insert(identity, known);
                        (socket, true, false)
                    }
                }
            };
            if is_known {
                return Ok((socket, is_new));
            }
            match self.join(identity, fd, kernel) {
                Ok(_) => return Ok((socket, is_new)),
                // The state that was there has been taken off, by an attempt of another thread to set keys that has
                // failed.
                Err(Error::NoTls) if !is_new && kernel.is_of(fd) => {}
                Err(error) => {
                    if is_new {
                        self.withdraw(identity, |there| Arc::ptr_eq(there, &socket));
                    }
                    return Err(error);
                }
            }
        }
    }

    /// `set` gives `socket` keys that its numbers are marked for. Before, all numbers of the socket are found, if
    /// `search` says so and it may have others than are known, and calls that write by one of them plainly are
    /// waited out. `set` is told whether the socket is one that others may have. Nobody sees the socket in between.
    ///
    /// # Errors
    /// [`Error::NoTls`] if `socket` is no longer the state of its socket; `EBUSY` if a call by one of its numbers
    /// does not end; what [`Attaching::prepare`] or `set` fails with. Then everything is as before.
    pub(crate) fn promote(
        &self,
        fd: RawFd,
        socket: &Arc<S>,
        search: bool,
        kernel: &dyn Attaching,
        set: impl FnOnce(bool) -> Result<()>,
    ) -> Result<()> {
        let identity = socket.identity();
        let _quiet = self.world.quiet();
        let numbers = {
            let mut inner = self.lock_unchanged(identity)?;
            let known = inner.sockets.get_mut(&identity);
            let known = known.filter(|known| Arc::ptr_eq(&known.socket, socket));
            let known = known.ok_or(Error::NoTls)?;
            known.changer = self.world.thread();
            known.numbers.clone()
        };
        let held = self.hold_all(fd, &numbers, search, kernel);
        let result = held.and_then(|(held, is_sole)| match set(!is_sole) {
            Ok(()) => Ok(held),
            Err(error) => {
                held.iter().for_each(|change| kernel.undo(change.fd));
                Err(error)
            }
        });
        let mut inner = lock(&self.inner);
        if let Some(known) = inner.sockets.get_mut(&identity) {
            known.changer = 0;
        }
        match result {
            Ok(held) => {
                for change in held {
                    change.mark_tls(&mut inner, socket);
                }
                Ok(())
            }
            // The changes have been dropped before the lock was taken.
            Err(error) => Err(error),
        }
    }

    /// Changes of all numbers that the socket of `fd` has: nobody is between mark and kernel with one of them. Says
    /// whether that is one only, which no other process has.
    fn hold_all(
        &self,
        fd: RawFd,
        known: &[RawFd],
        search: bool,
        kernel: &dyn Attaching,
    ) -> Result<(Vec<Change<'_, S, W>>, bool)> {
        let first = self.hold(fd, kernel)?.ok_or(Error::Os(Errno::BADF))?;
        let is_sole = first.before & SOLE != 0 && known.iter().all(|number| *number == fd);
        let mut numbers = known.to_vec();
        if search && !is_sole {
            // A number that comes from here on is looked at by whoever made it (`join`).
            numbers.extend(kernel.twins());
            numbers.sort_unstable();
            numbers.dedup();
        }
        let mut held = vec![first];
        for twin in numbers.into_iter().filter(|twin| *twin != fd) {
            match self.hold(twin, kernel) {
                // It may have become something else since it was found.
                Ok(change) => held.extend(change),
                Err(error) => {
                    Self::let_go(held, kernel);
                    return Err(error);
                }
            }
        }
        Ok((held, is_sole))
    }

    /// A change of a number that nobody is between mark and kernel with; `None` if it is none of the socket's.
    fn hold(&self, fd: RawFd, kernel: &dyn Attaching) -> Result<Option<Change<'_, S, W>>> {
        // Before the number is busy: a call that is inside a stream would wait for that, and this for the stream.
        kernel.prepare(fd)?;
        let held = self.begin(fd).and_then(|mut change| {
            change.wait_out()?;
            Ok(change)
        });
        match held {
            Ok(change) if kernel.is_of(fd) => Ok(Some(change)),
            Ok(change) => {
                drop(change);
                kernel.undo(fd);
                Ok(None)
            }
            Err(error) => {
                kernel.undo(fd);
                Err(error)
            }
        }
    }

    /// The numbers mean what they did.
    fn let_go(held: Vec<Change<'_, S, W>>, kernel: &dyn Attaching) {
        for change in held {
            let fd = change.fd;
            drop(change);
            kernel.undo(fd);
        }
    }

    /// `fd` is another number of the TLS socket `identity`.
    ///
    /// # Errors
    /// [`Error::NoTls`] if that has no state, or the number is none of its; `EBUSY` if a call by the number does not
    /// end; `EMFILE` for a number beyond the table.
    pub(crate) fn join(
        &self,
        identity: Identity,
        fd: RawFd,
        kernel: &dyn Attaching,
    ) -> Result<Arc<S>> {
        loop {
            // Whoever makes the socket's state may be about to mark this very number, so it is waited for without
            // holding the number.
            if !self
                .lock_unchanged(identity)?
                .sockets
                .contains_key(&identity)
            {
                return Err(Error::NoTls);
            }
            let change = self.hold(fd, kernel)?.ok_or(Error::NoTls)?;
            let mut inner = lock(&self.inner);
            match inner.sockets.get(&identity) {
                Some(known) if known.changer == 0 => {
                    let socket = Arc::clone(&known.socket);
                    change.mark_tls(&mut inner, &socket);
                    return Ok(socket);
                }
                _ => {
                    drop(inner);
                    Self::let_go(vec![change], kernel);
                }
            }
        }
    }

    /// The state of the socket `identity`, also while it has no number that is known.
    pub(crate) fn by_identity(&self, identity: Identity) -> Option<Arc<S>> {
        let _quiet = self.world.quiet();
        let inner = lock(&self.inner);
        let known = inner.sockets.get(&identity)?;
        Some(Arc::clone(&known.socket))
    }

    /// Takes the state off the socket `identity`, if `may` says so under the lock: its numbers are plain again.
    /// Returns those.
    pub(crate) fn withdraw(
        &self,
        identity: Identity,
        may: impl FnOnce(&Arc<S>) -> bool,
    ) -> Vec<RawFd> {
        let _quiet = self.world.quiet();
        let Ok(mut inner) = self.lock_unchanged(identity) else {
            return Vec::new();
        };
        let Some(known) = inner.sockets.get(&identity) else {
            return Vec::new();
        };
        if !may(&known.socket) {
            return Vec::new();
        }
        let numbers = known.numbers.clone();
        // A number that is being changed is let go by its change, which finds no entry.
        for fd in &numbers {
            if !inner.changes.iter().any(|running| running.fd == *fd) {
                let mark = self
                    .world
                    .mark(*fd)
                    .map_or(PLAIN, |mark| mark.load(Ordering::Acquire));
                let known = mark & (WATCHED | REFUSED);
                self.unmark(*fd, if known == 0 { TWIN } else { known });
            }
        }
        inner.sockets.remove(&identity);
        numbers
    }

    /// Begins to change the meaning of `fd`. Waits for a change that is under way.
    ///
    /// # Errors
    /// `EMFILE` for a number beyond the table; `EBUSY` if the caller is a signal handler in such a change.
    pub(crate) fn begin(&self, fd: RawFd) -> Result<Change<'_, S, W>> {
        let quiet = self.world.quiet();
        let mark = self.world.mark(fd).ok_or(Error::Os(Errno::MFILE))?;
        let thread = self.world.thread();
        let mut round = 0;
        loop {
            let mut inner = lock(&self.inner);
            match inner.changes.iter().find(|running| running.fd == fd) {
                Some(running) if running.thread == thread => return Err(Error::Os(Errno::BUSY)),
                Some(_) => {}
                None => {
                    inner.serial += 1;
                    let serial = inner.serial;
                    inner.changes.push(Running { fd, serial, thread });
                    // AcqRel: calls that find it wait; those that have not seen it are found by `wait_out`.
                    let before = mark.fetch_or(BUSY, Ordering::AcqRel) & !BUSY;
                    return Ok(Change {
                        numbers: self,
                        fd,
                        serial,
                        before,
                        open: true,
                        _quiet: quiet,
                    });
                }
            }
            drop(inner);
            self.world.pause(round);
            round += 1;
        }
    }

    /// The kernel has just given `fd` out for something new, of which `mark` is known. What the number was is gone;
    /// returns the state of the TLS socket that it was, and whether that has no other number.
    pub(crate) fn fresh(&self, fd: RawFd, mark: u8) -> Option<(Arc<S>, bool)> {
        let place = self.world.mark(fd)?;
        let before = place.load(Ordering::Relaxed);
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        if before & (BUSY | TLS) == 0
            && place
                .compare_exchange(before, mark, success, failure)
                .is_ok()
        {
            self.world.keep_floor(place);
            return None;
        }
        let _quiet = self.world.quiet();
        let mut inner = lock(&self.inner);
        // Whoever is closing the number has got as far as the kernel, and has nothing more to say of it.
        inner.changes.retain(|running| running.fd != fd);
        let gone = self.take_off(&mut inner, fd);
        self.world.set(fd, mark, None);
        gone.map(|left| (left.socket, left.other.is_none()))
    }

    /// Lets a change of another thread go on, for the n-th time.
    pub(crate) fn give_way(&self, round: u32) {
        self.world.pause(round);
    }

    /// Whether the TLS socket of `fd` has other numbers.
    pub(crate) fn has_others(&self, fd: RawFd) -> bool {
        let _quiet = self.world.quiet();
        let inner = lock(&self.inner);
        let known = self
            .of(fd)
            .and_then(|socket| inner.sockets.get(&socket.identity()));
        known.is_some_and(|known| known.numbers.iter().any(|number| *number != fd))
    }

    /// The lock, when nobody makes or ends the socket `identity`.
    fn lock_unchanged(&self, identity: Identity) -> Result<MutexGuard<'_, Inner<S>>> {
        let mut round = 0;
        loop {
            let inner = lock(&self.inner);
            match inner.sockets.get(&identity).map(|known| known.changer) {
                None | Some(0) => return Ok(inner),
                Some(changer) if changer == self.world.thread() => {
                    return Err(Error::Os(Errno::BUSY));
                }
                Some(_) => {}
            }
            drop(inner);
            self.world.pause(round);
            round += 1;
        }
    }

    /// The lock of the table, to keep it as it is over a fork.
    pub(crate) fn lock_table(&self) -> MutexGuard<'_, Inner<S>> {
        lock(&self.inner)
    }

    /// The same, unless somebody holds it.
    pub(crate) fn try_lock_table(&self) -> Option<MutexGuard<'_, Inner<S>>> {
        try_lock(&self.inner)
    }

    /// In a forked child, which has the one thread that held the table: changes of other threads are not going on
    /// here. `is_still` tells whether a number that one was about is the socket's; `adopt` makes the child's own
    /// state of each socket, if it may have it, and keeps the parent's.
    pub(crate) fn in_child(
        &self,
        inner: &mut Inner<S>,
        is_still: impl Fn(RawFd, Identity) -> bool,
        mut adopt: impl FnMut(&Arc<S>) -> Option<Arc<S>>,
    ) {
        let changes = core::mem::take(&mut inner.changes);
        for running in &changes {
            if let Some(mark) = self.world.mark(running.fd) {
                mark.fetch_and(!BUSY, Ordering::AcqRel);
            }
        }
        for known in inner.sockets.values_mut() {
            known.changer = 0;
        }
        for (identity, known) in &mut inner.sockets {
            for running in &changes {
                let is_listed = known.numbers.contains(&running.fd);
                match is_still(running.fd, *identity) {
                    true if !is_listed => known.numbers.push(running.fd),
                    false if is_listed => known.numbers.retain(|fd| *fd != running.fd),
                    _ => {}
                }
            }
            if let Some(own) = adopt(&known.socket) {
                known.socket = own;
            }
            for fd in &known.numbers {
                let keeps = self
                    .world
                    .mark(*fd)
                    .map_or(0, |mark| mark.load(Ordering::Relaxed) & WATCHED);
                let marks = known.socket.marks() | keeps;
                self.world.set(*fd, marks, Some(Arc::clone(&known.socket)));
            }
        }
        for running in &changes {
            let fd = running.fd;
            if !inner
                .sockets
                .values()
                .any(|known| known.numbers.contains(&fd))
            {
                self.unmark(fd, WATCHED);
            }
        }
    }

    /// The state of a number, as the table has it: also while the number is being changed.
    fn of(&self, fd: RawFd) -> Option<Arc<S>> {
        let mark = self.world.mark(fd)?.load(Ordering::Acquire);
        if mark & TLS == 0 {
            return None;
        }
        let loaded = self.world.slot(fd, false)?.load();
        Option::clone(&loaded)
    }

    /// Takes the number off its TLS socket, whose state ends with its last.
    fn take_off(&self, inner: &mut Inner<S>, fd: RawFd) -> Option<Left<S>> {
        let socket = self.of(fd)?;
        let identity = socket.identity();
        let known = inner.sockets.get_mut(&identity)?;
        if !Arc::ptr_eq(&known.socket, &socket) {
            return None;
        }
        known.numbers.retain(|number| *number != fd);
        let other = known.numbers.first().copied();
        if other.is_none() {
            inner.sockets.remove(&identity);
        }
        Some(Left {
            socket,
            identity,
            other,
        })
    }

    /// The number is none of a TLS socket's any more.
    fn unmark(&self, fd: RawFd, mark: u8) {
        self.world.set(fd, mark, None);
    }
}

impl<S> Inner<S> {
    pub(crate) const fn new() -> Inner<S> {
        Inner {
            sockets: BTreeMap::new(),
            changes: Vec::new(),
            serial: 0,
        }
    }

    /// Every TLS socket.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Arc<S>> {
        self.sockets.values().map(|known| &known.socket)
    }
}

/// The meaning of a number is being changed; calls on it wait. Dropped, it means what it did before.
#[must_use]
pub(crate) struct Change<'a, S, W: World<S>> {
    numbers: &'a Numbers<S, W>,
    fd: RawFd,
    serial: u64,
    /// The mark that the number had.
    before: u8,
    open: bool,
    _quiet: W::Quiet,
}

/// What a TLS socket has left when a number has been taken off it.
pub(crate) struct Left<S> {
    pub(crate) socket: Arc<S>,
    pub(crate) identity: Identity,
    /// Another of its numbers.
    pub(crate) other: Option<RawFd>,
}

impl<S: OfSocket, W: World<S>> Change<'_, S, W> {
    /// Waits until no call is under way that has looked at the number before it was busy.
    ///
    /// # Errors
    /// `EBUSY` if one does not end, or is beneath this one on the caller's own stack; why there can be no barrier.
    pub(crate) fn wait_out(&mut self) -> Result<()> {
        if self.before & TX != 0 {
            // Calls that write by the number do not go to the kernel.
            return Ok(());
        }
        self.numbers.world.barrier()?;
        let mut round = 0;
        loop {
            match self.numbers.world.under(self.fd) {
                Under::Nobody => {
                    // One of those calls may have been a `dup`: the number is not the only one any more.
                    let mark = self.numbers.world.mark(self.fd);
                    self.before = mark.map_or(PLAIN, |mark| mark.load(Ordering::Acquire)) & !BUSY;
                    return Ok(());
                }
                Under::Caller => return Err(Error::Os(Errno::BUSY)),
                Under::Other if !self.numbers.world.pause(round) => {
                    return Err(Error::Os(Errno::BUSY));
                }
                Under::Other => round += 1,
            }
        }
    }

    /// The number is about to be closed: it is none of its TLS socket's any more. Who wants to duplicate it, or wants
    /// the socket if that was its last number, waits until the change has ended. That is soon: a thread that closes
    /// waits for no other change.
    pub(crate) fn leave(&self) -> Option<Left<S>> {
        let numbers = self.numbers;
        let mut inner = lock(&numbers.inner);
        let socket = numbers.of(self.fd)?;
        let identity = socket.identity();
        let known = inner.sockets.get_mut(&identity)?;
        known.numbers.retain(|number| *number != self.fd);
        let other = known.numbers.first().copied();
        if other.is_none() {
            known.changer = numbers.world.thread();
        }
        Some(Left {
            socket,
            identity,
            other,
        })
    }

    /// The number is closed; the change ends, and so does the socket's state if that was its last number.
    pub(crate) fn freed(mut self, left: Option<&Left<S>>) {
        let mut inner = lock(&self.numbers.inner);
        if let Some(left) = left.filter(|left| left.other.is_none()) {
            inner.sockets.remove(&left.identity);
        }
        self.end(&mut inner, Some((PLAIN, None)));
    }

    /// The number is closed, and another one of its socket has been found, which has the state from now on. With the
    /// C library, which does not see `dup(2)`.
    pub(crate) fn freed_but_for(mut self, left: &Left<S>, other: RawFd) {
        let mut inner = lock(&self.numbers.inner);
        if let Some(known) = inner.sockets.get_mut(&left.identity) {
            known.numbers.push(other);
            known.changer = 0;
            let socket = Arc::clone(&known.socket);
            let marks = socket.marks();
            self.numbers.world.set(other, marks, Some(socket));
        }
        self.end(&mut inner, Some((PLAIN, None)));
    }

    /// `kernel` makes the number one of whatever `old` is a number of, which must not sleep: both tables change in one
    /// step. `kernel` is told of which TLS socket the number was, and of another number of that. Returns that too.
    ///
    /// # Errors
    /// What `kernel` fails with; [`Error::Changed`] if what `old` means is being changed, or it has become a TLS socket's
    /// and the caller has `expected` no such thing: the caller ends the change, gives way, and begins again. Nothing
    /// has changed then.
    #[allow(clippy::type_complexity)]
    pub(crate) fn take_after<T>(
        &mut self,
        old: RawFd,
        expected: bool,
        kernel: impl FnOnce(Option<&Arc<S>>, Option<RawFd>) -> Result<T>,
    ) -> Result<(T, Option<Left<S>>)> {
        let numbers = self.numbers;
        let mut inner = lock(&numbers.inner);
        let of_old = numbers.of(old);
        if let Some(socket) = &of_old {
            let known = inner.sockets.get(&socket.identity());
            // The number is being closed, or the socket gets keys, by a thread that may want this number: not waited
            // for here.
            if !known.is_some_and(|known| known.changer == 0 && known.numbers.contains(&old)) {
                return Err(Error::Changed);
            }
        }
        let is_changing = inner.changes.iter().any(|running| running.fd == old);
        // A number that is about to become a TLS socket's may be taken for the only one.
        if (of_old.is_some() && !expected) || (of_old.is_none() && is_changing) {
            return Err(Error::Changed);
        }
        let mine = numbers.of(self.fd);
        let other = mine.as_ref().and_then(|socket| {
            let known = inner.sockets.get(&socket.identity())?;
            known.numbers.iter().copied().find(|fd| *fd != self.fd)
        });
        let result = kernel(mine.as_ref(), other)?;
        let left = numbers.take_off(&mut inner, self.fd);
        let known = numbers.world.mark(old).map_or(PLAIN, |mark| {
            let before = mark.fetch_and(!SOLE, Ordering::AcqRel);
            match before {
                mark if mark & (SOLE | TWIN) != 0 => TWIN,
                mark => mark & (WATCHED | REFUSED),
            }
        });
        match of_old {
            Some(socket) => {
                let identity = socket.identity();
                // The number may have been the last of the same socket's: then it is again.
                inner.sockets.entry(identity).or_insert_with(|| Known {
                    socket: Arc::clone(&socket),
                    numbers: Vec::new(),
                    changer: 0,
                });
                self.mark(&mut inner, &socket, known);
            }
            None => {
                self.end(&mut inner, Some((known, None)));
            }
        }
        Ok((result, left))
    }

    fn mark_tls(mut self, inner: &mut Inner<S>, socket: &Arc<S>) {
        // As it is now: a fork may have come since the change began, which says so without the lock, and once more
        // with it when it is over.
        let known = self.numbers.world.mark(self.fd);
        let known = known.map_or(PLAIN, |mark| mark.load(Ordering::Acquire));
        self.mark(inner, socket, known);
    }

    /// `known`: how a number of the socket was marked, which counts as long as there are no keys.
    fn mark(&mut self, inner: &mut Inner<S>, socket: &Arc<S>, known: u8) {
        let mut marks = socket.marks();
        let mut is_only = false;
        if let Some(entry) = inner.sockets.get_mut(&socket.identity()) {
            if !entry.numbers.contains(&self.fd) {
                entry.numbers.push(self.fd);
            }
            is_only = entry.numbers.len() == 1;
        }
        if !socket.has_keys() {
            marks |= known & (WATCHED | REFUSED | if is_only { SOLE } else { 0 });
        }
        self.end(inner, Some((marks, Some(Arc::clone(socket)))));
    }
}

impl<S, W: World<S>> Change<'_, S, W> {
    /// Ends the change: the number means what is said here, or what it did. Unless the kernel has given the number
    /// out meanwhile, which whoever has got it has told.
    fn end(&mut self, inner: &mut Inner<S>, meaning: Option<(u8, Option<Arc<S>>)>) {
        self.open = false;
        let serial = self.serial;
        let before = inner.changes.len();
        inner.changes.retain(|running| running.serial != serial);
        if inner.changes.len() == before {
            return;
        }
        match meaning {
            Some((mark, socket)) => self.numbers.world.set(self.fd, mark, socket),
            None => {
                if let Some(mark) = self.numbers.world.mark(self.fd) {
                    mark.fetch_and(!BUSY, Ordering::AcqRel);
                }
            }
        }
    }
}

impl<S, W: World<S>> Drop for Change<'_, S, W> {
    fn drop(&mut self) {
        if self.open {
            let numbers = self.numbers;
            let mut inner = lock(&numbers.inner);
            self.end(&mut inner, None);
        }
    }
}
