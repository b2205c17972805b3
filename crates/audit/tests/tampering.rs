//! Whatever is done to the files is found and named.

use std::fs;
use std::path::{Path, PathBuf};

use byname_api::audit::{Outcome, Verification};
use byname_api::span::Timestamp;
use byname_audit::{Anchor, Audit, Entry, Options, verify_files};
use proptest::prelude::*;

const SMALL: u64 = 4_000;

fn entry(n: u64) -> Entry {
    let mut entry = Entry::new(
        Timestamp(1_700_000_000_000 + n),
        format!("/people/p{}", n % 7),
        "socket pid 12",
        "add",
        Outcome::Ok,
    );
    entry.name = Some(format!("/things/{n}"));
    entry
}

fn open(dir: &Path, anchor: Option<Anchor>) -> Audit {
    Audit::open_with(dir, 1, anchor, Options { segment_bytes: SMALL, ..Options::default() }).unwrap()
}

/// A log with the first record of its chain and `count` others, in small files; and its heads at every tenth.
fn log(dir: &Path, count: u64) -> Vec<Anchor> {
    let audit = open(dir, None);
    let mut anchors = Vec::new();
    for n in 1..=count {
        audit.record(entry(n));
        if n % 10 == 0 {
            anchors.push(audit.sync().unwrap());
        }
    }
    audit.sync().unwrap();
    anchors
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap().split_inclusive('\n').map(str::to_owned).collect()
}

fn verify(dir: &Path, anchors: &[Anchor]) -> Verification {
    verify_files(dir, anchors).unwrap()
}

#[test]
fn an_untouched_log_is_intact_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let anchors = log(dir.path(), 100);
    assert!(files(dir.path()).len() > 5);
    let found = verify(dir.path(), &anchors);
    assert_eq!((found.intact, found.trouble.as_deref()), (true, None));
    assert_eq!((found.server, found.records, found.first, found.last, found.anchors), (1, 101, 1, 101, 10));

    let before = files(dir.path()).len();
    let audit = open(dir.path(), anchors.last().copied());
    assert_eq!(audit.head().sequence, 101);
    audit.record(entry(1_000));
    assert_eq!(audit.sync().unwrap().sequence, 102);
    assert!(files(dir.path()).len() <= before + 1);
    let found = audit.verify(&anchors).unwrap();
    assert!(found.intact, "{found:?}");
    assert_eq!((found.last, found.anchors), (102, 10));
    assert_eq!(found.head, verify(dir.path(), &[]).head);
}

type Tamper = fn(&Path);

/// What is done to the files, and what the report must say of it.
const TAMPERINGS: &[(&str, Tamper, &[&str])] = &[
    ("a changed word", |dir| change(dir, 2, 1, "/people/p", "/people/q"), &["line 2", "was changed"]),
    ("a changed outcome", |dir| change(dir, 2, 1, "\"ok\"", "\"denied\""), &["line 2", "was changed"]),
    (
        "a field that means nothing",
        |dir| change(dir, 2, 1, "{\"format\"", "{\"x\":1,\"format\""),
        &["line 2", "was changed"],
    ),
    ("a removed line", |dir| with_lines(dir, 1, |lines| drop(lines.remove(2))), &["line 3", "is missing"]),
    ("a removed last line of a file", |dir| with_lines(dir, 1, |lines| drop(lines.pop())), &["line 1", "is missing"]),
    ("a removed file", |dir| fs::remove_file(&files(dir)[2]).unwrap(), &["line 1", "are missing"]),
    ("swapped lines", |dir| with_lines(dir, 1, |lines| lines.swap(1, 2)), &["line 2", "missing", "swapped"]),
    ("a line twice", |dir| with_lines(dir, 1, |lines| lines.insert(2, lines[1].clone())), &["line 3", "put in"]),
    (
        "a line of nonsense",
        |dir| with_lines(dir, 1, |lines| lines.insert(2, "{}\n".into())),
        &["line 3", "is no record"],
    ),
    ("an empty line", |dir| with_lines(dir, 1, |lines| lines.insert(2, "\n".into())), &["line 3", "is no record"]),
    ("swapped files", swap_files, &["renamed"]),
    ("a renamed file", |dir| fs::rename(&files(dir)[1], dir.join("00000000000000000005.jsonl")).unwrap(), &["renamed"]),
    ("a truncated tail", cut_tail, &["ends with record", "its end was cut off"]),
    (
        "a changed word at the end",
        |dir| change(dir, files(dir).len() - 1, 1, "/people/p", "/people/q"),
        &["line 2", "was changed"],
    ),
    ("half a last line", |dir| cut_bytes(dir, 30), &["has no end"]),
    (
        "everything removed",
        |dir| files(dir).into_iter().for_each(|file| fs::remove_file(file).unwrap()),
        &["all was removed"],
    ),
    ("a log made anew", remake, &["not the one that was anchored"]),
    ("a log of another server", |dir| other_server(dir), &["not the one that was anchored"]),
];

fn with_lines(dir: &Path, file: usize, change: impl FnOnce(&mut Vec<String>)) {
    let path = &files(dir)[file];
    let mut lines = lines(path);
    change(&mut lines);
    fs::write(path, lines.concat()).unwrap();
}

fn change(dir: &Path, file: usize, line: usize, from: &str, to: &str) {
    with_lines(dir, file, |lines| {
        assert!(lines[line].contains(from));
        lines[line] = lines[line].replacen(from, to, 1);
    });
}

fn swap_files(dir: &Path) {
    let files = files(dir);
    let kept = fs::read(&files[1]).unwrap();
    fs::copy(&files[2], &files[1]).unwrap();
    fs::write(&files[2], kept).unwrap();
}

fn cut_tail(dir: &Path) {
    fs::remove_file(files(dir).last().unwrap()).unwrap();
    let last = files(dir).len() - 1;
    with_lines(dir, last, |lines| lines.truncate(2));
}

fn cut_bytes(dir: &Path, bytes: u64) {
    let path = files(dir).pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

fn remake(dir: &Path) {
    files(dir).into_iter().for_each(|file| fs::remove_file(file).unwrap());
    log(dir, 100);
}

fn other_server(dir: &Path) {
    files(dir).into_iter().for_each(|file| fs::remove_file(file).unwrap());
    let audit = Audit::open(dir, 2, None).unwrap();
    (1..=100).for_each(|n| audit.record(entry(n)));
    audit.flush().unwrap();
}

#[test]
fn every_tampering_is_found_and_named() {
    for (what, tamper, says) in TAMPERINGS {
        let dir = tempfile::tempdir().unwrap();
        let anchors = log(dir.path(), 100);
        tamper(dir.path());
        let found = verify(dir.path(), &anchors);
        let trouble = found.trouble.unwrap_or_default();
        assert!(!found.intact, "{what}");
        for word in *says {
            assert!(trouble.contains(word), "{what}: {trouble}");
        }
    }
}

/// What is done to the end of the log, which a server reads when it starts.
const AT_THE_END: [&str; 6] = [
    "a changed word at the end",
    "a truncated tail",
    "half a last line",
    "everything removed",
    "a log made anew",
    "a log of another server",
];

#[test]
fn a_server_goes_on_beside_what_it_finds_and_says_so_for_ever() {
    for (what, tamper, _) in TAMPERINGS.iter().filter(|(what, ..)| AT_THE_END.contains(what)) {
        let dir = tempfile::tempdir().unwrap();
        let anchors = log(dir.path(), 100);
        // Half a line is a crash, unless it was whole when it was anchored.
        let whole = open(dir.path(), None).sync().unwrap();
        let last = if *what == "half a last line" { whole } else { anchors[9] };
        tamper(dir.path());
        let evidence: Vec<_> =
            files(dir.path()).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();

        let mut head = Anchor::default();
        for start in 0..3 {
            let anchor = if start == 2 { head } else { last };
            let audit = open(dir.path(), Some(anchor));
            audit.record(entry(2_000 + start));
            head = audit.sync().unwrap();
            assert!(!audit.verify(&anchors).unwrap().intact, "{what}");
            // Also for who does not know what was anchored.
            let found = audit.verify(&[]).unwrap();
            assert!(!found.intact, "{what}");
            let trouble = found.trouble.unwrap_or_default();
            assert!(trouble.contains("the server noted at"), "{what}: {trouble}");
        }
        for (file, bytes) in evidence {
            assert!(fs::read(&file).unwrap() == bytes, "{what}: {} was touched", file.display());
        }
        let noted =
            files(dir.path()).iter().flat_map(|file| lines(file)).filter(|line| line.contains("audit-damaged")).count();
        assert_eq!(noted, 1, "{what}");
        let all: Vec<_> = files(dir.path()).iter().flat_map(|file| lines(file)).collect();
        let own = all.iter().skip_while(|line| !line.contains("audit-damaged")).count();
        assert_eq!(own, 4, "{what}");
        assert!(head.sequence >= 101 + 3, "{what}: {head:?}");
    }
}

#[test]
fn a_torn_last_line_is_cut_off_and_noted() {
    let dir = tempfile::tempdir().unwrap();
    let anchors = log(dir.path(), 99);
    cut_bytes(dir.path(), 30);
    let audit = open(dir.path(), anchors.last().copied());
    assert_eq!(audit.head().sequence, 99);
    audit.record(entry(1));
    assert_eq!(audit.sync().unwrap().sequence, 101);
    let found = audit.verify(&anchors).unwrap();
    assert!(found.intact, "{found:?}");
    drop(audit);
    let found = verify(dir.path(), &anchors);
    assert!(found.intact, "{found:?}");
    let all: Vec<_> = files(dir.path()).iter().flat_map(|file| lines(file)).collect();
    assert!(all[99].contains("\"audit-torn\"") && all[99].contains("behind record 99"), "{}", all[99]);
}

#[test]
fn a_crash_in_the_very_first_line_and_one_behind_a_new_file_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("00000000000000000001.jsonl"), b"{\"format\":1,\"ser").unwrap();
    let audit = open(dir.path(), None);
    audit.flush().unwrap();
    assert!(audit.verify(&[]).unwrap().intact);
    for n in 0..100 {
        audit.record(entry(n));
    }
    let head = audit.sync().unwrap();
    drop(audit);
    for (torn, anchor) in [(&b""[..], Some(head)), (b"{\"for", Some(head)), (b"{\"for", None)] {
        let last = open(dir.path(), anchor).sync().unwrap();
        let next = dir.path().join(format!("{:020}.jsonl", last.sequence + 1));
        fs::write(&next, torn).unwrap();
        let audit = open(dir.path(), anchor);
        audit.record(entry(1));
        audit.flush().unwrap();
        let found = audit.verify(&[head, last]).unwrap();
        assert!(found.intact && found.first == 1 && found.anchors > 0, "{found:?}");
    }
}

#[test]
fn the_oldest_may_be_removed_by_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let anchors = log(dir.path(), 100);
    fs::remove_file(&files(dir.path())[0]).unwrap();
    let found = verify(dir.path(), &anchors);
    assert!(found.intact, "{found:?}");
    assert!(found.first > 1 && found.records == 102 - found.first);
    assert!(found.anchors < 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_byte_that_changes_is_found(place in any::<prop::sample::Index>(), to in any::<u8>()) {
        thread_local!(static LOG: (tempfile::TempDir, Vec<u8>) = {
            let dir = tempfile::tempdir().unwrap();
            log(dir.path(), 12);
            let bytes = fs::read(&files(dir.path())[0]).unwrap();
            (dir, bytes)
        });
        LOG.with(|(dir, good)| {
            let mut bad = good.clone();
            let at = place.index(bad.len());
            prop_assume!(bad[at] != to);
            bad[at] = to;
            fs::write(&files(dir.path())[0], bad).unwrap();
            prop_assert!(!verify(dir.path(), &[]).intact, "byte {at} became {to}");
            Ok(())
        })?;
    }
}
