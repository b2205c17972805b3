//! What the state machine makes of the commands of a service's life.

mod world;

use byname_api::error::Code;
use byname_api::object::{InstanceId, Kind, Spec, Version};
use byname_api::request::{Op, Outcome, RequestId};
use byname_api::service::{Exit, Health, State};
use byname_api::span::Timestamp;
use byname_name::Pattern;
use byname_registry::command::{Advertise, Change, Evidence};
use byname_registry::query::{self, Outlook, Wants};
use byname_registry::{Command, Entry, Event, Reply, stored};
use world::{World, alias, endpoint, name, record, service};

#[test]
fn missing_parents_are_made_and_owned_by_the_caller() {
    let mut w = World::new();
    w.add("/BVODS/VFS1/x", record("1"));
    let parent = w.registry.tree().get(&name("/bvods/vfs1")).unwrap();
    assert_eq!((parent.kind(), parent.spec.owner.as_deref()), (Kind::Directory, Some("liu")));
    assert_eq!(parent.name.as_str(), "/BVODS/VFS1");
}

#[test]
fn a_name_is_taken_whatever_its_case() {
    let mut w = World::new();
    w.add("/a", record("1"));
    assert_eq!(w.batch(vec![Op::Add { name: name("/A"), spec: record("2") }]), Err(Code::AlreadyExists));
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut w = World::new();
    let ops = ["/a", "/b", "/a"].map(|n| Op::Add { name: name(n), spec: record("1") });
    assert_eq!(w.batch(ops.to_vec()), Err(Code::AlreadyExists));
    assert_eq!(w.registry.tree().len(), 1);
    assert!(w.events.is_empty());
}

#[test]
fn a_write_on_another_version_is_a_conflict() {
    let mut w = World::new();
    w.add("/a", record("1"));
    let version = Version(w.registry.tree().get(&name("/a")).unwrap().version);
    let put = |v, value: &str| vec![Op::Put { name: name("/a"), spec: record(value), if_version: Some(v) }];
    assert_eq!(w.batch(put(version, "2")), Ok(vec![Outcome::Changed]));
    assert_eq!(w.batch(put(version, "3")), Err(Code::Conflict));
    let now = Version(w.registry.tree().get(&name("/a")).unwrap().version);
    assert_eq!(w.batch(put(now, "2")), Ok(vec![Outcome::Unchanged]));
    assert_eq!(Version(w.registry.tree().get(&name("/a")).unwrap().version), now);
}

#[test]
fn a_name_used_again_is_another_object() {
    let mut w = World::new();
    let first = w.add("/a", record("1"));
    w.batch(vec![Op::Delete { name: name("/a"), recursive: false, stop: false, if_version: None }]).unwrap();
    assert_ne!(w.add("/a", record("1")), first);
}

#[test]
fn deleting_is_careful() {
    let mut w = World::new();
    let id = w.service("/d/s");
    let delete = |n: &str, recursive, stop| vec![Op::Delete { name: name(n), recursive, stop, if_version: None }];
    assert_eq!(w.batch(delete("/d", false, false)), Err(Code::Conflict));
    w.order(id, 1);
    assert_eq!(w.batch(delete("/d", true, false)), Err(Code::Conflict));
    w.events.clear();
    assert_eq!(w.batch(delete("/d", true, true)), Ok(vec![Outcome::Deleted]));
    let computer = name("/computers/bugs-bunny");
    assert!(w.events.contains(&Event::Stop { instance: InstanceId(1), computer }));
    assert_eq!(w.batch(delete("/", true, true)), Err(Code::InvalidArgument));
    // A late word about what is gone is no surprise.
    w.ready(1);
}

#[test]
fn aliases_lead_to_objects_and_never_in_circles() {
    let mut w = World::new();
    w.add("/CMS/Host1", service("program = 'cms'"));
    w.add("/BVODS/VFS1/CMS", alias("/CMS/Host1"));
    w.add("/short", alias("/BVODS/VFS1"));
    let end = w.registry.tree().resolve(&name("/short/CMS")).unwrap();
    assert_eq!((end.node.name.as_str(), end.aliased), ("/CMS/Host1", true));
    for (from, to) in [("/l", "/l"), ("/m", "/m/x"), ("/CMS/Host2", "/BVODS/loop")] {
        if to == "/BVODS/loop" {
            w.add("/BVODS/loop", alias("/CMS/Host2"));
        }
        let op = Op::Add { name: name(from), spec: alias(to) };
        assert_eq!(w.batch(vec![op]), Err(Code::AliasLoop), "{from} -> {to}");
    }
    w.add("/p/q/a", alias("/r/a/a"));
    let op = Op::Add { name: name("/r"), spec: alias("/p/q") };
    assert_eq!(w.batch(vec![op]), Err(Code::AliasLoop), "what stands beneath the target would not end");
    // What is added beneath an alias stands beneath its target.
    w.batch(vec![Op::Add { name: name("/short/film"), spec: record("1") }]).unwrap();
    assert!(w.registry.tree().get(&name("/BVODS/VFS1/film")).is_some());
    assert_eq!(w.registry.tree().resolve(&name("/BVODS/loop")).unwrap_err().code(), Code::NotFound);
}

#[test]
fn many_orders_start_one_copy() {
    let mut w = World::new();
    let id = w.service("/s");
    assert_eq!(w.find("/s"), Outlook::Start(id));
    assert_eq!(w.order(id, 1), Reply::Ordered);
    assert_eq!(w.order(id, 2), Reply::Enough);
    assert_eq!(w.find("/s"), Outlook::Wait(id));
    w.ready(1);
    assert_eq!(w.order(id, 3), Reply::Enough);
    match w.find("/s") {
        Outlook::Answer(reply) => {
            assert_eq!(reply.instances[0].pid, Some(7));
            assert_eq!(reply.instances[0].endpoints[0].address, "127.0.0.1");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_endpoint_moves_with_its_computer() {
    let mut w = World::new();
    let id = w.service("/s");
    w.order(id, 1);
    w.ready(1);
    for address in ["10.0.0.1", "10.0.0.2"] {
        w.run(Command::Computer {
            name: name("/computers/bugs-bunny"),
            addresses: vec![address.into()],
            facts: vec![],
        });
        let Outlook::Answer(reply) = w.find("/s") else { panic!("no answer") };
        assert_eq!(reply.instances[0].endpoints[0].address, address);
    }
}

#[test]
fn the_ticket_is_good_once_and_only_for_its_instance() {
    let mut w = World::new();
    let id = w.service("/s");
    w.order(id, 1);
    let ad = |instance, evidence| {
        Command::Advertise(Advertise {
            name: name("/s"),
            instance: InstanceId(instance),
            endpoints: vec![endpoint(5)],
            evidence,
            credential: [9; 32],
            ttl_ms: None,
            weight: None,
            pid: None,
        })
    };
    let denied = |reply| matches!(reply, Reply::Refused(e) if e.code() == Code::Denied);
    assert!(denied(w.run(ad(1, Evidence::Ticket([3; 32])))), "a wrong ticket");
    assert!(denied(w.run(ad(2, Evidence::Ticket([1; 32])))), "another instance");
    assert!(denied(w.run(ad(1, Evidence::Right))), "the right alone does not make one a launched program");
    assert_eq!(w.state("/s"), State::Starting);
    assert_eq!(w.run(ad(1, Evidence::Ticket([1; 32]))), Reply::Advertised { proof: Some([2; 32]), renewal: 0 });
    assert_eq!(w.state("/s"), State::Running);
    assert!(denied(w.run(ad(1, Evidence::Ticket([1; 32])))), "used before");
    assert!(
        matches!(w.run(ad(1, Evidence::Credential([9; 32]))), Reply::Advertised { .. }),
        "the credential stays good"
    );
}

#[test]
fn the_state_table_of_find() {
    let mut w = World::new();
    let id = w.service("/s");
    w.order(id, 1);
    w.ready(1);
    w.report(1, Change::Unhealthy { why: "STATUS=lost its disk".into() });
    assert_eq!(w.refusal("/s"), Code::Unavailable);
    w.ready(1);
    w.run(Command::Stop { service: id, hold: false, reset: false });
    assert_eq!(w.find("/s"), Outlook::Wait(id), "stopping: waits, then starts");
    w.ended(1, Exit::Signal(15));
    assert_eq!(w.find("/s"), Outlook::Start(id), "an ordered end is no failure");
    w.run(Command::Stop { service: id, hold: true, reset: false });
    assert_eq!(w.refusal("/s"), Code::NotRunning);
    w.run(Command::Release { service: id });
    assert_eq!(w.find("/s"), Outlook::Start(id));
    for instance in 2..7 {
        assert_eq!(w.order(id, instance), Reply::Ordered, "{instance}");
        w.ended(instance, Exit::Status(1));
    }
    assert_eq!((w.refusal("/s"), w.state("/s")), (Code::CrashLooping, State::Failed));
    w.run(Command::Stop { service: id, hold: false, reset: true });
    assert_eq!((w.find("/s"), w.state("/s")), (Outlook::Start(id), State::Stopped));
    let wants = Wants { start: true, may_start: false, force: false, all: false, turn: 0 };
    let looked = query::find(w.registry.tree(), &name("/s"), wants, &()).unwrap();
    assert!(matches!(looked, Outlook::Refuse(e) if e.code() == Code::NotRunning));
    w.add("/manual", service("program = 'p'\nstart = 'manual'"));
    assert_eq!(w.refusal("/manual"), Code::NotRunning);
    w.add("/d/x", record("v"));
    assert_eq!(w.refusal("/d"), Code::Unsupported);
}

#[test]
fn a_program_that_leaves_by_itself_is_no_failure() {
    let mut w = World::new();
    let id = w.service("/s");
    for instance in 1..20 {
        assert_eq!(w.order(id, instance), Reply::Ordered);
        w.ready(instance);
        w.ended(instance, Exit::Status(0));
    }
    assert_eq!(w.state("/s"), State::Stopped);
}

#[test]
fn an_unregistered_service_vanishes_with_its_last_instance() {
    let mut w = World::new();
    let ad = |instance| {
        Command::Advertise(Advertise {
            name: name("/u"),
            instance: InstanceId(instance),
            endpoints: vec![endpoint(5)],
            evidence: Evidence::Right,
            credential: [9; 32],
            ttl_ms: Some(1_000),
            weight: None,
            pid: None,
        })
    };
    assert_eq!(w.run(ad(1)), Reply::Advertised { proof: None, renewal: 1 });
    assert_eq!(w.run(ad(1)), Reply::Advertised { proof: None, renewal: 2 });
    assert!(w.registry.tree().get(&name("/u")).unwrap().unregistered);
    w.run(Command::Expire { instance: InstanceId(1), renewal: 1 });
    assert_eq!(w.state("/u"), State::Running, "it was renewed since");
    w.run(Command::Expire { instance: InstanceId(1), renewal: 2 });
    assert!(w.registry.tree().get(&name("/u")).is_none());
    w.run(ad(2));
    w.add("/u", Spec::of(Kind::Service));
    let id = w.registry.tree().get(&name("/u")).unwrap().id;
    w.run(Command::Withdraw { service: id, instances: vec![InstanceId(2)] });
    assert!(w.registry.tree().get(&name("/u")).is_some(), "somebody added it");
}

#[test]
fn a_retry_is_applied_once() {
    let mut w = World::new();
    let id = RequestId { session: RequestId::session_at(Timestamp(w.now), 1), sequence: 1 };
    let add = || Command::Batch { ops: vec![Op::Add { name: name("/a"), spec: record("1") }], set: None };
    let first = w.run_as(Some(id), add());
    assert!(matches!(first, Reply::Batch(_)));
    assert_eq!(w.run_as(Some(id), add()), first);
    w.now += 11 * 60 * 1_000;
    w.run_as(Some(RequestId { session: RequestId::session_at(Timestamp(w.now), 2), sequence: 1 }), add());
    assert!(matches!(w.run_as(Some(id), add()), Reply::Refused(e) if e.code() == Code::Conflict));
}

#[test]
fn a_snapshot_holds_everything() {
    let mut w = World::new();
    let id = w.service("/s");
    w.order(id, 1);
    w.ready(1);
    w.order(id, 2);
    w.ended(1, Exit::Signal(9));
    w.order(id, 3);
    w.add("/a", alias("/s"));
    w.add("/r", record("1"));
    let request = RequestId { session: RequestId::session_at(Timestamp(w.now), 1), sequence: 1 };
    let add = Command::Batch { ops: vec![Op::Add { name: name("/b"), spec: record("1") }], set: Some("films".into()) };
    w.run_as(Some(request), add.clone());
    let mut bytes = Vec::new();
    stored::write_snapshot(&w.registry, &mut bytes).unwrap();
    let mut restored = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    assert!(restored.tree().iter().eq(w.registry.tree().iter()));
    assert_eq!(restored.tree().by_instance(InstanceId(3)).unwrap().name.as_str(), "/s");
    let entry = Entry { at: Timestamp(w.now), by: "liu".into(), request: Some(request), command: add };
    assert!(matches!(restored.apply(&entry, &mut Vec::new()), Reply::Batch(_)), "the reply is remembered");
    for cut in 0..bytes.len() {
        assert!(stored::read_snapshot(&mut &bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn format_1_reads_as_ever() {
    let bytes = include_bytes!("fixtures/snapshot-v1");
    let registry = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    let names: Vec<String> = registry.tree().iter().map(|n| n.name.to_string()).collect();
    assert_eq!(names, ["/", "/BVODS", "/BVODS/QS", "/CMS", "/CMS/current", "/CMS/Host1", "/note"]);
    let note = registry.tree().get(&name("/note")).unwrap();
    assert_eq!((note.spec.value.as_deref(), note.set.as_deref()), (Some("seven"), None));
    let command = include_bytes!("fixtures/command-v1");
    let entry = stored::decode_command(command).unwrap();
    let Command::Earlier(command) = entry.command else { panic!("{:?}", entry.command) };
    assert!(matches!(*command, Command::Batch { ops, set: None } if ops.len() == 1));
    assert!(matches!(stored::decode_command(&[99, 0]), Err(stored::StoredError::Newer(99))));
}

#[test]
fn format_2_reads_as_ever() {
    let bytes = include_bytes!("fixtures/snapshot-v2");
    let registry = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    let names: Vec<String> = registry.tree().iter().map(|n| n.name.to_string()).collect();
    assert_eq!(names, ["/", "/b", "/BVODS", "/BVODS/QS", "/short"]);
    let qs = registry.tree().get(&name("/bvods/qs")).unwrap();
    let state = qs.service.as_deref().unwrap();
    assert_eq!((state.instances.len(), state.ends.len(), state.story.len()), (1, 1, 4));
    assert_eq!(registry.tree().get(&name("/b")).unwrap().set.as_deref(), Some("films"));
    let entry = stored::decode_command(include_bytes!("fixtures/command-v2")).unwrap();
    let Command::Earlier(command) = entry.command else { panic!("{:?}", entry.command) };
    assert!(matches!(*command, Command::Batch { ops, set: Some(_) } if ops.len() == 1));
}

#[test]
fn format_3_reads_as_ever() {
    let bytes = include_bytes!("fixtures/snapshot-v3");
    let mut registry = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    let tree = registry.tree();
    let names: Vec<String> = tree.iter().map(|n| n.name.to_string()).collect();
    let expected = "/ /BVODS /BVODS/QS /CMS /conf /conf/motd /conf/port /people /people/liu /staff";
    assert_eq!(names.join(" "), expected);
    let motd = tree.get(&name("/conf/motd")).unwrap();
    assert_eq!((motd.spec.owner.as_deref(), motd.owner_id), (Some("/people/nobody"), None));
    assert_eq!(motd.lock.as_deref().unwrap().key, [9; 32]);
    assert!(!tree.get(&name("/BVODS/QS")).unwrap().service.as_deref().unwrap().instances[0].revoked);
    assert_eq!(tree.get(&name("/staff")).unwrap().spec.member_ids, None);
    // Owners need not exist, and members are not bound, as when it was logged.
    let entry = stored::decode_command(include_bytes!("fixtures/command-v3")).unwrap();
    assert!(matches!(registry.apply(&entry, &mut Vec::new()), Reply::Batch(_)));
    let team = registry.tree().get(&name("/teams/db")).unwrap();
    assert_eq!((team.spec.owner.as_deref(), team.owner_id), (Some("/people/gone"), None));
    assert_eq!((team.spec.member_ids.clone(), team.set.as_deref()), (None, Some("teams")));
    // A member that is made later is bound.
    let new = Op::Add { name: name("/people/new"), spec: Spec::default() };
    let command = Command::Batch { ops: vec![new], set: None };
    registry.apply(&Entry { at: Timestamp(2_000_000), by: "liu".into(), request: None, command }, &mut Vec::new());
    let id = registry.tree().get(&name("/people/new")).unwrap().id;
    let ids = registry.tree().get(&name("/staff")).unwrap().spec.member_ids.clone().unwrap();
    assert_eq!(ids.get("/people/new"), Some(&id));
}

#[test]
fn pages_join_without_gap_or_double() {
    let mut w = World::new();
    for n in 0..25 {
        w.add(&format!("/p/{n:02}"), record("x"));
    }
    let pattern = Pattern::parse("/p/*").unwrap();
    let (mut names, mut next) = (Vec::new(), None);
    loop {
        let page = query::list(w.registry.tree(), &pattern, Some(10), next.as_deref(), None, None).unwrap();
        names.extend(page.entries.into_iter().map(|e| e.name.to_string()));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(names, (0..25).map(|n| format!("/p/{n:02}")).collect::<Vec<_>>());
    let wrong = query::list(w.registry.tree(), &pattern, None, Some("/q/1"), None, None).unwrap_err();
    assert_eq!(wrong.at_field(), Some("next"));
}

#[test]
fn format_4_reads_as_ever() {
    let bytes = include_bytes!("fixtures/snapshot-v4");
    let mut registry = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    let names: Vec<String> = registry.tree().iter().map(|n| n.name.to_string()).collect();
    assert_eq!(names.join(" "), "/ /BVODS /BVODS/QS /conf /conf/motd /people /people/liu /staff /two");
    let two = registry.tree().get(&name("/two")).unwrap();
    let copies = &two.service.as_deref().unwrap().instances;
    assert_eq!((copies[0].revoked, copies[1].revoked), (true, false));
    assert_eq!(copies[1].well(), (Some(Health::Critical), Some("the disk is full")));
    assert_eq!((&copies[1].checked, &copies[1].reported), (&None, &None));
    let entry = stored::decode_command(include_bytes!("fixtures/command-v4")).unwrap();
    assert!(matches!(&entry.command, Command::Batch { ops, set: Some(set) } if ops.len() == 1 && set == "teams"));
    assert!(matches!(registry.apply(&entry, &mut Vec::new()), Reply::Batch(_)));
    let db = registry.tree().get(&name("/teams/db")).unwrap();
    assert_eq!(db.owner_id, Some(registry.tree().get(&name("/people/liu")).unwrap().id), "names are bound to ids");
}

#[test]
fn the_names_of_servers_stay_by_whatever_way_they_are_meant() {
    let mut w = World::new();
    w.service("/byname/servers/9");
    w.add("/byname/servers/9/beneath", record("x"));
    let delete = |text: &str| Op::Delete { name: name(text), recursive: true, stop: true, if_version: None };
    for way in ["/byname/servers/9", "/byname/\u{17f}ervers/9", "/BYNAME/Servers", "/byname"] {
        assert_eq!(w.batch(vec![delete(way)]).unwrap_err(), Code::Conflict, "{way}");
    }
    let alias = Op::Add { name: name("/x"), spec: alias("/byname") };
    assert_eq!(w.batch(vec![alias, delete("/x/servers")]).unwrap_err(), Code::Conflict);
    // What is beneath them is anybody's.
    w.batch(vec![delete("/byname/servers/9/beneath")]).unwrap();
}
