//! Services: what starts them, what stops them and what is told about it.

use byname_api::Code;
use byname_api::launch::{Copies, Launch, Restart, Start};
use byname_api::object::{Choose, Spec};
use byname_api::request::*;
use byname_api::service::State;
use byname_api::span::Span;
use futures_util::StreamExt;
use futures_util::future::join_all;

use super::*;
use crate::wait::eventually_async;

const QS: &str = "/BVODS/QS";

async fn with(f: &dyn Fixture, program: Program, change: impl FnOnce(&mut Launch)) -> Asker {
    let owner = f.owner();
    let mut launch = f.launch(program);
    change(&mut launch);
    owner.add(QS, service(launch)).await.unwrap();
    owner
}

/// The first find starts it, the next ones get the same instance.
pub async fn find_starts_and_then_answers(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    let first = owner.find(QS).await.unwrap();
    let instance = only(&first);
    assert!(first.started && instance.pid.is_some(), "{first:?}");
    assert_eq!((instance.state, instance.endpoints[0].address.as_str()), (State::Running, "127.0.0.1"));
    assert!(instance.endpoints[0].port > 0);
    let second = owner.find("/bvods/qs").await.unwrap();
    assert_eq!((&second.instances, second.started), (&first.instances, false));
    assert_eq!(only(&f.onlooker().find(QS).await.unwrap()).id, instance.id);
    let status = owner.status(QS).await;
    assert_eq!((status.state, status.starts, status.failures), (State::Running, 1, 0));
}

/// All waiting finds are answered by one start.
pub async fn fifty_finds_are_one_start(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    let found = join_all((0..50).map(|_| owner.find(QS))).await;
    let ids: std::collections::BTreeSet<_> = found.into_iter().map(|reply| only(&reply.unwrap()).id).collect();
    assert_eq!((ids.len(), owner.status(QS).await.starts), (1, 1));
}

/// `--no-start`.
pub async fn looking_starts_nothing(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    refused(owner.look(QS).await, Code::NotRunning, None);
    assert_eq!(owner.status(QS).await.starts, 0);
    let started = owner.find(QS).await.unwrap();
    assert_eq!(owner.look(QS).await.unwrap().instances, started.instances);
}

/// `start = "manual"`.
pub async fn manual_waits_for_launch(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |launch| launch.start = Some(Start::Manual)).await;
    refused(owner.find(QS).await, Code::NotRunning, None);
    let launched = owner.acted(Verb::Launch, QS).await;
    assert_eq!(launched.state, State::Running);
    assert_eq!(only(&owner.find(QS).await.unwrap()).id, launched.instances[0].id);
}

/// A program that ends before it is ready.
pub async fn a_failed_start_gives_its_last_lines(f: &dyn Fixture) {
    let owner = with(f, Program::Fails, |_| {}).await;
    let error = refused(owner.find(QS).await, Code::StartFailed, None);
    for part in [QS, "exited with status 3", "opening the index", "the index is broken"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    let status = owner.status(QS).await;
    assert_eq!((status.state, status.starts, status.failures), (State::Stopped, 1, 1));
    assert!(status.last_exit.unwrap().how.ends_with("exited with status 3"));
}

/// `failed` is the end of a budget, and `reset` the way back.
pub async fn a_spent_budget_is_crash_looping_until_reset(f: &dyn Fixture) {
    let restart = Restart { max: 2, window: Span::from_secs(60), backoff: Span::from_millis(1) };
    let owner = with(f, Program::Fails, |launch| launch.restart = Some(restart)).await;
    for _ in 0..2 {
        refused(owner.find(QS).await, Code::StartFailed, None);
    }
    let error = refused(owner.find(QS).await, Code::CrashLooping, None);
    assert!(error.message().contains("status 3") && error.message().contains("the index is broken"), "{error}");
    assert_eq!(owner.status(QS).await.state, State::Failed);
    let reset = owner.acted(Verb::Reset, QS).await;
    assert_eq!(reset.state, State::Stopped);
    refused(owner.find(QS).await, Code::StartFailed, None);
    assert_eq!(owner.status(QS).await.starts, 3);
}

/// A program that runs and never listens.
pub async fn never_ready_is_a_start_timeout(f: &dyn Fixture) {
    let owner = with(f, Program::Mute, |launch| launch.start_timeout = Some(Span::from_millis(400))).await;
    let error = refused(owner.find(QS).await, Code::StartTimeout, None);
    assert!(error.message().contains(QS), "{error}");
    let ended = || async { owner.status(QS).await.instances.is_empty().then_some(()) };
    eventually_async("its end", ended).await;
}

/// `kill -9` of the program, and `find` again.
pub async fn a_killed_program_is_found_anew(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    let first = only(&owner.find(QS).await.unwrap()).clone();
    f.kill(first.pid.unwrap());
    let gone = || async { owner.status(QS).await.instances.iter().all(|i| i.id != first.id).then_some(()) };
    eventually_async("the end of the killed instance", gone).await;
    assert_eq!(owner.status(QS).await.last_exit.unwrap().how, "ended by signal 9 (SIGKILL)");
    let second = only(&owner.find(QS).await.unwrap()).clone();
    assert_ne!((first.id, first.pid), (second.id, second.pid));
}

/// `--failed` is probed before it is believed.
pub async fn a_living_instance_is_believed(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    let first = only(&owner.find(QS).await.unwrap()).clone();
    let request = FindRequest { failed: Some(first.id), ..FindRequest::new(at(QS)) };
    assert_eq!(only(&owner.find_with(request).await.unwrap()).id, first.id);
    assert_eq!(owner.status(QS).await.starts, 1);
}

/// `stop --hold`.
pub async fn held_stays_stopped_until_launch(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    owner.find(QS).await.unwrap();
    let request = ActRequest { verb: Verb::Stop, patterns: vec![QS.into()], hold: true, now: false, timeout: None };
    let reply = owner.service.act(&owner.cx, request).await.unwrap();
    assert_eq!((reply.services[0].state, &reply.services[0].error), (State::Stopped, &None));
    let held = owner.status(QS).await.held.unwrap();
    let error = refused(owner.find(QS).await, Code::NotRunning, None);
    assert!(error.message().contains(&held.by) && error.message().contains(&held.at.to_string()), "{error}");
    owner.acted(Verb::Launch, QS).await;
    assert_eq!(owner.status(QS).await.held, None);
    owner.find(QS).await.unwrap();
    // A plain stop holds nothing.
    owner.acted(Verb::Stop, QS).await;
    assert!(owner.find(QS).await.unwrap().started);
}

/// `restart`.
pub async fn restart_gives_another_process(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    let first = only(&owner.find(QS).await.unwrap()).pid;
    let restarted = owner.acted(Verb::Restart, QS).await;
    assert_eq!((restarted.state, restarted.instances.len()), (State::Running, 1));
    assert_ne!(restarted.instances[0].pid, first);
}

/// A line for each service, and the error of each.
pub async fn one_act_tells_each_service(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/g/bad", service(f.launch(Program::Fails))).await.unwrap();
    owner.add("/g/good", service(f.launch(Program::Serves))).await.unwrap();
    owner.add("/g/record", record("1")).await.unwrap();
    let acted = owner.act(Verb::Launch, "/g/*").await.unwrap();
    let told: Vec<_> = acted.iter().map(|a| (a.name.to_string(), a.error.as_ref().map(|e| e.code))).collect();
    assert_eq!(told, [("/g/bad".to_owned(), Some(Code::StartFailed)), ("/g/good".to_owned(), None)]);
    refused(owner.act(Verb::Launch, "/g/none").await, Code::NotFound, None);
    refused(owner.act(Verb::Launch, "/g/record").await, Code::Unsupported, None);
}

/// `--timeout`.
pub async fn a_find_is_bounded(f: &dyn Fixture) {
    let owner = with(f, Program::Mute, |_| {}).await;
    let request = FindRequest { timeout: Some(Span::from_millis(100)), ..FindRequest::new(at(QS)) };
    refused(owner.find_with(request).await, Code::Timeout, None);
    assert_eq!(owner.status(QS).await.state, State::Starting);
}

/// `start = "always"`.
pub async fn always_runs_without_being_asked(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |launch| launch.start = Some(Start::Always)).await;
    let running = || async { owner.look(QS).await.ok().map(|reply| only(&reply).clone()) };
    let first = eventually_async("its start", running).await;
    f.kill(first.pid.unwrap());
    let other = || async { owner.look(QS).await.ok().map(|r| only(&r).clone()).filter(|i| i.id != first.id) };
    eventually_async("its restart", other).await;
    // A stop would last for a moment only, so it holds.
    owner.acted(Verb::Stop, QS).await;
    refused(owner.find(QS).await, Code::NotRunning, None);
}

/// `copies` and `choose`.
pub async fn copies_are_kept(f: &dyn Fixture) {
    let owner = f.owner();
    let launch = Launch { copies: Some(Copies { min: 2, max: 3 }), ..f.launch(Program::Serves) };
    let spec = Spec { choose: Some(Choose::RoundRobin), ..service(launch) };
    owner.add(QS, spec).await.unwrap();
    let all = || async {
        let request = FindRequest { all: true, start: false, ..FindRequest::new(at(QS)) };
        let reply = owner.find_with(request).await.ok()?;
        (reply.instances.len() == 2).then_some(reply.instances)
    };
    let copies = eventually_async("two copies", all).await;
    assert_ne!(copies[0].id, copies[1].id);
    let turns = [only(&owner.find(QS).await.unwrap()).id, only(&owner.find(QS).await.unwrap()).id];
    assert_ne!(turns[0], turns[1]);
}

/// `hosts` that are not there.
pub async fn no_host_fits(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |launch| launch.hosts = Some(vec!["elsewhere".into()])).await;
    let error = refused(owner.find(QS).await, Code::NoHost, None);
    assert!(error.message().contains("elsewhere"), "{error}");
    assert_eq!(owner.status(QS).await.starts, 0);
}

/// Nobody deletes what runs by accident.
pub async fn a_running_service_is_deleted_with_stop_only(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    owner.find(QS).await.unwrap();
    let delete = |stop| Op::Delete { name: at(QS), recursive: false, stop, if_version: None };
    refused(owner.change(delete(false)).await, Code::Conflict, None);
    owner.find(QS).await.unwrap();
    assert_eq!(owner.change(delete(true)).await.unwrap().outcome, Outcome::Deleted);
    refused(owner.find(QS).await, Code::NotFound, None);
}

/// `why`.
pub async fn why_tells_the_story(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    let instance = only(&owner.find(QS).await.unwrap()).clone();
    owner.acted(Verb::Stop, QS).await;
    let why = owner.service.why(&owner.cx, at(QS)).await.unwrap();
    assert_eq!((why.status.name, why.status.state, why.status.starts), (at(QS), State::Stopped, 1));
    let story: Vec<_> = why.story.iter().filter(|h| h.instance == Some(instance.id)).map(|h| h.what.as_str()).collect();
    for part in ["ordered on", "ready after", "told to stop", "stopped: "] {
        assert!(story.iter().any(|what| what.contains(part)), "{part}: {story:?}");
    }
    assert!(why.story.is_sorted_by_key(|h| h.at));
    refused(owner.service.why(&owner.cx, at("/BVODS/none")).await, Code::NotFound, None);
}

/// `logs`.
pub async fn logs_give_what_was_written(f: &dyn Fixture) {
    let owner = with(f, Program::Serves, |_| {}).await;
    owner.find(QS).await.unwrap();
    let [first, second] = Program::Serves.lines();
    assert_eq!(log(&owner, None).await, format!("{first}\n{second}\n"));
    assert_eq!(log(&owner, Some(1)).await, format!("{second}\n"));
    let request = LogsRequest { name: at("/BVODS/none"), tail: None, follow: false };
    let error = owner.service.logs(&owner.cx, request).await.err().expect("no log of what is not there");
    assert_eq!(error.code(), Code::NotFound);
}

async fn log(owner: &Asker, tail: Option<u32>) -> String {
    let request = LogsRequest { name: at(QS), tail, follow: false };
    let mut pieces = owner.service.logs(&owner.cx, request).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}
