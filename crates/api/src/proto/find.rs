//! Looking up: `find`, `read`, `list`, `status`, `search`, `watch`, `why`.

use byname_name::Name;

use super::field::{all_into, each, id, id_option, name, name_option, option, pattern, required, span_option};
use super::object::fresh;
use super::word::{Word, change, kind};
use super::{
    Change, FindReply, FindRequest, Happening, Junction, Kind, ListReply, ListRequest, ReadReply, ReadRequest,
    ReportFailureRequest, SearchReply, SearchRequest, StatusReply, WatchEvent, WatchReply, WatchRequest, WhyReply,
    WhyRequest,
};
use crate::error::{Error, Result};
use crate::request;
use crate::span::{Span, Timestamp};

impl From<request::FindRequest> for FindRequest {
    fn from(value: request::FindRequest) -> Self {
        FindRequest {
            name: value.name.as_str().into(),
            no_start: !value.start,
            all: value.all,
            timeout_ms: value.timeout.map(Span::as_millis),
            consistent: value.consistent,
            failed: value.failed.map(|id| id.to_string()),
        }
    }
}

impl TryFrom<FindRequest> for request::FindRequest {
    type Error = Error;

    fn try_from(message: FindRequest) -> Result<Self> {
        Ok(request::FindRequest {
            name: name(&message.name, "name")?,
            start: !message.no_start,
            all: message.all,
            timeout: span_option(message.timeout_ms, "timeout_ms")?,
            consistent: message.consistent,
            failed: id_option(message.failed, "failed")?,
        })
    }
}

impl TryFrom<ReportFailureRequest> for request::FindRequest {
    type Error = Error;

    fn try_from(message: ReportFailureRequest) -> Result<Self> {
        Ok(request::FindRequest {
            timeout: span_option(message.timeout_ms, "timeout_ms")?,
            failed: Some(id(&message.instance, "instance")?),
            ..request::FindRequest::new(name(&message.name, "name")?)
        })
    }
}

impl From<request::FindReply> for FindReply {
    fn from(value: request::FindReply) -> Self {
        FindReply {
            name: value.name.as_str().into(),
            canonical: value.canonical.map(|name| name.as_str().into()),
            kind: Kind::from(value.kind).into(),
            instances: all_into(value.instances),
            members: value.members.map(Into::into),
            addresses: value.addresses.map(Into::into),
            value: value.value,
            version: value.version.to_string(),
            ttl_ms: value.ttl_ms,
            started: value.started,
            junction: value.junction.map(Into::into),
            fresh: Some(value.fresh.into()),
        }
    }
}

impl TryFrom<FindReply> for request::FindReply {
    type Error = Error;

    fn try_from(message: FindReply) -> Result<Self> {
        Ok(request::FindReply {
            name: name(&message.name, "name")?,
            canonical: name_option(message.canonical, "canonical")?,
            kind: kind(message.kind, "kind")?,
            instances: each(message.instances, "instances")?,
            members: message.members.map(Into::into),
            addresses: message.addresses.map(Into::into),
            value: message.value,
            version: id(&message.version, "version")?,
            ttl_ms: message.ttl_ms,
            started: message.started,
            junction: option(message.junction, "junction")?,
            fresh: fresh(message.fresh),
        })
    }
}

impl From<request::Junction> for Junction {
    fn from(value: request::Junction) -> Self {
        Junction {
            servers: value.servers,
            choose: value.choose.text().into(),
            interface: value.interface,
            parameter: value.parameter,
        }
    }
}

impl TryFrom<Junction> for request::Junction {
    type Error = Error;

    fn try_from(message: Junction) -> Result<Self> {
        let choose = match message.choose.as_str() {
            "" => Default::default(),
            word => Word::read(word, "choose")?,
        };
        let Junction { servers, interface, parameter, .. } = message;
        Ok(request::Junction { servers, choose, interface, parameter })
    }
}

impl From<request::SearchRequest> for SearchRequest {
    fn from(value: request::SearchRequest) -> Self {
        SearchRequest {
            filter: value.filter,
            under: value.under.as_str().into(),
            limit: value.limit,
            next: value.next,
            consistent: value.consistent,
        }
    }
}

impl TryFrom<SearchRequest> for request::SearchRequest {
    type Error = Error;

    fn try_from(message: SearchRequest) -> Result<Self> {
        let under = if message.under.is_empty() { Name::root() } else { name(&message.under, "under")? };
        let SearchRequest { filter, limit, next, consistent, .. } = message;
        Ok(request::SearchRequest { filter, under, limit, next, consistent })
    }
}

impl From<request::SearchReply> for SearchReply {
    fn from(value: request::SearchReply) -> Self {
        SearchReply { objects: all_into(value.objects), next: value.next, fresh: Some(value.fresh.into()) }
    }
}

impl TryFrom<SearchReply> for request::SearchReply {
    type Error = Error;

    fn try_from(message: SearchReply) -> Result<Self> {
        Ok(request::SearchReply {
            objects: each(message.objects, "objects")?,
            next: message.next,
            fresh: fresh(message.fresh),
        })
    }
}

impl From<request::WatchRequest> for WatchRequest {
    fn from(value: request::WatchRequest) -> Self {
        WatchRequest { pattern: value.pattern, resume_from: value.from, initial: value.initial }
    }
}

impl TryFrom<WatchRequest> for request::WatchRequest {
    type Error = Error;

    fn try_from(message: WatchRequest) -> Result<Self> {
        let WatchRequest { resume_from: from, initial, .. } = message;
        Ok(request::WatchRequest { pattern: pattern(message.pattern, "pattern")?, from, initial })
    }
}

impl From<request::WatchReply> for WatchReply {
    fn from(value: request::WatchReply) -> Self {
        WatchReply { at: value.at, events: all_into(value.events) }
    }
}

impl TryFrom<WatchReply> for request::WatchReply {
    type Error = Error;

    fn try_from(message: WatchReply) -> Result<Self> {
        Ok(request::WatchReply { at: message.at, events: each(message.events, "events")? })
    }
}

impl From<request::WatchEvent> for WatchEvent {
    fn from(value: request::WatchEvent) -> Self {
        WatchEvent {
            change: Change::from(value.change).into(),
            name: value.name.as_str().into(),
            object: Some(value.object.into()),
        }
    }
}

impl TryFrom<WatchEvent> for request::WatchEvent {
    type Error = Error;

    fn try_from(message: WatchEvent) -> Result<Self> {
        Ok(request::WatchEvent {
            change: change(message.change, "change")?,
            name: name(&message.name, "name")?,
            object: required(message.object, "object")?,
        })
    }
}

impl From<request::ReadRequest> for ReadRequest {
    fn from(value: request::ReadRequest) -> Self {
        ReadRequest { name: value.name.as_str().into(), consistent: value.consistent }
    }
}

impl TryFrom<ReadRequest> for request::ReadRequest {
    type Error = Error;

    fn try_from(message: ReadRequest) -> Result<Self> {
        Ok(request::ReadRequest { name: name(&message.name, "name")?, consistent: message.consistent })
    }
}

impl From<request::ReadReply> for ReadReply {
    fn from(value: request::ReadReply) -> Self {
        ReadReply { object: Some(value.object.into()), fresh: Some(value.fresh.into()) }
    }
}

impl TryFrom<ReadReply> for request::ReadReply {
    type Error = Error;

    fn try_from(message: ReadReply) -> Result<Self> {
        Ok(request::ReadReply { object: required(message.object, "object")?, fresh: fresh(message.fresh) })
    }
}

impl From<request::ListRequest> for ListRequest {
    fn from(value: request::ListRequest) -> Self {
        ListRequest {
            pattern: value.pattern,
            limit: value.limit,
            next: value.next,
            set: value.set,
            consistent: value.consistent,
        }
    }
}

impl TryFrom<ListRequest> for request::ListRequest {
    type Error = Error;

    fn try_from(message: ListRequest) -> Result<Self> {
        Ok(request::ListRequest {
            pattern: pattern(message.pattern, "pattern")?,
            limit: message.limit,
            next: message.next,
            set: message.set,
            consistent: message.consistent,
        })
    }
}

impl From<request::ListReply> for ListReply {
    fn from(value: request::ListReply) -> Self {
        ListReply { entries: all_into(value.entries), next: value.next, fresh: Some(value.fresh.into()) }
    }
}

impl TryFrom<ListReply> for request::ListReply {
    type Error = Error;

    fn try_from(message: ListReply) -> Result<Self> {
        Ok(request::ListReply {
            entries: each(message.entries, "entries")?,
            next: message.next,
            fresh: fresh(message.fresh),
        })
    }
}

impl From<request::StatusReply> for StatusReply {
    fn from(value: request::StatusReply) -> Self {
        StatusReply { services: all_into(value.services), next: value.next, fresh: Some(value.fresh.into()) }
    }
}

impl TryFrom<StatusReply> for request::StatusReply {
    type Error = Error;

    fn try_from(message: StatusReply) -> Result<Self> {
        Ok(request::StatusReply {
            services: each(message.services, "services")?,
            next: message.next,
            fresh: fresh(message.fresh),
        })
    }
}

impl From<Name> for WhyRequest {
    fn from(name: Name) -> Self {
        WhyRequest { name: name.as_str().into() }
    }
}

impl TryFrom<WhyRequest> for Name {
    type Error = Error;

    fn try_from(message: WhyRequest) -> Result<Self> {
        name(&message.name, "name")
    }
}

impl From<request::WhyReply> for WhyReply {
    fn from(value: request::WhyReply) -> Self {
        WhyReply { status: Some(value.status.into()), story: all_into(value.story), fresh: Some(value.fresh.into()) }
    }
}

impl TryFrom<WhyReply> for request::WhyReply {
    type Error = Error;

    fn try_from(message: WhyReply) -> Result<Self> {
        Ok(request::WhyReply {
            status: required(message.status, "status")?,
            story: each(message.story, "story")?,
            fresh: fresh(message.fresh),
        })
    }
}

impl From<request::Happening> for Happening {
    fn from(value: request::Happening) -> Self {
        Happening { at_ms: value.at.0, instance: value.instance.map(|id| id.to_string()), what: value.what }
    }
}

impl TryFrom<Happening> for request::Happening {
    type Error = Error;

    fn try_from(message: Happening) -> Result<Self> {
        Ok(request::Happening {
            at: Timestamp(message.at_ms),
            instance: id_option(message.instance, "instance")?,
            what: message.what,
        })
    }
}
