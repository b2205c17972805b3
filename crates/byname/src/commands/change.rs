//! `add`, `edit`, `delete` and `alias`: changes to single names.

use byname_api::object::{Kind, Spec};
use byname_api::request::{BatchReply, BatchRequest, Op, Outcome as Done, ReadRequest};
use byname_api::{Code, Error};

use super::{Session, editor};
use crate::cli::declare::{kind_of, no_secret_in_words, spec};
use crate::cli::{AddArgs, AliasArgs, DeleteArgs, EditArgs};
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::screen::{Format, Paint};

/// `add`.
pub(crate) async fn add(session: &mut Session, args: AddArgs) -> Outcome {
    no_secret_in_words(args.kind, &args.declare)?;
    let mut spec = spec(&args.declare, &args.launch, &session.context, &here()?)?;
    spec.kind = Some(args.kind.unwrap_or_else(|| kind_of(&spec)));
    spec.check()?;
    change(session, vec![Op::Add { name: session.name(&args.name)?, spec }]).await
}

/// `edit`.
pub(crate) async fn edit(session: &mut Session, args: EditArgs, env: &Environment) -> Outcome {
    let spec = spec(&args.declare, &args.launch, &session.context, &here()?)?;
    let name = session.name(&args.name)?;
    if spec == Spec::default() && args.unset.is_empty() {
        if env.editor.is_none() && !env.terminal {
            let message = "nothing to change: give a field, such as --ttl 5m, or --unset FIELD; or set EDITOR";
            return Err(Failure::usage(message));
        }
        return editor::edit(session, name, args.if_version, env, &mut || editor::ask(env)).await;
    }
    if args.declare.value.is_some()
        && let Ok(reply) =
            session.service.read(&session.cx, ReadRequest { name: name.clone(), consistent: false }).await
    {
        no_secret_in_words(reply.object.spec.kind, &args.declare)?;
    }
    change(session, vec![Op::Modify { name, spec, clear: args.unset, if_version: args.if_version }]).await
}

/// `delete`.
pub(crate) async fn delete(session: &mut Session, args: DeleteArgs) -> Outcome {
    if args.if_version.is_some() && args.names.len() > 1 {
        return Err(Failure::usage("--if-version goes with a single name"));
    }
    let mut ops = Vec::new();
    for text in &args.names {
        if text.contains(['*', '?', '[', ']', '{', '}']) {
            let message = format!(
                "`{}` is a pattern, and delete takes names: look with `byname list` first",
                text.escape_debug()
            );
            return Err(Error::new(Code::InvalidName, message).into());
        }
        let name = session.name(text)?;
        ops.push(Op::Delete { name, recursive: args.recursive, stop: args.stop, if_version: args.if_version });
    }
    change(session, ops).await
}

/// `alias`.
pub(crate) async fn alias(session: &mut Session, args: AliasArgs) -> Outcome {
    let target = session.name(&args.target)?;
    let spec = Spec { target: Some(target), ..Spec::of(Kind::Alias) };
    change(session, vec![Op::Add { name: session.name(&args.newname)?, spec }]).await
}

pub(super) async fn change(session: &mut Session, ops: Vec<Op>) -> Outcome {
    let names: Vec<_> = ops.iter().map(|op| op.name().clone()).collect();
    let request = BatchRequest { ops, dry_run: false, set: None };
    let reply = session.service.batch(&session.cx, request).await.map_err(|error| {
        let (index, error) = split_op(error);
        // One of several: say which.
        match index.and_then(|i| names.get(i)).filter(|_| names.len() > 1) {
            Some(name) => error.within(name),
            None => error,
        }
    })?;
    print(session, &reply)
}

/// Prints what a batch did, a line for each object that changed.
pub(crate) fn print(session: &mut Session, reply: &BatchReply) -> Outcome {
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(reply)?,
        Format::Name => {
            for result in reply.results.iter().filter(|r| !matches!(r.outcome, Done::Unchanged | Done::Checked)) {
                screen.line(result.name.as_str())?;
            }
        }
        Format::Table => {
            for result in &reply.results {
                let (word, paint) = match result.outcome {
                    Done::Created => ("created", Paint::Green),
                    Done::Changed => ("changed", Paint::Yellow),
                    Done::Deleted => ("deleted", Paint::Red),
                    Done::Unchanged | Done::Checked if reply.results.len() > 1 => continue,
                    Done::Checked => ("checked", Paint::Dim),
                    Done::Unchanged => ("unchanged", Paint::Dim),
                };
                let word = screen.paint(paint, word);
                let version =
                    if result.outcome == Done::Deleted { String::new() } else { format!(" ({})", result.version) };
                screen.line(&format!("{word} {}{version}", result.name))?;
            }
        }
    }
    Ok(())
}

/// Takes `ops[3].` off the field of an error: which change it is about, and the error with the field as the user
/// knows it.
pub(crate) fn split_op(error: Error) -> (Option<usize>, Error) {
    let parts = error.at_field().and_then(|field| {
        let (index, rest) = field.strip_prefix("ops[")?.split_once(']')?;
        let rest = rest.trim_start_matches('.');
        let rest = rest.strip_prefix("spec.").unwrap_or(rest);
        Some((index.parse().ok()?, rest.to_owned()))
    });
    let Some((index, field)) = parts else { return (None, error) };
    let own = Error::new(error.code(), error.message());
    (Some(index), if field.is_empty() || field == "spec" { own } else { own.field(field) })
}

/// The folder that `./x` is relative to.
pub(crate) fn here() -> Outcome<std::path::PathBuf> {
    std::env::current_dir().map_err(|e| Failure::System(format!("cannot tell the current folder: {e}")))
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn add_edit_alias_and_delete_are_batches() {
        for (line, op, out) in [
            (
                "add /x/r --kind record --value 1",
                r#"{"op":"add","name":"/x/r","spec":{"kind":"record","value":"1"}}"#,
                "created /x/r (v9)\n",
            ),
            ("add --root /x d", r#"{"op":"add","name":"/x/d","spec":{"kind":"directory"}}"#, "created /x/d (v9)\n"),
            (
                "alias --root /x a /b",
                r#"{"op":"add","name":"/b","spec":{"kind":"alias","target":"/x/a"}}"#,
                "created /b (v9)\n",
            ),
            (
                "edit /x/r --ttl 5m --unset attributes.t --if-version v7",
                r#"{"op":"modify","name":"/x/r","spec":{"ttl":"5m"},"clear":["attributes.t"],"if_version":"v7"}"#,
                "changed /x/r (v9)\n",
            ),
            ("delete -r --stop /x", r#"{"op":"delete","name":"/x","recursive":true,"stop":true}"#, "deleted /x\n"),
        ] {
            let done = run(line).await;
            assert_eq!(done.log, [format!("batch {op}")], "{line}");
            assert_eq!((done.out.as_str(), done.status), (out, 0), "{line}");
        }
        assert_eq!(run("delete -o name /x /y").await.out, "/x\n/y\n");
    }

    #[tokio::test]
    async fn wrong_changes_never_reach_the_server() {
        for line in ["edit /x", "delete /x/*", "delete /a /b --if-version v1", "add /x --kind group --value 1"] {
            let done = run(line).await;
            assert_eq!((done.status, done.log.len()), (2, 0), "{line}: {}", done.talk);
        }
    }

    #[tokio::test]
    async fn the_server_s_word_about_one_change_names_it() {
        let done = run("add /refused/a").await;
        assert_eq!((done.status, done.talk.as_str()), (6, "byname: already-exists: the name is taken\n"));
        let done = run("delete /x /refused/a").await;
        assert_eq!(done.talk, "byname: already-exists: /refused/a: the name is taken\n");
    }
}
