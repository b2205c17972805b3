//! The log on disk. The module documentation of the crate draws the design; here is the order of the files:
//!
//! - [`frame`]: the bytes.
//! - [`read`]: walking over them.
//! - [`recover`]: what a start makes of them.
//! - [`writer`]: what writes them, and [`bell`], by which it is woken.
//! - here: what the consensus engine sees.

mod bell;
pub(crate) mod frame;
pub(crate) mod read;
pub(crate) mod recover;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::Stream;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::OpenError;
use crate::disk::Disk;
use crate::mutations::{Mutation, mutated};
use crate::raft::{Ballot, Id, LogEntry, Members, Types};
use crate::standing::Standing;
use bell::Bell;
use frame::{Record, SEGMENT_HEADER, SegmentHeader};
use read::{Frames, Next};
use recover::{Mark, Recovered, Segment};
use writer::{Current, Done, Work, Writer};

/// Read from disk at once, for one who reads a long stretch.
const READ_BYTES: usize = 1 << 20;

/// The log as the consensus engine sees it.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    /// What is known to be committed of what was found on disk.
    committed: Option<Id>,
}

/// Reads the log; there may be many.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

/// Owns the writer.
pub(crate) struct LogHandle {
    shared: Arc<Shared>,
    worker: Mutex<Option<Worker>>,
}

/// Who runs the writer.
enum Worker {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

/// What the writer, the engine and the readers share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    bell: Bell,
    stalled: watch::Sender<Option<Arc<str>>>,
    snapshot_due: Notify,
}

struct Inner {
    purged: Option<Id>,
    last: Option<Id>,
    /// The vote that is on disk.
    vote: Option<Ballot>,
    /// The last entries, without a gap up to `last`; all that are not on disk yet are among them.
    tail: VecDeque<LogEntry>,
    tail_bytes: usize,
    /// The last entry on disk.
    synced: Option<u64>,
    /// So many truncations wait to be written; until then `synced` may speak of what was cut off.
    truncating: usize,
    segments: VecDeque<Segment>,
    marks: VecDeque<Mark>,
    queue: VecDeque<Work>,
    /// Entries behind this one are not purged, whatever the engine says: the older snapshot needs them.
    floor: Option<Option<Id>>,
    /// Bytes written since the start, and at the time of the newest snapshot.
    written: u64,
    written_at_snapshot: u64,
    snapshot_every: u64,
    /// The last entry that is known to be committed.
    committed: Option<Id>,
    /// The writer sleeps until there is work, or more is committed than is written down.
    resting: bool,
    closed: bool,
}

/// What [`open`] found.
pub(crate) struct Opened {
    pub(crate) store: LogStore,
    pub(crate) handle: LogHandle,
    /// The last entry, if there is one.
    pub(crate) last: Option<Id>,
    pub(crate) purged: Option<Id>,
    pub(crate) vote: Option<Ballot>,
    /// The last change of members in the log, and where.
    pub(crate) members: Option<(Id, Members)>,
    /// The change before that one, which is committed: else no other would have been begun.
    pub(crate) agreed: Option<Id>,
    /// The last entry that was written down as committed.
    pub(crate) committed: Option<Id>,
}

/// Opens the log in `dir`, or makes one.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: u64,
    segment_bytes: u64,
    snapshot: Option<u64>,
) -> Result<Opened, OpenError> {
    disk.create_dir(&dir).map_err(|e| OpenError::io("create", &dir, e))?;
    let mut found = recover::recover(&*disk, &dir, node, snapshot)?;
    if found.segments.is_empty() {
        let header = SegmentHeader { node, sequence: 1, prev_end: 0, last: None, purged: None, vote: None };
        let segment = writer::create_segment(&*disk, &dir, header, segment_bytes)
            .map_err(|e| OpenError::io("create a log file in", &dir, e))?;
        found.segments.push_back(segment);
        found.end = SEGMENT_HEADER as u64;
    }
    start(disk, dir, segment_bytes, found)
}

fn start(disk: Arc<dyn Disk>, dir: PathBuf, segment_bytes: u64, found: Recovered) -> Result<Opened, OpenError> {
    let Some(segment) = found.segments.back() else {
        return Err(OpenError::Engine("the log has no file".to_owned()));
    };
    let current = Current {
        file: Arc::clone(&segment.file),
        bytes: segment.bytes,
        header: segment.header.clone(),
        synced: found.end,
        proven: SEGMENT_HEADER as u64,
        zeroed: found.end,
        broken: false,
        last: found.last,
        purged: found.purged,
        vote: found.vote,
        force_mark: true,
    };
    let shared = Arc::new(Shared {
        inner: Mutex::new(Inner {
            purged: found.purged,
            last: found.last,
            vote: found.vote,
            tail: VecDeque::new(),
            tail_bytes: 0,
            synced: found.last.map(|id| id.index),
            truncating: 0,
            segments: found.segments,
            marks: found.marks,
            queue: VecDeque::new(),
            floor: None,
            written: found.bytes_since_snapshot,
            written_at_snapshot: 0,
            snapshot_every: u64::MAX,
            committed: None,
            resting: false,
            closed: false,
        }),
        bell: Bell::default(),
        stalled: watch::Sender::new(None),
        snapshot_due: Notify::new(),
    });
    let as_task = disk.waits().is_some();
    let writer = Writer::new(disk, dir.clone(), segment_bytes, Arc::clone(&shared), current);
    let worker = if as_task {
        Worker::Task(tokio::spawn(writer.run_as_task()))
    } else {
        let thread = std::thread::Builder::new().name("byname-log".to_owned()).spawn(move || writer.run());
        Worker::Thread(thread.map_err(|e| OpenError::io("start the writer of", &dir, e))?)
    };
    let committed = found.committed.filter(|id| found.purged.is_none_or(|purged| purged.index < id.index));
    let committed = match committed {
        // What was cut off may have been there when that was written.
        Some(id) if shared.has(id).map_err(|e| OpenError::io("read", &dir, e))? => Some(id),
        _ => None,
    };
    Ok(Opened {
        store: LogStore { shared: Arc::clone(&shared), standing: Arc::default(), committed: None },
        handle: LogHandle { shared, worker: Mutex::new(Some(worker)) },
        last: found.last,
        purged: found.purged,
        vote: found.vote,
        members: found.members.last().cloned(),
        agreed: found.members.iter().rev().nth(1).map(|(at, _)| *at),
        committed,
    })
}

impl Opened {
    /// Makes the log follow the snapshot that ends with `covered`. It came from another server, in place of entries here that
    /// were never committed, and the power went before these were cut off.
    pub(crate) fn follow(&mut self, covered: Id) -> io::Result<()> {
        let shared = &self.store.shared;
        let covers = |id: Option<Id>| id.is_some_and(|id| id.index >= covered.index);
        if !covers(self.last) || covers(self.purged) {
            return Ok(());
        }
        if shared.has(covered)? {
            return Ok(());
        }
        tracing::info!(index = covered.index, "the end of the log is not that of the snapshot; it goes");
        let mut inner = shared.inner.lock();
        inner.drop_marks(self.purged.map(|id| id.index));
        shared.push(&mut inner, Record::Truncate(self.purged), Done::Nobody)?;
        inner.truncating += 1;
        shared.push(&mut inner, Record::Purge(covered), Done::Nobody)?;
        (inner.last, inner.purged) = (Some(covered), Some(covered));
        (self.last, self.purged) = (inner.last, inner.purged);
        (self.members, self.agreed, self.committed) = (None, None, None);
        Ok(())
    }
}

impl LogHandle {
    /// Why nothing is written, when that is so.
    pub(crate) fn stalled(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.stalled.subscribe()
    }

    /// Bytes of log since the newest snapshot.
    pub(crate) fn bytes_since_snapshot(&self) -> u64 {
        let inner = self.shared.inner.lock();
        inner.written - inner.written_at_snapshot
    }

    /// Bytes written since the start: a point to give to [`snapshot_taken`](LogHandle::snapshot_taken).
    pub(crate) fn written(&self) -> u64 {
        self.shared.inner.lock().written
    }

    /// A snapshot holds everything written up to `at`. Entries behind `floor` must stay; the next snapshot is due after
    /// `every` bytes.
    pub(crate) fn snapshot_taken(&self, at: u64, floor: Option<Id>, every: u64) {
        let mut inner = self.shared.inner.lock();
        inner.written_at_snapshot = at.min(inner.written);
        inner.floor = Some(floor);
        inner.snapshot_every = every;
    }

    /// Returns when all that was asked of the log before is done.
    pub(crate) async fn settled(&self) {
        let (tx, rx) = oneshot::channel();
        let pushed = {
            let mut inner = self.shared.inner.lock();
            self.shared.push(&mut inner, Record::Mark(None), Done::Tell(tx))
        };
        if pushed.is_ok() {
            let _ = rx.await;
        }
    }

    /// Returns when so much was written that a snapshot is due.
    pub(crate) async fn snapshot_due(&self) {
        self.shared.snapshot_due.notified().await;
    }

    /// Writes what waits and ends the writer.
    pub(crate) async fn close(&self) {
        self.shared.close();
        let worker = self.worker.lock().take();
        let ended = match worker {
            Some(Worker::Thread(thread)) => {
                tokio::task::spawn_blocking(move || thread.join().is_ok()).await.unwrap_or(false)
            }
            Some(Worker::Task(task)) => task.await.is_ok(),
            None => true,
        };
        if !ended {
            tracing::error!("the writer of the log panicked");
        }
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        self.inner.lock().closed = true;
        self.bell.ring_closed();
    }

    fn push(&self, inner: &mut Inner, record: Record, done: Done) -> io::Result<()> {
        if inner.closed {
            return Err(io::Error::other("the log is closed"));
        }
        inner.queue.push_back(Work { record, done });
        self.bell.ring_work();
        Ok(())
    }

    /// More is committed. It is written down beside later entries, or a little later: nobody waits for it.
    fn commit(&self, upto: Option<Id>) {
        let mut inner = self.inner.lock();
        inner.committed = inner.committed.max(upto);
        if std::mem::take(&mut inner.resting) {
            self.bell.ring_work();
        }
    }

    fn set_stalled(&self, reason: Option<String>) {
        self.stalled.send_if_modified(|now| {
            if now.as_deref() == reason.as_deref() {
                return false;
            }
            match &reason {
                Some(reason) => tracing::error!(reason, "writes stand still"),
                None => tracing::info!("writes go on"),
            }
            *now = reason.map(Arc::from);
            true
        });
    }

    fn ask_for_snapshot(&self) {
        let inner = self.inner.lock();
        if inner.written - inner.written_at_snapshot >= inner.snapshot_every {
            self.snapshot_due.notify_one();
        }
    }
}

impl Inner {
    /// Whether there is something to write. That the end is cut off waits for what comes after it: if that is a snapshot which
    /// is taken up in its place, the end must be there until the snapshot is.
    fn has_work(&self) -> bool {
        self.queue.iter().any(|work| !matches!(work.record, Record::Truncate(_)))
    }

    fn written(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// What may be written down as committed beside the entries that are on disk.
    fn to_mark(&self) -> Option<Id> {
        // While an end is to be cut off, another entry may be in the place on disk.
        let on_disk = |id: &Id| self.synced.is_some_and(|synced| id.index <= synced) && self.truncating == 0;
        self.committed.filter(on_disk)
    }

    /// Forgets entries that are on disk, until the tail is small.
    fn shrink_tail(&mut self, bytes: usize) {
        while self.tail_bytes > bytes
            && self.truncating == 0
            && let Some(first) = self.tail.front()
            && self.synced.is_some_and(|synced| first.log_id.index <= synced)
        {
            self.tail_bytes -= tail_bytes(first);
            self.tail.pop_front();
        }
        if self.tail.capacity() > 1024 && self.tail.len() * 4 < self.tail.capacity() {
            self.tail.shrink_to_fit();
        }
    }

    fn drop_marks(&mut self, after: Option<u64>) {
        while self.marks.back().is_some_and(|mark| after.is_none_or(|after| mark.index > after)) {
            self.marks.pop_back();
        }
    }
}

/// About what an entry takes in memory.
fn tail_bytes(entry: &LogEntry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(commands) => commands.bytes() + commands.0.len() * size_of::<bytes::Bytes>(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    size_of::<LogEntry>() + payload
}

impl LogStore {
    /// Calls what was found on disk committed, up to here.
    pub(crate) fn commit(&mut self, upto: Option<Id>) {
        self.committed = upto;
    }

    /// Says there what is promised: the vote that was found on disk, and every one from now on.
    pub(crate) fn promise_in(&mut self, standing: Arc<Standing>, found: Option<Ballot>) {
        if let Some(vote) = found {
            standing.promise(vote);
        }
        self.standing = standing;
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let inner = self.shared.inner.lock();
        Ok(LogState { last_purged_log_id: inner.purged, last_log_id: inner.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &Ballot) -> io::Result<()> {
        self.standing.promise(*vote);
        let (tx, rx) = oneshot::channel();
        {
            let mut inner = self.shared.inner.lock();
            if mutated(Mutation::VoteNotWritten) {
                inner.vote = Some(*vote);
                return Ok(());
            }
            self.shared.push(&mut inner, Record::Vote(*vote), Done::Tell(tx))?;
        }
        rx.await.map_err(|_| io::Error::other("the log was closed"))
    }

    async fn read_committed(&mut self) -> io::Result<Option<Id>> {
        Ok(self.committed)
    }

    async fn save_committed(&mut self, committed: Option<Id>) -> io::Result<()> {
        self.shared.commit(committed);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let mut callback = Some(callback);
        if mutated(Mutation::EntriesNotSynced)
            && let Some(callback) = callback.take()
        {
            callback.io_completed(Ok(()));
        }
        let mut inner = self.shared.inner.lock();
        while let Some(entry) = entries.next() {
            let done = match entries.peek() {
                Some(_) => Done::Nobody,
                None => callback.take().map_or(Done::Nobody, Done::Entries),
            };
            inner.last = Some(entry.log_id);
            inner.tail_bytes += tail_bytes(&entry);
            inner.tail.push_back(entry.clone());
            self.shared.push(&mut inner, Record::Entry(entry), done)?;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<Id>) -> io::Result<()> {
        let mut inner = self.shared.inner.lock();
        let after = last.map(|id| id.index);
        if inner.last.map(|id| id.index) <= after {
            return Ok(());
        }
        while let Some(back) = inner.tail.back()
            && after.is_none_or(|after| back.log_id.index > after)
        {
            inner.tail_bytes -= tail_bytes(back);
            inner.tail.pop_back();
        }
        inner.drop_marks(after);
        inner.last = last;
        if mutated(Mutation::TruncationNotWritten) {
            return Ok(());
        }
        // Not waited for: whatever is appended next comes after it in the log.
        self.shared.push(&mut inner, Record::Truncate(last), Done::Nobody)?;
        inner.truncating += 1;
        Ok(())
    }

    async fn purge(&mut self, upto: Id) -> io::Result<()> {
        let mut inner = self.shared.inner.lock();
        let mut upto = upto;
        let covers_all = inner.last.is_none_or(|last| last.index < upto.index);
        if let Some(floor) = inner.floor
            && !covers_all
        {
            match floor {
                Some(floor) => upto = upto.min(floor),
                None => return Ok(()),
            }
        }
        if inner.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        while inner.tail.front().is_some_and(|first| first.log_id.index <= upto.index) {
            if let Some(first) = inner.tail.pop_front() {
                inner.tail_bytes -= tail_bytes(&first);
            }
        }
        inner.purged = Some(upto);
        if covers_all {
            inner.last = Some(upto);
        }
        self.shared.push(&mut inner, Record::Purge(upto), Done::Nobody)
    }
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<LogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.shared.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.shared.read(start, end, READ_BYTES)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<LogEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let shared = Arc::clone(&self.shared);
        let mut next = start;
        let mut block = VecDeque::new();
        let mut failed = false;
        futures_util::stream::iter(std::iter::from_fn(move || {
            if block.is_empty() && next < end && !failed {
                match shared.read(next, end, READ_BYTES) {
                    Ok(entries) => block = entries.into(),
                    Err(error) => {
                        failed = true;
                        return Some(Err(error));
                    }
                }
            }
            let entry: LogEntry = block.pop_front()?;
            next = entry.index() + 1;
            Some(Ok(entry))
        }))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Ballot>> {
        Ok(self.shared.inner.lock().vote)
    }
}

impl Shared {
    /// Whether this entry is in the log, and no other in its place; one that was purged is not looked for.
    fn has(&self, id: Id) -> io::Result<bool> {
        Ok(self.read(id.index, id.index + 1, usize::MAX)?.iter().all(|entry| entry.log_id == id))
    }

    /// The entries from `start` up to but without `end`; ends early once they exceed `limit` bytes, but not before the first.
    fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<LogEntry>> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let mut next = start;
        loop {
            let (mut frames, stop) = {
                let inner = self.inner.lock();
                let first = inner.purged.map_or(0, |id| id.index + 1);
                let stop = inner.last.map_or(0, |id| id.index + 1).min(end);
                next = next.max(first);
                if next >= stop || (bytes >= limit && !out.is_empty()) {
                    return Ok(out);
                }
                if let Some(head) = inner.tail.front().map(|entry| entry.log_id.index)
                    && next >= head
                {
                    for entry in inner.tail.iter().skip((next - head) as usize) {
                        if entry.log_id.index >= stop || (bytes >= limit && !out.is_empty()) {
                            break;
                        }
                        bytes += tail_bytes(entry);
                        out.push(entry.clone());
                    }
                    return Ok(out);
                }
                let behind = inner.marks.partition_point(|mark| mark.index <= next);
                // An empty log may begin anywhere; what is before its first entry was never there.
                let number = behind.max(1) - 1;
                let Some(mark) = inner.marks.get(number) else { return Ok(out) };
                next = next.max(mark.index);
                let Some(segment) = inner.segments.iter().find(|segment| segment.sequence == mark.sequence) else {
                    return Err(io::Error::other(format!("the file with entry {next} is not there")));
                };
                // What is in memory may be in the place of what was cut off, which is on disk still.
                let head = inner.tail.front().filter(|_| !mutated(Mutation::CutOffEndRead));
                let stop = head.map_or(stop, |entry| entry.log_id.index.min(stop));
                if next == stop {
                    continue;
                }
                let stop = inner.marks.get(number + 1).map_or(stop, |mark| mark.index.min(stop));
                if next >= stop {
                    return Ok(out);
                }
                (Frames::new(Arc::clone(&segment.file), segment.sequence, mark.offset, segment.bytes), stop)
            };
            while next < stop && (bytes < limit || out.is_empty()) {
                match frames.next()? {
                    Next::Frame { record: Record::Entry(entry), .. } => {
                        if entry.log_id.index == next {
                            bytes += tail_bytes(&entry);
                            out.push(entry);
                            next += 1;
                        }
                    }
                    Next::Frame { .. } => {}
                    Next::End => return Err(io::Error::other(format!("entry {next} is missing in the log"))),
                    Next::Bad(what) => return Err(io::Error::other(format!("entry {next} cannot be read: {what}"))),
                }
            }
        }
    }
}

/// A range as start and end, the end excluded.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end + 1,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
