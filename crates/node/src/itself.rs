//! A server is a service of its own tree: `/byname/servers/NUMBER` says where it answers.
//!
//! It holds a lease like any program that advertises itself, so a dead server leaves the answers by itself. Whoever wants an
//! agent to start it again gives the object a `launch` with `start = "always"`: a server that an agent has started is
//! advertised by that agent, and keeps quiet.

use std::time::Duration;

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::error::Code;
use byname_api::object::{InstanceId, Kind, Spec};
use byname_api::request::{AdvertiseRequest, BatchRequest, Context, Op, WithdrawRequest};
use byname_api::service::Endpoint;
use byname_api::span::Span;

use crate::Node;
use crate::members::name_of;

/// How long its lease holds.
const TTL: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// Before it is tried again when it was not taken.
const AGAIN: Duration = Duration::from_millis(500);

impl Node {
    /// Says in the tree where this server answers, as long as it lives. The first call counts.
    pub fn be_found(&self, endpoints: Vec<Endpoint>) {
        let (node, instance) = (self.clone(), InstanceId(rand::random::<u64>() >> 4));
        let staying = tokio::spawn(async move { node.stay_found(instance, endpoints).await });
        let _ = self.inner.found.set((instance, staying.abort_handle()));
    }

    async fn stay_found(&self, instance: InstanceId, endpoints: Vec<Endpoint>) {
        let Ok(name) = name_of(self.id()) else { return };
        let cx = Context::of(Caller::internal());
        while !self.inner.stopping() {
            if self.inner.view.load().get(&name).is_none() {
                let add = Op::Add { name: name.clone(), spec: Spec::of(Kind::Service) };
                let request = BatchRequest { ops: vec![add], dry_run: false, set: None };
                // Where it is there already, all is well.
                let _ = self.batch(&cx, request).await;
            }
            let request = AdvertiseRequest {
                name: Some(name.clone()),
                endpoints: endpoints.clone(),
                instance: Some(instance),
                ttl: Some(Span::from_millis(TTL.as_millis() as u64)),
                pid: Some(std::process::id()),
                ..AdvertiseRequest::default()
            };
            let pause = match self.advertise(&cx, request).await {
                Ok(_) => RENEW,
                Err(error) if error.code() == Code::Unavailable => AGAIN,
                Err(error) => {
                    tracing::warn!(error = error.log_line(), "this server is not in the tree");
                    RENEW
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Says that it does not answer any more: what a server does that goes.
    pub(crate) async fn take_leave(&self) {
        let (Some((instance, staying)), Ok(name)) = (self.inner.found.get(), name_of(self.id())) else { return };
        // Or it would come back with the next renewal.
        staying.abort();
        let cx = Context::of(Caller::internal());
        let withdraw = WithdrawRequest { name, instance: Some(*instance), credential: None };
        let _ = tokio::time::timeout(AGAIN, self.withdraw(&cx, withdraw)).await;
    }
}
