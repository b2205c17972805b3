//! The agent's socket for programs that ask who they are: the SPIFFE Workload API, and Envoy's secret discovery.
//!
//! Nobody signs in here. The kernel says which process connected, the agent to which instance it belongs
//! (`byname_launch::Workloads`), and that is what it gets the identity of. So the socket's mode is 0666.
//!
//! Libraries for it find the socket by SPIFFE_ENDPOINT_SOCKET, which the agent sets.

mod connection;
mod secrets;
mod workload;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use byname_api::{Code, Result};
use byname_launch::{Svid, Workloads};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::Status;

use connection::Caller;

#[allow(missing_docs, unreachable_pub, unused_qualifications, dead_code, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/spiffe.rs"));
}

/// How long a caller waits for a certificate that was not issued yet.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many calls of one connection are served at once.
const CALLS: usize = 64;

/// Checks tokens that programs were shown.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Whether this is a good token for this audience, and what it says.
    ///
    /// # Errors
    ///
    /// Why it is not.
    async fn validate(&self, token: &str, audience: &str) -> Result<Claims>;
}

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// Whose it is: the SPIFFE id.
    pub spiffe: String,
    /// All claims.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// Serves on the agent's socket (`Agent::listen_for_workloads`) until `shutdown`. Open streams end then.
///
/// # Errors
///
/// The listener's.
pub async fn serve(
    listener: UnixListener,
    workloads: Arc<dyn Workloads>,
    tokens: Arc<dyn Tokens>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (close, closing) = watch::channel(false);
    let agent = Agent { workloads, closing };
    let incoming = connection::accept(listener, agent.workloads.clone());
    tonic::transport::Server::builder()
        .concurrency_limit_per_connection(CALLS)
        .add_service(workload::service(agent.clone(), tokens))
        .add_service(secrets::service(agent))
        .serve_with_incoming_shutdown(incoming, async {
            shutdown.await;
            close.send_replace(true);
        })
        .await
        .map_err(io::Error::other)
}

/// What both services ask.
#[derive(Clone)]
struct Agent {
    workloads: Arc<dyn Workloads>,
    closing: watch::Receiver<bool>,
}

type Svids = watch::Receiver<Option<Arc<Svid>>>;

impl Agent {
    /// The certificate of whoever calls, which is there when this returns.
    async fn identity(&self, caller: Option<Caller>) -> std::result::Result<(Caller, Svids), Status> {
        let none = || Status::permission_denied("no identity issued");
        let caller = caller.ok_or_else(none)?;
        let mut svids = caller.instance.and_then(|id| self.workloads.svid(id)).ok_or_else(none)?;
        match tokio::time::timeout(PATIENCE, svids.wait_for(Option::is_some)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(none()),
            Err(_) => return Err(Status::unavailable("no certificate has been issued yet")),
        }
        Ok((caller, svids))
    }

    /// Ends when the server does.
    fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closing = self.closing.clone();
        async move {
            let _ = closing.wait_for(|closing| *closing).await;
        }
    }
}

/// The certificate in a channel.
fn present(svids: &Svids) -> std::result::Result<Arc<Svid>, Status> {
    svids.borrow().clone().ok_or_else(|| Status::unavailable("no certificate has been issued yet"))
}

/// An error in gRPC's words.
fn status(error: &byname_api::Error) -> Status {
    let message = error.to_string();
    match error.code() {
        Code::InvalidArgument => Status::invalid_argument(message),
        Code::Denied => Status::permission_denied(message),
        Code::Unavailable => Status::unavailable(message),
        _ => Status::internal(message),
    }
}
