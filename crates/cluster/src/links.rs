//! Calls between servers over byte streams: the [`Transport`] of real hosts.
//!
//! ```text
//! frame    = length u32 of what follows, number u64, bytes        (little-endian)
//! ```
//!
//! Each server connects to each other, once for each [`Lane`], when it has something to say. The connecting end sends
//! requests, the other end answers them by their numbers, in any order. Who makes the streams, and how each end knows the
//! other, is not this file's business: see [`Dial`].
//!
//! A stream that breaks ends the calls on it, and the next call makes a new one. A stream on which nothing comes back while
//! answers are owed is broken, whatever TCP believes.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::peers::{Lane, Server, Transport};

/// The largest frame: an entry of 4 MiB and what the engine puts beside it, with room.
const FRAME_BYTES_MAX: usize = 64 << 20;
const FRAME_HEADER: usize = 12;
/// Calls that may wait for a stream to take them.
const QUEUE: usize = 1_024;
/// Requests of one stream that may be worked on at once.
const ANSWERS_UNDER_WAY: usize = 1_024;
/// How long making a stream may take.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// How often, and how long apart, it is looked whether nobody listens any more.
const GONE_TRIES: u32 = 20;
const GONE_AGAIN: Duration = Duration::from_millis(5);
/// Between two tries to make a stream.
const DIAL_PAUSE: Duration = Duration::from_millis(20);
/// A stream that owes answers and brings nothing for so long is broken. Longer than a disk may take for a write.
const SILENCE: Duration = Duration::from_secs(3);
/// Frames are gathered up to this size before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Makes streams to other servers, and knows that it is they who answer.
pub trait Dial: Send + Sync + 'static {
    /// A stream to this server, at whose other end [`serve`] runs. The caller bounds the time.
    fn dial(&self, to: &Server) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// The streams of one server to all others.
pub struct Links {
    dial: Arc<dyn Dial>,
    lines: Mutex<HashMap<(u64, Lane), Line>>,
}

/// A stream to a server, and who looks after it.
struct Line {
    address: String,
    calls: mpsc::Sender<Call>,
}

struct Call {
    request: Bytes,
    answer: oneshot::Sender<io::Result<Bytes>>,
}

impl Links {
    /// Links that are made with `dial` when they are needed.
    #[must_use]
    pub fn new(dial: Arc<dyn Dial>) -> Arc<Links> {
        Arc::new(Links { dial, lines: Mutex::default() })
    }

    /// Whether nobody listens any more where this server was: its process has ended. A host that does not answer at all
    /// says nothing about its processes.
    pub async fn has_gone(&self, server: &Server) -> bool {
        for _ in 0..GONE_TRIES {
            match tokio::time::timeout(DIAL_PATIENCE, self.dial.dial(server)).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return true,
                // The kernel takes connections for a process that is ending until it has closed its sockets one by one.
                Ok(Err(_)) => tokio::time::sleep(GONE_AGAIN).await,
                Ok(Ok(_)) | Err(_) => return false,
            }
        }
        false
    }

    fn line(&self, to: &Server, lane: Lane) -> mpsc::Sender<Call> {
        let mut lines = self.lines.lock();
        match lines.get(&(to.id, lane)) {
            Some(line) if line.address == to.address && !line.calls.is_closed() => line.calls.clone(),
            _ => {
                let (calls, waiting) = mpsc::channel(QUEUE);
                tokio::spawn(keep(Arc::clone(&self.dial), to.clone(), waiting));
                lines.insert((to.id, lane), Line { address: to.address.clone(), calls: calls.clone() });
                calls
            }
        }
    }
}

impl Transport for Links {
    fn call(&self, to: &Server, lane: Lane, request: Bytes, within: Duration) -> BoxFuture<'static, io::Result<Bytes>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.line(to, lane).try_send(Call { request, answer });
        Box::pin(async move {
            if sent.is_err() {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "too many calls wait for this server"));
            }
            match tokio::time::timeout(within, answered).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(io::ErrorKind::ConnectionReset.into()),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// Looks after one line: makes a stream when there are calls, and another when it breaks.
async fn keep(dial: Arc<dyn Dial>, to: Server, mut calls: mpsc::Receiver<Call>) {
    while let Some(first) = calls.recv().await {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        let dialled = tokio::time::timeout(DIAL_PATIENCE, dial.dial(&to)).await.unwrap_or_else(late);
        match dialled {
            Ok(stream) => {
                tracing::debug!(server = to.id, address = to.address, "connected to a peer");
                if let Err(error) = call(stream, first, &mut calls).await {
                    tracing::debug!(server = to.id, %error, "the line to a peer broke");
                }
            }
            Err(error) => {
                tracing::debug!(server = to.id, address = to.address, %error, "a peer cannot be reached");
                let again = || io::Error::new(error.kind(), error.to_string());
                let _ = first.answer.send(Err(again()));
                while let Ok(call) = calls.try_recv() {
                    let _ = call.answer.send(Err(again()));
                }
                tokio::time::sleep(DIAL_PAUSE).await;
            }
        }
    }
}

/// Sends calls over a stream until it breaks.
async fn call(stream: Box<dyn Stream>, first: Call, calls: &mut mpsc::Receiver<Call>) -> io::Result<()> {
    let (mut from, mut into) = tokio::io::split(stream);
    let owed: Mutex<HashMap<u64, oneshot::Sender<io::Result<Bytes>>>> = Mutex::default();
    let last = Mutex::new(Instant::now());
    let sending = async {
        let mut out = BytesMut::with_capacity(64 << 10);
        let (mut number, mut next) = (0u64, Some(first));
        loop {
            while let Some(call) = next.take() {
                put_frame(&mut out, number, &call.request)?;
                {
                    let mut owed = owed.lock();
                    if owed.is_empty() {
                        *last.lock() = Instant::now();
                    }
                    owed.insert(number, call.answer);
                }
                number += 1;
                if out.len() < WRITE_BYTES {
                    next = calls.try_recv().ok();
                }
            }
            into.write_all_buf(&mut out).await?;
            into.flush().await?;
            match calls.recv().await {
                Some(call) => next = Some(call),
                None => return Err::<(), _>(io::Error::from(io::ErrorKind::NotConnected)),
            }
        }
    };
    let receiving = async {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            let (number, answer) = next_frame(&mut from, &mut buffer).await?;
            *last.lock() = Instant::now();
            if let Some(waits) = owed.lock().remove(&number) {
                let _ = waits.send(Ok(answer));
            }
        }
    };
    let watching = async {
        let mut every = tokio::time::interval(SILENCE / 4);
        loop {
            every.tick().await;
            // Who has given up waiting is owed nothing.
            owed.lock().retain(|_, waits| !waits.is_closed());
            if !owed.lock().is_empty() && last.lock().elapsed() > SILENCE {
                return Err::<(), _>(io::Error::from(io::ErrorKind::TimedOut));
            }
        }
    };
    let broken = tokio::select! {
        ended = sending => ended,
        ended = receiving => ended,
        ended = watching => ended,
    };
    for (_, waits) in owed.into_inner() {
        let _ = waits.send(Err(io::ErrorKind::ConnectionReset.into()));
    }
    broken
}

/// Answers the calls of another server until its stream ends.
///
/// # Errors
/// Those of the stream; an end between two frames is none.
pub async fn serve<S, A, F>(stream: S, answer: A) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Fn(Bytes) -> F,
    F: Future<Output = Bytes> + Send + 'static,
{
    let (mut from, mut into) = tokio::io::split(stream);
    let (answers, mut done) = mpsc::channel::<(u64, Bytes)>(ANSWERS_UNDER_WAY);
    let room = Arc::new(Semaphore::new(ANSWERS_UNDER_WAY));
    let receiving = async {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            let (number, request) = match next_frame(&mut from, &mut buffer).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && buffer.is_empty() => return Ok(()),
                other => other?,
            };
            let Ok(turn) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
            let mut working = Box::pin(answer(request));
            // Polled here first, so that requests reach the engine in the order in which they came.
            let first = working.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            match first {
                Poll::Ready(bytes) => {
                    if answers.send((number, bytes)).await.is_err() {
                        return Ok(());
                    }
                }
                Poll::Pending => {
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        let bytes = working.await;
                        let _ = answers.send((number, bytes)).await;
                        drop(turn);
                    });
                }
            }
        }
    };
    let sending = async {
        let mut out = BytesMut::with_capacity(64 << 10);
        while let Some((number, bytes)) = done.recv().await {
            put_frame(&mut out, number, &bytes)?;
            while out.len() < WRITE_BYTES
                && let Ok((number, bytes)) = done.try_recv()
            {
                put_frame(&mut out, number, &bytes)?;
            }
            into.write_all_buf(&mut out).await?;
            into.flush().await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = receiving => ended,
        ended = sending => ended,
    }
}

fn put_frame(out: &mut BytesMut, number: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message between servers is too large"));
    }
    out.reserve(FRAME_HEADER + bytes.len());
    out.put_u32_le(8 + bytes.len() as u32);
    out.put_u64_le(number);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Reads a frame; `buffer` holds what came beyond it.
async fn next_frame(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<(u64, Bytes)> {
    loop {
        if let Some(mut head) = buffer.get(..FRAME_HEADER) {
            let (length, number) = (head.get_u32_le() as usize, head.get_u64_le());
            if !(8..=8 + FRAME_BYTES_MAX).contains(&length) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message between servers is too large"));
            }
            let whole = 4 + length;
            if buffer.len() >= whole {
                buffer.advance(FRAME_HEADER);
                return Ok((number, buffer.split_to(length - 8).freeze()));
            }
            buffer.reserve(whole - buffer.len());
        }
        if from.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Connects to a function; refuses when there is none.
    struct ToFunction {
        dialled: AtomicUsize,
        listens: Mutex<bool>,
    }

    impl Dial for Arc<ToFunction> {
        fn dial(&self, _: &Server) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
            self.dialled.fetch_add(1, Ordering::Relaxed);
            if !*self.listens.lock() {
                return Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())));
            }
            let (here, there) = tokio::io::duplex(1000);
            tokio::spawn(serve(there, |request: Bytes| async move {
                match &request[..] {
                    b"never" => std::future::pending().await,
                    b"later" => tokio::task::yield_now().await,
                    _ => {}
                }
                request
            }));
            Box::pin(std::future::ready(Ok(Box::new(here) as Box<dyn Stream>)))
        }
    }

    fn links() -> (Arc<Links>, Arc<ToFunction>, Server) {
        let dial = Arc::new(ToFunction { dialled: AtomicUsize::new(0), listens: Mutex::new(true) });
        (Links::new(Arc::new(dial.clone())), dial, Server { id: 2, address: "two:1".to_owned() })
    }

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn calls_are_answered_over_one_stream_whatever_their_order_and_size() {
        let (links, dial, two) = links();
        let large = Bytes::from(vec![7; 100_000]);
        let asked = [&b"later"[..], b"", b"now", &large];
        let calls = asked.map(|request| links.call(&two, Lane::Log, Bytes::copy_from_slice(request), SOON));
        for (call, request) in calls.into_iter().zip(asked) {
            assert_eq!(call.await.unwrap(), request);
        }
        assert_eq!(dial.dialled.load(Ordering::Relaxed), 1);
        links.call(&two, Lane::Bulk, large.clone(), SOON).await.unwrap();
        assert_eq!(dial.dialled.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_ends_and_so_does_a_stream_that_owes_too_long() {
        let (links, dial, two) = links();
        let short = links.call(&two, Lane::Log, Bytes::from_static(b"never"), Duration::from_millis(50)).await;
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(links.call(&two, Lane::Log, Bytes::from_static(b"now"), SOON).await.is_ok());
        let long = links.call(&two, Lane::Log, Bytes::from_static(b"never"), Duration::from_secs(60)).await;
        assert_eq!(long.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(links.call(&two, Lane::Log, Bytes::from_static(b"now"), SOON).await.is_ok());
        assert_eq!(dial.dialled.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_there_is_said_at_once_and_found_again_later() {
        let (links, dial, two) = links();
        *dial.listens.lock() = false;
        assert!(links.has_gone(&two).await);
        let refused = links.call(&two, Lane::Log, Bytes::new(), SOON).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        *dial.listens.lock() = true;
        assert!(!links.has_gone(&two).await);
        assert!(links.call(&two, Lane::Log, Bytes::new(), SOON).await.is_ok());
    }
}
