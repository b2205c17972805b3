//! Running copies of services, their states and ends.

use std::fmt;

use serde::{Deserialize, Serialize};

use byname_name::Name;

use crate::object::InstanceId;
use crate::span::Timestamp;

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `tcp`, `udp`, `http` …: the word of the service's declaration.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// An IP address, or a path for `unix`. Empty in a report: that of the computer.
    #[serde(default)]
    pub address: String,
    /// The port; 0 for `unix`.
    #[serde(default)]
    pub port: u16,
}

fn tcp() -> String {
    "tcp".into()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.contains(':') {
            write!(f, "{}://[{}]:{}", self.protocol, self.address, self.port)
        } else if self.protocol == "unix" {
            write!(f, "unix:{}", self.address)
        } else {
            write!(f, "{}://{}:{}", self.protocol, self.address, self.port)
        }
    }
}

/// The state of an instance; a service's is derived from those of its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing runs.
    Stopped,
    /// A start was ordered and the program is not ready yet.
    Starting,
    /// It answers.
    Running,
    /// It runs and does not answer as it should.
    Unhealthy,
    /// It was told to stop and has not ended yet.
    Stopping,
    /// The restart budget is spent.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [State; 6] =
        [State::Stopped, State::Starting, State::Running, State::Unhealthy, State::Stopping, State::Failed];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting => "starting",
            State::Running => "running",
            State::Unhealthy => "unhealthy",
            State::Stopping => "stopping",
            State::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How well a running copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It answers as it should.
    Passing,
    /// It answers, and others are better: it is named only where none of them is there.
    Warning,
    /// It does not answer as it should: it is not named.
    Critical,
}

impl Health {
    /// Every one, the best first.
    pub const ALL: [Health; 3] = [Health::Passing, Health::Warning, Health::Critical];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Critical => "critical",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One running copy of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id: never used again.
    pub id: InstanceId,
    /// The computer it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computer: Option<Name>,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// Its state.
    pub state: State,
    /// Its main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it was last heard of: the last report, renewal or probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// The load it reports, in its own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Its share among several copies; 1 when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// What it says about its health, when it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Connections that it had when its agent last looked; only where that is looked at (`idle_stop`, `listen`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It returned this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
    /// It never ran.
    NotStarted,
    /// Nobody knows: the host went down, or the holder was killed.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exited with status {status}"),
            Exit::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "ended by signal {signal} ({name})"),
                None => write!(f, "ended by signal {signal}"),
            },
            Exit::NotStarted => f.write_str("was not started"),
            Exit::Unknown => f.write_str("ended in a way that nobody saw"),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}
