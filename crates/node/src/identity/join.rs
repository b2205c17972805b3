//! Join tokens: how a new host's agent or a new server gets its first certificate.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use byname_api::caller::{Caller, Mechanism, Right};
use byname_api::error::{Code, Error, Result};
use byname_api::identity::{InviteReply, InviteRequest, JoinAs, JoinReply, JoinRequest, JoinedServer, Secret};
use byname_api::object::ObjectId;
use byname_api::request::Context;
use byname_api::span::Timestamp;
use byname_cluster::Server as Peer;
use byname_name::Name;
use byname_registry::{Command, Reply};

use super::{certify, unexpected};
use crate::advertise::hash_of;
use crate::{Inner, start};

/// How long a token is good for when the request does not say, and at most.
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Inner {
    pub(crate) async fn invite(self: &Arc<Self>, cx: &Context, request: InviteRequest) -> Result<InviteReply> {
        self.authorise(&cx.caller, Right::Admin, &Name::root())?;
        let identity = self.own_identity()?;
        if let Some(computer) = &request.computer {
            check_computer(computer, request.join_as)?;
        }
        let ttl = request.ttl.map_or(HOUR, |ttl| ttl.duration());
        if ttl.is_zero() || ttl > DAY {
            return Err(Error::invalid("ttl", "a join token is good for a day at most"));
        }
        let secret: [u8; 32] = rand::random();
        let expires = Timestamp(start::now().max(self.view.load().now).0 + ttl.as_millis() as u64);
        let command = Command::Invite {
            secret: Sha256::digest(secret).into(),
            join_as: request.join_as,
            computer: request.computer,
            expires,
        };
        match self.propose(&cx.caller.principal, None, command).await? {
            Reply::Done => {}
            other => return Err(unexpected("invite", &other)),
        }
        Ok(InviteReply {
            secret: Secret(hex::encode(secret)),
            root: hex::encode(identity.authority.load().root_fingerprint()),
            servers: self.reachable(&identity.servers),
            expires,
        })
    }

    pub(crate) async fn join(self: &Arc<Self>, cx: &Context, request: JoinRequest) -> Result<JoinReply> {
        let identity = self.own_identity()?;
        identity.limits.sign_in(cx.caller.address)?;
        let hash = hash_of(&request.secret.0, "secret")?;
        // Looked at before the token is used up by it.
        byname_identity::authority::SigningRequest::parse(request.request.as_bytes())?;
        let server = request.computer.parent() == Name::parse("/byname/servers").ok();
        check_computer(&request.computer, if server { JoinAs::Server } else { JoinAs::Agent })?;
        let peer = if server { Some(self.newcomer(&request)?) } else { None };
        let computer = match &peer {
            Some(peer) => crate::members::name_of(peer.id)?,
            None => request.computer.clone(),
        };
        let command = Command::Join { secret: hash, computer: computer.clone() };
        let by = computer.as_str();
        let (id, join_as) = match self.propose(by, None, command).await? {
            Reply::Joined { computer, join_as } => (computer, join_as),
            other => return Err(unexpected("join", &other)),
        };
        if (join_as == JoinAs::Server) != server {
            return Err(Error::new(Code::Denied, "the join token is for something else").field("secret"));
        }
        // A server is believed as long as it belongs to the cluster, and needs no object for that.
        let bound = (!server).then_some(id);
        let certificate = self.certificate_of(&computer, bound, None, &request.request, certify::COMPUTER)?;
        let Some(peer) = peer else { return Ok(JoinReply { certificate, cluster_key: None, server: None }) };
        let Some(authority) = self.view.load().vault(super::AUTHORITY).map(|sealed| STANDARD.encode(sealed)) else {
            return Err(Error::internal("the authority is not in the replicated state"));
        };
        if self.cluster.members().iter().any(|member| member.server.id == peer.id) {
            // It would come with an empty disk, and have forgotten what it confirmed.
            let what = format!("server {} belongs to the cluster already: join as /byname/servers/new", peer.id);
            return Err(Error::new(Code::AlreadyExists, what).field("computer"));
        }
        let told = JoinedServer { id: peer.id, domain: identity.domain.clone(), authority };
        self.let_in(peer).await?;
        let cluster_key = Some(Secret(hex::encode(identity.key.to_bytes().as_ref())));
        Ok(JoinReply { certificate, cluster_key, server: Some(told) })
    }

    /// The server that wants to join, with a number that no other ever had.
    fn newcomer(&self, request: &JoinRequest) -> Result<Peer> {
        let address = request.address.clone().filter(|address| is_address(address));
        let address = address.ok_or_else(|| {
            Error::invalid("address", "a server that joins says where the others reach it: HOST:PORT")
        })?;
        let label = request.computer.leaf().unwrap_or_default();
        let id = match label.parse() {
            Ok(id) if id > 0 && self.was_removed(&request.computer) => {
                let what =
                    format!("server {id} was taken out, and no number is given twice: join as /byname/servers/new");
                return Err(Error::new(Code::AlreadyExists, what).field("computer"));
            }
            Ok(id) if id > 0 => id,
            _ => self.next_server(),
        };
        Ok(Peer { id, address })
    }

    /// Who joined, for the audit log.
    pub(crate) fn joined(&self, cx: &Context, computer: &Name, id: Option<ObjectId>) -> Caller {
        let caller = match id {
            Some(id) => Caller::authenticated(computer, id, Mechanism::Join),
            None => Caller { principal: computer.to_string(), mechanism: Mechanism::Join, ..Caller::anonymous() },
        };
        Caller { address: cx.caller.address, ..caller }
    }
}

/// `HOST:PORT`.
fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    text.len() <= 300
        && parts.is_some_and(|(host, port)| {
            !host.is_empty()
                && port.parse::<u16>().is_ok_and(|port| port > 0)
                && host.bytes().all(|b| b.is_ascii_graphic())
        })
}

fn check_computer(name: &Name, join_as: JoinAs) -> Result<()> {
    let labels: Vec<&str> = name.labels().collect();
    match (join_as, labels.as_slice()) {
        (JoinAs::Agent, ["computers", _]) | (JoinAs::Server, ["byname", "servers", _]) => Ok(()),
        (JoinAs::Agent, _) => Err(Error::invalid("computer", "an agent joins as /computers/NAME")),
        (JoinAs::Server, _) => Err(Error::invalid("computer", "a server joins as /byname/servers/ID")),
    }
}
