//! Tests of a disk that is full, fails and comes back.

use std::io;
use std::path::Path;
use std::sync::Arc;

use byname_api::audit::{AuditRequest, Outcome};
use byname_api::error::Code;
use byname_api::span::Timestamp;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::disk::{Disk, LocalDisk, Out};
use crate::{Audit, Entry, FLOOD_RECORDS, Options, verify_files};

/// What a disk does wrong.
#[derive(Default)]
struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// So many bytes fit; any number when `None`.
    room: Option<usize>,
    held: bool,
    sync_fails: bool,
    written: usize,
}

#[derive(Clone, Default)]
struct BadDisk(Arc<Faults>);

struct BadFile(Box<dyn Out>, BadDisk);

impl BadDisk {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

impl Disk for BadDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Out>> {
        Ok(Box::new(BadFile(LocalDisk.create(path)?, self.clone())))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Out>> {
        Ok(Box::new(BadFile(LocalDisk.open(path)?, self.clone())))
    }
}

impl Out for BadFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.1.state();
        while state.held {
            self.1.0.changed.wait(&mut state);
        }
        let fits = state.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        state.room = state.room.map(|room| room - fits);
        state.written += fits;
        self.0.write_at(&bytes[..fits], at)?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.state().sync_fails { Err(io::Error::other("the disk is broken")) } else { self.0.sync() }
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_at(into, at)
    }

    fn is_at(&self, path: &Path, len: u64) -> bool {
        self.0.is_at(path, len)
    }
}

fn entry(n: u64) -> Entry {
    Entry::new(Timestamp(n), format!("/people/p{n}"), "token", "add", Outcome::Ok)
}

fn open(disk: &BadDisk, dir: &Path, options: Options) -> Audit {
    let audit = Audit::open_on(Arc::new(disk.clone()), dir, 1, None, options).unwrap();
    audit.flush().unwrap();
    audit
}

/// Who did it and how often, oldest first.
fn found(audit: &Audit) -> Vec<(String, String, u64)> {
    let reply = audit.search(&AuditRequest { limit: 1_000, ..AuditRequest::default() }).unwrap();
    reply.records.into_iter().rev().map(|record| (record.by, record.operation, record.count)).collect()
}

#[test]
fn a_full_disk_loses_nothing_and_what_waited_is_written_once_there_is_room() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options::default());
    // Enough for some whole lines and a part of one.
    disk.set(|state| state.room = Some(5_000));
    (0..50).for_each(|n| audit.record(entry(n)));
    for _ in 0..3 {
        assert_eq!(audit.flush().unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(audit.sync().unwrap_err().code(), Code::Unavailable);
    disk.set(|state| state.room = None);
    (50..60).for_each(|n| audit.record(entry(n)));
    assert_eq!(audit.sync().unwrap().sequence, 61);
    let who: Vec<_> = found(&audit).into_iter().skip(1).map(|(by, ..)| by).collect();
    assert_eq!(who, (0..60).map(|n| format!("/people/p{n}")).collect::<Vec<_>>());
    assert!(audit.verify(&[]).unwrap().intact);
}

#[test]
fn whoever_waits_while_a_write_is_tried_again_waits_for_their_own() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options::default());
    for round in 0..20 {
        disk.set(|state| state.room = Some(0));
        audit.record(entry(2 * round));
        assert!(audit.flush().is_err());
        audit.record(entry(2 * round + 1));
        disk.set(|state| state.room = None);
        audit.flush().unwrap();
        assert_eq!(audit.head().sequence, 2 * round + 3);
    }
}

#[test]
fn what_there_is_no_room_for_is_counted_and_nobody_waits() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options { queue_records: 100, ..Options::default() });
    // What the log says of its beginning takes no room from here on.
    audit.flush().unwrap();
    disk.set(|state| state.held = true);
    // None of these returns before the disk does, if it waits for it.
    (0..150).for_each(|n| audit.record(entry(n)));
    disk.set(|state| state.held = false);
    audit.flush().unwrap();
    audit.record(entry(150));
    let all = found(&audit);
    assert_eq!(all.len(), 103);
    assert_eq!(all[100].0, "/people/p99");
    assert_eq!(all[101], ("/byname/servers/1".into(), "audit-lost".into(), 50));
    assert_eq!(all[102].0, "/people/p150");
    assert!(audit.verify(&[]).unwrap().intact);
}

#[test]
fn the_queue_has_a_bound_in_bytes_too() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options { queue_bytes: 20_000, ..Options::default() });
    // What the log says of its beginning takes no room from here on.
    audit.flush().unwrap();
    disk.set(|state| state.held = true);
    for n in 0..100 {
        audit.record(Entry { detail: Some("x".repeat(1 << 20)), ..entry(n) });
    }
    disk.set(|state| state.held = false);
    let all = found(&audit);
    assert!((10..20).contains(&all.len()), "{}", all.len());
    assert_eq!(all.iter().map(|(.., count)| count).sum::<u64>(), 101);
}

#[test]
fn what_is_lost_is_told_before_what_comes_later() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options { queue_bytes: 5_000, ..Options::default() });
    // What the log says of its beginning takes no room from here on.
    audit.flush().unwrap();
    disk.set(|state| state.held = true);
    let long = |n| Entry { detail: Some("x".repeat(1_000)), code: Some("y".repeat(1_000)), ..entry(n) };
    (0..3).for_each(|n| audit.record(long(n)));
    // There would be room for this one.
    audit.record(entry(3));
    disk.set(|state| state.held = false);
    audit.flush().unwrap();
    audit.record(entry(4));
    let all: Vec<_> = found(&audit).into_iter().skip(1).map(|(by, _, count)| (by, count)).collect();
    let expected = [("/people/p0", 1), ("/people/p1", 1), ("/byname/servers/1", 2), ("/people/p4", 1)];
    assert_eq!(all, expected.map(|(by, count)| (by.to_owned(), count)));
}

#[test]
fn after_a_failed_sync_what_may_be_gone_is_written_again() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options::default());
    let durable = audit.sync().unwrap();
    disk.set(|state| state.sync_fails = true);
    (0..10).for_each(|n| audit.record(entry(n)));
    assert!(audit.sync().is_err());
    audit.flush().unwrap_err();
    assert_eq!(audit.head().sequence, durable.sequence + 10);
    disk.set(|state| (state.sync_fails, state.written) = (false, 0));
    assert_eq!(audit.sync().unwrap().sequence, durable.sequence + 10);
    assert!(disk.state().written > 10 * 200);
    disk.set(|state| state.written = 0);
    audit.sync().unwrap();
    assert_eq!(disk.state().written, 0);
    assert!(audit.verify(&[durable]).unwrap().intact);
}

#[test]
fn a_disk_that_stays_full_does_not_keep_a_server_from_ending_nor_from_starting() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options::default());
    disk.set(|state| state.room = Some(3_000));
    (0..50).for_each(|n| audit.record(entry(n)));
    drop(audit);
    assert!(!verify_files(dir.path(), &[]).unwrap().intact, "a part of a line is left");

    disk.set(|state| state.room = Some(0));
    let audit = Audit::open_on(Arc::new(disk.clone()), dir.path(), 1, None, Options::default()).unwrap();
    assert!(audit.flush().is_err());
    disk.set(|state| state.room = None);
    audit.flush().unwrap();
    let all = found(&audit);
    assert_eq!(all.last().unwrap().1, "audit-torn");
    let found = audit.verify(&[]).unwrap();
    assert!(found.intact, "{found:?}");
}

#[test]
fn a_flood_of_refusals_is_few_records_and_is_counted_to_the_last_when_the_log_is_closed() {
    let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
    let audit = open(&disk, dir.path(), Options::default());
    let refused = |at| Entry::new(Timestamp(at), "/people/eve", "none", "login", Outcome::Unauthenticated);
    (0..5_000).for_each(|n| audit.record(refused(n)));
    assert_eq!(found(&audit).len(), 1 + FLOOD_RECORDS as usize);
    audit.record(entry(10_000));
    let all = found(&audit);
    assert_eq!(all.len(), 3 + FLOOD_RECORDS as usize);
    assert_eq!(all[21], ("/people/eve".into(), "login".into(), 4_980));
    (0..30).for_each(|n| audit.record(refused(20_000 + n)));
    drop(audit);
    let audit = open(&disk, dir.path(), Options::default());
    assert_eq!(found(&audit).last().unwrap().2, 10);
}

#[test]
fn a_file_that_is_taken_away_under_the_server_is_followed_by_another_and_noted() {
    for cut in [false, true] {
        let (disk, dir) = (BadDisk::default(), tempfile::tempdir().unwrap());
        let audit = open(&disk, dir.path(), Options::default());
        (0..10).for_each(|n| audit.record(entry(n)));
        audit.flush().unwrap();
        let file = dir.path().join("00000000000000000001.jsonl");
        if cut {
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(400).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        assert!(!audit.verify(&[]).unwrap().intact);
        audit.record(entry(10));
        audit.flush().unwrap();
        audit.flush().unwrap();
        let names: Vec<_> = found(&audit).into_iter().map(|(_, operation, _)| operation).collect();
        assert_eq!(names.last().map(String::as_str), Some("audit-damaged"));
        assert!(dir.path().join("00000000000000000012.jsonl").exists());
        assert!(!audit.verify(&[]).unwrap().intact);
    }
}
