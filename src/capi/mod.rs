//! The C interface: `include/uktls.h` is generated from this room.
//!
//! Each function does four things: guard, pointers to Rust types, one call down, result to return
//! value and errno. What mirrors a system call is named `tls_*` and keeps that call's arguments
//! and return habit; what is ours alone is named `uktls_*`.

mod control;
pub mod guard;
mod memory;
mod options;
mod process;
mod receive;
mod send;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing;
pub mod types;

pub use options::{tls_getsockopt, tls_rx_init, tls_setsockopt, tls_tx_init};
pub use process::{uktls_configure, uktls_get_info, uktls_get_stats, uktls_version};
pub use receive::{tls_recv, tls_recvmsg};
pub use send::{
    tls_poll, tls_send, tls_sendfile, tls_sendmsg, tls_sendpage, tls_shutdown, tls_splice,
    uktls_close, uktls_flush, uktls_tx_pending,
};
