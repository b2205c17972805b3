//! Measures Byname beside its peers, on one machine, in one run. `bench/run` builds and calls it; README.md says what is
//! measured and how.

mod activation;
mod agents;
mod cluster;
mod dns;
mod failover;
mod fleet;
mod identity;
mod idle;
mod load;
mod machine;
mod members;
mod process;
mod relay;
mod scale;
mod start;
mod stats;
mod systems;
mod table;
mod watch;
mod wire;
mod zookeeper;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use load::Times;
use scale::Sizes;
use systems::Programs;
use watch::Crowd;

/// Measures Byname beside its peers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// find and add under load, beside etcd and an empty call
    Load {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        times: Times,
        #[command(flatten)]
        place: Place,
    },
    /// Starts on demand, beside a bare spawn and socket activation
    Start {
        #[command(flatten)]
        programs: Programs,
        /// Cold starts of each kind
        #[arg(long, default_value_t = 300)]
        turns: usize,
        #[command(flatten)]
        place: Place,
    },
    /// Memory of servers that have nothing to do
    Idle {
        #[command(flatten)]
        programs: Programs,
        /// Fresh processes of each kind
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        #[command(flatten)]
        place: Place,
    },
    /// Very many names: memory, find, list and restart, beside etcd and ZooKeeper
    Scale {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        times: Times,
        #[command(flatten)]
        place: Place,
    },
    /// One change that many watch, beside etcd
    Watch {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        crowd: Crowd,
        #[command(flatten)]
        place: Place,
    },
    /// The first byte of a cold program behind a stable socket, beside systemd's socket activation and a bare spawn
    Activation {
        #[command(flatten)]
        programs: Programs,
        /// Cold starts of each kind
        #[arg(long, default_value_t = 200)]
        turns: usize,
        #[command(flatten)]
        place: Place,
    },
    /// The relay of a stable socket, beside direct connections
    Relay {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        times: relay::Times,
        #[command(flatten)]
        place: Place,
    },
    /// What authentication costs: find by callers who prove who they are, beside one who does not
    Identity {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        times: identity::Times,
        #[command(flatten)]
        place: Place,
    },
    /// Three servers under load, beside three members of etcd
    Cluster {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        times: Times,
        #[command(flatten)]
        place: Place,
    },
    /// The time without writes after the server that leads is killed, beside etcd
    Failover {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        kills: failover::Kills,
        #[command(flatten)]
        place: Place,
    },
    /// Answers of the DNS, beside Knot and NSD
    Dns {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        sizes: dns::Sizes,
        #[command(flatten)]
        place: Place,
    },
    /// What many agents and instances cost the primary
    Agents {
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        hosts: agents::Hosts,
        #[command(flatten)]
        place: Place,
    },
    /// The table of the last run
    Table {
        /// The folder of its files
        #[arg(long)]
        out: PathBuf,
        /// The document to write it into; without it it is printed
        #[arg(long)]
        readme: Option<PathBuf>,
        /// Only these parts, printed: the names of files in the folder, without `.json`
        #[arg(long, value_delimiter = ',')]
        parts: Vec<String>,
    },
    /// Serves the empty call
    #[command(hide = true)]
    EmptyServer,
}

#[derive(clap::Args)]
struct Place {
    /// Where the results go. The systems keep their data beneath it, too, so it says which disk is measured
    #[arg(long)]
    out: PathBuf,
}

impl Place {
    /// A folder for the data of this run, which is removed with it.
    fn work(&self) -> Result<tempfile::TempDir> {
        std::fs::create_dir_all(&self.out)?;
        Ok(tempfile::Builder::new().prefix("work-").tempdir_in(&self.out)?)
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        What::Load { programs, times, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), load::run(&programs, &times, work.path()))?;
            save(&place.out, "load", &report)
        }
        What::Start { programs, turns, place } => {
            let work = place.work()?;
            // One thread: a client that waits for one answer pays nothing for the others.
            let report =
                run(&mut tokio::runtime::Builder::new_current_thread(), start::run(&programs, turns, work.path()))?;
            save(&place.out, "start", &report)
        }
        What::Idle { programs, rounds, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_current_thread(), idle::run(&programs, rounds, work.path()))?;
            save(&place.out, "idle", &report)
        }
        What::Scale { programs, sizes, times, place } => {
            let work = place.work()?;
            let report = run(
                &mut tokio::runtime::Builder::new_multi_thread(),
                scale::run(&programs, &sizes, &times, work.path()),
            )?;
            save(&place.out, if sizes.alone { "scale-alone" } else { "scale" }, &report)
        }
        What::Watch { programs, crowd, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), watch::run(&programs, &crowd, work.path()))?;
            save(&place.out, if crowd.per_connection == 1 { "watch-own" } else { "watch" }, &report)
        }
        What::Activation { programs, turns, place } => {
            let work = place.work()?;
            let report = run(
                &mut tokio::runtime::Builder::new_current_thread(),
                activation::run(&programs, turns, work.path()),
            )?;
            save(&place.out, "activation", &report)
        }
        What::Relay { programs, times, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), relay::run(&programs, &times, work.path()))?;
            save(&place.out, "relay", &report)
        }
        What::Identity { programs, times, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), identity::run(&programs, &times, work.path()))?;
            save(&place.out, "identity", &report)
        }
        What::Cluster { programs, times, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), cluster::run(&programs, &times, work.path()))?;
            save(&place.out, "cluster", &report)
        }
        What::Failover { programs, kills, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), failover::run(&programs, &kills, work.path()))?;
            save(&place.out, "failover", &report)
        }
        What::Dns { programs, sizes, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), dns::run(&programs, &sizes, work.path()))?;
            save(&place.out, "dns", &report)
        }
        What::Agents { programs, hosts, place } => {
            let work = place.work()?;
            let report =
                run(&mut tokio::runtime::Builder::new_multi_thread(), agents::run(&programs, &hosts, work.path()))?;
            save(&place.out, "agents", &report)
        }
        What::Table { out, parts, .. } if !parts.is_empty() => {
            for part in &parts {
                print!("{}", table::render_part(&out, part)?);
            }
            Ok(())
        }
        What::Table { out, readme, .. } => {
            let text = table::render(&out)?;
            match readme {
                Some(readme) => table::rewrite(&readme, &text),
                None => {
                    print!("{text}");
                    Ok(())
                }
            }
        }
        What::EmptyServer => tokio::runtime::Runtime::new()?.block_on(wire::serve_empty()),
    }
}

/// Runs a measurement, unless somebody interrupts it; either way its processes end with it.
fn run<T>(builder: &mut tokio::runtime::Builder, measurement: impl Future<Output = Result<T>>) -> Result<T> {
    builder.enable_all().build()?.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            done = measurement => done,
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
        }
    })
}

fn save(out: &Path, name: &str, report: &impl Serialize) -> Result<()> {
    let path = out.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(report)?).with_context(|| path.display().to_string())
}
