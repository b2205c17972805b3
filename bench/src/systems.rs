//! The systems that are measured, each a process of its own on loopback with its data in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

use crate::process::{Notify, Process, children, free_port, kill_beneath, logged, sleeps};
use crate::wire::byname::names_client::NamesClient;
use crate::wire::byname::services_client::ServicesClient;
use crate::wire::{byname, connect};

/// Where the programs are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
    /// The release build of `byname`
    #[arg(long)]
    pub(crate) byname: PathBuf,
    /// etcd
    #[arg(long)]
    pub(crate) etcd: PathBuf,
    /// The C program of `programs/ready.c`, built
    #[arg(long)]
    pub(crate) ready: PathBuf,
    /// The C program of `programs/stream.c`, built: what the relay is measured with
    #[arg(long)]
    pub(crate) stream: Option<PathBuf>,
}

/// `byname dev`.
pub(crate) struct Byname {
    process: Option<Process>,
    dir: PathBuf,
    /// HOST:PORT of its gRPC.
    pub(crate) address: String,
    /// The same within TLS.
    pub(crate) https: String,
    /// The file of the roots that its certificate leads to.
    pub(crate) ca: PathBuf,
    token: MetadataValue<Ascii>,
}

impl Byname {
    /// Starts one with its data in `dir`: anew, or with what one before it left there.
    pub(crate) fn start(program: &Path, dir: &Path) -> Result<Byname> {
        Byname::start_with(program, dir, &[])
    }

    /// The same with more words for `dev`.
    pub(crate) fn start_with(program: &Path, dir: &Path, words: &[&str]) -> Result<Byname> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let log = std::fs::File::create(dir.join("stderr"))?;
        let data = dir.join("data");
        let mut command = Command::new(program);
        command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(&data).args(words);
        // It notes its token there for commands; the user's own notes stay as they are.
        command.env("XDG_STATE_HOME", dir.join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut process = Process::spawn(&mut command)?;
        process.wait_for_line(|line| line == "ready").context("byname dev")?;
        let endpoints: serde_json::Value = serde_json::from_slice(&std::fs::read(data.join("endpoints.json"))?)?;
        let said = |key: &str| endpoints[key].as_str().with_context(|| format!("endpoints.json has no `{key}`"));
        let token = std::fs::read_to_string(data.join("token"))?;
        Ok(Byname {
            process: Some(process),
            dir,
            address: said("api")?.trim_start_matches("http://").to_owned(),
            https: said("https")?.trim_start_matches("https://").to_owned(),
            ca: said("ca")?.into(),
            token: format!("Bearer {}", token.trim()).parse()?,
        })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// The port of its DNS.
    pub(crate) fn dns_port(&self) -> Result<u16> {
        let endpoints: serde_json::Value = serde_json::from_slice(&std::fs::read(self.data().join("endpoints.json"))?)?;
        let dns = endpoints["dns"].as_str().context("endpoints.json has no `dns`")?;
        Ok(dns.parse::<std::net::SocketAddr>()?.port())
    }

    /// The folder of its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What a client needs besides a connection.
    pub(crate) fn token(&self) -> MetadataValue<Ascii> {
        self.token.clone()
    }

    /// The holder that is kept ready for the next start.
    pub(crate) fn spare(&self) -> Option<u32> {
        children(self.pid(), "hold").into_iter().find(|pid| sleeps(*pid))
    }

    /// Waits until the holder for the next start has been loaded and waits for work: a start that comes earlier would
    /// be measured together with that.
    pub(crate) async fn settle(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut seen = 0;
        // Twice, because a process that is being loaded may sleep for a moment, too.
        while seen < 2 {
            seen = if self.spare().is_some() { seen + 1 } else { 0 };
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "no holder became ready");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Ends it in the orderly way.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Process::terminate)
    }
}

impl Drop for Byname {
    fn drop(&mut self) {
        drop(self.process.take());
        // Programs and their holders outlive the server, as they should; here nobody wants them any more.
        kill_beneath(&self.dir);
    }
}

/// A request with Byname's token.
pub(crate) fn with_token<M>(message: M, token: &MetadataValue<Ascii>) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.clone());
    request
}

/// A service that is advertised as long as this lives: its lease is renewed at every third of its time.
pub(crate) struct Advertised {
    /// The instance.
    pub(crate) instance: String,
    /// What it proves itself with.
    pub(crate) credential: Option<String>,
    renewing: tokio::task::JoinHandle<()>,
}

impl Advertised {
    /// Advertises `name` at a made-up address.
    pub(crate) async fn new(server: &Byname, name: &str) -> Result<Advertised> {
        const TTL_MS: u64 = 30_000;
        let token = server.token();
        let mut services = ServicesClient::new(connect(&server.address).await?);
        let mut lease = byname::AdvertiseRequest {
            name: name.to_owned(),
            endpoints: vec![byname::Endpoint { protocol: "tcp".into(), address: "127.0.0.1".into(), port: 4711 }],
            ttl_ms: Some(TTL_MS),
            ..Default::default()
        };
        let reply = services.advertise(with_token(lease.clone(), &token)).await?.into_inner();
        lease.instance = Some(reply.instance);
        lease.credential = reply.credential;
        let (instance, credential) = (lease.instance.clone().unwrap_or_default(), lease.credential.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(TTL_MS / 3)).await;
                if let Err(error) = services.advertise(with_token(lease.clone(), &token)).await {
                    eprintln!("the lease of the service could not be renewed: {error}");
                    return;
                }
            }
        });
        let mut names = NamesClient::new(connect(&server.address).await?);
        let request = byname::FindRequest { name: name.to_owned(), ..Default::default() };
        let found = names.find(with_token(request, &server.token())).await?.into_inner();
        anyhow::ensure!(found.instances.len() == 1, "the advertised service is not found: {found:?}");
        Ok(Advertised { instance, credential, renewing })
    }
}

impl Drop for Advertised {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// One etcd member with its defaults, fsync included.
pub(crate) struct Etcd {
    process: Process,
    /// HOST:PORT of its gRPC.
    pub(crate) address: String,
}

impl Etcd {
    /// Starts one with its data in `dir`: anew, or with what one before it left there.
    pub(crate) fn start(program: &Path, dir: &Path) -> Result<Etcd> {
        std::fs::create_dir_all(dir)?;
        let notify = Notify::new()?;
        let client = format!("http://127.0.0.1:{}", free_port()?);
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        let mut command = logged(program, &dir.join("log"))?;
        command.args(["--name", "s1", "--initial-cluster-state", "new", "--data-dir"]).arg(dir.join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("s1={peer}")]);
        command.env("NOTIFY_SOCKET", notify.address());
        let process = Process::spawn(&mut command)?;
        notify.ready().with_context(|| format!("etcd: see {}", dir.join("log").display()))?;
        Ok(Etcd { process, address: client.trim_start_matches("http://").to_owned() })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it in the orderly way.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.terminate()
    }
}

/// The server of the empty call.
pub(crate) struct Empty {
    process: Process,
    /// HOST:PORT.
    pub(crate) address: String,
}

impl Empty {
    /// Starts this very program once more.
    pub(crate) fn start() -> Result<Empty> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("empty-server").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let address = process.wait_for_line(|_| true)?;
        Ok(Empty { process, address })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}
