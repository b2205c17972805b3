//! What does not prove anything: tickets, join tokens, sessions, passwords, passkeys and certificates that are used up,
//! over, another's, damaged or made up. Each is refused, each refusal is in the audit log, and none tells what exists.

mod established;

use std::sync::Arc;
use std::time::Duration;

use byname_api::NameService;
use byname_api::access::Rights;
use byname_api::caller::{Caller, Certificate, Mechanism, Peer};
use byname_api::error::{Code, Error, Result};
use byname_api::identity::*;
use byname_api::object::{InstanceId, Kind, Spec};
use byname_api::request::*;
use byname_api::span::Timestamp;
use byname_identity::authenticator::Authenticator;
use byname_identity::authority::new_key;
use byname_identity::password::{Login, Registration};
use byname_identity::seal::ClusterKey;
use byname_identity::session::{Claims, Sessions, new_id};
use byname_testkit::PlayedAgent;
use byname_testkit::contract::Program;
use established::{Established, endpoint, entry, name, now, time_passes};

/// It was refused, and the audit log says so.
#[track_caller]
fn is_refusal(error: &Error) {
    assert!(matches!(error.code(), Code::Denied | Code::Unauthenticated), "{error:?}");
}

async fn refused<T: std::fmt::Debug>(server: &Established, cx: &Context, what: &str, result: Result<T>) -> Error {
    let error = result.expect_err(what);
    is_refusal(&error);
    let from = cx.caller.address.expect("an address of its own");
    assert!(!server.refusals(from).await.is_empty(), "{what}: not in the audit log: {error}");
    error
}

fn verify(ticket: &str, instance: InstanceId, credential: &str) -> VerifyRequest {
    let credential = Some(Secret(credential.into()));
    VerifyRequest { ticket: Secret(ticket.into()), instance: Some(instance), credential }
}

#[tokio::test]
async fn a_ticket_of_an_introduction_is_good_once_for_one_instance() {
    let server = Established::new(false).await;
    server.people(["/people/liu"]).await;
    let (a, a_credential) = server.running("/a", Spec::default()).await;
    let (b, b_credential) = server.running("/b", Spec::default()).await;
    let node = &server.node;
    let liu = server.signed_in("/people/liu").await;
    let introduce = |at: &str| IntroduceRequest { name: name(at), instance: None };
    let pair = node.introduce(&liu, introduce("/a")).await.unwrap();
    assert_eq!(pair.instance, a);
    let mut same = Vec::new();
    for (what, request) in [
        ("another's", verify(&pair.ticket.0, b, &b_credential)),
        ("the halves swapped", verify(&pair.proof.0, a, &a_credential)),
        ("made up", verify(&"5".repeat(64), a, &a_credential)),
    ] {
        let cx = server.stranger();
        same.push(refused(&server, &cx, what, node.verify(&cx, request).await).await);
    }
    for (what, request) in [
        ("another's credential", verify(&pair.ticket.0, a, &b_credential)),
        ("a credential of nobody", verify(&pair.ticket.0, InstanceId(7), &a_credential)),
        ("the ticket as credential", verify(&pair.ticket.0, a, &pair.ticket.0)),
        ("no credential", VerifyRequest { ticket: pair.ticket.clone(), instance: Some(a), credential: None }),
    ] {
        let cx = server.stranger();
        refused(&server, &cx, what, node.verify(&cx, request).await).await;
    }
    let short = node.verify(&server.stranger(), verify(&pair.ticket.0[..62], a, &a_credential)).await.unwrap_err();
    assert_eq!(short.code(), Code::InvalidArgument);

    let verified = node.verify(&server.stranger(), verify(&pair.ticket.0, a, &a_credential)).await.unwrap();
    assert_eq!((verified.client.as_str(), &verified.proof), ("/people/liu", &pair.proof));
    let cx = server.stranger();
    same.push(
        refused(&server, &cx, "replayed", node.verify(&cx, verify(&pair.ticket.0, a, &a_credential)).await).await,
    );
    let sentences: Vec<_> = same.iter().map(|error| (error.code(), error.message())).collect();
    assert!(sentences.iter().all(|told| *told == sentences[0]), "{sentences:?}");

    // A service that is not trusted any more.
    let pair = node.introduce(&liu, introduce("/a")).await.unwrap();
    node.revoke(&Established::server(), RevokeRequest::Instance { instance: a }).await.unwrap();
    let cx = server.stranger();
    refused(&server, &cx, "revoked", node.verify(&cx, verify(&pair.ticket.0, a, &a_credential)).await).await;
    let cx = server.stranger();
    refused(&server, &cx, "a revoked copy signs in", login_instance(&server, &cx, a, &a_credential).await).await;
    // One that runs and has never shown its ticket.
    let launch = Some(PlayedAgent::launch(Program::Serves));
    server.put("/untried", Spec { launch, ..Spec::of(Kind::Service) }).await;
    node.find(&Established::server(), FindRequest::new(name("/untried"))).await.unwrap();
    let liu = server.signed_in("/people/liu").await;
    refused(&server, &liu, "no ticket shown", node.introduce(&liu, introduce("/untried")).await).await;
}

async fn login_instance(
    server: &Established,
    cx: &Context,
    instance: InstanceId,
    credential: &str,
) -> Result<LoginReply> {
    let request = LoginRequest::Instance { instance, credential: Secret(credential.into()) };
    server.node.login(cx, request).await
}

async fn invite(server: &Established, join_as: JoinAs, computer: Option<&str>) -> String {
    let request = InviteRequest { join_as, computer: computer.map(name), ttl: None };
    server.node.invite(&Established::server(), request).await.unwrap().secret.0
}

fn join(secret: &str, computer: &str) -> JoinRequest {
    JoinRequest {
        secret: Secret(secret.into()),
        computer: name(computer),
        request: new_key().unwrap().request_pem,
        address: Some("192.0.2.7:7600".into()),
    }
}

#[tokio::test]
async fn a_join_token_makes_one_computer_and_tells_nothing() {
    let server = Established::new(false).await;
    let node = &server.node;
    let ann = invite(&server, JoinAs::Agent, Some("/computers/ann")).await;
    let any = invite(&server, JoinAs::Agent, None).await;
    let second = invite(&server, JoinAs::Server, None).await;
    let mut sentences = Vec::new();
    for (what, secret, computer) in [
        ("another's name", &ann, "/computers/bob"),
        ("a host that is there", &any, "/computers/bugs"),
        ("an agent's for a server", &any, "/byname/servers/2"),
        ("a server's for an agent", &second, "/computers/bob"),
        ("made up", &"5".repeat(64), "/computers/bob"),
        ("made up, of a host that is there", &"5".repeat(64), "/computers/bugs"),
    ] {
        let cx = server.stranger();
        let error = refused(&server, &cx, what, node.join(&cx, join(secret, computer)).await).await;
        sentences.push((error.code(), error.message().to_owned()));
    }
    for nobody in ["/computers/bob", "/byname/servers/2"] {
        let read = ReadRequest { name: name(nobody), consistent: false };
        let error = node.read(&Established::server(), read).await.expect_err(nobody);
        assert_eq!(error.code(), Code::NotFound, "{nobody} was made by a token that is not for it");
    }
    // No refusal used one up.
    for (secret, computer) in [(&ann, "/computers/ann"), (&any, "/computers/bob"), (&second, "/byname/servers/2")] {
        let reply = node.join(&server.stranger(), join(secret, computer)).await.unwrap();
        assert_eq!(reply.cluster_key.is_some(), computer.starts_with("/byname"), "{computer}");
        let cx = server.stranger();
        let error = refused(&server, &cx, "replayed", node.join(&cx, join(secret, computer)).await).await;
        sentences.push((error.code(), error.message().to_owned()));
    }
    assert!(sentences.iter().all(|told| *told == sentences[0]), "{sentences:?}");
}

fn claims(of: &str, id: byname_api::object::ObjectId) -> Claims {
    Claims {
        principal: of.into(),
        id: Some(id),
        instance: None,
        session: new_id().unwrap(),
        mechanism: "password".into(),
        issued: now(),
        expires: Timestamp(now().0 + 3_600_000),
    }
}

/// What the gate says to a token, which must be no.
async fn no_session(server: &Established, what: &str, token: &str) {
    let from = server.address();
    let error = server.admit(from, Some(token)).expect_err(what);
    assert_eq!(error.code(), Code::Unauthenticated, "{what}: {error}");
    assert!(!server.refusals(from).await.is_empty(), "{what}: not in the audit log");
    assert!(!error.message().contains(token), "{what}");
}

#[tokio::test]
async fn a_session_that_is_damaged_over_or_ended_is_none() {
    let server = Established::new(false).await;
    server.people(["/people/liu", "/people/out", "/people/gone", "/people/shut"]).await;
    let token = server.token("/people/liu").await;
    server.admit(server.address(), Some(&token)).unwrap();
    let id = server.id("/people/liu").await;
    no_session(&server, "cut off", &token[..token.len() - 1]).await;
    no_session(&server, "its beginning alone", "bn1.").await;
    for at in [4, token.len() / 2, token.len() - 2] {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        no_session(&server, "a byte changed", &String::from_utf8(changed).unwrap()).await;
    }
    let other = Sessions::new(&ClusterKey::from_bytes([1; 32])).unwrap();
    no_session(&server, "of another cluster", &other.issue(&claims("/people/liu", id)).unwrap()).await;
    let over = Claims { issued: Timestamp(now().0 - 7_200_000), expires: now(), ..claims("/people/liu", id) };
    no_session(&server, "expired", &server.token_of(&over)).await;
    no_session(&server, "for another name", &server.token_of(&claims("/people/out", id))).await;
    no_session(&server, "of no object", &server.token_of(&Claims { id: None, ..claims("/people/liu", id) })).await;
    no_session(&server, "the server's token from elsewhere", established::TOKEN).await;

    let (one, two) = (server.token("/people/out").await, server.token("/people/out").await);
    let cx = server.admit(server.address(), Some(&one)).unwrap();
    server.node.logout(&cx, LogoutRequest::default()).await.unwrap();
    no_session(&server, "after logout", &one).await;
    let cx = server.admit(server.address(), Some(&two)).unwrap();
    let three = server.token("/people/out").await;
    server.node.logout(&cx, LogoutRequest { everywhere: true, principal: None }).await.unwrap();
    no_session(&server, "after logout everywhere", &two).await;
    no_session(&server, "another of the same", &three).await;

    let gone = server.token("/people/gone").await;
    server.admit(server.address(), Some(&gone)).unwrap();
    server.delete("/people/gone").await;
    no_session(&server, "deleted", &gone).await;
    server.people(["/people/gone"]).await;
    no_session(&server, "the name made anew", &gone).await;
    let shut = server.token("/people/shut").await;
    server.admit(server.address(), Some(&shut)).unwrap();
    server.modify("/people/shut", Spec { disabled: Some(true), ..Spec::default() }).await;
    no_session(&server, "disabled", &shut).await;

    let (instance, credential) = server.running("/a", Spec::default()).await;
    let running = server.instance_session(instance, &credential).await.unwrap();
    server.admit(server.address(), Some(&running)).unwrap();
    server.delete("/a").await;
    no_session(&server, "the instance has ended", &running).await;
    let cx = server.stranger();
    refused(&server, &cx, "ended", login_instance(&server, &cx, instance, &credential).await).await;
    let (instance, credential) = server.running("/b", Spec::default()).await;
    let revoked = server.instance_session(instance, &credential).await.unwrap();
    server.admit(server.address(), Some(&revoked)).unwrap();
    server.node.revoke(&Established::server(), RevokeRequest::Instance { instance }).await.unwrap();
    no_session(&server, "the instance was revoked", &revoked).await;
}

#[tokio::test]
async fn what_the_log_says_is_over_is_over_though_the_clock_was_set_back() {
    let server = Established::new(false).await;
    server.people(["/people/liu"]).await;
    let (instance, credential) = server.running("/a", Spec::default()).await;
    let liu = server.signed_in("/people/liu").await;
    let request = IntroduceRequest { name: name("/a"), instance: None };
    let soon = server.node.introduce(&liu, request.clone()).await.unwrap();
    let session = server.token("/people/liu").await;
    let token = invite(&server, JoinAs::Agent, None).await;
    let certificate = certificate_of(&server, "/people/liu").await;

    let dir = server.close().await;
    time_passes(dir.path(), 59_000).await;
    let server = Established::over(dir, false, false).await;
    server.admit(server.address(), Some(&session)).unwrap();
    server.node.verify(&server.stranger(), verify(&soon.ticket.0, instance, &credential)).await.unwrap();
    let liu = server.signed_in("/people/liu").await;
    let late = server.node.introduce(&liu, request).await.unwrap();

    let dir = server.close().await;
    time_passes(dir.path(), 59_000 + 61_000).await;
    let server = Established::over(dir, false, false).await;
    let cx = server.stranger();
    let request = verify(&late.ticket.0, instance, &credential);
    refused(&server, &cx, "a pair lives a minute", server.node.verify(&cx, request).await).await;
    server.admit(server.address(), Some(&session)).unwrap();

    let dir = server.close().await;
    time_passes(dir.path(), 3_700_000).await;
    let server = Established::over(dir, false, false).await;
    no_session(&server, "a session of an hour", &session).await;
    let cx = server.stranger();
    let request = join(&token, "/computers/late");
    refused(&server, &cx, "a join token of an hour", server.node.join(&cx, request).await).await;
    let peer = Peer::Tcp { address: server.address(), encrypted: true };
    let error = server.node.authenticator().certificate(peer, &certificate).unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    // What is given now holds from now on, by the later of the clocks.
    let (instance, credential) = (instance, credential);
    let fresh = server.instance_session(instance, &credential).await.unwrap();
    server.admit(server.address(), Some(&fresh)).unwrap();
}

async fn certificate_of(server: &Established, of: &str) -> Certificate {
    Certificate {
        name: name(of),
        id: Some(server.id(of).await),
        instance: None,
        serial: "01".into(),
        fingerprint: rand_fingerprint(),
        issued: now(),
        not_after: Timestamp(now().0 + 3_600_000),
    }
}

fn rand_fingerprint() -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint[..8].copy_from_slice(&new_id().unwrap().to_be_bytes());
    fingerprint
}

#[tokio::test]
async fn a_certificate_is_of_the_object_that_it_was_made_for() {
    let server = Established::new(false).await;
    server.people(["/people/liu", "/people/gone", "/people/shut", "/people/lost"]).await;
    let authenticator = server.node.authenticator();
    let show = |certificate: &Certificate| {
        let peer = Peer::Tcp { address: server.address(), encrypted: true };
        authenticator.certificate(peer, certificate)
    };
    let no = |what: &str, certificate: &Certificate| {
        assert_eq!(show(certificate).expect_err(what).code(), Code::Unauthenticated, "{what}");
    };
    let liu = certificate_of(&server, "/people/liu").await;
    assert_eq!(show(&liu).unwrap().principal, "/people/liu");
    no("expired", &Certificate { not_after: now(), fingerprint: rand_fingerprint(), ..liu.clone() });
    no("without an id", &Certificate { id: None, fingerprint: rand_fingerprint(), ..liu.clone() });
    no("another's name", &Certificate { name: name("/people/shut"), fingerprint: rand_fingerprint(), ..liu.clone() });
    let instance = Some(InstanceId(7));
    no("of an instance that is none", &Certificate { instance, fingerprint: rand_fingerprint(), ..liu });
    let gone = certificate_of(&server, "/people/gone").await;
    show(&gone).unwrap();
    server.delete("/people/gone").await;
    no("deleted", &gone);
    server.people(["/people/gone"]).await;
    no("the name made anew", &gone);
    let shut = certificate_of(&server, "/people/shut").await;
    show(&shut).unwrap();
    server.modify("/people/shut", Spec { disabled: Some(true), ..Spec::default() }).await;
    no("disabled", &shut);
    let lost = certificate_of(&server, "/people/lost").await;
    show(&lost).unwrap();
    let revoke = RevokeRequest::Principal { principal: name("/people/lost") };
    server.node.revoke(&Established::server(), revoke).await.unwrap();
    no("revoked", &lost);
    let (instance, _) = server.running("/a", Spec::default()).await;
    let copy = Certificate { instance: Some(instance), ..certificate_of(&server, "/a").await };
    assert_eq!(show(&copy).unwrap().instance, Some(instance));
    let ask = CertifyRequest {
        request: new_key().unwrap().request_pem,
        instance: Some(instance),
        principal: None,
        validity: None,
        audience: Vec::new(),
    };
    let gone = server.signed_in("/people/liu").await;
    refused(&server, &gone, "for a copy of another", server.node.certify(&gone, ask).await).await;
    server.delete("/a").await;
    no("the instance has ended", &copy);
    // Through the gate it is in the audit log.
    let from = server.address();
    let connection = byname_api::caller::Connection {
        peer: Peer::Tcp { address: from, encrypted: true },
        certificate: Some(Arc::new(copy)),
    };
    server.gate.admit(&connection, None, None, None).unwrap_err();
    assert!(!server.refusals(from).await.is_empty());
}

const PASSWORD: &str = "correct horse battery";

async fn set_password(server: &Established, of: &str) {
    let (registration, message) = Registration::start(PASSWORD).unwrap();
    let start = EnrolRequest::PasswordStart { principal: name(of), message: Blob(message) };
    let EnrolReply::Challenge { message, .. } = server.node.enrol(&Established::server(), start).await.unwrap() else {
        panic!("no challenge");
    };
    let message = Blob(registration.finish(&message.0).unwrap());
    let finish = EnrolRequest::PasswordFinish { principal: name(of), message };
    server.node.enrol(&Established::server(), finish).await.unwrap();
}

/// The first step: the attempt and the server's message.
async fn begin(server: &Established, cx: &Context, of: &str, password: &str) -> Result<(Login, Secret, Vec<u8>)> {
    let (login, message) = Login::start(password).unwrap();
    let start = LoginRequest::PasswordStart { principal: name(of), message: Blob(message) };
    match server.node.login(cx, start).await? {
        LoginReply::Challenge { attempt, message } => Ok((login, attempt, message.0)),
        other => panic!("{other:?}"),
    }
}

async fn finish(server: &Established, cx: &Context, attempt: &Secret, message: Vec<u8>) -> Result<LoginReply> {
    let request = LoginRequest::PasswordFinish { attempt: attempt.clone(), message: Blob(message) };
    server.node.login(cx, request).await
}

#[tokio::test]
async fn a_password_login_tells_nothing_and_is_good_once() {
    let server = Established::new(false).await;
    server.people(["/people/liu", "/people/bare", "/people/shut"]).await;
    set_password(&server, "/people/liu").await;
    set_password(&server, "/people/shut").await;
    server.modify("/people/shut", Spec { disabled: Some(true), ..Spec::default() }).await;

    let cx = server.stranger();
    let (login, attempt, message) = begin(&server, &cx, "/people/liu", PASSWORD).await.unwrap();
    let proof = login.finish(&message).unwrap();
    let LoginReply::Session(session) = finish(&server, &cx, &attempt, proof.clone()).await.unwrap() else {
        panic!("no session");
    };
    server.admit(server.address(), Some(&session.token.0)).unwrap();
    refused(&server, &cx, "replayed", finish(&server, &cx, &attempt, proof.clone()).await).await;
    let cx = server.stranger();
    let (_, other, length) = begin(&server, &cx, "/people/liu", PASSWORD).await.unwrap();
    refused(&server, &cx, "of another attempt", finish(&server, &cx, &other, proof.clone()).await).await;
    let cx = server.stranger();
    let unknown = finish(&server, &cx, &Secret("5".repeat(64)), proof.clone()).await;
    refused(&server, &cx, "of no attempt", unknown).await;
    let cx = server.stranger();
    let request = LoginRequest::PasskeyStart { principal: name("/people/liu") };
    let LoginReply::Challenge { attempt, .. } = server.node.login(&cx, request).await.unwrap() else { panic!() };
    refused(&server, &cx, "of another mechanism", finish(&server, &cx, &attempt, proof.clone()).await).await;

    let mut sentences = Vec::new();
    for (who, password) in [
        ("/people/liu", "wrong horse battery"),
        ("/people/bare", PASSWORD),
        ("/people/shut", PASSWORD),
        ("/people/nobody", PASSWORD),
        ("/nowhere/at/all", PASSWORD),
        ("/byname/admins", PASSWORD),
    ] {
        let cx = server.stranger();
        let (login, attempt, message) = begin(&server, &cx, who, password).await.unwrap();
        assert_eq!((attempt.0.len(), message.len()), (other.0.len(), length.len()), "{who}");
        // The server proves itself first, and cannot: a client goes no further, an attacker does.
        assert_eq!(login.finish(&message).unwrap_err().code(), Code::Unauthenticated, "{who}");
        let error = refused(&server, &cx, who, finish(&server, &cx, &attempt, vec![7; proof.len()]).await).await;
        sentences.push((error.code(), error.message().to_owned()));
    }
    assert!(sentences.iter().all(|told| *told == sentences[0]), "{sentences:?}");
}

#[tokio::test]
async fn whoever_fails_too_often_waits_whatever_the_name_is_written_like() {
    let server = Established::new(false).await;
    server.people(["/people/liu"]).await;
    let target = Spec { target: Some(name("/people/liu")), ..Spec::of(Kind::Alias) };
    server.put("/liu", target).await;
    for spellings in [["/people/liu", "/People/LIU", "/liu"], ["/people/no", "/People/NO", "/PEOPLE/no"]] {
        let cx = server.stranger();
        // Each counts from its beginning: the first answer tells a guesser enough.
        let mut begun = Vec::new();
        for at in 0..12 {
            match begin(&server, &cx, spellings[at % 3], PASSWORD).await {
                Ok((_, attempt, _)) => begun.push(attempt),
                Err(error) => assert_eq!(error.code(), Code::RateLimited, "{spellings:?}"),
            }
        }
        assert_eq!(begun.len(), 5, "{spellings:?}");
        for attempt in &begun {
            let error = finish(&server, &cx, attempt, vec![7; 64]).await.unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated, "{spellings:?}");
        }
        for spelling in spellings {
            let error = begin(&server, &cx, spelling, PASSWORD).await.unwrap_err();
            assert_eq!(error.code(), Code::RateLimited, "{spelling}");
            let request = LoginRequest::PasskeyStart { principal: name(spelling) };
            assert_eq!(server.node.login(&cx, request).await.unwrap_err().code(), Code::RateLimited, "{spelling}");
        }
        begin(&server, &server.stranger(), spellings[0], PASSWORD).await.expect("from elsewhere");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
        begin(&server, &cx, spellings[0], PASSWORD).await.expect("the pause is over");
    }
}

const ORIGIN: &str = "https://corp.example";

/// What the page that a principal is sent to does.
async fn make_passkey(
    server: &Established,
    of: &str,
    device: &mut Authenticator,
) -> (Secret, String, Result<EnrolReply>) {
    let page = EnrolRequest::PasskeyPage { principal: name(of) };
    let EnrolReply::Page { path, .. } = server.node.enrol(&Established::server(), page).await.unwrap() else {
        panic!()
    };
    let link = path.split("link=").nth(1).and_then(|rest| rest.split('&').next()).unwrap().to_owned();
    let cx = server.stranger();
    let start = EnrolRequest::PasskeyStart { link: Secret(link.clone()) };
    let EnrolReply::Challenge { attempt, message } = server.node.enrol(&cx, start.clone()).await.unwrap() else {
        panic!()
    };
    refused(server, &cx, "a link is good once", server.node.enrol(&cx, start).await).await;
    let attempt = attempt.unwrap();
    let credential = device.register(std::str::from_utf8(&message.0).unwrap(), ORIGIN).unwrap();
    let done =
        EnrolRequest::PasskeyFinish { attempt: attempt.clone(), credential: credential.clone(), label: "key".into() };
    let made = server.node.enrol(&cx, done).await;
    (attempt, credential, made)
}

async fn challenge(server: &Established, cx: &Context, of: &str) -> (Secret, String) {
    let request = LoginRequest::PasskeyStart { principal: name(of) };
    let LoginReply::Challenge { attempt, message } = server.node.login(cx, request).await.unwrap() else { panic!() };
    (attempt, String::from_utf8(message.0).unwrap())
}

async fn answer(server: &Established, cx: &Context, attempt: &Secret, credential: String) -> Result<LoginReply> {
    let request = LoginRequest::PasskeyFinish { attempt: attempt.clone(), credential, device: None };
    server.node.login(cx, request).await
}

#[tokio::test]
async fn a_passkey_signs_one_challenge_and_no_copy_of_it() {
    let server = Established::new(false).await;
    server.people(["/people/liu", "/people/eve"]).await;
    let (mut device, mut others) = (Authenticator::new(), Authenticator::new());
    let (attempt, credential, made) = make_passkey(&server, "/people/liu", &mut device).await;
    made.unwrap();
    let cx = server.stranger();
    let again = EnrolRequest::PasskeyFinish { attempt, credential, label: "again".into() };
    refused(&server, &cx, "a registration replayed", server.node.enrol(&cx, again).await).await;
    make_passkey(&server, "/people/eve", &mut others).await.2.unwrap();

    let cx = server.stranger();
    let (attempt, options) = challenge(&server, &cx, "/people/liu").await;
    let signed = device.login(&options, ORIGIN).unwrap();
    assert!(matches!(answer(&server, &cx, &attempt, signed.clone()).await.unwrap(), LoginReply::Session(_)));
    refused(&server, &cx, "replayed", answer(&server, &cx, &attempt, signed.clone()).await).await;
    let cx = server.stranger();
    let (attempt, _) = challenge(&server, &cx, "/people/liu").await;
    refused(&server, &cx, "of another challenge", answer(&server, &cx, &attempt, signed).await).await;
    let cx = server.stranger();
    let (attempt, options) = challenge(&server, &cx, "/people/liu").await;
    let elsewhere = device.login(&options, "https://evil.example").unwrap();
    refused(&server, &cx, "another page", answer(&server, &cx, &attempt, elsewhere).await).await;
    let cx = server.stranger();
    let (_, theirs) = challenge(&server, &cx, "/people/eve").await;
    let (attempt, _) = challenge(&server, &cx, "/people/liu").await;
    let theirs = others.login(&theirs, ORIGIN).unwrap();
    refused(&server, &cx, "another's key", answer(&server, &cx, &attempt, theirs).await).await;
    // Once it is used, the counter of a copy is behind.
    for _ in 0..2 {
        let cx = server.stranger();
        let (attempt, options) = challenge(&server, &cx, "/people/liu").await;
        let signed = device.login(&options, ORIGIN).unwrap();
        answer(&server, &cx, &attempt, signed).await.unwrap();
    }
    device.set_counter(0);
    let cx = server.stranger();
    let (attempt, options) = challenge(&server, &cx, "/people/liu").await;
    let copy = device.login(&options, ORIGIN).unwrap();
    refused(&server, &cx, "a counter that goes back", answer(&server, &cx, &attempt, copy).await).await;

    // Somebody who is not there looks like somebody who is, and always the same.
    let (nobody, options) = challenge(&server, &server.stranger(), "/people/nobody").await;
    let (_, again) = challenge(&server, &server.stranger(), "/people/nobody").await;
    let (somebody, real) = challenge(&server, &server.stranger(), "/people/eve").await;
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["publicKey"].clone();
    let (options, again, real) = (read(&options), read(&again), read(&real));
    assert_eq!(nobody.0.len(), somebody.0.len());
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&options), keys(&real));
    let allowed = |value: &serde_json::Value| value["allowCredentials"].clone();
    assert_eq!(allowed(&options), allowed(&again));
    assert_eq!(allowed(&options).as_array().unwrap().len(), allowed(&real).as_array().unwrap().len());
    assert_eq!(keys(&allowed(&options)[0]), keys(&allowed(&real)[0]));
}

/// As [`refused`]; what is hidden may be said not to be there.
async fn unproved<T: std::fmt::Debug>(server: &Established, cx: &Context, what: &str, result: Result<T>) -> Error {
    let error = result.expect_err(what);
    assert!(matches!(error.code(), Code::Denied | Code::NotFound), "{error:?}");
    let from = cx.caller.address.expect("an address of its own");
    assert!(!server.refusals(from).await.is_empty(), "{what}: not in the audit log: {error}");
    error
}

#[tokio::test]
async fn a_wrong_credential_tells_nobody_what_is_hidden() {
    let server = Established::new(false).await;
    server.people(["/people/liu"]).await;
    let closed = Some(vec![entry("anyone", Rights::ALL, false)]);
    let (instance, _) = server.running("/open/hidden", Spec { acl: closed.clone(), ..Spec::default() }).await;
    server.put("/open/closed", Spec { acl: closed, ..Spec::of(Kind::Record) }).await;
    let wrong = "5".repeat(64);
    for locked in ["/open/hidden", "/open/closed"] {
        let lock = LockRequest { name: name(locked), ttl: None, wait: None, key: Some("6".repeat(64)), renew: false };
        server.node.lock(&Established::server(), lock).await.unwrap();
    }
    for known in [true, false] {
        let mut told: Vec<Vec<(Code, String, Option<String>)>> = Vec::new();
        for at in ["/open/hidden", "/open/closed", "/open/absent"] {
            let mut errors = Vec::new();
            let ticket = |instance| AdvertiseRequest {
                name: Some(name(at)),
                endpoints: vec![endpoint()],
                ticket: Some(wrong.clone()),
                instance,
                ..AdvertiseRequest::default()
            };
            let credential = AdvertiseRequest {
                name: Some(name(at)),
                endpoints: vec![endpoint()],
                credential: Some(wrong.clone()),
                instance: Some(instance),
                ..AdvertiseRequest::default()
            };
            for request in [ticket(None), ticket(Some(instance)), ticket(Some(InstanceId(7))), credential] {
                let cx = if known { server.signed_in("/people/liu").await } else { server.stranger() };
                errors.push(unproved(&server, &cx, at, server.node.advertise(&cx, request).await).await);
            }
            for id in [instance, InstanceId(7)] {
                let cx = if known { server.signed_in("/people/liu").await } else { server.stranger() };
                let withdraw = WithdrawRequest { name: name(at), instance: Some(id), credential: Some(wrong.clone()) };
                errors.push(unproved(&server, &cx, at, server.node.withdraw(&cx, withdraw).await).await);
                let report = ReportRequest {
                    name: Some(name(at)),
                    instance: Some(id),
                    uses: Some(1),
                    credential: Some(wrong.clone()),
                    ..ReportRequest::default()
                };
                errors.push(unproved(&server, &cx, at, server.node.report(&cx, report).await).await);
                let unlock = UnlockRequest { name: name(at), key: Some(wrong.clone()) };
                // There is no lock where nothing is, nor where nothing is seen.
                let unlocked = server.node.unlock(&cx, unlock).await;
                errors.push(unlocked.err().unwrap_or_else(|| Error::new(Code::Conflict, "no lock")));
            }
            told.push(
                errors
                    .iter()
                    .map(|e| (e.code(), e.message().replace(at, "NAME"), e.at_field().map(Into::into)))
                    .collect(),
            );
        }
        assert_eq!(told[0], told[2], "known: {known}");
        assert_eq!(told[1], told[2], "known: {known}");
    }
    // Nor does the id of one of its copies.
    let liu = server.signed_in("/people/liu").await;
    let mut sentences = Vec::new();
    for id in [instance, InstanceId(7)] {
        let revoke = RevokeRequest::Instance { instance: id };
        let error = refused(&server, &liu, "revoke", server.node.revoke(&liu, revoke).await).await;
        sentences.push((error.code(), error.message().to_owned()));
    }
    assert_eq!(sentences[0], sentences[1]);
}

#[tokio::test]
async fn who_was_shut_out_after_it_was_admitted_gets_no_new_proof_and_is_passed_on_in_vain() {
    let server = Established::new(false).await;
    server.people(["/people/liu", "/people/lost", "/people/shut"]).await;
    let ask = || CertifyRequest {
        request: new_key().unwrap().request_pem,
        instance: None,
        principal: None,
        validity: None,
        audience: Vec::new(),
    };
    let (liu, lost) = (server.signed_in("/people/liu").await, server.signed_in("/people/lost").await);
    let shut = server.signed_in("/people/shut").await;
    let revoke = RevokeRequest::Principal { principal: name("/people/lost") };
    server.node.revoke(&Established::server(), revoke).await.unwrap();
    server.modify("/people/shut", Spec { disabled: Some(true), ..Spec::default() }).await;
    server.node.certify(&liu, ask()).await.unwrap();
    for cx in [&lost, &shut] {
        let refused = server.node.certify(cx, ask()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    // A server that is behind passes them on as it has admitted them.
    let backup = Caller::full("/byname/servers/2", Mechanism::Certificate);
    let passed = |cx: &Context| server.gate.on_behalf(backup.clone(), Some(&cx.caller.pass_on()));
    assert_eq!(passed(&liu).unwrap().principal, "/people/liu");
    for cx in [&lost, &shut] {
        assert_eq!(passed(cx).unwrap_err().code(), Code::Unauthenticated);
    }
    // One that says less, as the first versions did, is looked up all the same.
    let old = Context::of(Caller { issued: None, session: None, ..shut.caller });
    assert_eq!(passed(&old).unwrap_err().code(), Code::Unauthenticated);
}
