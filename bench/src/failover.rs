//! The time without writes after the server that leads is killed, beside etcd with its defaults.
//!
//! Writes are begun every few milliseconds at both servers that are left, each without regard to the others, and the first
//! that was begun after the kill and is answered ends the time. So what a client library does when its server is gone is not
//! in it, and no write that waits for a leader hides that there is one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::machine::Machine;
use crate::members::{Kind, MEMBERS, Members, put};
use crate::stats::{Quantiles, Spread};
use crate::systems::Programs;
use crate::wire::connect;

/// Between two writes at one server.
const PACE: Duration = Duration::from_millis(5);
/// How long a system may take to go on.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long all goes well before each kill.
const CALM: Duration = Duration::from_millis(500);

/// How often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Kills {
    /// Kills of each system, in turns
    #[arg(long, default_value_t = 50)]
    kills: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// Each system; Byname first.
    pub(crate) systems: Vec<Measured>,
    /// The first system's time over the other's, of neighbours in time.
    pub(crate) ratio: Spread,
    /// The same of the medians.
    pub(crate) ratio_of_medians: f64,
}

/// One system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) system: String,
    /// Time without writes.
    pub(crate) without: Quantiles,
}

/// Kills both in turns.
pub(crate) async fn run(programs: &Programs, kills: &Kills, work: &Path) -> Result<Report> {
    ensure!(kills.kills > 0, "nobody is killed");
    let machine = Machine::describe(work)?;
    let mut all = [
        ("byname", Members::start(Kind::Byname(programs.byname.clone()), &work.join("byname")).await?, Vec::new()),
        ("etcd", Members::start(Kind::Etcd(programs.etcd.clone()), &work.join("etcd")).await?, Vec::new()),
    ];
    for round in 0..kills.kills {
        for (name, members, times) in &mut all {
            let time = one_kill(members, *name == "byname", round).await.with_context(|| (*name).to_owned())?;
            eprintln!("  {round:3} {name:7} {:8.1} ms", time.as_secs_f64() * 1_000.0);
            times.push(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
        }
    }
    let [(_, _, own), (_, _, etcd)] = &all;
    let ratio = Spread::of(own.iter().zip(etcd).map(|(own, etcd)| *own as f64 / *etcd as f64));
    let systems: Vec<Measured> = all
        .into_iter()
        .map(|(name, _, mut times)| Measured { system: name.to_owned(), without: Quantiles::of_ns(&mut times) })
        .collect();
    let ratio_of_medians = systems[0].without.p50_us / systems[1].without.p50_us;
    Ok(Report { machine, systems, ratio, ratio_of_medians })
}

/// Kills the one that leads, waits for the first write, and makes all well again.
async fn one_kill(members: &mut Members, to_byname: bool, round: usize) -> Result<Duration> {
    let leader = members.leader().await?;
    let (tell, mut told) = mpsc::unbounded_channel::<(Instant, Instant)>();
    let mut writers = Vec::new();
    for n in (0..MEMBERS).filter(|n| *n != leader) {
        let (channel, tell) = (connect(members.address(n)).await?, tell.clone());
        writers.push(tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            let mut under_way = tokio::task::JoinSet::new();
            for number in 0_u64.. {
                pace.tick().await;
                let (channel, tell) = (channel.clone(), tell.clone());
                under_way.spawn(async move {
                    let begun = Instant::now();
                    if put(to_byname, channel, "/bench/failover", &format!("{n}-{number}")).await.is_ok() {
                        let _ = tell.send((begun, Instant::now()));
                    }
                });
                while under_way.try_join_next().is_some() {}
            }
        }));
    }
    drop(tell);
    tokio::time::sleep(CALM).await;
    let killed = members.kill(leader)?;
    let first = async {
        while let Some((begun, done)) = told.recv().await {
            if begun > killed {
                return Some(done - killed);
            }
        }
        None
    };
    let time = tokio::time::timeout(PATIENCE, first).await.context("no write was answered any more")?;
    for writer in &writers {
        writer.abort();
    }
    members.revive(leader, &format!("{round}")).await?;
    time.context("nobody wrote")
}
