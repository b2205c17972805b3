//! What a backup holds, for those who start again from it.

use std::io;
use std::path::Path;

use byname_cluster::OpenError;
use byname_registry::stored;

use crate::identity::AUTHORITY;
use crate::members::server_numbers;

/// A look into a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Objects in its tree.
    pub objects: u64,
    /// The revision of its tree.
    pub revision: u64,
    /// A number that none of the cluster's servers ever had.
    pub next_server: u64,
    /// The authority of the trust domain, sealed under the cluster key.
    pub sealed_authority: Option<Vec<u8>>,
}

impl Backup {
    /// Reads and checks a whole backup. Blocks.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or cannot be read.
    pub fn read(file: &Path) -> Result<Backup, OpenError> {
        let mut found = None;
        let servers = byname_cluster::read_backup(file, |from| {
            let registry = stored::read_snapshot(from).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let tree = registry.tree();
            found = Some(Backup {
                objects: tree.len() as u64,
                revision: tree.revision,
                next_server: server_numbers(tree).max().unwrap_or(0),
                sealed_authority: tree.vault(AUTHORITY).map(<[u8]>::to_vec),
            });
            Ok(())
        })?;
        let mut backup = found.unwrap_or(Backup { objects: 0, revision: 0, next_server: 0, sealed_authority: None });
        let highest = servers.iter().map(|server| server.id).max().unwrap_or(0);
        backup.next_server = backup.next_server.max(highest) + 1;
        Ok(backup)
    }
}
