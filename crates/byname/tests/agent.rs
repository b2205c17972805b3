//! `byname server` and `byname agent` as two processes: either may go and come back.

use std::fs;
use std::process::{Child, Stdio};

use byname_testkit::{Options, Server, alive, eventually, kill};

/// An agent of its own. Ended by the server's clean-up, which finds everything that works in its folder.
struct Agent(Child);

impl Agent {
    fn start(server: &Server) -> Agent {
        let log = fs::File::options().create(true).append(true).open(server.scratch().join("agent.log")).unwrap();
        let words = ["agent", "--data", "agent", "--programs", "programs.d", "--computer", "bugs"];
        let mut command = server.command(&words);
        Agent(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A server, and a catalogue with one program.
fn server() -> Server {
    let server = Server::start_with(env!("CARGO_BIN_EXE_byname"), Options { role: "server", ..Options::default() });
    let folder = server.scratch().join("programs.d");
    fs::create_dir(&folder).unwrap();
    let script =
        "import os, socket; s = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\\nwhile 1: s.accept()";
    // Outside of `dev`, a program runs as root only where that is said.
    let user = if fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        "user = 'root'"
    } else {
        ""
    };
    let entry = format!("[serve]\ncommand = [\"python3\", \"-IS\", \"-c\", \"{script}\"]\n{user}\n");
    fs::write(folder.join("serve.toml"), entry).unwrap();
    assert_eq!(server.byname(&["add", "/BVODS/QS", "--program", "serve"]).status, 0);
    server
}

fn agent_log(server: &Server) -> String {
    fs::read_to_string(server.scratch().join("agent.log")).unwrap_or_default()
}

fn pid_of(server: &Server) -> u32 {
    let found = server.byname(&["find", "-o", "json", "/BVODS/QS"]);
    assert_eq!(found.status, 0, "{}\n{}", found.talk, agent_log(server));
    found.json()["instances"][0]["pid"].as_u64().unwrap().try_into().unwrap()
}

#[test]
fn without_an_agent_nothing_can_be_started_and_with_one_it_can() {
    let server = server();
    let refused = server.byname(&["find", "/BVODS/QS"]);
    assert_eq!(refused.status, 5, "{}", refused.talk);
    assert!(refused.talk.contains("no-host") && refused.talk.contains("byname agent"), "{}", refused.talk);
    let _agent = Agent::start(&server);
    eventually("the agent", || (server.byname(&["find", "/BVODS/QS"]).status == 0).then_some(()));
    assert_eq!(server.byname(&["find", "/computers/bugs"]).lines(), ["127.0.0.1"]);
}

#[test]
fn programs_outlive_their_agent_and_their_server() {
    let mut server = server();
    let agent = Agent::start(&server);
    eventually("the agent", || (server.byname(&["find", "/BVODS/QS"]).status == 0).then_some(()));
    let pid = pid_of(&server);
    agent.kill();
    assert!(alive(pid));
    assert_eq!(pid_of(&server), pid, "found while its agent is away");
    let agent = Agent::start(&server);
    server.kill();
    server.start_again();
    assert_eq!(pid_of(&server), pid, "found after both were away");
    // The agent comes back, and watches what it took up again.
    kill(pid);
    let another = eventually("another process", || Some(pid_of(&server)).filter(|p| *p != pid));
    assert!(alive(another));
    agent.kill();
}

#[test]
fn a_plain_command_is_refused_outside_dev() {
    let server = server();
    let _agent = Agent::start(&server);
    eventually("the agent", || (server.byname(&["find", "/BVODS/QS"]).status == 0).then_some(()));
    server.byname(&["add", "/evil", "--", "/bin/rm", "-rf", "/"]).lines();
    let refused = server.byname(&["find", "/evil"]);
    assert_eq!(refused.status, 4, "{}", refused.talk);
}
