//! What the relay of a stable socket costs: streams and pairs of request and answer through it, beside direct
//! connections to the same program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::machine::Machine;
use crate::process::free_port;
use crate::start::{Asking, PATIENCE};
use crate::stats::{Quantiles, Spread};
use crate::systems::{Byname, Programs};

/// The service.
const NAME: &str = "/bench/stream";
/// The part of each turn that is not counted.
const WARM_UP: f64 = 0.15;
/// What is read or written at once.
const BLOCK: usize = 256 << 10;
/// A request, and its answer.
const MESSAGE: usize = 64;

/// How long and how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Times {
    /// Rounds; in each the relay and the direct way have their turn
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of a turn
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// Each kind of traffic.
    pub(crate) kinds: Vec<Kind>,
}

/// One kind of traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kind {
    /// What the table calls it.
    pub(crate) name: String,
    /// Connections at once.
    pub(crate) connections: usize,
    /// MiB or pairs a second.
    pub(crate) unit: String,
    /// Through the relay.
    pub(crate) relay: Way,
    /// Without it.
    pub(crate) direct: Way,
    /// The relay's rate divided by the other, in each round.
    pub(crate) ratio: Spread,
    /// What the design asks of that.
    pub(crate) goal: Option<f64>,
}

/// One way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Way {
    /// A second.
    pub(crate) rate: Spread,
    /// Of a pair, in microseconds; of a stream, nothing.
    pub(crate) p50_us: Spread,
    /// The same.
    pub(crate) p99_us: Spread,
}

/// What goes over the connections: the byte that tells the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    /// From the program to the client.
    Source = b'S' as isize,
    /// From the client to the program.
    Sink = b'K' as isize,
    /// Pairs.
    Echo = b'E' as isize,
}

/// Runs every kind of traffic.
pub(crate) async fn run(programs: &Programs, times: &Times, work: &Path) -> Result<Report> {
    let program = programs.stream.as_ref().context("say where the program of `programs/stream.c` is: --stream")?;
    let program = program.canonicalize().context("the C program")?;
    let machine = Machine::describe(work)?;
    let server = Byname::start(&programs.byname, &work.join("relay"))?;
    let mut asking = Asking::new(&server).await?;
    let stable = free_port()?;
    asking.add_behind(NAME, &program, &[], "port", &format!("127.0.0.1:{stable}"), "relay").await?;
    // The first connection starts it.
    let mut first = TcpStream::connect(("127.0.0.1", stable))?;
    first.set_read_timeout(Some(PATIENCE))?;
    first.write_all(b"Ex")?;
    first.read_exact(&mut [0]).context("the program does not answer through the relay")?;
    let own = asking.endpoint(NAME).await?;
    ensure!(own != stable, "the program is not behind a relay");

    let (relay, direct) = (SocketAddr::from(([127, 0, 0, 1], stable)), SocketAddr::from(([127, 0, 0, 1], own)));
    let length = Duration::from_secs_f64(times.seconds);
    let mut kinds = Vec::new();
    for (name, traffic, connections, goal) in [
        ("program to client", Traffic::Source, 1, Some(0.9)),
        ("program to client", Traffic::Source, 16, Some(0.9)),
        ("client to program", Traffic::Sink, 1, Some(0.9)),
        ("client to program", Traffic::Sink, 16, Some(0.9)),
        ("request and answer of 64 bytes", Traffic::Echo, 1, None),
        ("request and answer of 64 bytes", Traffic::Echo, 64, Some(0.9)),
    ] {
        let mut turns = [Vec::new(), Vec::new()];
        for _ in 0..times.rounds {
            for (address, turns) in [relay, direct].into_iter().zip(&mut turns) {
                turns.push(take_turn(traffic, address, connections, length).await?);
            }
        }
        let ratio = Spread::of(turns[0].iter().zip(&turns[1]).map(|(relay, direct)| relay.rate / direct.rate));
        let unit = if traffic == Traffic::Echo { "pairs/s" } else { "MiB/s" };
        let [relay, direct] = turns.map(|turns| Way {
            rate: Spread::of(turns.iter().map(|t| t.rate)),
            p50_us: Spread::of(turns.iter().map(|t| t.latency.p50_us)),
            p99_us: Spread::of(turns.iter().map(|t| t.latency.p99_us)),
        });
        eprintln!(
            "  {name}, {connections:2}: {:9.0} {unit} by the relay, {:9.0} direct, {:.2} × ({:.2}–{:.2}); p50 {:.0} and {:.0} µs",
            relay.rate.median,
            direct.rate.median,
            ratio.median,
            ratio.min,
            ratio.max,
            relay.p50_us.median,
            direct.p50_us.median
        );
        let (name, unit) = (name.to_owned(), unit.to_owned());
        kinds.push(Kind { name, connections, unit, relay, direct, ratio, goal });
    }
    drop(first);
    server.stop()?;
    Ok(Report { machine, kinds })
}

/// One way's turn.
struct Turn {
    rate: f64,
    latency: Quantiles,
}

async fn take_turn(traffic: Traffic, address: SocketAddr, connections: usize, length: Duration) -> Result<Turn> {
    match traffic {
        Traffic::Echo => pairs(address, connections, length).await,
        Traffic::Source | Traffic::Sink => {
            let rate = tokio::task::spawn_blocking(move || streams(traffic, address, connections, length)).await??;
            Ok(Turn { rate, latency: Quantiles::default() })
        }
    }
}

/// Lets bytes flow over so many connections, a thread each; MiB a second.
fn streams(traffic: Traffic, address: SocketAddr, connections: usize, length: Duration) -> Result<f64> {
    let (bytes, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut threads = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[traffic as u8])?;
        let (bytes, over) = (bytes.clone(), over.clone());
        threads.push(std::thread::spawn(move || -> Result<()> {
            let mut block = vec![0; BLOCK];
            while !over.load(Ordering::Relaxed) {
                let count = match traffic {
                    Traffic::Source => stream.read(&mut block)?,
                    _ => stream.write(&block)?,
                };
                if count == 0 {
                    bail!("a stream ended");
                }
                bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            Ok(())
        }));
    }
    std::thread::sleep(length.mul_f64(WARM_UP));
    let (before, begun) = (bytes.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(length.mul_f64(1.0 - WARM_UP));
    let (after, took) = (bytes.load(Ordering::Relaxed), begun.elapsed());
    over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a stream's thread panicked"))??;
    }
    Ok((after - before) as f64 / f64::from(1 << 20) / took.as_secs_f64())
}

/// Asks over so many connections, on each one thing after the other.
async fn pairs(address: SocketAddr, connections: usize, length: Duration) -> Result<Turn> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[Traffic::Echo as u8]).await?;
        streams.push(stream);
    }
    let begun = Instant::now();
    let counted = begun + length.mul_f64(WARM_UP);
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let (request, mut answer) = ([7; MESSAGE], [0; MESSAGE]);
                let mut samples: Vec<u32> = Vec::new();
                let mut before = Instant::now();
                loop {
                    stream.write_all(&request).await?;
                    stream.read_exact(&mut answer).await?;
                    ensure!(answer == request, "the answer is another");
                    let after = Instant::now();
                    if before >= counted {
                        samples.push(u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX));
                    }
                    before = after;
                    if after >= begun + length {
                        return Ok(samples);
                    }
                }
            })
        })
        .collect();
    let mut samples = Vec::new();
    for task in tasks {
        samples.extend(task.await??);
    }
    ensure!(!samples.is_empty(), "nothing was answered within a turn");
    let rate = samples.len() as f64 / length.mul_f64(1.0 - WARM_UP).as_secs_f64();
    let samples: &mut [u32] = &mut samples;
    Ok(Turn { rate, latency: Quantiles::of_ns(samples) })
}
