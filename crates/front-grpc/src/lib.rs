//! gRPC in front of the service trait: it translates, and nothing else.
//!
//! [`routes`] gives a router with everything that gRPC clients ask for on one port: the services of
//! `byname/v1/byname.proto`, health checking, and reflection in both versions that are in use, so that `grpcurl` needs
//! no files.
//!
//! Who asks was decided before a request comes here: the listener leaves an
//! [`Admission`](byname_api::caller::Admission) in the request's extensions. A request without one is refused.
//!
//! Errors leave as a status whose metadata carries what gRPC has no room for; see
//! [`byname_api::proto::StatusParts`].

#![forbid(unsafe_code)]

mod agents;
mod audit;
mod call;
mod cluster;
mod guard;
mod identity;
mod names;
mod services;
mod status;

use std::sync::Arc;

use axum::Router;
use byname_api::NameService;
use byname_api::proto::DESCRIPTOR_SET;
use futures_util::FutureExt;
use tonic::server::NamedService;
use tonic_health::ServingStatus;

use guard::mount;

/// The server's side of the services, generated.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    tonic::include_proto!("byname.v1");
}

use generated::agents_server::AgentsServer;
use generated::audit_server::AuditServer;
use generated::cluster_server::ClusterServer;
use generated::identity_server::IdentityServer;
use generated::names_server::NamesServer;
use generated::services_server::ServicesServer;

/// The largest message taken from a client, in bytes. A record of 1 MiB fits with room for a batch around it; more is
/// `too-large`.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Frames of agents hold pieces of logs as JSON, which is wider than the bytes themselves.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// Whoever signs in or joins is not known yet, and may not make the server hold much.
const MAX_IDENTITY_BYTES: usize = 64 << 10;

/// The gRPC services as routes, without a fallback, to be merged into the router of a listener that puts an
/// [`Admission`](byname_api::caller::Admission) into the extensions of every request.
pub fn routes(service: Arc<dyn NameService>) -> Router {
    let names = NamesServer::new(names::Front(Arc::clone(&service))).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let services =
        ServicesServer::new(services::Front(Arc::clone(&service))).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let cluster = ClusterServer::new(cluster::Front(Arc::clone(&service)));
    let identity =
        IdentityServer::new(identity::Front(Arc::clone(&service))).max_decoding_message_size(MAX_IDENTITY_BYTES);
    let audit = AuditServer::new(audit::Front(Arc::clone(&service)));
    let agents = AgentsServer::new(agents::Front(service)).max_decoding_message_size(MAX_FRAME_BYTES);

    let router = Router::new();
    let router = mount(router, names);
    let router = mount(router, services);
    let router = mount(router, cluster);
    let router = mount(router, identity);
    let router = mount(router, audit);
    let router = mount(router, agents);
    let router = mount_health(router);
    mount_reflection(router)
}

/// The server answers as long as it runs, so every service is serving. What a caller should know beyond that (cut off
/// from the majority, writes waiting) is in the answers.
fn mount_health(router: Router) -> Router {
    let (reporter, server) = tonic_health::server::health_reporter();
    for name in [
        NamesServer::<names::Front>::NAME,
        ServicesServer::<services::Front>::NAME,
        ClusterServer::<cluster::Front>::NAME,
        IdentityServer::<identity::Front>::NAME,
        AuditServer::<audit::Front>::NAME,
        AgentsServer::<agents::Front>::NAME,
    ] {
        // Nobody else holds the reporter's lock yet, so this is done at the first poll, unless the runtime thinks that its
        // caller has had its turn: after a start that read a long log, for instance.
        let set = tokio::task::unconstrained(reporter.set_service_status(name, ServingStatus::Serving));
        let done = set.now_or_never();
        debug_assert!(done.is_some());
    }
    mount(router, server)
}

fn mount_reflection(router: Router) -> Router {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => mount(mount(router, v1), v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "gRPC reflection is off: the descriptors do not read");
            router
        }
    }
}
