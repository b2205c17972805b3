//! One change that many watch: how long until all of them have it, and what a watcher costs the server.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::load::Ratio;
use crate::machine::Machine;
use crate::process::{cpu_us, memory, raise_open_files};
use crate::stats::Spread;
use crate::systems::{Byname, Etcd, Programs, with_token};
use crate::wire::byname::names_client::NamesClient;
use crate::wire::etcd::kv_client::KvClient;
use crate::wire::etcd::watch_client::WatchClient;
use crate::wire::{byname, connect, etcd};

/// What is watched.
const NAME: &str = "/bench/watched";
/// How long one change may take to reach all.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server is left alone before its memory is read, and before the first change.
const REST: Duration = Duration::from_secs(3);
/// Connections that are opened at once.
const OPENING: usize = 16;
/// Files that are open besides connections.
const OTHER_FILES: usize = 200;

/// How many watch, and how often something changes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Crowd {
    /// Those who watch
    #[arg(long, default_value_t = 10_000)]
    watchers: usize,
    /// Watchers that share a connection
    #[arg(long, default_value_t = 100)]
    pub(crate) per_connection: usize,
    /// Rounds; in each every system is started anew and has its turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Changes in a turn
    #[arg(long, default_value_t = 7)]
    changes: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// How many watch.
    pub(crate) watchers: usize,
    /// How many of them share a connection.
    pub(crate) per_connection: usize,
    /// Changes in a turn.
    pub(crate) changes: usize,
    /// The systems.
    pub(crate) systems: Vec<Measured>,
    /// The time until all have it, of the others, against that of the first.
    pub(crate) ratios: Vec<Ratio>,
}

/// One system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) system: String,
    /// From before the change is asked for until half of them have it, in milliseconds; of a turn, the median.
    pub(crate) half_ms: Spread,
    /// The same until all have it.
    pub(crate) all_ms: Spread,
    /// Processor time of the server for a change, in milliseconds.
    pub(crate) server_cpu_ms: Spread,
    /// Resident memory of the server that a watcher takes, its share of the connection included, in KiB.
    pub(crate) watcher_kib: Spread,
}

/// How a system is watched.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// A call of its own for every watcher.
    Byname,
    /// The way of etcd's own clients: one call on a connection, which carries all watches.
    EtcdShared,
    /// A call of its own for every watcher.
    EtcdOwn,
}

/// One turn.
struct Turn {
    half_ms: f64,
    all_ms: f64,
    server_cpu_ms: f64,
    watcher_kib: f64,
}

/// Runs so many rounds.
pub(crate) async fn run(programs: &Programs, crowd: &Crowd, work: &Path) -> Result<Report> {
    ensure!(crowd.per_connection > 0 && crowd.watchers > 0, "somebody must watch");
    let files = raise_open_files()?;
    let connections = crowd.watchers.div_ceil(crowd.per_connection);
    ensure!(
        (connections + OTHER_FILES) as u64 <= files,
        "{connections} connections need more than the {files} files that may be open: raise `ulimit -n`"
    );
    let machine = Machine::describe(work)?;
    let mut ways = vec![("byname Watch", Way::Byname), ("etcd Watch, one call a connection", Way::EtcdShared)];
    if crowd.per_connection > 1 {
        ways.push(("etcd Watch, a call each", Way::EtcdOwn));
    }
    let mut turns: Vec<Vec<Turn>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..crowd.rounds {
        for (n, ((name, way), turns)) in ways.iter().zip(&mut turns).enumerate() {
            let turn = take_turn(programs, crowd, *way, &work.join(format!("{round}-{n}"))).await;
            let turn = turn.with_context(|| (*name).to_owned())?;
            eprintln!(
                "  {name:34} all have it after {:7.1} ms, half after {:7.1} ms; server {:7.1} ms; {:6.1} KiB a watcher",
                turn.all_ms, turn.half_ms, turn.server_cpu_ms, turn.watcher_kib
            );
            turns.push(turn);
        }
    }
    let own: Vec<f64> = turns.first().into_iter().flatten().map(|t| t.all_ms).collect();
    let ratios = ways.iter().zip(&turns).skip(1).map(|((name, way), turns)| Ratio {
        to: (*name).to_owned(),
        ratio: Spread::of(own.iter().zip(turns).map(|(own, t)| own / t.all_ms)),
        goal: matches!(way, Way::EtcdShared).then_some(0.5),
    });
    let ratios = ratios.collect();
    let systems = ways.iter().zip(&turns).map(|((name, _), turns)| Measured {
        system: (*name).to_owned(),
        half_ms: Spread::of(turns.iter().map(|t| t.half_ms)),
        all_ms: Spread::of(turns.iter().map(|t| t.all_ms)),
        server_cpu_ms: Spread::of(turns.iter().map(|t| t.server_cpu_ms)),
        watcher_kib: Spread::of(turns.iter().map(|t| t.watcher_kib)),
    });
    Ok(Report {
        machine,
        watchers: crowd.watchers,
        per_connection: crowd.per_connection,
        changes: crowd.changes,
        systems: systems.collect(),
        ratios,
    })
}

/// One server, started for this.
enum Server {
    Byname(Byname),
    Etcd(Etcd),
}

impl Server {
    fn pid(&self) -> u32 {
        match self {
            Server::Byname(server) => server.pid(),
            Server::Etcd(server) => server.pid(),
        }
    }

    fn address(&self) -> &str {
        match self {
            Server::Byname(server) => &server.address,
            Server::Etcd(server) => &server.address,
        }
    }

    /// Gives what is watched this value.
    async fn change(&self, channel: &Channel, value: u64, new: bool) -> Result<()> {
        let value = value.to_string();
        match self {
            Server::Byname(server) => {
                let mut names = NamesClient::new(channel.clone());
                let kind = byname::Kind::Record as i32;
                let spec = Some(byname::Spec { kind, value: Some(value), ..Default::default() });
                if new {
                    let request = byname::AddRequest { name: NAME.into(), spec };
                    names.add(with_token(request, &server.token())).await?;
                } else {
                    let request = byname::ModifyRequest { name: NAME.into(), spec, ..Default::default() };
                    names.modify(with_token(request, &server.token())).await?;
                }
            }
            Server::Etcd(_) => {
                let request = etcd::PutRequest { key: NAME.into(), value: value.into() };
                KvClient::new(channel.clone()).put(request).await?;
            }
        }
        Ok(())
    }
}

/// Starts a server, lets all watch, and changes what they watch.
async fn take_turn(programs: &Programs, crowd: &Crowd, way: Way, dir: &Path) -> Result<Turn> {
    let server = match way {
        Way::Byname => Server::Byname(Byname::start(&programs.byname, dir)?),
        Way::EtcdShared | Way::EtcdOwn => Server::Etcd(Etcd::start(&programs.etcd, dir)?),
    };
    let asking = connect(server.address()).await?;
    server.change(&asking, 0, true).await?;
    tokio::time::sleep(REST).await;
    let before = memory(server.pid())?;

    let seen = Arc::new(Seen::new(crowd.watchers));
    let mut watchers = JoinSet::new();
    open_all(&server, crowd, way, &seen, &mut watchers).await?;
    tokio::time::sleep(REST).await;
    let after = memory(server.pid())?;

    let (mut half, mut all) = (Vec::new(), Vec::new());
    let cpu = cpu_us(server.pid())?;
    for value in 1..=crowd.changes as u64 {
        let began = seen.expect(value);
        server.change(&asking, value, false).await?;
        tokio::select! {
            times = seen.all() => {
                half.push(times[times.len() / 2].saturating_sub(began) as f64 / 1e6);
                all.push(times[times.len() - 1].saturating_sub(began) as f64 / 1e6);
            }
            ended = watchers.join_next() => match ended {
                Some(ended) => { ended??; bail!("a watch ended") }
                None => bail!("nobody watches"),
            },
            () = tokio::time::sleep(PATIENCE) => {
                bail!("only {} of {} have seen a change in time", seen.count(), crowd.watchers)
            }
        }
    }
    let cpu = cpu_us(server.pid())? - cpu;
    drop(watchers);
    Ok(Turn {
        half_ms: Spread::of(half).median,
        all_ms: Spread::of(all).median,
        server_cpu_ms: cpu as f64 / 1e3 / crowd.changes.max(1) as f64,
        watcher_kib: (after.rss_kib as f64 - before.rss_kib as f64) / crowd.watchers as f64,
    })
}

/// Opens every connection and every watch on it, and returns once each of them has been confirmed.
async fn open_all(
    server: &Server,
    crowd: &Crowd,
    way: Way,
    seen: &Arc<Seen>,
    watchers: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let mut opening = JoinSet::new();
    let mut left = crowd.watchers;
    while left > 0 || !opening.is_empty() {
        if left > 0 && opening.len() < OPENING {
            let count = left.min(crowd.per_connection);
            left -= count;
            let address = server.address().to_owned();
            let token = match server {
                Server::Byname(server) => Some(server.token()),
                Server::Etcd(_) => None,
            };
            opening.spawn(open(address, token, way, count));
        } else if let Some(opened) = opening.join_next().await {
            for watch in opened?? {
                watchers.spawn(watch.follow(seen.clone()));
            }
        }
    }
    Ok(())
}

/// Opens one connection and its watches.
async fn open(address: String, token: Option<MetadataValue<Ascii>>, way: Way, count: usize) -> Result<Vec<Watching>> {
    let channel = connect(&address).await?;
    let mut opened = Vec::new();
    match way {
        Way::Byname => {
            let token = token.context("Byname wants a token")?;
            for _ in 0..count {
                let request = byname::WatchRequest { pattern: NAME.into(), ..Default::default() };
                let mut names = NamesClient::new(channel.clone());
                let mut stream = names.watch(with_token(request, &token)).await?.into_inner();
                stream.message().await?.context("no first message")?;
                opened.push(Watching::Byname(stream));
            }
        }
        Way::EtcdShared => opened.push(open_etcd(&channel, count).await?),
        Way::EtcdOwn => {
            for _ in 0..count {
                opened.push(open_etcd(&channel, 1).await?);
            }
        }
    }
    Ok(opened)
}

/// One call of etcd's with so many watches.
async fn open_etcd(channel: &Channel, count: usize) -> Result<Watching> {
    let (asking, asked) = mpsc::channel(count.max(1));
    for _ in 0..count {
        let create = etcd::WatchCreateRequest { key: NAME.into() };
        let union = etcd::watch_request::RequestUnion::CreateRequest(create);
        asking.try_send(etcd::WatchRequest { request_union: Some(union) })?;
    }
    let mut client = WatchClient::new(channel.clone());
    let mut stream = client.watch(ReceiverStream::new(asked)).await?.into_inner();
    for _ in 0..count {
        let reply = stream.message().await?.context("no first message")?;
        ensure!(reply.created && !reply.canceled, "a watch was refused: {}", reply.cancel_reason);
    }
    Ok(Watching::Etcd(stream, asking))
}

/// A call that is open.
enum Watching {
    Byname(tonic::Streaming<byname::WatchReply>),
    /// The call ends when its requests do.
    Etcd(tonic::Streaming<etcd::WatchResponse>, mpsc::Sender<etcd::WatchRequest>),
}

impl Watching {
    /// Notes what comes, until the call ends.
    async fn follow(self, seen: Arc<Seen>) -> Result<()> {
        match self {
            Watching::Byname(mut stream) => {
                while let Some(message) = stream.next().await {
                    for event in message?.events {
                        seen.note(event.object.and_then(|o| o.spec?.value?.parse().ok()));
                    }
                }
            }
            Watching::Etcd(mut stream, asking) => {
                while let Some(message) = stream.next().await {
                    for event in message?.events {
                        let value = event.kv.and_then(|kv| String::from_utf8(kv.value).ok()?.parse().ok());
                        seen.note(value);
                    }
                }
                drop(asking);
            }
        }
        bail!("a watch ended")
    }
}

/// Who has seen the value that is expected, and when.
struct Seen {
    since: Instant,
    expected: AtomicU64,
    count: AtomicUsize,
    times: Vec<AtomicU64>,
    complete: Notify,
}

impl Seen {
    fn new(watchers: usize) -> Seen {
        Seen {
            since: Instant::now(),
            expected: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            times: (0..watchers).map(|_| AtomicU64::new(0)).collect(),
            complete: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_nanos() as u64
    }

    /// From now on this value counts; returns the time.
    fn expect(&self, value: u64) -> u64 {
        self.count.store(0, Ordering::SeqCst);
        self.expected.store(value, Ordering::SeqCst);
        self.now()
    }

    /// A watcher has seen a value.
    fn note(&self, value: Option<u64>) {
        if value != Some(self.expected.load(Ordering::SeqCst)) {
            return;
        }
        let now = self.now();
        let place = self.count.fetch_add(1, Ordering::SeqCst);
        if let Some(slot) = self.times.get(place) {
            slot.store(now, Ordering::SeqCst);
        }
        if place + 1 == self.times.len() {
            self.complete.notify_one();
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until all have seen it; when each did, in order.
    async fn all(&self) -> Vec<u64> {
        self.complete.notified().await;
        let mut times: Vec<u64> = self.times.iter().map(|t| t.load(Ordering::SeqCst)).collect();
        times.sort_unstable();
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_expected_value_counts_and_all_must_have_it() {
        let seen = Seen::new(2);
        let began = seen.expect(1);
        seen.note(Some(1));
        seen.note(Some(0));
        seen.note(None);
        assert_eq!(seen.count(), 1);
        seen.note(Some(1));
        let times = seen.all().await;
        assert!(times.len() == 2 && began <= times[0] && times[0] <= times[1]);
    }
}
