//! `apply`: make the tree as files declare it.

use std::collections::HashSet;
use std::path::Path;

use byname_api::Error;
use byname_api::request::{BatchReply, BatchRequest, ListRequest, Op};
use byname_name::{Name, NameKey};

use super::change::split_op;
use super::{Session, change};
use crate::cli::ApplyArgs;
use crate::difference;
use crate::failure::{Failure, Outcome};
use crate::screen::Format;
use crate::tree_files::{self, Declared};

/// The most changes in one batch.
const MAX_OPS: usize = 10_000;

/// Runs it.
pub(crate) async fn run(session: &mut Session, args: ApplyArgs) -> Outcome {
    if args.prune && args.set.is_none() && args.files.len() > 1 {
        return Err(Failure::usage("--prune of several files needs --set NAME, to tell whose objects are meant"));
    }
    let set = match &args.set {
        Some(set) => set.clone(),
        None => args.files.first().map(|f| set_of(f)).transpose()?.unwrap_or_default(),
    };
    let declared = tree_files::read(&args.files, &session.context)?;
    let mut ops: Vec<Op> =
        declared.iter().map(|d| Op::Declare { name: d.name.clone(), spec: d.spec.clone() }).collect();
    if args.prune {
        let gone = gone(session, &set, &declared).await?;
        ops.extend(gone.into_iter().map(|name| Op::Delete {
            name,
            recursive: false,
            stop: args.stop,
            if_version: None,
        }));
    }
    if ops.len() > MAX_OPS {
        session.screen.say(&format!(
            "byname: note: {} changes are made in {} steps of {MAX_OPS}; only each step is all or nothing",
            ops.len(),
            ops.len().div_ceil(MAX_OPS)
        ));
    }
    let mut whole = BatchReply { results: Vec::new(), revision: 0 };
    for (step, ops) in ops.chunks(MAX_OPS).enumerate() {
        let request = BatchRequest { ops: ops.to_vec(), dry_run: args.dry_run, set: Some(set.clone()) };
        let reply = session.service.batch(&session.cx, request).await;
        let mut reply = reply.map_err(|e| at_table(e, step * MAX_OPS, ops.len(), &declared))?;
        whole.results.append(&mut reply.results);
        whole.revision = reply.revision;
    }
    if session.screen.format == Format::Table && args.dry_run {
        for result in &whole.results {
            difference::print(&mut session.screen, result, Some(&set))?;
        }
    } else {
        change::print(session, &whole)?;
    }
    session.screen.flush()?;
    if session.screen.format == Format::Table {
        session.screen.say(&difference::summary(&whole.results, args.dry_run));
    }
    Ok(())
}

/// The apply set of a path: the last part of it, without `.toml`.
fn set_of(path: &Path) -> Outcome<String> {
    if tree_files::is_stdin(path) {
        return Ok("stdin".into());
    }
    let unreadable = |e: std::io::Error| Failure::System(format!("cannot read {}: {e}", path.display()));
    let full = std::fs::canonicalize(path).map_err(unreadable)?;
    let name = full.file_name().map_or_else(|| "root".into(), |n| n.to_string_lossy().into_owned());
    Ok(name.strip_suffix(".toml").map_or(name.clone(), str::to_owned))
}

/// What the set declared before and does not any more, the deepest first. An object that has children which stay is
/// kept: they still need it.
async fn gone(session: &mut Session, set: &str, declared: &[Declared]) -> Outcome<Vec<Name>> {
    let stays: HashSet<NameKey> = declared.iter().map(|d| d.name.key()).collect();
    let mut gone: Vec<Name> = names(session, "*", Some(set)).await?;
    gone.retain(|name| !stays.contains(&name.key()));
    gone.sort_by_key(|name| std::cmp::Reverse(name.depth()));
    let mut leaving: HashSet<NameKey> = HashSet::new();
    let mut deleted = Vec::new();
    for name in gone {
        let beneath = names(session, &format!("{}/*", name.as_str().trim_end_matches('/')), None).await?;
        let grown = declared.iter().any(|d| d.name != name && d.name.is_under(&name));
        if grown || beneath.iter().any(|child| !leaving.contains(&child.key())) {
            session.screen.say(&format!("byname: note: {name} is kept: it has names beneath it that stay"));
            continue;
        }
        leaving.insert(name.key());
        deleted.push(name);
    }
    Ok(deleted)
}

async fn names(session: &Session, pattern: &str, set: Option<&str>) -> Outcome<Vec<Name>> {
    let mut request = ListRequest { set: set.map(Into::into), consistent: true, ..ListRequest::new(pattern) };
    let mut names = Vec::new();
    loop {
        let page = session.service.list(&session.cx, request.clone()).await?;
        names.extend(page.entries.into_iter().map(|e| e.name));
        match page.next {
            Some(next) => request.next = Some(next),
            None => return Ok(names),
        }
    }
}

/// An error about one change, told at the table that asked for it.
fn at_table(error: Error, first: usize, asked: usize, declared: &[Declared]) -> Failure {
    let (index, error) = split_op(error);
    // A server does not say which when there is only one; what failed as a whole (a server that is gone) is no table's.
    let about_one = matches!(error.code().exit_status(), 2 | 3 | 6) || error.at_field().is_some();
    let index = index.or_else(|| (asked == 1 && about_one).then_some(0));
    match index.and_then(|i| declared.get(first + i)) {
        Some(table) => Failure::Files(vec![table.mistake(&error.within(&table.name))]),
        None => Failure::Error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::run;

    fn tree(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bvods.toml");
        std::fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap().to_owned();
        (dir, path)
    }

    #[tokio::test]
    async fn files_become_one_batch_of_the_set() {
        let (_dir, path) = tree("['/n/a']\nkind = 'record'\nvalue = 1\n['b']\n");
        let done = run(&format!("apply -f {path}")).await;
        assert_eq!(
            done.log,
            [
                r#"batch set=bvods {"op":"declare","name":"/n/a","spec":{"kind":"record","value":"1"}} {"op":"declare","name":"/b","spec":{}}"#
            ]
        );
        assert_eq!(done.out, "created /n/a (v9)\ncreated /b (v9)\n");
        assert_eq!(done.talk, "2 created\n");
        assert_eq!(run(&format!("apply -o name -f {path}")).await.out, "/n/a\n/b\n");
    }

    #[tokio::test]
    async fn a_dry_run_prints_the_difference() {
        let (_dir, path) = tree("['/n/a']\nkind = 'record'\nvalue = 1\n");
        let done = run(&format!("apply --dry-run -f {path}")).await;
        assert_eq!(done.out, "+ /n/a (record)\n    value = \"1\"\n");
        assert_eq!(done.talk, "1 to create\n");
    }

    #[tokio::test]
    async fn the_server_s_refusal_is_told_at_the_table() {
        let (_dir, path) = tree("['/n/a']\n\n['/refused/b']\n");
        let done = run(&format!("apply -f {path}")).await;
        assert_eq!(done.status, 6);
        assert_eq!(done.talk, format!("byname: already-exists: {path}:3:2: /refused/b: the name is taken\n"));
    }

    #[tokio::test]
    async fn prune_deletes_what_is_no_longer_declared_and_keeps_parents() {
        // The fake's set `old` holds /old, /old/dir, /old/dir/x and /old/kept, which has a child of somebody else.
        let (_dir, path) = tree("['/old/new']\n");
        let done = run(&format!("apply --set old --prune --stop -f {path}")).await;
        let batch = done.log.last().unwrap();
        assert!(
            batch.ends_with(
                r#"{"op":"delete","name":"/old/dir/x","recursive":false,"stop":true} {"op":"delete","name":"/old/dir","recursive":false,"stop":true}"#
            ),
            "{batch}"
        );
        assert!(done.talk.contains("/old/kept is kept"), "{}", done.talk);
        assert!(done.talk.contains("/old is kept"), "{}", done.talk);
    }

    #[tokio::test]
    async fn prune_of_several_files_needs_a_set() {
        let done = run("apply -f a -f b --prune").await;
        assert_eq!(done.status, 2);
    }

    #[tokio::test]
    async fn mistakes_in_files_are_json_too() {
        let (_dir, path) = tree("['/a']\nkind = 'thing'\n");
        let done = run(&format!("apply -o json -f {path}")).await;
        let object: serde_json::Value = serde_json::from_str(&done.talk).unwrap();
        assert_eq!((&object["mistakes"][0]["line"], &object["mistakes"][0]["column"]), (&2.into(), &8.into()));
        assert_eq!((done.status, done.log.len()), (2, 0));
    }

    #[test]
    fn a_set_is_named_like_its_path() {
        let (dir, path) = tree("");
        assert_eq!(set_of(Path::new(&path)).unwrap(), "bvods");
        assert_eq!(set_of(Path::new("-")).unwrap(), "stdin");
        let folder = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(set_of(&dir.path().join(".")).unwrap(), folder);
    }
}
