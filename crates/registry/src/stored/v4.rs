//! Format 4, the one that is written: as format 3, with identity. Objects are packed as in format 3, and their owners may
//! be bound to ids. What is not here is as in `v3` and `v2`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use byname_api::error::Error;
use byname_api::identity::JoinAs as ApiJoinAs;
use byname_api::object::{InstanceId, ObjectId, Version};
use byname_api::request::{BatchReply, Op as ApiOp, RequestId};
use byname_api::service::Exit as ApiExit;
use byname_api::span::Timestamp;

use super::StoredError;
use super::v2::{self, Advertise, Endpoint, Evidence, Exit, Json, Stored, endpoints, endpoints_back, ids, name};
use super::v3::{self, Lock, Op};
use crate::command::{self as domain, Reply as DomainReply};
use crate::identity;
use crate::service::{self as live, LockState};
use crate::tree::Node;
use byname_name::Name;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub at: u64,
    pub by: String,
    pub request: Option<(u128, u64)>,
    pub command: Command,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Batch { ops: Vec<Op>, set: Option<String> },
    Order { service: u64, instance: u64, computer: String, ticket: [u8; 32], proof: [u8; 32], wanted: u32, why: String },
    Started { instance: u64, pid: Option<u32>, endpoints: Vec<Endpoint> },
    Ready { instance: u64, pid: Option<u32>, endpoints: Vec<Endpoint> },
    Unhealthy { instance: u64, why: String },
    Ended { instance: u64, exit: Exit, last_lines: String, error: Option<Json>, ordered: bool },
    Stop { service: u64, hold: bool, reset: bool },
    Release { service: u64 },
    Advertise(Advertise),
    Withdraw { service: u64, instances: Vec<u64> },
    Expire { instance: u64, renewal: u64 },
    Computer { name: String, addresses: Vec<String>, facts: Vec<(String, String)> },
    Idle { instance: u64 },
    Lock { name: String, key: [u8; 32], ttl_ms: u64, renew: bool },
    Unlock { name: String, key: Option<[u8; 32]> },
    ExpireLock { object: u64, renewal: u64 },
    Earlier(Box<Command>),
    Password { principal: u64, sealed: Option<Vec<u8>> },
    AddPasskey { principal: u64, label: String, key: Vec<u8> },
    UpdatePasskey { principal: u64, label: String, key: Vec<u8> },
    RemovePasskey { principal: u64, label: String },
    Vault { key: String, sealed: Vec<u8>, only_if_absent: bool },
    Introduce { ticket: [u8; 32], client: String, client_id: Option<u64>, service: u64, instance: u64, expires: u64 },
    Verify { ticket: [u8; 32], instance: u64 },
    Invite { secret: [u8; 32], join_as: JoinAs, computer: Option<String>, expires: u64 },
    Join { secret: [u8; 32], computer: String },
    RevokeInstance { instance: u64 },
    RevokePrincipal { principal: u64 },
    RevokeSession { session: u64, until: u64 },
    Anchor { server: u64, sequence: u64, hash: [u8; 32] },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum JoinAs {
    Agent,
    Server,
}

impl From<ApiJoinAs> for JoinAs {
    fn from(join_as: ApiJoinAs) -> Self {
        match join_as {
            ApiJoinAs::Agent => JoinAs::Agent,
            ApiJoinAs::Server => JoinAs::Server,
        }
    }
}

impl From<JoinAs> for ApiJoinAs {
    fn from(join_as: JoinAs) -> Self {
        match join_as {
            JoinAs::Agent => ApiJoinAs::Agent,
            JoinAs::Server => ApiJoinAs::Server,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Refused(Json),
    Batch(Json),
    Ordered,
    Enough,
    Advertised { proof: Option<[u8; 32]>, renewal: u64 },
    Withdrawn(Vec<u64>),
    Done,
    Locked { name: String, fence: u64, renewal: u64 },
    Unlocked(bool),
    Verified { client: String, client_id: Option<u64> },
    Joined { computer: u64, join_as: JoinAs },
}

/// What an object has beyond its declaration, which the object's own record holds packed (`crate::stored::packed`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct More {
    id: u64,
    service: Option<v2::Service>,
    lock: Option<Lock>,
    /// Which of the service's instances are revoked.
    revoked: Vec<u64>,
}

impl From<&domain::Entry> for Entry {
    fn from(entry: &domain::Entry) -> Self {
        Entry {
            at: entry.at.0,
            by: entry.by.clone(),
            request: entry.request.map(|r| (r.session, r.sequence)),
            command: Command::from(&entry.command),
        }
    }
}

impl From<&domain::Command> for Command {
    fn from(command: &domain::Command) -> Self {
        use domain::{Change, Command as C, CredentialChange, Revoked};
        match command {
            C::Batch { ops, set } => Command::Batch { ops: ops.iter().map(Op::from).collect(), set: set.clone() },
            C::Order(o) => Command::Order {
                service: o.service.0,
                instance: o.instance.0,
                computer: o.computer.to_string(),
                ticket: o.ticket,
                proof: o.proof,
                wanted: o.wanted,
                why: o.why.clone(),
            },
            C::Report { instance, change } => match change {
                Change::Started { pid, endpoints: e } => {
                    Command::Started { instance: instance.0, pid: *pid, endpoints: endpoints(e) }
                }
                Change::Ready { pid, endpoints: e } => {
                    Command::Ready { instance: instance.0, pid: *pid, endpoints: endpoints(e) }
                }
                Change::Unhealthy { why } => Command::Unhealthy { instance: instance.0, why: why.clone() },
                Change::Ended { exit, last_lines, error, ordered } => Command::Ended {
                    instance: instance.0,
                    exit: match exit {
                        ApiExit::Status(n) => Exit::Status(*n),
                        ApiExit::Signal(n) => Exit::Signal(*n),
                        ApiExit::NotStarted => Exit::NotStarted,
                        ApiExit::Unknown => Exit::Unknown,
                    },
                    last_lines: last_lines.clone(),
                    error: error.as_ref().map(Json::of),
                    ordered: *ordered,
                },
            },
            C::Stop { service, hold, reset } => Command::Stop { service: service.0, hold: *hold, reset: *reset },
            C::Release { service } => Command::Release { service: service.0 },
            C::Advertise(ad) => Command::Advertise(Advertise {
                name: ad.name.to_string(),
                instance: ad.instance.0,
                endpoints: endpoints(&ad.endpoints),
                evidence: match ad.evidence {
                    domain::Evidence::Ticket(h) => Evidence::Ticket(h),
                    domain::Evidence::Credential(h) => Evidence::Credential(h),
                    domain::Evidence::Right => Evidence::Right,
                },
                credential: ad.credential,
                ttl_ms: ad.ttl_ms,
                weight: ad.weight,
                pid: ad.pid,
            }),
            C::Withdraw { service, instances } => Command::Withdraw { service: service.0, instances: ids(instances) },
            C::Expire { instance, renewal } => Command::Expire { instance: instance.0, renewal: *renewal },
            C::Computer { name, addresses, facts } => {
                Command::Computer { name: name.to_string(), addresses: addresses.clone(), facts: facts.clone() }
            }
            C::Idle { instance } => Command::Idle { instance: instance.0 },
            C::Lock { name, key, ttl_ms, renew } => {
                Command::Lock { name: name.to_string(), key: *key, ttl_ms: *ttl_ms, renew: *renew }
            }
            C::Unlock { name, key } => Command::Unlock { name: name.to_string(), key: *key },
            C::ExpireLock { object, renewal } => Command::ExpireLock { object: object.0, renewal: *renewal },
            C::Earlier(command) => Command::Earlier(Box::new(Command::from(&**command))),
            C::Credential { principal, change } => {
                let principal = principal.0;
                match change {
                    CredentialChange::Password(sealed) => Command::Password { principal, sealed: sealed.clone() },
                    CredentialChange::AddPasskey { label, key } => {
                        Command::AddPasskey { principal, label: label.clone(), key: key.clone() }
                    }
                    CredentialChange::UpdatePasskey { label, key } => {
                        Command::UpdatePasskey { principal, label: label.clone(), key: key.clone() }
                    }
                    CredentialChange::RemovePasskey { label } => {
                        Command::RemovePasskey { principal, label: label.clone() }
                    }
                }
            }
            C::Vault { key, sealed, only_if_absent } => {
                Command::Vault { key: key.clone(), sealed: sealed.clone(), only_if_absent: *only_if_absent }
            }
            C::Introduce { ticket, client, client_id, service, instance, expires } => Command::Introduce {
                ticket: *ticket,
                client: client.clone(),
                client_id: client_id.map(|id| id.0),
                service: service.0,
                instance: instance.0,
                expires: expires.0,
            },
            C::Verify { ticket, instance } => Command::Verify { ticket: *ticket, instance: instance.0 },
            C::Invite { secret, join_as, computer, expires } => Command::Invite {
                secret: *secret,
                join_as: (*join_as).into(),
                computer: computer.as_ref().map(Name::to_string),
                expires: expires.0,
            },
            C::Join { secret, computer } => Command::Join { secret: *secret, computer: computer.to_string() },
            C::Revoke(Revoked::Instance(id)) => Command::RevokeInstance { instance: id.0 },
            C::Revoke(Revoked::Principal(id)) => Command::RevokePrincipal { principal: id.0 },
            C::Revoke(Revoked::Session { session, until }) => {
                Command::RevokeSession { session: *session, until: until.0 }
            }
            C::Anchor { server, sequence, hash } => {
                Command::Anchor { server: *server, sequence: *sequence, hash: *hash }
            }
        }
    }
}

impl TryFrom<Entry> for domain::Entry {
    type Error = StoredError;

    fn try_from(entry: Entry) -> Stored<Self> {
        Ok(domain::Entry {
            at: Timestamp(entry.at),
            by: entry.by,
            request: entry.request.map(|(session, sequence)| RequestId { session, sequence }),
            command: domain::Command::try_from(entry.command)?,
        })
    }
}

impl TryFrom<Command> for domain::Command {
    type Error = StoredError;

    fn try_from(command: Command) -> Stored<Self> {
        use domain::{Change, Command as C, CredentialChange, Revoked};
        let report = |instance, change| C::Report { instance: InstanceId(instance), change };
        let credential = |principal, change| C::Credential { principal: ObjectId(principal), change };
        Ok(match command {
            Command::Batch { ops, set } => {
                C::Batch { ops: ops.into_iter().map(ApiOp::try_from).collect::<Stored<_>>()?, set }
            }
            Command::Order { service, instance, computer, ticket, proof, wanted, why } => C::Order(domain::Order {
                service: ObjectId(service),
                instance: InstanceId(instance),
                computer: name(&computer)?,
                ticket,
                proof,
                wanted,
                why,
            }),
            Command::Started { instance, pid, endpoints } => {
                report(instance, Change::Started { pid, endpoints: endpoints_back(endpoints) })
            }
            Command::Ready { instance, pid, endpoints } => {
                report(instance, Change::Ready { pid, endpoints: endpoints_back(endpoints) })
            }
            Command::Unhealthy { instance, why } => report(instance, Change::Unhealthy { why }),
            Command::Ended { instance, exit, last_lines, error, ordered } => report(
                instance,
                Change::Ended {
                    exit: match exit {
                        Exit::Status(n) => ApiExit::Status(n),
                        Exit::Signal(n) => ApiExit::Signal(n),
                        Exit::NotStarted => ApiExit::NotStarted,
                        Exit::Unknown => ApiExit::Unknown,
                    },
                    last_lines,
                    error: error.map(|e| e.read::<Error>()).transpose()?,
                    ordered,
                },
            ),
            Command::Stop { service, hold, reset } => C::Stop { service: ObjectId(service), hold, reset },
            Command::Release { service } => C::Release { service: ObjectId(service) },
            Command::Advertise(ad) => C::Advertise(domain::Advertise {
                name: name(&ad.name)?,
                instance: InstanceId(ad.instance),
                endpoints: endpoints_back(ad.endpoints),
                evidence: match ad.evidence {
                    Evidence::Ticket(h) => domain::Evidence::Ticket(h),
                    Evidence::Credential(h) => domain::Evidence::Credential(h),
                    Evidence::Right => domain::Evidence::Right,
                },
                credential: ad.credential,
                ttl_ms: ad.ttl_ms,
                weight: ad.weight,
                pid: ad.pid,
            }),
            Command::Withdraw { service, instances } => {
                C::Withdraw { service: ObjectId(service), instances: instances.into_iter().map(InstanceId).collect() }
            }
            Command::Expire { instance, renewal } => C::Expire { instance: InstanceId(instance), renewal },
            Command::Computer { name: text, addresses, facts } => C::Computer { name: name(&text)?, addresses, facts },
            Command::Idle { instance } => C::Idle { instance: InstanceId(instance) },
            Command::Lock { name: text, key, ttl_ms, renew } => C::Lock { name: name(&text)?, key, ttl_ms, renew },
            Command::Unlock { name: text, key } => C::Unlock { name: name(&text)?, key },
            Command::ExpireLock { object, renewal } => C::ExpireLock { object: ObjectId(object), renewal },
            Command::Earlier(command) => match *command {
                // Once is enough, and bounds what damaged bytes can ask of the stack.
                Command::Earlier(_) => return Err(StoredError::Malformed("an earlier command in another".into())),
                command => C::Earlier(Box::new(domain::Command::try_from(command)?)),
            },
            Command::Password { principal, sealed } => credential(principal, CredentialChange::Password(sealed)),
            Command::AddPasskey { principal, label, key } => {
                credential(principal, CredentialChange::AddPasskey { label, key })
            }
            Command::UpdatePasskey { principal, label, key } => {
                credential(principal, CredentialChange::UpdatePasskey { label, key })
            }
            Command::RemovePasskey { principal, label } => {
                credential(principal, CredentialChange::RemovePasskey { label })
            }
            Command::Vault { key, sealed, only_if_absent } => C::Vault { key, sealed, only_if_absent },
            Command::Introduce { ticket, client, client_id, service, instance, expires } => C::Introduce {
                ticket,
                client,
                client_id: client_id.map(ObjectId),
                service: ObjectId(service),
                instance: InstanceId(instance),
                expires: Timestamp(expires),
            },
            Command::Verify { ticket, instance } => C::Verify { ticket, instance: InstanceId(instance) },
            Command::Invite { secret, join_as, computer, expires } => C::Invite {
                secret,
                join_as: join_as.into(),
                computer: computer.as_deref().map(name).transpose()?,
                expires: Timestamp(expires),
            },
            Command::Join { secret, computer } => C::Join { secret, computer: name(&computer)? },
            Command::RevokeInstance { instance } => C::Revoke(Revoked::Instance(InstanceId(instance))),
            Command::RevokePrincipal { principal } => C::Revoke(Revoked::Principal(ObjectId(principal))),
            Command::RevokeSession { session, until } => {
                C::Revoke(Revoked::Session { session, until: Timestamp(until) })
            }
            Command::Anchor { server, sequence, hash } => C::Anchor { server, sequence, hash },
        })
    }
}

impl From<&ApiOp> for Op {
    fn from(op: &ApiOp) -> Self {
        match op {
            ApiOp::Add { name, spec } => Op::Add { name: name.to_string(), spec: Json::of(spec) },
            ApiOp::Put { name, spec, if_version } => {
                Op::Put { name: name.to_string(), spec: Json::of(spec), if_version: if_version.map(|v| v.0) }
            }
            ApiOp::Declare { name, spec } => Op::Declare { name: name.to_string(), spec: Json::of(spec) },
            ApiOp::Modify { name, spec, clear, if_version } => Op::Modify {
                name: name.to_string(),
                spec: Json::of(spec),
                clear: clear.clone(),
                if_version: if_version.map(|v| v.0),
            },
            ApiOp::Check { name, exists, if_version, fence } => Op::Check {
                name: name.to_string(),
                exists: *exists,
                if_version: if_version.map(|v| v.0),
                fence: *fence,
            },
            ApiOp::Delete { name, recursive, stop, if_version } => Op::Delete {
                name: name.to_string(),
                recursive: *recursive,
                stop: *stop,
                if_version: if_version.map(|v| v.0),
            },
        }
    }
}

impl TryFrom<Op> for ApiOp {
    type Error = StoredError;

    fn try_from(op: Op) -> Stored<Self> {
        let version = |v: Option<u64>| v.map(Version);
        Ok(match op {
            Op::Add { name: n, spec } => ApiOp::Add { name: name(&n)?, spec: spec.read()? },
            Op::Put { name: n, spec, if_version } => {
                ApiOp::Put { name: name(&n)?, spec: spec.read()?, if_version: version(if_version) }
            }
            Op::Declare { name: n, spec } => ApiOp::Declare { name: name(&n)?, spec: spec.read()? },
            Op::Modify { name: n, spec, clear, if_version } => {
                ApiOp::Modify { name: name(&n)?, spec: spec.read()?, clear, if_version: version(if_version) }
            }
            Op::Check { name: n, exists, if_version, fence } => {
                ApiOp::Check { name: name(&n)?, exists, if_version: version(if_version), fence }
            }
            Op::Delete { name: n, recursive, stop, if_version } => {
                ApiOp::Delete { name: name(&n)?, recursive, stop, if_version: version(if_version) }
            }
        })
    }
}

pub(crate) fn encode_reply(reply: &DomainReply) -> Vec<u8> {
    let stored = match reply {
        DomainReply::Refused(error) => Reply::Refused(Json::of(error)),
        DomainReply::Batch(batch) => Reply::Batch(Json::of(batch)),
        DomainReply::Ordered => Reply::Ordered,
        DomainReply::Enough => Reply::Enough,
        DomainReply::Advertised { proof, renewal } => Reply::Advertised { proof: *proof, renewal: *renewal },
        DomainReply::Withdrawn(list) => Reply::Withdrawn(ids(list)),
        DomainReply::Done => Reply::Done,
        DomainReply::Locked { name, fence, renewal } => {
            Reply::Locked { name: name.to_string(), fence: *fence, renewal: *renewal }
        }
        DomainReply::Unlocked(was) => Reply::Unlocked(*was),
        DomainReply::Verified { client, client_id } => {
            Reply::Verified { client: client.clone(), client_id: client_id.map(|id| id.0) }
        }
        DomainReply::Joined { computer, join_as } => Reply::Joined { computer: computer.0, join_as: (*join_as).into() },
    };
    // Writing into a growing vector cannot fail.
    postcard::to_extend(&stored, vec![super::FORMAT]).unwrap_or_default()
}

pub(crate) fn decode_reply(bytes: &[u8]) -> Stored<DomainReply> {
    let (format, rest) = bytes.split_first().ok_or_else(|| StoredError::Malformed("it is empty".into()))?;
    // Later formats have only added replies.
    if *format > super::FORMAT {
        return Err(StoredError::Newer(*format));
    }
    Ok(match postcard::from_bytes::<Reply>(rest)? {
        Reply::Refused(error) => DomainReply::Refused(error.read()?),
        Reply::Batch(batch) => DomainReply::Batch(batch.read::<BatchReply>()?),
        Reply::Ordered => DomainReply::Ordered,
        Reply::Enough => DomainReply::Enough,
        Reply::Advertised { proof, renewal } => DomainReply::Advertised { proof, renewal },
        Reply::Withdrawn(list) => DomainReply::Withdrawn(list.into_iter().map(InstanceId).collect()),
        Reply::Done => DomainReply::Done,
        Reply::Locked { name: text, fence, renewal } => DomainReply::Locked { name: name(&text)?, fence, renewal },
        Reply::Unlocked(was) => DomainReply::Unlocked(was),
        Reply::Verified { client, client_id } => DomainReply::Verified { client, client_id: client_id.map(ObjectId) },
        Reply::Joined { computer, join_as } => {
            DomainReply::Joined { computer: ObjectId(computer), join_as: join_as.into() }
        }
    })
}

impl From<&Node> for More {
    fn from(node: &Node) -> Self {
        let instances = node.service.iter().flat_map(|s| &s.instances);
        More {
            id: node.id.0,
            service: node.service.as_deref().map(v2::Service::from),
            lock: node.lock.as_deref().map(Lock::from),
            revoked: instances.filter(|i| i.revoked).map(|i| i.id.0).collect(),
        }
    }
}

impl From<v3::More> for More {
    fn from(old: v3::More) -> Self {
        More { id: old.id, service: old.service, lock: old.lock, revoked: Vec::new() }
    }
}

impl More {
    /// Whose it is.
    pub(crate) fn id(&self) -> ObjectId {
        ObjectId(self.id)
    }

    /// The object with it.
    pub(crate) fn add_to(self, node: &Node) -> Stored<Node> {
        let mut service = self.service.map(live::Service::try_from).transpose()?;
        if service.is_some() != node.service.is_some() {
            return Err(StoredError::Malformed(format!("`{}` is no service and has a service's state", node.name)));
        }
        for instance in service.iter_mut().flat_map(|s| &mut s.instances) {
            instance.revoked = self.revoked.contains(&instance.id.0);
        }
        let lock = self.lock.map(|l| Arc::new(LockState::from(l)));
        Ok(Node { service: service.map(Arc::new), lock, ..node.clone() })
    }
}

impl From<&LockState> for Lock {
    fn from(lock: &LockState) -> Self {
        Lock {
            fence: lock.fence,
            by: lock.by.clone(),
            since: lock.since.0,
            ttl_ms: lock.ttl_ms,
            renewal: lock.renewal,
            key: lock.key,
        }
    }
}

impl From<Lock> for LockState {
    fn from(lock: Lock) -> Self {
        LockState {
            fence: lock.fence,
            by: lock.by,
            since: Timestamp(lock.since),
            ttl_ms: lock.ttl_ms,
            renewal: lock.renewal,
            key: lock.key,
        }
    }
}

/// How many records of each kind a snapshot holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub credentials: u64,
    pub vault: u64,
    pub secrets: u64,
    pub introductions: u64,
    pub invites: u64,
    pub revoked: u64,
    pub anchors: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Credentials {
    id: u64,
    password: Option<Vec<u8>>,
    passkeys: Vec<(String, Vec<u8>)>,
    valid_from: u64,
}

impl Credentials {
    pub(crate) fn of(id: ObjectId, credentials: &identity::Credentials) -> Self {
        Credentials {
            id: id.0,
            password: credentials.password.as_deref().map(<[u8]>::to_vec),
            passkeys: credentials.passkeys.iter().map(|p| (p.label.clone(), p.key.to_vec())).collect(),
            valid_from: credentials.valid_from.0,
        }
    }

    pub(crate) fn back(self) -> (ObjectId, identity::Credentials) {
        let passkey = |(label, key): (String, Vec<u8>)| identity::Passkey { label, key: key.into() };
        let credentials = identity::Credentials {
            password: self.password.map(Into::into),
            passkeys: self.passkeys.into_iter().map(passkey).collect(),
            valid_from: Timestamp(self.valid_from),
        };
        (ObjectId(self.id), credentials)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Introduction {
    ticket: [u8; 32],
    end: u64,
    client: String,
    client_id: Option<u64>,
    service: u64,
    instance: u64,
}

impl Introduction {
    pub(crate) fn of(ticket: &[u8; 32], end: Timestamp, introduction: &identity::Introduction) -> Self {
        Introduction {
            ticket: *ticket,
            end: end.0,
            client: introduction.client.clone(),
            client_id: introduction.client_id.map(|id| id.0),
            service: introduction.service.0,
            instance: introduction.instance.0,
        }
    }

    pub(crate) fn back(self) -> ([u8; 32], Timestamp, identity::Introduction) {
        let introduction = identity::Introduction {
            client: self.client,
            client_id: self.client_id.map(ObjectId),
            service: ObjectId(self.service),
            instance: InstanceId(self.instance),
        };
        (self.ticket, Timestamp(self.end), introduction)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Invite {
    secret: [u8; 32],
    end: u64,
    join_as: JoinAs,
    computer: Option<String>,
}

impl Invite {
    pub(crate) fn of(secret: &[u8; 32], end: Timestamp, invite: &identity::Invite) -> Self {
        Invite {
            secret: *secret,
            end: end.0,
            join_as: invite.join_as.into(),
            computer: invite.computer.as_ref().map(Name::to_string),
        }
    }

    pub(crate) fn back(self) -> Stored<([u8; 32], Timestamp, identity::Invite)> {
        let computer = self.computer.as_deref().map(name).transpose()?;
        Ok((self.secret, Timestamp(self.end), identity::Invite { join_as: self.join_as.into(), computer }))
    }
}
