//! The way in for fuzzing: what a start reads, from files in memory. Built with `--cfg fuzzing` only.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::log::frame::{FRAME_HEADER, MAGIC, SEGMENT_HEADER, VERSION, frame_bytes};
use crate::log::recover::{recover as recover_log, segment_path};
use crate::snapshot::Snapshots;

const DIR: &str = "/fuzz";
const NODE: u64 = 1;

/// Recovers a log of these files, the first as number 1. `reseal` makes magic numbers, numbers of files and checksums right
/// first, so that what lies behind them is reached.
///
/// # Panics
/// When a log that was recovered is another one the next time.
pub fn recover(files: &[&[u8]], reseal: bool) {
    let disk = MemoryDisk::default();
    for (number, bytes) in files.iter().enumerate() {
        let sequence = number as u64 + 1;
        let mut bytes = bytes.to_vec();
        if reseal {
            reseal_segment(&mut bytes, sequence);
        }
        disk.put(segment_path(Path::new(DIR), sequence), bytes);
    }
    let look = |disk: &MemoryDisk| {
        let found = recover_log(disk, Path::new(DIR), NODE, Some(1)).ok()?;
        Some((found.last, found.purged, found.vote, found.members, found.end, found.segments.len()))
    };
    if let Some(found) = look(&disk) {
        assert_eq!(look(&disk), Some(found), "the second recovery finds what the first found");
    }
}

/// Reads a snapshot. `reseal` makes the checksums right first.
pub fn read_snapshot(bytes: &[u8], reseal: bool) {
    let mut bytes = bytes.to_vec();
    if reseal {
        reseal_snapshot(&mut bytes);
    }
    let disk = MemoryDisk::default();
    disk.put(Path::new(DIR).join(format!("{:016x}-{:016x}.snap", 1, 1)), bytes);
    if let Ok(snapshots) = Snapshots::open(Arc::new(disk), PathBuf::from(DIR), NODE) {
        let _ = snapshots.restore(|from| io::copy(from, &mut io::sink()).map(drop));
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes) as usize
}

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn seal(bytes: &mut [u8], at: usize, from: usize, to: usize) {
    if let Some(sealed) = bytes.get(from..to) {
        let crc = crc32c::crc32c(sealed).to_le_bytes();
        set(bytes, at, &crc);
    }
}

fn reseal_segment(bytes: &mut Vec<u8>, sequence: u64) {
    if bytes.len() < SEGMENT_HEADER {
        bytes.resize(SEGMENT_HEADER, 0);
    }
    set(bytes, 0, MAGIC);
    set(bytes, 8, &VERSION.to_le_bytes());
    set(bytes, 16, &NODE.to_le_bytes());
    set(bytes, 24, &sequence.to_le_bytes());
    seal(bytes, 12, 16, SEGMENT_HEADER);
    let mut at = SEGMENT_HEADER;
    while at + FRAME_HEADER <= bytes.len() {
        let payload = number(bytes, at + 4);
        set(bytes, at + 9, &[0; 3]);
        set(bytes, at + 12, &(sequence as u32).to_le_bytes());
        seal(bytes, at, at + 4, (at + FRAME_HEADER).saturating_add(payload));
        at = at.saturating_add(frame_bytes(payload));
    }
}

fn reseal_snapshot(bytes: &mut [u8]) {
    const HEADER: usize = 20;
    set(bytes, 0, b"BYNSNAP\0");
    set(bytes, 8, &1u32.to_le_bytes());
    let meta = number(bytes, 16);
    seal(bytes, 12, HEADER, HEADER.saturating_add(meta));
    let mut at = HEADER.saturating_add(meta);
    while at + 8 <= bytes.len() {
        let length = match number(bytes, at) {
            0 => 8,
            length => length,
        };
        seal(bytes, at + 4, at + 8, (at + 8).saturating_add(length));
        at = (at + 8).saturating_add(length);
    }
}

/// Files in memory.
#[derive(Clone, Default)]
struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>>);

#[derive(Default)]
struct MemoryFile(Mutex<Vec<u8>>);

impl MemoryDisk {
    fn put(&self, path: PathBuf, bytes: Vec<u8>) {
        self.0.lock().insert(path, Arc::new(MemoryFile(Mutex::new(bytes))));
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        let files = self.0.lock();
        Ok(files.keys().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, _path: &Path, _bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        match self.0.lock().get(path) {
            Some(file) => Ok(Arc::<MemoryFile>::clone(file)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let content = self.0.lock();
        let rest = content.get(at as usize..).unwrap_or_default();
        let bytes = into.len().min(rest.len());
        into[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut content = self.0.lock();
        let end = at as usize + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[at as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
