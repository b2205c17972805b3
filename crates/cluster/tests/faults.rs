//! A cluster of one server on a disk that misbehaves.

mod journal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use byname_cluster::{Cluster, OpenError, Options, ProposeError};
use byname_sim::FaultyDisk;
use bytes::Bytes;
use journal::{Journal, Published};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DIR: &str = "/cluster";
/// Each is four lives and deaths; a failure names its seed, which fixes the faults but not the order of the threads.
const SEEDS: std::ops::Range<u64> = 0..500;

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        snapshot_every: 24 << 10,
        stall_patience: Duration::from_millis(20),
        ..Options::new(DIR, 1)
    }
}

async fn open(disk: &FaultyDisk) -> Result<(Cluster, Published), OpenError> {
    let (journal, published) = Journal::new();
    Ok((Cluster::open_on(Arc::new(disk.clone()), options(), journal).await?, published))
}

/// Proposes from four tasks until the power goes; answers what was acknowledged, with the place each got.
async fn propose_until_death(
    cluster: &Cluster,
    disk: &FaultyDisk,
    life: u64,
    dice: &mut StdRng,
) -> Vec<(usize, Bytes)> {
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (cluster, acknowledged) = (cluster.clone(), Arc::clone(&acknowledged));
            let bytes = dice.random_range(1..2000);
            tokio::spawn(async move {
                for number in 0.. {
                    let command = Bytes::from(format!("{life}/{task}/{number}/{}", "x".repeat(bytes)));
                    let Ok(reply) = cluster.propose(command.clone()).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    let place = String::from_utf8(reply.to_vec()).unwrap().parse::<usize>().unwrap();
                    acknowledged.lock().unwrap().push((place, command));
                }
            })
        })
        .collect();
    disk.died().await;
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        let _ = task.await;
    }
    std::mem::take(&mut *acknowledged.lock().unwrap())
}

/// Several lives of one server, each ended by a power cut or a kill at a random moment.
async fn live_and_die(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut disk = FaultyDisk::new();
    let mut acknowledged: Vec<(usize, Bytes)> = Vec::new();
    for life in 0..4 {
        disk.cut_power_after(dice.random_range(0..120));
        if dice.random_ratio(1, 8) {
            disk.fail_syncs(dice.random_range(1..3));
        }
        match open(&disk).await {
            Ok((cluster, published)) => {
                check(&acknowledged, &published.commands(), seed, life);
                acknowledged.extend(propose_until_death(&cluster, &disk, life, &mut dice).await);
                cluster.shutdown().await;
            }
            // Only the power may keep it from opening.
            Err(OpenError::Io { .. }) => {}
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        }
        disk = if dice.random_ratio(1, 4) { disk.after_kill() } else { disk.after_power_cut(dice.random()) };
    }
    let (cluster, published) = open(&disk).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    check(&acknowledged, &published.commands(), seed, 4);
    cluster.shutdown().await;
}

/// Everything acknowledged is there, in its place, and nothing is there twice.
fn check(acknowledged: &[(usize, Bytes)], found: &[Bytes], seed: u64, life: u64) {
    for (place, command) in acknowledged {
        let at = found.get(place - 1);
        assert!(at == Some(command), "seed {seed}, life {life}: place {place} has {at:?} for {command:?}");
    }
    let mut once = found.to_vec();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), found.len(), "seed {seed}, life {life}: a command was applied twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_to_power_cuts_and_kills() {
    let mut lives = tokio::task::JoinSet::new();
    for seed in SEEDS {
        if lives.len() >= 16 {
            lives.join_next().await.unwrap().unwrap();
        }
        lives.spawn(live_and_die(seed));
    }
    lives.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_writes_resume_when_there_is_room() {
    let disk = FaultyDisk::new();
    let (cluster, published) = open(&disk).await.unwrap();
    disk.set_free(0);
    let mut known = Vec::new();
    let mut number = 0;
    let unknown = loop {
        let command = Bytes::from(format!("{number}/{}", "x".repeat(1000)));
        number += 1;
        match cluster.propose(command.clone()).await {
            Ok(_) => known.push(command),
            Err(ProposeError::Unknown(text)) => break (command, text),
            Err(other) => panic!("{other}"),
        }
    };
    assert!(unknown.1.contains("the disk is full: free space under /cluster/log"), "{}", unknown.1);
    assert!(cluster.status().stalled.is_some());
    assert!(cluster.is_primary());
    let refused = cluster.propose(Bytes::from("refused")).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Unavailable(_)), "{refused}");
    assert!(cluster.confirm().await.is_ok(), "reads go on");
    assert!(cluster.snapshot().await.is_err(), "a snapshot needs room too");

    disk.set_free(1 << 30);
    while matches!(cluster.propose(Bytes::from("again")).await, Err(ProposeError::Unavailable(_))) {
        tokio::task::yield_now().await;
    }
    known.push(unknown.0);
    known.push(Bytes::from("again"));
    assert_eq!(published.commands(), known);
    assert_eq!(cluster.status().stalled, None);
    cluster.shutdown().await;
    let (_cluster, published) = open(&disk.after_power_cut(1)).await.unwrap();
    assert_eq!(published.commands(), known);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_the_start_still_gives_reads() {
    let disk = FaultyDisk::new();
    let (cluster, _) = open(&disk).await.unwrap();
    disk.set_free(0);
    let mut known = Vec::new();
    while let Ok(reply) = cluster.propose(Bytes::from(vec![b'x'; 500])).await {
        known.push(reply);
    }
    cluster.shutdown().await;
    let disk = disk.after_kill();
    disk.set_free(0);
    let (cluster, published) = open(&disk).await.unwrap();
    assert!(published.commands().len() >= known.len());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_forgot_is_written_again() {
    let disk = FaultyDisk::new();
    let (cluster, published) = open(&disk).await.unwrap();
    for number in 0..20 {
        if number % 5 == 3 {
            disk.fail_syncs(1);
        }
        cluster.propose(Bytes::from(format!("command {number}"))).await.unwrap();
    }
    let known = published.commands();
    assert_eq!(known.len(), 20);
    let (_cluster, published) = open(&disk.after_power_cut(3)).await.unwrap();
    assert_eq!(published.commands(), known);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_calls_clean_after_a_failed_sync_is_not_believed_by_the_next_process() {
    let disk = FaultyDisk::new();
    let (cluster, _) = open(&disk).await.unwrap();
    cluster.propose(Bytes::from("first")).await.unwrap();
    // The write reaches the kernel, its sync fails, and before it can be repeated the process is killed.
    disk.fail_syncs(u32::MAX);
    let second = Bytes::from("second".repeat(500));
    let failed = cluster.propose(second.clone()).await;
    assert!(matches!(failed, Err(ProposeError::Unknown(_))), "{failed:?}");
    let disk = disk.after_kill();
    cluster.shutdown().await;
    let (cluster, published) = open(&disk).await.unwrap();
    let mut known = vec![Bytes::from("first"), second];
    assert_eq!(published.commands(), known);
    cluster.propose(Bytes::from("third")).await.unwrap();
    known.push(Bytes::from("third"));
    let disk = disk.after_power_cut(1);
    cluster.shutdown().await;
    let (_cluster, published) = open(&disk).await.unwrap();
    assert_eq!(published.commands(), known);
}

fn log_files(disk: &FaultyDisk) -> Vec<PathBuf> {
    disk.files(&Path::new(DIR).join("log"))
}

fn find(content: &[u8], text: &str) -> usize {
    content.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

/// A disk with three commands, as a kill leaves it or as a clean end does.
async fn three_commands(clean: bool) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let (cluster, _) = open(&disk).await.unwrap();
    for text in ["first", "second", "third"] {
        cluster.propose(Bytes::from(text)).await.unwrap();
    }
    let left = if clean { None } else { Some(disk.after_kill()) };
    cluster.shutdown().await;
    left.unwrap_or(disk)
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_good_records_refuses_the_start() {
    let disk = three_commands(false).await;
    let file = log_files(&disk).remove(0);
    let at = find(&disk.content(&file), "second");
    disk.change(&file, |content| content[at] ^= 1);
    match open(&disk).await {
        Err(OpenError::Corrupt { file: found, offset, way_out, .. }) => {
            assert_eq!(found, file);
            assert!(offset < at as u64 && offset + 64 > at as u64, "{offset} for {at}");
            assert!(way_out.contains("backup"), "{way_out}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zeros_in_the_middle_are_damage_too() {
    let disk = three_commands(false).await;
    let file = log_files(&disk).remove(0);
    let at = find(&disk.content(&file), "second") - 48;
    disk.change(&file, |content| content[at..at + 56].fill(0));
    assert!(matches!(open(&disk).await, Err(OpenError::Corrupt { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_cut_off() {
    let disk = three_commands(false).await;
    let file = log_files(&disk).remove(0);
    let at = find(&disk.content(&file), "third");
    disk.change(&file, |content| content[at] ^= 1);
    let (cluster, published) = open(&disk).await.unwrap();
    assert_eq!(published.commands(), ["first", "second"]);
    cluster.propose(Bytes::from("fourth")).await.unwrap();
    cluster.shutdown().await;
    let (_cluster, published) = open(&disk).await.unwrap();
    assert_eq!(published.commands(), ["first", "second", "fourth"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_clean_end_even_the_last_record_is_proven() {
    let disk = three_commands(true).await;
    let file = log_files(&disk).remove(0);
    let at = find(&disk.content(&file), "third");
    disk.change(&file, |content| content[at] ^= 1);
    assert!(matches!(open(&disk).await, Err(OpenError::Corrupt { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_format_is_refused_by_its_number() {
    let disk = three_commands(true).await;
    disk.change(&log_files(&disk)[0], |content| content[8] = 7);
    assert!(matches!(open(&disk).await, Err(OpenError::NewerFormat { found: 7, known: 1, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_log_file_refuses_the_start() {
    let disk = FaultyDisk::new();
    let (cluster, _) = open(&disk).await.unwrap();
    while log_files(&disk).len() < 3 {
        cluster.propose(Bytes::from(vec![1; 1000])).await.unwrap();
    }
    cluster.shutdown().await;
    let files = log_files(&disk);
    byname_cluster::disk::Disk::remove(&disk, &files[files.len() - 2]).unwrap();
    assert!(matches!(open(&disk).await, Err(OpenError::Corrupt { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_names_the_way_out_and_the_way_works() {
    let disk = FaultyDisk::new();
    let (cluster, published) = open(&disk).await.unwrap();
    for round in 0..3 {
        for number in 0..30 {
            cluster.propose(Bytes::from(format!("{round}/{number}/{}", "x".repeat(500)))).await.unwrap();
        }
        cluster.snapshot().await.unwrap();
    }
    let known = published.commands();
    cluster.shutdown().await;
    let newest = disk.files(&Path::new(DIR).join("snapshots")).pop().unwrap();
    disk.change(&newest, |content| {
        let middle = content.len() / 2;
        content[middle] ^= 1;
    });
    match open(&disk).await {
        Err(OpenError::Corrupt { file, way_out, .. }) => {
            assert_eq!(file, newest);
            assert!(way_out.contains("Move it out of the folder"), "{way_out}");
        }
        other => panic!("{other:?}"),
    }
    byname_cluster::disk::Disk::remove(&disk, &newest).unwrap();
    let (_cluster, published) = open(&disk).await.unwrap();
    assert_eq!(published.commands(), known);
}
