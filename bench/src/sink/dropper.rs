//! One thread that drops what thousands of connections send.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use anyhow::Result;
use rustix::event::epoll;

use super::process::{DROP_LEN, drop_some};

pub struct Dropper {
    state: Arc<State>,
}

struct State {
    epoll: OwnedFd,
    open: Mutex<Open>,
    /// The last connection has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, TcpStream>,
    total: u64,
}

impl Dropper {
    pub fn start() -> Result<Self> {
        let state = Arc::new(State {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            open: Mutex::default(),
            ended: Condvar::new(),
        });
        let theirs = Arc::clone(&state);
        thread::spawn(move || theirs.run());
        Ok(Self { state })
    }

    pub fn take(&self, connection: TcpStream) -> Result<()> {
        let number = u64::try_from(connection.as_raw_fd())?;
        let mut open = self.state.open.lock().expect(UNPOISONED);
        let data = epoll::EventData::new_u64(number);
        epoll::add(&self.state.epoll, &connection, data, epoll::EventFlags::IN)?;
        open.connections.insert(number, connection);
        Ok(())
    }

    /// Bytes dropped since the last time; waits until each connection has ended.
    pub fn collect(&self) -> u64 {
        let open = self.state.open.lock().expect(UNPOISONED);
        let mut open = self
            .state
            .ended
            .wait_while(open, |open| !open.connections.is_empty())
            .expect(UNPOISONED);
        std::mem::take(&mut open.total)
    }
}

impl State {
    fn run(&self) {
        let mut events = Vec::with_capacity(256);
        let mut scratch = vec![0; DROP_LEN];
        loop {
            events.clear();
            // Fails with EINTR at most.
            let _ = epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            );
            for event in &events {
                let number = event.data.u64();
                let mut open = self.open.lock().expect(UNPOISONED);
                let Some(connection) = open.connections.get(&number) else {
                    continue;
                };
                match drop_some(connection, &mut scratch) {
                    Ok(dropped) if dropped > 0 => open.total += dropped as u64,
                    // The end, or a connection that is broken: what is missing is in no total.
                    _ => {
                        open.connections.remove(&number);
                        self.ended.notify_all();
                    }
                }
            }
        }
    }
}

const UNPOISONED: &str = "no thread panics while it holds this";
