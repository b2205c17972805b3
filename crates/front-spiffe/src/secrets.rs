//! Envoy's secret discovery service, for proxies that get their certificates from here.
//!
//! Names are those that Envoy's own examples and SPIRE use: `default` or the SPIFFE id for the certificate with its key,
//! `ROOTCA` or the id of the trust domain (`spiffe://corp.example`) for whom to trust.

use std::pin::Pin;
use std::sync::Arc;

use byname_launch::Svid;
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::connection::Caller;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::data_source::Specifier;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, DataSource, Secret, TlsCertificate,
};
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use crate::{Agent, Svids, present};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const CERTIFICATE: &str = "default";
const ROOTS: &str = "ROOTCA";
/// The most names of one request.
const NAMES: usize = 64;

pub(crate) fn service(agent: Agent) -> SecretDiscoveryServiceServer<Secrets> {
    SecretDiscoveryServiceServer::new(Secrets { agent })
}

pub(crate) struct Secrets {
    agent: Agent,
}

#[async_trait]
impl SecretDiscoveryService for Secrets {
    type StreamSecretsStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (_, svids) = self.agent.identity(request.extensions().get::<Caller>().copied()).await?;
        let (answers, given) = mpsc::channel(4);
        let (requests, closed) = (request.into_inner(), self.agent.closed());
        tokio::spawn(async move {
            tokio::select! {
                () = follow(requests, svids, &answers) => {}
                () = answers.closed() => {}
                () = closed => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(given).boxed()))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let (_, svids) = self.agent.identity(request.extensions().get::<Caller>().copied()).await?;
        let svid = present(&svids)?;
        Ok(Response::new(answer(&svid, &request.into_inner().resource_names, 0)?))
    }
}

/// Answers requests, and the last of them again whenever the certificate changes.
async fn follow(
    mut requests: Streaming<DiscoveryRequest>,
    mut svids: Svids,
    answers: &mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut wanted: Option<Vec<String>> = None;
    let mut told: Option<Arc<Svid>> = None;
    let mut count = 0;
    loop {
        tokio::select! {
            request = requests.next() => {
                let Some(Ok(request)) = request else { return };
                if let Some(error) = &request.error_detail {
                    let why = error.message.escape_debug();
                    tracing::warn!(code = error.code, error = %why, "a proxy refuses its secrets");
                }
                // The same names again with a nonce: it has what it was sent.
                if !request.response_nonce.is_empty() && wanted.as_ref() == Some(&request.resource_names) {
                    continue;
                }
                wanted = Some(request.resource_names);
                told = None;
            }
            changed = svids.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let newest = svids.borrow_and_update().clone();
        let (Some(names), Some(svid)) = (&wanted, newest) else { continue };
        if told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &svid)) {
            continue;
        }
        count += 1;
        let answer = answer(&svid, names, count);
        told = Some(svid);
        let last = answer.is_err();
        if answers.send(answer).await.is_err() || last {
            return;
        }
    }
}

fn answer(svid: &Svid, names: &[String], nonce: u64) -> Result<DiscoveryResponse, Status> {
    if names.len() > NAMES {
        return Err(Status::invalid_argument(format!("{NAMES} names at most")));
    }
    let all = [CERTIFICATE.to_owned(), ROOTS.to_owned()];
    let names = if names.is_empty() { &all[..] } else { names };
    let any = |secret: Secret| prost_types::Any { type_url: TYPE.to_owned(), value: secret.encode_to_vec() };
    let resources: Result<Vec<_>, _> = names.iter().map(|name| secret(svid, name).map(any)).collect();
    Ok(DiscoveryResponse {
        version_info: svid.issued.0.to_string(),
        resources: resources?,
        type_url: TYPE.to_owned(),
        nonce: nonce.to_string(),
    })
}

fn secret(svid: &Svid, name: &str) -> Result<Secret, Status> {
    let inline = |text: &str| Some(DataSource { specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())) });
    let kind = if name == CERTIFICATE || name == svid.spiffe {
        let certificate_chain = inline(&svid.chain_pem);
        Type::TlsCertificate(TlsCertificate { certificate_chain, private_key: inline(&svid.key_pem.0) })
    } else if name == ROOTS || name.strip_prefix("spiffe://") == Some(svid.domain()) {
        Type::ValidationContext(CertificateValidationContext { trusted_ca: inline(&svid.bundle_pem) })
    } else {
        let what = format!("there is no secret `{}` for {}", name.escape_debug(), svid.spiffe);
        return Err(Status::invalid_argument(what));
    };
    Ok(Secret { name: name.to_owned(), r#type: Some(kind) })
}
