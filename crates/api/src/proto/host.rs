//! Hosts: how they stand, and how they are emptied.

use super::field::{all_into, each, id, name};
use super::word::{Word, state};
use super::{DrainReply, DrainRequest, HostStatus, HostedCopy, State};
use crate::error::{Error, Result};
use crate::host;
use crate::span::{Span, Timestamp};

impl From<host::HostStatus> for HostStatus {
    fn from(value: host::HostStatus) -> Self {
        HostStatus {
            state: value.state.as_str().into(),
            since_ms: value.since.map(|at| at.0),
            drained_by: value.drained_by,
            instances: value.instances,
            last_seen_ms: value.last_seen.map(|at| at.0),
            load: value.load,
            memory_free: value.memory_free,
        }
    }
}

impl TryFrom<HostStatus> for host::HostStatus {
    type Error = Error;

    fn try_from(message: HostStatus) -> Result<Self> {
        Ok(host::HostStatus {
            state: Word::read(&message.state, "state")?,
            since: message.since_ms.map(Timestamp),
            drained_by: message.drained_by,
            instances: message.instances,
            last_seen: message.last_seen_ms.map(Timestamp),
            load: message.load,
            memory_free: message.memory_free,
        })
    }
}

impl From<host::DrainRequest> for DrainRequest {
    fn from(value: host::DrainRequest) -> Self {
        DrainRequest {
            name: value.name.as_str().into(),
            act: value.act.as_str().into(),
            timeout_ms: value.timeout.map(Span::as_millis),
        }
    }
}

impl TryFrom<DrainRequest> for host::DrainRequest {
    type Error = Error;

    fn try_from(message: DrainRequest) -> Result<Self> {
        Ok(host::DrainRequest {
            name: name(&message.name, "name")?,
            act: Word::read(&message.act, "act")?,
            timeout: message.timeout_ms.map(Span::from_millis),
        })
    }
}

impl From<host::HostedCopy> for HostedCopy {
    fn from(value: host::HostedCopy) -> Self {
        HostedCopy {
            service: value.service.as_str().into(),
            instance: value.instance.to_string(),
            state: State::from(value.state).into(),
        }
    }
}

impl TryFrom<HostedCopy> for host::HostedCopy {
    type Error = Error;

    fn try_from(message: HostedCopy) -> Result<Self> {
        Ok(host::HostedCopy {
            service: name(&message.service, "service")?,
            instance: id(&message.instance, "instance")?,
            state: state(message.state, "state")?,
        })
    }
}

impl From<host::DrainReply> for DrainReply {
    fn from(value: host::DrainReply) -> Self {
        DrainReply {
            computer: value.computer.as_str().into(),
            state: value.state.as_str().into(),
            copies: all_into(value.copies),
        }
    }
}

impl TryFrom<DrainReply> for host::DrainReply {
    type Error = Error;

    fn try_from(message: DrainReply) -> Result<Self> {
        Ok(host::DrainReply {
            computer: name(&message.computer, "computer")?,
            state: Word::read(&message.state, "state")?,
            copies: each(message.copies, "copies")?,
        })
    }
}
