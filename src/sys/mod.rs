//! The kernel and the C ABI, as the rest of the library sees them.

pub mod abi;
