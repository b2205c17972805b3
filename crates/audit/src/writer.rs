//! The thread that writes: numbers, hashes and appends what waits, many records a write.
//!
//! What it could not write it keeps, and writes the same bytes to the same place again, so a full disk leaves no gap and no
//! record twice. What could not be made durable is written again before it is tried again, because after a failed sync the
//! system may have forgotten it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use byname_api::audit::Outcome;
use byname_api::span::Timestamp;

use crate::Anchor;
use crate::disk::{Disk, Out};
use crate::entry::Entry;
use crate::files;
use crate::line::{DAMAGED, Hash, Line, REMOVED};
use crate::queue::{Place, Queue, Taken};

/// So much is written at once.
const CHUNK: u64 = 256 << 10;
/// After a failed write the next is tried so much later.
const RETRY: Duration = Duration::from_millis(250);
/// A failing disk is logged so often.
const COMPLAIN: Duration = Duration::from_secs(10);

pub(crate) struct Writer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) server: u64,
    pub(crate) itself: String,
    pub(crate) segment_bytes: u64,
    pub(crate) keep_bytes: Option<u64>,
    pub(crate) place: Place,
    /// The number of the next record, and what it follows on.
    pub(crate) next: u64,
    pub(crate) link: Hash,
    /// The open file, once there is something to write.
    pub(crate) out: Option<Box<dyn Out>>,
    /// The open file up to here is durable.
    pub(crate) durable: u64,
    /// The last sync failed.
    pub(crate) doubtful: bool,
    pub(crate) complained: Option<Instant>,
}

struct Gone(Arc<Queue>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone();
    }
}

/// Lines that are made and not yet written.
struct Chunk {
    bytes: Vec<u8>,
    records: usize,
    cost: usize,
    first: u64,
    head: Anchor,
}

impl Writer {
    /// Writes until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        // However this thread ends, nobody waits for it any more.
        let _gone = Gone(self.queue.clone());
        loop {
            let mut taken = self.queue.take();
            while !taken.entries.is_empty() {
                let chunk = self.make(&mut taken.entries);
                if !self.until_written(&chunk, &taken) {
                    let lost = chunk.records + taken.entries.len();
                    tracing::error!(records = lost, "the audit log was closed with records that could not be written");
                    return;
                }
                self.queue.written(chunk.records, chunk.cost, self.place);
            }
            let synced = taken.sync || taken.closing;
            // What follows is asked again by whoever draws the next ticket, so it is tried once.
            match if synced { self.sync() } else { Ok(()) } {
                Ok(()) => self.queue.answer(taken.ticket, synced, self.place),
                Err(error) => {
                    self.complain(&error);
                    self.queue.refuse(taken.ticket, error.to_string());
                }
            }
            if taken.closing {
                return;
            }
        }
    }

    /// Tries until it works; false when the log is closed before that.
    fn until_written(&mut self, chunk: &Chunk, taken: &Taken) -> bool {
        let mut waiting = taken.ticket;
        loop {
            let Err(error) = self.write(chunk) else { return true };
            self.complain(&error);
            if self.queue.refuse(waiting, error.to_string()) {
                return false;
            }
            // The entries of whoever comes now are behind these: what fails next fails for them too, but when it works they
            // wait for their own.
            waiting = self.queue.pause(RETRY, waiting);
        }
    }

    fn make(&self, entries: &mut VecDeque<Entry>) -> Chunk {
        let (mut next, mut link) = (self.next, self.link);
        let mut chunk = Chunk { bytes: Vec::new(), records: 0, cost: 0, first: next, head: self.place.head };
        // A file ends with the record that fills it, however many are written at once.
        let full = self.place.file == 0 || self.place.len >= self.segment_bytes;
        let room = self.segment_bytes - if full { 0 } else { self.place.len };
        while (chunk.bytes.len() as u64) < room.clamp(1, CHUNK) {
            let Some(entry) = entries.pop_front() else { break };
            chunk.records += 1;
            chunk.cost += entry.cost();
            let line = Line::new(self.server, next, link, entry);
            line.write(&mut chunk.bytes);
            (next, link) = (next + 1, line.hash);
            chunk.head = Anchor { sequence: line.sequence, hash: line.hash.0 };
        }
        chunk
    }

    fn write(&mut self, chunk: &Chunk) -> io::Result<()> {
        if self.place.file == 0 || self.place.len >= self.segment_bytes {
            self.begin_file(chunk.first)?;
        }
        let path = files::path(&self.dir, self.place.file);
        if self.out.as_ref().is_some_and(|out| !out.is_at(&path, self.place.len)) {
            self.out = None;
            self.place.file = 0;
            self.begin_file(chunk.first)?;
            self.note_loss(&path);
        }
        let path = files::path(&self.dir, self.place.file);
        let out = match &mut self.out {
            Some(out) => out,
            none => none.insert(self.disk.open(&path)?),
        };
        out.write_at(&chunk.bytes, self.place.len)?;
        self.place.len += chunk.bytes.len() as u64;
        self.place.head = chunk.head;
        (self.next, self.link) = (chunk.head.sequence + 1, Hash(chunk.head.hash));
        Ok(())
    }

    /// Goes on in another file; the one before is made durable first, so that a crash never leaves a gap between them.
    fn begin_file(&mut self, first: u64) -> io::Result<()> {
        if self.place.file != 0 {
            self.sync()?;
        }
        self.out = Some(self.disk.create(&files::path(&self.dir, first))?);
        (self.place.file, self.place.len) = (first, 0);
        (self.durable, self.doubtful) = (0, false);
        self.remove_oldest();
        Ok(())
    }

    /// Somebody took the file away while it was written.
    fn note_loss(&self, path: &Path) {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        tracing::error!(
            file,
            "a file of the audit log was removed or cut while it was written; the log goes on in a new one"
        );
        let mut entry = Entry::new(now(), self.itself.as_str(), "none", DAMAGED, Outcome::Failed);
        entry.detail = Some(format!("{file} was removed or cut while it was written"));
        self.queue.put(entry);
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(out) = &self.out {
            if self.doubtful && self.place.len > self.durable {
                let mut again = vec![0; usize::try_from(self.place.len - self.durable).unwrap_or(0)];
                out.read_at(&mut again, self.durable)?;
                out.write_at(&again, self.durable)?;
            }
            if self.doubtful || self.place.len > self.durable {
                self.doubtful = true;
                out.sync()?;
                self.doubtful = false;
            }
        }
        self.durable = self.place.len;
        self.place.durable = self.place.head;
        Ok(())
    }

    /// Keeps within what the owner wants to keep, and says what went.
    fn remove_oldest(&mut self) {
        let Some(keep) = self.keep_bytes else { return };
        let Ok(found) = files::list(&self.dir) else { return };
        let size = |first: &u64| files::path(&self.dir, *first).metadata().map_or(0, |meta| meta.len());
        let mut total: u64 = found.iter().map(size).sum();
        for pair in found.windows(2) {
            let (oldest, next) = (pair[0], pair[1]);
            if total <= keep {
                break;
            }
            let bytes = size(&oldest);
            if let Err(error) = std::fs::remove_file(files::path(&self.dir, oldest)) {
                tracing::warn!(file = files::name(oldest), %error, "an old file of the audit log cannot be removed");
                break;
            }
            total -= bytes;
            let mut entry = Entry::new(now(), self.itself.as_str(), "none", REMOVED, Outcome::Ok);
            entry.detail = Some(format!("records {oldest} to {} were removed, to keep {keep} bytes", next - 1));
            self.queue.put(entry);
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
            self.complained = Some(Instant::now());
            tracing::error!(folder = %self.dir.display(), %error, "the audit log cannot be written; its records wait");
        }
    }
}

/// The time of the records about the log itself.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
