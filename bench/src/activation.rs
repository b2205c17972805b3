//! The first byte of a program that does not run yet, behind a stable socket of Byname's, beside socket activation by
//! systemd and the bare start of the same program; and the first byte of one that runs, with and without the relay.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine};
use crate::process::free_port;
use crate::start::{Asking, Cold, PATIENCE, Samples, Timed, WARM_UP, bare_start, now, read_times, socket_activation};
use crate::stats::{Quantiles, Spread};
use crate::systems::{Byname, Programs};

/// Connections to each running program in a turn.
const WARM: usize = 10;

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// The version of systemd.
    pub(crate) systemd: String,
    /// From before the spawn until the first byte of the program that listened by itself.
    pub(crate) bare: Quantiles,
    /// From before `connect` until the first byte, by way of systemd-socket-activate.
    pub(crate) activate: Quantiles,
    /// The same behind a stable socket, in the ways that there are.
    pub(crate) ways: Vec<Way>,
    /// `connect` and first byte of the same program while it runs, without anything in between.
    pub(crate) direct: Quantiles,
}

/// One way to get connections to the program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Way {
    /// What the table calls it.
    pub(crate) name: String,
    /// From before `connect` until the first byte, of a program that did not run.
    pub(crate) cold: Cold,
    /// The time by systemd-socket-activate divided by it, turn by turn; of every tenth of the turns, the median.
    pub(crate) of_systemd: Spread,
    /// `connect` and first byte while it runs.
    pub(crate) warm: Quantiles,
}

/// A service behind a stable socket.
struct Behind {
    /// Its name in the tree.
    service: &'static str,
    /// What the table calls it.
    label: &'static str,
    handover: &'static str,
    ready: &'static str,
    port: u16,
    samples: Samples,
    ratios: Vec<f64>,
    warm: Vec<i64>,
}

/// Runs so many turns of all ways.
pub(crate) async fn run(programs: &Programs, turns: usize, work: &Path) -> Result<Report> {
    let machine = Machine::describe(work)?;
    let ready = programs.ready.canonicalize().context("the C program")?;
    let server = Byname::start(&programs.byname, &work.join("activation"))?;
    let mut asking = Asking::new(&server).await?;
    let mut ways = Vec::new();
    for (service, label, handover, ready) in [
        ("/bench/fds", "`handover = \"fds\"`", "fds", "notify"),
        ("/bench/relay", "relay, `ready = \"notify\"`", "relay", "notify"),
        ("/bench/relay-port", "relay, `ready = \"port\"`", "relay", "port"),
    ] {
        let (samples, ratios, warm) = (Samples::default(), Vec::new(), Vec::new());
        ways.push(Behind { service, label, handover, ready, port: free_port()?, samples, ratios, warm });
    }
    for way in &ways {
        let socket = format!("127.0.0.1:{}", way.port);
        let args: &[&str] = if way.ready == "port" { &["quiet"] } else { &[] };
        asking.add_behind(way.service, &ready, args, way.ready, &socket, way.handover).await?;
    }
    let (mut bare, mut activate, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..turns + WARM_UP {
        let counts = turn >= WARM_UP;
        server.settle().await?;
        let own = bare_start(&ready)?.first_byte;
        server.settle().await?;
        let activated = socket_activation(&ready)?;
        if counts {
            bare.push(own);
            activate.push(activated);
        }
        for way in &mut ways {
            server.settle().await?;
            let timed = first_byte(way.port).with_context(|| way.service.to_owned())?;
            let running = asking.endpoint(way.service).await?;
            ensure!(way.handover == "fds" || running != way.port, "{} is not behind a relay", way.service);
            let mut through = Vec::new();
            for _ in 0..WARM {
                through.push(first_byte(way.port)?.took());
                if way.handover == "relay" {
                    let without = first_byte(running)?.took();
                    if counts {
                        direct.push(without);
                    }
                }
            }
            asking.stop(way.service).await?;
            if counts {
                way.warm.extend(through);
                way.samples.take(&timed, own);
                way.ratios.push(activated as f64 / timed.took() as f64);
            }
        }
    }
    server.stop()?;
    let report = Report {
        machine,
        systemd: machine::said("systemd-socket-activate", &["--version"]),
        bare: Quantiles::of_ns(&mut bare),
        activate: Quantiles::of_ns(&mut activate),
        ways: ways.into_iter().map(Behind::summary).collect(),
        direct: Quantiles::of_ns(&mut direct),
    };
    say("bare spawn to first byte", &report.bare);
    say("systemd-socket-activate", &report.activate);
    for way in &report.ways {
        say(&way.name, &way.cold.reply);
        say("  of it: to main", &way.cold.until_main);
        say("  while it runs", &way.warm);
    }
    say("running, direct", &report.direct);
    Ok(report)
}

impl Behind {
    fn summary(mut self) -> Way {
        let tenth = self.ratios.len().div_ceil(10).max(1);
        let medians = self.ratios.chunks(tenth).map(|part| Spread::of(part.iter().copied()).median);
        Way {
            name: self.label.to_owned(),
            cold: self.samples.summary(),
            of_systemd: Spread::of(medians),
            warm: Quantiles::of_ns(&mut self.warm),
        }
    }
}

fn say(name: &str, q: &Quantiles) {
    eprintln!("  {name:26} p50 {:7.0} µs   p90 {:7.0} µs   p99 {:7.0} µs", q.p50_us, q.p90_us, q.p99_us);
}

/// Connects to what listens here, and waits for the first byte; what follows tells the program's own times.
fn first_byte(port: u16) -> Result<Timed> {
    let asked = now();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut first = [0];
    stream.read_exact(&mut first).context("no first byte")?;
    let replied = now();
    let mut line = String::from_utf8_lossy(&first).into_owned();
    stream.read_to_string(&mut line)?;
    Ok(Timed { asked, replied, program: read_times(&line)?, warm: 0 })
}
