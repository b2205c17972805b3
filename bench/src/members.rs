//! Three servers that keep one tree together, and three members of etcd, all on loopback with their data on one disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::process::{Process, free_port, logged};
use crate::systems::with_token;
use crate::wire::byname::cluster_client::ClusterClient;
use crate::wire::byname::names_client::NamesClient;
use crate::wire::etcd::kv_client::KvClient;
use crate::wire::etcd::maintenance_client::MaintenanceClient;
use crate::wire::{byname, connect, etcd};

/// How many.
pub(crate) const MEMBERS: usize = 3;
/// How long they may take to do what they do by themselves.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// The bearer token of all servers; it is nobody's secret.
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// One kind of system, with three members.
pub(crate) struct Members {
    kind: Kind,
    dir: PathBuf,
    members: Vec<Member>,
}

/// Which, and its program.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// `byname server`.
    Byname(PathBuf),
    /// etcd with its defaults.
    Etcd(PathBuf),
}

struct Member {
    process: Option<Process>,
    port: u16,
    /// Between etcd's members.
    peer: u16,
    address: String,
}

impl Members {
    /// Starts them with their data beneath `dir`, and waits until all three count for the majority.
    pub(crate) async fn start(kind: Kind, dir: &Path) -> Result<Members> {
        std::fs::create_dir_all(dir)?;
        let mut all = Members { kind, dir: dir.canonicalize()?, members: Vec::new() };
        for _ in 0..MEMBERS {
            let port = free_port()?;
            let member = Member { process: None, port, peer: free_port()?, address: format!("127.0.0.1:{port}") };
            all.members.push(member);
        }
        for n in 0..MEMBERS {
            let token = if n > 0 { all.invite().await? } else { None };
            all.run(n, token.as_deref())?;
            if let Kind::Byname(_) = all.kind {
                all.voters(n + 1).await?;
            }
        }
        all.leader().await?;
        Ok(all)
    }

    /// Starts one: anew, or with what it has on disk.
    fn run(&mut self, n: usize, token: Option<&str>) -> Result<()> {
        let dir = self.dir.join(format!("{n}"));
        let initial = |(n, m): (usize, &Member)| format!("m{n}=http://127.0.0.1:{}", m.peer);
        let initial: Vec<String> = self.members.iter().enumerate().map(initial).collect();
        let Some(member) = self.members.get_mut(n) else { bail!("there is no member {n}") };
        match &self.kind {
            Kind::Byname(program) => {
                let data = dir.join("data");
                std::fs::create_dir_all(&data)?;
                if !data.join("token").exists() {
                    use std::os::unix::fs::OpenOptionsExt;
                    let mut file =
                        std::fs::File::options().write(true).create_new(true).mode(0o600).open(data.join("token"))?;
                    std::io::Write::write_all(&mut file, TOKEN.as_bytes())?;
                }
                let mut command = Command::new(program);
                command.args(["server", "--listen", &member.address, "--address", &member.address, "--data"]);
                command.arg(&data).args(token.iter().flat_map(|token| ["--join", token]));
                command.env("XDG_STATE_HOME", dir.join("state")).stdin(Stdio::null()).stdout(Stdio::piped());
                command.stderr(std::fs::File::options().create(true).append(true).open(dir.join("log"))?);
                let mut process = Process::spawn(&mut command)?;
                let ready = process.wait_for_line(|line| line == "ready");
                ready.with_context(|| format!("byname server: see {}", dir.join("log").display()))?;
                member.process = Some(process);
            }
            Kind::Etcd(program) => {
                std::fs::create_dir_all(&dir)?;
                let client = format!("http://127.0.0.1:{}", member.port);
                let peer = format!("http://127.0.0.1:{}", member.peer);
                let mut command = logged(program, &dir.join("log"))?;
                command.args(["--name", &format!("m{n}"), "--data-dir"]).arg(dir.join("data"));
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster-state", "new", "--initial-cluster", &initial.join(",")]);
                member.process = Some(Process::spawn(&mut command)?);
            }
        }
        Ok(())
    }

    /// A token for the next server; etcd's members know each other from the start.
    async fn invite(&self) -> Result<Option<String>> {
        let (Kind::Byname(program), Some(first)) = (&self.kind, self.members.first()) else { return Ok(None) };
        ensure!(first.process.is_some(), "the first server does not run");
        let socket = format!("unix://{}", self.dir.join("0/data/byname.sock").display());
        let mut command = Command::new(program);
        command.args(["--server", &socket, "cluster", "invite", "--name-server"]);
        let output = command.env("XDG_STATE_HOME", self.dir.join("state")).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "no invitation: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned()))
    }

    /// Waits until so many servers count for the majority.
    async fn voters(&self, many: usize) -> Result<()> {
        let Some(first) = self.members.first() else { bail!("there is no server") };
        let until = Instant::now() + PATIENCE;
        loop {
            let info = info(&first.address).await?;
            if info.members.iter().filter(|member| member.voter).count() == many {
                return Ok(());
            }
            ensure!(Instant::now() < until, "a server that joined got no vote: {:?}", info.members);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Which of them leads; waits until one does.
    pub(crate) async fn leader(&self) -> Result<usize> {
        let until = Instant::now() + PATIENCE;
        loop {
            for (n, member) in self.members.iter().enumerate().filter(|(_, member)| member.process.is_some()) {
                let leads = match &self.kind {
                    Kind::Byname(_) => info(&member.address).await.is_ok_and(|info| info.primary),
                    Kind::Etcd(_) => leads(&member.address).await.unwrap_or(false),
                };
                if leads {
                    return Ok(n);
                }
            }
            ensure!(Instant::now() < until, "nobody leads: see {}", self.dir.display());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// HOST:PORT of one.
    pub(crate) fn address(&self, n: usize) -> &str {
        self.members.get(n).map_or("", |member| &member.address)
    }

    /// Those of all.
    pub(crate) fn addresses(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.address.as_str()).collect()
    }

    /// Their processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.process.as_ref().map(Process::pid)).collect()
    }

    /// The process of one.
    pub(crate) fn pid(&self, n: usize) -> u32 {
        self.members.get(n).and_then(|member| member.process.as_ref()).map_or(0, Process::pid)
    }

    /// `kill -9`; gives the moment before.
    pub(crate) fn kill(&mut self, n: usize) -> Result<Instant> {
        let process = self.members.get_mut(n).and_then(|member| member.process.take()).context("it does not run")?;
        let before = Instant::now();
        // Dropping it kills it and waits for its end.
        drop(process);
        Ok(before)
    }

    /// Starts one that was killed, and waits until it has what was written meanwhile.
    pub(crate) async fn revive(&mut self, n: usize, marker: &str) -> Result<()> {
        self.run(n, None)?;
        let until = Instant::now() + PATIENCE;
        let helper = self.address((n + 1) % MEMBERS).to_owned();
        self.put(&connect(&helper).await?, "/bench/marker", marker).await?;
        while self.local(self.address(n), "/bench/marker").await.ok().flatten().as_deref() != Some(marker) {
            ensure!(Instant::now() < until, "a member that was started again does not catch up");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Writes a value.
    pub(crate) async fn put(&self, channel: &Channel, key: &str, value: &str) -> Result<()> {
        put(matches!(self.kind, Kind::Byname(_)), channel.clone(), key, value).await
    }

    /// Reads a value from the memory of one member.
    async fn local(&self, address: &str, key: &str) -> Result<Option<String>> {
        let channel = connect(address).await?;
        match &self.kind {
            Kind::Byname(_) => {
                let request = byname::FindRequest { name: key.into(), ..Default::default() };
                Ok(NamesClient::new(channel).find(with_token(request, &token()?)).await?.into_inner().value)
            }
            Kind::Etcd(_) => {
                let request = etcd::RangeRequest { key: key.into(), serializable: true, ..Default::default() };
                let found = KvClient::new(channel).range(request).await?.into_inner();
                Ok(found.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
            }
        }
    }
}

/// Writes a value, by Byname's interface or etcd's.
pub(crate) async fn put(to_byname: bool, channel: Channel, key: &str, value: &str) -> Result<()> {
    if to_byname {
        let kind = byname::Kind::Record as i32;
        let spec = byname::Spec { kind, value: Some(value.into()), ..Default::default() };
        let put = byname::PutRequest { name: key.into(), spec: Some(spec), if_version: None };
        let op = byname::Op { op: Some(byname::op::Op::Put(put)) };
        let request = byname::BatchRequest { ops: vec![op], ..Default::default() };
        NamesClient::new(channel).batch(with_token(request, &token()?)).await?;
    } else {
        let request = etcd::PutRequest { key: key.into(), value: value.into() };
        KvClient::new(channel).put(request).await?;
    }
    Ok(())
}

/// What clients of Byname show.
pub(crate) fn token() -> Result<MetadataValue<Ascii>> {
    Ok(format!("Bearer {TOKEN}").parse()?)
}

/// What a server of Byname says of itself and of the others.
pub(crate) async fn info(address: &str) -> Result<byname::ServerInfo> {
    let mut client = ClusterClient::new(connect(address).await?);
    Ok(client.info(with_token(byname::InfoRequest {}, &token()?)).await?.into_inner())
}

/// Whether this member of etcd leads.
async fn leads(address: &str) -> Result<bool> {
    let mut client = MaintenanceClient::new(connect(address).await?);
    let status = client.status(etcd::StatusRequest {}).await?.into_inner();
    Ok(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
}
