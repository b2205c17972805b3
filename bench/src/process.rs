//! Processes that are measured: started so that none outlives the bench, and looked at through /proc.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take to become ready or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that is killed when this is dropped, or when the bench itself dies.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Process> {
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Process { child })
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line of its standard output, which must be piped, that `wanted` accepts. The rest is thrown away by
    /// a thread, so that the process never waits for a reader.
    pub(crate) fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let output = self.child.stdout.take().context("the standard output is not piped")?;
        wait_for_line(output, wanted)
    }

    /// The same of its standard error.
    pub(crate) fn wait_for_error_line(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let output = self.child.stderr.take().context("the standard error is not piped")?;
        wait_for_line(output, wanted)
    }

    /// Ends it in the orderly way, and the other way when that takes too long.
    pub(crate) fn terminate(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM)?;
        let pid = self.pid();
        let (done, waiting) = std::sync::mpsc::channel::<()>();
        let guard = std::thread::spawn(move || {
            if waiting.recv_timeout(PATIENCE).is_err() {
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
        });
        self.child.wait()?;
        let _ = done.send(());
        let _ = guard.join();
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_line(output: impl io::Read + Send + 'static, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let mut lines = BufReader::new(output).lines();
    let mut seen = String::new();
    for line in &mut lines {
        let line = line?;
        if wanted(&line) {
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(line);
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    bail!("it ended before it was ready, and said: {seen}")
}

/// The receiving end of NOTIFY_SOCKET (sd_notify), by which etcd and our own program say that they are ready.
pub(crate) struct Notify {
    socket: UnixDatagram,
    name: String,
}

impl Notify {
    /// A new one, in the abstract name space.
    pub(crate) fn new() -> Result<Notify> {
        let name = format!("byname-bench-{}-{}", std::process::id(), free_port()?);
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Notify { socket, name: format!("@{name}") })
    }

    /// What NOTIFY_SOCKET is to be.
    pub(crate) fn address(&self) -> &OsStr {
        OsStr::new(&self.name)
    }

    /// Waits for READY=1.
    pub(crate) fn ready(&self) -> Result<()> {
        let mut datagram = [0; 512];
        loop {
            let length = self.socket.recv(&mut datagram).context("no READY=1 came in time")?;
            if datagram[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A command that writes its standard output and error to a file, and reads nothing.
pub(crate) fn logged(program: &Path, log: &Path) -> Result<Command> {
    let file = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    Ok(command)
}

/// Processor time that a process has used, in microseconds, by the kernel's clock ticks.
pub(crate) fn cpu_us(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("no such process")?;
    let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    // utime and stime, fields 14 and 15 of which two precede `rest`; a tick is 10 ms on every Linux in use.
    Ok((field(11) + field(12)) * 10_000)
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident, in KiB.
    pub(crate) rss_kib: u64,
    /// The same, with pages shared between processes divided by their number, in KiB.
    pub(crate) pss_kib: u64,
    /// Resident and in no file, in KiB: what the system could not simply read again.
    pub(crate) anonymous_kib: u64,
}

/// Memory of a process, from /proc/PID/smaps_rollup.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
    };
    Ok(Memory { rss_kib: field("Rss:"), pss_kib: field("Pss:"), anonymous_kib: field("Anonymous:") })
}

/// Memory of a process once it has come to rest: it changed by less than one part in a hundred for five seconds, or a
/// minute has gone by. What works behind answers (snapshots, collectors of garbage) has mostly ended by then.
pub(crate) async fn settled_memory(pid: u32) -> Result<Memory> {
    let mut still = 0;
    let mut seen = memory(pid)?;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = memory(pid)?;
        still = if now.rss_kib.abs_diff(seen.rss_kib) * 100 < seen.rss_kib.max(1) { still + 1 } else { 0 };
        if still == 5 {
            return Ok(now);
        }
        if still == 0 {
            seen = now;
        }
    }
    memory(pid)
}

/// Lets this process and those that it starts open as many files as they may.
pub(crate) fn raise_open_files() -> Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

/// What the files beneath a folder hold, in bytes, of those whose path has this word.
pub(crate) fn stored_bytes(dir: &Path, word: &str) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => stored_bytes(&entry.path(), word),
        Ok(data) if entry.path().to_string_lossy().contains(word) => data.len(),
        _ => 0,
    });
    bytes.sum()
}

/// The children of a process whose command line has this word.
pub(crate) fn children(pid: u32, word: &str) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    let all: Vec<u32> =
        lists.flat_map(|l| l.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>()).collect();
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|arg| arg == word.as_bytes())
    };
    all.into_iter().filter(has).collect()
}

/// Whether a process sleeps, in its own code: it waits for something.
pub(crate) fn sleeps(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Kills every process whose current folder lies beneath `dir`: programs that outlive the server by design.
pub(crate) fn kill_beneath(dir: &Path) {
    let Ok(all) = std::fs::read_dir("/proc") else { return };
    for entry in all.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let at = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if at.starts_with(dir) && pid != std::process::id() as i32 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
