//! The files of the repository: what git has or would take, or, without git, what lies in the folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::source::Source;

/// Folders that a walk without git leaves out.
const NOT_OURS: [&str; 3] = [".git", "target", "__pycache__"];

/// The files, by their path from the root with `/` between the parts.
pub(crate) struct Tree {
    files: BTreeMap<String, File>,
}

/// A file with its text; empty when it is not UTF-8.
pub(crate) struct File {
    /// From the root.
    pub(crate) path: String,
    /// The content.
    pub(crate) text: String,
}

impl Tree {
    /// Reads the files under `root`.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Tree> {
        let paths = match from_git(root) {
            Some(paths) => paths,
            None => walk(root, "").context("cannot walk the repository")?,
        };
        let mut files = BTreeMap::new();
        for path in paths {
            // One that was removed and not committed yet is gone.
            let Ok(bytes) = std::fs::read(root.join(&path)) else { continue };
            let text = String::from_utf8(bytes).unwrap_or_default();
            files.insert(path.clone(), File { path, text });
        }
        anyhow::ensure!(files.contains_key("Cargo.toml"), "{} is not the repository", root.display());
        Ok(Tree { files })
    }

    /// Made-up files, for the tests of the rules.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| {
            ((*path).to_owned(), File { path: (*path).to_owned(), text: (*text).to_owned() })
        };
        Tree { files: files.iter().map(file).collect() }
    }

    /// All files, sorted by path.
    pub(crate) fn files(&self) -> Vec<&File> {
        self.files.values().collect()
    }

    /// One file.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// The files with this ending, `.rs` for example.
    pub(crate) fn ending(&self, ending: &str) -> impl Iterator<Item = &File> {
        self.files.values().filter(move |file| file.path.ends_with(ending))
    }

    /// Whether a file or a folder has this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        path.is_empty() || self.files.contains_key(path) || self.files.keys().any(|file| file.starts_with(&inside))
    }

    /// The names of the crates under `crates/`.
    pub(crate) fn crates(&self) -> Vec<&str> {
        let names = self.files.keys().filter_map(|path| path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"));
        names.filter(|name| !name.contains('/')).collect()
    }

    /// The Rust files of a crate that are not tests, examples or build scripts.
    pub(crate) fn code_of<'a>(&'a self, name: &str) -> impl Iterator<Item = Source<'a>> {
        let folder = format!("crates/{name}/src/");
        self.ending(".rs").filter(move |file| file.path.starts_with(&folder)).map(Source::new)
    }
}

/// What git tracks, and what it would take: a new file is checked before it is added.
fn from_git(root: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(listed.stdout).ok()?;
    let paths: Vec<String> = text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    (!paths.is_empty()).then_some(paths)
}

fn walk(root: &Path, under: &str) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(under))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if under.is_empty() { name.clone() } else { format!("{under}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) {
            found.append(&mut walk(root, &path)?);
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_finds_what_git_finds_and_more() {
        let root = crate::root();
        let walked = walk(root, "").unwrap();
        for path in ["Cargo.toml", "xtask/src/main.rs", "crates/name/src/lib.rs"] {
            assert!(walked.iter().any(|found| found == path), "{path}");
        }
        assert!(!walked.iter().any(|path| path.starts_with("target/")));
        if let Some(listed) = from_git(root) {
            assert!(listed.iter().any(|path| path == "crates/name/src/lib.rs"));
        }
    }

    #[test]
    fn a_folder_is_there_when_a_file_in_it_is() {
        let tree = Tree::of(&[("a/b/c.rs", "")]);
        assert!(tree.has("a") && tree.has("a/b/") && tree.has("a/b/c.rs"));
        assert!(!tree.has("a/b/c") && !tree.has("b"));
    }
}
