//! Introductions (figure 7 of the paper): the server checks that a service still holds its ticket, makes a pair, and
//! hands one end to each side; with these the two prove themselves to each other.
//!
//! The client's half is random and only its hash is in the log. The service's half is computed from it under the cluster
//! key, so it need not be kept anywhere, and whoever has read the log cannot make one.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use byname_api::caller::{Caller, Mechanism, Right};
use byname_api::error::{Code, Error, Result};
use byname_api::identity::{IntroduceReply, IntroduceRequest, RevokeRequest, Secret, VerifyReply, VerifyRequest};
use byname_api::object::InstanceId;
use byname_api::request::{Context, FindRequest};
use byname_api::span::Timestamp;
use byname_registry::command::Revoked;
use byname_registry::{Command, Reply, query};

use super::unexpected;
use crate::advertise::hash_of;
use crate::{Inner, start};

/// How long a pair is good for.
const PAIR: Duration = Duration::from_secs(60);

impl Inner {
    pub(crate) async fn introduce(self: &Arc<Self>, cx: &Context, request: IntroduceRequest) -> Result<IntroduceReply> {
        let identity = self.own_identity()?;
        if cx.caller.standing == byname_api::caller::Standing::Anonymous {
            return Err(Error::new(
                Code::Unauthenticated,
                "a service is told who its client is: say so first (`byname login`, a certificate, or the unix socket)",
            ));
        }
        self.authorise(&cx.caller, Right::Find, &request.name)?;
        let find = FindRequest { all: true, ..FindRequest::new(request.name.clone()) };
        let found = self.find(cx, find).await?;
        let tree = self.view.load_full();
        let node = query::service_named(&tree, &request.name)?;
        let service = node.service.as_deref();
        let holds = |id: InstanceId| service.and_then(|s| s.instance(id)).is_some_and(|i| i.holds_ticket());
        let instance = match request.instance {
            Some(wanted) => found.instances.into_iter().find(|i| i.id == wanted).filter(|i| holds(i.id)),
            None => found.instances.into_iter().find(|i| holds(i.id)),
        };
        let instance = instance.ok_or_else(|| {
            Error::new(
                Code::Denied,
                format!(
                    "`{}` cannot be vouched for: no copy of it has shown the ticket that it was started with",
                    node.name
                ),
            )
        })?;
        let ticket: [u8; 32] = rand::random();
        let proof = identity.key.mac(PROOF, &ticket)?;
        let expires = Timestamp(start::now().max(tree.now).0 + PAIR.as_millis() as u64);
        let command = Command::Introduce {
            ticket: Sha256::digest(ticket).into(),
            client: cx.caller.principal.clone(),
            client_id: cx.caller.id,
            service: node.id,
            instance: instance.id,
            expires,
        };
        // Without the caller's request id: a retry is given a pair of its own.
        match self.propose(&cx.caller.principal, None, command).await? {
            Reply::Done => {}
            other => return Err(unexpected("introduce", &other)),
        }
        Ok(IntroduceReply {
            name: node.name.clone(),
            instance: instance.id,
            endpoints: instance.endpoints,
            ticket: Secret(hex::encode(ticket)),
            proof: Secret(hex::encode(proof)),
            expires,
        })
    }

    pub(crate) async fn verify(self: &Arc<Self>, cx: &Context, request: VerifyRequest) -> Result<VerifyReply> {
        let identity = self.own_identity()?;
        let hash = hash_of(&request.ticket.0, "ticket")?;
        let instance = self.speaking_instance(&cx.caller, request.instance, request.credential.as_ref())?;
        let command = Command::Verify { ticket: hash, instance };
        let (client, client_id) = match self.propose(&cx.caller.principal, cx.request, command).await? {
            Reply::Verified { client, client_id } => (client, client_id),
            other => return Err(unexpected("verify", &other)),
        };
        let mut ticket = [0; 32];
        hex::decode_to_slice(request.ticket.0.trim(), &mut ticket)
            .map_err(|_| Error::invalid("ticket", "must be 64 hexadecimal digits"))?;
        Ok(VerifyReply { client, client_id, proof: Secret(hex::encode(identity.key.mac(PROOF, &ticket)?)) })
    }

    /// Which instance speaks: by the session or certificate of the call, or by the credential that it shows.
    pub(crate) fn speaking_instance(
        &self,
        caller: &Caller,
        claimed: Option<InstanceId>,
        credential: Option<&Secret>,
    ) -> Result<InstanceId> {
        if let Some(credential) = credential {
            let id = claimed
                .ok_or_else(|| Error::invalid("instance", "a credential is good for one instance: say which"))?;
            self.check_credential(id, credential)?;
            return Ok(id);
        }
        match caller.instance {
            Some(id) if claimed.is_none_or(|claimed| claimed == id) => Ok(id),
            _ => Err(Error::new(
                Code::Unauthenticated,
                "only a running copy of a service may do this: show its instance and credential, or its certificate",
            )
            .field("credential")),
        }
    }

    /// Whether this is the credential of a living instance. One sentence for every reason.
    pub(crate) fn check_credential(&self, id: InstanceId, credential: &Secret) -> Result<()> {
        let hash = hash_of(&credential.0, "credential")?;
        let tree = self.view.load();
        let node = tree.by_instance(id);
        let instance = node.as_ref().and_then(|node| node.service.as_deref()?.instance(id).cloned());
        match instance {
            Some(instance) if instance.holds_ticket() && instance.credential == Some(hash) => Ok(()),
            _ => Err(Error::new(
                Code::Unauthenticated,
                "the credential is not that of a running instance that holds its ticket",
            )
            .field("credential")),
        }
    }

    pub(crate) async fn revoke(self: &Arc<Self>, cx: &Context, request: RevokeRequest) -> Result<()> {
        let revoked = match request {
            RevokeRequest::Instance { instance } => {
                let tree = self.view.load_full();
                let node = tree.by_instance(instance);
                // No telling whether there is one, nor of which service, but to those who may look at it.
                let seen = node.filter(|node| self.sees(&tree, &cx.caller, &node.name));
                let Some(node) = seen else {
                    self.authorise(&cx.caller, Right::Admin, &byname_name::Name::root())?;
                    return Err(
                        Error::new(Code::NotFound, format!("there is no instance {instance} now")).field("instance")
                    );
                };
                self.authorise_in(&tree, &cx.caller, Right::Admin, &node.name)?;
                Revoked::Instance(instance)
            }
            RevokeRequest::Principal { principal } => {
                self.authorise(&cx.caller, Right::Admin, &principal)?;
                Revoked::Principal(self.principal(&principal)?.id)
            }
        };
        self.propose(&cx.caller.principal, cx.request, Command::Revoke(revoked)).await.map(drop)?;
        self.forget_known();
        Ok(())
    }

    /// A program signs in with its credential.
    pub(crate) fn instance_session(
        &self,
        cx: &Context,
        instance: InstanceId,
        credential: &Secret,
    ) -> Result<byname_api::identity::Session> {
        self.check_credential(instance, credential)?;
        let node = self.view.load().by_instance(instance);
        let node = node.ok_or_else(|| Error::new(Code::Unauthenticated, "the instance has ended"))?;
        let caller = Caller {
            instance: Some(instance),
            address: cx.caller.address,
            ..Caller::authenticated(&node.name, node.id, Mechanism::Ticket)
        };
        self.new_session(&node, &caller, super::certify::INSTANCE)
    }
}

const PROOF: &str = "introduction";
