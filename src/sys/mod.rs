//! The kernel and the C ABI, as the rest of the library sees them.

pub mod abi;
pub mod accelerator;
pub mod async_job;
pub mod copy;
pub mod errno;
pub mod fork_guard;
pub mod gather;
pub mod kept;
mod libcrypto;
pub mod marks;
pub mod members;
pub mod net;
pub mod pages;
pub mod plain;
pub mod receive;
pub mod robust;
pub mod scatter;
pub mod secret;
pub mod segment;
pub mod shared;
pub mod steps;
pub mod thread;
pub mod user_memory;
