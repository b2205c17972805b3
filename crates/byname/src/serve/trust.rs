//! What a server proves itself with: its authority, its certificate for TLS, and their renewal while it serves.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use byname_api::caller::Certificate;
use byname_api::error::{Code, Error, Result};
use byname_api::service::Endpoint;
use byname_api::span::Timestamp;
use byname_front_http::{Secure, Stream};
use byname_identity::authority::{self, Authority, Peer, Roots};
use byname_identity::seal::ClusterKey;
use byname_identity::tls::{self, Acceptor, Identity};
use byname_node::{Node, Setup};
use tokio::net::TcpStream;

use super::config::{DOMAIN, ServerSettings};
use super::files::DataDir;
use super::peers::Credentials;
use crate::commands::clock;

/// How often a server looks whether its certificate is due.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// A server's own: its number, the key of its cluster, and the authority, if it was told before.
pub(super) struct Own {
    /// Its number.
    pub(super) id: u64,
    /// It has founded its cluster, or does so now; if not, it was let in by others.
    pub(super) founder: bool,
    /// The trust domain.
    pub(super) domain: String,
    key: ClusterKey,
    authority: Option<Authority>,
}

/// Files of a server that is one of several.
pub(super) const NUMBER: &str = "identity/server";
const SEALED: &str = "identity/authority.sealed";
/// Made when the server has taken part once: its log cannot be empty any more.
const TOOK_PART: &str = "identity/took-part";

impl Own {
    /// What lies in the data directory; a new one makes a server 1.
    pub(super) fn read(data: &DataDir, settings: &ServerSettings) -> Result<Own> {
        tls::install();
        data.folder("identity")?;
        let key = ClusterKey::load_or_create(&data.path("identity/cluster.key"))?;
        let authority = match fs::read(data.path(SEALED)) {
            Ok(sealed) => Some(Node::open_authority(&key, &sealed)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(&data.path(SEALED), &error)),
        };
        let (id, founder) = match fs::read_to_string(data.path(NUMBER)) {
            Ok(text) => {
                let id = text.trim().parse().map_err(|_| {
                    let path = data.path(NUMBER).display().to_string();
                    Error::invalid("data", format!("{path} does not hold the number of a server: restore it"))
                })?;
                (id, false)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (1, true),
            Err(error) => return Err(unreadable(&data.path(NUMBER), &error)),
        };
        let log = data.path("log").join("log");
        let empty = fs::read_dir(&log).map_or(true, |mut entries| entries.next().is_none());
        if empty && data.path(TOOK_PART).exists() {
            // It has forgotten what it voted for and what it confirmed: as a new server it would break promises.
            return Err(Error::new(
                Code::Unavailable,
                format!(
                    "the log of server {id} is gone from {}: where there are other servers, `byname cluster remove {id}` there and \
                     join with a new data directory; else `byname cluster restore` a backup into one",
                    log.display()
                ),
            ));
        }
        let domain = if founder { settings.domain.clone() } else { joined_domain(authority.as_ref())? };
        if domain != settings.domain && settings.domain != DOMAIN {
            let what =
                format!("this server's trust domain is `{domain}`, not `{}`: it cannot be changed", settings.domain);
            return Err(Error::invalid("domain", what));
        }
        Ok(Own { id, founder, domain, key, authority })
    }

    /// Keeps what a server was told that joined.
    pub(super) fn keep(data: &DataDir, key: &ClusterKey, id: u64, sealed: &[u8]) -> Result<()> {
        data.folder("identity")?;
        key.store(&data.path("identity/cluster.key"))?;
        data.write_private(SEALED, sealed)?;
        // The last: whoever sees it finds the rest.
        data.write_private(NUMBER, format!("{id}\n").as_bytes())
    }

    /// Whether a data directory is that of a server already.
    pub(super) fn is_there(data: &DataDir) -> bool {
        data.path(NUMBER).exists() || data.path("log").exists()
    }

    /// TLS with what it was told before; none for a founder at its first start.
    pub(super) fn tls(
        &self,
        node: &Node,
        settings: &ServerSettings,
        api: Option<SocketAddr>,
        peers: &Arc<Credentials>,
    ) -> Result<Option<Arc<Tls>>> {
        let Some(authority) = &self.authority else { return Ok(None) };
        Tls::new(node.clone(), authority, self.id, settings, api, peers.clone()).map(|tls| Some(Arc::new(tls)))
    }
}

fn joined_domain(authority: Option<&Authority>) -> Result<String> {
    authority.map(|authority| authority.domain().to_owned()).ok_or_else(|| {
        Error::invalid(
            "data",
            format!("{SEALED} is missing in the data directory: restore it, or join again with a new one"),
        )
    })
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Error {
    Error::new(Code::InvalidArgument, format!("cannot read {}: {error}", path.display()))
}

/// Gives a server its identity: the authority, the audit log, and TLS. Waits for the other servers, if there are any.
///
/// # Errors
///
/// With `--ca external` and no signed certificate yet: what to do with the request that was written.
pub(super) async fn establish(
    own: Own,
    early: Option<Arc<Tls>>,
    node: &Node,
    data: &DataDir,
    settings: &ServerSettings,
    api: Option<SocketAddr>,
    peers: &Arc<Credentials>,
) -> Result<Arc<Tls>> {
    node.catch_up().await;
    let audit = byname_audit::Audit::open(&data.path("audit"), node.id(), node.anchored())?;
    // A server that joined has it from the others.
    let here = own.founder || data.folder("identity")?.join("issuing.key").exists();
    let external = if settings.external_ca && here { Some(external(data, &own.domain)?) } else { None };
    let port = api.map_or(0, |api| api.port());
    let relying_party = if settings.dev { "localhost".to_owned() } else { own.domain.clone() };
    let origins = if settings.dev {
        vec![format!("http://localhost:{port}"), format!("https://localhost:{port}")]
    } else {
        let hosts = settings.host_names.iter().chain([&own.domain]);
        hosts.map(|host| format!("https://{host}:{port}")).collect()
    };
    let servers = api.map(|api| reachable(api, settings)).unwrap_or_default();
    node.establish(Setup {
        domain: own.domain,
        key: own.key,
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
    if let Some(sealed) = node.sealed_authority() {
        data.write_private(SEALED, &sealed)?;
    }
    if !settings.dev {
        data.write_private(NUMBER, format!("{}\n", own.id).as_bytes())?;
        data.write_private(TOOK_PART, b"")?;
    }
    let authority = node.authority()?;
    let tls = match early {
        Some(tls) => tls,
        None => Arc::new(Tls::new(node.clone(), &authority, own.id, settings, api, peers.clone())?),
    };
    tls.established(data.path(SEALED))?;
    tokio::spawn(tls.clone().renew());
    Ok(tls)
}

/// `HOST:PORT` where the other servers reach this one; empty when nobody does.
pub(super) fn peer_address(api: Option<SocketAddr>, settings: &ServerSettings) -> Result<String> {
    let Some(api) = api.filter(|_| !settings.dev) else { return Ok(String::new()) };
    if let Some(address) = &settings.address {
        let bare = address.strip_prefix("https://").unwrap_or(address);
        let with_port = bare
            .rsplit_once(':')
            .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
        if bare.is_empty() || bare.contains('/') {
            return Err(Error::invalid("address", "write HOST:PORT, or a host alone"));
        }
        return Ok(match (with_port, bare.parse::<IpAddr>()) {
            (true, _) => bare.to_owned(),
            (false, Ok(address)) => format!("{}:{}", host_of(address), api.port()),
            (false, Err(_)) => format!("{bare}:{}", api.port()),
        });
    }
    let all = reachable(api, settings);
    Ok(all.first().map(|first| first.trim_start_matches("https://").to_owned()).unwrap_or_default())
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
        let mut own: Vec<IpAddr> = addresses_of(api).into_iter().filter(|ip| !ip.is_loopback()).collect();
        // That of the way out of this host first: the others are often of networks within it.
        let out = byname_launch::reaching(SocketAddr::from(([192, 0, 2, 1], 9)));
        own.sort_by_key(|ip| Some(*ip) != out);
        hosts.extend(own.into_iter().map(host_of));
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

/// Where this server answers, as the tree has it.
pub(super) fn endpoint(api: SocketAddr) -> Option<Endpoint> {
    let mut addresses = addresses_of(api).into_iter();
    let address = match api.ip().is_unspecified() {
        true => {
            let out = byname_launch::reaching(SocketAddr::from(([192, 0, 2, 1], 9)));
            out.filter(|ip| !ip.is_loopback()).or_else(|| addresses.find(|address| !address.is_loopback()))?
        }
        false => api.ip(),
    };
    Some(Endpoint { protocol: "https".into(), address: address.to_string(), port: api.port() })
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
    server: u64,
    acceptor: Acceptor,
    /// What it shows to other servers.
    peers: Arc<Credentials>,
    hosts: Vec<String>,
    api: Option<SocketAddr>,
    due: parking_lot::Mutex<Timestamp>,
    /// Where the authority is kept for the next start.
    sealed: std::sync::OnceLock<PathBuf>,
}

impl Tls {
    fn new(
        node: Node,
        authority: &Authority,
        server: u64,
        settings: &ServerSettings,
        api: Option<SocketAddr>,
        peers: Arc<Credentials>,
    ) -> Result<Tls> {
        let mut hosts = vec!["localhost".to_owned()];
        hosts.extend(settings.host_names.iter().cloned());
        for host in &hosts {
            if !authority.permits_host(host) {
                return Err(Error::invalid(
                    "host_names",
                    format!("this trust domain's authority may not certify the host `{host}`"),
                ));
            }
        }
        let (identity, due) = certificate(authority, server, &hosts, api)?;
        let roots = Roots::from_pem(&authority.bundle_pem())?;
        let acceptor = Acceptor::new(&identity, roots.clone())?;
        peers.set(identity, roots);
        let due = parking_lot::Mutex::new(due);
        Ok(Tls { node, server, acceptor, peers, hosts, api, due, sealed: std::sync::OnceLock::new() })
    }

    /// The server can tell who is who: from now on its certificates come from the replicated authority.
    fn established(&self, sealed: PathBuf) -> Result<()> {
        let _ = self.sealed.set(sealed);
        Ok(())
    }

    /// Takes a new certificate. Open connections go on with the old one.
    pub(super) fn reload(&self) -> Result<()> {
        let authority = self.node.authority()?;
        let (identity, due) = certificate(&authority, self.server, &self.hosts, self.api)?;
        let roots = Roots::from_pem(&authority.bundle_pem())?;
        self.acceptor.reload(&identity, roots.clone())?;
        self.peers.set(identity, roots);
        *self.due.lock() = due;
        if let (Some(path), Some(sealed)) = (self.sealed.get(), self.node.sealed_authority()) {
            super::files::write_private(path, &sealed).map_err(|error| unreadable(path, &error))?;
        }
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

/// A new key and certificate of a server, and when to renew it.
fn certificate(
    authority: &Authority,
    server: u64,
    hosts: &[String],
    api: Option<SocketAddr>,
) -> Result<(Identity, Timestamp)> {
    let key = authority::new_key()?;
    let addresses = api.map(addresses_of).unwrap_or_default();
    let certificate = byname_node::server_certificate(authority, server, &key.request_pem, hosts.to_vec(), addresses)?;
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
