//! What a server and the agent of a host say to each other, over one stream a host: orders down, reports up. The same
//! messages travel through a channel when both live in one process, and as JSON when they do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use byname_name::Name;

use crate::error::Error;
use crate::identity::Secret;
use crate::launch::{Handover, Launch};
use crate::object::{Choose, InstanceId};
use crate::service::{Endpoint, Exit, Health};
use crate::span::Timestamp;

/// From the primary to an agent. Orders carry the primary's term: an agent refuses those of an older term than the
/// highest it has seen, so that two primaries cannot start a thing twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// The first message on a stream: who speaks, and which instances it believes to be on this host. The agent
    /// answers with a report of each, and of each that it has and the primary does not know.
    Welcome {
        /// The primary's term.
        term: u64,
        /// Instances that the primary believes to run here.
        known: Vec<InstanceId>,
    },
    /// Say every so often that you are there, by `Beat`. Told to agents whose `Hello` says that they can.
    Beat {
        /// How often, in milliseconds.
        every_ms: u64,
        /// What is not to outlive its primary (`on_partition = stop`) is stopped so long after the last beat that was
        /// heard was sent, in milliseconds, by the agent's own monotonic clock.
        stop_after_ms: u64,
    },
    /// A beat was heard.
    Heard {
        /// Which.
        beat: u64,
    },
    /// Start an instance. Idempotent: an instance id is started once, whatever happens.
    Start(Box<StartOrder>),
    /// Stop an instance: SIGTERM, then SIGKILL to the whole group after the launch's `stop_timeout`.
    Stop {
        /// The primary's term.
        term: u64,
        /// Which.
        instance: InstanceId,
        /// Kill at once instead.
        now: bool,
    },
    /// The instance advertised itself with its ticket and the primary logged it as running: no further waiting for
    /// readiness.
    Advertised {
        /// Which.
        instance: InstanceId,
    },
    /// Is this instance alive, and do its endpoints answer? Answered by a `Probed` report.
    Probe {
        /// Returned in the answer.
        request: u64,
        /// Which.
        instance: InstanceId,
        /// Where it should answer.
        endpoints: Vec<Endpoint>,
    },
    /// Send the log of a service's latest instances. Answered by `Log` reports until `done`.
    Logs {
        /// Returned in the answers.
        request: u64,
        /// The service's id, whose log is wanted.
        service: u64,
        /// How many of the last lines; all that is kept when `None`.
        tail: Option<u32>,
        /// Go on with what is written from now on, until `EndLogs`.
        follow: bool,
    },
    /// The reader of a followed log has gone.
    EndLogs {
        /// The request that ends.
        request: u64,
    },
    /// All stable sockets that this host shall hold. Those that it has and that are not here are given up.
    Listens {
        /// The primary's term.
        term: u64,
        /// The sockets, by service.
        all: Vec<Listen>,
    },
    /// Hold these sockets for a service, in place of those that it had. With an empty list they are given up.
    Listen {
        /// The primary's term.
        term: u64,
        /// Which.
        listen: Box<Listen>,
    },
    /// Where the copies of a service with stable sockets run now: connections may go there. An empty list after a
    /// `Knock` does not answer it.
    Backends {
        /// The service's id.
        service: u64,
        /// The running copies, in the order of preference.
        backends: Vec<Backend>,
    },
    /// The service cannot be started, so those who knocked are turned away.
    TurnAway {
        /// The service's id.
        service: u64,
        /// Why, for the log.
        error: Error,
    },
    /// Is this instance idle? No new connection is passed to it from now on until `Wake`, or its end. Answered by
    /// `Rested`.
    Rest {
        /// Returned in the answer.
        request: u64,
        /// Which.
        instance: InstanceId,
    },
    /// It goes on: connections are passed to it again.
    Wake {
        /// Which.
        instance: InstanceId,
    },
    /// The primary has logged the end of this instance: its folder may be dropped when newer ones take its place.
    Forget {
        /// Which.
        instance: InstanceId,
    },
}

/// The stable sockets of one service on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listen {
    /// The service's immutable id.
    pub service: u64,
    /// The service's name, for logs.
    pub name: Name,
    /// The sockets, as declared (`StableSocket::parse` reads them).
    pub sockets: Vec<String>,
    /// How connections get to the program.
    pub handover: Handover,
    /// Which copy a connection is passed to.
    pub choose: Choose,
}

/// A copy that connections may be passed to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Which.
    pub instance: InstanceId,
    /// Where it listens, with its address.
    pub endpoint: Endpoint,
}

/// Everything an agent needs to start one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartOrder {
    /// The primary's term.
    pub term: u64,
    /// The new instance.
    pub instance: InstanceId,
    /// The service's immutable id.
    pub service: u64,
    /// The service's name, for BYNAME_NAME and `${NAME}`.
    pub name: Name,
    /// What to start, as declared.
    pub launch: Launch,
    /// The ticket pair. Never written to disk in the clear by anybody.
    pub ticket: TicketPair,
    /// What the launch's environment calls secrets, by the name of the variable. Never written to disk in the clear by
    /// anybody.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Secret>,
}

/// The pair `[Tn, Ts]` of the paper: 256 random bits each. The program shows `program` to the server, which answers
/// with a proof that it knows `server`. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketPair {
    /// Tn: what the program shows when it advertises.
    pub program: [u8; 32],
    /// Ts: what the server proves to know.
    pub server: [u8; 32],
}

impl std::fmt::Debug for TicketPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketPair(..)")
    }
}

/// From an agent to the primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// The first message on a stream.
    Hello {
        /// The host as a label under `/computers`.
        computer: String,
        /// Addresses of the host that others can reach, the best first.
        addresses: Vec<String>,
        /// Facts worth showing: kernel, cores, memory, version of the agent.
        facts: Vec<(String, String)>,
        /// The agent can be told to `Beat`.
        #[serde(default)]
        beats: bool,
    },
    /// The agent is there, and this is how busy its host is. Answered by `Heard`.
    Beat {
        /// Counts up on a stream.
        beat: u64,
        /// The load average over one minute.
        load: Option<f64>,
        /// Memory that programs could still get, in bytes.
        memory_free: Option<u64>,
        /// Instances that have not ended.
        instances: u32,
    },
    /// An instance changed, or is told again after a `Welcome`.
    Instance(InstanceReport),
    /// All instances that the agent has were told since the last `Welcome`: what is not among them is gone.
    Synced,
    /// The answer to `Probe`.
    Probed {
        /// The probe's number.
        request: u64,
        /// Whether it runs and takes connections.
        alive: bool,
        /// How long that took to find out, in microseconds.
        micros: u64,
    },
    /// Somebody connects to a stable socket of a service, and there is no copy to pass the connection to. Told once;
    /// again after `Backends` or `TurnAway` have answered it.
    Knock {
        /// The service's id.
        service: u64,
        /// The socket.
        socket: String,
        /// Copies that connections were passed to and that took none.
        dead: Vec<InstanceId>,
    },
    /// How the stable sockets of a service stand: told after each `Listen`, and when that changes.
    Listening {
        /// The service's id.
        service: u64,
        /// Each socket, with the reason why it cannot be listened on if so.
        sockets: Vec<(String, Option<String>)>,
    },
    /// The answer to `Rest`: how many connections the instance has.
    Rested {
        /// The request's number.
        request: u64,
        /// Established connections, those of the relay included; none when the instance is not known.
        connections: Option<u32>,
        /// How long ago the last connection ended, in milliseconds, where that is known.
        unused_ms: Option<u64>,
    },
    /// How many connections instances have, told every few seconds for those whose number changed and that have an
    /// `idle_stop` or stable sockets.
    Connections {
        /// The instances.
        counts: Vec<(InstanceId, u32)>,
    },
    /// A piece of a log.
    Log {
        /// The request's number.
        request: u64,
        /// Bytes as the program wrote them.
        bytes: Vec<u8>,
        /// Nothing more follows.
        done: bool,
        /// Why the log cannot be read.
        error: Option<Error>,
    },
}

/// The state of one instance, as its agent knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Which.
    pub instance: InstanceId,
    /// The service's id.
    pub service: u64,
    /// What happened to it.
    pub phase: Phase,
    /// The main process, once there is one.
    pub pid: Option<u32>,
    /// Where it listens: declared endpoints with the ports chosen. Empty address: the computer's own.
    pub endpoints: Vec<Endpoint>,
    /// When the process was started.
    pub started: Option<Timestamp>,
    /// What its checks found; absent before they found anything. Told when it gets better or worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
}

/// What the checks of an instance found: the worst of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// How well it is.
    pub health: Health,
    /// What the worst check found, made printable.
    pub note: String,
}

/// Where an instance stands, from the agent's side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// The process runs and is not ready yet.
    Started,
    /// The program is ready: the agent advertises it.
    Ready,
    /// The program said on NOTIFY_SOCKET, or by missing its watchdog, that it is not well.
    Unhealthy {
        /// What it said.
        why: String,
    },
    /// A stop was begun.
    Stopping,
    /// It has ended, or was never started.
    Ended {
        /// How.
        exit: Exit,
        /// The last lines it wrote, made printable.
        last_lines: String,
        /// Set when the start itself failed (`denied`, `start-failed`, `start-timeout`, `invalid-argument`); the
        /// program's own end after it was ready leaves this empty.
        error: Option<Error>,
        /// The end was ordered.
        ordered: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> StartOrder {
        StartOrder {
            term: 1,
            instance: InstanceId(2),
            service: 3,
            name: Name::root(),
            launch: Launch::default(),
            ticket: TicketPair { program: [1; 32], server: [2; 32] },
            secrets: [("KEY".to_owned(), Secret("swordfish".to_owned()))].into(),
        }
    }

    #[test]
    fn the_secrets_of_an_order_travel_and_are_not_shown() {
        let order = Order::Start(Box::new(order()));
        let json = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&json).unwrap(), order);
        assert!(!format!("{order:?} {order:#?}").contains("swordfish"));
    }

    #[test]
    fn an_order_without_secrets_is_as_it_was_before_there_were_any() {
        let json = serde_json::to_value(StartOrder { secrets: BTreeMap::new(), ..order() }).unwrap();
        assert_eq!(json.get("secrets"), None);
        assert!(serde_json::from_value::<StartOrder>(json).unwrap().secrets.is_empty());
    }
}
