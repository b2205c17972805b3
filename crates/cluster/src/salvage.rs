//! Backups, and starting again from one, or from the only disk that is left.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use openraft::EntryPayload;
use openraft::impls::BasicNode;
use openraft::storage::{IOFlushed, RaftLogStorage};

use crate::cluster::Cluster;
use crate::disk::{Disk, LocalDisk};
use crate::log;
use crate::raft::{Ballot, LeaderId, LogEntry, Members, MembersAt, id, position};
use crate::snapshot::{SnapshotFile, Snapshots};
use crate::{OpenError, Options, Position, Server, SnapshotError};

/// What is read at once.
const PIECE_BYTES: usize = 512 << 10;

impl Cluster {
    /// All that was answered until now, as the bytes of a file for [`restore`], in pieces.
    ///
    /// # Errors
    /// When no snapshot can be written, or this server cannot tell what was answered.
    pub async fn backup(&self) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, SnapshotError> {
        self.confirm().await.map_err(|error| SnapshotError::Failed(error.to_string()))?;
        self.snapshot().await?;
        let (_, snapshot) = self.newest_snapshot().ok_or(SnapshotError::Stopped)?;
        // Open from here on, so that it may be removed meanwhile.
        let file = snapshot.open().map_err(|error| SnapshotError::Failed(error.to_string()))?;
        let size = file.size().map_err(|error| SnapshotError::Failed(error.to_string()))?;
        let pieces = futures_util::stream::unfold(0, move |at| {
            let file = Arc::clone(&file);
            async move {
                if at >= size {
                    return None;
                }
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; PIECE_BYTES.min((size - at) as usize)];
                    let got = crate::disk::read_full(&*file, &mut bytes, at)?;
                    bytes.truncate(got);
                    if got == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Bytes::from(bytes)) }
                });
                match read.await.map_err(io::Error::other).flatten() {
                    Ok(bytes) => {
                        let next = at + bytes.len() as u64;
                        Some((Ok(bytes), next))
                    }
                    Err(error) => Some((Err(error), size)),
                }
            }
        });
        Ok(pieces)
    }
}

/// Gives the content of a backup to `read`, all of it checked, and tells the servers of the cluster that it is of. Blocks.
///
/// # Errors
/// When it is damaged or cannot be read, and those of `read`.
pub fn read_backup(
    backup: &Path,
    read: impl FnOnce(&mut dyn io::Read) -> io::Result<()>,
) -> Result<Vec<Server>, OpenError> {
    let failed = |source| OpenError::io("read", backup, source);
    let meta = SnapshotFile::at(Arc::new(LocalDisk), backup).read(read).map_err(failed)?;
    let nodes = meta.last_membership.membership().nodes();
    Ok(nodes.map(|(id, node)| Server { id: *id, address: node.addr.clone() }).collect())
}

/// Makes a new folder for server `options.node_id` of a cluster of its own, with the content of a backup. Blocks.
///
/// # Errors
/// When there is a log in the folder already, the backup is damaged, or the disk refuses.
pub fn restore(options: &Options, backup: &Path) -> Result<Position, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
    for folder in ["log", "snapshots"] {
        let path = options.dir.join(folder);
        if disk.list(&path).is_ok_and(|names| !names.is_empty()) {
            let source =
                io::Error::new(io::ErrorKind::AlreadyExists, "it holds the log of a server: choose a new folder");
            return Err(OpenError::io("restore into", &path, source));
        }
    }
    let snapshots = Snapshots::open(Arc::clone(&disk), options.dir.join("snapshots"), options.node_id)?;
    let from = SnapshotFile::at(Arc::clone(&disk), backup);
    let members_of = |at| MembersAt::new(at, alone(options));
    let (meta, _) = snapshots
        .take_over(&from, |meta| meta.last_membership = members_of(meta.last_log_id))
        .map_err(|source| OpenError::io("restore from", backup, source))?;
    let last = meta.last_log_id.unwrap_or(id(0, 0));
    Ok(position(&last))
}

/// Makes the server whose folder this is the only one of its cluster: for the day on which the disks of the others are lost.
/// What it had received and what a majority may never have confirmed counts from now on; what only the others had is gone.
/// The others must not be started again. The folder must not be in use.
///
/// # Errors
/// When the folder cannot be read, or the disk refuses.
pub async fn stand_alone(options: &Options) -> Result<Position, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
    let dir = options.dir.join("log");
    let snapshots = Snapshots::open(Arc::clone(&disk), options.dir.join("snapshots"), options.node_id)?;
    let covered = snapshots.newest().and_then(|(meta, _)| meta.last_log_id);
    let opened = log::open(disk, dir.clone(), options.node_id, options.segment_bytes, covered.map(|id| id.index))?;
    let mut store = opened.store;
    let failed = |source| OpenError::io("write", &dir, source);
    let vote = opened.vote.map_or(0, |vote| vote.leader_id.term);
    let last = opened.last.max(covered);
    let term = vote.max(last.map_or(0, |last| last.leader_id.term)) + 1;
    let ballot = Ballot { leader_id: LeaderId { term, voted_for: options.node_id }, committed: false };
    store.save_vote(&ballot).await.map_err(failed)?;
    let at = id(term, last.map_or(0, |last| last.index + 1));
    let entry = LogEntry { log_id: at, payload: EntryPayload::Membership(alone(options)) };
    store.append([entry], IOFlushed::noop()).await.map_err(failed)?;
    opened.handle.settled().await;
    opened.handle.close().await;
    Ok(position(&at))
}

/// The membership of a cluster of this one server.
fn alone(options: &Options) -> Members {
    let own = options.node_id;
    let nodes = BTreeMap::from([(own, BasicNode::new(options.address.clone()))]);
    let voters = vec![BTreeSet::from([own])];
    Members::new(voters.clone(), nodes).unwrap_or_else(|_| Members::new_with_defaults(voters, [own]))
}
