//! What a clone takes along: licence and settings, and nothing of the machine that it was written on.

use super::Finding;
use super::tree::Tree;

const LICENCE: &str = "Apache-2.0";
/// What each crate takes from the workspace.
const SHARED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];
/// Crates here stand in for others and have those's versions.
const STAND_INS: &str = "patches/";
/// The only place that locked packages may come from.
const REGISTRY: &str = concat!("registry+https://github.com/rust-lang/", "crates", ".io-index");

/// Every manifest has the licence, the settings and the lints of the workspace.
pub(super) fn manifests(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !tree
        .file("LICENSE")
        .is_some_and(|file| file.text.contains("Apache License") && file.text.contains("Version 2.0"))
    {
        findings.push(Finding::new("LICENSE", 0, "is not the text of the Apache License, Version 2.0"));
    }
    for file in tree.files().into_iter().filter(|file| file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml"))
    {
        let table: toml::Table = match file.text.parse() {
            Ok(table) => table,
            Err(error) => {
                findings.push(Finding::new(&file.path, 0, format!("cannot be read: {error}")));
                continue;
            }
        };
        let mut check = |good: bool, what: String| {
            if !good {
                findings.push(Finding::new(&file.path, 0, what));
            }
        };
        if let Some(workspace) = table.get("workspace") {
            let licence = workspace.get("package").and_then(|p| p.get("license")).and_then(toml::Value::as_str);
            check(licence == Some(LICENCE), format!("the workspace's licence is not `{LICENCE}`"));
        }
        let Some(package) = table.get("package") else { continue };
        let stands_in = file.path.starts_with(STAND_INS);
        for key in SHARED.into_iter().filter(|key| !(stands_in && *key == "version")) {
            let shared = package.get(key).and_then(|v| v.get("workspace")).and_then(toml::Value::as_bool);
            check(shared == Some(true), format!("lacks `{key}.workspace = true`"));
        }
        let described = package.get("description").and_then(toml::Value::as_str).is_some_and(|text| !text.is_empty());
        check(described, "lacks a `description`".into());
        let lints = table.get("lints").and_then(|v| v.get("workspace")).and_then(toml::Value::as_bool);
        check(lints == Some(true), "lacks `[lints] workspace = true`".into());
    }
    findings
}

/// No file knows a folder, a host or a mirror of somebody's machine.
pub(super) fn machines(tree: &Tree) -> Vec<Finding> {
    // Put together here, so that this file does not find itself.
    let folders =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home/", "user/"), concat!("/tmp/", "target")];
    let hosts = [
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("files.python", "hosted.org"),
        concat!("pypi", ".org"),
        concat!("registry.npm", "js.org"),
        concat!("proxy.golang", ".org"),
        concat!("deb.debian", ".org"),
    ];
    let mut findings = Vec::new();
    for file in tree.files() {
        if file.path == "Cargo.lock" || file.path.ends_with("/Cargo.lock") {
            for (at, line) in file.text.lines().enumerate() {
                let source = line.strip_prefix("source = ").map(|text| text.trim_matches('"'));
                if let Some(source) = source.filter(|source| *source != REGISTRY) {
                    findings.push(Finding::new(&file.path, at + 1, format!("a package comes from `{source}`")));
                }
            }
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            for found in folders.iter().chain(&hosts).filter(|text| line.contains(**text)) {
                findings.push(Finding::new(&file.path, at + 1, format!("`{found}` is of somebody's machine")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
        description = \"d\"\n[lints]\nworkspace = true\n";
    const LICENSE: (&str, &str) = ("LICENSE", "Apache License\nVersion 2.0");

    #[test]
    fn a_manifest_that_lacks_something_is_found() {
        assert!(findings(manifests, &[LICENSE, ("crates/a/Cargo.toml", GOOD)]).is_empty());
        for lacking in ["license.workspace = true\n", "description = \"d\"\n", "[lints]\nworkspace = true\n"] {
            let text = GOOD.replace(lacking, "");
            assert_eq!(findings(manifests, &[LICENSE, ("crates/a/Cargo.toml", &text)]).len(), 1, "{lacking}");
        }
        assert_eq!(
            findings(manifests, &[LICENSE, ("Cargo.toml", "[workspace.package]\nlicense = \"MIT\"\n")]).len(),
            1
        );
        assert_eq!(findings(manifests, &[]).len(), 1);
    }

    #[test]
    fn something_of_a_machine_is_found() {
        for text in [concat!("cd /wo", "rk/x"), concat!("https://pypi", ".org/simple")] {
            assert_eq!(findings(machines, &[("a.md", text)]).len(), 1, "{text}");
        }
        assert!(findings(machines, &[("a.md", "/var/lib/byname and framework/x")]).is_empty());
    }

    #[test]
    fn a_lock_file_of_a_mirror_is_found() {
        let lock = format!("source = \"{REGISTRY}\"\nsource = \"sparse+http://mirror/\"\n");
        assert_eq!(findings(machines, &[("Cargo.lock", &lock)]).len(), 1);
    }
}
