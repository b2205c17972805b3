//! What an agent and a porter say to each other, in the frames of `wire`.
//!
//! A porter outlives agents and their upgrades, so fields are only ever added and messages that are not known skipped.
//! A new agent tells the whole of what it wants (`Listen`, `Backends`), and the porter the whole of how it stands.

use byname_api::object::{Choose, InstanceId};
use byname_api::service::Endpoint;
use serde::{Deserialize, Serialize};

/// The sockets of one service. It is also the file `listen` in the porter's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sockets {
    pub(crate) service: u64,
    pub(crate) name: String,
    /// As declared.
    pub(crate) sockets: Vec<String>,
    pub(crate) choose: Choose,
    /// The sockets themselves are handed to the program.
    pub(crate) fds: bool,
}

/// From the agent to a porter.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToPorter {
    /// Hold these sockets, in place of those before. With none, leave when the last relayed connection has ended.
    Listen(Sockets),
    /// Where connections may be passed.
    Backends {
        /// The copies, in the order of preference.
        backends: Vec<Target>,
    },
    /// Whether a program of this host has the sockets: who knocks is its business then.
    Running(bool),
    /// Reset everything that waits.
    TurnAway,
    /// Pass nothing more to this instance.
    Rest {
        /// Answered by `Rested` when there is one.
        request: Option<u64>,
        /// Which.
        instance: InstanceId,
    },
    /// Pass connections to it again.
    Wake {
        /// Which.
        instance: InstanceId,
    },
    /// This instance has ended.
    Gone {
        /// Which.
        instance: InstanceId,
    },
    /// Give duplicates of the listening sockets. Answered by `Handed`.
    Hand {
        /// Returned in the answer.
        request: u64,
    },
}

/// A copy of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) endpoint: Endpoint,
}

/// From a porter to the agent of the moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromPorter {
    /// How the sockets stand: on connecting, and whenever that changes.
    Listening {
        /// Each with what is wrong, if anything is.
        sockets: Vec<(String, Option<Trouble>)>,
    },
    /// Somebody waits, and there is nobody to pass the connection to. Told again on connecting while that is so.
    Knock {
        /// The socket.
        socket: String,
        /// Copies that took no connection.
        dead: Vec<InstanceId>,
    },
    /// So many were reset.
    TurnedAway {
        /// How many.
        count: u64,
    },
    /// The answer to `Rest`.
    Rested {
        /// The request's number.
        request: u64,
        /// Connections that are relayed to the instance, or just being passed to it.
        relays: u32,
    },
    /// The answer to `Hand`; the descriptors come along, in this order.
    Handed {
        /// The request's number.
        request: u64,
        /// The sockets.
        sockets: Vec<String>,
    },
}

/// Why a socket is not listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    /// Somebody else has it.
    pub(crate) in_use: bool,
    /// The rest of a sentence that begins with the socket.
    pub(crate) why: String,
}
