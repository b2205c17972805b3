//! What a server answers to the others.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{Raft, Snapshot};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::disk::{DiskFile, blocking};
use crate::raft::{Ballot, Id, LeaderId, Types};
use crate::snapshot::{SnapshotFile, Snapshots};
use crate::state::StateMachine;
use crate::wire::{self, Piece, Request};

/// The end of the line from the other servers.
pub(crate) struct Answering {
    raft: Raft<Types, StateMachine>,
    snapshots: Arc<Snapshots>,
    incoming: Mutex<Option<Incoming>>,
    /// The last snapshot that was whole.
    whole: Mutex<Option<Whole>>,
    /// One is taken up at a time.
    turn: tokio::sync::Mutex<()>,
    heard: Mutex<Heard>,
    appends: Mutex<Appends>,
}

/// How far the entries of the primary reach here, as far as it matters for a snapshot of the same primary: the engine must not
/// take up one that ends before them. A snapshot that was long on its way may.
#[derive(Default)]
struct Appends {
    of: Option<LeaderId>,
    /// On disk and as the primary has them up to here.
    matched: Option<u64>,
    /// So many messages reach this far and are not answered.
    under_way: BTreeMap<u64, usize>,
}

/// A message of the primary that is not answered yet.
struct Append<'a> {
    appends: &'a Mutex<Appends>,
    of: LeaderId,
    upto: Option<u64>,
    taken: bool,
}

impl<'a> Append<'a> {
    fn begin(appends: &'a Mutex<Appends>, rpc: &AppendEntriesRequest<Types>) -> Append<'a> {
        let of = rpc.vote.leader_id;
        let upto = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id).map(|id| id.index);
        let mut all = appends.lock();
        if all.of.is_none_or(|known| known.term < of.term) {
            *all = Appends { of: Some(of), ..Appends::default() };
        }
        if let Some(upto) = upto.filter(|_| all.of == Some(of)) {
            *all.under_way.entry(upto).or_default() += 1;
        }
        Append { appends, of, upto, taken: false }
    }
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        let mut all = self.appends.lock();
        let (true, Some(upto)) = (all.of == Some(self.of), self.upto) else { return };
        if let Some(count) = all.under_way.get_mut(&upto) {
            *count -= 1;
            if *count == 0 {
                all.under_way.remove(&upto);
            }
        }
        if self.taken {
            all.matched = all.matched.max(Some(upto));
        }
    }
}

/// When the primary was heard, as far as it says something about what is read here.
#[derive(Default)]
struct Heard {
    /// Everything that it had answered then is applied here.
    had: Option<Instant>,
    /// It was heard then, and had answered up to here, which may not be applied yet.
    next: Option<(Instant, Option<Id>)>,
}

/// A snapshot that is being received.
struct Incoming {
    vote: Ballot,
    session: u64,
    file: Arc<dyn DiskFile>,
    whole: SnapshotFile,
    at: u64,
}

/// A snapshot that was received whole, and what comes of it.
struct Whole {
    vote: Ballot,
    session: u64,
    outcome: watch::Receiver<Option<Result<Ballot, String>>>,
}

/// What a piece was.
enum Put {
    Part,
    /// The last one.
    Last(Incoming, watch::Sender<Option<Result<Ballot, String>>>),
    /// The last one once more, because the answer was lost or takes long.
    Again(watch::Receiver<Option<Result<Ballot, String>>>),
}

impl Answering {
    pub(crate) fn new(raft: Raft<Types, StateMachine>, snapshots: Arc<Snapshots>) -> Answering {
        let (incoming, whole, turn, heard, appends) = Default::default();
        Answering { raft, snapshots, incoming, whole, turn, heard, appends }
    }

    /// How old what is read here may be: the time since the primary was heard when it had answered nothing that is not here.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let applied = self.applied();
        let mut heard = self.heard.lock();
        self.settle(&mut heard, applied);
        heard.had.map(|had| had.elapsed())
    }

    fn settle(&self, heard: &mut Heard, applied: Option<Id>) {
        if let Some((when, answered)) = heard.next
            && answered <= applied
        {
            (heard.had, heard.next) = (Some(when), None);
        }
    }

    /// What is applied here. Never asked with `heard` locked.
    fn applied(&self) -> Option<Id> {
        self.raft.metrics().borrow_watched().last_applied
    }

    /// The primary is heard, and has answered up to here.
    fn hear(&self, answered: Option<Id>) {
        let applied = self.applied();
        let mut heard = self.heard.lock();
        self.settle(&mut heard, applied);
        // The oldest that is open stays, or there would always be a newer one that is open.
        heard.next.get_or_insert((Instant::now(), answered));
        self.settle(&mut heard, applied);
    }

    /// Answers what is between engines. The messages with entries reach the engine in the order in which the futures are
    /// first polled.
    pub(crate) async fn answer(self: Arc<Self>, request: Request) -> Bytes {
        let answer = match request {
            Request::Append(rpc) => {
                let (vote, answered) = (rpc.vote, rpc.leader_commit);
                let mut append = Append::begin(&self.appends, &rpc);
                self.raft.append_entries(rpc).await.map(|response| {
                    append.taken = matches!(response, AppendEntriesResponse::Success);
                    if append.taken && vote.committed {
                        self.hear(answered);
                    }
                    wire::answer_append(&response)
                })
            }
            Request::Vote(rpc) => self.raft.vote(rpc).await.map(|response| wire::answer_vote(&response)),
            Request::PreVote(rpc) => self.raft.pre_vote(rpc).await.map(|response| wire::answer_vote(&response)),
            Request::Transfer(rpc) => {
                let taken = self.raft.handle_transfer_leader(rpc).await;
                return taken.map_or_else(|e| wire::refusal(&e.to_string()), |_| wire::answer_nothing());
            }
            Request::Piece(piece) => {
                let taken = self.take_piece(piece).await;
                return taken.unwrap_or_else(|error| wire::refusal(&error.to_string()));
            }
            Request::ReadPoint
            | Request::Propose(_)
            | Request::Announce { .. }
            | Request::Word(_)
            | Request::Still(_) => {
                return wire::refusal("not a message between engines");
            }
        };
        answer.unwrap_or_else(|error| wire::refusal(&error.to_string()))
    }

    /// Takes a piece of a snapshot; with the last one, gives the whole to the engine.
    async fn take_piece(self: &Arc<Self>, piece: Piece) -> io::Result<Bytes> {
        let mut outcome = match self.put_piece(&piece)? {
            Put::Part => return Ok(wire::answer_piece(&piece.vote)),
            Put::Last(incoming, tell) => {
                let outcome = tell.subscribe();
                let this = Arc::clone(self);
                // Whoever asked may go away, and come again with the same piece.
                tokio::spawn(async move {
                    let outcome = this.take_up(incoming).await.map_err(|error| error.to_string());
                    tell.send_replace(Some(outcome));
                });
                outcome
            }
            Put::Again(outcome) => outcome,
        };
        let given_up = || Err("the snapshot was given up".to_owned());
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(given_up).map(|vote| wire::answer_piece(&vote)).map_err(io::Error::other)
    }

    /// Checks what was received and gives it to the engine; says what vote this server has then.
    async fn take_up(&self, incoming: Incoming) -> io::Result<Ballot> {
        let _turn = self.turn.lock().await;
        let snapshots = Arc::clone(&self.snapshots);
        // Everything that can go wrong with a disk goes wrong here, before the engine hears of it: it stops for good when
        // a snapshot cannot be installed.
        let vote = incoming.vote;
        let check_in = move || snapshots.check_in(&incoming.whole);
        let (meta, snapshot) = blocking(self.snapshots.disk(), check_in).await??;
        if let Some(last) = &meta.last_log_id {
            let (matched, coming) = {
                let appends = self.appends.lock();
                let same = appends.of == Some(vote.leader_id);
                let coming = appends.under_way.last_key_value().is_some_and(|(upto, _)| *upto >= last.index);
                (same && appends.matched >= Some(last.index), same && coming)
            };
            if matched || coming {
                self.snapshots.discard(&snapshot);
            }
            if matched {
                return self.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(io::Error::other);
            }
            if coming {
                return Err(io::Error::other("entries behind the snapshot are on their way to the disk"));
            }
        }
        let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        let response = installed.map_err(io::Error::other)?;
        Ok(response.vote)
    }

    /// Writes a piece into its place.
    fn put_piece(&self, piece: &Piece) -> io::Result<Put> {
        if let Some(whole) = &*self.whole.lock()
            && (whole.vote, whole.session) == (piece.vote, piece.session)
        {
            return Ok(if piece.last { Put::Again(whole.outcome.clone()) } else { Put::Part });
        }
        let mut slot = self.incoming.lock();
        let known = slot.as_ref().is_some_and(|got| got.vote == piece.vote && got.session == piece.session);
        if piece.offset == 0 && !known {
            if slot.as_ref().is_some_and(|got| got.vote > piece.vote) {
                return Err(io::Error::other("another primary sends a snapshot"));
            }
            let (file, whole) = self.snapshots.incoming(piece.vote.leader_id.term, piece.session)?;
            if let Some(old) = slot.take() {
                self.snapshots.discard(&old.whole);
            }
            *slot = Some(Incoming { vote: piece.vote, session: piece.session, file, whole, at: 0 });
        }
        let Some(end) = piece.offset.checked_add(piece.bytes.len() as u64) else {
            return Err(io::Error::other("a piece of the snapshot is damaged"));
        };
        let current = |got: &&mut Incoming| got.vote == piece.vote && got.session == piece.session;
        match slot.as_mut().filter(current) {
            // A message that came twice.
            Some(got) if end <= got.at && !piece.last => return Ok(Put::Part),
            Some(got) if piece.offset == got.at => {
                got.file.write_at(&piece.bytes, piece.offset)?;
                got.at = end;
            }
            _ => return Err(io::Error::other("a piece of the snapshot before this one is missing")),
        }
        match slot.take_if(|_| piece.last) {
            None => Ok(Put::Part),
            Some(got) => {
                let (tell, outcome) = watch::channel(None);
                *self.whole.lock() = Some(Whole { vote: piece.vote, session: piece.session, outcome });
                Ok(Put::Last(got, tell))
            }
        }
    }
}
