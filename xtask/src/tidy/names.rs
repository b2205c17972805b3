//! Names of crates and modules.

use std::collections::BTreeSet;

use super::Finding;
use super::tree::Tree;

/// Words that name no subject.
const NO_SUBJECT: [&str; 9] = ["util", "utils", "common", "types", "helper", "helpers", "misc", "shared", "tools"];

/// No crate, module or folder is called after none of its contents.
pub(super) fn subjects(tree: &Tree) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    for file in tree.files() {
        let code = file.path.ends_with(".rs") || file.path.ends_with(".py") || file.path.ends_with("Cargo.toml");
        if !code {
            continue;
        }
        let mut path = String::new();
        for part in file.path.split('/') {
            path = if path.is_empty() { part.to_owned() } else { format!("{path}/{part}") };
            let stem = part.strip_suffix(".rs").or(part.strip_suffix(".py")).unwrap_or(part);
            if NO_SUBJECT.contains(&stem) || stem.split('-').any(|word| NO_SUBJECT.contains(&word)) {
                findings.insert((path.clone(), stem.to_owned()));
            }
        }
    }
    let what = |stem: &str| format!("`{stem}` says nothing of what is in it: call it by its subject");
    findings.into_iter().map(|(path, stem)| Finding::new(path, 0, what(&stem))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn names_without_a_subject_are_found_once() {
        let found = findings(
            subjects,
            &[
                ("crates/byname-common/Cargo.toml", ""),
                ("crates/node/src/util/mod.rs", ""),
                ("crates/node/src/util/time.rs", ""),
                ("crates/node/src/types.rs", ""),
                ("crates/node/src/start.rs", ""),
                ("docs/common/README.md", ""),
            ],
        );
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
