//! The few things this crate asks of a disk, as a trait, so that tests can lose power, fill it up and flip its bits.
//!
//! The contract is that of POSIX, no more: what was written is safe only after [`DiskFile::sync`], a new or renamed name only
//! after [`Disk::sync_dir`], and after a failed sync nothing is known about what was written since the last good one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

/// A disk with folders and files.
pub trait Disk: Send + Sync + 'static {
    /// Makes the folder and those above it.
    ///
    /// # Errors
    /// Those of the operating system, as in every method here.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a file, or empties one that is there, and reserves `bytes` for it, which read as zeros.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// `None` for a disk whose calls block, as those of every real one do: they are made on threads of their own. `Some` for
    /// one whose calls return at once: tasks make them, and let so much time pass before a sync, so that a simulation can
    /// have whole servers on one thread. Asked anew for every sync.
    fn waits(&self) -> Option<Duration> {
        None
    }
}

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Its size, in bytes, the reserved part included.
    fn size(&self) -> io::Result<u64>;

    /// Reads what there is, at most `into.len()` bytes; 0 at the end.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// The next place from `at` on that may hold something else than zeros; `None` when there is none. A disk that does not
    /// know says `at`.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        Ok(Some(at))
    }

    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        // The log holds what not everybody may read.
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        if bytes > 0 {
            match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
                Ok(()) => {}
                // A file system without reservation: the space may run out later, which the writer can take too.
                Err(Errno::OPNOTSUPP) => file.set_len(bytes)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        match seek(self, SeekFrom::Data(at)) {
            Ok(next) => Ok(Some(next)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Does what may wait for `disk`, where that holds up nobody else.
pub(crate) async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    match disk.waits() {
        None => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
        Some(time) => {
            tokio::time::sleep(time).await;
            Ok(work())
        }
    }
}

/// Reads until `into` is full or the file ends; says how much there was.
pub(crate) fn read_full(file: &dyn DiskFile, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_room_is_passed_over_and_what_was_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = LocalDisk.create(&dir.path().join("file"), 4 << 20).unwrap();
        assert_eq!(file.size().unwrap(), 4 << 20);
        file.write_at(b"here", 3 << 20).unwrap();
        let mut at = 0;
        let mut found = false;
        while let Some(next) = file.next_data(at).unwrap().filter(|&next| next < 4 << 20) {
            assert!(next >= at);
            found |= next <= 3 << 20 && 3 << 20 < next + 4096;
            at = next + 4096;
        }
        assert!(found);
        assert_eq!(file.next_data(5 << 20).unwrap_or(None), None);
    }
}
