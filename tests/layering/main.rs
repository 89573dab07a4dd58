//! The rules of the source tree that no compiler checks: which room may import which, where
//! `unsafe` may stand, that every export is guarded, and that no system call goes through a libc
//! name which an interposer may own.

mod source;
mod tokens;

use source::{Source, room_of, sources};

/// The rooms and what each may import from this crate, further down only. `sys::abi` allows that
/// module of `sys` alone. The open rooms may be imported by every room and import only each
/// other, and what is named here.
const ROOMS: &[(&str, &[&str])] = &[
    // The typed names of what it passes down come from the rooms that own them.
    (
        "capi",
        &[
            "registry",
            "fork",
            "tx",
            "rx",
            "crypto_info",
            "engine",
            "aead",
            "record",
            "sys",
        ],
    ),
    (
        "fork",
        &["registry", "worker", "tx", "rx", "engine", "aead", "sys"],
    ),
    (
        "registry",
        &["tx", "rx", "worker", "engine", "aead", "record", "sys"],
    ),
    ("worker", &["tx", "sys"]),
    ("tx", &["engine", "crypto_info", "aead", "record", "sys"]),
    ("rx", &["engine", "crypto_info", "aead", "record", "sys"]),
    ("engine", &["aead", "record", "sys"]),
    ("crypto_info", &["aead", "record", "sys::abi", "sys::scrub"]),
    // Keys live in the secret memory that `sys` maps.
    (
        "aead",
        &["record", "sys::copy", "sys::scrub", "sys::secret"],
    ),
    ("record", &[]),
    ("sys", &[]),
    // Whose turn it is, is told by the number of the thread.
    ("sync", &["sys::thread"]),
    ("error", &[]),
    // Names what can be chosen: an engine, an AEAD.
    ("config", &["engine", "aead"]),
    // Their files must be out of the program's way.
    ("logging", &["sys::kept", "sys::signals"]),
    (
        "stats",
        &[
            "sys::fork_guard",
            "sys::kept",
            "sys::segment",
            "sys::signals",
        ],
    ),
];
const OPEN_ROOMS: &[&str] = &["sync", "error", "config", "stats", "logging"];

/// Rooms and files that may hold `unsafe`.
const UNSAFE_ROOMS: &[&str] = &["sys", "capi", "fork", "registry"];
const UNSAFE_FILES: &[&str] = &["aead/aws_lc.rs", "aead/openssl.rs"];

/// libc functions that an interposer may own; `src/` makes raw system calls instead. `clippy.toml`
/// holds the same rule, resolved by the compiler but only for the features that are built.
const INTERPOSED: &[&str] = &[
    "write",
    "send",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "writev",
    "pwritev2",
    "sendfile",
    "sendfile64",
    "splice",
    "dprintf",
    "vdprintf",
    "aio_write",
    "lio_listio",
    "read",
    "recv",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "readv",
    "preadv2",
    "aio_read",
    "ioctl",
    "setsockopt",
    "getsockopt",
    "fcntl",
    "shutdown",
    "close",
    "close_range",
    "closefrom",
    "dup",
    "dup2",
    "dup3",
    "accept",
    "accept4",
    "socket",
    "connect",
    "fdopen",
    "fclose",
    "freopen",
    "fork",
    "vfork",
    "posix_spawn",
    "posix_spawnp",
    "execl",
    "execle",
    "execlp",
    "execv",
    "execve",
    "execvp",
    "execvpe",
    "fexecve",
    "_exit",
    "_Exit",
    "quick_exit",
    "poll",
    "ppoll",
    "select",
    "pselect",
    "syscall",
];
/// The one place that names one of them: for processors whose instruction is not written down.
const MAY_NAME_INTERPOSED: &[(&str, &str)] = &[("sys/raw.rs", "syscall")];

#[test]
fn every_import_arrow_points_down() {
    let mut faults = Vec::new();
    for file in sources() {
        let Some(room) = file.room() else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("{}: `{room}` is no room of the table", file.name));
            continue;
        };
        for path in file.crate_paths() {
            let target = path.segments[0].as_str();
            if target == room || OPEN_ROOMS.contains(&target) || allows(allowed, &path.segments) {
                continue;
            }
            let target = path.segments.join("::");
            faults.push(format!(
                "{}:{}: `{room}` may not import `{target}`",
                file.name, path.line
            ));
        }
    }
    report(faults);
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let mut faults = Vec::new();
    let files = sources();
    for file in files
        .iter()
        .filter(|file| file.name != "lib.rs" && !may_hold_unsafe(&file.name))
    {
        for token in file.tokens.iter().filter(|token| token.text == "unsafe") {
            faults.push(format!(
                "{}:{}: `unsafe` outside its rooms",
                file.name, token.line
            ));
        }
        // `forbid` reaches into child modules and cannot be lifted there.
        let parent_of_unsafe = file.name.strip_suffix("mod.rs").is_some_and(|folder| {
            files
                .iter()
                .any(|other| other.name.starts_with(folder) && may_hold_unsafe(&other.name))
        });
        if !parent_of_unsafe && !file.forbids_unsafe() {
            faults.push(format!(
                "{}: does not open with `#![forbid(unsafe_code)]`",
                file.name
            ));
        }
    }
    report(faults);
}

#[test]
fn every_export_starts_with_the_guard() {
    let mut faults = Vec::new();
    let mut exports = 0;
    for file in sources().iter().filter(|file| file.room() == Some("capi")) {
        for export in file.extern_functions() {
            exports += 1;
            if !export.guarded {
                faults.push(format!(
                    "{}:{}: `{}` does not start with `guard`",
                    file.name, export.line, export.name
                ));
            }
        }
    }
    assert!(
        exports > 0,
        "no export found in src/capi: this test is blind"
    );
    report(faults);
}

#[test]
fn no_system_call_goes_through_an_interposed_name() {
    let mut faults = Vec::new();
    for file in sources() {
        for path in file.paths_from("libc") {
            if let Some(name) = path
                .segments
                .first()
                .map(String::as_str)
                .filter(|name| INTERPOSED.contains(name))
                .filter(|name| !MAY_NAME_INTERPOSED.contains(&(file.name.as_str(), *name)))
            {
                faults.push(format!(
                    "{}:{}: `libc::{name}` can be interposed",
                    file.name, path.line
                ));
            }
        }
    }
    report(faults);
}

#[test]
fn the_reader_sees_what_it_should() {
    let file = Source::new(
        "tx/mod.rs".into(),
        r###"
        //! crate::not_this
        /* nested /* comment */ crate::nor_this */
        use crate::{engine::{self, Seal}, sys::abi::*};
        use super::capi;
        fn f<'a>(x: &'a str) -> char { let _ = "crate::nor"; let _ = r#"crate::"this"#; crate::record::f(); 'c' }
        #[cfg(test)]
        mod tests { use crate::capi; fn g() { libc::close(1); } }
        #[cfg(all(test, loom))]
        mod loom_tests;
        #[cfg(all(any(test, feature = "testing"), not(loom)))]
        pub(crate) mod testing;
        #[cfg(not(test))]
        fn h() { libc::close(1); }
        extern "C" { fn imported(); }
        pub unsafe extern "C" fn good(a: c_int) -> c_int { guard_size(|| 1) }
        extern "C" fn bad() { let x = 1; guard(x) }
        "###,
    );
    let paths: Vec<String> = file
        .crate_paths()
        .iter()
        .map(|path| path.segments.join("::"))
        .collect();
    assert_eq!(
        paths,
        ["engine", "engine::Seal", "sys::abi::*", "capi", "record::f"]
    );
    assert_eq!(file.paths_from("libc").len(), 1);
    assert_eq!(file.test_modules, ["loom_tests", "testing"]);
    let exports: Vec<(String, bool)> = file
        .extern_functions()
        .into_iter()
        .map(|f| (f.name, f.guarded))
        .collect();
    assert_eq!(
        exports,
        [("good".to_string(), true), ("bad".to_string(), false)]
    );
    assert!(allows(
        &["sys::abi"],
        &["sys".into(), "abi".into(), "TLS_TX".into()]
    ));
    assert!(!allows(&["sys::abi"], &["sys".into(), "net".into()]));
    assert!(!allows(&["sys::abi"], &["sys".into()]));
}

fn report(faults: Vec<String>) {
    assert!(
        faults.is_empty(),
        "{} fault(s):\n{}",
        faults.len(),
        faults.join("\n")
    );
}

fn allows(allowed: &[&str], segments: &[String]) -> bool {
    allowed.iter().any(|entry| {
        let mut wanted = entry.split("::");
        let mut given = segments.iter();
        wanted.all(|segment| given.next().is_some_and(|got| got == segment))
    })
}

fn may_hold_unsafe(name: &str) -> bool {
    UNSAFE_FILES.contains(&name) || UNSAFE_ROOMS.contains(&room_of(name))
}
