//! What the figures were taken on.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::stats::Quantiles;

/// A machine, its disk, and how busy it was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    /// Cores that may be used.
    pub(crate) cores: usize,
    /// Memory, in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The file system that the data was on.
    pub(crate) file_system: String,
    /// An append of 4 KiB to a file whose blocks are there, made durable with fdatasync.
    pub(crate) fsync: Quantiles,
    /// Processes that wanted to run, averaged over a minute, before the run began.
    pub(crate) load_before: String,
    /// The compiler.
    pub(crate) rustc: String,
    /// The revision of the source, with `+` when there were changes.
    pub(crate) revision: String,
}

impl Machine {
    /// Describes this machine, and measures the disk beneath `dir`.
    pub(crate) fn describe(dir: &Path) -> Result<Machine> {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
        let kib = total.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        Ok(Machine {
            processor: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: kib / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            file_system: said("stat", &["-f", "-c", "%T", &dir.to_string_lossy()]),
            fsync: fsync_cost(dir)?,
            load_before: load.split_whitespace().next().unwrap_or_default().to_owned(),
            rustc: said("rustc", &["--version"]),
            revision: said("git", &["rev-parse", "--short", "HEAD"]) + if changed { "+" } else { "" },
        })
    }
}

/// The cost of making 4 KiB durable, which bounds what one client can write one after the other.
pub(crate) fn fsync_cost(dir: &Path) -> Result<Quantiles> {
    const COUNT: u64 = 300;
    const BYTES: usize = 4096;
    let path = dir.join("fsync");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; BYTES * (COUNT as usize + 1)], 0)?;
    file.sync_all()?;
    let block = [7; BYTES];
    let mut times = Vec::new();
    for n in 0..COUNT {
        let begun = Instant::now();
        file.write_all_at(&block, n * BYTES as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_nanos() as i64);
    }
    fs::remove_file(path)?;
    Ok(Quantiles::of_ns(&mut times))
}

/// The first line that a program prints; nothing when it cannot be run.
pub(crate) fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .ok()
        .and_then(|o| Some(String::from_utf8_lossy(&o.stdout).lines().next()?.trim().to_owned()))
        .unwrap_or_default()
}
