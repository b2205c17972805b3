//! What writes the log: a thread, or a task where the disk says so ([`Disk::waits`]). Both take the same steps.
//!
//! It takes all that waits, writes it with one `write` and one `sync`, acknowledges, and takes again: the longer the disk
//! needs, the more goes into the next write.
//!
//! When the disk refuses, the writer keeps what it holds, says so (`stalled`) and tries again. A disk that is full is asked
//! for the same bytes at the same place. After any other error, a failed sync above all, the kernel may have dropped the
//! pages and call them clean, so this file is never written again: a new segment is made, whose header says where the old one
//! ends, and what was not synced is written there anew.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::frame::{self, Record, SEGMENT_HEADER, SegmentHeader};
use super::recover::{Mark, Segment, push_mark, segment_path};
use super::{Inner, Shared};
use crate::disk::{Disk, DiskFile};
use crate::mutations::{Mutation, mutated};
use crate::raft::{Ballot, Id, Types};

/// A write is cut here, so that the buffer stays small.
const WRITE_BYTES: usize = 4 << 20;
/// Kept between writes; a larger buffer is given back.
const BUFFER_KEPT_BYTES: usize = 128 << 10;
/// Entries kept in memory once they are on disk, for those who read the end of the log.
const TAIL_BYTES: usize = 512 << 10;
/// Zeroed ahead of the writes while nothing waits, so that the file system need not convert reserved blocks in a sync.
const ZERO_BYTES: u64 = 256 << 10;
/// Between two tries on a disk that is full.
const RETRY_FULL: Duration = Duration::from_millis(100);
/// Before the first new try on a disk that failed otherwise; doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// What is committed is written down when nothing else was written for so long,
const MARK_AFTER: Duration = Duration::from_millis(100);
/// and together with what else is written when it is so much since the last time.
const MARK_BYTES: u64 = 4 << 10;

/// What is to be written, and who wants to know.
pub(crate) struct Work {
    pub(crate) record: Record,
    pub(crate) done: Done,
}

/// Who hears that a record is on disk.
pub(crate) enum Done {
    Nobody,
    Entries(IOFlushed<Types>),
    Tell(oneshot::Sender<()>),
}

pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) current: Current,
    /// Taken, and not on disk yet.
    queue: VecDeque<Work>,
    /// So many of the queue are written and wait for the sync.
    unsynced: Option<usize>,
    /// The disk refused: the wait before the next try.
    refused: Option<Duration>,
    rested: bool,
    /// What is committed, as far as that is written down; and as far as it is in the buffer.
    marked: Option<Id>,
    marking: Option<Id>,
    /// Bytes written since.
    unmarked: u64,
    /// Nothing was to be written for [`MARK_AFTER`].
    idle: bool,
    buffer: Vec<u8>,
    offsets: Vec<u64>,
}

/// What comes before the writer's next step.
enum Next {
    /// Nothing.
    Step,
    /// Nothing, but now the sync comes.
    Sync,
    /// Work, or that more is committed, or that the log is closed.
    Work,
    /// Work, or that the log is closed, for [`MARK_AFTER`].
    While,
    /// So much time, or that the log is closed.
    Pause(Duration),
    /// There is none: all is written, or was given up.
    End,
}

/// The segment that is written to, and what is on disk.
pub(crate) struct Current {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
    pub(crate) header: SegmentHeader,
    /// Everything before is on disk.
    pub(crate) synced: u64,
    /// The `synced` that the last frame carries.
    pub(crate) proven: u64,
    pub(crate) zeroed: u64,
    pub(crate) broken: bool,
    pub(crate) last: Option<Id>,
    pub(crate) purged: Option<Id>,
    pub(crate) vote: Option<Ballot>,
    pub(crate) force_mark: bool,
}

impl Writer {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        shared: Arc<Shared>,
        current: Current,
    ) -> Writer {
        Writer {
            disk,
            dir,
            segment_bytes,
            shared,
            current,
            queue: VecDeque::new(),
            unsynced: None,
            refused: None,
            rested: false,
            marked: None,
            marking: None,
            unmarked: 0,
            idle: false,
            buffer: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Writes until the log is closed; on a thread of its own.
    pub(crate) fn run(mut self) {
        loop {
            match self.step() {
                Next::Step | Next::Sync => {}
                Next::Work => self.shared.bell.wait_for_work(&self.shared.inner),
                Next::While => self.idle = self.shared.bell.wait_a_while(&self.shared.inner, MARK_AFTER),
                Next::Pause(time) => self.shared.bell.pause(&self.shared.inner, time),
                Next::End => return,
            }
        }
    }

    /// Writes until the log is closed; on a disk whose calls return at once.
    pub(crate) async fn run_as_task(mut self) {
        loop {
            match self.step() {
                Next::Step => {}
                Next::Sync => tokio::time::sleep(self.disk.waits().unwrap_or_default()).await,
                Next::Work => self.shared.bell.task.notified().await,
                Next::While => {
                    self.idle = tokio::time::timeout(MARK_AFTER, self.shared.bell.task.notified()).await.is_err();
                }
                Next::Pause(time) => {
                    let end = tokio::time::sleep(time);
                    tokio::pin!(end);
                    // New work rings too, and is no reason to try sooner.
                    while !self.shared.inner.lock().closed {
                        tokio::select! {
                            biased;
                            () = &mut end => break,
                            () = self.shared.bell.task.notified() => {}
                        }
                    }
                }
                Next::End => return,
            }
        }
    }

    /// Goes on as far as it can without waiting.
    fn step(&mut self) -> Next {
        if let Some(count) = self.unsynced.take() {
            return match self.current.file.sync() {
                Err(_) if mutated(Mutation::FailedSyncIgnored) => {
                    self.finish(count);
                    Next::Step
                }
                Ok(()) => {
                    self.finish(count);
                    Next::Step
                }
                Err(error) => {
                    self.current.broken = true;
                    self.stall(&error)
                }
            };
        }
        if self.queue.is_empty() {
            let mut inner = self.shared.inner.lock();
            if !inner.has_work() {
                let (closed, to_mark) = (inner.closed, inner.to_mark());
                let marked = to_mark <= self.marked;
                inner.resting = !closed && self.rested && marked;
                drop(inner);
                let idle = std::mem::take(&mut self.idle);
                return match (closed, self.rested) {
                    (true, _) => {
                        self.leave_mark(to_mark);
                        Next::End
                    }
                    (false, true) if marked => Next::Work,
                    (false, true) if idle => {
                        self.mark(to_mark);
                        Next::Step
                    }
                    (false, true) => Next::While,
                    (false, false) => {
                        self.rest();
                        self.rested = true;
                        Next::Step
                    }
                };
            }
            std::mem::swap(&mut self.queue, &mut inner.queue);
            (self.rested, self.idle, inner.resting) = (false, false, false);
        } else if self.refused.is_some() {
            let mut inner = self.shared.inner.lock();
            if inner.closed {
                // Whoever waits learns it by the loss of its channel.
                inner.queue.clear();
                return Next::End;
            }
        }
        match self.write() {
            Ok(count) => {
                self.unsynced = Some(count);
                Next::Sync
            }
            Err(error) => self.stall(&error),
        }
    }

    /// Writes as much of the queue as goes into one write; says how many records that is.
    fn write(&mut self) -> io::Result<usize> {
        if self.current.broken {
            self.next_segment(0)?;
        }
        let mut count = self.encode_queue();
        while self.current.synced + self.buffer.len() as u64 > self.current.bytes {
            self.next_segment(self.buffer.len() as u64)?;
            count = self.encode_queue();
        }
        let written = self.current.file.write_at(&self.buffer, self.current.synced);
        written.inspect_err(|error| self.current.broken = !is_full(error))?;
        Ok(count)
    }

    fn encode_queue(&mut self) -> usize {
        let queue = std::mem::take(&mut self.queue);
        let count = self.encode(queue.iter().map(|work| &work.record));
        self.queue = queue;
        self.marking = None;
        if self.unmarked >= MARK_BYTES {
            self.marking = self.shared.inner.lock().to_mark().filter(|id| Some(*id) > self.marked);
        }
        if let Some(id) = self.marking {
            let (sequence, synced) = (self.current.header.sequence, self.current.synced);
            frame::encode(&Record::Mark(Some(id)), sequence, synced, &mut self.buffer);
        }
        count
    }

    /// Writes down what is committed where the next write goes, which takes its place: nothing depends on it, so it is not
    /// synced. A start without the others knows by it what it may answer.
    fn mark(&mut self, committed: Option<Id>) {
        self.encode(std::iter::once(&Record::Mark(committed)));
        if !self.current.broken {
            let _ = self.current.file.write_at(&self.buffer, self.current.synced);
        }
        self.marked = committed;
    }

    /// Proves to the next start that the last frames are complete, and tells it what is committed. Best effort.
    fn leave_mark(&mut self, committed: Option<Id>) {
        if (self.current.proven < self.current.synced || committed > self.marked) && !self.current.broken {
            self.mark(committed);
            let _ = self.current.file.sync();
        }
    }

    /// Encodes records into the buffer, for the place where the next write goes; says how many.
    fn encode<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> usize {
        self.buffer.clear();
        self.offsets.clear();
        for record in records {
            self.offsets.push(self.current.synced + self.buffer.len() as u64);
            frame::encode(record, self.current.header.sequence, self.current.synced, &mut self.buffer);
            if self.buffer.len() >= WRITE_BYTES {
                break;
            }
        }
        self.offsets.len()
    }

    /// Makes known that the first `count` records of the queue are on disk.
    fn finish(&mut self, count: usize) {
        self.current.proven = self.current.synced;
        self.current.synced += self.buffer.len() as u64;
        self.refused = None;
        self.unmarked += self.buffer.len() as u64;
        if let Some(id) = self.marking.take() {
            (self.marked, self.unmarked) = (Some(id), 0);
        }
        self.shared.set_stalled(None);
        let mut flushed = None;
        let mut told = Vec::new();
        let mut purged = false;
        {
            let mut inner = self.shared.inner.lock();
            for (work, &offset) in self.queue.drain(..count).zip(&self.offsets) {
                purged |= matches!(work.record, Record::Purge(_));
                self.current.take(&mut inner, &work.record, offset);
                match work.done {
                    Done::Nobody => {}
                    Done::Tell(tx) => told.push(tx),
                    // Each is a watermark, so the last one speaks for all. It must not be more than one: the engine waits a
                    // whole timer tick when a second one comes while it looks at the first.
                    Done::Entries(callback @ IOFlushed::Notify(_)) => flushed = Some(callback),
                    Done::Entries(callback) => callback.io_completed(Ok(())),
                }
            }
            inner.written(self.buffer.len() as u64);
            inner.shrink_tail(TAIL_BYTES);
        }
        if let Some(callback) = flushed {
            callback.io_completed(Ok(()));
        }
        if purged {
            self.drop_segments();
        }
        for tx in told {
            let _ = tx.send(());
        }
        self.shared.ask_for_snapshot();
    }

    /// Uses the time while nothing waits.
    fn rest(&mut self) {
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
            self.offsets = Vec::new();
        }
        let current = &mut self.current;
        current.zeroed = current.zeroed.max(current.synced);
        if current.zeroed < current.synced + ZERO_BYTES / 2 && current.zeroed < current.bytes && !current.broken {
            let bytes = ZERO_BYTES.min(current.bytes - current.zeroed);
            match current.file.write_at(&vec![0; bytes as usize], current.zeroed) {
                Ok(()) => current.zeroed += bytes,
                // It was only for speed.
                Err(_) => current.zeroed = current.bytes,
            }
        }
    }

    /// Makes the segment that follows, with room for `room` bytes of frames at least.
    fn next_segment(&mut self, room: u64) -> io::Result<()> {
        let old = &self.current;
        let mut header = SegmentHeader {
            node: old.header.node,
            sequence: old.header.sequence + 1,
            prev_end: old.synced,
            last: old.last,
            purged: old.purged,
            vote: old.vote,
        };
        if old.synced == SEGMENT_HEADER as u64 {
            // Nothing is in it: it is replaced, so that a disk that goes on refusing does not fill up with empty segments.
            header.sequence = old.header.sequence;
            header.prev_end = old.header.prev_end;
        }
        let bytes = self.segment_bytes.max(SEGMENT_HEADER as u64 + room);
        let segment = create_segment(&*self.disk, &self.dir, header, bytes)?;
        let current = &mut self.current;
        current.file = Arc::clone(&segment.file);
        current.bytes = bytes;
        current.header = segment.header.clone();
        current.synced = SEGMENT_HEADER as u64;
        current.proven = current.synced;
        current.zeroed = current.synced;
        current.broken = false;
        current.force_mark = true;
        let mut inner = self.shared.inner.lock();
        if inner.segments.back().is_some_and(|last| last.sequence == segment.sequence) {
            inner.segments.pop_back();
        }
        inner.segments.push_back(segment);
        Ok(())
    }

    /// Removes the segments that hold nothing but purged entries.
    fn drop_segments(&mut self) {
        loop {
            let path = {
                let inner = self.shared.inner.lock();
                let purged = inner.purged.map(|id| id.index);
                let spent = inner.segments.get(1).is_some_and(|next| next.header.last.map(|id| id.index) <= purged);
                match inner.segments.front() {
                    Some(first) if spent => first.path.clone(),
                    _ => return,
                }
            };
            // In order, and each for good before the next, so that a power cut never leaves a hole in the sequence.
            if let Err(error) = self.disk.remove(&path).and_then(|()| self.disk.sync_dir(&self.dir)) {
                tracing::warn!(path = %path.display(), %error, "a log file that is no longer needed could not be removed");
                return;
            }
            let mut inner = self.shared.inner.lock();
            if let Some(gone) = inner.segments.pop_front() {
                while inner.marks.front().is_some_and(|mark| mark.sequence == gone.sequence) {
                    inner.marks.pop_front();
                }
            }
        }
    }

    /// Says why nothing is written, and how long to wait before the next try. A single failure that a new segment heals is not
    /// worth refusing writes.
    fn stall(&mut self, error: &io::Error) -> Next {
        let dir = self.dir.display();
        let pause = self.refused.unwrap_or(RETRY);
        let (wait, next) = if is_full(error) {
            let reason = format!("the disk is full: free space under {dir}; writes resume by themselves");
            self.shared.set_stalled(Some(reason));
            (RETRY_FULL, pause)
        } else {
            tracing::warn!(dir = %dir, %error, "a write to the log failed and is tried again in a new file");
            if pause > RETRY {
                let reason =
                    format!("the disk under {dir} fails ({error}); writes resume by themselves when it works again");
                self.shared.set_stalled(Some(reason));
            }
            (pause, (pause * 4).min(RETRY_MAX))
        };
        self.refused = Some(next);
        Next::Pause(wait)
    }
}

impl Current {
    /// Takes in a record that is on disk now.
    fn take(&mut self, inner: &mut Inner, record: &Record, offset: u64) {
        match record {
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                self.last = Some(entry.log_id);
                let mark = Mark { index, sequence: self.header.sequence, offset };
                push_mark(&mut inner.marks, mark, &mut self.force_mark);
                inner.synced = Some(index);
            }
            Record::Vote(vote) => {
                self.vote = Some(*vote);
                inner.vote = Some(*vote);
            }
            Record::Truncate(after) => {
                self.last = *after;
                inner.drop_marks(after.map(|id| id.index));
                inner.truncating -= 1;
                inner.synced = after.map(|id| id.index);
                self.force_mark = true;
            }
            Record::Purge(upto) => {
                self.purged = self.purged.max(Some(*upto));
                if self.last.is_none_or(|last| last.index < upto.index) {
                    self.last = Some(*upto);
                    inner.synced = Some(upto.index);
                    self.force_mark = true;
                }
            }
            Record::Mark(_) => {}
        }
    }
}

/// Makes a segment: under a name of its own until it is complete.
pub(crate) fn create_segment(
    disk: &dyn Disk,
    dir: &std::path::Path,
    header: SegmentHeader,
    bytes: u64,
) -> io::Result<Segment> {
    let path = segment_path(dir, header.sequence);
    let new = path.with_extension("new");
    let make = || {
        let file = disk.create(&new, bytes)?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        disk.rename(&new, &path)?;
        disk.sync_dir(dir)?;
        Ok(file)
    };
    match make() {
        Ok(file) => Ok(Segment { sequence: header.sequence, path, file, bytes, header }),
        Err(error) => {
            let _ = disk.remove(&new);
            Err(error)
        }
    }
}

/// Whether room, and not the disk itself, is what is missing.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
