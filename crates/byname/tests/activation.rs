//! Services that wake when somebody connects and stop when nobody does, with the real binary and real programs.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use byname_testkit::{PATIENCE, Server, eventually};

/// Starts and stops in all; each is a chance to lose a connection.
const CYCLES: u32 = 1_000;
/// Services that go through them side by side.
const SERVICES: u32 = 10;
const IDLE: Duration = Duration::from_millis(150);

/// A program in C that answers each connection with a line: about the fastest that there is to start.
fn program(server: &Server) -> PathBuf {
    let binary = server.scratch().join("ready");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/programs/ready.c");
    let built = Command::new("cc").args(["-O1", "-o"]).arg(&binary).arg(source).status().expect("there is a compiler");
    assert!(built.success());
    binary
}

/// A socket that nobody else has: a free port on a loopback address of this test's own.
fn free_socket(salt: u32) -> SocketAddrV4 {
    let [a, b, ..] = (std::process::id().wrapping_mul(2_654_435_761) ^ salt).to_le_bytes();
    let address = Ipv4Addr::new(127, a.max(1), b, 1 + (salt % 250) as u8);
    let free = TcpListener::bind(SocketAddrV4::new(address, 0)).unwrap();
    SocketAddrV4::new(address, free.local_addr().unwrap().port())
}

fn read_answer(mut stream: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask(socket: &str) -> std::io::Result<String> {
    match socket.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            read_answer(stream)
        }
        None => {
            let stream = TcpStream::connect(socket)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            read_answer(stream)
        }
    }
}

fn add(server: &Server, name: &str, socket: &str, handover: &str, idle: Duration, program: &Path) {
    let idle = format!("{}ms", idle.as_millis());
    let program = program.to_str().unwrap();
    let words = [
        "add",
        name,
        "--listen",
        socket,
        "--handover",
        handover,
        "--idle-stop",
        &idle,
        "--ready",
        "notify",
        "--",
        program,
    ];
    assert_eq!(server.byname(&words).status, 0);
}

fn starts(server: &Server, name: &str) -> u64 {
    server.byname(&["status", "-o", "json", name]).json()["services"][0]["starts"].as_u64().unwrap()
}

fn state(server: &Server, name: &str) -> String {
    server.byname(&["status", "-o", "json", name]).json()["services"][0]["state"].as_str().unwrap().to_owned()
}

/// Whoever connects, at whatever moment of a stop, is answered: by the copy that goes on, or by the next one.
#[test]
fn a_thousand_stops_and_starts_lose_no_connection() {
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    let program = program(&server);
    let sockets: Vec<String> = (0..SERVICES)
        .map(|n| match n % 5 {
            0 => format!("unix:{}", server.scratch().join(format!("{n}.sock")).display()),
            _ => free_socket(n).to_string(),
        })
        .collect();
    for (n, socket) in sockets.iter().enumerate() {
        add(&server, &format!("/s{n}"), socket, "relay", IDLE, &program);
    }
    std::thread::scope(|scope| {
        for (n, socket) in sockets.iter().enumerate() {
            let server = &server;
            scope.spawn(move || {
                let name = format!("/s{n}");
                let (begun, mut asked, mut dice) = (Instant::now(), 0u32, n as u32 + 1);
                loop {
                    let answer = ask(socket).unwrap_or_else(|e| panic!("{name}, connection {asked}: {e}"));
                    assert!(answer.starts_with("R "), "{name}, connection {asked}: {answer:?}");
                    asked += 1;
                    if asked.is_multiple_of(20) && starts(server, &name) >= u64::from(CYCLES / SERVICES) {
                        break;
                    }
                    assert!(
                        begun.elapsed() < Duration::from_secs(300),
                        "{name}: {} starts so far",
                        starts(server, &name)
                    );
                    // Around the moment at which it stops, a little earlier or later each time (a linear congruential
                    // generator: the moments differ, and a run can be told by its service).
                    dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    std::thread::sleep(IDLE * (85 + (dice >> 24) % 40) / 100);
                }
            });
        }
    });
    for n in 0..SERVICES {
        let why = server.byname(&["why", "-o", "json", &format!("/s{n}")]).json();
        assert_eq!(why["failures"], 0, "{why}");
    }
}

/// Many at once while nothing runs: one start, and all are answered.
#[test]
fn a_crowd_wakes_one_copy() {
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    let program = program(&server);
    for handover in ["relay", "fds"] {
        let (name, socket) = (format!("/{handover}"), free_socket(handover.len() as u32).to_string());
        add(&server, &name, &socket, handover, Duration::from_secs(60), &program);
        let streams: Vec<TcpStream> = (0..1_000).map(|_| TcpStream::connect(&socket).unwrap()).collect();
        for stream in streams {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            assert!(read_answer(stream).unwrap().starts_with("R "), "{handover}");
        }
        assert_eq!(starts(&server, &name), 1, "{handover}");
    }
}

/// A client that stays keeps the copy, and its end begins the idle time.
#[test]
fn an_open_connection_keeps_the_copy() {
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    let socket = free_socket(3).to_string();
    let echo = "import os, socketserver\n\
        class H(socketserver.StreamRequestHandler):\n    def handle(self):\n        [self.wfile.write(l) for l in self.rfile]\n\
        socketserver.ThreadingTCPServer.allow_reuse_address = True\n\
        socketserver.ThreadingTCPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()";
    let words = ["add", "/echo", "--listen", &socket, "--idle-stop", "300ms", "--", "python3", "-ISc", echo];
    assert_eq!(server.byname(&words).status, 0);
    let mut client = TcpStream::connect(&socket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let begun = Instant::now();
    let mut line = [0; 3];
    while begun.elapsed() < Duration::from_millis(1_500) {
        std::io::Write::write_all(&mut client, b"hi\n").unwrap();
        client.read_exact(&mut line).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((starts(&server, "/echo"), state(&server, "/echo").as_str()), (1, "running"));
    drop(client);
    eventually("it stops", || (state(&server, "/echo") == "stopped").then_some(()));
}

/// A service that cannot start closes its connections, and is not started again by every knock.
#[test]
fn a_failed_start_turns_away() {
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    let socket = free_socket(4).to_string();
    let words = [
        "add",
        "/broken",
        "--listen",
        &socket,
        "--restart",
        "max=3",
        "--restart",
        "window=1h",
        "--restart",
        "backoff=10ms",
        "--",
        "sh",
        "-c",
        "echo broken >&2; exit 3",
    ];
    assert_eq!(server.byname(&words).status, 0);
    for knock in 0..20 {
        // One connection is one start, until the budget is spent.
        assert_eq!(starts(&server, "/broken"), knock.min(3), "before knock {knock}");
        match ask(&socket) {
            Ok(answer) => assert_eq!(answer, "", "knock {knock}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "knock {knock}"),
        }
    }
    assert_eq!((starts(&server, "/broken"), state(&server, "/broken").as_str()), (3, "failed"));
}

/// Connections that were there go on when Byname is killed, and new ones are served when it is back.
#[test]
fn connections_outlive_byname() {
    let mut server = Server::start(env!("CARGO_BIN_EXE_byname"));
    let socket = free_socket(5).to_string();
    let cat = "import os, socketserver\n\
        class H(socketserver.StreamRequestHandler):\n    def handle(self):\n        [self.wfile.write(l) for l in self.rfile]\n\
        socketserver.ThreadingTCPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()";
    assert_eq!(server.byname(&["add", "/echo", "--listen", &socket, "--", "python3", "-ISc", cat]).status, 0);
    let mut client = TcpStream::connect(&socket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let echo = |client: &mut TcpStream| {
        std::io::Write::write_all(client, b"hello\n").unwrap();
        let mut line = [0; 6];
        client.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
    };
    echo(&mut client);
    server.kill();
    echo(&mut client);
    let mut second = TcpStream::connect(&socket).unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    echo(&mut second);
    server.start_again();
    echo(&mut client);
    assert_eq!(starts(&server, "/echo"), 1);
}
