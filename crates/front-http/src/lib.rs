//! HTTP and JSON in front of [`NameService`], and the listener that this and every other front end on the port share.
//!
//! ```text
//! listen    accepts connections, tells TLS from plain HTTP and HTTP/1.1 from HTTP/2, bounds all of them
//!   secure  the plug for TLS; crowd counts whom they come from
//!   admit   asks the gate once a request who calls; the answer travels in the request's extensions
//!     router     what gRPC does not claim comes here
//!       routes   the table of the interface: paths, parameters, bodies, answers
//!       decode, body, conditions, patch   the parts of a request, refused with the field's name
//!       operations, identity   one call of the service each
//!       events       what a watch tells, as server-sent events
//!       problem      every error, as problem details (RFC 9457)
//!       openapi      the table again, as a document
//!     peers      where other servers of the cluster leave HTTP for the lines between servers
//!       pages        where people sign in and make passkeys
//! ```
//!
//! Only this crate knows HTTP statuses and headers; it decides nothing that another front end would have to decide
//! too.

mod admit;
mod body;
mod conditions;
mod crowd;
mod decode;
mod events;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod listen;
mod openapi;
mod operations;
mod pages;
mod patch;
mod peers;
mod problem;
mod router;
mod routes;
mod secure;
mod sniff;

use std::sync::Arc;

use byname_api::NameService;

pub use listen::{Bound, Limits, serve, serve_with};
pub use peers::{PEERS_PATH, PEERS_PROTOCOL, peers};
pub use secure::{Secure, Stream};

/// What is served beside the operations.
#[derive(Clone)]
pub struct Extras {
    /// The text of `/metrics`, in Prometheus' format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether the server can do its work, for `/readyz`; the error is a sentence that says why not.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// The HTTP interface as a router that takes every path: another front end's routes are added to it, its own fallback
/// must not be (`tonic::service::Routes::from(router).add_service(…)` does it right).
///
/// Requests must come through [`serve`], which says who calls; without that every request is refused.
pub fn router(service: Arc<dyn NameService>, extras: Extras) -> axum::Router {
    router::build(service, extras)
}

/// The interface as an OpenAPI 3.1 document: what `/v1/openapi.json` answers.
pub fn openapi() -> &'static str {
    openapi::text()
}
