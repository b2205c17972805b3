//! What goes in and comes out of the state machine.

use std::fmt;
use std::sync::Arc;

use byname_api::error::Error;
use byname_api::identity::JoinAs;
use byname_api::object::{InstanceId, ObjectId};
use byname_api::request::{BatchReply, Change as ObjectChange, Op, RequestId};
use byname_api::service::{Endpoint, Exit};
use byname_api::span::Timestamp;
use byname_name::Name;

use crate::health::{Source, Verdict};
use crate::tree::Node;

/// One command with what every command carries. Time and the caller come in here: the machine has no clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The primary's clock when it proposed the command. The machine's own time never goes back.
    pub at: Timestamp,
    /// The principal it is done for.
    pub by: String,
    /// Its request id, when it has one.
    pub request: Option<RequestId>,
    /// What to do.
    pub command: Command,
}

/// A change to the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Changes to the tree, all or nothing.
    Batch {
        /// The changes.
        ops: Vec<Op>,
        /// The apply set of declared objects.
        set: Option<String>,
    },
    /// Start a copy. Refused without an error when enough copies are there already, so that many finds start one.
    Order(Order),
    /// An agent's word about an instance.
    Report {
        /// Which instance.
        instance: InstanceId,
        /// What happened.
        change: Change,
    },
    /// Stop all instances of a service.
    Stop {
        /// Which service.
        service: ObjectId,
        /// Keep it stopped.
        hold: bool,
        /// Forget failures, too.
        reset: bool,
    },
    /// Somebody wants it to run: lifts the hold and clears the restart budget.
    Release {
        /// Which service.
        service: ObjectId,
    },
    /// A program says where it answers.
    Advertise(Advertise),
    /// It does not answer there any more.
    Withdraw {
        /// Which service.
        service: ObjectId,
        /// Which instances.
        instances: Vec<InstanceId>,
    },
    /// A lease ran out by the primary's monotonic timer. Nothing happens if it was renewed since (`renewal` differs).
    Expire {
        /// Which instance.
        instance: InstanceId,
        /// The renewal that ran out.
        renewal: u64,
    },
    /// An agent said hello, as it was logged before format 5: its computer is in the tree from now on.
    Computer {
        /// The computer's name.
        name: Name,
        /// Its addresses, the best first.
        addresses: Vec<String>,
        /// Facts about it.
        facts: Vec<(String, String)>,
    },
    /// As `Computer`; besides, `/backmap/ADDRESS` leads back to it, and it is a host with a state from now on.
    Arrive {
        /// The computer's name.
        name: Name,
        /// Its addresses, the best first.
        addresses: Vec<String>,
        /// Facts about it.
        facts: Vec<(String, String)>,
    },
    /// Hosts changed their state.
    Hosts {
        /// Which, and how.
        changes: Vec<(Name, HostChange)>,
    },
    /// These copies have been out of reach for so long that others shall take their place.
    Lose {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Stop one copy.
    Retire {
        /// Which.
        instance: InstanceId,
        /// Why, for the story.
        why: String,
    },
    /// Nobody has used this instance for its service's `idle_stop`: it is stopped, unless that leaves fewer copies than
    /// shall always run.
    Idle {
        /// Which instance.
        instance: InstanceId,
    },
    /// Take the lock of an object, or renew it.
    Lock {
        /// The name; a record is made when there is none, and goes with the lock.
        name: Name,
        /// SHA-256 of the holder's key.
        key: [u8; 32],
        /// How long it holds without renewal, in milliseconds.
        ttl_ms: u64,
        /// Only renew the lock that this key holds.
        renew: bool,
    },
    /// Let go of a lock.
    Unlock {
        /// The name.
        name: Name,
        /// SHA-256 of the holder's key; `None` breaks the lock, whoever holds it.
        key: Option<[u8; 32]>,
    },
    /// A lock's lease ran out by the primary's monotonic timer. Nothing happens if it was renewed since.
    ExpireLock {
        /// Which object's lock.
        object: ObjectId,
        /// The renewal that ran out.
        renewal: u64,
    },
    /// What a principal proves itself with changes. The bytes are sealed by whoever proposes it.
    Credential {
        /// Whose.
        principal: ObjectId,
        /// What changes.
        change: CredentialChange,
    },
    /// Keep something sealed under a key of the server's own: set-ups of mechanisms, keys of authorities.
    Vault {
        /// Under which key.
        key: String,
        /// What, sealed.
        sealed: Vec<u8>,
        /// Refuse with `conflict` when there is something under that key.
        only_if_absent: bool,
    },
    /// A client is introduced to an instance of a service.
    Introduce {
        /// SHA-256 of the ticket that the client will show.
        ticket: [u8; 32],
        /// The client, as stamps name it.
        client: String,
        /// The client's object.
        client_id: Option<ObjectId>,
        /// The service.
        service: ObjectId,
        /// Which of its instances.
        instance: InstanceId,
        /// Until when the ticket is good.
        expires: Timestamp,
    },
    /// An instance was shown a ticket. It is good once.
    Verify {
        /// SHA-256 of the ticket.
        ticket: [u8; 32],
        /// Who was shown it.
        instance: InstanceId,
    },
    /// A computer may join.
    Invite {
        /// SHA-256 of the join token's secret.
        secret: [u8; 32],
        /// As what.
        join_as: JoinAs,
        /// Only the computer of this name.
        computer: Option<Name>,
        /// Until when.
        expires: Timestamp,
    },
    /// A computer joins. The token is good once.
    Join {
        /// SHA-256 of the join token's secret.
        secret: [u8; 32],
        /// The computer's name; its object is made when there is none.
        computer: Name,
    },
    /// Something that proved who somebody is does so no more.
    Revoke(Revoked),
    /// The head of a server's audit log, so that a cut-off tail is found.
    Anchor {
        /// Which server's.
        server: u64,
        /// The number of the newest record.
        sequence: u64,
        /// Its hash.
        hash: [u8; 32],
    },
    /// A command that a format before 4 logged. It gives what it gave then: owners need not exist, and no name in it is
    /// bound to an id.
    Earlier(Box<Command>),
}

/// A change to what a principal proves itself with.
#[derive(Clone, PartialEq)]
pub enum CredentialChange {
    /// The password file of OPAQUE, sealed; `None` takes the password away.
    Password(Option<Vec<u8>>),
    /// One passkey more.
    AddPasskey {
        /// What its owner calls it.
        label: String,
        /// The public key and its counter, sealed.
        key: Vec<u8>,
    },
    /// The passkey was used: its counter has moved.
    UpdatePasskey {
        /// Which.
        label: String,
        /// What is kept from now on, sealed.
        key: Vec<u8>,
    },
    /// A passkey is lost.
    RemovePasskey {
        /// Which.
        label: String,
    },
}

impl fmt::Debug for CredentialChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialChange::Password(Some(_)) => f.write_str("Password(…)"),
            CredentialChange::Password(None) => f.write_str("Password(none)"),
            CredentialChange::AddPasskey { label, .. } => write!(f, "AddPasskey({label:?})"),
            CredentialChange::UpdatePasskey { label, .. } => write!(f, "UpdatePasskey({label:?})"),
            CredentialChange::RemovePasskey { label } => write!(f, "RemovePasskey({label:?})"),
        }
    }
}

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// An instance's ticket and credential: it is answered by no find any more.
    Instance(InstanceId),
    /// All sessions and certificates that a principal was given so far.
    Principal(ObjectId),
    /// One session.
    Session {
        /// Its number.
        session: u64,
        /// When it would have ended: so long this must be known.
        until: Timestamp,
    },
}

/// How a host's state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostChange {
    /// Its agent was silent for too long.
    Down,
    /// Its agent is back and has told what runs there.
    Up,
    /// It shall be emptied.
    Drain {
        /// After how many milliseconds what is left is stopped.
        timeout_ms: u64,
    },
    /// It may be used again.
    Undrain,
}

/// An order to start one copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The service.
    pub service: ObjectId,
    /// The new instance.
    pub instance: InstanceId,
    /// Where it shall run.
    pub computer: Name,
    /// SHA-256 of the program's half of the ticket.
    pub ticket: [u8; 32],
    /// SHA-256 of the server's half.
    pub proof: [u8; 32],
    /// Start only if fewer than so many copies are starting or running.
    pub wanted: u32,
    /// Why, for the story: `asked for by uid:1000`.
    pub why: String,
}

/// What an agent reports of an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The process is there.
    Started {
        /// Its id.
        pid: Option<u32>,
        /// Where it will listen.
        endpoints: Vec<Endpoint>,
    },
    /// It is ready: the agent advertises it.
    Ready {
        /// Its process.
        pid: Option<u32>,
        /// Where it listens.
        endpoints: Vec<Endpoint>,
    },
    /// It runs and is not well.
    Unhealthy {
        /// What it says.
        why: String,
    },
    /// Its health has changed.
    Health {
        /// Who found that.
        source: Source,
        /// What was found; `None` when nobody looks any more.
        verdict: Option<Verdict>,
    },
    /// It has ended.
    Ended {
        /// How.
        exit: Exit,
        /// Its last lines.
        last_lines: String,
        /// The start failed.
        error: Option<Error>,
        /// The end was ordered.
        ordered: bool,
    },
}

/// What a program says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Advertise {
    /// The service's name; it is made `unregistered` when it is not there.
    pub name: Name,
    /// The instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// How it proves to be that instance.
    pub evidence: Evidence,
    /// SHA-256 of the credential that it is given.
    pub credential: [u8; 32],
    /// How long it holds without renewal, in milliseconds; `None` for launched instances.
    pub ttl_ms: Option<u64>,
    /// Its share.
    pub weight: Option<u32>,
    /// Its process.
    pub pid: Option<u32>,
}

/// How an advertiser proves itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// SHA-256 of the launch ticket that it showed.
    Ticket([u8; 32]),
    /// SHA-256 of the credential that it showed.
    Credential([u8; 32]),
    /// The caller has the right to advertise this name.
    Right,
}

/// What a command gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It was refused, and nothing changed.
    Refused(Error),
    /// A batch's results.
    Batch(BatchReply),
    /// An order was taken: the instance is `starting`.
    Ordered,
    /// Enough copies are there or on their way.
    Enough,
    /// An advertise was taken.
    Advertised {
        /// SHA-256 of the server's half of the ticket, when a ticket was shown.
        proof: Option<[u8; 32]>,
        /// The renewal counter of the lease.
        renewal: u64,
    },
    /// These instances are gone.
    Withdrawn(Vec<InstanceId>),
    /// It is done.
    Done,
    /// The lock is held.
    Locked {
        /// The object's name.
        name: Name,
        /// The fencing token.
        fence: u64,
        /// Identifies this lease; another one, greater, after each renewal.
        renewal: u64,
    },
    /// Whether there was a lock to let go of.
    Unlocked(bool),
    /// The ticket was good: who the client is.
    Verified {
        /// The client, as stamps name it.
        client: String,
        /// The client's object when it was introduced.
        client_id: Option<ObjectId>,
    },
    /// The computer has joined.
    Joined {
        /// Its object.
        computer: ObjectId,
        /// As what.
        join_as: JoinAs,
    },
}

/// What others may want to know of a command's effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A service's instances or their states changed, or what is declared of it.
    Service(ObjectId),
    /// This instance must be stopped by its agent.
    Stop {
        /// Which.
        instance: InstanceId,
        /// Where it runs.
        computer: Name,
    },
    /// A launched instance advertised itself: its agent need not wait for its readiness.
    Advertised {
        /// Which.
        instance: InstanceId,
        /// Where it runs.
        computer: Name,
    },
    /// The end of an instance is logged: its agent may forget it.
    Ended {
        /// Which.
        instance: InstanceId,
        /// Where it ran.
        computer: Option<Name>,
    },
    /// A lease was granted or renewed in the log.
    Lease {
        /// Which instance.
        instance: InstanceId,
        /// Its renewal counter.
        renewal: u64,
        /// How long it holds, in milliseconds.
        ttl_ms: u64,
    },
    /// A lock's lease was granted or renewed in the log.
    LockLease {
        /// Whose lock.
        object: ObjectId,
        /// Identifies the lease.
        renewal: u64,
        /// How long it holds, in milliseconds.
        ttl_ms: u64,
    },
    /// A host's state changed.
    Host(Name),
    /// An object was made, changed or removed, or its state changed: all that a watch needs.
    Object {
        /// The revision of the tree that shows it.
        revision: u64,
        /// What happened.
        change: ObjectChange,
        /// The object after the change; before it when it was deleted.
        node: Arc<Node>,
    },
}
