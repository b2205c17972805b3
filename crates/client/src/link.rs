//! The connection to one server, made when it is needed and kept.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::address::{Address, bare};
use crate::dial::Dial;

/// A connection that goes silent is noticed within the sum of these two, also one that only waits (agents, followed
/// logs).
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// Why no encrypted connection is made.
const NO_TRUST: &str = "no certificate of the server's trust domain is known: give --ca FILE";

/// How long a server that was slow or failed is asked last.
const HELD_BACK: Duration = Duration::from_secs(5);

pub(crate) struct Link {
    pub(crate) address: Address,
    /// Where the host of the address is, when the DNS was asked already.
    at: Option<IpAddr>,
    /// It stays in the list whatever the servers say of their cluster.
    pub(crate) configured: bool,
    /// Until when it is asked last.
    held_back: parking_lot::Mutex<Option<Instant>>,
    connect_timeout: Duration,
    tls: Option<Arc<dyn Dial>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Connections made so far.
    made: u64,
    /// The last failure to connect, and when it was known.
    failed: Option<(Instant, String)>,
}

/// A connection that worked when it was made. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    number: u64,
}

impl Link {
    pub(crate) fn new(address: Address, connect_timeout: Duration, tls: Option<Arc<dyn Dial>>) -> Self {
        let (at, configured, held_back) = (None, true, parking_lot::Mutex::new(None));
        Link { address, at, configured, held_back, connect_timeout, tls, state: Mutex::default() }
    }

    /// The same for a host that is there.
    pub(crate) fn at(self, at: IpAddr) -> Self {
        Link { at: Some(at), ..self }
    }

    /// The same, as the servers told it.
    pub(crate) fn learned(self) -> Self {
        Link { configured: false, ..self }
    }

    /// Whether it leads to the same place.
    pub(crate) fn leads_to(&self, address: &Address, at: Option<IpAddr>) -> bool {
        self.address == *address && self.at == at
    }

    /// Whether the DNS gave it for this name.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        matches!(&self.address, Address::Https(uri) if self.at.is_some() && uri.host() == Some(name))
    }

    /// It failed or was slow: others are asked first for a while.
    pub(crate) fn hold_back(&self) {
        *self.held_back.lock() = Some(Instant::now() + HELD_BACK);
    }

    /// It answered.
    pub(crate) fn trust(&self) {
        *self.held_back.lock() = None;
    }

    pub(crate) fn is_held_back(&self) -> bool {
        self.held_back.lock().is_some_and(|until| Instant::now() < until)
    }

    /// The kept connection, or a new one. The error says why there is none.
    pub(crate) async fn connection(&self) -> Result<Connection, String> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok(connection.clone());
        }
        // Callers that waited while another one tried share its failure, or each would wait for the time-out in turn.
        if let Some((at, why)) = &state.failed
            && *at >= asked
        {
            return Err(why.clone());
        }
        match self.dial().await {
            Ok(channel) => {
                state.made += 1;
                let connection = Connection { channel, number: state.made };
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(why) => {
                state.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    /// Drops a connection that broke, unless a newer one has taken its place.
    pub(crate) async fn forget(&self, broken: &Connection) {
        let mut state = self.state.lock().await;
        if state.connection.as_ref().is_some_and(|kept| kept.number == broken.number) {
            state.connection = None;
        }
    }

    /// Makes a connection of its own.
    pub(crate) async fn dial(&self) -> Result<Channel, String> {
        match tokio::time::timeout(self.connect_timeout, self.dial_unbounded()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(innermost(&error)),
            Err(_) => Err(format!("no answer within {:?}", self.connect_timeout)),
        }
    }

    async fn dial_unbounded(&self) -> Result<Channel, tonic::transport::Error> {
        let tuned = |endpoint: Endpoint| {
            endpoint
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PONG_WITHIN)
                .keep_alive_while_idle(true)
        };
        match &self.address {
            Address::Http(uri) => tuned(Endpoint::from(uri.clone())).connect().await,
            Address::Https(uri) => {
                let (tls, host, at) = (self.tls.clone(), bare(uri.host().unwrap_or_default()).to_owned(), self.at);
                let port = uri.port_u16().unwrap_or_default();
                let connector = tower::service_fn(move |_: Uri| {
                    let (tls, host) = (tls.clone(), host.clone());
                    async move {
                        let tls = tls.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, NO_TRUST))?;
                        tls.dial(&host, port, at).await.map(TokioIo::new)
                    }
                });
                // The library would want to make the TLS itself if it were told of https; the requests carry the
                // address as it is.
                tuned(Endpoint::from_static("http://localhost").origin(uri.clone()))
                    .connect_with_connector(connector)
                    .await
            }
            Address::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                // The authority of the requests; the connector does not look at it.
                tuned(Endpoint::from_static("http://localhost")).connect_with_connector(connector).await
            }
        }
    }
}

/// The address, and the place where the DNS has it.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{} at {at}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// The last error of the chain: `Connection refused` instead of `transport error`.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}
