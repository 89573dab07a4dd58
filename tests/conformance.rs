//! `docs/conformance.md` against the tree: what it claims is named by a test, and what the tree
//! names has a line there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PREFIXES: [&str; 7] = ["ATT", "CI", "RK", "REC", "TX", "AS", "MT"];

/// The statements that `text` names: `TX-7`, `TX-7 to TX-9`.
fn named(text: &str) -> BTreeSet<(String, u32)> {
    let mut found = BTreeSet::new();
    // Comments are wrapped: their marks and the ends of their lines do not count.
    let words: Vec<_> = text
        .split_whitespace()
        .filter(|word| !matches!(*word, "*" | "//" | "///" | "//!"))
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
        .collect();
    let id = |word: &str| {
        let (prefix, number) = word.split_once('-')?;
        let known = PREFIXES.contains(&prefix);
        known.then(|| Some((prefix.to_owned(), number.parse().ok()?)))?
    };
    for (at, word) in words.iter().enumerate() {
        let Some((prefix, first)) = id(word) else {
            continue;
        };
        let last = match words.get(at + 1..at + 3) {
            Some(["to", last]) => id(last).map_or(first, |(_, last)| last),
            _ => first,
        };
        found.extend((first..=last).map(|number| (prefix.clone(), number)));
    }
    found
}

/// Calls `visit` with the text of every source file below `dir`, and of its tests alone.
fn sources(dir: &Path, visit: &mut dyn FnMut(&str, &str)) {
    for entry in fs::read_dir(dir).expect("the tree is readable") {
        let path = entry.expect("the tree is readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" {
            sources(&path, visit);
        }
        let extension = path.extension().unwrap_or_default();
        if extension != "rs" && extension != "c" || name == "conformance.rs" {
            continue;
        }
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let all_tests = !path.starts_with(Path::new(ROOT).join("src"))
            || name.ends_with("tests.rs")
            || name.ends_with("testing.rs");
        let tests = match text.find("#[cfg(test)]").or(text.find("#[cfg(all(test")) {
            _ if all_tests => &text,
            Some(at) => &text[at..],
            None => "",
        };
        visit(&text, tests);
    }
}

#[test]
fn the_page_and_the_tests_agree() {
    let page = Path::new(ROOT).join("docs/conformance.md");
    let page = fs::read_to_string(page).expect("docs/conformance.md is readable");
    let (mut listed, mut claimed) = (BTreeSet::new(), BTreeSet::new());
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let id = named(cells[1]);
        if id.is_empty() {
            continue;
        }
        let [_, _, _, here, _] = cells[..] else {
            panic!("three columns: {row}");
        };
        match here.split(' ').next() {
            Some("=" | "+") => claimed.extend(id.clone()),
            Some("-" | "n/a") => {}
            _ => panic!("=, +, - or n/a: {row}"),
        }
        listed.extend(id);
    }
    let (mut used, mut tested) = (BTreeSet::new(), BTreeSet::new());
    for dir in ["src", "tests", "c-tests"] {
        sources(&Path::new(ROOT).join(dir), &mut |all, tests| {
            used.extend(named(all));
            tested.extend(named(tests));
        });
    }
    let missing: Vec<_> = used.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the page: {missing:?}");
    let untested: Vec<_> = claimed.difference(&tested).collect();
    assert!(untested.is_empty(), "named by no test: {untested:?}");
}

#[test]
fn ids_are_found_in_comments() {
    let found = named("/* TX-7 to TX-9, all of CI-2;\n * AS-4. RX-1, TX-x, PRE-TX-5 TX-\n */");
    let ids: Vec<_> = found.iter().map(|(p, n)| format!("{p}-{n}")).collect();
    assert_eq!(ids, ["AS-4", "CI-2", "TX-7", "TX-8", "TX-9"]);
}
