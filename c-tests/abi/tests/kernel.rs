//! `src/sys/abi.rs` against `<linux/tls.h>` and its neighbours, item by item (ctest).
#![allow(missing_docs, unsafe_op_in_unsafe_fn, bad_style)]
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

use uktls_abi_test::kernel::*;

mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/kernel.rs"));
    pub fn run() {
        main();
    }
}

fn main() {
    let skipped = env!("UKTLS_ABI_SKIPPED");
    println!("not in the installed headers, not compared: [{skipped}]");
    generated::run();
}
