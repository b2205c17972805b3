//! What runs: acting on services, advertising, reports, logs; locks; and the server about itself.

use byname_name::Name;

use super::field::{all_into, each, id, id_option, missing, name, pattern, span_option, within};
use super::word::state;
use super::{
    ActReply, ActRequest, Acted, AdvertiseReply, AdvertiseRequest, LockReply, LockRequest, LogsRequest, Member,
    ReportReply, ReportRequest, ServerInfo, State, UnlockReply, UnlockRequest, WithdrawReply, WithdrawRequest,
};
use crate::error::{Error, Result};
use crate::object::InstanceId;
use crate::request::{self, Verb};
use crate::span::Span;

impl From<request::ActRequest> for ActRequest {
    fn from(value: request::ActRequest) -> Self {
        ActRequest {
            patterns: value.patterns,
            hold: value.hold,
            now: value.now,
            timeout_ms: value.timeout.map(Span::as_millis),
        }
    }
}

/// Reads an `ActRequest`. What is to be done is not in the message: it is the method that was called.
pub fn act_request(verb: Verb, message: ActRequest) -> Result<request::ActRequest> {
    let read = |(index, text): (usize, String)| pattern(text, &format!("patterns[{index}]"));
    Ok(request::ActRequest {
        verb,
        patterns: message.patterns.into_iter().enumerate().map(read).collect::<Result<_>>()?,
        hold: message.hold,
        now: message.now,
        timeout: span_option(message.timeout_ms, "timeout_ms")?,
    })
}

impl From<request::Acted> for Acted {
    fn from(value: request::Acted) -> Self {
        Acted {
            name: value.name.as_str().into(),
            state: State::from(value.state).into(),
            instances: all_into(value.instances),
            error: value.error.map(Into::into),
        }
    }
}

impl TryFrom<Acted> for request::Acted {
    type Error = Error;

    fn try_from(message: Acted) -> Result<Self> {
        Ok(request::Acted {
            name: name(&message.name, "name")?,
            state: state(message.state, "state")?,
            instances: each(message.instances, "instances")?,
            error: message.error.map(Into::into),
        })
    }
}

impl From<request::ActReply> for ActReply {
    fn from(value: request::ActReply) -> Self {
        ActReply { services: all_into(value.services) }
    }
}

impl TryFrom<ActReply> for request::ActReply {
    type Error = Error;

    fn try_from(message: ActReply) -> Result<Self> {
        Ok(request::ActReply { services: each(message.services, "services")? })
    }
}

impl From<request::ReportRequest> for ReportRequest {
    fn from(value: request::ReportRequest) -> Self {
        ReportRequest {
            name: value.name.map(|name| name.as_str().into()).unwrap_or_default(),
            instance: value.instance.map(|id| id.to_string()),
            load: value.load,
            uses: value.uses,
            credential: value.credential,
        }
    }
}

impl TryFrom<ReportRequest> for request::ReportRequest {
    type Error = Error;

    fn try_from(message: ReportRequest) -> Result<Self> {
        Ok(request::ReportRequest {
            name: Some(name(&message.name, "name")?),
            instance: id_option(message.instance, "instance")?,
            load: message.load,
            uses: message.uses,
            credential: message.credential,
        })
    }
}

impl From<request::ReportReply> for ReportReply {
    fn from(value: request::ReportReply) -> Self {
        ReportReply { instance: value.instance.to_string() }
    }
}

impl TryFrom<ReportReply> for request::ReportReply {
    type Error = Error;

    fn try_from(message: ReportReply) -> Result<Self> {
        Ok(request::ReportReply { instance: id(&message.instance, "instance")? })
    }
}

impl From<request::LockRequest> for LockRequest {
    fn from(value: request::LockRequest) -> Self {
        LockRequest {
            name: value.name.as_str().into(),
            ttl_ms: value.ttl.map(Span::as_millis),
            wait_ms: value.wait.map(Span::as_millis),
            key: value.key,
            renew: value.renew,
        }
    }
}

impl TryFrom<LockRequest> for request::LockRequest {
    type Error = Error;

    fn try_from(message: LockRequest) -> Result<Self> {
        Ok(request::LockRequest {
            name: name(&message.name, "name")?,
            ttl: span_option(message.ttl_ms, "ttl_ms")?,
            wait: span_option(message.wait_ms, "wait_ms")?,
            key: message.key,
            renew: message.renew,
        })
    }
}

impl From<request::LockReply> for LockReply {
    fn from(value: request::LockReply) -> Self {
        LockReply { name: value.name.as_str().into(), fence: value.fence, key: value.key, ttl_ms: value.ttl_ms }
    }
}

impl TryFrom<LockReply> for request::LockReply {
    type Error = Error;

    fn try_from(message: LockReply) -> Result<Self> {
        let LockReply { fence, key, ttl_ms, .. } = message;
        Ok(request::LockReply { name: name(&message.name, "name")?, fence, key, ttl_ms })
    }
}

impl From<request::UnlockRequest> for UnlockRequest {
    fn from(value: request::UnlockRequest) -> Self {
        UnlockRequest { name: value.name.as_str().into(), key: value.key }
    }
}

impl TryFrom<UnlockRequest> for request::UnlockRequest {
    type Error = Error;

    fn try_from(message: UnlockRequest) -> Result<Self> {
        Ok(request::UnlockRequest { name: name(&message.name, "name")?, key: message.key })
    }
}

impl From<request::UnlockReply> for UnlockReply {
    fn from(value: request::UnlockReply) -> Self {
        UnlockReply { released: value.released }
    }
}

impl From<UnlockReply> for request::UnlockReply {
    fn from(message: UnlockReply) -> Self {
        request::UnlockReply { released: message.released }
    }
}

impl From<request::AdvertiseRequest> for AdvertiseRequest {
    fn from(value: request::AdvertiseRequest) -> Self {
        AdvertiseRequest {
            name: value.name.map(|name| name.as_str().into()).unwrap_or_default(),
            endpoints: all_into(value.endpoints),
            ticket: value.ticket,
            instance: value.instance.map(|id| id.to_string()),
            credential: value.credential,
            ttl_ms: value.ttl.map(Span::as_millis),
            weight: value.weight,
            pid: value.pid,
        }
    }
}

impl TryFrom<AdvertiseRequest> for request::AdvertiseRequest {
    type Error = Error;

    fn try_from(message: AdvertiseRequest) -> Result<Self> {
        Ok(request::AdvertiseRequest {
            name: Some(name(&message.name, "name")?),
            endpoints: each(message.endpoints, "endpoints")?,
            ticket: message.ticket,
            instance: id_option(message.instance, "instance")?,
            credential: message.credential,
            ttl: span_option(message.ttl_ms, "ttl_ms")?,
            weight: message.weight,
            pid: message.pid,
        })
    }
}

impl From<request::AdvertiseReply> for AdvertiseReply {
    fn from(value: request::AdvertiseReply) -> Self {
        AdvertiseReply {
            instance: value.instance.to_string(),
            credential: value.credential,
            proof: value.proof,
            ttl_ms: value.ttl_ms,
        }
    }
}

impl TryFrom<AdvertiseReply> for request::AdvertiseReply {
    type Error = Error;

    fn try_from(message: AdvertiseReply) -> Result<Self> {
        Ok(request::AdvertiseReply {
            instance: id(&message.instance, "instance")?,
            credential: message.credential,
            proof: message.proof,
            ttl_ms: message.ttl_ms,
        })
    }
}

impl From<request::WithdrawRequest> for WithdrawRequest {
    fn from(value: request::WithdrawRequest) -> Self {
        WithdrawRequest {
            name: value.name.as_str().into(),
            instance: value.instance.map(|id| id.to_string()),
            credential: value.credential,
        }
    }
}

impl TryFrom<WithdrawRequest> for request::WithdrawRequest {
    type Error = Error;

    fn try_from(message: WithdrawRequest) -> Result<Self> {
        Ok(request::WithdrawRequest {
            name: name(&message.name, "name")?,
            instance: id_option(message.instance, "instance")?,
            credential: message.credential,
        })
    }
}

impl From<request::WithdrawReply> for WithdrawReply {
    fn from(value: request::WithdrawReply) -> Self {
        WithdrawReply { withdrawn: value.withdrawn.iter().map(InstanceId::to_string).collect() }
    }
}

impl TryFrom<WithdrawReply> for request::WithdrawReply {
    type Error = Error;

    fn try_from(message: WithdrawReply) -> Result<Self> {
        let mut withdrawn = Vec::with_capacity(message.withdrawn.len());
        for (index, text) in message.withdrawn.iter().enumerate() {
            withdrawn.push(text.parse().map_err(|error: Error| within(format_args!("withdrawn[{index}]"))(error))?);
        }
        Ok(request::WithdrawReply { withdrawn })
    }
}

impl From<request::LogsRequest> for LogsRequest {
    fn from(value: request::LogsRequest) -> Self {
        LogsRequest { name: value.name.as_str().into(), tail: value.tail, follow: value.follow }
    }
}

impl TryFrom<LogsRequest> for request::LogsRequest {
    type Error = Error;

    fn try_from(message: LogsRequest) -> Result<Self> {
        let name: Name = name(&message.name, "name")?;
        Ok(request::LogsRequest { name, tail: message.tail, follow: message.follow })
    }
}

impl From<request::Member> for Member {
    fn from(value: request::Member) -> Self {
        let request::Member { id, name, address, voter, primary, up, behind } = value;
        Member { id, name: name.to_string(), address, voter, primary, up, behind }
    }
}

impl TryFrom<Member> for request::Member {
    type Error = Error;

    fn try_from(message: Member) -> Result<Self> {
        let Member { id, name: text, address, voter, primary, up, behind } = message;
        Ok(request::Member { id, name: name(&text, "members")?, address, voter, primary, up, behind })
    }
}

impl From<request::ServerInfo> for ServerInfo {
    fn from(value: request::ServerInfo) -> Self {
        ServerInfo {
            version: value.version,
            server: value.server,
            term: value.term,
            primary: value.primary,
            revision: value.revision,
            objects: value.objects,
            servers: value.servers,
            members: value.members.into_iter().map(Member::from).collect(),
            agents: value.agents,
            log_bytes: value.log_bytes,
            snapshot_index: value.snapshot_index,
            stalled: value.stalled,
            started: Some(value.started.into()),
        }
    }
}

impl TryFrom<ServerInfo> for request::ServerInfo {
    type Error = Error;

    fn try_from(message: ServerInfo) -> Result<Self> {
        Ok(request::ServerInfo {
            version: message.version,
            server: message.server,
            term: message.term,
            primary: message.primary,
            revision: message.revision,
            objects: message.objects,
            servers: message.servers,
            members: message.members.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            agents: message.agents,
            log_bytes: message.log_bytes,
            snapshot_index: message.snapshot_index,
            stalled: message.stalled,
            started: message.started.ok_or_else(|| missing("started"))?.into(),
        })
    }
}
