//! One server and agents of several hosts, which fall silent, come back and are emptied.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use byname_testkit::{Options, Server, alive, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// The agent of a host. Ended by the server's clean-up, which finds everything that works in its folder.
struct Agent(Child);

impl Agent {
    fn start(server: &Server, computer: &str) -> Agent {
        let log = server.scratch().join(format!("{computer}.log"));
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let words = ["agent", "--data", computer, "--programs", "programs.d", "--computer", computer];
        Agent(server.command(&words).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that is stopped must go on to be ended.
        let _ = kill_process(Pid::from_child(&self.0), Signal::CONT);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that gives a silent host up after so long, and a catalogue with one program.
fn server(grace: &str) -> Server {
    let arguments = ["--host-silence", "1s", "--host-grace", grace].map(str::to_owned).to_vec();
    let options = Options { role: "server", arguments, ..Options::default() };
    let server = Server::start_with(env!("CARGO_BIN_EXE_byname"), options);
    let folder = server.scratch().join("programs.d");
    fs::create_dir(&folder).unwrap();
    let script =
        "import os, socket; s = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\\nwhile 1: s.accept()";
    // Outside of `dev`, a program runs as root only where that is said.
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let user = if root { "user = 'root'" } else { "" };
    let entry = format!("[serve]\ncommand = [\"python3\", \"-IS\", \"-c\", \"{script}\"]\n{user}\n");
    fs::write(folder.join("serve.toml"), entry).unwrap();
    server
}

fn logs(server: &Server) -> String {
    let files = fs::read_dir(server.scratch()).unwrap().filter_map(|entry| entry.ok().map(|e| e.path()));
    let logs = files.filter(|path: &PathBuf| path.extension().is_some_and(|e| e == "log"));
    logs.map(|path| format!("{}:\n{}", path.display(), fs::read_to_string(&path).unwrap_or_default())).collect()
}

/// The copies that are answered: the last labels of their computers, and their processes.
fn copies(server: &Server, name: &str) -> Vec<(String, u32)> {
    let found = server.byname(&["find", "--all", "--no-start", "-o", "json", name]);
    if found.status != 0 {
        return Vec::new();
    }
    let found = found.json();
    let copy = |copy: &serde_json::Value| {
        let computer = copy["computer"].as_str()?.rsplit('/').next()?.to_owned();
        Some((computer, copy["pid"].as_u64()?.try_into().ok()?))
    };
    found["instances"].as_array().unwrap().iter().filter_map(copy).collect()
}

fn eventually_one(server: &Server, what: &str, fits: impl Fn(&str, u32) -> bool) -> (String, u32) {
    let found = eventually(what, || match copies(server, "/QS").as_slice() {
        [(computer, pid)] if fits(computer, *pid) => Some((computer.clone(), *pid)),
        _ => None,
    });
    assert!(alive(found.1), "{}", logs(server));
    found
}

fn state(server: &Server, computer: &str) -> String {
    let shown = server.byname(&["show", "-o", "json", &format!("/computers/{computer}")]).json();
    shown["host"]["state"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_service_moves_from_a_silent_host_and_comes_back_without_doubles() {
    let server = server("2s");
    let agents = ["a", "b", "c"].map(|computer| Agent::start(&server, computer));
    for computer in ["a", "b", "c"] {
        let known = || server.byname(&["show", &format!("/computers/{computer}")]).status == 0;
        eventually("the agents", || known().then_some(()));
    }
    server.byname(&["add", "/QS", "--program", "serve", "--copies", "1..1"]).lines();
    let (home, first) = eventually_one(&server, "a copy", |_, _| true);
    let agent = &agents[["a", "b", "c"].iter().position(|c| *c == home).unwrap()];
    // Its agent is stopped, as a host is that lost its network: the program goes on.
    agent.send(Signal::STOP);
    let since = Instant::now();
    eventually("the host down", || (state(&server, &home) == "down").then_some(()));
    assert_eq!(copies(&server, "/QS"), [], "out of the answers at once");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    let listed = server.byname(&["list", "/computers/*"]);
    assert!(listed.lines().iter().any(|line| line.contains(&format!("/computers/{home}")) && line.contains("down")));
    let (elsewhere, second) = eventually_one(&server, "a copy elsewhere", |computer, _| computer != home);
    assert_ne!(elsewhere, home);
    assert!(alive(first), "nobody could stop it");
    // It is back, with what it had: the copy that stood in goes.
    agent.send(Signal::CONT);
    eventually_one(&server, "the first copy", |_, pid| pid == first);
    eventually("the end of the double", || (!alive(second)).then_some(()));
    assert_eq!(state(&server, &home), "up");
    let why = server.byname(&["why", "/QS"]).out;
    assert!(why.contains("the newest goes"), "{why}");
}

#[test]
fn an_agent_that_comes_back_in_time_moves_nothing() {
    let server = server("1h");
    let agent = Agent::start(&server, "a");
    let _other = Agent::start(&server, "b");
    server.byname(&["add", "/QS", "--program", "serve", "--host", "a", "--copies", "1..1"]).lines();
    let (_, first) = eventually_one(&server, "a copy", |_, _| true);
    agent.kill();
    eventually("the host down", || (state(&server, "a") == "down").then_some(()));
    let refused = server.byname(&["find", "/QS"]);
    assert_eq!(refused.status, 5, "{}", refused.talk);
    assert!(refused.talk.contains("its host /computers/a is down"), "{}", refused.talk);
    let _agent = Agent::start(&server, "a");
    eventually_one(&server, "the same copy", |_, pid| pid == first);
}

#[test]
fn a_host_is_emptied_and_used_again() {
    let server = server("1h");
    let _agents = ["a", "b"].map(|computer| Agent::start(&server, computer));
    eventually("the agents", || {
        let listed = server.byname(&["list", "-o", "name", "/computers/*"]);
        (listed.out.lines().count() == 2).then_some(())
    });
    server.byname(&["add", "/QS", "--program", "serve", "--copies", "1..1"]).lines();
    let (home, first) = eventually_one(&server, "a copy", |_, _| true);
    let drained = server.byname(&["drain", &home]);
    assert_eq!(drained.status, 0, "{}\n{}", drained.talk, logs(&server));
    assert!(drained.talk.contains("1 copy left: /QS"), "{}", drained.talk);
    assert!(!alive(first));
    let (elsewhere, _) = eventually_one(&server, "a copy elsewhere", |_, _| true);
    assert_ne!(elsewhere, home);
    let shown = server.byname(&["show", &format!("/computers/{home}")]).out;
    assert!(shown.contains("draining since ") && shown.contains("copies: 0") && shown.contains("last seen"), "{shown}");
    let lines = server.byname(&["undrain", &home]);
    assert!(lines.lines().iter().any(|line| line.contains(" up ")), "{}", lines.out);
}
