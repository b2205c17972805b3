//! What callers say: an entry, before it has a number and a hash.

use byname_api::audit::Outcome;
use byname_api::span::Timestamp;

/// The most bytes of a text of an entry; what is longer is cut, and ends in `…`.
pub const MAX_TEXT: usize = 1_024;

/// What happened, to be recorded.
///
/// **No field holds a secret, and none may be given one**: `how` names the evidence (a fingerprint, a process id, the first
/// digits of a session's id), and `detail` is for people. Everybody who may read the audit log reads all of it, for as long as
/// it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When. Floods are counted by this clock too, so tests bring their own.
    pub at: Timestamp,
    /// Who: the principal; whom the caller claimed to be, when that was not proved.
    pub by: String,
    /// What proved it: `socket pid 123`, `certificate 3f2a…`, `ticket`, `none`.
    pub how: String,
    /// The address, without the port: a port in it would make every connection a flood of its own.
    pub from: Option<String>,
    /// What was asked for.
    pub operation: String,
    /// The name that it was asked of.
    pub name: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The code of the error.
    pub code: Option<String>,
    /// What else is worth knowing.
    pub detail: Option<String>,
    /// So many of the same; 1 is one.
    pub count: u64,
}

impl Entry {
    /// An entry of what was done once; the other fields are empty.
    pub fn new(
        at: Timestamp,
        by: impl Into<String>,
        how: impl Into<String>,
        operation: impl Into<String>,
        outcome: Outcome,
    ) -> Entry {
        Entry {
            at,
            by: by.into(),
            how: how.into(),
            from: None,
            operation: operation.into(),
            name: None,
            outcome,
            code: None,
            detail: None,
            count: 1,
        }
    }

    /// Cuts every text to its length, so that a line and the queue have bounds whatever a caller sends.
    pub(crate) fn cut(&mut self) {
        let texts = [&mut self.by, &mut self.how, &mut self.operation];
        let maybe = [&mut self.from, &mut self.name, &mut self.code, &mut self.detail];
        for text in texts.into_iter().chain(maybe.into_iter().flatten()) {
            if text.len() > MAX_TEXT {
                text.truncate(text.floor_char_boundary(MAX_TEXT - '…'.len_utf8()));
                text.push('…');
            }
        }
    }

    /// What it takes of the queue, in bytes.
    pub(crate) fn cost(&self) -> usize {
        let maybe = [&self.from, &self.name, &self.code, &self.detail];
        let texts = self.by.len() + self.how.len() + self.operation.len();
        size_of::<Entry>() + texts + maybe.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut entry = Entry::new(Timestamp(0), "ä".repeat(900), "a", "b", Outcome::Ok);
        entry.detail = Some("x".repeat(5_000));
        entry.cut();
        assert!(entry.by.len() <= MAX_TEXT && entry.by.ends_with("ä…"));
        assert_eq!(entry.detail.as_ref().map(String::len), Some(MAX_TEXT));
        assert_eq!(entry.how, "a");
    }
}
