//! Sends from another descriptor: `sendfile(2)` and `splice(2)` into the stream.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::open_record::OpenRecord;
use super::send::{SendFlags, Turn, conclude, signalled};
use super::{Connection, SHUTDOWN};
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::sys::reserve;
use crate::sys::sources::PACKET;

/// Where the bytes come from.
#[derive(Clone, Copy, Debug)]
pub struct FileSource {
    /// The file or pipe.
    pub fd: RawFd,
    /// Read from here, or from (and moving) the file's own position.
    pub offset: Option<u64>,
    /// At most this many bytes.
    pub count: usize,
    /// Do not wait for the source (`SPLICE_F_NONBLOCK`).
    pub no_wait: bool,
    /// The source is a pipe: stop when it has no more for now (TX-45).
    pub pipe: bool,
    /// A `read(2)` of the source is something else than what `sendfile(2)` takes from it.
    pub is_odd: bool,
}

impl Connection {
    /// Seals up to `source.count` bytes read from another descriptor (TX-41 to TX-47). The file is
    /// read straight into the memory of the record.
    ///
    /// Returns the bytes accepted, 0 at the end of the source.
    ///
    /// # Errors
    /// As for [`Connection::send`], and what reading fails with.
    pub fn send_file(self: &Arc<Self>, source: FileSource, flags: SendFlags) -> Result<usize> {
        let Some(_turn) = self.take_turn_for(&source, flags)? else {
            return Ok(0);
        };
        let mut accepted = 0;
        let Some(mut sender) = self.begin_call() else {
            return self.file_goes_on_shared(source, &[], accepted, flags);
        };
        let mut stopped = None;
        while accepted < source.count && stopped.is_none() {
            let (still, room) = self.make_room(sender, flags);
            sender = match (still, room) {
                (Some(sender), _) => sender,
                (None, Ok(())) => return self.file_goes_on_shared(source, &[], accepted, flags),
                (None, Err(error)) => {
                    return signalled(flags, conclude(accepted, Some(error), None));
                }
            };
            if let Err(error) = room {
                stopped = Some(error);
                break;
            }
            let prefix = sender.sealer.prefix_len();
            let limit = sender.max_payload;
            let open = sender.open.as_ref().map_or(0, OpenRecord::len);
            let record = reserve::admit().map_err(Error::from);
            let mut record = match record.and_then(|()| OpenRecord::new(prefix)) {
                Ok(record) => record,
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            };
            drop(sender);
            // The read, which may sleep, holds no lock but the turn, and an open record stays where
            // a `fork` finds it; only what joins one is copied.
            let wanted = limit.saturating_sub(open).min(source.count - accepted);
            let read = self.read_from(record.space(wanted), source, accepted);
            record.grow(*read.as_ref().unwrap_or(&0));
            sender = match self.private() {
                Some(sender) => sender,
                None => {
                    if let Err(error) = read {
                        return signalled(flags, conclude(accepted, Some(error), None));
                    }
                    let bytes = record.copied().unwrap_or(&[]);
                    return self.file_goes_on_shared(source, bytes, accepted, flags);
                }
            };
            if self.is(SHUTDOWN) {
                stopped = Some(Error::BrokenPipe);
                break;
            }
            match (&mut sender.open, record.copied()) {
                (Some(open), Some(bytes)) => open.push(bytes),
                (open @ None, Some([_, ..])) => *open = Some(record),
                _ => {}
            }
            // A `flush` may have sealed meanwhile what was open, or the limit may have been lowered.
            let limit = limit.min(sender.max_payload);
            let full = sender.open.as_ref().is_some_and(|open| open.len() >= limit);
            match read {
                Ok(0) => break,
                Ok(len) => {
                    self.count_accepted(len);
                    accepted += len;
                    if full {
                        stopped = self.seal_open_as(&mut sender, APPLICATION_DATA).err();
                    }
                }
                Err(error) => stopped = Some(error),
            }
        }
        // TX-43, TX-46: an empty source leaves the open record alone.
        if accepted > 0 && !flags.more {
            stopped = self
                .seal_open_as(&mut sender, APPLICATION_DATA)
                .err()
                .or(stopped);
        }
        let failed = self.end_call(sender, accepted);
        signalled(flags, conclude(accepted, stopped, failed))
    }

    /// Takes the turn when an empty pipe has something: other calls go on meanwhile (TX-48). `None` if
    /// there is nothing to do.
    fn take_turn_for(
        self: &Arc<Self>,
        source: &FileSource,
        flags: SendFlags,
    ) -> Result<Option<Turn<'_>>> {
        let sys = self.shared.sys;
        loop {
            let turn = self.take_turn(flags)?;
            if source.count == 0 {
                return Ok(None);
            }
            self.begins(flags)?;
            let waits = source.pipe && !source.no_wait && !sys.is_nonblocking(source.fd);
            if !waits || sys.is_readable(source.fd) {
                return Ok(Some(turn));
            }
            drop(turn);
            match sys.wait_until_readable(source.fd) {
                Err(Errno::INTR) if sys.handlers_restart() => {}
                waited => waited?,
            }
        }
    }

    fn file_goes_on_shared(
        self: &Arc<Self>,
        source: FileSource,
        read: &[u8],
        accepted: usize,
        flags: SendFlags,
    ) -> Result<usize> {
        let joint = self.joint().ok_or(Error::NotRecoverable)?;
        self.send_file_shared(joint, source, read, accepted, flags)
    }

    /// Reads the next bytes of the source, `done` bytes into it.
    pub(super) fn read_from(
        &self,
        out: &mut [u8],
        source: FileSource,
        done: usize,
    ) -> Result<usize> {
        let sys = self.shared.sys;
        // A pipe that has delivered is not waited for again; nor is one at all if so asked.
        if source.pipe && (source.no_wait || done > 0) && !sys.is_readable(source.fd) {
            return if done > 0 {
                Ok(0)
            } else {
                Err(Error::WouldBlock)
            };
        }
        let offset = source
            .offset
            .map(|offset| offset.saturating_add(done as u64));
        let read = match source.is_odd || (source.pipe && out.len() < PACKET) {
            true => sys.take(source.fd, out, offset, source.pipe),
            false => sys.read(source.fd, out, offset),
        };
        read.map_err(Error::from)
    }
}
