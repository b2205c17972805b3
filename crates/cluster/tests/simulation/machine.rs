//! The machine of the simulated servers: lists under keys, and what nobody may see of it otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use byname_cluster::{Frozen, Machine, Position};
use byname_sim::linear::Model;
use byname_sim::violation;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What may be asked of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Ask {
    Read,
    /// Makes it a list of this alone.
    Set(u32),
    Append(u32),
    /// Appends if the list is so long.
    AppendAt(u32, u32),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Answer {
    List(Vec<u32>),
    /// Done; the list is so long now.
    Done(u32),
    /// Not done: the list is so long.
    Not(u32),
    /// The request is older than one that was answered.
    Late,
}

impl Ask {
    pub(crate) fn make(&self, list: &mut Vec<u32>) -> Answer {
        match *self {
            Ask::Read => return Answer::List(list.clone()),
            Ask::Set(value) => *list = vec![value],
            Ask::AppendAt(length, _) if list.len() != length as usize => return Answer::Not(list.len() as u32),
            Ask::Append(value) | Ask::AppendAt(_, value) => list.push(value),
        }
        Answer::Done(list.len() as u32)
    }
}

/// One list, without servers.
pub(crate) struct List;

impl Model for List {
    type State = Vec<u32>;
    type Input = Ask;
    type Output = Answer;

    fn new() -> Vec<u32> {
        Vec::new()
    }

    fn step(state: &Vec<u32>, input: &Ask, output: Option<&Answer>) -> Option<Vec<u32>> {
        let mut next = state.clone();
        let answer = input.make(&mut next);
        output.is_none_or(|output| *output == answer).then_some(next)
    }
}

/// A write with its request id.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) client: u64,
    pub(crate) sequence: u64,
    pub(crate) key: u8,
    pub(crate) ask: Ask,
    pub(crate) padding: Vec<u8>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {} of client {:x} ({:?} of list {})", self.sequence, self.client, self.ask, self.key)
    }
}

impl Command {
    pub(crate) fn bytes(&self) -> Bytes {
        postcard::to_stdvec(self).expect("a command").into()
    }
}

pub(crate) fn answer_of(bytes: &[u8]) -> Answer {
    postcard::from_bytes(bytes).expect("an answer")
}

/// What all servers together applied. It belongs to the world and outlives every server.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<u64, Entry>,
    /// With which entry a request took effect, and as which of its commands.
    effects: BTreeMap<(u64, u64), (u64, u64)>,
    /// The terms of entries that were shown, those without commands among them.
    terms: BTreeMap<u64, (u64, u64)>,
}

struct Entry {
    term: u64,
    /// Of all commands up to here.
    chain: u64,
    by: u64,
}

impl Ledger {
    /// Server `by` applies an entry: it must be the one that others applied.
    fn enter(&mut self, by: u64, at: Position, chain: u64) {
        let entry = self.entries.entry(at.index).or_insert(Entry { term: at.term, chain, by });
        if entry.term != at.term || entry.chain != chain {
            violation(format!(
                "server {by} applies another entry {} (of term {}) than server {} did (of term {}), or other ones before it",
                at.index, at.term, entry.by, entry.term
            ));
        }
    }

    /// Server `by` shows what it has up to here.
    fn shown(&mut self, by: u64, at: Position) {
        let (term, first) = *self.terms.entry(at.index).or_insert((at.term, by));
        if term != at.term {
            violation(format!(
                "entry {} is of term {} on server {by} and of term {term} on server {first}",
                at.index, at.term
            ));
        }
    }

    fn effect(&mut self, by: u64, command: &Command, place: (u64, u64)) {
        let first = *self.effects.entry((command.client, command.sequence)).or_insert(place);
        if first != place {
            violation(format!("{command:?} took effect as {first:?}, and on server {by} as {place:?}"));
        }
    }

    /// The last entry with commands that any server applied.
    pub(crate) fn last(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(0)
    }

    /// With which entry a request took effect, and as which of its commands.
    pub(crate) fn place(&self, client: u64, sequence: u64) -> Option<(u64, u64)> {
        self.effects.get(&(client, sequence)).copied()
    }
}

/// What a server shows to its readers.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) lists: Arc<BTreeMap<u8, Vec<u32>>>,
    pub(crate) at: Position,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    lists: Arc<BTreeMap<u8, Vec<u32>>>,
    /// The last request of each client and its answer.
    sessions: BTreeMap<u64, (u64, Answer)>,
    chain: u64,
    /// The entry that the chain ends with.
    last: u64,
}

pub(crate) struct Lists {
    server: u64,
    state: State,
    ledger: Arc<Mutex<Ledger>>,
    view: Arc<Mutex<View>>,
    /// What a process does after its end is seen by nobody.
    ended: Arc<AtomicBool>,
}

impl Lists {
    pub(crate) fn new(server: u64, ledger: Arc<Mutex<Ledger>>, ended: Arc<AtomicBool>) -> (Lists, Arc<Mutex<View>>) {
        let view = Arc::<Mutex<View>>::default();
        (Lists { server, state: State::default(), ledger, view: Arc::clone(&view), ended }, view)
    }

    fn apply_one(&mut self, command: &Command, place: (u64, u64), ledger: &mut Ledger) -> Answer {
        match self.state.sessions.get(&command.client) {
            Some((sequence, answer)) if *sequence == command.sequence => return answer.clone(),
            Some((sequence, _)) if *sequence > command.sequence => return Answer::Late,
            _ => {}
        }
        ledger.effect(self.server, command, place);
        let answer = command.ask.make(Arc::make_mut(&mut self.state.lists).entry(command.key).or_default());
        self.state.sessions.insert(command.client, (command.sequence, answer.clone()));
        answer
    }
}

impl Machine for Lists {
    fn apply(&mut self, at: Position, commands: &[Bytes]) -> io::Result<Vec<Bytes>> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(vec![Bytes::new(); commands.len()]);
        }
        if at.index <= self.state.last && self.state.last > 0 {
            violation(format!("server {} applies entry {} behind {}", self.server, at.index, self.state.last));
        }
        let mut hasher = DefaultHasher::new();
        (self.state.chain, at, commands).hash(&mut hasher);
        self.state.chain = hasher.finish();
        self.state.last = at.index;
        let ledger = Arc::clone(&self.ledger);
        let mut ledger = ledger.lock().unwrap();
        ledger.enter(self.server, at, self.state.chain);
        ledger.shown(self.server, at);
        let mut replies = Vec::new();
        for (number, bytes) in (0..).zip(commands) {
            let command = postcard::from_bytes(bytes).expect("a command");
            let answer = self.apply_one(&command, (at.index, number), &mut ledger);
            replies.push(postcard::to_stdvec(&answer).expect("an answer").into());
        }
        Ok(replies)
    }

    fn publish(&mut self, at: Position) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        self.ledger.lock().unwrap().shown(self.server, at);
        let mut view = self.view.lock().unwrap();
        if view.at > at {
            violation(format!("server {} shows {at:?} after {:?}", self.server, view.at));
        }
        *view = View { lists: Arc::clone(&self.state.lists), at };
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.state.clone())
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        self.state = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        let known = self.ledger.lock().unwrap().entries.get(&self.state.last).map(|entry| entry.chain);
        if known.is_some_and(|chain| chain != self.state.chain) && !self.ended.load(Ordering::Relaxed) {
            violation(format!("server {} restores another state at entry {}", self.server, self.state.last));
        }
        Ok(())
    }
}

impl Frozen for State {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&postcard::to_stdvec(&*self).map_err(io::Error::other)?)
    }
}
