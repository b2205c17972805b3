//! Answers of the DNS over UDP, beside Knot and NSD with the same zone on the same cores, asked by dnsperf.
//!
//! Every system holds so many names with an address each, and is asked for names of which nine in ten are there. The
//! systems have their turns one after the other, in rounds. Byname also has turns in which the tree changes all the time.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::process::{Process, cpu_us, free_port, logged, memory};
use crate::stats::Spread;
use crate::systems::{Byname, Programs, with_token};
use crate::wire::byname::names_client::NamesClient;
use crate::wire::{byname, connect};

/// The zone, which is the suffix of `byname dev`.
const ZONE: &str = "byname.internal";
/// Questions in the file that dnsperf goes through again and again.
const QUESTIONS: u64 = 200_000;
/// How long a peer may take to read its zone.
const PATIENCE: Duration = Duration::from_secs(180);
/// Changes in one batch while the tree changes, and batches a second.
const CHANGES: (u64, u64) = (50, 20);

/// How many, how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sizes {
    /// Names in the zone
    #[arg(long, value_delimiter = ',', default_value = "10000,1000000")]
    names: Vec<u64>,
    /// Turns of each system
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long dnsperf asks in a turn
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Questions under way at once
    #[arg(long, default_value_t = 200)]
    under_way: u32,
    /// dnsperf
    #[arg(long, default_value = "dnsperf")]
    dnsperf: PathBuf,
    /// Knot
    #[arg(long, default_value = "/usr/sbin/knotd")]
    knotd: PathBuf,
    /// NSD
    #[arg(long, default_value = "/usr/sbin/nsd")]
    nsd: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// For each number of names.
    pub(crate) sizes: Vec<Size>,
}

/// One number of names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Size {
    /// How many.
    pub(crate) names: u64,
    /// Each system; Byname first, then Byname while the tree changes.
    pub(crate) systems: Vec<Measured>,
    /// Byname's rate over that of the faster peer in the same round.
    pub(crate) ratio: Spread,
    /// The same while the tree changes.
    pub(crate) ratio_changing: Spread,
}

/// One system.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) system: String,
    /// Answers a second.
    pub(crate) rate: Spread,
    /// Questions without an answer, in percent.
    pub(crate) lost_percent: Spread,
    /// Processor time of the server for an answer, in microseconds.
    pub(crate) cpu_us: Spread,
    /// Its resident memory in the end, in MiB.
    pub(crate) rss_mib: f64,
}

/// Measures all of them.
pub(crate) async fn run(programs: &Programs, sizes: &Sizes, work: &Path) -> Result<Report> {
    ensure!(sizes.rounds > 0 && sizes.seconds > 0, "nothing is asked");
    let machine = Machine::describe(work)?;
    let mut report = Report { machine, ..Report::default() };
    for names in &sizes.names {
        let dir = work.join(format!("dns-{names}"));
        std::fs::create_dir_all(&dir)?;
        report.sizes.push(one_size(programs, sizes, *names, &dir.canonicalize()?).await?);
    }
    Ok(report)
}

async fn one_size(programs: &Programs, sizes: &Sizes, names: u64, dir: &Path) -> Result<Size> {
    let (zone, questions) = (dir.join("zone"), dir.join("questions"));
    write_zone(&zone, names)?;
    write_questions(&questions, names)?;
    let own = Byname::start_with(&programs.byname, &dir.join("byname"), &["--dns", "127.0.0.1:0"])?;
    register(&own, names).await?;
    let (knot, knot_port) = knot(&sizes.knotd, &zone, &dir.join("knot"))?;
    let (nsd, nsd_port) = nsd(&sizes.nsd, &zone, &dir.join("nsd"))?;
    let own_port = own.dns_port()?;
    let systems = [
        ("byname", own.pid(), own_port),
        ("byname, 1,000 changes/s", own.pid(), own_port),
        ("knot", knot.pid(), knot_port),
        ("nsd", nsd.pid(), nsd_port),
    ];
    for (name, _, port) in &systems {
        await_name(*port, names - 1).with_context(|| (*name).to_owned())?;
    }
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); systems.len()];
    for round in 0..sizes.rounds {
        for (at, (name, pid, port)) in systems.iter().enumerate() {
            let changing = (at == 1).then(|| Changing::begin(&own, names));
            let turn = one_turn(sizes, &questions, *pid, *port)?;
            if let Some(changing) = changing {
                changing.end().await?;
            }
            eprintln!("  {names:8} {round:2} {name:24} {:9.0}/s {:6.2} µs", turn.rate, turn.cpu_us);
            turns[at].push(turn);
        }
    }
    let faster = |round: usize| turns[2][round].rate.max(turns[3][round].rate);
    let ratio = |at: usize| Spread::of((0..sizes.rounds).map(|round| turns[at][round].rate / faster(round)));
    let (ratio, ratio_changing) = (ratio(0), ratio(1));
    let mut measured = Vec::new();
    for ((name, pid, _), turns) in systems.iter().zip(&turns) {
        measured.push(Measured {
            system: (*name).to_owned(),
            rate: Spread::of(turns.iter().map(|t| t.rate)),
            lost_percent: Spread::of(turns.iter().map(|t| t.lost_percent)),
            cpu_us: Spread::of(turns.iter().map(|t| t.cpu_us)),
            rss_mib: memory_of(*pid)? as f64 / 1024.0,
        });
    }
    nsd.terminate()?;
    knot.terminate()?;
    own.stop()?;
    Ok(Size { names, systems: measured, ratio, ratio_changing })
}

/// Resident memory of a process and its children, in KiB: NSD answers from children.
fn memory_of(pid: u32) -> Result<u64> {
    let mut all = memory(pid)?.rss_kib;
    for child in all_children(pid) {
        all += memory(child)?.pss_kib;
    }
    Ok(all)
}

/// Processor time of a process and its children.
fn cpu_of(pid: u32) -> Result<u64> {
    let mut all = cpu_us(pid)?;
    for child in all_children(pid) {
        all += cpu_us(child).unwrap_or_default();
    }
    Ok(all)
}

fn all_children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[derive(Clone, Debug)]
struct Turn {
    rate: f64,
    lost_percent: f64,
    cpu_us: f64,
}

/// dnsperf asks one system.
fn one_turn(sizes: &Sizes, questions: &Path, pid: u32, port: u16) -> Result<Turn> {
    let before = cpu_of(pid)?;
    let output = std::process::Command::new(&sizes.dnsperf)
        .args(["-s", "127.0.0.1", "-c", "10", "-T", "2"])
        .args(["-p", &port.to_string(), "-l", &sizes.seconds.to_string(), "-q", &sizes.under_way.to_string(), "-d"])
        .arg(questions)
        .stdin(Stdio::null())
        .output()
        .context("dnsperf")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = |label: &str| {
        let rest = text.lines().find_map(|line| line.trim().strip_prefix(label));
        let word = rest.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("{label}: {text}"))?;
        Ok::<f64, anyhow::Error>(word.parse()?)
    };
    let (sent, completed) = (figure("Queries sent:")?, figure("Queries completed:")?);
    ensure!(completed > 0.0, "nothing was answered: {text}");
    let cpu = cpu_of(pid)? - before;
    Ok(Turn {
        rate: figure("Queries per second:")?,
        lost_percent: 100.0 * (sent - completed).max(0.0) / sent,
        cpu_us: cpu as f64 / completed,
    })
}

fn label(n: u64) -> String {
    format!("h{n:07}")
}

fn address(n: u64) -> String {
    format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255)
}

fn write_zone(path: &Path, names: u64) -> Result<()> {
    let mut text =
        format!("$ORIGIN {ZONE}.\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 604800 5\n@ NS ns\nns A 127.0.0.1\n");
    for n in 0..names {
        writeln!(text, "{} A {}", label(n), address(n))?;
    }
    Ok(std::fs::write(path, text)?)
}

/// Nine in ten are there. The numbers are scattered, and the same in each run.
fn write_questions(path: &Path, names: u64) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for at in 0..QUESTIONS {
        let n = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        match at % 10 {
            9 => writeln!(file, "x{n:07}.{ZONE} A", n = n % names)?,
            _ => writeln!(file, "{}.{ZONE} A", label(n % names))?,
        }
    }
    Ok(file.flush()?)
}

/// A computer for each name, a thousand in a batch.
async fn register(server: &Byname, names: u64) -> Result<()> {
    let mut client = NamesClient::new(connect(&server.address).await?);
    for from in (0..names).step_by(1_000) {
        let add = |n| {
            let addresses = Some(byname::Strings { values: vec![address(n)] });
            let spec = byname::Spec { kind: byname::Kind::Computer as i32, addresses, ..Default::default() };
            let request = byname::AddRequest { name: format!("/{}", label(n)), spec: Some(spec) };
            byname::Op { op: Some(byname::op::Op::Add(request)) }
        };
        let ops = (from..(from + 1_000).min(names)).map(add).collect();
        client.batch(with_token(byname::BatchRequest { ops, ..Default::default() }, &server.token())).await?;
    }
    Ok(())
}

/// Makes and removes names as long as it lives.
struct Changing(tokio::task::JoinHandle<Result<u64>>, tokio::sync::oneshot::Sender<()>);

impl Changing {
    fn begin(server: &Byname, names: u64) -> Changing {
        let (address_of, token) = (server.address.clone(), server.token());
        let (end, mut ended) = tokio::sync::oneshot::channel();
        Changing(
            tokio::spawn(async move {
                let mut client = NamesClient::new(connect(&address_of).await?);
                let (each, a_second) = CHANGES;
                let mut pace = tokio::time::interval(Duration::from_millis(1_000 / a_second));
                let mut changes = 0;
                loop {
                    tokio::select! {
                        _ = pace.tick() => {}
                        _ = &mut ended => return Ok(changes),
                    }
                    let modify = |n: u64| {
                        let addresses = Some(byname::Strings { values: vec![address(changes + n)] });
                        let spec =
                            byname::Spec { kind: byname::Kind::Computer as i32, addresses, ..Default::default() };
                        let name = format!("/{}", label((changes + n).wrapping_mul(7_368_787) % names));
                        let request = byname::DeclareRequest { name, spec: Some(spec) };
                        byname::Op { op: Some(byname::op::Op::Declare(request)) }
                    };
                    let ops = (0..each).map(modify).collect();
                    client.batch(with_token(byname::BatchRequest { ops, ..Default::default() }, &token)).await?;
                    changes += each;
                }
            }),
            end,
        )
    }

    async fn end(self) -> Result<()> {
        let _ = self.1.send(());
        let changes = self.0.await??;
        ensure!(changes > 0, "nothing changed");
        Ok(())
    }
}

/// Waits until a name is answered.
fn await_name(port: u16, n: u64) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut question = vec![0x42, 0x42, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in format!("{}.{ZONE}", label(n)).split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut room = [0; 512];
        if socket.send_to(&question, ("127.0.0.1", port)).is_ok()
            && let Ok(length) = socket.recv(&mut room)
            && length > 12
            && room[3] & 0xf == 0
            && room[7] == 1
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("it did not answer for the last of its names")
}

fn knot(program: &Path, zone: &Path, dir: &Path) -> Result<(Process, u16)> {
    std::fs::create_dir_all(dir)?;
    let (port, config) = (free_port()?, dir.join("knot.conf"));
    let (dir_text, zone) = (dir.display(), zone.display());
    let text = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: {dir_text}\n\
         database:\n  storage: {dir_text}\n\
         template:\n  - id: default\n    storage: {dir_text}\n    zonefile-sync: -1\n    journal-content: none\n\
         zone:\n  - domain: {ZONE}\n    file: {zone}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = logged(program, &dir.join("log"))?;
    command.arg("-c").arg(&config);
    Ok((Process::spawn(&mut command)?, port))
}

fn nsd(program: &Path, zone: &Path, dir: &Path) -> Result<(Process, u16)> {
    std::fs::create_dir_all(dir)?;
    let (port, config) = (free_port()?, dir.join("nsd.conf"));
    let (dir_text, zone) = (dir.display(), zone.display());
    let text = format!(
        "server:\n  ip-address: 127.0.0.1@{port}\n  server-count: {count}\n  reuseport: yes\n  username: \"\"\n  chroot: \"\"\n  \
         database: \"\"\n  zonesdir: \"/\"\n  pidfile: \"{dir_text}/pid\"\n  xfrdfile: \"{dir_text}/xfrd\"\n  \
         zonelistfile: \"{dir_text}/zones\"\n  logfile: \"{dir_text}/nsd.log\"\n  xfrdir: \"{dir_text}\"\n  rrl-ratelimit: 0\n\
         remote-control:\n  control-enable: no\nzone:\n  name: {ZONE}\n  zonefile: \"{zone}\"\n",
        count = std::thread::available_parallelism()?
    );
    std::fs::write(&config, text)?;
    let mut command = logged(program, &dir.join("log"))?;
    command.arg("-d").arg("-c").arg(&config);
    Ok((Process::spawn(&mut command)?, port))
}
