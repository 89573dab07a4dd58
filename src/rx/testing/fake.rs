//! A kernel whose receive queue fills as the test says.
#![forbid(unsafe_code)]

use super::*;

/// A kernel whose receive queue fills as the test says.
#[derive(Default)]
pub(in crate::rx) struct FakeSys(Mutex<FakeSocket>);

#[derive(Default)]
pub(in crate::rx) struct FakeSocket {
    pub(super) queue: VecDeque<u8>,
    /// On its way.
    pub arriving: VecDeque<u8>,
    /// Bytes that have left the queue.
    pub(super) gone: usize,
    /// How much of what has come is charged to the queue's room, piece by piece: (bytes that are left, bytes charged). The
    /// charge is given back with the last byte of a piece, as a kernel frees the memory of a segment (`truesize`).
    segments: VecDeque<(usize, usize)>,
    /// What the queue has room for; 0: everything.
    pub room: usize,
    /// How often whoever watches by edge-triggered epoll was woken.
    pub edges: u64,
    pub(super) mark: usize,
    pub eof: bool,
    pub error: Option<Errno>,
    /// Nothing comes any more, not even what was on its way.
    pub(super) reset: bool,
    pub blocking: bool,
    /// `SO_RCVTIMEO` runs out at once.
    pub(super) timed: bool,
    /// The next wait is interrupted.
    pub(super) interrupt: bool,
    /// What a wait does that nothing would ever end: interrupt it, or fail the test.
    pub(super) may_hang: bool,
    pub(super) interrupted: bool,
    /// The pipe of a splice: what it holds, and how much more it takes.
    pub(super) pipe: Vec<u8>,
    pub pipe_room: usize,
    pub(super) pipe_error: Option<Errno>,
    /// System calls that the library may still make in the call that is at work.
    pub(super) patience: usize,
}

impl FakeSocket {
    pub(in crate::rx) fn arrive(&mut self, len: usize) {
        if self.reset {
            return;
        }
        let room = match self.room {
            0 => usize::MAX,
            room => room - self.charged().min(room),
        };
        let len = len.min(room).min(self.arriving.len());
        self.queue.extend(self.arriving.drain(..len));
        if len > 0 {
            self.segments.push_back((len, len));
            self.tell();
        }
    }
    fn charged(&self) -> usize {
        self.segments.iter().map(|(_, charged)| charged).sum()
    }
    /// `sk_data_ready`, if somebody is to be woken.
    pub(super) fn tell(&mut self) {
        self.edges += u64::from(self.readable());
    }
    pub(super) fn ended(&self) -> bool {
        self.reset || self.eof && self.arriving.is_empty()
    }
    pub(in crate::rx) fn is_full(&self) -> bool {
        self.room != 0 && self.charged() >= self.room
    }
    /// `POLLIN`, as the kernel has it.
    pub(in crate::rx) fn readable(&self) -> bool {
        let enough = self.queue.len() >= self.mark.max(1);
        self.ended() || self.error.is_some() || self.is_full() || enough
    }
    /// Bytes of the stream that have come so far.
    pub(in crate::rx) fn arrived(&self) -> usize {
        self.gone + self.queue.len()
    }
    pub(super) fn take_out(&mut self, len: usize) {
        self.queue.drain(..len);
        self.gone += len;
        let mut rest = len;
        while let Some((left, _)) = self.segments.front_mut().filter(|_| rest > 0) {
            let part = rest.min(*left);
            (rest, *left) = (rest - part, *left - part);
            if *left == 0 {
                self.segments.pop_front();
            }
        }
    }
}

impl FakeSys {
    pub(in crate::rx) fn socket(&self) -> MutexGuard<'_, FakeSocket> {
        self.0.lock().expect("no test has failed with it")
    }

    /// In a system call: counts it.
    pub(super) fn call(&self) -> MutexGuard<'_, FakeSocket> {
        let mut socket = self.socket();
        assert!(socket.patience > 0, "a call asks the kernel without end");
        socket.patience -= 1;
        socket
    }

    /// A call of the library begins: more system calls than this many bytes need are an endless
    /// loop.
    pub(super) fn expect_call(&self) {
        let mut socket = self.socket();
        socket.patience = 1000 + (socket.queue.len() + socket.arriving.len()) / 4;
        socket.interrupted = false;
    }
}

impl Receive for FakeSys {
    fn peek(&self, _: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        let mut socket = self.call();
        if socket.queue.is_empty() {
            return match socket.error.take() {
                Some(errno) => Err(errno),
                None if socket.ended() => Ok(0),
                None => Err(Errno::AGAIN),
            };
        }
        let len = out.len().min(socket.queue.len());
        let (head, tail) = socket.queue.as_slices();
        let first = len.min(head.len());
        out[..first].copy_from_slice(&head[..first]);
        out[first..len].copy_from_slice(&tail[..len - first]);
        Ok(len)
    }
    fn take(&self, fd: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        let len = self.peek(fd, out)?;
        self.socket().take_out(len);
        Ok(len)
    }
    fn discard(&self, _: RawFd, len: usize) -> Result<usize, Errno> {
        let mut socket = self.call();
        assert!(len <= socket.queue.len(), "more is dropped than is there");
        socket.take_out(len);
        Ok(len)
    }
    fn set_low_water(&self, _: RawFd, bytes: usize) {
        let mut socket = self.call();
        let cap = match socket.room {
            0 => 3 << 20,
            room => room / 2,
        };
        socket.mark = bytes.min(cap);
        // As `tcp_set_rcvlowat` does, which wakes nobody for an empty queue.
        if !socket.queue.is_empty() {
            socket.tell();
        }
    }
    fn wait(&self, _: RawFd, timeout: Option<Duration>) -> Result<Ready, Errno> {
        let mut socket = self.call();
        if timeout != Some(Duration::ZERO) && !socket.readable() {
            let endless = !socket.ended() && socket.arriving.is_empty();
            assert!(!endless || socket.may_hang, "a call sleeps for ever");
            if core::mem::take(&mut socket.interrupt) || endless {
                socket.interrupted = true;
                return Err(Errno::INTR);
            }
            socket.arrive(977);
        }
        Ok(Ready {
            readable: socket.readable(),
            ended: socket.ended(),
            error: socket.error.take(),
        })
    }
    fn consumed(&self, _: RawFd) -> Option<u64> {
        Some(self.socket().gone as u64)
    }
    fn is_nonblocking(&self, fd: RawFd) -> bool {
        if fd != 0 {
            // A pipe.
            return false;
        }
        !self.socket().blocking
    }
    fn receive_timeout(&self, _: RawFd) -> Option<Duration> {
        self.socket().timed.then_some(Duration::from_nanos(1))
    }
    fn handlers_restart(&self) -> bool {
        !self.socket().may_hang
    }
    fn fill_pipe(&self, _: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        let mut socket = self.call();
        if let Some(errno) = socket.pipe_error.take() {
            return Err(errno);
        }
        let len = bytes.len().min(socket.pipe_room);
        if len == 0 {
            return Err(Errno::AGAIN);
        }
        socket.pipe_room -= len;
        socket.pipe.extend_from_slice(&bytes[..len]);
        Ok(len)
    }
    fn wait_for_pipe(&self, _: RawFd) -> Result<(), Errno> {
        self.call().pipe_room += 4096;
        Ok(())
    }
}
