//! What the clerk is asked reaches the service, and the answer comes back as it was made.

use std::sync::Arc;
use std::time::Duration;

use byname_api::agent::{Order, Report};
use byname_api::caller::Admission;
use byname_api::object::{InstanceId, Kind, Spec};
use byname_api::request::*;
use byname_api::service::Endpoint;
use byname_api::span::Span;
use byname_api::{Code, Error, NameService};
use byname_client::{Clerk, Options};
use futures_util::{StreamExt, stream};

use crate::fake::{Fake, Server, admitted, anyone, full, name, nowhere};

async fn served() -> (Arc<Fake>, Server, Clerk) {
    let fake = Arc::new(Fake::default());
    let server = Server::tcp(admitted(fake.clone(), full())).await;
    let clerk = Clerk::connect(&server.address, Options::default()).unwrap();
    (fake, server, clerk)
}

fn record(name_text: &str, value: String) -> BatchRequest {
    let spec = Spec { value: Some(value), ..Spec::of(Kind::Record) };
    BatchRequest::of(Op::Add { name: name(name_text), spec })
}

#[tokio::test]
async fn a_find_is_answered() {
    let (fake, _server, clerk) = served().await;
    let reply = clerk.find(&anyone(), FindRequest::new(name("/BVODS/QS"))).await.unwrap();
    assert_eq!(reply.instances[0].endpoints[0].to_string(), "tcp://192.0.2.1:4711");
    assert_eq!((reply.name.as_str(), reply.started, reply.fresh.revision), ("/BVODS/QS", true, 9));
    // The server's own bound is the server's: the clerk's deadline is not taken for the caller's.
    assert_eq!(reply.value, None);

    let failed = Some(InstanceId(7));
    let timeout = Some(Span::from_secs(3));
    let asked = FindRequest { start: false, timeout, failed, ..FindRequest::new(name("/a")) };
    let reply = clerk.find(&anyone(), asked).await.unwrap();
    assert_eq!((reply.started, reply.value.as_deref()), (false, Some("3s")));
    // The connection says who asks, not the clerk's context.
    assert_eq!(
        fake.asked(),
        ["find /BVODS/QS by uid:1000 failed None", "find /a by uid:1000 failed Some(InstanceId(7))"]
    );
}

#[tokio::test]
async fn every_operation_comes_through() {
    let (fake, _server, clerk) = served().await;
    let cx = anyone();
    let read = clerk.read(&cx, ReadRequest { name: name("/a"), consistent: true }).await.unwrap();
    assert_eq!((read.object.name.as_str(), read.object.spec.kind()), ("/a", Kind::Service));
    let list = clerk.list(&cx, ListRequest::new("/**")).await.unwrap();
    assert_eq!((list.entries.len(), list.next.as_deref()), (3, Some("/**")));
    let status = clerk.status(&cx, ListRequest::new("/a")).await.unwrap();
    assert_eq!(status.services[0].instances[0].pid, Some(42));
    let why = clerk.why(&cx, name("/a")).await.unwrap();
    assert_eq!(why.story[0].what, "started");
    let info = clerk.info(&cx).await.unwrap();
    assert_eq!((info.agents, info.started.by.as_str()), (vec!["bugs".to_string()], "uid:0"));

    for verb in [Verb::Launch, Verb::Stop, Verb::Restart, Verb::Reset] {
        let timeout = Some(Span::from_secs(1));
        let asked = ActRequest { verb, patterns: vec!["/a".into()], hold: true, now: false, timeout };
        let reply = clerk.act(&cx, asked).await.unwrap();
        assert_eq!(reply.services[0].error.as_ref().map(|problem| problem.code), Some(Code::Conflict));
    }
    let endpoints = vec![Endpoint { protocol: "tcp".into(), address: String::new(), port: 1 }];
    let asked = AdvertiseRequest { name: Some(name("/a")), endpoints, ..AdvertiseRequest::default() };
    assert_eq!(clerk.advertise(&cx, asked).await.unwrap().instance, InstanceId(8));
    let asked = WithdrawRequest { name: name("/a"), instance: Some(InstanceId(8)), credential: None };
    assert_eq!(clerk.withdraw(&cx, asked).await.unwrap().withdrawn, [InstanceId(8)]);
    assert_eq!(
        fake.asked(),
        [
            "launch [\"/a\"] Some(Span(1000)) id true",
            "stop [\"/a\"] Some(Span(1000)) id true",
            "restart [\"/a\"] Some(Span(1000)) id true",
            "reset [\"/a\"] Some(Span(1000)) id true",
            "advertise Some(Name(\"/a\")) 1 id true",
        ]
    );
}

#[tokio::test]
async fn an_error_comes_back_as_it_was_made() {
    let (_fake, _server, clerk) = served().await;
    let error = clerk.find(&anyone(), FindRequest::new(name("/missing"))).await.unwrap_err();
    assert_eq!(error, Error::new(Code::NotFound, "there is no `/missing`: naïve\nuser").field("näme %"));

    let error = clerk.find(&anyone(), FindRequest::new(name("/broken"))).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");

    // Many lines of a program's output do not fit into a header: the error arrives all the same.
    let error = clerk.find(&anyone(), FindRequest::new(name("/wordy"))).await.unwrap_err();
    assert_eq!(error.code(), Code::CrashLooping);
    assert!(error.message().starts_with("line\n") && error.message().ends_with("line\n"));
}

#[tokio::test]
async fn writes_carry_an_id_of_their_own_or_the_caller_s() {
    let (fake, _server, clerk) = served().await;
    let own = RequestId { session: 5, sequence: 6 };
    let reply = clerk.batch(&Context { request: Some(own), ..anyone() }, record("/r", "v".into())).await.unwrap();
    assert_eq!((reply.results[0].outcome, reply.revision), (Outcome::Created, 12));
    clerk.batch(&anyone(), record("/r", "v".into())).await.unwrap();
    clerk.batch(&anyone(), record("/r", "v".into())).await.unwrap();

    let ids: Vec<RequestId> = fake.asked().iter().map(|line| line["batch ".len()..].parse().unwrap()).collect();
    assert_eq!(ids[0], own);
    assert_eq!(ids[1].session, ids[2].session);
    assert!(RequestId::made(ids[1].session).is_some() && ids[1].sequence < ids[2].sequence);
}

#[tokio::test]
async fn a_value_of_a_mebibyte_fits_and_five_do_not() {
    let (_fake, _server, clerk) = served().await;
    clerk.batch(&anyone(), record("/r", "v".repeat(1 << 20))).await.unwrap();
    let error = clerk.batch(&anyone(), record("/r", "v".repeat(5 << 20))).await.unwrap_err();
    assert_eq!(error.code(), Code::TooLarge, "{error}");
    // The connection is as good as before.
    clerk.info(&anyone()).await.unwrap();
}

#[tokio::test]
async fn a_page_beyond_four_mebibytes_is_read() {
    let (_fake, _server, clerk) = served().await;
    let asked = ListRequest { limit: Some(80_000), ..ListRequest::new("/**") };
    assert_eq!(clerk.list(&anyone(), asked).await.unwrap().entries.len(), 80_000);
}

#[tokio::test]
async fn logs_come_in_pieces() {
    let (_fake, _server, clerk) = served().await;
    let asked = |name_text: &str, follow| LogsRequest { name: name(name_text), tail: None, follow };
    let pieces: Vec<_> = clerk.logs(&anyone(), asked("/a", false)).await.unwrap().collect().await;
    assert_eq!(
        pieces[..3].iter().map(|piece| &piece.as_ref().unwrap()[..]).collect::<Vec<_>>(),
        [&b"one\n"[..], b"two\n", "\u{fffd}\n".as_bytes()]
    );
    assert_eq!(pieces[3..], [Err(Error::new(Code::Unavailable, "the host went down"))]);

    // A followed log gives what there is while the rest is still to be written.
    let mut followed = clerk.logs(&anyone(), asked("/a", true)).await.unwrap();
    assert_eq!(followed.next().await.unwrap().unwrap(), "one\n");

    let error = clerk.logs(&anyone(), asked("/silent", false)).await.err().unwrap();
    assert_eq!(error.code(), Code::Unsupported);
}

#[tokio::test]
async fn an_agent_s_reports_go_up_and_orders_come_down() {
    let (_fake, _server, clerk) = served().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let reports = stream::unfold(receive, |mut receive| async { receive.recv().await.map(|report| (report, receive)) });
    let mut orders = clerk.attach_agent(&anyone(), reports.boxed()).await.unwrap();

    send.send(Report::Synced).await.unwrap();
    assert_eq!(orders.next().await, Some(Order::Welcome { term: 1, known: vec![] }));
    send.send(Report::Probed { request: 9, alive: true, micros: 7 }).await.unwrap();
    assert_eq!(orders.next().await, Some(Order::Forget { instance: InstanceId(9) }));
    drop(send);
    assert_eq!(orders.next().await, None);
}

#[tokio::test]
async fn a_refused_caller_learns_why() {
    let refused = Error::new(Code::Unauthenticated, "the bearer token is not this server's").field("Authorization");
    let server = Server::tcp(admitted(Arc::default(), Admission(Err(refused.clone())))).await;
    let clerk = Clerk::connect(&server.address, Options::default()).unwrap();
    assert_eq!(clerk.info(&anyone()).await.unwrap_err(), refused);
}

#[tokio::test]
async fn a_request_around_the_gate_is_refused() {
    let server = Server::tcp(byname_front_grpc::routes(Arc::new(Fake::default()))).await;
    let clerk = Clerk::connect(&server.address, Options::default()).unwrap();
    assert_eq!(clerk.info(&anyone()).await.unwrap_err().code(), Code::Internal);
}

#[tokio::test]
async fn the_next_server_is_asked_when_the_first_is_down() {
    let (_fake, server, _) = served().await;
    let clerk = Clerk::connect(&format!("http://{},{}", nowhere(), server.address), Options::default()).unwrap();
    clerk.info(&anyone()).await.unwrap();
    clerk.batch(&anyone(), record("/r", "v".into())).await.unwrap();
}

#[tokio::test]
async fn when_nobody_answers_the_clerk_says_what_it_tried() {
    let folder = tempfile::tempdir().unwrap();
    let (tcp, unix) = (format!("http://{}", nowhere()), format!("unix://{}/socket", folder.path().display()));
    let clerk = Clerk::connect(&format!("{tcp},{unix}"), Options::default()).unwrap();
    let error = clerk.batch(&anyone(), record("/r", "v".into())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(
        error.message(),
        format!(
            "no server answers: tried {tcp} (connection refused), {unix} (no such file or directory). \
             Is the server running? Start one with `byname dev`"
        )
    );
}

#[tokio::test]
async fn a_server_killed_during_a_write_hands_it_on_under_the_same_id() {
    let (first, second) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    let dying = Server::tcp(admitted(first.clone(), full())).await;
    let other = Server::tcp(admitted(second.clone(), full())).await;
    let clerk = Clerk::connect(&format!("{},{}", dying.address, other.address), Options::default()).unwrap();

    let hang = BatchRequest { set: Some("hang".into()), ..record("/r", "v".into()) };
    let cx = anyone();
    let kill = async {
        first.hanging.notified().await;
        dying.kill();
        second.hanging.notified().await;
    };
    tokio::select! {
        () = kill => {}
        reply = clerk.batch(&cx, hang) => panic!("{reply:?}"),
    }
    assert_eq!(first.asked(), second.asked());
    assert!(first.asked()[0].len() > "batch ".len());
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let fake = Arc::new(Fake::default());
    let server = Server::unix(admitted(fake.clone(), full()), &path).await;
    let clerk = Clerk::connect(&server.address, Options::default()).unwrap();
    clerk.info(&anyone()).await.unwrap();

    server.kill();
    std::fs::remove_file(&path).unwrap();
    let _server = Server::unix(admitted(fake, full()), &path).await;
    clerk.info(&anyone()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    // The kernel takes the connection, nobody reads from it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options { answer_timeout: Duration::from_millis(50), ..Options::default() };
    let clerk = Clerk::connect(&format!("http://{}", silent.local_addr().unwrap()), options).unwrap();
    let error = clerk.batch(&anyone(), record("/r", "v".into())).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout);
    assert!(error.message().contains("may have been made"), "{error}");
}
