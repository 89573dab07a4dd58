//! Compiles the interposed functions (`c/`), whose names are those of `abi/preload.symbols`.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=c");
    println!("cargo::rerun-if-changed=../abi/preload.symbols");

    let symbols = fs::read_to_string("../abi/preload.symbols").expect("the list of symbols");
    let listed = || {
        symbols
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
    };
    let names: String = listed().map(|name| format!("X({name})\n")).collect();
    let indices: String = listed()
        .enumerate()
        .map(|(index, name)| format!("#define INDEX_{name} {index}\n"))
        .collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("names.h"), names).expect("OUT_DIR is writable");
    // The same for assembly, which knows no enumerations.
    fs::write(out.join("indices.h"), indices).expect("OUT_DIR is writable");

    let mut sources: Vec<PathBuf> = fs::read_dir("c")
        .expect("the folder c")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "c" || extension == "S")
        })
        .collect();
    sources.sort();
    cc::Build::new()
        .files(sources)
        .include(&out)
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        // A thread may be cancelled in a call that it makes through us.
        .flag("-fexceptions")
        .flag("-fno-semantic-interposition")
        // glibc says of poll(2) that it does not read what it is given.
        .flag("-Wno-maybe-uninitialized")
        // glibc's headers would turn the names that are defined here into others.
        .define("_GNU_SOURCE", None)
        .flag("-U_FORTIFY_SOURCE")
        .define("__NO_INLINE__", None)
        .opt_level(2)
        .compile("uktls_interpose");
}
