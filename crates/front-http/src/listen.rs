//! The listener: accepts connections on TCP and unix sockets, tells HTTP/1.1 from HTTP/2, bounds what a client may
//! hold, asks the gate about every request, and drains when told to stop.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use byname_api::caller::{Connection, Gate, Peer};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tower::Service;

use crate::admit::admit;
use crate::sniff::{Version, sniff};

/// A socket that listens already.
#[derive(Debug)]
pub enum Bound {
    /// TCP: callers are loopback or remote.
    Tcp(TcpListener),
    /// A unix socket: callers are who the kernel says.
    Unix(UnixListener),
}

/// Bounds on what clients may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once for each listener, so that a flood over TCP does not lock out the unix socket. A
    /// connection beyond that is closed at once.
    pub connections: usize,
    /// How long a client may take to send a request's headers, and to begin with one.
    pub header_timeout: Duration,
    /// How long open requests may go on after a shutdown has begun.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 8_192, header_timeout: Duration::from_secs(30), drain: Duration::from_secs(5) }
    }
}

/// Bytes of headers a request may have.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_024;
/// Bytes that a client may send ahead on one HTTP/2 stream: a large record in one go.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// An HTTP/2 connection that is silent for so long is asked whether it lives …
const PING_AFTER: Duration = Duration::from_secs(30);
/// … and closed when it does not answer within this time.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The least time between two log lines about the same trouble.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The pause after a failed accept: most of these mean that descriptors are used up, and that does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `app` on these sockets until `shutdown` is ready, then lets open requests end, within [`Limits::drain`].
/// Every request carries [`Admission`](byname_api::caller::Admission) in its extensions. Dropping the future closes
/// everything at once.
pub async fn serve(listeners: Vec<Bound>, app: Router, gate: Gate, shutdown: impl Future<Output = ()>) {
    serve_with(listeners, app, gate, Limits::default(), shutdown).await;
}

/// As [`serve`], with other bounds.
pub async fn serve_with(
    listeners: Vec<Bound>,
    app: Router,
    gate: Gate,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let drain = limits.drain;
    let (phase, phases) = watch::channel(Phase::Open);
    // Every task holds a sender: the channel ends when the last one has gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let server = Arc::new(Server::new(app, gate, limits));
    for listener in listeners {
        tokio::spawn(accept(listener, server.clone(), phases.clone(), alive.clone()));
    }
    drop((server, phases, alive));
    shutdown.await;
    phase.send_replace(Phase::Draining);
    if tokio::time::timeout(drain, all_gone.recv()).await.is_err() {
        tracing::info!("open requests did not end in time and are cut off");
        phase.send_replace(Phase::Closed);
        all_gone.recv().await;
    }
}

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    Draining,
    Closed,
}

/// Waits until the phase is at least this. A dropped server is closed.
async fn reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    let _ = phases.wait_for(|now| *now >= phase).await;
}

/// What every connection shares.
struct Server {
    app: Router,
    gate: Gate,
    limits: Limits,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Server {
    fn new(app: Router, gate: Gate, limits: Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(MAX_HEADER_BYTES as usize);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT);
        Server { app, gate, limits, http1, http2 }
    }

    /// Serves one connection until it ends.
    async fn converse<S>(self: Arc<Self>, stream: S, peer: Peer, mut phases: watch::Receiver<Phase>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let sniffed = tokio::select! {
            sniffed = tokio::time::timeout(self.limits.header_timeout, sniff(stream)) => sniffed,
            () = reached(&mut phases, Phase::Draining) => return,
        };
        let Ok(Ok((version, stream))) = sniffed else {
            tracing::debug!(?peer, "a connection ended before its first request");
            return;
        };
        let (server, connection) = (self.clone(), Connection::from(peer));
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            let admission = admit(&server.gate, &connection, &request);
            request.extensions_mut().insert(admission);
            server.app.clone().call(request)
        });
        // The two kinds of connection have the same methods and no common trait.
        macro_rules! converse {
            ($connection:expr) => {{
                let mut connection = std::pin::pin!($connection);
                let early = tokio::select! {
                    ended = connection.as_mut() => Some(ended),
                    () = reached(&mut phases, Phase::Draining) => None,
                };
                match early {
                    Some(ended) => ended,
                    None => {
                        connection.as_mut().graceful_shutdown();
                        tokio::select! {
                            ended = connection.as_mut() => ended,
                            () = reached(&mut phases, Phase::Closed) => Ok(()),
                        }
                    }
                }
            }};
        }
        let io = TokioIo::new(stream);
        let ended = match version {
            Version::Http1 => converse!(self.http1.serve_connection(io, service)),
            Version::Http2 => converse!(self.http2.serve_connection(io, service)),
        };
        if let Err(e) = ended {
            tracing::debug!(?peer, error = %e, "a connection ended early");
        }
    }
}

/// Accepts until the shutdown begins.
async fn accept(listener: Bound, server: Arc<Server>, mut phases: watch::Receiver<Phase>, alive: mpsc::Sender<()>) {
    let room = Arc::new(Semaphore::new(server.limits.connections));
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = reached(&mut phases, Phase::Draining) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // The client was faster than we were: nothing is wrong here.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => continue,
            Err(e) => {
                if let Some(times) = trouble.happened() {
                    tracing::warn!(error = %e, times, "connections cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            if let Some(times) = trouble.happened() {
                tracing::warn!(limit = server.limits.connections, times, "too many connections: new ones are closed");
            }
            continue;
        };
        let (server, phases, alive) = (server.clone(), phases.clone(), alive.clone());
        tokio::spawn(async move {
            match stream {
                Stream::Tcp(stream) => server.converse(stream, peer, phases).await,
                Stream::Unix(stream) => server.converse(stream, peer, phases).await,
            }
            drop((place, alive));
        });
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Bound {
    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Bound::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Answers are small and awaited: Nagle's algorithm would only hold them back.
                let _ = stream.set_nodelay(true);
                let peer = Peer::Tcp { address: from.ip().to_canonical(), encrypted: false };
                Ok((Stream::Tcp(stream), peer))
            }
            Bound::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let who = stream.peer_cred()?;
                let pid = who.pid().and_then(|pid| u32::try_from(pid).ok());
                Ok((Stream::Unix(stream), Peer::Socket { uid: who.uid(), pid }))
            }
        }
    }
}

/// Counts what happens too often to log each time.
#[derive(Default)]
struct Trouble {
    times: u64,
    logged: Option<Instant>,
}

impl Trouble {
    /// Takes note; the number of times since the last line, when it is time for another.
    fn happened(&mut self) -> Option<u64> {
        self.times += 1;
        if self.logged.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.times))
    }
}
