//! `watch`: what changes, as it changes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;

use byname_api::object::{Kind, Object};
use byname_api::request::{Change, WatchEvent, WatchRequest};
use byname_api::span::Timestamp;
use byname_api::{Code, Error};
use byname_name::NameKey;

use super::{Session, addresses, may_pass};
use crate::cli::keep::WatchArgs;
use crate::difference::fields;
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Paint, Table};

/// The pauses between attempts to go on after the stream broke; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Of so many objects is remembered what was last said of them, to tell which fields changed.
const REMEMBERED: usize = 10_000;

/// Runs it until `stop`, which is a good end.
pub(crate) async fn run(session: &mut Session, args: WatchArgs, stop: impl Future<Output = ()>) -> Outcome {
    let pattern = session.pattern(args.pattern.as_deref().unwrap_or("**"))?.to_string();
    let mut watch = Watch {
        request: WatchRequest { pattern, from: args.from, initial: args.initial },
        began: false,
        initial: args.initial,
        skip: 0,
        partial: 0,
        left: args.count.unwrap_or(u64::MAX),
        known: HashMap::new(),
        table: Table::new(&["TIME", "CHANGE", "KIND", "NAME", "WHAT"]),
    };
    tokio::pin!(stop);
    let mut pause = PAUSE_MIN;
    loop {
        let broken = tokio::select! {
            broken = watch.follow(session, &mut pause) => broken?,
            () = &mut stop => return Ok(()),
        };
        let Some(error) = broken else { return Ok(()) };
        if pause == PAUSE_MIN {
            let place = watch.place();
            session.screen.say(&format!("byname: note: the watch broke off ({error}); {place}"));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stop => return Ok(()),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A watch that survives its streams.
struct Watch {
    request: WatchRequest,
    /// A message came.
    began: bool,
    /// What is there now is still being told.
    initial: bool,
    /// So many events of the next revision were printed before the stream broke.
    skip: usize,
    /// So many events came since the place moved.
    partial: usize,
    left: u64,
    known: HashMap<NameKey, BTreeMap<String, String>>,
    table: Table,
}

/// One line of the JSON form.
#[derive(Serialize)]
struct Line<'a> {
    at: &'a str,
    #[serde(flatten)]
    event: &'a WatchEvent,
}

impl Watch {
    /// Follows one stream to its end: none when enough was seen, else why it broke.
    async fn follow(&mut self, session: &mut Session, pause: &mut Duration) -> Outcome<Option<Error>> {
        let mut messages = match session.service.watch(&session.cx, self.request.clone()).await {
            Ok(messages) => messages,
            Err(error) => return self.broken(error),
        };
        let mut first = true;
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => return self.broken(error),
            };
            (self.began, *pause) = (true, PAUSE_MIN);
            self.initial &=
                (first || !message.events.is_empty()) && message.events.iter().all(|e| e.change == Change::Present);
            first = false;
            let moved = self.request.from.as_ref() != Some(&message.at);
            for event in &message.events {
                self.partial += 1;
                if self.skip > 0 {
                    self.skip -= 1;
                    continue;
                }
                self.print(session, &message.at, event)?;
                self.left -= 1;
                if self.left == 0 {
                    break;
                }
            }
            if moved {
                // The revision is complete: nothing of it comes again.
                (self.partial, self.skip) = (0, 0);
                self.request.from = Some(message.at);
            }
            if session.screen.format == Format::Table {
                self.table.print(&mut session.screen)?;
            }
            session.screen.flush()?;
            if self.left == 0 {
                return Ok(None);
            }
        }
        self.broken(Error::new(Code::Unavailable, "the server ended it"))
    }

    /// An error that going on may mend, or the end.
    fn broken(&mut self, error: Error) -> Outcome<Option<Error>> {
        if error.code() == Code::Conflict {
            // The server's advice is for programs; here it is said with the option.
            let said = error.message().split(": ").next().unwrap_or_default();
            let advice = "begin anew with --initial, or list what is there and watch from its revision";
            return Err(Error::new(Code::Conflict, format!("{said}: {advice}")).into());
        }
        if !self.began || !may_pass(error.code()) {
            return Err(error.into());
        }
        self.skip = self.partial;
        self.partial = 0;
        if self.initial {
            // Nobody knows how much of it came.
            (self.request.from, self.skip) = (None, 0);
        }
        self.request.initial = self.initial;
        Ok(Some(error))
    }

    fn place(&self) -> String {
        match &self.request.from {
            Some(at) => format!("going on from {at}"),
            None => "beginning anew".into(),
        }
    }

    fn print(&mut self, session: &mut Session, at: &str, event: &WatchEvent) -> Outcome {
        match session.screen.format {
            Format::Json => session.screen.json_line(&Line { at, event })?,
            Format::Name => session.screen.line(event.name.as_str())?,
            Format::Table => {
                let paint = match event.change {
                    Change::Present => Paint::Dim,
                    Change::Created => Paint::Green,
                    Change::Changed => Paint::Yellow,
                    Change::Deleted => Paint::Red,
                    Change::State => Paint::Cyan,
                };
                let what = self.what(event);
                self.table.row([
                    Cell::new(time(session, event).to_string(), Paint::Dim),
                    Cell::new(event.change.as_str(), paint),
                    event.object.spec.kind().as_str().into(),
                    event.name.as_str().into(),
                    what,
                ]);
            }
        }
        Ok(())
    }

    /// What a line says beside the change, kind and name.
    fn what(&mut self, event: &WatchEvent) -> Cell {
        let object = &event.object;
        let key = event.name.key();
        if event.change == Change::Deleted {
            self.known.remove(&key);
            return Cell::default();
        }
        let now = fields(&object.spec);
        let before = if self.known.len() < REMEMBERED || self.known.contains_key(&key) {
            self.known.insert(key, now.clone())
        } else {
            None
        };
        match (event.change, before) {
            (Change::Changed, Some(before)) => {
                let gone = before.keys().filter(|path| !now.contains_key(*path));
                let new = now.iter().filter(|(path, value)| before.get(*path) != Some(value)).map(|(path, _)| path);
                let mut paths: Vec<&str> = gone.chain(new).map(String::as_str).collect();
                paths.sort_unstable();
                paths.join(", ").into()
            }
            (Change::Changed, None) => format!("version {}", object.version).into(),
            _ => state(object),
        }
    }
}

/// When it was, as far as that is said: a change of state has no time of its own, so it is that of its arrival.
fn time(session: &Session, event: &WatchEvent) -> Timestamp {
    match event.change {
        Change::Present | Change::Created | Change::Changed => event.object.modified.at,
        Change::Deleted | Change::State => (session.clock)(),
    }
}

fn state(object: &Object) -> Cell {
    let lock = object.lock.as_ref().map(|lock| format!("locked by {} (fence {})", lock.by, lock.fence));
    if let Some(target) = &object.spec.target {
        return Cell::new(format!("→ {target}"), Paint::Cyan);
    }
    let Some(status) = &object.status else {
        let unlocked = if object.spec.kind() == Kind::Record { object.spec.value.as_deref() } else { None };
        return lock.unwrap_or_else(|| unlocked.map(short).unwrap_or_default()).into();
    };
    let mut parts = vec![status.state.as_str().to_owned()];
    parts.extend(status.instances.iter().map(|i| format!("{} at {}", i.id, addresses(&i.endpoints))));
    parts.extend(status.held.as_ref().map(|held| format!("held by {}", held.by)));
    parts.extend(lock);
    Cell::new(parts.join(", "), Paint::of(status.state))
}

/// The beginning of a value.
fn short(value: &str) -> String {
    match value.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn a_line_for_each_change_and_a_break_loses_and_doubles_none() {
        let done = run("watch --initial --count 6").await;
        assert_eq!(
            done.out,
            "TIME                      CHANGE   KIND       NAME  WHAT\n\
             2023-11-14T22:13:20.000Z  present  directory  /a\n\
             2023-11-14T22:13:20.000Z  created  record     /conf/motd  1\n\
             2023-11-14T22:13:20.000Z  changed  record     /conf/motd  value\n\
             2023-11-14T22:13:20.000Z  changed  record     /conf/motd  value\n\
             2023-11-14T22:14:50.000Z  deleted  record     /conf/motd\n\
             2023-11-14T22:14:50.000Z  state    service    /BVODS/QS   \
             running, i7 at 127.0.0.1:41234,[::1]:80, locked by uid:7 (fence 42)\n"
        );
        assert_eq!(done.log, ["watch /** from=None initial=true", "watch /** from=Some(\"w2\") initial=false"]);
        assert_eq!(
            done.talk,
            "byname: note: the watch broke off (unavailable: the server has gone); going on from w2\n"
        );
    }

    #[tokio::test]
    async fn json_is_an_object_a_line() {
        let done = run("watch -o json --from w2 --count 2 /conf/*").await;
        let lines: Vec<serde_json::Value> = done.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let short: Vec<_> =
            lines.iter().map(|l| (l["at"].as_str(), l["change"].as_str(), l["name"].as_str())).collect();
        assert_eq!(
            short,
            [(Some("w2"), Some("changed"), Some("/conf/motd")), (Some("w3"), Some("deleted"), Some("/conf/motd")),]
        );
        assert_eq!(lines[0]["object"]["value"], "3");
        assert_eq!(run("watch -o name --from w2 --count 1").await.out, "/conf/motd\n");
    }

    #[tokio::test]
    async fn a_place_of_long_ago_tells_how_to_begin_anew() {
        let done = run("watch --from w0").await;
        assert_eq!(done.status, 6);
        assert_eq!(
            done.talk,
            "byname: conflict: that is too long ago: begin anew with --initial, or list what is there and watch from its \
             revision\n"
        );
    }
}
