//! Several servers in one process, on real disks and a network that is a function call.

mod journal;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use byname_cluster::disk::LocalDisk;
use byname_cluster::{ChangeError, Cluster, Lane, Options, ProposeError, Server, State, Transport};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use journal::{Journal, Published};
use parking_lot::Mutex;
use tempfile::TempDir;

/// The network between the servers of a test.
#[derive(Default)]
struct Wires {
    servers: Mutex<HashMap<u64, Cluster>>,
    cut: Mutex<HashSet<(u64, u64)>>,
}

/// One server's end of it.
struct End {
    own: u64,
    wires: Arc<Wires>,
}

impl Transport for End {
    fn call(&self, to: &Server, _: Lane, request: Bytes, within: Duration) -> BoxFuture<'static, io::Result<Bytes>> {
        let gone = || Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())));
        if self.wires.cut.lock().contains(&(self.own, to.id)) {
            return Box::pin(async move {
                tokio::time::sleep(within).await;
                Err(io::ErrorKind::TimedOut.into())
            });
        }
        let Some(server) = self.wires.servers.lock().get(&to.id).cloned() else { return gone() };
        let mut answer = Box::pin(server.answer(request));
        // Polled here once, for the order.
        if let Poll::Ready(bytes) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Box::pin(std::future::ready(Ok(bytes)));
        }
        let answer = tokio::spawn(answer);
        Box::pin(async move {
            let late = |_| Err(io::ErrorKind::TimedOut.into());
            tokio::time::timeout(within, async { answer.await.map_err(io::Error::other) }).await.unwrap_or_else(late)
        })
    }
}

struct World {
    wires: Arc<Wires>,
    dirs: HashMap<u64, TempDir>,
    views: HashMap<u64, Published>,
}

impl World {
    fn new() -> World {
        World { wires: Arc::default(), dirs: HashMap::new(), views: HashMap::new() }
    }

    async fn start(&mut self, id: u64, found: bool) -> Cluster {
        self.start_with(id, found, |_| {}).await
    }

    async fn start_with(&mut self, id: u64, found: bool, change: impl FnOnce(&mut Options)) -> Cluster {
        let dir = self.dirs.entry(id).or_insert_with(|| tempfile::tempdir().unwrap());
        let mut options = Options::new(dir.path(), id);
        (options.found, options.address) = (found, format!("server-{id}:7600"));
        change(&mut options);
        let end = Arc::new(End { own: id, wires: self.wires.clone() });
        let (machine, view) = Journal::new();
        let cluster = Cluster::open_with(Arc::new(LocalDisk), end, options, machine).await.unwrap();
        self.views.insert(id, view);
        self.wires.servers.lock().insert(id, cluster.clone());
        cluster
    }

    /// A cluster of servers 1 to `count`, the first its primary.
    async fn grown(&mut self, count: u64) -> Vec<Cluster> {
        let first = self.start(1, true).await;
        let mut all = vec![first.clone()];
        for id in 2..=count {
            all.push(self.start(id, false).await);
            first.add_server(server(id)).await.unwrap();
        }
        all
    }

    /// Its process ends: nothing of it is heard any more, and the others notice or not.
    async fn kill(&self, id: u64, noticed: bool) {
        let gone = self.wires.servers.lock().remove(&id).unwrap();
        if noticed {
            for server in self.wires.servers.lock().values() {
                server.peer_gone(id);
            }
        }
        gone.shutdown().await;
    }

    fn content(&self, id: u64) -> Vec<Bytes> {
        self.views[&id].commands()
    }
}

fn server(id: u64) -> Server {
    Server { id, address: format!("server-{id}:7600") }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn primary_among(servers: &[Cluster]) -> Cluster {
    let mut found = None;
    until("one of them leads", || {
        found = servers.iter().find(|server| server.role().borrow().primary).cloned();
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn write(to: &Cluster, text: &'static str) {
    to.propose(Bytes::from_static(text.as_bytes())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_grows_to_three_and_what_is_written_is_on_all() {
    let mut world = World::new();
    let all = world.grown(3).await;
    write(&all[0], "a").await;
    for (id, server) in (1..).zip(&all) {
        server.confirm().await.unwrap();
        assert_eq!(world.content(id), [&b"a"[..]]);
        let members = server.members();
        assert_eq!(
            members.iter().map(|m| (m.server.id, m.voter, m.primary)).collect::<Vec<_>>(),
            [(1, true, true), (2, true, false), (3, true, false)]
        );
    }
    assert_eq!(all[1].status().state, State::Backup);
    let refused = all[1].propose(Bytes::from_static(b"b")).await;
    assert_eq!(refused, Err(ProposeError::NotPrimary { primary: Some(1) }));
    all[1].propose_anywhere(Bytes::from_static(b"b")).await.unwrap();
    all[2].confirm().await.unwrap();
    assert_eq!(world.content(3), [&b"a"[..], b"b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_the_primary_and_a_broken_line_is_noticed_before_the_time_out() {
    let mut world = World::new();
    let all = world.grown(3).await;
    write(&all[0], "a").await;
    let began = std::time::Instant::now();
    world.kill(1, true).await;
    let next = primary_among(&all[1..]).await;
    let took = began.elapsed();
    write(&next, "b").await;
    assert!(took < Duration::from_millis(500), "no election time-out was waited for: {took:?}");
    let content = world.content(if next.members()[1].primary { 2 } else { 3 });
    assert_eq!(content, [&b"a"[..], b"b"]);
    let again = world.start(1, false).await;
    again.confirm().await.unwrap();
    assert_eq!(world.content(1), [&b"a"[..], b"b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_falls_silent_is_followed_after_the_time_out() {
    let mut world = World::new();
    let all = world.grown(3).await;
    for other in [2, 3] {
        world.wires.cut.lock().extend([(1, other), (other, 1)]);
    }
    let next = primary_among(&all[1..]).await;
    write(&next, "b").await;
    assert!(matches!(all[0].confirm().await, Err(ProposeError::Unavailable(_) | ProposeError::NotPrimary { .. })));
    until("the old one knows that it is cut off", || all[0].freshness().stale).await;
    world.wires.cut.lock().clear();
    until("the old one follows and catches up", || world.content(1) == [&b"b"[..]]).await;
    assert_eq!(all[0].status().state, State::Backup);
    all[0].confirm().await.unwrap();
    until("it hears the new one", || !all[0].freshness().stale).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_backup_disturbs_nobody_when_it_comes_back() {
    let mut world = World::new();
    let all = world.grown(3).await;
    let term = all[0].term();
    for other in [1, 2] {
        world.wires.cut.lock().extend([(3, other), (other, 3)]);
    }
    until("it notices", || all[2].freshness().stale).await;
    write(&all[0], "a").await;
    world.wires.cut.lock().clear();
    until("it catches up", || world.content(3).len() == 1).await;
    assert_eq!((all[0].is_primary(), all[0].term()), (true, term));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_before_a_planned_end_and_to_whom_is_wanted() {
    let mut world = World::new();
    let all = world.grown(3).await;
    all[0].transfer(3).await.unwrap();
    until("3 leads", || all[2].role().borrow().primary).await;
    assert_eq!(all[0].transfer(2).await, Err(ChangeError::NotPrimary { primary: Some(3) }));
    assert!(matches!(all[2].transfer(9).await, Err(ChangeError::Refused(_))));
    all[2].hand_over().await;
    let next = primary_among(&all[..2]).await;
    write(&next, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_shrink_to_one_and_the_primary_may_go_itself() {
    let mut world = World::new();
    let all = world.grown(3).await;
    write(&all[0], "a").await;
    all[0].remove_server(2).await.unwrap();
    all[0].remove_server(1).await.unwrap();
    let last = primary_among(&all[2..]).await;
    write(&last, "b").await;
    assert_eq!(last.members().len(), 1);
    assert!(matches!(last.remove_server(3).await, Err(ChangeError::Refused(_))));
    assert!(matches!(last.remove_server(2).await, Err(ChangeError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_late_gets_a_snapshot_in_pieces_and_then_the_log() {
    let mut world = World::new();
    let first = world.start_with(1, true, |options| options.segment_bytes = 1 << 20).await;
    for number in 0..12u8 {
        first.propose(Bytes::from(vec![number; 300_000])).await.unwrap();
    }
    first.snapshot().await.unwrap();
    write(&first, "behind").await;
    first.snapshot().await.unwrap();
    let late = world.start(2, false).await;
    first.add_server(server(2)).await.unwrap();
    late.confirm().await.unwrap();
    assert_eq!(world.content(2), world.content(1));
    assert!(late.status().snapshot.is_some(), "it did not come by way of the log");
    // And it stands on its own disk.
    world.kill(2, false).await;
    let again = world.start(2, false).await;
    write(&first, "more").await;
    again.confirm().await.unwrap();
    assert_eq!(world.content(2), world.content(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_moved_says_where_it_is_now() {
    let mut world = World::new();
    let all = world.grown(3).await;
    world.kill(2, false).await;
    let moved = world.start_with(2, false, |options| options.address = "elsewhere:7600".to_owned()).await;
    let address = |of: &Cluster| of.members()[1].server.address.clone();
    until("all know", || [&all[0], &moved, &all[2]].iter().all(|server| address(server) == "elsewhere:7600")).await;
    write(&all[0], "a").await;
    moved.confirm().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_majority_has_what_was_answered_and_nothing_that_was_not() {
    let mut world = World::new();
    let all = world.grown(3).await;
    write(&all[0], "a").await;
    write(&all[0], "b").await;
    all[2].confirm().await.unwrap();
    for other in [2, 3] {
        world.wires.cut.lock().extend([(1, other), (other, 1)]);
    }
    let never = tokio::spawn({
        let cut_off = all[0].clone();
        async move { cut_off.propose(Bytes::from_static(b"never")).await }
    });
    until("it is in the log of the cut-off server", || all[0].status().last_index > all[1].status().last_index).await;
    for id in [1, 2, 3] {
        world.kill(id, false).await;
    }
    assert!(never.await.unwrap().is_err());
    world.wires.cut.lock().clear();
    for id in [1, 3] {
        let alone = world.start(id, false).await;
        assert_eq!(world.content(id), [&b"a"[..], b"b"], "server {id}");
        assert!(alone.freshness().stale);
        assert!(alone.confirm().await.is_err());
        world.kill(id, false).await;
    }
    // Together they go on.
    let (one, two) = (world.start(1, false).await, world.start(2, false).await);
    let next = primary_among(&[one, two]).await;
    write(&next, "c").await;
}

/// What is on the disk of a server at this moment, as if its power went.
fn copy_of(dir: &std::path::Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut copying = std::process::Command::new("cp");
    copying.args(["-r", "--sparse=always"]).arg(dir.join(".")).arg(copy.path());
    assert!(copying.status().unwrap().success());
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_on_disk_a_moment_later_without_another_write() {
    let mut world = World::new();
    let all = world.grown(3).await;
    write(&all[0], "a").await;
    all[1].confirm().await.unwrap();
    let dir = world.dirs[&2].path().to_owned();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        assert!(std::time::Instant::now() < deadline, "it is never written down");
        let mut after = World::new();
        after.dirs.insert(2, copy_of(&dir));
        let alone = after.start(2, false).await;
        let content = after.content(2);
        alone.shutdown().await;
        if content == [&b"a"[..]] {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_the_others_need_for_a_majority_is_not_taken_out() {
    let mut world = World::new();
    let all = world.grown(3).await;
    world.kill(3, false).await;
    let Err(ChangeError::Refused(why)) = all[0].remove_server(2).await else { panic!("it was taken out") };
    assert!(why.contains("3 do not answer"), "{why}");
    write(&all[0], "a").await;
    all[0].remove_server(3).await.unwrap();
    all[0].remove_server(2).await.unwrap();
    write(&all[0], "b").await;
}
