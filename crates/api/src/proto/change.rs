//! Changing the tree.

use super::field::{all_into, each, id, id_option, name, option};
use super::word::outcome;
use super::{
    AddRequest, BatchReply, BatchRequest, CheckRequest, DeclareRequest, DeleteRequest, ModifyRequest, Op, OpResult,
    Outcome, PutRequest, op,
};
use crate::error::{Code, Error, Result};
use crate::object::Version;
use crate::request;

impl From<request::Op> for Op {
    fn from(value: request::Op) -> Self {
        let text = |name: byname_name::Name| name.as_str().to_owned();
        let version = |version: Option<Version>| version.map(|version| version.to_string());
        let op = match value {
            request::Op::Add { name, spec } => op::Op::Add(AddRequest { name: text(name), spec: Some(spec.into()) }),
            request::Op::Put { name, spec, if_version } => {
                op::Op::Put(PutRequest { name: text(name), spec: Some(spec.into()), if_version: version(if_version) })
            }
            request::Op::Declare { name, spec } => {
                op::Op::Declare(DeclareRequest { name: text(name), spec: Some(spec.into()) })
            }
            request::Op::Modify { name, spec, clear, if_version } => op::Op::Modify(ModifyRequest {
                name: text(name),
                spec: Some(spec.into()),
                clear,
                if_version: version(if_version),
            }),
            request::Op::Check { name, exists, if_version, fence } => {
                op::Op::Check(CheckRequest { name: text(name), exists, if_version: version(if_version), fence })
            }
            request::Op::Delete { name, recursive, stop, if_version } => {
                op::Op::Delete(DeleteRequest { name: text(name), recursive, stop, if_version: version(if_version) })
            }
        };
        Op { op: Some(op) }
    }
}

impl TryFrom<Op> for request::Op {
    type Error = Error;

    fn try_from(message: Op) -> Result<Self> {
        match message.op {
            Some(op::Op::Add(message)) => message.try_into(),
            Some(op::Op::Put(message)) => Ok(request::Op::Put {
                name: name(&message.name, "name")?,
                spec: option(message.spec, "spec")?.unwrap_or_default(),
                if_version: id_option(message.if_version, "if_version")?,
            }),
            Some(op::Op::Declare(message)) => Ok(request::Op::Declare {
                name: name(&message.name, "name")?,
                spec: option(message.spec, "spec")?.unwrap_or_default(),
            }),
            Some(op::Op::Modify(message)) => message.try_into(),
            Some(op::Op::Delete(message)) => message.try_into(),
            Some(op::Op::Check(message)) => Ok(request::Op::Check {
                name: name(&message.name, "name")?,
                exists: message.exists,
                if_version: id_option(message.if_version, "if_version")?,
                fence: message.fence,
            }),
            None => Err(Error::new(
                Code::InvalidArgument,
                "the change is empty: give add, put, declare, modify, delete or check",
            )),
        }
    }
}

impl TryFrom<AddRequest> for request::Op {
    type Error = Error;

    fn try_from(message: AddRequest) -> Result<Self> {
        Ok(request::Op::Add {
            name: name(&message.name, "name")?,
            spec: option(message.spec, "spec")?.unwrap_or_default(),
        })
    }
}

impl TryFrom<ModifyRequest> for request::Op {
    type Error = Error;

    fn try_from(message: ModifyRequest) -> Result<Self> {
        Ok(request::Op::Modify {
            name: name(&message.name, "name")?,
            spec: option(message.spec, "spec")?.unwrap_or_default(),
            clear: message.clear,
            if_version: id_option(message.if_version, "if_version")?,
        })
    }
}

impl TryFrom<DeleteRequest> for request::Op {
    type Error = Error;

    fn try_from(message: DeleteRequest) -> Result<Self> {
        Ok(request::Op::Delete {
            name: name(&message.name, "name")?,
            recursive: message.recursive,
            stop: message.stop,
            if_version: id_option(message.if_version, "if_version")?,
        })
    }
}

impl From<request::BatchRequest> for BatchRequest {
    fn from(value: request::BatchRequest) -> Self {
        BatchRequest { ops: all_into(value.ops), dry_run: value.dry_run, set: value.set }
    }
}

impl TryFrom<BatchRequest> for request::BatchRequest {
    type Error = Error;

    fn try_from(message: BatchRequest) -> Result<Self> {
        Ok(request::BatchRequest { ops: each(message.ops, "ops")?, dry_run: message.dry_run, set: message.set })
    }
}

impl From<request::OpResult> for OpResult {
    fn from(value: request::OpResult) -> Self {
        OpResult {
            name: value.name.as_str().into(),
            outcome: Outcome::from(value.outcome).into(),
            version: value.version.to_string(),
            before: value.before.map(Into::into),
            after: value.after.map(Into::into),
        }
    }
}

impl TryFrom<OpResult> for request::OpResult {
    type Error = Error;

    fn try_from(message: OpResult) -> Result<Self> {
        Ok(request::OpResult {
            name: name(&message.name, "name")?,
            outcome: outcome(message.outcome, "outcome")?,
            version: id(&message.version, "version")?,
            before: option(message.before, "before")?,
            after: option(message.after, "after")?,
        })
    }
}

impl From<request::BatchReply> for BatchReply {
    fn from(value: request::BatchReply) -> Self {
        BatchReply { results: all_into(value.results), revision: value.revision }
    }
}

impl TryFrom<BatchReply> for request::BatchReply {
    type Error = Error;

    fn try_from(message: BatchReply) -> Result<Self> {
        Ok(request::BatchReply { results: each(message.results, "results")?, revision: message.revision })
    }
}
