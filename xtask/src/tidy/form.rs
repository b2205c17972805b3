//! The form of single files.

use super::Finding;
use super::source::Source;
use super::tree::Tree;

const LINES_MAX: usize = 900;
/// Not read from top to bottom by anybody.
const NOT_READ: [&str; 3] = ["Cargo.lock", "fuzz/Cargo.lock", "LICENSE"];

/// No file is longer than what can be read at once.
pub(super) fn length(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files().into_iter().filter(|file| !NOT_READ.contains(&file.path.as_str())) {
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            findings.push(Finding::new(&file.path, 0, format!("has {lines} lines, {LINES_MAX} are the most")));
        }
    }
    findings
}

/// Every Rust file begins with a comment that says what it is; every Python file with its docstring.
pub(super) fn heads(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        let head = file.text.lines().next().unwrap_or_default();
        if !head.starts_with("//! ") {
            findings.push(Finding::new(&file.path, 1, "does not begin with a `//!` comment that says what it is"));
        } else if head.len() < 16 || head.contains("placeholder") {
            findings.push(Finding::new(&file.path, 1, "begins with a comment that says nothing"));
        }
    }
    for file in tree.ending(".py") {
        let first = file.text.lines().find(|line| !line.starts_with("#!") && !line.is_empty()).unwrap_or_default();
        if !first.starts_with("\"\"\"") {
            findings.push(Finding::new(&file.path, 1, "does not begin with a docstring that says what it is"));
        }
    }
    findings
}

/// No unfinished code and no notes to oneself.
pub(super) fn leftovers(tree: &Tree) -> Vec<Finding> {
    // Put together here, so that this file does not find itself.
    let notes = [concat!("FIX", "ME"), concat!("X", "XX"), concat!("TO", "DO")];
    let macros = [concat!("to", "do!"), concat!("unimplemented", "!"), concat!("db", "g!")];
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        for (line, text) in Source::new(file).lines() {
            for name in macros.iter().filter(|name| has_word(text, name)) {
                findings.push(Finding::new(&file.path, line, format!("`{name}` is left over")));
            }
        }
    }
    for file in tree.files().into_iter().filter(|file| !NOT_READ.contains(&file.path.as_str())) {
        for (at, text) in file.text.lines().enumerate() {
            for note in notes.iter().filter(|note| has_word(text, note)) {
                findings.push(Finding::new(&file.path, at + 1, format!("`{note}` is left over")));
            }
        }
    }
    findings
}

/// Whether the word stands there by itself.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(part);
        let after = text[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn a_long_file_is_found() {
        let long = "x\n".repeat(901);
        let found = findings(length, &[("a.rs", &long), ("Cargo.lock", &long), ("b.rs", &long[2..])]);
        assert_eq!(found, ["a.rs: has 901 lines, 900 are the most"]);
    }

    #[test]
    fn a_file_without_a_head_is_found() {
        let found = findings(
            heads,
            &[
                ("a.rs", "use x;\n"),
                ("b.rs", "//! placeholder, replaced below\n"),
                ("c.rs", "//! What this is.\n"),
                ("d.py", "#!/usr/bin/env python3\nimport os\n"),
                ("e.py", "#!/usr/bin/env python3\n\"\"\"What this is.\"\"\"\n"),
            ],
        );
        let places: Vec<&str> = found.iter().filter_map(|text| text.split(':').next()).collect();
        assert_eq!(places, ["a.rs", "b.rs", "d.py"]);
    }

    #[test]
    fn what_is_left_over_is_found() {
        for left in [
            concat!("to", "do!()"),
            concat!("x(unimplemented", "!());"),
            concat!("db", "g!(x)"),
            concat!("// FIX", "ME later"),
        ] {
            assert_eq!(findings(leftovers, &[("a.rs", left)]).len(), 1, "{left}");
        }
        let fine = concat!("let s = \"to", "do!\"; mkto", "do!(); // mktemp X", "XXXXX");
        assert!(findings(leftovers, &[("a.rs", fine)]).is_empty());
    }
}
