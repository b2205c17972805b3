//! A thousand agents and ten thousand instances: what they cost the primary of three servers.
//!
//! The agents are played: each has its connection and its stream, says that it is there as often as it is told to, and reports
//! of every program that it is ordered to start that it runs. No program is started.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use byname_api::agent::{InstanceReport, Order, Phase, Report as Said};
use byname_api::service::Endpoint;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::machine::Machine;
use crate::members::{Kind, Members, token};
use crate::process::{cpu_us, raise_open_files, settled_memory};
use crate::systems::{Programs, with_token};
use crate::wire::byname::agents_client::AgentsClient;
use crate::wire::byname::names_client::NamesClient;
use crate::wire::{byname, connect};

/// Services in one batch.
const BATCH: usize = 500;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Hosts {
    /// Agents
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// Instances, one of each service
    #[arg(long, default_value_t = 10_000)]
    instances: usize,
    /// Seconds over which the processor time at rest is taken
    #[arg(long, default_value_t = 20)]
    rest: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// How many.
    pub(crate) agents: usize,
    /// How many.
    pub(crate) instances: usize,
    /// From the first agent's connection until all are attached, in seconds.
    pub(crate) attached_s: f64,
    /// From the first declaration until the last instance was reported and found to run, in seconds.
    pub(crate) started_s: f64,
    /// The primary: without agents, with them, and with all instances.
    pub(crate) rests: Vec<Rest>,
    /// A backup, with all of it.
    pub(crate) backup: Rest,
}

/// A server that nobody asks anything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rest {
    /// Resident memory, in MiB.
    pub(crate) rss_mib: f64,
    /// Processor time, in hundredths of one core.
    pub(crate) cpu_percent: f64,
}

/// Runs it once.
pub(crate) async fn run(programs: &Programs, hosts: &Hosts, work: &Path) -> Result<Report> {
    ensure!(hosts.agents > 0, "somebody must take the orders");
    raise_open_files()?;
    let machine = Machine::describe(work)?;
    let members = Members::start(Kind::Byname(programs.byname.clone()), &work.join("byname")).await?;
    let leader = members.leader().await?;
    let (pid, address) = (members.pid(leader), members.address(leader).to_owned());
    let mut rests = vec![rest(pid, hosts.rest).await?];

    let started = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut playing = Vec::new();
    for n in 0..hosts.agents {
        playing.push(attach(&address, n, started.clone()).await.with_context(|| format!("agent {n}"))?);
    }
    let attached_s = begun.elapsed().as_secs_f64();
    rests.push(rest(pid, hosts.rest).await?);

    let begun = Instant::now();
    let mut names = NamesClient::new(connect(&address).await?);
    for first in (0..hosts.instances).step_by(BATCH) {
        let add = |n: usize| byname::Op { op: Some(byname::op::Op::Add(service(n))) };
        let ops = (first..hosts.instances.min(first + BATCH)).map(add).collect();
        names.batch(with_token(byname::BatchRequest { ops, ..Default::default() }, &token()?)).await?;
    }
    while started.load(Ordering::Relaxed) < hosts.instances as u64 {
        ensure!(begun.elapsed() < PATIENCE, "{} of the instances were ordered", started.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for n in [0, hosts.instances / 2, hosts.instances - 1] {
        loop {
            let request = byname::FindRequest { name: name(n), no_start: true, ..Default::default() };
            let found = names.find(with_token(request, &token()?)).await;
            if found.is_ok_and(|found| found.get_ref().instances.len() == 1) {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "{} does not run", name(n));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let started_s = begun.elapsed().as_secs_f64();
    rests.push(rest(pid, hosts.rest).await?);
    let backup = rest(members.pid((leader + 1) % 3), hosts.rest).await?;
    ensure!(members.leader().await? == leader, "another server leads now");
    ensure!(playing.iter().all(|agent| !agent.is_finished()), "an agent lost its stream");
    for Rest { rss_mib, cpu_percent } in rests.iter().chain([&backup]) {
        eprintln!("  {rss_mib:8.1} MiB {cpu_percent:6.1} % of a core");
    }
    Ok(Report { machine, agents: hosts.agents, instances: hosts.instances, attached_s, started_s, rests, backup })
}

async fn rest(pid: u32, seconds: u64) -> Result<Rest> {
    let memory = settled_memory(pid).await?;
    let (before, at) = (cpu_us(pid)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = (cpu_us(pid)? - before) as f64 / 1_000_000.0;
    Ok(Rest { rss_mib: memory.rss_kib as f64 / 1024.0, cpu_percent: used / at.elapsed().as_secs_f64() * 100.0 })
}

fn name(n: usize) -> String {
    format!("/fleet/{}/svc-{n}", n / BATCH)
}

fn service(n: usize) -> byname::AddRequest {
    let launch = byname::Launch {
        command: Some(byname::Strings { values: vec!["serve".into(), "--number".into(), n.to_string()] }),
        copies: Some(byname::Copies { min: Some(1), max: Some(1) }),
        ..Default::default()
    };
    let spec = byname::Spec { kind: byname::Kind::Service as i32, launch: Some(launch), ..Default::default() };
    byname::AddRequest { name: name(n), spec: Some(spec) }
}

/// Attaches an agent, and plays it until its stream ends.
async fn attach(address: &str, n: usize, started: Arc<AtomicU64>) -> Result<tokio::task::JoinHandle<Result<()>>> {
    let (reports, out) = mpsc::unbounded_channel::<byname::AgentFrame>();
    let say = move |said: &Said| -> Result<()> {
        // Whoever does not listen any more ends the stream, which is seen below.
        let _ = reports.send(byname::AgentFrame { json: serde_json::to_vec(said)? });
        Ok(())
    };
    say(&Said::Hello {
        computer: format!("host-{n}"),
        addresses: vec![format!("10.{}.{}.1", n / 250, n % 250)],
        facts: vec![("kernel".into(), "played".into()), ("cores".into(), "4".into())],
        beats: true,
    })?;
    let mut client = AgentsClient::new(connect(address).await?);
    let mut orders = client.connect(with_token(UnboundedReceiverStream::new(out), &token()?)).await?.into_inner();
    let order = |frame: byname::AgentFrame| -> Result<Order> { Ok(serde_json::from_slice(&frame.json)?) };
    // It is attached when it is welcomed.
    let Some(first) = orders.message().await? else { bail!("the stream ended") };
    ensure!(matches!(order(first)?, Order::Welcome { .. }), "the first order is no welcome");
    say(&Said::Synced)?;
    Ok(tokio::spawn(async move {
        let (mut beat, mut every, mut instances) = (0, Duration::from_secs(3_600), 0);
        let mut next = tokio::time::Instant::now() + every;
        loop {
            tokio::select! {
                frame = orders.message() => match frame?.map(order).transpose()? {
                    None => bail!("the stream ended"),
                    Some(Order::Beat { every_ms, .. }) => {
                        every = Duration::from_millis(every_ms);
                        next = tokio::time::Instant::now() + every;
                    }
                    Some(Order::Start(start)) => {
                        instances += 1;
                        for phase in [Phase::Started, Phase::Ready] {
                            say(&Said::Instance(InstanceReport {
                                instance: start.instance,
                                service: start.service,
                                phase,
                                pid: Some(1_000 + instances),
                                endpoints: vec![Endpoint { protocol: "tcp".into(), address: String::new(), port: 4711 }],
                                started: None,
                                checked: None,
                            }))?;
                        }
                        started.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(_) => {}
                },
                () = tokio::time::sleep_until(next) => {
                    beat += 1;
                    next += every;
                    say(&Said::Beat { beat, load: Some(0.5), memory_free: Some(1 << 30), instances })?;
                }
            }
        }
    }))
}
