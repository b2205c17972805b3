//! The audit log.

use super::field::{all_into, each, pattern};
use super::word::{Word, text_option, word_option};
use super::{AuditRecord, AuditReply, AuditRequest, AuditVerification};
use crate::audit;
use crate::error::{Error, Result};
use crate::span::Timestamp;

impl From<audit::AuditRequest> for AuditRequest {
    fn from(value: audit::AuditRequest) -> Self {
        AuditRequest {
            by: value.by,
            name: value.name,
            operation: value.operation,
            outcome: text_option(value.outcome),
            since_ms: value.since.map(|at| at.0),
            until_ms: value.until.map(|at| at.0),
            limit: value.limit,
            next: value.next,
            verify: value.verify,
        }
    }
}

impl TryFrom<AuditRequest> for audit::AuditRequest {
    type Error = Error;

    fn try_from(message: AuditRequest) -> Result<Self> {
        Ok(audit::AuditRequest {
            by: message.by,
            name: message.name.map(|text| pattern(text, "name")).transpose()?,
            operation: message.operation,
            outcome: word_option(message.outcome, "outcome")?,
            since: message.since_ms.map(Timestamp),
            until: message.until_ms.map(Timestamp),
            limit: message.limit,
            next: message.next,
            verify: message.verify,
        })
    }
}

impl From<audit::Record> for AuditRecord {
    fn from(value: audit::Record) -> Self {
        AuditRecord {
            server: value.server,
            sequence: value.sequence,
            at_ms: value.at.0,
            by: value.by,
            how: value.how,
            from: value.from,
            operation: value.operation,
            name: value.name,
            outcome: value.outcome.text().into(),
            code: value.code,
            detail: value.detail,
            count: value.count,
            previous: value.previous,
            hash: value.hash,
        }
    }
}

impl TryFrom<AuditRecord> for audit::Record {
    type Error = Error;

    fn try_from(message: AuditRecord) -> Result<Self> {
        Ok(audit::Record {
            server: message.server,
            sequence: message.sequence,
            at: Timestamp(message.at_ms),
            by: message.by,
            how: message.how,
            from: message.from,
            operation: message.operation,
            name: message.name,
            outcome: Word::read(&message.outcome, "outcome")?,
            code: message.code,
            detail: message.detail,
            count: message.count,
            previous: message.previous,
            hash: message.hash,
        })
    }
}

impl From<audit::Verification> for AuditVerification {
    fn from(value: audit::Verification) -> Self {
        let audit::Verification { server, records, first, last, head, anchors, intact, trouble } = value;
        AuditVerification { server, records, first, last, head, anchors, intact, trouble }
    }
}

impl From<AuditVerification> for audit::Verification {
    fn from(message: AuditVerification) -> Self {
        let AuditVerification { server, records, first, last, head, anchors, intact, trouble } = message;
        audit::Verification { server, records, first, last, head, anchors, intact, trouble }
    }
}

impl From<audit::AuditReply> for AuditReply {
    fn from(value: audit::AuditReply) -> Self {
        AuditReply { records: all_into(value.records), next: value.next, verified: value.verified.map(Into::into) }
    }
}

impl TryFrom<AuditReply> for audit::AuditReply {
    type Error = Error;

    fn try_from(message: AuditReply) -> Result<Self> {
        Ok(audit::AuditReply {
            records: each(message.records, "records")?,
            next: message.next,
            verified: message.verified.map(Into::into),
        })
    }
}
