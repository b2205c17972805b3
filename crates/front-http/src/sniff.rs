//! Tells HTTP/2 from HTTP/1.1 by the first bytes of a connection (prior knowledge, RFC 9113 section 3.3), and gives
//! those bytes back to whoever reads next.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What a client of HTTP/2 says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose first bytes were looked at.
pub(crate) struct Sniffed<S> {
    stream: S,
    head: [u8; PREFACE.len()],
    held: usize,
    given: usize,
}

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// Reads until it is clear which version the client speaks. The caller bounds the time.
///
/// # Errors
///
/// Those of the stream; `UnexpectedEof` when the client leaves before it is clear.
pub(crate) async fn sniff<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Version, Sniffed<S>)> {
    let mut head = [0; PREFACE.len()];
    let mut held = 0;
    let version = loop {
        let room = head.get_mut(held..).unwrap_or_default();
        let read = stream.read(room).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        held += read;
        if head.get(..held) != PREFACE.get(..held) {
            break Version::Http1;
        }
        if held == PREFACE.len() {
            break Version::Http2;
        }
    };
    Ok((version, Sniffed { stream, head, held, given: 0 }))
}

impl<S: AsyncRead + Unpin> AsyncRead for Sniffed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.head.get(this.given..this.held).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let fits = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..fits).unwrap_or_default());
        this.given += fits;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sniffed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(bytes: &[u8]) -> io::Result<(Version, Vec<u8>)> {
        let (version, mut rest) = sniff(bytes).await?;
        let mut all = Vec::new();
        rest.read_to_end(&mut all).await?;
        Ok((version, all))
    }

    #[tokio::test]
    async fn nothing_that_was_looked_at_is_lost() {
        for (text, version) in [
            ("GET / HTTP/1.1\r\n\r\n", Version::Http1),
            ("P", Version::Http1),
            ("POST /v1/batch HTTP/1.1\r\nHost: localhost\r\n\r\n", Version::Http1),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand frames", Version::Http2),
        ] {
            match said(text.as_bytes()).await {
                Ok(got) => assert_eq!(got, (version, text.as_bytes().to_vec()), "{text:?}"),
                Err(e) => assert_eq!((text, e.kind()), ("P", io::ErrorKind::UnexpectedEof)),
            }
        }
    }
}
