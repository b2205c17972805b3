//! Locks, idle stops, junctions, stable sockets, and which instance is chosen.

mod world;

use std::collections::HashMap;

use byname_api::error::Code;
use byname_api::object::{InstanceId, Kind, Spec};
use byname_api::request::{Change as ObjectChange, Op};
use byname_api::service::{Exit, State};
use byname_registry::command::Order;
use byname_registry::query::{self, Outlook, Samples, Wants};
use byname_registry::{Command, Event, Reply};
use world::{World, name, record, service};

fn lock(w: &mut World, text: &str, key: u8, renew: bool) -> Result<(u64, u64), Code> {
    match w.run(Command::Lock { name: name(text), key: [key; 32], ttl_ms: 5_000, renew }) {
        Reply::Locked { fence, renewal, .. } => Ok((fence, renewal)),
        Reply::Refused(error) => Err(error.code()),
        other => panic!("{other:?}"),
    }
}

fn unlock(w: &mut World, text: &str, key: Option<u8>) -> Result<bool, Code> {
    match w.run(Command::Unlock { name: name(text), key: key.map(|k| [k; 32]) }) {
        Reply::Unlocked(was) => Ok(was),
        Reply::Refused(error) => Err(error.code()),
        other => panic!("{other:?}"),
    }
}

fn check(w: &mut World, text: &str, fence: u64) -> Result<(), Code> {
    let op = Op::Check { name: name(text), exists: None, if_version: None, fence: Some(fence) };
    w.batch(vec![op]).map(drop)
}

fn changes(w: &mut World) -> Vec<(ObjectChange, String)> {
    w.events
        .drain(..)
        .filter_map(|e| match e {
            Event::Object { change, node, .. } => Some((change, node.name.to_string())),
            _ => None,
        })
        .collect()
}

#[test]
fn a_lock_has_one_holder_and_its_fence_only_grows() {
    let mut w = World::new();
    let id = w.add("/l", record("x"));
    let (first, renewal) = lock(&mut w, "/l", 1, false).unwrap();
    assert_eq!(lock(&mut w, "/l", 2, false), Err(Code::Conflict));
    assert_eq!(lock(&mut w, "/l", 2, true), Err(Code::Conflict), "another key renews nothing");
    let (same, renewed) = lock(&mut w, "/L", 1, true).unwrap();
    assert!(same == first && renewed > renewal);
    assert_eq!(w.run(Command::ExpireLock { object: id, renewal }), Reply::Done);
    assert_eq!((check(&mut w, "/l", first), check(&mut w, "/l", first + 1)), (Ok(()), Err(Code::Conflict)));
    let shown = query::read(w.registry.tree(), &name("/l"), "x").unwrap().object.lock.unwrap();
    assert_eq!((shown.fence, shown.by.as_str(), shown.ttl_ms), (first, "liu", 5_000));
    assert_eq!(w.registry.tree().locked().count(), 1);
    assert_eq!(unlock(&mut w, "/l", Some(2)), Err(Code::Denied));
    assert_eq!((unlock(&mut w, "/l", Some(1)), unlock(&mut w, "/l", Some(1))), (Ok(true), Ok(false)));
    assert_eq!(lock(&mut w, "/l", 1, true), Err(Code::Conflict), "what was let go of is not renewed");
    let (second, renewal) = lock(&mut w, "/l", 1, false).unwrap();
    assert!(second > first);
    assert_eq!(check(&mut w, "/l", first), Err(Code::Conflict));
    w.run(Command::ExpireLock { object: id, renewal });
    assert_eq!(lock(&mut w, "/l", 2, false).map(|(fence, _)| fence > second), Ok(true));
    assert_eq!(unlock(&mut w, "/l", None), Ok(true), "it can be broken");
    assert!(w.registry.tree().get(&name("/l")).is_some() && w.registry.tree().locked().next().is_none());
}

#[test]
fn a_record_made_for_its_lock_goes_with_it_unless_somebody_adds_it() {
    let mut w = World::new();
    lock(&mut w, "/locks/a", 1, false).unwrap();
    let all = [(ObjectChange::Created, "/locks".to_owned()), (ObjectChange::Created, "/locks/a".to_owned())];
    assert_eq!(changes(&mut w)[..2], all);
    assert!(w.registry.tree().get(&name("/locks/a")).unwrap().unregistered);
    assert_eq!(unlock(&mut w, "/locks/a", Some(1)), Ok(true));
    assert_eq!(changes(&mut w).last(), Some(&(ObjectChange::Deleted, "/locks/a".to_owned())));
    assert!(w.registry.tree().get(&name("/locks/a")).is_none());
    let (fence, _) = lock(&mut w, "/locks/b", 1, false).unwrap();
    w.add("/locks/b", service("program = 'p'"));
    assert_eq!(check(&mut w, "/locks/b", fence), Ok(()), "what is added takes the lock over");
    assert_eq!(unlock(&mut w, "/locks/b", Some(1)), Ok(true));
    assert_eq!(w.state("/locks/b"), State::Stopped);
}

#[test]
fn a_refused_lock_makes_nothing() {
    let mut w = World::new();
    assert_eq!(lock(&mut w, "/a/b", 1, true), Err(Code::Conflict));
    assert_eq!((w.registry.tree().len(), w.registry.tree().revision), (1, 0));
}

fn order(w: &mut World, text: &str, instance: u64, wanted: u32) {
    let service = w.registry.tree().get(&name(text)).unwrap().id;
    let order = Command::Order(Order {
        service,
        instance: InstanceId(instance),
        computer: name("/computers/bugs-bunny"),
        ticket: [1; 32],
        proof: [2; 32],
        wanted,
        why: "asked for".into(),
    });
    assert_eq!(w.run(order), Reply::Ordered);
    w.ready(instance);
}

#[test]
fn an_idle_copy_is_stopped_unless_it_shall_run() {
    let mut w = World::new();
    w.add("/s", service("program = 'p'\nidle_stop = '10m'\ncopies = { min = 1, max = 2 }"));
    w.add("/always", service("program = 'p'\nidle_stop = '10m'\nstart = 'always'"));
    w.add("/never", service("program = 'p'"));
    for (service, instance) in [("/s", 1), ("/s", 2), ("/always", 3), ("/never", 4)] {
        order(&mut w, service, instance, 2);
    }
    let idle = |w: &mut World, n| w.run(Command::Idle { instance: InstanceId(n) });
    let revision = w.registry.tree().revision;
    assert_eq!([3, 4, 9].map(|n| idle(&mut w, n)), [Reply::Enough, Reply::Enough, Reply::Enough]);
    assert_eq!(w.registry.tree().revision, revision);
    assert_eq!([1, 1, 2].map(|n| idle(&mut w, n)), [Reply::Done, Reply::Enough, Reply::Enough]);
    let stop = Event::Stop { instance: InstanceId(1), computer: name("/computers/bugs-bunny") };
    assert!(w.events.contains(&stop));
    let story = query::why(w.registry.tree(), &name("/s")).unwrap().story;
    assert_eq!(story.last().unwrap().what, "idle: nobody used it for 10m");
    w.ended(1, Exit::Signal(15));
    assert_eq!((idle(&mut w, 2), w.state("/s")), (Reply::Enough, State::Running));
}

#[test]
fn events_tell_a_watch_all_it_needs() {
    let mut w = World::new();
    w.add("/d/s", service("program = 'p'"));
    order(&mut w, "/d/s", 1, 1);
    let put = Op::Put { name: name("/d/s"), spec: service("program = 'q'"), if_version: None };
    w.batch(vec![put]).unwrap();
    w.batch(vec![Op::Delete { name: name("/d"), recursive: true, stop: true, if_version: None }]).unwrap();
    let mut last = 0;
    let told: Vec<_> = w
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Object { revision, change, node } => {
                assert!(*revision >= last);
                last = *revision;
                let live = node.service.as_deref().map_or(0, |s| s.instances.len());
                Some((*change, node.name.as_str(), live))
            }
            _ => None,
        })
        .collect();
    let expected = [
        (ObjectChange::Created, "/d", 0),
        (ObjectChange::Created, "/d/s", 0),
        (ObjectChange::State, "/d/s", 1),
        (ObjectChange::State, "/d/s", 1),
        (ObjectChange::Changed, "/d/s", 1),
        (ObjectChange::Deleted, "/d/s", 1),
        (ObjectChange::Deleted, "/d", 0),
    ];
    assert_eq!(told, expected);
    assert_eq!(last, w.registry.tree().revision);
}

#[test]
fn what_is_beneath_a_junction_is_elsewhere() {
    let mut w = World::new();
    let junction = Spec {
        servers: Some(vec!["/byname/servers/2".into()]),
        interface: Some("byname.names/1".into()),
        ..Spec::of(Kind::Junction)
    };
    w.add("/far", junction);
    let error = w.registry.tree().resolve(&name("/far/a/b")).unwrap_err();
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.message().contains("`/far` (byname.names/1)"), "{error}");
    assert_eq!(w.batch(vec![Op::Add { name: name("/far/a/b"), spec: record("x") }]), Err(Code::Conflict));
    w.add("/near", world::alias("/far"));
    assert_eq!(w.registry.tree().resolve(&name("/near/a")).unwrap_err().code(), Code::Unsupported);
    assert_eq!(lock(&mut w, "/far/a", 1, false), Err(Code::Unsupported));
}

#[test]
fn a_stable_socket_belongs_to_one_service_on_a_host() {
    let mut w = World::new();
    let launch = |more: &str| service(&format!("program = 'p'\nlisten = '127.0.0.1:5432'\n{more}"));
    w.add("/a", launch("hosts = ['bugs', 'daffy']"));
    let add = |n: &str, spec| vec![Op::Add { name: name(n), spec }];
    assert_eq!(w.batch(add("/b", launch(""))), Err(Code::Conflict));
    assert_eq!(w.batch(add("/b", launch("hosts = 'Daffy'"))), Err(Code::Conflict));
    w.add("/b", launch("hosts = 'elmer'"));
    w.batch(vec![Op::Put { name: name("/a"), spec: launch("hosts = 'bugs'"), if_version: None }]).unwrap();
    w.batch(vec![Op::Put { name: name("/a"), spec: service("program = 'p'"), if_version: None }]).unwrap();
    assert_eq!(w.batch(add("/c", launch("hosts = 'bugs'"))).map(|_| ()), Ok(()));
    let special: Vec<String> = w.registry.tree().special().map(|n| n.name.to_string()).collect();
    assert_eq!(special, ["/b", "/c"]);
}

#[test]
fn the_least_loaded_is_chosen_and_ties_take_turns() {
    struct Loads(HashMap<u64, f64>);
    impl Samples for Loads {
        fn load(&self, instance: InstanceId) -> Option<f64> {
            self.0.get(&instance.0).copied()
        }
    }
    let mut w = World::new();
    let spec = service("program = 'p'\ncopies = { max = 3 }");
    w.add("/s", Spec { choose: Some(byname_api::object::Choose::LeastLoaded), ..spec });
    for instance in 1..=3 {
        order(&mut w, "/s", instance, 3);
    }
    let chosen = |loads: &[(u64, f64)]| -> Vec<u64> {
        let samples = Loads(loads.iter().copied().collect());
        (0..4)
            .map(|turn| {
                let wants = Wants { start: true, may_start: true, force: false, all: false, turn };
                match query::find(w.registry.tree(), &name("/s"), wants, &samples).unwrap() {
                    Outlook::Answer(reply) => reply.instances[0].id.0,
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    };
    assert_eq!(chosen(&[(1, 3.0), (2, 1.0), (3, 2.0)]), [2, 2, 2, 2]);
    assert_eq!(chosen(&[(1, 3.0), (2, 1.0)]), [3, 3, 3, 3], "nothing reported counts as 0");
    assert_eq!(chosen(&[(1, 3.0), (2, 1.0), (3, 1.0)]), [2, 3, 2, 3]);
    assert_eq!(chosen(&[(1, f64::NAN)]), [1, 2, 3, 1]);
}
