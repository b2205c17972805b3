//! `show`, `list` and `status`: what is there.

use std::collections::BTreeSet;

use byname_api::host::HostStatus;
use byname_api::object::{Listening, Object, ServiceStatus};
use byname_api::request::{ListReply, ListRequest, ReadReply, ReadRequest, StatusReply};
use byname_api::service::Health;
use byname_api::span::Span;
use byname_api::{Code, Error};
use byname_name::Pattern;

use super::find::{self, Samples};
use super::{Session, addresses};
use crate::cli::{ListArgs, ReadArgs, StatusArgs};
use crate::difference::fields;
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Paint, Table, printable};

/// The most entries that are asked for at once.
const PAGE: u32 = 1_000;

/// `show`.
pub(crate) async fn show(session: &mut Session, args: ReadArgs) -> Outcome {
    let request = ReadRequest { name: session.name(&args.name)?, consistent: args.consistent };
    let reply = session.service.read(&session.cx, request).await?;
    session.warn_stale(&reply.fresh);
    match session.screen.format {
        Format::Json => Ok(session.screen.json(&reply)?),
        Format::Name => Ok(session.screen.line(reply.object.name.as_str())?),
        Format::Table => print_object(session, &reply),
    }
}

/// `list`: follows the pages by itself.
pub(crate) async fn list(session: &mut Session, args: ListArgs) -> Outcome {
    let pattern = session.pattern(args.pattern.as_deref().unwrap_or("**"))?;
    let mut request = ListRequest {
        pattern: pattern.to_string(),
        limit: None,
        next: args.next.clone(),
        set: args.set,
        consistent: args.consistent,
    };
    let mut left = args.limit.unwrap_or(u32::MAX);
    let mut whole: Option<ListReply> = None;
    let mut table = Table::new(&["NAME", "KIND", "STATE", "VERSION"]);
    let mut found = false;
    loop {
        request.limit = Some(left.min(PAGE));
        let mut page = session.service.list(&session.cx, request.clone()).await?;
        left = left.saturating_sub(u32::try_from(page.entries.len()).unwrap_or(u32::MAX));
        found |= !page.entries.is_empty();
        let next = page.next.take();
        match session.screen.format {
            Format::Json => match &mut whole {
                Some(whole) => whole.entries.append(&mut page.entries),
                None => whole = Some(page),
            },
            Format::Name => {
                for entry in &page.entries {
                    session.screen.line(entry.name.as_str())?;
                }
            }
            Format::Table => {
                for entry in &page.entries {
                    let state = match (&entry.state, &entry.target, entry.host) {
                        (Some(state), _, _) => Cell::new(state.as_str(), Paint::of(*state)),
                        (None, Some(target), _) => Cell::new(format!("→ {target}"), Paint::Cyan),
                        (None, None, Some(host)) => Cell::new(host.as_str(), super::drain::paint(host)),
                        (None, None, None) => Cell::from("-"),
                    };
                    let name = Cell::from(entry.name.as_str());
                    table.row([name, entry.kind.as_str().into(), state, entry.version.to_string().into()]);
                }
                table.print(&mut session.screen)?;
            }
        }
        match next {
            Some(next) if left > 0 => request.next = Some(next),
            next => {
                if next.is_some() && session.screen.format != Format::Json {
                    session.screen.say("byname: note: there are more names; raise --limit to see them");
                }
                if let Some(whole) = &mut whole {
                    whole.next = next;
                }
                break;
            }
        }
    }
    if !found {
        missing(&pattern)?;
    }
    if let Some(whole) = whole {
        session.warn_stale(&whole.fresh);
        session.screen.json(&whole)?;
    }
    Ok(())
}

/// `status`.
pub(crate) async fn status(session: &mut Session, args: StatusArgs) -> Outcome {
    let patterns = if args.patterns.is_empty() { vec!["**".to_owned()] } else { args.patterns };
    let mut whole: Option<StatusReply> = None;
    for text in patterns {
        let pattern = session.pattern(&text)?;
        let mut request = ListRequest { consistent: args.consistent, ..ListRequest::new(pattern.as_str()) };
        let mut found = false;
        loop {
            let mut page = session.service.status(&session.cx, request.clone()).await?;
            request.next = page.next.take();
            found |= !page.services.is_empty();
            match &mut whole {
                Some(whole) => whole.services.append(&mut page.services),
                None => whole = Some(page),
            }
            if request.next.is_none() {
                break;
            }
        }
        if !found {
            missing(&pattern)?;
        }
    }
    let Some(mut reply) = whole else { return Ok(()) };
    // Patterns may overlap.
    reply.services.sort_by(|a, b| a.name.cmp(&b.name));
    reply.services.dedup_by(|a, b| a.name == b.name);
    session.warn_stale(&reply.fresh);
    match session.screen.format {
        Format::Json => session.screen.json(&reply)?,
        Format::Name => {
            for service in &reply.services {
                session.screen.line(service.name.as_str())?;
            }
        }
        Format::Table => {
            let samples = Samples::of(reply.services.iter().flat_map(|s| &s.instances));
            let heads = ["NAME", "STATE", "PID", "ADDRESS", "STARTS", "AGE"].into_iter();
            let mut table = Table::new(&heads.chain(samples.heads()).chain(["NOTE"]).collect::<Vec<_>>());
            for service in &reply.services {
                status_rows(session, &mut table, service, samples);
            }
            table.print(&mut session.screen)?;
        }
    }
    Ok(())
}

/// A line for each instance, one for a service that has none.
fn status_rows(session: &Session, table: &mut Table, service: &ServiceStatus, samples: Samples) {
    let name = || Cell::from(service.name.as_str());
    let starts = || Cell::from(service.starts.to_string());
    let note = Some(note(service)).filter(|note| !note.is_empty()).unwrap_or_else(|| listens(service));
    if service.instances.is_empty() {
        let state = Cell::new(service.state.as_str(), Paint::of(service.state));
        let row = [name(), state, "-".into(), "-".into(), starts(), "-".into()].into_iter();
        table.row(row.chain(samples.cells(None)).chain([note.clone().into()]));
    }
    for instance in &service.instances {
        let unwell = instance.note.as_ref().filter(|_| instance.health != Some(Health::Passing));
        let note = unwell.unwrap_or(&note).clone();
        let row = [
            name(),
            Cell::new(instance.state.as_str(), Paint::of(instance.state)),
            Cell::from(instance.pid),
            addresses(&instance.endpoints).into(),
            starts(),
            Cell::from(instance.started.map(|at| session.age(at))),
        ];
        table.row(row.into_iter().chain(samples.cells(Some(instance))).chain([note.into()]));
    }
}

/// What a line of a status adds in words.
fn note(service: &ServiceStatus) -> String {
    if let Some(held) = &service.held {
        return format!("held by {}", held.by);
    }
    if let Some(deaf) = service.listening.iter().find_map(not_listening) {
        return deaf;
    }
    if service.unregistered {
        return "unregistered".into();
    }
    match &service.last_exit {
        Some(exit) if service.failures > 0 => format!("{} (failures: {})", exit.how, service.failures),
        _ => String::new(),
    }
}

/// The stable sockets, each once however many hosts hold it.
fn listens(service: &ServiceStatus) -> String {
    let sockets: BTreeSet<&str> = service.listening.iter().map(|socket| socket.socket.as_str()).collect();
    match sockets.is_empty() {
        true => String::new(),
        false => format!("listens on {}", sockets.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// What is wrong with a stable socket, in words.
pub(crate) fn not_listening(socket: &Listening) -> Option<String> {
    let error = socket.error.as_ref()?;
    Some(format!("cannot listen on {} at {}: {error}", socket.socket, socket.computer))
}

/// No match of a pattern is an empty answer; no match of a plain name is an error.
fn missing(pattern: &Pattern) -> Outcome {
    match pattern.as_exact() {
        Some(name) => Err(Error::new(Code::NotFound, format!("there is no `{name}`")).into()),
        None => Ok(()),
    }
}

fn print_object(session: &mut Session, reply: &ReadReply) -> Outcome {
    session.screen.pairs(reply.object.name.as_str(), &describe(&reply.object))?;
    if let Some(status) = &reply.object.status {
        print_status(session, status)?;
    }
    if let Some(host) = &reply.object.host {
        print_host(session, host)?;
    }
    Ok(())
}

fn print_status(session: &mut Session, status: &ServiceStatus) -> Outcome {
    let state = session.screen.paint(Paint::of(status.state), status.state.as_str());
    session.screen.line("")?;
    let note = Some(note(status)).filter(|n| !n.is_empty()).map_or_else(String::new, |n| format!(", {n}"));
    session.screen.line(&format!("{state}, {} starts{note}", status.starts))?;
    if let Some(exit) = &status.last_exit {
        let age = session.age(exit.at);
        session.screen.line(&format!("last exit {age} ago: {} {}", exit.instance, exit.how))?;
    }
    for socket in &status.listening {
        let line = match not_listening(socket) {
            Some(wrong) => session.screen.paint(Paint::Red, &printable(&wrong)),
            None => format!("listens on {} at {}", socket.socket, socket.computer),
        };
        session.screen.line(&line)?;
    }
    find::instances(&mut session.screen, &status.instances)
}

/// How a host stands, in lines beneath what is declared of it.
fn print_host(session: &mut Session, host: &HostStatus) -> Outcome {
    let state = session.screen.paint(super::drain::paint(host.state), host.state.as_str());
    let since = host.since.map_or_else(String::new, |at| format!(" since {at}"));
    let by = host.drained_by.as_ref().map_or_else(String::new, |by| format!(", drained by {}", printable(by)));
    session.screen.line("")?;
    session.screen.line(&format!("{state}{since}{by}, copies: {}", host.instances))?;
    let mut said = Vec::new();
    if let Some(at) = host.last_seen {
        said.push(format!("last seen {} ago", session.age(at)));
    }
    if let Some(load) = host.load {
        said.push(format!("load {load:.2}"));
    }
    if let Some(free) = host.memory_free {
        said.push(format!("{} MiB of memory free", free >> 20));
    }
    if !said.is_empty() {
        session.screen.line(&said.join(", "))?;
    }
    Ok(())
}

/// An object as keys and values: first what it is, then what is declared, then who changed it and its other forms.
pub(super) fn describe(object: &Object) -> Vec<(String, String)> {
    let mut lines = vec![
        ("kind".to_owned(), object.spec.kind().to_string()),
        ("id".to_owned(), object.id.to_string()),
        ("version".to_owned(), object.version.to_string()),
    ];
    for (path, value) in fields(&object.spec) {
        if path != "kind" {
            lines.push((path, plain(&value)));
        }
    }
    for (key, stamp) in [("created", &object.created), ("modified", &object.modified)] {
        lines.push((key.to_owned(), format!("{} by {}", stamp.at, printable(&stamp.by))));
    }
    if let Some(lock) = &object.lock {
        let ttl = Span::from_millis(lock.ttl_ms);
        let by = printable(&lock.by);
        lines.push(("lock".to_owned(), format!("fence {} held by {by} since {}, for {ttl}", lock.fence, lock.since)));
    }
    if let Some(forms) = &object.forms {
        for (world, form) in
            [("dns", &forms.dns), ("http", &forms.http), ("ldap", &forms.ldap), ("spiffe", &forms.spiffe)]
        {
            if !form.is_empty() {
                lines.push((world.to_owned(), printable(form)));
            }
        }
    }
    lines
}

/// A text without its quotes when it is one line and cannot be taken for something else.
fn plain(json: &str) -> String {
    match serde_json::from_str::<String>(json) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) && text.trim() == text => text,
        _ => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn list_follows_the_pages_up_to_the_limit() {
        let done = run("list -o name /many/*").await;
        assert_eq!(done.out.lines().count(), 2_500);
        assert_eq!(done.log.len(), 3, "{:?}", done.log);
        let done = run("list -o name --limit 1200 /many/*").await;
        assert_eq!(done.out.lines().count(), 1_200);
        assert_eq!(done.log[1], "list /many/* limit=200 next=1000 set=");
        assert_eq!(done.talk, "byname: note: there are more names; raise --limit to see them\n");
        let done = run("list -o json --limit 2 /many/*").await;
        let reply: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!((reply["entries"].as_array().unwrap().len(), &reply["next"]), (2, &"2".into()));
        assert_eq!(done.talk, "");
    }

    #[tokio::test]
    async fn list_shows_kinds_states_and_targets() {
        assert_eq!(
            run("list --root /BVODS").await.out,
            "NAME        KIND       STATE     VERSION\n\
             /BVODS      directory  -         v1\n\
             /BVODS/CMS  alias      → /CMS/1  v3\n\
             /BVODS/QS   service    running   v2\n"
        );
    }

    #[tokio::test]
    async fn a_plain_name_must_exist_a_pattern_need_not() {
        assert_eq!(run("list /none").await.status, 3);
        let done = run("list /none/*").await;
        assert_eq!((done.status, done.out.as_str()), (0, ""));
        assert_eq!(run("status /none").await.status, 3);
        assert_eq!(run("list [").await.status, 2);
    }

    #[tokio::test]
    async fn status_has_a_line_for_each_instance() {
        assert_eq!(
            run("status").await.out,
            "NAME       STATE    PID   ADDRESS                   STARTS  AGE  NOTE\n\
             /BVODS/QS  running  4242  127.0.0.1:41234,[::1]:80  3       90s\n\
             /failed    failed   -     -                         6       -    exited with status 1 (failures: 5)\n\
             /held      stopped  -     -                         0       -    held by uid:0\n"
        );
        assert_eq!(run("status -o name /BVODS/* /BVODS/QS").await.out, "/BVODS/QS\n");
    }

    #[tokio::test]
    async fn show_says_all() {
        assert_eq!(
            run("show /BVODS/QS").await.out,
            "/BVODS/QS\n\
             \x20 kind              service\n\
             \x20 id                o5\n\
             \x20 version           v2\n\
             \x20 attributes.title  Query server\n\
             \x20 launch.args       [\"--port\",\"${PORT}\"]\n\
             \x20 launch.program    query-server\n\
             \x20 owner             uid:0\n\
             \x20 created           2023-11-14T22:13:20.000Z by uid:0\n\
             \x20 modified          2023-11-14T22:13:20.000Z by uid:0\n\
             \x20 lock              fence 42 held by uid:7 since 2023-11-14T22:13:20.000Z, for 30s\n\
             \x20 dns               qs.bvods.byname.internal\n\
             \x20 http              /v1/names/BVODS/QS\n\
             \x20 ldap              cn=QS,ou=BVODS,dc=byname,dc=internal\n\
             \x20 spiffe            spiffe://byname.internal/BVODS/QS\n\
             \n\
             running, 3 starts\n\
             ADDRESS          PROTOCOL  PID   STATE    INSTANCE\n\
             127.0.0.1:41234  tcp       4242  running  i7\n\
             [::1]:80         http      4242  running  i7\n"
        );
        assert_eq!(run("show -o name /BVODS/QS").await.out, "/BVODS/QS\n");
    }

    #[tokio::test]
    async fn stable_sockets_are_shown_with_what_is_wrong_with_them() {
        let show = run("show /busy").await.out;
        assert!(show.contains("\nlistens on 127.0.0.1:5432 at /computers/h\n"), "{show}");
        let wrong = "cannot listen on unix:/run/x at /computers/i: permission denied";
        assert!(show.contains(&format!("\n{wrong}\n")), "{show}");
        assert_eq!(
            run("status /busy").await.out,
            format!(
                "NAME   STATE    PID   ADDRESS       STARTS  AGE  LOAD  CONNECTIONS  NOTE\n\
                 /busy  running  4242  127.0.0.1:80  1       90s  0.5   12           {wrong}\n"
            )
        );
        let listens = run("status /listens").await.out;
        assert!(listens.ends_with(" -    listens on 127.0.0.1:8080\n"), "{listens}");
        let why = run("why /busy").await.out;
        assert!(why.contains(&format!("\nIt {wrong}.\n")), "{why}");
        assert!(why.ends_with("What to do: mend what keeps the socket from being listened on.\n"), "{why}");
    }
}
