//! What a start finds on disk, and what it makes of it.
//!
//! A segment that has a successor ends where the successor's header says; up to there everything was on disk once, so
//! whatever is wrong there is damage. The last segment ends at its first place that is not a good frame. Behind that place
//! may lie good frames: those of the last write, which the power cut tore, or, if the place itself was damaged later, frames
//! that were written after it was on disk. Each frame says how much of its file was on disk when it was written (`synced`),
//! which tells the two apart without doubt: a good frame with `synced` behind the place proves damage and the start is
//! refused; else the rest was never answered to anybody and is cut off.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;

use super::frame::{BadHeader, FRAME_HEADER, FrameHeader, Record, SEGMENT_HEADER, SegmentHeader, VERSION};
use super::read::{Frames, Next};
use crate::OpenError;
use crate::disk::{Disk, DiskFile, read_full};
use crate::raft::{Ballot, Id, Members};

/// Distance between the places in a segment that are remembered, in bytes.
pub(crate) const MARK_BYTES: u64 = 64 << 10;
const SCAN_BYTES: usize = 256 << 10;
const WAY_OUT: &str = "Restore the folder from a backup, or, where the cluster has other servers, empty \
                       it and let this server join again";

const NONE_FOLLOWS: &str = "no entry could follow the one that a record names";

/// A segment of the log.
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
    pub(crate) header: SegmentHeader,
}

/// Where an entry lies. From here to the next mark the entries follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) index: u64,
    pub(crate) sequence: u64,
    pub(crate) offset: u64,
}

/// The log as found.
#[derive(Default)]
pub(crate) struct Recovered {
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) marks: VecDeque<Mark>,
    pub(crate) last: Option<Id>,
    pub(crate) purged: Option<Id>,
    pub(crate) vote: Option<Ballot>,
    /// The memberships in the log, oldest first.
    pub(crate) members: Vec<(Id, Members)>,
    /// Up to here a record says that entries are committed. To be compared with the entry that is there.
    pub(crate) committed: Option<Id>,
    /// Where the next frame goes in the last segment.
    pub(crate) end: u64,
    /// Bytes of entries behind the snapshot.
    pub(crate) bytes_since_snapshot: u64,
    force_mark: bool,
}

/// The name of a segment.
pub(crate) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.log"))
}

/// Reads the log in `dir`. `snapshot` is the last entry that the newest snapshot covers.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, node: u64, snapshot: Option<u64>) -> Result<Recovered, OpenError> {
    let mut found = Recovered { force_mark: true, ..Recovered::default() };
    // A process that was killed may have renamed a file and gone before the name was durable.
    disk.sync_dir(dir).map_err(|e| OpenError::io("sync", dir, e))?;
    for sequence in sequences(disk, dir)? {
        let path = segment_path(dir, sequence);
        if let Some(before) = found.segments.back()
            && before.sequence + 1 != sequence
        {
            let missing = segment_path(dir, before.sequence + 1);
            return Err(corrupt(&missing, 0, "the file is missing while later ones are there"));
        }
        let segment = open_segment(disk, path, sequence, node)?;
        found.segments.push_back(segment);
    }
    let ends: Vec<Option<u64>> =
        found.segments.iter().skip(1).map(|next| Some(next.header.prev_end)).chain([None]).collect();
    for (number, end) in ends.into_iter().enumerate().take(found.segments.len()) {
        replay(&mut found, number, end, snapshot)?;
    }
    Ok(found)
}

fn sequences(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, OpenError> {
    let mut sequences = Vec::new();
    for name in disk.list(dir).map_err(|e| OpenError::io("list", dir, e))? {
        if let Some(sequence) = name.strip_suffix(".log").and_then(|s| u64::from_str_radix(s, 16).ok()) {
            sequences.push(sequence);
        } else if name.ends_with(".new") {
            // A segment that was being made when the power went; nothing is in it.
            let path = dir.join(name);
            disk.remove(&path).map_err(|e| OpenError::io("remove", &path, e))?;
        }
    }
    sequences.sort_unstable();
    Ok(sequences)
}

fn open_segment(disk: &dyn Disk, path: PathBuf, sequence: u64, node: u64) -> Result<Segment, OpenError> {
    let file = disk.open(&path).map_err(|e| OpenError::io("open", &path, e))?;
    let bytes = file.size().map_err(|e| OpenError::io("read", &path, e))?;
    let mut head = [0; SEGMENT_HEADER];
    let got = read_full(&*file, &mut head, 0).map_err(|e| OpenError::io("read", &path, e))?;
    let header = SegmentHeader::decode(&head[..got]).map_err(|bad| match bad {
        BadHeader::Damaged(what) => corrupt(&path, 0, what),
        BadHeader::Newer(version) => OpenError::NewerFormat { file: path.clone(), found: version, known: VERSION },
    })?;
    if header.node != node {
        let dir = path.parent().unwrap_or(&path).to_owned();
        return Err(OpenError::OtherServer { dir, found: header.node, own: node });
    }
    if header.sequence != sequence {
        return Err(corrupt(&path, 0, "it is another log file under a wrong name"));
    }
    Ok(Segment { sequence, path, file, bytes, header })
}

/// Reads the frames of a segment. `end` is where its successor says that it ends, if there is one.
fn replay(found: &mut Recovered, number: usize, end: Option<u64>, snapshot: Option<u64>) -> Result<(), OpenError> {
    let segment = &found.segments[number];
    let (path, file, header) = (segment.path.clone(), Arc::clone(&segment.file), segment.header.clone());
    let (sequence, bytes) = (segment.sequence, segment.bytes);
    if number == 0 {
        found.last = header.last;
        found.purged = header.purged.max(header.last);
    } else if header.last != found.last {
        return Err(corrupt(&path, 0, "it does not go on where the file before it ends"));
    }
    if end.is_some_and(|end| end > bytes) {
        return Err(corrupt(&path, bytes, "the file is shorter than the file after it says"));
    }
    if is_last_of_all(header.last) || is_last_of_all(header.purged) {
        return Err(corrupt(&path, 0, NONE_FOLLOWS));
    }
    found.vote = header.vote;
    found.force_mark = true;

    let mut frames = Frames::new(Arc::clone(&file), sequence, SEGMENT_HEADER as u64, end.unwrap_or(bytes));
    let mut proven = SEGMENT_HEADER as u64;
    let what = loop {
        let at = frames.offset();
        if end == Some(at) {
            return Ok(());
        }
        match frames.next().map_err(|e| OpenError::io("read", &path, e))? {
            Next::Frame { offset, bytes, synced, record } => {
                proven = proven.max(synced);
                if let Err(what) = found.take(record, Mark { index: 0, sequence, offset }, bytes, snapshot) {
                    return Err(corrupt(&path, offset, what));
                }
            }
            Next::End => break "records are missing",
            Next::Bad(what) => break what,
        }
    };
    let at = frames.offset();
    if end.is_some() {
        return Err(corrupt(&path, at, what));
    }
    let torn = behind(&*file, &path, sequence, at, bytes, what)?;
    if let Some(to) = torn {
        tracing::warn!(path = %path.display(), offset = at, bytes = to - at, "cut off a write that was never finished");
        zero(&*file, at, to).map_err(|e| OpenError::io("write", &path, e))?;
    }
    // After a mere kill the last frames may be in the kernel's memory only, and after a failed sync the kernel may even call
    // them clean. What is written next calls them synced, so they are written again first.
    rewrite(&*file, proven, at).map_err(|e| OpenError::io("write", &path, e))?;
    file.sync().map_err(|e| OpenError::io("sync", &path, e))?;
    found.end = at;
    Ok(())
}

/// Looks behind the end at `at`: refuses when something there proves that the end is damage, else says up to where there is
/// anything at all.
fn behind(
    file: &dyn DiskFile,
    path: &Path,
    sequence: u64,
    at: u64,
    end: u64,
    what: &str,
) -> Result<Option<u64>, OpenError> {
    let read = |e| OpenError::io("read", path, e);
    let mut dirty = None;
    let mut block = vec![0; SCAN_BYTES + FRAME_HEADER];
    let mut from = at;
    // Most of what is reserved was never written, and the file system knows.
    while let Some(data) = file.next_data(from).map_err(read)?.filter(|&data| data < end) {
        // Frames begin at multiples of eight, and a header may begin a little before.
        from = from.max((data & !7).saturating_sub(FRAME_HEADER as u64));
        let want = block.len().min((end - from) as usize);
        let got = read_full(file, &mut block[..want], from).map_err(read)?;
        if got == 0 {
            break;
        }
        // A header may reach over the end of what is looked at; the next block begins where this one's own part ends.
        let own = got.min(SCAN_BYTES);
        if !all_zero(&block[..own])
            && let Some(last) = block[..own].iter().rposition(|&b| b != 0)
        {
            dirty = Some(from + last as u64 + 1);
            for start in (0..own).step_by(8) {
                let here = from + start as u64;
                let Some(header) = FrameHeader::read(&block[start..got], sequence, here, end - here) else { continue };
                if header.synced <= at {
                    continue;
                }
                let mut frame = vec![0; header.bytes() as usize];
                let got = read_full(file, &mut frame, here).map_err(read)?;
                frame.truncate(got);
                if header.decode(&Bytes::from(frame)).is_some() {
                    return Err(corrupt(path, at, &format!("{what}, though good ones follow at byte {here}")));
                }
            }
        }
        from += own as u64;
    }
    Ok(dirty)
}

/// In a form that the compiler makes fast: most of a segment is zeros, and every start looks at them.
fn all_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|chunk| chunk.iter().fold(0, |seen, &byte| seen | byte) == 0)
}

fn zero(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; SCAN_BYTES];
    let mut at = from;
    while at < to {
        let bytes = zeros.len().min((to - at) as usize);
        file.write_at(&zeros[..bytes], at)?;
        at += bytes as u64;
    }
    Ok(())
}

/// Writes the same bytes again.
fn rewrite(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut block = vec![0; SCAN_BYTES.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        let bytes = block.len().min((to - at) as usize);
        let got = read_full(file, &mut block[..bytes], at)?;
        if got < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(&block[..bytes], at)?;
        at += bytes as u64;
    }
    Ok(())
}

impl Recovered {
    /// Takes in one record; `place` says where it lies.
    fn take(&mut self, record: Record, place: Mark, bytes: u64, snapshot: Option<u64>) -> Result<(), &'static str> {
        let named = match &record {
            Record::Entry(entry) => Some(entry.log_id),
            Record::Truncate(after) => *after,
            Record::Purge(upto) => Some(*upto),
            Record::Mark(committed) => *committed,
            Record::Vote(_) => None,
        };
        if is_last_of_all(named) {
            return Err(NONE_FOLLOWS);
        }
        match record {
            Record::Entry(entry) => {
                let at = entry.log_id;
                if self.last.is_some_and(|last| last.index + 1 != at.index || last.leader_id > at.leader_id) {
                    return Err("a record is out of order");
                }
                self.last = Some(at);
                if snapshot.is_none_or(|snapshot| at.index > snapshot) {
                    self.bytes_since_snapshot += bytes;
                }
                push_mark(&mut self.marks, Mark { index: at.index, ..place }, &mut self.force_mark);
                if let EntryPayload::Membership(members) = entry.payload {
                    self.members.push((at, members));
                }
            }
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Truncate(after) => {
                self.last = after;
                let keep = |index: u64| after.is_some_and(|after| index <= after.index);
                while self.marks.back().is_some_and(|mark| !keep(mark.index)) {
                    self.marks.pop_back();
                }
                while self.members.last().is_some_and(|(id, _)| !keep(id.index)) {
                    self.members.pop();
                }
                self.force_mark = true;
            }
            Record::Purge(upto) => {
                self.purged = self.purged.max(Some(upto));
                if self.last.is_none_or(|last| last.index < upto.index) {
                    self.last = Some(upto);
                    self.force_mark = true;
                }
            }
            Record::Mark(committed) => {
                let here = |id: &Id| self.last.is_some_and(|last| id.index <= last.index);
                self.committed = self.committed.max(committed.filter(here));
            }
        }
        Ok(())
    }
}

/// Remembers a place if it is far enough from the one before, or `force` asks for it.
pub(crate) fn push_mark(marks: &mut VecDeque<Mark>, mark: Mark, force: &mut bool) {
    let far = |before: &Mark| mark.sequence != before.sequence || mark.offset >= before.offset + MARK_BYTES;
    if *force || marks.back().is_none_or(far) {
        marks.push_back(mark);
        *force = false;
    }
}

/// Whether an entry has the highest number there is. The log always has room for another, so nobody wrote it.
fn is_last_of_all(id: Option<Id>) -> bool {
    id.is_some_and(|id| id.index == u64::MAX)
}

fn corrupt(path: &Path, offset: u64, what: &str) -> OpenError {
    OpenError::Corrupt { file: path.to_owned(), offset, what: what.to_owned(), way_out: WAY_OUT.to_owned() }
}
