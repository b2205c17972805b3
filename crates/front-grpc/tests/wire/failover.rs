//! Several servers: which of them is asked, and what happens to what was asked of one that breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use byname_api::error::NO_PRIMARY;
use byname_api::object::{Kind, Spec};
use byname_api::request::*;
use byname_api::{Code, Error, NameService};
use byname_client::{Clerk, Options};
use byname_testkit::eventually_async;
use futures_util::StreamExt;

use crate::fake::{Server, anyone, full, name, nowhere};
use crate::tree::{Member, Tree};

pub async fn served(member: &Arc<Member>) -> Server {
    let router = byname_front_grpc::routes(member.clone()).layer(axum::Extension(full()));
    Server::tcp(router).await
}

/// A cluster of two with one tree.
async fn two() -> (Arc<Tree>, [(Arc<Member>, Server); 2]) {
    let tree = Arc::new(Tree::default());
    let (one, other) = (Member::of(&tree), Member::of(&tree));
    let servers = [(one.clone(), served(&one).await), (other.clone(), served(&other).await)];
    (tree, servers)
}

fn options() -> Options {
    Options { attempt_timeout: Duration::from_millis(300), ..Options::default() }
}

fn clerk(servers: &[(Arc<Member>, Server)]) -> Clerk {
    let list: Vec<&str> = servers.iter().map(|(_, server)| server.address.as_str()).collect();
    Clerk::connect(&list.join(","), options()).unwrap()
}

pub fn put(at: &str, value: &str) -> BatchRequest {
    let spec = Spec { value: Some(value.into()), ..Spec::of(Kind::Record) };
    BatchRequest::of(Op::Put { name: name(at), spec, if_version: None })
}

fn read(at: &str) -> ReadRequest {
    ReadRequest { name: name(at), consistent: false }
}

#[tokio::test]
async fn a_server_without_a_primary_is_followed_by_the_next_at_once() {
    let (tree, servers) = two().await;
    servers[0].0.headless.store(true, Ordering::SeqCst);
    let clerk = clerk(&servers);
    clerk.batch(&anyone(), put("/a", "1")).await.unwrap();
    assert_eq!((servers[0].0.asked("batch"), servers[1].0.asked("batch")), (1, 1));
    // It is asked last for a while.
    clerk.batch(&anyone(), put("/a", "2")).await.unwrap();
    assert_eq!((servers[0].0.asked("batch"), tree.applied().len()), (1, 2));
}

#[tokio::test]
async fn while_nobody_has_a_primary_a_write_waits_for_one_and_keeps_its_id() {
    let (tree, servers) = two().await;
    servers.iter().for_each(|(member, _)| member.headless.store(true, Ordering::SeqCst));
    let clerk = clerk(&servers);
    let elected = async {
        eventually_async("a second round", || async { (servers[1].0.asked("batch") >= 2).then_some(()) }).await;
        servers[1].0.headless.store(false, Ordering::SeqCst);
    };
    let cx = anyone();
    let (answer, ()) = tokio::join!(clerk.batch(&cx, put("/a", "1")), elected);
    answer.unwrap();
    assert_eq!(tree.applied().len(), 1);
}

#[tokio::test]
async fn patience_ends_with_what_the_servers_said() {
    let (_, servers) = two().await;
    servers.iter().for_each(|(member, _)| member.headless.store(true, Ordering::SeqCst));
    let list = format!("{},{}", servers[0].1.address, servers[1].1.address);
    let options = Options { patience: Duration::from_millis(200), ..options() };
    let error = Clerk::connect(&list, options).unwrap().batch(&anyone(), put("/a", "1")).await.unwrap_err();
    assert_eq!((error.code(), error.at_field()), (Code::Unavailable, Some(NO_PRIMARY)));
    // What is no matter of servers is not waited for.
    let unhealthy = Error::new(Code::Unavailable, "every copy is unhealthy");
    servers.iter().for_each(|(member, _)| *member.refuses.lock().unwrap() = Some(unhealthy.clone()));
    let begun = Instant::now();
    assert_eq!(clerk(&servers).read(&anyone(), read("/a")).await.unwrap_err(), unhealthy);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_applied_once() {
    let (tree, servers) = two().await;
    servers[0].0.swallows.store(true, Ordering::SeqCst);
    let clerk = clerk(&servers);
    clerk.batch(&anyone(), put("/a", "1")).await.unwrap();
    assert_eq!((servers[0].0.asked("batch"), servers[1].0.asked("batch")), (1, 1));
    assert_eq!(tree.applied().len(), 1);
}

#[tokio::test]
async fn a_count_of_uses_is_never_sent_twice() {
    let (tree, servers) = two().await;
    servers[0].0.swallows.store(true, Ordering::SeqCst);
    let clerk = clerk(&servers);
    let (cx, report) = (anyone(), ReportRequest { name: Some(name("/s")), uses: Some(3), ..ReportRequest::default() });
    let answer = tokio::time::timeout(Duration::from_millis(900), clerk.report(&cx, report));
    let (answer, ()) = tokio::join!(answer, servers[0].0.hanging.notified());
    assert!(answer.is_err(), "it is waited for as long as any answer");
    assert_eq!(tree.reports().len(), 1);
}

#[tokio::test]
async fn a_silent_server_is_left_and_asked_last() {
    let (tree, servers) = two().await;
    tree.record("/a", "1");
    let clerk = clerk(&servers);
    clerk.read(&anyone(), read("/a")).await.unwrap();
    assert_eq!(servers[0].0.asked("read"), 1);
    servers[0].0.silent.store(true, Ordering::SeqCst);
    clerk.read(&anyone(), read("/a")).await.unwrap();
    clerk.read(&anyone(), read("/a")).await.unwrap();
    assert_eq!((servers[0].0.asked("read"), servers[1].0.asked("read")), (2, 2));
    assert_eq!(clerk.failures(), 1);
}

#[tokio::test]
async fn a_watch_goes_on_at_another_server_and_misses_nothing() {
    let (tree, [first, second]) = two().await;
    let (one, other) = (first.0.clone(), second.0.clone());
    let clerk = Clerk::connect(&format!("{},{}", first.1.address, second.1.address), options()).unwrap();
    let request = WatchRequest { pattern: "/a/**".into(), from: None, initial: false };
    let mut messages = clerk.watch(&anyone(), request).await.unwrap();
    assert!(messages.next().await.unwrap().unwrap().events.is_empty());
    tree.record("/a/1", "x");
    let mut seen = Vec::new();
    let mut take = async |until: &str| {
        while seen.last().is_none_or(|last| last != until) {
            let message = messages.next().await.unwrap().unwrap();
            seen.extend(message.events.iter().map(|event| event.name.to_string()));
        }
    };
    take("/a/1").await;
    first.1.kill();
    tree.record("/a/2", "x");
    take("/a/2").await;
    tree.record("/a/3", "x");
    take("/a/3").await;
    assert_eq!(seen, ["/a/1", "/a/2", "/a/3"]);
    assert_eq!((one.asked("watch"), other.asked("watch /a/** from Some")), (1, 1));
}

#[tokio::test]
async fn the_servers_of_a_cluster_are_learned_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, [first, second]) = two().await;
    tree.record("/a", "1");
    let member = |id, address: &str, primary| byname_api::request::Member {
        id,
        name: name(&format!("/byname/servers/{id}")),
        address: address.into(),
        voter: true,
        primary,
        up: true,
        behind: 0,
    };
    let hostile = member(3, "unix:///run/elsewhere,http://192.0.2.1:1,nonsense", false);
    *first.0.members.lock().unwrap() =
        vec![member(1, &first.1.address, false), member(2, &second.1.address, true), hostile];
    let file = folder.path().join("clerk/servers");
    let learning = || Options { learn: true, servers_file: Some(file.clone()), ..options() };
    let clerk = Clerk::connect(&first.1.address, learning()).unwrap();
    clerk.read(&anyone(), read("/a")).await.unwrap();
    eventually_async("the others", || async { (clerk.servers().len() > 1).then_some(()) }).await;
    assert_eq!(
        clerk.servers(),
        [first.1.address.clone(), second.1.address.clone()],
        "and nothing that it must not ask"
    );
    // A write begins at the primary; reads stay where they were.
    clerk.batch(&anyone(), put("/a", "2")).await.unwrap();
    clerk.read(&anyone(), read("/a")).await.unwrap();
    assert_eq!((second.0.asked("batch"), second.0.asked("read")), (1, 0));
    // Another process finds them without the first server.
    let told = first.1.address.clone();
    first.1.kill();
    clerk.read(&anyone(), read("/a")).await.unwrap();
    let later = Clerk::connect(&told, learning()).unwrap();
    later.read(&anyone(), read("/a")).await.unwrap();
    // The file is about that list of servers only.
    let another = Clerk::connect(&format!("http://{}", nowhere()), learning()).unwrap();
    assert_eq!(another.servers().len(), 1);
}
