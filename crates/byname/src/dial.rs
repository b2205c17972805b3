//! TLS connections to servers, for the command line and for agents: whom to believe, and what to show.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use byname_api::error::{Code, Error, Result};
use byname_client::{Dial, Stream};
use byname_identity::authority::Roots;
use byname_identity::tls::{self, Connector, Identity, Trust};
use tokio::net::TcpStream;

use crate::reach::Identity as Shown;

/// Connects with TLS.
pub(crate) struct TlsDial {
    connector: Connector,
}

impl TlsDial {
    /// One that believes the roots in this file, and shows this certificate.
    ///
    /// # Errors
    ///
    /// `invalid-argument` for files that cannot be read or used.
    pub(crate) fn new(ca: &Path, identity: Option<&Shown>) -> Result<Arc<TlsDial>> {
        let roots = Roots::from_pem(&read(ca)?).map_err(|error| error.within(ca.display()))?;
        TlsDial::trusting(Trust::Bundle(roots), identity)
    }

    /// One that believes what a join token says.
    pub(crate) fn pinned(root: [u8; 32]) -> Result<Arc<TlsDial>> {
        TlsDial::trusting(Trust::Pin(root), None)
    }

    fn trusting(trust: Trust, identity: Option<&Shown>) -> Result<Arc<TlsDial>> {
        tls::install();
        let shown = identity.map(read_identity).transpose()?;
        let connector = Connector::new(trust, shown.as_ref())?;
        Ok(Arc::new(TlsDial { connector }))
    }

    /// Shows another certificate from now on.
    pub(crate) fn reload(&self, identity: &Shown) -> Result<()> {
        self.connector.reload(Some(&read_identity(identity)?))
    }
}

#[async_trait::async_trait]
impl Dial for TlsDial {
    async fn dial(&self, host: &str, port: u16, at: Option<IpAddr>) -> io::Result<Box<dyn Stream>> {
        let stream = match at {
            Some(at) => TcpStream::connect((at, port)).await?,
            None => TcpStream::connect((host, port)).await?,
        };
        stream.set_nodelay(true)?;
        match self.connector.connect(stream, host).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(match tls::reason(&error) {
                Some(reason) => io::Error::new(error.kind(), reason.message().to_owned()),
                None => error,
            }),
        }
    }
}

fn read_identity(shown: &Shown) -> Result<Identity> {
    Ok(Identity { chain_pem: read(&shown.chain)?, key_pem: read(&shown.key)? })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path)
        .map_err(|error| Error::new(Code::InvalidArgument, format!("cannot read {}: {error}", path.display())))
}
