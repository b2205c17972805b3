//! `principal`: those who can sign in.

use byname_api::object::{Kind, Object, Spec};
use byname_api::request::{Op, ReadRequest, SearchRequest, parse_attribute};
use byname_api::{Code, Error};
use byname_name::Name;

use super::{Session, change, credentials, look};
use crate::cli::who::PrincipalCommand;
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Paint, Table, printable};

/// The most objects that are asked for at once.
const PAGE: u32 = 1_000;

/// Runs it.
pub(crate) async fn run(session: &mut Session, command: PrincipalCommand) -> Outcome {
    match command {
        PrincipalCommand::Add { name, attributes, disabled } => {
            let mut spec = Spec { disabled: disabled.then_some(true), ..Spec::of(Kind::Principal) };
            for attribute in &attributes {
                parse_attribute(attribute, spec.attributes.get_or_insert_default())?;
            }
            spec.check()?;
            change::change(session, vec![Op::Add { name: session.name(&name)?, spec }]).await
        }
        PrincipalCommand::List { pattern } => list(session, pattern.as_deref()).await,
        PrincipalCommand::Show { name } => show(session, &name).await,
        PrincipalCommand::Disable { name } => {
            let spec = Spec { disabled: Some(true), ..Spec::default() };
            modify(session, &name, spec, Vec::new()).await
        }
        PrincipalCommand::Enable { name } => modify(session, &name, Spec::default(), vec!["disabled".into()]).await,
        PrincipalCommand::Delete { name } => {
            let object = read(session, &name).await?;
            let op = Op::Delete { name: object.name, recursive: false, stop: false, if_version: Some(object.version) };
            change::change(session, vec![op]).await
        }
    }
}

/// The principal of this name. An alias is the name of what it stands for everywhere but here: what would be changed is
/// the alias.
async fn read(session: &Session, name: &str) -> Outcome<Object> {
    let name = session.name(name)?;
    let object = session.service.read(&session.cx, ReadRequest { name, consistent: true }).await?.object;
    if object.spec.kind() != Kind::Principal {
        let message = format!("`{}` is {} and no principal", object.name, object.spec.kind().with_article());
        return Err(Error::new(Code::InvalidArgument, message).into());
    }
    Ok(object)
}

async fn modify(session: &mut Session, name: &str, spec: Spec, clear: Vec<String>) -> Outcome {
    let Object { name, .. } = read(session, name).await?;
    change::change(session, vec![Op::Modify { name, spec, clear, if_version: None }]).await
}

/// Every object of a kind that matches, page by page.
pub(super) async fn each(
    session: &mut Session,
    kind: Kind,
    pattern: Option<&str>,
    found: &mut (dyn FnMut(Object) + Send),
) -> Outcome {
    let pattern = session.pattern(pattern.unwrap_or("**"))?;
    let mut request = SearchRequest {
        under: pattern.literal_prefix(),
        limit: Some(PAGE),
        ..SearchRequest::new(format!("(kind={kind})"))
    };
    loop {
        let page = match session.service.search(&session.cx, request.clone()).await {
            // Nothing is there yet where the pattern begins.
            Err(error) if error.code() == Code::NotFound && pattern.as_exact().is_none() => return Ok(()),
            page => page?,
        };
        page.objects.into_iter().filter(|object| pattern.matches(&object.name)).for_each(&mut *found);
        match page.next {
            Some(next) => request.next = Some(next),
            None => return Ok(()),
        }
    }
}

async fn list(session: &mut Session, pattern: Option<&str>) -> Outcome {
    let mut objects: Vec<Object> = Vec::new();
    each(session, Kind::Principal, pattern, &mut |object| objects.push(object)).await?;
    match session.screen.format {
        Format::Json => session.screen.json(&serde_json::json!({ "objects": objects }))?,
        Format::Name => {
            for object in &objects {
                session.screen.line(object.name.as_str())?;
            }
        }
        Format::Table => {
            let mut table = Table::new(&["NAME", "MAY SIGN IN", "ID", "CHANGED"]);
            for object in &objects {
                let may = match object.spec.disabled {
                    Some(true) => Cell::new("no", Paint::Red),
                    _ => Cell::new("yes", Paint::Green),
                };
                let age = format!("{} ago", session.age(object.modified.at));
                table.row([object.name.as_str().into(), may, object.id.to_string().into(), age.into()]);
            }
            table.print(&mut session.screen)?;
        }
    }
    Ok(())
}

async fn show(session: &mut Session, name: &str) -> Outcome {
    let object = read(session, name).await?;
    let ways = credentials::ways(session, &object.name).await?;
    match session.screen.format {
        Format::Json => {
            let mut whole = serde_json::to_value(&object)?;
            if let Some((password, passkeys)) = ways {
                whole["credentials"] = serde_json::json!({ "password": password, "passkeys": passkeys });
            }
            session.screen.json(&whole)?;
        }
        Format::Name => session.screen.line(object.name.as_str())?,
        Format::Table => {
            let mut lines = look::describe(&object);
            lines.push(("signs in by".into(), ways.map_or_else(|| "(not yours to see)".into(), in_words)));
            session.screen.pairs(object.name.as_str(), &lines)?;
        }
    }
    Ok(())
}

fn in_words((password, passkeys): (bool, Vec<String>)) -> String {
    let password = password.then(|| "password".to_owned());
    let passkeys = passkeys.iter().map(|label| format!("passkey `{}`", printable(label)));
    let ways: Vec<String> = password.into_iter().chain(passkeys).collect();
    if ways.is_empty() { "nothing yet: `byname passwd` or `byname passkey add`".into() } else { ways.join(", ") }
}

/// Whether two names are the same.
pub(super) fn same(a: &Name, b: &Name) -> bool {
    a.key() == b.key()
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn principals_are_made_and_changed_by_batches() {
        for (line, op) in [
            (
                "principal add people/liu --attribute mail=liu@corp.example --disabled",
                r#"{"op":"add","name":"/people/liu","spec":{"kind":"principal","attributes":{"mail":["liu@corp.example"]},"disabled":true}}"#,
            ),
            (
                "principal disable /people/liu",
                r#"{"op":"modify","name":"/people/liu","spec":{"disabled":true},"clear":[]}"#,
            ),
            ("principal enable /people/liu", r#"{"op":"modify","name":"/people/liu","spec":{},"clear":["disabled"]}"#),
            (
                "principal delete /people/liu",
                r#"{"op":"delete","name":"/people/liu","recursive":false,"stop":false,"if_version":"v2"}"#,
            ),
        ] {
            assert_eq!(run(line).await.log, [format!("batch {op}")], "{line}");
        }
    }

    #[tokio::test]
    async fn what_is_no_principal_is_left_alone() {
        for line in ["principal delete /BVODS/QS", "principal disable /groups/media", "principal show /BVODS/QS"] {
            let done = run(line).await;
            assert_eq!((done.status, done.log.len()), (2, 0), "{line}");
        }
        assert_eq!(run("principal delete /people/gone").await.status, 3);
    }

    #[tokio::test]
    async fn a_list_says_who_may_sign_in() {
        assert_eq!(
            run("principal list /people/*").await.out,
            "NAME         MAY SIGN IN  ID  CHANGED\n\
             /people/liu  yes          o5  90s ago\n\
             /people/off  no           o5  90s ago\n"
        );
        let done = run("principal list -o name").await;
        assert_eq!(done.out, "/people/liu\n/people/off\n/machines/m\n");
        assert_eq!(done.log, ["search (kind=principal) under=/ limit=1000 next="]);
    }

    #[tokio::test]
    async fn show_adds_how_one_signs_in_where_one_may_see_it() {
        let shown = run("principal show /people/liu").await.out;
        assert!(shown.contains("\n  attributes.mail  liu@corp.example\n"), "{shown}");
        assert!(shown.ends_with("\n  signs in by      password, passkey `blue`, passkey `red\\u{1b}`\n"), "{shown}");
        let shown = run("principal show /people/ann").await.out;
        assert!(shown.ends_with("  (not yours to see)\n"), "{shown}");
        let shown: serde_json::Value =
            serde_json::from_str(&run("principal show -o json /people/liu").await.out).unwrap();
        assert_eq!((&shown["credentials"]["password"], &shown["kind"]), (&true.into(), &"principal".into()));
    }
}
