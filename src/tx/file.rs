//! Sends from another descriptor: `sendfile(2)` and `splice(2)` into the stream.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use super::Connection;
use super::open_record::OpenRecord;
use super::send::{SendFlags, conclude, signalled};
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;

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
        let _turn = self.take_turn(flags)?;
        if source.count == 0 {
            return Ok(0);
        }
        signalled(flags, self.check())?;
        let mut sender = self.begin_call();
        let mut accepted = 0;
        let mut stopped = None;
        while accepted < source.count && stopped.is_none() {
            let room;
            (sender, room) = self.make_room(sender, flags);
            if let Err(error) = room {
                stopped = Some(error);
                break;
            }
            let prefix = sender.sealer.prefix_len();
            let limit = sender.max_payload;
            // Taken out, so that the read, which may sleep, holds no lock but the turn.
            let mut record = sender
                .open
                .take()
                .unwrap_or_else(|| OpenRecord::new(prefix));
            drop(sender);
            let wanted = (limit - record.len()).min(source.count - accepted);
            let read = self.read_into(&mut record, source, accepted, wanted);
            sender = crate::sync::lock(&self.sender);
            let full = record.len() == limit;
            if record.len() > 0 {
                sender.open = Some(record);
            }
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

    fn read_into(
        &self,
        record: &mut OpenRecord,
        source: FileSource,
        done: usize,
        wanted: usize,
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
        let read = sys
            .read(source.fd, record.space(wanted), offset)
            .map_err(Error::from)?;
        record.grow(read);
        Ok(read)
    }
}
