//! The end that connects.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use byname_api::error::{Error, Result};
use byname_api::span::Timestamp;
use byname_name::Name;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CLIENT_PROTOCOL, Identity, PROVIDER, alert_for, algorithms, explained};
use crate::authority::{Peer, Purpose, Refusal, Roots, Rule, refusal_of, verify_chain, verify_host};

/// A connection that was made.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// Which roots to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those of a bundle.
    Bundle(Roots),
    /// The one with this SHA-256 (of its DER), which the server sends as the last of its chain: all that a join token
    /// says.
    Pin([u8; 32]),
}

/// Who must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A name server of the trust domain, whatever the host is called; or, with a certificate that has no SPIFFE id at
    /// all (from a public authority, say), a server of the host that was dialled.
    ///
    /// A certificate that is for another name is refused even where it fits the host: a service must not pass for a name
    /// server because both run on one host.
    NameServer,
    /// The holder of a name.
    Name(Name),
}

/// Makes TLS connections. What it proves itself with can be exchanged while connections are open.
pub struct Connector {
    trust: Arc<Trust>,
    expect: Arc<Expect>,
    identity: ArcSwap<Option<Arc<SingleCertAndKey>>>,
}

impl Connector {
    /// A connector to name servers, which shows `identity` when it is asked.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the key is not the certificate's or either cannot be used.
    pub fn new(trust: Trust, identity: Option<&Identity>) -> Result<Self> {
        Connector::to(trust, Expect::NameServer, identity)
    }

    /// A connector to whom `expect` says.
    ///
    /// # Errors
    ///
    /// As [`Connector::new`].
    pub fn to(trust: Trust, expect: Expect, identity: Option<&Identity>) -> Result<Self> {
        Ok(Connector {
            trust: Arc::new(trust),
            expect: Arc::new(expect),
            identity: ArcSwap::from_pointee(certified(identity)?),
        })
    }

    /// Exchanges what the connections to come prove themselves with.
    ///
    /// # Errors
    ///
    /// As [`Connector::new`]; then everything stays as it was.
    pub fn reload(&self, identity: Option<&Identity>) -> Result<()> {
        self.identity.store(Arc::new(certified(identity)?));
        Ok(())
    }

    /// Makes a TLS connection of a stream to `host`, a host name or an address (brackets are dropped).
    ///
    /// The other end may still refuse our certificate after this: then the first read fails, and [`super::reason`] has
    /// the sentence for that too.
    ///
    /// # Errors
    ///
    /// Those of the stream, and a failed handshake; [`super::reason`] has the sentence.
    pub async fn connect<S>(&self, stream: S, host: &str) -> io::Result<ClientStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_to_peer(stream, host).await.map(|(stream, _)| stream)
    }

    /// The same, with whom the server proved to be; none where it is known by its host only.
    ///
    /// # Errors
    ///
    /// As [`Connector::connect`].
    pub async fn connect_to_peer<S>(&self, stream: S, host: &str) -> io::Result<(ClientStream<S>, Option<Peer>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let outcome = Arc::new(OnceLock::new());
        let name = server_name(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let config = self.client_config(&outcome).map_err(io::Error::other)?;
        let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        match (connected, outcome.get().cloned()) {
            (Ok(stream), Some(Ok(peer))) => Ok((stream, peer)),
            (Ok(_), None) => Err(io::Error::other("the server showed no certificate")),
            (Ok(_), Some(Err(refusal))) => Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal)),
            (Err(error), seen) => Err(explained(error, seen.and_then(|seen| seen.err()))),
        }
    }

    /// One connection's configuration, with a check of its own that keeps what it found.
    fn client_config(&self, outcome: &Arc<Outcome>) -> Result<ClientConfig> {
        let check = ServerCheck {
            trust: Arc::clone(&self.trust),
            expect: Arc::clone(&self.expect),
            outcome: Arc::clone(outcome),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::internal(format!("setting up TLS: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check));
        let mut config = match self.identity.load().as_ref() {
            Some(certified) => builder.with_client_cert_resolver(Arc::clone(certified) as _),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![CLIENT_PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("expect", &self.expect).finish_non_exhaustive()
    }
}

fn certified(identity: Option<&Identity>) -> Result<Option<Arc<SingleCertAndKey>>> {
    identity.map(|identity| Ok(Arc::new(SingleCertAndKey::from(identity.certified()?)))).transpose()
}

fn server_name(host: &str) -> Result<ServerName<'static>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // An address of one link carries its interface (`fe80::1%eth0`), which no certificate does.
    let bare = bare.split('%').next().unwrap_or_default();
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    ServerName::try_from(bare.to_owned())
        .map_err(|_| Error::invalid("host", format!("`{host}` is neither a host name nor an address")))
}

type Outcome = OnceLock<std::result::Result<Option<Peer>, Error>>;

/// Whether a server's certificate is good.
struct ServerCheck {
    trust: Arc<Trust>,
    expect: Arc<Expect>,
    outcome: Arc<Outcome>,
}

impl ServerCheck {
    fn check(
        &self,
        chain: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: Timestamp,
    ) -> std::result::Result<Option<Peer>, Refusal> {
        let pinned;
        let roots = match &*self.trust {
            Trust::Bundle(roots) => roots,
            Trust::Pin(hash) => {
                pinned = pinned_root(chain, hash)?;
                &pinned
            }
        };
        if *self.expect == Expect::NameServer && verify_host(roots, chain, host, now)? {
            return Ok(None);
        }
        let peer = verify_chain(roots, chain, Purpose::Server, now)?;
        match &*self.expect {
            Expect::NameServer if !peer.is_server_name => {
                let what = format!("it is that of {}, which is no name server", peer.name);
                Err(refusal_of(Rule::Other, what))
            }
            Expect::Name(name) if *name != peer.name => {
                let what = format!("it is that of {} and not of {name}", peer.name);
                Err(refusal_of(Rule::Other, what))
            }
            // A copy that an agent has started under the name of a server is not that server.
            Expect::Name(_) if peer.has_server_form && !peer.is_server_name => {
                let what = format!("it is that of a program of the name {}, and not the server's own", peer.name);
                Err(refusal_of(Rule::Other, what))
            }
            _ => Ok(Some(peer)),
        }
    }
}

/// The root that the chain ends in, if it is the one of the hash.
fn pinned_root(chain: &[CertificateDer<'_>], hash: &[u8; 32]) -> std::result::Result<Roots, Refusal> {
    let other = || refusal_of(Rule::Issuer, "its chain does not end in the root that the join token names");
    let last = chain.last().ok_or_else(other)?;
    let roots = Roots::from_ders(vec![last.clone().into_owned()])
        .map_err(|_| refusal_of(Rule::Malformed, "its root is damaged"))?;
    if roots.fingerprints().next().as_ref() != Some(hash) {
        return Err(other());
    }
    Ok(roots)
}

impl fmt::Debug for ServerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCheck")
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        match self.check(&chain, server_name, Timestamp(now.as_secs().saturating_mul(1_000))) {
            Ok(peer) => {
                let _ = self.outcome.set(Ok(peer));
                Ok(ServerCertVerified::assertion())
            }
            Err(Refusal { rule, error }) => {
                let error = error.within("the server's certificate is refused");
                let _ = self.outcome.set(Err(error.clone()));
                Err(alert_for(&Refusal { rule, error }))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
