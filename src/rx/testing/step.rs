//! What can happen next, and how a fuzzer says it.
#![forbid(unsafe_code)]

use super::*;

/// What the peer, the network, the kernel or the program does next.
#[derive(Clone, Debug)]
pub(in crate::rx) enum Step {
    Send {
        kind: u8,
        len: usize,
        padding: usize,
    },
    Arrive(usize),
    Receive {
        len: usize,
        pieces: usize,
        request: Request,
    },
    Splice {
        len: usize,
        dont_wait: bool,
    },
    /// All is read, then a KeyUpdate, then the program sets the new keys.
    Rekey,
    /// The peer changes its keys, and says so or not.
    Update {
        announced: bool,
    },
    /// The program sets the keys after its own, announced or not.
    Keys,
    /// Keys that cannot be set.
    BadKeys,
    Poll,
    /// Bytes that nobody sealed.
    Garbage(Vec<u8>),
    /// A record of which one byte is changed on the way.
    Spoiled {
        len: usize,
        at: usize,
        mask: u8,
    },
    Eof,
    Reset,
    Interrupt,
    Blocking {
        blocking: bool,
        timed: bool,
    },
    LowWater(usize),
    NoPad(bool),
    PipeRoom(usize),
    PipeBreaks,
}

pub(super) fn decode(input: &mut Input<'_>) -> Step {
    match input.byte() % 32 {
        0..=5 => Step::Send {
            kind: match input.byte() {
                first @ 0x80.. => first & 0x1f,
                _ => APPLICATION_DATA,
            },
            len: input.up_to(16384),
            padding: input.up_to(300).saturating_sub(100),
        },
        6..=9 => Step::Arrive(match input.up_to(1 << 20) {
            0 => usize::MAX,
            len => len,
        }),
        10..=15 => {
            let bits = input.byte();
            Step::Receive {
                len: input.up_to(70_000),
                pieces: 1 + usize::from(bits >> 4 & 3),
                request: Request {
                    peek: bits & 1 != 0,
                    wait_all: bits & 2 != 0,
                    dont_wait: bits & 4 != 0,
                    can_tell: bits & 8 == 0,
                },
            }
        }
        16 | 17 => Step::Splice {
            len: input.up_to(70_000),
            dont_wait: input.flag(),
        },
        18 => Step::Rekey,
        19 => Step::Update {
            announced: input.flag(),
        },
        20 => Step::Keys,
        21 => Step::BadKeys,
        22 => Step::Poll,
        23 => {
            let len = usize::from(input.byte());
            Step::Garbage(input.take(len).to_vec())
        }
        24 => Step::Spoiled {
            len: input.up_to(16384),
            at: input.up_to(1 << 15),
            mask: input.byte(),
        },
        25 => Step::Eof,
        26 => Step::Reset,
        27 => Step::Interrupt,
        28 => {
            let bits = input.byte();
            Step::Blocking {
                blocking: bits & 1 != 0,
                timed: bits & 2 != 0,
            }
        }
        29 => Step::LowWater(input.up_to(40_000)),
        30 => Step::NoPad(input.flag()),
        _ => match input.byte() {
            0xff => Step::PipeBreaks,
            room => Step::PipeRoom(usize::from(room) * 64),
        },
    }
}
