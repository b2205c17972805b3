//! Where the servers of a cluster meet: a connection of one that proved by its certificate to be a name server leaves HTTP
//! (RFC 9110 section 7.8) and carries the lines between servers from then on.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use byname_api::caller::Admission;
use byname_api::{Code, Error};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;

use crate::problem::Problem;
use crate::secure::Stream;

/// The path of the line between servers.
pub const PEERS_PATH: &str = "/v1/peers";

/// The protocol that the connection goes on with, as the Upgrade header names it.
pub const PEERS_PROTOCOL: &str = "byname-peers/1";

/// A route that gives the connections of other servers to `take`, with the server's number.
pub fn peers(take: Arc<dyn Fn(u64, Box<dyn Stream>) + Send + Sync>) -> axum::Router {
    let handle = move |request: Request| {
        let take = Arc::clone(&take);
        async move { upgrade(request, take).unwrap_or_else(IntoResponse::into_response) }
    };
    axum::Router::new().route(PEERS_PATH, get(handle))
}

fn upgrade(mut request: Request, take: Arc<dyn Fn(u64, Box<dyn Stream>) + Send + Sync>) -> Result<Response, Problem> {
    let Some(Admission(admission)) = request.extensions().get::<Admission>().cloned() else {
        return Err(Error::internal("a request reached the front end without an admission in its extensions").into());
    };
    let caller = admission?;
    let Some(server) = caller.server() else {
        return Err(Error::new(Code::Denied, "only name servers of this cluster meet here").into());
    };
    let wanted = request.headers().get(UPGRADE).is_some_and(|protocol| protocol == PEERS_PROTOCOL);
    let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let Some(upgrade) = upgrade.filter(|_| wanted) else {
        let what = format!("ask over HTTP/1.1 to go on with {PEERS_PROTOCOL}");
        return Err(Error::invalid("Upgrade", what).into());
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => take(server, Box::new(TokioIo::new(stream))),
            Err(error) => tracing::debug!(server, %error, "a peer left before it had said anything"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PEERS_PROTOCOL));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(response)
}
