//! Signing in, certificates, introductions and the audit log, over the wire.

use std::sync::Arc;
use std::time::Duration;

use byname_api::access::{AccessRequest, AclEntry, Subject};
use byname_api::audit::{AuditRequest, Outcome};
use byname_api::caller::{Mechanism, Right};
use byname_api::identity::*;
use byname_api::object::{InstanceId, ObjectId};
use byname_api::span::{Span, Timestamp};
use byname_api::{Code, NameService};
use byname_client::{Clerk, Options};

use crate::fake::{Fake, Server, admitted, anyone, full, name};

async fn served() -> (Arc<Fake>, Server, Clerk) {
    let fake = Arc::new(Fake::default());
    let server = Server::tcp(admitted(fake.clone(), full())).await;
    let clerk = Clerk::connect(&server.address, Options::default()).unwrap();
    (fake, server, clerk)
}

fn secret(text: &str) -> Secret {
    Secret(text.into())
}

#[tokio::test]
async fn every_step_of_signing_in_comes_through() {
    let (fake, _server, clerk) = served().await;
    let cx = anyone();
    let message = Blob(vec![0, 255, 7]);
    let session =
        LoginReply::Session(Session { token: secret("token"), principal: name("/people/liu"), expires: Timestamp(7) });
    let (attempt, credential) = (secret("attempt"), "{}".to_owned());
    for (request, reply) in [
        (
            LoginRequest::PasswordStart { principal: name("/people/liu"), message: message.clone() },
            LoginReply::Challenge { attempt: attempt.clone(), message: Blob(vec![0, 255, 7, b'!']) },
        ),
        (LoginRequest::PasswordFinish { attempt: attempt.clone(), message }, session.clone()),
        (LoginRequest::PasskeyStart { principal: name("/people/liu") }, session.clone()),
        (
            LoginRequest::PasskeyFinish {
                attempt: attempt.clone(),
                credential: credential.clone(),
                device: Some(secret("device")),
            },
            LoginReply::HandedOver,
        ),
        (LoginRequest::PasskeyFinish { attempt: attempt.clone(), credential, device: None }, session.clone()),
        (LoginRequest::Instance { instance: InstanceId(7), credential: secret("c") }, session),
        (
            LoginRequest::PageStart { principal: None },
            LoginReply::Page {
                attempt: attempt.clone(),
                path: "/login#x".into(),
                code: "ABCD-EFGH".into(),
                every_ms: 500,
            },
        ),
        (LoginRequest::PagePoll { attempt }, LoginReply::Pending),
    ] {
        let expect = format!("login {request:?} id false");
        assert_eq!(clerk.login(&cx, request).await.unwrap(), reply);
        assert_eq!(fake.asked().last(), Some(&expect));
    }
}

#[tokio::test]
async fn every_operation_of_identity_comes_through() {
    let (fake, _server, clerk) = served().await;
    let cx = anyone();
    clerk.logout(&cx, LogoutRequest { everywhere: true, principal: Some(name("/people/liu")) }).await.unwrap();
    let me = clerk.whoami(&cx).await.unwrap();
    assert_eq!((me.principal.as_str(), me.id, me.mechanism), ("uid:1000", Some(ObjectId(4)), Mechanism::Socket));
    assert_eq!((me.groups, me.expires, me.admin), (vec![name("/byname/admins")], Some(Timestamp(8)), true));

    let principal = || name("/people/liu");
    let message = || Blob(vec![1, 2]);
    for (request, reply) in [
        (
            EnrolRequest::PasswordStart { principal: principal(), message: message() },
            EnrolReply::Challenge { attempt: None, message: message() },
        ),
        (EnrolRequest::PasswordFinish { principal: principal(), message: message() }, EnrolReply::Done),
        (EnrolRequest::PasswordRemove { principal: principal() }, EnrolReply::Done),
        (
            EnrolRequest::PasskeyPage { principal: principal() },
            EnrolReply::Page { path: "/enrol#link=x".into(), expires: Timestamp(6) },
        ),
        (EnrolRequest::PasskeyStart { link: secret("link") }, EnrolReply::Done),
        (
            EnrolRequest::PasskeyFinish { attempt: secret("a"), credential: "{}".into(), label: "key".into() },
            EnrolReply::Done,
        ),
        (EnrolRequest::PasskeyRemove { principal: principal(), label: "key".into() }, EnrolReply::Done),
        (
            EnrolRequest::List { principal: principal() },
            EnrolReply::Credentials { password: true, passkeys: vec!["key".into()] },
        ),
    ] {
        let expect = format!("enrol {request:?} id true");
        assert_eq!(clerk.enrol(&cx, request).await.unwrap(), reply);
        assert_eq!(fake.asked().last(), Some(&expect));
    }

    let asked = CertifyRequest {
        request: "csr".into(),
        instance: Some(InstanceId(7)),
        principal: None,
        validity: Some(Span::from_secs(60)),
        audience: vec!["db".into()],
    };
    let expect = format!("certify {asked:?}");
    let certificate = clerk.certify(&cx, asked).await.unwrap();
    assert_eq!((certificate.chain.as_str(), certificate.token), ("chain", Some(secret("jwt"))));
    assert_eq!(fake.asked().last(), Some(&expect));
    assert_eq!(clerk.trust(&cx).await.unwrap().domain, "byname.internal");

    let reply =
        clerk.introduce(&cx, IntroduceRequest { name: name("/a"), instance: Some(InstanceId(9)) }).await.unwrap();
    assert_eq!((reply.instance, reply.ticket, reply.proof), (InstanceId(9), secret("t1"), secret("t2")));
    assert_eq!(reply.endpoints[0].port, 4711);
    let asked = VerifyRequest { ticket: secret("t1"), instance: Some(InstanceId(9)), credential: Some(secret("c")) };
    let reply = clerk.verify(&cx, asked).await.unwrap();
    assert_eq!((reply.client.as_str(), reply.client_id, reply.proof), ("/people/liu", Some(ObjectId(3)), secret("t1")));

    let ttl = Some(Span::from_secs(60));
    let asked = InviteRequest { join_as: JoinAs::Agent, computer: Some(name("/computers/bugs")), ttl };
    let reply = clerk.invite(&cx, asked).await.unwrap();
    assert_eq!((reply.secret, reply.servers), (secret("join"), vec!["https://192.0.2.1:7600".to_owned()]));
    let asked =
        JoinRequest { secret: secret("join"), computer: name("/computers/bugs"), request: "csr".into(), address: None };
    let reply = clerk.join(&cx, asked).await.unwrap();
    assert_eq!((reply.certificate.bundle.as_str(), reply.cluster_key), ("bundle", Some(secret("join"))));
    clerk.revoke(&cx, RevokeRequest::Instance { instance: InstanceId(9) }).await.unwrap();
    clerk.revoke(&cx, RevokeRequest::Principal { principal: principal() }).await.unwrap();

    let asked: Vec<String> =
        fake.asked().into_iter().filter(|line| !line.starts_with("enrol") && !line.starts_with("certify")).collect();
    assert_eq!(
        asked,
        [
            "logout true Some(Name(\"/people/liu\")) id true",
            "introduce /a id true",
            "verify Some(InstanceId(9)) id true",
            "invite InviteRequest { join_as: Agent, computer: Some(Name(\"/computers/bugs\")), ttl: Some(Span(60000)) } id true",
            "join /computers/bugs id true",
            "revoke Instance { instance: InstanceId(9) } id true",
            "revoke Principal { principal: Name(\"/people/liu\") } id true",
        ]
    );
}

#[tokio::test]
async fn questions_about_access_and_the_past_come_through() {
    let (fake, _server, clerk) = served().await;
    let cx = anyone();
    let asked = AccessRequest { name: name("/a"), who: Some(Subject::User(7)), right: Some(Right::Launch) };
    let reply = clerk.access(&cx, asked).await.unwrap();
    assert_eq!((reply.name.as_str(), &reply.who), ("/a", &Subject::User(7)));
    let [decision] = &reply.decisions[..] else { panic!("{reply:?}") };
    assert_eq!((decision.right, decision.allowed, &decision.at), (Right::Launch, false, &Some(name("/"))));
    assert_eq!(decision.entry.as_ref().map(|entry| entry.allow), Some(false));
    assert_eq!(decision.through, [name("/groups/all")]);
    assert_eq!(reply.lists[0].acl, [AclEntry::allow(Subject::Anyone, Right::Find)]);

    let asked = AuditRequest {
        by: Some("/people/liu".into()),
        name: Some("/a/**".into()),
        operation: Some("add".into()),
        outcome: Some(Outcome::Denied),
        since: Some(Timestamp(1)),
        until: Some(Timestamp(2)),
        limit: 3,
        next: Some("n".into()),
        verify: true,
    };
    let expect = format!("audit {asked:?}");
    let reply = clerk.audit(&cx, asked).await.unwrap();
    assert_eq!(fake.asked(), [expect]);
    assert_eq!((reply.records[0].outcome, reply.next.as_deref()), (Outcome::Denied, Some("n")));
    assert_eq!(reply.verified.map(|verified| verified.intact), Some(true));
}

/// Two servers: the first is killed while it holds the request.
async fn killed_in_between<F, T>(ask: impl FnOnce(Clerk) -> F) -> (T, Arc<Fake>, Arc<Fake>)
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let (first, second) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    let dying = Server::tcp(admitted(first.clone(), full())).await;
    let other = Server::tcp(admitted(second.clone(), full())).await;
    let options = Options { patience: Duration::from_millis(50), ..Options::default() };
    let clerk = Clerk::connect(&format!("{},{}", dying.address, other.address), options).unwrap();
    let mut asking = tokio::spawn(ask(clerk));
    first.hanging.notified().await;
    dying.kill();
    let notified = second.hanging.notified();
    let answer = tokio::select! {
        answer = &mut asking => answer.unwrap(),
        () = notified => {
            // The second one holds the retry: that end is cut too.
            drop(other);
            asking.await.unwrap()
        }
    };
    (answer, first, second)
}

#[tokio::test]
async fn a_step_of_signing_in_is_never_sent_twice() {
    let hang = LoginRequest::PasswordStart { principal: name("/hang"), message: Blob(vec![]) };
    let ask = |clerk: Clerk| async move { clerk.login(&anyone(), hang).await };
    let (answer, first, second) = killed_in_between(ask).await;
    let error = answer.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("broke before the answer came"), "{error}");
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
}

#[tokio::test]
async fn an_introduction_is_handed_on() {
    let ask = |clerk: Clerk| async move {
        clerk.introduce(&anyone(), IntroduceRequest { name: name("/hang"), instance: None }).await
    };
    let (answer, first, second) = killed_in_between(ask).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    assert_eq!(
        (first.asked(), second.asked().first().cloned()),
        (vec!["introduce /hang id true".into()], first.asked().pop())
    );
}
