//! The kernel and the C ABI, as the rest of the library sees them.

pub mod abi;
pub mod fork_guard;
pub mod net;
pub mod pages;
pub mod plain;
pub mod receive;
pub mod scatter;
pub mod secret;
pub mod thread;
