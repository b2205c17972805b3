//! Format 3: as format 2, with locks, idle stops and preconditions in batches. Read only, and turned into format 4. What
//! is not in `v4` is there as here.

use serde::{Deserialize, Serialize};

use super::v2::{self, Advertise, Endpoint, Exit, Json};
use super::v4;

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

/// What an object has beyond its declaration, which the object's own record holds packed (`crate::stored::packed`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct More {
    pub(crate) id: u64,
    pub(crate) service: Option<v2::Service>,
    pub(crate) lock: Option<Lock>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) fence: u64,
    pub(crate) by: String,
    pub(crate) since: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) renewal: u64,
    pub(crate) key: [u8; 32],
}

impl From<Entry> for v4::Entry {
    fn from(old: Entry) -> Self {
        use v4::Command as New;
        // Those that make objects did so without binding names to ids.
        let earlier = |command| New::Earlier(Box::new(command));
        let command = match old.command {
            Command::Batch { ops, set } => earlier(New::Batch { ops, set }),
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
            Command::Advertise(ad) => earlier(New::Advertise(ad)),
            Command::Withdraw { service, instances } => New::Withdraw { service, instances },
            Command::Expire { instance, renewal } => New::Expire { instance, renewal },
            Command::Computer { name, addresses, facts } => earlier(New::Computer { name, addresses, facts }),
            Command::Idle { instance } => New::Idle { instance },
            Command::Lock { name, key, ttl_ms, renew } => earlier(New::Lock { name, key, ttl_ms, renew }),
            Command::Unlock { name, key } => New::Unlock { name, key },
            Command::ExpireLock { object, renewal } => New::ExpireLock { object, renewal },
        };
        v4::Entry { at: old.at, by: old.by, request: old.request, command }
    }
}
