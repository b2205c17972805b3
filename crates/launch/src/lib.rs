//! The agent of a host: starts programs, watches them, and finds them again after it was away.
//!
//! `Agent` takes the primary's orders and gives reports (`byname_api::agent`) through the channels of a `Link`. Around
//! each program stands a holder, a small process of its own (`hold`), which owns what must survive the agent: output,
//! NOTIFY_SOCKET, exit status. Agent and holder share a folder an instance (`folder`) and a socket in it (`wire`).
//!
//! In front of each service that has stable sockets stands a porter (`porter`, followed by `porters`), a process of the
//! same kind, which owns the sockets and the connections that it relays.
//!
//! Orders go through the host's own policy (`catalogue`, `plan`) before anything is done. Each instance is one task
//! (`instance`), from its order to its end. This is the only crate that starts processes.

mod addresses;
mod agent;
mod alive;
mod catalogue;
mod cgroup;
mod check;
mod connections;
mod folder;
pub mod foreground;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod hold;
mod identity;
mod idle;
mod instance;
mod link;
mod logs;
mod partition;
mod plan;
mod porter;
mod porters;
mod ports;
mod proc;
mod pulse;
mod ready;
mod spare;
mod wire;
mod workloads;

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub use addresses::{own_addresses, reaching};
pub use agent::{Agent, StartError};
pub use alive::Alive;
pub use catalogue::{Problem, check_catalogue};
pub use check::{Connection, GrpcHealth};
pub use identity::{Issuer, NewKey, Svid};
pub use link::Link;
pub use workloads::Workloads;

/// What an agent is told by the binary. Nothing is read from the environment.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's own folder (`DATA/launch`), made when it is not there.
    pub dir: PathBuf,
    /// This host as a label under `/computers`.
    pub computer: String,
    /// Addresses of this host that others can reach, the best first, until [`Agent::set_addresses`] says others.
    pub addresses: Vec<String>,
    /// The `programs.d` folders of the catalogue.
    pub programs: Vec<PathBuf>,
    /// Plain commands may be started too, not only entries of the catalogue.
    pub allow_commands: bool,
    /// The command line of a holder: this binary, and the word that makes it call `hold::main`.
    pub holder: Vec<OsString>,
    /// The environment that programs get before anything is added: PATH, LANG and so on.
    pub environment: Vec<(OsString, OsString)>,
    /// BYNAME_SERVER for programs (`unix:///…`).
    pub server: String,
    /// Refuse to start a program as root unless its user is named. Has no effect when the agent is not root.
    pub require_user: bool,
    /// Where ports are chosen from; 20000 to 31999 when `None`.
    pub port_range: Option<RangeInclusive<u16>>,
    /// A folder that programs of every user can enter, made with mode 0711 when it is not there (`/run/byname`). It
    /// belongs to this agent alone. Identities of programs of other users are in it, and the socket on which programs
    /// ask for theirs. Without it only programs of the agent's own user get certificates.
    pub shared: Option<PathBuf>,
}

impl Config {
    /// Where programs ask for their identity (the SPIFFE Workload API). Somebody else listens there.
    pub fn workload_socket(&self) -> PathBuf {
        self.shared.as_ref().unwrap_or(&self.dir).join("spiffe.sock")
    }
}
