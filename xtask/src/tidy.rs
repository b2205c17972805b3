//! `tidy`: the rules of this repository, as checks. Each rule is one function from the files to its findings, with a
//! test that shows it a made-up tree which breaks it, so that no rule can pass because it looks at nothing.

mod data;
mod direction;
mod documents;
mod edges;
mod errors;
mod form;
mod names;
mod publishing;
mod purity;
mod source;
mod stored;
mod tree;

use std::fmt;
use std::path::Path;

use tree::Tree;

/// A rule: what it is called, what it is good for, and the check.
struct Rule {
    name: &'static str,
    why: &'static str,
    check: fn(&Tree) -> Vec<Finding>,
}

/// A place where a rule is broken.
#[derive(Debug)]
struct Finding {
    file: String,
    /// From 1; 0 when the whole file is meant.
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: impl Into<String>, line: usize, what: impl Into<String>) -> Finding {
        Finding { file: file.into(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

/// Every rule, in the order in which CONTRIBUTING.md explains them.
const RULES: &[Rule] = &[
    Rule {
        name: "dependencies point one way",
        why: "a crate that sees only what is below it can be read, tested and replaced alone",
        check: direction::crates,
    },
    Rule {
        name: "each protocol library has its crates",
        why: "only the crate at an edge knows that edge's library, so another protocol is another crate and no rewrite",
        check: direction::libraries,
    },
    Rule {
        name: "the command line knows no server inside",
        why: "what the command line can do, any client can do; only src/serve wires a server together",
        check: direction::command_line,
    },
    Rule {
        name: "pure crates do no I/O",
        why: "without files, sockets, clocks and randomness the same input gives the same result on every server and in every test",
        check: purity::pure,
    },
    Rule {
        name: "only launch starts processes",
        why: "what may run on a host is decided in one place; a second one would be a way around the host's policy",
        check: edges::spawning,
    },
    Rule {
        name: "only byname reads the environment",
        why: "what a process was told is in one struct, so a library does the same wherever it runs",
        check: edges::environment,
    },
    Rule {
        name: "each crate writes its own part of the data directory",
        why: "a file has one owner, so its format can change and its damage be explained in one place",
        check: data::folders,
    },
    Rule {
        name: "stored forms stand apart",
        why: "a domain type may change freely only if no file on a disk depends on its shape",
        check: stored::apart,
    },
    Rule {
        name: "stored formats keep their past",
        why: "what was written once must be read for ever",
        check: stored::versions,
    },
    Rule {
        name: "no crate or module for odds and ends",
        why: "a place without a subject grows into one that everything depends on",
        check: names::subjects,
    },
    Rule {
        name: "paths in documents exist",
        why: "a document that names what is not there is not believed when it is right",
        check: documents::paths,
    },
    Rule {
        name: "every error code has its page",
        why: "a code is what a person searches for; the page says what to do, with the statuses that are really sent",
        check: errors::pages,
    },
    Rule {
        name: "every crate is on the map",
        why: "the first file that a newcomer reads must show everything that is there",
        check: documents::map,
    },
    Rule {
        name: "files can be read in one sitting",
        why: "beyond 900 lines nobody holds a file in mind; split it by subject",
        check: form::length,
    },
    Rule {
        name: "files say what they are",
        why: "the first lines tell a reader whether this is the right place",
        check: form::heads,
    },
    Rule {
        name: "nothing is left over",
        why: "a note to oneself is either done or in the CHANGELOG's list of what is missing",
        check: form::leftovers,
    },
    Rule {
        name: "manifests agree",
        why: "one licence, edition, compiler and set of lints for all crates",
        check: publishing::manifests,
    },
    Rule {
        name: "nothing of anybody's machine",
        why: "a clone must work anywhere, so no file may know the machine that it was written on",
        check: publishing::machines,
    },
];

/// Checks everything; false when a rule is broken.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let tree = Tree::load(root)?;
    let mut broken = 0;
    for rule in RULES {
        let findings = (rule.check)(&tree);
        if findings.is_empty() {
            println!("ok    {}", rule.name);
            continue;
        }
        broken += 1;
        println!("FAIL  {}", rule.name);
        for finding in &findings {
            println!("      {finding}");
        }
        println!("      why: {}", rule.why);
    }
    match broken {
        0 => println!("tidy: {} rules hold over {} files", RULES.len(), tree.files().len()),
        1 => println!("tidy: 1 of {} rules is broken", RULES.len()),
        n => println!("tidy: {n} of {} rules are broken", RULES.len()),
    }
    Ok(broken == 0)
}

/// The rules in words.
pub(crate) fn print_rules() {
    for rule in RULES {
        println!("{}:\n  {}", rule.name, rule.why);
    }
}

/// Runs a check on made-up files and gives the findings as text, for the tests of the rules.
#[cfg(test)]
fn findings(check: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)]) -> Vec<String> {
    check(&Tree::of(files)).iter().map(Finding::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contributing_explains_every_rule() {
        let tree = Tree::load(crate::root()).unwrap();
        let text = &tree.file("CONTRIBUTING.md").unwrap().text;
        for rule in RULES {
            assert!(text.contains(rule.name), "CONTRIBUTING.md lacks `{}`", rule.name);
        }
    }

    #[test]
    fn a_finding_shows_its_place() {
        assert_eq!(Finding::new("a.rs", 3, "x").to_string(), "a.rs:3: x");
        assert_eq!(Finding::new("a.rs", 0, "x").to_string(), "a.rs: x");
    }
}
