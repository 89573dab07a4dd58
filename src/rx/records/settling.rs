//! What a call leaves behind: what the kernel is told, and whom it is to wake.
//!
//! A program on edge-triggered epoll takes a short count or EAGAIN for "drained" and waits for the next edge. The kernel's own
//! parser looks at the next record each time it is done with one: a complete record raises an edge, and an incomplete one
//! is read out of the queue if the window has no room for its rest. So does every call here (RX-6, RX-53).
#![forbid(unsafe_code)]

use std::time::Duration;

use super::{Found, Io, Records};
use crate::record::Layout;
use crate::rx::window::Window;
use crate::sys::receive::Ready;

/// How a call ends, as an edge-triggered program takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rx) enum Ending {
    /// The program has all that it asked for, or an error: it calls again before it waits.
    Full,
    /// It may wait now. If the call has consumed a record, an edge tells of the next one.
    Short,
    /// EAGAIN, behind a look at the socket itself, which has found that there is nothing.
    Refused,
    /// Nobody has been told of what is there: new keys, or a call that was sent away meanwhile.
    Untold,
}

impl Records {
    /// The end of a look or of a call: drops what is done with, gives memory back, and tells the
    /// kernel for how many bytes somebody is to be woken (design rule 4), now or later. Returns what the socket
    /// was found to be, if it was looked at.
    pub(in crate::rx) fn settle(&mut self, io: &mut Io<'_>, ending: Ending) -> Option<Ready> {
        for record in &mut self.opened {
            record.fresh = false;
        }
        let passed = core::mem::take(&mut self.passed);
        let owes = match ending {
            Ending::Full | Ending::Refused => false,
            // Without a record consumed, an edge would lead to the same call again, and to another edge.
            Ending::Short => passed,
            Ending::Untold => true,
        };
        let mut unseen = false;
        if owes && self.opened.is_empty() && self.window.may_hold_more() {
            unseen = self.look(io) == Found::NoMemory;
        }
        self.window.end_of_call();
        let outlook = self.tell_kernel(io, false);
        let is_whole = !matches!(outlook, Found::Incomplete(_)) || !self.opened.is_empty();
        if owes && (unseen || self.can_be_had(outlook)) {
            // The mark is reached (or nobody knows, without memory to look): setting it again raises an edge.
            io.sys.set_low_water(io.fd, self.mark);
        }
        match is_whole || ending == Ending::Refused {
            true => None,
            false => self.read_on(io),
        }
    }

    fn can_be_had(&self, outlook: Found) -> bool {
        match outlook {
            // RK-9.
            Found::Rekey => false,
            Found::Ready(_) => true,
            Found::Stopped(_) => !self.stop_told || self.has_opened(),
            _ => self.has_opened(),
        }
    }

    /// Behind a record that is not complete: reads it out of the socket if its rest has no room to come. The kernel then
    /// calls the socket readable below its mark, and has done so when the last bytes came: nobody would
    /// be told again.
    fn read_on(&mut self, io: &mut Io<'_>) -> Option<Ready> {
        let ready = match io.sys.wait(io.fd, Some(Duration::ZERO)) {
            Ok(ready) => ready,
            // The next call says why.
            Err(_) => return None,
        };
        if let Some(errno) = ready.error {
            io.pending.set(errno);
        }
        if ready.readable && !ready.ended {
            // If it has become complete meanwhile, the mark was reached, and that has raised an edge.
            self.look(io);
            let _ = self.take_out(io);
            self.window.end_of_call();
            self.tell_kernel(io, false);
        }
        Some(ready)
    }

    /// Tells the kernel for how many bytes somebody is to be woken; `waits`: in the middle of a call that waits for
    /// another record than those that are opened. Returns what stands at the head of the queue.
    pub(in crate::rx) fn tell_kernel(&mut self, io: &mut Io<'_>, waits: bool) -> Found {
        let outlook = self.outlook();
        let is_idle = !matches!(outlook, Found::Ready(_)) || Window::is_dear();
        if is_idle || io.session.is_some() {
            // What fails here is told by the next look.
            let _ = self.drop_stale(io);
        }
        if is_idle {
            if self.opened.is_empty() {
                self.spare = None;
            }
            self.window.release();
        }
        let layout = Layout::new(self.keys.version, self.keys.nonce_form());
        // RX-2, RX-4: so much of a record is looked at, as it may be none.
        let prefix = layout.prefix_len;
        let mark = match outlook {
            Found::Rekey => usize::MAX,
            Found::Stopped(_) if self.stop_told && self.opened.is_empty() => usize::MAX,
            Found::Incomplete(need) if waits || self.opened.is_empty() => {
                let taken = self.taken.as_ref().filter(|taken| !taken.opened);
                self.window.ahead() + need - taken.map_or(0, |taken| taken.len)
            }
            Found::Nothing if waits => self.window.ahead() + prefix,
            // Records wait in the socket: a mark that they reach is as good as any, and saves a call.
            _ if self.mark <= self.window.in_socket() => self.mark,
            _ => prefix,
        };
        if mark != self.mark {
            io.sys.set_low_water(io.fd, mark);
            self.mark = mark;
        }
        let place = self.snapshot();
        if let Some(session) = &mut io.session {
            session.publish(place);
        }
        outlook
    }
}
