//! An agent's membership: how it knows its servers and how they know it. Either it shares the host with a server and uses
//! its socket or token, or it has joined once with a token and holds a certificate, which it renews.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::error::{Code, Error, Result};
use byname_api::identity::{CertifyReply, CertifyRequest, JoinRequest, Secret};
use byname_api::request::Context;
use byname_client::{Clerk, Options};
use byname_identity::authority;
use byname_identity::join::JoinToken;
use byname_identity::seal::ClusterKey;
use byname_name::Name;

use super::config::{AgentSettings, ServerSettings, computer};
use super::files::DataDir;
use super::trust::{self, Own};
use crate::commands::advertise::unhex;
use crate::dial::TlsDial;
use crate::environment::Environment;
use crate::reach;

/// The pause after a renewal that failed.
const AGAIN: Duration = Duration::from_secs(60);

/// What an agent needs to talk to its servers.
pub(super) struct Member {
    /// Where they are, as in BYNAME_SERVER.
    pub(super) servers: String,
    /// Talks to them.
    pub(super) clerk: Arc<Clerk>,
    /// The certificate's folder, and what shows it.
    certificate: Option<(PathBuf, Arc<TlsDial>)>,
}

/// Joins if there is a token and it was not used yet; else goes by what is there.
pub(super) async fn member(env: &Environment, data: &DataDir, settings: &AgentSettings) -> Result<Member> {
    let folder = data.folder("identity")?;
    if let Some(token) = &settings.join
        && !folder.join("cert.pem").exists()
    {
        join(&folder, token, settings).await?;
    }
    if folder.join("cert.pem").exists() {
        let kept = fs::read_to_string(folder.join("servers")).unwrap_or_default();
        let servers = settings.server.clone().unwrap_or_else(|| kept.trim().to_owned());
        let dial = TlsDial::new(&folder.join("ca.pem"), Some(&shown(&folder)))?;
        let known = data.folder("clerk")?.join("servers");
        let options = Options { tls: Some(dial.clone()), learn: true, servers_file: Some(known), ..Options::default() };
        let clerk = Arc::new(Clerk::connect(&servers, options)?);
        return Ok(Member { servers, clerk, certificate: Some((folder, dial)) });
    }
    let servers = settings.server.clone().ok_or_else(|| {
        Error::invalid(
            "server",
            "say which server to serve: --join TOKEN (`byname cluster invite --agent` makes one), or on the server's own \
             host --server unix:///PATH, BYNAME_SERVER or agent.toml",
        )
    })?;
    let target = reach::target(env, &reach::Places::default(), Some(&servers), settings.token_file.as_deref())?;
    // Over the socket the kernel says who calls.
    let token = target.token.filter(|_| !servers.starts_with("unix:"));
    let options = Options { token, ..Options::default() };
    Ok(Member { clerk: Arc::new(Clerk::connect(&servers, options)?), servers, certificate: None })
}

/// Uses a server's join token, if there is one and it was not used yet. What it is given is all that it needs to meet the
/// other servers, who have it among them when this returns.
pub(super) async fn server(data: &DataDir, settings: &ServerSettings, api: Option<SocketAddr>) -> Result<()> {
    let Some(token) = settings.join.as_deref().filter(|_| !Own::is_there(data)) else { return Ok(()) };
    let token: JoinToken = token.parse().map_err(|error: Error| error.field("join"))?;
    let address = trust::peer_address(api, settings)?;
    if address.is_empty() {
        return Err(Error::invalid("listen", "a server that joins others must be reached by them: it cannot be `off`"));
    }
    let options = Options { tls: Some(TlsDial::pinned(token.root)?), ..Options::default() };
    let clerk = Clerk::connect(&token.servers.join(","), options)?;
    let key = authority::new_key()?;
    let request = JoinRequest {
        secret: Secret(token.secret().iter().map(|byte| format!("{byte:02x}")).collect()),
        computer: Name::parse("/byname/servers/new").map_err(Error::from)?,
        request: key.request_pem,
        address: Some(address),
    };
    let reply = clerk.join(&Context::of(Caller::anonymous()), request).await?;
    let (Some(server), Some(cluster_key)) = (reply.server, reply.cluster_key) else {
        return Err(Error::internal("the servers let this one in without a key"));
    };
    let bytes = unhex(&cluster_key.0).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let (Some(bytes), Ok(sealed)) = (bytes, STANDARD.decode(&server.authority)) else {
        return Err(Error::internal("the servers sent a key that is none"));
    };
    Own::keep(data, &ClusterKey::from_bytes(bytes), server.id, &sealed)?;
    tracing::info!(server = server.id, domain = server.domain, "joined; the token is used up");
    Ok(())
}

/// Uses a join token: the key is made here and stays here.
async fn join(folder: &Path, token: &str, settings: &AgentSettings) -> Result<()> {
    let token: JoinToken = token.parse().map_err(|error: Error| error.field("join"))?;
    let servers = token.servers.join(",");
    let options = Options { tls: Some(TlsDial::pinned(token.root)?), ..Options::default() };
    let clerk = Clerk::connect(&servers, options)?;
    let name = Name::parse("/computers").and_then(|c| c.child(&computer(settings)));
    let name = name.map_err(|e| Error::from(e).field("computer"))?;
    let key = authority::new_key()?;
    let request = JoinRequest {
        secret: Secret(token.secret().iter().map(|byte| format!("{byte:02x}")).collect()),
        computer: name.clone(),
        request: key.request_pem.clone(),
        address: None,
    };
    let reply = clerk.join(&Context::of(Caller::anonymous()), request).await?;
    write(&folder.join("servers"), &format!("{servers}\n"))?;
    keep(folder, &reply.certificate, &key.key_pem)?;
    tracing::info!(computer = %name, "joined; the token is used up");
    Ok(())
}

/// Writes a certificate with its key. The certificate comes last: whoever sees it finds the rest.
fn keep(folder: &Path, certificate: &CertifyReply, key_pem: &str) -> Result<()> {
    write(&folder.join("ca.pem"), &certificate.bundle)?;
    write(&folder.join("key.pem"), key_pem)?;
    write(&folder.join("cert.pem"), &certificate.chain)
}

fn write(path: &Path, text: &str) -> Result<()> {
    super::files::write_private(path, text.as_bytes())
        .map_err(|error| Error::new(Code::Unavailable, format!("cannot write {}: {error}", path.display())))
}

impl Member {
    /// Whether it has an identity of its own: a certificate, and not what an admin has.
    pub(super) fn has_joined(&self) -> bool {
        self.certificate.is_some()
    }

    /// Renews the certificate at half of its life, as long as the agent lives.
    pub(super) async fn renew(self) {
        let Some((folder, dial)) = &self.certificate else { return };
        loop {
            let pause = match due(folder) {
                Ok(Some(left)) => left,
                Ok(None) => match self.renew_now(folder, dial).await {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::warn!(error = error.log_line(), "the host's certificate cannot be renewed now");
                        AGAIN
                    }
                },
                Err(error) => {
                    tracing::error!(error = error.log_line(), "the host's certificate cannot be read");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew_now(&self, folder: &Path, dial: &TlsDial) -> Result<()> {
        let key = authority::new_key()?;
        let request = CertifyRequest {
            request: key.request_pem.clone(),
            instance: None,
            principal: None,
            validity: None,
            audience: Vec::new(),
        };
        let reply = self.clerk.certify(&Context::of(Caller::internal()), request).await?;
        keep(folder, &reply, &key.key_pem)?;
        dial.reload(&shown(folder))?;
        tracing::info!(until = %reply.expires, "the host's certificate was renewed");
        Ok(())
    }
}

/// The certificate in a folder.
fn shown(folder: &Path) -> reach::Identity {
    reach::Identity { chain: folder.join("cert.pem"), key: folder.join("key.pem") }
}

/// How long until a certificate is half over; none when it is.
fn due(folder: &Path) -> Result<Option<Duration>> {
    let path = folder.join("cert.pem");
    let text = fs::read_to_string(&path)
        .map_err(|error| Error::new(Code::Unavailable, format!("cannot read {}: {error}", path.display())))?;
    let shown = authority::show(&text)?;
    let validity = shown.first().and_then(|certificate| certificate.validity);
    let (from, until) = validity.ok_or_else(|| Error::invalid("cert.pem", "it holds no certificate"))?;
    let now = crate::commands::clock();
    let half = from.0 + (until.0 - from.0) / 2;
    Ok(half.checked_sub(now.0).filter(|left| *left > 0).map(Duration::from_millis))
}
