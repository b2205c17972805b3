//! What the programs of a host are answered on the agent's socket, with servers and without.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use byname_testkit::{Options, Output, Server, eventually};

/// A server and an agent beside it, as two processes.
struct Host {
    server: Server,
    agent: Option<Child>,
}

impl Host {
    fn new() -> Host {
        let server = Server::start_with(env!("CARGO_BIN_EXE_byname"), Options { role: "server", ..Options::default() });
        let mut host = Host { server, agent: None };
        host.start_agent();
        host
    }

    fn start_agent(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.server.scratch().join("agent.log")).unwrap();
        let mut command = self.server.command(&["agent", "--data", "agent", "--programs", "programs.d"]);
        self.agent = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let endpoints = self.server.scratch().join("agent/endpoints.json");
        eventually("the agent's socket", || fs::read(&endpoints).ok().filter(|text| !text.is_empty()));
    }

    /// Ends the agent as a supervisor does.
    fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let pid = rustix::process::Pid::from_child(&agent);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            agent.wait().unwrap();
        }
    }

    fn socket(&self) -> PathBuf {
        let text = fs::read(self.server.scratch().join("agent/endpoints.json")).unwrap();
        let endpoints: serde_json::Value = serde_json::from_slice(&text).unwrap();
        endpoints["socket"].as_str().unwrap().into()
    }

    /// Runs a command that is told of no server: it finds the agent.
    fn byname(&self, words: &[&str]) -> Output {
        let mut command = self.server.command(words);
        output(command.env_remove("BYNAME_SERVER"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

fn output(command: &mut Command) -> Output {
    let done = command.output().unwrap();
    Output {
        status: done.status.code().unwrap_or(-1),
        out: String::from_utf8(done.stdout).unwrap(),
        talk: String::from_utf8(done.stderr).unwrap(),
    }
}

#[test]
fn with_all_servers_down_the_agent_answers_what_it_knows_and_says_that_it_is_old() {
    let mut host = Host::new();
    assert_eq!(host.byname(&["add", "/conf/motd", "--value", "hello"]).status, 0, "through the agent");
    assert_eq!(host.byname(&["find", "/conf/motd"]).lines(), ["hello"]);
    let socket = host.socket();
    let known = || {
        let metrics = Command::new("curl")
            .args(["-s", "--unix-socket", socket.to_str().unwrap(), "http://localhost/metrics"])
            .output()
            .unwrap();
        let text = String::from_utf8(metrics.stdout).unwrap();
        text.contains("byname_clerk_entries 1").then_some(())
    };
    eventually("the agent to know it", known);

    host.server.kill();
    let found = eventually("an old answer", || {
        let found = host.byname(&["find", "/conf/motd"]);
        (found.status == 0 && found.talk.contains("stale")).then_some(found)
    });
    assert_eq!(found.lines(), ["hello"]);
    assert!(found.talk.contains("note: stale: the last word from the servers was"), "{}", found.talk);
    let json = host.byname(&["find", "-o", "json", "/conf/motd"]).json();
    assert_eq!((&json["stale"], &json["value"]), (&true.into(), &"hello".into()));
    assert!(json["age_ms"].is_u64(), "{json}");
    let refused = host.byname(&["add", "/conf/other", "--value", "x"]);
    assert_eq!(refused.status, 5, "{}", refused.talk);
    assert!(refused.talk.contains("no server answers"), "{}", refused.talk);

    // A start without servers answers from what was written down.
    host.stop_agent();
    host.start_agent();
    let found = host.byname(&["find", "/conf/motd"]);
    assert_eq!((found.lines(), found.talk.contains("stale")), (vec!["hello"], true));

    // And with a server it is as before.
    host.server.start_again();
    assert_eq!(host.server.byname(&["edit", "/conf/motd", "--value", "again"]).status, 0);
    eventually("the new value", || {
        let found = host.byname(&["find", "/conf/motd"]);
        (found.out.trim() == "again" && found.talk.is_empty()).then_some(())
    });
}

#[test]
fn the_socket_is_the_agent_s_user_s_and_takes_no_tokens() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let socket = host.socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let socket = socket.to_str().unwrap();
    let asked = ["-s", "-H", "Authorization: Bearer x", "--unix-socket", socket, "http://localhost/v1/list?pattern=*"];
    let refused = String::from_utf8(Command::new("curl").args(asked).output().unwrap().stdout).unwrap();
    assert!(refused.contains("unauthenticated") && refused.contains("agent's socket"), "{refused}");
}
