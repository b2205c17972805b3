//! Format 3, the one that is written: as format 2, with locks, idle stops and preconditions in batches.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use byname_api::error::Error;
use byname_api::object::{InstanceId, ObjectId, Version};
use byname_api::request::{BatchReply, Op as ApiOp, RequestId};
use byname_api::service::Exit as ApiExit;
use byname_api::span::Timestamp;

use super::StoredError;
use super::v2::{self, Advertise, Endpoint, Evidence, Exit, Json, Stored, endpoints, endpoints_back, ids, name};
use crate::command::{self as domain, Reply as DomainReply};
use crate::service::{self as live, LockState};
use crate::tree::Node;

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
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    Add { name: String, spec: Json },
    Put { name: String, spec: Json, if_version: Option<u64> },
    Declare { name: String, spec: Json },
    Modify { name: String, spec: Json, clear: Vec<String>, if_version: Option<u64> },
    Delete { name: String, recursive: bool, stop: bool, if_version: Option<u64> },
    Check { name: String, exists: Option<bool>, if_version: Option<u64>, fence: Option<u64> },
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
}

/// What an object has beyond its declaration, which the object's own record holds packed (`crate::stored::packed`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct More {
    id: u64,
    service: Option<v2::Service>,
    lock: Option<Lock>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lock {
    fence: u64,
    by: String,
    since: u64,
    ttl_ms: u64,
    renewal: u64,
    key: [u8; 32],
}

impl From<&domain::Entry> for Entry {
    fn from(entry: &domain::Entry) -> Self {
        use domain::{Change, Command as C};
        let command = match &entry.command {
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
        };
        Entry { at: entry.at.0, by: entry.by.clone(), request: entry.request.map(|r| (r.session, r.sequence)), command }
    }
}

impl TryFrom<Entry> for domain::Entry {
    type Error = StoredError;

    fn try_from(entry: Entry) -> Stored<Self> {
        use domain::{Change, Command as C};
        let report = |instance, change| C::Report { instance: InstanceId(instance), change };
        let command = match entry.command {
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
        };
        Ok(domain::Entry {
            at: Timestamp(entry.at),
            by: entry.by,
            request: entry.request.map(|(session, sequence)| RequestId { session, sequence }),
            command,
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
    })
}

impl From<&Node> for More {
    fn from(node: &Node) -> Self {
        More {
            id: node.id.0,
            service: node.service.as_deref().map(v2::Service::from),
            lock: node.lock.as_deref().map(|l| Lock {
                fence: l.fence,
                by: l.by.clone(),
                since: l.since.0,
                ttl_ms: l.ttl_ms,
                renewal: l.renewal,
                key: l.key,
            }),
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
        let service = self.service.map(live::Service::try_from).transpose()?.map(Arc::new);
        if service.is_some() != node.service.is_some() {
            return Err(StoredError::Malformed(format!("`{}` is no service and has a service's state", node.name)));
        }
        let lock = self.lock.map(|l| {
            Arc::new(LockState {
                fence: l.fence,
                by: l.by,
                since: Timestamp(l.since),
                ttl_ms: l.ttl_ms,
                renewal: l.renewal,
                key: l.key,
            })
        });
        Ok(Node { service, lock, ..node.clone() })
    }
}
