//! The lines between the servers of a cluster: each connects to each, and both ends show the certificates of name servers.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use byname_api::NameService;
use byname_api::caller::LEFT_OUT;
use byname_api::error::{Code, Error};
use byname_client::{Clerk, OnBehalf, Options};
use byname_cluster::Server;
use byname_cluster::links::{self, Dial, Links, Stream};
use byname_front_http::{PEERS_PATH, PEERS_PROTOCOL};
use byname_identity::authority::Roots;
use byname_identity::tls::{Connector, Expect, Identity, Trust};
use byname_name::Name;
use byname_node::{Node, Peers};

/// A head that is longer is not that of an answer to what was asked.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How often it is looked at whether the server at the other end was taken out.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long another server may take to be connected to.
const CONNECT: Duration = Duration::from_secs(1);

/// What this server proves itself with to the others, and whom it believes; none before it has a certificate. And what they think
/// of it.
#[derive(Default)]
pub(super) struct Credentials {
    held: ArcSwapOption<(Identity, Roots)>,
    left_out: watch::Sender<Option<Error>>,
}

impl Credentials {
    /// Shows these from now on.
    pub(super) fn set(&self, identity: Identity, roots: Roots) {
        self.held.store(Some(Arc::new((identity, roots))));
    }

    /// Returns when another server has said that this one does not belong to the cluster any more.
    pub(super) async fn left_out(&self) -> Error {
        let mut told = self.left_out.subscribe();
        let told = told.wait_for(Option::is_some).await;
        told.ok().and_then(|told| told.clone()).unwrap_or_else(|| Error::internal("nobody is asked any more"))
    }

    /// A connector to one server and no other.
    fn connector(&self, to: u64) -> io::Result<Connector> {
        let held = self.held.load_full();
        let (identity, roots) = held.as_deref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let name = Name::parse(&format!("/byname/servers/{to}")).map_err(io::Error::other)?;
        let connector = Connector::to(Trust::Bundle(roots.clone()), Expect::Name(name), Some(identity));
        connector.map_err(|error| io::Error::other(error.message().to_owned()))
    }

    /// A TLS connection to a server.
    async fn connect(&self, to: u64, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
        let connector = self.connector(to)?;
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(connector.connect(stream, host).await?))
    }
}

/// The host and port of an address.
fn parts(address: &str) -> io::Result<(String, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the address is not known"))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// Makes the lines of the replicated log.
pub(super) struct PeerDial(pub(super) Arc<Credentials>);

impl Dial for PeerDial {
    fn dial(&self, to: &Server) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (credentials, to) = (self.0.clone(), to.clone());
        Box::pin(async move {
            let (host, port) = parts(&to.address)?;
            let mut stream = credentials.connect(to.id, &host, port).await?;
            let request = format!(
                "GET {PEERS_PATH} HTTP/1.1\r\nHost: {}\r\nConnection: upgrade\r\nUpgrade: {PEERS_PROTOCOL}\r\n\r\n",
                to.address
            );
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            let head = head(&mut stream).await?;
            if !head.starts_with("HTTP/1.1 101 ") {
                let line = head.lines().next().unwrap_or_default();
                if line.starts_with("HTTP/1.1 401 ")
                    && let Some(why) = left_out(&head, &mut stream).await
                {
                    credentials.left_out.send_replace(Some(why));
                }
                return Err(io::Error::other(format!("server {} does not meet its peers: {line}", to.id)));
            }
            Ok(stream)
        })
    }
}

/// What another server says in the rest of its refusal, if that is that this one is left out.
async fn left_out(head: &str, stream: &mut Box<dyn Stream>) -> Option<Error> {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    let mut body = vec![0; length.filter(|bytes: &usize| *bytes <= HEAD_BYTES_MAX)?];
    stream.read_exact(&mut body).await.ok()?;
    let problem: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let told = problem["field"] == LEFT_OUT && problem["code"] == Code::Unauthenticated.as_str();
    told.then(|| Error::new(Code::Conflict, problem["detail"].as_str().unwrap_or_default()))
}

/// The head of an answer, byte by byte: what follows belongs to the line.
async fn head(stream: &mut Box<dyn Stream>) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Answers what comes over a line from another server, and looks why when it ends.
pub(super) async fn meet(node: Node, links: Arc<Links>, from: u64, stream: Box<dyn byname_front_http::Stream>) {
    let answering = node.clone();
    let removed = async {
        let mut every = tokio::time::interval(LOOK_EVERY);
        while !node.was_removed(from) {
            every.tick().await;
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = links::serve(stream, move |request| answering.answer(request)) => ended,
        ended = removed => ended,
    };
    tracing::debug!(server = from, ?ended, "a line from a peer ended");
    let peer = node.servers().into_iter().find(|server| server.id == from);
    if let Some(peer) = peer
        && links.has_gone(&peer).await
    {
        node.peer_gone(from);
    }
}

/// The operations of the other servers.
pub(super) struct Services {
    credentials: Arc<Credentials>,
    known: Mutex<HashMap<Server, Arc<dyn NameService>>>,
}

impl Services {
    pub(super) fn new(credentials: Arc<Credentials>) -> Services {
        Services { credentials, known: Mutex::default() }
    }
}

impl Peers for Services {
    fn service(&self, server: &Server) -> byname_api::Result<Arc<dyn NameService>> {
        let mut known = self.known.lock();
        if let Some(service) = known.get(server) {
            return Ok(service.clone());
        }
        let tls = Arc::new(ClerkDial { credentials: self.credentials.clone(), to: server.id });
        let options = Options {
            tls: Some(tls),
            connect_timeout: CONNECT,
            // Whoever asked tries again, and perhaps elsewhere.
            patience: Duration::ZERO,
            ..Options::default()
        };
        let clerk = Clerk::connect(&format!("https://{}", server.address), options)?;
        let service: Arc<dyn NameService> = Arc::new(OnBehalf::of(Arc::new(clerk)));
        known.retain(|other, _| other.id != server.id);
        known.insert(server.clone(), service.clone());
        Ok(service)
    }
}

/// Makes the connections for what is passed on.
struct ClerkDial {
    credentials: Arc<Credentials>,
    to: u64,
}

#[async_trait::async_trait]
impl byname_client::Dial for ClerkDial {
    async fn dial(&self, host: &str, port: u16, at: Option<IpAddr>) -> io::Result<Box<dyn byname_client::Stream>> {
        let host = at.map_or_else(|| host.to_owned(), |at| at.to_string());
        let stream = self.credentials.connect(self.to, &host, port).await?;
        Ok(Box::new(stream))
    }
}
