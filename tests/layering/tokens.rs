//! Rust text as tokens, without comments.

use crate::source::Token;

/// Splits Rust source into identifiers, literals, `::` and single characters.
pub fn tokens(text: &str) -> Vec<Token> {
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
