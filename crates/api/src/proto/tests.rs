//! What goes over the wire comes back as it was, and nothing that comes over the wire does harm.

use std::collections::BTreeMap;
use std::fmt::Debug;

use byname_name::Name;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::access::{self as a, AclEntry, Rights, Subject};
use crate::audit as au;
use crate::caller::{Mechanism, Right};
use crate::error::{Code, Error, Result};
use crate::host::{self as h, HostState, HostStatus as Host};
use crate::identity::{self as i, Blob, Secret};
use crate::launch as l;
use crate::object as o;
use crate::request as r;
use crate::service as s;
use crate::span::{Span, Timestamp};

/// Sends a value through bytes and back. Compared by `Debug`: names are equal in another case, too.
fn through<D, M>(value: &D) -> Result<D>
where
    D: Clone + Debug + TryFrom<M, Error = Error>,
    M: Message + Default + From<D>,
{
    let bytes = M::from(value.clone()).encode_to_vec();
    D::try_from(M::decode(&bytes[..]).expect("own bytes decode"))
}

fn same<D, M>(value: D)
where
    D: Clone + Debug + TryFrom<M, Error = Error>,
    M: Message + Default + From<D>,
{
    assert_eq!(format!("{:?}", through::<D, M>(&value)), format!("{:?}", Ok::<D, Error>(value)));
}

/// As [`same`], for values that show nothing of their secrets.
fn equal<D, M>(value: D)
where
    D: Clone + Debug + PartialEq + TryFrom<M, Error: Debug>,
    M: Message + Default + From<D>,
{
    let bytes = M::from(value.clone()).encode_to_vec();
    let back = D::try_from(M::decode(&bytes[..]).expect("own bytes decode")).unwrap();
    assert!(back == value, "{value:?} came back as {back:?}");
}

fn name() -> impl Strategy<Value = Name> {
    "(/[a-zA-Zäß_.-]{1,8}x){0,4}".prop_map(|text| Name::parse(if text.is_empty() { "/" } else { &text }).unwrap())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,6}", any::<String>()]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

fn span() -> impl Strategy<Value = Span> {
    any::<u64>().prop_map(Span::from_millis)
}

fn one_of<T: Clone + Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(all)
}

fn word<W: word::Word + Debug>() -> impl Strategy<Value = W> {
    prop::sample::select(W::ALL).prop_map(|(_, word)| word)
}

fn env_value() -> impl Strategy<Value = l::EnvValue> {
    prop_oneof![text().prop_map(l::EnvValue::Text), text().prop_map(|secret| l::EnvValue::Secret { secret })]
}

fn endpoint_spec() -> impl Strategy<Value = l::EndpointSpec> {
    ("[a-z]{1,5}", any::<u16>(), of(text())).prop_map(|(protocol, port, address)| l::EndpointSpec {
        protocol,
        port,
        address,
    })
}

fn check() -> BoxedStrategy<l::Check> {
    check_unboxed().boxed()
}

prop_compose! {
    fn check_unboxed()(
        kind in word(),
        (endpoint, path, service, program) in (of(text()), of(text()), of(text()), of(text())),
        (command, args) in (of(texts()), of(texts())),
        status in of((100..=599u16, 100..=599u16)
            .prop_map(|(a, b)| l::StatusRange { from: a.min(b), to: a.max(b) })),
        (interval, timeout, ttl) in (of(span()), of(span()), of(span())),
        (rise, fall, restart) in (of(any::<u32>()), of(any::<u32>()), of(any::<bool>())),
    ) -> l::Check {
        l::Check {
            kind, endpoint, path, status, service, command, program, args, interval, timeout, ttl, rise, fall, restart,
        }
    }
}

prop_compose! {
    fn launch_unboxed()(
        (program, command, args, directory, hosts) in (of(text()), of(texts()), of(texts()), of(text()), of(texts())),
        env in of(btree_map(text(), env_value(), 0..3)),
        copies in of((any::<u32>(), any::<u32>()).prop_map(|(min, max)| l::Copies { min, max })),
        (start, ready, on_partition, handover, convention) in
            (of(word()), of(word()), of(word()), of(word()), of(word())),
        check in of(vec(check(), 0..3)),
        (start_by, listen, ready_path, user) in (of(texts()), of(texts()), of(text()), of(text())),
        (dns_start, idle_stop, start_timeout, stop_timeout) in (of(any::<bool>()), of(span()), of(span()), of(span())),
        endpoints in of(vec(endpoint_spec(), 0..3)),
        restart in of((any::<u32>(), span(), span()).prop_map(|(max, window, backoff)| l::Restart { max, window, backoff })),
        limits in of((of(-1e9..1e9), of(any::<u64>().prop_map(l::Bytes)), of(any::<u64>()))
            .prop_map(|(cpu, memory, files)| l::Limits { cpu, memory, files })),
    ) -> l::Launch {
        l::Launch {
            program, command, args, env, directory, hosts, copies, start, start_by, dns_start, idle_stop, endpoints,
            listen, ready, ready_path, start_timeout, stop_timeout, restart, limits, user, on_partition, handover,
            convention, check,
        }
    }
}

fn value() -> impl Strategy<Value = o::Value> {
    prop_oneof![
        any::<bool>().prop_map(o::Value::Bool),
        any::<i64>().prop_map(o::Value::Int),
        (-1e300..1e300).prop_map(o::Value::Float),
        text().prop_map(o::Value::Text),
    ]
}

prop_compose! {
    fn spec_unboxed()(
        kind in of(one_of(&o::Kind::ALL)),
        attributes in of(btree_map(text(), vec(value(), 0..3), 0..3)),
        (public, members, addresses) in (of(texts()), of(texts()), of(texts())),
        (owner, ttl, target, value) in (of(text()), of(span()), of(name()), of(text())),
        launch in of(launch()),
        choose in of(word()),
        (index, servers, interface, parameter) in (of(texts()), of(texts()), of(text()), of(text())),
        (acl, audit, certified, disabled, fingerprint) in
            (of(vec(acl_entry(), 0..3)), of(word()), of(text()), of(any::<bool>()), of(text())),
        member_ids in of(btree_map(text(), any::<u64>().prop_map(o::ObjectId), 1..3)),
    ) -> o::Spec {
        o::Spec {
            kind, attributes, public, owner, ttl, launch, choose, target, members, addresses, value, index, servers,
            interface, parameter, member_ids, acl, audit, certified, disabled, fingerprint,
        }
    }
}

fn acl_entry() -> impl Strategy<Value = AclEntry> {
    let rights = vec(one_of(&Right::ALL), 1..4)
        .prop_map(|rights| rights.into_iter().fold(Rights::default(), |all, right| all.and(right.into())));
    (subject(), of(any::<u64>().prop_map(o::ObjectId)), rights, any::<bool>(), any::<bool>())
        .prop_map(|(who, id, rights, allow, certified)| AclEntry { who, id, rights, allow, certified })
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        Just(Subject::Anyone),
        Just(Subject::Authenticated),
        any::<u32>().prop_map(Subject::User),
        name().prop_map(Subject::Named),
    ]
}

fn secret() -> impl Strategy<Value = Secret> {
    text().prop_map(Secret)
}

fn blob() -> impl Strategy<Value = Blob> {
    vec(any::<u8>(), 0..20).prop_map(Blob)
}

fn login() -> BoxedStrategy<i::LoginRequest> {
    use i::LoginRequest::*;
    prop_oneof![
        (name(), blob()).prop_map(|(principal, message)| PasswordStart { principal, message }),
        (secret(), blob()).prop_map(|(attempt, message)| PasswordFinish { attempt, message }),
        name().prop_map(|principal| PasskeyStart { principal }),
        (secret(), text(), of(secret())).prop_map(|(attempt, credential, device)| PasskeyFinish {
            attempt,
            credential,
            device
        }),
        (instance_id(), secret()).prop_map(|(instance, credential)| Instance { instance, credential }),
        of(name()).prop_map(|principal| PageStart { principal }),
        secret().prop_map(|attempt| PagePoll { attempt }),
    ]
    .boxed()
}

fn login_reply() -> BoxedStrategy<i::LoginReply> {
    use i::LoginReply::*;
    prop_oneof![
        (secret(), blob()).prop_map(|(attempt, message)| Challenge { attempt, message }),
        (secret(), text(), text(), any::<u64>()).prop_map(|(attempt, path, code, every_ms)| Page {
            attempt,
            path,
            code,
            every_ms
        }),
        Just(Pending),
        Just(HandedOver),
        (secret(), name(), at()).prop_map(|(token, principal, expires)| Session(i::Session {
            token,
            principal,
            expires
        })),
    ]
    .boxed()
}

fn enrol() -> BoxedStrategy<i::EnrolRequest> {
    use i::EnrolRequest::*;
    prop_oneof![
        (name(), blob()).prop_map(|(principal, message)| PasswordStart { principal, message }),
        (name(), blob()).prop_map(|(principal, message)| PasswordFinish { principal, message }),
        name().prop_map(|principal| PasswordRemove { principal }),
        name().prop_map(|principal| PasskeyPage { principal }),
        secret().prop_map(|link| PasskeyStart { link }),
        (secret(), text(), text()).prop_map(|(attempt, credential, label)| PasskeyFinish {
            attempt,
            credential,
            label
        }),
        (name(), text()).prop_map(|(principal, label)| PasskeyRemove { principal, label }),
        name().prop_map(|principal| List { principal }),
    ]
    .boxed()
}

fn enrol_reply() -> BoxedStrategy<i::EnrolReply> {
    use i::EnrolReply::*;
    prop_oneof![
        (of(secret()), blob()).prop_map(|(attempt, message)| Challenge { attempt, message }),
        (text(), at()).prop_map(|(path, expires)| Page { path, expires }),
        Just(Done),
        (any::<bool>(), texts()).prop_map(|(password, passkeys)| Credentials { password, passkeys }),
    ]
    .boxed()
}

prop_compose! {
    fn certificate()(
        (chain, bundle, spiffe, expires, token) in (text(), text(), text(), at(), of(secret())),
    ) -> i::CertifyReply {
        i::CertifyReply { chain, bundle, spiffe, expires, token }
    }
}

prop_compose! {
    fn decision()(
        (right, allowed, at) in (one_of(&Right::ALL), any::<bool>(), of(name())),
        (entry, through, because) in (of(acl_entry()), vec(name(), 0..3), text()),
    ) -> a::Decision {
        a::Decision { right, allowed, at, entry, through, because }
    }
}

prop_compose! {
    fn audit_record()(
        (server, sequence, at, count) in (any::<u64>(), any::<u64>(), at(), any::<u64>()),
        (by, how, operation, previous, hash) in (text(), text(), text(), text(), text()),
        (from, name, code, detail) in (of(text()), of(text()), of(text()), of(text())),
        outcome in one_of(&au::Outcome::ALL),
    ) -> au::Record {
        au::Record { server, sequence, at, by, how, from, operation, name, outcome, code, detail, count, previous, hash }
    }
}

/// Boxed, like the other large ones: strategies within strategies live on the stack and overflow it.
fn spec() -> BoxedStrategy<o::Spec> {
    spec_unboxed().boxed()
}

fn launch() -> BoxedStrategy<l::Launch> {
    launch_unboxed().boxed()
}

fn instance() -> BoxedStrategy<s::Instance> {
    instance_unboxed().boxed()
}

fn instance_id() -> impl Strategy<Value = o::InstanceId> {
    any::<u64>().prop_map(o::InstanceId)
}

fn version() -> impl Strategy<Value = o::Version> {
    any::<u64>().prop_map(o::Version)
}

fn at() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

fn stamp() -> impl Strategy<Value = o::Stamp> {
    (at(), text()).prop_map(|(at, by)| o::Stamp { at, by })
}

fn fresh() -> impl Strategy<Value = r::Fresh> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(revision, age_ms, stale)| r::Fresh {
        revision,
        age_ms,
        stale,
    })
}

fn endpoint() -> impl Strategy<Value = s::Endpoint> {
    ("[a-z]{1,5}", text(), any::<u16>()).prop_map(|(protocol, address, port)| s::Endpoint { protocol, address, port })
}

prop_compose! {
    fn instance_unboxed()(
        id in instance_id(),
        computer in of(name()),
        endpoints in vec(endpoint(), 0..3),
        state in one_of(&s::State::ALL),
        (pid, weight, load) in (of(any::<u32>()), of(any::<u32>()), of(-1e9..1e9)),
        (started, last_seen, note, connections) in (of(at()), of(at()), of(text()), of(any::<u32>())),
        health in of(one_of(&s::Health::ALL)),
    ) -> s::Instance {
        s::Instance { id, computer, endpoints, state, pid, started, last_seen, load, weight, health, note, connections }
    }
}

prop_compose! {
    fn service_status()(
        name in name(),
        state in one_of(&s::State::ALL),
        instances in vec(instance(), 0..2),
        (unregistered, held, starts, failures) in (any::<bool>(), of(stamp()), any::<u64>(), any::<u32>()),
        last_exit in of((instance_id(), at(), text(), text())
            .prop_map(|(instance, at, how, last_lines)| o::LastExit { instance, at, how, last_lines })),
        listening in vec((name(), text(), of(text()))
            .prop_map(|(computer, socket, error)| o::Listening { computer, socket, error }), 0..2),
    ) -> o::ServiceStatus {
        o::ServiceStatus { name, state, instances, unregistered, held, starts, failures, last_exit, listening }
    }
}

prop_compose! {
    fn object()(
        (name, id, version) in (name(), any::<u64>().prop_map(o::ObjectId), version()),
        spec in spec(),
        (created, modified) in (stamp(), stamp()),
        status in of(service_status()),
        forms in of((text(), "/[a-z]{0,9}", text(), text())
            .prop_map(|(dns, http, ldap, spiffe)| o::Forms { dns, http, ldap, spiffe })),
        host in of(host_status()),
        lock in of((any::<u64>(), text(), at(), any::<u64>())
            .prop_map(|(fence, by, since, ttl_ms)| o::Lock { fence, by, since, ttl_ms })),
    ) -> o::Object {
        o::Object { name, id, version, spec, created, modified, status, forms, lock, host }
    }
}

prop_compose! {
    fn host_status()(
        state in one_of(&HostState::ALL), since in of(at()), drained_by in of(text()), instances in any::<u32>(),
        last_seen in of(at()), load in of(0.0..9.0f64), memory_free in of(any::<u64>()),
    ) -> Host {
        Host { state, since, drained_by, instances, last_seen, load, memory_free }
    }
}

prop_compose! {
    fn find_reply()(
        (name, canonical, kind) in (name(), of(name()), one_of(&o::Kind::ALL)),
        instances in vec(instance(), 0..3),
        (members, addresses, value) in (of(texts()), of(texts()), of(text())),
        (version, ttl_ms, started, fresh) in (version(), of(any::<u64>()), any::<bool>(), fresh()),
        junction in of((texts(), word(), text(), of(text()))
            .prop_map(|(servers, choose, interface, parameter)| r::Junction { servers, choose, interface, parameter })),
    ) -> r::FindReply {
        r::FindReply {
            name, canonical, kind, instances, members, addresses, value, version, ttl_ms, started, fresh, junction,
        }
    }
}

fn op() -> impl Strategy<Value = r::Op> {
    let if_version = || of(version());
    prop_oneof![
        (name(), spec()).prop_map(|(name, spec)| r::Op::Add { name, spec }),
        (name(), spec(), if_version()).prop_map(|(name, spec, if_version)| r::Op::Put { name, spec, if_version }),
        (name(), spec()).prop_map(|(name, spec)| r::Op::Declare { name, spec }),
        (name(), spec(), texts(), if_version()).prop_map(|(name, spec, clear, if_version)| r::Op::Modify {
            name,
            spec,
            clear,
            if_version
        }),
        (name(), any::<bool>(), any::<bool>(), if_version())
            .prop_map(|(name, recursive, stop, if_version)| r::Op::Delete { name, recursive, stop, if_version }),
        (name(), of(any::<bool>()), if_version(), of(any::<u64>()))
            .prop_map(|(name, exists, if_version, fence)| r::Op::Check { name, exists, if_version, fence }),
    ]
}

fn problem() -> impl Strategy<Value = r::Problem> {
    (one_of(Code::ALL), text(), of(text())).prop_map(|(code, message, field)| r::Problem { code, message, field })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn declarations_and_changes_come_back(spec in spec(), ops in vec(op(), 0..3), dry_run: bool, set in of(text())) {
        same::<_, Spec>(spec);
        same::<_, BatchRequest>(r::BatchRequest { ops, dry_run, set });
    }

    #[test]
    fn finds_come_back(
        reply in find_reply(),
        name in name(),
        (start, all, consistent) in any::<(bool, bool, bool)>(),
        timeout in of(span()),
        failed in of(instance_id()),
    ) {
        same::<_, FindReply>(reply);
        same::<_, FindRequest>(r::FindRequest { name, start, all, timeout, consistent, failed });
    }

    #[test]
    fn objects_come_back(object in object(), fresh in fresh(), name in name(), consistent: bool) {
        same::<_, ReadReply>(r::ReadReply { object, fresh });
        same::<_, ReadRequest>(r::ReadRequest { name: name.clone(), consistent });
        same::<_, WhyRequest>(name);
    }

    #[test]
    fn lists_come_back(
        entries in vec(
            (name(), one_of(&o::Kind::ALL), of(one_of(&s::State::ALL)), of(one_of(&HostState::ALL)), of(name()), version()),
            0..3,
        ),
        services in vec(service_status(), 0..3),
        (next, set, limit, fresh) in (of(text()), of(text()), of(any::<u32>()), fresh()),
        pattern in prop::sample::select(&["*", "/**", "/A/{b,c}*", "/BVODS/QS"]),
        story in vec((at(), of(instance_id()), text()), 0..3),
    ) {
        let entry = |(name, kind, state, host, target, version)| r::Entry { name, kind, state, host, target, version };
        let happening = |(at, instance, what)| r::Happening { at, instance, what };
        let entries = entries.into_iter().map(entry).collect();
        same::<_, ListRequest>(r::ListRequest { pattern: pattern.into(), limit, next: next.clone(), set, consistent: true });
        same::<_, ListReply>(r::ListReply { entries, next: next.clone(), fresh });
        if let Some(status) = services.first().cloned() {
            same::<_, WhyReply>(r::WhyReply { status, story: story.into_iter().map(happening).collect(), fresh });
        }
        same::<_, StatusReply>(r::StatusReply { services, next, fresh });
    }

    #[test]
    fn what_became_of_services_comes_back(
        acted in vec((name(), one_of(&s::State::ALL), vec(instance(), 0..2), of(problem())), 0..3),
        outcome in one_of(&[r::Outcome::Created, r::Outcome::Changed, r::Outcome::Unchanged, r::Outcome::Deleted, r::Outcome::Checked]),
        (name, version, revision) in (name(), version(), any::<u64>()),
        (before, after) in (of(spec()), of(spec())),
    ) {
        let line = |(name, state, instances, error)| r::Acted { name, state, instances, error };
        same::<_, ActReply>(r::ActReply { services: acted.into_iter().map(line).collect() });
        same::<_, BatchReply>(r::BatchReply { results: vec![r::OpResult { name, outcome, version, before, after }], revision });
    }

    #[test]
    fn searches_and_watches_come_back(
        objects in vec(object(), 0..2),
        change in one_of(&r::Change::ALL),
        (filter, under, next, limit) in (text(), name(), of(text()), of(any::<u32>())),
        (at, from, fresh, initial) in (text(), of(text()), fresh(), any::<bool>()),
    ) {
        let consistent = initial;
        same::<_, SearchRequest>(r::SearchRequest { filter, under, limit, next: next.clone(), consistent });
        same::<_, WatchRequest>(r::WatchRequest { pattern: "/A/**".into(), from, initial });
        let event = |object: o::Object| r::WatchEvent { change, name: object.name.clone(), object };
        same::<_, WatchReply>(r::WatchReply { at, events: objects.iter().cloned().map(event).collect() });
        same::<_, SearchReply>(r::SearchReply { objects, next, fresh });
    }

    #[test]
    fn drains_come_back(
        (name, service, id, state) in (name(), name(), instance_id(), one_of(&s::State::ALL)),
        (timeout, host) in (of(span()), one_of(&HostState::ALL)),
        act in one_of(&[h::DrainAct::Look, h::DrainAct::Drain, h::DrainAct::Undrain]),
    ) {
        same::<_, DrainRequest>(h::DrainRequest { name: name.clone(), act, timeout });
        let copies = vec![h::HostedCopy { service, instance: id, state }];
        same::<_, DrainReply>(h::DrainReply { computer: name, state: host, copies });
    }

    #[test]
    fn reports_and_locks_come_back(
        (name, instance, id) in (name(), of(instance_id()), instance_id()),
        (load, uses, secret) in (of(-1e9..1e9), of(any::<u64>()), of(text())),
        (ttl, wait, fence, ttl_ms) in (of(span()), of(span()), any::<u64>(), any::<u64>()),
        health in of(one_of(&s::Health::ALL)),
    ) {
        let named = Some(name.clone());
        let (credential, note) = (secret.clone(), secret.clone());
        same::<_, ReportRequest>(r::ReportRequest { name: named, instance, load, uses, health, note, credential });
        same::<_, ReportReply>(r::ReportReply { instance: id });
        same::<_, LockRequest>(r::LockRequest { name: name.clone(), ttl, wait, key: secret.clone(), renew: fence % 2 == 0 });
        same::<_, LockReply>(r::LockReply { name: name.clone(), fence, key: secret.clone(), ttl_ms });
        same::<_, UnlockRequest>(r::UnlockRequest { name, key: secret });
    }

    #[test]
    fn advertising_comes_back(
        (name, instance, id) in (name(), of(instance_id()), instance_id()),
        endpoints in vec(endpoint(), 0..3),
        (ticket, credential, proof) in (of(text()), of(text()), of(text())),
        (ttl, ttl_ms, weight, pid) in (of(span()), of(any::<u64>()), of(any::<u32>()), of(any::<u32>())),
    ) {
        same::<_, WithdrawRequest>(r::WithdrawRequest { name: name.clone(), instance, credential: credential.clone() });
        same::<_, WithdrawReply>(r::WithdrawReply { withdrawn: vec![id, o::InstanceId(0)] });
        same::<_, LogsRequest>(r::LogsRequest { name: name.clone(), tail: weight, follow: true });
        same::<_, AdvertiseReply>(r::AdvertiseReply { instance: id, credential: credential.clone(), proof, ttl_ms });
        same::<_, AdvertiseRequest>(r::AdvertiseRequest { name: Some(name), endpoints, ticket, instance, credential, ttl, weight, pid });
    }

    #[test]
    fn signing_in_and_enrolling_come_back(
        (login, reply) in (login(), login_reply()),
        (enrol, enrolled) in (enrol(), enrol_reply()),
        (everywhere, principal) in (any::<bool>(), of(name())),
    ) {
        equal::<_, LoginRequest>(login);
        equal::<_, LoginReply>(reply);
        equal::<_, EnrolRequest>(enrol);
        equal::<_, EnrolReply>(enrolled);
        equal::<_, LogoutRequest>(i::LogoutRequest { everywhere, principal });
    }

    #[test]
    fn who_somebody_is_comes_back(
        (principal, id, instance) in (text(), of(any::<u64>().prop_map(o::ObjectId)), of(instance_id())),
        (mechanism, expires, groups, admin) in (one_of(&Mechanism::ALL), of(at()), vec(name(), 0..3), any::<bool>()),
        (domain, bundle, fingerprint, keys) in (text(), text(), text(), text()),
    ) {
        same::<_, WhoamiReply>(i::WhoamiReply { principal, id, instance, mechanism, expires, groups, admin });
        equal::<_, TrustReply>(i::TrustReply { domain, bundle, fingerprint, keys });
    }

    #[test]
    fn certificates_and_join_tokens_come_back(
        (certificate, request, audience) in (certificate(), text(), texts()),
        (instance, principal, validity) in (of(instance_id()), of(name()), of(span())),
        (join_as, computer, ttl) in (one_of(&[i::JoinAs::Agent, i::JoinAs::Server]), of(name()), of(span())),
        (secret, root, servers, expires) in (secret(), text(), texts(), at()),
        (joining, cluster_key, address) in (name(), of(secret()), of(text())),
        (id, domain, authority) in (any::<u64>(), text(), text()),
    ) {
        equal::<_, CertifyRequest>(i::CertifyRequest { request: request.clone(), instance, principal, validity, audience });
        equal::<_, CertifyReply>(certificate.clone());
        equal::<_, InviteRequest>(i::InviteRequest { join_as, computer, ttl });
        equal::<_, InviteReply>(i::InviteReply { secret: secret.clone(), root, servers, expires });
        equal::<_, JoinRequest>(i::JoinRequest { secret, computer: joining, request, address });
        let server = cluster_key.is_some().then_some(i::JoinedServer { id, domain, authority });
        equal::<_, JoinReply>(i::JoinReply { certificate, cluster_key, server });
    }

    #[test]
    fn introductions_come_back(
        (name, instance, id) in (name(), of(instance_id()), instance_id()),
        (ticket, proof, credential) in (secret(), secret(), of(secret())),
        (endpoints, expires) in (vec(endpoint(), 0..3), at()),
        (client, client_id) in (text(), of(any::<u64>().prop_map(o::ObjectId))),
    ) {
        equal::<_, IntroduceRequest>(i::IntroduceRequest { name: name.clone(), instance });
        let reply = i::IntroduceReply {
            name: name.clone(), instance: id, endpoints, ticket: ticket.clone(), proof: proof.clone(), expires,
        };
        equal::<_, IntroduceReply>(reply);
        equal::<_, VerifyRequest>(i::VerifyRequest { ticket, instance, credential });
        equal::<_, VerifyReply>(i::VerifyReply { client, client_id, proof });
        equal::<_, RevokeRequest>(i::RevokeRequest::Instance { instance: id });
        equal::<_, RevokeRequest>(i::RevokeRequest::Principal { principal: name });
    }

    #[test]
    fn questions_about_access_come_back(
        (name, about, right, who) in (name(), of(subject()), of(one_of(&Right::ALL)), subject()),
        decisions in vec(decision(), 0..3),
        lists in vec((name(), text(), vec(acl_entry(), 0..3)), 0..3),
    ) {
        same::<_, AccessRequest>(a::AccessRequest { name: name.clone(), who: about, right });
        let lists = lists.into_iter().map(|(name, owner, acl)| a::Listed { name, owner, acl }).collect();
        same::<_, AccessReply>(a::AccessReply { name, who, decisions, lists });
    }

    #[test]
    fn audit_records_come_back(
        (records, next) in (vec(audit_record(), 0..3), of(text())),
        (by, operation, since, until) in (of(text()), of(text()), of(at()), of(at())),
        (name, outcome) in (of(prop::sample::select(&["*", "/A/{b,c}*"])), of(one_of(&au::Outcome::ALL))),
        (n, limit, intact, trouble) in (any::<[u64; 5]>(), any::<u32>(), any::<bool>(), of(text())),
    ) {
        let name = name.map(str::to_owned);
        let (verify, head) = (intact, by.clone().unwrap_or_default());
        let request = au::AuditRequest { by, name, operation, outcome, since, until, limit, next: next.clone(), verify };
        same::<_, AuditRequest>(request);
        let [server, records_read, first, last, anchors] = n;
        let verified = au::Verification { server, records: records_read, first, last, head, anchors, intact, trouble };
        same::<_, AuditReply>(au::AuditReply { records, next, verified: Some(verified) });
    }

    #[test]
    fn a_server_s_word_about_itself_comes_back(
        (version, agents, stalled, started) in (text(), texts(), of(text()), stamp()),
        (n, primary, servers) in (any::<[u64; 6]>(), any::<bool>(), vec(any::<u64>(), 0..3)),
        members in vec((any::<[u64; 2]>(), any::<[bool; 3]>(), name(), text()), 0..3),
    ) {
        let member = |([id, behind], [voter, primary, up], name, address): ([u64; 2], [bool; 3], Name, String)| {
            r::Member { id, name, address, voter, primary, up, behind }
        };
        let members = members.into_iter().map(member).collect();
        let [server, term, revision, objects, log_bytes, snapshot_index] = n;
        same::<_, ServerInfo>(r::ServerInfo {
            version, server, term, primary, revision, objects, servers, members, agents, log_bytes, snapshot_index, stalled,
            started,
        });
    }

    #[test]
    fn errors_come_back_from_a_status(problem in problem()) {
        let error = Error::from(problem);
        let parts = StatusParts::from(&error);
        prop_assert!(parts.field.iter().all(|field| field.bytes().all(|byte| byte.is_ascii_graphic())));
        let back = StatusParts::into_error(parts.number, &parts.message, Some(parts.code), parts.field.as_deref());
        prop_assert_eq!(back, error);
    }

    /// Bytes of one message read as every other one: they decode or not, and convert or not, and that is all.
    #[test]
    fn hostile_bytes_are_harmless(random in vec(any::<u8>(), 0..200), ops in vec(op(), 1..3), reply in find_reply(), cut: usize) {
        let mut batch = BatchRequest::from(r::BatchRequest { ops, dry_run: false, set: None }).encode_to_vec();
        let mut found = FindReply::from(reply).encode_to_vec();
        for bytes in [&mut batch, &mut found] {
            let at = cut % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x41;
            }
        }
        for bytes in [&random, &batch, &found] {
            read_as_everything(bytes);
        }
    }
}

fn read_as_everything(bytes: &[u8]) {
    macro_rules! read { ($($message:ident => $domain:ty),* $(,)?) => { $(
        if let Ok(message) = $message::decode(bytes) {
            if let Err(error) = <$domain>::try_from(message) {
                assert!(matches!(error.code(), Code::InvalidName | Code::InvalidArgument), "{error}");
            }
        }
    )* } }
    read!(
        FindRequest => r::FindRequest, ReportFailureRequest => r::FindRequest, FindReply => r::FindReply,
        ReadRequest => r::ReadRequest, ReadReply => r::ReadReply, ListRequest => r::ListRequest,
        ListReply => r::ListReply, StatusReply => r::StatusReply, ActReply => r::ActReply, WhyRequest => Name,
        WhyReply => r::WhyReply, AddRequest => r::Op, ModifyRequest => r::Op, DeleteRequest => r::Op,
        BatchRequest => r::BatchRequest, OpResult => r::OpResult, BatchReply => r::BatchReply,
        AdvertiseRequest => r::AdvertiseRequest, AdvertiseReply => r::AdvertiseReply,
        WithdrawRequest => r::WithdrawRequest, WithdrawReply => r::WithdrawReply, LogsRequest => r::LogsRequest,
        ServerInfo => r::ServerInfo, Spec => o::Spec, SearchRequest => r::SearchRequest, SearchReply => r::SearchReply,
        WatchRequest => r::WatchRequest, WatchReply => r::WatchReply, ReportRequest => r::ReportRequest,
        ReportReply => r::ReportReply, LockRequest => r::LockRequest, LockReply => r::LockReply,
        UnlockRequest => r::UnlockRequest, LoginRequest => i::LoginRequest, LoginReply => i::LoginReply,
        LogoutRequest => i::LogoutRequest, WhoamiReply => i::WhoamiReply, EnrolRequest => i::EnrolRequest,
        EnrolReply => i::EnrolReply, CertifyRequest => i::CertifyRequest, IntroduceRequest => i::IntroduceRequest,
        IntroduceReply => i::IntroduceReply, VerifyRequest => i::VerifyRequest, VerifyReply => i::VerifyReply,
        InviteRequest => i::InviteRequest, JoinRequest => i::JoinRequest, JoinReply => i::JoinReply,
        RevokeRequest => i::RevokeRequest, AccessRequest => a::AccessRequest, AccessReply => a::AccessReply,
        AuditRequest => au::AuditRequest, AuditReply => au::AuditReply, DrainRequest => h::DrainRequest,
        DrainReply => h::DrainReply,
    );
    if let Ok(message) = ActRequest::decode(bytes) {
        let _ = act_request(r::Verb::Stop, message);
    }
}

/// The code and the field of what must be refused.
fn refused<D: Debug>(result: Result<D>) -> (Code, String) {
    let error = result.unwrap_err();
    (error.code(), error.at_field().unwrap_or_default().to_owned())
}

fn invalid(field: &str) -> (Code, String) {
    (Code::InvalidArgument, field.into())
}

fn invalid_name(field: &str) -> (Code, String) {
    (Code::InvalidName, field.into())
}

#[test]
fn what_is_wrong_is_named() {
    let name = || "/a".to_owned();
    let spec = |spec: Spec| r::Op::try_from(AddRequest { name: name(), spec: Some(spec) });
    let launch = |launch: Launch| spec(Spec { launch: Some(launch), ..Spec::default() });

    assert_eq!(refused(r::FindRequest::try_from(FindRequest::default())), invalid_name("name"));
    let find = FindRequest { name: name(), failed: Some("x".into()), ..FindRequest::default() };
    assert_eq!(refused(r::FindRequest::try_from(find)), invalid("failed"));
    let find = FindRequest { name: name(), timeout_ms: Some(u64::MAX), ..FindRequest::default() };
    assert_eq!(refused(r::FindRequest::try_from(find)), invalid("timeout_ms"));
    assert_eq!(refused(r::AdvertiseRequest::try_from(AdvertiseRequest::default())), invalid_name("name"));
    assert_eq!(refused(r::ListRequest::try_from(ListRequest::default())), invalid_name("pattern"));
    let act = ActRequest { patterns: vec![name(), "[".into()], ..ActRequest::default() };
    assert_eq!(refused(act_request(r::Verb::Stop, act)), invalid_name("patterns[1]"));

    assert_eq!(refused(spec(Spec { kind: 99, ..Spec::default() })), invalid("spec.kind"));
    assert_eq!(refused(spec(Spec { choose: Some("best".into()), ..Spec::default() })), invalid("spec.choose"));
    assert_eq!(refused(spec(Spec { target: Some("a".into()), ..Spec::default() })), invalid_name("spec.target"));
    assert_eq!(
        refused(launch(Launch { ready: Some("maybe".into()), ..Launch::default() })),
        invalid("spec.launch.ready")
    );
    let endpoints = Some(EndpointSpecs { values: vec![EndpointSpec { port: 65_536, ..EndpointSpec::default() }] });
    assert_eq!(refused(launch(Launch { endpoints, ..Launch::default() })), invalid("spec.launch.endpoints[0].port"));
    let env = Some(Env { values: BTreeMap::from([("A".into(), EnvValue { value: None })]) });
    assert_eq!(refused(launch(Launch { env, ..Launch::default() })), invalid("spec.launch.env.A"));
    let values = Values { values: vec![Value { value: None }] };
    let attributes = Some(Attributes { values: BTreeMap::from([("a".into(), values)]) });
    assert_eq!(refused(spec(Spec { attributes, ..Spec::default() })), invalid("spec.attributes.a"));

    let delete =
        op::Op::Delete(DeleteRequest { name: name(), if_version: Some("3".into()), ..DeleteRequest::default() });
    let ops = vec![Op { op: Some(op::Op::Add(AddRequest { name: name(), spec: None })) }, Op { op: Some(delete) }];
    let batch = |ops| r::BatchRequest::try_from(BatchRequest { ops, dry_run: false, set: None });
    assert_eq!(refused(batch(ops)), invalid("ops[1].if_version"));
    assert_eq!(refused(batch(vec![Op { op: None }])), invalid("ops[0]"));
    assert_eq!(refused(r::ReadReply::try_from(ReadReply::default())), invalid("object"));

    assert_eq!(refused(i::LoginRequest::try_from(LoginRequest::default())), invalid(""));
    let step = login_request::Step::PasskeyStart(login_request::PasskeyStart { principal: "liu".into() });
    let login = LoginRequest { step: Some(step) };
    assert_eq!(refused(i::LoginRequest::try_from(login)), invalid_name("passkey_start.principal"));
    let invite = InviteRequest { join_as: "guest".into(), ..InviteRequest::default() };
    assert_eq!(refused(i::InviteRequest::try_from(invite)), invalid("join_as"));
    assert_eq!(refused(i::RevokeRequest::try_from(RevokeRequest::default())), invalid(""));
    let access = |who: &str, right: &str| {
        let (who, right) = (Some(who.into()), Some(right.into()));
        refused(a::AccessRequest::try_from(AccessRequest { name: "/a".into(), who, right }))
    };
    assert_eq!(access("liu", "read"), invalid("who"));
    assert_eq!(access("anyone", "fly"), invalid("right"));
    let audit = AuditRequest { outcome: Some("well".into()), ..AuditRequest::default() };
    assert_eq!(refused(au::AuditRequest::try_from(audit)), invalid("outcome"));
}

#[test]
fn no_secret_is_shown() {
    let secret = || Secret("hunter2".into());
    let shown = [
        format!(
            "{:?}",
            LoginReply::from(i::LoginReply::Session(i::Session {
                token: secret(),
                principal: Name::parse("/people/liu").unwrap(),
                expires: Timestamp(0),
            }))
        ),
        format!("{:?}", LoginRequest::from(i::LoginRequest::PagePoll { attempt: secret() }).step),
        format!("{:?}", EnrolRequest::from(i::EnrolRequest::PasskeyStart { link: secret() })),
        format!("{:?}", VerifyRequest { ticket: "hunter2".into(), ..VerifyRequest::default() }),
        format!(
            "{:?}",
            AddRequest { name: "/s".into(), spec: Some(Spec { value: Some("hunter2".into()), ..Spec::default() }) }
        ),
        format!("{:?}", AdvertiseReply { credential: Some("hunter2".into()), ..AdvertiseReply::default() }),
    ];
    for text in shown {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn what_is_absent_takes_its_default() {
    assert_eq!(l::Copies::from(Copies { min: None, max: None }), l::Copies::default());
    assert_eq!(l::Copies::from(Copies { min: Some(1), max: None }), l::Copies { min: 1, max: 1 });
    assert_eq!(l::Restart::try_from(Restart::default()), Ok(l::Restart::default()));
    assert_eq!(l::EndpointSpec::try_from(EndpointSpec::default()).unwrap().protocol, "tcp");
    let op = r::Op::try_from(AddRequest { name: "/a".into(), spec: None }).unwrap();
    assert_eq!(op, r::Op::Add { name: Name::parse("/a").unwrap(), spec: o::Spec::default() });
}

#[test]
fn unknown_fields_are_ignored() {
    let mut bytes = FindRequest { name: "/a".into(), ..FindRequest::default() }.encode_to_vec();
    // Field 2,000 as a text, from a newer client.
    bytes.extend([0x82, 0x7d, 3, b'n', b'e', b'w']);
    let find = r::FindRequest::try_from(FindRequest::decode(&bytes[..]).unwrap()).unwrap();
    assert_eq!(find, r::FindRequest::new(Name::parse("/a").unwrap()));
}

#[test]
fn an_unknown_code_falls_back_on_the_status() {
    assert_eq!(StatusParts::into_error(5, "gone", Some("vanished"), None).code(), Code::NotFound);
    assert_eq!(StatusParts::into_error(99, "?", None, None).code(), Code::Internal);
    let field = StatusParts::into_error(3, "", None, Some("%C3%A4%zz%")).at_field().map(str::to_owned);
    assert_eq!(field.as_deref(), Some("ä%zz%"));
}

#[test]
fn a_long_message_loses_its_middle() {
    let error = Error::new(Code::CrashLooping, format!("begin {} end", "ä".repeat(10_000))).field("f".repeat(9_000));
    let parts = StatusParts::from(&error);
    assert!(parts.message.len() < 4_200 && parts.message.starts_with("begin ä") && parts.message.ends_with("ä end"));
    assert!(parts.field.is_some_and(|field| field.len() < 1_100));
}

#[test]
fn the_descriptors_name_the_services() {
    for service in ["Names", "Services", "Cluster", "Identity", "Audit", "Agents"] {
        assert!(DESCRIPTOR_SET.windows(service.len()).any(|window| window == service.as_bytes()), "{service}");
    }
}
