//! Commands as they stand in the log.

use super::{FORMAT, StoredError, v1, v2, v3, v4, v5};
use crate::command::Entry;

/// A command as bytes for the log.
pub fn encode_command(entry: &Entry) -> Vec<u8> {
    // Writing into a growing vector cannot fail.
    postcard::to_extend(&v5::Entry::from(entry), vec![FORMAT]).unwrap_or_default()
}

/// Reads a command of any format so far.
pub fn decode_command(bytes: &[u8]) -> Result<Entry, StoredError> {
    let (format, rest) = bytes.split_first().ok_or_else(|| StoredError::Malformed("it is empty".into()))?;
    let stored = match *format {
        1 => v4::Entry::from(v3::Entry::from(v2::Entry::from(postcard::from_bytes::<v1::Entry>(rest)?))).into(),
        2 => v4::Entry::from(v3::Entry::from(postcard::from_bytes::<v2::Entry>(rest)?)).into(),
        3 => v4::Entry::from(postcard::from_bytes::<v3::Entry>(rest)?).into(),
        4 => postcard::from_bytes::<v4::Entry>(rest)?.into(),
        5 => postcard::from_bytes::<v5::Entry>(rest)?,
        newer => return Err(StoredError::Newer(newer)),
    };
    Entry::try_from(stored)
}
