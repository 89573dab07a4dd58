//! The layouts that cross the C boundary, as Rust sees them; the tests compare them with C.

#![no_std]
#![allow(non_camel_case_types, missing_docs)]

/// The kernel's structs and constants.
#[path = "../../../src/sys/abi.rs"]
pub mod kernel;

/// The library's own structs and constants.
#[path = "../../../src/capi/types.rs"]
pub mod header;
