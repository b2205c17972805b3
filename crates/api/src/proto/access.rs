//! Who may do what, and why.

use super::field::{all_into, each, id_option, name, name_option, option};
use super::{AccessReply, AccessRequest, Decision, Listed};
use crate::access::{self, AclEntry, Rights, Subject};
use crate::caller::Right;
use crate::error::{Error, Result};

impl From<AclEntry> for super::AclEntry {
    fn from(value: AclEntry) -> Self {
        super::AclEntry {
            who: value.who.to_string(),
            id: value.id.map(|id| id.to_string()),
            rights: value.rights.iter().map(|right| right.to_string()).collect(),
            deny: !value.allow,
            certified: value.certified,
        }
    }
}

impl TryFrom<super::AclEntry> for AclEntry {
    type Error = Error;

    fn try_from(message: super::AclEntry) -> Result<Self> {
        Ok(AclEntry {
            who: message.who.parse()?,
            id: id_option(message.id, "id")?,
            rights: Rights::parse(message.rights.iter().map(String::as_str))?,
            allow: !message.deny,
            certified: message.certified,
        })
    }
}

fn right(text: &str) -> Result<Right> {
    text.parse().map_err(|error: Error| error.field("right"))
}

impl From<access::AccessRequest> for AccessRequest {
    fn from(value: access::AccessRequest) -> Self {
        AccessRequest {
            name: value.name.as_str().into(),
            who: value.who.map(|who| who.to_string()),
            right: value.right.map(|right| right.to_string()),
        }
    }
}

impl TryFrom<AccessRequest> for access::AccessRequest {
    type Error = Error;

    fn try_from(message: AccessRequest) -> Result<Self> {
        Ok(access::AccessRequest {
            name: name(&message.name, "name")?,
            who: message.who.map(|text| text.parse::<Subject>()).transpose()?,
            right: message.right.map(|text| right(&text)).transpose()?,
        })
    }
}

impl From<access::Decision> for Decision {
    fn from(value: access::Decision) -> Self {
        Decision {
            right: value.right.to_string(),
            allowed: value.allowed,
            at: value.at.map(|name| name.as_str().into()),
            entry: value.entry.map(Into::into),
            through: value.through.iter().map(|name| name.as_str().into()).collect(),
            because: value.because,
        }
    }
}

impl TryFrom<Decision> for access::Decision {
    type Error = Error;

    fn try_from(message: Decision) -> Result<Self> {
        let read =
            |(index, text): (usize, &String)| name(text, "").map_err(|error| error.field(format!("through[{index}]")));
        Ok(access::Decision {
            right: right(&message.right)?,
            allowed: message.allowed,
            at: name_option(message.at, "at")?,
            entry: option(message.entry, "entry")?,
            through: message.through.iter().enumerate().map(read).collect::<Result<_>>()?,
            because: message.because,
        })
    }
}

impl From<access::Listed> for Listed {
    fn from(value: access::Listed) -> Self {
        Listed { name: value.name.as_str().into(), owner: value.owner, acl: all_into(value.acl) }
    }
}

impl TryFrom<Listed> for access::Listed {
    type Error = Error;

    fn try_from(message: Listed) -> Result<Self> {
        Ok(access::Listed { name: name(&message.name, "name")?, owner: message.owner, acl: each(message.acl, "acl")? })
    }
}

impl From<access::AccessReply> for AccessReply {
    fn from(value: access::AccessReply) -> Self {
        AccessReply {
            name: value.name.as_str().into(),
            who: value.who.to_string(),
            decisions: all_into(value.decisions),
            lists: all_into(value.lists),
        }
    }
}

impl TryFrom<AccessReply> for access::AccessReply {
    type Error = Error;

    fn try_from(message: AccessReply) -> Result<Self> {
        Ok(access::AccessReply {
            name: name(&message.name, "name")?,
            who: message.who.parse()?,
            decisions: each(message.decisions, "decisions")?,
            lists: each(message.lists, "lists")?,
        })
    }
}
