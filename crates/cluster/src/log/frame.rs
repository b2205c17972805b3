//! Bytes of the log: the header of a segment and the frames behind it. All numbers are little-endian.
//!
//! ```text
//! segment  = header (512 bytes) frame* zeros
//! header   = magic "BYNLOG\0\0", version u32, crc32c u32 of the 512 bytes without magic, version and crc,
//!            node u64, sequence u64, prev_end u64, last id, purged id, vote (present u8, term u64, node u64, committed u8)
//! id       = present u8, term u64, index u64
//! frame    = crc32c u32 of all that follows, payload length u32, kind u8, 3 zeros, sequence u32 (low bits),
//!            term u64, index u64, synced u64, payload, zeros up to a multiple of 8
//! commands = count u32, count times (length u32, bytes)
//! ```

use bytes::{Buf, Bytes};
use openraft::EntryPayload;
use openraft::impls::BasicNode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::raft::{Ballot, Commands, Id, LeaderId, LogEntry, Members, id};

pub(crate) const MAGIC: &[u8; 8] = b"BYNLOG\0\0";
pub(crate) const VERSION: u32 = 1;
/// One sector, so that it is written whole or not at all.
pub(crate) const SEGMENT_HEADER: usize = 512;
pub(crate) const FRAME_HEADER: usize = 40;

/// What stands at the front of a segment: where the one before ends and what was true at that point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) node: u64,
    pub(crate) sequence: u64,
    /// The end of what counts in the segment before; whatever lies behind it there was never answered.
    pub(crate) prev_end: u64,
    pub(crate) last: Option<Id>,
    pub(crate) purged: Option<Id>,
    pub(crate) vote: Option<Ballot>,
}

/// Why a segment header was not understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged(&'static str),
    Newer(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut body = Vec::with_capacity(SEGMENT_HEADER);
        body.extend_from_slice(&self.node.to_le_bytes());
        body.extend_from_slice(&self.sequence.to_le_bytes());
        body.extend_from_slice(&self.prev_end.to_le_bytes());
        for id in [&self.last, &self.purged] {
            body.push(u8::from(id.is_some()));
            body.extend_from_slice(&id.map_or(0, |id| id.leader_id.term).to_le_bytes());
            body.extend_from_slice(&id.map_or(0, |id| id.index).to_le_bytes());
        }
        body.push(u8::from(self.vote.is_some()));
        body.extend_from_slice(&self.vote.map_or(0, |v| v.leader_id.term).to_le_bytes());
        body.extend_from_slice(&self.vote.map_or(0, |v| v.leader_id.voted_for).to_le_bytes());
        body.push(u8::from(self.vote.is_some_and(|v| v.committed)));

        let mut out = [0; SEGMENT_HEADER];
        out[16..16 + body.len()].copy_from_slice(&body);
        let crc = crc32c::crc32c(&out[16..]);
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        if bytes.len() < SEGMENT_HEADER {
            return Err(BadHeader::Damaged("the file is too short"));
        }
        let mut from = &bytes[..SEGMENT_HEADER];
        if &from[..8] != MAGIC {
            return Err(BadHeader::Damaged("it does not begin like a log file"));
        }
        from.advance(8);
        let version = from.get_u32_le();
        if version > VERSION {
            return Err(BadHeader::Newer(version));
        }
        if from.get_u32_le() != crc32c::crc32c(from) {
            return Err(BadHeader::Damaged("the checksum of its header is wrong"));
        }
        let (node, sequence, prev_end) = (from.get_u64_le(), from.get_u64_le(), from.get_u64_le());
        let mut read_id = || {
            let present = from.get_u8() != 0;
            let (term, index) = (from.get_u64_le(), from.get_u64_le());
            present.then(|| id(term, index))
        };
        let (last, purged) = (read_id(), read_id());
        let present = from.get_u8() != 0;
        let (term, voted_for, committed) = (from.get_u64_le(), from.get_u64_le(), from.get_u8() != 0);
        let vote = present.then_some(Ballot { leader_id: LeaderId { term, voted_for }, committed });
        Ok(SegmentHeader { node, sequence, prev_end, last, purged, vote })
    }
}

/// One thing that happened to the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Entry(LogEntry),
    Vote(Ballot),
    /// Entries after this one no longer count; `None`: none counts.
    Truncate(Option<Id>),
    /// Entries up to this one are covered by a snapshot.
    Purge(Id),
    /// Its `synced` proves the frames before it. Entries up to the one that it names are known to be committed, if it names any:
    /// the first versions named none, and look at none.
    Mark(Option<Id>),
}

#[repr(u8)]
#[derive(Clone, Copy)]
enum Kind {
    Blank = 1,
    Commands = 2,
    Members = 3,
    Vote = 4,
    Truncate = 5,
    Purge = 6,
    Mark = 7,
}

/// The stored form of a membership: own types, because those of the engine may change.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct StoredMembers {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, String>,
}

impl From<&Members> for StoredMembers {
    fn from(members: &Members) -> Self {
        StoredMembers {
            configs: members.get_joint_config().clone(),
            nodes: members.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        }
    }
}

impl From<StoredMembers> for Members {
    fn from(stored: StoredMembers) -> Self {
        let nodes: BTreeMap<u64, BasicNode> =
            stored.nodes.into_iter().map(|(id, addr)| (id, BasicNode { addr })).collect();
        let ids: Vec<u64> = nodes.keys().copied().collect();
        // Only a membership without voters, that of a server which belongs to no cluster yet, is not accepted as it is.
        Members::new(stored.configs.clone(), nodes).unwrap_or_else(|_| Members::new_with_defaults(stored.configs, ids))
    }
}

/// Appends the frame of `record` to `out`, as part of segment `sequence`, of which `synced` bytes are on disk.
pub(crate) fn encode(record: &Record, sequence: u64, synced: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + FRAME_HEADER, 0);
    let (kind, term, index) = match record {
        Record::Entry(entry) => {
            let kind = match &entry.payload {
                EntryPayload::Blank => Kind::Blank,
                EntryPayload::Normal(commands) => {
                    out.extend_from_slice(&(commands.0.len() as u32).to_le_bytes());
                    for command in commands.0.iter() {
                        out.extend_from_slice(&(command.len() as u32).to_le_bytes());
                        out.extend_from_slice(command);
                    }
                    Kind::Commands
                }
                EntryPayload::Membership(members) => {
                    // Writing to memory cannot fail.
                    let stored = postcard::to_stdvec(&StoredMembers::from(members)).unwrap_or_default();
                    out.extend_from_slice(&stored);
                    Kind::Members
                }
            };
            (kind, entry.log_id.leader_id.term, entry.log_id.index)
        }
        Record::Vote(vote) => {
            out.push(u8::from(vote.committed));
            (Kind::Vote, vote.leader_id.term, vote.leader_id.voted_for)
        }
        Record::Truncate(after) => {
            out.push(u8::from(after.is_some()));
            (Kind::Truncate, after.map_or(0, |id| id.leader_id.term), after.map_or(0, |id| id.index))
        }
        Record::Purge(upto) => (Kind::Purge, upto.leader_id.term, upto.index),
        Record::Mark(committed) => {
            (Kind::Mark, committed.map_or(0, |id| id.leader_id.term), committed.map_or(0, |id| id.index))
        }
    };
    let payload = out.len() - start - FRAME_HEADER;
    out.resize(start + frame_bytes(payload), 0);
    let header = &mut out[start..start + FRAME_HEADER];
    header[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
    header[8] = kind as u8;
    header[12..16].copy_from_slice(&(sequence as u32).to_le_bytes());
    header[16..24].copy_from_slice(&term.to_le_bytes());
    header[24..32].copy_from_slice(&index.to_le_bytes());
    header[32..40].copy_from_slice(&synced.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 4..start + FRAME_HEADER + payload]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes that a frame takes with a payload of this length.
pub(crate) fn frame_bytes(payload: usize) -> usize {
    FRAME_HEADER + payload.next_multiple_of(8)
}

/// The header of a frame, not yet checked against its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    crc: u32,
    pub(crate) payload: u32,
    kind: u8,
    sequence: u32,
    term: u64,
    pub(crate) index: u64,
    pub(crate) synced: u64,
}

impl FrameHeader {
    /// Reads a header; `None` when it cannot be one at `offset` of segment `sequence` with `room` bytes behind it.
    pub(crate) fn read(bytes: &[u8], sequence: u64, offset: u64, room: u64) -> Option<FrameHeader> {
        let mut from = bytes.get(..FRAME_HEADER)?;
        let crc = from.get_u32_le();
        let payload = from.get_u32_le();
        let kind = from.get_u8();
        let zeros = from.get_uint_le(3);
        let header = FrameHeader {
            crc,
            payload,
            kind,
            sequence: from.get_u32_le(),
            term: from.get_u64_le(),
            index: from.get_u64_le(),
            synced: from.get_u64_le(),
        };
        let plausible = (Kind::Blank as u8..=Kind::Mark as u8).contains(&kind)
            && zeros == 0
            && header.sequence == sequence as u32
            && header.synced <= offset
            && frame_bytes(payload as usize) as u64 <= room;
        plausible.then_some(header)
    }

    pub(crate) fn bytes(&self) -> u64 {
        frame_bytes(self.payload as usize) as u64
    }

    /// Checks and reads the frame; `frame` begins with its header. `None` when it is damaged.
    pub(crate) fn decode(&self, frame: &Bytes) -> Option<Record> {
        let end = FRAME_HEADER + self.payload as usize;
        if frame.len() < end || crc32c::crc32c(&frame[4..end]) != self.crc {
            return None;
        }
        let payload = frame.slice(FRAME_HEADER..end);
        let at = id(self.term, self.index);
        let flag = payload.first().copied().unwrap_or(0) != 0;
        Some(match self.kind {
            1 => Record::Entry(LogEntry { log_id: at, payload: EntryPayload::Blank }),
            2 => Record::Entry(LogEntry { log_id: at, payload: EntryPayload::Normal(decode_commands(payload)?) }),
            3 => {
                let stored: StoredMembers = postcard::from_bytes(&payload).ok()?;
                Record::Entry(LogEntry { log_id: at, payload: EntryPayload::Membership(stored.into()) })
            }
            4 => {
                let leader_id = LeaderId { term: self.term, voted_for: self.index };
                Record::Vote(Ballot { leader_id, committed: flag })
            }
            5 => Record::Truncate(flag.then_some(at)),
            6 => Record::Purge(at),
            7 => Record::Mark((self.index > 0).then_some(at)),
            _ => return None,
        })
    }
}

fn decode_commands(mut from: Bytes) -> Option<Commands> {
    let count = from.try_get_u32_le().ok()? as usize;
    if count > from.len() / 4 {
        return None;
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        let bytes = from.try_get_u32_le().ok()? as usize;
        if bytes > from.len() {
            return None;
        }
        commands.push(from.split_to(bytes));
    }
    Some(Commands(Arc::from(commands)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(commands: &[&'static [u8]]) -> Record {
        let commands = commands.iter().map(|c| Bytes::from_static(c)).collect::<Vec<_>>();
        Record::Entry(LogEntry { log_id: id(3, 9), payload: EntryPayload::Normal(Commands(Arc::from(commands))) })
    }

    fn read(bytes: Vec<u8>) -> Option<Record> {
        let room = bytes.len() as u64;
        FrameHeader::read(&bytes, 5, 512, room)?.decode(&Bytes::from(bytes))
    }

    #[test]
    fn every_record_reads_back() {
        let members = Members::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, BasicNode::new("a")), (3, BasicNode::new("c"))]),
        )
        .unwrap();
        for record in [
            entry(&[b"one", b"", b"three"]),
            Record::Entry(LogEntry { log_id: id(1, 2), payload: EntryPayload::Blank }),
            Record::Entry(LogEntry { log_id: id(1, 2), payload: EntryPayload::Membership(members) }),
            Record::Vote(Ballot { leader_id: LeaderId { term: 7, voted_for: 2 }, committed: true }),
            Record::Truncate(None),
            Record::Truncate(Some(id(2, 4))),
            Record::Purge(id(2, 4)),
            Record::Mark(None),
            Record::Mark(Some(id(2, 4))),
        ] {
            let mut bytes = Vec::new();
            encode(&record, 5, 512, &mut bytes);
            assert_eq!(bytes.len() % 8, 0);
            assert_eq!(read(bytes), Some(record));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_that_counts_is_noticed() {
        let mut good = Vec::new();
        encode(&entry(&[b"12345678"]), 5, 512, &mut good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(bad), None, "bit {bit}");
        }
    }

    #[test]
    fn a_segment_header_reads_back_and_is_refused_when_damaged_or_newer() {
        let header = SegmentHeader {
            node: 1,
            sequence: 4,
            prev_end: 777,
            last: Some(id(2, 90)),
            purged: None,
            vote: Some(Ballot { leader_id: LeaderId { term: 2, voted_for: 1 }, committed: true }),
        };
        let good = header.encode();
        assert_eq!(SegmentHeader::decode(&good), Ok(header));
        let mut bad = good;
        bad[40] ^= 1;
        assert!(matches!(SegmentHeader::decode(&bad), Err(BadHeader::Damaged(_))));
        let mut newer = good;
        newer[8] = 9;
        assert_eq!(SegmentHeader::decode(&newer), Err(BadHeader::Newer(9)));
    }
}
