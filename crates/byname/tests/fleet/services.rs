//! Services on hosts that are cut off, and hosts whose servers are all gone.

use std::fs;

use byname_hosts::{Plan, alive};
use byname_testkit::eventually;
use serde_json::Value;

use crate::support::Hosts;

/// Three servers that give a silent host up soon, and three agents with one program in their catalogues.
fn hosts() -> Option<Hosts> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let script =
        "import os, socket; s = socket.create_server(('0.0.0.0', int(os.environ['PORT'])))\\nwhile 1: s.accept()";
    let entry = format!("[serve]\ncommand = [\"python3\", \"-IS\", \"-c\", \"{script}\"]\nuser = 'root'\n");
    let plan = Plan {
        server_words: words(&["--host-silence", "2s", "--host-grace", "3s"]),
        agent_words: words(&["--programs", "../programs"]),
        ..Plan::default()
    };
    let hosts = Hosts::prepare(plan)?;
    let programs = hosts.scratch().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("serve.toml"), entry).unwrap();
    hosts.fleet.start().unwrap();
    for agent in hosts.fleet.agents() {
        let computer = format!("/computers/{agent}");
        let known = || hosts.fleet.byname("s1", &["show", &computer]).unwrap().status == Some(0);
        eventually("the agents", || known().then_some(()));
    }
    Some(hosts)
}

/// The copies of a service, as one host sees them: the last labels of their computers, and their processes.
fn copies(hosts: &Hosts, host: &str, name: &str) -> Vec<(String, u32)> {
    let said = hosts.fleet.byname(host, &["find", "--all", "--no-start", "-o", "json", name]).unwrap();
    let found: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let copy = |copy: &Value| {
        let computer = copy["computer"].as_str()?.rsplit('/').next()?.to_owned();
        Some((computer, copy["pid"].as_u64()?.try_into().ok()?))
    };
    found["instances"].as_array().map(|all| all.iter().filter_map(copy).collect()).unwrap_or_default()
}

#[test]
fn a_service_moves_when_its_host_is_cut_off_and_is_not_doubled_when_the_cable_is_back() {
    let Some(hosts) = hosts() else { return };
    let added = hosts.fleet.byname("s1", &["add", "/QS", "--program", "serve", "--copies", "1..1"]).unwrap();
    assert_eq!(added.status, Some(0), "{}", added.talk);
    let one = |what: &str, fits: &dyn Fn(&str, u32) -> bool| {
        eventually(what, || match copies(&hosts, "s1", "/QS").as_slice() {
            [(computer, pid)] if fits(computer, *pid) => Some((computer.clone(), *pid)),
            _ => None,
        })
    };
    let (home, first) = one("a copy", &|_, _| true);
    hosts.fleet.network().cut(&home).unwrap();
    let (elsewhere, second) = one("a copy elsewhere", &|computer, _| computer != home);
    assert!(alive(first), "nobody could stop it, and nobody should");
    // A primary that comes to power meanwhile knows the same.
    let (primary, _) = hosts.primary();
    hosts.fleet.terminate(&primary).unwrap();
    hosts.fleet.start_again(&[&primary]).unwrap();
    hosts.primary();
    hosts.fleet.network().heal().unwrap();
    one("one copy", &|_, _| true);
    eventually("the end of one of the two", || (alive(first) != alive(second)).then_some(()));
    let (last, pid) = one("the copy that runs", &|_, pid| alive(pid));
    assert!([first, second].contains(&pid), "a third one was started on {last}, after {home} and {elsewhere}");
}

#[test]
fn a_host_answers_from_its_agent_when_all_servers_are_gone() {
    let Some(hosts) = hosts() else { return };
    let added = hosts.fleet.byname("s1", &["add", "/QS", "--program", "serve", "--copies", "1..1"]).unwrap();
    assert_eq!(added.status, Some(0), "{}", added.talk);
    let find = || hosts.fleet.byname("a1", &["find", "--no-start", "-o", "json", "/QS"]).unwrap();
    // The first answer is a server's; the agent knows it when its watch has told it.
    let socket = hosts.fleet.url("a1").trim_start_matches("unix://").to_owned();
    let hits = || {
        let mut curl = std::process::Command::new("curl");
        let said = curl.args(["-s", "--unix-socket", &socket, "http://localhost/metrics"]).output().unwrap();
        let metrics = String::from_utf8(said.stdout).unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("byname_clerk_hits_total "));
        line.is_some_and(|hits| hits.trim() != "0")
    };
    let before = eventually("an answer of the agent's own", || {
        let said = find();
        let found: Value = serde_json::from_str(&said.out).ok()?;
        (said.status == Some(0) && found["stale"] != true && hits()).then_some(found)
    });
    for host in hosts.fleet.servers() {
        hosts.fleet.kill(host).unwrap();
    }
    let after = eventually("an answer that is marked", || {
        let said = find();
        assert_eq!(said.status, Some(0), "{}", said.talk);
        let found: Value = serde_json::from_str(&said.out).unwrap();
        (found["stale"] == true).then_some(found)
    });
    assert_eq!(after["instances"][0]["id"], before["instances"][0]["id"]);
    assert_eq!(after["instances"][0]["endpoints"], before["instances"][0]["endpoints"]);
}
