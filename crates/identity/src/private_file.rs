//! Files that hold keys: made whole or not at all, for their owner only, and never written over.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use byname_api::error::{Code, Error, Result};

/// The most bytes that are read.
const MAX_BYTES: u64 = 128 * 1024;
/// For the owner only.
pub(crate) const PRIVATE: u32 = 0o600;
/// For all to read.
pub(crate) const PUBLIC: u32 = 0o644;

/// Writes a new file of that mode: after a crash it is there with all its bytes, or not at all.
///
/// # Errors
///
/// `already-exists` when the name is taken, and `internal` when the disk refuses.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed = |what: &str, error: std::io::Error| {
        Error::new(Code::Internal, format!("{} cannot be {what}: {error}", path.display()))
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}.new", crate::session::new_id()?));
    let draft = Path::new(&draft);
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    // A link fails where a rename would write over somebody's key.
    let linked = written.and_then(|()| fs::hard_link(draft, path));
    let _ = fs::remove_file(draft);
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::new(Code::AlreadyExists, format!("{} is there already", path.display())));
        }
        Err(error) => return Err(failed("written", error)),
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed("made durable", error))
}

/// Reads a file that only its owner may read; none when there is no such file.
///
/// # Errors
///
/// `denied` when others may read it: then its content is no secret any more.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mode = file.metadata().map_err(|error| unreadable(path, &error))?.mode();
    if mode & 0o077 != 0 {
        let what = format!(
            "{} holds a key and can be read by others (mode {:o}): `chmod 600` it, if nobody has",
            path.display(),
            mode & 0o777
        );
        return Err(Error::new(Code::Denied, what));
    }
    read_all(file, path).map(Some)
}

/// Reads a file that anybody may read; none when there is no such file.
///
/// # Errors
///
/// `internal` when the disk refuses.
pub(crate) fn read_public(path: &Path) -> Result<Option<Vec<u8>>> {
    open(path)?.map(|file| read_all(file, path)).transpose()
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn read_all(file: File, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::Internal, format!("{} cannot be read: {error}", path.display()))
}
