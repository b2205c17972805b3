//! Locks, preconditions, reports, and the end of what nobody uses.

use byname_api::Code;
use byname_api::object::Choose;
use byname_api::request::*;
use byname_api::service::State;
use byname_api::span::Span;

use super::*;
use crate::wait::eventually_async;

fn lock(name: &str) -> LockRequest {
    LockRequest { name: at(name), ttl: None, wait: None, key: None, renew: false }
}

impl Asker {
    async fn lock(&self, request: LockRequest) -> Result<LockReply> {
        self.service.lock(&self.cx, request).await
    }

    async fn unlock(&self, name: &str, key: Option<&str>) -> Result<bool> {
        let request = UnlockRequest { name: at(name), key: key.map(Into::into) };
        self.service.unlock(&self.cx, request).await.map(|reply| reply.released)
    }

    async fn report(&self, name: &str, instance: Option<InstanceId>, load: f64) -> Result<ReportReply> {
        let request = ReportRequest { name: Some(at(name)), instance, load: Some(load), ..ReportRequest::default() };
        self.service.report(&self.cx, request).await
    }
}

/// One holder at a time, and a greater token each time.
pub async fn a_lock_has_one_holder(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/job", record("x")).await.unwrap();
    let first = owner.lock(lock("/job")).await.unwrap();
    let key = first.key.clone().expect("the server chose it");
    assert_eq!(first.ttl_ms, 30_000);
    let shown = owner.read("/job").await.unwrap().lock.expect("it shows");
    assert_eq!((shown.fence, shown.ttl_ms), (first.fence, 30_000));
    refused(owner.lock(lock("/JOB")).await, Code::Conflict, None);
    // The holder renews.
    let renewed = owner.lock(LockRequest { key: Some(key.clone()), renew: true, ..lock("/job") }).await.unwrap();
    assert_eq!(renewed.fence, first.fence);
    refused(owner.unlock("/job", Some(&"0".repeat(64))).await, Code::Denied, Some("key"));
    assert!(owner.unlock("/job", Some(&key)).await.unwrap());
    assert!(!owner.unlock("/job", Some(&key)).await.unwrap(), "it is gone already");
    let lost = LockRequest { key: Some(key.clone()), renew: true, ..lock("/job") };
    refused(owner.lock(lost).await, Code::Conflict, Some("key"));
    let second = owner.lock(lock("/job")).await.unwrap();
    assert!(second.fence > first.fence, "{} after {}", second.fence, first.fence);
    // Without the key it is broken.
    assert!(owner.unlock("/job", None).await.unwrap());
    assert!(owner.read("/job").await.unwrap().lock.is_none());
    refused(f.onlooker().lock(lock("/job")).await, Code::Denied, None);
}

/// A caller who chose the key may send its request again.
pub async fn a_lock_that_is_asked_for_again_is_the_same(f: &dyn Fixture) {
    let owner = f.owner();
    let request = LockRequest { key: Some("ab".repeat(32)), ..lock("/job") };
    let first = owner.lock(request.clone()).await.unwrap();
    let again = owner.lock(request).await.unwrap();
    assert_eq!((first.fence, first.key), (again.fence, again.key));
    let bad = LockRequest { key: Some("short".into()), ..lock("/job") };
    refused(owner.lock(bad).await, Code::InvalidArgument, Some("key"));
    let brief = LockRequest { ttl: Some(Span::from_millis(1)), ..lock("/job") };
    refused(owner.lock(brief).await, Code::InvalidArgument, Some("ttl"));
}

/// A record that was made for a lock goes with it; a lock that is not renewed ends.
pub async fn a_lock_ends_with_its_lease(f: &dyn Fixture) {
    let owner = f.owner();
    let short = LockRequest { ttl: Some(Span::from_secs(1)), ..lock("/made/for/it") };
    let held = owner.lock(short).await.unwrap();
    assert_eq!(owner.read("/made/for/it").await.unwrap().lock.unwrap().fence, held.fence);
    eventually_async("the lock runs out", async || owner.read("/made/for/it").await.err()).await;
    refused(owner.read("/made/for/it").await, Code::NotFound, None);
}

/// Those who wait get it one after the other.
pub async fn a_lock_is_waited_for(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/job", record("x")).await.unwrap();
    let first = owner.lock(lock("/job")).await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let owner = owner.clone();
        waiting.spawn(async move {
            let request = LockRequest { wait: Some(Span::from_secs(30)), ..lock("/job") };
            let held = owner.lock(request).await.unwrap();
            assert!(owner.unlock("/job", held.key.as_deref()).await.unwrap());
            held.fence
        });
    }
    let brief = LockRequest { wait: Some(Span::from_millis(50)), ..lock("/job") };
    refused(owner.lock(brief).await, Code::Conflict, None);
    owner.unlock("/job", first.key.as_deref()).await.unwrap();
    let mut fences = vec![first.fence];
    while let Some(fence) = waiting.join_next().await {
        fences.push(fence.unwrap());
    }
    fences.sort_unstable();
    fences.dedup();
    assert_eq!(fences.len(), 6, "each has a token of its own: {fences:?}");
    // Also when all of them come before the name is there.
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let owner = owner.clone();
        racing.spawn(async move {
            let request = LockRequest { wait: Some(Span::from_secs(30)), ..lock("/fresh") };
            let held = owner.lock(request).await.unwrap();
            owner.unlock("/fresh", held.key.as_deref()).await.unwrap()
        });
    }
    while let Some(released) = racing.join_next().await {
        assert!(released.unwrap());
    }
}

/// A batch goes through only if what it takes for granted holds.
pub async fn a_batch_checks_what_it_takes_for_granted(f: &dyn Fixture) {
    let owner = f.owner();
    let version = owner.add("/a", record("1")).await.unwrap();
    let held = owner.lock(lock("/job")).await.unwrap();
    let check = |name: &str, exists, if_version, fence| Op::Check { name: at(name), exists, if_version, fence };
    let write = |n: u32| Op::Add { name: at(&format!("/done/{n}")), spec: record("x") };
    for (n, op) in [
        check("/a", Some(true), Some(version), None),
        check("/none", Some(false), None, None),
        check("/job", None, None, Some(held.fence)),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = owner.batch(vec![op, write(n as u32)]).await.unwrap();
        assert_eq!(reply.results[0].outcome, Outcome::Checked);
    }
    for op in [
        check("/a", Some(false), None, None),
        check("/none", Some(true), None, None),
        check("/a", None, Some(Version(version.0 + 1)), None),
        check("/job", None, None, Some(held.fence + 1)),
        check("/a", None, None, Some(held.fence)),
    ] {
        let error = owner.batch(vec![write(9), op.clone()]).await.expect_err("it does not hold");
        assert_eq!(error.code(), Code::Conflict, "{op:?}: {error}");
        assert!(error.at_field().is_some_and(|f| f.starts_with("ops[1]")), "{op:?}: {error:?}");
    }
    refused(owner.read("/done/9").await, Code::NotFound, None);
}

/// The least loaded is chosen; what was reported shows.
pub async fn loads_are_reported_and_chosen_by(f: &dyn Fixture) {
    let owner = f.owner();
    let launch = Launch { copies: Some(byname_api::launch::Copies { min: 2, max: 2 }), ..f.launch(Program::Serves) };
    owner.add("/s", Spec { choose: Some(Choose::LeastLoaded), ..service(launch) }).await.unwrap();
    eventually_async("both copies run", async || {
        let instances = owner.status("/s").await.instances;
        (instances.iter().filter(|i| i.state == State::Running).count() == 2).then_some(())
    })
    .await;
    let ids: Vec<InstanceId> = owner.status("/s").await.instances.iter().map(|i| i.id).collect();
    refused(owner.report("/s", None, 1.0).await, Code::InvalidArgument, Some("instance"));
    for (busy, idle) in [(ids[0], ids[1]), (ids[1], ids[0])] {
        owner.report("/s", Some(busy), 9.0).await.unwrap();
        owner.report("/s", Some(idle), 0.5).await.unwrap();
        for _ in 0..4 {
            assert_eq!(only(&owner.find("/s").await.unwrap()).id, idle);
        }
    }
    let shown = owner.status("/s").await.instances;
    assert_eq!(shown.iter().find(|i| i.id == ids[0]).unwrap().load, Some(0.5));
    refused(owner.report("/s", Some(ids[0]), f64::NAN).await, Code::InvalidArgument, Some("load"));
    refused(f.onlooker().report("/s", Some(ids[0]), 1.0).await, Code::Denied, None);
    refused(owner.report("/s", Some(InstanceId(1)), 1.0).await, Code::NotFound, Some("instance"));
}

/// What nobody uses stops, and the next find starts it again.
pub async fn what_nobody_uses_stops(f: &dyn Fixture) {
    let owner = f.owner();
    let launch = Launch { idle_stop: Some(Span::from_millis(300)), ..f.launch(Program::Serves) };
    owner.add("/s", service(launch)).await.unwrap();
    let first = only(&owner.find("/s").await.unwrap()).id;
    eventually_async("it stops", async || (owner.status("/s").await.state == State::Stopped).then_some(())).await;
    let story = owner.service.why(&owner.cx, at("/s")).await.unwrap();
    assert!(story.story.iter().any(|h| h.what.contains("idle")), "{:?}", story.story);
    assert_eq!(story.status.failures, 0);
    let second = owner.find("/s").await.unwrap();
    assert_ne!(only(&second).id, first);
    // Finds keep it.
    let (begun, id) = (std::time::Instant::now(), only(&second).id);
    while begun.elapsed() < std::time::Duration::from_millis(900) {
        assert_eq!(only(&owner.find("/s").await.unwrap()).id, id);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
