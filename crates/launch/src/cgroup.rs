//! Control groups (version 2) for limits of memory and processors, where the host gives us any.
//!
//! The agent may divide its own group only when it is alone in it or the group is the root, which is what a service
//! manager gives with delegation. Elsewhere, memory is bounded by RLIMIT_DATA, which counts what a process can write
//! to and not the address space that many runtimes reserve without using it; processors are not bounded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use byname_api::launch::Limits;
use byname_api::object::InstanceId;

/// Where the agent's own processes go when it has to leave its group to divide it.
const AGENT: &str = "byname-agent";
const PROGRAMS: &str = "byname-programs";

/// What the host offers.
pub(crate) struct Cgroups {
    base: Option<PathBuf>,
    memory: bool,
    cpu: bool,
}

/// The group of one program.
pub(crate) struct Cgroup {
    pub(crate) path: PathBuf,
    /// Memory is bounded by the group.
    pub(crate) memory: bool,
}

impl Cgroups {
    /// Looks for a group that can be divided.
    pub(crate) fn find() -> Cgroups {
        divide().unwrap_or(Cgroups { base: None, memory: false, cpu: false })
    }

    /// What limits do here, for people.
    pub(crate) fn facts(&self) -> String {
        let memory = if self.memory { "memory: cgroup" } else { "memory: RLIMIT_DATA of each process" };
        let cpu = if self.cpu { "cpu: cgroup" } else { "cpu: not limited (no cgroup v2 controller)" };
        format!("{memory}; {cpu}; files: RLIMIT_NOFILE")
    }

    /// Makes a group with these limits; none when there is nothing to limit or no way to.
    pub(crate) fn prepare(&self, instance: InstanceId, limits: &Limits) -> Option<Cgroup> {
        let wanted = (self.memory && limits.memory.is_some()) || (self.cpu && limits.cpu.is_some());
        let path = self.base.as_ref().filter(|_| wanted)?.join(instance.to_string());
        let make = || -> io::Result<()> {
            fs::create_dir(&path)?;
            if let Some(memory) = limits.memory.filter(|_| self.memory) {
                fs::write(path.join("memory.max"), memory.0.to_string())?;
                // Without it the limit only moves the program to the swap space.
                let _ = fs::write(path.join("memory.swap.max"), "0");
            }
            if let Some(cpu) = limits.cpu.filter(|_| self.cpu) {
                fs::write(path.join("cpu.max"), format!("{} 100000", ((cpu * 100_000.0) as u64).max(1_000)))?;
            }
            Ok(())
        };
        match make() {
            Ok(()) => Some(Cgroup { path, memory: self.memory && limits.memory.is_some() }),
            Err(error) => {
                tracing::warn!(%error, group = %path.display(), "cannot make a control group");
                let _ = fs::remove_dir(&path);
                None
            }
        }
    }

    /// Drops the group of a program that has ended.
    pub(crate) fn remove(&self, instance: InstanceId) {
        if let Some(base) = &self.base {
            let _ = fs::remove_dir(base.join(instance.to_string()));
        }
    }
}

fn divide() -> Option<Cgroups> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4)).flatten()
    })?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = own.strip_suffix(AGENT).unwrap_or(own).trim_end_matches('/');
    let group = Path::new(mount).join(own);
    let offered = words(&group.join("cgroup.controllers"));
    let wanted: Vec<String> =
        ["memory", "cpu"].iter().filter(|c| offered.iter().any(|o| o == *c)).map(|c| format!("+{c}")).collect();
    if wanted.is_empty() {
        return None;
    }
    let wanted = wanted.join(" ");
    let base = group.join(PROGRAMS);
    fs::create_dir_all(&base).ok()?;
    if fs::write(group.join("cgroup.subtree_control"), &wanted).is_err() {
        // A group with processes of its own cannot be divided: move over, if nobody else is here.
        let me = std::process::id().to_string();
        if words(&group.join("cgroup.procs")) != [me.as_str()] {
            let _ = fs::remove_dir(&base);
            return None;
        }
        fs::create_dir_all(group.join(AGENT)).ok()?;
        fs::write(group.join(AGENT).join("cgroup.procs"), me).ok()?;
        fs::write(group.join("cgroup.subtree_control"), &wanted).ok()?;
    }
    fs::write(base.join("cgroup.subtree_control"), &wanted).ok()?;
    let given = words(&base.join("cgroup.subtree_control"));
    let has = |name: &str| given.iter().any(|c| c == name);
    Some(Cgroups { memory: has("memory"), cpu: has("cpu"), base: Some(base) })
}

fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}
