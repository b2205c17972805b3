//! `TEST-EXECUTABLE relay-speed`: what a relay costs beside a direct loopback connection to the same program. Not run by
//! the tests; build with `--release` for figures that mean something.
//!
//! The program is `serve`, which gives back what it gets. One stream is one client that sends and receives as much as
//! it can; the echo is 1,000 connections of which each sends 64 bytes, waits for them and begins again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use byname_api::launch::Handover;

use crate::activation::{connect, echo, echoes, raise_limit};
use crate::host::{self, Host, free_address, listen};

const STREAM_BYTES: usize = 1 << 30;
const CONNECTIONS: usize = 1_000;
const ECHO_TIME: Duration = Duration::from_secs(3);

pub(crate) fn main() {
    raise_limit();
    host::run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let relayed = free_address();
        agent.listen(listen(Handover::Relay, [&relayed])).await;
        agent.start_service(1, echo()).await;
        let report = agent.until_ready(1).await;
        agent.backends(&[&report]).await;
        let direct = format!("127.0.0.1:{}", report.endpoints[0].port);
        for _ in 0..3 {
            for (name, address) in [("direct", &direct), ("relayed", &relayed)] {
                let rate = stream(address);
                let connects = connects(address);
                let trips = round_trips(address);
                let (echoes, cost) = many(address);
                println!(
                    "{name:8} one stream {rate:6.0} MiB/s each way | connect and echo {connects:6.0} µs | \
                     round trip {trips:5.1} µs | {CONNECTIONS} connections {echoes:7.0} echoes/s ({cost})"
                );
            }
        }
    });
}

fn stream(address: &str) -> f64 {
    let mut client = connect(address);
    let mut writer = client.try_clone().unwrap();
    let begun = Instant::now();
    let writing = std::thread::spawn(move || {
        let piece = vec![1; 256 << 10];
        for _ in 0..STREAM_BYTES / piece.len() {
            writer.write_all(&piece).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (mut bytes, mut total) = (vec![0; 256 << 10], 0);
    while let Ok(n @ 1..) = client.read(&mut bytes) {
        total += n;
    }
    writing.join().unwrap();
    assert_eq!(total, STREAM_BYTES);
    (STREAM_BYTES >> 20) as f64 / begun.elapsed().as_secs_f64()
}

fn connects(address: &str) -> f64 {
    let (begun, count) = (Instant::now(), 500);
    for _ in 0..count {
        echoes(&mut connect(address), "x");
    }
    begun.elapsed().as_micros() as f64 / f64::from(count)
}

fn round_trips(address: &str) -> f64 {
    let mut client = connect(address);
    client.set_nodelay(true).unwrap();
    let (begun, count) = (Instant::now(), 5_000);
    for _ in 0..count {
        echoes(&mut client, "sixteen bytes...");
    }
    begun.elapsed().as_micros() as f64 / f64::from(count)
}

fn many(address: &str) -> (f64, String) {
    let mut clients: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(address)).collect();
    let done = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in clients.chunks_mut(CONNECTIONS / 4) {
            scope.spawn(|| {
                let (text, mut back) = ([7; 64], [0; 64]);
                while begun.elapsed() < ECHO_TIME {
                    for client in part.iter_mut() {
                        client.write_all(&text).unwrap();
                    }
                    for client in part.iter_mut() {
                        client.read_exact(&mut back).unwrap();
                    }
                    done.fetch_add(part.len() as u64, Relaxed);
                }
            });
        }
    });
    let took = begun.elapsed().as_secs_f64();
    (done.load(Relaxed) as f64 / took, format!("{took:.1} s"))
}
