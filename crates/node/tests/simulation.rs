//! One server on a disk that fails, through many lives: clients write, power goes, syncs fail, the disk fills up, and
//! after every start the tree must be what the clients were told.
//!
//! Held after each start, against a model of what was answered:
//!
//! - every answered write is there, no refused one is, and one whose answer was lost is there whole or not at all,
//! - a write sent again under its request id, at once, beside itself or in a later life, is applied once and answered alike,
//! - versions, revisions and ids never go back,
//! - a counter that all clients raise by compare-and-set has gone up once for every raise that was answered.
//!
//! A seed fixes the commands and the faults; the order of threads it does not. `BYNAME_SIMULATION_SECONDS` (default 25) says
//! for how long new seeds are tried, `BYNAME_SIMULATION_SEED` from which on, and with `BYNAME_SIMULATION_ONLY` no other than
//! that one is tried, again and again.

mod model;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::error::{Code, Result};
use byname_api::object::{Kind, Spec, Version};
use byname_api::request::{BatchReply, BatchRequest, Context, ListRequest, Op, Outcome, ReadRequest, RequestId};
use byname_api::span::Timestamp;
use byname_cluster::OpenError;
use byname_name::Name;
use byname_node::{Config, Node};
use byname_sim::FaultyDisk;
use model::{Model, Object};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DIR: &str = "/node";
const CLIENTS: usize = 3;
const LIVES: u64 = 5;
/// Side by side; most of the time they wait for each other's faults.
const WORLDS: usize = 8;
/// Answers that a client sends for again in later lives.
const REMEMBERED: usize = 24;
const ROOM: u64 = 1 << 30;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_every_fault_and_once() {
    let until = Instant::now() + Duration::from_secs(variable("BYNAME_SIMULATION_SECONDS").unwrap_or(25));
    let first = variable("BYNAME_SIMULATION_SEED").unwrap_or(0);
    let only = variable("BYNAME_SIMULATION_ONLY").is_some();
    let (mut worlds, mut seed, mut lived) = (tokio::task::JoinSet::new(), first, 0u64);
    let mut seen = Seen::default();
    loop {
        while worlds.len() < WORLDS && Instant::now() < until {
            let this = seed;
            worlds.spawn(async move { (this, tokio::spawn(live_and_die(this)).await) });
            seed = if only { seed } else { seed + 1 };
        }
        match worlds.join_next().await {
            None => break,
            Some(Ok((_, Ok(of_one)))) => {
                lived += 1;
                seen.add(&of_one);
            }
            Some(Ok((seed, Err(_)))) => panic!(
                "seed {seed} failed as said above; again: BYNAME_SIMULATION_ONLY=1 BYNAME_SIMULATION_SEED={seed} cargo test \
                 -p byname-node --test simulation"
            ),
            Some(Err(error)) => panic!("{error}"),
        }
    }
    println!("{lived} seeds from {first} on, {LIVES} lives each: {seen:?}");
    // A machine that is so slow that it tries less shows less.
    if lived >= 20 && !only {
        let Seen { answers, raised, refused, lost_and_there, lost_and_gone, again, snapshots } = seen;
        let all = [answers, raised, refused, lost_and_there, lost_and_gone, again, snapshots];
        assert!(all.iter().all(|count| *count > 0), "the simulation does not try what it should: {seen:?}");
    }
}

/// How often something happened.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// A write was answered.
    answers: u64,
    /// The counter was raised.
    raised: u64,
    /// A write was refused.
    refused: u64,
    /// The answer was lost with the power, and the write is there.
    lost_and_there: u64,
    /// The answer was lost, and so was the write.
    lost_and_gone: u64,
    /// A write that was answered in an earlier life was sent again.
    again: u64,
    /// A life began with a snapshot.
    snapshots: u64,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.answers += other.answers;
        self.raised += other.raised;
        self.refused += other.refused;
        self.lost_and_there += other.lost_and_there;
        self.lost_and_gone += other.lost_and_gone;
        self.again += other.again;
        self.snapshots += other.snapshots;
    }
}

/// A few lives of one server, each ended by a fault, and what its clients know.
async fn live_and_die(seed: u64) -> Seen {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut disk = FaultyDisk::new();
    let mut seen = Seen::default();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, &mut dice)).collect();
    for life in 0..LIVES {
        disk.set_free(ROOM);
        let last = life + 1 == LIVES;
        if !last {
            disk.cut_power_after(dice.random_range(0..250));
            if dice.random_ratio(1, 6) {
                disk.fail_syncs(dice.random_range(1..4));
            }
        }
        match open(&disk).await {
            Ok(node) => {
                let info = node.info(&Client::context(None)).await.expect("information");
                seen.snapshots += u64::from(info.snapshot_index > 0);
                clients = look_after_start(&node, &disk, clients).await;
                clients = work(&node, &disk, clients, !last, &mut dice).await;
                if last {
                    check_counter(&node, &clients).await;
                }
                node.shutdown().await;
            }
            // Only the power may keep it from opening.
            Err(OpenError::Io { .. }) if !last => {}
            Err(error) => panic!("life {life}: {error}"),
        }
        disk = match dice.random_range(0..8) {
            0 | 1 => disk.after_kill(),
            _ => disk.after_power_cut(dice.random()),
        };
    }
    clients.iter().for_each(|client| seen.add(&client.seen));
    seen
}

async fn open(disk: &FaultyDisk) -> std::result::Result<Node, OpenError> {
    let options = byname_cluster::Options {
        segment_bytes: 16 << 10,
        snapshot_every: 12 << 10,
        stall_patience: Duration::from_millis(20),
        ..byname_cluster::Options::new(DIR, 1)
    };
    let config = Config { dir: DIR.into(), id: 1, dns_suffix: "byname.internal".into(), version: "simulation".into() };
    Node::open_on(Arc::new(disk.clone()), options, config).await
}

/// Every client looks at what it finds. One that the power stops on its way looks again in the next life.
async fn look_after_start(node: &Node, disk: &FaultyDisk, clients: Vec<Client>) -> Vec<Client> {
    let mut looked = Vec::new();
    for mut client in clients {
        client.look(node).await;
        client.settle(node, disk).await;
        looked.push(client);
    }
    looked
}

/// All clients at once, until the power is gone or each has done its share.
async fn work(node: &Node, disk: &FaultyDisk, clients: Vec<Client>, faults: bool, dice: &mut StdRng) -> Vec<Client> {
    let full = (faults && dice.random_ratio(1, 4)).then(|| dice.random_range(0..40_000u64));
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let (node, disk) = (node.clone(), disk.clone());
            tokio::spawn(async move {
                for _ in 0..30 {
                    if !client.step(&node, &disk).await {
                        break;
                    }
                }
                client
            })
        })
        .collect();
    if let Some(room) = full {
        disk.set_free(room);
        // Real time, so that a stall lasts longer than its patience now and then.
        tokio::time::sleep(Duration::from_millis(30)).await;
        disk.set_free(ROOM);
    }
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap_or_else(|error| panic!("{error}")));
    }
    done
}

/// Every raise that was answered, and no other: those whose answer was lost were sent until they had one.
async fn check_counter(node: &Node, clients: &[Client]) {
    let raised: u64 = clients.iter().map(|client| client.seen.raised).sum();
    let open = clients.iter().any(|client| client.pending.is_some());
    assert!(!open, "on a good disk every write is answered");
    let counter = read_counter(node).await.map_or(0, |(value, _)| value);
    assert_eq!(counter, raised, "the counter and the raises that were answered");
}

async fn read_counter(node: &Node) -> Option<(u64, Version)> {
    let request = ReadRequest { name: name("/counter"), consistent: false };
    match node.read(&Client::context(None), request).await {
        Ok(reply) => Some((reply.object.spec.value?.parse().expect("a number"), reply.object.version)),
        Err(error) if error.code() == Code::NotFound => None,
        Err(error) => panic!("reading the counter: {error}"),
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// One write at a time, within a part of the tree that only this client writes, and the common counter.
struct Client {
    number: usize,
    dice: StdRng,
    session: u128,
    sequence: u64,
    model: Model,
    /// Sent, and not answered.
    pending: Option<Pending>,
    answered: VecDeque<(RequestId, BatchRequest, Result<BatchReply>)>,
    /// The highest revision that an answer gave.
    revision: u64,
    seen: Seen,
}

#[derive(Clone)]
struct Pending {
    id: RequestId,
    request: BatchRequest,
    raise: bool,
}

impl Client {
    fn new(number: usize, dice: &mut StdRng) -> Client {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Client {
            number,
            session: RequestId::session_at(Timestamp(now), dice.random()),
            dice: StdRng::seed_from_u64(dice.random()),
            sequence: 0,
            model: Model::default(),
            pending: None,
            answered: VecDeque::new(),
            revision: 0,
            seen: Seen::default(),
        }
    }

    fn context(request: Option<RequestId>) -> Context {
        let caller = Caller::local(1000, None);
        Context { request, ..Context::of(caller) }
    }

    /// Compares the tree with what is known. Of a write whose answer was lost this tells whether it was applied.
    async fn look(&mut self, node: &Node) {
        let info = node.info(&Client::context(None)).await.expect("information");
        assert!(info.revision >= self.revision, "the revision went back from {} to {}", self.revision, info.revision);
        let found = self.found(node).await;
        if self.model.fits(&found) {
            self.model.learn(&found);
            if let Some(pending) = self.pending.as_ref().filter(|pending| !pending.raise) {
                let mut after = self.model.clone();
                let would_show = after.apply(&pending.request.ops).is_ok() && !after.fits(&found);
                self.seen.lost_and_gone += u64::from(would_show);
            }
            return;
        }
        let Some(pending) = self.pending.as_ref().filter(|pending| !pending.raise) else {
            panic!("client {}: {found:#?} is there for {:#?}", self.number, self.model);
        };
        let mut after = self.model.clone();
        let outcome = after.apply(&pending.request.ops);
        assert!(
            outcome.is_ok() && after.fits(&found),
            "client {}: {found:#?} is there for {:#?} or, after {:?}, {after:#?}",
            self.number,
            self.model,
            pending.request.ops
        );
        self.seen.lost_and_there += 1;
        after.learn(&found);
        let highest = self.model.highest();
        assert!(after.fresh_since(&self.model, highest), "a version or an id was given twice: {after:#?}");
        self.model = after;
        // Its retry must be answered as if it were the first.
        let pending = self.pending.take().expect("a pending write");
        let reply = self.send(node, &pending).await;
        match reply {
            Ok(reply) => {
                assert!(self.model.holds(&reply.results), "{reply:?} for {:#?}", self.model);
                self.remember(pending, Ok(reply));
            }
            Err(error) if error.code() == Code::Unavailable => {}
            Err(error) => panic!("an applied write is refused when it is sent again: {error}"),
        }
    }

    async fn found(&self, node: &Node) -> Vec<Object> {
        let cx = Client::context(None);
        let list = ListRequest { limit: Some(10_000), ..ListRequest::new(format!("{}/*/**", self.home())) };
        let mut found = Vec::new();
        for entry in node.list(&cx, list).await.expect("a list").entries {
            let request = ReadRequest { name: entry.name.clone(), consistent: false };
            let object = node.read(&cx, request).await.expect("what is listed can be read").object;
            found.push(Object {
                name: entry.name.to_string(),
                value: object.spec.value.clone().filter(|_| object.spec.kind == Some(Kind::Record)),
                version: object.version.0,
                id: object.id.0,
            });
        }
        found
    }

    /// Sends again what was not answered, or gives it up, and some of what was.
    async fn settle(&mut self, node: &Node, disk: &FaultyDisk) {
        if let Some(pending) = self.pending.clone() {
            // A raise of the counter is never given up: it has to be known whether it was made.
            if !pending.raise && self.dice.random_ratio(1, 3) {
                self.pending = None;
            } else if !self.finish(node, disk, pending).await {
                return;
            }
        }
        for _ in 0..4 {
            if self.answered.is_empty() {
                return;
            }
            let at = self.dice.random_range(0..self.answered.len());
            let (id, request, first) = self.answered[at].clone();
            let again = Pending { id, request, raise: false };
            match self.send(node, &again).await {
                Err(error) if error.code() == Code::Unavailable => return,
                reply => assert_eq!(reply, first, "the answer to {:?}, sent again", again.request),
            }
            self.seen.again += 1;
        }
    }

    /// One write of the client's choice; false when the power is gone.
    async fn step(&mut self, node: &Node, disk: &FaultyDisk) -> bool {
        if let Some(pending) = self.pending.clone() {
            return self.finish(node, disk, pending).await;
        }
        let raise = self.dice.random_ratio(1, 5);
        let ops = if raise { vec![raise_op(read_counter(node).await)] } else { self.ops() };
        self.sequence += 1;
        let id = RequestId { session: self.session, sequence: self.sequence };
        let pending = Pending { id, request: BatchRequest { ops, dry_run: false, set: None }, raise };
        self.pending = Some(pending.clone());
        self.finish(node, disk, pending).await
    }

    /// Sends until there is an answer, and compares it with the model's; false when the power is gone.
    async fn finish(&mut self, node: &Node, disk: &FaultyDisk, pending: Pending) -> bool {
        loop {
            let twice = self.dice.random_ratio(1, 8);
            let reply = tokio::select! {
                biased;
                reply = async {
                    if twice {
                        let (one, other) = tokio::join!(self.send(node, &pending), self.send(node, &pending));
                        let lost = |reply: &Result<BatchReply>| {
                            reply.as_ref().is_err_and(|error| error.code() == Code::Unavailable)
                        };
                        if !lost(&one) && !lost(&other) {
                            assert_eq!(one, other, "two answers to one request");
                        }
                        if lost(&one) { other } else { one }
                    } else {
                        self.send(node, &pending).await
                    }
                } => reply,
                () = disk.died() => return false,
            };
            match reply {
                Err(error) if error.code() == Code::Unavailable => {
                    if tokio::time::timeout(Duration::from_millis(2), disk.died()).await.is_ok() {
                        return false;
                    }
                }
                reply => {
                    self.take(pending, reply);
                    return true;
                }
            }
        }
    }

    async fn send(&self, node: &Node, pending: &Pending) -> Result<BatchReply> {
        node.batch(&Client::context(Some(pending.id)), pending.request.clone()).await
    }

    /// Takes in an answer.
    fn take(&mut self, pending: Pending, reply: Result<BatchReply>) {
        self.pending = None;
        if pending.raise {
            match &reply {
                Ok(_) => self.seen.raised += 1,
                Err(error) => assert!(
                    matches!(error.code(), Code::Conflict | Code::AlreadyExists),
                    "raising the counter: {error}"
                ),
            }
        } else {
            let mut next = self.model.clone();
            let expected = next.apply(&pending.request.ops);
            let told = reply.as_ref().map(|reply| reply.results.iter().map(|r| r.outcome).collect::<Vec<Outcome>>());
            let told = told.map_err(|error| error.code());
            assert_eq!(told, expected, "the answer {reply:?} to {:?} with {:#?}", pending.request.ops, self.model);
            if let Ok(reply) = &reply {
                next.date(reply.revision);
                assert!(next.holds(&reply.results), "{reply:?} for {next:#?}");
                self.model = next;
            }
        }
        self.remember(pending, reply);
    }

    fn remember(&mut self, pending: Pending, reply: Result<BatchReply>) {
        self.seen.answers += 1;
        self.seen.refused += u64::from(reply.is_err());
        if let Ok(reply) = &reply {
            self.revision = self.revision.max(reply.revision);
        }
        self.answered.push_back((pending.id, pending.request, reply));
        if self.answered.len() > REMEMBERED {
            self.answered.pop_front();
        }
    }

    fn home(&self) -> String {
        format!("/client{}", self.number)
    }

    fn ops(&mut self) -> Vec<Op> {
        let count = if self.dice.random_ratio(1, 3) { self.dice.random_range(2..6) } else { 1 };
        (0..count).map(|_| self.op()).collect()
    }

    fn op(&mut self) -> Op {
        let home = self.home();
        let dice = &mut self.dice;
        let mut text = format!("{home}/{}", ["a", "b", "c"][dice.random_range(0..3)]);
        if dice.random() {
            text.push_str(["/x", "/y"][dice.random_range(0..2)]);
        }
        let length = if dice.random_ratio(1, 10) { dice.random_range(0..6_000) } else { dice.random_range(0..60) };
        let value = format!("{}{}", dice.random_range(0..3), "v".repeat(length));
        let spec = Spec { value: Some(value), ..Spec::of(Kind::Record) };
        let known = self.model.version(&text);
        let if_version = match dice.random_range(0..4) {
            0 => known.map(Version),
            // An old one, or one of another object: never that which this write will make.
            1 => Some(Version(dice.random_range(0..=self.revision))).filter(|_| dice.random_ratio(1, 3)),
            _ => None,
        };
        let name = name(&text);
        match dice.random_range(0..12) {
            0..4 => Op::Add { name, spec },
            4..6 => Op::Put { name, spec, if_version },
            6..9 => Op::Modify { name, spec: Spec { kind: None, ..spec }, clear: Vec::new(), if_version },
            9 => Op::Check {
                name,
                exists: Some(known.is_some() == dice.random_ratio(5, 6)),
                if_version: None,
                fence: None,
            },
            _ => Op::Delete { name, recursive: dice.random(), stop: false, if_version },
        }
    }
}

fn raise_op(counter: Option<(u64, Version)>) -> Op {
    let spec = |value: u64| Spec { value: Some(value.to_string()), ..Spec::of(Kind::Record) };
    match counter {
        None => Op::Add { name: name("/counter"), spec: spec(1) },
        Some((value, version)) => Op::Put { name: name("/counter"), spec: spec(value + 1), if_version: Some(version) },
    }
}
