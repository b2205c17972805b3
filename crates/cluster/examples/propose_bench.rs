//! How fast proposals become durable, beside what the disk itself can do.
//!
//! `cargo run --release -p byname-cluster --example propose_bench [DIR]`: prints, for 1 to 256 proposers of 128-byte
//! commands, proposals a second and their latency, and the time of a bare 128-byte write + fdatasync in the same folder,
//! measured before and after.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use byname_cluster::{Cluster, Frozen, Machine, Options, Position};
use bytes::Bytes;

/// Replies at once and keeps nothing.
struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _at: Position, commands: &[Bytes]) -> io::Result<Vec<Bytes>> {
        Ok(vec![Bytes::new(); commands.len()])
    }

    fn publish(&mut self, _at: Position) {}

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(Nothing)
    }

    fn restore(&mut self, _from: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

impl Frozen for Nothing {
    fn write(self: Box<Self>, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("propose-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let outcome = run(&dir);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn run(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    bare(dir)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let begin = Instant::now();
        let cluster = Cluster::open(Options::new(dir.join("new"), 1), Nothing).await?;
        println!("open a new folder     {:>10.2?}", begin.elapsed());
        for proposers in [1, 2, 8, 64, 256] {
            measure(&cluster, proposers, Duration::from_secs(3)).await?;
        }
        cluster.shutdown().await;
        let begin = Instant::now();
        let cluster = Cluster::open(Options::new(dir.join("new"), 1), Nothing).await?;
        println!("open it again         {:>10.2?}  ({:?})", begin.elapsed(), cluster.status());
        println!("memory                {:>7} KiB", memory()?);
        cluster.shutdown().await;
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    bare(dir)
}

async fn measure(cluster: &Cluster, proposers: usize, time: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..proposers)
        .map(|_| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                let command = Bytes::from(vec![7; 128]);
                let mut latencies = Vec::new();
                while begin.elapsed() < time {
                    let begin = Instant::now();
                    cluster.propose(command.clone()).await?;
                    latencies.push(begin.elapsed());
                }
                Ok::<_, byname_cluster::ProposeError>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    print(&format!("{proposers:>3} proposers"), &mut latencies, begin.elapsed());
    Ok(())
}

fn bare(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::create(dir.join("bare"))?;
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    file.sync_all()?;
    let begin = Instant::now();
    let mut latencies = Vec::new();
    for number in 0..4000 {
        let begin = Instant::now();
        file.write_all_at(&[7; 128], number * 128)?;
        file.sync_data()?;
        latencies.push(begin.elapsed());
    }
    print("bare fdatasync", &mut latencies, begin.elapsed());
    Ok(())
}

fn print(what: &str, latencies: &mut [Duration], elapsed: Duration) {
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let rate = latencies.len() as f64 / elapsed.as_secs_f64();
    println!("{what:<14} {rate:>9.0}/s  p50 {:>9.2?}  p99 {:>9.2?}  max {:>9.2?}", at(0.5), at(0.99), at(1.0));
}

fn memory() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0))
}
