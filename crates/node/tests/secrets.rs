//! No secret anywhere: neither in the files of a server, nor in what it answers to an administrator, nor in its errors,
//! nor in its log. (One test in one process: what is traced is captured for all of it.)

mod established;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use byname_api::NameService;
use byname_api::access::{AccessRequest, Rights};
use byname_api::audit::AuditRequest;
use byname_api::error::Result;
use byname_api::identity::*;
use byname_api::launch::EnvValue;
use byname_api::object::{Kind, Spec};
use byname_api::request::*;
use byname_identity::authority::new_key;
use byname_identity::password::{Login, Registration};
use byname_testkit::contract::Program;
use byname_testkit::{PlayedAgent, eventually_async};
use established::{Established, KEY, TOKEN, endpoint, entry, name};
use futures_util::StreamExt;

const PASSWORD: &str = "correct horse battery staple";
const VALUE: &str = "swordfish: the value of a secret";

/// What is traced.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<Vec<u8>>>);

impl Write for Traced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What nobody may find, in the forms in which it could lie about.
struct Planted(Vec<(&'static str, Vec<u8>)>);

impl Planted {
    fn text(&mut self, what: &'static str, secret: &str) {
        self.0.push((what, secret.as_bytes().to_vec()));
        self.0.push((what, hex::encode(secret).into_bytes()));
        // Two ways to begin would be missed, and are not ours.
        self.0.push((what, STANDARD_NO_PAD.encode(secret).into_bytes()));
    }

    /// 32 bytes that are written in hexadecimal.
    fn hex(&mut self, what: &'static str, secret: &str) {
        let bytes = hex::decode(secret).unwrap();
        assert_eq!(bytes.len(), 32, "{what}");
        for form in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes), hex::encode_upper(&bytes)] {
            self.0.push((what, form.into_bytes()));
        }
        self.0.push((what, secret.as_bytes().to_vec()));
        self.0.push((what, bytes));
    }

    /// The first of them that is in there.
    fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let text = as_text(bytes);
        self.0.iter().find(|(_, secret)| text.contains(&as_text(secret))).map(|(what, _)| *what)
    }
}

/// A character for each byte: texts are searched fast, and as exactly.
fn as_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn files(dir: &Path, all: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else {
            all.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_a_file_an_answer_an_error_or_the_log() {
    let traced = Traced::default();
    let writer = traced.clone();
    tracing_subscriber::fmt().with_env_filter("trace").with_ansi(false).with_writer(move || writer.clone()).init();
    let server = Established::new(false).await;
    let node = &server.node;
    let full = Established::server();
    let mut planted = Planted(Vec::new());
    let mut told: Vec<(&str, String)> = Vec::new();
    planted.hex("the cluster key", &hex::encode(KEY));
    planted.text("the bearer token", TOKEN);

    // A secret, and a service that is started with it.
    planted.text("the value of a secret", VALUE);
    server.put("/secrets/fish", Spec { value: Some(VALUE.into()), ..Spec::of(Kind::Secret) }).await;
    let mut launch = PlayedAgent::launch(Program::Advertises);
    launch.env = Some([("FISH".to_owned(), EnvValue::Secret { secret: "/secrets/fish".into() })].into());
    server.put("/svc", Spec { launch: Some(launch), ..Spec::of(Kind::Service) }).await;
    let (instance, credential) = server.start("/svc").await;
    planted.hex("a credential", &credential);
    let pair = server.agent.as_ref().and_then(|agent| agent.ticket(instance)).unwrap();
    planted.hex("a ticket", &hex::encode(pair.program));
    planted.hex("the server's half of a ticket", &hex::encode(pair.server));

    // A password, a session, an introduction, join tokens, a lock.
    server.people(["/people/admin"]).await;
    server.put("/byname/admins", Spec { members: Some(vec!["/people/admin".into()]), ..Spec::of(Kind::Group) }).await;
    planted.text("a password", PASSWORD);
    let (registration, message) = Registration::start(PASSWORD).unwrap();
    let start = EnrolRequest::PasswordStart { principal: name("/people/admin"), message: Blob(message) };
    told.push(("a request to enrol", format!("{start:?}")));
    let EnrolReply::Challenge { message, .. } = node.enrol(&full, start).await.unwrap() else { panic!() };
    let message = Blob(registration.finish(&message.0).unwrap());
    let finish = EnrolRequest::PasswordFinish { principal: name("/people/admin"), message };
    node.enrol(&full, finish).await.unwrap();
    let (login, message) = Login::start(PASSWORD).unwrap();
    let start = LoginRequest::PasswordStart { principal: name("/people/admin"), message: Blob(message) };
    let stranger = server.stranger();
    let LoginReply::Challenge { attempt, message } = node.login(&stranger, start).await.unwrap() else { panic!() };
    planted.hex("an attempt to sign in", &attempt.0);
    let finish = LoginRequest::PasswordFinish { attempt, message: Blob(login.finish(&message.0).unwrap()) };
    told.push(("a request to sign in", format!("{finish:?}")));
    let signed_in = node.login(&stranger, finish.clone()).await.unwrap();
    told.push(("a session", format!("{signed_in:?}")));
    let LoginReply::Session(session) = signed_in else { panic!() };
    planted.text("a session token", &session.token.0);
    let admin = server.admit(server.address(), Some(&session.token.0)).unwrap();
    told.push(("a caller", format!("{admin:?}")));
    let introduce = IntroduceRequest { name: name("/svc"), instance: None };
    let introduced = node.introduce(&admin, introduce).await.unwrap();
    told.push(("an introduction", format!("{introduced:?}")));
    planted.hex("the client's half of an introduction", &introduced.ticket.0);
    planted.hex("the service's half of an introduction", &introduced.proof.0);
    let invite = InviteRequest { join_as: JoinAs::Server, computer: None, ttl: None };
    let invited = node.invite(&admin, invite).await.unwrap();
    told.push(("an invitation", format!("{invited:?}")));
    planted.hex("a join token", &invited.secret.0);
    server.put("/locked", Spec::of(Kind::Record)).await;
    let lock = LockRequest { name: name("/locked"), ttl: None, wait: None, key: None, renew: false };
    planted.hex("the key of a lock", &node.lock(&admin, lock).await.unwrap().key.unwrap());

    // Each is used and used again: the errors of it.
    let mut errors: Vec<(&str, String)> = Vec::new();
    fn failed<T>(errors: &mut Vec<(&'static str, String)>, what: &'static str, result: Result<T>) {
        if let Err(error) = result {
            errors.push((what, format!("{error:?} {error} {}", error.log_line())));
        }
    }
    let verify = VerifyRequest {
        ticket: introduced.ticket.clone(),
        instance: Some(instance),
        credential: Some(Secret(credential.clone())),
    };
    told.push(("a request to verify", format!("{verify:?}")));
    for _ in 0..2 {
        failed(&mut errors, "verify", node.verify(&server.stranger(), verify.clone()).await);
        let join = JoinRequest {
            secret: invited.secret.clone(),
            computer: name("/byname/servers/2"),
            request: new_key().unwrap().request_pem,
            address: Some("192.0.2.2:7600".into()),
        };
        told.push(("a request to join", format!("{join:?}")));
        let joined = node.join(&server.stranger(), join).await;
        told.push(("an answer to join", format!("{joined:?}")));
        failed(&mut errors, "join", joined);
        failed(&mut errors, "login", node.login(&server.stranger(), finish.clone()).await);
        let advertise = AdvertiseRequest {
            name: Some(name("/svc")),
            endpoints: vec![endpoint()],
            ticket: Some(hex::encode(pair.program)),
            instance: Some(instance),
            ..AdvertiseRequest::default()
        };
        failed(&mut errors, "advertise", node.advertise(&server.stranger(), advertise).await);
        failed(&mut errors, "logout", node.logout(&admin, LogoutRequest::default()).await);
    }
    for (what, token) in [("a session", session.token.0.as_str()), ("a token", TOKEN), ("a secret", VALUE)] {
        failed(&mut errors, what, server.admit(server.address(), Some(token)));
    }
    assert!(errors.len() >= 7, "{errors:?}");
    let too_long = Op::Put {
        name: name("/secrets/fish"),
        spec: Spec { value: Some(VALUE.repeat(4_000)), ..Spec::of(Kind::Secret) },
        if_version: None,
    };
    failed(&mut errors, "too long a secret", node.batch(&full, BatchRequest::of(too_long)).await);
    let dry = BatchRequest {
        ops: vec![Op::Put {
            name: name("/secrets/fish"),
            spec: Spec {
                value: Some(VALUE.into()),
                acl: Some(vec![entry("anyone", Rights::ALL, false)]),
                ..Spec::of(Kind::Secret)
            },
            if_version: None,
        }],
        dry_run: true,
        set: None,
    };
    told.push(("a dry run", serde_json::to_string(&node.batch(&full, dry).await.unwrap()).unwrap()));

    // What an administrator is shown. The session has ended, and another takes its place.
    let admin = server.signed_in("/people/admin").await;
    told.push(("list", serde_json::to_string(&node.list(&admin, ListRequest::new("/**")).await.unwrap()).unwrap()));
    let found = node.search(&admin, SearchRequest::new("(kind=*)")).await.unwrap();
    assert!(found.objects.iter().any(|object| object.name.as_str() == "/secrets/fish"));
    told.push(("search", serde_json::to_string(&found).unwrap()));
    for object in &found.objects {
        let read = node.read(&admin, ReadRequest { name: object.name.clone(), consistent: true }).await.unwrap();
        told.push(("read", serde_json::to_string(&read).unwrap()));
        let request = AccessRequest { name: object.name.clone(), who: None, right: None };
        told.push(("access", serde_json::to_string(&node.access(&admin, request).await.unwrap()).unwrap()));
    }
    told.push(("status", serde_json::to_string(&node.status(&admin, ListRequest::new("/**")).await.unwrap()).unwrap()));
    told.push(("why", serde_json::to_string(&node.why(&admin, name("/svc")).await.unwrap()).unwrap()));
    told.push(("info", serde_json::to_string(&node.info(&admin).await.unwrap()).unwrap()));
    told.push(("trust", serde_json::to_string(&node.trust(&admin).await.unwrap()).unwrap()));
    let watch = WatchRequest { pattern: "/**".into(), from: None, initial: true };
    let shown = node.watch(&admin, watch).await.unwrap().next().await.unwrap().unwrap();
    assert!(shown.events.len() > 5);
    told.push(("watch", serde_json::to_string(&shown).unwrap()));
    let audit = AuditRequest { limit: 1_000, verify: true, ..AuditRequest::default() };
    node.anchor_audit().await;
    let audited = node.audit(&admin, audit).await.unwrap();
    assert!(audited.records.len() > 10 && audited.verified.as_ref().is_some_and(|found| found.intact), "{audited:?}");
    told.push(("audit", serde_json::to_string(&audited).unwrap()));

    // A snapshot, and a log that goes on behind it.
    eventually_async("a snapshot", || async {
        server.put("/filler", Spec { value: Some("x".repeat(8 << 10)), ..Spec::of(Kind::Record) }).await;
        server.delete("/filler").await;
        (node.info(&full).await.unwrap().snapshot_index > 0).then_some(())
    })
    .await;
    server.put("/secrets/fish", Spec { value: Some(VALUE.into()), ..Spec::of(Kind::Secret) }).await;
    let dir = server.close().await;

    let mut kept = Vec::new();
    files(dir.path(), &mut kept);
    let snapshots = kept.iter().filter(|(path, _)| path.contains("snapshot")).count();
    assert!(snapshots > 0 && kept.iter().any(|(path, _)| path.contains("audit")), "no files were looked at");
    for (path, bytes) in &kept {
        assert_eq!(planted.found_in(bytes), None, "in {path}");
    }
    for (what, text) in told.iter().chain(&errors) {
        assert_eq!(planted.found_in(text.as_bytes()), None, "in {what}: {text}");
    }
    let traced = traced.0.lock().unwrap().clone();
    assert!(traced.len() > 1_000, "nothing was traced");
    if let Some(what) = planted.found_in(&traced) {
        let text = String::from_utf8_lossy(&traced);
        let line = text.lines().find(|line| planted.found_in(line.as_bytes()).is_some());
        panic!("{what} is in the log: {line:?}");
    }
    // It would be found if it were there.
    assert_eq!(planted.found_in(format!("so {VALUE} it is").as_bytes()), Some("the value of a secret"));
}
