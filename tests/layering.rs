//! The rules of the source tree that no compiler checks: which room may import which, where
//! `unsafe` may stand, that every export is guarded, and that no system call goes through a libc
//! name which an interposer may own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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
    ("fork", &["registry", "worker", "tx", "rx", "engine", "sys"]),
    (
        "registry",
        &["tx", "rx", "worker", "engine", "aead", "record", "sys"],
    ),
    ("worker", &["tx", "sys"]),
    ("tx", &["engine", "crypto_info", "aead", "record", "sys"]),
    ("rx", &["engine", "crypto_info", "aead", "record", "sys"]),
    ("engine", &["aead", "record", "sys"]),
    ("crypto_info", &["aead", "record", "sys::abi"]),
    // Keys live in the secret memory that `sys` maps.
    // Keys live in the secret memory that `sys` maps.
    ("aead", &["record", "sys::copy", "sys::secret"]),
    ("record", &[]),
    ("sys", &[]),
    ("sync", &[]),
    ("error", &[]),
    // Names what can be chosen: an engine, an AEAD.
    ("config", &["engine", "aead"]),
    // Their files must be out of the program's way.
    ("logging", &["sys::kept"]),
    ("stats", &["sys::fork_guard", "sys::kept", "sys::segment"]),
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
];

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
                .filter(|name| INTERPOSED.contains(&name.as_str()))
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

fn room_of(name: &str) -> &str {
    name.split('/')
        .next()
        .map_or(name, |first| first.trim_end_matches(".rs"))
}

/// All files below `src/` but those that only tests compile.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    let mut files = BTreeMap::new();
    for path in paths {
        let name = path
            .strip_prefix(&root)
            .expect("found below src")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).expect("a source file is readable UTF-8");
        files.insert(name.clone(), Source::new(name, &text));
    }
    let of_tests: Vec<String> = files.values().flat_map(Source::test_files).collect();
    files.retain(|name, _| !of_tests.iter().any(|prefix| name.starts_with(prefix)));
    assert!(files.len() > 3, "no sources found: this test is blind");
    files.into_values().collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// One file without comments and test modules; a literal is one token that starts with its quote.
struct Source {
    /// The path below `src/`.
    name: String,
    tokens: Vec<Token>,
    /// Modules that the file declares for tests and keeps in files of their own.
    test_modules: Vec<String>,
}

struct Token {
    text: String,
    line: usize,
}

struct Import {
    segments: Vec<String>,
    line: usize,
}

struct Function {
    name: String,
    guarded: bool,
    line: usize,
}

impl Source {
    fn new(name: String, text: &str) -> Source {
        let mut source = Source {
            name,
            tokens: tokens(text),
            test_modules: Vec::new(),
        };
        source.drop_test_items();
        source
    }

    /// `None` for `lib.rs`, which declares the rooms and is none.
    fn room(&self) -> Option<&str> {
        Some(room_of(&self.name)).filter(|room| *room != "lib")
    }

    /// Starts of the names of the files that this one declares under `#[cfg(test)]`.
    fn test_files(&self) -> Vec<String> {
        let folder = match self.name.strip_suffix("mod.rs") {
            Some(folder) => folder.to_string(),
            None if self.name == "lib.rs" => String::new(),
            None => format!("{}/", self.name.trim_end_matches(".rs")),
        };
        let names =
            |module: &String| [format!("{folder}{module}.rs"), format!("{folder}{module}/")];
        self.test_modules.iter().flat_map(names).collect()
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    fn is(&self, at: usize, wanted: &[&str]) -> bool {
        wanted
            .iter()
            .enumerate()
            .all(|(offset, text)| self.text(at + offset) == *text)
    }

    /// The token after the bracket that closes the one at `open`.
    fn after_group(&self, open: usize) -> usize {
        let mut depth = 0;
        for at in open..self.tokens.len() {
            match self.text(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at + 1;
            }
        }
        self.tokens.len()
    }

    /// Removes each item below `#[cfg(test)]`, `all(test, ..)`, `any(test, ..)` or `all(any(test, ..), ..)`.
    fn drop_test_items(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            let for_tests = self.is(at, &["#", "[", "cfg", "(", "test", ")"])
                || self.is(at, &["#", "[", "cfg", "(", "all", "(", "test"])
                || self.is(at, &["#", "[", "cfg", "(", "any", "(", "test"])
                || self.is(at, &["#", "[", "cfg", "(", "all", "(", "any", "(", "test"]);
            if !for_tests {
                at += 1;
                continue;
            }
            let mut end = self.after_group(at + 1);
            while self.text(end) == "#" {
                end = self.after_group(end + 1);
            }
            while !matches!(self.text(end), "" | ";" | "{") {
                if self.is(end, &["mod"]) && self.text(end + 2) == ";" {
                    self.test_modules.push(self.text(end + 1).to_string());
                }
                end = match self.text(end) {
                    "(" | "[" => self.after_group(end),
                    _ => end + 1,
                };
            }
            let end = if self.text(end) == "{" {
                self.after_group(end)
            } else {
                end + 1
            };
            self.tokens.drain(at..end.min(self.tokens.len()));
        }
    }

    fn forbids_unsafe(&self) -> bool {
        let mut at = 0;
        while self.is(at, &["#", "!"]) {
            if self.is(at + 2, &["[", "forbid", "(", "unsafe_code", ")", "]"]) {
                return true;
            }
            at = self.after_group(at + 2);
        }
        false
    }

    /// Each path that leads out of the file by `crate::`, or by `super::` from a room's top module.
    fn crate_paths(&self) -> Vec<Import> {
        let depth = match self.name.split('/').count() {
            1 => 1,
            count if self.name.ends_with("/mod.rs") => count - 1,
            count => count,
        };
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            if self.is(at, &["crate", "::"]) && self.text(at.wrapping_sub(1)) != "::" {
                self.expand(at + 2, &mut Vec::new(), &mut found);
            }
            // In a nested inline module `super` leads less far up; none of this tree imports so.
            let supers = (0..depth).all(|up| self.is(at + 2 * up, &["super", "::"]));
            let more =
                self.text(at + 2 * depth) == "super" || self.text(at.wrapping_sub(2)) == "super";
            if supers && !more && self.brace_depth(at) == 0 {
                self.expand(at + 2 * depth, &mut Vec::new(), &mut found);
            }
        }
        found
    }

    fn brace_depth(&self, at: usize) -> usize {
        let count = |text: &str| {
            self.tokens[..at]
                .iter()
                .filter(|token| token.text == text)
                .count()
        };
        count("{") - count("}")
    }

    /// Each path that starts with `root::`.
    fn paths_from(&self, root: &str) -> Vec<Import> {
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            if self.is(at, &[root, "::"]) {
                self.expand(at + 2, &mut Vec::new(), &mut found);
            }
        }
        found
    }

    /// Reads the path or `use` tree at `at`; returns the token after it.
    fn expand(&self, mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<Import>) -> usize {
        let length = prefix.len();
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        loop {
            if self.text(at) == "{" {
                at += 1;
                while !matches!(self.text(at), "" | "}") {
                    at = self.expand(at, prefix, found);
                    while !matches!(self.text(at), "" | "}" | ",") {
                        at += 1;
                    }
                    if self.text(at) == "," {
                        at += 1;
                    }
                }
                at += 1;
                break;
            }
            if self.text(at) != "self" {
                prefix.push(self.text(at).to_string());
            }
            at += 1;
            if self.text(at) == "::" && self.text(at + 1) != "<" {
                at += 1;
                continue;
            }
            found.push(Import {
                segments: prefix.clone(),
                line,
            });
            break;
        }
        prefix.truncate(length);
        at
    }

    /// Each function defined `extern "C"`, and whether its first statement calls the guard.
    fn extern_functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            let is_definition = self.text(at) == "extern"
                && self.text(at + 1) == "\"C\""
                && self.text(at + 2) == "fn"
                && self.text(at + 3) != "(";
            if !is_definition {
                continue;
            }
            let mut body = at + 4;
            while !matches!(self.text(body), "" | "{" | ";") {
                body = if self.text(body) == "(" {
                    self.after_group(body)
                } else {
                    body + 1
                };
            }
            let first = self.text(body + 1);
            let guarded =
                (first == "guard" || first.starts_with("guard_")) && self.text(body + 2) == "(";
            let line = self.tokens[at].line;
            found.push(Function {
                name: self.text(at + 3).to_string(),
                guarded,
                line,
            });
        }
        found
    }
}

/// Splits Rust source into identifiers, literals, `::` and single characters.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    let starts = |at: usize, prefix: &str| {
        prefix
            .chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    while at < chars.len() {
        let start = at;
        let word = |c: &char| c.is_alphanumeric() || *c == '_';
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if starts(at, "*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    at += 1;
                }
                if depth == 0 || at >= chars.len() {
                    break;
                }
            }
        } else if let Some(end) = raw_string_end(&chars, at).or_else(|| string_end(&chars, at)) {
            at = end;
            found.push(Token {
                text: chars[start..at.min(chars.len())].iter().collect(),
                line,
            });
        } else if word(&chars[at]) {
            while chars.get(at).is_some_and(word) {
                at += 1;
            }
            found.push(Token {
                text: chars[start..at].iter().collect(),
                line,
            });
        } else if starts(at, "::") {
            at += 2;
            found.push(Token {
                text: "::".into(),
                line,
            });
        } else {
            if !chars[at].is_whitespace() {
                found.push(Token {
                    text: chars[at].to_string(),
                    line,
                });
            }
            at += 1;
        }
        line += chars[start..at.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    found
}

/// The end of the string or character literal at `at`; a lifetime is none.
fn string_end(chars: &[char], at: usize) -> Option<usize> {
    let quote = chars[at];
    let lifetime =
        quote == '\'' && chars.get(at + 1) != Some(&'\\') && chars.get(at + 2) != Some(&'\'');
    if !matches!(quote, '"' | '\'') || lifetime {
        return None;
    }
    let mut end = at + 1;
    while end < chars.len() && chars[end] != quote {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    Some(end + 1)
}

fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let mut open = at;
    open += usize::from(matches!(chars.get(open), Some('b' | 'c')));
    if chars.get(open) != Some(&'r') {
        return None;
    }
    let hashes = chars[open + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(open + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut end = open + 2 + hashes;
    while end < chars.len() {
        let closes = chars[end] == '"'
            && chars[end + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes;
        if closes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(end)
}
