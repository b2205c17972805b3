//! Hosts as others see them: their state, their load, and how they are emptied.

use std::fmt;

use serde::{Deserialize, Serialize};

use byname_name::Name;

use crate::object::InstanceId;
use crate::service::State;
use crate::span::{Span, Timestamp};

/// The state of a host that has, or had, an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// Its agent can be heard.
    Up,
    /// No new copies are started there, and those that are leave it.
    Draining,
    /// Its agent is silent: what runs there is not answered.
    Down,
}

impl HostState {
    /// Every state.
    pub const ALL: [HostState; 3] = [HostState::Up, HostState::Draining, HostState::Down];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            HostState::Up => "up",
            HostState::Draining => "draining",
            HostState::Down => "down",
        }
    }
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a host stands, as a read of its computer shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its state.
    pub state: HostState,
    /// Since when it is down or drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Who drains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_by: Option<String>,
    /// Copies of services on it.
    pub instances: u32,
    /// When its agent was last heard by this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Its load average over one minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Memory that programs could still get, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_free: Option<u64>,
}

/// What to do with a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainAct {
    /// Only look.
    #[default]
    Look,
    /// Empty it. What is under way goes on as it was asked for first.
    Drain,
    /// Let it be used again.
    Undrain,
}

impl DrainAct {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            DrainAct::Look => "look",
            DrainAct::Drain => "drain",
            DrainAct::Undrain => "undrain",
        }
    }
}

/// Empties a host, lets it be used again, or looks how far that is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// The computer.
    pub name: Name,
    /// What to do.
    #[serde(default)]
    pub act: DrainAct,
    /// What still runs there when this is over is stopped; 5 minutes when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

/// A copy on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostedCopy {
    /// Its service.
    pub service: Name,
    /// Which copy.
    pub instance: InstanceId,
    /// Its state.
    pub state: State,
}

/// How far a drain is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainReply {
    /// The computer.
    pub computer: Name,
    /// Its state.
    pub state: HostState,
    /// The copies that are on it still, in the order of their services' names.
    pub copies: Vec<HostedCopy>,
}

/// How long a drain takes at most when nobody says.
pub const DRAIN_TIMEOUT: Span = Span::from_secs(300);
