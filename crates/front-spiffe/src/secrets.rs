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

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use byname_api::identity::{CertifyReply, TrustReply};
    use byname_api::object::InstanceId;
    use byname_api::span::Timestamp;
    use byname_launch::Workloads;
    use tokio::sync::watch;

    use super::*;
    use crate::proto::envoy::service::discovery::v3::Status as Refusal;
    use crate::proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;

    /// An agent with one instance, to which everybody belongs.
    struct One(watch::Receiver<Option<Arc<Svid>>>);

    #[async_trait]
    impl Workloads for One {
        fn identify(&self, _: BorrowedFd<'_>) -> Option<InstanceId> {
            Some(InstanceId(1))
        }

        fn svid(&self, _: InstanceId) -> Option<watch::Receiver<Option<Arc<Svid>>>> {
            Some(self.0.clone())
        }

        async fn token(&self, _: InstanceId, _: Vec<String>) -> byname_api::Result<byname_api::identity::Secret> {
            Err(byname_api::Error::internal("none"))
        }

        async fn trust(&self) -> byname_api::Result<TrustReply> {
            Err(byname_api::Error::internal("none"))
        }
    }

    #[async_trait]
    impl crate::Tokens for One {
        async fn validate(&self, _: &str, _: &str) -> byname_api::Result<crate::Claims> {
            Err(byname_api::Error::internal("none"))
        }
    }

    fn svid(letter: char) -> Arc<Svid> {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAQI{letter}\n-----END {label}-----\n");
        let reply = CertifyReply {
            chain: pem("CERTIFICATE"),
            bundle: pem("CERTIFICATE"),
            spiffe: "spiffe://corp.example/a".into(),
            expires: Timestamp(1),
            token: None,
        };
        Arc::new(Svid::new(reply, byname_api::identity::Secret(pem("PRIVATE KEY"))).unwrap())
    }

    fn asks(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            type_url: TYPE.to_owned(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    /// The names in an answer, with the lengths of what they stand for.
    fn told(answer: &DiscoveryResponse) -> Vec<(String, Vec<Vec<u8>>)> {
        let bytes = |source: Option<DataSource>| match source.and_then(|source| source.specifier) {
            Some(Specifier::InlineBytes(bytes)) => bytes,
            None => Vec::new(),
        };
        let read = |any: &prost_types::Any| {
            assert_eq!(any.type_url, TYPE);
            let secret = Secret::decode(any.value.as_slice()).unwrap();
            let parts = match secret.r#type.unwrap() {
                Type::TlsCertificate(tls) => vec![bytes(tls.certificate_chain), bytes(tls.private_key)],
                Type::ValidationContext(context) => vec![bytes(context.trusted_ca)],
            };
            (secret.name, parts)
        };
        answer.resources.iter().map(read).collect()
    }

    #[tokio::test]
    async fn a_proxy_gets_what_it_names_and_again_when_that_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (given, svids) = watch::channel(Some(svid('A')));
        let one = Arc::new(One(svids));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(crate::serve(listener, one.clone(), one, async {
            let _ = stopped.await;
        }));
        let endpoint = tonic::transport::Endpoint::try_from(format!("unix://{}", path.display())).unwrap();
        let mut client = SecretDiscoveryServiceClient::new(endpoint.connect().await.unwrap());

        let all = client.fetch_secrets(asks(&[], "")).await.unwrap().into_inner();
        let first = svid('A');
        let (cert, key) = (first.chain_pem.clone().into_bytes(), first.key_pem.0.clone().into_bytes());
        let roots = first.bundle_pem.clone().into_bytes();
        let pair = vec![cert, key];
        assert_eq!(told(&all), [(CERTIFICATE.to_owned(), pair.clone()), (ROOTS.to_owned(), vec![roots.clone()])]);
        let refused = client.fetch_secrets(asks(&["spiffe://corp.example/b"], "")).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);

        let (ask, asked) = mpsc::channel(8);
        let names = ["spiffe://corp.example/a", "spiffe://corp.example"];
        ask.send(asks(&names, "")).await.unwrap();
        let mut answers = client.stream_secrets(ReceiverStream::new(asked)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(told(&answer), [(names[0].to_owned(), pair), (names[1].to_owned(), vec![roots])]);
        // It has them, or refuses them: that alone is answered with nothing.
        ask.send(asks(&names, &answer.nonce)).await.unwrap();
        let error_detail = Some(Refusal { code: 3, message: "no".into() });
        ask.send(DiscoveryRequest { error_detail, ..asks(&names, &answer.nonce) }).await.unwrap();
        given.send_replace(Some(svid('B')));
        let renewed = answers.message().await.unwrap().unwrap();
        assert_eq!(told(&renewed)[0].1[0], svid('B').chain_pem.clone().into_bytes());
        assert_ne!(renewed.nonce, answer.nonce);
        ask.send(asks(&names[..1], &renewed.nonce)).await.unwrap();
        assert_eq!(told(&answers.message().await.unwrap().unwrap()).len(), 1, "other names are a new question");

        stop.send(()).unwrap();
        assert!(answers.message().await.is_ok_and(|last| last.is_none()), "the end of the server ends the stream");
        drop(client);
        server.await.unwrap().unwrap();
    }
}
