//! The load generator: clients that ask one thing after the other, of each system in turn, round after round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use byname_identity::tls::Connector;
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::fleet::{Fleet, RACK, Random};
use crate::machine::Machine;
use crate::process::cpu_us;
use crate::stats::{Quantiles, Spread};
use crate::systems::{Advertised, Byname, Empty, Etcd, Programs, with_token};
use crate::wire::byname::names_client::NamesClient;
use crate::wire::empty::empty_client::EmptyClient;
use crate::wire::etcd::kv_client::KvClient;
use crate::wire::{byname, connect, connect_tls, empty, etcd};

/// The part of each turn that is not counted.
const WARM_UP: f64 = 0.15;
/// What a record holds.
pub(crate) const VALUE_BYTES: usize = 100;
/// The service that is looked for, and the key of the same length.
pub(crate) const SERVICE: &str = "/bench/services/query-server";

/// How long and how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Times {
    /// Rounds; in each every system has its turn
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// Seconds of a turn
    #[arg(long, default_value_t = 1.5)]
    pub(crate) seconds: f64,
    /// Only workloads whose name contains this
    #[arg(long, default_value = "")]
    pub(crate) only: String,
    /// Only systems whose name contains this: for a profiler
    #[arg(long, default_value = "")]
    pub(crate) system: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// Each kind of load.
    pub(crate) workloads: Vec<Workload>,
}

/// One kind of load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Workload {
    /// `find` or `add`.
    pub(crate) name: String,
    /// Clients at once.
    pub(crate) clients: usize,
    /// HTTP/2 connections that they share, the same number to every system.
    pub(crate) connections: usize,
    /// The systems, in the order of their turns.
    pub(crate) systems: Vec<Measured>,
    /// The first system against each of the others.
    pub(crate) ratios: Vec<Ratio>,
    /// What the design asks of the first system's p50, in microseconds.
    #[serde(default)]
    pub(crate) p50_goal_us: Option<f64>,
}

/// One system under one kind of load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) system: String,
    /// Operations a second.
    pub(crate) rate: Spread,
    /// Microseconds.
    pub(crate) p50_us: Spread,
    /// Microseconds.
    pub(crate) p99_us: Spread,
    /// Processor time of the server for each operation, in microseconds.
    pub(crate) server_cpu_us: Spread,
    /// Every round.
    pub(crate) rounds: Vec<Turn>,
}

/// One system's turn.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// Operations a second.
    pub(crate) rate: f64,
    /// Latency.
    pub(crate) latency: Quantiles,
    /// Processor time of the server for each operation, in microseconds.
    pub(crate) server_cpu_us: f64,
}

/// Operations a second of the first system divided by those of another, in the same round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ratio {
    /// The other.
    pub(crate) to: String,
    /// Over the rounds.
    pub(crate) ratio: Spread,
    /// What the design asks for.
    pub(crate) goal: Option<f64>,
}

/// Runs every kind of load.
pub(crate) async fn run(programs: &Programs, times: &Times, work: &std::path::Path) -> Result<Report> {
    let machine = Machine::describe(work)?;
    let value = "v".repeat(VALUE_BYTES);
    let byname = Byname::start(&programs.byname, &work.join("byname"))?;
    let etcd = Etcd::start(&programs.etcd, &work.join("etcd"))?;
    let empty = Empty::start()?;
    let advertised = Advertised::new(&byname, SERVICE).await?;
    let put = etcd::PutRequest { key: SERVICE.into(), value: value.clone().into() };
    KvClient::new(connect(&etcd.address).await?).put(put).await?;

    let range = |serializable| Ask::Range { serializable };
    let find = [
        System {
            name: "byname find",
            pids: vec![byname.pid()],
            addresses: vec![&byname.address],
            tls: None,
            ask: Ask::Find(Some(byname.token())),
            goal: None,
        },
        System {
            name: "empty call",
            pids: vec![empty.pid()],
            addresses: vec![&empty.address],
            tls: None,
            ask: Ask::Empty,
            goal: Some(0.85),
        },
        System {
            name: "etcd Range, serializable",
            pids: vec![etcd.pid()],
            addresses: vec![&etcd.address],
            tls: None,
            ask: range(true),
            goal: Some(1.2),
        },
        System {
            name: "etcd Range, linearizable",
            pids: vec![etcd.pid()],
            addresses: vec![&etcd.address],
            tls: None,
            ask: range(false),
            goal: None,
        },
    ];
    let numbers = Arc::new(AtomicU64::new(0));
    let add = [
        System {
            name: "byname add",
            pids: vec![byname.pid()],
            addresses: vec![&byname.address],
            tls: None,
            ask: Ask::Add { token: byname.token(), value: value.clone(), numbers: numbers.clone() },
            goal: None,
        },
        System {
            name: "etcd Put",
            pids: vec![etcd.pid()],
            addresses: vec![&etcd.address],
            tls: None,
            ask: Ask::Put { value, numbers },
            goal: Some(1.5),
        },
    ];
    let mut workloads = Vec::new();
    for (name, systems, clients, connections) in [
        ("find", &find[..], 1, 1),
        ("find", &find[..], 64, 64),
        ("find", &find[..], 64, 8),
        ("add", &add[..], 1, 1),
        ("add", &add[..], 64, 64),
        ("add", &add[..], 256, 64),
    ] {
        if format!("{name} {clients} {connections}").contains(&times.only) {
            eprintln!("{name}: {clients} clients on {connections} connections");
            let systems: Vec<_> = systems.iter().filter(|s| s.name.contains(&times.system)).collect();
            workloads.push(measure(name, &systems, clients, connections, times).await?);
        }
    }
    drop(advertised);
    byname.stop()?;
    etcd.stop()?;
    Ok(Report { machine, workloads })
}

/// A system under load.
pub(crate) struct System<'a> {
    /// What the table calls it.
    pub(crate) name: &'a str,
    /// The processes of its servers.
    pub(crate) pids: Vec<u32>,
    /// HOST:PORT of their gRPC, those that are asked; each connection goes to one of them, evenly.
    pub(crate) addresses: Vec<&'a str>,
    /// Makes its connections, where they are within TLS.
    pub(crate) tls: Option<Arc<Connector>>,
    /// What it is asked.
    pub(crate) ask: Ask,
    /// Of the first system's rate divided by this one's, with many clients.
    pub(crate) goal: Option<f64>,
}

/// Puts the systems under one kind of load, in turns.
pub(crate) async fn measure(
    name: &str,
    systems: &[&System<'_>],
    clients: usize,
    connections: usize,
    times: &Times,
) -> Result<Workload> {
    let mut sets: Vec<Vec<Client>> = Vec::new();
    for system in systems {
        let mut channels = Vec::new();
        for address in system.addresses.iter().cycle().take(connections) {
            let channel = match &system.tls {
                Some(tls) => connect_tls(address, tls).await,
                None => connect(address).await,
            };
            channels.push(channel.with_context(|| format!("{}: connecting", system.name))?);
        }
        sets.push((0..clients).map(|n| Client::new(&system.ask, &channels[n % connections], n as u64)).collect());
    }
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); systems.len()];
    for _ in 0..times.rounds {
        for ((system, set), turns) in systems.iter().zip(&mut sets).zip(&mut turns) {
            let turn = take_turn(set, &system.pids, Duration::from_secs_f64(times.seconds)).await;
            turns.push(turn.with_context(|| system.name.to_owned())?);
        }
    }
    let measured: Vec<Measured> = systems
        .iter()
        .zip(turns)
        .map(|(system, rounds)| Measured {
            system: system.name.to_owned(),
            rate: Spread::of(rounds.iter().map(|t| t.rate)),
            p50_us: Spread::of(rounds.iter().map(|t| t.latency.p50_us)),
            p99_us: Spread::of(rounds.iter().map(|t| t.latency.p99_us)),
            server_cpu_us: Spread::of(rounds.iter().map(|t| t.server_cpu_us)),
            rounds,
        })
        .collect();
    let Some((own, others)) = measured.split_first() else { bail!("there is no such system") };
    let ratios = others
        .iter()
        .zip(systems.iter().skip(1))
        .map(|(other, system)| Ratio {
            to: other.system.clone(),
            ratio: Spread::of(own.rounds.iter().zip(&other.rounds).map(|(a, b)| a.rate / b.rate)),
            goal: system.goal.filter(|_| name == "add" || system.pids.len() > 1 || clients > 1),
        })
        .collect();
    for system in &measured {
        eprintln!(
            "  {:26} {:9.0} /s   p50 {:7.0} µs   p99 {:7.0} µs   server {:6.1} µs/op",
            system.system, system.rate.median, system.p50_us.median, system.p99_us.median, system.server_cpu_us.median
        );
    }
    Ok(Workload { name: name.to_owned(), clients, connections, systems: measured, ratios, p50_goal_us: None })
}

/// Lets all clients ask for as long as a turn lasts.
async fn take_turn(clients: &mut Vec<Client>, pids: &[u32], length: Duration) -> Result<Turn> {
    let start = Arc::new(Barrier::new(clients.len() + 1));
    let warm_up = length.mul_f64(WARM_UP);
    let tasks: Vec<_> = clients
        .drain(..)
        .map(|mut client| {
            let start = start.clone();
            tokio::spawn(async move {
                start.wait().await;
                let begun = Instant::now();
                let mut samples: Vec<u32> = Vec::with_capacity(1 << 14);
                let mut before = begun;
                loop {
                    client.ask().await?;
                    let after = Instant::now();
                    if before >= begun + warm_up {
                        samples.push(u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX));
                    }
                    before = after;
                    if after >= begun + length {
                        return Ok::<_, anyhow::Error>((client, samples));
                    }
                }
            })
        })
        .collect();
    start.wait().await;
    tokio::time::sleep(warm_up).await;
    let cpu_us = || pids.iter().map(|pid| cpu_us(*pid)).sum::<Result<u64>>();
    let (cpu, at) = (cpu_us()?, Instant::now());
    tokio::time::sleep(length - warm_up).await;
    let (cpu, cpu_seconds) = (cpu_us()? - cpu, at.elapsed().as_secs_f64());
    let mut samples = Vec::new();
    for task in tasks {
        let (client, own) = task.await??;
        clients.push(client);
        samples.extend(own);
    }
    ensure!(!samples.is_empty(), "nothing was answered within a turn");
    let rate = samples.len() as f64 / (length - warm_up).as_secs_f64();
    let samples: &mut [u32] = &mut samples;
    Ok(Turn { rate, latency: Quantiles::of_ns(samples), server_cpu_us: cpu as f64 / (rate * cpu_seconds) })
}

/// What is asked.
#[derive(Clone)]
pub(crate) enum Ask {
    /// Byname: the one service, with a token or with what the connection shows.
    Find(Option<MetadataValue<Ascii>>),
    /// etcd: the one key.
    Range {
        /// From the member's own memory.
        serializable: bool,
    },
    /// The empty call.
    Empty,
    /// Byname: a record that is new.
    Add {
        /// Who asks.
        token: MetadataValue<Ascii>,
        /// What it holds.
        value: String,
        /// Names that were used.
        numbers: Arc<AtomicU64>,
    },
    /// etcd: a key that is new.
    Put {
        /// What it holds.
        value: String,
        /// Keys that were used.
        numbers: Arc<AtomicU64>,
    },
    /// Byname: the one record.
    FindValue {
        /// Who asks.
        token: MetadataValue<Ascii>,
        /// Linearizable.
        consistent: bool,
    },
    /// Byname: any record of a fleet.
    FindRecord(MetadataValue<Ascii>, Fleet),
    /// etcd: the same, from the member's own memory.
    RangeRecord(Fleet),
    /// Byname: all services of any rack.
    ListRack(MetadataValue<Ascii>, Fleet),
    /// etcd: the same by their prefix, keys only, from the member's own memory.
    RangeRack(Fleet),
}

/// One who asks, and makes sure that the answer is one.
enum Client {
    Find(NamesClient<Channel>, Option<MetadataValue<Ascii>>),
    FindValue(NamesClient<Channel>, MetadataValue<Ascii>, bool),
    Range(KvClient<Channel>, etcd::RangeRequest),
    Empty(EmptyClient<Channel>),
    Add(NamesClient<Channel>, MetadataValue<Ascii>, String, Arc<AtomicU64>),
    Put(KvClient<Channel>, String, Arc<AtomicU64>),
    FindRecord(NamesClient<Channel>, MetadataValue<Ascii>, Fleet, Random),
    RangeRecord(KvClient<Channel>, Fleet, Random),
    ListRack(NamesClient<Channel>, MetadataValue<Ascii>, Fleet, Random),
    RangeRack(KvClient<Channel>, Fleet, Random),
}

impl Client {
    fn new(ask: &Ask, channel: &Channel, number: u64) -> Client {
        let channel = channel.clone();
        let random = Random::new(number);
        match ask {
            Ask::Find(token) => Client::Find(NamesClient::new(channel), token.clone()),
            Ask::FindValue { token, consistent } => {
                Client::FindValue(NamesClient::new(channel), token.clone(), *consistent)
            }
            Ask::Range { serializable } => {
                let request =
                    etcd::RangeRequest { key: SERVICE.into(), serializable: *serializable, ..Default::default() };
                Client::Range(KvClient::new(channel), request)
            }
            Ask::Empty => Client::Empty(EmptyClient::new(channel)),
            Ask::Add { token, value, numbers } => {
                Client::Add(NamesClient::new(channel), token.clone(), value.clone(), numbers.clone())
            }
            Ask::Put { value, numbers } => Client::Put(KvClient::new(channel), value.clone(), numbers.clone()),
            Ask::FindRecord(token, fleet) => {
                Client::FindRecord(NamesClient::new(channel), token.clone(), *fleet, random)
            }
            Ask::RangeRecord(fleet) => Client::RangeRecord(KvClient::new(channel), *fleet, random),
            Ask::ListRack(token, fleet) => Client::ListRack(NamesClient::new(channel), token.clone(), *fleet, random),
            Ask::RangeRack(fleet) => Client::RangeRack(KvClient::new(channel), *fleet, random),
        }
    }

    async fn ask(&mut self) -> Result<()> {
        match self {
            Client::Find(names, token) => {
                let request = byname::FindRequest { name: SERVICE.into(), ..Default::default() };
                let request = match token {
                    Some(token) => with_token(request, token),
                    None => Request::new(request),
                };
                let reply = names.find(request).await?.into_inner();
                ensure!(reply.instances.len() == 1, "not found");
            }
            Client::FindValue(names, token, consistent) => {
                let consistent = *consistent;
                let request = byname::FindRequest { name: SERVICE.into(), consistent, ..Default::default() };
                let reply = names.find(with_token(request, token)).await?.into_inner();
                ensure!(reply.value.is_some(), "not found");
            }
            Client::Range(kv, request) => {
                let reply = kv.range(request.clone()).await?.into_inner();
                ensure!(reply.kvs.len() == 1, "not found");
            }
            Client::Empty(client) => {
                client.call(empty::Nothing {}).await?;
            }
            Client::Add(names, token, value, numbers) => {
                let kind = byname::Kind::Record as i32;
                let spec = byname::Spec { kind, value: Some(value.clone()), ..Default::default() };
                let request = byname::AddRequest { name: record(numbers), spec: Some(spec) };
                let reply = names.add(with_token(request, token)).await?.into_inner();
                ensure!(reply.outcome() == byname::Outcome::Created, "not added");
            }
            Client::Put(kv, value, numbers) => {
                let request = etcd::PutRequest { key: record(numbers).into(), value: value.clone().into() };
                let reply = kv.put(request).await?.into_inner();
                ensure!(reply.header.is_some(), "not put");
            }
            Client::FindRecord(names, token, fleet, random) => {
                let n = random.below(fleet.records());
                let request = byname::FindRequest { name: fleet.record(n), ..Default::default() };
                let reply = names.find(with_token(request, token)).await?.into_inner();
                ensure!(reply.value.is_some(), "not found");
            }
            Client::RangeRecord(kv, fleet, random) => {
                let key = fleet.record(random.below(fleet.records())).into();
                let request = etcd::RangeRequest { key, serializable: true, ..Default::default() };
                let reply = kv.range(request).await?.into_inner();
                ensure!(reply.kvs.len() == 1, "not found");
            }
            Client::ListRack(names, token, fleet, random) => {
                let rack = fleet.rack(random.below(fleet.racks()));
                let request = byname::ListRequest { pattern: format!("{rack}/svc-*"), ..Default::default() };
                let reply = names.list(with_token(request, token)).await?.into_inner();
                ensure!(reply.entries.len() as u64 == RACK, "not all are listed");
            }
            Client::RangeRack(kv, fleet, random) => {
                let rack = fleet.rack(random.below(fleet.racks()));
                let request = etcd::RangeRequest {
                    key: format!("{rack}/svc-").into(),
                    range_end: format!("{rack}/svc.").into(), // the byte after `-`
                    serializable: true,
                    keys_only: true,
                };
                let reply = kv.range(request).await?.into_inner();
                ensure!(reply.kvs.len() as u64 == RACK, "not all are listed");
            }
        }
        Ok(())
    }
}

/// A name that was never used before.
fn record(numbers: &AtomicU64) -> String {
    format!("/bench/records/r{:09}", numbers.fetch_add(1, Ordering::Relaxed))
}
