//! Around each service: nothing passes that no gate admitted, and what the gRPC library refuses by itself gets a stable
//! code like every other error.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use byname_api::caller::Admission;
use byname_api::proto::CODE_METADATA;
use byname_api::{Code, Error};
use futures_util::FutureExt;
use futures_util::future::{Either, Map, Ready, ready};
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::call::no_gate;
use crate::status::status;

/// Adds a service under its name.
pub(crate) fn mount<S>(router: Router, service: S) -> Router
where
    S: Service<Request<axum::body::Body>, Response = Response<Body>, Error = Infallible>,
    S: NamedService + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let ours = S::NAME.starts_with("byname.");
    router.route_service(&format!("/{}/{{*method}}", S::NAME), Guard { service, ours })
}

#[derive(Clone)]
struct Guard<S> {
    service: S,
    /// Of `byname.v1`: its errors have our codes. The others answer as their own standards say.
    ours: bool,
}

type Answer = Result<Response<Body>, Infallible>;

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Map<S::Future, fn(Answer) -> Answer>, Ready<Answer>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match request.extensions().get() {
            Some(Admission(Ok(_))) => {
                let finish: fn(Answer) -> Answer = if self.ours { coded } else { std::convert::identity };
                Either::Left(self.service.call(request).map(finish))
            }
            Some(Admission(Err(error))) => Either::Right(ready(Ok(status(error).into_http()))),
            None => Either::Right(ready(Ok(status(&no_gate()).into_http()))),
        }
    }
}

/// Gives a refusal by the gRPC library itself (a message too long or unreadable, no such method) our code.
fn coded(answer: Answer) -> Answer {
    let Ok(response) = answer;
    let headers = response.headers();
    let Some(number) = headers.get("grpc-status").filter(|_| !headers.contains_key(CODE_METADATA)) else {
        return Ok(response);
    };
    let error = match number.as_bytes() {
        b"11" => Error::new(
            Code::TooLarge,
            "the request is too large: a message is 4 MiB (4194304 bytes) at most, 64 KiB where somebody proves who it is",
        ),
        b"12" => Error::new(Code::Unsupported, "there is no such method, or it cannot be called in this way"),
        b"13" => Error::new(Code::InvalidArgument, "the message does not read as what this method takes"),
        _ => return Ok(response),
    };
    Ok(status(&error).into_http())
}
