//! What waits to be written, and what callers and the writer tell each other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use byname_api::audit::Outcome;
use byname_api::error::{Code, Error, Result};
use byname_api::span::Timestamp;
use parking_lot::{Condvar, Mutex};

use crate::Anchor;
use crate::entry::Entry;
use crate::flood::Floods;
use crate::line::LOST;

/// How often the writer looks for floods that ended without another entry.
const LOOK: Duration = Duration::from_secs(1);

/// Between the callers and the writer. The lock is held for moves in memory only, never while anything is written.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// A ticket was answered or refused.
    done: Condvar,
    /// The principal of the records about the log itself.
    itself: String,
    max_records: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// Records and bytes that wait, those in the hands of the writer included.
    records: usize,
    bytes: usize,
    lost: u64,
    lost_since: Timestamp,
    lost_until: Timestamp,
    floods: Floods,
    /// The last ticket that was drawn by who waits, the last that was answered, and the last that was refused.
    drawn: u64,
    answered: u64,
    refused: u64,
    why: String,
    sync: bool,
    closing: bool,
    place: Place,
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// The last record that was written.
    pub(crate) head: Anchor,
    /// The last record that is durable.
    pub(crate) durable: Anchor,
    /// The file that is written, by its first record; 0 when there is none yet.
    pub(crate) file: u64,
    /// So much of it was written.
    pub(crate) len: u64,
}

/// What the writer takes at once.
pub(crate) struct Taken {
    pub(crate) entries: VecDeque<Entry>,
    /// Whoever drew a ticket up to this one waits for these entries.
    pub(crate) ticket: u64,
    /// One of them wants them to be durable.
    pub(crate) sync: bool,
    /// There will be no more.
    pub(crate) closing: bool,
}

impl Queue {
    pub(crate) fn new(itself: String, max_records: usize, max_bytes: usize, place: Place) -> Queue {
        let state = State { place, ..State::default() };
        Queue { state: Mutex::new(state), work: Condvar::new(), done: Condvar::new(), itself, max_records, max_bytes }
    }

    /// Takes an entry, or counts it as lost. Never waits for the disk.
    pub(crate) fn put(&self, mut entry: Entry) {
        entry.cut();
        let mut state = self.state.lock();
        let mut out = Vec::new();
        state.floods.take(entry, &mut out);
        self.accept(&mut state, out);
    }

    fn accept(&self, state: &mut State, entries: Vec<Entry>) {
        for entry in entries {
            let cost = entry.cost();
            // Once one was lost, the record that says so comes before any other: the writer adds it when it takes what waits.
            let full = state.records >= self.max_records || state.bytes + cost > self.max_bytes;
            if full || state.lost > 0 {
                if state.lost == 0 {
                    state.lost_since = entry.at;
                }
                state.lost += entry.count;
                state.lost_until = state.lost_until.max(entry.at);
                continue;
            }
            state.records += 1;
            state.bytes += cost;
            state.waiting.push_back(entry);
            self.work.notify_one();
        }
    }

    /// Waits until all that was put so far is written, and durable when `sync` says so.
    pub(crate) fn wait(&self, sync: bool) -> Result<Place> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::new(Code::Unavailable, "the audit log was closed"));
        }
        state.drawn += 1;
        let ticket = state.drawn;
        state.sync |= sync;
        self.work.notify_one();
        loop {
            if state.answered >= ticket {
                return Ok(state.place);
            }
            if state.refused >= ticket {
                let why = format!("the audit log cannot be written: {}", state.why);
                return Err(Error::new(Code::Unavailable, "the audit log cannot be written").log(why));
            }
            self.done.wait(&mut state);
        }
    }

    /// How far the writer is.
    pub(crate) fn place(&self) -> Place {
        self.state.lock().place
    }

    /// Says that there will be no more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        let mut out = Vec::new();
        state.floods.end_all(&mut out);
        self.accept(&mut state, out);
        state.closing = true;
        self.work.notify_one();
    }

    /// The writer waits for something to do, and takes it.
    pub(crate) fn take(&self) -> Taken {
        let mut state = self.state.lock();
        loop {
            let mut out = Vec::new();
            state.floods.end_aged(&mut out);
            self.accept(&mut state, out);
            if !state.waiting.is_empty()
                || state.lost > 0
                || state.drawn > state.answered.max(state.refused)
                || state.closing
            {
                break;
            }
            if state.floods.is_empty() {
                self.work.wait(&mut state);
            } else {
                self.work.wait_for(&mut state, LOOK);
            }
        }
        let mut entries = std::mem::take(&mut state.waiting);
        if state.lost > 0 {
            let mut entry = Entry::new(state.lost_until, self.itself.as_str(), "none", LOST, Outcome::Failed);
            entry.count = state.lost;
            let since = state.lost_since;
            entry.detail = Some(format!("{} records since {since} were lost for want of room", state.lost));
            (state.lost, state.lost_until) = (0, Timestamp(0));
            state.records += 1;
            state.bytes += entry.cost();
            entries.push_back(entry);
        }
        Taken { entries, ticket: state.drawn, sync: state.sync, closing: state.closing }
    }

    /// Records were written: their room is free, and the writer is at `place`.
    pub(crate) fn written(&self, records: usize, bytes: usize, place: Place) {
        let mut state = self.state.lock();
        state.records = state.records.saturating_sub(records);
        state.bytes = state.bytes.saturating_sub(bytes);
        state.place = place;
    }

    /// Everybody up to this ticket got what they waited for.
    pub(crate) fn answer(&self, ticket: u64, synced: bool, place: Place) {
        let mut state = self.state.lock();
        state.answered = state.answered.max(ticket);
        if synced && state.drawn == ticket {
            state.sync = false;
        }
        state.place = place;
        self.done.notify_all();
    }

    /// Nobody who waits gets it now; says whether the log is closing.
    pub(crate) fn refuse(&self, ticket: u64, why: String) -> bool {
        let mut state = self.state.lock();
        state.refused = state.refused.max(ticket);
        state.why = why;
        self.done.notify_all();
        state.closing
    }

    /// The writer ended: whoever waits, or will, is refused.
    pub(crate) fn gone(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.refused = u64::MAX;
        if state.why.is_empty() {
            state.why = "the thread that writes it ended".into();
        }
        self.done.notify_all();
    }

    /// The writer waits before it tries again: for so long, or until somebody draws a ticket behind `ticket`. Gives the last.
    pub(crate) fn pause(&self, time: Duration, ticket: u64) -> u64 {
        let mut state = self.state.lock();
        let until = Instant::now() + time;
        while state.drawn <= ticket && !state.closing {
            if self.work.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.drawn
    }
}
