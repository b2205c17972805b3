//! Memory of servers that have nothing to do.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::process::memory;
use crate::stats::Spread;
use crate::systems::{Byname, Etcd, Programs};

/// How long a server is left alone before it is looked at: this is what is measured, not a wait for something.
const IDLE: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// How often each was started anew.
    pub(crate) rounds: usize,
    /// `byname dev`.
    pub(crate) byname: Held,
    /// The holder that it keeps ready.
    pub(crate) spare: Held,
    /// etcd.
    pub(crate) etcd: Held,
}

/// Memory, in MiB.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Resident.
    pub(crate) rss_mib: Spread,
    /// Resident, shared pages divided among those who share.
    pub(crate) pss_mib: Spread,
}

/// Starts each server anew so many times.
pub(crate) async fn run(programs: &Programs, rounds: usize, work: &Path) -> Result<Report> {
    let machine = Machine::describe(work)?;
    let mut seen = [const { Vec::new() }; 3];
    for round in 0..rounds {
        let byname = Byname::start(&programs.byname, &work.join(format!("idle-byname-{round}")))?;
        let etcd = Etcd::start(&programs.etcd, &work.join(format!("idle-etcd-{round}")))?;
        byname.settle().await?;
        tokio::time::sleep(IDLE).await;
        let spare = byname.spare().context("there is no spare holder")?;
        for (seen, pid) in seen.iter_mut().zip([byname.pid(), spare, etcd.pid()]) {
            seen.push(memory(pid)?);
        }
        byname.stop()?;
        etcd.stop()?;
    }
    let [byname, spare, etcd] = seen.map(|all| Held {
        rss_mib: Spread::of(all.iter().map(|m| m.rss_kib as f64 / 1024.0)),
        pss_mib: Spread::of(all.iter().map(|m| m.pss_kib as f64 / 1024.0)),
    });
    for (name, held) in [("byname dev", &byname), ("  its spare holder", &spare), ("etcd", &etcd)] {
        eprintln!(
            "  {name:20} {:6.1} MiB resident, {:6.1} MiB its own share",
            held.rss_mib.median, held.pss_mib.median
        );
    }
    Ok(Report { machine, rounds, byname, spare, etcd })
}
