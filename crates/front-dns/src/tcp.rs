//! TCP (RFC 7766): many questions on a connection, answered as they are ready. Connections are bounded in all and for each
//! source, a connection holds bounded memory, and one that says nothing or takes nothing is closed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Shared;
use crate::answer::{Asker, Scratch, Verdict};
use crate::count::Counts;

/// Connections at once.
const MAX_CONNECTIONS: usize = 2_000;
/// Connections of one source at once.
const MAX_OF_A_SOURCE: usize = 200;
/// A connection on which nothing was said for so long is closed (RFC 7766 section 6.2.3: "of the order of a few seconds").
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to take an answer.
const SEND: Duration = Duration::from_secs(10);
/// Questions of one connection that are waited for at once.
const MAX_WAITING: usize = 100;
/// What is read at once.
const READ: usize = 4_096;
/// Answers are sent when so much of them is there, though more questions are.
const WRITE: usize = 64 << 10;

/// Open connections.
#[derive(Default)]
pub(crate) struct Open(Mutex<(usize, HashMap<IpAddr, usize>)>);

/// One of them.
struct Place(Arc<Open>, IpAddr);

impl Open {
    fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut open = self.0.lock();
        let (all, sources) = &mut *open;
        let of_it = sources.entry(source).or_default();
        if *all >= MAX_CONNECTIONS || *of_it >= MAX_OF_A_SOURCE {
            if *of_it == 0 {
                sources.remove(&source);
            }
            return None;
        }
        (*all, *of_it) = (*all + 1, *of_it + 1);
        metrics::gauge!("byname_dns_tcp_connections").set(*all as f64);
        Some(Place(self.clone(), source))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.lock();
        let (all, sources) = &mut *open;
        *all -= 1;
        metrics::gauge!("byname_dns_tcp_connections").set(*all as f64);
        if let Some(count) = sources.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.1);
            }
        }
    }
}

/// Answers connections until it is told to end; then closes those that are open.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stop: oneshot::Receiver<()>) {
    let open = Arc::new(Open::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => return,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) => {
                // Whoever is one too many is closed at once, and may try UDP or another server.
                if let Some(place) = open.take(from.ip().to_canonical()) {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        let _place = place;
                        converse(stream, from, &shared).await;
                    });
                }
            }
            // Out of descriptors: those that are open end in time.
            Err(error) => {
                tracing::debug!("the DNS cannot take a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, from: SocketAddr, shared: &Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (answered, mut late) = mpsc::channel::<Vec<u8>>(MAX_WAITING);
    let mut waiting = JoinSet::new();
    let (mut read, mut out, mut write) = (Vec::with_capacity(READ), Vec::new(), Vec::new());
    let mut scratch = Scratch::default();
    let mut counts = Counts::default();
    let mut turn = rand::random::<u32>();
    // Since when a message has been under way that is not whole yet.
    let mut partial: Option<Instant> = None;
    'connection: loop {
        let mut used = 0;
        while let Some(message) = next(&read, &mut used) {
            turn = turn.wrapping_add(1);
            let asker =
                Asker { address: from.ip().to_canonical(), tcp: true, turn, now: shared.clock(), waited: false };
            match shared.answers.answer(message, asker, &mut scratch, &mut out) {
                Verdict::Answer(answer) => {
                    counts.count(&answer);
                    push(&mut write, &out);
                }
                // Whoever sends what nobody can answer is no client.
                Verdict::Silent => break 'connection,
                verdict if waiting.len() < MAX_WAITING => {
                    let (shared, message, answered) = (shared.clone(), message.to_vec(), answered.clone());
                    waiting.spawn(async move {
                        shared.deal_over_tcp(message, asker, verdict, answered).await;
                    });
                }
                _ => counts.shed(),
            }
            if write.len() >= WRITE && !send(&mut stream, &mut write).await {
                break 'connection;
            }
        }
        read.drain(..used);
        // One that comes byte by byte gets no more time than one that does not come.
        partial = match partial {
            _ if read.is_empty() => None,
            Some(since) if used == 0 => Some(since),
            _ => Some(Instant::now()),
        };
        let deadline = partial.unwrap_or_else(Instant::now) + IDLE;
        if !send(&mut stream, &mut write).await {
            break;
        }
        counts.publish();
        while waiting.try_join_next().is_some() {}
        tokio::select! {
            got = tokio::time::timeout_at(deadline, stream.read_buf(&mut read)) => match got {
                Ok(Ok(count)) if count > 0 => {}
                // The client has asked all that it will, and waits for what is under way.
                Ok(Ok(_)) if !waiting.is_empty() => {
                    while let Ok(Some(answer)) = tokio::time::timeout(IDLE, late.recv()).await {
                        push(&mut write, &answer);
                        if !send(&mut stream, &mut write).await {
                            break;
                        }
                        while waiting.try_join_next().is_some() {}
                        if waiting.is_empty() && late.is_empty() {
                            break;
                        }
                    }
                    break;
                }
                Err(_) if !waiting.is_empty() && partial.is_none() => {}
                _ => break,
            },
            Some(answer) = late.recv() => push(&mut write, &answer),
        }
    }
    counts.publish_now();
}

/// The next whole message, with its length in front (RFC 1035 section 4.2.2).
fn next<'a>(read: &'a [u8], used: &mut usize) -> Option<&'a [u8]> {
    let (length, rest) = read.get(*used..)?.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let message = rest.get(..length)?;
    *used += 2 + length;
    Some(message)
}

fn push(write: &mut Vec<u8>, answer: &[u8]) {
    let Ok(length) = u16::try_from(answer.len()) else { return };
    write.extend_from_slice(&length.to_be_bytes());
    write.extend_from_slice(answer);
}

async fn send(stream: &mut TcpStream, write: &mut Vec<u8>) -> bool {
    if write.is_empty() {
        return true;
    }
    let sent = tokio::time::timeout(SEND, stream.write_all(write)).await;
    write.clear();
    write.shrink_to(WRITE);
    matches!(sent, Ok(Ok(())))
}
