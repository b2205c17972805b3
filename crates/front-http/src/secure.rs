//! TLS as a plug: the listener knows nothing of certificates, keys or versions of the protocol.

use std::sync::Arc;

use byname_api::Result;
use byname_api::caller::Certificate;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// The server's side of TLS.
#[async_trait::async_trait]
pub trait Secure: Send + Sync + 'static {
    /// Does the handshake on a connection of which nothing was read yet, and checks the certificate of the client, if it
    /// shows one: it leads to the trust domain's root and holds now. HTTP/2 is told from HTTP/1.1 by what comes then. The
    /// caller bounds the time, and drops the future when it is over.
    ///
    /// # Errors
    ///
    /// `unauthenticated` or `denied` for a certificate that is refused, which the gate is told of; any other code for a
    /// handshake that did not come about.
    async fn accept(&self, stream: TcpStream) -> Result<(Box<dyn Stream>, Option<Arc<Certificate>>)>;
}
