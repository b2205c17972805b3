//! The engine's own suite for stores, and what it does not look at.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::StorageError;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::*;
use crate::disk::{DiskFile, LocalDisk};
use crate::raft::{Commands, id};
use crate::snapshot::Snapshots;
use crate::state::StateMachine;
use crate::{Frozen, Machine, Position};

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _at: Position, commands: &[Bytes]) -> io::Result<Vec<Bytes>> {
        Ok(vec![Bytes::new(); commands.len()])
    }

    fn publish(&mut self, _at: Position) {}

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(Nothing)
    }

    fn restore(&mut self, _from: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

impl Frozen for Nothing {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"nothing")
    }
}

struct Folders;

impl StoreBuilder<Types, LogStore, StateMachine, (LogHandle, TempDir)> for Folders {
    async fn build(&self) -> Result<((LogHandle, TempDir), LogStore, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
        let snapshots = Snapshots::open(Arc::clone(&disk), dir.path().join("snapshots"), 1).unwrap();
        let state = StateMachine::open(Box::new(Nothing), Arc::new(snapshots)).unwrap();
        let log = open_log(dir.path());
        Ok(((log.handle, dir), log.store, state))
    }
}

fn open_log(dir: &Path) -> Opened {
    open(Arc::new(LocalDisk), dir.join("log"), 1, 4096, None).unwrap()
}

fn entry(term: u64, index: u64) -> LogEntry {
    let commands = vec![Bytes::from(format!("{term}-{index}")); 20];
    LogEntry { log_id: id(term, index), payload: EntryPayload::Normal(Commands(Arc::from(commands))) }
}

async fn all(log: &mut LogStore) -> Vec<LogEntry> {
    log.get_log_reader().await.try_get_log_entries(..).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_the_engine_passes() {
    Suite::test_all(Folders).await.unwrap();
}

#[tokio::test]
async fn a_truncated_and_overwritten_log_reads_back_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    log.store.blocking_append((0..60).map(|index| entry(1, index))).await.unwrap();
    log.store.truncate_after(Some(id(1, 25))).await.unwrap();
    log.store.blocking_append((26..40).map(|index| entry(2, index))).await.unwrap();
    log.store.truncate_after(Some(id(2, 30))).await.unwrap();
    log.store.blocking_append((31..50).map(|index| entry(3, index))).await.unwrap();
    let expected: Vec<_> = (0..26)
        .map(|i| entry(1, i))
        .chain((26..31).map(|i| entry(2, i)))
        .chain((31..50).map(|i| entry(3, i)))
        .collect();
    // From memory, and from disk.
    assert_eq!(all(&mut log.store).await, expected);
    log.handle.shared.inner.lock().shrink_tail(0);
    assert_eq!(all(&mut log.store).await, expected);
    log.handle.close().await;
    let mut log = open_log(dir.path());
    assert_eq!(log.last, Some(id(3, 49)));
    assert_eq!(all(&mut log.store).await, expected);
    let middle = log.store.get_log_reader().await.try_get_log_entries(24..33).await.unwrap();
    assert_eq!(middle, expected[24..33]);
}

/// A disk on which nothing is written before the test lets time pass.
struct Slow;

impl Disk for Slow {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        LocalDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        LocalDisk.list(dir)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        LocalDisk.create(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        LocalDisk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        LocalDisk.sync_dir(dir)
    }

    fn waits(&self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_over_what_was_cut_off_is_read_before_it_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = || open(Arc::new(Slow), dir.path().join("log"), 1, 4096, None).unwrap();
    let mut log = open();
    log.store.blocking_append((0..60).map(|index| entry(1, index))).await.unwrap();
    log.handle.close().await;
    let mut log = open();
    log.store.truncate_after(Some(id(1, 25))).await.unwrap();
    log.store.append((26..30).map(|index| entry(2, index)), IOFlushed::noop()).await.unwrap();
    let expected: Vec<_> = (0..26).map(|i| entry(1, i)).chain((26..30).map(|i| entry(2, i))).collect();
    assert_eq!(all(&mut log.store).await, expected);
    log.handle.settled().await;
    assert_eq!(all(&mut log.store).await, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_on_disk_stays_in_memory_although_something_cut_off_in_its_place_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(Arc::new(Slow), dir.path().join("log"), 1, 4096, None).unwrap();
    log.store.append((0..60).map(|index| entry(1, index)), IOFlushed::noop()).await.unwrap();
    // The writer has taken them when they are cut off.
    tokio::task::yield_now().await;
    log.store.truncate_after(Some(id(1, 25))).await.unwrap();
    log.store.append((26..30).map(|index| entry(2, index)), IOFlushed::noop()).await.unwrap();
    let expected: Vec<_> = (0..26).map(|i| entry(1, i)).chain((26..30).map(|i| entry(2, i))).collect();
    while log.handle.shared.inner.lock().synced != Some(29) {
        log.handle.shared.inner.lock().shrink_tail(0);
        assert_eq!(all(&mut log.store).await, expected);
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_cut_off_is_there_after_a_restart_until_something_came_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || open(Arc::new(Slow), dir.path().join("log"), 1, 4096, None).unwrap();
    let mut log = open();
    log.store.blocking_append((0..60).map(|index| entry(1, index))).await.unwrap();
    log.store.truncate_after(None).await.unwrap();
    assert_eq!(all(&mut log.store).await, []);
    log.handle.close().await;
    let mut log = open();
    assert_eq!(log.last, Some(id(1, 59)));
    log.store.truncate_after(None).await.unwrap();
    log.store.purge(id(2, 40)).await.unwrap();
    log.handle.close().await;
    let log = open();
    assert_eq!((log.purged, log.last), (Some(id(2, 40)), Some(id(2, 40))));
}

#[tokio::test]
async fn a_log_that_contradicts_the_snapshot_gives_way_to_it_and_one_that_does_not_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    log.store.blocking_append((0..60).map(|index| entry(1, index))).await.unwrap();
    log.handle.close().await;
    let mut log = open_log(dir.path());
    for covered in [id(1, 20), id(2, 80)] {
        log.follow(covered).unwrap();
        assert_eq!((log.purged, log.last), (None, Some(id(1, 59))), "{covered}");
    }
    log.follow(id(2, 40)).unwrap();
    log.store.blocking_append((41..50).map(|index| entry(3, index))).await.unwrap();
    let expected: Vec<_> = (41..50).map(|index| entry(3, index)).collect();
    assert_eq!(all(&mut log.store).await, expected);
    log.handle.close().await;
    let mut log = open_log(dir.path());
    assert_eq!((log.purged, log.last), (Some(id(2, 40)), Some(id(3, 49))));
    assert_eq!(all(&mut log.store).await, expected);
}

#[tokio::test]
async fn votes_and_purges_survive_the_files_they_were_written_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    let vote = Ballot::new_committed(7, 1);
    log.store.save_vote(&vote).await.unwrap();
    log.store.blocking_append((0..200).map(|index| entry(7, index))).await.unwrap();
    log.store.blocking_append([entry(7, 200)]).await.unwrap();
    let files = || std::fs::read_dir(dir.path().join("log")).unwrap().count();
    let before = files();
    log.store.purge(id(7, 199)).await.unwrap();
    log.handle.settled().await;
    assert!(files() < before, "{} of {before} files are left", files());
    log.handle.close().await;
    let mut log = open_log(dir.path());
    assert_eq!(log.store.get_log_reader().await.read_vote().await.unwrap(), Some(vote));
    assert_eq!((log.purged, log.last), (Some(id(7, 199)), Some(id(7, 200))));
    assert_eq!(all(&mut log.store).await, [entry(7, 200)]);
}

#[tokio::test]
async fn the_older_snapshot_keeps_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    log.store.blocking_append((0..20).map(|index| entry(1, index))).await.unwrap();
    log.handle.snapshot_taken(0, None, u64::MAX);
    log.store.purge(id(1, 10)).await.unwrap();
    assert_eq!(all(&mut log.store).await.len(), 20);
    log.handle.snapshot_taken(0, Some(id(1, 10)), u64::MAX);
    log.store.purge(id(1, 15)).await.unwrap();
    assert_eq!(all(&mut log.store).await.first(), Some(&entry(1, 11)));
}

#[tokio::test]
async fn memory_holds_the_end_of_the_log_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path());
    for block in 0..100 {
        log.store.blocking_append((block * 10..block * 10 + 10).map(|index| entry(1, index))).await.unwrap();
    }
    log.handle.settled().await;
    let inner = log.handle.shared.inner.lock();
    assert!(inner.tail_bytes <= 600 << 10, "{} bytes", inner.tail_bytes);
    assert!(inner.tail.len() < 1000, "{} entries", inner.tail.len());
}

#[test]
fn a_file_that_is_shorter_than_its_successor_says_is_damage_and_is_not_made_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let header =
        |sequence, prev_end| SegmentHeader { node: 1, sequence, prev_end, last: None, purged: None, vote: None };
    for (sequence, prev_end) in [(1, 0), (2, 1 << 40)] {
        let mut content = header(sequence, prev_end).encode().to_vec();
        // Something that looks like the header of a frame of 2 GiB.
        let mut frame = vec![1; 8];
        frame.extend_from_slice(&[2, 0, 0, 0, sequence as u8, 0, 0, 0]);
        frame.resize(40, 0);
        frame[4..8].copy_from_slice(&(1u32 << 31).to_le_bytes());
        content.extend_from_slice(&frame);
        std::fs::write(recover::segment_path(dir.path(), sequence), content).unwrap();
    }
    match recover::recover(&LocalDisk, dir.path(), 1, None) {
        Err(OpenError::Corrupt { file, offset, .. }) => {
            assert_eq!((file, offset), (recover::segment_path(dir.path(), 1), 552));
        }
        other => panic!("{:?}", other.map(|found| found.end)),
    }
}

#[test]
fn an_entry_that_none_could_follow_is_damage() {
    let last = id(1, u64::MAX);
    let header = SegmentHeader { node: 1, sequence: 1, prev_end: 0, last: None, purged: None, vote: None };
    let blank = |index| Record::Entry(LogEntry { log_id: id(1, index), payload: EntryPayload::Blank });
    let mut files = vec![SegmentHeader { last: Some(last), ..header.clone() }.encode().to_vec()];
    for record in [blank(u64::MAX), Record::Truncate(Some(last)), Record::Purge(last)] {
        let mut content = header.encode().to_vec();
        frame::encode(&record, 1, SEGMENT_HEADER as u64, &mut content);
        frame::encode(&blank(0), 1, SEGMENT_HEADER as u64, &mut content);
        files.push(content);
    }
    for content in files {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(recover::segment_path(dir.path(), 1), content).unwrap();
        let found = recover::recover(&LocalDisk, dir.path(), 1, None).map(|found| found.last);
        assert!(matches!(found, Err(OpenError::Corrupt { .. })), "{found:?}");
    }
}
