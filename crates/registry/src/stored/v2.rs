//! Format 2: as format 1, with the apply set of objects and batches. Read only, and turned into format 3. What is not in
//! `v3` is there as here.

use serde::{Deserialize, Serialize};

use byname_api::object::{InstanceId, ObjectId, Spec, Stamp};
use byname_api::service::{Endpoint as ApiEndpoint, State};
use byname_api::span::Timestamp;
use byname_name::Name;

use super::{StoredError, v3};
use crate::computers::Footing;
use crate::service as live;
use crate::tree::Node;

pub(crate) type Stored<T> = Result<T, StoredError>;

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
}

/// JSON of the interface's version 1, inside a postcard structure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Json(pub Vec<u8>);

impl Json {
    pub(crate) fn of<T: Serialize>(value: &T) -> Self {
        // Our own types have string keys only, so this cannot fail; an empty text would be refused when read.
        Json(serde_json::to_vec(value).unwrap_or_default())
    }

    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self) -> Stored<T> {
        Ok(serde_json::from_slice(&self.0)?)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    Add { name: String, spec: Json },
    Put { name: String, spec: Json, if_version: Option<u64> },
    Declare { name: String, spec: Json },
    Modify { name: String, spec: Json, clear: Vec<String>, if_version: Option<u64> },
    Delete { name: String, recursive: bool, stop: bool, if_version: Option<u64> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    protocol: String,
    address: String,
    port: u16,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
    NotStarted,
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Advertise {
    pub(crate) name: String,
    pub(crate) instance: u64,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) evidence: Evidence,
    pub(crate) credential: [u8; 32],
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) weight: Option<u32>,
    pub(crate) pid: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Evidence {
    Ticket([u8; 32]),
    Credential([u8; 32]),
    Right,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Object {
    pub id: u64,
    pub name: String,
    pub version: u64,
    pub spec: Json,
    pub set: Option<String>,
    pub created: (u64, String),
    pub modified: (u64, String),
    pub service: Option<Service>,
    pub unregistered: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    instances: Vec<Instance>,
    held: Option<(u64, String)>,
    starts: u64,
    failures: Vec<u64>,
    failed: bool,
    ends: Vec<End>,
    story: Vec<Happening>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Instance {
    id: u64,
    computer: Option<String>,
    endpoints: Vec<Endpoint>,
    state: u8,
    pid: Option<u32>,
    started: u64,
    origin: Origin,
    credential: Option<[u8; 32]>,
    weight: Option<u32>,
    health: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Origin {
    Launched { ticket: Option<[u8; 32]>, proof: [u8; 32] },
    Advertised { ttl_ms: u64, renewal: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    instance: u64,
    at: u64,
    how: String,
    last_lines: String,
    error: Option<Json>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Happening {
    at: u64,
    instance: Option<u64>,
    what: String,
}

pub(crate) fn name(text: &str) -> Stored<Name> {
    Name::parse(text).map_err(|e| StoredError::Malformed(format!("the name `{text}`: {e}")))
}

pub(crate) fn endpoints(list: &[ApiEndpoint]) -> Vec<Endpoint> {
    list.iter().map(|e| Endpoint { protocol: e.protocol.clone(), address: e.address.clone(), port: e.port }).collect()
}

pub(crate) fn endpoints_back(list: Vec<Endpoint>) -> Vec<ApiEndpoint> {
    list.into_iter().map(|e| ApiEndpoint { protocol: e.protocol, address: e.address, port: e.port }).collect()
}

pub(crate) fn ids(list: &[InstanceId]) -> Vec<u64> {
    list.iter().map(|i| i.0).collect()
}

pub(crate) fn stamp(stamp: &Stamp) -> (u64, String) {
    (stamp.at.0, stamp.by.clone())
}

pub(crate) fn stamp_back((at, by): (u64, String)) -> Stamp {
    Stamp { at: Timestamp(at), by }
}

impl From<Entry> for v3::Entry {
    fn from(old: Entry) -> Self {
        use v3::Command as New;
        let command = match old.command {
            Command::Batch { ops, set } => New::Batch { ops: ops.into_iter().map(v3::Op::from).collect(), set },
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
        };
        v3::Entry { at: old.at, by: old.by, request: old.request, command }
    }
}

impl From<Op> for v3::Op {
    fn from(old: Op) -> Self {
        match old {
            Op::Add { name, spec } => v3::Op::Add { name, spec },
            Op::Put { name, spec, if_version } => v3::Op::Put { name, spec, if_version },
            Op::Declare { name, spec } => v3::Op::Declare { name, spec },
            Op::Modify { name, spec, clear, if_version } => v3::Op::Modify { name, spec, clear, if_version },
            Op::Delete { name, recursive, stop, if_version } => v3::Op::Delete { name, recursive, stop, if_version },
        }
    }
}

impl TryFrom<Object> for Node {
    type Error = StoredError;

    fn try_from(object: Object) -> Stored<Self> {
        let spec: Spec = object.spec.read()?;
        Ok(Node {
            id: ObjectId(object.id),
            name: name(&object.name)?,
            version: object.version,
            spec: spec.into(),
            set: object.set,
            created: stamp_back(object.created),
            modified: stamp_back(object.modified),
            service: object.service.map(live::Service::try_from).transpose()?.map(Into::into),
            unregistered: object.unregistered,
            lock: None,
            owner_id: None,
        })
    }
}

impl From<&live::Service> for Service {
    fn from(service: &live::Service) -> Self {
        Service {
            instances: service.instances.iter().map(Instance::from).collect(),
            held: service.held.as_ref().map(stamp),
            starts: service.starts,
            failures: service.failures.iter().map(|t| t.0).collect(),
            failed: service.failed,
            ends: service
                .ends
                .iter()
                .map(|e| End {
                    instance: e.instance.0,
                    at: e.at.0,
                    how: e.how.clone(),
                    last_lines: e.last_lines.clone(),
                    error: e.error.as_ref().map(Json::of),
                })
                .collect(),
            story: service
                .story
                .iter()
                .map(|h| Happening { at: h.at.0, instance: h.instance.map(|i| i.0), what: h.what.clone() })
                .collect(),
        }
    }
}

impl TryFrom<Service> for live::Service {
    type Error = StoredError;

    fn try_from(service: Service) -> Stored<Self> {
        let end = |e: End| -> Stored<live::End> {
            Ok(live::End {
                instance: InstanceId(e.instance),
                at: Timestamp(e.at),
                how: e.how,
                last_lines: e.last_lines,
                error: e.error.map(|j| j.read()).transpose()?,
            })
        };
        Ok(live::Service {
            instances: service.instances.into_iter().map(live::Instance::try_from).collect::<Stored<_>>()?,
            held: service.held.map(stamp_back),
            starts: service.starts,
            failures: service.failures.into_iter().map(Timestamp).collect(),
            failed: service.failed,
            ends: service.ends.into_iter().map(end).collect::<Stored<_>>()?,
            story: service
                .story
                .into_iter()
                .map(|h| live::Happening { at: Timestamp(h.at), instance: h.instance.map(InstanceId), what: h.what })
                .collect(),
        })
    }
}

impl From<&live::Instance> for Instance {
    fn from(i: &live::Instance) -> Self {
        Instance {
            id: i.id.0,
            computer: i.computer.as_ref().map(Name::to_string),
            endpoints: endpoints(&i.endpoints),
            state: State::ALL.iter().position(|s| *s == i.state).unwrap_or_default() as u8,
            pid: i.pid,
            started: i.started.0,
            origin: match i.origin {
                live::Origin::Launched { ticket, proof } => Origin::Launched { ticket, proof },
                live::Origin::Advertised { ttl_ms, renewal } => Origin::Advertised { ttl_ms, renewal },
            },
            credential: i.credential,
            weight: i.weight,
            health: i.health.clone(),
        }
    }
}

impl TryFrom<Instance> for live::Instance {
    type Error = StoredError;

    fn try_from(i: Instance) -> Stored<Self> {
        Ok(live::Instance {
            id: InstanceId(i.id),
            computer: i.computer.as_deref().map(name).transpose()?,
            endpoints: endpoints_back(i.endpoints),
            state: *State::ALL
                .get(usize::from(i.state))
                .ok_or_else(|| StoredError::Malformed(format!("no state has the number {}", i.state)))?,
            pid: i.pid,
            started: Timestamp(i.started),
            origin: match i.origin {
                Origin::Launched { ticket, proof } => live::Origin::Launched { ticket, proof },
                Origin::Advertised { ttl_ms, renewal } => live::Origin::Advertised { ttl_ms, renewal },
            },
            credential: i.credential,
            weight: i.weight,
            health: i.health,
            checked: None,
            reported: None,
            revoked: false,
            footing: Footing::Firm,
        })
    }
}
