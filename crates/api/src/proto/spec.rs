//! What is declared about an object.

use super::field::{all_into, each, id, name_option, option, span_option, within};
use super::word::{kind_option, number_option, text_option, word_option};
use super::{Acl, Attributes, Kind, Spec, Value, Values, value};
use crate::error::{Code, Error, Result};
use crate::object;
use crate::span::Span;

impl From<object::Spec> for Spec {
    fn from(value: object::Spec) -> Self {
        Spec {
            kind: number_option::<Kind, _>(value.kind),
            attributes: value.attributes.map(attributes_message),
            public: value.public.map(Into::into),
            owner: value.owner,
            ttl_ms: value.ttl.map(Span::as_millis),
            launch: value.launch.map(Into::into),
            choose: text_option(value.choose),
            target: value.target.map(|name| name.as_str().into()),
            members: value.members.map(Into::into),
            addresses: value.addresses.map(Into::into),
            value: value.value,
            index: value.index.map(Into::into),
            servers: value.servers.map(Into::into),
            interface: value.interface,
            parameter: value.parameter,
            acl: value.acl.map(|entries| Acl { entries: all_into(entries) }),
            audit: text_option(value.audit),
            certified: value.certified,
            disabled: value.disabled,
            fingerprint: value.fingerprint,
            member_ids: value.member_ids.into_iter().flatten().map(|(name, id)| (name, id.to_string())).collect(),
        }
    }
}

impl TryFrom<Spec> for object::Spec {
    type Error = Error;

    fn try_from(message: Spec) -> Result<Self> {
        Ok(object::Spec {
            kind: kind_option(message.kind, "kind")?,
            attributes: message.attributes.map(read_attributes).transpose()?,
            public: message.public.map(Into::into),
            owner: message.owner,
            ttl: span_option(message.ttl_ms, "ttl_ms")?,
            launch: option(message.launch, "launch")?,
            choose: word_option(message.choose, "choose")?,
            target: name_option(message.target, "target")?,
            members: message.members.map(Into::into),
            addresses: message.addresses.map(Into::into),
            value: message.value,
            index: message.index.map(Into::into),
            servers: message.servers.map(Into::into),
            interface: message.interface,
            parameter: message.parameter,
            acl: message.acl.map(|acl| each(acl.entries, "acl")).transpose()?,
            audit: word_option(message.audit, "audit")?,
            certified: message.certified,
            disabled: message.disabled,
            fingerprint: message.fingerprint,
            member_ids: match message.member_ids {
                none if none.is_empty() => None,
                some => Some(
                    some.into_iter().map(|(name, text)| Ok((name, id(&text, "member_ids")?))).collect::<Result<_>>()?,
                ),
            },
        })
    }
}

fn attributes_message(attributes: object::Attributes) -> Attributes {
    let values = |list: Vec<object::Value>| Values { values: list.into_iter().map(Into::into).collect() };
    Attributes { values: attributes.into_iter().map(|(name, list)| (name, values(list))).collect() }
}

fn read_attributes(message: Attributes) -> Result<object::Attributes> {
    let read = |(name, list): (String, Values)| {
        let values: Result<Vec<object::Value>> = list.values.into_iter().map(object::Value::try_from).collect();
        match values {
            Ok(values) => Ok((name, values)),
            Err(error) => Err(within(format_args!("attributes.{name}"))(error)),
        }
    };
    message.values.into_iter().map(read).collect()
}

impl From<object::Value> for Value {
    fn from(value: object::Value) -> Self {
        let value = match value {
            object::Value::Bool(v) => value::Value::Boolean(v),
            object::Value::Int(v) => value::Value::Integer(v),
            object::Value::Float(v) => value::Value::Number(v),
            object::Value::Text(v) => value::Value::Text(v),
        };
        Value { value: Some(value) }
    }
}

impl TryFrom<Value> for object::Value {
    type Error = Error;

    fn try_from(message: Value) -> Result<Self> {
        match message.value {
            Some(value::Value::Boolean(v)) => Ok(object::Value::Bool(v)),
            Some(value::Value::Integer(v)) => Ok(object::Value::Int(v)),
            Some(value::Value::Number(v)) => Ok(object::Value::Float(v)),
            Some(value::Value::Text(v)) => Ok(object::Value::Text(v)),
            None => Err(Error::new(Code::InvalidArgument, "a value is empty: give a boolean, a number or a text")),
        }
    }
}
