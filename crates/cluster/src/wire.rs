//! What the servers of a cluster say to each other, as bytes.
//!
//! ```text
//! request  = version u8 (1), kind u8, body
//! answer   = 0 u8, body, or 1 u8, text: the server could not answer, and says why
//! vote     = term u64, node u64, committed u8
//! id       = present u8, term u64, index u64
//! append   = vote, previous id, commit id, frame*       (frames as in log/frame.rs, with segment 0)
//! ballot   = vote, last id, transfer u8                 (asked for a vote, or whether one would be given)
//! transfer = vote, to u64, last id
//! piece    = vote, session u64, offset u64, last u8, bytes of a snapshot's file
//! announce = node u64, address as UTF-8
//! word     = bytes that the state machine's owner understands
//! still    = vote
//! ```
//!
//! All numbers are little-endian. Own forms, because the engine's types may change; an unknown version or kind is answered
//! with an error, so a newer server can ask an older one and hear that it does not know.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};

use crate::Position;
use crate::log::frame::{self, FrameHeader, Record};
use crate::raft::{Ballot, Id, LeaderId, Types, id};

const VERSION: u8 = 1;

/// A message, taken apart.
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    Piece(Piece),
    /// Where must a reader be to see all that was answered?
    ReadPoint,
    /// A command for the primary.
    Propose(Bytes),
    /// A server says where it is reached.
    Announce {
        id: u64,
        address: String,
    },
    /// Soft state of the primary: nobody logs it, and a lost one is made good by the next.
    Word(Bytes),
    /// Has nobody who came after this primary been promised anything?
    Still(Ballot),
}

/// A part of a snapshot's file.
pub(crate) struct Piece {
    pub(crate) vote: Ballot,
    /// Which sending of a snapshot it belongs to.
    pub(crate) session: u64,
    pub(crate) offset: u64,
    pub(crate) last: bool,
    pub(crate) bytes: Bytes,
}

mod kind {
    pub(super) const APPEND: u8 = 1;
    pub(super) const VOTE: u8 = 2;
    pub(super) const PRE_VOTE: u8 = 3;
    pub(super) const TRANSFER: u8 = 4;
    pub(super) const PIECE: u8 = 5;
    pub(super) const READ_POINT: u8 = 6;
    pub(super) const PROPOSE: u8 = 7;
    pub(super) const ANNOUNCE: u8 = 8;
    pub(super) const WORD: u8 = 9;
    pub(super) const STILL: u8 = 10;
}

fn begin(kind: u8, capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(2 + capacity);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out
}

fn put_vote(out: &mut BytesMut, vote: &Ballot) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

fn put_id(out: &mut BytesMut, id: Option<&Id>) {
    out.put_u8(u8::from(id.is_some()));
    out.put_u64_le(id.map_or(0, |id| id.leader_id.term));
    out.put_u64_le(id.map_or(0, |id| id.index));
}

fn get_vote(from: &mut Bytes) -> Option<Ballot> {
    let (term, voted_for) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
    Some(Ballot { leader_id: LeaderId { term, voted_for }, committed: from.try_get_u8().ok()? != 0 })
}

fn get_id(from: &mut Bytes) -> Option<Option<Id>> {
    let present = from.try_get_u8().ok()? != 0;
    let (term, index) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
    // No entry could follow the last of all.
    (index != u64::MAX).then_some(present.then(|| id(term, index)))
}

pub(crate) fn append(request: AppendEntriesRequest<Types>) -> Bytes {
    let mut out = begin(kind::APPEND, 64);
    put_vote(&mut out, &request.vote);
    put_id(&mut out, request.prev_log_id.as_ref());
    put_id(&mut out, request.leader_commit.as_ref());
    let mut out = Vec::from(out);
    for entry in request.entries {
        frame::encode(&Record::Entry(entry), 0, 0, &mut out);
    }
    out.into()
}

pub(crate) fn vote(request: &VoteRequest<Types>, pre: bool) -> Bytes {
    let mut out = begin(if pre { kind::PRE_VOTE } else { kind::VOTE }, 48);
    put_vote(&mut out, &request.vote);
    put_id(&mut out, request.last_log_id.as_ref());
    out.put_u8(u8::from(request.leadership_transfer));
    out.freeze()
}

pub(crate) fn transfer(request: &TransferLeaderRequest<Types>) -> Bytes {
    let mut out = begin(kind::TRANSFER, 48);
    put_vote(&mut out, request.from_leader());
    out.put_u64_le(*request.to_node_id());
    put_id(&mut out, request.last_log_id());
    out.freeze()
}

pub(crate) fn piece(piece: &Piece) -> Bytes {
    let mut out = begin(kind::PIECE, 48 + piece.bytes.len());
    put_vote(&mut out, &piece.vote);
    out.put_u64_le(piece.session);
    out.put_u64_le(piece.offset);
    out.put_u8(u8::from(piece.last));
    out.extend_from_slice(&piece.bytes);
    out.freeze()
}

pub(crate) fn read_point() -> Bytes {
    begin(kind::READ_POINT, 0).freeze()
}

pub(crate) fn propose(command: &[u8]) -> Bytes {
    let mut out = begin(kind::PROPOSE, command.len());
    out.extend_from_slice(command);
    out.freeze()
}

pub(crate) fn announce(id: u64, address: &str) -> Bytes {
    let mut out = begin(kind::ANNOUNCE, 8 + address.len());
    out.put_u64_le(id);
    out.extend_from_slice(address.as_bytes());
    out.freeze()
}

pub(crate) fn word(bytes: &[u8]) -> Bytes {
    let mut out = begin(kind::WORD, bytes.len());
    out.extend_from_slice(bytes);
    out.freeze()
}

pub(crate) fn still(vote: &Ballot) -> Bytes {
    let mut out = begin(kind::STILL, 17);
    put_vote(&mut out, vote);
    out.freeze()
}

/// Reads a request; an error in words when it cannot be understood.
pub(crate) fn request(mut from: Bytes) -> Result<Request, String> {
    let (Ok(version), Ok(kind)) = (from.try_get_u8(), from.try_get_u8()) else {
        return Err("the message is empty".to_owned());
    };
    if version != VERSION {
        return Err(format!("this server does not know version {version} of the messages between servers"));
    }
    let read = match kind {
        kind::APPEND => get_append(&mut from).map(Request::Append),
        kind::VOTE => get_ballot(&mut from).map(Request::Vote),
        kind::PRE_VOTE => get_ballot(&mut from).map(Request::PreVote),
        kind::TRANSFER => get_transfer(&mut from).map(Request::Transfer),
        kind::PIECE => get_piece(&mut from).map(Request::Piece),
        kind::READ_POINT => Some(Request::ReadPoint),
        kind::PROPOSE => Some(Request::Propose(std::mem::take(&mut from))),
        kind::ANNOUNCE => get_announce(&mut from),
        kind::WORD => Some(Request::Word(std::mem::take(&mut from))),
        kind::STILL => get_vote(&mut from).map(Request::Still),
        _ => return Err(format!("this server does not know messages of kind {kind}")),
    };
    read.filter(|_| from.is_empty()).ok_or_else(|| format!("a message of kind {kind} is damaged"))
}

fn get_append(from: &mut Bytes) -> Option<AppendEntriesRequest<Types>> {
    let (vote, prev_log_id, leader_commit) = (get_vote(from)?, get_id(from)?, get_id(from)?);
    let mut entries = Vec::new();
    while !from.is_empty() {
        let header = FrameHeader::read(from, 0, 0, from.len() as u64)?;
        let Record::Entry(entry) = header.decode(&from.split_to(header.bytes() as usize))? else { return None };
        if entry.log_id.index == u64::MAX {
            return None;
        }
        entries.push(entry);
    }
    Some(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn get_ballot(from: &mut Bytes) -> Option<VoteRequest<Types>> {
    let (vote, last_log_id) = (get_vote(from)?, get_id(from)?);
    Some(VoteRequest { vote, last_log_id, leadership_transfer: from.try_get_u8().ok()? != 0 })
}

fn get_transfer(from: &mut Bytes) -> Option<TransferLeaderRequest<Types>> {
    let (vote, to) = (get_vote(from)?, from.try_get_u64_le().ok()?);
    Some(TransferLeaderRequest::new(vote, to, get_id(from)?))
}

fn get_piece(from: &mut Bytes) -> Option<Piece> {
    let (vote, session, offset) = (get_vote(from)?, from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
    let last = from.try_get_u8().ok()? != 0;
    Some(Piece { vote, session, offset, last, bytes: std::mem::take(from) })
}

fn get_announce(from: &mut Bytes) -> Option<Request> {
    let id = from.try_get_u64_le().ok()?;
    let address = String::from_utf8(std::mem::take(from).into()).ok()?;
    Some(Request::Announce { id, address })
}

/// The front of an answer that is one.
fn answer() -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(0);
    out
}

/// An answer that says why there is none.
pub(crate) fn refusal(why: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + why.len());
    out.put_u8(1);
    out.extend_from_slice(why.as_bytes());
    out.freeze()
}

/// The body of an answer, or the words of a refusal.
pub(crate) fn answered(mut from: Bytes) -> Result<Bytes, String> {
    match from.try_get_u8() {
        Ok(0) => Ok(from),
        Ok(1) => Err(String::from_utf8_lossy(&from).into_owned()),
        _ => Err("the answer is damaged".to_owned()),
    }
}

pub(crate) fn answer_append(response: &AppendEntriesResponse<Types>) -> Bytes {
    let mut out = answer();
    match response {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(upto) => {
            out.put_u8(1);
            put_id(&mut out, upto.as_ref());
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            put_vote(&mut out, vote);
        }
    }
    out.freeze()
}

pub(crate) fn append_answer(mut from: Bytes) -> Option<AppendEntriesResponse<Types>> {
    Some(match from.try_get_u8().ok()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(get_id(&mut from)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(get_vote(&mut from)?),
        _ => return None,
    })
}

pub(crate) fn answer_vote(response: &VoteResponse<Types>) -> Bytes {
    let mut out = answer();
    put_vote(&mut out, &response.vote);
    out.put_u8(u8::from(response.vote_granted));
    put_id(&mut out, response.last_log_id.as_ref());
    out.freeze()
}

pub(crate) fn vote_answer(mut from: Bytes) -> Option<VoteResponse<Types>> {
    let (vote, granted) = (get_vote(&mut from)?, from.try_get_u8().ok()? != 0);
    Some(VoteResponse::new(vote, get_id(&mut from)?, granted))
}

/// A vote alone: what answers a piece.
pub(crate) fn answer_piece(vote: &Ballot) -> Bytes {
    let mut out = answer();
    put_vote(&mut out, vote);
    out.freeze()
}

pub(crate) fn piece_answer(mut from: Bytes) -> Option<Ballot> {
    get_vote(&mut from)
}

pub(crate) fn answer_nothing() -> Bytes {
    answer().freeze()
}

pub(crate) fn answer_position(at: Position) -> Bytes {
    let mut out = answer();
    out.put_u64_le(at.term);
    out.put_u64_le(at.index);
    out.freeze()
}

pub(crate) fn position_answer(mut from: Bytes) -> Option<Position> {
    Some(Position { term: from.try_get_u64_le().ok()?, index: from.try_get_u64_le().ok()? })
}

pub(crate) fn answer_reply(reply: &[u8]) -> Bytes {
    let mut out = answer();
    out.extend_from_slice(reply);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::EntryPayload;

    use super::*;
    use crate::raft::{Commands, LogEntry};

    fn ballot(committed: bool) -> Ballot {
        Ballot { leader_id: LeaderId { term: 7, voted_for: 2 }, committed }
    }

    #[test]
    fn entries_arrive_as_they_were_sent() {
        let commands = Commands(Arc::from(vec![Bytes::from_static(b"one"), Bytes::new()]));
        let entries = vec![
            LogEntry { log_id: id(7, 4), payload: EntryPayload::Blank },
            LogEntry { log_id: id(7, 5), payload: EntryPayload::Normal(commands) },
        ];
        let sent = AppendEntriesRequest {
            vote: ballot(true),
            prev_log_id: Some(id(6, 3)),
            entries: entries.clone(),
            leader_commit: None,
        };
        let Ok(Request::Append(got)) = request(append(sent)) else { panic!("not understood") };
        assert_eq!((got.vote, got.prev_log_id, got.leader_commit), (ballot(true), Some(id(6, 3)), None));
        assert_eq!(got.entries, entries);
    }

    #[test]
    fn questions_and_answers_read_back() {
        let asked = VoteRequest { vote: ballot(false), last_log_id: Some(id(6, 3)), leadership_transfer: true };
        assert!(matches!(request(vote(&asked, false)), Ok(Request::Vote(got)) if got == asked));
        assert!(matches!(request(vote(&asked, true)), Ok(Request::PreVote(got)) if got == asked));
        let moved = TransferLeaderRequest::new(ballot(true), 3, None);
        assert!(matches!(request(transfer(&moved)), Ok(Request::Transfer(got)) if got == moved));
        assert!(
            matches!(request(announce(3, "b:7600")), Ok(Request::Announce { id: 3, address }) if address == "b:7600")
        );
        assert!(matches!(request(propose(b"command")), Ok(Request::Propose(got)) if &got[..] == b"command"));
        assert!(matches!(request(read_point()), Ok(Request::ReadPoint)));
        assert!(matches!(request(word(b"load")), Ok(Request::Word(got)) if &got[..] == b"load"));
        let bytes = Bytes::from_static(b"piece");
        let sent = piece(&Piece { vote: ballot(true), session: 9, offset: 5, last: true, bytes: bytes.clone() });
        let Ok(Request::Piece(got)) = request(sent) else { panic!("not understood") };
        assert_eq!((got.vote, got.session, got.offset, got.last, got.bytes), (ballot(true), 9, 5, true, bytes));

        for response in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(id(1, 2))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(ballot(false)),
        ] {
            assert_eq!(append_answer(answered(answer_append(&response)).unwrap()), Some(response));
        }
        let given = VoteResponse::new(ballot(false), Some(id(1, 2)), true);
        assert_eq!(vote_answer(answered(answer_vote(&given)).unwrap()), Some(given));
        let at = Position { term: 3, index: 9 };
        assert_eq!(position_answer(answered(answer_position(at)).unwrap()), Some(at));
        assert_eq!(answered(refusal("no")), Err("no".to_owned()));
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_not_understood() {
        let whole = [
            vote(&VoteRequest { vote: ballot(false), last_log_id: None, leadership_transfer: false }, false),
            transfer(&TransferLeaderRequest::new(ballot(true), 3, None)),
        ];
        for message in whole {
            for end in 0..message.len() {
                assert!(request(message.slice(..end)).is_err(), "{end}");
            }
            let longer = Bytes::from([&message[..], b"x"].concat());
            assert!(request(longer).is_err());
        }
        assert!(request(Bytes::from_static(&[9, 1])).is_err());
        assert!(request(Bytes::from_static(&[VERSION, 99])).is_err());
    }
}
