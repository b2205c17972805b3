//! Format 5, the one that is written: as format 4, with the health of instances. What is not here is as in `v4`, `v3` and
//! `v2`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use byname_api::error::Error;
use byname_api::object::{InstanceId, ObjectId, Stamp};
use byname_api::request::{Op as ApiOp, RequestId};
use byname_api::service::{Exit as ApiExit, Health as ApiHealth};
use byname_api::span::Timestamp;

use super::StoredError;
use super::v2::{self, Advertise, Endpoint, Evidence, Exit, Json, Stored, endpoints, endpoints_back, ids, name};
use super::v3::{Lock, Op};
use super::v4::{self, JoinAs};
use crate::command as domain;
use crate::computers;
use crate::health::{Source as LiveSource, Verdict as LiveVerdict};
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
    Health { instance: u64, source: Source, verdict: Option<Verdict> },
    Arrive { name: String, addresses: Vec<String>, facts: Vec<(String, String)> },
    Hosts { changes: Vec<(String, HostChange)> },
    Lose { instances: Vec<u64> },
    Retire { instance: u64, why: String },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum HostChange {
    Down,
    Up,
    Drain { timeout_ms: u64 },
    Undrain,
}

impl From<domain::HostChange> for HostChange {
    fn from(change: domain::HostChange) -> Self {
        match change {
            domain::HostChange::Down => HostChange::Down,
            domain::HostChange::Up => HostChange::Up,
            domain::HostChange::Drain { timeout_ms } => HostChange::Drain { timeout_ms },
            domain::HostChange::Undrain => HostChange::Undrain,
        }
    }
}

impl From<HostChange> for domain::HostChange {
    fn from(change: HostChange) -> Self {
        match change {
            HostChange::Down => domain::HostChange::Down,
            HostChange::Up => domain::HostChange::Up,
            HostChange::Drain { timeout_ms } => domain::HostChange::Drain { timeout_ms },
            HostChange::Undrain => domain::HostChange::Undrain,
        }
    }
}

/// How firmly a copy stands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Footing {
    Leaving,
    Down,
    Lost,
}

impl Footing {
    /// `None` for one that stands firmly, of which nothing is stored.
    fn of(footing: computers::Footing) -> Option<Self> {
        match footing {
            computers::Footing::Firm => None,
            computers::Footing::Leaving => Some(Footing::Leaving),
            computers::Footing::Down => Some(Footing::Down),
            computers::Footing::Lost => Some(Footing::Lost),
        }
    }
}

impl From<Footing> for computers::Footing {
    fn from(footing: Footing) -> Self {
        match footing {
            Footing::Leaving => computers::Footing::Leaving,
            Footing::Down => computers::Footing::Down,
            Footing::Lost => computers::Footing::Lost,
        }
    }
}

/// What is known of a host, in a section of its own at the end of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    id: u64,
    down: Option<u64>,
    drain: Option<Drain>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Drain {
    at: u64,
    by: String,
    timeout_ms: u64,
}

impl Host {
    pub(crate) fn of(id: ObjectId, host: &computers::Host) -> Self {
        let drain = host.drain.as_ref();
        Host {
            id: id.0,
            down: host.down.map(|at| at.0),
            drain: drain.map(|d| Drain { at: d.by.at.0, by: d.by.by.clone(), timeout_ms: d.timeout_ms }),
        }
    }

    pub(crate) fn back(self) -> (ObjectId, computers::Host) {
        let drain = self
            .drain
            .map(|d| computers::Drain { by: Stamp { at: Timestamp(d.at), by: d.by }, timeout_ms: d.timeout_ms });
        (ObjectId(self.id), computers::Host { down: self.down.map(Timestamp), drain })
    }
}

/// What a copy's health is known from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    Checks,
    Reports,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    health: Health,
    note: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Health {
    Passing,
    Warning,
    Critical,
}

/// What an object has beyond its declaration, which the object's own record holds packed (`crate::stored::packed`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct More {
    id: u64,
    service: Option<v2::Service>,
    lock: Option<Lock>,
    /// Which of the service's instances are revoked.
    revoked: Vec<u64>,
    /// What is known of the health of which instance.
    health: Vec<(u64, Source, Verdict)>,
    /// Which of them do not stand firmly.
    footing: Vec<(u64, Footing)>,
}

impl From<&LiveVerdict> for Verdict {
    fn from(verdict: &LiveVerdict) -> Self {
        let health = match verdict.health {
            ApiHealth::Passing => Health::Passing,
            ApiHealth::Warning => Health::Warning,
            ApiHealth::Critical => Health::Critical,
        };
        Verdict { health, note: verdict.note.clone() }
    }
}

impl From<Verdict> for LiveVerdict {
    fn from(verdict: Verdict) -> Self {
        let health = match verdict.health {
            Health::Passing => ApiHealth::Passing,
            Health::Warning => ApiHealth::Warning,
            Health::Critical => ApiHealth::Critical,
        };
        LiveVerdict { health, note: verdict.note }
    }
}

impl From<LiveSource> for Source {
    fn from(source: LiveSource) -> Self {
        match source {
            LiveSource::Checks => Source::Checks,
            LiveSource::Reports => Source::Reports,
        }
    }
}

impl From<Source> for LiveSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Checks => LiveSource::Checks,
            Source::Reports => LiveSource::Reports,
        }
    }
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
                Change::Health { source, verdict } => Command::Health {
                    instance: instance.0,
                    source: (*source).into(),
                    verdict: verdict.as_ref().map(Verdict::from),
                },
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
            C::Arrive { name, addresses, facts } => {
                Command::Arrive { name: name.to_string(), addresses: addresses.clone(), facts: facts.clone() }
            }
            C::Hosts { changes } => Command::Hosts {
                changes: changes.iter().map(|(name, change)| (name.to_string(), (*change).into())).collect(),
            },
            C::Lose { instances } => Command::Lose { instances: ids(instances) },
            C::Retire { instance, why } => Command::Retire { instance: instance.0, why: why.clone() },
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
            Command::Arrive { name: text, addresses, facts } => C::Arrive { name: name(&text)?, addresses, facts },
            Command::Hosts { changes } => C::Hosts {
                changes: changes.into_iter().map(|(text, c)| Ok((name(&text)?, c.into()))).collect::<Stored<_>>()?,
            },
            Command::Lose { instances } => C::Lose { instances: instances.into_iter().map(InstanceId).collect() },
            Command::Retire { instance, why } => C::Retire { instance: InstanceId(instance), why },
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
            Command::Health { instance, source, verdict } => {
                report(instance, Change::Health { source: source.into(), verdict: verdict.map(Into::into) })
            }
        })
    }
}

impl From<&Node> for More {
    fn from(node: &Node) -> Self {
        let instances = || node.service.iter().flat_map(|s| &s.instances);
        let mut health = Vec::new();
        for instance in instances() {
            for source in [LiveSource::Checks, LiveSource::Reports] {
                if let Some(verdict) = instance.verdict(source) {
                    health.push((instance.id.0, source.into(), verdict.into()));
                }
            }
        }
        More {
            id: node.id.0,
            service: node.service.as_deref().map(v2::Service::from),
            lock: node.lock.as_deref().map(Lock::from),
            revoked: instances().filter(|i| i.revoked).map(|i| i.id.0).collect(),
            health,
            footing: instances().filter_map(|i| Some((i.id.0, Footing::of(i.footing)?))).collect(),
        }
    }
}

impl From<v4::More> for More {
    fn from(old: v4::More) -> Self {
        More {
            id: old.id,
            service: old.service,
            lock: old.lock,
            revoked: old.revoked,
            health: Vec::new(),
            footing: Vec::new(),
        }
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
        for (id, source, verdict) in self.health {
            if let Some(instance) = service.as_mut().and_then(|s| s.instance_mut(InstanceId(id))) {
                *instance.verdict_mut(source.into()) = Some(verdict.into());
            }
        }
        for (id, footing) in self.footing {
            if let Some(instance) = service.as_mut().and_then(|s| s.instance_mut(InstanceId(id))) {
                instance.footing = footing.into();
            }
        }
        let lock = self.lock.map(|l| Arc::new(LockState::from(l)));
        Ok(Node { service: service.map(Arc::new), lock, ..node.clone() })
    }
}
