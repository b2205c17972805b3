//! Programs that say by themselves where they answer.

use byname_api::Code;
use byname_api::request::*;
use byname_api::service::{Endpoint, State};
use byname_api::span::Span;
use sha2::{Digest, Sha256};

use super::*;
use crate::wait::eventually_async;

fn tcp(port: u16) -> Vec<Endpoint> {
    vec![Endpoint { protocol: "tcp".into(), address: "192.0.2.7".into(), port }]
}

fn advertise(name: &str, port: u16) -> AdvertiseRequest {
    AdvertiseRequest { name: Some(at(name)), endpoints: tcp(port), ..AdvertiseRequest::default() }
}

impl Asker {
    async fn advertise(&self, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        self.service.advertise(&self.cx, request).await
    }

    async fn withdraw(&self, name: &str, instance: Option<InstanceId>) -> Result<WithdrawReply> {
        let request = WithdrawRequest { name: at(name), instance, credential: None };
        self.service.withdraw(&self.cx, request).await
    }
}

/// A service that nobody added vanishes with its last instance.
pub async fn an_advertised_name_is_found_until_withdrawn(f: &dyn Fixture) {
    let owner = f.owner();
    let first = owner.advertise(advertise("/web", 80)).await.unwrap();
    let second = owner.advertise(advertise("/web", 81)).await.unwrap();
    assert_ne!(first.instance, second.instance);
    assert!(first.credential.is_some() && first.proof.is_none() && first.ttl_ms == Some(30_000), "{first:?}");
    let found = owner.find("/web").await.unwrap();
    assert_eq!((only(&found).id, &only(&found).endpoints), (first.instance, &tcp(80)));
    let status = owner.status("/web").await;
    assert!(status.unregistered && status.instances.len() == 2, "{status:?}");
    assert_eq!(owner.withdraw("/web", Some(first.instance)).await.unwrap().withdrawn, [first.instance]);
    assert_eq!(only(&owner.find("/web").await.unwrap()).id, second.instance);
    assert_eq!(owner.withdraw("/web", None).await.unwrap().withdrawn, [second.instance]);
    refused(owner.find("/web").await, Code::NotFound, None);
    // One that was added stays.
    owner.add("/added", Spec::of(Kind::Service)).await.unwrap();
    owner.advertise(advertise("/added", 82)).await.unwrap();
    owner.withdraw("/added", None).await.unwrap();
    assert_eq!(owner.status("/added").await.state, State::Stopped);
    // Only services answer.
    owner.add("/record", record("1")).await.unwrap();
    refused(owner.advertise(advertise("/record", 83)).await, Code::Unsupported, None);
}

/// A lease.
pub async fn a_lease_that_is_not_renewed_ends(f: &dyn Fixture) {
    let owner = f.owner();
    let short = AdvertiseRequest { ttl: Some(Span::from_secs(1)), ..advertise("/web", 80) };
    let reply = owner.advertise(short).await.unwrap();
    assert_eq!(reply.ttl_ms, Some(1_000));
    owner.find("/web").await.unwrap();
    let gone = || async { owner.find("/web").await.is_err_and(|e| e.code() == Code::NotFound).then_some(()) };
    eventually_async("the end of the lease", gone).await;
    let unsaid = AdvertiseRequest { ttl: Some(Span::from_millis(10)), ..advertise("/web", 80) };
    refused(owner.advertise(unsaid).await, Code::InvalidArgument, Some("ttl"));
}

/// What the first advertise gave is needed to speak for the instance.
pub async fn a_credential_renews_one_instance(f: &dyn Fixture) {
    let (owner, stranger) = (f.owner(), f.onlooker());
    let first = owner.advertise(advertise("/web", 80)).await.unwrap();
    let with = |credential: Option<String>, port| AdvertiseRequest {
        instance: Some(first.instance),
        credential,
        ..advertise("/web", port)
    };
    let renewed = stranger.advertise(with(first.credential.clone(), 81)).await.unwrap();
    assert_eq!((renewed.instance, &renewed.credential), (first.instance, &None));
    assert_eq!(only(&owner.find("/web").await.unwrap()).endpoints, tcp(81));
    refused(stranger.advertise(with(Some("0".repeat(64)), 82)).await, Code::Denied, Some("ticket"));
    refused(stranger.advertise(with(Some("x".into()), 82)).await, Code::InvalidArgument, Some("credential"));
    refused(stranger.advertise(with(None, 82)).await, Code::Denied, None);
    assert_eq!(only(&owner.find("/web").await.unwrap()).endpoints, tcp(81));
    let withdraw = |credential: String| WithdrawRequest {
        name: at("/web"),
        instance: Some(first.instance),
        credential: Some(credential),
    };
    let wrong = stranger.service.withdraw(&stranger.cx, withdraw("0".repeat(64))).await;
    refused(wrong, Code::Denied, Some("credential"));
    let right = stranger.service.withdraw(&stranger.cx, withdraw(first.credential.clone().unwrap())).await;
    assert_eq!(right.unwrap().withdrawn, [first.instance]);
}

/// An impostor is refused; the program that was launched is believed, once.
pub async fn a_ticket_is_good_once(f: &dyn Fixture) {
    let (owner, stranger) = (f.owner(), f.onlooker());
    owner.add("/BVODS/QS", service(f.launch(Program::Advertises))).await.unwrap();
    let finding = tokio::spawn({
        let owner = owner.clone();
        async move { owner.find("/BVODS/QS").await }
    });
    let starting = || async { owner.status("/BVODS/QS").await.instances.into_iter().next() };
    let instance = eventually_async("the start", starting).await.id;
    let (program, server) = f.ticket(instance).await;
    let with = |ticket: &str, instance| AdvertiseRequest {
        ticket: Some(ticket.into()),
        instance,
        ..advertise("/BVODS/QS", 80)
    };
    refused(stranger.advertise(with(&"0".repeat(64), Some(instance))).await, Code::Denied, Some("ticket"));
    refused(stranger.advertise(with(&"0".repeat(64), None)).await, Code::Denied, Some("ticket"));
    refused(stranger.advertise(with(&server, Some(instance))).await, Code::Denied, Some("ticket"));
    refused(stranger.advertise(with("short", Some(instance))).await, Code::InvalidArgument, Some("ticket"));
    assert!(!finding.is_finished());
    let reply = stranger.advertise(with(&program, None)).await.unwrap();
    assert_eq!((reply.instance, reply.ttl_ms), (instance, None));
    let half = hex::decode(server).unwrap();
    assert_eq!(reply.proof, Some(hex::encode(Sha256::digest(half))));
    let found = finding.await.unwrap().unwrap();
    assert_eq!((only(&found).id, &only(&found).endpoints), (instance, &tcp(80)));
    refused(stranger.advertise(with(&program, Some(instance))).await, Code::Denied, Some("ticket"));
    // The credential speaks for it from now on.
    let moved =
        AdvertiseRequest { instance: Some(instance), credential: reply.credential, ..advertise("/BVODS/QS", 81) };
    stranger.advertise(moved).await.unwrap();
    // Somebody else wrote it: who finds it from a cache hears of it a moment later.
    let is_moved = || async { (only(&owner.find("/BVODS/QS").await.unwrap()).endpoints == tcp(81)).then_some(()) };
    eventually_async("the move", is_moved).await;
}

/// With the field.
pub async fn wrong_endpoints_name_the_field(f: &dyn Fixture) {
    let owner = f.owner();
    let with = |endpoint: Endpoint| AdvertiseRequest { endpoints: vec![endpoint], ..advertise("/web", 1) };
    let endpoint =
        |protocol: &str, address: &str, port| Endpoint { protocol: protocol.into(), address: address.into(), port };
    for (wrong, field) in [
        (endpoint("tcp", "", 0), "endpoints.port"),
        (endpoint("tcp", "home", 80), "endpoints.address"),
        (endpoint(&"p".repeat(33), "", 80), "endpoints.protocol"),
        (endpoint("unix", "relative", 0), "endpoints.address"),
    ] {
        refused(owner.advertise(with(wrong)).await, Code::InvalidArgument, Some(field));
    }
    let none = AdvertiseRequest { endpoints: vec![], ..advertise("/web", 1) };
    refused(owner.advertise(none).await, Code::InvalidArgument, Some("endpoints"));
    refused(owner.find("/web").await, Code::NotFound, None);
}
