//! The other direction: what the server asks of a service. It connects to it as any client of Tcl-DP does.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use byname_api::service::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answer::Refused;
use crate::frame::{Frame, Token};
use crate::list;

/// How long one call may take, the connection included. A service in Tcl answers when it comes to its event loop.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest greeting that is read, in bytes.
const MAX_GREETING: usize = 1_024;
/// The longest answer of a service, in bytes: a ticket is much shorter.
const MAX_ANSWER: usize = 64 << 10;
/// Frames of the service's own that are turned away while its answer is waited for.
const MAX_OTHERS: usize = 64;

/// A connection to a service.
pub(crate) struct Line {
    stream: TcpStream,
    bytes: Vec<u8>,
    next_id: u32,
}

impl Line {
    /// Connects to a service and reads its greeting.
    ///
    /// # Errors
    ///
    /// When it does not answer, or turns the server away.
    pub(crate) async fn open(endpoint: &Endpoint) -> io::Result<Line> {
        let address: IpAddr = endpoint.address.parse().map_err(|_| io::Error::other("it has no IP address"))?;
        within(async {
            let stream = TcpStream::connect(SocketAddr::new(address, endpoint.port)).await?;
            let mut line = Line { stream, bytes: Vec::new(), next_id: 0 };
            let greeting = line.greeting().await?;
            if !greeting.starts_with(b"Connection accepted") {
                return Err(io::Error::other("it refuses the connection"));
            }
            Ok(line)
        })
        .await
    }

    async fn greeting(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.bytes, rest));
            }
            if self.bytes.len() > MAX_GREETING {
                return Err(io::Error::other("its greeting is too long"));
            }
            self.read().await?;
        }
    }

    /// Asks for the result of one command.
    ///
    /// # Errors
    ///
    /// When the service says that it is an error, or nothing in time.
    pub(crate) async fn call(&mut self, words: &[&str]) -> io::Result<String> {
        let id = self.next_id;
        self.next_id += 1;
        within(async {
            self.send(&Frame::new(Token::Request, id, list::merge(words))).await?;
            for _ in 0..MAX_OTHERS {
                let frame = self.frame().await?;
                match frame.token {
                    Token::Result if frame.id == id => {
                        return String::from_utf8(frame.message).map_err(|_| io::Error::other("its answer is no text"));
                    }
                    Token::Error if frame.id == id => return Err(io::Error::other("it answers with an error")),
                    // It may ask while it is asked; what it wants of the name server it asks over its own connection.
                    Token::Request => {
                        let refused = Refused::from("connect to the name server to ask it");
                        self.send(&Frame::new(Token::Error, frame.id, refused.message())).await?;
                    }
                    Token::Notice | Token::Result | Token::Error => {}
                }
            }
            Err(io::Error::other("it sends much and does not answer"))
        })
        .await
    }

    /// Takes leave. That it fails makes no difference any more.
    pub(crate) async fn close(mut self) {
        let _ = within(async {
            self.send(&Frame::new(Token::Notice, 0, "dp_CloseRPCFile")).await?;
            self.stream.shutdown().await
        })
        .await;
    }

    async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.encode().ok_or_else(|| io::Error::other("the message is too long"))?;
        self.stream.write_all(&bytes).await
    }

    async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            match Frame::decode(&self.bytes) {
                Ok(Some((frame, length))) => {
                    self.bytes.drain(..length);
                    return Ok(frame);
                }
                Ok(None) if self.bytes.len() <= MAX_ANSWER => self.read().await?,
                Ok(None) => return Err(io::Error::other("its answer is too long")),
                Err(_) => return Err(io::Error::other("it does not speak this protocol")),
            }
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4 << 10];
        match self.stream.read(&mut chunk).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
                Ok(())
            }
        }
    }
}

async fn within<T>(doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, doing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
