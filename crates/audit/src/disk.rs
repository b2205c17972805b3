//! The few things that writing asks of a disk, as a trait, so that tests can fill it up and let it fail.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A disk with files.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Makes a file that only its owner reads, and its name durable. An empty one may be there; one with content is never
    /// touched.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Out>>;

    /// Opens a file to go on in it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Out>>;
}

/// An open file.
pub(crate) trait Out: Send {
    /// Writes all of `bytes`; after an error any part of them may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;

    /// Reads exactly what fits.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;

    /// Whether it is still the file of this name, and still has at least so many bytes. Also true when that cannot be told.
    fn is_at(&self, path: &Path, len: u64) -> bool;
}

/// The disk of this machine.
pub(crate) struct LocalDisk;

impl Disk for LocalDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Out>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() > 0 {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there and has content"));
        }
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Out>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }
}

impl Out for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, into, at)
    }

    fn is_at(&self, path: &Path, len: u64) -> bool {
        let Ok(this) = self.metadata() else { return true };
        match path.metadata() {
            Ok(named) => (named.dev(), named.ino()) == (this.dev(), this.ino()) && this.len() >= len,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

/// Makes the folder, readable by its owner only.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
