//! Health checks with the real binary and real programs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use byname_testkit::{PATIENCE, Server, eventually};

/// Answers every path with its process, and `/healthz` with the status in the file `mood` of its folder.
const PAGES: &str = r#"
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mood = open("mood").read() if self.path == "/healthz" and os.path.exists("mood") else "200"
        self.send_response(int(mood))
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

fn server() -> Server {
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    std::fs::write(server.scratch().join("pages.py"), PAGES).unwrap();
    server
}

/// The copies: process, state and health.
fn copies(server: &Server, name: &str) -> Vec<(u64, String, String)> {
    let status = server.byname(&["status", "-o", "json", name]).json();
    let word = |copy: &serde_json::Value, field: &str| copy[field].as_str().unwrap_or_default().to_owned();
    let copies = status["services"][0]["instances"].as_array().unwrap();
    copies
        .iter()
        .map(|copy| (copy["pid"].as_u64().unwrap_or_default(), word(copy, "state"), word(copy, "health")))
        .collect()
}

fn until_healthy(server: &Server, name: &str, wanted: &[&str]) {
    eventually(&format!("{name} is {wanted:?}"), || {
        let found = copies(server, name);
        found.iter().map(|(.., health)| health.as_str()).eq(wanted.iter().copied()).then_some(())
    });
}

fn set_mood(pid: u64, status: &str) {
    let work = PathBuf::from(format!("/proc/{pid}/cwd"));
    std::fs::write(work.join("mood.new"), status).unwrap();
    std::fs::rename(work.join("mood.new"), work.join("mood")).unwrap();
}

/// The process that answers there.
fn answering(socket: &str) -> u64 {
    let mut stream = TcpStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit('\n').next().unwrap().parse().unwrap_or_else(|_| panic!("{answer:?}"))
}

#[test]
fn a_copy_that_fails_leaves_finds_and_stable_sockets_and_comes_back() {
    let server = server();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let pages = server.scratch().join("pages.py");
    server.apply(&format!(
        r#"
        ["/pages"]
        kind = "service"
        choose = "round-robin"
        [ "/pages".launch ]
        command = ["python3", "{}"]
        copies = {{ min = 2, max = 2 }}
        listen = "{socket}"
        check = {{ kind = "http", path = "/healthz", interval = "100ms", fall = 2 }}
        "#,
        pages.display()
    ));
    until_healthy(&server, "/pages", &["passing", "passing"]);
    let both: BTreeSet<u64> = copies(&server, "/pages").iter().map(|(pid, ..)| *pid).collect();
    let served = || (0..10).map(|_| answering(&socket)).collect::<BTreeSet<u64>>();
    assert_eq!(served(), both, "connections go to both in turn");

    let sick = *both.first().unwrap();
    let well = BTreeSet::from([*both.last().unwrap()]);
    set_mood(sick, "503");
    eventually("one is critical", || {
        let states = copies(&server, "/pages");
        let of = |pid| states.iter().find(|(its, ..)| *its == pid).map(|(_, state, health)| (&**state, &**health));
        (of(sick) == Some(("unhealthy", "critical"))).then_some(())
    });
    let found = || {
        let names = (0..10).map(|_| server.byname(&["find", "-o", "json", "/pages"]).json());
        names.map(|reply| reply["instances"][0]["pid"].as_u64().unwrap()).collect::<BTreeSet<u64>>()
    };
    assert_eq!(found(), well);
    eventually("connections go to the other one alone", || (served() == well).then_some(()));

    set_mood(sick, "200");
    until_healthy(&server, "/pages", &["passing", "passing"]);
    assert_eq!(found(), both);
    eventually("connections go to both again", || (served() == both).then_some(()));
    assert_eq!(copies(&server, "/pages").len(), 2, "and none was ended");
    let metrics = server.run("curl", &["-s", "--unix-socket", &server.socket(), "http://localhost/metrics"]).out;
    assert!(metrics.contains("byname_instances{health=\"passing\"} 2"), "{metrics}");
    assert!(metrics.contains("byname_checks_total{result=\"critical\"}"), "{metrics}");
}

#[test]
fn what_was_found_outlives_server_and_agent() {
    let mut server = server();
    let pages = server.scratch().join("pages.py").display().to_string();
    let check = "http,path=/healthz,interval=100ms,fall=2,rise=3";
    assert_eq!(server.byname(&["add", "/pages", "--check", check, "--", "python3", &pages]).status, 0);
    server.byname(&["find", "/pages"]);
    until_healthy(&server, "/pages", &["passing"]);
    let pid = copies(&server, "/pages")[0].0;
    set_mood(pid, "503");
    until_healthy(&server, "/pages", &["critical"]);
    server.kill();
    server.start_again();
    assert_eq!(copies(&server, "/pages"), [(pid, "unhealthy".to_owned(), "critical".to_owned())]);
    set_mood(pid, "200");
    until_healthy(&server, "/pages", &["passing"]);
    assert_eq!(copies(&server, "/pages")[0].0, pid);
    let why = server.byname(&["why", "/pages"]).out;
    assert_eq!(why.matches(": critical: ").count(), 1, "{why}");
    assert_eq!(why.matches(": passing: ").count(), 1, "{why}");
}

/// A server of ours is as good a gRPC server as any.
#[test]
fn grpc_servers_are_asked_in_their_own_words() {
    let server = server();
    let binary = env!("CARGO_BIN_EXE_byname");
    let add = |name: &str, check: &str| {
        let words = [
            "add",
            name,
            "--ready",
            "http",
            "--ready-path",
            "/livez",
            "--check",
            check,
            "--",
            binary,
            "dev",
            "--data",
            "data",
            "--listen",
            "127.0.0.1:${PORT}",
        ];
        let added = server.byname(&words);
        assert_eq!(added.status, 0, "{}", added.talk);
        assert_eq!(server.byname(&["find", name]).status, 0, "{}", server.byname(&["why", name]).out);
    };
    add("/inner", "grpc,interval=100ms,fall=1");
    until_healthy(&server, "/inner", &["passing"]);
    add("/other", "grpc,service=films.Query,interval=100ms,fall=1");
    until_healthy(&server, "/other", &["critical"]);
    let note = |name: &str| {
        let status = server.byname(&["status", "-o", "json", name]).json();
        status["services"][0]["instances"][0]["note"].as_str().unwrap().to_owned()
    };
    assert!(note("/inner").ends_with(": SERVING"), "{}", note("/inner"));
    assert!(note("/other").contains("grpc films.Query on port ") && note("/other").contains(": NotFound: "));
}
