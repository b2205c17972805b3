//! The data directory and who writes what of it.

use super::Finding;
use super::source::begins;
use super::tree::Tree;

/// Crates that touch files at all, beside that of the tests.
const WRITERS: [&str; 8] = ["audit", "byname", "client", "cluster", "hosts", "identity", "launch", "testkit"];
const WIRING: &str = "crates/byname/src/serve/";

/// The entries of a data directory that the wiring hands out, and whose they are. ARCHITECTURE.md describes them.
const ENTRIES: [(&str, &str); 13] = [
    ("audit", "audit"),
    ("log", "cluster"),
    ("launch", "launch"),
    ("programs.d", "the owner of the host, read by launch"),
    ("token", "byname"),
    ("endpoints.json", "byname"),
    ("ca.pem", "byname"),
    ("agent.sock", "byname"),
    ("clerk", "client"),
    ("identity/cluster.key", "identity"),
    ("identity/server", "byname"),
    ("identity/took-part", "byname"),
    ("identity/authority.sealed", "byname"),
];

/// Files are touched by few crates; the folders of the data directory are handed out in one place, from one table,
/// and the map knows each.
pub(super) fn folders(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree.crates().iter().filter(|name| !WRITERS.contains(*name)).flat_map(|name| tree.code_of(name)) {
        for (line, path) in source.paths() {
            if begins(&path, "std::fs") || begins(&path, "tokio::fs") {
                findings.push(Finding::new(
                    &source.file.path,
                    line,
                    format!("`{path}` touches files, which {} do", WRITERS.join(", ")),
                ));
            }
        }
    }
    for file in tree.ending(".rs").filter(|file| file.path.starts_with(WIRING)) {
        for (at, line) in file.text.lines().enumerate() {
            for entry in line.split(".path(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                if !ENTRIES.iter().any(|(known, _)| *known == entry) {
                    let what =
                        format!("`{entry}` of the data directory belongs to nobody: add it to xtask/src/tidy/data.rs");
                    findings.push(Finding::new(&file.path, at + 1, what));
                }
            }
        }
    }
    if let Some(map) = tree.file("ARCHITECTURE.md") {
        for (entry, owner) in ENTRIES {
            if !map.text.contains(entry) {
                findings.push(Finding::new(
                    &map.path,
                    0,
                    format!("does not describe `{entry}` of the data directory ({owner})"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn a_crate_that_should_not_touch_files_is_found() {
        let found = findings(
            folders,
            &[
                ("crates/node/Cargo.toml", ""),
                ("crates/node/src/a.rs", "use std::fs::File;"),
                ("crates/cluster/Cargo.toml", ""),
                ("crates/cluster/src/a.rs", "use std::fs::File;"),
            ],
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("crates/node/src/a.rs:1: "), "{found:?}");
    }

    #[test]
    fn an_entry_that_belongs_to_nobody_is_found() {
        let code = "let a = data.path(\"log\");\nlet b = data.path(\"cache\");\n";
        let found = findings(folders, &[("crates/byname/src/serve/mod.rs", code)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(":2: `cache`"), "{found:?}");
    }

    #[test]
    fn a_map_that_is_silent_about_an_entry_is_found() {
        let found = findings(
            folders,
            &[(
                "ARCHITECTURE.md",
                "audit log launch token endpoints.json ca.pem agent.sock clerk identity/cluster.key identity/server \
                 identity/took-part identity/authority.sealed",
            )],
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("programs.d"), "{found:?}");
    }
}
