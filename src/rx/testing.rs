//! A fake kernel, a peer and a model of what a receiving socket has to do: whatever bytes come, in
//! whatever pieces, and whatever is asked for, what is delivered is exactly what was sealed, in
//! order, by the rules of a kTLS socket; and the socket is readable when there is something to be
//! had, and not when there is not (design rule 4).
#![forbid(unsafe_code)]

mod fake;
mod model;
mod peer;
mod step;
mod world;

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::aead::RecordSealer;
use crate::crypto_info::CryptoInfo;
use crate::error::Error;
use crate::record::RecordNumbers;
use crate::record::content_type::{APPLICATION_DATA, HANDSHAKE};
use crate::sys::receive::Ready;
use crate::sys::scatter::Destination;
use crate::testing::{Input, Kernels, Story, crypto_info, effective};
use core::result::Result;

pub(super) use fake::FakeSys;
pub(super) use peer::Peer;
pub(super) use step::Step;
pub(super) use world::run;

use fake::FakeSocket;
use model::{KEY_UPDATE, Model, Sent};
use step::decode;

pub(super) fn setup(info: &[u8]) -> (&'static FakeSys, Arc<Receiver>) {
    let sys = kernel();
    (sys, receiver(sys, info))
}

/// A socket without keys.
pub(super) fn kernel() -> &'static FakeSys {
    let sys = KERNELS.take();
    *sys.socket() = FakeSocket::default();
    sys
}

/// Sets keys.
pub(super) fn receiver(sys: &'static FakeSys, info: &[u8]) -> Arc<Receiver> {
    sys.expect_call();
    let keys = CryptoInfo::parse(info).expect("well-formed");
    let receiver = Receiver::new(sys, 0, keys, Choice::Auto, Arc::default(), 1);
    receiver.expect("some provider has it")
}

/// One receive into `pieces` segments and empty ones between them: the result, the bytes, and what
/// else it told.
pub(super) fn receive(
    sys: &FakeSys,
    receiver: &Receiver,
    len: usize,
    pieces: usize,
    request: Request,
) -> (crate::error::Result<usize>, Vec<u8>, Received) {
    let mut memory = vec![0xee; len];
    let segments: Vec<(usize, usize)> = memory
        .chunks_mut(len.div_ceil(pieces).max(1))
        .flat_map(|piece| {
            [
                (8, 0),
                (piece.as_mut_ptr().expose_provenance(), piece.len()),
            ]
        })
        .collect();
    let mut received = Received::default();
    sys.expect_call();
    // The memory outlives the destination, and is not used meanwhile.
    let mut out = Destination::lent(&segments);
    let result = receiver.receive(&mut out, request, &mut received);
    let filled = received.len;
    // A record that fails is wiped from where it was opened to.
    let left = match result.is_err() || filled > 0 {
        true => [0, 0xee],
        false => [0xee; 2],
    };
    assert!(
        memory[filled..].iter().all(|byte| left.contains(byte)),
        "CI-18, RX-57: memory behind what was received is disturbed"
    );
    memory.truncate(filled);
    (result, memory, received)
}
/// The fuzz target: a suite, a receive buffer, then steps.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let (version, cipher) = input.suite();
    let room = match input.byte() % 8 {
        0 => 2304,
        1 => 8192,
        2 => 512 + input.up_to(20_000),
        _ => 0,
    };
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < 100 {
        steps.push(decode(&mut input));
    }
    let story = (version, cipher, room, &steps);
    let _story = Story(&story);
    run(version, cipher, room, &steps);
}

static KERNELS: Kernels<FakeSys> = Kernels::new();
