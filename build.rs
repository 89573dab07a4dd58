//! Writes the C header, generated from `src/capi`, to `OUT_DIR/uktls.h` and does no more.
//!
//! `include/uktls.h` is the committed copy: `make header` refreshes it, and the test `header`
//! fails when the two differ.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cbindgen.toml");
    println!("cargo::rerun-if-changed=src/capi");

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = out_dir.join("capi");
    exported_sources(Path::new("src/capi"), &sources);
    let config = cbindgen::Config::from_file("cbindgen.toml").expect("cbindgen.toml is readable");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(sources.join("mod.rs"))
        .generate()
        .expect("src/capi holds only what cbindgen can express in C");

    let mut header = Vec::new();
    bindings.write(&mut header);
    let header = String::from_utf8(header).expect("cbindgen writes UTF-8");
    fs::write(out_dir.join("uktls.h"), for_c_readers(&header)).expect("OUT_DIR is writable");
}

/// Copies `src/capi` with its exports unconditional: cbindgen does not look inside `cfg_attr`.
fn exported_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("OUT_DIR is writable");
    for entry in fs::read_dir(from).expect("src/capi is readable") {
        let path = entry.expect("src/capi is readable").path();
        let target = to.join(path.file_name().expect("a directory entry has a name"));
        if path.is_dir() {
            exported_sources(&path, &target);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file is readable UTF-8");
        let text = text.replace(
            "#[cfg_attr(feature = \"capi\", unsafe(no_mangle))]",
            "#[unsafe(no_mangle)]",
        );
        fs::write(target, text).expect("OUT_DIR is writable");
    }
}

/// Turns what rustdoc and clippy ask of a doc comment into what a C reader expects.
fn for_c_readers(header: &str) -> String {
    let mut lines = header.lines().map(str::trim_end).peekable();
    let mut text = String::new();
    while let Some(line) = lines.next() {
        match line.strip_suffix("/**") {
            Some(indent) => {
                let first = lines.next().expect("cbindgen closes its comments");
                let first = first.trim_start().trim_start_matches("* ");
                text.push_str(&format!("{indent}/* {first}"));
                if lines.next_if(|next| next.trim() == "*/").is_some() {
                    text.push_str(" */");
                }
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text.replace(" * # Safety\n *\n", " * Requires:\n")
        .replace(" * # Safety\n", " * Requires:\n")
        .replace(" * # Errors\n *\n", " * Errors:\n")
        .replace(" * # Errors\n", " * Errors:\n")
}
