//! A host with an agent, whose socket is served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use byname_api::agent::{Order, StartOrder, TicketPair};
use byname_api::launch::{EnvValue, Launch, Ready};
use byname_api::object::InstanceId;
use byname_launch::{Agent, Config, Link};
use byname_name::Name;

use crate::authority::Server;

const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct Host {
    dir: tempfile::TempDir,
    agent: Agent,
    link: Link,
    server: Arc<Server>,
    started: Vec<u64>,
}

impl Host {
    pub(crate) async fn new(life: Duration) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            dir: dir.path().join("launch"),
            computer: "bugs".into(),
            addresses: vec!["127.0.0.1".into()],
            programs: Vec::new(),
            allow_commands: true,
            holder: vec![std::env::current_exe().unwrap().into(), "hold".into()],
            environment: vec![("PATH".into(), std::env::var_os("PATH").unwrap_or_default())],
            server: String::new(),
            require_user: false,
            port_range: None,
            shared: None,
        };
        let agent = Agent::start(config).await.unwrap();
        let server = Arc::new(Server::new(life));
        agent.set_issuer(server.clone());
        let listener = agent.listen_for_workloads().unwrap();
        tokio::spawn(byname_front_spiffe::serve(listener, agent.workloads(), server.clone(), std::future::pending()));
        let link = agent.connect();
        link.orders.send(Order::Welcome { term: 1, known: vec![] }).await.unwrap();
        Host { dir, agent, link, server, started: Vec::new() }
    }

    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.agent.workload_socket().display())
    }

    /// Starts a shell script under a name; `$EXE` is this executable.
    pub(crate) async fn start(&mut self, instance: u64, name: &str, script: &str) {
        let name = Name::parse(name).unwrap();
        self.server.names.lock().unwrap().insert(InstanceId(instance), name.clone());
        let exe = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
        let launch = Launch {
            command: Some(["sh", "-c", script].map(String::from).into()),
            ready: Some(Ready::Advertise),
            env: Some([("EXE".to_owned(), EnvValue::Text(exe))].into()),
            ..Launch::default()
        };
        let ticket = TicketPair { program: [1; 32], server: [2; 32] };
        let secrets = Default::default();
        let order =
            StartOrder { term: 1, instance: InstanceId(instance), service: instance, name, launch, ticket, secrets };
        self.link.orders.send(Order::Start(Box::new(order))).await.unwrap();
        self.started.push(instance);
    }

    /// What a program has written, once a line is among it.
    pub(crate) async fn said(&self, instance: u64, line: &str) -> String {
        let log = self.dir.path().join("launch/instances").join(InstanceId(instance).to_string()).join("log");
        let until = Instant::now() + PATIENCE;
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.lines().any(|found| found == line) {
                return said;
            }
            assert!(Instant::now() < until, "`{line}` is not in {said}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A killed holder takes its program along, and what that left is in the same folder.
        let instances = self.dir.path().join("launch");
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if std::fs::read_link(process.path().join("cwd")).is_ok_and(|folder| folder.starts_with(&instances)) {
                let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        }
    }
}
