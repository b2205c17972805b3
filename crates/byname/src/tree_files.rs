//! Declarative files (DESIGN section 3): TOML tables whose key is a name and whose content is a declaration.
//!
//! Every mistake has its file, line, column and field, and all mistakes of all files are told at once.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use byname_api::access::Subject;
use byname_api::launch::EnvValue;
use byname_api::object::{MAX_VALUE_BYTES, Spec};
use byname_api::request::Problem;
use byname_api::{Code, Error};
use byname_name::{Name, NameKey};

use crate::failure::{Failure, Mistake, Outcome};
use crate::prompt;

/// One table of a file.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    /// The name, absolute.
    pub name: Name,
    /// What is declared, with `./x` made absolute.
    pub spec: Spec,
    /// The file; `-` for standard input.
    pub file: PathBuf,
    /// The line of the table's heading.
    pub line: usize,
    /// The column of the table's name.
    pub column: usize,
}

impl Declared {
    /// A mistake of this table that is found later.
    pub(crate) fn mistake(&self, error: &Error) -> Mistake {
        Mistake { file: self.file.clone(), line: self.line, column: self.column, problem: Problem::from(error) }
    }
}

/// Reads files and folders in the order given; a folder stands for its `*.toml` files in the order of their names.
/// `-` is standard input. Relative names are read against `context`.
///
/// # Errors
///
/// All mistakes of all files together, or the file that cannot be read.
pub(crate) fn read(paths: &[PathBuf], context: &Name) -> Outcome<Vec<Declared>> {
    let mut declared = Vec::new();
    let mut mistakes = Vec::new();
    for file in expand(paths)? {
        let (bytes, folder) = open(&file)?;
        let (tables, wrong) = parse(&bytes, &file, &folder, context);
        declared.extend(tables);
        mistakes.extend(wrong);
    }
    mistakes.extend(duplicates(&declared));
    if mistakes.is_empty() { Ok(declared) } else { Err(Failure::Files(mistakes)) }
}

/// The files that paths stand for.
///
/// # Errors
///
/// A path that cannot be read, or a folder without `*.toml` files.
pub(crate) fn expand(paths: &[PathBuf]) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if is_stdin(path) || !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(path).map_err(|e| unreadable(path, &e))? {
            let file = entry.map_err(|e| unreadable(path, &e))?.path();
            let hidden = file.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if !hidden && file.extension().is_some_and(|e| e == "toml") && !file.is_dir() {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(Failure::usage(format!("{} holds no *.toml files", path.display())));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// The content of a file and the folder that `./x` in it is relative to.
///
/// # Errors
///
/// The file cannot be read.
pub(crate) fn open(file: &Path) -> Outcome<(Vec<u8>, PathBuf)> {
    if is_stdin(file) {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(|e| unreadable(file, &e))?;
        return Ok((bytes, std::env::current_dir().map_err(|e| unreadable(Path::new("."), &e))?));
    }
    let bytes = fs::read(file).map_err(|e| unreadable(file, &e))?;
    let folder = fs::canonicalize(file).map_err(|e| unreadable(file, &e))?;
    Ok((bytes, folder.parent().unwrap_or(Path::new("/")).to_owned()))
}

/// Whether a path means standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// `./x` as a path in `folder`; any other text as it is.
pub(crate) fn beside(folder: &Path, text: &str) -> String {
    match text.strip_prefix("./") {
        Some(rest) => folder.join(rest.trim_start_matches('/')).to_string_lossy().into_owned(),
        None => text.to_owned(),
    }
}

/// Reads the tables of one file.
pub(crate) fn parse(bytes: &[u8], file: &Path, folder: &Path, context: &Name) -> (Vec<Declared>, Vec<Mistake>) {
    let mut source = Source { file, text: "", mistakes: Vec::new() };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            source.text = std::str::from_utf8(bytes.get(..e.valid_up_to()).unwrap_or_default()).unwrap_or_default();
            source.wrong(source.text.len(), None, "the file is not UTF-8 text from here on");
            return (Vec::new(), source.mistakes);
        }
    };
    source.text = text;
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(e) => {
            source.wrong(e.span().map_or(0, |s| s.start), None, e.message());
            return (Vec::new(), source.mistakes);
        }
    };
    let mut tables: Vec<_> = table.into_iter().collect();
    tables.sort_by_key(|(key, _)| key.span().start);
    let mut declared = Vec::new();
    for (key, value) in tables {
        let at = key.span().start;
        let name = match Name::resolve(context, key.get_ref()) {
            Ok(name) => name,
            Err(e) => {
                source.problem(at, &Error::from(e));
                continue;
            }
        };
        if !value.get_ref().is_table() {
            let message = format!("`{0}` stands outside of a table: write [\"/NAME\"] in front of it", key.get_ref());
            source.wrong(at, None, &message);
            continue;
        }
        if let Some(spec) = source.spec(value, folder, context) {
            let (line, column) = source.position(at);
            declared.push(Declared { name, spec, file: file.to_owned(), line, column });
        }
    }
    (declared, source.mistakes)
}

/// A file that is being read.
struct Source<'t> {
    file: &'t Path,
    text: &'t str,
    mistakes: Vec<Mistake>,
}

impl Source<'_> {
    /// The declaration in a table, or mistakes.
    fn spec(&mut self, value: Spanned<DeValue<'_>>, folder: &Path, context: &Name) -> Option<Spec> {
        let known = self.mistakes.len();
        let mut local = value.clone();
        if let DeValue::Table(table) = local.get_mut() {
            self.value_of_file(table, folder);
            if let Some(target) = table.get_mut("target") {
                self.absolute(target, context, "target");
            }
            if let Some(DeValue::Array(entries)) = table.get_mut("acl").map(Spanned::get_mut) {
                for entry in entries.iter_mut() {
                    if let DeValue::Table(entry) = entry.get_mut()
                        && let Some(who) = entry.get_mut("who")
                        // The words for those who have no name.
                        && who.get_ref().as_str().is_some_and(|who| who.parse::<Subject>().is_err())
                        && !who.get_ref().as_str().is_some_and(|who| who.starts_with("uid:"))
                    {
                        self.absolute(who, context, "acl");
                    }
                }
            }
            for field in ["members", "servers"] {
                if let Some(DeValue::Array(names)) = table.get_mut(field).map(Spanned::get_mut) {
                    for name in names.iter_mut() {
                        self.absolute(name, context, field);
                    }
                }
            }
        }
        if self.mistakes.len() > known {
            return None;
        }
        let mut spec = match Spec::deserialize(ValueDeserializer::from(local)) {
            Ok(spec) => spec,
            Err(e) => {
                let at = e.span().unwrap_or_else(|| value.span()).start;
                let path = path_at(&value, at).unwrap_or_default();
                self.wrong(at, (!path.is_empty()).then(|| path.join(".")), &clearer(e.message()));
                return None;
            }
        };
        if let Some(launch) = &mut spec.launch {
            for text in launch.command.iter_mut().chain(&mut launch.args).flatten() {
                *text = beside(folder, text);
            }
            for check in launch.check.iter_mut().flatten() {
                for text in check.command.iter_mut().chain(&mut check.args).flatten() {
                    *text = beside(folder, text);
                }
            }
            for variable in launch.env.iter_mut().flat_map(|env| env.values_mut()) {
                match variable {
                    EnvValue::Text(text) => *text = beside(folder, text),
                    EnvValue::Secret { secret } => match Name::resolve(context, secret) {
                        Ok(name) => *secret = name.to_string(),
                        Err(e) => {
                            self.problem(
                                span_of(&value, "launch.env").unwrap_or_else(|| value.span()).start,
                                &Error::from(e).field("launch.env"),
                            );
                            return None;
                        }
                    },
                }
            }
            if let Some(directory) = &mut launch.directory {
                *directory = if directory == "." { folder.to_string_lossy().into() } else { beside(folder, directory) };
            }
        }
        if let Err(e) = spec.check() {
            let at = e.at_field().and_then(|field| span_of(&value, field)).unwrap_or_else(|| value.span());
            self.problem(at.start, &e);
            return None;
        }
        Some(spec)
    }

    /// Puts the content of the file that `value_file` names in the place of a value: so a secret need not stand among the
    /// rest of a tree. `./x` is relative to the file's folder.
    fn value_of_file(&mut self, table: &mut DeTable<'_>, folder: &Path) {
        let Some(path) = table.get("value_file") else { return };
        let span = path.span();
        if table.contains_key("value") {
            return self.wrong(span.start, Some("value_file".into()), "there is a `value` already");
        }
        let Some(text) = path.get_ref().as_str().map(|text| beside(folder, text)) else {
            return self.wrong(span.start, Some("value_file".into()), "must be the path of a file");
        };
        match prompt::whole(Path::new(&text), MAX_VALUE_BYTES, "value_file") {
            Ok(value) => {
                let value = Spanned::new(span.clone(), DeValue::String(value.into()));
                // Mistakes of the value are told where the file is named.
                table.remove("value_file");
                table.insert(Spanned::new(span, "value".into()), value);
            }
            Err(error) => self.problem(span.start, &error),
        }
    }

    /// Makes a name absolute before it is read, as only this side knows the context.
    fn absolute(&mut self, value: &mut Spanned<DeValue<'_>>, context: &Name, field: &str) {
        let at = value.span().start;
        if let DeValue::String(text) = value.get_mut() {
            match Name::resolve(context, text) {
                Ok(name) => *text = name.as_str().to_owned().into(),
                Err(e) => self.problem(at, &Error::from(e).field(field)),
            }
        }
    }

    fn wrong(&mut self, at: usize, field: Option<String>, message: &str) {
        let problem = Problem { code: Code::InvalidArgument, message: message.into(), field };
        let (line, column) = self.position(at);
        self.mistakes.push(Mistake { file: self.file.to_owned(), line, column, problem });
    }

    fn problem(&mut self, at: usize, error: &Error) {
        let (line, column) = self.position(at);
        self.mistakes.push(Mistake { file: self.file.to_owned(), line, column, problem: Problem::from(error) });
    }

    /// Line and column, from 1, of a byte.
    fn position(&self, at: usize) -> (usize, usize) {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.rfind('\n').map_or(0, |n| n + 1);
        (before.matches('\n').count() + 1, before.get(line..).unwrap_or_default().chars().count() + 1)
    }
}

/// The keys on the way to what stands at a byte.
fn path_at(value: &Spanned<DeValue<'_>>, at: usize) -> Option<Vec<String>> {
    let inside = |span: Range<usize>| span.contains(&at);
    match value.get_ref() {
        DeValue::Table(table) => table
            .iter()
            .find_map(|(key, value)| {
                let deeper = path_at(value, at).or_else(|| inside(key.span()).then(Vec::new));
                deeper.map(|rest| std::iter::once(key.get_ref().to_string()).chain(rest).collect())
            })
            .or_else(|| inside(value.span()).then(Vec::new)),
        DeValue::Array(list) => {
            list.iter().find_map(|v| path_at(v, at)).or_else(|| inside(value.span()).then(Vec::new))
        }
        _ => inside(value.span()).then(Vec::new),
    }
}

/// Where the field with this dotted path stands, or what of it is there.
fn span_of(value: &Spanned<DeValue<'_>>, path: &str) -> Option<Range<usize>> {
    let DeValue::Table(table) = value.get_ref() else { return None };
    table.iter().find_map(|(key, value)| {
        let rest = path.strip_prefix(key.get_ref().as_ref())?;
        match rest.strip_prefix('.') {
            Some(rest) => Some(span_of(value, rest).unwrap_or_else(|| key.span())),
            None => rest.is_empty().then(|| key.span()),
        }
    })
}

/// What serde says, in words for people, with the nearest known word.
fn clearer(message: &str) -> String {
    if message.starts_with("data did not match any variant") {
        return "the value is of the wrong type".into();
    }
    let Some((unknown, list)) = message.split_once(", expected ") else { return message.to_owned() };
    if !unknown.starts_with("unknown ") {
        return message.to_owned();
    }
    let Some(word) = unknown.split('`').nth(1) else { return message.to_owned() };
    if word.contains('/') {
        return format!("{unknown}: a name in a heading needs quotes, as in [\"/A/B\"]");
    }
    let known = list.split('`').skip(1).step_by(2);
    match known.map(|k| (distance(word, k), k)).min().filter(|(d, k)| *d <= 2.max(k.len() / 3)) {
        Some((_, near)) => format!("{unknown}; did you mean `{near}`?"),
        None => message.to_owned(),
    }
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let cost = (corner + usize::from(x != *y)).min(left + 1).min(above + 1);
            corner = *above;
            left = cost;
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

fn duplicates(declared: &[Declared]) -> Vec<Mistake> {
    let mut first: HashMap<NameKey, &Declared> = HashMap::new();
    let mut mistakes = Vec::new();
    for table in declared {
        let Some(other) = first.get(&table.name.key()) else {
            first.insert(table.name.key(), table);
            continue;
        };
        let place = format!("{}:{}", other.file.display(), other.line);
        let message = format!("`{}` is declared already at {place}", table.name);
        mistakes.push(table.mistake(&Error::new(Code::InvalidArgument, message)));
    }
    mistakes
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::System(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Declared>, Vec<String>> {
        let context: Name = "/ctx".parse().unwrap();
        let (declared, mistakes) = parse(text.as_bytes(), Path::new("t.toml"), Path::new("/folder"), &context);
        if mistakes.is_empty() { Ok(declared) } else { Err(mistakes.iter().map(ToString::to_string).collect()) }
    }

    #[test]
    fn tables_read_in_their_order_with_paths_and_names_made_absolute() {
        let declared = parsed(
            r#"
["/z/QS"]
kind = "service"
launch = { command = "./serve --db ./x.db", args = ["./a", "b/./c"], env = { DIR = "./d", N = "n" }, directory = "." }

["a/alias"]
kind = "alias"
target = "b"

["/g"]
kind = "group"
members = ["m", "/n"]

["/j"]
kind = "junction"
servers = ["s", "/t"]
interface = "byname.names/1"
"#,
        )
        .unwrap();
        let names: Vec<&str> = declared.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["/z/QS", "/ctx/a/alias", "/g", "/j"]);
        assert_eq!((declared[0].line, declared[0].column), (2, 2));
        let launch = declared[0].spec.launch.as_ref().unwrap();
        assert_eq!(launch.command.as_ref().unwrap(), &["/folder/serve", "--db", "/folder/x.db"]);
        assert_eq!(launch.args.as_ref().unwrap(), &["/folder/a", "b/./c"]);
        assert_eq!(launch.env.as_ref().unwrap()["DIR"], EnvValue::Text("/folder/d".into()));
        assert_eq!(launch.directory.as_deref(), Some("/folder"));
        assert_eq!(declared[1].spec.target.as_ref().unwrap().as_str(), "/ctx/b");
        assert_eq!(declared[2].spec.members.as_ref().unwrap(), &["/ctx/m", "/n"]);
        assert_eq!(declared[3].spec.servers.as_ref().unwrap(), &["/ctx/s", "/t"]);
    }

    #[test]
    fn values_come_from_files_and_lists_name_people_against_the_context() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key"), "open sesame\n").unwrap();
        let context: Name = "/ctx".parse().unwrap();
        let read = |text: &str| {
            let (declared, mistakes) = parse(text.as_bytes(), Path::new("t.toml"), dir.path(), &context);
            (declared, mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (declared, mistakes) = read(
            "['/s']\nkind = 'secret'\nvalue_file = './key'\n\
             acl = [{ who = 'liu', rights = 'read' }, { who = 'anyone', rights = ['find'], allow = false }]\n\
             ['/q']\nkind = 'service'\nlaunch = { program = 'p', env = { KEY = { secret = 's' } } }\n",
        );
        assert_eq!(mistakes, [""; 0]);
        assert_eq!(declared[0].spec.value.as_deref(), Some("open sesame\n"));
        let who: Vec<String> = declared[0].spec.acl.iter().flatten().map(|e| e.who.to_string()).collect();
        assert_eq!(who, ["/ctx/liu", "anyone"]);
        let env = declared[1].spec.launch.as_ref().unwrap().env.as_ref().unwrap();
        assert_eq!(env["KEY"], EnvValue::Secret { secret: "/ctx/s".into() });
        for (text, expected) in [
            ("['/s']\nkind = 'secret'\nvalue_file = './none'", "t.toml:3:14: value_file: cannot read "),
            ("['/s']\nkind = 'secret'\nvalue_file = 7", "t.toml:3:14: value_file: must be the path of a file"),
            ("['/s']\nvalue = 'x'\nvalue_file = './key'", "t.toml:3:14: value_file: there is a `value` already"),
            ("['/s']\nkind = 'group'\nvalue_file = './key'", "t.toml:1:1: value: only a record has this"),
            ("['/s']\nacl = [{ who = 'a//b', rights = 'read' }]", "t.toml:2:16: acl: "),
            ("['/s']\nacl = [{ who = 'uid:x', rights = 'read' }]", "t.toml:2:16: acl"),
            ("['/s']\nacl = [{ who = 'anyone', rights = 'fly' }]", "t.toml:2:"),
            (
                "['/s']\nkind = 'service'\nlaunch = { program = 'p', env = { K = { secret = 'a//b' } } }",
                "t.toml:3:27: launch.env: ",
            ),
        ] {
            let mistakes = read(text).1;
            assert!(mistakes.len() == 1 && mistakes[0].starts_with(expected), "{text}\n  {mistakes:?}\n  {expected}");
        }
    }

    #[test]
    fn mistakes_have_line_column_field_and_advice() {
        for (text, expected) in [
            ("[\"/a\"]\nkind = ", "t.toml:2:8: "),
            ("kind = 'service'", "t.toml:1:1: `kind` stands outside of a table: write [\"/NAME\"] in front of it"),
            ("[\"/a//b\"]", "t.toml:1:2: "),
            ("[\"/a\"]\nknd = 'record'", "t.toml:2:1: knd: unknown field `knd`; did you mean `kind`?"),
            ("[\"/a\"]\nkind = 'servce'", "t.toml:2:8: kind: unknown variant `servce`; did you mean `service`?"),
            (
                "[\"/a\"]\nkind = 'service'\n[\"/a\".launch]\n  raedy = 'port'",
                "t.toml:4:3: launch.raedy: unknown field `raedy`; did you mean `ready`?",
            ),
            (
                "[\"/ä\"]\nkind = 'service'\nlaunch = { copies = { min = 'ü', max = 1 } }",
                "t.toml:3:29: launch.copies.min: invalid type: string \"ü\", expected u32",
            ),
            (
                "[\"/a\"]\nkind = 'service'\nlaunch = { program = 'p', copies = { min = 3, max = 1 } }",
                "t.toml:3:27: launch.copies: `max` must be at least 1 and at least `min`",
            ),
            ("[\"/a\"]\nkind = 'record'\nmembers = []", "t.toml:3:1: members: only a group has this"),
            ("[\"/a\"]\nkind = 'alias'", "t.toml:1:1: target: an alias needs the name that it stands for"),
            ("[\"/a\"]\nkind = 'alias'\ntarget = 'x//y'", "t.toml:3:10: target: "),
            ("[\"/a\"]\nkind = 'alias'\ntarget = 7", "t.toml:3:10: target: "),
            ("[\"/a\"]\nattributes = { x = { y = 1 } }", "t.toml:2:20: attributes.x: the value is of the wrong type"),
            (
                "[\"/a\"]\nkind = 'junction'\nservers = ['/b']\ninterface = 'a b'",
                "t.toml:4:1: interface: a junction needs what its servers speak",
            ),
            (
                "[\"/a\"]\nkind = 'service'\nlaunch = { program = 'p', listen = ['localhost:1'] }",
                "t.toml:3:27: launch.listen: `localhost:1` is no socket",
            ),
            ("[\"/a\"]\nkind = 'record'\nindex = ['team']", "t.toml:3:1: index: only a directory has this"),
            ("[\"/a\"]\nttl = 'soon'", "t.toml:2:7: ttl: `soon` is not a length of time"),
            ("[BVODS./x]", "t.toml:1:8: "),
            ("[\"/a\"]\n[\"/a\"]", "t.toml:2:2: duplicate key"),
        ] {
            let mistakes = parsed(text).expect_err(text);
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(mistakes[0].starts_with(expected), "{text}\n  {}\n  {expected}", mistakes[0]);
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = parsed("['/a']\nx = 1\n['/b']\ny = 1\n['/c']\nkind = 'record'\n").unwrap_err();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_at_its_place() {
        let (_, mistakes) = parse(b"['/a']\nkind = '\xff'", Path::new("t"), Path::new("/"), &Name::root());
        assert_eq!((mistakes[0].line, mistakes[0].column), (2, 9));
    }

    #[test]
    fn a_folder_is_its_toml_files_and_a_name_is_declared_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("2.toml"), "['/B']\n").unwrap();
        fs::write(dir.path().join("1.toml"), "['/a']\n['/b']\n").unwrap();
        fs::write(dir.path().join("x.txt"), "nonsense").unwrap();
        let only = |names: &[&str]| names.iter().map(|n| dir.path().join(n)).collect::<Vec<_>>();
        let Err(Failure::Files(mistakes)) = read(&only(&["."]), &Name::root()) else { panic!("accepted") };
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].file.ends_with("2.toml"));
        assert!(mistakes[0].problem.message.ends_with("1.toml:2"), "{}", mistakes[0]);
        assert_eq!(read(&only(&["1.toml"]), &Name::root()).unwrap().len(), 2);
        assert!(matches!(read(&only(&["none.toml"]), &Name::root()), Err(Failure::System(_))));
    }
}
