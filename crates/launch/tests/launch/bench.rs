//! `TEST-EXECUTABLE speed [ROUNDS]`: how much the agent adds to a program's own start. Not run by the tests; build with
//! `--release` for figures that mean something.
//!
//! The program is C, compiled on the spot: with `notify` it says READY=1 as its first act, with `port` it listens as
//! its first act. Its own start is measured with a bare fork and exec of the same program: until it says so on a
//! socket of ours, and until it can be connected to.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use byname_api::agent::{Order, Phase};
use byname_api::launch::Ready;
use byname_api::object::InstanceId;

use crate::host::{self, Host, command};
use crate::identity::Server;

const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1) {
        int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 8)) return 1;
    } else {
        const char *path = getenv("NOTIFY_SOCKET");
        int s = socket(AF_UNIX, SOCK_DGRAM, 0);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strncpy(a.sun_path, path, sizeof a.sun_path - 1);
        sendto(s, "READY=1", 7, 0, (struct sockaddr *)&a, sizeof a);
    }
    for (;;) pause();
}
"#;

pub(crate) fn main() {
    let rounds: u64 = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(200);
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("p.c"), folder.path().join("p"));
    std::fs::write(&source, PROGRAM).unwrap();
    assert!(Command::new("cc").arg("-O1").arg("-o").arg(&program).arg(&source).status().unwrap().success());
    let program = program.to_str().unwrap().to_owned();

    let socket_path = folder.path().join("n");
    let socket = UnixDatagram::bind(&socket_path).unwrap();
    let bare_notify = measure(rounds, |_| {
        let begun = Instant::now();
        let mut child = Command::new(&program).env("NOTIFY_SOCKET", &socket_path).stdin(Stdio::null()).spawn().unwrap();
        socket.recv(&mut [0; 16]).unwrap();
        let took = begun.elapsed();
        child.kill().unwrap();
        child.wait().unwrap();
        took
    });
    let bare_port = measure(rounds, |round| {
        let port = 19_000 + (round % 900) as u16;
        let begun = Instant::now();
        let mut child = Command::new(&program).arg(port.to_string()).stdin(Stdio::null()).spawn().unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {}
        let took = begun.elapsed();
        child.kill().unwrap();
        child.wait().unwrap();
        took
    });
    host::run(async {
        let kinds = [(Ready::Notify, &bare_notify), (Ready::Port, &bare_port)];
        for ((ready, bare), certified) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let host = Host::new();
            let mut agent = host.agent().await;
            if certified {
                agent.agent.set_issuer(Server::new(Duration::from_secs(3600)));
            }
            agent.sync().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (mut times, mut started) = (Vec::new(), Vec::new());
            for round in 1..=rounds {
                let launch = match ready {
                    Ready::Notify => command(ready, [&program]),
                    _ => command(ready, [&program, "${PORT}"]),
                };
                let begun = Instant::now();
                agent.start_service(round, launch).await;
                let first = agent.until(round, |p| matches!(p, Phase::Started | Phase::Ready)).await;
                started.push(begun.elapsed());
                if first.phase != Phase::Ready {
                    agent.until(round, |p| *p == Phase::Ready).await;
                }
                times.push(begun.elapsed());
                agent.stop(round, true).await;
                agent.until_ended(round).await;
                agent.order(Order::Forget { instance: InstanceId(round) }).await;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            println!(
                "{ready:?}{}: bare {} | order to started {} | order to ready {}",
                if certified { ", with a certificate" } else { "" },
                show(bare.clone()),
                show(started),
                show(times)
            );
        }
    });
}

fn measure(rounds: u64, mut once: impl FnMut(u64) -> Duration) -> Vec<Duration> {
    (0..rounds).map(&mut once).collect()
}

fn show(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_micros();
    format!("p50 {} µs, p90 {} µs, p99 {} µs", at(0.5), at(0.9), at(0.99))
}
