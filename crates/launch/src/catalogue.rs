//! The host's own catalogue of programs: what its owner lets run here, whatever a name server asks for.
//!
//! Every `*.toml` file of a `programs.d` folder holds tables, one a program:
//!
//! ```toml
//! [query-server]
//! description = "Answers questions about films"
//! command     = ["/usr/lib/bvods/query-server"]  # the program and the arguments that always come first
//! args        = ["--quiet"]                      # more of them
//! allow_args  = ["--db", "/var/lib/bvods/*"]     # true (the default), false, or patterns for each argument added
//! allow_env   = ["BVODS_*"]                      # the same for the names of environment variables
//! env         = { LANG = "C.UTF-8" }
//! user        = "bvods"                          # then nobody can ask for another
//! directory   = "/var/lib/bvods"                 # likewise
//! limits      = { memory = "512M", files = 100 } # upper bounds: the smaller of these and those asked for
//! names       = ["/BVODS/**"]                    # names that may use it; every name when unsaid
//! ```
//!
//! Arguments are allowed unless the owner says otherwise, because most programs take their work from them; an entry for
//! an interpreter, or for anything else that its arguments could turn into another program, should say `false` or give
//! patterns. Variables that change which code a program loads (`LD_PRELOAD` and the like) are never allowed by `true`,
//! only by a pattern that matches them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::path::{Path, PathBuf};

use byname_api::launch::Limits;
use byname_api::{Code, Error};
use byname_name::{Name, Pattern};
use serde::Deserialize;
use toml::Spanned;

/// What is wrong in a catalogue, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub file: PathBuf,
    /// The line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// The column in characters, from 1; 0 when the whole file is meant.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
        } else {
            write!(f, "{}: {}", self.file.display(), self.message)
        }
    }
}

impl std::error::Error for Problem {}

/// Reads the catalogue in these folders and says what is wrong with it; nothing when it is good. A folder that does
/// not exist is an empty one.
pub fn check_catalogue(folders: &[PathBuf]) -> Vec<Problem> {
    Catalogue::load(folders).err().unwrap_or_default()
}

/// The programs that may run here.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    folders: Vec<PathBuf>,
    entries: BTreeMap<String, Entry>,
}

/// One program.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) command: Vec<String>,
    allow_args: Allow,
    allow_env: Allow,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) user: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) directory: Option<String>,
    names: Vec<Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default, rename = "description")]
    _description: Option<String>,
    command: Spanned<Vec<String>>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    allow_args: Allow,
    #[serde(default)]
    allow_env: Allow,
    #[serde(default)]
    env: BTreeMap<String, String>,
    user: Option<String>,
    #[serde(default)]
    limits: Limits,
    directory: Option<Spanned<String>>,
    #[serde(default)]
    names: Vec<Spanned<String>>,
}

/// What may be added to an entry by those who ask for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "true, false or a list of patterns")]
enum Allow {
    All(bool),
    Patterns(Vec<String>),
}

impl Default for Allow {
    fn default() -> Self {
        Allow::All(true)
    }
}

impl Allow {
    fn allows(&self, text: &str) -> bool {
        match self {
            Allow::All(all) => *all,
            Allow::Patterns(patterns) => patterns.iter().any(|pattern| fits(pattern, text)),
        }
    }
}

impl Catalogue {
    /// Reads all files, in the order of their names; the folders in the order given.
    pub(crate) fn load(folders: &[PathBuf]) -> Result<Catalogue, Vec<Problem>> {
        let mut catalogue = Catalogue { folders: folders.to_vec(), entries: BTreeMap::new() };
        let mut problems = Vec::new();
        for folder in folders {
            let whole = |file: &Path, error: std::io::Error| Problem {
                file: file.to_owned(),
                line: 0,
                column: 0,
                message: format!("cannot be read: {error}"),
            };
            let mut files = match std::fs::read_dir(folder) {
                Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect::<Vec<_>>(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    problems.push(whole(folder, error));
                    continue;
                }
            };
            files.retain(|file| {
                file.extension().is_some_and(|e| e == "toml")
                    && file.file_name().is_some_and(|n| !n.as_encoded_bytes().starts_with(b"."))
            });
            files.sort();
            for file in files {
                match std::fs::read_to_string(&file) {
                    Ok(text) => catalogue.read(&file, &text, &mut problems),
                    Err(error) => problems.push(whole(&file, error)),
                }
            }
        }
        if problems.is_empty() { Ok(catalogue) } else { Err(problems) }
    }

    /// Whether there is a program of this name.
    pub(crate) fn has(&self, program: &str) -> bool {
        self.entries.contains_key(program)
    }

    fn read(&mut self, file: &Path, text: &str, problems: &mut Vec<Problem>) {
        let at = |offset: usize, message: String| {
            let before = text.get(..offset).unwrap_or(text);
            Problem {
                file: file.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
                message,
            }
        };
        let tables: BTreeMap<Spanned<String>, Stored> = match toml::from_str(text) {
            Ok(tables) => tables,
            Err(error) => {
                problems.push(at(error.span().map_or(0, |s| s.start), error.message().to_owned()));
                return;
            }
        };
        for (name, stored) in tables {
            let start = name.span().start;
            let name = name.into_inner();
            if stored.command.get_ref().first().is_none_or(|program| program.is_empty()) {
                let message = format!("`{name}`: `command` is empty: give the program, then its arguments");
                problems.push(at(stored.command.span().start, message));
                continue;
            }
            if let Some(folder) = stored.directory.as_ref().filter(|d| !d.get_ref().starts_with('/')) {
                let message = format!("`{name}`: `directory` must begin with `/`");
                problems.push(at(folder.span().start, message));
                continue;
            }
            let mut names = Vec::new();
            for pattern in stored.names {
                match Pattern::parse(pattern.get_ref()) {
                    Ok(good) => names.push(good),
                    Err(error) => problems.push(at(pattern.span().start, format!("`{name}`: {error}"))),
                }
            }
            let mut command = stored.command.into_inner();
            command.extend(stored.args);
            let entry = Entry {
                command,
                allow_args: stored.allow_args,
                allow_env: stored.allow_env,
                env: stored.env,
                user: stored.user,
                limits: stored.limits,
                directory: stored.directory.map(Spanned::into_inner),
                names,
            };
            match self.entries.entry(name) {
                Slot::Vacant(slot) => {
                    slot.insert(entry);
                }
                Slot::Occupied(slot) => problems.push(at(start, format!("`{}` is in the catalogue twice", slot.key()))),
            }
        }
    }

    /// The entry that `name` asks for, if it may.
    pub(crate) fn entry(&self, program: &str, name: &Name, computer: &str) -> Result<&Entry, Error> {
        let Some(entry) = self.entries.get(program) else {
            return Err(denied(
                "launch.program",
                format!(
                    "`{}` is not in the catalogue of `{computer}`: its owner lists what may run there in {}",
                    program.escape_debug(),
                    self.place()
                ),
            ));
        };
        if !entry.names.is_empty() && !entry.names.iter().any(|pattern| pattern.matches(name)) {
            let message = format!("the catalogue of `{computer}` keeps `{program}` for other names than {name}");
            return Err(denied("launch.program", message));
        }
        Ok(entry)
    }

    /// Where the catalogue is, for messages.
    pub(crate) fn place(&self) -> String {
        match self.folders.as_slice() {
            [] => "no folder (none is configured)".into(),
            folders => folders.iter().map(|f| f.join("*.toml").display().to_string()).collect::<Vec<_>>().join(", "),
        }
    }
}

impl Entry {
    /// Whether this argument may be added.
    pub(crate) fn check_arg(&self, program: &str, arg: &str) -> Result<(), Error> {
        if self.allow_args.allows(arg) {
            return Ok(());
        }
        let message =
            format!("the host's catalogue does not let `{program}` have the argument `{}`", arg.escape_debug());
        Err(denied("launch.args", message))
    }

    /// Whether this environment variable may be set.
    pub(crate) fn check_env(&self, program: &str, key: &str) -> Result<(), Error> {
        let everything = matches!(self.allow_env, Allow::All(_));
        if self.allow_env.allows(key) && !(everything && loads_code(key)) {
            return Ok(());
        }
        let message =
            format!("the host's catalogue does not let `{program}` have the variable `{}`", key.escape_debug());
        Err(denied(&format!("launch.env.{key}"), message))
    }
}

/// A refusal by the host's policy.
pub(crate) fn denied(field: &str, message: String) -> Error {
    Error::new(Code::Denied, message).field(field)
}

/// Variables that make a program run code of somebody else's choice.
fn loads_code(key: &str) -> bool {
    key.starts_with("LD_")
        || key.starts_with("BASH_FUNC_")
        || matches!(
            key,
            "PATH"
                | "ENV"
                | "BASH_ENV"
                | "IFS"
                | "SHELLOPTS"
                | "GCONV_PATH"
                | "GLIBC_TUNABLES"
                | "LOCPATH"
                | "NLSPATH"
                | "PYTHONPATH"
                | "PYTHONHOME"
                | "PYTHONSTARTUP"
                | "PERL5LIB"
                | "PERL5OPT"
                | "RUBYLIB"
                | "RUBYOPT"
                | "NODE_OPTIONS"
                | "NODE_PATH"
                | "JAVA_TOOL_OPTIONS"
                | "_JAVA_OPTIONS"
                | "CLASSPATH"
                | "TCLLIBPATH"
        )
}

/// Shell-like patterns with `*` and `?` over whole texts.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // Let the last star take one character more.
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Catalogue, Vec<String>> {
        let mut catalogue = Catalogue::default();
        let mut problems = Vec::new();
        catalogue.read(Path::new("p.toml"), text, &mut problems);
        if problems.is_empty() { Ok(catalogue) } else { Err(problems.iter().map(Problem::to_string).collect()) }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn an_entry_says_who_may_use_it_and_how() {
        let catalogue = load(
            r#"[qs]
               command = ["/bin/qs", "--fixed"]
               args = ["--too"]
               allow_args = ["--db", "/var/lib/*.db"]
               names = ["/BVODS/**"]
               limits = { memory = "1M" }"#,
        )
        .unwrap();
        let entry = catalogue.entry("qs", &name("/BVODS/QS"), "host").unwrap();
        assert_eq!(entry.command, ["/bin/qs", "--fixed", "--too"]);
        assert!(entry.check_arg("qs", "/var/lib/x.db").is_ok());
        assert_eq!(entry.check_arg("qs", "--exec=rm").unwrap_err().code(), Code::Denied);
        assert!(entry.check_env("qs", "QS_LEVEL").is_ok());
        assert_eq!(entry.check_env("qs", "LD_PRELOAD").unwrap_err().code(), Code::Denied);
        assert_eq!(catalogue.entry("qs", &name("/CMS/Host1"), "host").unwrap_err().code(), Code::Denied);
        let error = catalogue.entry("rm", &name("/BVODS/QS"), "bugs").unwrap_err();
        assert!(error.message().contains("`rm`") && error.message().contains("`bugs`"), "{error}");
    }

    #[test]
    fn a_problem_has_its_place() {
        let check = |text: &str, place: &str| {
            let problems = load(text).unwrap_err();
            assert!(problems[0].starts_with(place), "{problems:?}");
        };
        check("[qs]\ncommand = [\"a\"\n[x]\n", "p.toml:3:");
        check("[qs]\ncommand = [\"a\"]\ncomand = 1\n", "p.toml:3:1: ");
        check("[qs]\n  command = []\n", "p.toml:2:13: ");
        check("[qs]\ncommand = ['a']\nnames = ['/a', '//']\n", "p.toml:3:16: ");
        check("[qs]\ncommand = ['a']\nlimits = { memory = '7 apples' }\n", "p.toml:3:");
        check("[qs]\ncommand = 'a'\n", "p.toml:2:11: ");
        check("[qs]\n", "p.toml:1:");
    }

    #[test]
    fn patterns_fit_whole_texts() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbcd", false),
            ("a?c", "abc", true),
            ("*.db", "x.db.db", true),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern, text), expect, "{pattern} {text}");
        }
    }
}
