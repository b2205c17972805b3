#![allow(missing_docs)]
mod world;
use byname_api::identity::JoinAs;
use byname_api::object::*;
use byname_api::request::Op;
use byname_api::service::Exit;
use byname_api::span::Timestamp;
use byname_registry::command::{Change, CredentialChange, Order, Revoked};
use byname_registry::{Command, Entry, stored};
use world::*;
#[test]
fn make() {
    let mut w = World::new();
    w.add("/people/liu", Spec::of(Kind::Principal));
    let mut staff = Spec::of(Kind::Group);
    staff.members = Some(vec!["/people/liu".into()]);
    w.add("/staff", staff);
    let id = w.service("/BVODS/QS");
    w.order(id, 1);
    w.ready(1);
    w.ended(1, Exit::Signal(9));
    w.add("/two", service("program = 'p'\ncopies = { max = 2 }"));
    let two = w.registry.tree().get(&name("/two")).unwrap().id;
    w.order(two, 2);
    w.ready(2);
    w.run(Command::Order(Order {
        service: two,
        instance: InstanceId(3),
        computer: name("/computers/bugs-bunny"),
        ticket: [1; 32],
        proof: [2; 32],
        wanted: 2,
        why: "asked for".into(),
    }));
    w.ready(3);
    w.report(3, Change::Unhealthy { why: "the disk is full".into() });
    w.run(Command::Revoke(Revoked::Instance(InstanceId(2))));
    w.run(Command::Lock { name: name("/conf/motd"), key: [9; 32], ttl_ms: 30_000, renew: false });
    let liu = w.registry.tree().get(&name("/people/liu")).unwrap().id;
    w.run(Command::Credential { principal: liu, change: CredentialChange::Password(Some(vec![1, 2, 3])) });
    w.run(Command::Vault { key: "k".into(), sealed: vec![4, 5], only_if_absent: true });
    w.run(Command::Invite {
        secret: [7; 32],
        join_as: JoinAs::Agent,
        computer: Some(name("/computers/daffy")),
        expires: Timestamp(9_000_000),
    });
    w.run(Command::Anchor { server: 1, sequence: 5, hash: [6; 32] });
    let mut bytes = Vec::new();
    stored::write_snapshot(&w.registry, &mut bytes).unwrap();
    std::fs::write("tests/fixtures/snapshot-v4", bytes).unwrap();
    let mut conf = service("program = 'q'");
    conf.owner = Some("/people/liu".into());
    let command =
        Command::Batch { ops: vec![Op::Add { name: name("/teams/db"), spec: conf }], set: Some("teams".into()) };
    let entry = Entry { at: Timestamp(1_500_000), by: "liu".into(), request: None, command };
    std::fs::write("tests/fixtures/command-v4", stored::encode_command(&entry)).unwrap();
}
