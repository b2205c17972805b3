//! How an encrypted connection is made: the clerk is handed a dialler and knows nothing of certificates.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Makes connections to servers that speak TLS, and knows whom to trust.
#[async_trait::async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A connection whose other end has shown a certificate for this host. The stream speaks HTTP/2. `host` is a name
    /// or an address, without the brackets of IPv6; `at` is where it is, when that is known already. The caller bounds
    /// the time.
    ///
    /// # Errors
    ///
    /// What the innermost error says is what people read: `the certificate of 192.0.2.1 is of another trust domain`.
    async fn dial(&self, host: &str, port: u16, at: Option<IpAddr>) -> io::Result<Box<dyn Stream>>;
}
