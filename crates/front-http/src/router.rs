//! From a request to an operation: route, caller, parameters, body, answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use byname_api::caller::{Admission, Caller};
use byname_api::request::Context;
use byname_api::{Code, Error, NameService};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;

use crate::decode::{self, Query};
use crate::operations::{self, Call};
use crate::problem::Problem;
use crate::routes::{self, Body, Found, Operation, Route, Shape};
use crate::{Extras, body, conditions, openapi};

/// The .proto files of the gRPC interface on the same port.
const PROTO: &str = include_str!("../../api/proto/byname/v1/byname.proto");
const IDENTITY_PROTO: &str = include_str!("../../api/proto/byname/v1/identity.proto");

struct Shared {
    service: Arc<dyn NameService>,
    extras: Extras,
}

/// One handler for every path: the table of routes decides, so that the document cannot miss one.
pub(crate) fn build(service: Arc<dyn NameService>, extras: Extras) -> axum::Router {
    axum::Router::new().fallback(handle).with_state(Arc::new(Shared { service, extras }))
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if is_grpc(request.headers()) {
        return grpc_unimplemented();
    }
    let head = request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let answer = AssertUnwindSafe(answer(&shared, &parts, body)).catch_unwind().await;
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => Problem::from(Error::internal("a handler panicked; the panic is in the log")).into_response(),
    };
    if head { without_body(response) } else { response }
}

async fn answer(shared: &Shared, parts: &http::request::Parts, body: HttpBody) -> Result<Response, Problem> {
    let path = parts.uri.path();
    let found = routes::find(parts.method.as_str(), path);
    let admission = parts.extensions.get::<Admission>();
    let open = matches!(found, Found::Route(route, _) if route.open);
    let caller = admitted(admission, open)?;
    let (route, rest) = match found {
        Found::Route(route, rest) => (route, rest),
        Found::OtherMethods(allow) => return Err(Problem::wrong_method(parts.method.as_str(), allow)),
        Found::Nothing => return Err(Problem::no_route(path)),
    };
    let query = Query::parse(parts.uri.query(), route.query)?;
    if let Some(response) = simple(shared, route, rest)? {
        return Ok(response);
    }
    let Some(caller) = caller else {
        return Err(Error::internal("an operation is served without a caller").into());
    };
    let name = match route.path {
        Shape::Exact(_) | Shape::ErrorCode => byname_name::Name::root(),
        Shape::Named(_) | Shape::Verb(_) => decode::name(rest)?,
    };
    let request = if route.method == "GET" { None } else { conditions::request_id(&parts.headers)? };
    let body = whole_body(route, &parts.headers, body).await?;
    let call =
        Call { service: &shared.service, cx: Context { caller, request }, name, query, headers: &parts.headers, body };
    let done = match route.operation {
        Operation::Read => call.read().await,
        Operation::Put => call.put().await,
        Operation::Patch => call.patch().await,
        Operation::Delete => call.delete().await,
        Operation::Find => call.find().await,
        Operation::List => call.list().await,
        Operation::Status => call.status().await,
        Operation::Batch => call.batch().await,
        Operation::Act(verb) => call.act(verb).await,
        Operation::ActMany(verb) => call.act_many(verb).await,
        Operation::Advertise => call.advertise().await,
        Operation::Withdraw => call.withdraw().await,
        Operation::Report => call.report().await,
        Operation::Drain => call.drain().await,
        Operation::Search => call.search().await,
        Operation::Watch => call.watch().await,
        Operation::Lock => call.lock().await,
        Operation::Unlock => call.unlock().await,
        Operation::Why => call.why().await,
        Operation::Logs => call.logs().await,
        Operation::Login => call.login().await,
        Operation::Logout => call.logout().await,
        Operation::Whoami => call.whoami().await,
        Operation::Enrol => call.enrol().await,
        Operation::Certify => call.certify().await,
        Operation::Trust => call.trust().await,
        Operation::Introduce => call.introduce().await,
        Operation::Verify => call.verify().await,
        Operation::Invite => call.invite().await,
        Operation::Join => call.join().await,
        Operation::Revoke => call.revoke().await,
        Operation::Access => call.access().await,
        Operation::Audit => call.audit().await,
        Operation::Cluster => call.cluster().await,
        Operation::Version
        | Operation::Live
        | Operation::Ready
        | Operation::Metrics
        | Operation::OpenApi
        | Operation::Proto
        | Operation::IdentityProto
        | Operation::ErrorPage
        | Operation::Page(_) => Err(Error::internal("a simple route was taken for an operation")),
    };
    Ok(done?)
}

/// The caller, or the gate's refusal. Open routes are served to everybody, but under this host's name only.
fn admitted(admission: Option<&Admission>, open: bool) -> Result<Option<Caller>, Error> {
    match admission {
        Some(Admission(Ok(caller))) => Ok(Some(caller.clone())),
        Some(Admission(Err(e))) if open && e.at_field() != Some("Host") => Ok(None),
        Some(Admission(Err(e))) => Err(e.clone()),
        None => Err(Error::internal("a request reached the router without passing the listener's gate")),
    }
}

/// Routes that need no call of the service.
fn simple(shared: &Shared, route: &Route, rest: &str) -> Result<Option<Response>, Error> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let text = |content_type, text: String| operations::text(StatusCode::OK, content_type, text.into());
    Ok(Some(match route.operation {
        Operation::Version => operations::json(&Version { version: env!("CARGO_PKG_VERSION"), api: "v1" }),
        Operation::Live => text(PLAIN, "ok\n".into()),
        Operation::Ready => match (shared.extras.ready)() {
            Ok(()) => text(PLAIN, "ok\n".into()),
            Err(why) => return Err(Error::new(Code::Unavailable, why)),
        },
        Operation::Metrics => text("text/plain; version=0.0.4; charset=utf-8", (shared.extras.metrics)()),
        Operation::OpenApi => operations::text(StatusCode::OK, "application/json", openapi::text().into()),
        Operation::Proto => operations::text(StatusCode::OK, PLAIN, PROTO.into()),
        Operation::IdentityProto => operations::text(StatusCode::OK, PLAIN, IDENTITY_PROTO.into()),
        Operation::ErrorPage => match Code::parse(rest) {
            Some(code) => operations::json(&ErrorPage { code, title: code.title(), status: code.http_status() }),
            None => return Err(Error::new(Code::NotFound, "there is no such error code").field("code")),
        },
        Operation::Page(page) => page.answer(),
        _ => return Ok(None),
    }))
}

/// What `/v1/version` answers.
#[derive(Serialize)]
struct Version {
    version: &'static str,
    api: &'static str,
}

/// What the `type` of a problem leads to.
#[derive(Serialize)]
struct ErrorPage {
    code: Code,
    title: &'static str,
    status: u16,
}

/// The body, where the route takes one.
async fn whole_body(route: &Route, headers: &HeaderMap, body: HttpBody) -> Result<Bytes, Problem> {
    const JSON: &[&str] = &["application/json"];
    const PATCH: &[&str] = &["application/merge-patch+json", "application/json"];
    match route.body {
        Body::None => return Ok(Bytes::new()),
        Body::Required(_) => body::check_type(headers, JSON)?,
        Body::MergePatch(_) => body::check_type(headers, PATCH)?,
        Body::Optional(_) => {}
    }
    let bytes = body::read(headers, body, route.room).await?;
    if matches!(route.body, Body::Optional(_)) && !bytes.is_empty() {
        body::check_type(headers, JSON)?;
    }
    Ok(bytes)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// A gRPC call of a method that no service has: gRPC clients read trailers, not problem details.
fn grpc_unimplemented() -> Response {
    let mut response = Response::new(HttpBody::empty());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-status", HeaderValue::from_static("12"));
    response
}

/// The answer to HEAD: the headers of the answer to GET.
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = hyper::body::Body::size_hint(&body).exact() {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, HttpBody::empty())
}
