//! The edges that only one crate has: processes and the environment.

use super::Finding;
use super::source::begins;
use super::tree::Tree;

/// The crates of the tests start servers, programs and themselves; they are part of no program.
const FOR_TESTS: [&str; 3] = ["hosts", "sim", "testkit"];

/// Ways to a new process.
const SPAWNS: [&str; 8] = [
    "std::process::Command",
    "tokio::process",
    "nix::unistd::fork",
    "nix::unistd::execve",
    "nix::spawn",
    "rustix::runtime",
    "libc::fork",
    "libc::posix_spawn",
];
/// Calls that are told by their last word.
const SPAWN_CALLS: [&str; 5] = ["fork", "vfork", "posix_spawn", "execve", "execvp"];

/// The one file that reads variables, and what the rest of `byname` may take from the process.
const READER: &str = "crates/byname/src/environment.rs";
const NOT_VARIABLES: [&str; 3] = ["std::env::args_os", "std::env::current_dir", "std::env::args"];

/// Only `launch` starts processes.
pub(super) fn spawning(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree
        .crates()
        .iter()
        .filter(|name| **name != "launch" && !FOR_TESTS.contains(*name))
        .flat_map(|name| tree.code_of(name))
    {
        for (line, path) in source.paths() {
            let call = path.rsplit("::").next().is_some_and(|last| SPAWN_CALLS.contains(&last));
            if call || SPAWNS.iter().any(|way| begins(&path, way)) {
                findings.push(Finding::new(&source.file.path, line, format!("`{path}` starts a process")));
            }
        }
    }
    findings
}

/// Only one file of `byname` reads environment variables.
pub(super) fn environment(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in tree.crates().into_iter().filter(|name| !FOR_TESTS.contains(name)) {
        for source in tree.code_of(name).filter(|source| source.file.path != READER) {
            for (line, path) in source.paths().into_iter().filter(|(_, path)| begins(path, "std::env")) {
                if name == "byname" && NOT_VARIABLES.contains(&path.as_str()) {
                    continue;
                }
                findings.push(Finding::new(
                    &source.file.path,
                    line,
                    format!("`{path}` reads the environment: only {READER} does"),
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

    const MANIFESTS: [(&str, &str); 4] = [
        ("crates/node/Cargo.toml", ""),
        ("crates/launch/Cargo.toml", ""),
        ("crates/byname/Cargo.toml", ""),
        ("crates/testkit/Cargo.toml", ""),
    ];

    fn found(check: fn(&Tree) -> Vec<Finding>, path: &str, code: &str) -> usize {
        let mut files = MANIFESTS.to_vec();
        files.push((path, code));
        findings(check, &files).len()
    }

    #[test]
    fn a_process_started_elsewhere_is_found() {
        for code in [
            "use tokio::process::Command;",
            "std::process::Command::new(x);",
            "unsafe { fork() };",
            "use std::{io, process::Command};",
        ] {
            assert_eq!(found(spawning, "crates/node/src/a.rs", code), 1, "{code}");
            assert_eq!(found(spawning, "crates/launch/src/a.rs", code), 0, "{code}");
        }
        assert_eq!(found(spawning, "crates/node/src/a.rs", "use std::process::ExitCode; Command::Order(x)"), 0);
        assert_eq!(found(spawning, "crates/node/tests/a.rs", "use std::process::Command;"), 0);
    }

    #[test]
    fn a_variable_read_elsewhere_is_found() {
        assert_eq!(found(environment, "crates/node/src/a.rs", "std::env::var(x);"), 1);
        assert_eq!(found(environment, "crates/launch/src/a.rs", "use std::env;"), 1);
        assert_eq!(found(environment, "crates/launch/src/a.rs", "std::env::temp_dir();"), 1);
        assert_eq!(found(environment, "crates/byname/src/reach.rs", "std::env::var_os(x);"), 1);
        assert_eq!(found(environment, "crates/byname/src/reach.rs", "std::env::current_dir();"), 0);
        assert_eq!(found(environment, READER, "std::env::var_os(x);"), 0);
        assert_eq!(found(environment, "crates/node/src/a.rs", "env!(\"CARGO_PKG_VERSION\")"), 0);
    }
}
