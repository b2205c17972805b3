//! Credentials, tickets of introduction, join tokens, revocations, secrets, and what the server keeps sealed.

mod world;

use byname_api::error::{Code, Error};
use byname_api::identity::JoinAs;
use byname_api::object::{InstanceId, Kind, ObjectId, Spec, Value};
use byname_api::request::{Op, Outcome};
use byname_api::service::State;
use byname_api::span::Timestamp;
use byname_registry::command::{Advertise, Change, Evidence};
use byname_registry::query::{self, Outlook, Wants};
use byname_registry::{Command, CredentialChange, Event, Reply, Revoked, rehearse, stored};
use world::{World, endpoint, name, record};

fn refused(reply: Reply) -> Error {
    match reply {
        Reply::Refused(error) => error,
        other => panic!("{other:?}"),
    }
}

fn advertise(text: &str, instance: u64, evidence: Evidence) -> Command {
    Command::Advertise(Advertise {
        name: name(text),
        instance: InstanceId(instance),
        endpoints: vec![endpoint(80)],
        evidence,
        credential: [3; 32],
        ttl_ms: Some(60_000),
        weight: None,
        pid: None,
    })
}

fn secret(value: &str) -> Spec {
    Spec { value: Some(value.into()), ..Spec::of(Kind::Secret) }
}

impl World {
    fn credential(&mut self, principal: ObjectId, change: CredentialChange) -> Reply {
        self.run(Command::Credential { principal, change })
    }

    fn introduce(&mut self, ticket: u8, service: ObjectId, instance: u64, in_ms: u64) -> Reply {
        let expires = Timestamp(self.now + in_ms);
        let (client, client_id) = ("/people/liu".into(), Some(ObjectId(77)));
        let instance = InstanceId(instance);
        self.run(Command::Introduce { ticket: [ticket; 32], client, client_id, service, instance, expires })
    }

    fn verify(&mut self, ticket: u8, instance: u64) -> Reply {
        self.run(Command::Verify { ticket: [ticket; 32], instance: InstanceId(instance) })
    }

    fn restored(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        stored::write_snapshot(&self.registry, &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn credentials_belong_to_a_principal_and_go_with_it() {
    let mut w = World::new();
    let liu = w.add("/people/liu", Spec::of(Kind::Principal));
    let note = w.add("/note", record("x"));
    let password = |b: u8| CredentialChange::Password(Some(vec![b]));
    assert_eq!(w.credential(liu, password(1)), Reply::Done);
    assert_eq!(w.registry.tree().credentials(liu).unwrap().valid_from, Timestamp(0), "the first one ends nothing");
    assert_eq!(w.credential(liu, password(2)), Reply::Done);
    assert_eq!(w.registry.tree().credentials(liu).unwrap().valid_from, Timestamp(w.now + 1));
    let key = |label: &str, b: u8| (label.to_owned(), vec![b]);
    let ((label, first), (_, second)) = (key("laptop", 1), key("laptop", 2));
    let add = CredentialChange::AddPasskey { label: label.clone(), key: first };
    assert_eq!(w.credential(liu, add.clone()), Reply::Done);
    assert_eq!(refused(w.credential(liu, add)).code(), Code::AlreadyExists);
    assert_eq!(w.credential(liu, CredentialChange::UpdatePasskey { label: label.clone(), key: second }), Reply::Done);
    let kept = w.registry.tree().credentials(liu).unwrap().clone();
    assert_eq!((kept.password.as_deref(), &*kept.passkeys[0].key), (Some(&[2][..]), &[2][..]));
    assert!(!format!("{kept:?}").contains("[2]"), "{kept:?}");
    let remove = CredentialChange::RemovePasskey { label: "phone".into() };
    assert_eq!(refused(w.credential(liu, remove)).code(), Code::NotFound);
    assert_eq!(w.credential(liu, CredentialChange::RemovePasskey { label }), Reply::Done);
    assert_eq!(refused(w.credential(note, password(1))).code(), Code::Unsupported);
    assert_eq!(refused(w.credential(ObjectId(999), password(1))).code(), Code::NotFound);
    w.run(Command::Revoke(Revoked::Principal(liu)));
    assert_eq!(w.registry.tree().credentials(liu).unwrap().valid_from, Timestamp(w.now + 1));
    let before = w.registry.tree().clone();
    let delete = Op::Delete { name: name("/people/liu"), recursive: false, stop: false, if_version: None };
    w.batch(vec![delete]).unwrap();
    assert!(w.registry.tree().credentials(liu).is_none());
    assert!(before.credentials(liu).is_some(), "a view is frozen");
}

#[test]
fn the_vault_keeps_the_first_when_asked_to() {
    let mut w = World::new();
    let put = |b: u8, only_if_absent| Command::Vault { key: "opaque".into(), sealed: vec![b], only_if_absent };
    assert_eq!(w.run(put(1, true)), Reply::Done);
    assert_eq!(refused(w.run(put(2, true))).code(), Code::Conflict);
    assert_eq!(w.registry.tree().vault("opaque"), Some(&[1][..]));
    assert_eq!(w.run(put(3, false)), Reply::Done);
    assert_eq!(w.registry.tree().vault("opaque"), Some(&[3][..]));
    assert_eq!(w.registry.tree().vault("other"), None);
}

#[test]
fn an_introduction_is_good_once_for_one_instance_and_a_while() {
    let mut w = World::new();
    let id = w.service("/s");
    w.order(id, 5);
    assert_eq!(refused(w.introduce(1, id, 5, 1_000)).code(), Code::Denied, "no ticket was shown yet");
    w.run(advertise("/s", 5, Evidence::Ticket([1; 32])));
    assert!(w.registry.tree().get(&name("/s")).unwrap().service.as_deref().unwrap().instances[0].holds_ticket());
    assert_eq!(w.introduce(1, id, 5, 1_000), Reply::Done);
    let sentence = refused(w.verify(1, 6)).message().to_owned();
    assert_eq!(refused(w.verify(9, 5)).message(), sentence, "nothing is told apart");
    let good = Reply::Verified { client: "/people/liu".into(), client_id: Some(ObjectId(77)) };
    assert_eq!(w.verify(1, 5), good);
    assert_eq!(refused(w.verify(1, 5)).message(), sentence, "used");
    w.introduce(2, id, 5, 15);
    w.now += 5;
    assert_eq!(refused(w.verify(2, 5)).message(), sentence, "over");
    w.introduce(3, id, 5, 1_000);
    w.run(Command::Revoke(Revoked::Instance(InstanceId(5))));
    assert_eq!(refused(w.verify(3, 5)).message(), sentence, "revoked");
    assert_eq!(refused(w.introduce(4, id, 5, 1_000)).code(), Code::Denied);
}

#[test]
fn a_join_token_makes_one_computer() {
    let mut w = World::new();
    let invite = |w: &mut World, secret: u8, computer: Option<&str>| {
        let expires = Timestamp(w.now + 1_000);
        let (join_as, computer) = (JoinAs::Agent, computer.map(name));
        w.run(Command::Invite { secret: [secret; 32], join_as, computer, expires })
    };
    let join = |w: &mut World, secret: u8, computer: &str| {
        w.run(Command::Join { secret: [secret; 32], computer: name(computer) })
    };
    assert_eq!(invite(&mut w, 1, None), Reply::Done);
    let joined = join(&mut w, 1, "/computers/bugs");
    let id = w.registry.tree().get(&name("/computers/bugs")).unwrap().id;
    assert_eq!(joined, Reply::Joined { computer: id, join_as: JoinAs::Agent });
    let again = refused(join(&mut w, 1, "/computers/other"));
    assert_eq!(again.code(), Code::Denied);
    assert!(w.registry.tree().get(&name("/computers/other")).is_none());
    invite(&mut w, 2, Some("/computers/bugs"));
    assert_eq!(refused(join(&mut w, 2, "/computers/daffy")).message(), again.message());
    assert_eq!(join(&mut w, 2, "/Computers/Bugs"), Reply::Joined { computer: id, join_as: JoinAs::Agent });
    w.add("/note", record("x"));
    invite(&mut w, 3, None);
    // A token for any host is for a new one, or whoever holds it could pass for a host that is there.
    assert_eq!(refused(join(&mut w, 3, "/Computers/Bugs")).message(), again.message());
    assert_eq!(refused(join(&mut w, 3, "/note")).message(), again.message());
    assert!(matches!(join(&mut w, 3, "/computers/note"), Reply::Joined { .. }), "a refusal uses nothing up");
    invite(&mut w, 4, None);
    w.now += 2_000;
    assert_eq!(refused(join(&mut w, 4, "/computers/late")).message(), again.message());
}

#[test]
fn a_revoked_instance_is_found_by_nobody_and_speaks_for_nobody() {
    let mut w = World::new();
    let id = w.service("/s");
    w.order(id, 5);
    w.run(advertise("/s", 5, Evidence::Ticket([1; 32])));
    assert!(matches!(w.find("/s"), Outlook::Answer(_)));
    w.events.clear();
    assert_eq!(w.run(Command::Revoke(Revoked::Instance(InstanceId(5)))), Reply::Done);
    assert!(w.events.contains(&Event::Service(id)), "those who wait look again");
    assert_eq!(w.refusal("/s"), Code::Unavailable);
    let all = Wants { start: false, may_start: false, force: false, all: true, turn: 0 };
    assert!(!matches!(query::find(w.registry.tree(), &name("/s"), all, &()), Ok(Outlook::Answer(_))));
    let node = w.registry.tree().get(&name("/s")).unwrap();
    let status = query::service_status(w.registry.tree(), &node).unwrap();
    assert!(status.instances[0].note.as_deref().unwrap().starts_with("revoked by liu"), "{status:?}");
    assert!(!node.service.as_deref().unwrap().instances[0].holds_ticket());
    for evidence in [Evidence::Ticket([1; 32]), Evidence::Credential([3; 32]), Evidence::Right] {
        assert_eq!(refused(w.run(advertise("/s", 5, evidence))).code(), Code::Denied);
    }
    w.report(5, Change::Ready { pid: Some(9), endpoints: vec![] });
    assert_eq!(w.state("/s"), State::Unhealthy, "its agent's word does not lift it");
    let restored = stored::read_snapshot(&mut w.restored().as_slice()).unwrap();
    assert!(restored.tree().get(&name("/s")).unwrap().service.as_deref().unwrap().instances[0].revoked);
    assert_eq!(refused(w.run(Command::Revoke(Revoked::Instance(InstanceId(6))))).code(), Code::NotFound);
}

#[test]
fn a_session_is_revoked_until_its_end() {
    let mut w = World::new();
    let until = Timestamp(w.now + 100);
    w.run(Command::Revoke(Revoked::Session { session: 7, until }));
    assert!(w.registry.tree().is_revoked(7) && !w.registry.tree().is_revoked(8));
    let restored = stored::read_snapshot(&mut w.restored().as_slice()).unwrap();
    assert!(restored.tree().is_revoked(7));
    w.now += 200;
    let length = w.restored().len();
    w.run(Command::Withdraw { service: ObjectId(99), instances: vec![] });
    assert!(!w.registry.tree().is_revoked(7));
    assert!(w.restored().len() < length, "it is swept out");
}

#[test]
fn anchors_only_go_on() {
    let mut w = World::new();
    let anchor = |sequence: u64, hash: u8| Command::Anchor { server: 1, sequence, hash: [hash; 32] };
    for sequence in 0..1_030 {
        assert_eq!(w.run(anchor(sequence, 1)), Reply::Done);
    }
    let kept = w.registry.tree().anchors(1);
    assert_eq!((kept.len(), kept[0].0, w.registry.tree().anchored_servers()), (1_024, 6, vec![1]));
    assert_eq!(w.run(anchor(1_029, 1)), Reply::Done, "a retry");
    assert_eq!(refused(w.run(anchor(1_029, 2))).code(), Code::Conflict, "another history");
    assert_eq!(refused(w.run(anchor(2, 1))).code(), Code::Conflict, "an older one");
}

#[test]
fn the_value_of_a_secret_is_shown_nowhere() {
    let mut w = World::new();
    let id = w.add("/pg/password", secret("f1.SEALEDONE="));
    let shown = |w: &World| {
        let read = query::read(w.registry.tree(), &name("/pg/password"), "x").unwrap();
        let page = query::search(
            w.registry.tree(),
            &byname_api::filter::Filter::parse("(kind=secret)").unwrap(),
            &name("/"),
            None,
            None,
            "x",
            None,
        );
        format!("{read:?} {:?} {:?}", page.unwrap(), w.events)
    };
    assert_eq!(w.registry.tree().secret(id).as_deref(), Some("f1.SEALEDONE="));
    assert_eq!(w.registry.tree().get(&name("/pg/password")).unwrap().spec.fingerprint.as_deref(), Some("f1"));
    let declare = |value: &str| Op::Declare { name: name("/pg/password"), spec: secret(value) };
    assert_eq!(w.batch(vec![declare("f1.SEALEDTWO=")]).unwrap(), [Outcome::Unchanged], "the same value");
    assert_eq!(w.batch(vec![declare("f2.SEALEDTWO=")]).unwrap(), [Outcome::Changed]);
    assert_eq!(w.registry.tree().secret(id).as_deref(), Some("f2.SEALEDTWO="));
    let dry = rehearse(w.registry.tree(), &[declare("f3.SEALEDTHREE=")], None, "liu", Timestamp(w.now)).unwrap();
    assert!(!format!("{dry:?} {}", shown(&w)).contains("SEALED"));
    assert_eq!(dry.results[0].after.as_ref().unwrap().fingerprint.as_deref(), Some("f3"));
    for bad in ["plain", "f.", ".AA", "f1.not base64", "f1.AA\n"] {
        let reply = refused(w.run(Command::Batch { ops: vec![declare(bad)], set: None }));
        assert_eq!((reply.code(), reply.at_field()), (Code::InvalidArgument, Some("value")), "{bad}");
        assert!(!reply.message().contains("base64"), "{reply}");
    }
    // What only the server says is not taken from others, and a declaration without the value keeps it.
    let attributes = [("team".to_owned(), vec![Value::Text("db".into())])].into();
    let put = Spec { attributes: Some(attributes), fingerprint: Some("f9".into()), ..Spec::of(Kind::Secret) };
    w.batch(vec![Op::Put { name: name("/pg/password"), spec: put, if_version: None }]).unwrap();
    let node = w.registry.tree().get(&name("/pg/password")).unwrap();
    assert_eq!(node.spec.fingerprint.as_deref(), Some("f2"));
    let restored = stored::read_snapshot(&mut w.restored().as_slice()).unwrap();
    assert_eq!(restored.tree().secret(id).as_deref(), Some("f2.SEALEDTWO="));
    let modify = |spec, clear: &[&str]| {
        let clear = clear.iter().map(|c| (*c).to_owned()).collect();
        Op::Modify { name: name("/pg/password"), spec, clear, if_version: None }
    };
    assert_eq!(w.batch(vec![modify(record("x"), &[])]).unwrap_err(), Code::Conflict, "it becomes no record");
    w.add("/note", record("x"));
    assert_eq!(
        w.batch(vec![Op::Declare { name: name("/note"), spec: secret("f1.AAAA") }]).unwrap_err(),
        Code::Conflict,
        "nor a record a secret"
    );
    w.batch(vec![modify(Spec::default(), &["value"])]).unwrap();
    assert_eq!(w.registry.tree().secret(id), None);
    w.batch(vec![declare("f4.AAAA")]).unwrap();
    w.batch(vec![Op::Delete { name: name("/pg"), recursive: true, stop: false, if_version: None }]).unwrap();
    assert_eq!(w.registry.tree().secret(id), None);
}
