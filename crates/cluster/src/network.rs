//! The engine's way out: its messages as calls over a [`Transport`].
//!
//! Every call ends by a bound of its own whatever the peer does, because a call that hangs holds up the engine. Entries are
//! sent without waiting for the answers to those before, so that a round trip is no part of the time between two writes.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::disk::read_full;
use crate::peers::{Lane, Server, Transport};
use crate::raft::{Ballot, Id, Term, Types};
use crate::snapshot::SnapshotFile;
use crate::wire::{self, Piece};

/// Messages with entries that may be on their way to a peer.
const APPENDS_UNDER_WAY: usize = 64;
/// How long entries may take to be on a peer's disk before they are sent anew.
const APPEND_PATIENCE: Duration = Duration::from_secs(2);
/// A heartbeat or a vote that takes longer than so many times the time between heartbeats says nothing any more.
const SHORT_CALLS: u32 = 4;
/// A piece of a snapshot.
const PIECE_BYTES: usize = 512 << 10;
/// How long a piece may take; the last one until the state machine has taken up the whole.
const PIECE_PATIENCE: Duration = Duration::from_secs(10);
const LAST_PIECE_PATIENCE: Duration = Duration::from_secs(300);
/// A piece without an answer is sent again after this long.
const PIECE_AGAIN: Duration = Duration::from_secs(4);
/// The pause after a peer could not be reached.
const BACKOFF: Duration = Duration::from_millis(50);

/// The lines to all peers.
#[derive(Clone)]
pub(crate) struct Network {
    transport: Arc<dyn Transport>,
    /// Where the servers are by the newest word: an address may change while the engine holds on to a peer.
    addresses: Arc<Mutex<BTreeMap<u64, String>>>,
    sessions: Arc<AtomicU64>,
}

impl Network {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Network {
        Network { transport, addresses: Arc::default(), sessions: Arc::default() }
    }

    /// Takes in where the servers are.
    pub(crate) fn learn(&self, servers: impl IntoIterator<Item = Server>) {
        let mut addresses = self.addresses.lock();
        for server in servers {
            addresses.insert(server.id, server.address);
        }
    }

    /// A number for the sending of a snapshot; with the vote it is never used again.
    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks a server, and takes the refusal out of its answer.
    pub(crate) fn ask(
        &self,
        to: u64,
        lane: Lane,
        request: Bytes,
        within: Duration,
    ) -> impl Future<Output = io::Result<Bytes>> + Send + use<> {
        let address = self.addresses.lock().get(&to).cloned().unwrap_or_default();
        let call = self.transport.call(&Server { id: to, address }, lane, request, within);
        async move { wire::answered(call.await?).map_err(io::Error::other) }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.addresses.lock().entry(target).or_insert_with(|| node.addr.clone());
        Peer { target, network: self.clone() }
    }
}

/// The line to one peer.
pub(crate) struct Peer {
    target: u64,
    network: Network,
}

type AppendResult = Result<StreamAppendResult<Types>, RPCError<Types>>;

impl Peer {
    fn ask(&self, request: Bytes, within: Duration) -> impl Future<Output = io::Result<Bytes>> + Send + use<> {
        self.network.ask(self.target, Lane::Log, request, within)
    }

    async fn ask_for_vote(
        &self,
        rpc: &VoteRequest<Types>,
        pre: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.ask(wire::vote(rpc, pre), short(option)).await.map_err(failed)?;
        wire::vote_answer(answer).ok_or_else(damaged)
    }

    /// Sends entries. The place of the message in the line is that of this call.
    fn send(
        &self,
        rpc: AppendEntriesRequest<Types>,
        option: &RPCOption,
    ) -> impl Future<Output = Result<AppendEntriesResponse<Types>, RPCError<Types>>> + Send + use<> {
        let within = if rpc.entries.is_empty() { short(option) } else { APPEND_PATIENCE.max(option.hard_ttl()) };
        let call = self.ask(wire::append(rpc), within);
        async move { wire::append_answer(call.await.map_err(failed)?).ok_or_else(damaged) }
    }
}

fn short(option: &RPCOption) -> Duration {
    option.hard_ttl() * SHORT_CALLS
}

fn failed(error: io::Error) -> RPCError<Types> {
    match error.kind() {
        io::ErrorKind::TimedOut => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

fn damaged() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("the answer is damaged"))
}

fn out_of_order() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("the messages came in another order"))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.send(rpc, &option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let peer = &*self;
        let results = input
            .map(move |rpc| {
                let prev = rpc.prev_log_id;
                let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
                let sent = peer.send(rpc, &option);
                async move {
                    let response = sent.await?;
                    Ok((last, result_of(response, prev, last)))
                }
            })
            .buffered(APPENDS_UNDER_WAY)
            // What follows a message that was not taken whole cannot be right. If it does not fit behind one that was, it came
            // before that one, and will fit when it is sent anew; to the engine it would be a peer that has lost its log.
            .scan(Some(false), |taken, result: Result<(Option<Id>, StreamAppendResult<Types>), _>| {
                let next = taken.map(|before| {
                    let whole = matches!(&result, Ok((last, Ok(upto))) if upto == last);
                    *taken = whole.then_some(true);
                    match result {
                        Ok((_, Err(StreamAppendError::Conflict(_)))) if before => Err(out_of_order()),
                        result => result.map(|(_, result)| result),
                    }
                });
                std::future::ready(next)
            });
        Box::pin(std::future::ready(Ok(Box::pin(results) as BoxStream<'s, AppendResult>)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(&rpc, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(&rpc, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Ballot,
        snapshot: Snapshot<Term, u64, BasicNode, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_pieces(vote, &snapshot.snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.ask(wire::transfer(&req), short(&option)).await.map_err(failed)?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

impl Peer {
    /// Sends the file of a snapshot, one piece after the other.
    async fn send_pieces(
        &self,
        vote: Ballot,
        snapshot: &SnapshotFile,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let file = snapshot.open().map_err(unreadable)?;
        let size = file.size().map_err(unreadable)?;
        let session = self.network.next_session();
        let mut offset = 0;
        loop {
            let mut bytes = vec![0; PIECE_BYTES.min((size - offset) as usize)];
            let got = read_full(&*file, &mut bytes, offset).map_err(unreadable)?;
            if got < bytes.len() {
                return Err(unreadable(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            let last = offset + got as u64 == size;
            let piece = wire::piece(&Piece { vote, session, offset, last, bytes: bytes.into() });
            let within = if last { LAST_PIECE_PATIENCE } else { PIECE_PATIENCE };
            let answer = self.send_piece(piece, within).await;
            let answer = answer.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
            let theirs = wire::piece_answer(answer)
                .ok_or_else(|| StreamingError::Network(NetworkError::from_string("the answer is damaged")))?;
            if last || theirs > vote {
                return Ok(SnapshotResponse::new(theirs));
            }
            offset += got as u64;
        }
    }
}

impl Peer {
    /// Sends a piece until it is answered, or `within` is over.
    async fn send_piece(&self, piece: Bytes, within: Duration) -> io::Result<Bytes> {
        let end = Instant::now() + within;
        loop {
            let answer = self.network.ask(self.target, Lane::Bulk, piece.clone(), PIECE_AGAIN).await;
            match answer {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && Instant::now() < end => {}
                answer => return answer,
            }
        }
    }
}

fn unreadable(error: io::Error) -> StreamingError<Types> {
    let error = io::Error::other(format!("the snapshot cannot be read: {error}"));
    StreamingError::Unreachable(Unreachable::new(&error))
}

/// As the engine wants to hear it of a stream.
fn result_of(response: AppendEntriesResponse<Types>, prev: Option<Id>, last: Option<Id>) -> StreamAppendResult<Types> {
    match (response, prev) {
        (AppendEntriesResponse::Conflict, None) => Ok(None),
        (response, prev) => response.into_stream_result(prev, last),
    }
}
