//! `validate`: checks files without a server.

use std::path::{Path, PathBuf};

use byname_api::request::Problem;
use byname_api::{Code, Error};
use byname_name::Name;

use crate::failure::{Failure, Mistake, Outcome};
use crate::reach::ClientConfig;
use crate::screen::{Format, Screen};
use crate::serve::{AgentFile, ServerFile};
use crate::tree_files;

/// What a path holds, told by its place: the configuration of a host is known by its names.
enum Holds {
    Tree,
    Catalogue,
    ClientConfig,
    ServerConfig,
    AgentConfig,
}

/// Checks paths and prints `ok` or fails with every mistake.
pub(crate) fn run(screen: &mut Screen, paths: &[PathBuf], context: &Name) -> Outcome {
    let (mut trees, mut mistakes, mut checked) = (Vec::new(), Vec::new(), 0);
    for path in with_parts(paths) {
        checked += 1;
        match holds(&path) {
            Holds::Tree => trees.push(path),
            Holds::Catalogue => mistakes.extend(catalogue(&path)),
            Holds::ClientConfig => mistakes.extend(config::<ClientConfig>(&path)?),
            Holds::ServerConfig => mistakes.extend(config::<ServerFile>(&path)?),
            Holds::AgentConfig => mistakes.extend(config::<AgentFile>(&path)?),
        }
    }
    match tree_files::read(&trees, context) {
        Ok(_) => {}
        Err(Failure::Files(mut found)) => mistakes.append(&mut found),
        Err(other) => return Err(other),
    }
    if !mistakes.is_empty() {
        return Err(Failure::Files(mistakes));
    }
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "ok": true, "checked": checked }))?,
        Format::Table | Format::Name => screen.line("ok")?,
    }
    Ok(())
}

/// A folder that holds a `programs.d` (a host's configuration) stands for that and its own files.
fn with_parts(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut parts = Vec::new();
    for path in paths {
        let catalogue = path.join("programs.d");
        if !catalogue.is_dir() {
            parts.push(path.clone());
            continue;
        }
        parts.push(catalogue);
        // A host's folder may hold nothing else.
        parts.extend(tree_files::expand(std::slice::from_ref(path)).unwrap_or_default());
    }
    parts
}

fn holds(path: &Path) -> Holds {
    let is = |name: &str| path.file_name().is_some_and(|n| n == name);
    let beneath = path.parent().and_then(Path::file_name).is_some_and(|n| n == "programs.d");
    if is("programs.d") || beneath {
        Holds::Catalogue
    } else if is("client.toml") {
        Holds::ClientConfig
    } else if is("server.toml") {
        Holds::ServerConfig
    } else if is("agent.toml") {
        Holds::AgentConfig
    } else {
        Holds::Tree
    }
}

fn catalogue(path: &Path) -> Vec<Mistake> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    byname_launch::check_catalogue(&[folder.to_owned()])
        .into_iter()
        .filter(|p| path.is_dir() || p.file == path)
        .map(|p| mistake(&p.file, p.line, p.column, p.message))
        .collect()
}

/// Reads a file as the command that uses it does.
fn config<T: serde::de::DeserializeOwned>(path: &Path) -> Outcome<Option<Mistake>> {
    let (bytes, _) = tree_files::open(path)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(toml::from_str::<T>(&text).err().map(|e| {
        let before = e.span().and_then(|s| text.get(..s.start)).unwrap_or_default();
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count());
        mistake(path, before.matches('\n').count() + 1, column + 1, e.message().to_owned())
    }))
}

fn mistake(file: &Path, line: usize, column: usize, message: String) -> Mistake {
    let problem = Problem::from(&Error::new(Code::InvalidArgument, message));
    Mistake { file: file.to_owned(), line, column, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[PathBuf]) -> (String, Outcome) {
        let (mut screen, out, _) = Screen::captured(Format::Table, false);
        let outcome = run(&mut screen, paths, &Name::root());
        (out.take(), outcome)
    }

    #[test]
    fn good_files_are_ok_and_bad_ones_are_told_with_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tree.toml");
        std::fs::write(&file, "['/a']\n").unwrap();
        let (out, outcome) = check(&[dir.path().to_owned()]);
        assert_eq!(out, "ok\n");
        outcome.unwrap();
        std::fs::write(dir.path().join("client.toml"), "\n server = 7\n").unwrap();
        std::fs::write(&file, "['/a']\nkind = 1\n").unwrap();
        let (out, outcome) = check(&[dir.path().join("client.toml"), file.clone()]);
        let Err(Failure::Files(mistakes)) = outcome else { panic!("accepted") };
        assert_eq!(out, "");
        let places: Vec<_> = mistakes.iter().map(|m| (m.line, m.column)).collect();
        assert_eq!(places, [(2, 11), (2, 8)]);
    }

    #[test]
    fn the_example_is_good() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bvods");
        let (out, outcome) = check(&[example]);
        outcome.unwrap();
        assert_eq!(out, "ok\n");
    }

    #[test]
    fn a_host_s_folder_is_its_catalogue_and_its_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("programs.d")).unwrap();
        std::fs::write(dir.path().join("programs.d/x.toml"), "not toml").unwrap();
        std::fs::write(dir.path().join("client.toml"), "servr = 'x'").unwrap();
        let (_, outcome) = check(&[dir.path().to_owned()]);
        let Err(Failure::Files(mistakes)) = outcome else { panic!("accepted") };
        let files: Vec<_> = mistakes.iter().map(|m| m.file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(files, ["x.toml", "client.toml"]);
    }
}
