//! The clerk's cache: what it answers, what takes from it, and what it says while the servers are away.

use std::sync::Arc;
use std::time::Duration;

use byname_api::object::{Choose, Kind, Spec};
use byname_api::request::*;
use byname_api::{Code, Error, NameService};
use byname_client::{Bounds, CacheOptions, CachingClerk, Clerk, Options};
use byname_testkit::eventually_async;

use crate::failover::{put, served};
use crate::fake::{Server, anyone, name};
use crate::tree::{Member, Tree, object};

/// One server, and a cache in front of it.
struct Cached {
    tree: Arc<Tree>,
    member: Arc<Member>,
    server: Server,
    clerk: CachingClerk,
}

async fn cached(options: CacheOptions) -> Cached {
    let tree = Arc::new(Tree::default());
    let member = Member::of(&tree);
    let server = served(&member).await;
    let clerk = caching(&server.address, options);
    Cached { tree, member, server, clerk }
}

fn caching(address: &str, options: CacheOptions) -> CachingClerk {
    let quick = Options {
        connect_timeout: Duration::from_millis(500),
        answer_timeout: Duration::from_secs(1),
        patience: Duration::from_millis(200),
        ..Options::default()
    };
    CachingClerk::new(Arc::new(Clerk::connect(address, quick).unwrap()), options)
}

impl Cached {
    async fn find(&self, at: &str) -> byname_api::Result<FindReply> {
        self.clerk.find(&anyone(), FindRequest::new(name(at))).await
    }

    /// Asks until the cache answers by itself.
    async fn warm(&self, at: &str) {
        eventually_async("an answer from the cache", || async {
            self.find(at).await.unwrap();
            self.clerk.look(&name(at)).map(drop)
        })
        .await;
    }

    async fn value(&self, at: &str) -> String {
        self.find(at).await.unwrap().value.unwrap()
    }
}

fn service(choose: Choose) -> Spec {
    Spec { choose: Some(choose), ..Spec::of(Kind::Service) }
}

#[tokio::test]
async fn what_was_asked_for_is_answered_without_a_server_and_follows_its_changes() {
    let c = cached(CacheOptions::default()).await;
    c.tree.record("/a", "1");
    c.warm("/a").await;
    let asked = c.member.asked("find");
    for _ in 0..100 {
        let reply = c.find("/A").await.unwrap();
        assert_eq!((reply.value.as_deref(), reply.fresh.stale), (Some("1"), false));
        assert_eq!(reply.canonical, Some(name("/a")), "found in another case");
    }
    assert_eq!(c.member.asked("find"), asked);
    c.tree.record("/a", "2");
    eventually_async("the change", || async { (c.value("/a").await == "2").then_some(()) }).await;
    c.tree.delete("/a");
    eventually_async("its end", || async { c.find("/a").await.err() }).await;
    assert_eq!(c.find("/a").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn copies_are_chosen_by_the_service_s_rule() {
    let c = cached(CacheOptions::default()).await;
    c.tree.service("/s", service(Choose::RoundRobin), &[1, 2, 3]);
    c.warm("/s").await;
    let ports: Vec<u16> =
        (0..6).map(|_| c.clerk.look(&name("/s")).unwrap().instance().unwrap().endpoints[0].port).collect();
    assert!([1, 2, 3].iter().all(|port| ports.iter().filter(|p| *p == port).count() == 2), "{ports:?}");
    // What does not run is a server's matter.
    c.tree.service("/s", service(Choose::RoundRobin), &[]);
    eventually_async("its end", || async { c.clerk.look(&name("/s")).is_none().then_some(()) }).await;
    assert_eq!(c.find("/s").await.unwrap_err().code(), Code::NotRunning);
    c.tree.service("/s", service(Choose::First), &[4]);
    c.warm("/s").await;
    assert_eq!(c.find("/s").await.unwrap().instances[0].endpoints[0].port, 4);
}

#[tokio::test]
async fn an_alias_leads_on_and_to_another_object_when_it_changes() {
    let c = cached(CacheOptions::default()).await;
    let alias = |target: &str| object("/x", Spec { target: Some(name(target)), ..Spec::of(Kind::Alias) });
    c.tree.record("/a", "1");
    c.tree.record("/b", "2");
    c.tree.put(alias("/a"));
    c.warm("/x").await;
    assert_eq!((c.value("/x").await.as_str(), c.find("/x").await.unwrap().canonical), ("1", Some(name("/a"))));
    c.tree.put(alias("/b"));
    eventually_async("the other one", || async { (c.value("/x").await == "2").then_some(()) }).await;
    c.warm("/x").await;
    assert_eq!(c.value("/x").await, "2");
}

#[tokio::test]
async fn without_servers_it_answers_what_it_has_and_says_so() {
    let c = cached(CacheOptions::default()).await;
    c.tree.record("/a", "1");
    c.tree.service("/s", service(Choose::First), &[7]);
    c.warm("/a").await;
    c.warm("/s").await;
    c.clerk.read(&anyone(), ReadRequest { name: name("/s"), consistent: false }).await.unwrap();
    c.server.kill();
    let away = eventually_async("an old answer", || async {
        let reply = c.clerk.find(&anyone(), FindRequest::new(name("/a"))).await.unwrap();
        reply.fresh.stale.then_some(reply)
    })
    .await;
    assert_eq!(away.value.as_deref(), Some("1"));
    let status = c.clerk.status(&anyone(), ListRequest::new("/**")).await.unwrap();
    assert_eq!((status.services.len(), status.services[0].name.as_str(), status.fresh.stale), (1, "/s", true));
    let listed = c.clerk.list(&anyone(), ListRequest::new("/**")).await.unwrap();
    assert!(listed.fresh.stale && listed.entries.iter().any(|entry| entry.name.as_str() == "/s"));
    // What cannot be known is not made up, and nothing is written.
    let unknown = c.clerk.find(&anyone(), FindRequest::new(name("/b"))).await.unwrap_err();
    let consistent = FindRequest { consistent: true, ..FindRequest::new(name("/a")) };
    let consistent = c.clerk.find(&anyone(), consistent).await.unwrap_err();
    let write = c.clerk.batch(&anyone(), put("/a", "2")).await.unwrap_err();
    assert_eq!([unknown.code(), consistent.code(), write.code()], [Code::Unavailable; 3]);
    assert!(c.clerk.stats().away && c.clerk.stats().stale > 0);
}

#[tokio::test]
async fn no_failure_wipes_it_and_a_refusal_takes_that_name_only() {
    let c = cached(CacheOptions::default()).await;
    c.tree.record("/a", "1");
    c.tree.record("/b", "2");
    c.warm("/a").await;
    c.warm("/b").await;
    let asked =
        |at: &str| FindRequest { failed: Some(byname_api::object::InstanceId(1)), ..FindRequest::new(name(at)) };
    for code in [Code::Internal, Code::Unavailable, Code::RateLimited, Code::Timeout, Code::Unauthenticated] {
        *c.member.refuses.lock().unwrap() = Some(Error::new(code, "it does not work"));
        assert_eq!(c.clerk.find(&anyone(), asked("/a")).await.unwrap_err().code(), code);
        assert_eq!(c.value("/a").await, "1", "{code}");
    }
    *c.member.refuses.lock().unwrap() = Some(Error::new(Code::Denied, "not for you"));
    assert_eq!(c.clerk.find(&anyone(), asked("/a")).await.unwrap_err().code(), Code::Denied);
    assert!(c.clerk.look(&name("/a")).is_none() && c.clerk.look(&name("/b")).is_some());
}

#[tokio::test]
async fn a_caller_reads_what_it_wrote() {
    let c = cached(CacheOptions::default()).await;
    for round in 0..20 {
        let value = round.to_string();
        c.clerk.batch(&anyone(), put("/a", &value)).await.unwrap();
        assert_eq!(c.value("/a").await, value);
        c.warm("/a").await;
    }
}

#[tokio::test]
async fn it_stays_within_its_bounds_and_many_names_are_few_watches() {
    let bounds = Bounds { entries: 100, bytes: 32 << 20 };
    let c = cached(CacheOptions { bounds, ..CacheOptions::default() }).await;
    for n in 0..300 {
        c.tree.record(&format!("/d/{}/{n}", n % 7), "x");
    }
    for n in 0..300 {
        c.find(&format!("/d/{}/{n}", n % 7)).await.unwrap();
        let stats = c.clerk.stats();
        assert!(stats.entries <= 100 && stats.watches <= 48, "{stats:?}");
    }
    // They are watched all the same.
    c.warm("/d/0/0").await;
    c.tree.record("/d/0/0", "y");
    eventually_async("the change", || async { (c.value("/d/0/0").await == "y").then_some(()) }).await;
    let small =
        cached(CacheOptions { bounds: Bounds { entries: 100, bytes: 20_000 }, ..CacheOptions::default() }).await;
    for n in 0..50 {
        small.tree.record(&format!("/{n}"), &"x".repeat(1_000));
        small.find(&format!("/{n}")).await.unwrap();
        assert!(small.clerk.stats().bytes <= 20_000, "{:?}", small.clerk.stats());
    }
}

#[tokio::test]
async fn a_cold_start_answers_from_the_file_until_a_server_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clerk/cache");
    let of = |identity: &str| CacheOptions {
        file: Some(file.clone()),
        identity: identity.into(),
        ..CacheOptions::default()
    };
    let c = cached(of("bugs")).await;
    c.tree.record("/a", "1");
    c.warm("/a").await;
    c.clerk.close().await;
    let address = c.server.address.clone();
    c.server.kill();

    let again = caching(&address, of("bugs"));
    let reply = again.find(&anyone(), FindRequest::new(name("/a"))).await.unwrap();
    assert_eq!((reply.value.as_deref(), reply.fresh.stale), (Some("1"), true));
    // Somebody else's is not read, nor a damaged one.
    let other = caching(&address, of("daffy"));
    assert_eq!(other.find(&anyone(), FindRequest::new(name("/a"))).await.unwrap_err().code(), Code::Unavailable);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = caching(&address, of("bugs"));
    assert_eq!(damaged.stats().entries, 0);
}

#[tokio::test]
async fn what_comes_from_the_file_is_not_believed_while_there_is_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let options = || CacheOptions { file: Some(folder.path().join("cache")), ..CacheOptions::default() };
    let c = cached(options()).await;
    c.tree.record("/a", "1");
    c.warm("/a").await;
    c.clerk.close().await;
    c.tree.record("/a", "2");
    let again = caching(&c.server.address, options());
    assert!(again.look(&name("/a")).is_none());
    let reply = again.find(&anyone(), FindRequest::new(name("/a"))).await.unwrap();
    assert_eq!((reply.value.as_deref(), reply.fresh.stale), (Some("2"), false));
}

#[tokio::test]
async fn reports_go_in_batches_and_only_the_first_is_waited_for() {
    let c = cached(CacheOptions::default()).await;
    let report =
        |load: f64| ReportRequest { name: Some(name("/s")), load: Some(load), uses: Some(1), ..Default::default() };
    for n in 0..50 {
        c.clerk.report(&anyone(), report(f64::from(n))).await.unwrap();
    }
    let sent = eventually_async("the batch", || async {
        let sent = c.tree.reports();
        (sent.iter().map(|report| report.uses.unwrap()).sum::<u64>() == 50).then_some(sent)
    })
    .await;
    assert!(sent.len() <= 5, "{}", sent.len());
    assert_eq!(sent.last().unwrap().load, Some(49.0));
    assert_eq!(c.member.asked("report"), sent.len());
}
