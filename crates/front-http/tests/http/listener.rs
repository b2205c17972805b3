//! The listener: versions of HTTP, bounds, odd requests, streams and the end.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Answer, Server, TOKEN, within};
use byname_api::caller::Certificate;
use byname_api::span::Timestamp;
use byname_api::{Code, Error, Result};
use byname_front_http::{Limits, Secure, Stream};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let server = Server::start().await;
    let stream = TcpStream::connect(server.tcp).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (method, host, status) in [("GET", "localhost", 200), ("HEAD", "localhost", 200), ("GET", "evil.example", 403)]
    {
        let request = Request::builder()
            .method(method)
            .version(Version::HTTP_2)
            .uri(format!("http://{host}/v1/cluster"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = within(send.send_request(request)).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (status, Version::HTTP_2));
        let body = within(answer.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(body.is_empty(), method == "HEAD");
    }
    // A gRPC client that calls what is not there reads a gRPC status.
    let request = Request::post("http://localhost/byname.v1.Nothing/Call")
        .header("content-type", "application/grpc")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = within(send.send_request(request)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["grpc-status"].to_str().unwrap()), (200, "12"));
}

#[tokio::test]
async fn odd_requests_are_refused_and_the_server_goes_on() {
    let server = Server::start().await;
    let host = format!("Host: {}\r\n", server.tcp);
    for (text, status) in [
        ("GET /v1/list HTTP/1.1\r\n".to_owned(), 400),
        (format!("GET /v1/list HTTP/1.1\r\n{host}{host}"), 400),
        (format!("GET http://evil.example/v1/list HTTP/1.1\r\n{host}"), 400),
        (format!("GET http://{}/v1/list HTTP/1.1\r\n{host}", server.tcp), 200),
        ("GET http://evil.example/v1/list HTTP/1.1\r\nHost: evil.example\r\n".to_owned(), 403),
        (format!("OPTIONS * HTTP/1.1\r\n{host}"), 404),
        (format!("CONNECT {} HTTP/1.1\r\n{host}", server.tcp), 404),
        ("GET /v1/list HTTP/1.0\r\n".to_owned(), 403),
        (format!("GET /v1/list HTTP/1.0\r\n{host}"), 200),
        (format!("GET //v1/list HTTP/1.1\r\n{host}"), 404),
        (format!("GET /v1/../v1/list HTTP/1.1\r\n{host}"), 404),
        (format!("PUT /v1/names/x HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
        (format!("PUT /v1/names/x HTTP/1.1\r\n{host}Content-Length: -1\r\n"), 400),
        (format!("GET /v1/list HTTP/1.1\r\n{host}X: {}\r\n", "x".repeat(100_000)), 431),
    ] {
        let answer =
            Answer::parse(server.raw(format!("{text}Connection: close\r\n\r\n").as_bytes()).await.as_bytes(), false);
        assert_eq!(answer.status, status, "{text:.80}: {answer:?}");
        assert!(answer.body.is_empty() || answer.header("content-type").starts_with("application/"));
    }
    assert!(server.raw(b"\x16\x03\x01 this is TLS\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_followed_log_comes_as_it_is_written() {
    let server = Server::start().await;
    let (write, log) = tokio::sync::mpsc::unbounded_channel();
    *server.fake.log.lock().unwrap() = Some(log);
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    let request = format!("GET /v1/services/s:logs?follow=true&tail=3 HTTP/1.1\r\nHost: {}\r\n\r\n", server.tcp);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "one\n").await;
    assert!(seen.contains("content-type: text/plain; charset=utf-8\r\n"), "{seen}");
    assert!(server.fake.last_call().contains("tail: Some(3), follow: true"));
    // Nothing more is sent before each piece has arrived.
    for piece in ["two\n", "three\n"] {
        write.send(Bytes::from_static(piece.as_bytes())).unwrap();
        read_until(&mut stream, &mut seen, piece).await;
    }
    drop(write);
    read_until(&mut stream, &mut seen, "0\r\n\r\n").await;
    let whole = server.get("/v1/services/s:logs").await;
    assert_eq!(whole.body, "one\n");
}

async fn read_until(stream: &mut TcpStream, seen: &mut String, wanted: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(wanted) {
        let read = within(stream.read(&mut buffer)).await.unwrap();
        assert_ne!(read, 0, "the server closed after {seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
}

#[tokio::test]
async fn a_client_that_dawdles_over_its_headers_is_cut() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with(limits).await;
    for said in ["", "P", "PRI * HTTP/2.0\r\n", "GET /livez HTTP/1.1\r\nHost: loc"] {
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        within(stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{said:?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let server = Server::with(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = TcpStream::connect(server.tcp).await.unwrap();
    let request = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", server.tcp);
    first.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    read_until(&mut first, &mut seen, "ok\n").await;
    let mut second = TcpStream::connect(server.tcp).await.unwrap();
    let mut rest = Vec::new();
    // An orderly end or a reset: closed either way, and nothing said.
    let _ = within(second.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    assert_eq!(server.send_local("GET", "/livez", &[], "").await.status, 200, "the unix socket has room of its own");
    first.write_all(request.as_bytes()).await.unwrap();
    seen.clear();
    read_until(&mut first, &mut seen, "ok\n").await;
}

#[tokio::test]
async fn a_shutdown_lets_open_requests_end_within_its_bound() {
    let mut server = Server::with(Limits { drain: Duration::from_secs(60), ..Limits::default() }).await;
    let (write, log) = tokio::sync::mpsc::unbounded_channel();
    *server.fake.log.lock().unwrap() = Some(log);
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    let request = format!("GET /v1/services/s:logs?follow=true HTTP/1.1\r\nHost: {}\r\n\r\n", server.tcp);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "one\n").await;
    server.stop();
    write.send(Bytes::from_static(b"last\n")).unwrap();
    read_until(&mut stream, &mut seen, "last\n").await;
    drop(write);
    within(server.ended.take().unwrap()).await.unwrap();
    assert!(TcpStream::connect(server.tcp).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_by_a_shutdown() {
    let mut server = Server::with(Limits { drain: Duration::from_millis(50), ..Limits::default() }).await;
    let (write, log) = tokio::sync::mpsc::unbounded_channel();
    *server.fake.log.lock().unwrap() = Some(log);
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    let request = format!("GET /v1/services/s:logs?follow=true HTTP/1.1\r\nHost: {}\r\n\r\n", server.tcp);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "one\n").await;
    server.stop();
    within(server.ended.take().unwrap()).await.unwrap();
    write.closed().await;
}

/// TLS in name only: the first byte of a handshake, then whether a certificate is shown, then everything in the clear.
struct InNameOnly;

#[async_trait::async_trait]
impl Secure for InNameOnly {
    async fn accept(&self, mut stream: TcpStream) -> Result<(Box<dyn Stream>, Option<Arc<Certificate>>)> {
        let mut head = [0; 2];
        let broke = |_| Error::new(Code::Unavailable, "the handshake broke off");
        stream.read_exact(&mut head).await.map_err(broke)?;
        let certificate = Certificate {
            name: byname_name::Name::parse("/people/liu").unwrap(),
            id: None,
            instance: None,
            serial: "1".into(),
            fingerprint: [0; 32],
            not_before: Timestamp(0),
            not_after: Timestamp(u64::MAX),
        };
        Ok((Box::new(stream), (head[1] == b'c').then(|| Arc::new(certificate))))
    }
}

#[tokio::test]
async fn one_port_speaks_tls_and_on_this_host_plain_http() {
    let tls: Arc<dyn Secure> = Arc::new(InNameOnly);
    let server = Server::secured(Limits::default(), Some(tls)).await;
    let get = |head: &str, host: &str, token: &str| {
        format!("{head}GET /v1/whoami HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}\r\n").into_bytes()
    };
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for (bytes, status, principal) in [
        (get("", "localhost", ""), 200, "anyone"),
        (get("", "names.example", ""), 403, ""),
        (get("\x16n", "names.example", ""), 200, "anyone"),
        (get("\x16n", "names.example", &token), 200, "token"),
        // A bearer token goes before a certificate, of which this gate knows none.
        (get("\x16c", "names.example", &token), 200, "token"),
        (get("\x16c", "names.example", ""), 401, ""),
        (get("\x16n", "names.example", "Origin: https://names.example\r\n"), 200, "anyone"),
        (get("\x16n", "names.example", "Origin: http://names.example\r\n"), 403, ""),
    ] {
        let answer = Answer::parse(server.raw(&bytes).await.as_bytes(), false);
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 200 {
            assert_eq!(answer.json()["principal"], principal);
        }
    }
    assert_eq!(server.send_local("GET", "/livez", &[], "").await.status, 200, "the unix socket is as it was");

    // HTTP/2 is told from HTTP/1.1 behind TLS too.
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    stream.write_all(b"\x16n").await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://names.example/v1/whoami").body(Empty::<Bytes>::new()).unwrap();
    let answer = within(send.send_request(request)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
}
