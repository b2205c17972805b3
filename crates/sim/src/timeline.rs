//! What happened in the world of the calling thread: the last of it in words, all of it as a hash, and how often what.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::Notify;

use crate::os::elapsed;

/// Lines kept.
const LINES: usize = 2_000;

thread_local! {
    static TIMELINE: RefCell<Timeline> = RefCell::new(Timeline::default());
}

#[derive(Default)]
struct Timeline {
    lines: VecDeque<String>,
    left_out: u64,
    hash: DefaultHasher,
    events: u64,
    seen: BTreeMap<&'static str, u64>,
    violation: Option<String>,
    violated: std::sync::Arc<Notify>,
    live: bool,
}

/// What is left of a world.
pub(crate) struct Record {
    pub(crate) lines: Vec<String>,
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) seen: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
}

/// Writes a line into the timeline, with the time in front.
pub fn note(text: fmt::Arguments<'_>) {
    let time = elapsed();
    let line = format!("{:>6}.{:06} {text}", time.as_secs(), time.subsec_micros());
    TIMELINE.with_borrow_mut(|timeline| {
        line.hash(&mut timeline.hash);
        timeline.events += 1;
        if timeline.live {
            println!("{line}");
        } else if timeline.lines.len() >= LINES {
            timeline.lines.pop_front();
            timeline.left_out += 1;
        }
        timeline.lines.push_back(line);
    });
}

/// Lets something that is too small for a line have its part in the hash.
pub fn trace(numbers: &[u64]) {
    let time = elapsed();
    TIMELINE.with_borrow_mut(|timeline| {
        (time, numbers).hash(&mut timeline.hash);
        timeline.events += 1;
    });
}

/// Counts that something happened, so that a test can say what it tried.
pub fn seen(what: &'static str) {
    TIMELINE.with_borrow_mut(|timeline| *timeline.seen.entry(what).or_default() += 1);
}

/// What must not be has happened: the world ends, and the seed has failed. The first violation is the one that counts.
pub fn violation(text: impl Into<String>) {
    let text = text.into();
    note(format_args!("VIOLATION: {text}"));
    TIMELINE.with_borrow_mut(|timeline| {
        timeline.violation.get_or_insert(text);
        timeline.violated.notify_one();
    });
}

/// Returns at the first violation.
pub(crate) async fn violated() {
    let violated = TIMELINE.with_borrow(|timeline| std::sync::Arc::clone(&timeline.violated));
    violated.notified().await;
}

/// Prints lines as they come.
pub(crate) fn print_lines() {
    TIMELINE.with_borrow_mut(|timeline| timeline.live = true);
}

pub(crate) fn finish() -> Record {
    let timeline = TIMELINE.take();
    let mut lines: Vec<String> = if timeline.live { Vec::new() } else { timeline.lines.into() };
    if timeline.left_out > 0 {
        lines.insert(0, format!("({} lines before)", timeline.left_out));
    }
    Record {
        lines,
        hash: timeline.hash.finish(),
        events: timeline.events,
        seen: timeline.seen,
        violation: timeline.violation,
    }
}
