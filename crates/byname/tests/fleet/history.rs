//! What clients saw of records, and whether one server that does one thing after the other could have shown it to them.
//!
//! Every written value is written once, so it is enough to look at values: from the first end of an operation with a value to
//! the last beginning of one, the record must have held it. Two such spans of different values may not overlap, and a value
//! that was written and replaced at once must find room between them (Gibbons and Korach, Testing shared memories, 1997).

use std::collections::BTreeMap;

/// Microseconds since the beginning of the test.
pub(crate) type At = u64;

/// One operation of one client on one record.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// The record.
    pub(crate) key: String,
    /// What was written or read; none when there was no such record yet.
    pub(crate) value: Option<String>,
    /// Whether it wrote.
    pub(crate) write: bool,
    /// When it was sent.
    pub(crate) begin: At,
    /// When it was answered; none of a write of which nobody knows whether it was done.
    pub(crate) end: Option<At>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    written: Option<(At, At)>,
    first_end: At,
    last_begin: At,
    read: bool,
}

/// What is wrong with a history; empty when it is linearizable.
pub(crate) fn violations(history: &[Operation]) -> Vec<String> {
    let mut keys: BTreeMap<&str, BTreeMap<Option<&str>, Seen>> = BTreeMap::new();
    for operation in history {
        let values = keys.entry(&operation.key).or_insert_with(|| {
            // That it is not there yet is as if written before all.
            BTreeMap::from([(None, Seen { written: Some((0, 0)), first_end: 0, last_begin: 0, read: false })])
        });
        let nothing = Seen { written: None, first_end: At::MAX, last_begin: 0, read: false };
        let seen = values.entry(operation.value.as_deref()).or_insert(nothing);
        let end = operation.end.unwrap_or(At::MAX);
        if operation.write {
            seen.written = Some((operation.begin, end));
        } else {
            seen.read = true;
        }
        seen.first_end = seen.first_end.min(end);
        seen.last_begin = seen.last_begin.max(operation.begin);
    }
    keys.iter().flat_map(|(key, values)| of_key(key, values)).collect()
}

fn of_key(key: &str, values: &BTreeMap<Option<&str>, Seen>) -> Vec<String> {
    let mut wrong = Vec::new();
    // Spans in which the record held a value for sure, and those in which it may have held it for a moment only.
    let (mut held, mut passing) = (Vec::new(), Vec::new());
    for (value, seen) in values {
        let Some((begin, end)) = seen.written else {
            wrong.push(format!("{key}: {value:?} was read and never written"));
            continue;
        };
        if seen.first_end < begin {
            wrong.push(format!("{key}: {value:?} was read before it was written"));
        }
        if seen.first_end < seen.last_begin {
            held.push((seen.first_end, seen.last_begin, value));
        } else if seen.read || end != At::MAX {
            passing.push((seen.last_begin, seen.first_end, value));
        }
    }
    held.sort_unstable();
    for pair in held.windows(2) {
        if pair[1].0 < pair[0].1 {
            wrong.push(format!("{key}: both {:?} and {:?}", pair[0], pair[1]));
        }
    }
    for (begin, end, value) in passing {
        // The last span that begins before it.
        let before = held.partition_point(|span| span.0 < begin);
        if let Some(span) = before.checked_sub(1).and_then(|n| held.get(n)).filter(|span| end < span.1) {
            wrong.push(format!("{key}: {value:?}, written {begin} to {end}, is lost: {span:?}"));
        }
    }
    wrong
}

fn operation(write: bool, value: &str, begin: At, end: impl Into<Option<At>>) -> Operation {
    Operation { key: "/k".into(), value: Some(value.into()), write, begin, end: end.into() }
}

#[test]
fn what_one_server_could_have_shown_is_fine() {
    let history = [
        operation(true, "a", 1, 4),
        operation(false, "a", 2, 3),
        operation(true, "b", 5, 9),
        operation(false, "a", 6, 7),
        operation(false, "b", 8, 10),
        operation(true, "nobody knows", 5, None),
        operation(true, "c", 11, None),
        operation(false, "c", 20, 21),
        Operation { value: None, ..operation(false, "", 0, 2) },
    ];
    assert_eq!(violations(&history), [""; 0]);
}

#[test]
fn a_lost_write_is_found() {
    let history = [operation(true, "a", 1, 2), operation(true, "b", 3, 4), operation(false, "a", 5, 6)];
    assert_eq!(violations(&history).len(), 1, "{:?}", violations(&history));
}

#[test]
fn a_read_that_goes_back_is_found() {
    let history = [
        operation(true, "a", 1, 2),
        operation(true, "b", 3, 20),
        operation(false, "b", 4, 5),
        operation(false, "a", 6, 7),
    ];
    assert_eq!(violations(&history).len(), 1, "{:?}", violations(&history));
}

#[test]
fn what_nobody_wrote_and_what_was_read_too_early_is_found() {
    let history = [operation(false, "x", 1, 2), operation(false, "a", 1, 2), operation(true, "a", 3, 4)];
    assert_eq!(violations(&history).len(), 2, "{:?}", violations(&history));
}

#[test]
fn a_record_that_vanished_is_found() {
    let history = [operation(true, "a", 1, 2), Operation { value: None, ..operation(false, "", 3, 4) }];
    assert_eq!(violations(&history).len(), 1, "{:?}", violations(&history));
}
