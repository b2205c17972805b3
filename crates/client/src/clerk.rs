//! The operations of a name server, by way of [`Servers::call`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use byname_api::access::{AccessReply, AccessRequest};
use byname_api::agent::{Order, Report};
use byname_api::audit::{AuditReply, AuditRequest};
use byname_api::host::{DrainReply, DrainRequest};
use byname_api::identity::*;
use byname_api::request::*;
use byname_api::span::{Span, Timestamp};
use byname_api::{Code, Error, NameService, Result, proto};
use byname_name::Name;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::address::Place;
use crate::agent;
use crate::call::{Plan, broke_off};
use crate::dial::Dial;
use crate::generated::agents_client::AgentsClient;
use crate::generated::audit_client::AuditClient;
use crate::generated::cluster_client::ClusterClient;
use crate::generated::identity_client::IdentityClient;
use crate::generated::names_client::NamesClient;
use crate::generated::services_client::ServicesClient;
use crate::link::Link;
use crate::servers::{Means, Servers};
use crate::watch;

/// A page of 10,000 names of the greatest length is wider than the 4 MiB that gRPC libraries take by default.
pub(crate) const MAX_REPLY_BYTES: usize = 64 << 20;

/// How long the server waits for a start when the caller does not say.
const FIND_WAIT: Duration = Duration::from_secs(60);

/// How long acting on services may take when the caller does not say: the server bounds each of them.
const ACT_WAIT: Duration = Duration::from_secs(600);

/// How long a server may read its whole audit log.
const VERIFY_WAIT: Duration = Duration::from_secs(600);

/// What a clerk is told beside the servers.
#[derive(Clone)]
pub struct Options {
    /// The bearer token: a session's, or the content of `DIR/token`. Sent over TLS, and over a socket and
    /// plain TCP within this host only.
    pub token: Option<String>,
    /// Makes the connections to `https://`.
    pub tls: Option<Arc<dyn Dial>>,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long an answer may take that does not wait for a service to start or stop; on top of the wait otherwise.
    pub answer_timeout: Duration,
    /// How long one server may take for such an answer while there are others to ask.
    pub attempt_timeout: Duration,
    /// How long a call is tried again after its connection broke, or while the servers have no primary.
    pub patience: Duration,
    /// Ask the servers for the others of their cluster, now and then, and use those too. Not where they are reached by a
    /// socket: elsewhere the caller would be somebody else.
    pub learn: bool,
    /// Where the servers that were learned are remembered: a file of the clerk's own.
    pub servers_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            token: None,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(2),
            patience: Duration::from_secs(5),
            learn: false,
            servers_file: None,
        }
    }
}

/// A name server, asked over the wire. `Context::caller` is not sent: the connection says who asks.
pub struct Clerk {
    servers: Arc<Servers>,
    answer_timeout: Duration,
    attempt_timeout: Duration,
    /// Identifies this clerk's writes.
    session: u128,
    sequence: AtomicU64,
}

impl Clerk {
    /// A clerk for these servers (`unix:///PATH`, `https://HOST:PORT`, `http://127.0.0.1:PORT`, `dns:NAME:PORT` for
    /// every address of a name; several with commas).
    /// Nothing is connected before the first call, which must be made within a tokio runtime.
    ///
    /// # Errors
    ///
    /// `invalid-argument` with the field `server` or `token`. An address with `https://` cannot be reached without
    /// [`Options::tls`].
    pub fn connect(servers: &str, options: Options) -> Result<Clerk> {
        let addresses = Place::parse_list(servers)?;
        let token = options.token.map(|token| MetadataValue::try_from(format!("Bearer {}", token.trim())));
        let mut token =
            token.transpose().map_err(|_| Error::invalid("token", "the token holds other than visible ASCII"))?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        Ok(Clerk {
            servers: Arc::new(Servers::new(
                addresses,
                Means {
                    token,
                    connect_timeout: options.connect_timeout,
                    patience: options.patience,
                    tls: options.tls,
                    learn: options.learn,
                    file: options.servers_file,
                },
            )),
            answer_timeout: options.answer_timeout,
            attempt_timeout: options.attempt_timeout,
            session: RequestId::session_at(now, rand::random()),
            sequence: AtomicU64::new(1),
        })
    }

    /// Where the servers are that it knows now, in the order of its list.
    pub fn servers(&self) -> Vec<String> {
        self.servers.known().iter().map(|link| link.to_string()).collect()
    }

    /// How often a server failed or was too slow, since the clerk was made.
    pub fn failures(&self) -> u64 {
        self.servers.failures()
    }

    /// Whether no server could be reached when one was last asked.
    pub fn is_away(&self) -> bool {
        self.servers.is_away()
    }

    /// Asks for the other servers of the cluster now, and remembers them.
    ///
    /// # Errors
    ///
    /// Those of [`NameService::info`].
    pub async fn learn(&self) -> Result<()> {
        let plan = Plan { bound: self.attempt_timeout, ..self.read_plan() };
        ask_for_others(&self.servers, &plan).await
    }

    /// Asks for them on the side when it is time.
    fn learn_on_the_side(&self) {
        if !self.servers.should_learn() {
            return;
        }
        let (servers, plan) = (self.servers.clone(), Plan { bound: self.attempt_timeout, ..self.read_plan() });
        tokio::spawn(async move {
            if let Err(error) = ask_for_others(&servers, &plan).await {
                tracing::debug!(reason = error.message(), "the servers of the cluster are not known");
            }
        });
    }

    fn read_plan(&self) -> Plan {
        Plan {
            bound: self.answer_timeout,
            attempt: Some(self.attempt_timeout),
            tell: true,
            write: None,
            once: false,
            stranger: false,
        }
    }

    fn write_plan(&self, cx: &Context) -> Plan {
        Plan { write: Some(self.request_id(cx)), ..self.read_plan() }
    }

    /// A plan for what waits. The wait itself travels in the request, or is the server's own: then the deadline is
    /// kept back, because the server would take it for the wait.
    fn wait_plan(&self, wait: Option<Span>, unsaid: Duration, write: Option<RequestId>) -> Plan {
        let bound = wait.map_or(unsaid, Span::duration).saturating_add(self.answer_timeout);
        Plan { bound, attempt: None, tell: wait.is_some(), write, ..self.read_plan() }
    }

    fn request_id(&self, cx: &Context) -> RequestId {
        cx.request.unwrap_or_else(|| RequestId {
            session: self.session,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
        })
    }

    async fn call<M, R, F>(
        &self,
        plan: &Plan,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<(R, Arc<Link>)>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let answer = self.servers.call(plan, message, send).await;
        self.learn_on_the_side();
        answer
    }

    /// A call that is answered once.
    async fn ask<M, R, A, F>(&self, plan: Plan, message: M, send: impl Fn(Channel, Request<M>) -> F) -> Result<A>
    where
        M: Clone,
        A: TryFrom<R, Error = Error>,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let (reply, link) = self.call(&plan, message, send).await?;
        A::try_from(reply).map_err(|error| {
            let place = format!("the answer of {link} does not read");
            Error::internal(format!("{place}: {error}")).within(place)
        })
    }
}

/// Asks whoever answers for the servers of its cluster.
async fn ask_for_others(servers: &Servers, plan: &Plan) -> Result<()> {
    let send = |channel, request| async { ClusterClient::new(channel).info(request).await };
    let (reply, _) = servers.call(plan, proto::InfoRequest {}, send).await?;
    servers.learn(&ServerInfo::try_from(reply)?);
    Ok(())
}

/// 256 random bits in hex.
fn random_key() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn names(channel: Channel) -> NamesClient<Channel> {
    NamesClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

fn services(channel: Channel) -> ServicesClient<Channel> {
    ServicesClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

fn identity(channel: Channel) -> IdentityClient<Channel> {
    IdentityClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

#[async_trait::async_trait]
impl NameService for Clerk {
    async fn find(&self, _: &Context, request: FindRequest) -> Result<FindReply> {
        let plan = self.wait_plan(request.timeout, FIND_WAIT, None);
        let message = proto::FindRequest::from(request);
        self.ask(plan, message, |channel, request| async { names(channel).find(request).await }).await
    }

    async fn read(&self, _: &Context, request: ReadRequest) -> Result<ReadReply> {
        let message = proto::ReadRequest::from(request);
        self.ask(self.read_plan(), message, |channel, request| async { names(channel).read(request).await }).await
    }

    async fn list(&self, _: &Context, request: ListRequest) -> Result<ListReply> {
        let message = proto::ListRequest::from(request);
        self.ask(self.read_plan(), message, |channel, request| async { names(channel).list(request).await }).await
    }

    async fn status(&self, _: &Context, request: ListRequest) -> Result<StatusReply> {
        let message = proto::ListRequest::from(request);
        self.ask(self.read_plan(), message, |channel, request| async { services(channel).status(request).await }).await
    }

    async fn act(&self, cx: &Context, request: ActRequest) -> Result<ActReply> {
        let plan = self.wait_plan(request.timeout, ACT_WAIT, Some(self.request_id(cx)));
        let verb = request.verb;
        let message = proto::ActRequest::from(request);
        let send = |channel, request| async move {
            let mut client = services(channel);
            match verb {
                Verb::Launch => client.launch(request).await,
                Verb::Stop => client.stop(request).await,
                Verb::Restart => client.restart(request).await,
                Verb::Reset => client.reset(request).await,
            }
        };
        self.ask(plan, message, send).await
    }

    async fn why(&self, _: &Context, name: Name) -> Result<WhyReply> {
        let message = proto::WhyRequest::from(name);
        self.ask(self.read_plan(), message, |channel, request| async { services(channel).why(request).await }).await
    }

    async fn batch(&self, cx: &Context, request: BatchRequest) -> Result<BatchReply> {
        let message = proto::BatchRequest::from(request);
        self.ask(self.write_plan(cx), message, |channel, request| async { names(channel).batch(request).await }).await
    }

    async fn search(&self, _: &Context, request: SearchRequest) -> Result<SearchReply> {
        let message = proto::SearchRequest::from(request);
        self.ask(self.read_plan(), message, |channel, request| async { names(channel).search(request).await }).await
    }

    async fn watch(&self, _: &Context, request: WatchRequest) -> Result<BoxStream<'static, Result<WatchReply>>> {
        // A deadline would hold for the whole stream, so the server is not told of one.
        let plan = Plan { tell: false, ..self.read_plan() };
        let watching = watch::begin(self.servers.clone(), plan, request).await;
        self.learn_on_the_side();
        watching
    }

    async fn report(&self, _: &Context, request: ReportRequest) -> Result<ReportReply> {
        // Uses add up, so they are not told twice; a load that is told again is the same.
        let plan = Plan { once: request.uses.is_some(), ..self.read_plan() };
        let message = proto::ReportRequest::from(request);
        self.ask(plan, message, |channel, request| async { services(channel).report(request).await }).await
    }

    async fn drain_host(&self, _: &Context, request: DrainRequest) -> Result<DrainReply> {
        let message = proto::DrainRequest::from(request);
        // Said twice it is the same.
        self.ask(self.read_plan(), message, |channel, request| async { services(channel).drain(request).await }).await
    }

    async fn lock(&self, cx: &Context, mut request: LockRequest) -> Result<LockReply> {
        // A key of its own makes a request that is sent again take the lock that the first one took.
        let chosen = (request.key.is_none() && !request.renew).then(random_key);
        request.key = request.key.or_else(|| chosen.clone());
        let wait = request.wait.map_or(Duration::ZERO, Span::duration);
        let bound = wait.saturating_add(self.answer_timeout);
        let plan = Plan { bound, attempt: None, tell: false, ..self.write_plan(cx) };
        let message = proto::LockRequest::from(request);
        let send = |channel, request| async { names(channel).lock(request).await };
        let reply: LockReply = self.ask(plan, message, send).await?;
        Ok(LockReply { key: reply.key.or(chosen), ..reply })
    }

    async fn unlock(&self, cx: &Context, request: UnlockRequest) -> Result<UnlockReply> {
        let message = proto::UnlockRequest::from(request);
        let send = |channel, request| async { names(channel).unlock(request).await };
        let (reply, _) = self.call(&self.write_plan(cx), message, send).await?;
        Ok(reply.into())
    }

    async fn advertise(&self, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        let message = proto::AdvertiseRequest::from(request);
        let send = |channel, request| async { services(channel).advertise(request).await };
        self.ask(self.write_plan(cx), message, send).await
    }

    async fn withdraw(&self, cx: &Context, request: WithdrawRequest) -> Result<WithdrawReply> {
        let message = proto::WithdrawRequest::from(request);
        let send = |channel, request| async { services(channel).withdraw(request).await };
        self.ask(self.write_plan(cx), message, send).await
    }

    async fn logs(&self, _: &Context, request: LogsRequest) -> Result<BoxStream<'static, Result<Bytes>>> {
        let follow = request.follow;
        // A deadline would hold for the whole stream, so the server is not told of one.
        let plan = Plan { tell: false, ..self.read_plan() };
        let message = proto::LogsRequest::from(request);
        let send = |channel, request| async { services(channel).logs(request).await };
        let (chunks, link) = self.call(&plan, message, send).await?;
        let (address, bound) = (link.to_string(), self.answer_timeout);
        let pieces = stream::unfold(Some(chunks), move |chunks| {
            let address = address.clone();
            async move {
                let mut chunks = chunks?;
                let next = if follow { Ok(chunks.message().await) } else { timeout(bound, chunks.message()).await };
                match next {
                    Ok(Ok(Some(chunk))) => Some((Ok(chunk.bytes), Some(chunks))),
                    Ok(Ok(None)) => None,
                    Ok(Err(status)) => Some((Err(broke_off(&address, status)), None)),
                    Err(_) => Some((Err(broke_off(&address, Status::deadline_exceeded(""))), None)),
                }
            }
        });
        Ok(pieces.boxed())
    }

    async fn login(&self, _: &Context, request: LoginRequest) -> Result<LoginReply> {
        // What answers a step is good once, and a guess counts: nobody but the caller decides to try again.
        let plan = Plan { once: true, stranger: true, ..self.read_plan() };
        let message = proto::LoginRequest::from(request);
        self.ask(plan, message, |channel, request| async { identity(channel).login(request).await }).await
    }

    async fn logout(&self, cx: &Context, request: LogoutRequest) -> Result<()> {
        let message = proto::LogoutRequest::from(request);
        let send = |channel, request| async { identity(channel).logout(request).await };
        self.call(&self.write_plan(cx), message, send).await.map(|_| ())
    }

    async fn whoami(&self, _: &Context) -> Result<WhoamiReply> {
        let send = |channel, request| async { identity(channel).whoami(request).await };
        self.ask(self.read_plan(), proto::WhoamiRequest {}, send).await
    }

    async fn enrol(&self, cx: &Context, request: EnrolRequest) -> Result<EnrolReply> {
        let message = proto::EnrolRequest::from(request);
        self.ask(self.write_plan(cx), message, |channel, request| async { identity(channel).enrol(request).await })
            .await
    }

    async fn certify(&self, _: &Context, request: CertifyRequest) -> Result<CertifyReply> {
        // Another certificate for the same key does no harm.
        let message = proto::CertifyRequest::from(request);
        let send = |channel, request| async { identity(channel).certify(request).await };
        let (reply, _) = self.call(&self.read_plan(), message, send).await?;
        Ok(reply.into())
    }

    async fn trust(&self, _: &Context) -> Result<TrustReply> {
        let send = |channel, request| async { identity(channel).trust(request).await };
        let (reply, _) = self.call(&self.read_plan(), proto::TrustRequest {}, send).await?;
        Ok(reply.into())
    }

    async fn introduce(&self, cx: &Context, request: IntroduceRequest) -> Result<IntroduceReply> {
        let message = proto::IntroduceRequest::from(request);
        let send = |channel, request| async { identity(channel).introduce(request).await };
        self.ask(self.write_plan(cx), message, send).await
    }

    async fn verify(&self, cx: &Context, request: VerifyRequest) -> Result<VerifyReply> {
        let message = proto::VerifyRequest::from(request);
        let send = |channel, request| async { identity(channel).verify(request).await };
        self.ask(self.write_plan(cx), message, send).await
    }

    async fn invite(&self, cx: &Context, request: InviteRequest) -> Result<InviteReply> {
        let message = proto::InviteRequest::from(request);
        let send = |channel, request| async { identity(channel).invite(request).await };
        let (reply, _) = self.call(&self.write_plan(cx), message, send).await?;
        Ok(reply.into())
    }

    async fn join(&self, cx: &Context, request: JoinRequest) -> Result<JoinReply> {
        let plan = Plan { stranger: true, ..self.write_plan(cx) };
        let message = proto::JoinRequest::from(request);
        self.ask(plan, message, |channel, request| async { identity(channel).join(request).await }).await
    }

    async fn revoke(&self, cx: &Context, request: RevokeRequest) -> Result<()> {
        let message = proto::RevokeRequest::from(request);
        let send = |channel, request| async { identity(channel).revoke(request).await };
        self.call(&self.write_plan(cx), message, send).await.map(|_| ())
    }

    async fn access(&self, _: &Context, request: AccessRequest) -> Result<AccessReply> {
        let message = proto::AccessRequest::from(request);
        self.ask(self.read_plan(), message, |channel, request| async { identity(channel).access(request).await }).await
    }

    async fn audit(&self, _: &Context, request: AuditRequest) -> Result<AuditReply> {
        let bound = if request.verify { VERIFY_WAIT } else { Duration::ZERO }.saturating_add(self.answer_timeout);
        let plan = Plan { bound, attempt: None, ..self.read_plan() };
        let message = proto::AuditRequest::from(request);
        let send = |channel, request| async {
            AuditClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES).search(request).await
        };
        self.ask(plan, message, send).await
    }

    async fn info(&self, _: &Context) -> Result<ServerInfo> {
        let send = |channel, request| async { ClusterClient::new(channel).info(request).await };
        self.ask(self.read_plan(), proto::InfoRequest {}, send).await
    }

    async fn change_servers(&self, _: &Context, change: ChangeServers) -> Result<ServerInfo> {
        // A new server may have much to take over, and one that is taken out may be the one that answers.
        let plan = Plan { bound: ACT_WAIT, attempt: None, tell: false, ..self.read_plan() };
        let message = proto::ChangeServersRequest::from(change);
        let send = |channel, request| async { ClusterClient::new(channel).change_servers(request).await };
        self.ask(plan, message, send).await
    }

    async fn backup(&self, _: &Context) -> Result<BoxStream<'static, Result<Bytes>>> {
        let plan = Plan { bound: ACT_WAIT, attempt: None, tell: false, once: true, ..self.read_plan() };
        let send = |channel, request| async {
            ClusterClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES).backup(request).await
        };
        let (pieces, link) = self.call(&plan, proto::BackupRequest {}, send).await?;
        let address = link.to_string();
        Ok(pieces
            .map(move |piece| piece.map(|piece| piece.bytes).map_err(|status| broke_off(&address, status)))
            .boxed())
    }

    async fn attach_agent(
        &self,
        _: &Context,
        reports: BoxStream<'static, Report>,
    ) -> Result<BoxStream<'static, Order>> {
        // The reports can be sent once, so a connection that may have broken since it was last used will not do.
        let (channel, link) = self.servers.dial().await?;
        let plan = Plan { tell: false, ..self.read_plan() };
        let request = self.servers.request(&link, &plan, Instant::now(), agent::frames(reports));
        let mut client = AgentsClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
        let answer = timeout(plan.bound, client.connect(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
        let frames = answer.map_err(|status| broke_off(&link.to_string(), status)).inspect_err(|error| {
            // The next attempt begins with another one.
            if matches!(error.code(), Code::Unavailable | Code::Timeout) {
                self.servers.failed(&link);
            }
        })?;
        self.servers.answered(&link, true);
        self.learn_on_the_side();
        Ok(agent::orders(frames.into_inner(), link.to_string()))
    }
}
