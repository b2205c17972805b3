//! The same commands give the same state everywhere: on two servers, and on one that was restored from a snapshot half
//! way.

use byname_api::access::{AclEntry, Subject};
use byname_api::caller::Right;
use byname_api::identity::JoinAs;
use byname_api::launch::Launch;
use byname_api::object::{Audited, InstanceId, Kind, ObjectId, Spec, Version};
use byname_api::request::{Op, RequestId};
use byname_api::service::{Endpoint, Exit, State};
use byname_api::span::Timestamp;
use byname_name::Name;
use byname_registry::command::{Advertise, Change, Evidence, HostChange, Order};
use byname_registry::{Command, CredentialChange, Entry, Registry, Revoked, stored};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Name> {
    let label = || prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(label(), 1..4).prop_map(|labels| Name::parse(&format!("/{}", labels.join("/"))).unwrap())
}

fn acl_entry() -> impl Strategy<Value = AclEntry> {
    let who = prop_oneof![2 => name().prop_map(Subject::Named), 1 => Just(Subject::Anyone)];
    (who, any::<bool>()).prop_map(|(who, allow)| AclEntry { allow, ..AclEntry::allow(who, Right::Read) })
}

fn spec() -> impl Strategy<Value = Spec> {
    prop_oneof![
        Just(Spec::of(Kind::Directory)),
        "[a-z]{0,4}".prop_map(|v| Spec { value: Some(v), ..Spec::of(Kind::Record) }),
        name().prop_map(|target| Spec { target: Some(target), ..Spec::of(Kind::Alias) }),
        Just(Spec {
            launch: Some(Launch { program: Some("p".into()), ..Launch::default() }),
            ..Spec::of(Kind::Service)
        }),
        Just(Spec::of(Kind::Principal)),
        "[ab]".prop_map(|v| Spec { value: Some(format!("{v}.AAAA")), ..Spec::of(Kind::Secret) }),
        prop::collection::vec(name().prop_map(|n| n.to_string()), 0..3)
            .prop_map(|members| Spec { members: Some(members), ..Spec::of(Kind::Group) }),
        (prop::collection::vec(acl_entry(), 0..3), prop::option::of(name()), any::<bool>()).prop_map(
            |(acl, owner, reads)| Spec {
                acl: Some(acl),
                owner: owner.map(|o| o.to_string()),
                audit: reads.then_some(Audited::Reads),
                ..Spec::default()
            }
        ),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let version = || prop::option::weighted(0.2, (0..40u64).prop_map(Version));
    prop_oneof![
        4 => (name(), spec()).prop_map(|(name, spec)| Op::Add { name, spec }),
        2 => (name(), spec(), version()).prop_map(|(name, spec, if_version)| Op::Put { name, spec, if_version }),
        2 => (name(), spec()).prop_map(|(name, spec)| Op::Declare { name, spec }),
        1 => (name(), spec(), version())
            .prop_map(|(name, spec, if_version)| Op::Modify { name, spec, clear: vec!["ttl".into()], if_version }),
        2 => (name(), any::<bool>(), any::<bool>())
            .prop_map(|(name, recursive, stop)| Op::Delete { name, recursive, stop, if_version: None }),
        1 => (name(), prop::option::of(any::<bool>()), version(), prop::option::weighted(0.1, 0..40u64))
            .prop_map(|(name, exists, if_version, fence)| Op::Check { name, exists, if_version, fence }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let service = || (0..12u64).prop_map(ObjectId);
    let instance = || (1..12u64).prop_map(InstanceId);
    let endpoints = || vec![Endpoint { protocol: "tcp".into(), address: String::new(), port: 80 }];
    let change = prop_oneof![
        Just(Change::Started { pid: Some(5), endpoints: endpoints() }),
        Just(Change::Ready { pid: Some(5), endpoints: endpoints() }),
        Just(Change::Unhealthy { why: "ill".into() }),
        (0..3i32, any::<bool>()).prop_map(|(status, ordered)| Change::Ended {
            exit: Exit::Status(status),
            last_lines: "x".into(),
            error: None,
            ordered,
        }),
    ];
    prop_oneof![
        8 => prop::collection::vec(op(), 1..4).prop_map(|ops| Command::Batch { ops, set: None }),
        4 => (service(), instance(), 1..3u32).prop_map(|(service, instance, wanted)| Command::Order(Order {
            service,
            instance,
            computer: Name::parse("/computers/a").unwrap(),
            ticket: [1; 32],
            proof: [2; 32],
            wanted,
            why: "asked".into(),
        })),
        4 => (instance(), change).prop_map(|(instance, change)| Command::Report { instance, change }),
        1 => (service(), any::<bool>(), any::<bool>())
            .prop_map(|(service, hold, reset)| Command::Stop { service, hold, reset }),
        1 => service().prop_map(|service| Command::Release { service }),
        2 => (name(), instance(), any::<bool>()).prop_map(move |(name, instance, ticket)| {
            Command::Advertise(Advertise {
                name,
                instance,
                endpoints: endpoints(),
                evidence: if ticket { Evidence::Ticket([1; 32]) } else { Evidence::Right },
                credential: [3; 32],
                ttl_ms: Some(1_000),
                weight: None,
                pid: None,
            })
        }),
        1 => (service(), instance())
            .prop_map(|(service, instance)| Command::Withdraw { service, instances: vec![instance] }),
        1 => (instance(), 1..3u64).prop_map(|(instance, renewal)| Command::Expire { instance, renewal }),
        1 => instance().prop_map(|instance| Command::Idle { instance }),
        3 => (name(), 1..3u8, any::<bool>())
            .prop_map(|(name, key, renew)| Command::Lock { name, key: [key; 32], ttl_ms: 1_000, renew }),
        2 => (name(), prop::option::of(1..3u8))
            .prop_map(|(name, key)| Command::Unlock { name, key: key.map(|k| [k; 32]) }),
        1 => (service(), 0..60u64).prop_map(|(object, renewal)| Command::ExpireLock { object, renewal }),
        4 => identity(),
        4 => hosts(),
        1 => name().prop_map(|name| Command::Earlier(Box::new(Command::Batch {
            ops: vec![Op::Add { name, spec: Spec { owner: Some("/nobody".into()), ..Spec::default() } }],
            set: None,
        }))),
    ]
}

fn hosts() -> impl Strategy<Value = Command> {
    let computer =
        || prop::sample::select(vec!["a", "b"]).prop_map(|l| Name::parse(&format!("/computers/{l}")).unwrap());
    let change = prop_oneof![
        Just(HostChange::Down),
        Just(HostChange::Up),
        Just(HostChange::Drain { timeout_ms: 9 }),
        Just(HostChange::Undrain),
    ];
    let instances = || prop::collection::vec((1..12u64).prop_map(InstanceId), 0..4);
    prop_oneof![
        (computer(), "192.0.2.[12]").prop_map(|(name, address)| Command::Arrive {
            name,
            addresses: vec![address],
            facts: vec![("cores".into(), "2".into())]
        }),
        prop::collection::vec((computer(), change), 0..3).prop_map(|changes| Command::Hosts { changes }),
        instances().prop_map(|instances| Command::Lose { instances }),
        (1..12u64).prop_map(|n| Command::Retire { instance: InstanceId(n), why: "drained".into() }),
    ]
}

fn identity() -> impl Strategy<Value = Command> {
    let object = || (0..12u64).prop_map(ObjectId);
    let instance = || (1..12u64).prop_map(InstanceId);
    let bytes = || (0..4u8).prop_map(|n| [n; 32]);
    let until = || (1_000_000..20_000_000u64).prop_map(Timestamp);
    let change = prop_oneof![
        prop::option::of(any::<u8>()).prop_map(|b| CredentialChange::Password(b.map(|b| vec![b]))),
        ("[ab]", any::<u8>()).prop_map(|(label, b)| CredentialChange::AddPasskey { label, key: vec![b] }),
        ("[ab]", any::<u8>()).prop_map(|(label, b)| CredentialChange::UpdatePasskey { label, key: vec![b] }),
        "[ab]".prop_map(|label| CredentialChange::RemovePasskey { label }),
    ];
    let revoked = prop_oneof![
        instance().prop_map(Revoked::Instance),
        object().prop_map(Revoked::Principal),
        (0..9u64, until()).prop_map(|(session, until)| Revoked::Session { session, until }),
    ];
    prop_oneof![
        (object(), change).prop_map(|(principal, change)| Command::Credential { principal, change }),
        ("[ab]", any::<u8>(), any::<bool>()).prop_map(|(key, b, only_if_absent)| Command::Vault {
            key,
            sealed: vec![b],
            only_if_absent
        }),
        (bytes(), object(), instance(), until(), prop::option::of(object())).prop_map(
            |(ticket, service, instance, expires, client_id)| Command::Introduce {
                ticket,
                client: "/a".into(),
                client_id,
                service,
                instance,
                expires
            }
        ),
        (bytes(), instance()).prop_map(|(ticket, instance)| Command::Verify { ticket, instance }),
        (bytes(), any::<bool>(), prop::option::of(name()), until()).prop_map(|(secret, agent, computer, expires)| {
            let join_as = if agent { JoinAs::Agent } else { JoinAs::Server };
            Command::Invite { secret, join_as, computer, expires }
        }),
        (bytes(), name()).prop_map(|(secret, computer)| Command::Join { secret, computer }),
        revoked.prop_map(Command::Revoke),
        (0..3u64, 0..9u64, bytes()).prop_map(|(server, sequence, hash)| Command::Anchor { server, sequence, hash }),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (command(), prop::option::weighted(0.3, 1..6u64), 0..400_000u64);
    prop::collection::vec(one, 1..60).prop_map(|list| {
        let mut now = 1_000_000;
        list.into_iter()
            .map(|(command, sequence, step)| {
                now += step;
                let session = RequestId::session_at(Timestamp(1_000_000), 7);
                let request = sequence.map(|sequence| RequestId { session, sequence });
                Entry { at: Timestamp(now), by: "liu".into(), request, command }
            })
            .collect()
    })
}

fn snapshot(registry: &Registry) -> Vec<u8> {
    let mut bytes = Vec::new();
    stored::write_snapshot(registry, &mut bytes).unwrap();
    bytes
}

/// What must hold of every state.
fn check(registry: &Registry) {
    let tree = registry.tree();
    for node in tree.iter() {
        assert!(node.kind() != Kind::Secret || node.spec.value.is_none());
        assert_eq!(tree.secret(node.id).is_some(), node.spec.fingerprint.is_some(), "{}", node.name);
        for entry in node.spec.acl.iter().flatten() {
            assert_eq!(entry.id.is_some(), matches!(entry.who, Subject::Named(_)), "{}", node.name);
        }
        for (member, _) in node.spec.member_ids.iter().flatten() {
            assert!(node.spec.members.iter().flatten().any(|m| m == member), "{}", node.name);
        }
        if let Some(parent) = node.name.parent() {
            assert!(tree.get(&parent).is_some(), "{} has no parent", node.name);
        }
        assert_eq!(tree.by_id(node.id).unwrap().name, node.name);
        assert_eq!(node.service.is_some(), node.kind() == Kind::Service);
        if let Some(service) = &node.service {
            let max = node.spec.launch.as_ref().map_or(usize::MAX, |l| l.copies().max as usize);
            let launched = service.instances.iter().filter(|i| i.state == State::Starting).count();
            assert!(launched <= max, "{} has too many copies", node.name);
            for instance in &service.instances {
                assert_eq!(tree.by_instance(instance.id).unwrap().name, node.name);
            }
            assert!(!node.unregistered || !service.instances.is_empty() || node.lock.is_some());
        }
        assert_eq!(tree.locked().any(|n| n.id == node.id), node.lock.is_some());
        assert_eq!(
            tree.live().any(|n| n.id == node.id),
            node.service.as_deref().is_some_and(|s| !s.instances.is_empty())
        );
        let target = tree.follow(&node.name, true, None);
        assert!(target.is_ok(), "{}: {target:?}", node.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn servers_agree_and_snapshots_hold_everything(entries in entries(), cut in 0..60usize) {
        let (mut one, mut other) = (Registry::default(), Registry::default());
        for (index, entry) in entries.iter().enumerate() {
            if index == cut {
                other = stored::read_snapshot(&mut snapshot(&other).as_slice()).unwrap();
            }
            let (mut events, mut others) = (Vec::new(), Vec::new());
            let stored = stored::decode_command(&stored::encode_command(entry)).unwrap();
            prop_assert_eq!(&stored, entry);
            prop_assert_eq!(one.apply(entry, &mut events), other.apply(&stored, &mut others));
            prop_assert_eq!(events, others);
            check(&one);
        }
        prop_assert_eq!(snapshot(&one), snapshot(&other));
    }

    #[test]
    fn stored_bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = stored::decode_command(&bytes);
        let _ = stored::decode_reply(&bytes);
        let mut file = b"byname-snapshot\x04".to_vec();
        file.extend(&bytes);
        let _ = stored::read_snapshot(&mut file.as_slice());
    }
}
