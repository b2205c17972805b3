//! Hosts on one machine, for tests and for trying things out: each is a network namespace with an address of its own, on a
//! bridge in another namespace, so that nothing of it shows outside.
//!
//! - [`Network`]: the hosts and their cables, which can be cut, cut in one direction, or made to lose packets.
//! - [`Fleet`]: servers and agents of Byname on such hosts, which can be killed, halted and started again.
//!
//! It needs root, iproute2 and nftables ([`Network::obstacle`] says what is missing). The hosts share the file system and the
//! process ids of the machine, so a server's unix socket can be used from outside, whatever was done to its cable.
//!
//! Nothing that ships depends on this crate.

#![forbid(unsafe_code)]

mod fleet;
mod network;

pub use fleet::{Fleet, Plan, Said, alive};
pub use network::Network;

use std::io;

/// An error in a sentence.
fn failed(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
