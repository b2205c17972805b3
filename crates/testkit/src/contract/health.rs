//! How well running copies are, as programs report it.

use byname_api::Code;
use byname_api::launch::{Check, CheckKind, Launch};
use byname_api::request::*;
use byname_api::service::{Health, State};
use byname_api::span::Span;

use super::*;
use crate::wait::eventually_async;

impl Asker {
    async fn report_health(&self, name: &str, health: Health, note: &str) -> Result<ReportReply> {
        let note = Some(note.to_owned()).filter(|note| !note.is_empty());
        let request = ReportRequest { name: Some(at(name)), health: Some(health), note, ..ReportRequest::default() };
        self.service.report(&self.cx, request).await
    }

    async fn health(&self, name: &str) -> (State, Option<Health>, Option<String>) {
        let status = self.status(name).await;
        let copy = status.instances.first().unwrap_or_else(|| panic!("{status:?}"));
        (copy.state, copy.health, copy.note.clone())
    }
}

/// A critical copy is in no answer until a better word comes.
pub async fn reported_health_counts(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/s", service(f.launch(Program::Serves))).await.unwrap();
    refused(owner.report_health("/s", Health::Passing, "").await, Code::NotRunning, None);
    owner.find("/s").await.unwrap();
    assert_eq!(owner.health("/s").await, (State::Running, None, None), "nobody looks");
    owner.report_health("/s", Health::Warning, "the queue\u{1b} is long").await.unwrap();
    let warned = (State::Running, Some(Health::Warning), Some("the queue  is long".into()));
    assert_eq!(owner.health("/s").await, warned);
    let found = owner.find("/s").await.unwrap();
    assert_eq!(only(&found).health, Some(Health::Warning), "nothing better is there");
    owner.report_health("/s", Health::Critical, "the disk is full").await.unwrap();
    let error = refused(owner.find("/s").await, Code::Unavailable, None);
    assert!(error.message().contains("the disk is full"), "{error}");
    owner.report_health("/s", Health::Passing, "").await.unwrap();
    assert_eq!(only(&owner.find("/s").await.unwrap()).health, Some(Health::Passing));
    let story = owner.service.why(&owner.cx, at("/s")).await.unwrap().story;
    let told = |word: &str| story.iter().filter(|happening| happening.what.contains(word)).count();
    assert_eq!((told("critical, reported by"), told("passing, reported by")), (1, 1), "{story:?}");
}

/// With a check of kind `ttl` no word is a bad word.
pub async fn who_does_not_report_in_time_is_critical(f: &dyn Fixture) {
    let owner = f.owner();
    let check = Check { ttl: Some(Span::from_secs(2)), ..Check::of(CheckKind::Ttl) };
    let launch = Launch { check: Some(vec![check]), ..f.launch(Program::Serves) };
    owner.add("/s", service(launch)).await.unwrap();
    owner.find("/s").await.unwrap();
    let silent = || async {
        let (state, health, note) = owner.health("/s").await;
        (health == Some(Health::Critical)).then_some((state, note))
    };
    let (state, note) = eventually_async("its silence is noticed", silent).await;
    assert_eq!((state, note.as_deref()), (State::Unhealthy, Some("no report within 2s")));
    refused(owner.find("/s").await, Code::Unavailable, None);
    owner.report_health("/s", Health::Passing, "").await.unwrap();
    owner.find("/s").await.unwrap();
    eventually_async("its silence is noticed again", silent).await;
    // It is not held against a copy that need not report any more.
    let spec = Spec { launch: Some(Launch { check: Some(Vec::new()), ..Launch::default() }), ..Spec::default() };
    let declare = Op::Modify { name: at("/s"), spec, clear: Vec::new(), if_version: None };
    owner.batch(vec![declare]).await.unwrap();
    eventually_async("it is named again", || async { owner.find("/s").await.ok() }).await;
}

/// Who may advertise a name, or is the program itself, and nobody else.
pub async fn health_is_reported_by_whoever_may(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/s", service(f.launch(Program::Serves))).await.unwrap();
    owner.find("/s").await.unwrap();
    let onlooker = f.onlooker();
    refused(onlooker.report_health("/s", Health::Critical, "because I can").await, Code::Denied, None);
    owner.find("/s").await.unwrap();
    let report = |request: ReportRequest| {
        let owner = owner.clone();
        async move { owner.service.report(&owner.cx, ReportRequest { name: Some(at("/s")), ..request }).await }
    };
    let note = ReportRequest { note: Some("why".into()), load: Some(1.0), ..ReportRequest::default() };
    refused(report(note).await, Code::InvalidArgument, Some("note"));
    let long =
        ReportRequest { health: Some(Health::Passing), note: Some("x".repeat(1_025)), ..ReportRequest::default() };
    refused(report(long).await, Code::InvalidArgument, Some("note"));
}

/// A declaration says what is wrong with it.
pub async fn wrong_checks_name_the_field(f: &dyn Fixture) {
    let owner = f.owner();
    let quick = Check { interval: Some(Span::from_millis(1)), ..Check::of(CheckKind::Tcp) };
    let launch = Launch { check: Some(vec![Check::of(CheckKind::Ttl), quick]), ..f.launch(Program::Serves) };
    refused(owner.add("/s", service(launch)).await, Code::InvalidArgument, Some("launch.check[1].interval"));
}
