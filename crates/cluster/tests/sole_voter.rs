//! A cluster of one server, on a real disk.

mod journal;

use std::path::Path;
use std::time::Instant;

use byname_cluster::{Cluster, OpenError, Options, ProposeError, State};
use bytes::Bytes;
use journal::{Journal, Published};

async fn open(dir: &Path) -> (Cluster, Published) {
    let (journal, published) = Journal::new();
    (Cluster::open(small(dir), journal).await.unwrap(), published)
}

/// Small files, so that a test gets through several.
fn small(dir: &Path) -> Options {
    Options { segment_bytes: 64 << 10, ..Options::new(dir, 1) }
}

fn command(number: usize) -> Bytes {
    Bytes::from(format!("command {number}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_folder_becomes_a_primary_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let (cluster, published) = open(dir.path()).await;
    println!("opened after {:?}", begin.elapsed());
    assert!(cluster.is_primary());
    assert_eq!(cluster.status().state, State::Primary);
    assert_eq!(cluster.propose(command(1)).await, Ok(Bytes::from("1")));
    assert_eq!(cluster.propose(command(2)).await, Ok(Bytes::from("2")));
    assert_eq!(published.commands(), [command(1), command(2)]);
    let confirmed = cluster.confirm().await.unwrap();
    assert_eq!(Some(confirmed), published.at());
    cluster.shutdown().await;
    assert_eq!(cluster.propose(command(3)).await, Err(ProposeError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_everything_in_a_later_term() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut term = 0;
    for round in 0..4 {
        let (cluster, published) = open(dir.path()).await;
        assert_eq!(published.commands(), expected, "round {round}");
        assert!(cluster.term() > term, "round {round}");
        term = cluster.term();
        for _ in 0..100 {
            expected.push(command(expected.len()));
            let reply = cluster.propose(expected[expected.len() - 1].clone()).await;
            assert_eq!(reply, Ok(Bytes::from(expected.len().to_string())));
        }
        // One round ends as if killed.
        if round != 1 {
            cluster.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_proposers_get_each_their_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, published) = open(dir.path()).await;
    let mut tasks = Vec::new();
    for task in 0..64 {
        let cluster = cluster.clone();
        tasks.push(tokio::spawn(async move {
            let mut places = Vec::new();
            for number in 0..50 {
                let command = Bytes::from(format!("{task}/{number}"));
                let reply = cluster.propose(command.clone()).await.unwrap();
                places.push((String::from_utf8(reply.to_vec()).unwrap().parse::<usize>().unwrap(), command));
            }
            places
        }));
    }
    let mut places = Vec::new();
    for task in tasks {
        places.extend(task.await.unwrap());
    }
    places.sort();
    let commands: Vec<Bytes> = places.iter().map(|(_, command)| command.clone()).collect();
    assert_eq!(commands, published.commands());
    assert!(places.iter().map(|(place, _)| *place).eq(1..=3200));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_free_the_log_and_a_restart_goes_on_from_them() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, _) = open(dir.path()).await;
    let files = || std::fs::read_dir(dir.path().join("log")).unwrap().count();
    let mut expected = Vec::new();
    for _ in 0..3 {
        for _ in 0..20 {
            expected.push(Bytes::from(vec![expected.len() as u8; 10_000]));
            cluster.propose(expected[expected.len() - 1].clone()).await.unwrap();
        }
        let at = cluster.snapshot().await.unwrap();
        assert_eq!(cluster.status().snapshot, Some(at.index));
        assert_eq!(cluster.status().applied, Some(at.index));
    }
    // Sixty commands of 10 kB make ten files; the older snapshot needs the last third.
    assert!(files() <= 6, "{} log files are left", files());
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 2);
    cluster.propose(Bytes::from("last")).await.unwrap();
    expected.push(Bytes::from("last"));
    cluster.shutdown().await;

    let (cluster, published) = open(dir.path()).await;
    assert_eq!(published.commands(), expected);
    assert_eq!(cluster.propose(command(0)).await, Ok(Bytes::from("62")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_when_the_log_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { snapshot_every: 100_000, ..small(dir.path()) };
    let cluster = Cluster::open(options, Journal::new().0).await.unwrap();
    while cluster.status().snapshot.is_none() {
        cluster.propose(Bytes::from(vec![1; 1000])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_server_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.0.shutdown().await;
    let options = Options { node_id: 2, ..small(dir.path()) };
    let refused = Cluster::open(options, Journal::new().0).await.unwrap_err();
    assert!(matches!(refused, OpenError::OtherServer { found: 1, own: 2, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_proposals_than_allowed_are_shed_and_one_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { proposals_max: 8, ..small(dir.path()) };
    let cluster = Cluster::open(options, Journal::new().0).await.unwrap();
    let all = (0..1000).map(|number| {
        let cluster = cluster.clone();
        tokio::spawn(async move { cluster.propose(command(number)).await })
    });
    let (mut done, mut shed) = (0, 0);
    for answer in futures_util::future::join_all(all).await {
        match answer.unwrap() {
            Ok(_) => done += 1,
            Err(ProposeError::Overloaded) => shed += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(done > 0 && shed > 0, "{done} done, {shed} shed");
    let large = cluster.propose(Bytes::from(vec![0; 5 << 20])).await;
    assert!(matches!(large, Err(ProposeError::TooLarge { .. })));
    assert!(cluster.propose(Bytes::from(vec![0; 4 << 20])).await.is_ok());
}
