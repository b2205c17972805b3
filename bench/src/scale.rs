//! Very many names: what a registered service costs in memory beside etcd and ZooKeeper, how fast they are registered,
//! what `find` and `list` take among them, and how long a server that was killed takes until it answers again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::fleet::{
    Fleet, records_to_byname, records_to_etcd, register_with_byname, register_with_etcd, register_with_zookeeper,
};
use crate::load::{Ask, System, Times, Workload, measure};
use crate::machine::Machine;
use crate::process::{Memory, memory, settled_memory, stored_bytes};
use crate::stats::Spread;
use crate::systems::{Byname, Empty, Etcd, Programs, with_token};
use crate::wire::byname::cluster_client::ClusterClient;
use crate::wire::byname::names_client::NamesClient;
use crate::wire::etcd::kv_client::KvClient;
use crate::wire::{byname, connect, etcd};
use crate::zookeeper::Zookeeper;

/// How much of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sizes {
    /// Services, a multiple of 1,000; there is a record for every ten of them
    #[arg(long, default_value_t = 1_000_000)]
    services: u64,
    /// Byname by itself, without etcd and ZooKeeper
    #[arg(long)]
    pub(crate) alone: bool,
    /// Debian's zookeeper.jar; without it there is no ZooKeeper
    #[arg(long)]
    zookeeper: Option<PathBuf>,
    /// Seconds that etcd is left alone before its memory is read: Go collects its garbage every two minutes at least
    #[arg(long, default_value_t = 125)]
    rest: u64,
    /// How often each server is killed and started again
    #[arg(long, default_value_t = 3)]
    restarts: usize,
    /// Only these parts: load, find, list, restart
    #[arg(long, value_delimiter = ',')]
    parts: Vec<String>,
}

impl Sizes {
    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|p| p == part)
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// How many services.
    pub(crate) services: u64,
    /// How many records, which come after the memory was read.
    pub(crate) records: u64,
    /// Each system with all services registered.
    pub(crate) loaded: Vec<Loaded>,
    /// `find` and `list`.
    pub(crate) workloads: Vec<Workload>,
    /// Each system killed and started again.
    pub(crate) restarts: Vec<Restarted>,
}

/// One system with all services registered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// Its name.
    pub(crate) system: String,
    /// Services a second.
    pub(crate) rate: f64,
    /// Resident before, in MiB.
    pub(crate) before_mib: f64,
    /// Resident afterwards, once it had come to rest, in MiB.
    pub(crate) after_mib: f64,
    /// What of it is in no file and no garbage, as far as that can be told, in MiB: before and afterwards.
    pub(crate) held_mib: (f64, f64),
    /// Resident memory that a service takes, in bytes.
    pub(crate) bytes: f64,
    /// The same of what is held.
    pub(crate) held_bytes: f64,
}

impl Loaded {
    fn new(system: &str, services: u64, took: Duration, before: Memory, after: Memory, held_kib: u64) -> Loaded {
        let per_service = |from: u64, to: u64| (to as f64 - from as f64) * 1024.0 / services as f64;
        let mib = |kib: u64| kib as f64 / 1024.0;
        Loaded {
            system: system.to_owned(),
            rate: services as f64 / took.as_secs_f64(),
            before_mib: mib(before.rss_kib),
            after_mib: mib(after.rss_kib),
            held_mib: (mib(before.anonymous_kib), mib(held_kib)),
            bytes: per_service(before.rss_kib, after.rss_kib),
            held_bytes: per_service(before.anonymous_kib, held_kib),
        }
    }
}

/// One system killed and started again, several times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Restarted {
    /// Its name.
    pub(crate) system: String,
    /// From the start of the process until it said that it was ready, in seconds.
    pub(crate) ready_s: Spread,
    /// From the start of the process until the right answer to a question, in seconds.
    pub(crate) answer_s: Spread,
    /// Resident after that, once it had come to rest, in MiB.
    pub(crate) rss_mib: f64,
    /// What it read, where that is known.
    pub(crate) from: String,
}

/// Registers the services with each system and asks them about it.
pub(crate) async fn run(programs: &Programs, sizes: &Sizes, times: &Times, work: &Path) -> Result<Report> {
    let known = BTreeSet::from(["load", "find", "list", "restart"]);
    for part in &sizes.parts {
        ensure!(known.contains(part.as_str()), "there is no part {part}: {known:?}");
    }
    let machine = Machine::describe(work)?;
    let fleet = Fleet::new(sizes.services)?;
    let byname = Byname::start(&programs.byname, &work.join("byname"))?;
    let peers = !sizes.alone;
    let etcd = if peers { Some(Etcd::start(&programs.etcd, &work.join("etcd"))?) } else { None };
    let loaded = load(fleet, sizes, &byname, etcd.as_ref(), work).await?;

    let mut workloads = Vec::new();
    let mut restarts = Vec::new();
    if ["find", "list", "restart"].iter().any(|part| sizes.wants(part)) {
        eprintln!("{} records more", fleet.records());
        records_to_byname(fleet, &byname).await?;
        if let Some(etcd) = &etcd {
            records_to_etcd(fleet, etcd).await?;
        }
        workloads = ask(fleet, sizes, times, &byname, etcd.as_ref()).await?;
        if sizes.wants("restart") {
            restarts = restart(programs, fleet, sizes.restarts, byname, etcd, work).await?;
        }
    }
    Ok(Report { machine, services: fleet.services(), records: fleet.records(), loaded, workloads, restarts })
}

/// Registers all services with one system after the other, and reads their memory once all have come to rest.
async fn load(fleet: Fleet, sizes: &Sizes, byname: &Byname, etcd: Option<&Etcd>, work: &Path) -> Result<Vec<Loaded>> {
    let mut loaded = Vec::new();
    let services = fleet.services();
    eprintln!("{services} services");
    let before = settled_memory(byname.pid()).await?;
    let begun = Instant::now();
    register_with_byname(fleet, byname).await?;
    let took = begun.elapsed();
    let after = settled_memory(byname.pid()).await?;
    loaded.push(Loaded::new("byname", services, took, before, after, after.anonymous_kib));
    say(&loaded);

    let Some(etcd) = etcd else { return Ok(loaded) };
    let before = settled_memory(etcd.pid()).await?;
    let begun = Instant::now();
    register_with_etcd(fleet, etcd).await?;
    let etcd_took = begun.elapsed();
    let etcd_rests_until = Instant::now() + Duration::from_secs(sizes.rest);
    let etcd_before = before;

    let mut zookeeper_loaded = None;
    if let Some(jar) = &sizes.zookeeper {
        let zookeeper = Zookeeper::start(jar, &work.join("zookeeper"))?;
        zookeeper.collect()?;
        let before = settled_memory(zookeeper.pid()).await?;
        let begun = Instant::now();
        register_with_zookeeper(fleet, &zookeeper).await?;
        let took = begun.elapsed();
        let after = settled_memory(zookeeper.pid()).await?;
        zookeeper.collect()?;
        let collected = settled_memory(zookeeper.pid()).await?;
        zookeeper_loaded = Some(Loaded::new("ZooKeeper", services, took, before, after, collected.anonymous_kib));
    }

    tokio::time::sleep_until(etcd_rests_until.into()).await;
    let after = settled_memory(etcd.pid()).await?;
    loaded.push(Loaded::new("etcd", services, etcd_took, etcd_before, after, after.anonymous_kib));
    say(&loaded);
    if let Some(zookeeper) = zookeeper_loaded {
        loaded.push(zookeeper);
        say(&loaded);
    }
    Ok(loaded)
}

fn say(loaded: &[Loaded]) {
    if let Some(l) = loaded.last() {
        eprintln!(
            "  {:10} {:9.0} /s   {:8.1} MiB before, {:8.1} MiB after: {:6.0} bytes a service, {:6.0} held",
            l.system, l.rate, l.before_mib, l.after_mib, l.bytes, l.held_bytes
        );
    }
}

/// Asks for records and lists among all that is there.
async fn ask(
    fleet: Fleet,
    sizes: &Sizes,
    times: &Times,
    byname: &Byname,
    etcd: Option<&Etcd>,
) -> Result<Vec<Workload>> {
    const LIST_GOAL_US: f64 = 1_000.0;
    let empty = Empty::start()?;
    let own = |name, ask| System {
        name,
        pids: vec![byname.pid()],
        addresses: vec![&byname.address],
        tls: None,
        ask,
        goal: None,
    };
    let mut find = vec![
        own("byname find", Ask::FindRecord(byname.token(), fleet)),
        System {
            name: "empty call",
            pids: vec![empty.pid()],
            addresses: vec![&empty.address],
            tls: None,
            ask: Ask::Empty,
            goal: None,
        },
    ];
    let mut list = vec![own("byname list", Ask::ListRack(byname.token(), fleet))];
    if let Some(etcd) = etcd {
        let peer = |name, ask, goal| System {
            name,
            pids: vec![etcd.pid()],
            addresses: vec![&etcd.address],
            tls: None,
            ask,
            goal,
        };
        find.push(peer("etcd Range, serializable", Ask::RangeRecord(fleet), Some(1.2)));
        list.push(peer("etcd Range, serializable, keys only", Ask::RangeRack(fleet), None));
    }
    let mut workloads = Vec::new();
    for (part, systems, clients, goal) in
        [("find", &find, 1, None), ("find", &find, 64, None), ("list", &list, 1, Some(LIST_GOAL_US))]
    {
        if sizes.wants(part) {
            eprintln!("{part}: {clients} clients");
            let systems: Vec<_> = systems.iter().collect();
            let mut workload = measure(part, &systems, clients, clients, times).await?;
            workload.p50_goal_us = goal;
            workloads.push(workload);
        }
    }
    Ok(workloads)
}

/// Kills each server and starts it again with what it has on disk, in turns.
async fn restart(
    programs: &Programs,
    fleet: Fleet,
    rounds: usize,
    byname: Byname,
    etcd: Option<Etcd>,
    work: &Path,
) -> Result<Vec<Restarted>> {
    let from = found_on_disk(&byname).await?;
    let (mut own, mut peer) = (Taken::default(), Taken::default());
    let (mut byname, mut etcd) = (Some(byname), etcd);
    for round in 0..rounds {
        let n = (round as u64 * 7_919 + fleet.records() / 2) % fleet.records();
        drop(byname.take());
        let begun = Instant::now();
        let server = Byname::start(&programs.byname, &work.join("byname"))?;
        let ready = begun.elapsed();
        answers(fleet, n, &server).await?;
        own.take(ready, begun.elapsed());
        byname = Some(server);
        if etcd.take().is_some() {
            let begun = Instant::now();
            let server = Etcd::start(&programs.etcd, &work.join("etcd"))?;
            let ready = begun.elapsed();
            let request = etcd::RangeRequest { key: fleet.record(n).into(), serializable: true, ..Default::default() };
            let reply = KvClient::new(connect(&server.address).await?).range(request).await?.into_inner();
            let right = reply.kvs.first().is_some_and(|kv| kv.value == fleet.value(n).as_bytes());
            ensure!(right, "etcd forgot {}", fleet.record(n));
            peer.take(ready, begun.elapsed());
            etcd = Some(server);
        }
    }
    let mut restarted = Vec::new();
    if let Some(server) = byname {
        restarted.push(own.summary("byname", settled_memory(server.pid()).await?, from));
    }
    if let Some(server) = etcd {
        restarted.push(peer.summary("etcd", memory(server.pid())?, String::new()));
    }
    for r in &restarted {
        eprintln!(
            "  {:10} ready after {:6.2} s, answers after {:6.2} s, {:8.1} MiB {}",
            r.system, r.ready_s.median, r.answer_s.median, r.rss_mib, r.from
        );
    }
    Ok(restarted)
}

/// What a restart will read.
async fn found_on_disk(server: &Byname) -> Result<String> {
    let mut client = ClusterClient::new(connect(&server.address).await?);
    let info = client.info(with_token(byname::InfoRequest {}, &server.token())).await?.into_inner();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let all = stored_bytes(&server.data(), "");
    let snapshots = stored_bytes(&server.data(), "/snapshots/");
    Ok(format!(
        "log of {:.0} MiB after entry {}, snapshots of {:.0} MiB, {:.0} MiB in all",
        mib(info.log_bytes),
        info.snapshot_index,
        mib(snapshots),
        mib(all)
    ))
}

/// Makes sure that the server knows a record.
async fn answers(fleet: Fleet, n: u64, server: &Byname) -> Result<()> {
    let mut names = NamesClient::new(connect(&server.address).await?);
    let request = byname::FindRequest { name: fleet.record(n), ..Default::default() };
    let reply = names.find(with_token(request, &server.token())).await.context("after the restart")?.into_inner();
    ensure!(reply.value.as_deref() == Some(fleet.value(n).as_str()), "Byname forgot {}", fleet.record(n));
    Ok(())
}

/// Times of restarts, in seconds.
#[derive(Default)]
struct Taken {
    ready: Vec<f64>,
    answer: Vec<f64>,
}

impl Taken {
    fn take(&mut self, ready: Duration, answer: Duration) {
        self.ready.push(ready.as_secs_f64());
        self.answer.push(answer.as_secs_f64());
    }

    fn summary(self, system: &str, memory: Memory, from: String) -> Restarted {
        Restarted {
            system: system.to_owned(),
            ready_s: Spread::of(self.ready),
            answer_s: Spread::of(self.answer),
            rss_mib: memory.rss_kib as f64 / 1024.0,
            from,
        }
    }
}
