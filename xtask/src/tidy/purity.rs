//! The pure crates.

use super::Finding;
use super::source::begins;
use super::tree::Tree;

const PURE: [&str; 3] = ["name", "registry", "api"];

/// What a pure crate has no use for. Types of addresses (`std::net::IpAddr`) are plain data and fine.
const IMPURE: [(&str, &str); 19] = [
    ("tokio", "a runtime"),
    ("async_std", "a runtime"),
    ("mio", "sockets"),
    ("std::fs", "files"),
    ("std::os", "the operating system"),
    ("std::net::TcpStream", "sockets"),
    ("std::net::TcpListener", "sockets"),
    ("std::net::UdpSocket", "sockets"),
    ("std::net::ToSocketAddrs", "the resolver"),
    ("std::time::Instant", "a clock"),
    ("std::time::SystemTime", "a clock"),
    ("std::env", "the environment"),
    ("std::process", "processes"),
    ("std::thread", "threads"),
    ("rand", "randomness"),
    ("getrandom", "randomness"),
    ("jiff::tz", "the zones of the machine"),
    ("rustix", "the operating system"),
    ("nix", "the operating system"),
];

/// No files, sockets, clocks, threads or randomness in the pure crates, their tests apart.
pub(super) fn pure(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in PURE.iter().flat_map(|name| tree.code_of(name)) {
        for (line, path) in source.paths() {
            let impure = IMPURE.iter().find(|(what, _)| begins(&path, what)).map(|(_, what)| *what);
            let clock = path.ends_with("Timestamp::now") || path.ends_with("Zoned::now");
            if let Some(what) = impure.or(clock.then_some("a clock")) {
                findings.push(Finding::new(
                    &source.file.path,
                    line,
                    format!("`{path}` is {what}: let the caller bring it"),
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
    fn everything_impure_is_found_outside_of_tests() {
        for (what, _) in IMPURE {
            let code = format!("//! x\nuse {what}::x;\n#[cfg(test)]\nmod tests {{ use {what}; }}\n");
            let found = findings(pure, &[("crates/registry/src/lib.rs", &code)]);
            assert_eq!(found.len(), 1, "{what}: {found:?}");
            assert!(found[0].starts_with("crates/registry/src/lib.rs:2: "), "{found:?}");
        }
    }

    #[test]
    fn a_clock_is_found_by_its_call_and_in_a_group() {
        let code = "use std::{fmt, time::{Duration, Instant}};\nlet now = jiff::Timestamp::now();\n";
        assert_eq!(findings(pure, &[("crates/api/src/span.rs", code)]).len(), 2);
    }

    #[test]
    fn plain_data_comments_and_other_crates_are_fine() {
        let code = "// std::fs\nuse std::net::IpAddr;\nuse std::time::Duration;\nlet rand = 1;\n";
        let found = findings(pure, &[("crates/name/src/lib.rs", &code.replace("rand", "random"))]);
        assert!(found.is_empty(), "{found:?}");
        assert!(findings(pure, &[("crates/node/src/lib.rs", "use std::fs;")]).is_empty());
    }
}
