//! Just enough reading of Rust for the rules: code without comments, text and tests, and the paths in it.

use super::tree::File;

/// A Rust file prepared for the rules.
pub(crate) struct Source<'a> {
    /// The file.
    pub(crate) file: &'a File,
    /// The code with the same lines: comments, the inside of texts and `#[cfg(test)]` items are blank.
    pub(crate) code: String,
}

impl<'a> Source<'a> {
    /// Prepares a file.
    pub(crate) fn new(file: &'a File) -> Source<'a> {
        let code = without_tests(&without_text(&file.text));
        Source { file, code }
    }

    /// The lines of the code, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Every path in the code with its line, groups taken apart: `use a::{b, c::d}` is `a::b` and `a::c::d`.
    pub(crate) fn paths(&self) -> Vec<(usize, String)> {
        paths(&self.code)
    }
}

/// Blanks comments and the inside of texts; lines stay where they are.
fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let word_before = at > 0 && chars.get(at - 1).is_some_and(|c| c.is_alphanumeric() || *c == '_');
        let end = match (c, next) {
            ('/', Some('/')) => chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n),
            ('/', Some('*')) => block_comment(&chars, at),
            ('"', _) => text_end(&chars, at),
            ('r', Some('"' | '#')) if !word_before || chars.get(at - 1) == Some(&'b') => raw_end(&chars, at),
            ('\'', _) => char_end(&chars, at),
            _ => at,
        };
        if end == at {
            out.push(c);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| blank(*c)));
            at = end;
        }
    }
    out
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn text_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"` or `r#"…"#`; the start itself when it is neither (`r#type`).
fn raw_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let mut at = start + 1 + hashes;
    if chars.get(at) != Some(&'"') {
        return start;
    }
    at += 1;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    chars.len()
}

/// `'x'` or `'\n'`; the start itself for a lifetime.
fn char_end(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => {
            let close = chars[start + 3..].iter().position(|c| *c == '\'');
            close.map_or(chars.len(), |n| start + 4 + n)
        }
        (Some(_), Some('\'')) => start + 3,
        _ => start,
    }
}

/// Blanks the items behind `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out.get(from..).and_then(|rest| rest.find(MARK)) {
        let start = from + found;
        let end = item_end(&out, start + MARK.len());
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        // Characters of several bytes become one blank each.
        from = start + blank.len();
        out.replace_range(start..end, &blank);
    }
    out
}

/// Where the item that begins here ends: behind its `;`, or behind its block.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0_i32;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth <= 0 {
                    return start + at + 1;
                }
            }
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

fn paths(code: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        if chars[at] == '\n' {
            line += 1;
        }
        if !is_word(chars[at]) || (at > 0 && is_word(chars[at - 1])) {
            at += 1;
            continue;
        }
        let before = found.len();
        at = read_path(&chars, at, String::new(), &mut line, &mut found);
        if found.len() == before {
            at += 1;
        }
    }
    found
}

/// Reads one path, and the group behind it if there is one; gives the place behind.
fn read_path(
    chars: &[char],
    start: usize,
    prefix: String,
    line: &mut usize,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let (mut at, mut path) = (start, prefix);
    loop {
        let word: String = chars[at..].iter().take_while(|c| is_word(**c)).collect();
        if word.is_empty() {
            break;
        }
        at += word.chars().count();
        path = if path.is_empty() { word } else { format!("{path}::{word}") };
        if chars.get(at) != Some(&':') || chars.get(at + 1) != Some(&':') {
            break;
        }
        match chars.get(at + 2) {
            Some('{') => return read_group(chars, at + 3, &path, line, found),
            Some(c) if is_word(*c) => at += 2,
            _ => break,
        }
    }
    found.push((*line, path));
    at
}

fn read_group(chars: &[char], start: usize, prefix: &str, line: &mut usize, found: &mut Vec<(usize, String)>) -> usize {
    let mut at = start;
    while let Some(&c) = chars.get(at) {
        match c {
            '}' => return at + 1,
            '\n' => {
                *line += 1;
                at += 1;
            }
            c if is_word(c) => at = read_path(chars, at, prefix.to_owned(), line, found),
            _ => at += 1,
        }
    }
    at
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a path begins with these parts, whole ones.
pub(crate) fn begins(path: &str, with: &str) -> bool {
    path.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        let file = File { path: "a.rs".into(), text: text.into() };
        Source::new(&file).code
    }

    #[test]
    fn comments_and_texts_are_blank_and_lines_stay() {
        let text = "a // std::fs\nb /* x /* y */ z */ c\n\"std::fs \\\" \n\" d r#\"std\"# 'x' '\\'' &'a e";
        let code = code(text);
        assert_eq!(code.lines().count(), text.lines().count());
        assert!(!code.contains("std") && !code.contains('x'), "{code}");
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "c", "d", "&'a", "e"]);
    }

    #[test]
    fn tests_are_blank() {
        let code = code("one();\n#[cfg(test)]\nuse a::b;\n#[cfg(test)]\nmod tests {\n fn f() { two() }\n}\nthree();\n");
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["one();", "three();"]);
        assert_eq!(code.lines().count(), 8);
    }

    #[test]
    fn groups_are_taken_apart() {
        let found = paths("use std::{\n  fs,\n  time::{Instant, Duration},\n};\nlet x = rand::random::<u8>();\n");
        let found: Vec<(usize, &str)> = found.iter().map(|(line, path)| (*line, path.as_str())).collect();
        for wanted in [(2, "std::fs"), (3, "std::time::Instant"), (3, "std::time::Duration"), (5, "rand::random")] {
            assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
        }
    }

    #[test]
    fn whole_parts_are_compared() {
        assert!(begins("std::fs::File", "std::fs") && begins("std::fs", "std::fs"));
        assert!(!begins("std::fsx", "std::fs") && !begins("my::std::fs", "std::fs"));
    }
}
