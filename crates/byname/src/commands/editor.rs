//! `edit` without a flag: the declaration in the user's editor.

use std::collections::BTreeMap;
use std::path::Path;

use byname_api::object::{Object, Spec, Version};
use byname_api::request::{BatchRequest, Op, ReadRequest};
use byname_api::{Code, Error};
use byname_name::Name;

use super::change::{self, split_op};
use super::{Session, run};
use crate::difference;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::screen::Format;
use crate::tree_files;

/// Opens the declaration, shows the difference and applies it. After a mistake `again` says whether to go on.
pub(crate) async fn edit(
    session: &mut Session,
    name: Name,
    if_version: Option<Version>,
    env: &Environment,
    again: &mut (dyn FnMut() -> bool + Send),
) -> Outcome {
    let object = session.service.read(&session.cx, ReadRequest { name, consistent: true }).await?.object;
    if if_version.is_some_and(|wanted| wanted != object.version) {
        let message = format!("`{}` has version {} by now", object.name, object.version);
        return Err(Error::new(Code::Conflict, message).into());
    }
    let before = text_of(&object)?;
    let file = tempfile::Builder::new().prefix("byname-").suffix(".toml").tempfile()?;
    std::fs::write(file.path(), &before)?;
    loop {
        open(env, file.path()).await?;
        let text = std::fs::read(file.path())?;
        if text == before.as_bytes() || holds_nothing(&text) {
            session.screen.say("byname: nothing was changed");
            return Ok(());
        }
        let Err(failure) = apply(session, &object, &text, file.path()).await else { return Ok(()) };
        let status = session.screen.tell(&failure);
        if !again() {
            let kept = file.keep().map_err(|e| Failure::System(e.to_string()))?.1;
            session.screen.say(&format!("byname: nothing was changed; what you wrote is in {}", kept.display()));
            return Err(Failure::Told(status));
        }
    }
}

/// Asks the person at the terminal; when there is none, the answer is no.
pub(crate) fn ask(env: &Environment) -> bool {
    if !env.terminal {
        return false;
    }
    eprint!("Edit again? [Y/n] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer).unwrap_or(0);
    read > 0 && !answer.trim_start().starts_with(['n', 'N', 'q', 'Q'])
}

fn text_of(object: &Object) -> Outcome<String> {
    // What the server notes by itself is not for editing.
    let mut spec = Spec { member_ids: None, fingerprint: None, ..object.spec.clone() };
    for entry in spec.acl.iter_mut().flatten() {
        entry.id = None;
    }
    let table = BTreeMap::from([(object.name.as_str(), &spec)]);
    let table = toml::to_string_pretty(&table).map_err(|e| Failure::System(e.to_string()))?;
    Ok(format!(
        "# What is declared about {} (version {}). A line that is taken out goes back to unsaid.\n\
         # Save and leave the editor to apply it. Unchanged or empty, it changes nothing.\n\n{table}",
        object.name, object.version
    ))
}

fn holds_nothing(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').all(|line| line.trim_ascii().is_empty() || line.trim_ascii().starts_with(b"#"))
}

/// Runs the editor as git does: its variable is a line for the shell.
async fn open(env: &Environment, file: &Path) -> Outcome {
    let editor = env.editor.clone().unwrap_or_else(|| "vi".into());
    let words = ["sh".into(), "-c".into(), format!("{editor} \"$@\""), editor.clone(), file.display().to_string()];
    match run::start(&words, &[])?.wait().await? {
        0 => Ok(()),
        status => Err(Failure::System(format!(
            "the editor `{editor}` ended with status {status}, so nothing was changed; VISUAL or EDITOR says which one to use"
        ))),
    }
}

/// Makes the object as the text says, if nobody has changed it meanwhile.
async fn apply(session: &mut Session, object: &Object, text: &[u8], file: &Path) -> Outcome {
    let (mut declared, mistakes) = tree_files::parse(text, file, &change::here()?, &session.context);
    if !mistakes.is_empty() {
        return Err(Failure::Files(mistakes));
    }
    let table = match (declared.pop(), declared.is_empty()) {
        (Some(table), true) if table.name == object.name => table,
        (Some(table), _) => {
            let message = format!("this edits `{0}`: leave one table, [\"{0}\"]", object.name);
            return Err(Failure::Files(vec![table.mistake(&Error::new(Code::InvalidArgument, message))]));
        }
        (None, _) => return Err(Failure::usage("the table of the object is missing")),
    };
    let mut spec = table.spec.clone();
    spec.kind = spec.kind.or(object.spec.kind);
    spec.check().map_err(|e| Failure::Files(vec![table.mistake(&e)]))?;
    let op = Op::Put { name: object.name.clone(), spec, if_version: Some(object.version) };
    let batch = async |dry_run: bool| {
        let request = BatchRequest { ops: vec![op.clone()], dry_run, set: None };
        session.service.batch(&session.cx, request).await.map_err(|error| {
            let (_, error) = split_op(error);
            match error.code() {
                Code::Conflict => {
                    let why = "somebody has changed it meanwhile, or it is in use";
                    Failure::Error(Error::new(Code::Conflict, format!("{} ({why})", error.message())))
                }
                Code::InvalidArgument => Failure::Files(vec![table.mistake(&error)]),
                _ => error.into(),
            }
        })
    };
    let planned = batch(true).await?;
    let done = batch(false).await?;
    if session.screen.format == Format::Table {
        for result in &planned.results {
            difference::print(&mut session.screen, result, None)?;
        }
    }
    change::print(session, &done)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fake::{Fake, run_in};
    use crate::screen::Screen;

    fn with(editor: &str) -> Environment {
        Environment { editor: Some(editor.into()), ..Environment::default() }
    }

    #[tokio::test]
    async fn what_was_written_replaces_the_declaration_of_that_version() {
        let done = run_in("edit /BVODS/QS", &with("sed -i -e /title/d -e s/query-server/other/")).await;
        let put = |dry: &str| {
            format!(
                "batch {dry}{{\"op\":\"put\",\"name\":\"/BVODS/QS\",\"spec\":{{\"kind\":\"service\",\"attributes\":{{}},\
                 \"owner\":\"uid:0\",\"launch\":{{\"program\":\"other\",\"args\":[\"--port\",\"${{PORT}}\"]}}}},\
                 \"if_version\":\"v2\"}}"
            )
        };
        assert_eq!(done.log, [put("dry "), put("")], "{}", done.talk);
        assert!(done.out.ends_with("created /BVODS/QS (v9)\n"), "{}", done.out);
    }

    #[tokio::test]
    async fn nothing_written_is_nothing_changed_and_a_failed_editor_too() {
        for editor in ["true", "cp /dev/null"] {
            let done = run_in("edit /BVODS/QS", &with(editor)).await;
            assert_eq!((done.status, done.talk.as_str()), (0, "byname: nothing was changed\n"), "{editor}");
            assert_eq!(done.log.len(), 0);
        }
        let done = run_in("edit /BVODS/QS", &with("false")).await;
        assert_eq!((done.status, done.log.len()), (1, 0));
        assert_eq!(run_in("edit /BVODS/QS --if-version v1", &with("true")).await.status, 6);
    }

    #[tokio::test]
    async fn a_mistake_has_its_line_and_may_be_mended() {
        let (screen, out, talk) = Screen::captured(Format::Name, false);
        let mut session = Session::new(Arc::new(Fake::default()), Name::root(), screen);
        let name: Name = "/BVODS/QS".parse().unwrap();
        // The second time there is a mistake to mend.
        let env = with("sed -i -e s/knd/kind/ -e s/^kind/knd/ -e s/^owner/knd2/ -e s/^knd2/owner/");
        let mut asked = 0;
        let mut again = || {
            asked += 1;
            asked < 2
        };
        let outcome = edit(&mut session, name, None, &env, &mut again).await;
        assert!(matches!(outcome, Err(Failure::Told(2))), "{outcome:?}");
        let talk = talk.take();
        assert_eq!(talk.matches(":5:1: knd: unknown field `knd`; did you mean `kind`?").count(), 2, "{talk}");
        let kept = talk.trim_end().rsplit(' ').next().unwrap();
        std::fs::remove_file(kept).unwrap();
        assert_eq!(out.take(), "");
    }
}
