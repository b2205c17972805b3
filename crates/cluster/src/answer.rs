//! What a server answers to the others.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::{Raft, Snapshot};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::disk::{DiskFile, blocking};
use crate::raft::{Ballot, Types};
use crate::snapshot::{SnapshotFile, Snapshots};
use crate::state::StateMachine;
use crate::wire::{self, Piece, Request};

/// The end of the line from the other servers.
pub(crate) struct Answering {
    raft: Raft<Types, StateMachine>,
    snapshots: Arc<Snapshots>,
    incoming: Mutex<Option<Incoming>>,
    /// When the primary was last heard.
    heard: Mutex<Option<Instant>>,
}

/// A snapshot that is being received.
struct Incoming {
    vote: Ballot,
    session: u64,
    file: Arc<dyn DiskFile>,
    whole: SnapshotFile,
    at: u64,
}

impl Answering {
    pub(crate) fn new(raft: Raft<Types, StateMachine>, snapshots: Arc<Snapshots>) -> Answering {
        Answering { raft, snapshots, incoming: Mutex::new(None), heard: Mutex::new(None) }
    }

    /// How long ago the primary was heard.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.heard.lock().map(|heard| heard.elapsed())
    }

    /// Answers what is between engines. The messages with entries reach the engine in the order in which the futures are
    /// first polled.
    pub(crate) fn answer(self: Arc<Self>, request: Request) -> impl Future<Output = Bytes> + Send {
        async move {
            let answer = match request {
                Request::Append(rpc) => {
                    let vote = rpc.vote;
                    self.raft.append_entries(rpc).await.map(|response| {
                        if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) && vote.committed {
                            *self.heard.lock() = Some(Instant::now());
                        }
                        wire::answer_append(&response)
                    })
                }
                Request::Vote(rpc) => self.raft.vote(rpc).await.map(|response| wire::answer_vote(&response)),
                Request::PreVote(rpc) => self.raft.pre_vote(rpc).await.map(|response| wire::answer_vote(&response)),
                Request::Transfer(rpc) => {
                    let taken = self.raft.handle_transfer_leader(rpc).await;
                    return taken.map_or_else(|e| wire::refusal(&e.to_string()), |_| wire::answer_nothing());
                }
                Request::Piece(piece) => {
                    let taken = self.take_piece(piece).await;
                    return taken.unwrap_or_else(|error| wire::refusal(&error.to_string()));
                }
                Request::ReadPoint | Request::Propose(_) | Request::Announce { .. } => {
                    return wire::refusal("not a message between engines");
                }
            };
            answer.unwrap_or_else(|error| wire::refusal(&error.to_string()))
        }
    }

    /// Takes a piece of a snapshot; with the last one, gives the whole to the engine.
    async fn take_piece(&self, piece: Piece) -> io::Result<Bytes> {
        let Some(incoming) = self.put_piece(&piece)? else { return Ok(wire::answer_piece(&piece.vote)) };
        let snapshots = Arc::clone(&self.snapshots);
        // Everything that can go wrong with a disk goes wrong here, before the engine hears of it: it stops for good when
        // a snapshot cannot be installed.
        let check_in = move || snapshots.check_in(&incoming.whole);
        let (meta, snapshot) = blocking(self.snapshots.disk(), check_in).await??;
        let installed = self.raft.install_full_snapshot(piece.vote, Snapshot { meta, snapshot }).await;
        let response = installed.map_err(io::Error::other)?;
        *self.heard.lock() = Some(Instant::now());
        Ok(wire::answer_piece(&response.vote))
    }

    /// Writes a piece into its place; gives what is whole now.
    fn put_piece(&self, piece: &Piece) -> io::Result<Option<Incoming>> {
        let mut slot = self.incoming.lock();
        let known = slot.as_ref().is_some_and(|got| got.vote == piece.vote && got.session == piece.session);
        if piece.offset == 0 && !known {
            if slot.as_ref().is_some_and(|got| got.vote > piece.vote) {
                return Err(io::Error::other("another primary sends a snapshot"));
            }
            let (file, whole) = self.snapshots.incoming()?;
            *slot = Some(Incoming { vote: piece.vote, session: piece.session, file, whole, at: 0 });
        }
        let Some(end) = piece.offset.checked_add(piece.bytes.len() as u64) else {
            return Err(io::Error::other("a piece of the snapshot is damaged"));
        };
        let current = |got: &&mut Incoming| got.vote == piece.vote && got.session == piece.session;
        match slot.as_mut().filter(current) {
            // A message that came twice.
            Some(got) if end <= got.at && !piece.last => return Ok(None),
            Some(got) if piece.offset == got.at => {
                got.file.write_at(&piece.bytes, piece.offset)?;
                got.at = end;
            }
            _ => return Err(io::Error::other("a piece of the snapshot before this one is missing")),
        }
        Ok(if piece.last { slot.take() } else { None })
    }
}
