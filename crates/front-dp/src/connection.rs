//! One peer: the greeting, then frames. Commands are done in the order in which they come, as the original did them, so
//! that what a peer sends in one go means what it says.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use byname_api::caller::{Caller, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Front;
use crate::answer::{Refused, answer};
use crate::command::{Command, known};
use crate::frame::{Frame, NotAFrame, Token};
use crate::list;

/// A frame or an answer of more bytes than this is long: only so many are held at once.
pub(crate) const LONG: usize = 64 << 10;
/// How long a peer that is turned away may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// Who is at the other end.
pub(crate) struct Who {
    /// Where it calls from.
    pub(crate) peer: SocketAddr,
    /// What it has shown.
    token: Option<String>,
}

impl Who {
    /// The caller, looked up for every command: what was proved may be taken away meanwhile.
    pub(crate) fn caller(&self, front: &Front) -> byname_api::Result<Caller> {
        self.admit(front, self.token.as_deref())
    }

    fn admit(&self, front: &Front, token: Option<&str>) -> byname_api::Result<Caller> {
        let peer = Peer::Tcp { address: self.peer.ip(), encrypted: false };
        front.gate.admit_plain(peer, front.anyone_from_elsewhere, token)
    }
}

/// Serves a connection until it ends.
pub(crate) async fn converse(
    front: &Front,
    mut stream: TcpStream,
    peer: SocketAddr,
    full: bool,
    mut stopping: watch::Receiver<bool>,
) {
    // Answers are small and awaited: Nagle's algorithm would only hold them back.
    let _ = stream.set_nodelay(true);
    // A peer that went without a word is found out by the kernel, as in the original.
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let mut who = Who { peer, token: None };
    let refusal = match who.caller(front) {
        _ if full => Some("there are too many connections".to_owned()),
        Ok(_) => None,
        Err(error) => Some(error.message().to_owned()),
    };
    if let Some(why) = refusal {
        metrics::counter!("byname_dp_refused_total").increment(1);
        tracing::debug!(%peer, why, "a connection is refused");
        let line = format!("Connection refused: {}\n", why.replace('\n', " "));
        let _ = timeout(FAREWELL, async {
            stream.write_all(line.as_bytes()).await?;
            stream.shutdown().await
        })
        .await;
        return;
    }
    if let Err(error) = serve(front, &mut stream, &mut who, &mut stopping).await {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

async fn serve(
    front: &Front,
    stream: &mut TcpStream,
    who: &mut Who,
    stopping: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    stream.write_all(b"Connection accepted\n").await?;
    let mut reader = Reader::default();
    loop {
        let read = tokio::select! {
            read = reader.next(front, stream) => read?,
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        let Some(frame) = read else { return Ok(()) };
        let wants_reply = match frame.token {
            Token::Request => true,
            Token::Notice => false,
            // Nothing was asked over this connection.
            Token::Result | Token::Error => continue,
        };
        let working = front.working.acquire().await;
        let message = std::str::from_utf8(&frame.message).ok().filter(|text| !text.contains('\0'));
        let name = message.map_or("other", known);
        let done = match message {
            Some(message) => perform(front, who, message).await,
            None => Err(Refused::from("the message is no text: it must be UTF-8 without NUL")),
        };
        let outcome = if done.is_ok() { "ok" } else { "error" };
        metrics::counter!("byname_dp_requests_total", "command" => name, "outcome" => outcome).increment(1);
        let reply = match done {
            Ok(None) => return Ok(()),
            Ok(Some(result)) => Frame::new(Token::Result, frame.id, result),
            Err(refused) => Frame::new(Token::Error, frame.id, refused.message()),
        };
        let fits = reply.encode().or_else(|| too_long(frame.id).encode());
        let Some(bytes) = fits.filter(|_| wants_reply) else { continue };
        let _long = if bytes.len() > LONG { front.long.acquire().await.ok() } else { None };
        drop(working);
        match timeout(front.limits.patience, stream.write_all(&bytes)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answer")),
        }
    }
}

/// Does what a message says. None: the peer closes the connection.
async fn perform(front: &Front, who: &mut Who, message: &str) -> Result<Option<String>, Refused> {
    match Command::parse(message)? {
        Command::Close => Ok(None),
        Command::Identify(token) => {
            let caller = who.admit(front, Some(&token))?;
            who.token = Some(token);
            Ok(Some(list::merge([caller.principal])))
        }
        command => answer(front, who, command).await.map(Some),
    }
}

fn too_long(id: u32) -> Frame {
    let refused = Refused::from("the answer is longer than a frame, 1000000 bytes: ask with a narrower pattern");
    Frame::new(Token::Error, id, refused.message())
}

/// What has come of the next frame.
#[derive(Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    /// The next frame; none when the peer has closed the connection between two frames.
    pub(crate) async fn next(&mut self, front: &Front, stream: &mut TcpStream) -> io::Result<Option<Frame>> {
        let mut long = None;
        loop {
            let decoded = Frame::decode(&self.bytes)
                .map_err(|NotAFrame(why)| io::Error::new(io::ErrorKind::InvalidData, format!("no frame: {why}")))?;
            if let Some((frame, length)) = decoded {
                self.bytes.drain(..length);
                if self.bytes.capacity() > LONG && self.bytes.len() < CHUNK {
                    self.bytes.shrink_to(CHUNK);
                }
                return Ok(Some(frame));
            }
            if self.bytes.len() > LONG && long.is_none() {
                long = front.long.acquire().await.ok();
            }
            let mut chunk = [0; CHUNK];
            let reading = stream.read(&mut chunk);
            let read = match self.bytes.is_empty() {
                // It may be silent between two frames for as long as it likes.
                true => reading.await?,
                false => timeout(front.limits.patience, reading)
                    .await
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the rest of a frame did not come"))??,
            };
            if read == 0 {
                return match self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }
}
