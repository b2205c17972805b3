//! Making one check.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use byname_api::agent::Checked;
use byname_api::object::InstanceId;
use byname_api::service::{Endpoint, Health};
use byname_api::span::Span;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{command, tail};
use crate::agent::Inner;
use crate::folder::{StoredCheck, StoredProbe};
use crate::ready;

/// A connection to a program.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for T {}

/// Asks a program for its health with grpc.health.v1. Another crate knows how to speak gRPC.
#[async_trait]
pub trait GrpcHealth: Send + Sync {
    /// Asks about a service, or about the server as a whole when that is empty. Gives whether it is serving, and the
    /// word for it.
    ///
    /// # Errors
    ///
    /// In words, what went wrong.
    async fn ask(&self, connection: Box<dyn Connection>, service: &str) -> Result<(bool, String), String>;
}

/// Makes a check once.
pub(super) async fn make(agent: &Arc<Inner>, id: InstanceId, folder: &Path, check: &StoredCheck) -> Checked {
    let bound = Duration::from_millis(check.timeout_ms);
    let found = match &check.probe {
        // It ends by itself when the time is up, because what it started must be ended too.
        StoredProbe::Command(run) => command::run(id, folder, run, bound).await,
        other => match timeout(bound, ask(agent, other)).await {
            Ok(found) => found,
            Err(_) => {
                let within = Span::from_millis(check.timeout_ms);
                Checked { health: Health::Critical, note: format!("{}: no answer within {within}", place(other)) }
            }
        },
    };
    metrics::counter!("byname_checks_total", "result" => found.health.as_str()).increment(1);
    found
}

async fn ask(agent: &Inner, probe: &StoredProbe) -> Checked {
    let place = place(probe);
    let (health, what) = match probe {
        StoredProbe::Tcp { endpoint } => match ready::connect(&endpoint.into(), &agent.config.addresses).await {
            Ok(_) => (Health::Passing, "takes connections".into()),
            Err(error) => (Health::Critical, ready::sentence(&error)),
        },
        StoredProbe::Http { endpoint, path, from, to } => {
            match ready::page(&endpoint.into(), &agent.config.addresses, path).await {
                Ok((status, body)) => {
                    let health = match status {
                        _ if (*from..=*to).contains(&status) => Health::Passing,
                        429 => Health::Warning,
                        _ => Health::Critical,
                    };
                    let body = if health == Health::Passing { String::new() } else { tail(&body) };
                    let with = if body.is_empty() { "" } else { ": " };
                    (health, format!("answered {status}{with}{body}"))
                }
                Err(error) => (Health::Critical, ready::sentence(&error)),
            }
        }
        StoredProbe::Grpc { endpoint, service } => {
            let asked = async {
                let grpc = agent.grpc.read().clone().ok_or("this agent cannot ask over gRPC")?;
                let endpoint = endpoint.into();
                let connection = ready::connect(&endpoint, &agent.config.addresses).await;
                let connection = connection.map_err(|error| ready::sentence(&error))?;
                grpc.ask(connection, service).await
            };
            match asked.await {
                Ok((true, word)) => (Health::Passing, word),
                Ok((false, word)) => (Health::Critical, word),
                Err(why) => (Health::Critical, tail(why.as_bytes())),
            }
        }
        StoredProbe::Command(_) | StoredProbe::Unknown => (Health::Passing, "is not looked at".into()),
    };
    Checked { health, note: format!("{place}: {what}") }
}

/// What is asked, in words.
fn place(probe: &StoredProbe) -> String {
    let at = |endpoint: Endpoint| {
        if endpoint.address.is_empty() { format!("port {}", endpoint.port) } else { endpoint.to_string() }
    };
    match probe {
        StoredProbe::Tcp { endpoint } => format!("tcp {}", at(endpoint.into())),
        StoredProbe::Http { endpoint, path, .. } => format!("GET {path} on {}", at(endpoint.into())),
        StoredProbe::Grpc { endpoint, service } if service.is_empty() => format!("grpc {}", at(endpoint.into())),
        StoredProbe::Grpc { endpoint, service } => format!("grpc {service} on {}", at(endpoint.into())),
        StoredProbe::Command(_) => "command".into(),
        StoredProbe::Unknown => "a check that this agent does not know".into(),
    }
}
