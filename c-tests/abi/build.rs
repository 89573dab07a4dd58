//! Generates the two comparisons. Only the names listed here may be absent from the installed
//! kernel headers; each is probed with the compiler, and every other name has to be there.

use std::path::{Path, PathBuf};
use std::{env, fs};

const KERNEL: &str = "../../src/sys/abi.rs";
const HEADER: &str = "../../src/capi/types.rs";
const KERNEL_HEADERS: [&str; 3] = ["sys/socket.h", "netinet/tcp.h", "linux/tls.h"];

/// Constants of `abi.rs` that some kernel's headers lack, with the release that brought them.
const NEW_CONSTANTS: [&str; 7] = [
    "TLS_TX_ZEROCOPY_RO",      // 5.19
    "TLS_RX_EXPECT_NO_PAD",    // 6.0
    "TLS_TX_MAX_PAYLOAD_LEN",  // 6.19
    "TLS_CIPHER_SM4_GCM",      // 5.16
    "TLS_CIPHER_SM4_CCM",      // 5.16
    "TLS_CIPHER_ARIA_GCM_128", // 6.1
    "TLS_CIPHER_ARIA_GCM_256", // 6.1
];
/// The same for structs.
const NEW_STRUCTS: [&str; 4] = [
    "tls12_crypto_info_sm4_gcm",
    "tls12_crypto_info_sm4_ccm",
    "tls12_crypto_info_aria_gcm_128",
    "tls12_crypto_info_aria_gcm_256",
];

fn main() {
    for path in [KERNEL, HEADER, "../../include/uktls.h", "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }

    let constants = NEW_CONSTANTS.map(|name| (name, format!("long long probe = {name};")));
    let structs = NEW_STRUCTS.map(|name| (name, format!("struct {name} probe;")));
    let absent: Vec<&str> = constants
        .iter()
        .chain(&structs)
        .filter(|(_, probe)| !compiles(probe))
        .map(|(name, _)| *name)
        .collect();
    println!("cargo::rustc-env=UKTLS_ABI_SKIPPED={}", absent.join(" "));

    let mut kernel = ctest::TestGenerator::new();
    kernel.edition(2024);
    for header in KERNEL_HEADERS {
        kernel.header(header);
    }
    let absent_constants = absent.clone();
    kernel.skip_const(move |item| absent_constants.contains(&item.ident()));
    kernel.skip_struct(move |item| absent.contains(&item.ident()));
    ctest::generate_test(&mut kernel, KERNEL, "kernel.rs")
        .expect("abi.rs and tls.h are comparable");

    let mut header = ctest::TestGenerator::new();
    header
        .edition(2024)
        .include("../../include")
        .header("uktls.h");
    ctest::generate_test(&mut header, HEADER, "header.rs")
        .expect("types.rs and uktls.h are comparable");
}

/// Whether C code compiles after the kernel headers.
fn compiles(code: &str) -> bool {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let includes: String = KERNEL_HEADERS
        .iter()
        .map(|header| format!("#include <{header}>\n"))
        .collect();
    let source = out_dir.join("probe.c");
    fs::write(&source, format!("{includes}{code}\n")).expect("OUT_DIR is writable");
    syntax_check(&source)
}

fn syntax_check(source: &Path) -> bool {
    let compiler = cc::Build::new().get_compiler();
    let output = compiler
        .to_command()
        .arg("-fsyntax-only")
        .arg(source)
        .output()
        .expect("the C compiler runs");
    output.status.success()
}
