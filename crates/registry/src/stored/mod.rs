//! What is written to disk and sent between servers, in versions of its own.
//!
//! - A command, and a remembered reply, begin with one byte: the format of what follows.
//! - A snapshot begins with `byname-snapshot`, a byte for its format and the sections in order. Objects stand in it in
//!   the packed form in which the tree keeps them (`packed`), so that ten million are read in seconds.
//! - Formats are added, never changed: [`FORMAT`] is what is written, and every earlier one is read for ever, by turning
//!   it step by step into the next (`v1` → `v2` …).
//!
//! Structures are postcard; a declaration inside one is the JSON of the interface's version 1, which has its own
//! promise of stability.

mod command;
pub(crate) mod packed;
mod snapshot;
pub(crate) mod v1;
mod v2;
mod v3;
pub(crate) mod v4;
mod v5;

pub use command::{decode_command, encode_command};
pub use snapshot::{read_snapshot, write_snapshot};

use byname_api::error::{Error, Result};

use crate::command::Reply;

/// The format that is written.
pub const FORMAT: u8 = 5;

/// What is stored cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// A newer program wrote it.
    #[error(
        "it is in format {0}, which this version of byname does not know: start the version that wrote it, or a later one"
    )]
    Newer(u8),
    /// It is not what it should be.
    #[error("it cannot be read: {0}")]
    Malformed(String),
}

impl From<postcard::Error> for StoredError {
    fn from(error: postcard::Error) -> Self {
        StoredError::Malformed(error.to_string())
    }
}

impl From<serde_json::Error> for StoredError {
    fn from(error: serde_json::Error) -> Self {
        StoredError::Malformed(error.to_string())
    }
}

impl From<Error> for StoredError {
    fn from(error: Error) -> Self {
        StoredError::Malformed(error.to_string())
    }
}

/// A reply as it is remembered and handed over the log's boundary.
pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    v4::encode_reply(reply)
}

/// Reads what [`encode_reply`] made.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply> {
    v4::decode_reply(bytes).map_err(|e| Error::internal(format!("a remembered reply: {e}")))
}
