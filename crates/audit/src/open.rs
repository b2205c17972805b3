//! What is found at the start of a server, and where the log goes on.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use byname_api::audit::Outcome;

use crate::Anchor;
use crate::entry::Entry;
use crate::files;
use crate::line::{BEGIN, DAMAGED, Hash, MAX_LINE, TORN, origin};
use crate::queue::Place;
use crate::walk::{NUMBERS, Walk};
use crate::writer::now;

/// So many files at the end are read at a start at most; the rest is for a verification.
const READ: usize = 4;

/// Where the log goes on.
pub(crate) struct Start {
    /// The last record that is there, and the file that goes on; 0 when another is begun.
    pub(crate) place: Place,
    /// The number of the next record.
    pub(crate) next: u64,
    /// What the next record follows on.
    pub(crate) link: Hash,
    /// What is recorded first.
    pub(crate) notices: Vec<Entry>,
}

/// Reads the end of the log, at least from the anchor on, and decides.
pub(crate) fn start(dir: &Path, server: u64, itself: &str, anchor: Option<Anchor>) -> io::Result<Start> {
    let all = files::list(dir)?;
    let mut found = Vec::with_capacity(all.len());
    for first in &all {
        found.push((*first, files::path(dir, *first).metadata()?.len()));
    }
    // A crash may leave a file that was made and never written.
    found.truncate(found.iter().rposition(|(_, len)| *len > 0).map_or(0, |last| last + 1));

    let anchor = anchor.filter(|anchor| (1..NUMBERS).contains(&anchor.sequence));
    let walk = walk(dir, server, &found, anchor)?;
    let tip = walk.tip;
    let mut trouble = walk.troubles.told();
    if trouble.is_none() && tip.is_none() && all.iter().any(|first| *first > 1) {
        trouble = Some("there are files, and no record in the last of them".into());
    }

    let mut begin = Begin { itself, notices: Vec::new() };
    let last = tip.unwrap_or_default();
    let (mut file, mut len) = found.last().copied().unwrap_or_default();
    let mut next = last.sequence + 1;
    if let Some(trouble) = &trouble {
        // Numbers are used once: not again those of records that are gone, nor those of files that are there.
        next = next.max(anchor.map_or(0, |anchor| anchor.sequence) + 1).max(all.last().map_or(0, |first| first + 1));
        file = 0;
        tracing::error!(folder = %dir.display(), trouble, "the audit log was changed; it goes on in a new file");
    } else if let (Some((at, rest)), true) = (&walk.torn, file != 0) {
        // It was never durable, so nobody was told that it is there.
        cut(dir, file, *at)?;
        len = *at;
        begin.torn(last.sequence, rest);
    }
    if let Some((newest, _)) = found.last() {
        // What a process that was killed wrote is in memory only, perhaps, and is anchored from now on.
        File::open(files::path(dir, *newest))?.sync_all()?;
        File::open(dir)?.sync_all()?;
    }
    let mut link = Hash(last.hash);
    if tip.is_none() {
        let chain = hex::encode(rand::random::<[u8; 16]>());
        link = origin(server, &chain);
        begin.notice(BEGIN, Outcome::Ok, chain);
    }
    if let Some(trouble) = trouble {
        begin.notice(DAMAGED, Outcome::Failed, trouble);
    }
    if len == 0 {
        file = 0;
    }
    let place = Place { head: last, durable: last, file, len: if file == 0 { 0 } else { len } };
    Ok(Start { place, next, link, notices: begin.in_order() })
}

/// Goes along the last files.
fn walk(dir: &Path, server: u64, found: &[(u64, u64)], anchor: Option<Anchor>) -> io::Result<Walk> {
    let mut from = found.len().saturating_sub(1);
    if found.last().is_some_and(|(_, len)| *len < 2 * MAX_LINE as u64) {
        // Its only line may be torn, and then the last record is in the one before.
        from = from.saturating_sub(1);
    }
    if let Some(anchor) = anchor {
        from = from.min(found.partition_point(|(first, _)| *first <= anchor.sequence).saturating_sub(1));
    }
    from = from.max(found.len().saturating_sub(READ));
    let mut walk = Walk::new(Some(server), anchor.as_slice());
    walk.forgiving = true;
    for (first, len) in &found[from..] {
        walk.file(dir, *first, *len)?;
    }
    walk.end();
    Ok(walk)
}

/// The records of a start.
struct Begin<'a> {
    itself: &'a str,
    notices: Vec<Entry>,
}

impl Begin<'_> {
    fn notice(&mut self, operation: &str, outcome: Outcome, detail: String) {
        let mut entry = Entry::new(now(), self.itself, "none", operation, outcome);
        entry.detail = Some(detail);
        self.notices.push(entry);
    }

    fn torn(&mut self, last: u64, rest: &[u8]) {
        let beginning = String::from_utf8_lossy(&rest[..rest.len().min(200)]);
        let what = format!(
            "{} bytes of a line that a crash left unfinished behind record {last} were cut off: {beginning}",
            rest.len()
        );
        self.notice(TORN, Outcome::Failed, what);
    }

    /// A chain begins with its beginning.
    fn in_order(mut self) -> Vec<Entry> {
        self.notices.sort_by_key(|entry| entry.operation != BEGIN);
        self.notices
    }
}

fn cut(dir: &Path, first: u64, len: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(files::path(dir, first))?.set_len(len)
}
