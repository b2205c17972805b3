//! The paths in documents, and the map of the crates.

use super::Finding;
use super::tree::{File, Tree};

/// Endings of files of ours: a word in backticks that ends so is meant as a file.
const ENDINGS: [&str; 6] = [".rs", ".py", ".md", ".sh", ".proto", ".c"];
/// Made by a build or a run, and so in no clone.
const MADE: [&str; 4] = ["target", "bench/out", "fuzz/artifacts", "__pycache__"];
/// Parts that stand for something else.
const STAND_FOR: [&str; 14] = [
    "TARGET", "NAME", "DIR", "DATA", "CODE", "CRATE", "NNNN", "ID", "FILE", "COMMAND", "VERSION", "SERVICE",
    "PROTOCOL", "vN",
];

/// Every path that a document names, as a link, in backticks or in a command, exists.
pub(super) fn paths(tree: &Tree) -> Vec<Finding> {
    tree.ending(".md").flat_map(|file| check(tree, file)).collect()
}

/// The map has a line for every crate, and none for one that is gone.
pub(super) fn map(tree: &Tree) -> Vec<Finding> {
    const MAP: &str = "ARCHITECTURE.md";
    let Some(file) = tree.file(MAP) else { return vec![Finding::new(MAP, 0, "is not there")] };
    let mut findings = Vec::new();
    for name in tree.crates() {
        if !file.text.contains(&format!("`crates/{name}`")) {
            findings.push(Finding::new(MAP, 0, format!("has no line for `crates/{name}`")));
        }
    }
    for (folder, _) in tree.files().iter().filter_map(|file| file.path.strip_prefix("patches/")?.split_once('/')) {
        let what = format!("`patches/{folder}`");
        let known = findings.iter().any(|finding: &Finding| finding.what.contains(&what));
        if !known && !file.text.contains(&what) {
            findings.push(Finding::new(MAP, 0, format!("has no line for {what}")));
        }
    }
    findings
}

fn check(tree: &Tree, file: &File) -> Vec<Finding> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    let mut fenced = false;
    for (at, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let mut missing = |what: &str| {
            findings.push(Finding::new(&file.path, at + 1, format!("`{what}` is not there")));
        };
        if fenced {
            let words = line.split(|c: char| c.is_whitespace() || "\"'()=,;:".contains(c));
            for word in words.filter(|word| is_ours(tree, word) && !exists(tree, folder, word)) {
                missing(word);
            }
            continue;
        }
        for link in links(line).filter(|link| !exists(tree, folder, link)) {
            missing(link);
        }
        for code in line.split('`').skip(1).step_by(2) {
            for word in code.split_whitespace().map(|word| word.trim_end_matches([',', ';', ')'])) {
                if (is_ours(tree, word) || is_file(word)) && !exists(tree, folder, word) {
                    missing(word);
                }
            }
        }
    }
    findings
}

/// The targets of links within the repository, without what is behind `#`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter_map(|target| {
        let inside = !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:");
        inside.then(|| target.split('#').next().unwrap_or(target))
    })
}

/// Whether it begins with a folder of the repository.
fn is_ours(tree: &Tree, word: &str) -> bool {
    let Some((first, _)) = word.split_once('/') else { return false };
    !first.is_empty() && first != "." && first != ".." && (tree.has(first) || first == "target")
}

/// Whether it looks like a file of code or a document.
fn is_file(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c));
    plain
        && !word.starts_with(['/', '.'])
        && ENDINGS.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending))
}

/// Whether the path is there: from the root, from the document's folder, or, for a file, anywhere at its end. What is
/// made by a build, and a path with a part that stands for others, is taken as there.
fn exists(tree: &Tree, folder: &str, word: &str) -> bool {
    let word = word.split(':').next().unwrap_or(word).trim_start_matches("./").trim_end_matches(['/', '.']);
    let stands_for = |part: &str| {
        part.contains(['*', '{', '<', '$', '…', '~']) || stem(part).split('-').any(|word| STAND_FOR.contains(&word))
    };
    if word.split('/').any(stands_for) || MADE.iter().any(|made| word == *made || word.starts_with(&format!("{made}/")))
    {
        return true;
    }
    let beside = normal(&format!("{folder}/{word}"));
    let at_end = format!("/{word}");
    tree.has(word)
        || beside.is_some_and(|path| tree.has(&path))
        || (is_file(word) && tree.files().iter().any(|file| file.path.ends_with(&at_end)))
}

fn stem(part: &str) -> &str {
    part.split('.').next().unwrap_or(part)
}

/// The path without `.` and `..`; none when it leads out of the repository.
fn normal(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    fn found(document: &str) -> Vec<String> {
        findings(
            paths,
            &[("docs/guide/a.md", document), ("crates/name/src/lib.rs", ""), ("docs/b.md", ""), ("Makefile", "")],
        )
    }

    #[test]
    fn what_is_not_there_is_found() {
        for wrong in [
            "see [b](c.md)",
            "see [b](../../../b.md)",
            "in `crates/nome/src/lib.rs`",
            "in `crates/name/src/lib.sr`",
            "in `docs/c`",
            "in `library.rs`",
            "run `python3 docs/c.py`",
            "```sh\nls docs/nothing\n```",
        ] {
            assert_eq!(found(wrong).len(), 1, "{wrong}");
        }
        assert_eq!(found("\n\n[b](c.md)"), ["docs/guide/a.md:3: `c.md` is not there"]);
    }

    #[test]
    fn what_is_there_or_no_path_of_ours_is_fine() {
        for right in [
            "see [b](../b.md), [c](../b.md#part), [d](#here), [e](https://example.org/x.md)",
            "in `crates/name/src/lib.rs`, `crates/name`, `crates/name/`, `src/lib.rs:3`, `lib.rs`, `../b.md`",
            "`/v1/names/NAME`, `application/json`, `target/debug/byname`, `docs/errors/CODE.md`, `crates/*/src`",
            "```sh\ncargo run -- docs/b.md\n```",
            "`/BVODS/QS` and `find /etc/x.md`",
        ] {
            assert!(found(right).is_empty(), "{right}: {:?}", found(right));
        }
    }

    #[test]
    fn a_crate_without_a_line_is_found() {
        let files =
            [("ARCHITECTURE.md", "`crates/name`"), ("crates/name/Cargo.toml", ""), ("crates/api/Cargo.toml", "")];
        assert_eq!(findings(map, &files), ["ARCHITECTURE.md: has no line for `crates/api`"]);
        let patched = [("ARCHITECTURE.md", ""), ("patches/a/Cargo.toml", ""), ("patches/a/src/lib.rs", "")];
        assert_eq!(findings(map, &patched).len(), 1);
        assert_eq!(findings(map, &[]).len(), 1);
    }
}
