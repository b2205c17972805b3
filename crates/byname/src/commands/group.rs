//! `group`: sets of principals, services, computers and other groups.

use std::collections::HashSet;

use byname_api::object::{Kind, Object, Spec, Version};
use byname_api::request::{BatchReply, BatchRequest, Op, OpResult, Outcome as Done, ReadRequest};
use byname_api::{Code, Error};
use byname_name::{Name, NameKey};

use super::{Session, change, principal};
use crate::cli::who::GroupCommand;
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Table};

/// How often a change is tried again when somebody else was faster.
pub(super) const TRIES: usize = 10;

/// Runs it.
pub(crate) async fn run(session: &mut Session, command: GroupCommand) -> Outcome {
    match command {
        GroupCommand::Add { group, members } => add(session, &group, &members).await,
        GroupCommand::Remove { group, members } => remove(session, &group, &members).await,
        GroupCommand::Show { group, all } => show(session, &group, all).await,
        GroupCommand::List { pattern } => list(session, pattern.as_deref()).await,
    }
}

async fn add(session: &mut Session, group: &str, members: &[String]) -> Outcome {
    let group = session.name(group)?;
    let members: Vec<Name> = members.iter().map(|m| session.name(m)).collect::<Outcome<_>>()?;
    let mut tries = 0..TRIES;
    loop {
        let op = match read(session, &group).await {
            Ok(object) => {
                let mut now = object.spec.members.clone().unwrap_or_default();
                let known: HashSet<NameKey> = now.iter().filter_map(|m| Some(Name::parse(m).ok()?.key())).collect();
                let mut new = members.clone();
                new.retain(|m| !known.contains(&m.key()));
                now.extend(distinct(&new));
                if new.is_empty() {
                    return unchanged(session, object.name, object.version);
                }
                set(object, now)
            }
            Err(error) if error.code() == Code::NotFound => {
                let spec = Spec { members: Some(distinct(&members)), ..Spec::of(Kind::Group) };
                Op::Add { name: group.clone(), spec }
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(reply) = attempt(session, op, tries.next().is_some()).await? {
            return change::print(session, &reply);
        }
    }
}

async fn remove(session: &mut Session, group: &str, members: &[String]) -> Outcome {
    let group = session.name(group)?;
    let gone: Vec<Name> = members.iter().map(|m| session.name(m)).collect::<Outcome<_>>()?;
    let leaves = |member: &str| Name::parse(member).is_ok_and(|m| gone.iter().any(|g| principal::same(g, &m)));
    let mut tries = 0..TRIES;
    loop {
        let object = read(session, &group).await?;
        let before = object.spec.members.clone().unwrap_or_default();
        let after: Vec<String> = before.iter().filter(|m| !leaves(m)).cloned().collect();
        if after.len() == before.len() {
            return unchanged(session, object.name, object.version);
        }
        if let Some(reply) = attempt(session, set(object, after), tries.next().is_some()).await? {
            return change::print(session, &reply);
        }
    }
}

/// The group, by its newest version.
async fn read(session: &Session, group: &Name) -> byname_api::Result<Object> {
    let request = ReadRequest { name: group.clone(), consistent: true };
    let object = session.service.read(&session.cx, request).await?.object;
    if object.spec.kind() != Kind::Group {
        let message = format!("`{}` is {} and no group", object.name, object.spec.kind().with_article());
        return Err(Error::new(Code::InvalidArgument, message));
    }
    Ok(object)
}

fn distinct(members: &[Name]) -> Vec<String> {
    let mut seen = HashSet::new();
    members.iter().filter(|m| seen.insert(m.key())).map(ToString::to_string).collect()
}

/// The change that gives a group these members, if nobody has changed it meanwhile.
fn set(group: Object, members: Vec<String>) -> Op {
    let spec = Spec { members: Some(members), ..Spec::default() };
    Op::Modify { name: group.name, spec, clear: Vec::new(), if_version: Some(group.version) }
}

/// Makes a change; nothing when somebody else was faster and there is another try.
pub(super) async fn attempt(session: &Session, op: Op, again: bool) -> Outcome<Option<BatchReply>> {
    match session.service.batch(&session.cx, BatchRequest::of(op)).await {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if again && matches!(error.code(), Code::Conflict | Code::AlreadyExists) => Ok(None),
        Err(error) => Err(change::split_op(error).1.into()),
    }
}

/// Says that there was nothing to change, as a batch does.
pub(super) fn unchanged(session: &mut Session, name: Name, version: Version) -> Outcome {
    let result = OpResult { name, outcome: Done::Unchanged, version, before: None, after: None };
    change::print(session, &BatchReply { results: vec![result], revision: 0 })
}

/// A member, and the groups through which it is in, the outermost first.
#[derive(serde::Serialize)]
struct Member {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    through: Vec<Name>,
}

async fn show(session: &mut Session, group: &str, all: bool) -> Outcome {
    let group = read(session, &session.name(group)?).await?;
    let members = if all { nested(session, &group).await? } else { direct(&group) };
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "name": group.name, "members": members }))?,
        Format::Name => {
            for member in &members {
                screen.line(&member.name)?;
            }
        }
        Format::Table if all => {
            let mut table = Table::new(&["MEMBER", "KIND", "THROUGH"]);
            for member in &members {
                let through: Vec<&str> = member.through.iter().map(Name::as_str).collect();
                let through = if through.is_empty() { "-".to_owned() } else { through.join(" → ") };
                table.row([member.name.as_str().into(), Cell::from(member.kind), through.into()]);
            }
            table.print(screen)?;
        }
        Format::Table => {
            for member in &members {
                screen.line(&member.name)?;
            }
        }
    }
    Ok(())
}

fn direct(group: &Object) -> Vec<Member> {
    let members = group.spec.members.iter().flatten();
    members.map(|name| Member { name: name.clone(), kind: None, through: Vec::new() }).collect()
}

/// Everybody in a group, each once, the nearest way: first its own members, then those of its groups.
async fn nested(session: &Session, group: &Object) -> Outcome<Vec<Member>> {
    let mut seen = HashSet::from([group.name.key()]);
    let mut found = Vec::new();
    let mut open: std::collections::VecDeque<(Object, Vec<Name>)> = [(group.clone(), Vec::new())].into();
    while let Some((group, through)) = open.pop_front() {
        for text in group.spec.members.iter().flatten() {
            let Ok(name) = Name::parse(text) else { continue };
            if !seen.insert(name.key()) {
                continue;
            }
            // Who is not there, or may not be seen, is still a member.
            let request = ReadRequest { name: name.clone(), consistent: false };
            let object = match session.service.read(&session.cx, request).await {
                Ok(reply) => Some(reply.object),
                Err(e) if matches!(e.code(), Code::NotFound | Code::Denied) => None,
                Err(e) => return Err(e.into()),
            };
            let kind = object.as_ref().map(|o| o.spec.kind());
            found.push(Member { name: text.clone(), kind, through: through.clone() });
            if let Some(inner) = object.filter(|o| o.spec.kind() == Kind::Group) {
                let through = through.iter().cloned().chain([name]).collect();
                open.push_back((inner, through));
            }
        }
    }
    Ok(found)
}

async fn list(session: &mut Session, pattern: Option<&str>) -> Outcome {
    let mut groups: Vec<Object> = Vec::new();
    principal::each(session, Kind::Group, pattern, &mut |object| groups.push(object)).await?;
    match session.screen.format {
        Format::Json => session.screen.json(&serde_json::json!({ "objects": groups }))?,
        Format::Name => {
            for group in &groups {
                session.screen.line(group.name.as_str())?;
            }
        }
        Format::Table => {
            let mut table = Table::new(&["NAME", "MEMBERS", "OWNER"]);
            for group in &groups {
                let members = group.spec.members.as_ref().map_or(0, Vec::len).to_string();
                table.row([group.name.as_str().into(), members.into(), Cell::from(group.spec.owner.clone())]);
            }
            table.print(&mut session.screen)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    fn modified(group: &str, members: &str) -> String {
        format!(
            "batch {{\"op\":\"modify\",\"name\":\"{group}\",\"spec\":{{\"members\":[{members}]}},\"clear\":[],\"if_version\":\"v2\"}}"
        )
    }

    #[tokio::test]
    async fn members_come_and_go_and_the_rest_stays() {
        let all = r#""/people/liu","/groups/inner","/people/gone""#;
        let done = run("group add /groups/media /people/LIU people/bob /people/bob").await;
        assert_eq!(done.log, [modified("/groups/media", &format!("{all},\"/people/bob\""))]);
        assert_eq!(done.out, "changed /groups/media (v9)\n");
        let done = run("group remove /groups/media /people/Liu /people/gone").await;
        assert_eq!(done.log, [modified("/groups/media", "\"/groups/inner\"")]);
        for line in ["group add /groups/media /people/liu", "group remove /groups/media /people/bob"] {
            let done = run(line).await;
            assert_eq!((done.out.as_str(), done.log.len()), ("unchanged /groups/media (v2)\n", 0), "{line}");
        }
    }

    #[tokio::test]
    async fn a_group_that_is_not_there_is_made() {
        let done = run("group add /groups/new /people/liu /people/liu").await;
        let op = r#"{"op":"add","name":"/groups/new","spec":{"kind":"group","members":["/people/liu"]}}"#;
        assert_eq!(done.log, [format!("batch {op}")]);
        assert_eq!(run("group remove /groups/new /people/liu").await.status, 3);
        assert_eq!(run("group add /people/liu /people/ann").await.status, 2);
    }

    #[tokio::test]
    async fn whoever_is_slower_tries_again() {
        let done = run("group add /groups/busy /people/liu").await;
        assert_eq!((done.status, done.log.len()), (0, 3), "{}", done.talk);
        assert_eq!(done.log[2], modified("/groups/busy", "\"/people/ann\",\"/people/liu\""));
    }

    #[tokio::test]
    async fn nested_members_are_shown_once_with_the_way_to_them() {
        assert_eq!(
            run("group show --all /groups/media").await.out,
            "MEMBER         KIND       THROUGH\n\
             /people/liu    principal  -\n\
             /groups/inner  group      -\n\
             /people/gone   -          -\n\
             /people/ann    principal  /groups/inner\n"
        );
        assert_eq!(run("group show /groups/inner").await.out, "/people/ann\n/groups/media\n/people/liu\n");
        assert_eq!(run("group list").await.out, "NAME           MEMBERS  OWNER\n/groups/media  1        uid:0\n");
    }
}
