//! The way in for fuzzing: what is read of a connection and of a request before any operation. Built with
//! `--cfg fuzzing` only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use byname_api::request::BatchRequest;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, ReadBuf};

use crate::{body, conditions, decode, patch, routes, sniff};

/// Looks at the first bytes of a connection that come `at_once` at a time.
///
/// # Panics
/// When the reader behind does not get the same bytes, or the version is wrong.
pub fn sniff(bytes: &[u8], at_once: usize) {
    let pieces = Pieces { rest: bytes, at_once };
    let Ok((version, mut sniffed)) = now(sniff::sniff(pieces)) else {
        assert!(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".starts_with(bytes), "a connection was given up too early");
        return;
    };
    assert_eq!(version == sniff::Version::Http2, bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    let mut read = Vec::new();
    let mut room = [0; 7];
    loop {
        let mut buf = ReadBuf::new(&mut room);
        let polled = Pin::new(&mut sniffed).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        assert!(matches!(polled, Poll::Ready(Ok(()))), "memory is always ready");
        if buf.filled().is_empty() {
            break;
        }
        read.extend_from_slice(buf.filled());
    }
    assert_eq!(read, bytes);
}

/// Reads a request: a line `METHOD PATH?QUERY`, lines of headers, an empty line, a body.
pub fn request(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let head = lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let (method, target) = head.split_once(' ').unwrap_or(("GET", head));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if let routes::Found::Route(route, rest) = routes::find(method, path) {
        let _ = decode::name(rest);
        let _ = decode::Query::parse(query, route.query);
    }
    let mut headers = HeaderMap::new();
    let mut used = head.len() + 1;
    for line in lines {
        used += line.len() + 1;
        let Some(at) = line.iter().position(|byte| *byte == b':') else { break };
        let (key, value) = (&line[..at], &line[at + 1..]);
        if let (Ok(key), Ok(value)) = (HeaderName::from_bytes(key), HeaderValue::from_bytes(value)) {
            headers.append(key, value);
        }
    }
    let _ = conditions::if_match(&headers);
    let _ = conditions::if_none_match(&headers);
    let _ = conditions::request_id(&headers);
    let _ = body::check_type(&headers, &["application/json"]).is_ok();
    let body = bytes.get(used..).unwrap_or_default();
    let _ = body::json::<BatchRequest>(body);
    if let Ok(patch) = patch::Patch::parse(body) {
        let _ = patch.needs_current();
        if let Ok((spec, clear)) = patch.over(None) {
            let mut current = spec.clone();
            let _ = clear.iter().try_for_each(|path| current.clear(path));
            let _ = patch.over(Some(&current));
        }
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("memory is always ready"),
    }
}

struct Pieces<'a> {
    rest: &'a [u8],
    at_once: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = self.at_once.min(self.rest.len()).min(buf.remaining());
        let (piece, rest) = self.rest.split_at(bytes);
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}
