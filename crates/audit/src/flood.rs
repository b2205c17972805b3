//! Floods of refusals, told in few records.
//!
//! Whoever is refused a thousand times a second must not fill the disk with it, nor hide among the records of it what matters.
//! The first refusals of the same (by, from, operation, outcome) are recorded one by one, those beyond are counted, and one
//! record with the count follows at the end of the window.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use byname_api::audit::Outcome;
use byname_api::span::Timestamp;

use crate::entry::Entry;

/// So many of the same are recorded one by one in a window.
pub const FLOOD_RECORDS: u64 = 20;
/// The length of a window, in milliseconds.
pub const FLOOD_WINDOW_MS: u64 = 10_000;
/// So many windows are open at once; all that comes beyond shares one for each operation and outcome, because whoever can
/// make up addresses can make up any number of them.
const WINDOWS: usize = 4_096;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    by: String,
    from: Option<String>,
    operation: String,
    outcome: Outcome,
}

struct Window {
    seen: u64,
    /// The first that was not recorded, with the count of all that were not.
    more: Option<Entry>,
}

/// The windows that are open.
#[derive(Default)]
pub(crate) struct Floods {
    windows: HashMap<Key, Window>,
    /// Their beginnings, oldest first: by the entries' clock, and by ours for when no entry comes.
    order: VecDeque<(u64, Instant, Key)>,
}

impl Floods {
    /// Takes an entry: `out` gets what is to be recorded now.
    pub(crate) fn take(&mut self, entry: Entry, out: &mut Vec<Entry>) {
        self.end_before(entry.at, out);
        if !matches!(entry.outcome, Outcome::Denied | Outcome::Unauthenticated) {
            return out.push(entry);
        }
        let mut key = Key {
            by: entry.by.clone(),
            from: entry.from.clone(),
            operation: entry.operation.clone(),
            outcome: entry.outcome,
        };
        if self.windows.len() >= WINDOWS && !self.windows.contains_key(&key) {
            (key.by, key.from) = ("many".into(), None);
        }
        let window = self.windows.entry(key.clone()).or_insert_with(|| {
            self.order.push_back((entry.at.0, Instant::now(), key.clone()));
            Window { seen: 0, more: None }
        });
        window.seen += 1;
        if window.seen <= FLOOD_RECORDS {
            return out.push(entry);
        }
        match &mut window.more {
            None => window.more = Some(Entry { by: key.by, from: key.from, ..entry }),
            Some(more) => {
                more.count = more.count.saturating_add(entry.count);
                more.at = more.at.max(entry.at);
                // Only what is true of all of them is said.
                more.name = more.name.take().filter(|name| entry.name.as_ref() == Some(name));
                more.code = more.code.take().filter(|code| entry.code.as_ref() == Some(code));
                if more.how != entry.how {
                    more.how = "several".into();
                }
            }
        }
    }

    /// Ends the windows that are over at `now`, by the clock of the entries.
    pub(crate) fn end_before(&mut self, now: Timestamp, out: &mut Vec<Entry>) {
        while self.order.front().is_some_and(|(start, ..)| start.saturating_add(FLOOD_WINDOW_MS) <= now.0) {
            self.end_oldest(out);
        }
    }

    /// Ends the windows that have been open for their time, by our clock.
    pub(crate) fn end_aged(&mut self, out: &mut Vec<Entry>) {
        let age = Duration::from_millis(FLOOD_WINDOW_MS);
        while self.order.front().is_some_and(|(_, opened, _)| opened.elapsed() >= age) {
            self.end_oldest(out);
        }
    }

    /// Ends every window.
    pub(crate) fn end_all(&mut self, out: &mut Vec<Entry>) {
        while !self.order.is_empty() {
            self.end_oldest(out);
        }
    }

    /// Whether no window is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn end_oldest(&mut self, out: &mut Vec<Entry>) {
        let Some((start, _, key)) = self.order.pop_front() else { return };
        if let Some(mut more) = self.windows.remove(&key).and_then(|window| window.more) {
            more.detail = Some(format!("{} more of the same since {}", more.count, Timestamp(start)));
            out.push(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(at: u64, name: &str) -> Entry {
        let mut entry = Entry::new(Timestamp(at), "/people/eve", "none", "add", Outcome::Denied);
        (entry.from, entry.name) = (Some("10.0.0.9".into()), Some(name.into()));
        entry
    }

    #[test]
    fn the_first_are_recorded_and_the_rest_is_one_record_at_the_end_of_the_window() {
        let (mut floods, mut out) = (Floods::default(), Vec::new());
        for n in 0..1_000 {
            floods.take(denied(1_000 + n, "/a"), &mut out);
        }
        assert_eq!(out.len(), 20);
        floods.end_before(Timestamp(10_999), &mut out);
        assert_eq!(out.len(), 20);
        floods.end_before(Timestamp(11_000), &mut out);
        assert_eq!(out.len(), 21);
        assert_eq!((out[20].count, out[20].at, out[20].name.as_deref()), (980, Timestamp(1_999), Some("/a")));
        assert_eq!(out[20].detail.as_deref(), Some("980 more of the same since 1970-01-01T00:00:01.000Z"));
        assert!(floods.is_empty());
    }

    #[test]
    fn the_next_entry_ends_a_window_and_a_new_one_begins() {
        let (mut floods, mut out) = (Floods::default(), Vec::new());
        for n in 0..25 {
            floods.take(Entry { how: format!("token {n}"), ..denied(n, &format!("/{n}")) }, &mut out);
        }
        floods.take(denied(10_000, "/z"), &mut out);
        assert_eq!(out.len(), 22);
        assert_eq!((out[20].count, out[20].name.as_deref(), out[20].how.as_str()), (5, None, "several"));
        assert_eq!((out[21].count, out[21].name.as_deref()), (1, Some("/z")));
    }

    #[test]
    fn what_is_done_and_what_others_are_refused_is_not_held_up() {
        let (mut floods, mut out) = (Floods::default(), Vec::new());
        for n in 0..100 {
            floods.take(denied(n, "/a"), &mut out);
            floods.take(Entry { outcome: Outcome::Ok, ..denied(n, "/a") }, &mut out);
        }
        assert_eq!(out.len(), 120);
        floods.take(Entry { by: "/people/ann".into(), ..denied(100, "/a") }, &mut out);
        floods.take(Entry { from: None, ..denied(100, "/a") }, &mut out);
        floods.take(Entry { operation: "find".into(), ..denied(100, "/a") }, &mut out);
        floods.take(Entry { outcome: Outcome::Unauthenticated, ..denied(100, "/a") }, &mut out);
        assert_eq!(out.len(), 124);
    }

    #[test]
    fn made_up_addresses_make_no_windows_without_end() {
        let (mut floods, mut out) = (Floods::default(), Vec::new());
        for n in 0..20_000 {
            floods.take(Entry { from: Some(format!("10::{n:x}")), ..denied(0, "/a") }, &mut out);
        }
        assert_eq!(out.len(), WINDOWS + FLOOD_RECORDS as usize);
        assert_eq!(floods.windows.len(), WINDOWS + 1);
        out.clear();
        floods.end_all(&mut out);
        assert_eq!(out.len(), 1);
        assert_eq!((out[0].by.as_str(), out[0].from.as_deref()), ("many", None));
        assert_eq!(out[0].count, 20_000 - WINDOWS as u64 - FLOOD_RECORDS);
    }
}
