//! Searching: newest first, page by page.

use std::fs;
use std::path::Path;

use byname_api::audit::{AuditRequest, Outcome, Record};
use byname_api::error::Code;
use byname_api::span::Timestamp;
use byname_audit::{Audit, Entry, Options};

/// Far behind the beginning of the chain, which has the time of the test.
const START: u64 = 4_000_000_000_000;
const HOUR: u64 = 3_600_000;

fn entry(n: u64) -> Entry {
    let outcome = if n % 10 == 3 { Outcome::Failed } else { Outcome::Ok };
    let operation = if n.is_multiple_of(2) { "add" } else { "find" };
    let mut entry = Entry::new(Timestamp(START + n * HOUR), format!("/people/p{}", n % 5), "token", operation, outcome);
    entry.name = (!n.is_multiple_of(3)).then(|| format!("/Things/{n}/part"));
    entry
}

/// 300 records, an hour apart, in many files.
fn log(dir: &Path) -> Audit {
    let audit = Audit::open_with(dir, 1, None, Options { segment_bytes: 5_000, ..Options::default() }).unwrap();
    (0..300).for_each(|n| audit.record(entry(n)));
    audit
}

fn all(audit: &Audit, mut request: AuditRequest) -> Vec<Record> {
    let mut records = Vec::new();
    for _ in 0..1_000 {
        let reply = audit.search(&request).unwrap();
        assert!(reply.records.len() <= request.limit as usize);
        records.extend(reply.records);
        request.next = reply.next;
        if request.next.is_none() {
            return records;
        }
    }
    panic!("the pages have no end");
}

#[test]
fn the_newest_come_first_and_pages_meet_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let audit = log(dir.path());
    for limit in [1, 7, 100, 1_000] {
        let found = all(&audit, AuditRequest { limit, ..AuditRequest::default() });
        let numbers: Vec<_> = found.iter().map(|record| record.sequence).collect();
        assert_eq!(numbers, (1..=301).rev().collect::<Vec<_>>(), "{limit}");
    }
    let newest = audit.search(&AuditRequest { limit: 0, ..AuditRequest::default() }).unwrap();
    assert_eq!((newest.records.len(), newest.records[0].sequence), (100, 301));
    assert_eq!(newest.records[1].hash, newest.records[0].previous);
}

#[test]
fn what_is_recorded_while_somebody_turns_pages_is_not_among_them() {
    let dir = tempfile::tempdir().unwrap();
    let audit = log(dir.path());
    let mut reply = audit.search(&AuditRequest::default()).unwrap();
    (300..400).for_each(|n| audit.record(entry(n)));
    for first in [201, 101, 1] {
        let request = AuditRequest { next: reply.next, ..AuditRequest::default() };
        reply = audit.search(&request).unwrap();
        assert_eq!(reply.records.first().map(|record| record.sequence), Some(first));
    }
    assert_eq!(reply.next.map(|_| ()), Some(()).filter(|()| reply.records.len() == 100));
}

/// What is asked for, and which of the entries fit.
type Case = (&'static str, fn(&mut AuditRequest), fn(u64) -> bool);

const CASES: &[Case] = &[
    ("by", |request| request.by = Some("/people/p3".into()), |n| n % 5 == 3),
    ("operation", |request| request.operation = Some("find".into()), |n| n % 2 == 1),
    ("outcome", |request| request.outcome = Some(Outcome::Failed), |n| n % 10 == 3),
    ("a name in another case", |request| request.name = Some("/things/7/PART".into()), |n| n == 7),
    ("a pattern", |request| request.name = Some("/things/1?/*".into()), |n| (10..20).contains(&n) && n % 3 != 0),
    ("all beneath", |request| request.name = Some("/things/**".into()), |n| n % 3 != 0),
    ("since", |request| request.since = Some(Timestamp(START + 250 * HOUR)), |n| n >= 250),
    ("until", |request| request.until = Some(Timestamp(START + 9 * HOUR)), |n| n <= 9),
    (
        "all at once",
        |request| {
            request.operation = Some("add".into());
            request.since = Some(Timestamp(START + 20 * HOUR));
            request.until = Some(Timestamp(START + 29 * HOUR));
            request.by = Some("/people/p4".into());
        },
        |n| n == 24,
    ),
    ("nobody", |request| request.by = Some("/people/p".into()), |_| false),
];

#[test]
fn every_field_selects() {
    let dir = tempfile::tempdir().unwrap();
    let audit = log(dir.path());
    for (what, set, fits) in CASES {
        let mut request = AuditRequest { limit: 11, ..AuditRequest::default() };
        set(&mut request);
        // The record of the beginning has the time of the test.
        let found: Vec<_> =
            all(&audit, request).iter().filter(|r| r.operation != "audit-begin").map(|r| r.sequence - 2).collect();
        assert_eq!(found, (0..300).rev().filter(|n| fits(*n)).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn a_request_that_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let audit = log(dir.path());
    let refused = |request: AuditRequest| {
        let error = audit.search(&request).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        error.at_field().unwrap_or_default().to_owned()
    };
    for name in ["things", "/a[", ""] {
        assert_eq!(refused(AuditRequest { name: Some(name.into()), ..AuditRequest::default() }), "name");
    }
    for next in ["", "-", "x-1", "1", "1-fffffffffffffffff"] {
        assert_eq!(refused(AuditRequest { next: Some(next.into()), ..AuditRequest::default() }), "next");
    }
    // One that was made up is no error, and no way out of the files either.
    let made_up = AuditRequest { next: Some("ffffffffffffffff-ffffffffffffffff".into()), ..AuditRequest::default() };
    assert_eq!(audit.search(&made_up).unwrap().records.len(), 100);
    let between = AuditRequest { next: Some("1-2bc".into()), ..AuditRequest::default() };
    assert!(audit.search(&between).unwrap().records.len() <= 2);
}

#[test]
fn damaged_lines_are_passed_over_and_removed_files_too() {
    let dir = tempfile::tempdir().unwrap();
    let audit = log(dir.path());
    audit.flush().unwrap();
    let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let text = fs::read_to_string(&files[1]).unwrap();
    let lines = text.lines().count();
    fs::write(&files[1], format!("\n\u{0}\u{0}\n{}", text.replacen("{\"format\"", "{\"for", 1))).unwrap();
    let gone = fs::read_to_string(&files[2]).unwrap().lines().count();
    fs::remove_file(&files[2]).unwrap();
    let found = all(&audit, AuditRequest { limit: 50, ..AuditRequest::default() });
    assert_eq!(found.len(), 301 - gone - 1);
    assert!(lines > 5);
}

#[test]
fn the_owner_keeps_so_many_bytes_and_the_log_says_what_went() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 5_000, keep_bytes: Some(20_000), ..Options::default() };
    let audit = Audit::open_with(dir.path(), 1, None, options).unwrap();
    for n in 0..300 {
        audit.record(entry(n));
        audit.flush().unwrap();
    }
    let head = audit.sync().unwrap();
    let kept: u64 = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!((15_000..27_000).contains(&kept), "{kept}");
    let found = audit.verify(&[head]).unwrap();
    assert!(found.intact && found.first > 200, "{found:?}");
    let removed = all(&audit, AuditRequest { operation: Some("audit-removed".into()), ..AuditRequest::default() });
    assert!(removed[0].detail.as_deref().unwrap_or_default().contains(&format!("to {} were removed", found.first - 1)));
}
