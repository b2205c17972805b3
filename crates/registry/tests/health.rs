//! What health does to answers, and what the log and snapshots hold of it.
#![allow(missing_docs)]

mod world;

use byname_api::error::Code;
use byname_api::object::{Choose, InstanceId, ObjectId, Spec};
use byname_api::request::Op;
use byname_api::service::{Exit, Health, State};
use byname_name::Name;
use byname_registry::command::{Change, Order, Revoked};
use byname_registry::health::{Source, Verdict};
use byname_registry::query::{self, Outlook, Wants};
use byname_registry::{Command, Event, Reply, stored};
use world::{World, name, service};

use Health::{Critical, Passing, Warning};
use Source::{Checks, Reports};

fn found(w: &mut World, instance: u64, source: Source, health: Health, note: &str) {
    w.report(instance, Change::Health { source, verdict: Some(Verdict { health, note: note.into() }) });
}

/// A service with so many copies that run, numbered from 1.
fn copies(w: &mut World, count: u64, max: u32) -> ObjectId {
    let id = w.add("/s", service(&format!("program = 'p'\ncopies = {{ max = {max} }}")));
    for instance in 1..=count {
        let order = Order {
            service: id,
            instance: InstanceId(instance),
            computer: name("/computers/h"),
            ticket: [1; 32],
            proof: [2; 32],
            wanted: count as u32,
            why: "asked for".into(),
        };
        assert_eq!(w.run(Command::Order(order)), Reply::Ordered);
        w.ready(instance);
    }
    id
}

/// The instances that finds name, over many turns.
fn named(w: &World) -> Vec<u64> {
    let mut named = Vec::new();
    for turn in 0..20 {
        let wants = Wants { start: true, may_start: true, force: false, all: false, turn };
        match query::find(w.registry.tree(), &name("/s"), wants, &()).unwrap() {
            Outlook::Answer(reply) => named.extend(reply.instances.iter().map(|i| i.id.0)),
            other => panic!("{other:?}"),
        }
    }
    named.sort_unstable();
    named.dedup();
    named
}

fn shown(w: &World, instance: u64) -> (State, Option<Health>, Option<String>) {
    let node = w.registry.tree().by_instance(InstanceId(instance)).unwrap();
    let status = query::service_status(w.registry.tree(), &node).unwrap();
    let i = status.instances.into_iter().find(|i| i.id.0 == instance).unwrap();
    (i.state, i.health, i.note)
}

fn story(w: &World) -> Vec<String> {
    query::why(w.registry.tree(), &Name::parse("/s").unwrap()).unwrap().story.into_iter().map(|h| h.what).collect()
}

#[test]
fn a_critical_copy_leaves_the_answers_and_comes_back() {
    let mut w = World::new();
    copies(&mut w, 2, 2);
    let spec = Spec { kind: None, choose: Some(Choose::RoundRobin), ..Spec::default() };
    w.batch(vec![Op::Declare { name: name("/s"), spec }]).unwrap();
    assert_eq!(named(&w), [1, 2]);
    assert_eq!(shown(&w, 1), (State::Running, None, None), "nobody looks");
    found(&mut w, 1, Checks, Passing, "answered 200");
    assert_eq!(shown(&w, 1), (State::Running, Some(Passing), Some("answered 200".into())));
    found(&mut w, 1, Checks, Critical, "answered 503");
    assert_eq!(named(&w), [2]);
    assert_eq!(shown(&w, 1), (State::Unhealthy, Some(Critical), Some("answered 503".into())));
    found(&mut w, 1, Checks, Passing, "answered 200");
    assert_eq!(named(&w), [1, 2]);
    let told: Vec<String> = story(&w).into_iter().filter(|what| what.contains("answered")).collect();
    assert_eq!(told, ["critical: answered 503", "passing: answered 200"], "the first good word is no news");
}

#[test]
fn a_warning_is_named_only_where_nothing_better_is_there() {
    let mut w = World::new();
    copies(&mut w, 2, 2);
    found(&mut w, 1, Checks, Warning, "answered 429");
    assert_eq!(named(&w), [2]);
    found(&mut w, 2, Checks, Critical, "");
    assert_eq!(named(&w), [1]);
    assert_eq!(shown(&w, 1).0, State::Running);
    assert_eq!(shown(&w, 2), (State::Unhealthy, Some(Critical), None));
}

#[test]
fn when_every_copy_is_critical_another_starts_within_max() {
    let mut w = World::new();
    let id = copies(&mut w, 1, 2);
    found(&mut w, 1, Checks, Critical, "answered 503");
    assert_eq!(w.find("/s"), Outlook::Start(id), "a critical copy does not count as one");
    assert_eq!(w.order(id, 2), Reply::Ordered);
    w.ready(2);
    found(&mut w, 2, Checks, Critical, "answered 500");
    match w.find("/s") {
        Outlook::Refuse(error) => {
            assert_eq!(error.code(), Code::Unavailable);
            assert!(error.message().contains("answered 503"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_worst_of_what_is_said_found_and_reported_counts() {
    let mut w = World::new();
    copies(&mut w, 1, 1);
    found(&mut w, 1, Reports, Warning, "the queue is long");
    found(&mut w, 1, Checks, Passing, "answered 200");
    assert_eq!(shown(&w, 1), (State::Running, Some(Warning), Some("the queue is long".into())));
    w.report(1, Change::Unhealthy { why: "on fire".into() });
    assert_eq!(shown(&w, 1), (State::Unhealthy, Some(Critical), Some("on fire".into())));
    // The program's own good word takes back its bad one, and not what others found.
    found(&mut w, 1, Checks, Critical, "answered 503");
    w.ready(1);
    assert_eq!(shown(&w, 1), (State::Unhealthy, Some(Critical), Some("answered 503".into())));
    w.ready(1);
    assert_eq!(shown(&w, 1).0, State::Unhealthy, "told again by an agent that was away");
    found(&mut w, 1, Checks, Passing, "");
    assert_eq!(shown(&w, 1), (State::Running, Some(Warning), Some("the queue is long".into())));
    w.report(1, Change::Health { source: Reports, verdict: None });
    assert_eq!(shown(&w, 1), (State::Running, Some(Passing), None));
    assert_eq!(story(&w).last().unwrap(), "is not checked any more");
}

#[test]
fn what_is_revoked_stays_out_however_well_it_is() {
    let mut w = World::new();
    copies(&mut w, 1, 1);
    w.run(Command::Revoke(Revoked::Instance(InstanceId(1))));
    found(&mut w, 1, Checks, Passing, "");
    assert_eq!(shown(&w, 1).0, State::Unhealthy);
}

#[test]
fn only_what_runs_is_judged_and_the_same_word_is_no_change() {
    let mut w = World::new();
    let id = w.service("/s");
    w.order(id, 1);
    found(&mut w, 1, Checks, Critical, "too early");
    w.ready(1);
    assert_eq!(shown(&w, 1), (State::Running, None, None));
    found(&mut w, 1, Checks, Critical, "answered 503");
    w.events.clear();
    let revision = w.registry.tree().revision;
    found(&mut w, 1, Checks, Critical, "answered 503");
    assert_eq!((w.events.len(), w.registry.tree().revision), (0, revision));
    found(&mut w, 1, Checks, Passing, "");
    assert!(w.events.iter().any(|event| matches!(event, Event::Object { .. })), "watchers hear of it");
    w.run(Command::Stop { service: id, hold: false, reset: false });
    found(&mut w, 1, Checks, Critical, "too late");
    assert_eq!(shown(&w, 1).0, State::Stopping);
    w.ended(1, Exit::Status(0));
    found(&mut w, 1, Checks, Critical, "gone");
    assert_eq!(w.state("/s"), State::Stopped);
}

#[test]
fn a_snapshot_holds_health() {
    let mut w = World::new();
    copies(&mut w, 2, 2);
    found(&mut w, 1, Checks, Critical, "answered 503");
    found(&mut w, 1, Reports, Warning, "the queue is long");
    found(&mut w, 2, Reports, Passing, "");
    let mut bytes = Vec::new();
    stored::write_snapshot(&w.registry, &mut bytes).unwrap();
    let restored = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    assert!(restored.tree().iter().eq(w.registry.tree().iter()));
    let node = restored.tree().get(&name("/s")).unwrap();
    let first = node.service.as_deref().unwrap().instance(InstanceId(1)).unwrap().clone();
    assert_eq!(first.verdict(Checks).map(|v| v.health), Some(Critical));
    assert_eq!(first.verdict(Reports).map(|v| v.note.as_str()), Some("the queue is long"));
}
