//! `include/uktls.h` is what `build.rs` generates from `src/capi`. `make header` refreshes it.

use std::{env, fs};

const GENERATED: &str = include_str!(concat!(env!("OUT_DIR"), "/uktls.h"));
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/uktls.h");

#[test]
fn the_committed_header_is_the_generated_one() {
    if env::var_os("UKTLS_BLESS").is_some() {
        fs::write(COMMITTED, GENERATED).expect("include/uktls.h is writable");
    }
    let committed = fs::read_to_string(COMMITTED).expect("include/uktls.h is readable");
    for (number, (want, have)) in GENERATED.lines().zip(committed.lines()).enumerate() {
        let number = number + 1;
        assert_eq!(
            have, want,
            "include/uktls.h line {number}: run `make header`"
        );
    }
    assert_eq!(committed, GENERATED, "include/uktls.h: run `make header`");
}
