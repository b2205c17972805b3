//! Snapshots: the state machine, written out whole.
//!
//! ```text
//! name    = term "-" index ".snap", both as 16 hexadecimal digits; the index decides which is newest
//! file    = magic "BYNSNAP\0", version u32, crc32c u32 of the meta, meta length u32, meta, chunk* end
//! meta    = postcard: node, last id, membership and the id it was logged under
//! chunk   = length u32 (not 0), crc32c u32, bytes
//! end     = 0 u32, crc32c u32 of the length that follows, total length of the chunks' bytes u64
//! ```
//!
//! A snapshot is written under another name, synced, renamed, and the folder synced. Two are kept, and the log from the older
//! one on, so that a newest one that went bad can be moved away by hand. That is left to a person: a disk that loses what was
//! synced should be looked at before it is trusted again.
//!
//! A snapshot that cannot be written costs nothing but the log that it would have freed: it is tried again later.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Buf;
use parking_lot::Mutex;

use crate::OpenError;
use crate::disk::{Disk, DiskFile, read_full};
use crate::log::frame::StoredMembers;
use crate::raft::{Id, MembersAt, Meta, id};

const MAGIC: &[u8; 8] = b"BYNSNAP\0";
const VERSION: u32 = 1;
const HEADER: usize = 20;
const CHUNK_BYTES: usize = 128 << 10;
/// More cannot be meant.
const META_BYTES_MAX: u32 = 1 << 20;
const KEPT: usize = 2;

/// The snapshots of one server.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: u64,
    /// Those on disk, oldest first.
    kept: Mutex<Vec<Kept>>,
    adopted: tokio::sync::Notify,
}

#[derive(Clone)]
struct Kept {
    meta: Meta,
    file: SnapshotFile,
}

/// A snapshot on disk.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The stored form of a snapshot's description.
#[derive(serde::Serialize, serde::Deserialize)]
struct StoredMeta {
    node: u64,
    last: Option<(u64, u64)>,
    members_at: Option<(u64, u64)>,
    members: StoredMembers,
}

impl Snapshots {
    /// Looks at the snapshots in `dir`, which is made when it is not there. Reads the newest one's description.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf, node: u64) -> Result<Snapshots, OpenError> {
        disk.create_dir(&dir).map_err(|e| OpenError::io("create", &dir, e))?;
        // A process that was killed may have renamed a file and gone before the name was durable.
        disk.sync_dir(&dir).map_err(|e| OpenError::io("sync", &dir, e))?;
        let mut names = Vec::new();
        for name in disk.list(&dir).map_err(|e| OpenError::io("list", &dir, e))? {
            let path = dir.join(&name);
            if name.ends_with(".new") {
                disk.remove(&path).map_err(|e| OpenError::io("remove", &path, e))?;
            } else if let Some((term, index)) = name.strip_suffix(".snap").and_then(|name| name.split_once('-'))
                && let (Ok(term), Ok(index)) = (u64::from_str_radix(term, 16), u64::from_str_radix(index, 16))
            {
                names.push((index, term, path));
            }
        }
        names.sort();
        let snapshots = Snapshots { disk, dir, node, kept: Mutex::new(Vec::new()), adopted: Default::default() };
        for (number, (index, term, path)) in names.iter().enumerate() {
            let older = number.checked_sub(1).and_then(|number| names.get(number)).map(|(_, _, path)| path.as_path());
            let file = SnapshotFile { disk: Arc::clone(&snapshots.disk), path: path.clone(), bytes: 0 };
            let opened = Chunks::open(&file, Some(node)).map_err(|bad| bad.explain(path, node, older));
            match opened {
                Ok((meta, chunks)) if named(&meta) == id(*term, *index) => {
                    let file = SnapshotFile { bytes: chunks.size, ..file };
                    snapshots.kept.lock().push(Kept { meta, file });
                }
                Ok(_) => {
                    let bad = Bad::Damaged(0, "it is another snapshot under a wrong name");
                    return Err(bad.explain(path, node, older));
                }
                Err(error) if number + 1 == names.len() => return Err(error),
                // Only a spare.
                Err(error) => tracing::warn!(%error, "an older snapshot is damaged"),
            }
        }
        Ok(snapshots)
    }

    /// Gives the newest snapshot's content to `restore`; `None` when there is no snapshot.
    pub(crate) fn restore(
        &self,
        restore: impl FnOnce(&mut dyn Read) -> io::Result<()>,
    ) -> Result<Option<Meta>, OpenError> {
        let (newest, older) = {
            let kept = self.kept.lock();
            let Some(newest) = kept.last().cloned() else { return Ok(None) };
            let older = kept.len().checked_sub(2).and_then(|at| kept.get(at)).map(|older| older.file.path.clone());
            (newest, older)
        };
        let path = &newest.file.path;
        let explain = |bad: Bad| bad.explain(path, self.node, older.as_deref());
        let (meta, mut chunks) = Chunks::open(&newest.file, Some(self.node)).map_err(explain)?;
        let restored = restore(&mut chunks);
        // What the state machine says about bytes that were not whole is beside the point.
        if restored.is_err() && chunks.bad.is_none() {
            let _ = io::copy(&mut chunks, &mut io::sink());
        }
        if let Some(bad) = chunks.bad.take() {
            return Err(explain(bad));
        }
        restored.map_err(|source| OpenError::Restore { file: path.clone(), source })?;
        Ok(Some(meta))
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The newest snapshot.
    pub(crate) fn newest(&self) -> Option<(Meta, SnapshotFile)> {
        self.kept.lock().last().map(|kept| (kept.meta.clone(), kept.file.clone()))
    }

    /// The last entry that the older of the two kept snapshots covers; the log behind it must stay.
    pub(crate) fn floor(&self) -> Option<Id> {
        let kept = self.kept.lock();
        kept.len().checked_sub(KEPT).and_then(|at| kept.get(at)).and_then(|kept| kept.meta.last_log_id)
    }

    /// Writes a snapshot and makes it the newest. Blocks.
    pub(crate) fn write(
        &self,
        meta: &Meta,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<SnapshotFile> {
        let staged = self.stage(meta, "written", content)?;
        self.take_up(meta, &staged, KEPT).inspect_err(|_| {
            let _ = self.disk.remove(&staged.path);
        })
    }

    /// Writes a snapshot whole, but not yet under its name.
    fn stage(
        &self,
        meta: &Meta,
        by: &str,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<SnapshotFile> {
        let last = named(meta);
        let path = self.dir.join(format!("{:016x}-{:016x}.{by}.new", last.leader_id.term, last.index));
        let make = || -> io::Result<u64> {
            let file = self.disk.create(&path, 0)?;
            let mut out = ChunkWriter::begin(Arc::clone(&file), self.node, meta)?;
            content(&mut out)?;
            let bytes = out.end()?;
            file.sync()?;
            Ok(bytes)
        };
        let bytes = make().inspect_err(|_| {
            let _ = self.disk.remove(&path);
        })?;
        Ok(SnapshotFile { disk: Arc::clone(&self.disk), path, bytes })
    }

    /// Gives a written snapshot its name, which makes it the newest; `keep` of all stay.
    fn take_up(&self, meta: &Meta, staged: &SnapshotFile, keep: usize) -> io::Result<SnapshotFile> {
        let last = named(meta);
        let path = self.dir.join(format!("{:016x}-{:016x}.snap", last.leader_id.term, last.index));
        self.disk.rename(&staged.path, &path)?;
        self.disk.sync_dir(&self.dir)?;
        let file = SnapshotFile { path, ..staged.clone() };
        let spent = {
            let mut kept = self.kept.lock();
            kept.retain(|kept| kept.file.path != file.path);
            kept.push(Kept { meta: meta.clone(), file: file.clone() });
            let spent = kept.len().saturating_sub(keep);
            kept.drain(..spent).collect::<Vec<_>>()
        };
        for spent in spent {
            if let Err(error) = self.disk.remove(&spent.file.path) {
                let path = spent.file.path.display();
                tracing::warn!(%path, %error, "a snapshot that is no longer needed could not be removed");
            }
        }
        Ok(file)
    }

    /// A file for the pieces of a snapshot of another server.
    pub(crate) fn incoming(&self, term: u64, session: u64) -> io::Result<(Arc<dyn DiskFile>, SnapshotFile)> {
        let path = self.dir.join(format!("{term:016x}-{session:x}.incoming.new"));
        let file = self.disk.create(&path, 0)?;
        Ok((file, SnapshotFile { disk: Arc::clone(&self.disk), path, bytes: 0 }))
    }

    /// Checks a snapshot that came from another server and writes it as one of this. Blocks.
    pub(crate) fn check_in(&self, from: &SnapshotFile) -> io::Result<(Meta, SnapshotFile)> {
        let checked = || {
            let (meta, mut chunks) = Chunks::open(from, None).map_err(Bad::into_io)?;
            let staged = self.stage(&meta, "received", |out| io::copy(&mut chunks, out).map(|_| ()))?;
            Ok((meta, staged))
        };
        let checked = checked();
        self.discard(from);
        checked
    }

    /// Removes a file that is of no use any more; one that stays is removed at the next start.
    pub(crate) fn discard(&self, file: &SnapshotFile) {
        let _ = self.disk.remove(&file.path);
    }

    /// Checks a snapshot of another cluster, changes its description, and makes it the newest. Blocks.
    pub(crate) fn take_over(
        &self,
        from: &SnapshotFile,
        change: impl FnOnce(&mut Meta),
    ) -> io::Result<(Meta, SnapshotFile)> {
        let (mut meta, mut chunks) = Chunks::open(from, None).map_err(Bad::into_io)?;
        change(&mut meta);
        let file = self.write(&meta, |out| io::copy(&mut chunks, out).map(|_| ()))?;
        Ok((meta, file))
    }

    /// Makes a snapshot that was checked in the newest and only one: the log does not lead from an older one to it.
    pub(crate) fn adopt(&self, meta: &Meta, checked: &SnapshotFile) -> io::Result<()> {
        self.take_up(meta, checked, 1)?;
        self.adopted.notify_one();
        Ok(())
    }

    /// Returns when a snapshot of another server was adopted.
    pub(crate) async fn adopted(&self) {
        self.adopted.notified().await;
    }
}

impl SnapshotFile {
    /// Gives its content to `read`, all of it checked.
    pub(crate) fn read(&self, read: impl FnOnce(&mut dyn Read) -> io::Result<()>) -> io::Result<Meta> {
        let (meta, mut chunks) = Chunks::open(self, None).map_err(Bad::into_io)?;
        read(&mut chunks)?;
        // To its end, where the last checksum is.
        io::copy(&mut chunks, &mut io::sink())?;
        Ok(meta)
    }

    /// A file that is said to be one.
    pub(crate) fn at(disk: Arc<dyn Disk>, path: &Path) -> SnapshotFile {
        SnapshotFile { disk, path: path.to_owned(), bytes: 0 }
    }

    /// Opens it for reading.
    pub(crate) fn open(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.path)
    }
}

/// The entry that a snapshot is named for; that of nothing at all is named like the first.
fn named(meta: &Meta) -> Id {
    meta.last_log_id.unwrap_or(id(0, 0))
}

/// Why a snapshot cannot be read.
enum Bad {
    Damaged(u64, &'static str),
    Newer(u32),
    Other(u64),
    Io(io::Error),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Bad {
        Bad::Io(error)
    }
}

impl Bad {
    fn explain(self, path: &Path, own: u64, older: Option<&Path>) -> OpenError {
        match self {
            Bad::Damaged(offset, what) => OpenError::Corrupt {
                file: path.to_owned(),
                offset,
                what: what.to_owned(),
                way_out: match older {
                    Some(older) => format!(
                        "Move it out of the folder: the snapshot before it, {}, and the log have everything",
                        older.display()
                    ),
                    None => "Restore the folder from a backup, or, where the cluster has other \
                             servers, empty it and let this server join again"
                        .to_owned(),
                },
            },
            Bad::Newer(found) => OpenError::NewerFormat { file: path.to_owned(), found, known: VERSION },
            Bad::Other(found) => OpenError::OtherServer { dir: path.parent().unwrap_or(path).to_owned(), found, own },
            Bad::Io(source) => OpenError::io("read", path, source),
        }
    }

    fn into_io(self) -> io::Error {
        match self {
            Bad::Damaged(offset, what) => {
                io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot is damaged at byte {offset}: {what}"))
            }
            Bad::Newer(version) => {
                io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot has the later format {version}"))
            }
            Bad::Other(node) => io::Error::other(format!("the snapshot belongs to server {node}")),
            Bad::Io(error) => error,
        }
    }
}

/// Reads the content of a snapshot; nothing leaves it unchecked.
struct Chunks {
    file: Arc<dyn DiskFile>,
    at: u64,
    size: u64,
    chunk: bytes::Bytes,
    total: u64,
    ended: bool,
    bad: Option<Bad>,
}

impl Chunks {
    /// Opens a snapshot that `node` wrote, if it matters.
    fn open(file: &SnapshotFile, node: Option<u64>) -> Result<(Meta, Chunks), Bad> {
        let opened = file.disk.open(&file.path)?;
        let size = opened.size()?;
        let mut head = [0; HEADER];
        if read_full(&*opened, &mut head, 0)? < HEADER {
            return Err(Bad::Damaged(0, "the file is too short"));
        }
        let mut from = &head[..];
        if &from[..8] != MAGIC {
            return Err(Bad::Damaged(0, "it does not begin like a snapshot"));
        }
        from.advance(8);
        let version = from.get_u32_le();
        if version > VERSION {
            return Err(Bad::Newer(version));
        }
        let (crc, length) = (from.get_u32_le(), from.get_u32_le());
        if length > META_BYTES_MAX {
            return Err(Bad::Damaged(16, "the length of its description is wrong"));
        }
        let mut meta = vec![0; length as usize];
        if read_full(&*opened, &mut meta, HEADER as u64)? < meta.len() || crc32c::crc32c(&meta) != crc {
            return Err(Bad::Damaged(HEADER as u64, "the checksum of its description is wrong"));
        }
        let Ok(stored) = postcard::from_bytes::<StoredMeta>(&meta) else {
            return Err(Bad::Damaged(HEADER as u64, "its description cannot be read"));
        };
        if node.is_some_and(|node| node != stored.node) {
            return Err(Bad::Other(stored.node));
        }
        let as_id = |stored: Option<(u64, u64)>| stored.map(|(term, index)| id(term, index));
        let meta = Meta {
            last_log_id: as_id(stored.last),
            last_membership: MembersAt::new(as_id(stored.members_at), stored.members.into()),
        };
        let chunks = Chunks {
            file: opened,
            at: HEADER as u64 + u64::from(length),
            size,
            chunk: bytes::Bytes::new(),
            total: 0,
            ended: false,
            bad: None,
        };
        Ok((meta, chunks))
    }

    fn next_chunk(&mut self) -> Result<(), Bad> {
        let at = self.at;
        let mut head = [0; 8];
        if read_full(&*self.file, &mut head, at)? < head.len() {
            return Err(Bad::Damaged(at, "its end is missing"));
        }
        let (mut length, mut crc) = (&head[..4], &head[4..]);
        let (length, crc) = (length.get_u32_le() as usize, crc.get_u32_le());
        if length > CHUNK_BYTES {
            return Err(Bad::Damaged(at, "the length of a piece is wrong"));
        }
        let mut chunk = vec![0; if length == 0 { 8 } else { length }];
        if read_full(&*self.file, &mut chunk, at + 8)? < chunk.len() || crc32c::crc32c(&chunk) != crc {
            return Err(Bad::Damaged(at, "the checksum of a piece is wrong"));
        }
        self.at += 8 + chunk.len() as u64;
        if length > 0 {
            self.total += length as u64;
            self.chunk = chunk.into();
        } else if (&chunk[..]).get_u64_le() == self.total {
            self.ended = true;
        } else {
            return Err(Bad::Damaged(at, "pieces are missing"));
        }
        Ok(())
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            if let Err(bad) = self.next_chunk() {
                self.ended = true;
                self.bad = Some(bad);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is damaged"));
            }
        }
        let bytes = into.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut into[..bytes]);
        Ok(bytes)
    }
}

/// Writes the content of a snapshot.
struct ChunkWriter {
    file: Arc<dyn DiskFile>,
    at: u64,
    chunk: Vec<u8>,
    total: u64,
}

impl ChunkWriter {
    fn begin(file: Arc<dyn DiskFile>, node: u64, meta: &Meta) -> io::Result<ChunkWriter> {
        let pair = |id: &Id| (id.leader_id.term, id.index);
        let stored = StoredMeta {
            node,
            last: meta.last_log_id.as_ref().map(pair),
            members_at: meta.last_membership.log_id().as_ref().map(pair),
            members: meta.last_membership.membership().into(),
        };
        let stored = postcard::to_stdvec(&stored).map_err(io::Error::other)?;
        let mut head = Vec::with_capacity(HEADER + stored.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&stored).to_le_bytes());
        head.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        head.extend_from_slice(&stored);
        file.write_at(&head, 0)?;
        Ok(ChunkWriter { file, at: head.len() as u64, chunk: Vec::with_capacity(8 + CHUNK_BYTES), total: 0 })
    }

    /// Writes what was gathered.
    fn chunk(&mut self) -> io::Result<()> {
        if self.chunk.len() <= 8 {
            return Ok(());
        }
        let length = self.chunk.len() - 8;
        let crc = crc32c::crc32c(&self.chunk[8..]);
        self.chunk[..4].copy_from_slice(&(length as u32).to_le_bytes());
        self.chunk[4..8].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(&self.chunk, self.at)?;
        self.at += self.chunk.len() as u64;
        self.total += length as u64;
        self.chunk.clear();
        Ok(())
    }

    /// Ends the file; says how long it is.
    fn end(mut self) -> io::Result<u64> {
        self.chunk()?;
        let total = self.total.to_le_bytes();
        let mut end = [0; 16];
        end[4..8].copy_from_slice(&crc32c::crc32c(&total).to_le_bytes());
        end[8..].copy_from_slice(&total);
        self.file.write_at(&end, self.at)?;
        Ok(self.at + end.len() as u64)
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.chunk.resize(8, 0);
        }
        let bytes = &bytes[..bytes.len().min(8 + CHUNK_BYTES - self.chunk.len())];
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() == 8 + CHUNK_BYTES {
            self.chunk()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
