//! The files of the library, read far enough for its rules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tokens::tokens;

pub fn room_of(name: &str) -> &str {
    name.split('/')
        .next()
        .map_or(name, |first| first.trim_end_matches(".rs"))
}

/// All files below `src/` but those that only tests compile.
pub fn sources() -> Vec<Source> {
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
pub struct Source {
    /// The path below `src/`.
    pub name: String,
    pub tokens: Vec<Token>,
    /// Modules that the file declares for tests and keeps in files of their own.
    pub test_modules: Vec<String>,
}

pub struct Token {
    pub text: String,
    pub line: usize,
}

pub struct Import {
    pub segments: Vec<String>,
    pub line: usize,
}

pub struct Function {
    pub name: String,
    pub guarded: bool,
    pub line: usize,
}

impl Source {
    pub fn new(name: String, text: &str) -> Source {
        let mut source = Source {
            name,
            tokens: tokens(text),
            test_modules: Vec::new(),
        };
        source.drop_test_items();
        source
    }

    /// `None` for `lib.rs`, which declares the rooms and is none.
    pub fn room(&self) -> Option<&str> {
        Some(room_of(&self.name)).filter(|room| *room != "lib")
    }

    /// Starts of the names of the files that this one declares under `#[cfg(test)]`.
    pub fn test_files(&self) -> Vec<String> {
        let folder = match self.name.strip_suffix("mod.rs") {
            Some(folder) => folder.to_string(),
            None if self.name == "lib.rs" => String::new(),
            None => format!("{}/", self.name.trim_end_matches(".rs")),
        };
        let names =
            |module: &String| [format!("{folder}{module}.rs"), format!("{folder}{module}/")];
        self.test_modules.iter().flat_map(names).collect()
    }

    pub fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    pub fn is(&self, at: usize, wanted: &[&str]) -> bool {
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

    pub fn forbids_unsafe(&self) -> bool {
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
    pub fn crate_paths(&self) -> Vec<Import> {
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
    pub fn paths_from(&self, root: &str) -> Vec<Import> {
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
    pub fn extern_functions(&self) -> Vec<Function> {
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
