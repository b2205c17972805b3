//! Who may know whom: crates, libraries, and the command line.

use super::Finding;
use super::source::begins;
use super::tree::{File, Tree};

/// Which crates of ours a crate may know, and which more its tests may.
///
/// `registry` knows `api` for its vocabulary only: errors, declarations and times are the same plain data there and
/// here, and a copy of each would be a translation that says nothing.
const MAY_KNOW: &[(&str, &[&str], &[&str])] = &[
    ("name", &[], &[]),
    ("api", &["name"], &[]),
    ("audit", &["api", "name"], &[]),
    ("registry", &["api", "name"], &[]),
    ("identity", &["api", "name"], &[]),
    ("cluster", &[], &["sim"]),
    ("sim", &["cluster"], &[]),
    ("launch", &["api", "identity", "name"], &[]),
    ("node", &["api", "audit", "cluster", "identity", "name", "registry"], &["launch", "sim", "testkit"]),
    ("client", &["api", "identity", "name"], &["testkit"]),
    ("front-dns", &["api", "name"], &[]),
    ("front-dp", &["api", "name"], &[]),
    ("front-grpc", &["api"], &["client", "identity", "name", "testkit"]),
    ("front-http", &["api", "identity", "name"], &["testkit"]),
    ("front-spiffe", &["api", "launch"], &["identity", "name"]),
    ("testkit", &["api", "client", "identity", "name"], &["client", "front-grpc", "front-http", "launch", "node"]),
    ("hosts", &[], &[]),
    (
        "byname",
        &[
            "api",
            "audit",
            "client",
            "cluster",
            "front-dns",
            "front-dp",
            "front-grpc",
            "front-http",
            "front-spiffe",
            "identity",
            "launch",
            "name",
            "node",
        ],
        &["hosts", "testkit"],
    ),
];

/// Libraries that stand for a protocol, an engine or an edge of the program, and the crates that may know them. Tests
/// may use what they need.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("tonic", &["client", "front-grpc", "front-spiffe"]),
    ("tonic-prost", &["client", "front-grpc", "front-spiffe"]),
    ("tonic-health", &["client", "front-grpc"]),
    ("tonic-reflection", &["front-grpc"]),
    ("prost", &["api", "front-spiffe"]),
    ("prost-types", &["api", "front-spiffe"]),
    ("axum", &["front-grpc", "front-http"]),
    ("hyper", &["front-http"]),
    ("openraft", &["cluster"]),
    ("nix", &["front-dns", "launch"]),
    ("imbl", &["registry"]),
    ("icu_casemap", &["name"]),
    ("icu_normalizer", &["name"]),
    ("idna", &["name"]),
    ("aws-lc-rs", &["identity"]),
    ("opaque-ke", &["identity"]),
    ("rcgen", &["identity"]),
    ("rustls", &["identity"]),
    ("rustls-pki-types", &["identity"]),
    ("rustls-webpki", &["identity"]),
    ("tokio-rustls", &["identity"]),
    ("webauthn-rs", &["identity"]),
    ("x509-parser", &["identity"]),
    ("clap", &["byname"]),
    ("metrics-exporter-prometheus", &["byname"]),
    ("tracing-subscriber", &["byname", "sim"]),
];

/// What in `byname` may know the inside of a server.
const WIRING: &str = "crates/byname/src/serve/";
const INSIDE: [&str; 3] = ["byname_registry", "byname_cluster", "byname_node"];

/// Each crate knows only the crates of the table.
pub(super) fn crates(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in tree.crates() {
        let Some(manifest) = tree.file(&format!("crates/{name}/Cargo.toml")) else { continue };
        let Some((_, may, tests_may)) = MAY_KNOW.iter().find(|(known, ..)| *known == name) else {
            let what =
                format!("the crate `{name}` is not in the table of xtask/src/tidy/direction.rs: say whom it may know");
            findings.push(Finding::new(&manifest.path, 0, what));
            continue;
        };
        for dependency in dependencies(manifest, &mut findings) {
            let Some(other) = dependency.name.strip_prefix("byname-") else { continue };
            if may.contains(&other) || (dependency.for_tests && tests_may.contains(&other)) {
                continue;
            }
            let tests = if dependency.for_tests { " even in tests" } else { "" };
            let what = format!("`{name}` may not know `{other}`{tests}; it may know: {}", list(may));
            findings.push(Finding::new(&manifest.path, dependency.line, what));
        }
    }
    findings
}

/// Each protocol library is known to its crates only.
pub(super) fn libraries(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in tree.crates() {
        let Some(manifest) = tree.file(&format!("crates/{name}/Cargo.toml")) else { continue };
        // What cannot be read is told by the rule above.
        for dependency in dependencies(manifest, &mut Vec::new()) {
            let Some((_, homes)) = LIBRARIES.iter().find(|(library, _)| *library == dependency.name) else { continue };
            if !dependency.for_tests && !homes.contains(&name) {
                let what = format!("`{}` belongs to {} only", dependency.name, list(homes));
                findings.push(Finding::new(&manifest.path, dependency.line, what));
            }
        }
    }
    findings
}

/// Only `src/serve/` of `byname` names the crates inside a server.
pub(super) fn command_line(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree.code_of("byname").filter(|source| !source.file.path.starts_with(WIRING)) {
        for (line, path) in source.paths() {
            if INSIDE.iter().any(|inside| begins(&path, inside)) {
                findings.push(Finding::new(&source.file.path, line, format!("`{path}` is for {WIRING} only")));
            }
        }
    }
    findings
}

struct Dependency {
    name: String,
    line: usize,
    for_tests: bool,
}

fn dependencies(manifest: &File, findings: &mut Vec<Finding>) -> Vec<Dependency> {
    let table: toml::Table = match manifest.text.parse() {
        Ok(table) => table,
        Err(error) => {
            findings.push(Finding::new(&manifest.path, 0, format!("cannot be read: {error}")));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for (section, for_tests) in [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)] {
        let Some(entries) = table.get(section).and_then(toml::Value::as_table) else { continue };
        for name in entries.keys() {
            found.push(Dependency { line: line_of(&manifest.text, section, name), name: name.clone(), for_tests });
        }
    }
    found
}

fn line_of(text: &str, section: &str, name: &str) -> usize {
    let heading = format!("[{section}]");
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == heading;
        } else if inside && line.split(['.', ' ', '=']).next() == Some(name) {
            return at + 1;
        }
    }
    0
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none of ours".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn an_edge_that_points_up_is_found() {
        let found = findings(
            crates,
            &[
                ("crates/name/Cargo.toml", "[dependencies]\nthiserror = \"2\"\nbyname-api.workspace = true\n"),
                ("crates/client/Cargo.toml", "[dev-dependencies]\nbyname-node = { path = \"../node\" }\n"),
                ("crates/registry/Cargo.toml", "[dependencies]\nbyname-api.workspace = true\n"),
                ("crates/front-grpc/Cargo.toml", "[dev-dependencies]\nbyname-client.workspace = true\n"),
            ],
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("crates/client/Cargo.toml:2: `client` may not know `node` even in tests"),
            "{found:?}"
        );
        assert!(found[1].starts_with("crates/name/Cargo.toml:3: `name` may not know `api`"), "{found:?}");
    }

    #[test]
    fn a_dependency_of_tests_is_not_one_of_the_code() {
        let found = findings(crates, &[("crates/front-grpc/Cargo.toml", "[dependencies]\nbyname-client = \"1\"\n")]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        let found = findings(crates, &[("crates/front-gopher/Cargo.toml", "[dependencies]\n")]);
        assert!(found[0].contains("`front-gopher` is not in the table"), "{found:?}");
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_found() {
        assert_eq!(findings(crates, &[("crates/name/Cargo.toml", "[dependencies\n")]).len(), 1);
    }

    #[test]
    fn a_library_outside_its_crate_is_found() {
        let found = findings(
            libraries,
            &[
                ("crates/node/Cargo.toml", "[dependencies]\naxum.workspace = true\n"),
                ("crates/front-http/Cargo.toml", "[dependencies]\naxum.workspace = true\n"),
                ("crates/client/Cargo.toml", "[dev-dependencies]\naxum.workspace = true\n"),
            ],
        );
        assert_eq!(found, ["crates/node/Cargo.toml:2: `axum` belongs to front-grpc, front-http only"]);
    }

    #[test]
    fn a_command_that_knows_a_server_inside_is_found() {
        let code = "use byname_api::Code;\nuse byname_node::Node;\n";
        let found = findings(
            command_line,
            &[("crates/byname/src/serve/mod.rs", code), ("crates/byname/src/commands/find.rs", code)],
        );
        assert_eq!(
            found,
            ["crates/byname/src/commands/find.rs:2: `byname_node::Node` is for crates/byname/src/serve/ only"]
        );
    }
}
