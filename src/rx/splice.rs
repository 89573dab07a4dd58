//! `splice(2)` from the connection into a pipe.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::Receiver;
use super::receive::Patience;
use super::records::Found;
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::stats::STATS;
use crate::sync::lock;

impl Receiver {
    /// Moves data of at most one record, at most `len` bytes and what fits, into `pipe` (RX-41 to
    /// RX-45). `dont_wait` is for both ends. Returns 0 at the end of the stream.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a control record comes next; else as [`Receiver::receive`], and what
    /// writing to the pipe fails with.
    pub fn splice(&self, pipe: RawFd, len: usize, dont_wait: bool) -> Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        let mut patience = Patience::new(self, dont_wait);
        let _turn = self.take_turn(&mut patience)?;
        let mut state = lock(&self.state);
        let result = loop {
            if let Some(record) = state.opened().front() {
                if record.content_type != APPLICATION_DATA {
                    break Err(Error::Invalid);
                }
                if record.rest().is_empty() {
                    let empty = state.opened().pop_front().expect("the front just seen");
                    state.finish(empty);
                    continue;
                }
                let rest = record.rest();
                match self.sys.fill_pipe(pipe, &rest[..rest.len().min(len)]) {
                    Ok(written) => break Ok(written),
                    Err(rustix::io::Errno::AGAIN) if !dont_wait => {
                        drop(state);
                        let waited = self.sys.wait_for_pipe(pipe);
                        state = lock(&self.state);
                        if let Err(errno) = waited {
                            break Err(Error::from(errno));
                        }
                    }
                    Err(errno) => break Err(Error::from(errno)),
                }
                continue;
            }
            match state.look(self.sys, self.fd(), &self.pending) {
                Found::Ready(wire) => {
                    let opened = state.open(wire);
                    if let Err(error) = self.opened(opened.as_ref().err()) {
                        break Err(error);
                    }
                    match opened {
                        Ok(record) => state.keep(record),
                        Err(error) => break Err(error),
                    }
                }
                Found::Eof if self.pending.peek().is_none() => break Ok(0),
                found => {
                    let waited;
                    (state, waited) = self.wait(state, found, &mut patience, false);
                    match waited {
                        Ok(true) => {}
                        Ok(false) => break Ok(0),
                        Err(error) => break Err(error),
                    }
                }
            }
        };
        if let Ok(written @ 1..) = result {
            let record = state.opened().front_mut().expect("what was written from");
            record.advance(written);
            if record.rest().is_empty() {
                let record = state.opened().pop_front().expect("the same");
                state.finish(record);
            }
            self.bytes.fetch_add(written as u64, Ordering::Relaxed);
            STATS.rx_bytes.add(written as u64);
        }
        state.settle(self.sys, self.fd());
        result
    }
}
