//! Watches and searches.

use byname_api::Code;
use byname_api::object::Value;
use byname_api::request::*;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::time::Duration;

use super::*;
use crate::wait::PATIENCE;

/// A watch that is read event by event.
struct Watching {
    messages: BoxStream<'static, Result<WatchReply>>,
    /// The point to go on from.
    at: String,
    events: std::collections::VecDeque<WatchEvent>,
}

impl Asker {
    async fn watch(&self, pattern: &str, from: Option<String>, initial: bool) -> Result<Watching> {
        let request = WatchRequest { pattern: pattern.into(), from, initial };
        let messages = self.service.watch(&self.cx, request).await?;
        Ok(Watching { messages, at: String::new(), events: Default::default() })
    }

    async fn search(&self, filter: &str, under: &str) -> Result<Vec<String>> {
        let request = SearchRequest { under: at(under), ..SearchRequest::new(filter) };
        let reply = self.service.search(&self.cx, request).await?;
        Ok(reply.objects.iter().map(|o| o.name.to_string()).collect())
    }
}

impl Watching {
    async fn message(&mut self) -> Result<()> {
        let next = tokio::time::timeout(PATIENCE, self.messages.next()).await;
        let message = next.expect("a message comes").expect("the watch goes on")?;
        self.at = message.at;
        self.events.extend(message.events);
        Ok(())
    }

    /// The next event: what happened to which name.
    async fn next(&mut self) -> (Change, String, Object) {
        loop {
            if let Some(event) = self.events.pop_front() {
                return (event.change, event.name.to_string(), event.object);
            }
            self.message().await.unwrap();
        }
    }

    async fn expect(&mut self, change: Change, name: &str) -> Object {
        let (was, of, object) = self.next().await;
        assert_eq!((was, of.as_str()), (change, name), "{object:?}");
        object
    }
}

/// In order, each once, and only what matches.
pub async fn a_watch_tells_what_changes(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/before", record("0")).await.unwrap();
    let mut all = owner.watch("/a/**", None, false).await.unwrap();
    all.message().await.unwrap();
    assert!(all.events.is_empty() && !all.at.is_empty(), "the first message comes at once: {}", all.at);
    owner.add("/a/x", record("1")).await.unwrap();
    owner.add("/other", record("1")).await.unwrap();
    let change = Op::Modify {
        name: at("/a/x"),
        spec: Spec { value: Some("2".into()), ..Spec::default() },
        clear: vec![],
        if_version: None,
    };
    owner.change(change).await.unwrap();
    owner.change(Op::Delete { name: at("/a/x"), recursive: false, stop: false, if_version: None }).await.unwrap();
    all.expect(Change::Created, "/a").await;
    assert_eq!(all.expect(Change::Created, "/a/x").await.spec.value.as_deref(), Some("1"));
    assert_eq!(all.expect(Change::Changed, "/a/x").await.spec.value.as_deref(), Some("2"));
    assert_eq!(all.expect(Change::Deleted, "/a/x").await.spec.value.as_deref(), Some("2"), "as it was before");
    // An onlooker may watch, too.
    f.onlooker().watch("/a/**", None, false).await.unwrap().message().await.unwrap();
}

/// From where it ended, nothing is missing and nothing comes twice.
pub async fn a_watch_goes_on_where_it_ended(f: &dyn Fixture) {
    let owner = f.owner();
    let mut first = owner.watch("/n/*", None, false).await.unwrap();
    owner.add("/n/0", record("x")).await.unwrap();
    first.expect(Change::Created, "/n/0").await;
    let from = first.at.clone();
    drop(first);
    let many: Vec<Op> = (1..=600).map(|n| Op::Add { name: at(&format!("/n/{n}")), spec: record("x") }).collect();
    owner.batch(many).await.unwrap();
    owner.add("/n/last", record("x")).await.unwrap();
    let mut second = owner.watch("/n/*", Some(from.clone()), false).await.unwrap();
    for n in 1..=600 {
        second.expect(Change::Created, &format!("/n/{n}")).await;
        // In the midst of one revision it does not move on.
        if n == 300 {
            assert_eq!(second.at, from);
        }
    }
    second.expect(Change::Created, "/n/last").await;
    let from = second.at.clone();
    let mut third = owner.watch("/n/*", Some(from), false).await.unwrap();
    owner.add("/n/after", record("x")).await.unwrap();
    third.expect(Change::Created, "/n/after").await;
}

/// What is there, then what changes.
pub async fn a_watch_may_begin_with_what_is_there(f: &dyn Fixture) {
    let owner = f.owner();
    let many: Vec<Op> = (0..300).map(|n| Op::Add { name: at(&format!("/n/{n:03}")), spec: record("x") }).collect();
    owner.batch(many).await.unwrap();
    let mut watch = owner.watch("/n/*", None, true).await.unwrap();
    for n in 0..300 {
        watch.expect(Change::Present, &format!("/n/{n:03}")).await;
    }
    owner.add("/n/after", record("x")).await.unwrap();
    watch.expect(Change::Created, "/n/after").await;
}

/// A service's state is told, too.
pub async fn a_watch_tells_states(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/s", service(f.launch(Program::Serves))).await.unwrap();
    let mut watch = owner.watch("/s", None, false).await.unwrap();
    watch.message().await.unwrap();
    owner.find("/s").await.unwrap();
    loop {
        let (change, _, object) = watch.next().await;
        assert_eq!(change, Change::State);
        if object.status.is_some_and(|s| s.state == byname_api::service::State::Running) {
            break;
        }
    }
}

/// What a watch cannot do.
pub async fn wrong_watches_are_refused(f: &dyn Fixture) {
    let owner = f.owner();
    let refuse = |request: WatchRequest| {
        let owner = owner.clone();
        async move {
            match owner.service.watch(&owner.cx, request).await {
                Err(error) => error,
                Ok(mut messages) => messages.next().await.expect("an answer").expect_err("it must be refused"),
            }
        }
    };
    let watch = |pattern: &str, from: Option<&str>| WatchRequest {
        pattern: pattern.into(),
        from: from.map(Into::into),
        initial: false,
    };
    assert_eq!(refuse(watch("/a/[", None)).await.code(), Code::InvalidName);
    let error = refuse(watch("/a", Some("yesterday"))).await;
    assert_eq!((error.code(), error.at_field()), (Code::InvalidArgument, Some("from")));
    let error = refuse(watch("/a", Some("99999999"))).await;
    assert_eq!((error.code(), error.at_field()), (Code::Conflict, Some("from")));
    let error = refuse(WatchRequest { initial: true, ..watch("/a", Some("1")) }).await;
    assert_eq!((error.code(), error.at_field()), (Code::InvalidArgument, Some("initial")));
}

/// One that does not read costs the others nothing.
pub async fn a_watcher_that_does_not_read_holds_nobody_up(f: &dyn Fixture) {
    let owner = f.owner();
    let idle = owner.watch("/n/*", None, false).await.unwrap();
    let mut other = owner.watch("/n/*", None, false).await.unwrap();
    other.message().await.unwrap();
    for n in 0..200 {
        let name = format!("/n/{n}");
        let write = owner.add(&name, record(&"x".repeat(20_000)));
        tokio::time::timeout(Duration::from_secs(20), write).await.expect("writes go on").unwrap();
        other.expect(Change::Created, &format!("/n/{n}")).await;
    }
    drop(idle);
}

/// Filters over attributes and over what every object has.
pub async fn searches_find_what_fits(f: &dyn Fixture) {
    let owner = f.owner();
    let with = |spec: Spec, list: &[(&str, Value)]| Spec {
        attributes: Some(list.iter().map(|(k, v)| (k.to_string(), vec![v.clone()])).collect()),
        ..spec
    };
    let text = |t: &str| Value::Text(t.into());
    let service = |team: &str, tier: i64| {
        with(service(f.launch(Program::Serves)), &[("team", text(team)), ("tier", Value::Int(tier))])
    };
    let indexed = Spec { index: Some(vec!["team".into()]), ..Spec::of(Kind::Directory) };
    owner.add("/fast", indexed).await.unwrap();
    for under in ["/fast", "/slow"] {
        owner.add(&format!("{under}/a"), service("Media", 1)).await.unwrap();
        owner.add(&format!("{under}/b"), service("core", 10)).await.unwrap();
        owner.add(&format!("{under}/b/deep"), with(record("v"), &[("team", text("media"))])).await.unwrap();
        owner.add(&format!("{under}/c"), record("no team")).await.unwrap();
        for (filter, expect) in [
            ("(team=media)", &["/a", "/b/deep"][..]),
            ("(&(kind=service)(team=MEDIA))", &["/a"]),
            ("(|(team=core)(value=no*))", &["/b", "/c"]),
            ("(!(team=*))", &["", "/c"]),
            ("(tier>=2)", &["/b"]),
            ("(tier<=9)", &["/a"]),
            ("(team=m*a)", &["/a", "/b/deep"]),
            ("(cn=deep)", &["/b/deep"]),
            ("(&(team=media)(tier=1))", &["/a"]),
            ("(state=stopped)", &["/a", "/b"]),
            ("(nothing=1)", &[]),
        ] {
            let expect: Vec<String> = expect.iter().map(|e| format!("{under}{e}")).collect();
            assert_eq!(owner.search(filter, under).await.unwrap(), expect, "{filter} under {under}");
        }
    }
    assert_eq!(owner.search("(team=core)", "/").await.unwrap(), ["/fast/b", "/slow/b"]);
    refused(owner.search("(team=", "/").await, Code::InvalidArgument, Some("filter"));
    refused(owner.search(&"(!".repeat(100), "/").await, Code::TooLarge, Some("filter"));
    refused(owner.search("(team:=x)", "/").await, Code::Unsupported, Some("filter"));
}

/// All of them, each once.
pub async fn searches_come_in_pages(f: &dyn Fixture) {
    let owner = f.owner();
    let many: Vec<Op> = (0..25).map(|n| Op::Add { name: at(&format!("/n/{n:02}")), spec: record("x") }).collect();
    owner.batch(many).await.unwrap();
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let request = SearchRequest { limit: Some(10), next, ..SearchRequest::new("(value=x)") };
        let reply = owner.service.search(&owner.cx, request).await.unwrap();
        assert!(reply.objects.len() <= 10);
        found.extend(reply.objects.iter().map(|o| o.name.to_string()));
        next = reply.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(found, (0..25).map(|n| format!("/n/{n:02}")).collect::<Vec<_>>());
}
