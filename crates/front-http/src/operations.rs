//! One function for each operation: from the request's parts to the service's request, from its reply to JSON. Nothing
//! is decided here.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use byname_api::host::{DrainAct, DrainRequest};
use byname_api::object::{InstanceId, Spec, Version};
use byname_api::request::*;
use byname_api::service::{Endpoint, Health};
use byname_api::span::Span;
use byname_api::{Code, Error, NameService, Result};
use byname_name::{Name, http as path};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::body;
use crate::conditions::{self, IfMatch};
use crate::decode::Query;
use crate::events;
use crate::patch::Patch;

/// What an operation works on.
pub(crate) struct Call<'a> {
    pub(crate) service: &'a Arc<dyn NameService>,
    pub(crate) cx: Context,
    pub(crate) name: Name,
    pub(crate) query: Query,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
}

impl Call<'_> {
    pub(crate) async fn read(self) -> Result<Response> {
        let request = ReadRequest { name: self.name, consistent: self.query.bool("consistent", false) };
        let reply = self.service.read(&self.cx, request).await?;
        Ok(with_version(json(&reply), reply.object.version))
    }

    pub(crate) async fn put(self) -> Result<Response> {
        let spec: Spec = body::json(&self.body)?;
        let must_be_new = conditions::if_none_match(self.headers)?;
        let if_match = conditions::if_match(self.headers)?;
        let name = self.name.clone();
        let op = match (must_be_new, if_match) {
            (true, IfMatch::Absent) => Op::Add { name, spec },
            (true, _) => {
                let message = "If-Match wants the object to exist and If-None-Match that it does not";
                return Err(Error::new(Code::Conflict, message).field("If-None-Match"));
            }
            (false, IfMatch::Absent) => Op::Put { name, spec, if_version: None },
            (false, IfMatch::Is(version)) => Op::Put { name, spec, if_version: Some(version) },
            (false, IfMatch::Any) => {
                // `Put` cannot say "whatever version, but it must be there", so the version is looked up.
                let now = self.current().await?;
                Op::Put { name, spec, if_version: Some(now.object.version) }
            }
        };
        let result = self.change(op).await?;
        let created = result.outcome == Outcome::Created;
        let mut response = with_version(json(&result), result.version);
        if created {
            *response.status_mut() = StatusCode::CREATED;
            if let Ok(location) = HeaderValue::try_from(path::to_names_path(&result.name)) {
                response.headers_mut().insert(LOCATION, location);
            }
        }
        Ok(response)
    }

    pub(crate) async fn patch(self) -> Result<Response> {
        /// How often a change that somebody else's write got in the way of is worked out anew.
        const ATTEMPTS: u32 = 5;
        let patch = Patch::parse(&self.body)?;
        if conditions::if_none_match(self.headers)? {
            return Err(Error::invalid("If-None-Match", "a patch changes what is there: use PUT to make an object"));
        }
        let wanted = match conditions::if_match(self.headers)? {
            IfMatch::Is(version) => Some(version),
            IfMatch::Any | IfMatch::Absent => None,
        };
        let mut attempt = 1;
        loop {
            let (spec, clear, if_version) = if patch.needs_current() {
                let now = self.current().await?.object;
                if wanted.is_some_and(|v| v != now.version) {
                    let message = format!("the object has version {} by now", now.version);
                    return Err(Error::new(Code::Conflict, message).field("If-Match"));
                }
                let (spec, clear) = patch.over(Some(&now.spec))?;
                (spec, clear, Some(now.version))
            } else {
                let (spec, clear) = patch.over(None)?;
                (spec, clear, wanted)
            };
            let op = Op::Modify { name: self.name.clone(), spec, clear, if_version };
            match self.change(op).await {
                Ok(result) => return Ok(with_version(json(&result), result.version)),
                // A request id stands for one try: its reply is remembered, so trying again would not help.
                Err(e)
                    if e.code() == Code::Conflict
                        && if_version != wanted
                        && self.cx.request.is_none()
                        && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) async fn delete(self) -> Result<Response> {
        if conditions::if_none_match(self.headers)? {
            return Err(Error::invalid("If-None-Match", "only what is there can be removed"));
        }
        let if_version = match conditions::if_match(self.headers)? {
            IfMatch::Is(version) => Some(version),
            IfMatch::Any | IfMatch::Absent => None,
        };
        let op = Op::Delete {
            name: self.name.clone(),
            recursive: self.query.bool("recursive", false),
            stop: self.query.bool("stop", false),
            if_version,
        };
        Ok(json(&self.change(op).await?))
    }

    pub(crate) async fn find(self) -> Result<Response> {
        let request = FindRequest {
            name: self.name,
            start: self.query.bool("start", true),
            all: self.query.bool("all", false),
            timeout: self.query.span("timeout"),
            consistent: self.query.bool("consistent", false),
            failed: self.query.instance("failed"),
        };
        Ok(json(&self.service.find(&self.cx, request).await?))
    }

    pub(crate) async fn list(self) -> Result<Response> {
        Ok(json(&self.service.list(&self.cx, self.listing()).await?))
    }

    pub(crate) async fn status(self) -> Result<Response> {
        Ok(json(&self.service.status(&self.cx, self.listing()).await?))
    }

    pub(crate) async fn batch(self) -> Result<Response> {
        let request: BatchRequest = body::json(&self.body)?;
        Ok(json(&self.service.batch(&self.cx, request).await?))
    }

    pub(crate) async fn act(self, verb: Verb) -> Result<Response> {
        let body: ActBody = self.optional_body()?;
        if body.patterns.is_some() {
            let message = format!("the path names the service: for several, POST to /v1/services:{}", verb.as_str());
            return Err(Error::invalid("patterns", message));
        }
        let request = body.request(verb, vec![self.name.as_str().to_owned()])?;
        let reply = self.service.act(&self.cx, request).await?;
        let acted =
            reply.services.into_iter().next().ok_or_else(|| {
                Error::new(Code::NotFound, format!("there is no service `{}`", self.name)).field("name")
            })?;
        match acted.error {
            Some(problem) => Err(problem.into()),
            None => Ok(json(&acted)),
        }
    }

    pub(crate) async fn act_many(self, verb: Verb) -> Result<Response> {
        let mut body: ActBody = body::json(&self.body)?;
        let patterns = body
            .patterns
            .take()
            .filter(|p| !p.is_empty())
            .ok_or_else(|| Error::invalid("patterns", "give at least one name or pattern"))?;
        let request = body.request(verb, patterns)?;
        Ok(json(&self.service.act(&self.cx, request).await?))
    }

    pub(crate) async fn advertise(self) -> Result<Response> {
        let body: AdvertiseBody = body::json(&self.body)?;
        let request = AdvertiseRequest {
            name: Some(self.name),
            endpoints: body.endpoints,
            ticket: body.ticket,
            instance: body.instance,
            credential: body.credential,
            ttl: body.ttl,
            weight: body.weight,
            pid: body.pid,
        };
        Ok(json(&self.service.advertise(&self.cx, request).await?))
    }

    pub(crate) async fn withdraw(self) -> Result<Response> {
        let body: WithdrawBody = self.optional_body()?;
        let request = WithdrawRequest { name: self.name, instance: body.instance, credential: body.credential };
        Ok(json(&self.service.withdraw(&self.cx, request).await?))
    }

    pub(crate) async fn report(self) -> Result<Response> {
        let body: ReportBody = body::json(&self.body)?;
        let request = ReportRequest {
            name: Some(self.name),
            instance: body.instance,
            load: body.load,
            uses: body.uses,
            health: body.health,
            note: body.note,
            credential: body.credential,
        };
        Ok(json(&self.service.report(&self.cx, request).await?))
    }

    pub(crate) async fn drain(self) -> Result<Response> {
        let body: DrainBody = self.optional_body()?;
        let act = body.act.unwrap_or(DrainAct::Drain);
        let request = DrainRequest { name: self.name, act, timeout: body.timeout };
        Ok(json(&self.service.drain_host(&self.cx, request).await?))
    }

    pub(crate) async fn search(self) -> Result<Response> {
        let filter = self.query.text("filter");
        let filter =
            filter.ok_or_else(|| Error::invalid("filter", "say what to search for, such as (kind=service)"))?;
        let under = match self.query.text("under") {
            Some(text) => Name::parse(&text).map_err(|e| Error::from(e).field("under"))?,
            None => Name::root(),
        };
        let request = SearchRequest {
            filter,
            under,
            limit: self.query.count("limit"),
            next: self.query.text("next"),
            consistent: self.query.bool("consistent", false),
        };
        Ok(json(&self.service.search(&self.cx, request).await?))
    }

    pub(crate) async fn watch(self) -> Result<Response> {
        // A browser that connects again says where it was in a header, and sends the address as it was.
        let last = self.headers.get("last-event-id").and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
        let from = last.map(str::to_owned).or_else(|| self.query.text("from"));
        let request = WatchRequest {
            pattern: self.query.text("pattern").unwrap_or_else(|| "*".into()),
            initial: self.query.bool("initial", false) && last.is_none(),
            from,
        };
        let messages = self.service.watch(&self.cx, request).await?;
        let events = messages.map(|message| Ok::<_, std::convert::Infallible>(events::of(message)));
        Ok(text(StatusCode::OK, "text/event-stream", Body::from_stream(events)))
    }

    pub(crate) async fn lock(self) -> Result<Response> {
        let body: LockBody = self.optional_body()?;
        let LockBody { ttl, wait, key, renew } = body;
        let request = LockRequest { name: self.name, ttl, wait, key, renew };
        Ok(json(&self.service.lock(&self.cx, request).await?))
    }

    pub(crate) async fn unlock(self) -> Result<Response> {
        let body: UnlockBody = self.optional_body()?;
        let request = UnlockRequest { name: self.name, key: body.key };
        Ok(json(&self.service.unlock(&self.cx, request).await?))
    }

    pub(crate) async fn why(self) -> Result<Response> {
        Ok(json(&self.service.why(&self.cx, self.name).await?))
    }

    pub(crate) async fn logs(self) -> Result<Response> {
        let request =
            LogsRequest { name: self.name, tail: self.query.count("tail"), follow: self.query.bool("follow", false) };
        let pieces = self.service.logs(&self.cx, request).await?;
        // The status has been sent by the time a piece fails: the connection is cut, which the client can tell from
        // the end of the log.
        let pieces = pieces.inspect_err(|e| tracing::warn!(error = e.log_line(), "a log broke off"));
        Ok(text(StatusCode::OK, "text/plain; charset=utf-8", Body::from_stream(pieces)))
    }

    pub(crate) async fn cluster(self) -> Result<Response> {
        Ok(json(&self.service.info(&self.cx).await?))
    }

    fn listing(&self) -> ListRequest {
        ListRequest {
            pattern: self.query.text("pattern").unwrap_or_else(|| "*".into()),
            limit: self.query.count("limit"),
            next: self.query.text("next"),
            set: self.query.text("set"),
            consistent: self.query.bool("consistent", false),
        }
    }

    pub(crate) fn optional_body<T: Default + serde::de::DeserializeOwned>(&self) -> Result<T> {
        if self.body.is_empty() { Ok(T::default()) } else { body::json(&self.body) }
    }

    /// The object as it is now, for a change that depends on that.
    async fn current(&self) -> Result<ReadReply> {
        self.service.read(&self.cx, ReadRequest { name: self.name.clone(), consistent: true }).await
    }

    /// Makes one change.
    async fn change(&self, op: Op) -> Result<OpResult> {
        let reply = self.service.batch(&self.cx, BatchRequest::of(op)).await?;
        reply.results.into_iter().next().ok_or_else(|| Error::internal("a batch of one change gave no result"))
    }
}

/// The body of `launch`, `stop`, `restart` and `reset`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ActBody {
    patterns: Option<Vec<String>>,
    hold: Option<bool>,
    now: Option<bool>,
    timeout: Option<Span>,
}

impl ActBody {
    fn request(self, verb: Verb, patterns: Vec<String>) -> Result<ActRequest> {
        if verb != Verb::Stop {
            for (field, given) in [("hold", self.hold), ("now", self.now)] {
                if given.is_some() {
                    return Err(Error::invalid(field, "only `stop` takes this"));
                }
            }
        }
        Ok(ActRequest {
            verb,
            patterns,
            hold: self.hold.unwrap_or_default(),
            now: self.now.unwrap_or_default(),
            timeout: self.timeout,
        })
    }
}

/// The body of `advertise`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvertiseBody {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    ticket: Option<String>,
    instance: Option<InstanceId>,
    credential: Option<String>,
    ttl: Option<Span>,
    weight: Option<u32>,
    pid: Option<u32>,
}

/// The body of `withdraw`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WithdrawBody {
    instance: Option<InstanceId>,
    credential: Option<String>,
}

/// The body of `report`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportBody {
    instance: Option<InstanceId>,
    load: Option<f64>,
    uses: Option<u64>,
    health: Option<Health>,
    note: Option<String>,
    credential: Option<String>,
}

/// The body of `drain`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DrainBody {
    act: Option<DrainAct>,
    timeout: Option<Span>,
}

/// The body of `lock`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LockBody {
    ttl: Option<Span>,
    wait: Option<Span>,
    key: Option<String>,
    renew: bool,
}

/// The body of `unlock`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UnlockBody {
    key: Option<String>,
}

/// An answer in JSON.
pub(crate) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => text(StatusCode::OK, "application/json", bytes.into()),
        Err(e) => crate::problem::Problem::from(Error::internal(e.to_string())).into_response(),
    }
}

/// An answer of another type.
pub(crate) fn text(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn with_version(mut response: Response, version: Version) -> Response {
    if let Ok(value) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}
