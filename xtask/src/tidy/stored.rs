//! What is on disk: its types, and its earlier versions.

use super::Finding;
use super::source::begins;
use super::tree::Tree;

/// Where the crates that keep files say what their bytes look like; a path that ends in `/` is a folder.
const STORED: [(&str, &[&str]); 5] = [
    ("audit", &["crates/audit/src/line.rs"]),
    ("registry", &["crates/registry/src/stored/"]),
    ("cluster", &["crates/cluster/src/log/frame.rs", "crates/cluster/src/snapshot.rs"]),
    (
        "launch",
        &[
            "crates/launch/src/wire.rs",
            "crates/launch/src/folder.rs",
            "crates/launch/src/catalogue.rs",
            // What a holder tells the process that becomes the program: both are of one fork.
            "crates/launch/src/hold/spawn.rs",
        ],
    ),
    // It keeps nothing: whatever it sends is a type of `api`, and what it logs one of `registry`.
    ("node", &[]),
];

const FORMATS: &str = "crates/registry/src/stored/";
const FIXTURES: &str = "crates/registry/tests/fixtures/";

/// Serialized types and their encodings stand only where stored forms are.
pub(super) fn apart(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, places) in STORED {
        let allowed = |path: &str| {
            places.iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place })
        };
        for source in tree.code_of(name).filter(|source| !allowed(&source.file.path)) {
            for (line, text) in source.lines() {
                let derives = text.contains("derive(") && (text.contains("Serialize") || text.contains("Deserialize"));
                if derives {
                    let what = format!("a type that is serialized belongs into {}", list(places));
                    findings.push(Finding::new(&source.file.path, line, what));
                }
            }
            for (line, path) in source.paths() {
                if begins(&path, "postcard") {
                    let what = format!("`{path}` makes stored bytes, which belongs into {}", list(places));
                    findings.push(Finding::new(&source.file.path, line, what));
                }
            }
        }
    }
    findings
}

/// Every format up to the present one is still read, and every earlier one has the bytes it was once written as.
pub(super) fn versions(tree: &Tree) -> Vec<Finding> {
    let path = format!("{FORMATS}mod.rs");
    let Some(file) = tree.file(&path) else {
        return vec![Finding::new(path, 0, "is not there: where are the formats?")];
    };
    let present = file.text.lines().find_map(|line| {
        let number = line.trim().strip_prefix("pub const FORMAT: u8 =")?;
        number.trim().trim_end_matches(';').parse::<u8>().ok()
    });
    let Some(present) = present else { return vec![Finding::new(path, 0, "has no `pub const FORMAT: u8 = N;`")] };
    let mut findings = Vec::new();
    for format in 1..=present {
        let types = format!("{FORMATS}v{format}.rs");
        if !tree.has(&types) {
            findings.push(Finding::new(types, 0, format!("is not there, and format {format} was written once")));
        }
        for kind in ["command", "snapshot"] {
            let fixture = format!("{FIXTURES}{kind}-v{format}");
            if format < present && !tree.has(&fixture) {
                findings.push(Finding::new(
                    fixture,
                    0,
                    format!("is not there: keep bytes of format {format} as it was written"),
                ));
            }
        }
    }
    findings
}

fn list(places: &[&str]) -> String {
    if places.is_empty() { "another crate".into() } else { places.join(" or ") }
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn a_serialized_domain_type_is_found() {
        let code = "//! x\n#[derive(Debug, Serialize)]\nstruct Node;\n";
        let found = findings(
            apart,
            &[
                ("crates/registry/src/tree.rs", code),
                ("crates/registry/src/stored/v1.rs", code),
                ("crates/node/src/lib.rs", "postcard::to_stdvec(x);"),
                ("crates/launch/src/wire.rs", code),
                ("crates/api/src/object.rs", code),
            ],
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("crates/registry/src/tree.rs:2: "), "{found:?}");
        assert!(found[1].starts_with("crates/node/src/lib.rs:1: "), "{found:?}");
    }

    #[test]
    fn a_forgotten_format_is_found() {
        let present = ("crates/registry/src/stored/mod.rs", "pub const FORMAT: u8 = 2;\n");
        let found = findings(versions, &[present, ("crates/registry/src/stored/v2.rs", "")]);
        assert_eq!(found.len(), 3, "{found:?}");
        let whole = [
            present,
            ("crates/registry/src/stored/v1.rs", ""),
            ("crates/registry/src/stored/v2.rs", ""),
            ("crates/registry/tests/fixtures/command-v1", ""),
            ("crates/registry/tests/fixtures/snapshot-v1", ""),
        ];
        assert!(findings(versions, &whole).is_empty());
    }

    #[test]
    fn a_format_that_cannot_be_found_is_no_good_sign() {
        assert_eq!(findings(versions, &[]).len(), 1);
        assert_eq!(findings(versions, &[("crates/registry/src/stored/mod.rs", "")]).len(), 1);
    }
}
