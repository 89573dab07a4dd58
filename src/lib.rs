//! uktls: kernel TLS without the kernel.
//!
//! The library gives user space the Linux kTLS socket interface: a program hands over the keys of
//! a finished TLS 1.2 or 1.3 handshake and from then on sends plain bytes, which leave the socket
//! as sealed records, in order. Records are sealed asynchronously and in parallel, and transmitted
//! by the caller or by a deferred worker: the design of Linux commit a42055e8, in user space.
//!
//! The C interface ([`capi`], `include/uktls.h`) is the public one; the rooms below it are public
//! for the benchmarks and tests of this workspace. `docs/architecture.md` is the map.

// Under loom only the models are built, and what only the C interface uses is not.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(panic = "abort")]
compile_error!("uktls lives in other people's processes: build it with panic = \"unwind\"");

pub mod aead;
#[cfg(not(loom))]
pub mod capi;
pub mod config;
pub mod crypto_info;
pub mod engine;
pub mod error;
#[cfg(not(loom))]
pub mod fork;
mod logging;
/// The part of the registry that has models.
#[cfg(loom)]
#[path = "registry/numbers.rs"]
mod numbers;
/// The part of the worker that has models.
#[cfg(loom)]
#[path = "worker/presence.rs"]
mod presence;
pub mod record;
#[cfg(not(loom))]
pub mod registry;
pub mod rx;
pub mod stats;
mod sync;
pub mod sys;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub mod testing;
pub mod tx;
#[cfg(not(loom))]
pub mod worker;
