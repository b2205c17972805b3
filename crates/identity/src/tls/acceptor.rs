//! The end that is connected to.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use byname_api::error::{Error, Result};
use byname_api::span::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Identity, PROVIDER, SERVER_PROTOCOLS, alert_for, algorithms, explained};
use crate::authority::{Peer, Purpose, Refusal, Roots, verify_chain};

/// An accepted connection.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<S>;

/// Accepts TLS connections. Its certificate and its roots can be exchanged while connections are open.
pub struct Acceptor {
    current: ArcSwap<Current>,
}

/// What new connections go by.
struct Current {
    certified: Arc<SingleCertAndKey>,
    roots: Roots,
    hints: Vec<DistinguishedName>,
}

impl Acceptor {
    /// An acceptor that shows this identity and believes certificates that lead to `roots`.
    ///
    /// It sends the root too, which TLS does not ask for: a server or an agent that joins knows the root by its hash and
    /// nothing else.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the key is not the certificate's or either cannot be used.
    pub fn new(identity: &Identity, roots: Roots) -> Result<Self> {
        Ok(Acceptor { current: ArcSwap::from_pointee(Current::new(identity, roots)?) })
    }

    /// Exchanges identity and roots for the connections to come.
    ///
    /// # Errors
    ///
    /// As [`Acceptor::new`]; then everything stays as it was.
    pub fn reload(&self, identity: &Identity, roots: Roots) -> Result<()> {
        self.current.store(Arc::new(Current::new(identity, roots)?));
        Ok(())
    }

    /// Makes a TLS connection of a stream, with whom the client proved to be, if it showed a certificate.
    ///
    /// Whether that certificate was revoked and its object is still there is for the caller to look up.
    ///
    /// # Errors
    ///
    /// Those of the stream, and a failed handshake; [`super::reason`] has the sentence.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(ServerStream<S>, Option<Peer>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let outcome = Arc::new(OnceLock::new());
        let config = server_config(&self.current.load_full(), &outcome).map_err(io::Error::other)?;
        let accepted = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        // The configuration, and with it the check, may still be held by the stream.
        let seen = outcome.get().cloned();
        match (accepted, seen) {
            (Ok(stream), None) => Ok((stream, None)),
            (Ok(stream), Some(Ok(peer))) => Ok((stream, Some(peer))),
            (Ok(_), Some(Err(refusal))) => Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal)),
            (Err(error), seen) => Err(explained(error, seen.and_then(|seen| seen.err()))),
        }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("domain", &self.current.load().roots.domain()).finish_non_exhaustive()
    }
}

impl Current {
    fn new(identity: &Identity, roots: Roots) -> Result<Self> {
        let mut certified = identity.certified()?;
        if let Some(root) = certified.cert.last().and_then(|last| roots.issuer_of(last)) {
            certified.cert.push(root);
        }
        let hints = roots.subjects().map(DistinguishedName::in_sequence).collect();
        Ok(Current { certified: Arc::new(SingleCertAndKey::from(certified)), roots, hints })
    }
}

/// One connection's configuration. It has a check of its own, which keeps what it found: the library passes on neither
/// whose a certificate is nor our reason against it.
fn server_config(current: &Arc<Current>, outcome: &Arc<Outcome>) -> Result<ServerConfig> {
    let check = ClientCheck { current: Arc::clone(current), outcome: Arc::clone(outcome) };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::internal(format!("setting up TLS: {error}")))?
        .with_client_cert_verifier(Arc::new(check))
        .with_cert_resolver(Arc::clone(&current.certified) as _);
    config.alpn_protocols = SERVER_PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

type Outcome = OnceLock<std::result::Result<Peer, Error>>;

/// Whether a client's certificate is good.
struct ClientCheck {
    current: Arc<Current>,
    outcome: Arc<Outcome>,
}

impl fmt::Debug for ClientCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCheck")
    }
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.current.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        let now = Timestamp(now.as_secs().saturating_mul(1_000));
        match verify_chain(&self.current.roots, &chain, Purpose::Client, now) {
            Ok(peer) => {
                let _ = self.outcome.set(Ok(peer));
                Ok(ClientCertVerified::assertion())
            }
            Err(Refusal { rule, error }) => {
                let error = error.within("the client's certificate is refused");
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
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
