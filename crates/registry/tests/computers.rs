//! What becomes of copies when their hosts go and come back.

mod world;

use byname_api::error::Code;
use byname_api::host::HostState;
use byname_api::object::{InstanceId, Kind, ObjectId, Spec};
use byname_api::service::{Exit, State};
use byname_registry::command::{HostChange, Order};
use byname_registry::query::{self, Outlook};
use byname_registry::{Command, Event, Registry, Reply, stored};
use world::{World, alias, name, service};

fn arrive(w: &mut World, label: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
    let name = name(&format!("/computers/{label}"));
    assert_eq!(w.run(Command::Arrive { name, addresses, facts: vec![] }), Reply::Done);
}

fn host(w: &mut World, label: &str, change: HostChange) {
    let changes = vec![(name(&format!("/computers/{label}")), change)];
    assert_eq!(w.run(Command::Hosts { changes }), Reply::Done);
}

fn order_on(w: &mut World, service: ObjectId, instance: u64, label: &str, wanted: u32) -> Reply {
    w.run(Command::Order(Order {
        service,
        instance: InstanceId(instance),
        computer: name(&format!("/computers/{label}")),
        ticket: [1; 32],
        proof: [2; 32],
        wanted,
        why: "to keep it running".into(),
    }))
}

fn lose(w: &mut World, instance: u64) {
    assert_eq!(w.run(Command::Lose { instances: vec![InstanceId(instance)] }), Reply::Done);
}

fn found(w: &World, text: &str) -> Vec<u64> {
    match w.find(text) {
        Outlook::Answer(reply) => reply.instances.iter().map(|i| i.id.0).collect(),
        other => panic!("{other:?}"),
    }
}

fn stops(w: &mut World) -> Vec<u64> {
    let events = std::mem::take(&mut w.events);
    events
        .into_iter()
        .filter_map(|e| if let Event::Stop { instance, .. } = e { Some(instance.0) } else { None })
        .collect()
}

/// A service that shall always run once, with its copy 1 on the host `a`.
fn kept(w: &mut World) -> ObjectId {
    arrive(w, "a", &["192.0.2.1"]);
    arrive(w, "b", &["192.0.2.2"]);
    let id = w.add("/s", service("program = 'p'\ncopies = { min = 1, max = 1 }"));
    assert_eq!(order_on(w, id, 1, "a", 1), Reply::Ordered);
    w.ready(1);
    id
}

#[test]
fn an_address_leads_back_to_its_computer() {
    let mut w = World::new();
    arrive(&mut w, "a", &["192.0.2.1", "2001:db8::1", "127.0.0.1"]);
    let leads = |w: &World, text: &str| w.registry.tree().resolve(&name(text)).ok().map(|r| r.node.name.to_string());
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(leads(&w, &format!("/backmap/{address}")).as_deref(), Some("/computers/a"));
    }
    assert_eq!(leads(&w, "/backmap/127.0.0.1"), None, "every host has that");
    // It moves.
    arrive(&mut w, "a", &["192.0.2.9"]);
    assert_eq!(leads(&w, "/backmap/192.0.2.1"), None);
    assert_eq!(leads(&w, "/backmap/192.0.2.9").as_deref(), Some("/computers/a"));
    // Another host has it now.
    arrive(&mut w, "b", &["192.0.2.9"]);
    assert_eq!(leads(&w, "/backmap/192.0.2.9").as_deref(), Some("/computers/b"));
    arrive(&mut w, "a", &["192.0.2.8"]);
    assert_eq!(leads(&w, "/backmap/192.0.2.9").as_deref(), Some("/computers/b"), "that was not its to take away");
}

#[test]
fn what_somebody_declared_of_an_address_stays() {
    let mut w = World::new();
    w.add("/backmap/192.0.2.1", Spec::of(Kind::Directory));
    w.add("/x", Spec::of(Kind::Directory));
    w.add("/backmap/192.0.2.2", alias("/x"));
    // The commands of these tests are one person's, and so are the aliases; a host is known all the same.
    arrive(&mut w, "a", &["192.0.2.1"]);
    assert_eq!(w.registry.tree().get(&name("/backmap/192.0.2.1")).unwrap().kind(), Kind::Directory);
    assert_eq!(w.registry.tree().host(&name("/computers/a")).unwrap().state(), HostState::Up);
}

#[test]
fn an_older_log_gives_what_it_gave() {
    let mut w = World::new();
    let command = Command::Computer { name: name("/computers/a"), addresses: vec!["192.0.2.1".into()], facts: vec![] };
    assert_eq!(w.run(command), Reply::Done);
    assert!(w.registry.tree().get(&name("/backmap")).is_none());
    assert!(w.registry.tree().host(&name("/computers/a")).is_none());
}

#[test]
fn copies_on_a_host_that_is_down_leave_the_answers_and_are_not_buried() {
    let mut w = World::new();
    let id = kept(&mut w);
    host(&mut w, "a", HostChange::Down);
    assert_eq!(w.refusal("/s"), Code::Unavailable);
    assert_eq!(w.state("/s"), State::Unhealthy);
    let Outlook::Refuse(error) = w.find("/s") else { panic!() };
    assert!(error.message().contains("/computers/a is down"), "{error}");
    // It may be back at any moment: nothing takes its place.
    assert_eq!(order_on(&mut w, id, 2, "b", 1), Reply::Enough);
    host(&mut w, "a", HostChange::Up);
    assert_eq!(found(&w, "/s"), [1]);
    assert_eq!(w.state("/s"), State::Running);
    assert_eq!(stops(&mut w), [] as [u64; 0]);
}

#[test]
fn another_copy_is_found_where_one_host_of_two_is_down() {
    let mut w = World::new();
    arrive(&mut w, "a", &[]);
    arrive(&mut w, "b", &[]);
    let id = w.add("/s", service("program = 'p'\ncopies = { min = 2, max = 2 }"));
    order_on(&mut w, id, 1, "a", 2);
    order_on(&mut w, id, 2, "b", 2);
    w.ready(1);
    w.ready(2);
    host(&mut w, "a", HostChange::Down);
    assert_eq!(found(&w, "/s"), [2]);
    assert_eq!(w.state("/s"), State::Running);
}

#[test]
fn when_the_host_comes_back_the_copy_that_stood_in_goes() {
    let mut w = World::new();
    let id = kept(&mut w);
    host(&mut w, "a", HostChange::Down);
    lose(&mut w, 1);
    assert_eq!(order_on(&mut w, id, 2, "b", 1), Reply::Ordered);
    w.ready(2);
    assert_eq!(found(&w, "/s"), [2]);
    assert_eq!(stops(&mut w), [] as [u64; 0]);
    host(&mut w, "a", HostChange::Up);
    assert_eq!(stops(&mut w), [2], "the newest");
    assert_eq!(found(&w, "/s"), [1]);
}

#[test]
fn copies_within_max_stay_when_a_host_comes_back() {
    let mut w = World::new();
    arrive(&mut w, "a", &[]);
    arrive(&mut w, "b", &[]);
    let id = w.add("/s", service("program = 'p'\ncopies = { min = 1, max = 2 }"));
    order_on(&mut w, id, 1, "a", 1);
    w.ready(1);
    host(&mut w, "a", HostChange::Down);
    lose(&mut w, 1);
    order_on(&mut w, id, 2, "b", 1);
    w.ready(2);
    host(&mut w, "a", HostChange::Up);
    assert_eq!(stops(&mut w), [] as [u64; 0]);
}

#[test]
fn a_copy_that_ended_unseen_makes_no_room_for_a_second_stop() {
    let mut w = World::new();
    let id = kept(&mut w);
    host(&mut w, "a", HostChange::Down);
    lose(&mut w, 1);
    order_on(&mut w, id, 2, "b", 1);
    w.ready(2);
    // The host was without power: its agent tells of nothing, so the copy is buried before the host is up.
    w.ended(1, Exit::Unknown);
    host(&mut w, "a", HostChange::Up);
    assert_eq!(stops(&mut w), [] as [u64; 0]);
    assert_eq!(found(&w, "/s"), [2]);
    let status = query::service_status(w.registry.tree(), &w.registry.tree().get(&name("/s")).unwrap()).unwrap();
    assert_eq!(status.failures, 0, "the program did nothing wrong");
}

#[test]
fn a_lost_copy_is_lost_only_while_its_host_is_down() {
    let mut w = World::new();
    let id = kept(&mut w);
    lose(&mut w, 1);
    assert_eq!(order_on(&mut w, id, 2, "b", 1), Reply::Enough);
    assert_eq!(found(&w, "/s"), [1]);
}

#[test]
fn a_drained_host_answers_until_another_copy_runs() {
    let mut w = World::new();
    let id = kept(&mut w);
    host(&mut w, "a", HostChange::Drain { timeout_ms: 1_000 });
    assert_eq!(found(&w, "/s"), [1]);
    assert_eq!(order_on(&mut w, id, 2, "b", 1), Reply::Ordered, "although there is one and `max` is 1");
    assert_eq!(found(&w, "/s"), [1], "the other is not ready");
    w.ready(2);
    assert_eq!(found(&w, "/s"), [2]);
    let retire = Command::Retire { instance: InstanceId(1), why: "drained".into() };
    assert_eq!(w.run(retire.clone()), Reply::Done);
    assert_eq!(w.run(retire), Reply::Enough);
    assert_eq!(stops(&mut w), [1]);
    w.ended(1, Exit::Signal(15));
    assert_eq!(order_on(&mut w, id, 3, "a", 1), Reply::Enough);
    let tree = w.registry.tree();
    let shown = query::object(tree, &tree.get(&name("/computers/a")).unwrap(), "byname.internal").host.unwrap();
    assert_eq!((shown.state, shown.drained_by.as_deref(), shown.instances), (HostState::Draining, Some("liu"), 0));
    host(&mut w, "a", HostChange::Undrain);
    assert_eq!(w.registry.tree().host(&name("/computers/a")).unwrap().state(), HostState::Up);
}

#[test]
fn a_drain_that_is_taken_back_leaves_no_doubles() {
    let mut w = World::new();
    let id = kept(&mut w);
    host(&mut w, "a", HostChange::Drain { timeout_ms: 1_000 });
    order_on(&mut w, id, 2, "b", 1);
    w.ready(2);
    host(&mut w, "a", HostChange::Undrain);
    assert_eq!(stops(&mut w), [2]);
}

#[test]
fn a_drained_host_that_goes_down_is_drained_when_it_comes_back() {
    let mut w = World::new();
    kept(&mut w);
    let state = |w: &World| w.registry.tree().host(&name("/computers/a")).unwrap().state();
    host(&mut w, "a", HostChange::Drain { timeout_ms: 1_000 });
    host(&mut w, "a", HostChange::Down);
    assert_eq!((state(&w), w.refusal("/s")), (HostState::Down, Code::Unavailable));
    host(&mut w, "a", HostChange::Up);
    assert_eq!((state(&w), found(&w, "/s")), (HostState::Draining, vec![1]));
}

#[test]
fn hosts_outlive_a_snapshot() {
    let mut w = World::new();
    let id = kept(&mut w);
    host(&mut w, "b", HostChange::Drain { timeout_ms: 7 });
    host(&mut w, "a", HostChange::Down);
    lose(&mut w, 1);
    let mut bytes = Vec::new();
    stored::write_snapshot(&w.registry, &mut bytes).unwrap();
    let restored: Registry = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    let hosts = |r: &Registry| r.tree().hosts().map(|(n, h)| (n.name.clone(), h.clone())).collect::<Vec<_>>();
    assert_eq!(hosts(&restored), hosts(&w.registry));
    assert_eq!(restored.tree().by_id(id), w.registry.tree().by_id(id));
    let mut again = Vec::new();
    stored::write_snapshot(&restored, &mut again).unwrap();
    assert_eq!(again, bytes);
}
