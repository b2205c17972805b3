//! The audit log of one server: who did what, when, and what proved it, in files that nobody can change unseen.
//!
//! Every record has the hash of the one before under its own hash (`line.rs`), so a record cannot be changed, taken out,
//! put in or moved without all that follow being made anew; and the hash of the last one is anchored elsewhere (in the
//! replicated log, every few seconds), so neither can they be made anew, nor cut off. An [`Anchor`] is all that the outside
//! keeps.
//!
//! # What is found at a start
//!
//! [`Audit::open`] reads the end of the log, from the anchor on.
//!
//! - **A torn last line** is what a crash leaves. It was never durable, so nobody was told that it is there: it is cut off, and
//!   the next record (`audit-torn`) says so. When the anchor says that it was whole once, it is damage.
//! - **A line that was changed, lines that are missing, an end before the anchor, another record at the anchor**: somebody
//!   wrote to the files, or the disk lost what it had confirmed. That does not stop the server. Whoever can write to the files
//!   could else stop it for good; the names that everybody needs are worth more than the log; and a server that is off
//!   records nothing about who goes on. Nor is anything repaired, since what is there is the evidence: the files are neither
//!   changed nor renamed nor written to again. The log goes on in a new file, whose first record (`audit-damaged`) says what
//!   was found and follows on the last record that agrees with its own hash, so that from then on the evidence is under the
//!   chain too. The numbers of records that are gone are not used again. [`Audit::verify`] reports it from then on, every
//!   time: the record itself counts as trouble, so a damage cannot be made good by leaving it alone.
//! - **Nothing at all** is a new chain, whose first record (`audit-begin`) has its random id. When there is an anchor, all was
//!   removed, and the second record says so.
//!
//! What is older than the last files is not read at a start, because that would take minutes; a verification does.
//!
//! # What is lost, and when
//!
//! [`Audit::record`] never waits for the disk: entries wait in a queue with bounds, and one thread writes them. While the disk
//! fails or is full they wait; when there is no more room they are counted, and one record (`audit-lost`) has the count.
//! A crash of the process loses what waits, that of the machine what was not synced.

mod disk;
mod entry;
mod files;
mod flood;
mod line;
mod open;
mod queue;
mod search;
mod verify;
mod walk;
mod writer;

#[cfg(test)]
mod faults;

pub use entry::{Entry, MAX_TEXT};
pub use flood::{FLOOD_RECORDS, FLOOD_WINDOW_MS};
pub use verify::verify_files;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use byname_api::audit::{AuditReply, AuditRequest, Verification};
use byname_api::error::{Code, Error, Result};

use crate::disk::{Disk, LocalDisk};
use crate::queue::Queue;
use crate::writer::Writer;

/// The head of the log at some time: a record's number and hash. Number 0 stands for no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The number of the record.
    pub sequence: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// What an owner may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file that has so many bytes is followed by another.
    pub segment_bytes: u64,
    /// When a new file is begun, the oldest are removed until so many bytes are left. `None` keeps all. The log says what was
    /// removed (`audit-removed`).
    pub keep_bytes: Option<u64>,
    /// So many records wait for the disk at most.
    pub queue_records: usize,
    /// So many bytes of records wait for the disk at most.
    pub queue_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: 64 << 20, keep_bytes: None, queue_records: 16_384, queue_bytes: 16 << 20 }
    }
}

/// The audit log of a server. Every method may be called from any thread; those that wait for the disk say so.
///
/// When it is dropped, what waits is written and made durable, if the disk lets it.
pub struct Audit {
    dir: PathBuf,
    server: u64,
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
}

impl Audit {
    /// Opens the log in `dir`, which is made when it is not there and belongs to the log alone. `anchor` is the newest head that
    /// is known from elsewhere. Reads up to four files, and so waits for the disk.
    ///
    /// # Errors
    /// `unavailable` when the folder cannot be read, or what is there cannot be made durable. Damage is no error, nor is a
    /// disk without room: see the [crate].
    pub fn open(dir: &Path, server: u64, anchor: Option<Anchor>) -> Result<Audit> {
        Audit::open_with(dir, server, anchor, Options::default())
    }

    /// As [`Audit::open`], with the owner's choice.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(dir: &Path, server: u64, anchor: Option<Anchor>, options: Options) -> Result<Audit> {
        Audit::open_on(Arc::new(LocalDisk), dir, server, anchor, options)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        server: u64,
        anchor: Option<Anchor>,
        options: Options,
    ) -> Result<Audit> {
        disk::create_dir(dir).map_err(|error| unavailable(dir, &error))?;
        let itself = format!("/byname/servers/{server}");
        let start = open::start(dir, server, &itself, anchor).map_err(|error| unavailable(dir, &error))?;
        let queue = Arc::new(Queue::new(itself.clone(), options.queue_records, options.queue_bytes, start.place));
        for notice in start.notices {
            queue.put(notice);
        }
        let writer = Writer {
            queue: queue.clone(),
            disk,
            dir: dir.to_owned(),
            server,
            itself,
            segment_bytes: options.segment_bytes.max(1),
            keep_bytes: options.keep_bytes,
            place: start.place,
            next: start.next,
            link: start.link,
            out: None,
            durable: start.place.len,
            doubtful: false,
            complained: None,
        };
        let thread = std::thread::Builder::new().name("byname-audit".into()).spawn(move || writer.run());
        let writer = thread.map_err(|error| unavailable(dir, &error))?;
        Ok(Audit { dir: dir.to_owned(), server, queue, writer: Some(writer) })
    }

    /// Records what happened. Never waits for the disk; entries keep their order, floods of refusals apart, which are counted.
    pub fn record(&self, entry: Entry) {
        self.queue.put(entry);
    }

    /// Waits until everything that was recorded so far is written. Floods that are still being counted are not.
    ///
    /// # Errors
    /// `unavailable` when the disk refused; the records are kept and tried again.
    pub fn flush(&self) -> Result<()> {
        self.queue.wait(false).map(|_| ())
    }

    /// Waits until everything that was recorded so far is durable, and gives the head to anchor.
    ///
    /// # Errors
    /// As [`Audit::flush`].
    pub fn sync(&self) -> Result<Anchor> {
        self.queue.wait(true).map(|place| place.durable)
    }

    /// The last record that was written. After a crash of the machine it may be gone: anchor what [`Audit::sync`] gives.
    pub fn head(&self) -> Anchor {
        self.queue.place().head
    }

    /// The newest records that fit, from the newest or the `next` of a page before. Reads the files, and so waits for the disk.
    /// `verify` of the request is not looked at: the caller knows the anchors.
    ///
    /// # Errors
    /// `invalid-argument` and `invalid-name` for fields that make no sense, `unavailable` when a file cannot be read.
    pub fn search(&self, request: &AuditRequest) -> Result<AuditReply> {
        // What cannot be written yet cannot be found yet.
        let _ = self.flush();
        search::search(&self.dir, request)
    }

    /// Recomputes the whole chain and compares the anchors, up to what is written now. Reads every file, and so takes about
    /// ten seconds a GiB.
    ///
    /// # Errors
    /// `unavailable` when a file cannot be read.
    pub fn verify(&self, anchors: &[Anchor]) -> Result<Verification> {
        let _ = self.flush();
        verify::verify(&self.dir, self.server, self.queue.place(), anchors)
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("dir", &self.dir).field("place", &self.queue.place()).finish_non_exhaustive()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so.
            let _ = writer.join();
        }
    }
}

/// A disk that does not do what it should.
fn unavailable(dir: &Path, error: &io::Error) -> Error {
    Error::new(Code::Unavailable, "the audit log cannot be read or written")
        .log(format!("the audit log in {}: {error}", dir.display()))
}
