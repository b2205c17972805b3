//! What only the primary can do is passed on to it, with the caller's identity.
//!
//! The primary looks again whether the caller may: it has the newest lists. Nothing is passed on twice: a server that was
//! the primary a moment ago says that it is not, and whoever asked finds the next one.

use std::sync::Arc;
use std::time::Duration;

use byname_api::NameService;
use byname_api::error::{Code, Error, NO_PRIMARY, Result};
use byname_api::request::Context;
use byname_cluster::Server;

use crate::{Inner, Node};

/// How long a request waits for a primary to be found: an election takes less.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a server without a primary looks whether it hears one.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Reaches the other servers of the cluster.
pub trait Peers: Send + Sync + 'static {
    /// The operations of another server. They are done for the caller in the context, whom this server has admitted.
    ///
    /// # Errors
    /// When it is not known how to reach that server.
    fn service(&self, server: &Server) -> Result<Arc<dyn NameService>>;
}

impl Node {
    /// Gives the way to the other servers; without it, only the primary takes writes. The first call counts.
    pub fn reach_peers(&self, peers: Arc<dyn Peers>) {
        let _ = self.inner.peers.set(peers);
    }
}

impl Inner {
    /// The primary's operations, when that is another server.
    ///
    /// # Errors
    /// `unavailable` when there is no primary, or the request was passed on already.
    pub(crate) async fn elsewhere(&self, cx: &Context) -> Result<Option<Arc<dyn NameService>>> {
        if self.reigns() || self.cluster.is_primary() {
            return Ok(None);
        }
        let mut role = self.cluster.role();
        // The engine goes on naming a primary that has fallen silent; whoever is cut off has none.
        let heard = || !self.cluster.freshness().stale;
        let known = async {
            loop {
                let now = *role.borrow_and_update();
                if now.primary || (now.of.is_some_and(|of| of != self.config.id) && heard()) {
                    return Ok(now);
                }
                tokio::select! {
                    changed = role.changed() => changed?,
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        };
        let role = match tokio::time::timeout(PATIENCE, known).await {
            Ok(Ok(role)) => role,
            Ok(Err::<_, tokio::sync::watch::error::RecvError>(_)) => {
                return Err(Error::new(Code::Unavailable, "the server is shutting down"));
            }
            Err(_) => return Err(no_primary()),
        };
        if role.primary {
            // It has been elected this moment; what it does first is on its way.
            return Ok(None);
        }
        let primary = role.of.unwrap_or_default();
        if cx.caller.via.is_some() {
            let what = format!("server {primary} is the primary now: ask again");
            return Err(Error::new(Code::Unavailable, what).field(NO_PRIMARY));
        }
        let member = self.cluster.members().into_iter().find(|member| member.server.id == primary);
        match (member, self.peers.get()) {
            (Some(member), Some(peers)) => peers.service(&member.server).map(Some),
            _ => {
                Err(Error::new(Code::Unavailable, format!("server {primary} is the primary: ask there"))
                    .field(NO_PRIMARY))
            }
        }
    }

    /// Makes sure that no other server leads, where what is answered is only true if so and is not in the log: a timer that was
    /// set again. One that leads alone need not ask.
    pub(crate) async fn still_leads(&self) -> Result<()> {
        if self.cluster.members().len() < 2 {
            return Ok(());
        }
        self.confirm().await
    }

    /// What the primary answered, when this server has what it did: whoever asked here looks here next.
    pub(crate) async fn seen_here<T>(&self, answer: Result<T>) -> Result<T> {
        // A start that failed has left its story, too.
        if answer.as_ref().err().is_none_or(|error| error.code() != Code::Unavailable) {
            // If no majority answers now, it is here a little later.
            let _ = self.cluster.confirm().await;
        }
        answer
    }
}

/// What is answered while nobody leads, and to those who waited for one that does not lead any more.
pub(crate) fn no_primary() -> Error {
    Error::new(
        Code::Unavailable,
        "there is no primary: a majority of the servers cannot be reached (`byname cluster status`); reads go on",
    )
    .field(NO_PRIMARY)
}
