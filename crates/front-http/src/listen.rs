//! The listener: accepts connections on TCP and unix sockets, tells TLS from plain HTTP and HTTP/1.1 from HTTP/2, bounds
//! what a client may hold, asks the gate about every request, and drains when told to stop.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use byname_api::caller::{Connection, Gate, Peer};
use byname_api::{Code, Error};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tower::Service;

use crate::admit::admit;
use crate::crowd::Crowd;
use crate::problem::Problem;
use crate::secure::Secure;
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
    /// connection beyond that is closed at once. One address elsewhere may hold a quarter of them.
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
/// TLS handshakes at once for each listener: they cost more than anything else that a stranger can ask for.
const HANDSHAKES: usize = 256;
/// The first byte of a TLS connection: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a caller that is turned away may take to read why, and how much of what it sends meanwhile is dropped.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_BYTES: u64 = 64 << 10;
/// The least time between two log lines about the same trouble.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The pause after a failed accept: most of these mean that descriptors are used up, and that does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `app` on these sockets until `shutdown` is ready, then lets open requests end, within [`Limits::drain`].
/// Every request carries [`Admission`](byname_api::caller::Admission) in its extensions. Dropping the future closes
/// everything at once.
pub async fn serve(listeners: Vec<Bound>, app: Router, gate: Gate, shutdown: impl Future<Output = ()>) {
    serve_with(listeners, app, gate, Limits::default(), None, shutdown).await;
}

/// As [`serve`], with other bounds, and with TLS on the TCP sockets: what does not begin with a handshake is plain HTTP
/// there, and served to callers on this host only.
pub async fn serve_with(
    listeners: Vec<Bound>,
    app: Router,
    gate: Gate,
    limits: Limits,
    tls: Option<Arc<dyn Secure>>,
    shutdown: impl Future<Output = ()>,
) {
    let drain = limits.drain;
    let (phase, phases) = watch::channel(Phase::Open);
    // Every task holds a sender: the channel ends when the last one has gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let server = Arc::new(Server::new(app, gate, limits, tls));
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
    tls: Option<Arc<dyn Secure>>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Server {
    fn new(app: Router, gate: Gate, limits: Limits, tls: Option<Arc<dyn Secure>>) -> Self {
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
        Server { app, gate, limits, tls, http1, http2 }
    }

    /// Serves one TCP connection until it ends: the first byte says whether it is TLS.
    async fn converse_tcp(
        self: Arc<Self>,
        stream: TcpStream,
        address: IpAddr,
        handshakes: &Semaphore,
        mut phases: watch::Receiver<Phase>,
    ) {
        let plain = Peer::Tcp { address, encrypted: false };
        let Some(tls) = self.tls.clone() else {
            return self.converse(stream, plain.into(), phases).await;
        };
        let mut first = [0];
        let peeked = tokio::select! {
            peeked = tokio::time::timeout(self.limits.header_timeout, stream.peek(&mut first)) => peeked,
            () = reached(&mut phases, Phase::Draining) => return,
        };
        if !matches!(peeked, Ok(Ok(1..))) {
            tracing::debug!(peer = ?plain, "a connection ended before its first byte");
            return;
        }
        if first != [TLS_HANDSHAKE] {
            if plain.is_loopback() {
                return self.converse(stream, plain.into(), phases).await;
            }
            tracing::debug!(peer = ?plain, "a plain connection from elsewhere is refused");
            return turn_away(stream).await;
        }
        let peer = Peer::Tcp { address, encrypted: true };
        let handshake = async {
            let _place = handshakes.acquire().await;
            tls.accept(stream).await
        };
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.limits.header_timeout, handshake) => shaken,
            () = reached(&mut phases, Phase::Draining) => return,
        };
        match shaken {
            Ok(Ok((stream, certificate))) => self.converse(stream, Connection { peer, certificate }, phases).await,
            Ok(Err(error)) => {
                tracing::debug!(?peer, error = error.log_line(), "a TLS handshake failed");
                // What only broke off proves nothing about anybody, and anybody can do it as often as they like.
                if matches!(error.code(), Code::Unauthenticated | Code::Denied) {
                    self.gate.refused(peer, &error);
                }
            }
            Err(_) => tracing::debug!(?peer, "a TLS handshake took too long"),
        }
    }

    /// Serves one connection until it ends.
    async fn converse<S>(self: Arc<Self>, stream: S, connection: Connection, mut phases: watch::Receiver<Phase>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = connection.peer;
        let sniffed = tokio::select! {
            sniffed = tokio::time::timeout(self.limits.header_timeout, sniff(stream)) => sniffed,
            () = reached(&mut phases, Phase::Draining) => return,
        };
        let Ok(Ok((version, stream))) = sniffed else {
            tracing::debug!(?peer, "a connection ended before its first request");
            return;
        };
        let server = self.clone();
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
            Version::Http1 => converse!(self.http1.serve_connection(io, service).with_upgrades()),
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
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let crowd = Crowd::new(server.limits.connections.div_ceil(4));
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
        let Some(turn) = crowd.enter(&peer) else {
            if let Some(times) = trouble.happened() {
                tracing::warn!(?peer, times, "too many connections from one address: new ones are closed");
            }
            continue;
        };
        let (server, phases, alive) = (server.clone(), phases.clone(), alive.clone());
        let handshakes = handshakes.clone();
        tokio::spawn(async move {
            match (stream, peer) {
                (Stream::Tcp(stream), Peer::Tcp { address, .. }) => {
                    server.converse_tcp(stream, address, &handshakes, phases).await;
                }
                (Stream::Tcp(stream), peer) => server.converse(stream, peer.into(), phases).await,
                (Stream::Unix(stream), peer) => server.converse(stream, peer.into(), phases).await,
            }
            drop((place, turn, alive));
        });
    }
}

/// Says once why a plain connection from elsewhere is not served. What the caller sends meanwhile is read, or the kernel
/// would cut the answer off.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let said = async {
        let error = Error::new(Code::Denied, "this port speaks TLS: write https://");
        stream.write_all(&Problem::from(error).raw()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    // Whether it was read makes no difference here.
    let _ = tokio::time::timeout(FAREWELL, said).await;
}

enum Stream {
    Tcp(TcpStream),
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use byname_api::caller::{Authenticator, Caller, Certificate};
    use byname_name::Name;

    use super::*;

    /// Takes note of what is refused.
    #[derive(Default)]
    struct Noting(Mutex<Vec<(Peer, String)>>);

    impl Authenticator for Noting {
        fn local(&self, uid: u32, pid: Option<u32>) -> byname_api::Result<Caller> {
            Ok(Caller::local(uid, pid))
        }

        fn bearer(&self, _: Peer, _: &str) -> byname_api::Result<Caller> {
            Err(byname_api::caller::unknown_token())
        }

        fn certificate(&self, _: Peer, certificate: &Certificate) -> byname_api::Result<Caller> {
            Ok(Caller { principal: certificate.name.to_string(), ..Caller::anonymous() })
        }

        fn anonymous(&self, _: Peer) -> byname_api::Result<Caller> {
            Ok(Caller::anonymous())
        }

        fn refused(&self, peer: Peer, error: &Error) {
            self.0.lock().unwrap().push((peer, error.message().into()));
        }
    }

    /// TLS in name only: takes the first byte off; the second one says how the handshake goes.
    struct InNameOnly;

    #[async_trait::async_trait]
    impl Secure for InNameOnly {
        async fn accept(
            &self,
            mut stream: TcpStream,
        ) -> byname_api::Result<(Box<dyn crate::Stream>, Option<Arc<Certificate>>)> {
            let mut head = [0; 2];
            let broke = |_| Error::new(Code::Unavailable, "the handshake broke off");
            stream.read_exact(&mut head).await.map_err(broke)?;
            let certificate = || Certificate {
                name: Name::parse("/people/liu").unwrap(),
                id: None,
                instance: None,
                serial: "1".into(),
                fingerprint: [0; 32],
                issued: byname_api::span::Timestamp(0),
                not_after: byname_api::span::Timestamp(u64::MAX),
            };
            match head[1] {
                b'c' => Ok((Box::new(stream), Some(Arc::new(certificate())))),
                b'n' => Ok((Box::new(stream), None)),
                b'b' => Err(Error::new(Code::Unavailable, "the handshake broke off")),
                _ => Err(Error::new(Code::Unauthenticated, "the certificate is of another trust domain")),
            }
        }
    }

    struct World {
        server: Arc<Server>,
        refused: Arc<Noting>,
        phase: watch::Sender<Phase>,
        phases: watch::Receiver<Phase>,
    }

    impl World {
        fn new(tls: bool, limits: Limits) -> World {
            let refused = Arc::new(Noting::default());
            let whoever = |request: axum::extract::Request| async move {
                let admission = request.extensions().get::<byname_api::caller::Admission>().cloned();
                match admission.unwrap().0 {
                    Ok(caller) => format!("{} at {:?}", caller.principal, caller.address),
                    Err(error) => error.message().to_owned(),
                }
            };
            let tls: Option<Arc<dyn Secure>> = if tls { Some(Arc::new(InNameOnly)) } else { None };
            let app = Router::new().fallback(whoever);
            let server = Arc::new(Server::new(app, Gate::before(refused.clone()), limits, tls));
            let (phase, phases) = watch::channel(Phase::Open);
            World { server, refused, phase, phases }
        }

        /// What is answered to these bytes from this address until the connection ends, in order or not.
        async fn said(&self, from: &str, bytes: &[u8]) -> String {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (server, phases, from) = (self.server.clone(), self.phases.clone(), from.parse().unwrap());
            let serving = tokio::spawn(async move {
                server.converse_tcp(stream, from, &Semaphore::new(HANDSHAKES), phases).await;
            });
            let mut answer = Vec::new();
            let _ = client.write_all(bytes).await;
            let _ = client.read_to_end(&mut answer).await;
            drop(client);
            serving.await.unwrap();
            String::from_utf8(answer).unwrap()
        }
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: names.example\r\nConnection: close\r\n\r\n";
    const GET_HERE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    fn body(answer: &str) -> &str {
        answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body)
    }

    #[tokio::test]
    async fn tls_is_told_from_plain_http_by_its_first_byte() {
        let world = World::new(true, Limits::default());
        let tls = |kind: &str, rest: &str| format!("\x16{kind}{rest}").into_bytes();
        for (from, bytes, answer) in [
            ("192.0.2.1", tls("c", GET), "/people/liu at Some(192.0.2.1)"),
            ("192.0.2.1", tls("n", GET), "anyone at Some(192.0.2.1)"),
            ("127.0.0.1", tls("n", GET), "anyone at Some(127.0.0.1)"),
            ("127.0.0.1", GET_HERE.into(), "anyone at Some(127.0.0.1)"),
            ("::1", GET_HERE.into(), "anyone at Some(::1)"),
            (
                "::1",
                GET.into(),
                "the Host header must name this host (localhost, 127.0.0.1 or [::1]), so that web pages cannot reach the server under another name",
            ),
        ] {
            let got = world.said(from, &bytes).await;
            assert_eq!(body(&got), answer, "{from} {got:?}");
        }
        assert_eq!(*world.refused.0.lock().unwrap(), []);
    }

    #[tokio::test]
    async fn plain_http_from_elsewhere_is_told_to_use_tls() {
        let world = World::new(true, Limits::default());
        let long = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n{}", "x".repeat(20_000));
        for bytes in [GET, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00", &long] {
            let answer = world.said("192.0.2.1", bytes.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
            assert!(answer.contains("\r\ncontent-type: application/problem+json\r\n"), "{answer}");
            let problem: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
            assert_eq!(
                (&problem["code"], &problem["detail"]),
                (&"denied".into(), &"this port speaks TLS: write https://".into())
            );
            assert!(answer.contains(&format!("\r\ncontent-length: {}\r\n", body(&answer).len())), "{answer}");
        }
    }

    #[tokio::test]
    async fn who_is_turned_away_may_finish_the_sentence() {
        let (mut client, server) = tokio::io::duplex(1_024);
        let turning = tokio::spawn(turn_away(server));
        client.write_all(&[b'x'; 20_000]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        turning.await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_certificate_is_told_to_the_gate_and_a_broken_handshake_is_not() {
        let world = World::new(true, Limits::default());
        for bytes in [b"\x16b", b"\x16x"] {
            assert_eq!(world.said("192.0.2.1", bytes).await, "");
        }
        let peer = Peer::Tcp { address: [192, 0, 2, 1].into(), encrypted: true };
        let expect = [(peer, "the certificate is of another trust domain".to_owned())];
        assert_eq!(*world.refused.0.lock().unwrap(), expect);
    }

    #[tokio::test]
    async fn who_dawdles_over_a_handshake_is_cut() {
        let limits = Limits { header_timeout: Duration::from_millis(50), ..Limits::default() };
        let world = World::new(true, limits);
        for bytes in ["", "\x16"] {
            assert_eq!(world.said("192.0.2.1", bytes.as_bytes()).await, "");
        }
        assert_eq!(*world.refused.0.lock().unwrap(), []);
    }

    #[tokio::test]
    async fn a_shutdown_does_not_wait_for_a_handshake() {
        let world = World::new(true, Limits::default());
        world.phase.send_replace(Phase::Draining);
        for bytes in ["", "\x16"] {
            assert_eq!(world.said("192.0.2.1", bytes.as_bytes()).await, "");
        }
    }

    #[tokio::test]
    async fn without_tls_the_gate_refuses_callers_from_elsewhere() {
        let world = World::new(false, Limits::default());
        let answer = world.said("192.0.2.1", GET.as_bytes()).await;
        assert_eq!(body(&answer), "callers from elsewhere must use TLS: write https://");
    }
}
