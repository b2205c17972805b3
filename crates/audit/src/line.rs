//! A record as it is kept: one line of JSON, and the hash that ties it to the line before.
//!
//! ```text
//! hash   = SHA-256( "byname audit record 1\n", previous (32 bytes), server u64, sequence u64, at u64,
//!                   text by, text how, maybe from, text operation, maybe name, text outcome, maybe code, maybe detail,
//!                   count u64 )
//! text   = length u64, bytes            maybe  = 0 u8 | 1 u8, text            numbers are little-endian
//! origin = SHA-256( "byname audit chain 1\n", server u64, text chain )
//! ```
//!
//! Every field has its length in front, so no two records have the same bytes under the hash. The first record of a chain
//! follows on its `origin`, whose random `chain` is the detail of that record (`audit-begin`).
//!
//! A line is what [`Line::write`] makes of its fields, byte for byte: one that means the same and is written otherwise was
//! not written here.

use std::fmt;

use byname_api::audit::{Outcome, Record};
use byname_api::span::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::entry::Entry;

/// The version of the form above.
pub(crate) const FORMAT: u32 = 1;
/// The operation of the first record of a chain.
pub(crate) const BEGIN: &str = "audit-begin";
/// The operation of a record that says what was found wrong.
pub(crate) const DAMAGED: &str = "audit-damaged";
/// The operation of a record that says that a crash left half a line.
pub(crate) const TORN: &str = "audit-torn";
/// The operation of a record that says how many others there was no room for.
pub(crate) const LOST: &str = "audit-lost";
/// The operation of a record that says which files were removed to make room.
pub(crate) const REMOVED: &str = "audit-removed";

/// No line is longer: the texts of an entry are cut before, and none of their bytes becomes more than six.
pub(crate) const MAX_LINE: usize = 64 << 10;

/// The last millisecond of the year 9999: what comes later has no RFC 3339 form.
const MAX_TIME: u64 = 253_402_207_199_999;

/// A SHA-256, in lower-case hex where it is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) [u8; 32]);

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) format: u32,
    pub(crate) server: u64,
    pub(crate) sequence: u64,
    pub(crate) at: Timestamp,
    pub(crate) by: String,
    pub(crate) how: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    pub(crate) operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(crate) count: u64,
    pub(crate) previous: Hash,
    pub(crate) hash: Hash,
}

impl Line {
    /// The line of an entry behind the record with the hash `previous`.
    pub(crate) fn new(server: u64, sequence: u64, previous: Hash, entry: Entry) -> Line {
        let mut line = Line {
            format: FORMAT,
            server,
            sequence,
            at: Timestamp(entry.at.0.min(MAX_TIME)),
            by: entry.by,
            how: entry.how,
            from: entry.from,
            operation: entry.operation,
            name: entry.name,
            outcome: entry.outcome.as_str().to_owned(),
            code: entry.code,
            detail: entry.detail,
            count: entry.count,
            previous,
            hash: Hash::default(),
        };
        line.hash = line.computed();
        line
    }

    /// Appends the line, with its end.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        // Writing to memory cannot fail, and no field refuses to be written.
        let _ = serde_json::to_writer(&mut *out, self);
        out.push(b'\n');
    }

    /// Reads a line without its end, and nothing more: whether it is as it was written says [`Line::holds`].
    pub(crate) fn read(bytes: &[u8]) -> Result<Line, String> {
        let line: Line = serde_json::from_slice(bytes).map_err(|error| format!("is no record ({error})"))?;
        if line.format != FORMAT {
            return Err(format!("has format {}, which is not known here", line.format));
        }
        if Outcome::parse(&line.outcome).is_none() {
            return Err("is no record (its outcome is not known)".into());
        }
        Ok(line)
    }

    /// Whether the line that was read from `bytes` is, to the byte, what was written under its hash.
    pub(crate) fn holds(&self, bytes: &[u8], scratch: &mut Vec<u8>) -> bool {
        scratch.clear();
        self.write(scratch);
        scratch.strip_suffix(b"\n") == Some(bytes) && self.hash == self.computed()
    }

    /// The hash that belongs to what the line says.
    fn computed(&self) -> Hash {
        let mut sum = Sum(Sha256::new_with_prefix(b"byname audit record 1\n"));
        sum.0.update(self.previous.0);
        sum.number(self.server);
        sum.number(self.sequence);
        sum.number(self.at.0);
        sum.text(&self.by);
        sum.text(&self.how);
        sum.maybe(self.from.as_deref());
        sum.text(&self.operation);
        sum.maybe(self.name.as_deref());
        sum.text(&self.outcome);
        sum.maybe(self.code.as_deref());
        sum.maybe(self.detail.as_deref());
        sum.number(self.count);
        Hash(sum.0.finalize().into())
    }

    /// As callers see it; `None` when its outcome is none.
    pub(crate) fn record(self) -> Option<Record> {
        Some(Record {
            server: self.server,
            sequence: self.sequence,
            at: self.at,
            by: self.by,
            how: self.how,
            from: self.from,
            operation: self.operation,
            name: self.name,
            outcome: Outcome::parse(&self.outcome)?,
            code: self.code,
            detail: self.detail,
            count: self.count,
            previous: self.previous.to_string(),
            hash: self.hash.to_string(),
        })
    }
}

/// What the first record of a chain follows on.
pub(crate) fn origin(server: u64, chain: &str) -> Hash {
    let mut sum = Sum(Sha256::new_with_prefix(b"byname audit chain 1\n"));
    sum.number(server);
    sum.text(chain);
    Hash(sum.0.finalize().into())
}

fn one() -> u64 {
    1
}

fn is_one(count: &u64) -> bool {
    *count == 1
}

struct Sum(Sha256);

impl Sum {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn maybe(&mut self, text: Option<&str>) {
        self.0.update([u8::from(text.is_some())]);
        if let Some(text) = text {
            self.text(text);
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 64];
        // A buffer of twice the length is never too short.
        let _ = hex::encode_to_slice(self.0, &mut text);
        s.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Hash;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Hash, E> {
                let mut hash = [0; 32];
                hex::decode_to_slice(text, &mut hash).map_err(E::custom)?;
                Ok(Hash(hash))
            }
        }
        d.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let mut entry = Entry::new(Timestamp(1_700_000_000_123), "/people/ann", "socket pid 7", "add", Outcome::Ok);
        entry.name = Some("/a".into());
        Line::new(1, 9, Hash([7; 32]), entry)
    }

    #[test]
    fn a_line_reads_back_and_holds() {
        let mut bytes = Vec::new();
        line().write(&mut bytes);
        let bytes = bytes.strip_suffix(b"\n").unwrap();
        let read = Line::read(bytes).unwrap();
        assert_eq!(read, line());
        assert!(read.holds(bytes, &mut Vec::new()));
    }

    // What was written once is read for ever: this line may never change. Its hash was computed by another program, from the
    // description above.
    #[test]
    fn the_form_is_that_of_version_1() {
        let mut bytes = Vec::new();
        line().write(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            "{\"format\":1,\"server\":1,\"sequence\":9,\"at\":\"2023-11-14T22:13:20.123Z\",\"by\":\"/people/ann\",\
             \"how\":\"socket pid 7\",\"operation\":\"add\",\"name\":\"/a\",\"outcome\":\"ok\",\
             \"previous\":\"0707070707070707070707070707070707070707070707070707070707070707\",\
             \"hash\":\"ccea23056d284265fb03c8a6da1b0e415c405fe605bf53bd7dafb2241c991450\"}\n"
        );
    }

    #[test]
    fn text_that_moves_from_one_field_to_the_next_is_another_record() {
        let mut entry = Entry::new(Timestamp(0), "ab", "c", "add", Outcome::Ok);
        let one = Line::new(1, 1, Hash::default(), entry.clone()).hash;
        (entry.by, entry.how) = ("a".into(), "bc".into());
        let two = Line::new(1, 1, Hash::default(), entry.clone()).hash;
        (entry.from, entry.name) = (Some(String::new()), None);
        let three = Line::new(1, 1, Hash::default(), entry.clone()).hash;
        (entry.from, entry.name) = (None, Some(String::new()));
        let four = Line::new(1, 1, Hash::default(), entry).hash;
        assert!(one != two && two != three && three != four);
    }

    #[test]
    fn a_time_without_a_date_is_the_last_that_has_one() {
        let entry = Entry::new(Timestamp(u64::MAX), "a", "b", "c", Outcome::Ok);
        let line = Line::new(1, 1, Hash::default(), entry);
        let mut bytes = Vec::new();
        line.write(&mut bytes);
        assert_eq!(Line::read(bytes.strip_suffix(b"\n").unwrap()).unwrap(), line);
    }

    #[test]
    fn what_is_no_line_is_refused_and_does_not_panic() {
        for bad in ["", "{}", "[]", "\u{0}\u{0}", "{\"format\":2}"] {
            assert!(Line::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
