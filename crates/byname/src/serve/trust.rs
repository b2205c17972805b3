//! What a server proves itself with: its authority, its certificate for TLS, and their renewal while it serves.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use byname_api::caller::Certificate;
use byname_api::error::{Code, Error, Result};
use byname_api::span::Timestamp;
use byname_front_http::{Secure, Stream};
use byname_identity::authority::{self, Authority, Peer, Roots};
use byname_identity::seal::ClusterKey;
use byname_identity::tls::{self, Acceptor, Identity};
use byname_node::{Node, Setup};
use tokio::net::TcpStream;

use super::config::ServerSettings;
use super::files::DataDir;
use crate::commands::clock;

/// How often a server looks whether its certificate is due.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Gives a server its identity: the authority, the audit log, and TLS.
///
/// # Errors
///
/// With `--ca external` and no signed certificate yet: what to do with the request that was written.
pub(super) async fn establish(
    node: &Node,
    data: &DataDir,
    settings: &ServerSettings,
    api: Option<SocketAddr>,
) -> Result<Arc<Tls>> {
    tls::install();
    data.folder("identity")?;
    let key = ClusterKey::load_or_create(&data.path("identity/cluster.key"))?;
    let audit = byname_audit::Audit::open(&data.path("audit"), node.id(), node.anchored())?;
    let external = if settings.external_ca { Some(external(data, &settings.domain)?) } else { None };
    let port = api.map_or(0, |api| api.port());
    let relying_party = if settings.dev { "localhost".to_owned() } else { settings.domain.clone() };
    let origins = if settings.dev {
        vec![format!("http://localhost:{port}"), format!("https://localhost:{port}")]
    } else {
        let hosts = settings.host_names.iter().chain([&settings.domain]);
        hosts.map(|host| format!("https://{host}:{port}")).collect()
    };
    let servers = api.map(|api| reachable(api, settings)).unwrap_or_default();
    node.establish(Setup {
        domain: settings.domain.clone(),
        key,
        token: data.token()?,
        audit: Some(audit),
        anyone_looks: settings.dev,
        origins,
        relying_party,
        external,
        hosts: settings.host_names.clone(),
        servers,
    })
    .await?;
    data.write_public("ca.pem", node.bundle()?.as_bytes())?;
    let tls = Arc::new(Tls::new(node.clone(), settings, api)?);
    tokio::spawn(tls.clone().renew());
    Ok(tls)
}

/// An authority whose root is elsewhere: its key and request are made at the first start, and it begins when the signed
/// certificate lies beside them.
fn external(data: &DataDir, domain: &str) -> Result<Authority> {
    let at = |name: &str| data.path(&format!("identity/{name}"));
    let (key, request, issuing, root) =
        (at("issuing.key"), at("issuing.request.pem"), at("issuing.pem"), at("root.pem"));
    if !key.exists() {
        let made = authority::external_request(domain)?;
        data.write_private("identity/issuing.key", made.key_pem.as_bytes())?;
        data.write_public("identity/issuing.request.pem", made.request_pem.as_bytes())?;
    }
    if !issuing.exists() || !root.exists() {
        return Err(Error::new(
            Code::Unavailable,
            format!(
                "the authority has to be signed first: carry {} to where the root is, \
                 `byname ca sign {} --dir ROOT --issuing --out issuing.pem` there, and bring issuing.pem and root.pem back as {} \
                 and {}",
                request.display(),
                request.file_name().unwrap_or_default().to_string_lossy(),
                issuing.display(),
                root.display(),
            ),
        ));
    }
    let read = |path: &std::path::Path| {
        fs::read_to_string(path)
            .map_err(|error| Error::new(Code::InvalidArgument, format!("cannot read {}: {error}", path.display())))
    };
    Authority::external(domain, &read(&issuing)?, &read(&key)?, &read(&root)?, clock())
}

/// Where others reach this server.
fn reachable(api: SocketAddr, settings: &ServerSettings) -> Vec<String> {
    let port = api.port();
    let mut hosts: Vec<String> = settings.host_names.clone();
    if api.ip().is_unspecified() {
        hosts.extend(addresses_of(api).into_iter().filter(|ip| !ip.is_loopback()).map(host_of));
    } else {
        hosts.push(host_of(api.ip()));
    }
    if hosts.is_empty() {
        hosts.push("127.0.0.1".into());
    }
    hosts.into_iter().take(8).map(|host| format!("https://{host}:{port}")).collect()
}

fn host_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// The addresses that a socket bound like this is reached at.
fn addresses_of(api: SocketAddr) -> Vec<IpAddr> {
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    let mut all: Vec<IpAddr> = loopback.to_vec();
    if api.ip().is_unspecified() {
        all.extend(byname_launch::own_addresses());
    } else {
        all.push(api.ip());
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The TLS of a server: its certificate can be exchanged while connections are open.
pub(super) struct Tls {
    node: Node,
    acceptor: Acceptor,
    hosts: Vec<String>,
    api: Option<SocketAddr>,
    due: parking_lot::Mutex<Timestamp>,
}

impl Tls {
    fn new(node: Node, settings: &ServerSettings, api: Option<SocketAddr>) -> Result<Tls> {
        let mut hosts = vec!["localhost".to_owned()];
        hosts.extend(settings.host_names.iter().cloned());
        for host in &hosts {
            if !node.permits_host(host) {
                return Err(Error::invalid(
                    "host_names",
                    format!("this trust domain's authority may not certify the host `{host}`"),
                ));
            }
        }
        let (identity, due) = certificate(&node, &hosts, api)?;
        let acceptor = Acceptor::new(&identity, Roots::from_pem(&node.bundle()?)?)?;
        Ok(Tls { node, acceptor, hosts, api, due: parking_lot::Mutex::new(due) })
    }

    /// Takes a new certificate. Open connections go on with the old one.
    pub(super) fn reload(&self) -> Result<()> {
        let (identity, due) = certificate(&self.node, &self.hosts, self.api)?;
        self.acceptor.reload(&identity, Roots::from_pem(&self.node.bundle()?)?)?;
        *self.due.lock() = due;
        tracing::info!("the server's certificate was renewed");
        Ok(())
    }

    /// Renews the certificate at half of its life, for ever.
    async fn renew(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if clock() < *self.due.lock() {
                continue;
            }
            if let Err(error) = self.reload() {
                tracing::error!(error = error.log_line(), "the server's certificate cannot be renewed");
            }
        }
    }
}

/// A new key and certificate of the server, and when to renew it.
fn certificate(node: &Node, hosts: &[String], api: Option<SocketAddr>) -> Result<(Identity, Timestamp)> {
    let key = authority::new_key()?;
    let addresses = api.map(addresses_of).unwrap_or_default();
    let certificate = node.server_certificate(&key.request_pem, hosts.to_vec(), addresses)?;
    let due = Timestamp(certificate.not_before.0 + (certificate.not_after.0 - certificate.not_before.0) / 2);
    Ok((Identity { chain_pem: certificate.chain_pem, key_pem: key.key_pem }, due))
}

#[async_trait::async_trait]
impl Secure for Tls {
    async fn accept(&self, stream: TcpStream) -> Result<(Box<dyn Stream>, Option<Arc<Certificate>>)> {
        match self.acceptor.accept(stream).await {
            Ok((stream, peer)) => Ok((Box::new(stream), peer.map(|peer| Arc::new(shown(peer))))),
            Err(error) => Err(tls::reason(&error)
                .unwrap_or_else(|| Error::new(Code::Unavailable, format!("the TLS handshake ended: {error}")))),
        }
    }
}

/// What the gate is told of a certificate.
fn shown(peer: Peer) -> Certificate {
    Certificate {
        name: peer.name,
        id: peer.id,
        instance: peer.instance,
        serial: peer.serial,
        fingerprint: peer.fingerprint,
        issued: peer.issued,
        not_after: peer.not_after,
    }
}
