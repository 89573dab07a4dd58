//! Receiving: the sink sends bursts of records that it has sealed beforehand, and the peer receives them.

use std::net::{Shutdown, SocketAddr};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use crate::clock::{Elapsed, Stopwatch};
use crate::peers::{PeerKind, Receiver, open_receiver};
use crate::scenario::{Sample, Scenario, WARM_UP_PART, payload};
use crate::sink::protocol::write_total;

/// Payload of a record, and the bytes that one call has room for.
pub const SIZES: [(usize, usize); 3] = [(64, 16_384), (16_384, 16_384), (16_384, 65_536)];

/// Payload bytes of a burst, at most: it is kept in memory by the sink, sealed.
const BURST_LEN: u64 = 64 << 20;

/// Receive `records` records by `peer`, after a few that are not measured. Only bursts are timed, each from its first byte to its last.
/// Fails unless they bring the payload that they should: as many bytes, and the first and the last record as they were sent.
pub fn measure(
    scenario: Scenario,
    peer: PeerKind,
    sink: SocketAddr,
    records: u64,
) -> Result<Sample> {
    let record = payload(scenario.size);
    let mut receiver = open_receiver(peer, sink, record.len())
        .with_context(|| format!("{}: connecting", peer.name_in(scenario.mode)))?;
    let mut buffer = vec![0; scenario.buffer.context("a buffer's size")?];
    let most = (BURST_LEN / record.len() as u64).max(1);
    let mut bursts = vec![(records / WARM_UP_PART + 1).min(most)];
    let mut left = records;
    while left > 0 {
        let now = left.min(most);
        bursts.push(now);
        left -= now;
    }
    let (mut calls, mut elapsed) = (0, Elapsed::default());
    for (index, &records) in bursts.iter().enumerate() {
        let (now, took) = burst(receiver.as_mut(), &record, records, &mut buffer)
            .with_context(|| format!("{scenario}, {}", peer.name_in(scenario.mode)))?;
        if index > 0 {
            calls += now;
            elapsed += took;
        }
    }
    receiver.socket().shutdown(Shutdown::Write)?;
    Ok(Sample {
        messages: records,
        calls,
        bytes: records * record.len() as u64,
        elapsed,
        round_trip: None,
    })
}

/// Receive `records` records; the number of calls, and what they took.
fn burst(
    receiver: &mut dyn Receiver,
    record: &[u8],
    records: u64,
    buffer: &mut [u8],
) -> Result<(u64, Elapsed)> {
    // In the clear: nobody has keys for this direction on its socket.
    write_total(&mut receiver.socket(), records)?;
    poll(&mut [PollFd::new(receiver.socket(), PollFlags::IN)], None)?;
    let total = usize::try_from(records)? * record.len();
    let last = total - record.len();
    let (mut received, mut calls) = (0, 0);
    let watch = Stopwatch::start();
    while received < total {
        let len = receiver.receive(buffer)?;
        ensure!(
            len > 0,
            "the stream ended after {received} of {total} bytes"
        );
        calls += 1;
        let end = received + len;
        if received < record.len() || end > last {
            check(&buffer[..len], received, record)?;
        }
        received = end;
    }
    let elapsed = watch.stop();
    ensure!(
        received == total,
        "{received} bytes received instead of {total}"
    );
    Ok((calls, elapsed))
}

/// Compare what came at `offset` of a burst with what was sent there.
fn check(received: &[u8], offset: usize, record: &[u8]) -> Result<()> {
    let sent = record.iter().cycle().skip(offset % record.len());
    ensure!(
        received.iter().eq(sent.take(received.len())),
        "bytes {offset}..{} are not what was sent",
        offset + received.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_compared_at_its_offset() {
        let record = payload(64);
        let stream = record.repeat(3);
        check(&stream[70..150], 70, &record).unwrap();
        check(&stream[70..150], 71, &record).unwrap_err();
    }
}
