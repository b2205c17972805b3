//! The lock on the data directory.
//!
//! A lock of the kernel (`flock`) on `DIR/lock`, so that it ends with the process however that ends. The file's content, the
//! process id, is for people only. On a network file system neither the lock nor fsync means what this program needs, so it
//! is refused there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, fstatfs};
use rustix::io::Errno;

use crate::OpenError;

/// Holds a data directory until dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
    path: PathBuf,
}

impl DirLock {
    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the data directory `dir`, which is created when it is not there.
///
/// # Errors
/// [`OpenError::InUse`] when another process has it, [`OpenError::NetworkFileSystem`] when its file system is shared between
/// hosts, [`OpenError::Io`] otherwise.
pub fn lock_data_dir(dir: &Path) -> Result<DirLock, OpenError> {
    std::fs::create_dir_all(dir).map_err(|e| OpenError::io("create", dir, e))?;
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| OpenError::io("open", &path, e))?;
    let kind = fstatfs(&file).map_err(|e| OpenError::io("look at the file system of", &path, e.into()))?.f_type;
    if let Some(kind) = network_file_system(kind as u64) {
        return Err(OpenError::NetworkFileSystem { dir: dir.to_owned(), kind });
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let holder = match file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok()) {
                Some(pid) => format!("pid {pid}"),
                None => "another process".to_owned(),
            };
            return Err(OpenError::InUse { dir: dir.to_owned(), holder });
        }
        Err(e) => return Err(OpenError::io("lock", &path, e.into())),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())
    };
    // The content only helps people, so a full disk must not keep the server from answering reads.
    if let Err(error) = write(&mut file) {
        tracing::warn!(path = %path.display(), %error, "the process id could not be written into the lock file");
    }
    Ok(DirLock { _file: file, path })
}

/// The name of the network file system with this magic number (linux/magic.h and the file systems' own headers). FUSE is not
/// among them: it is local as often as not.
fn network_file_system(magic: u64) -> Option<&'static str> {
    Some(match magic & 0xFFFF_FFFF {
        0x6969 => "NFS",
        0x517B => "SMB",
        0xFF53_4D42 => "CIFS",
        0xFE53_4D42 => "SMB2",
        0x0102_1997 => "9p",
        0x00C3_6400 => "Ceph",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x564C => "NCP",
        0x0116_1970 => "GFS2",
        0x7461_636F => "OCFS2",
        0x0BD0_0BD0 => "Lustre",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_data_dir(dir.path()).unwrap();
        let refused = lock_data_dir(dir.path()).unwrap_err();
        assert!(refused.to_string().contains(&format!("already in use by pid {}", std::process::id())), "{refused}");
        drop(held);
        lock_data_dir(dir.path()).unwrap();
    }

    #[test]
    fn network_file_systems_are_known_by_their_magic_numbers() {
        assert_eq!(network_file_system(0x6969), Some("NFS"));
        // A 32-bit f_type with the top bit set arrives sign-extended.
        assert_eq!(network_file_system(0xFFFF_FFFF_FE53_4D42), Some("SMB2"));
        assert_eq!(network_file_system(0xEF53), None, "ext4");
        assert_eq!(network_file_system(0x6573_5546), None, "FUSE");
    }
}
