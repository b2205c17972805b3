//! `acl`: who may do what with a name, and why.

use byname_api::access::{AccessReply, AccessRequest, AclEntry, Decision, Rights, Subject};
use byname_api::caller::Right;
use byname_api::object::{Object, ObjectId, Spec};
use byname_api::request::{Op, ReadRequest};
use byname_api::{Code, Error};
use byname_name::Name;

use super::{Session, change, group};
use crate::cli::trust::{AclCommand, EntryArgs, rights};
use crate::failure::{Failure, Outcome};
use crate::screen::{Cell, Format, Paint, Table, printable};

/// Runs it.
pub(crate) async fn run(session: &mut Session, command: AclCommand) -> Outcome {
    match command {
        AclCommand::Show { name } => show(session, &name).await,
        AclCommand::Grant(args) => say(session, &args, true).await,
        AclCommand::Deny(args) => say(session, &args, false).await,
        AclCommand::Revoke { entry } => {
            let (who, which, name) = match entry.as_slice() {
                [who, name] => (who, Rights::ALL, name),
                [who, which, name] => (who, rights(which).map_err(|e| Error::invalid("rights", e))?, name),
                _ => return Err(Failure::usage("write WHO [RIGHTS] NAME")),
            };
            revoke(session, who, which, name).await
        }
        AclCommand::Explain { who, right, name } => explain(session, &who, right, &name).await,
    }
}

async fn show(session: &mut Session, name: &str) -> Outcome {
    let request = AccessRequest { name: session.name(name)?, who: None, right: None };
    let reply = session.service.access(&session.cx, request).await?;
    let may = allowed(&reply.decisions);
    match session.screen.format {
        Format::Json => session.screen.json(&reply)?,
        // What the caller may, for scripts.
        Format::Name => {
            for right in may.iter() {
                session.screen.line(&right.to_string())?;
            }
        }
        Format::Table => print(session, &reply, may)?,
    }
    Ok(())
}

fn allowed(decisions: &[Decision]) -> Rights {
    let granted = decisions.iter().filter(|d| d.allowed);
    granted.fold(Rights::default(), |all, decision| all.and(decision.right.into()))
}

fn print(session: &mut Session, reply: &AccessReply, may: Rights) -> Outcome {
    let mut table = Table::new(&["OF", "WHO", "MAY", "RIGHTS", "NOTE"]);
    for list in &reply.lists {
        let of = || Cell::from(list.name.as_str());
        table.row([of(), printable(&list.owner).into(), Cell::new("yes", Paint::Green), "all".into(), "owner".into()]);
        for entry in &list.acl {
            let may = if entry.allow { Cell::new("yes", Paint::Green) } else { Cell::new("no", Paint::Red) };
            let note = if entry.certified { "as certified" } else { "" };
            let who = entry.who.to_string();
            table.row([of(), who.into(), may, entry.rights.to_string().into(), note.into()]);
        }
    }
    let screen = &mut session.screen;
    table.print(screen)?;
    let words = if may.is_empty() { "nothing".to_owned() } else { may.to_string() };
    let words = screen.paint(Paint::Bold, &words);
    screen.line("")?;
    Ok(screen.line(&format!("{} may here: {words}", reply.who))?)
}

/// `grant` and `deny`.
async fn say(session: &mut Session, args: &EntryArgs, allow: bool) -> Outcome {
    let (who, name) = (session.subject(&args.who)?, session.name(&args.name)?);
    let id = id_of(session, &who).await?;
    let entry = AclEntry { who, id, rights: args.rights, allow, certified: args.certified };
    edit(session, &name, &mut |acl| said(acl, &entry)).await
}

async fn revoke(session: &mut Session, who: &str, rights: Rights, name: &str) -> Outcome {
    let (who, name) = (session.subject(who)?, session.name(name)?);
    edit(session, &name, &mut |acl| taken(acl, &who, rights)).await
}

/// The identity that a name has now. Entries of an earlier bearer of the name are not about this one, so they must not
/// be made to be. Whoever may not see it gets an entry of its own, which the server looks at.
async fn id_of(session: &Session, who: &Subject) -> Outcome<Option<ObjectId>> {
    let Subject::Named(name) = who else { return Ok(None) };
    match session.service.read(&session.cx, ReadRequest { name: name.clone(), consistent: true }).await {
        Ok(reply) => Ok(Some(reply.object.id)),
        Err(error) if matches!(error.code(), Code::NotFound | Code::Denied) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The list with this entry: what it says is taken out of the opposite one, and put to what is said already.
fn said(acl: &[AclEntry], entry: &AclEntry) -> Vec<AclEntry> {
    let same = |other: &AclEntry| {
        same_subject(&other.who, &entry.who) && other.id == entry.id && other.certified == entry.certified
    };
    let mut list: Vec<AclEntry> = acl.to_vec();
    for other in list.iter_mut().filter(|other| same_subject(&other.who, &entry.who) && other.allow != entry.allow) {
        other.rights = other.rights.without(entry.rights);
    }
    match list.iter_mut().find(|other| same(other) && other.allow == entry.allow) {
        Some(other) => other.rights = other.rights.and(entry.rights),
        // The server notes whom it is about.
        None => list.push(AclEntry { id: None, ..entry.clone() }),
    }
    list.retain(|other| !other.rights.is_empty());
    list
}

/// The list without what it says about somebody and these rights.
fn taken(acl: &[AclEntry], who: &Subject, rights: Rights) -> Vec<AclEntry> {
    let without = |entry: &AclEntry| match same_subject(&entry.who, who) {
        true => AclEntry { rights: entry.rights.without(rights), ..entry.clone() },
        false => entry.clone(),
    };
    acl.iter().map(without).filter(|entry| !entry.rights.is_empty()).collect()
}

fn same_subject(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (Subject::Named(a), Subject::Named(b)) => a.key() == b.key(),
        _ => a == b,
    }
}

/// Reads the list of an object, changes it, and writes it if nobody has changed the object meanwhile; else again.
async fn edit(
    session: &mut Session,
    name: &Name,
    change: &mut (dyn FnMut(&[AclEntry]) -> Vec<AclEntry> + Send),
) -> Outcome {
    let mut tries = 0..group::TRIES;
    loop {
        let request = ReadRequest { name: name.clone(), consistent: true };
        let Object { name, version, spec, .. } = session.service.read(&session.cx, request).await?.object;
        let before = spec.acl.unwrap_or_default();
        let after = change(&before);
        if after == before {
            return group::unchanged(session, name, version);
        }
        let (acl, clear) = if after.is_empty() { (None, vec!["acl".to_owned()]) } else { (Some(after), Vec::new()) };
        let spec = Spec { acl, ..Spec::default() };
        let op = Op::Modify { name, spec, clear, if_version: Some(version) };
        if let Some(reply) = group::attempt(session, op, tries.next().is_some()).await? {
            return change::print(session, &reply);
        }
    }
}

async fn explain(session: &mut Session, who: &str, right: Right, name: &str) -> Outcome {
    let request = AccessRequest { name: session.name(name)?, who: Some(session.subject(who)?), right: Some(right) };
    let reply = session.service.access(&session.cx, request).await?;
    let Some(decision) = reply.decisions.iter().find(|d| d.right == right) else {
        return Err(Error::new(Code::Unsupported, format!("the server says nothing about `{right}`")).into());
    };
    let screen = &mut session.screen;
    let (word, paint) = if decision.allowed { ("yes", Paint::Green) } else { ("no", Paint::Red) };
    match screen.format {
        Format::Json => screen.json(&reply)?,
        Format::Name => screen.line(word)?,
        Format::Table => {
            let word = screen.paint(paint, word);
            screen.line(&format!("{word}: {}", printable(&decision.because)))?;
            for line in reasons(&reply.who, decision) {
                screen.line(&format!("  {line}"))?;
            }
        }
    }
    if decision.allowed { Ok(()) } else { Err(Failure::Told(Code::Denied.exit_status())) }
}

/// What decides, in the words of `acl show`.
fn reasons(who: &Subject, decision: &Decision) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(at), Some(entry)) = (&decision.at, &decision.entry) {
        let verb = if entry.allow { "grants" } else { "refuses" };
        let certified = if entry.certified { ", as certified" } else { "" };
        lines.push(format!("the list of {at} {verb} {} to {}{certified}", entry.rights, entry.who));
    }
    let mut member = who.to_string();
    for group in decision.through.iter().rev() {
        lines.push(format!("{member} is in {group}"));
        member = group.to_string();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::run;

    /// What is sent when the list of `/listed` becomes this one.
    fn set(acl: &str) -> String {
        format!(
            "batch {{\"op\":\"modify\",\"name\":\"/listed\",\"spec\":{{\"acl\":[{acl}]}},\"clear\":[],\"if_version\":\"v2\"}}"
        )
    }

    const LIU: &str = r#"{"who":"/people/liu","id":"o5","rights":["find","read"]}"#;
    const EARLIER_ANN: &str = r#"{"who":"/people/ann","id":"o1","rights":["all"]}"#;
    const ANYONE: &str = r#"{"who":"anyone","rights":["find"],"allow":false}"#;

    #[tokio::test]
    async fn an_entry_grows_where_it_is_about_the_same_one() {
        for (line, expected) in [
            (
                "acl grant /people/LIU launch,read /listed",
                [r#"{"who":"/people/liu","id":"o5","rights":["find","read","launch"]}"#, EARLIER_ANN, ANYONE].join(","),
            ),
            // The name is used again: the rights of whoever had it are not those of this one.
            (
                "acl grant people/ann read /listed",
                [LIU, EARLIER_ANN, ANYONE, r#"{"who":"/people/ann","rights":["read"]}"#].join(","),
            ),
            (
                "acl grant /people/liu launch /listed --certified",
                [LIU, EARLIER_ANN, ANYONE, r#"{"who":"/people/liu","rights":["launch"],"certified":true}"#].join(","),
            ),
            (
                "acl deny /people/liu read /listed",
                [
                    r#"{"who":"/people/liu","id":"o5","rights":["find"]}"#,
                    EARLIER_ANN,
                    ANYONE,
                    r#"{"who":"/people/liu","rights":["read"],"allow":false}"#,
                ]
                .join(","),
            ),
            (
                "acl grant anyone find,list /listed",
                [LIU, EARLIER_ANN, r#"{"who":"anyone","rights":["find","list"]}"#].join(","),
            ),
            ("acl revoke /people/ann /listed", [LIU, ANYONE].join(",")),
            (
                "acl revoke /people/liu find /listed",
                [r#"{"who":"/people/liu","id":"o5","rights":["read"]}"#, EARLIER_ANN, ANYONE].join(","),
            ),
        ] {
            let done = run(line).await;
            assert_eq!(done.log, [set(&expected)], "{line}");
            assert_eq!(done.out, "changed /listed (v9)\n");
        }
    }

    #[tokio::test]
    async fn what_is_said_already_changes_nothing_and_the_last_entry_takes_the_list_along() {
        for line in ["acl grant /people/liu read /listed", "acl revoke uid:7 /listed"] {
            let done = run(line).await;
            assert_eq!((done.out.as_str(), done.log.len()), ("unchanged /listed (v2)\n", 0), "{line}");
        }
        let done = run("acl grant anyone read /BVODS").await;
        assert!(done.log[0].contains(r#""spec":{"acl":[{"who":"anyone","rights":["read"]}]}"#), "{:?}", done.log);
        let one = [AclEntry::allow(Subject::Anyone, Right::Read)];
        assert_eq!(taken(&one, &Subject::Anyone, Rights::ALL), []);
        for line in ["acl revoke liu fly /x", "acl grant uid:x read /x", "acl grant /a//b read /x"] {
            assert_eq!(run(line).await.status, 2, "{line}");
        }
    }

    #[tokio::test]
    async fn show_has_every_list_on_the_way_and_what_the_caller_may() {
        let done = run("acl show /listed/x").await;
        assert_eq!(
            done.out,
            "OF       WHO            MAY  RIGHTS     NOTE\n\
             /listed  uid:0          yes  all        owner\n\
             /listed  /groups/media  yes  find,read\n\
             /listed  anyone         no   all        as certified\n\
             /        uid:0          yes  all        owner\n\
             \n\
             /people/liu may here: find,read\n"
        );
        assert_eq!(run("acl show -o name /listed").await.out, "find\nread\n");
    }

    #[tokio::test]
    async fn explain_says_yes_or_no_and_why() {
        let done = run("acl explain people/liu read /listed/x").await;
        assert_eq!(
            (done.status, done.out.as_str()),
            (
                0,
                "yes: a list decides about read\n  the list of /listed grants find,read to /groups/media\n  \
                 /people/liu is in /groups/inner\n  /groups/inner is in /groups/media\n"
            )
        );
        assert_eq!(done.log, [r#"access {"name":"/listed/x","who":"/people/liu","right":"read"}"#]);
        let done = run("acl explain -o name anyone launch /listed").await;
        assert_eq!((done.status, done.out.as_str(), done.talk.as_str()), (4, "no\n", ""));
    }
}
