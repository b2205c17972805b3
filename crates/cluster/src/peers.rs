//! What passes between the servers of a cluster, and the line that it takes.
//!
//! The engine's messages are calls: a request, and one answer or none. A [`Transport`] carries them; it knows neither what
//! they say nor why. `links.rs` is the one over byte streams; a simulation has one that loses, delays and repeats.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// A server of the cluster, as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Server {
    /// Its number, never used again for another.
    pub id: u64,
    /// Where its peers reach it: `HOST:PORT`. Empty for a server that never had a peer.
    pub address: String,
}

/// What a message may wait behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Entries, heartbeats, votes, questions: small, or wanted soon. Messages on this lane arrive in the order of the calls.
    Log,
    /// Pieces of snapshots, which would hold up the others.
    Bulk,
}

/// Carries calls to other servers.
///
/// The contract is that of a bad network, no more: a call may be lost, its answer may be lost, it may arrive late, twice or
/// behind a later one; all of that costs time only. What is not allowed is to change bytes, or to say that they come from a
/// server that did not send them.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `to`, where [`Cluster::answer`](crate::Cluster::answer) is to be called with it, and gives what that
    /// answered. The place of the request in its lane is that of this call, whenever the future is polled. The future ends
    /// after `within` at the latest.
    fn call(&self, to: &Server, lane: Lane, request: Bytes, within: Duration) -> BoxFuture<'static, io::Result<Bytes>>;
}

/// Reaches nobody: the transport of a server without peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn call(&self, to: &Server, _: Lane, _: Bytes, _: Duration) -> BoxFuture<'static, io::Result<Bytes>> {
        let text = format!("there is no link to server {}", to.id);
        Box::pin(std::future::ready(Err(io::Error::new(io::ErrorKind::NotConnected, text))))
    }
}
