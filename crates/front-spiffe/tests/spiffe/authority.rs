//! A server's part: it certifies whatever the test started.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use byname_api::identity::{CertifyReply, Secret, TrustReply};
use byname_api::object::InstanceId;
use byname_api::span::Timestamp;
use byname_api::{Error, Result};
use byname_front_spiffe::{Claims, Tokens};
use byname_identity::authority::{self, Authority, SigningRequest, Subject, Usage};
use byname_launch::{Issuer, NewKey};
use byname_name::{Name, spiffe};
use serde_json::json;

pub(crate) const DOMAIN: &str = "corp.example";

pub(crate) struct Server {
    authority: Authority,
    /// How long certificates are said to be good.
    life: Duration,
    pub(crate) names: std::sync::Mutex<HashMap<InstanceId, Name>>,
}

impl Server {
    pub(crate) fn new(life: Duration) -> Server {
        Server { authority: Authority::create(DOMAIN, now()).unwrap(), life, names: Default::default() }
    }

    fn name(&self, instance: InstanceId) -> Result<Name> {
        let names = self.names.lock().unwrap();
        names.get(&instance).cloned().ok_or_else(|| Error::internal("nobody started it"))
    }
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

#[async_trait]
impl Issuer for Server {
    fn new_key(&self) -> Result<NewKey> {
        let key = authority::new_key()?;
        Ok(NewKey { key_pem: Secret(key.key_pem), request_pem: key.request_pem })
    }

    async fn certify(&self, instance: InstanceId, request_pem: String) -> Result<CertifyReply> {
        let name = self.name(instance)?;
        let request = SigningRequest::parse(request_pem.as_bytes())?;
        let spiffe = spiffe::to_id(&name, DOMAIN).unwrap();
        let subject = Subject {
            name,
            id: None,
            instance: Some(instance),
            dns: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Both,
        };
        let signed = self.authority.certify(&request, &subject, Duration::from_secs(3600), now())?;
        Ok(CertifyReply {
            chain: signed.chain_pem,
            bundle: self.authority.bundle_pem(),
            spiffe,
            expires: Timestamp(now().0 + self.life.as_millis() as u64),
            token: None,
        })
    }

    async fn token(&self, instance: InstanceId, audience: Vec<String>) -> Result<Secret> {
        let sub = spiffe::to_id(&self.name(instance)?, DOMAIN).unwrap();
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let header = part(json!({"alg": "ES256", "kid": "k", "typ": "JWT"}));
        let claims = part(json!({"sub": sub, "aud": audience, "exp": now().0 / 1000 + 300}));
        Ok(Secret(format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode("signature"))))
    }

    async fn trust(&self) -> Result<TrustReply> {
        Ok(TrustReply {
            domain: DOMAIN.into(),
            bundle: self.authority.bundle_pem(),
            fingerprint: String::new(),
            keys: json!({"keys": []}).to_string(),
        })
    }
}

#[async_trait]
impl Tokens for Server {
    async fn validate(&self, token: &str, audience: &str) -> Result<Claims> {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
        if claims["aud"] != json!([audience]) {
            return Err(Error::new(byname_api::Code::Denied, "the token is for somebody else"));
        }
        Ok(Claims { spiffe: claims["sub"].as_str().unwrap().to_owned(), claims })
    }
}
