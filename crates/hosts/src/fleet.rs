//! Servers and agents of Byname on hosts of their own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::failed;
use crate::network::Network;

/// How long anything may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Where servers listen, on each host's own address.
const PORT: u16 = 7600;

/// Three servers on hosts `s1` to `s3` and three agents on hosts `a1` to `a3`, or as many as are asked for. Each host keeps its
/// data in a folder of its name, with its log and its process id.
///
/// Dropping this leaves everything as it is; [`Fleet::down`] ends it.
#[derive(Clone, Debug)]
pub struct Fleet {
    binary: PathBuf,
    folder: PathBuf,
    plan: Plan,
    network: Network,
}

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the names of its namespaces begin with.
    pub prefix: String,
    /// Hosts with servers.
    pub servers: usize,
    /// Hosts with agents.
    pub agents: usize,
    /// More words for every server.
    pub server_words: Vec<String>,
    /// More words for every agent.
    pub agent_words: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { prefix: "byname".into(), servers: 3, agents: 3, server_words: Vec::new(), agent_words: Vec::new() }
    }
}

/// What a command wrote, and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit status; none when a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub talk: String,
}

impl Fleet {
    /// Makes the hosts; nothing runs on them yet.
    ///
    /// # Errors
    ///
    /// When the folder or the network cannot be made.
    pub fn new(binary: &Path, folder: &Path, plan: Plan) -> io::Result<Fleet> {
        fs::create_dir_all(folder)?;
        let fleet = Fleet::of(binary, folder, plan)?;
        for host in fleet.network.hosts() {
            fs::create_dir_all(fleet.folder.join(host).join("home"))?;
        }
        Network::up(&fleet.plan.prefix, &fleet.network.hosts().iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(fleet)
    }

    /// One that was made by another process.
    ///
    /// # Errors
    ///
    /// When the folder or the binary is not there.
    pub fn of(binary: &Path, folder: &Path, plan: Plan) -> io::Result<Fleet> {
        let numbered = |letter, many| (1..=many).map(move |n| format!("{letter}{n}"));
        let names: Vec<String> = numbered('s', plan.servers).chain(numbered('a', plan.agents)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (binary, folder) = (fs::canonicalize(binary)?, fs::canonicalize(folder)?);
        Ok(Fleet { binary, folder, network: Network::of(&plan.prefix, &names), plan })
    }

    /// The hosts and their cables.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The hosts with servers.
    pub fn servers(&self) -> Vec<&str> {
        self.of_kind('s')
    }

    /// The hosts with agents.
    pub fn agents(&self) -> Vec<&str> {
        self.of_kind('a')
    }

    fn of_kind(&self, letter: char) -> Vec<&str> {
        self.network.hosts().iter().map(String::as_str).filter(|host| host.starts_with(letter)).collect()
    }

    /// The folder of a host.
    pub fn folder(&self, host: &str) -> PathBuf {
        self.folder.join(host)
    }

    /// The data directory of what runs on a host.
    pub fn data(&self, host: &str) -> PathBuf {
        self.folder(host).join("data")
    }

    /// `unix:///PATH` of what runs on a host: what BYNAME_SERVER is there.
    pub fn url(&self, host: &str) -> String {
        let socket = if host.starts_with('s') { "byname.sock" } else { "agent.sock" };
        format!("unix://{}", self.data(host).join(socket).display())
    }

    /// Those of all servers, as one value of BYNAME_SERVER.
    pub fn urls(&self) -> String {
        self.servers().iter().map(|host| self.url(host)).collect::<Vec<_>>().join(",")
    }

    /// The log of what runs on a host, of all its lives.
    pub fn log(&self, host: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder(host).join("log")).unwrap_or_default()).into_owned()
    }

    /// Founds the cluster on the first server, lets the other servers join it, one after another, until each has its vote, and
    /// then the agents.
    ///
    /// # Errors
    ///
    /// When one of them does not become ready, with the end of its log.
    pub fn start(&self) -> io::Result<()> {
        let servers = self.servers();
        for (n, host) in servers.iter().enumerate() {
            if n == 0 {
                self.start_server(host, &[])?;
            } else {
                let token = self.token(servers[0], &["--name-server"])?;
                self.start_server(host, &["--join", &token])?;
            }
            self.wait(&format!("{host} has a vote"), || self.voters(servers[0]) == n + 1)?;
        }
        for host in self.agents() {
            let token = self.token(servers[0], &["--agent", "--computer", host])?;
            self.start_agent(host, &["--join", &token])?;
        }
        Ok(())
    }

    fn token(&self, host: &str, words: &[&str]) -> io::Result<String> {
        let said = self.byname(host, &[&["cluster", "invite"], words].concat())?;
        if said.status != Some(0) {
            return Err(failed(format!("no invitation: {}", said.talk)));
        }
        Ok(said.out.lines().next().unwrap_or_default().trim().to_owned())
    }

    fn voters(&self, host: &str) -> usize {
        let info = self.info(host).unwrap_or_default();
        let members = info["members"].as_array().cloned().unwrap_or_default();
        members.iter().filter(|member| member["voter"] == true).count()
    }

    /// Starts the server of a host and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become ready, with the end of its log.
    pub fn start_server(&self, host: &str, more: &[&str]) -> io::Result<()> {
        self.begin_server(host, more)?;
        self.ready(host)
    }

    fn begin_server(&self, host: &str, more: &[&str]) -> io::Result<()> {
        let address = format!("{}:{PORT}", self.network.address(host));
        let own = ["server", "--listen", &address, "--address", &address];
        self.launch(host, &[&own, more].concat(), &self.plan.server_words)
    }

    /// Starts the agent of a host and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become ready, with the end of its log.
    pub fn start_agent(&self, host: &str, more: &[&str]) -> io::Result<()> {
        self.begin_agent(host, more)?;
        self.ready(host)
    }

    fn begin_agent(&self, host: &str, more: &[&str]) -> io::Result<()> {
        self.launch(host, &[&["agent", "--computer", host], more].concat(), &self.plan.agent_words)
    }

    /// Starts again what ran on these hosts, all at once: a server is ready when it has heard from a majority.
    ///
    /// # Errors
    ///
    /// When one of them does not become ready, with the end of its log.
    pub fn start_again(&self, hosts: &[&str]) -> io::Result<()> {
        for host in hosts {
            if host.starts_with('s') { self.begin_server(host, &[])? } else { self.begin_agent(host, &[])? }
        }
        hosts.iter().try_for_each(|host| self.ready(host))
    }

    fn launch(&self, host: &str, words: &[&str], more: &[String]) -> io::Result<()> {
        use std::os::unix::process::CommandExt;
        let folder = self.folder(host);
        let (out, log) = (folder.join("out"), folder.join("log"));
        let mut command = self.command(host, &self.binary);
        command.args(&words[..1]).arg("--data").arg(self.data(host)).args(&words[1..]).args(more);
        command.stdin(Stdio::null()).stdout(File::create(&out)?);
        command.stderr(File::options().create(true).append(true).open(&log)?);
        command.env_remove("BYNAME_SERVER");
        // A signal from the terminal is for whoever started it, and it goes on when that ends.
        let mut child = command.process_group(0).spawn()?;
        let pid = child.id();
        fs::write(folder.join("pid"), pid.to_string())?;
        // Whoever ends it is told by /proc, so the process must not stay there as a zombie.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// Waits until what was started on a host says that it is ready.
    fn ready(&self, host: &str) -> io::Result<()> {
        let out = self.folder(host).join("out");
        let ready = || fs::read_to_string(&out).is_ok_and(|text| text.lines().any(|line| line == "ready"));
        self.wait(&format!("what runs on {host} is ready"), || ready() || self.pid(host).is_none())?;
        if ready() {
            return Ok(());
        }
        let log = self.log(host);
        let end: Vec<&str> = log.lines().rev().take(5).collect();
        Err(failed(format!("{host}: it ended: {}", end.into_iter().rev().collect::<Vec<_>>().join("\n"))))
    }

    /// A command on a host with BYNAME_SERVER set to what runs there.
    pub fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.network.command(host, program);
        command.env("BYNAME_SERVER", self.url(host)).env("HOME", self.folder(host).join("home"));
        command.env("LANG", "C.UTF-8").current_dir(self.folder(host));
        command
    }

    /// A command of Byname on a host, to its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn byname(&self, host: &str, words: &[&str]) -> io::Result<Said> {
        let output = self.command(host, &self.binary).args(words).stdin(Stdio::null()).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { status: output.status.code(), out: text(&output.stdout), talk: text(&output.stderr) })
    }

    /// What `byname version` says of the server on a host; none when that says nothing.
    pub fn info(&self, host: &str) -> Option<Value> {
        let said = self.byname(host, &["version", "-o", "json"]).ok()?;
        let mut versions: Value = serde_json::from_str(&said.out).ok()?;
        Some(versions.get_mut("server")?.take()).filter(Value::is_object)
    }

    /// The process on a host; none when nothing runs there.
    pub fn pid(&self, host: &str) -> Option<u32> {
        let pid = fs::read_to_string(self.folder(host).join("pid")).ok()?.trim().parse().ok()?;
        alive(pid).then_some(pid)
    }

    /// Sends a signal to what runs on a host. That nothing does is no error.
    pub fn signal(&self, host: &str, signal: Signal) {
        if let Some(pid) = self.pid(host) {
            send(pid, signal);
        }
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn kill(&self, host: &str) -> io::Result<()> {
        self.signal(host, Signal::KILL);
        self.wait(&format!("the end of what runs on {host}"), || self.pid(host).is_none())
    }

    /// SIGTERM, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn terminate(&self, host: &str) -> io::Result<()> {
        self.signal(host, Signal::TERM);
        self.wait(&format!("the end of what runs on {host} after SIGTERM"), || self.pid(host).is_none())
    }

    /// SIGSTOP: the process is there and does nothing.
    pub fn halt(&self, host: &str) {
        self.signal(host, Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self, host: &str) {
        self.signal(host, Signal::CONT);
    }

    /// Ends everything on the hosts, what agents started included, and takes the hosts away. The folder stays.
    pub fn down(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let left: Vec<u32> = self.network.hosts().iter().flat_map(|host| self.processes(host)).collect();
            if left.is_empty() || Instant::now() > until {
                break;
            }
            left.into_iter().for_each(|pid| send(pid, Signal::KILL));
            std::thread::sleep(PAUSE);
        }
        self.network.down();
    }

    /// All processes on a host.
    pub fn processes(&self, host: &str) -> Vec<u32> {
        let listed = Command::new("ip").args(["netns", "pids", &self.network.namespace(host)]).output();
        let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| alive(*pid)).collect()
    }

    fn wait(&self, what: &str, mut so: impl FnMut() -> bool) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !so() {
            if Instant::now() > until {
                return Err(failed(format!("waited in vain: {what}")));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// Sends a signal; a process that is gone is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process is there and has not ended.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}
