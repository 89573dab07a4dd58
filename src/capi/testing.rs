//! The parser and the writer of control messages, on arbitrary bytes.
#![forbid(unsafe_code)]

use super::control;
use crate::error::Error;
use crate::sys::abi::{SOL_TLS, TLS_SET_RECORD_TYPE};
use crate::testing::Input;

/// TX-1, TX-2, TX-15, TX-16, TX-19, RX-13 to RX-15.
pub(crate) fn control(input: &mut Input<'_>) {
    let bits: [u8; 4] = core::array::from_fn(|_| input.byte());
    if let Ok(flags) = control::flags(i32::from_ne_bytes(bits)) {
        assert!(!(flags.more && i32::from_ne_bytes(bits) & libc::MSG_EOR != 0));
    }
    let (content_type, room) = (input.byte(), input.up_to(64));
    told(content_type, room);
    // A well-formed message, then what the fuzzer says, then both.
    let mut message = 17usize.to_ne_bytes().to_vec();
    message.extend(SOL_TLS.to_ne_bytes());
    message.extend(TLS_SET_RECORD_TYPE.to_ne_bytes());
    message.extend([content_type; 8]);
    assert_eq!(control::record_type(&message), Ok(Some(content_type)));
    let rest = input.rest();
    match control::record_type(rest) {
        Ok(None) => assert!(rest.is_empty(), "TX-19"),
        Ok(Some(found)) => {
            assert!(rest.contains(&found));
            let joined = [&message, rest].concat();
            assert_eq!(
                control::record_type(&joined),
                Ok(Some(found)),
                "the last counts"
            );
        }
        Err(error) => assert_eq!(error, Error::Invalid),
    }
}

fn told(content_type: u8, room: usize) {
    let message = control::record_type_message(content_type, room);
    assert!(message.len <= room && message.len <= message.bytes.len());
    assert_eq!(message.is_cut, !control::tells_type(room));
    if !message.is_cut {
        assert_eq!(message.bytes[16], content_type);
    }
    if message.len >= 16 {
        let told = usize::from_ne_bytes(core::array::from_fn(|i| message.bytes[i]));
        assert!(told <= message.len);
    }
}
