//! A host for one test: an agent in a folder of its own, and the end of every process it started when the test ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use byname_api::agent::{Backend, InstanceReport, Listen, Order, Phase, Report, StartOrder, TicketPair};
use byname_api::launch::{Handover, Launch, Ready};
use byname_api::object::{Choose, InstanceId};
use byname_launch::{Agent, Config, Link};
use byname_name::Name;
use tokio::time::timeout;

/// Long enough for a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct Host {
    /// Before `dir`, which is removed last.
    processes: Processes,
    pub(crate) dir: tempfile::TempDir,
}

/// An agent and the stream to it.
pub(crate) struct Running {
    pub(crate) agent: Agent,
    pub(crate) link: Link,
}

impl Host {
    pub(crate) fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("programs.d")).unwrap();
        Host { processes: Processes(dir.path().join("launch")), dir }
    }

    pub(crate) fn config(&self) -> Config {
        config(self.dir.path())
    }

    pub(crate) fn instance_dir(&self, instance: u64) -> PathBuf {
        self.dir.path().join("launch/instances").join(InstanceId(instance).to_string())
    }

    pub(crate) fn catalogue(&self, text: &str) {
        std::fs::write(self.dir.path().join("programs.d/test.toml"), text).unwrap();
    }

    /// An agent that was welcomed.
    pub(crate) async fn agent(&self) -> Running {
        Running::start(self.config()).await
    }

    /// An agent on the folder of one that was dropped: its last tasks may hold the lock for a moment longer.
    pub(crate) async fn agent_again(&self) -> Running {
        Running::start_again(self.config()).await
    }

    /// How many programs and holders of instances are there.
    pub(crate) fn programs(&self) -> usize {
        processes_in(&self.processes.0.join("instances")).len()
    }
}

impl Running {
    pub(crate) async fn start(config: Config) -> Running {
        Running::welcome(Agent::start(config).await.unwrap()).await
    }

    pub(crate) async fn start_again(config: Config) -> Running {
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            match Agent::start(config.clone()).await {
                Ok(agent) => return Running::welcome(agent).await,
                Err(byname_launch::StartError::Locked(_)) if std::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn welcome(agent: Agent) -> Running {
        let mut link = agent.connect();
        assert!(matches!(link.reports.recv().await, Some(Report::Hello { .. })));
        link.orders.send(Order::Welcome { term: 1, known: vec![] }).await.unwrap();
        Running { agent, link }
    }

    /// Everything that is told until `Synced`.
    pub(crate) async fn sync(&mut self) -> Vec<InstanceReport> {
        let mut told = Vec::new();
        loop {
            match self.next().await {
                Report::Synced => return told,
                Report::Instance(report) => told.push(report),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Report {
        timeout(PATIENCE, self.link.reports.recv()).await.expect("a report in time").expect("a report")
    }

    pub(crate) async fn order(&self, order: Order) {
        self.link.orders.send(order).await.unwrap();
    }

    pub(crate) async fn start_service(&self, instance: u64, launch: Launch) {
        self.order(Order::Start(Box::new(start(instance, launch)))).await;
    }

    pub(crate) async fn stop(&self, instance: u64, now: bool) {
        self.order(Order::Stop { term: 1, instance: InstanceId(instance), now }).await;
    }

    /// The next report of this instance that fits.
    pub(crate) async fn until(&mut self, instance: u64, fits: impl Fn(&Phase) -> bool) -> InstanceReport {
        loop {
            if let Report::Instance(report) = self.next().await
                && report.instance == InstanceId(instance)
            {
                if fits(&report.phase) {
                    return report;
                }
                assert!(!matches!(report.phase, Phase::Ended { .. }), "ended unexpectedly: {report:?}");
            }
        }
    }

    pub(crate) async fn until_ready(&mut self, instance: u64) -> InstanceReport {
        self.until(instance, |p| *p == Phase::Ready).await
    }

    pub(crate) async fn until_started(&mut self, instance: u64) -> InstanceReport {
        loop {
            let report = self.until(instance, |p| *p == Phase::Started).await;
            if report.pid.is_some() {
                return report;
            }
        }
    }

    pub(crate) async fn until_ended(&mut self, instance: u64) -> InstanceReport {
        self.until(instance, |p| matches!(p, Phase::Ended { .. })).await
    }
}

/// The parts of an end.
pub(crate) struct Ended {
    pub(crate) exit: String,
    pub(crate) last_lines: String,
    pub(crate) error: Option<byname_api::Error>,
    pub(crate) ordered: bool,
}

pub(crate) fn ended(report: &InstanceReport) -> Ended {
    match report.phase.clone() {
        Phase::Ended { exit, last_lines, error, ordered } => {
            Ended { exit: exit.to_string(), last_lines, error, ordered }
        }
        other => panic!("not ended: {other:?}"),
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Config {
        dir: dir.join("launch"),
        computer: "bugs".into(),
        addresses: vec!["127.0.0.1".into()],
        programs: vec![dir.join("programs.d")],
        allow_commands: true,
        holder: vec![std::env::current_exe().unwrap().into(), "hold".into()],
        environment: vec![("PATH".into(), path), ("LANG".into(), "C.UTF-8".into())],
        server: "unix:///run/byname/socket".into(),
        require_user: false,
        port_range: None,
        shared: None,
    }
}

pub(crate) fn start(instance: u64, launch: Launch) -> StartOrder {
    StartOrder {
        term: 1,
        instance: InstanceId(instance),
        service: 7,
        name: Name::parse("/BVODS/QS").unwrap(),
        launch,
        ticket: TicketPair { program: [0xa1; 32], server: [0xb2; 32] },
        secrets: Default::default(),
    }
}

/// A launch of a command.
pub(crate) fn command<const N: usize>(ready: Ready, words: [&str; N]) -> Launch {
    Launch { command: Some(words.map(String::from).into()), ready: Some(ready), ..Launch::default() }
}

/// A shell script that says that it is ready first.
pub(crate) fn shell(script: &str) -> Launch {
    let python = "import os,socket; s=socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); a=os.environ['NOTIFY_SOCKET']; \
                  s.sendto(b'READY=1', '\\0'+a[1:] if a[0]=='@' else a)";
    command(Ready::Notify, ["sh", "-c", &format!("python3 -c \"{python}\"; {script}")])
}

/// The same, when it does this on SIGTERM. It is settled before it says that it is ready: whoever hears that may stop it at
/// once.
pub(crate) fn on_term(answer: &str, script: &str) -> Launch {
    let mut launch = shell(script);
    if let Some(line) = launch.command.as_mut().and_then(|c| c.last_mut()) {
        line.insert_str(0, &format!("trap '{answer}' TERM; "));
    }
    launch
}

/// The same, when it does not listen to SIGTERM.
pub(crate) fn deaf(script: &str) -> Launch {
    on_term("", script)
}

/// A shell script of which nobody expects more than that it starts.
pub(crate) fn plain(script: &str) -> Launch {
    command(Ready::Advertise, ["sh", "-c", script])
}

/// A web server of Python's on the port it was given.
pub(crate) fn web(ready: Ready) -> Launch {
    command(ready, ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "${PORT}"])
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

pub(crate) fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !so() {
        assert!(std::time::Instant::now() < until, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// The parent of a program.
pub(crate) fn holder_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// How many children of this process have this name and are alive.
pub(crate) fn children_named(name: &str) -> usize {
    let own = std::process::id().to_string();
    let mut found = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        let dead = field("State:").is_none_or(|s| s.starts_with('Z') || s.starts_with('X'));
        if field("Name:") == Some(name) && field("PPid:") == Some(own.as_str()) && !dead {
            found += 1;
        }
    }
    found
}

/// Another process with an agent, which starts the sleeping instance 1 and then waits to be killed.
pub(crate) fn agent_process(args: &[OsString]) {
    let dir = PathBuf::from(&args[0]);
    let script = args[1].to_str().unwrap();
    run(async {
        let mut running = Running::start(config(&dir)).await;
        running.start_service(1, shell(script)).await;
        let report = running.until_ready(1).await;
        println!("{}", report.pid.unwrap());
        std::future::pending::<()>().await;
    });
}

/// The holders of a folder, and with them their programs. Killed when the test ends, however it ends.
struct Processes(PathBuf);

/// The processes whose current folder is in this one.
fn processes_in(place: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if std::fs::read_link(process.path().join("cwd")).is_ok_and(|folder| folder.starts_with(place)) {
            found.push(pid);
        }
    }
    found
}

impl Drop for Processes {
    fn drop(&mut self) {
        processes_in(&self.0).into_iter().for_each(kill);
    }
}

/// The stable sockets of service 7.
pub(crate) fn listen<const N: usize>(handover: Handover, sockets: [&str; N]) -> Listen {
    Listen {
        service: 7,
        name: Name::parse("/BVODS/QS").unwrap(),
        sockets: sockets.map(String::from).into(),
        handover,
        choose: Choose::First,
    }
}

/// An address that nobody listens on.
pub(crate) fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Running {
    /// Holds sockets, and waits until they are held.
    pub(crate) async fn listen(&mut self, listen: Listen) -> Vec<(String, Option<String>)> {
        let (service, wanted) = (listen.service, listen.sockets.clone());
        self.order(Order::Listen { term: 1, listen: Box::new(listen) }).await;
        loop {
            // Not what is told of sockets that were given up before.
            let told = self.until_listening(service).await;
            if told.iter().map(|(socket, _)| socket).eq(&wanted) {
                return told;
            }
        }
    }

    pub(crate) async fn until_listening(&mut self, wanted: u64) -> Vec<(String, Option<String>)> {
        loop {
            if let Report::Listening { service, sockets } = self.next().await
                && service == wanted
            {
                return sockets;
            }
        }
    }

    /// The next knock: the socket, and the copies that are said to be dead.
    pub(crate) async fn until_knock(&mut self) -> (String, Vec<u64>) {
        loop {
            if let Report::Knock { service: 7, socket, dead } = self.next().await {
                return (socket, dead.into_iter().map(|id| id.0).collect());
            }
        }
    }

    pub(crate) async fn backends(&self, backends: &[&InstanceReport]) {
        let backend = |report: &&InstanceReport| {
            let mut endpoint = report.endpoints[0].clone();
            if endpoint.address.is_empty() {
                endpoint.address = "127.0.0.1".into();
            }
            Backend { instance: report.instance, endpoint }
        };
        let backends = backends.iter().map(backend).collect();
        self.order(Order::Backends { service: 7, backends }).await;
    }

    /// Waits until the porter of instance 1 has heard everything that was ordered before.
    pub(crate) async fn heard(&mut self) {
        self.rest(1).await;
        self.order(Order::Wake { instance: InstanceId(1) }).await;
    }

    pub(crate) async fn rest(&mut self, instance: u64) -> Option<u32> {
        self.order(Order::Rest { request: instance, instance: InstanceId(instance) }).await;
        loop {
            if let Report::Rested { request, connections, .. } = self.next().await
                && request == instance
            {
                return connections;
            }
        }
    }
}
