//! The agent's own socket: every program of its host asks there, and is answered from the agent's cache when that can
//! say, also while no server can be reached.
//!
//! The kernel says who calls. The agent's own user and root have the agent's rights: both could read its key anyway.
//! Users whom `serve_users` of agent.toml names may look (find, list, read, search, watch), with what the agent may see;
//! everybody else is refused, because what the agent may see need not be for them. Nobody's token is taken here: a session
//! is for a server, and is shown there (`--server`).

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::BoxStream;
use tokio::net::UnixListener;

use byname_api::NameService;
use byname_api::access::{AccessReply, AccessRequest};
use byname_api::agent::{Order, Report};
use byname_api::audit::{AuditReply, AuditRequest};
use byname_api::caller::{Authenticator, Caller, Certificate, Gate, Peer, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::host::{DrainReply, DrainRequest};
use byname_api::identity::*;
use byname_api::request::*;
use byname_client::{CacheOptions, CachingClerk};
use byname_front_http::Bound;
use byname_name::Name;
use bytes::Bytes;

use super::config::AgentSettings;
use super::files::DataDir;
use super::join::Member;

/// Where the agent of a whole host listens.
const SYSTEM_SOCKET: &str = "/run/byname/agent.sock";

/// The agent's cache and the socket in front of it.
pub(super) struct Local {
    clerk: Arc<CachingClerk>,
    socket: PathBuf,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl Local {
    /// Begins to listen and to answer.
    pub(super) fn start(data: &DataDir, settings: &AgentSettings, member: &Member) -> Result<Local> {
        if !settings.serve_users.is_empty() && !member.has_joined() {
            return Err(Error::invalid(
                "serve_users",
                "an agent that has not joined with a token asks as an admin, and other users would see all that an admin \
                 does: join it (`byname cluster invite --agent`), or leave `serve_users` out",
            ));
        }
        let folder = data.folder("clerk")?;
        let options = CacheOptions {
            file: Some(folder.join("cache")),
            identity: format!("{} at {}", super::config::computer(settings), member.servers),
            ..CacheOptions::default()
        };
        let clerk = Arc::new(CachingClerk::new(member.clerk.clone(), options));
        let socket = settings.socket.clone().unwrap_or_else(|| match data.is_the_host_s() {
            true => PathBuf::from(SYSTEM_SOCKET),
            false => data.agent_socket(),
        });
        let mode = if settings.serve_users.is_empty() { 0o600 } else { 0o666 };
        let listener = bind(&socket, mode).map_err(|error| {
            Error::new(Code::Unavailable, format!("cannot listen on {}: {error}", socket.display())).field("socket")
        })?;
        let own = std::fs::metadata(&socket).map_or(0, |found| found.uid());
        let gate = Gate::before(Arc::new(Door { own, others: settings.serve_users.clone() }));
        let service: Arc<dyn NameService> = Arc::new(AtTheAgent(clerk.clone()));
        let (measured, asked) = (clerk.clone(), clerk.clone());
        let ready = move || match asked.clerk().is_away() {
            true => Err("no server can be reached; what is known is answered, marked stale".to_owned()),
            false => Ok(()),
        };
        let metrics = move || metrics(&measured);
        let extras = byname_front_http::Extras { metrics: Arc::new(metrics), ready: Arc::new(ready) };
        let app = byname_front_http::router(service.clone(), extras).merge(byname_front_grpc::routes(service));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(byname_front_http::serve(vec![Bound::Unix(listener)], app, gate, async {
            let _ = stopped.await;
        }));
        tracing::info!("programs of this host ask at {}", socket.display());
        Ok(Local { clerk, socket, stop, serving })
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops listening, and writes the cache.
    pub(super) async fn stop(self) {
        let _ = std::fs::remove_file(&self.socket);
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(super::DRAIN, self.serving).await;
        self.clerk.close().await;
    }
}

/// A socket that is there with its mode from its first moment on. One that lies there is a dead one of ours: the data
/// directory is locked.
fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Who is let in.
struct Door {
    own: u32,
    others: Vec<u32>,
}

impl Authenticator for Door {
    fn local(&self, uid: u32, pid: Option<u32>) -> Result<Caller> {
        let caller = Caller::local(uid, pid);
        if uid == self.own || uid == 0 {
            return Ok(caller);
        }
        if self.others.contains(&uid) {
            return Ok(Caller { standing: Standing::Authenticated, ..caller });
        }
        Err(Error::new(
            Code::Denied,
            format!(
                "this host's agent does not serve user {uid}: name it in `serve_users` of agent.toml, or ask a server \
                 (--server)"
            ),
        ))
    }

    fn bearer(&self, _: Peer, _: &str) -> Result<Caller> {
        Err(Error::new(
            Code::Unauthenticated,
            "this is the agent's socket, which takes nobody's token: a session is good at a server (--server)",
        )
        .field("Authorization"))
    }

    fn certificate(&self, _: Peer, _: &Certificate) -> Result<Caller> {
        Err(Error::new(Code::Unauthenticated, "this is the agent's socket, which takes no certificates"))
    }

    fn anonymous(&self, _: Peer) -> Result<Caller> {
        Err(Error::new(Code::Unauthenticated, "this is the agent's socket: the kernel says who calls"))
    }
}

/// What the cache does, in Prometheus' format.
fn metrics(clerk: &CachingClerk) -> String {
    let stats = clerk.stats();
    let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, kind, help, value) in [
        ("byname_clerk_entries", "gauge", "Objects in the cache.", number(stats.entries)),
        ("byname_clerk_bytes", "gauge", "Their size in memory, roughly.", number(stats.bytes)),
        ("byname_clerk_watches", "gauge", "Watches that keep the cache fresh.", number(stats.watches)),
        ("byname_clerk_watches_live", "gauge", "Those of them that are connected.", number(stats.live)),
        ("byname_clerk_hits_total", "counter", "Answers from the cache.", stats.hits),
        ("byname_clerk_misses_total", "counter", "Questions that went to a server.", stats.misses),
        ("byname_clerk_stale_total", "counter", "Answers marked stale.", stats.stale),
        ("byname_clerk_reports_total", "counter", "Reports handed on in batches.", stats.reports),
        ("byname_clerk_failures_total", "counter", "Servers that failed or were slow.", clerk.clerk().failures()),
        ("byname_clerk_servers", "gauge", "Servers that are known.", number(clerk.clerk().servers().len())),
        ("byname_clerk_away", "gauge", "1 while no server can be reached.", u64::from(stats.away)),
    ] {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
    }
    text
}

/// The cache, for callers of this host.
struct AtTheAgent(Arc<CachingClerk>);

fn may_only_look(cx: &Context) -> Result<()> {
    if cx.caller.standing == Standing::Full {
        return Ok(());
    }
    Err(Error::new(
        Code::Denied,
        format!(
            "at this host's agent `{}` may look and nothing else: ask a server, with a session (`byname login`)",
            cx.caller.principal
        ),
    ))
}

/// The operations that everybody who is let in may use, and those that need the agent's rights.
macro_rules! operations {
    ($($look:ident($($a:ident: $t:ty),*) -> $reply:ty;)* | $($act:ident($($b:ident: $u:ty),*) -> $answer:ty;)*) => {
        #[async_trait::async_trait]
        impl NameService for AtTheAgent {
            $(async fn $look(&self, cx: &Context, $($a: $t),*) -> Result<$reply> {
                self.0.$look(cx, $($a),*).await
            })*
            $(async fn $act(&self, cx: &Context, $($b: $u),*) -> Result<$answer> {
                may_only_look(cx)?;
                self.0.$act(cx, $($b),*).await
            })*

            async fn attach_agent(
                &self,
                _: &Context,
                _: BoxStream<'static, Report>,
            ) -> Result<BoxStream<'static, Order>> {
                Err(Error::new(Code::Unsupported, "this is an agent's socket: agents connect to servers"))
            }
        }
    };
}

operations! {
    find(request: FindRequest) -> FindReply;
    read(request: ReadRequest) -> ReadReply;
    list(request: ListRequest) -> ListReply;
    status(request: ListRequest) -> StatusReply;
    why(name: Name) -> WhyReply;
    search(request: SearchRequest) -> SearchReply;
    watch(request: WatchRequest) -> BoxStream<'static, Result<WatchReply>>;
    trust() -> TrustReply;
    info() -> ServerInfo;
    |
    act(request: ActRequest) -> ActReply;
    batch(request: BatchRequest) -> BatchReply;
    advertise(request: AdvertiseRequest) -> AdvertiseReply;
    withdraw(request: WithdrawRequest) -> WithdrawReply;
    logs(request: LogsRequest) -> BoxStream<'static, Result<Bytes>>;
    report(request: ReportRequest) -> ReportReply;
    lock(request: LockRequest) -> LockReply;
    unlock(request: UnlockRequest) -> UnlockReply;
    login(request: LoginRequest) -> LoginReply;
    logout(request: LogoutRequest) -> ();
    whoami() -> WhoamiReply;
    enrol(request: EnrolRequest) -> EnrolReply;
    certify(request: CertifyRequest) -> CertifyReply;
    introduce(request: IntroduceRequest) -> IntroduceReply;
    verify(request: VerifyRequest) -> VerifyReply;
    invite(request: InviteRequest) -> InviteReply;
    join(request: JoinRequest) -> JoinReply;
    revoke(request: RevokeRequest) -> ();
    drain_host(request: DrainRequest) -> DrainReply;
    access(request: AccessRequest) -> AccessReply;
    audit(request: AuditRequest) -> AuditReply;
    change_servers(change: ChangeServers) -> ServerInfo;
    backup() -> BoxStream<'static, Result<Bytes>>;
}
