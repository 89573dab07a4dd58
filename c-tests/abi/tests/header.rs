//! `src/capi/types.rs` against `include/uktls.h`, item by item (ctest).
#![allow(missing_docs, unsafe_op_in_unsafe_fn, bad_style)]
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

use uktls_abi_test::header::*;

include!(concat!(env!("OUT_DIR"), "/header.rs"));
