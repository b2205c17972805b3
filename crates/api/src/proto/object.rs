//! Objects, services and instances as replies show them.

use super::field::{all_into, each, id, name, name_option, option, port, protocol, required};
use super::word::{health_option, number_option, state, state_option};
use super::{
    Endpoint, Fresh, Health, Instance, LastExit, Listening, Lock, Object, Problem, ServiceStatus, Stamp, State,
};
use crate::error::{Code, Error, Result};
use crate::span::Timestamp;
use crate::{object, request, service};

impl From<request::Fresh> for Fresh {
    fn from(value: request::Fresh) -> Self {
        Fresh { revision: value.revision, age_ms: value.age_ms, stale: value.stale }
    }
}

impl From<Fresh> for request::Fresh {
    fn from(message: Fresh) -> Self {
        request::Fresh { revision: message.revision, age_ms: message.age_ms, stale: message.stale }
    }
}

/// A reply without the message is of revision 0.
pub(super) fn fresh(message: Option<Fresh>) -> request::Fresh {
    message.unwrap_or_default().into()
}

impl From<object::Stamp> for Stamp {
    fn from(value: object::Stamp) -> Self {
        Stamp { at_ms: value.at.0, by: value.by }
    }
}

impl From<Stamp> for object::Stamp {
    fn from(message: Stamp) -> Self {
        object::Stamp { at: Timestamp(message.at_ms), by: message.by }
    }
}

impl From<service::Endpoint> for Endpoint {
    fn from(value: service::Endpoint) -> Self {
        Endpoint { protocol: value.protocol, address: value.address, port: value.port.into() }
    }
}

impl TryFrom<Endpoint> for service::Endpoint {
    type Error = Error;

    fn try_from(message: Endpoint) -> Result<Self> {
        Ok(service::Endpoint {
            protocol: protocol(message.protocol),
            address: message.address,
            port: port(message.port, "port")?,
        })
    }
}

impl From<service::Instance> for Instance {
    fn from(value: service::Instance) -> Self {
        Instance {
            id: value.id.to_string(),
            computer: value.computer.map(|name| name.as_str().into()),
            endpoints: all_into(value.endpoints),
            state: State::from(value.state).into(),
            pid: value.pid,
            started_ms: value.started.map(|at| at.0),
            last_seen_ms: value.last_seen.map(|at| at.0),
            load: value.load,
            weight: value.weight,
            note: value.note,
            health: number_option::<Health, _>(value.health),
            connections: value.connections,
        }
    }
}

impl TryFrom<Instance> for service::Instance {
    type Error = Error;

    fn try_from(message: Instance) -> Result<Self> {
        Ok(service::Instance {
            id: id(&message.id, "id")?,
            computer: name_option(message.computer, "computer")?,
            endpoints: each(message.endpoints, "endpoints")?,
            state: state(message.state, "state")?,
            pid: message.pid,
            started: message.started_ms.map(Timestamp),
            last_seen: message.last_seen_ms.map(Timestamp),
            load: message.load,
            weight: message.weight,
            health: health_option(message.health, "health")?,
            note: message.note,
            connections: message.connections,
        })
    }
}

impl From<object::ServiceStatus> for ServiceStatus {
    fn from(value: object::ServiceStatus) -> Self {
        ServiceStatus {
            name: value.name.as_str().into(),
            state: State::from(value.state).into(),
            instances: all_into(value.instances),
            unregistered: value.unregistered,
            held: value.held.map(Into::into),
            starts: value.starts,
            failures: value.failures,
            last_exit: value.last_exit.map(Into::into),
            listening: all_into(value.listening),
        }
    }
}

impl TryFrom<ServiceStatus> for object::ServiceStatus {
    type Error = Error;

    fn try_from(message: ServiceStatus) -> Result<Self> {
        Ok(object::ServiceStatus {
            name: name(&message.name, "name")?,
            state: state(message.state, "state")?,
            instances: each(message.instances, "instances")?,
            unregistered: message.unregistered,
            held: message.held.map(Into::into),
            starts: message.starts,
            failures: message.failures,
            last_exit: option(message.last_exit, "last_exit")?,
            listening: each(message.listening, "listening")?,
        })
    }
}

impl From<object::LastExit> for LastExit {
    fn from(value: object::LastExit) -> Self {
        LastExit {
            instance: value.instance.to_string(),
            at_ms: value.at.0,
            how: value.how,
            last_lines: value.last_lines,
        }
    }
}

impl TryFrom<LastExit> for object::LastExit {
    type Error = Error;

    fn try_from(message: LastExit) -> Result<Self> {
        Ok(object::LastExit {
            instance: id(&message.instance, "instance")?,
            at: Timestamp(message.at_ms),
            how: message.how,
            last_lines: message.last_lines,
        })
    }
}

impl From<object::Listening> for Listening {
    fn from(value: object::Listening) -> Self {
        Listening { computer: value.computer.as_str().into(), socket: value.socket, error: value.error }
    }
}

impl TryFrom<Listening> for object::Listening {
    type Error = Error;

    fn try_from(message: Listening) -> Result<Self> {
        Ok(object::Listening {
            computer: name(&message.computer, "computer")?,
            socket: message.socket,
            error: message.error,
        })
    }
}

impl From<object::Lock> for Lock {
    fn from(value: object::Lock) -> Self {
        Lock { fence: value.fence, by: value.by, since_ms: value.since.0, ttl_ms: value.ttl_ms }
    }
}

impl From<Lock> for object::Lock {
    fn from(message: Lock) -> Self {
        object::Lock {
            fence: message.fence,
            by: message.by,
            since: Timestamp(message.since_ms),
            ttl_ms: message.ttl_ms,
        }
    }
}

impl From<object::Object> for Object {
    fn from(value: object::Object) -> Self {
        let forms = value.forms.unwrap_or_default();
        Object {
            name: value.name.as_str().into(),
            id: value.id.to_string(),
            version: value.version.to_string(),
            spec: Some(value.spec.into()),
            created: Some(value.created.into()),
            modified: Some(value.modified.into()),
            status: value.status.map(Into::into),
            dns: forms.dns,
            http: forms.http,
            ldap: forms.ldap,
            spiffe: forms.spiffe,
            lock: value.lock.map(Into::into),
            host: value.host.map(Into::into),
        }
    }
}

impl TryFrom<Object> for object::Object {
    type Error = Error;

    fn try_from(message: Object) -> Result<Self> {
        let forms = object::Forms { dns: message.dns, http: message.http, ldap: message.ldap, spiffe: message.spiffe };
        Ok(object::Object {
            name: name(&message.name, "name")?,
            id: id(&message.id, "id")?,
            version: id(&message.version, "version")?,
            spec: required(message.spec, "spec")?,
            created: message.created.ok_or_else(|| super::field::missing("created"))?.into(),
            modified: message.modified.ok_or_else(|| super::field::missing("modified"))?.into(),
            status: option(message.status, "status")?,
            host: option(message.host, "host")?,
            lock: message.lock.map(Into::into),
            forms: (forms != object::Forms::default()).then_some(forms),
        })
    }
}

impl From<request::Problem> for Problem {
    fn from(value: request::Problem) -> Self {
        Problem { code: value.code.as_str().into(), message: value.message, field: value.field }
    }
}

/// A code that this version does not know is `internal`.
impl From<Problem> for request::Problem {
    fn from(message: Problem) -> Self {
        request::Problem {
            code: Code::parse(&message.code).unwrap_or(Code::Internal),
            message: message.message,
            field: message.field,
        }
    }
}

impl From<request::Entry> for super::Entry {
    fn from(value: request::Entry) -> Self {
        super::Entry {
            name: value.name.as_str().into(),
            kind: super::Kind::from(value.kind).into(),
            state: number_option::<State, _>(value.state),
            target: value.target.map(|name| name.as_str().into()),
            version: value.version.to_string(),
            host: super::word::text_option(value.host),
        }
    }
}

impl TryFrom<super::Entry> for request::Entry {
    type Error = Error;

    fn try_from(message: super::Entry) -> Result<Self> {
        Ok(request::Entry {
            name: name(&message.name, "name")?,
            kind: super::word::kind(message.kind, "kind")?,
            state: state_option(message.state, "state")?,
            target: name_option(message.target, "target")?,
            host: super::word::word_option(message.host, "host")?,
            version: id(&message.version, "version")?,
        })
    }
}
