//! Hosts that fall silent, come back and are emptied, with agents that are played.

use std::time::{Duration, Instant};

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::error::Code;
use byname_api::host::{DrainAct, DrainRequest, HostState};
use byname_api::launch::{Copies, Launch, Limits, OnPartition, Start};
use byname_api::object::{InstanceId, Kind, Spec};
use byname_api::request::{ActRequest, BatchRequest, Context, FindRequest, Op, ReadRequest, Verb};
use byname_api::span::Span;
use byname_name::Name;
use byname_node::{Config, HostTimes, Node};
use byname_testkit::contract::Program;
use byname_testkit::{PlayedAgent, eventually_async};

struct Fleet {
    node: Node,
    cx: Context,
    _dir: tempfile::TempDir,
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn config(dir: &std::path::Path) -> Config {
    Config { dir: dir.join("log"), id: 1, dns_suffix: "byname.internal".into(), version: "test".into() }
}

/// Everything ten times as quick as by default.
fn quick() -> HostTimes {
    HostTimes {
        beat: Duration::from_millis(100),
        silence: Duration::from_millis(500),
        grace: Duration::from_millis(1_500),
        stop_after: Duration::from_secs(1),
    }
}

impl Fleet {
    async fn new(times: HostTimes) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::open(config(dir.path())).await.unwrap();
        node.set_host_times(times);
        Fleet { node, cx: Context::of(Caller::internal()), _dir: dir }
    }

    async fn agent(&self, computer: &str) -> PlayedAgent {
        PlayedAgent::attach(&self.node, computer).await
    }

    async fn add(&self, text: &str, min: u32, max: u32, change: impl FnOnce(&mut Launch)) {
        let mut launch = PlayedAgent::launch(Program::Serves);
        launch.copies = Some(Copies { min, max });
        change(&mut launch);
        let spec = Spec { launch: Some(launch), ..Spec::of(Kind::Service) };
        let ops = vec![Op::Add { name: name(text), spec }];
        self.node.batch(&self.cx, BatchRequest { ops, ..BatchRequest::default() }).await.unwrap();
    }

    /// Where a service is found, without starting it.
    async fn look(&self, text: &str) -> Result<Vec<(InstanceId, String)>, Code> {
        let request = FindRequest { start: false, all: true, ..FindRequest::new(name(text)) };
        let found = self.node.find(&self.cx, request).await.map_err(|e| e.code())?;
        let at = |c: Option<Name>| c.and_then(|c| c.leaf().map(str::to_owned)).unwrap_or_default();
        Ok(found.instances.into_iter().map(|i| (i.id, at(i.computer))).collect())
    }

    async fn found_on(&self, text: &str, wanted: &[&str]) -> Vec<InstanceId> {
        eventually_async(&format!("{text} on {wanted:?}"), || async {
            let mut found = self.look(text).await.unwrap_or_default();
            found.sort_by(|a, b| a.1.cmp(&b.1));
            let on: Vec<&str> = found.iter().map(|(_, computer)| computer.as_str()).collect();
            (on == wanted).then(|| found.iter().map(|(id, _)| *id).collect())
        })
        .await
    }

    async fn state(&self, computer: &str) -> Option<HostState> {
        let request = ReadRequest { name: name(&format!("/computers/{computer}")), consistent: false };
        self.node.read(&self.cx, request).await.ok()?.object.host.map(|host| host.state)
    }

    async fn becomes(&self, computer: &str, state: HostState) {
        eventually_async(&format!("{computer} {state}"), || async {
            (self.state(computer).await == Some(state)).then_some(())
        })
        .await;
    }

    async fn drain(&self, computer: &str, act: DrainAct, timeout: Duration) -> usize {
        let timeout = Some(Span::from_millis(timeout.as_millis() as u64));
        let request = DrainRequest { name: name(&format!("/computers/{computer}")), act, timeout };
        self.node.drain_host(&self.cx, request).await.unwrap().copies.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_leaves_the_answers_within_five_seconds_by_default() {
    let fleet = Fleet::new(HostTimes::default()).await;
    let a = fleet.agent("a").await;
    fleet.add("/s", 0, 1, |_| {}).await;
    fleet.node.find(&fleet.cx, FindRequest::new(name("/s"))).await.unwrap();
    a.fall_silent();
    let since = Instant::now();
    fleet.becomes("a", HostState::Down).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert!(since.elapsed() > Duration::from_secs(1), "not at the first beat that is late");
    assert_eq!(fleet.look("/s").await, Err(Code::NotRunning));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_copy_moves_and_the_one_that_stood_in_goes_when_the_host_returns() {
    let fleet = Fleet::new(quick()).await;
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    fleet.add("/s", 1, 1, |_| {}).await;
    let first = fleet.found_on("/s", &["a"]).await;
    a.fall_silent();
    let stood_in = fleet.found_on("/s", &["b"]).await;
    assert_ne!(first, stood_in);
    assert_eq!((a.count(), b.count()), (1, 1), "the silent host's program goes on");
    // Its stream comes back with all that it had.
    let again = a.attach_again(&fleet.node, "a").await;
    assert_eq!(fleet.found_on("/s", &["a"]).await, first);
    eventually_async("the end of the double", || async { (b.count() == 0).then_some(()) }).await;
    assert_eq!(again.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_back_in_time_keeps_what_it_had() {
    let fleet = Fleet::new(HostTimes { grace: Duration::from_secs(3_600), ..quick() }).await;
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    fleet.add("/s", 1, 1, |_| {}).await;
    let first = fleet.found_on("/s", &["a"]).await;
    a.fall_silent();
    fleet.becomes("a", HostState::Down).await;
    assert_eq!(fleet.look("/s").await, Err(Code::NotRunning));
    let _again = a.attach_again(&fleet.node, "a").await;
    assert_eq!(fleet.found_on("/s", &["a"]).await, first);
    assert_eq!(b.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_run_twice_is_replaced_when_its_agent_has_stopped_it() {
    let fleet = Fleet::new(HostTimes { grace: Duration::from_millis(600), ..quick() }).await;
    let (a, _b) = (fleet.agent("a").await, fleet.agent("b").await);
    let pinned = |launch: &mut Launch| launch.stop_timeout = Some(Span::from_millis(500));
    fleet.add("/keep", 1, 1, pinned).await;
    fleet.found_on("/keep", &["a"]).await;
    fleet
        .add("/once", 1, 1, |launch| {
            pinned(launch);
            launch.on_partition = Some(OnPartition::Stop);
            launch.hosts = Some(vec!["a".into()]);
        })
        .await;
    fleet.found_on("/once", &["a"]).await;
    a.fall_silent();
    let since = Instant::now();
    fleet.found_on("/keep", &["b"]).await;
    let told = |fleet: &Fleet, text: &'static str| {
        let (node, cx) = (fleet.node.clone(), fleet.cx.clone());
        async move {
            let why = node.why(&cx, name(text)).await.unwrap();
            why.story.iter().any(|h| h.what.starts_with("given up")).then_some(())
        }
    };
    assert_eq!(told(&fleet, "/once").await, None, "too early");
    eventually_async("given up", || told(&fleet, "/once")).await;
    // One second until the agent stops it, half a second for that, and the margin of five.
    assert!(since.elapsed() > Duration::from_millis(6_000), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_started_again_judges_no_host_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let times = HostTimes { silence: Duration::from_secs(3), ..quick() };
    {
        let node = Node::open(config(dir.path())).await.unwrap();
        node.set_host_times(times);
        PlayedAgent::attach(&node, "a").await;
        node.shutdown().await;
    }
    let node = Node::open(config(dir.path())).await.unwrap();
    node.set_host_times(times);
    let fleet = Fleet { node, cx: Context::of(Caller::internal()), _dir: dir };
    let since = Instant::now();
    assert_eq!(fleet.state("a").await, Some(HostState::Up));
    fleet.becomes("a", HostState::Down).await;
    assert!(since.elapsed() > Duration::from_millis(2_500), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_spread_and_go_where_there_is_room() {
    let fleet = Fleet::new(HostTimes::default()).await;
    let (a, _b, _c) = (fleet.agent("a").await, fleet.agent("b").await, fleet.agent("c").await);
    fleet.add("/spread", 3, 3, |_| {}).await;
    fleet.found_on("/spread", &["a", "b", "c"]).await;
    fleet.add("/pinned", 1, 1, |launch| launch.hosts = Some(vec!["c".into()])).await;
    fleet.found_on("/pinned", &["c"]).await;
    // Equally many of it everywhere, and the fewest programs on the first two.
    a.set_load(900);
    eventually_async("the load", || async {
        let read = ReadRequest { name: name("/computers/a"), consistent: false };
        let host = fleet.node.read(&fleet.cx, read).await.unwrap().object.host?;
        (host.load == Some(9.0)).then_some(())
    })
    .await;
    fleet.add("/idle", 1, 1, |_| {}).await;
    fleet.found_on("/idle", &["b"]).await;
    let why = fleet.node.why(&fleet.cx, name("/idle")).await.unwrap();
    let ordered = why.story.iter().find(|h| h.what.starts_with("ordered on /computers/b")).unwrap();
    assert!(ordered.what.ends_with(", of 3 hosts: the fewest programs"), "{}", ordered.what);
    // Played hosts say nothing of their memory, so nothing speaks against them.
    let limits = Limits { cpu: Some(64.0), ..Limits::default() };
    fleet.add("/large", 1, 1, |launch| launch.limits = Some(limits)).await;
    fleet.found_on("/large", &["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_host_is_emptied_and_nothing_new_comes() {
    let fleet = Fleet::new(quick()).await;
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    let on_a = |launch: &mut Launch| launch.hosts = Some(vec!["a".into()]);
    fleet.add("/kept", 1, 1, |_| {}).await;
    fleet.found_on("/kept", &["a"]).await;
    fleet.add("/asked", 0, 1, on_a).await;
    fleet.node.find(&fleet.cx, FindRequest::new(name("/asked"))).await.unwrap();
    assert_eq!(fleet.drain("a", DrainAct::Drain, Duration::from_secs(3_600)).await, 2);
    fleet.found_on("/kept", &["b"]).await;
    eventually_async("an empty host", || async { (a.count() == 0).then_some(()) }).await;
    assert_eq!(b.count(), 1);
    assert_eq!(fleet.state("a").await, Some(HostState::Draining));
    let error = fleet.node.find(&fleet.cx, FindRequest::new(name("/asked"))).await.unwrap_err();
    assert_eq!(error.code(), Code::NoHost, "{error}");
    assert!(error.message().contains("byname undrain"), "{error}");
    assert_eq!(fleet.drain("a", DrainAct::Undrain, Duration::ZERO).await, 0);
    fleet.node.find(&fleet.cx, FindRequest::new(name("/asked"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_elsewhere_is_stopped_when_the_time_of_a_drain_is_up() {
    let fleet = Fleet::new(quick()).await;
    let a = fleet.agent("a").await;
    fleet.add("/only-here", 1, 1, |launch| launch.hosts = Some(vec!["a".into()])).await;
    fleet.found_on("/only-here", &["a"]).await;
    let since = Instant::now();
    fleet.drain("a", DrainAct::Drain, Duration::from_secs(2)).await;
    eventually_async("an empty host", || async { (a.count() == 0).then_some(()) }).await;
    assert!(since.elapsed() > Duration::from_millis(1_900), "{:?}", since.elapsed());
    fleet.drain("a", DrainAct::Undrain, Duration::ZERO).await;
    fleet.found_on("/only-here", &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_computers_with_agents_can_be_drained() {
    let fleet = Fleet::new(quick()).await;
    fleet.add("/s", 0, 1, |_| {}).await;
    let drain = |text: &str| {
        let request = DrainRequest { name: name(text), act: DrainAct::Drain, timeout: None };
        let (node, cx) = (fleet.node.clone(), fleet.cx.clone());
        async move { node.drain_host(&cx, request).await.unwrap_err().code() }
    };
    assert_eq!(drain("/s").await, Code::Unsupported);
    assert_eq!(drain("/computers/nobody").await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_starts_what_says_so_and_nothing_else() {
    let fleet = Fleet::new(HostTimes::default()).await;
    let a = fleet.agent("a").await;
    fleet.add("/says", 0, 1, |launch| launch.dns_start = Some(true)).await;
    fleet.add("/silent", 0, 1, |_| {}).await;
    fleet
        .add("/manual", 0, 1, |launch| {
            launch.dns_start = Some(true);
            launch.start = Some(Start::Manual);
        })
        .await;
    let looking_up = Context::of(Caller::by_look_up([192, 0, 2, 1].into()));
    for text in ["/silent", "/manual"] {
        let refused = fleet.node.find(&looking_up, FindRequest::new(name(text))).await;
        assert_eq!(refused.map_err(|e| e.code()), Err(Code::NotRunning), "{text}");
    }
    // Somebody who is as unknown and does not look up may not.
    let stranger = Context::of(Caller::anonymous());
    let refused = fleet.node.find(&stranger, FindRequest::new(name("/says"))).await;
    assert_eq!(refused.map_err(|e| e.code()), Err(Code::NotRunning));
    assert_eq!(a.count(), 0);
    let found = fleet.node.find(&looking_up, FindRequest::new(name("/says"))).await.unwrap();
    assert!(found.started && found.instances.len() == 1);
    // It is no way to do anything else.
    let launch =
        ActRequest { verb: Verb::Launch, patterns: vec!["/silent".into()], hold: false, now: false, timeout: None };
    assert!(fleet.node.act(&looking_up, launch).await.is_err());
    assert_eq!(a.count(), 1);
}
