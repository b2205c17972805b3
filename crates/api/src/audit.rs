//! Who did what, when, and what proved it: the records of the audit log, and how they are asked for and verified.
//!
//! Nothing here holds a secret, and nothing that is put in may: evidence is named (a fingerprint, a process id, the
//! beginning of a session's id), never shown.

use serde::{Deserialize, Serialize};

use crate::span::Timestamp;

/// How many records a page has when the request does not say.
pub const DEFAULT_LIMIT: u32 = 100;

/// How an operation ended, as far as the audit log is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// The caller is known and may not.
    Denied,
    /// The caller did not prove who it is.
    Unauthenticated,
    /// It was allowed and did not succeed.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 4] = [Outcome::Ok, Outcome::Denied, Outcome::Unauthenticated, Outcome::Failed];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Denied => "denied",
            Outcome::Unauthenticated => "unauthenticated",
            Outcome::Failed => "failed",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// One record of a server's audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The server that wrote it.
    pub server: u64,
    /// Its number: each server counts from 1, without gaps.
    pub sequence: u64,
    /// When it happened, by the server's clock.
    pub at: Timestamp,
    /// Who: the principal. For `unauthenticated` whom the caller claimed to be, if it claimed.
    pub by: String,
    /// What proved it: the mechanism and its evidence, as `socket pid 123`, `certificate 3f2a…`, `password session 8c…`,
    /// `ticket`, `token`, `none`.
    pub how: String,
    /// The address that it came from, without the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What was asked for: `add`, `find`, `login`, `introduce`. Those of the log itself begin with `audit-`.
    pub operation: String,
    /// The name that it was asked of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The code of the error, when it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What else is worth knowing, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// So many of the same: more than one when a flood was counted and not written out.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// The hash of the record before, in hex.
    pub previous: String,
    /// SHA-256 over the hash before and all of this record, in hex.
    pub hash: String,
}

fn one() -> u64 {
    1
}

fn is_one(count: &u64) -> bool {
    *count == 1
}

/// `audit`: the records that fit all that is given, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditRequest {
    /// Exactly this principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// A pattern for the name, absolute. Records without a name do not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Exactly this operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// This outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Not after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// At most so many a page: [`DEFAULT_LIMIT`] when 0 or absent, 1,000 at most.
    pub limit: u32,
    /// The `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Verify the whole log too, which takes a while.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}

impl Default for AuditRequest {
    fn default() -> Self {
        AuditRequest {
            by: None,
            name: None,
            operation: None,
            outcome: None,
            since: None,
            until: None,
            limit: DEFAULT_LIMIT,
            next: None,
            verify: false,
        }
    }
}

/// What `audit` gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReply {
    /// The records, newest first.
    pub records: Vec<Record>,
    /// Where the next page begins, when there may be one. A page may end early, even empty: a search looks at a bounded
    /// number of records a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What the verification found, when one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verification>,
}

/// What a verification of one server's log found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The server whose log it is.
    pub server: u64,
    /// Records that were read and recomputed.
    pub records: u64,
    /// The number of the first; more than 1 when the oldest files were removed, as the owner of the log may.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// The hash of the last, in hex.
    pub head: String,
    /// Heads of earlier times that the cluster remembers and that were compared.
    pub anchors: u64,
    /// Nothing was changed, taken out, put in or cut off, as far as the records and the anchors tell.
    pub intact: bool,
    /// What was found, with file and line, when it is not intact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_has_one_word_in_json_and_on_screen() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), format!("\"{}\"", outcome.as_str()));
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(Outcome::parse("OK"), None);
    }

    #[test]
    fn an_empty_request_asks_for_the_newest_hundred() {
        let request: AuditRequest = serde_json::from_str("{}").unwrap();
        assert_eq!(request, AuditRequest::default());
        assert_eq!(request.limit, 100);
        assert_eq!(serde_json::to_string(&request).unwrap(), "{\"limit\":100}");
    }

    #[test]
    fn a_record_leaves_out_what_it_does_not_have() {
        let record = Record {
            server: 1,
            sequence: 7,
            at: Timestamp(1_700_000_000_123),
            by: "/people/ann".into(),
            how: "socket pid 123".into(),
            from: None,
            operation: "add".into(),
            name: Some("/a".into()),
            outcome: Outcome::Denied,
            code: Some("denied".into()),
            detail: None,
            count: 1,
            previous: "00".into(),
            hash: "11".into(),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            "{\"server\":1,\"sequence\":7,\"at\":\"2023-11-14T22:13:20.123Z\",\"by\":\"/people/ann\",\
             \"how\":\"socket pid 123\",\"operation\":\"add\",\"name\":\"/a\",\"outcome\":\"denied\",\"code\":\"denied\",\
             \"previous\":\"00\",\"hash\":\"11\"}"
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}
