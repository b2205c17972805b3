//! Requests and replies of every operation (DESIGN section 4).

use std::fmt;

use serde::{Deserialize, Serialize};

use byname_name::Name;

use crate::caller::Caller;
use crate::error::{Code, Error, Result};
use crate::host::HostState;
use crate::object::{Attributes, InstanceId, Kind, Object, ServiceStatus, Spec, Stamp, Version};
use crate::service::{Endpoint, Health, Instance, State};
use crate::span::{Span, Timestamp};

/// What comes with every operation, whatever its front end.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who asks.
    pub caller: Caller,
    /// Identifies a write, so that a retry is applied once.
    pub request: Option<RequestId>,
}

impl Context {
    /// A request of this caller without an id.
    pub fn of(caller: Caller) -> Self {
        Context { caller, request: None }
    }
}

/// Identifies a write: `(session, sequence)`. Remembered with its reply for 10 minutes of logged time.
///
/// A session made by [`RequestId::session_at`] carries the time of its making (the layout of UUID version 7), so that
/// the server can tell a session that it has forgotten from a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// The session.
    pub session: u128,
    /// The number of the request within it.
    pub sequence: u64,
}

impl RequestId {
    /// A session id made at `now` (milliseconds since 1970) with these random bits.
    pub fn session_at(now: Timestamp, random: u128) -> u128 {
        let low = random & ((1 << 80) - 1);
        (u128::from(now.0 & ((1 << 48) - 1)) << 80) | (low & !(0xf << 76)) | (0x7 << 76)
    }

    /// A session id for an opaque key, from 128 bits of its hash.
    pub fn session_of_key(hash: u128) -> u128 {
        (hash & !(0xf << 76)) | (0x8 << 76)
    }

    /// When a session was made, if its id says so.
    pub fn made(session: u128) -> Option<Timestamp> {
        ((session >> 76) & 0xf == 7).then_some(Timestamp((session >> 80) as u64))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}.{}", self.session, self.sequence)
    }
}

impl std::str::FromStr for RequestId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split_once('.')
            .filter(|(session, _)| session.len() == 32)
            .and_then(|(session, sequence)| {
                Some(RequestId { session: u128::from_str_radix(session, 16).ok()?, sequence: sequence.parse().ok()? })
            })
            .ok_or_else(|| Error::invalid("request_id", "a request id is 32 hexadecimal digits, a dot and a number"))
    }
}

/// How fresh an answer is (DESIGN section 4, Coherence).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    /// The revision of the tree that was read: that of its last change.
    pub revision: u64,
    /// Milliseconds since the server's last word from the primary; 0 on the primary.
    pub age_ms: u64,
    /// The server is cut off from the majority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// `find`: where is it? Starts it when need be.
#[derive(Clone, Debug, PartialEq)]
pub struct FindRequest {
    /// The name.
    pub name: Name,
    /// Start it when it does not run; false only looks.
    pub start: bool,
    /// Give every instance instead of what `choose` says.
    pub all: bool,
    /// Bound on the wait; the server's own (60 s) when `None`.
    pub timeout: Option<Span>,
    /// Ask for a linearizable answer.
    pub consistent: bool,
    /// An instance that the caller found dead: probed before it is believed.
    pub failed: Option<InstanceId>,
}

impl FindRequest {
    /// A plain find, as `byname find NAME`.
    pub fn new(name: Name) -> Self {
        FindRequest { name, start: true, all: false, timeout: None, consistent: false, failed: None }
    }
}

/// What `find` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindReply {
    /// The name that was asked for.
    pub name: Name,
    /// The name of the object that answers, when aliases lead elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical: Option<Name>,
    /// Its kind.
    pub kind: Kind,
    /// Service: the instances chosen.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Group: its members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<String>>,
    /// Computer: its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Record: its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Its version.
    pub version: Version,
    /// Junction: where the tree goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub junction: Option<Junction>,
    /// How long the answer may be remembered, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// This call waited for a start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
    /// How fresh it is.
    #[serde(flatten)]
    pub fresh: Fresh,
}

/// Where the tree goes on (DESIGN section 3, junction).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Junction {
    /// The servers: names or a group.
    pub servers: Vec<String>,
    /// Which of them to ask.
    pub choose: crate::object::Choose,
    /// What they speak.
    pub interface: String,
    /// What is handed to them beside the rest of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

/// `show`: all about one object. An alias is shown itself; aliases on the way to it are followed.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRequest {
    /// The name.
    pub name: Name,
    /// Ask for a linearizable answer.
    pub consistent: bool,
}

/// What `show` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadReply {
    /// The object.
    #[serde(flatten)]
    pub object: Object,
    /// How fresh it is.
    #[serde(flatten)]
    pub fresh: Fresh,
}

/// `list` and `status`: names that match a pattern, sorted, in pages.
#[derive(Clone, Debug, PartialEq)]
pub struct ListRequest {
    /// The pattern, absolute.
    pub pattern: String,
    /// At most so many; 1,000 when `None`, 10,000 at most.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub next: Option<String>,
    /// Only objects declared by this apply set.
    pub set: Option<String>,
    /// Ask for a linearizable answer.
    pub consistent: bool,
}

impl ListRequest {
    /// The first page of what matches.
    pub fn new(pattern: impl Into<String>) -> Self {
        ListRequest { pattern: pattern.into(), limit: None, next: None, set: None, consistent: false }
    }
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// The kind.
    pub kind: Kind,
    /// Service: its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Computer with an agent: its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostState>,
    /// Alias: what it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Name>,
    /// The version.
    pub version: Version,
}

/// What `list` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListReply {
    /// The names, sorted.
    pub entries: Vec<Entry>,
    /// Where the next page begins, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How fresh it is.
    #[serde(flatten)]
    pub fresh: Fresh,
}

/// What `status` gives: services only. A pattern that is an exact name follows aliases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The services, sorted by name.
    pub services: Vec<ServiceStatus>,
    /// Where the next page begins, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How fresh it is.
    #[serde(flatten)]
    pub fresh: Fresh,
}

/// What to do to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Start, even one that is `manual` or held; waits until it is ready.
    Launch,
    /// Stop every instance; waits until they have ended.
    Stop,
    /// Stop, then launch.
    Restart,
    /// Stop, forget endpoints and clear the restart budget and the hold.
    Reset,
}

impl Verb {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Launch => "launch",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Reset => "reset",
        }
    }
}

/// `launch`, `stop`, `restart`, `reset`.
#[derive(Clone, Debug, PartialEq)]
pub struct ActRequest {
    /// What to do.
    pub verb: Verb,
    /// Names or patterns, absolute. An exact name must be a service (aliases are followed) and must exist.
    pub patterns: Vec<String>,
    /// Stop: keep it stopped until `launch` or `reset`.
    pub hold: bool,
    /// Stop: kill at once.
    pub now: bool,
    /// Bound on the wait for each; the server's own when `None`.
    pub timeout: Option<Span>,
}

/// What became of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acted {
    /// The service.
    pub name: Name,
    /// Its state afterwards.
    pub state: State,
    /// Its instances afterwards.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Why it did not go as asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// What `launch`, `stop`, `restart` and `reset` give: a line for each service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActReply {
    /// The services, sorted by name.
    pub services: Vec<Acted>,
}

/// An error as data within a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The code.
    pub code: Code,
    /// The sentence.
    pub message: String,
    /// The field at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Problem { code: error.code(), message: error.message().into(), field: error.at_field().map(Into::into) }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let error = Error::new(problem.code, problem.message);
        match problem.field {
            Some(field) => error.field(field),
            None => error,
        }
    }
}

/// What `why` gives: the story of a service's last starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyReply {
    /// Where it stands now.
    #[serde(flatten)]
    pub status: ServiceStatus,
    /// What happened, oldest first.
    pub story: Vec<Happening>,
    /// How fresh it is.
    #[serde(flatten)]
    pub fresh: Fresh,
}

/// One thing that happened to a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    /// When.
    pub at: Timestamp,
    /// To which instance, if to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// What, as a sentence.
    pub what: String,
}

/// One change to the tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Make a new object; `already-exists` when the name is taken. Missing parents are made as directories.
    Add {
        /// The name.
        name: Name,
        /// What it is.
        #[serde(default)]
        spec: Spec,
    },
    /// Make it, or replace the whole declaration of what is there.
    Put {
        /// The name.
        name: Name,
        /// What it is.
        #[serde(default)]
        spec: Spec,
        /// Only if it has this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_version: Option<Version>,
    },
    /// Make it, or change what the declaration names and nothing else (`apply`).
    Declare {
        /// The name.
        name: Name,
        /// What is declared.
        #[serde(default)]
        spec: Spec,
    },
    /// Change what is there.
    Modify {
        /// The name.
        name: Name,
        /// The fields that change.
        #[serde(default)]
        spec: Spec,
        /// Fields that go back to unsaid, by dotted path.
        #[serde(default)]
        clear: Vec<String>,
        /// Only if it has this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_version: Option<Version>,
    },
    /// Remove it. A name with children is a `conflict` without `recursive`, a running service without `stop`.
    Delete {
        /// The name.
        name: Name,
        /// Its children too.
        #[serde(default)]
        recursive: bool,
        /// Stop what runs.
        #[serde(default)]
        stop: bool,
        /// Only if it has this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_version: Option<Version>,
    },
    /// Change nothing, and refuse the whole batch with `conflict` unless all that is said here holds: a precondition.
    /// It sees what the changes before it in the batch have done.
    Check {
        /// The name.
        name: Name,
        /// It is there (true) or is not (false).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exists: Option<bool>,
        /// It has this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_version: Option<Version>,
        /// Its lock is held with this fencing token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence: Option<u64>,
    },
}

impl Op {
    /// The name that it changes.
    pub fn name(&self) -> &Name {
        match self {
            Op::Add { name, .. }
            | Op::Put { name, .. }
            | Op::Declare { name, .. }
            | Op::Modify { name, .. }
            | Op::Delete { name, .. }
            | Op::Check { name, .. } => name,
        }
    }
}

/// Changes made together or not at all: every write to the tree is one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// The changes, in order; 10,000 at most.
    pub ops: Vec<Op>,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// The apply set that objects of `Declare` are marked with, for `--prune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
}

impl BatchRequest {
    /// A single change.
    pub fn of(op: Op) -> Self {
        BatchRequest { ops: vec![op], dry_run: false, set: None }
    }
}

/// What one change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The object is new.
    Created,
    /// It changed.
    Changed,
    /// It was already so.
    Unchanged,
    /// It is gone.
    Deleted,
    /// What was asked of it holds.
    Checked,
}

/// The result of one change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpResult {
    /// The name, as created.
    pub name: Name,
    /// What happened.
    pub outcome: Outcome,
    /// The version afterwards; the last one of a deleted object.
    pub version: Version,
    /// Dry run: the declaration before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Spec>,
    /// Dry run: the declaration after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Spec>,
}

/// What a batch gives: one result for each change, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchReply {
    /// The results.
    pub results: Vec<OpResult>,
    /// The revision of the tree that holds them.
    pub revision: u64,
}

/// `advertise`: this is where the service answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdvertiseRequest {
    /// The service's name.
    pub name: Option<Name>,
    /// Where it listens. An empty address means the caller's computer.
    pub endpoints: Vec<Endpoint>,
    /// A launched program's own half of its ticket, in hex.
    pub ticket: Option<String>,
    /// The instance: BYNAME_INSTANCE of a launched program, or the id of an earlier advertise that is renewed.
    pub instance: Option<InstanceId>,
    /// What an earlier advertise gave, in hex; renews or changes it.
    pub credential: Option<String>,
    /// How long it holds without renewal; 30 s when `None`. A launched instance lives as long as its process.
    pub ttl: Option<Span>,
    /// Its share among several copies.
    pub weight: Option<u32>,
    /// The process, for people to see.
    pub pid: Option<u32>,
}

/// What `advertise` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdvertiseReply {
    /// The instance.
    pub instance: InstanceId,
    /// Proves to be this instance from now on, in hex. Given once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// SHA-256 of the server's half of the ticket, in hex: shows the program that this is the server that launched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Renew within this time, in milliseconds; absent for launched instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// `withdraw`: it does not answer there any more.
#[derive(Clone, Debug, PartialEq)]
pub struct WithdrawRequest {
    /// The service's name.
    pub name: Name,
    /// Which instance; every advertised one of the caller's when `None`.
    pub instance: Option<InstanceId>,
    /// The instance's credential; needed by callers that may not withdraw others.
    pub credential: Option<String>,
}

/// What `withdraw` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawReply {
    /// The instances that are gone.
    pub withdrawn: Vec<InstanceId>,
}

/// `logs`: what a service's programs wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct LogsRequest {
    /// The service.
    pub name: Name,
    /// The last so many lines; everything that is kept when `None`.
    pub tail: Option<u32>,
    /// Go on with what is written from now on.
    pub follow: bool,
}

/// `search`: objects whose attributes fit a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchRequest {
    /// A filter of RFC 4515 (see [`crate::filter`]).
    pub filter: String,
    /// Only this name and what is beneath it.
    pub under: Name,
    /// At most so many; 1,000 when `None`, 10,000 at most.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub next: Option<String>,
    /// Ask for a linearizable answer.
    pub consistent: bool,
}

impl SearchRequest {
    /// The first page of what fits, in the whole tree.
    pub fn new(filter: impl Into<String>) -> Self {
        SearchRequest { filter: filter.into(), under: Name::root(), limit: None, next: None, consistent: false }
    }
}

/// What `search` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchReply {
    /// The objects, sorted by name.
    pub objects: Vec<Object>,
    /// Where the next page begins, when there is one. A page may end early, even empty: a search looks at a bounded
    /// number of objects a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How fresh it is.
    #[serde(flatten)]
    pub fresh: Fresh,
}

/// `watch`: what changes among the names that match.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchRequest {
    /// The pattern, absolute.
    pub pattern: String,
    /// The `at` of the last message that was seen: everything after it follows. From now on when `None`.
    pub from: Option<String>,
    /// Tell first what is there now. Not together with `from`.
    pub initial: bool,
}

/// One message of a watch: what one revision of the tree changed, or a part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchReply {
    /// Resume from here to miss nothing and see nothing twice; opaque. Within a revision that takes several messages
    /// it stays at the revision before until the last.
    pub at: String,
    /// The changes, in the order in which they were made. Empty in the first message and when nothing has matched for
    /// a while.
    pub events: Vec<WatchEvent>,
}

/// What happened to one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// What.
    pub change: Change,
    /// The name.
    pub name: Name,
    /// The object as it was after the change; as it was before it when it was deleted.
    pub object: Object,
}

/// What a watch tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is there: the initial state.
    Present,
    /// It is new.
    Created,
    /// Its declaration changed.
    Changed,
    /// It is gone.
    Deleted,
    /// Only its state changed: instances, a lock.
    State,
}

impl Change {
    /// Every change.
    pub const ALL: [Change; 5] = [Change::Present, Change::Created, Change::Changed, Change::Deleted, Change::State];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Change::Present => "present",
            Change::Created => "created",
            Change::Changed => "changed",
            Change::Deleted => "deleted",
            Change::State => "state",
        }
    }
}

/// `report`: what a running copy says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportRequest {
    /// The service's name.
    pub name: Option<Name>,
    /// Which instance; may be left out when there is one.
    pub instance: Option<InstanceId>,
    /// Its load, in a unit of its own; the least loaded is chosen first.
    pub load: Option<f64>,
    /// So many uses since the last report, for programs whose use shows neither in connections nor in finds.
    pub uses: Option<u64>,
    /// How well it is. With a check of kind `ttl` it must be told again before that has passed.
    pub health: Option<Health>,
    /// Why, in words; goes with `health`.
    pub note: Option<String>,
    /// The instance's credential; needed by callers that may not advertise the name.
    pub credential: Option<String>,
}

/// What `report` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReply {
    /// The instance that the report was taken for.
    pub instance: InstanceId,
}

/// `lock`: take the lock of an object, or renew one that is held.
#[derive(Clone, Debug, PartialEq)]
pub struct LockRequest {
    /// The name. A record is made when there is none, and goes with the lock.
    pub name: Name,
    /// How long it holds without renewal; 30 s when `None`.
    pub ttl: Option<Span>,
    /// Wait so long for the holder to let go; not at all when `None`.
    pub wait: Option<Span>,
    /// The key of the lock: 256 bits in hex. The caller may choose it, so that a request that is sent again does not
    /// wait for itself; else the server does. Whoever shows the key of a lock that is held renews it.
    pub key: Option<String>,
    /// Only renew: `conflict` when the lock of this key is not held any more.
    pub renew: bool,
}

/// What `lock` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReply {
    /// The object's name.
    pub name: Name,
    /// The fencing token.
    pub fence: u64,
    /// Proves to be the holder, in hex: renews the lock and lets it go. Given when the server chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Renew within this time, in milliseconds.
    pub ttl_ms: u64,
}

/// `unlock`: let go of a lock.
#[derive(Clone, Debug, PartialEq)]
pub struct UnlockRequest {
    /// The name.
    pub name: Name,
    /// The holder's key. Without it the lock is broken, which needs the right to modify the object.
    pub key: Option<String>,
}

/// What `unlock` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockReply {
    /// Whether there was a lock.
    pub released: bool,
}

/// One server of a cluster, as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name in the tree: `/byname/servers/ID`.
    pub name: Name,
    /// Where it answers, as in BYNAME_SERVER; empty while nobody has said so.
    pub address: String,
    /// Whether it counts for the majority; one that joins learns first.
    pub voter: bool,
    /// Whether it is the primary.
    pub primary: bool,
    /// Whether whoever was asked hears from it.
    pub up: bool,
    /// Log entries that it lacks, as far as the primary knows; 0 where that is not known.
    pub behind: u64,
}

/// A change of the servers of a cluster. Needs `admin` to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeServers {
    /// Takes a server out for good: it has no vote, gets nothing, and is not believed any more.
    Remove(u64),
    /// Hands the lead to a server.
    Transfer(u64),
}

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The program's version.
    pub version: String,
    /// The server's id.
    pub server: u64,
    /// The consensus term.
    pub term: u64,
    /// Whether it is the primary of its zone.
    pub primary: bool,
    /// The revision of its tree.
    pub revision: u64,
    /// Objects in its tree.
    pub objects: u64,
    /// The servers of the zone.
    pub servers: Vec<u64>,
    /// The same with what is known of each, this one included, sorted by id. Empty from servers that do not know of it.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Agents that are connected, by computer.
    pub agents: Vec<String>,
    /// Bytes of log on its disk.
    pub log_bytes: u64,
    /// The log index that the newest snapshot covers.
    pub snapshot_index: u64,
    /// Why writes wait, when they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
    /// When it was started.
    pub started: Stamp,
}

/// An attribute given on a command line or in a query: `name=value`, typed by its looks.
pub fn parse_attribute(text: &str, into: &mut Attributes) -> Result<()> {
    use crate::object::Value;
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| Error::invalid("attributes", format!("`{}` is not `name=value`", text.escape_debug())))?;
    let value = match value {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match value.parse::<i64>() {
            Ok(n) if n.to_string() == value => Value::Int(n),
            _ => Value::Text(value.into()),
        },
    };
    let values = into.entry(name.into()).or_default();
    if !matches!(&value, Value::Text(t) if t.is_empty()) {
        values.push(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_reads_back_and_tells_its_age() {
        let session = RequestId::session_at(Timestamp(1_700_000_000_000), u128::MAX);
        assert_eq!(RequestId::made(session), Some(Timestamp(1_700_000_000_000)));
        assert_eq!(RequestId::made(RequestId::session_of_key(u128::MAX)), None);
        let id = RequestId { session, sequence: 9 };
        assert_eq!(id.to_string().parse::<RequestId>().unwrap(), id);
        assert!("12.3".parse::<RequestId>().is_err());
    }
}
