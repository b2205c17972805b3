//! Format 4: as format 3, with identity. Objects are packed as in format 3, and their owners may be bound to ids. Commands
//! and what objects have beyond their declarations are read only, and turned into format 5; the rest is there as here. What
//! is not here is as in `v3` and `v2`.

use serde::{Deserialize, Serialize};

use byname_api::identity::JoinAs as ApiJoinAs;
use byname_api::object::{InstanceId, ObjectId, Version};
use byname_api::request::{BatchReply, Op as ApiOp};
use byname_api::span::Timestamp;

use super::StoredError;
use super::v2::{self, Advertise, Endpoint, Exit, Json, Stored, ids, name};
use super::v3::{self, Lock, Op};
use super::v5;
use crate::command::Reply as DomainReply;
use crate::identity;
use crate::service::LockState;
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
    pub(crate) id: u64,
    pub(crate) service: Option<v2::Service>,
    pub(crate) lock: Option<Lock>,
    /// Which of the service's instances are revoked.
    pub(crate) revoked: Vec<u64>,
}

impl From<Entry> for v5::Entry {
    fn from(old: Entry) -> Self {
        v5::Entry { at: old.at, by: old.by, request: old.request, command: old.command.into() }
    }
}

impl From<Command> for v5::Command {
    fn from(old: Command) -> Self {
        use v5::Command as New;
        match old {
            Command::Batch { ops, set } => New::Batch { ops, set },
            Command::Order { service, instance, computer, ticket, proof, wanted, why } => {
                New::Order { service, instance, computer, ticket, proof, wanted, why }
            }
            Command::Started { instance, pid, endpoints } => New::Started { instance, pid, endpoints },
            Command::Ready { instance, pid, endpoints } => New::Ready { instance, pid, endpoints },
            Command::Unhealthy { instance, why } => New::Unhealthy { instance, why },
            Command::Ended { instance, exit, last_lines, error, ordered } => {
                New::Ended { instance, exit, last_lines, error, ordered }
            }
            Command::Stop { service, hold, reset } => New::Stop { service, hold, reset },
            Command::Release { service } => New::Release { service },
            Command::Advertise(ad) => New::Advertise(ad),
            Command::Withdraw { service, instances } => New::Withdraw { service, instances },
            Command::Expire { instance, renewal } => New::Expire { instance, renewal },
            Command::Computer { name, addresses, facts } => New::Computer { name, addresses, facts },
            Command::Idle { instance } => New::Idle { instance },
            Command::Lock { name, key, ttl_ms, renew } => New::Lock { name, key, ttl_ms, renew },
            Command::Unlock { name, key } => New::Unlock { name, key },
            Command::ExpireLock { object, renewal } => New::ExpireLock { object, renewal },
            Command::Earlier(command) => New::Earlier(Box::new(New::from(*command))),
            Command::Password { principal, sealed } => New::Password { principal, sealed },
            Command::AddPasskey { principal, label, key } => New::AddPasskey { principal, label, key },
            Command::UpdatePasskey { principal, label, key } => New::UpdatePasskey { principal, label, key },
            Command::RemovePasskey { principal, label } => New::RemovePasskey { principal, label },
            Command::Vault { key, sealed, only_if_absent } => New::Vault { key, sealed, only_if_absent },
            Command::Introduce { ticket, client, client_id, service, instance, expires } => {
                New::Introduce { ticket, client, client_id, service, instance, expires }
            }
            Command::Verify { ticket, instance } => New::Verify { ticket, instance },
            Command::Invite { secret, join_as, computer, expires } => {
                New::Invite { secret, join_as, computer, expires }
            }
            Command::Join { secret, computer } => New::Join { secret, computer },
            Command::RevokeInstance { instance } => New::RevokeInstance { instance },
            Command::RevokePrincipal { principal } => New::RevokePrincipal { principal },
            Command::RevokeSession { session, until } => New::RevokeSession { session, until },
            Command::Anchor { server, sequence, hash } => New::Anchor { server, sequence, hash },
        }
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

impl From<v3::More> for More {
    fn from(old: v3::More) -> Self {
        More { id: old.id, service: old.service, lock: old.lock, revoked: Vec::new() }
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
