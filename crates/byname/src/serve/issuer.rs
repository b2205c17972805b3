//! Where an agent gets certificates for its instances: from the server, in the same process or over the wire.

use std::sync::Arc;

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::error::{Error, Result};
use byname_api::identity::{CertifyReply, CertifyRequest, Secret, TrustReply};
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_identity::authority;
use byname_launch::NewKey;

/// Asks a name service.
pub(super) struct Issuer {
    service: Arc<dyn NameService>,
    cx: Context,
}

impl Issuer {
    /// An issuer that asks this service. Over the wire the connection says who asks; in the same process it is the server
    /// itself.
    pub(super) fn asking(service: Arc<dyn NameService>) -> Arc<dyn byname_launch::Issuer> {
        Arc::new(Issuer { service, cx: Context::of(Caller::internal()) })
    }

    fn request(instance: InstanceId, request: String, audience: Vec<String>) -> CertifyRequest {
        CertifyRequest { request, instance: Some(instance), principal: None, validity: None, audience }
    }
}

#[async_trait::async_trait]
impl byname_launch::Issuer for Issuer {
    fn new_key(&self) -> Result<NewKey> {
        let made = authority::new_key()?;
        Ok(NewKey { key_pem: Secret(made.key_pem.clone()), request_pem: made.request_pem.clone() })
    }

    async fn certify(&self, instance: InstanceId, request_pem: String) -> Result<CertifyReply> {
        self.service.certify(&self.cx, Issuer::request(instance, request_pem, Vec::new())).await
    }

    async fn token(&self, instance: InstanceId, audience: Vec<String>) -> Result<Secret> {
        let reply = self.service.certify(&self.cx, Issuer::request(instance, String::new(), audience)).await?;
        reply.token.ok_or_else(|| Error::internal("a token was asked for and a certificate came"))
    }

    async fn trust(&self) -> Result<TrustReply> {
        self.service.trust(&self.cx).await
    }
}
