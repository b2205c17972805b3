//! The socket on which programs of this host ask who they are (the SPIFFE Workload API), for an agent.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use byname_api::error::{Code, Error, Result};
use byname_front_spiffe::{Claims, Tokens};
use byname_identity::jwt::JwtKeys;
use byname_launch::{Agent, Connection, GrpcHealth, Issuer};
use byname_name::spiffe;

/// Gives the agent's programs certificates, and serves the socket as long as the process lives. A socket that cannot be
/// made is no reason to start no programs.
pub(super) fn serve(agent: &Agent, issuer: Arc<dyn Issuer>) {
    agent.set_issuer(issuer.clone());
    agent.set_grpc_health(Arc::new(OverGrpc));
    let listener = match agent.listen_for_workloads() {
        Ok(listener) => listener,
        Err(error) => {
            let socket = agent.workload_socket();
            tracing::warn!("programs cannot ask who they are: cannot listen on {}: {error}", socket.display());
            return;
        }
    };
    let (workloads, tokens) = (agent.workloads(), Arc::new(Checked(issuer)));
    tokio::spawn(async move {
        if let Err(error) = byname_front_spiffe::serve(listener, workloads, tokens, std::future::pending()).await {
            tracing::error!("programs cannot ask who they are any more: {error}");
        }
    });
}

/// Asks programs for their health over gRPC, for the agent's checks.
struct OverGrpc;

#[async_trait::async_trait]
impl GrpcHealth for OverGrpc {
    async fn ask(&self, connection: Box<dyn Connection>, service: &str) -> std::result::Result<(bool, String), String> {
        byname_client::ask_health(connection, service).await
    }
}

/// Checks tokens by the keys that the server tells.
struct Checked(Arc<dyn Issuer>);

#[async_trait::async_trait]
impl Tokens for Checked {
    async fn validate(&self, token: &str, audience: &str) -> Result<Claims> {
        let trust = self.0.trust().await?;
        let keys = JwtKeys::from_bundle(&trust.domain, &trust.keys)?;
        let peer = keys.verify(token, audience, crate::commands::clock())?;
        let damaged = || Error::new(Code::Unauthenticated, "the token is refused: it is no JWT");
        // Verified above: only its claims are read here.
        let claims = token.split('.').nth(1).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or_else(damaged)?;
        let claims = serde_json::from_slice(&claims).map_err(|_| damaged())?;
        let spiffe = spiffe::to_id(&peer.name, &trust.domain).map_err(|_| damaged())?;
        Ok(Claims { spiffe, claims })
    }
}
