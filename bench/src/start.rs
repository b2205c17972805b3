//! Starting on demand: from `find` to the answer, beside the bare start of the same program and beside socket
//! activation. All of them have their turn one after the other, again and again.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::machine::{self, Machine};
use crate::process::{Notify, Process, free_port, sleeps};
use crate::stats::Quantiles;
use crate::systems::{Byname, Programs, with_token};
use crate::wire::byname::names_client::NamesClient;
use crate::wire::byname::services_client::ServicesClient;
use crate::wire::{byname, connect};

/// Turns that are not counted: files come into the cache, and processors wake up.
pub(crate) const WARM_UP: usize = 5;
/// How long a program may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// The version of systemd.
    pub(crate) systemd: String,
    /// From before the spawn until READY=1 is received.
    pub(crate) bare: Quantiles,
    /// From before `connect` until the program's first byte, by way of systemd-socket-activate.
    pub(crate) activate: Quantiles,
    /// A service with `ready = "notify"`.
    pub(crate) notify: Cold,
    /// A service with `ready = "port"`.
    pub(crate) port: Cold,
    /// `find` of the same service while it runs, on the same connection.
    pub(crate) warm: Quantiles,
}

/// Cold starts of one service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cold {
    /// From before the `find` until its reply.
    pub(crate) reply: Quantiles,
    /// The same, less the bare start of the same turn.
    pub(crate) less_bare: Quantiles,
    /// From before the `find` until the program's `main`.
    pub(crate) until_main: Quantiles,
    /// From the program's `main` until it listens.
    pub(crate) program: Quantiles,
    /// From there until the reply.
    pub(crate) after: Quantiles,
}

/// Samples of [`Cold`], in nanoseconds.
#[derive(Default)]
pub(crate) struct Samples {
    reply: Vec<i64>,
    less_bare: Vec<i64>,
    until_main: Vec<i64>,
    program: Vec<i64>,
    after: Vec<i64>,
}

impl Samples {
    /// Takes one start, and how long the bare start of the same turn took.
    pub(crate) fn take(&mut self, timed: &Timed, bare: i64) {
        let (entered, ready) = timed.program;
        self.reply.push(timed.replied - timed.asked);
        self.less_bare.push(timed.replied - timed.asked - bare);
        self.until_main.push(entered - timed.asked);
        self.program.push(ready - entered);
        self.after.push(timed.replied - ready);
    }

    /// What they come to.
    pub(crate) fn summary(mut self) -> Cold {
        Cold {
            reply: Quantiles::of_ns(&mut self.reply),
            less_bare: Quantiles::of_ns(&mut self.less_bare),
            until_main: Quantiles::of_ns(&mut self.until_main),
            program: Quantiles::of_ns(&mut self.program),
            after: Quantiles::of_ns(&mut self.after),
        }
    }
}

/// One cold start; nanoseconds of CLOCK_MONOTONIC.
pub(crate) struct Timed {
    /// Before it was asked for.
    pub(crate) asked: i64,
    /// When the answer was there.
    pub(crate) replied: i64,
    /// When the program entered `main`, and when it listened.
    pub(crate) program: (i64, i64),
    /// How long the same question took once the service ran.
    pub(crate) warm: i64,
}

impl Timed {
    /// From the question to the answer.
    pub(crate) fn took(&self) -> i64 {
        self.replied - self.asked
    }
}

/// Runs so many turns of all ways to start the program.
pub(crate) async fn run(programs: &Programs, turns: usize, work: &Path) -> Result<Report> {
    let machine = Machine::describe(work)?;
    let ready = programs.ready.canonicalize().context("the C program")?;
    let server = Byname::start(&programs.byname, &work.join("start"))?;
    let mut asking = Asking::new(&server).await?;
    asking.add("/bench/notify", &ready, &[], "notify").await?;
    asking.add("/bench/port", &ready, &["quiet"], "port").await?;
    let (mut bare, mut activate, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    let (mut notify, mut port) = (Samples::default(), Samples::default());
    for turn in 0..turns + WARM_UP {
        server.settle().await?;
        let own = bare_start(&ready)?.listening;
        let notified = asking.cold("/bench/notify").await?;
        server.settle().await?;
        let connected = asking.cold("/bench/port").await?;
        server.settle().await?;
        let activated = socket_activation(&ready)?;
        if turn < WARM_UP {
            continue;
        }
        bare.push(own);
        notify.take(&notified, own);
        port.take(&connected, own);
        activate.push(activated);
        warm.extend([notified.warm, connected.warm]);
    }
    server.stop()?;
    let report = Report {
        machine,
        systemd: machine::said("systemd-socket-activate", &["--version"]),
        bare: Quantiles::of_ns(&mut bare),
        activate: Quantiles::of_ns(&mut activate),
        notify: notify.summary(),
        port: port.summary(),
        warm: Quantiles::of_ns(&mut warm),
    };
    for (name, q) in [
        ("bare spawn until READY=1", &report.bare),
        ("systemd-socket-activate", &report.activate),
        ("find, notify", &report.notify.reply),
        ("  less bare spawn", &report.notify.less_bare),
        ("  find to main", &report.notify.until_main),
        ("  main to listening", &report.notify.program),
        ("  listening to reply", &report.notify.after),
        ("find, port", &report.port.reply),
        ("  less bare spawn", &report.port.less_bare),
        ("  find to main", &report.port.until_main),
        ("  main to listening", &report.port.program),
        ("  listening to reply", &report.port.after),
        ("find of a running service", &report.warm),
    ] {
        eprintln!("  {name:26} p50 {:7.0} µs   p90 {:7.0} µs   p99 {:7.0} µs", q.p50_us, q.p90_us, q.p99_us);
    }
    Ok(report)
}

/// One connection to the server, kept open.
pub(crate) struct Asking {
    names: NamesClient<Channel>,
    services: ServicesClient<Channel>,
    token: MetadataValue<Ascii>,
}

impl Asking {
    /// A new one.
    pub(crate) async fn new(server: &Byname) -> Result<Asking> {
        let channel = connect(&server.address).await?;
        Ok(Asking {
            names: NamesClient::new(channel.clone()),
            services: ServicesClient::new(channel),
            token: server.token(),
        })
    }

    async fn add(&mut self, name: &str, program: &Path, args: &[&str], ready: &str) -> Result<()> {
        self.add_launch(name, launch(program, args, ready)).await
    }

    /// Adds a service behind a stable socket, and waits until it is listened on.
    pub(crate) async fn add_behind(
        &mut self,
        name: &str,
        program: &Path,
        args: &[&str],
        ready: &str,
        socket: &str,
        handover: &str,
    ) -> Result<()> {
        let listen = Some(byname::Strings { values: vec![socket.to_owned()] });
        let handover = Some(handover.to_owned());
        self.add_launch(name, byname::Launch { listen, handover, ..launch(program, args, ready) }).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let request = byname::ListRequest { pattern: name.to_owned(), ..Default::default() };
            let reply = self.services.status(with_token(request, &self.token)).await?.into_inner();
            let listening = reply.services.first().and_then(|s| s.listening.first());
            match listening {
                Some(byname::Listening { error: Some(error), .. }) => bail!("{socket}: {error}"),
                Some(_) => return Ok(()),
                None => ensure!(tokio::time::Instant::now() < deadline, "nobody listens on {socket}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn add_launch(&mut self, name: &str, launch: byname::Launch) -> Result<()> {
        let spec = byname::Spec { kind: byname::Kind::Service as i32, launch: Some(launch), ..Default::default() };
        let request = byname::AddRequest { name: name.to_owned(), spec: Some(spec) };
        self.names.add(with_token(request, &self.token)).await?;
        Ok(())
    }

    /// The port of a service that runs, or is about to say so.
    pub(crate) async fn endpoint(&mut self, name: &str) -> Result<u16> {
        let request = byname::FindRequest { name: name.to_owned(), ..Default::default() };
        let reply = self.names.find(with_token(request, &self.token)).await?.into_inner();
        let endpoint = reply.instances.first().and_then(|i| i.endpoints.first()).context("no endpoint")?;
        Ok(u16::try_from(endpoint.port)?)
    }

    /// Stops a service, and waits until it has ended.
    pub(crate) async fn stop(&mut self, name: &str) -> Result<()> {
        let request = byname::ActRequest { patterns: vec![name.to_owned()], now: true, ..Default::default() };
        let stopped = self.services.stop(with_token(request, &self.token)).await?.into_inner();
        let state = stopped.services.first().map(byname::Acted::state);
        ensure!(state == Some(byname::State::Stopped), "{name} was not stopped: {stopped:?}");
        Ok(())
    }

    /// Finds a stopped service, asks the program for its times, finds it again, and stops it.
    async fn cold(&mut self, name: &str) -> Result<Timed> {
        let request = byname::FindRequest { name: name.to_owned(), ..Default::default() };
        let asked = now();
        let reply = self.names.find(with_token(request.clone(), &self.token)).await.with_context(|| name.to_owned())?;
        let replied = now();
        let reply = reply.into_inner();
        ensure!(reply.started, "{name} was running already");
        let endpoint = reply.instances.first().and_then(|i| i.endpoints.first()).context("no endpoint")?;
        let program = ask_times(TcpStream::connect(("127.0.0.1", u16::try_from(endpoint.port)?))?)?;

        let again = now();
        let reply = self.names.find(with_token(request, &self.token)).await?.into_inner();
        let warm = now() - again;
        ensure!(!reply.started, "{name} was started twice");

        self.stop(name).await?;
        Ok(Timed { asked, replied, program, warm })
    }
}

fn launch(program: &Path, args: &[&str], ready: &str) -> byname::Launch {
    let command = std::iter::once(program.to_string_lossy().into_owned()).chain(args.iter().map(|a| (*a).to_owned()));
    byname::Launch {
        command: Some(byname::Strings { values: command.collect() }),
        ready: Some(ready.to_owned()),
        ..Default::default()
    }
}

/// A child that is killed at the end of its turn.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A bare start, in nanoseconds from before the spawn.
pub(crate) struct Bare {
    /// Until READY=1 was received.
    pub(crate) listening: i64,
    /// Until the first byte on a connection that was made then, and what followed it.
    pub(crate) first_byte: i64,
}

/// Spawns the program as cheaply as the standard library can, waits until it says that it listens, and asks it.
pub(crate) fn bare_start(program: &Path) -> Result<Bare> {
    let notify = Notify::new()?;
    let port = free_port()?;
    let mut command = Command::new(program);
    command.env("PORT", port.to_string()).env("NOTIFY_SOCKET", notify.address()).stdin(Stdio::null());
    let begun = now();
    let child = Killed(command.spawn()?);
    notify.ready()?;
    let listening = now() - begun;
    ask_times(TcpStream::connect(("127.0.0.1", port))?)?;
    let first_byte = now() - begun;
    drop(child);
    Ok(Bare { listening, first_byte })
}

/// Has systemd-socket-activate listen for the program, connects, and waits for the first byte.
pub(crate) fn socket_activation(program: &Path) -> Result<i64> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &address]).arg(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::spawn(&mut command)?;
    process.wait_for_error_line(|line| line.starts_with("Listening on")).context("systemd-socket-activate")?;
    while !sleeps(process.pid()) {
        std::thread::yield_now();
    }
    let begun = now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])?;
    Ok(now() - begun)
}

/// The times that the program tells everybody who connects.
fn ask_times(mut stream: TcpStream) -> Result<(i64, i64)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    read_times(&line)
}

/// The times in what the program says.
pub(crate) fn read_times(line: &str) -> Result<(i64, i64)> {
    let mut numbers = line.strip_prefix("R ").context("no answer")?.split_whitespace().map(str::parse::<i64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(entered)), Some(Ok(ready))) => Ok((entered, ready)),
        _ => Err(anyhow::anyhow!("the program answered {line:?}")),
    }
}

/// Nanoseconds of the clock that the program reads, too.
pub(crate) fn now() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
