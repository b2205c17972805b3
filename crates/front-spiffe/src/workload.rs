//! The SPIFFE Workload API.
//!
//! The standard: <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md>, and for the header and
//! the codes of errors SPIFFE_Workload_Endpoint.md beside it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use byname_launch::{Svid, Workloads};
use futures_util::{Stream, StreamExt};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio_stream::wrappers::WatchStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, async_trait};

use crate::connection::Caller;
use crate::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::proto::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use crate::{Agent, Tokens, present, status};

/// The header that a web page cannot set on somebody's behalf.
const HEADER: &str = "workload.spiffe.io";
/// How often the keys of tokens are asked for while somebody wants to know of changes.
const KEYS: Duration = Duration::from_secs(60);
/// The most audiences of a token.
const AUDIENCES: usize = 64;

pub(crate) fn service(
    agent: Agent,
    tokens: Arc<dyn Tokens>,
) -> InterceptedService<SpiffeWorkloadApiServer<Workload>, Header> {
    SpiffeWorkloadApiServer::with_interceptor(Workload { agent, tokens }, Header)
}

/// Refuses what lacks the header.
#[derive(Clone)]
pub(crate) struct Header;

impl Interceptor for Header {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match request.metadata().get(HEADER).map(|value| value.as_bytes()) {
            Some(b"true") => Ok(request),
            _ => Err(Status::invalid_argument(format!("the metadata must hold `{HEADER}: true`"))),
        }
    }
}

pub(crate) struct Workload {
    agent: Agent,
    tokens: Arc<dyn Tokens>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn caller<T>(request: &Request<T>) -> Option<Caller> {
    request.extensions().get().copied()
}

impl Workload {
    /// Each certificate of the caller, translated.
    async fn follow<T: Send + 'static>(
        &self,
        caller: Option<Caller>,
        mut translate: impl FnMut(&Svid) -> Option<T> + Send + 'static,
    ) -> Result<Response<Answers<T>>, Status> {
        let (_, svids) = self.agent.identity(caller).await?;
        let answers = WatchStream::new(svids)
            .filter_map(move |svid| std::future::ready(svid.and_then(|svid| translate(&svid)).map(Ok)))
            .take_until(self.agent.closed());
        Ok(Response::new(Box::pin(answers)))
    }
}

#[async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let answer = |svid: &Svid| {
            let svid = X509svid {
                spiffe_id: svid.spiffe.clone(),
                x509_svid: svid.chain.clone(),
                x509_svid_key: svid.key.clone(),
                bundle: svid.bundle.clone(),
                hint: String::new(),
            };
            Some(X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: HashMap::new() })
        };
        self.follow(caller(&request), answer).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let mut told = None;
        let answer = move |svid: &Svid| {
            if told.as_ref() == Some(&svid.bundle) {
                return None;
            }
            told = Some(svid.bundle.clone());
            let bundles = [(format!("spiffe://{}", svid.domain()), svid.bundle.clone())].into();
            Some(X509BundlesResponse { crl: Vec::new(), bundles })
        };
        self.follow(caller(&request), answer).await
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let (caller, svids) = self.agent.identity(caller(&request)).await?;
        let JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        if audience.is_empty() || audience.iter().any(String::is_empty) || audience.len() > AUDIENCES {
            return Err(Status::invalid_argument(format!("a token is for 1 to {AUDIENCES} audiences")));
        }
        let own = present(&svids)?.spiffe.clone();
        let instance = caller.instance.filter(|_| spiffe_id.is_empty() || spiffe_id == own);
        let instance = instance.ok_or_else(|| Status::permission_denied(format!("this is {own}")))?;
        let token = self.agent.workloads.token(instance, audience).await.map_err(|error| status(&error))?;
        let svid = Jwtsvid { spiffe_id: own, svid: token.0, hint: String::new() };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.agent.identity(caller(&request)).await?;
        let first = keys(&*self.agent.workloads).await?;
        let state = (self.agent.workloads.clone(), first.clone());
        let changes = futures_util::stream::unfold(state, |(workloads, told)| async move {
            loop {
                tokio::time::sleep(KEYS).await;
                // Without an answer the old keys are still the best that is known.
                match keys(&*workloads).await {
                    Ok(now) if now != told => return Some((Ok(now.clone()), (workloads, now))),
                    _ => {}
                }
            }
        });
        let answers = futures_util::stream::iter([Ok(first)]).chain(changes);
        Ok(Response::new(Box::pin(answers.take_until(self.agent.closed()))))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.agent.identity(caller(&request)).await?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        if audience.is_empty() || svid.is_empty() {
            return Err(Status::invalid_argument("both `audience` and `svid` are needed"));
        }
        // Whatever is wrong with a token, it is the caller's argument that is.
        let claims = self.tokens.validate(&svid, &audience).await.map_err(|error| match status(&error) {
            unavailable if unavailable.code() == tonic::Code::Unavailable => unavailable,
            other => Status::invalid_argument(other.message()),
        })?;
        let fields = claims.claims.into_iter().map(|(key, json)| (key, value(json))).collect();
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id: claims.spiffe, claims: Some(Struct { fields }) }))
    }
}

async fn keys(workloads: &dyn Workloads) -> Result<JwtBundlesResponse, Status> {
    let trust = workloads.trust().await.map_err(|error| status(&error))?;
    let bundles = [(format!("spiffe://{}", trust.domain), trust.keys.into_bytes())].into();
    Ok(JwtBundlesResponse { bundles })
}

/// JSON as a message.
fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(said) => Kind::BoolValue(said),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(value).collect() }),
        Json::Object(fields) => {
            Kind::StructValue(Struct { fields: fields.into_iter().map(|(key, json)| (key, value(json))).collect() })
        }
    };
    Value { kind: Some(kind) }
}
