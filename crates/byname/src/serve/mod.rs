//! The commands that serve: `dev`, `server` and `agent`. Each reads as the order in which things start and stop.

mod announce;
mod config;
mod dp;
mod files;
mod issuer;
mod join;
mod listeners;
mod local;
mod peers;
pub(crate) mod salvage;
mod trust;
mod workloads;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::ReceiverStream;

use byname_api::NameService;
use byname_api::caller::{Caller, Gate};
use byname_api::error::{Code, Error, Result};
use byname_api::request::Context;
use byname_client::Clerk;
use byname_cluster::disk::LocalDisk;
use byname_cluster::links::Links;
use byname_launch::Agent;
use byname_node::Node;

use crate::cli::serve::{AgentArgs, DevArgs, ServerArgs};
use crate::environment::Environment;
use crate::failure::Outcome;
use crate::reach;
use config::ServerSettings;
pub(crate) use config::{AgentFile, ServerFile};
use files::DataDir;
use listeners::Listeners;

/// How long open connections may go on after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the start waits for the DNS to have read the tree; a large one is read on beside it.
const DNS_READY: Duration = Duration::from_secs(5);

/// `byname dev`: a server and an agent in one process, for a laptop.
pub(crate) async fn dev(args: DevArgs) -> Outcome {
    let env = Environment::read();
    let mut signals = Signals::listen()?;
    start_log(&env);
    let settings = config::dev(args, &env)?;
    let data = DataDir::take(&settings.data)?;
    // The programs are told where it is spoken.
    let dp = dp::Bound::at(settings.dp).await?;
    let told = dp.as_ref().map(dp::Bound::reached_at);
    let agent = Agent::start(config::launch(&data, &settings, &env, told)).await.map_err(cannot_start)?;
    let bound = Listeners { dp, ..Listeners::bind(&data, settings.listen, settings.dns).await? };
    let server = Server::start(&env, data, bound, &settings, Some(&agent), Arc::default()).await?;
    server.announce()?;
    while let Signal::Reload = signals.next().await {
        server.reload();
        if let Err(error) = agent.reload().await {
            tracing::error!("the catalogue is as before: {}", error.log_line());
        }
    }
    server.stop(&env).await;
    agent.shutdown().await;
    Ok(())
}

/// `byname server`: a name server; programs are started by the agents that connect to it.
pub(crate) async fn server(args: ServerArgs) -> Outcome {
    let env = Environment::read();
    let mut signals = Signals::listen()?;
    start_log(&env);
    let settings = config::server(args)?;
    let data = DataDir::take(&settings.data)?;
    let dp = dp::Bound::at(settings.dp).await?;
    let bound = Listeners { dp, ..Listeners::bind(&data, settings.listen, settings.dns).await? };
    let credentials = Arc::<peers::Credentials>::default();
    let starting = async {
        join::server(&data, &settings, bound.api).await?;
        Server::start(&env, data, bound, &settings, None, credentials.clone()).await
    };
    tokio::pin!(starting);
    // It may wait for the other servers for as long as they are away.
    let server = loop {
        tokio::select! {
            started = &mut starting => break started?,
            why = credentials.left_out() => return Err(why.into()),
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                Signal::Reload => {}
            },
        }
    };
    server.announce()?;
    let ended = loop {
        tokio::select! {
            why = credentials.left_out() => break Err(why.into()),
            signal = signals.next() => match signal {
                Signal::Stop => break Ok(()),
                Signal::Reload => server.reload(),
            },
        }
    };
    server.stop(&env).await;
    ended
}

/// `byname agent`: starts programs on this host for the servers it connects to.
pub(crate) async fn agent(args: AgentArgs) -> Outcome {
    let env = Environment::read();
    let mut signals = Signals::listen()?;
    start_log(&env);
    let settings = config::agent(args, &env)?;
    let data = DataDir::take(&settings.data)?;
    let member = join::member(&env, &data, &settings).await?;
    let launch = config::agent_launch(&data, &settings, &member.servers, &env);
    let agent = Agent::start(launch).await.map_err(cannot_start)?;
    let (clerk, servers) = (member.clerk.clone(), member.servers.clone());
    workloads::serve(&agent, issuer::Issuer::asking(clerk.clone()));
    let local = local::Local::start(&data, &settings, &member)?;
    data.write_agent_endpoints(local.socket())?;
    if let Err(error) = reach::remember_agent(&env, local.socket()) {
        tracing::info!("commands need --server unix://{}: cannot note it down: {error}", local.socket().display());
    }
    tokio::spawn(member.renew());
    let announce = announce::Announce::new(&settings.addresses, &servers);
    let serving = serve_agent(&clerk, &agent, &announce);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            // Refused for good: it ends only with an error.
            error = &mut serving => {
                local.stop().await;
                return Err(error.into());
            }
            next = signals.next() => match next {
                Signal::Stop => break,
                Signal::Reload => if let Err(error) = agent.reload().await {
                    tracing::error!("the catalogue is as before: {}", error.log_line());
                },
            },
        }
    }
    reach::forget_agent(&env, local.socket());
    data.remove_endpoints();
    local.stop().await;
    agent.shutdown().await;
    Ok(())
}

/// Keeps an agent connected to a server: programs go on while it is not.
async fn serve_agent(clerk: &Clerk, agent: &Agent, announce: &announce::Announce) -> Error {
    let cx = Context::of(Caller::internal());
    let (mut pause, mut ready) = (Duration::from_millis(100), false);
    loop {
        agent.set_addresses(announce.addresses().await);
        let link = agent.connect();
        match clerk.attach_agent(&cx, ReceiverStream::new(link.reports).boxed()).await {
            Ok(mut orders) => {
                if !ready {
                    println!("ready");
                    ready = true;
                }
                pause = Duration::from_millis(100);
                tracing::info!("connected to a server");
                loop {
                    tokio::select! {
                        order = orders.next() => {
                            let Some(order) = order else { break };
                            if link.orders.send(order).await.is_err() {
                                break;
                            }
                        }
                        // The agent was not heard for too long: the server may be gone without a word.
                        () = link.orders.closed() => break,
                    }
                }
                tracing::warn!("the server has gone; programs go on");
            }
            Err(error) if matches!(error.code(), Code::Denied | Code::Unauthenticated | Code::InvalidArgument) => {
                return error;
            }
            Err(error) => tracing::warn!("no server can be reached, trying again: {}", error.message()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// A server that answers.
struct Server {
    node: Node,
    tls: Arc<trust::Tls>,
    data: DataDir,
    api: Option<SocketAddr>,
    dns: Option<(byname_front_dns::Dns, SocketAddr)>,
    dp: Option<dp::Serving>,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(
        env: &Environment,
        data: DataDir,
        bound: Listeners,
        settings: &ServerSettings,
        agent: Option<&Agent>,
        credentials: Arc<peers::Credentials>,
    ) -> Outcome<Server> {
        let prometheus = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder();
        let prometheus = prometheus.map_err(|e| Error::internal(format!("metrics: {e}")))?;
        let own = trust::Own::read(&data, settings)?;
        let api = bound.api;
        let links = Links::new(Arc::new(peers::PeerDial(credentials.clone())));
        let mut options = byname_cluster::Options::new(data.path("log"), own.id);
        options.address = trust::peer_address(api, settings)?;
        options.found = own.founder;
        let config = byname_node::Config {
            dir: data.path("log"),
            id: own.id,
            dns_suffix: own.domain.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let node = Node::open_with(Arc::new(LocalDisk), links.clone(), options, config).await.map_err(cannot_start)?;
        node.set_host_times(settings.host_times);
        node.await_identity();
        node.lock_out_others().await;
        node.reach_peers(Arc::new(peers::Services::new(credentials.clone())));
        let early = own.tls(&node, settings, api, &credentials)?;
        let measured = node.clone();
        let metrics = move || {
            measured.measure();
            prometheus.render()
        };
        let asked = node.clone();
        let ready = move || asked.readiness();
        let service: Arc<dyn NameService> = Arc::new(node.clone());
        let extras = byname_front_http::Extras { metrics: Arc::new(metrics), ready: Arc::new(ready) };
        let meeting = node.clone();
        let meet = move |from, stream| {
            tokio::spawn(peers::meet(meeting.clone(), links.clone(), from, stream));
        };
        let app = byname_front_http::router(service.clone(), extras)
            .merge(byname_front_http::peers(Arc::new(meet)))
            .merge(byname_front_grpc::routes(service));
        let gate = Gate::before(node.authenticator());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let limits = byname_front_http::Limits::default();
        let serve = move |tls: Arc<trust::Tls>| {
            tokio::spawn(byname_front_http::serve_with(bound.all, app, gate, limits, Some(tls as _), async {
                let _ = stopped.await;
            }))
        };
        let (serving, tls) = match early {
            // The other servers must reach this one before it can hear from them.
            Some(tls) => {
                let serving = serve(tls.clone());
                (serving, trust::establish(own, Some(tls), &node, &data, settings, api, &credentials).await?)
            }
            None => {
                let tls = trust::establish(own, None, &node, &data, settings, api, &credentials).await?;
                (serve(tls.clone()), tls)
            }
        };
        if !settings.dev
            && env.own_instance.is_none()
            && let Some(endpoint) = api.and_then(trust::endpoint)
        {
            node.be_found(vec![endpoint]);
        }
        if let Some(agent) = agent {
            // Before anything is started: programs have certificates from their first moment on.
            workloads::serve(agent, issuer::Issuer::asking(Arc::new(node.clone())));
            attach(&node, agent).await?;
            let alive = agent.alive();
            node.ask_here_first(move |instance| alive.has_ended(instance));
        }
        if let Some(api) = api
            && let Err(error) = reach::remember(env, api, &data.path("token"))
        {
            tracing::info!("commands over TCP need --token-file: cannot note down where the token is: {error}");
        }
        if let Some(api) = api
            && let Err(error) = reach::remember_ca(env, api, &data.path("ca.pem"))
        {
            tracing::info!("commands over TLS need --ca: cannot note down where the root certificate is: {error}");
        }
        let dns = match bound.dns {
            Some(dns) => {
                let address = dns.address();
                let service = Arc::new(node.clone());
                let dns = byname_front_dns::Dns::serve(dns, service, config::dns(settings, address)?)?;
                if !dns.ready(DNS_READY).await {
                    tracing::info!("the DNS still reads the tree");
                }
                Some((dns, address))
            }
            None => None,
        };
        let dp = bound.dp.map(|bound| bound.serve(&node));
        Ok(Server { node, tls, data, api, dns, dp, stop, serving })
    }

    /// SIGHUP: a new certificate. A server's settings are read when it starts.
    fn reload(&self) {
        if let Err(error) = self.tls.reload() {
            tracing::error!(error = error.log_line(), "the server's certificate is as before");
        }
    }

    /// Says where it listens, then that it is ready.
    fn announce(&self) -> Outcome {
        let dns = self.dns.as_ref().map(|(_, address)| *address);
        self.data.write_endpoints(self.api, dns, self.dp.as_ref().map(dp::Serving::address))?;
        if let Some(dns) = dns {
            tracing::info!("the DNS answers on {dns}");
        }
        match self.api {
            Some(api) => {
                let scheme = if api.ip().is_loopback() { "http" } else { "https" };
                tracing::info!("listening on {scheme}://{api} and {}", self.data.socket().display());
            }
            None => tracing::info!("listening on {}", self.data.socket().display()),
        }
        // Whoever started it may not be reading; that is no reason to stop.
        let _ = std::io::Write::write_all(&mut std::io::stdout(), b"ready\n");
        let _ = std::io::Write::flush(&mut std::io::stdout());
        Ok(())
    }

    async fn stop(self, env: &Environment) {
        tracing::info!("stopping; programs go on");
        if let Some(api) = self.api {
            reach::forget(env, api, &self.data.path("token"));
        }
        if let Some((dns, _)) = self.dns {
            dns.stop();
        }
        // Another one leads before anybody is turned away here.
        self.node.leave().await;
        self.node.drain();
        let _ = self.stop.send(());
        if let Some(dp) = self.dp {
            dp.stop().await;
        }
        let _ = tokio::time::timeout(DRAIN, self.serving).await;
        self.node.anchor_audit().await;
        self.node.shutdown().await;
        self.data.remove_endpoints();
    }
}

/// The agent in this process talks to the server as one elsewhere does, through a pair of channels.
async fn attach(node: &Node, agent: &Agent) -> Result<()> {
    let link = agent.connect();
    let cx = Context::of(Caller::internal());
    let mut orders = node.attach_agent(&cx, ReceiverStream::new(link.reports).boxed()).await?;
    tokio::spawn(async move {
        while let Some(order) = orders.next().await {
            if link.orders.send(order).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

enum Signal {
    Reload,
    Stop,
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.terminate.recv() => Signal::Stop,
        }
    }
}

/// The log goes to standard error: readable on a terminal, plain in a file. BYNAME_LOG sets what is logged
/// (`info`, `debug`, `byname_node=debug,warn`).
fn start_log(env: &Environment) {
    let wanted = env.log.as_deref().unwrap_or("info");
    let filter = tracing_subscriber::EnvFilter::try_new(format!("{wanted},openraft=error"));
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=error"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr()) && !env.no_color;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // Only the tests start it twice in one process.
    let _ = log.with_target(false).try_init();
}

fn cannot_start(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Unavailable, error.to_string())
}

/// Whether a path may be the address of a unix socket: the kernel takes 107 bytes.
fn fits_socket(path: &Path) -> bool {
    path.as_os_str().len() <= 107
}
