//! `splice(2)` from the connection into a pipe.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::records::{Ending, Found};
use super::waiting::{Holds, Patience};
use super::{Entered, Receiver};
use crate::error::{Error, NO_MEMORY, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::stats::STATS;
use crate::sys::reserve;

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
        let mut turn = Some(self.take_turn(&mut patience)?);
        let mut entered = self.enter()?;
        let result = loop {
            let Entered { io, records } = &mut entered;
            if let Some(record) = records.opened().front() {
                if record.content_type != APPLICATION_DATA {
                    break Err(Error::Invalid);
                }
                if record.rest().is_empty() {
                    let empty = records.opened().pop_front();
                    records.finish(empty.expect("the front just seen"));
                    continue;
                }
                let rest = record.rest();
                match self.sys.fill_pipe(pipe, &rest[..rest.len().min(len)]) {
                    Err(Errno::AGAIN) if !dont_wait && !self.sys.is_nonblocking(pipe) => {
                        entered.settle(Ending::Full);
                        drop(entered);
                        self.wait_for_pipe(pipe)?;
                        entered = self.enter()?;
                        continue;
                    }
                    written => break written.map_err(Error::from),
                }
            }
            if let Err(errno) = reserve::admit() {
                break Err(Error::Os(errno));
            }
            let found = records.look(io);
            if found == Found::NoMemory {
                break Err(NO_MEMORY);
            }
            if let Found::Ready(wire) = found {
                let opened = records.open(wire);
                match self.opened(opened.as_ref().err()).and(opened) {
                    Ok(record) => records.keep(record),
                    Err(error) => break Err(error),
                }
                continue;
            }
            let waited;
            (entered, waited) =
                self.wait(&mut turn, entered, found, &mut patience, Holds::Nothing)?;
            match waited {
                Ok(true) => {}
                Ok(false) => break Ok(0),
                Err(error) => break Err(error),
            }
        };
        let records = &mut entered.records;
        if let Ok(written @ 1..) = result {
            let record = records.opened().front_mut().expect("what was written from");
            record.advance(written);
            if record.rest().is_empty() {
                let record = records.opened().pop_front().expect("the same");
                records.finish(record);
            }
            self.bytes.fetch_add(written as u64, Ordering::Relaxed);
            STATS.rx_bytes.add(written as u64);
        }
        entered.settle(match result {
            Err(Error::WouldBlock) => Ending::Refused,
            // Of one record, whatever stands behind it.
            Ok(moved) if moved < len => Ending::Short,
            _ => Ending::Full,
        });
        result
    }

    fn wait_for_pipe(&self, pipe: RawFd) -> Result<()> {
        loop {
            match self.sys.wait_for_pipe(pipe) {
                // Restarted as a wait for records is (RX-29).
                Err(Errno::INTR) if self.sys.handlers_restart() => {}
                waited => return waited.map_err(Error::from),
            }
        }
    }
}
