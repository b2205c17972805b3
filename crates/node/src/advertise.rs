//! `advertise` and `withdraw`: programs that say where they answer.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use byname_api::caller::{Caller, Right};
use byname_api::error::{Code, Error, Result};
use byname_api::object::InstanceId;
use byname_api::request::{AdvertiseReply, AdvertiseRequest, Context, WithdrawReply, WithdrawRequest};
use byname_api::service::Endpoint;
use byname_name::Name;
use byname_registry::command::{Advertise, Evidence};
use byname_registry::service::{Instance, Origin};
use byname_registry::{Command, Reply, query};

use crate::Inner;

/// A lease when the request does not say.
const DEFAULT_TTL_MS: u64 = 30_000;

impl Inner {
    pub(crate) async fn advertise(self: &Arc<Self>, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        let shown = request.name.clone().filter(|_| request.ticket.is_some() || request.credential.is_some());
        let done = self.advertise_as(cx, request).await;
        match (shown, done) {
            (Some(name), Err(error)) if error.code() != Code::InvalidArgument => {
                let refusal = Error::new(
                    Code::Denied,
                    "the ticket or credential is not one of a copy that the name server started, or it was used before",
                );
                Err(self.told(&self.view.load(), &cx.caller, &name, error, refusal.field("ticket")))
            }
            (_, done) => done,
        }
    }

    async fn advertise_as(self: &Arc<Self>, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        let name = request.name.clone().ok_or_else(|| Error::new(Code::InvalidName, "say which name").field("name"))?;
        check_endpoints(&request.endpoints)?;
        let ttl_ms = request.ttl.map_or(DEFAULT_TTL_MS, |t| t.as_millis());
        if !(1_000..=86_400_000).contains(&ttl_ms) {
            return Err(Error::invalid("ttl", "a lease holds from 1s to 1d"));
        }
        let evidence = match (&request.ticket, &request.credential) {
            (Some(ticket), _) => self.ticket(&name, hash_of(ticket, "ticket")?),
            (None, Some(credential)) => Evidence::Credential(hash_of(credential, "credential")?),
            (None, None) if self.speaks_for_itself(&cx.caller, &name) => Evidence::Right,
            (None, None) => {
                self.authorise(&cx.caller, Right::Advertise, &name)?;
                self.refuse_impostor(&cx.caller, &name)?;
                Evidence::Right
            }
        };
        let instance = match (request.instance.or(cx.caller.instance), &evidence) {
            (Some(id), _) => id,
            (None, Evidence::Ticket(hash)) => self.holder_of(&name, *hash)?,
            (None, Evidence::Credential(hash)) if request.ticket.is_some() => self.holder_of(&name, *hash)?,
            (None, Evidence::Right) => InstanceId(rand::random::<u64>() >> 4),
            (None, Evidence::Credential(_)) => {
                return Err(Error::invalid("instance", "a credential is good for one instance: say which"));
            }
        };
        if let Some(reply) = self.renew(&name, instance, &evidence, &request.endpoints, ttl_ms) {
            self.still_leads().await?;
            return Ok(reply);
        }
        if request.endpoints.is_empty() && evidence == Evidence::Right {
            return Err(Error::invalid("endpoints", "say where it answers: at least one endpoint"));
        }
        let lasting = match &evidence {
            Evidence::Ticket(hash) => self.lasting_ticket(instance, hash),
            Evidence::Credential(_) | Evidence::Right => None,
        };
        // A ticket that is shown as long as the program lives is its credential, too.
        let credential: [u8; 32] = lasting.unwrap_or_else(rand::random);
        let command = Advertise {
            name: name.clone(),
            instance,
            endpoints: request.endpoints,
            evidence: evidence.clone(),
            credential: Sha256::digest(credential).into(),
            ttl_ms: Some(ttl_ms),
            weight: request.weight,
            pid: request.pid,
        };
        let reply = match self.propose(&cx.caller.principal, cx.request, Command::Advertise(command)).await {
            Ok(reply) => reply,
            Err(error) => {
                // What was shown is noted with the answer.
                if error.code() == Code::Denied && evidence == Evidence::Right {
                    self.note_refusal(&cx.caller, "advertise", Some(&name), &error);
                }
                if error.code() == Code::Denied {
                    tracing::warn!(%name, %instance, by = cx.caller.principal, "{}", error.log_line());
                }
                return Err(error);
            }
        };
        let Reply::Advertised { proof, renewal } = reply else {
            return Err(Error::internal(format!("advertise of {name} gave {reply:?}")));
        };
        let renewed = matches!(evidence, Evidence::Credential(_));
        Ok(AdvertiseReply {
            instance,
            credential: (!renewed && (proof.is_some() || renewal == 1)).then(|| hex::encode(credential)),
            proof: proof.map(hex::encode),
            ttl_ms: (renewal > 0).then_some(ttl_ms),
        })
    }

    /// A service that is started by the name server advertises with the ticket it was started with. Another program that
    /// says that it is it is refused, unless an entry of a list says that this caller may.
    fn refuse_impostor(&self, caller: &Caller, name: &Name) -> Result<()> {
        let tree = self.view.load();
        let Ok(found) = tree.resolve(name) else { return Ok(()) };
        let launch = found.node.spec.launch.as_ref();
        let launched = launch.is_some_and(|launch| launch.program.is_some() || launch.command.is_some());
        if !launched || self.granted_by_entry(&tree, caller, Right::Advertise, &found.node.name) {
            return Ok(());
        }
        let error = Error::new(
            Code::Denied,
            format!(
                "`{name}` is started by the name server, and only the program that it started may advertise it, with its \
                 ticket: `byname acl grant {} advertise {name}` lets others do it",
                caller.principal
            ),
        )
        .field("ticket");
        self.note_refusal(caller, "advertise", Some(name), &error);
        Err(error)
    }

    /// Whether the call comes from a running copy of this service, by its session or certificate.
    fn speaks_for_itself(&self, caller: &Caller, name: &Name) -> bool {
        let tree = self.view.load();
        let node = tree.resolve(name).ok().map(|found| found.node);
        caller.instance.is_some() && node.is_some_and(|node| Some(node.id) == caller.id)
    }

    /// A renewal that changes nothing is not logged: the primary's timer is all that moves.
    fn renew(
        &self,
        name: &Name,
        id: InstanceId,
        evidence: &Evidence,
        endpoints: &[Endpoint],
        ttl: u64,
    ) -> Option<AdvertiseReply> {
        let tree = self.view.load();
        let node = tree.resolve(name).ok()?.node;
        let instance = node.service.as_ref()?.instance(id)?;
        let same = endpoints.is_empty() || instance.endpoints == endpoints;
        let known = !instance.revoked
            && match evidence {
                Evidence::Credential(hash) => instance.credential.as_ref() == Some(hash),
                Evidence::Right => true,
                Evidence::Ticket(_) => false,
            };
        match instance.origin {
            Origin::Advertised { ttl_ms, .. } if same && known && ttl == ttl_ms && self.leases.renew(id) => {
                Some(AdvertiseReply { instance: id, credential: None, proof: None, ttl_ms: Some(ttl_ms) })
            }
            _ => None,
        }
    }

    /// The instance that was launched with this ticket, or that has it as its credential. An unknown one is told no more
    /// than a wrong one.
    fn holder_of(&self, name: &Name, hash: [u8; 32]) -> Result<InstanceId> {
        let tree = self.view.load();
        let node = query::service_named(&tree, name)?;
        let holds = |i: &Instance| {
            matches!(i.origin, Origin::Launched { ticket: Some(t), .. } if t == hash) || i.credential == Some(hash)
        };
        let instance = node.service.iter().flat_map(|s| &s.instances).find(|i| holds(i));
        Ok(instance.map_or(InstanceId(0), |i| i.id))
    }

    /// What a ticket is evidence of: a launch, or, where it is the program's credential as well (Tcl-DP), that it is the
    /// program which has shown it before.
    fn ticket(&self, name: &Name, hash: [u8; 32]) -> Evidence {
        let tree = self.view.load();
        let shown = |i: &Instance| i.credential == Some(hash) && self.lasting_ticket(i.id, &hash).is_some();
        let service = query::service_named(&tree, name).ok().and_then(|node| node.service.clone());
        match service.is_some_and(|service| service.instances.iter().any(shown)) {
            true => Evidence::Credential(hash),
            false => Evidence::Ticket(hash),
        }
    }

    pub(crate) async fn withdraw(self: &Arc<Self>, cx: &Context, request: WithdrawRequest) -> Result<WithdrawReply> {
        let tree = self.view.load_full();
        if request.credential.is_none() {
            self.authorise_in(&tree, &cx.caller, Right::Advertise, &request.name)?;
        }
        let wrong = |error: Option<Error>| {
            let refusal = Error::new(Code::Denied, "the credential is not that of this instance").field("credential");
            if request.credential.is_none() {
                return error.unwrap_or(refusal);
            }
            self.note_refusal(&cx.caller, "withdraw", Some(&request.name), &refusal);
            self.told(&tree, &cx.caller, &request.name, error.unwrap_or_else(|| refusal.clone()), refusal)
        };
        let node = query::service_named(&tree, &request.name).map_err(|error| wrong(Some(error)))?;
        let service = node.service.clone().unwrap_or_default();
        let instances = match (request.instance, &request.credential) {
            (Some(id), Some(credential)) => {
                let hash = hash_of(credential, "credential")?;
                let instance = service.instance(id);
                // One that is not there any more is withdrawn already, as far as those may know who may look.
                let gone = instance.is_none() && self.sees(&tree, &cx.caller, &request.name);
                if !gone && instance.is_none_or(|i| i.credential != Some(hash)) {
                    return Err(wrong(None));
                }
                instance.map(|i| i.id).into_iter().collect()
            }
            (None, Some(credential)) => {
                let hash = hash_of(credential, "credential")?;
                let holder = service.instances.iter().find(|i| i.credential == Some(hash));
                vec![holder.ok_or_else(|| wrong(None))?.id]
            }
            (which, None) => {
                let advertised = service.instances.iter().filter(|i| match which {
                    Some(id) => i.id == id,
                    None => matches!(i.origin, Origin::Advertised { .. }),
                });
                advertised.map(|i| i.id).collect::<Vec<_>>()
            }
        };
        if instances.is_empty() {
            return Ok(WithdrawReply { withdrawn: Vec::new() });
        }
        let command = Command::Withdraw { service: node.id, instances };
        match self.propose(&cx.caller.principal, cx.request, command).await? {
            Reply::Withdrawn(withdrawn) => Ok(WithdrawReply { withdrawn }),
            other => Err(Error::internal(format!("withdraw gave {other:?}"))),
        }
    }
}

pub(crate) fn hash_of(text: &str, field: &str) -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    hex::decode_to_slice(text.trim(), &mut secret)
        .map_err(|_| Error::invalid(field, "must be 64 hexadecimal digits"))?;
    Ok(Sha256::digest(secret).into())
}

fn check_endpoints(endpoints: &[Endpoint]) -> Result<()> {
    if endpoints.len() > 64 {
        return Err(Error::invalid("endpoints", "64 at most"));
    }
    for endpoint in endpoints {
        if endpoint.protocol.is_empty() || endpoint.protocol.len() > 32 {
            return Err(Error::invalid("endpoints.protocol", "must be a word of 1 to 32 bytes, such as tcp or http"));
        }
        let unix = endpoint.protocol == "unix";
        if !unix && endpoint.port == 0 {
            return Err(Error::invalid("endpoints.port", "must be the port that it listens on, 1 to 65535"));
        }
        if unix && !endpoint.address.starts_with('/') {
            return Err(Error::invalid("endpoints.address", "of a unix endpoint must be an absolute path"));
        }
        if !unix && !endpoint.address.is_empty() && endpoint.address.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid("endpoints.address", "must be an IP address, or empty for the computer's own"));
        }
    }
    Ok(())
}
