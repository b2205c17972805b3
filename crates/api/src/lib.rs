//! What callers and servers say to each other, as plain data: requests, replies, errors, and the one trait that every
//! front end translates to and that `node` (in process) and `client` (over the wire) implement.
//!
//! The serde forms of these types are version 1 of the JSON interface (`/v1`): a field is added, never renamed.

pub mod access;
pub mod agent;
pub mod audit;
pub mod caller;
pub mod error;
pub mod filter;
pub mod host;
pub mod identity;
pub mod launch;
pub mod object;
pub mod proto;
pub mod request;
pub mod service;
pub mod span;

pub use error::{Code, Error, Result};

use futures_util::stream::BoxStream;

use access::{AccessReply, AccessRequest};
use audit::{AuditReply, AuditRequest};
use byname_name::Name;
use host::{DrainReply, DrainRequest};
use identity::*;
use request::*;

/// Every operation of a name server. Names and patterns in requests are absolute: contexts are the client's business.
///
/// Implementations answer each call on their own; an error has the code and the sentence that the client shall see.
#[async_trait::async_trait]
pub trait NameService: Send + Sync + 'static {
    /// Where is it? Starts it when need be, and waits until it answers.
    async fn find(&self, cx: &Context, request: FindRequest) -> Result<FindReply>;
    /// All about one object.
    async fn read(&self, cx: &Context, request: ReadRequest) -> Result<ReadReply>;
    /// Names that match.
    async fn list(&self, cx: &Context, request: ListRequest) -> Result<ListReply>;
    /// Services that match, with their states.
    async fn status(&self, cx: &Context, request: ListRequest) -> Result<StatusReply>;
    /// Starts, stops, restarts or resets services.
    async fn act(&self, cx: &Context, request: ActRequest) -> Result<ActReply>;
    /// The story of a service's last starts.
    async fn why(&self, cx: &Context, name: Name) -> Result<WhyReply>;
    /// Changes the tree: all of it or nothing.
    async fn batch(&self, cx: &Context, request: BatchRequest) -> Result<BatchReply>;
    /// Takes note of where a service answers.
    async fn advertise(&self, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply>;
    /// Forgets where a service answers.
    async fn withdraw(&self, cx: &Context, request: WithdrawRequest) -> Result<WithdrawReply>;
    /// What a service's programs wrote, in pieces as they come.
    async fn logs(&self, cx: &Context, request: LogsRequest) -> Result<BoxStream<'static, Result<bytes::Bytes>>>;
    /// Objects whose attributes fit a filter.
    async fn search(&self, _cx: &Context, _request: SearchRequest) -> Result<SearchReply> {
        Err(not_here("search"))
    }
    /// What changes among the names that match. The first message comes at once; a reader that falls too far behind
    /// gets `conflict` and must begin anew.
    async fn watch(&self, _cx: &Context, _request: WatchRequest) -> Result<BoxStream<'static, Result<WatchReply>>> {
        Err(not_here("watch"))
    }
    /// Takes note of what a running copy says of itself.
    async fn report(&self, _cx: &Context, _request: ReportRequest) -> Result<ReportReply> {
        Err(not_here("report"))
    }
    /// Empties a host, lets it be used again, or looks how far that is.
    async fn drain_host(&self, _cx: &Context, _request: DrainRequest) -> Result<DrainReply> {
        Err(not_here("drain_host"))
    }
    /// Takes or renews the lock of an object.
    async fn lock(&self, _cx: &Context, _request: LockRequest) -> Result<LockReply> {
        Err(not_here("lock"))
    }
    /// Lets go of a lock.
    async fn unlock(&self, _cx: &Context, _request: UnlockRequest) -> Result<UnlockReply> {
        Err(not_here("unlock"))
    }
    /// One step of signing in; who asks is not known yet.
    async fn login(&self, _cx: &Context, _request: LoginRequest) -> Result<LoginReply> {
        Err(not_here("login"))
    }
    /// Ends sessions.
    async fn logout(&self, _cx: &Context, _request: LogoutRequest) -> Result<()> {
        Err(not_here("logout"))
    }
    /// Who the caller is taken for.
    async fn whoami(&self, _cx: &Context) -> Result<WhoamiReply> {
        Err(not_here("whoami"))
    }
    /// One step of giving a principal a way to prove itself, or taking one away.
    async fn enrol(&self, _cx: &Context, _request: EnrolRequest) -> Result<EnrolReply> {
        Err(not_here("enrol"))
    }
    /// Gives a certificate.
    async fn certify(&self, _cx: &Context, _request: CertifyRequest) -> Result<CertifyReply> {
        Err(not_here("certify"))
    }
    /// What others need to check this trust domain's certificates.
    async fn trust(&self, _cx: &Context) -> Result<TrustReply> {
        Err(not_here("trust"))
    }
    /// Introduces the caller to a service that still holds its ticket.
    async fn introduce(&self, _cx: &Context, _request: IntroduceRequest) -> Result<IntroduceReply> {
        Err(not_here("introduce"))
    }
    /// Tells a service who showed it a ticket.
    async fn verify(&self, _cx: &Context, _request: VerifyRequest) -> Result<VerifyReply> {
        Err(not_here("verify"))
    }
    /// Gives a join token.
    async fn invite(&self, _cx: &Context, _request: InviteRequest) -> Result<InviteReply> {
        Err(not_here("invite"))
    }
    /// Uses a join token; who asks is not known yet.
    async fn join(&self, _cx: &Context, _request: JoinRequest) -> Result<JoinReply> {
        Err(not_here("join"))
    }
    /// Takes trust away from an instance or a principal.
    async fn revoke(&self, _cx: &Context, _request: RevokeRequest) -> Result<()> {
        Err(not_here("revoke"))
    }
    /// Who may do what with a name, and why.
    async fn access(&self, _cx: &Context, _request: AccessRequest) -> Result<AccessReply> {
        Err(not_here("access"))
    }
    /// What the audit log holds.
    async fn audit(&self, _cx: &Context, _request: AuditRequest) -> Result<AuditReply> {
        Err(not_here("audit"))
    }
    /// About the server itself.
    async fn info(&self, cx: &Context) -> Result<ServerInfo>;
    /// Takes a server out of the cluster, or hands the lead to one; answers about the server that did it.
    async fn change_servers(&self, _cx: &Context, _change: ChangeServers) -> Result<ServerInfo> {
        Err(not_here("change-servers"))
    }
    /// All that the servers know, as of now: a file to restore a cluster from. It holds secrets, sealed under the cluster
    /// key.
    async fn backup(&self, _cx: &Context) -> Result<BoxStream<'static, Result<bytes::Bytes>>> {
        Err(not_here("backup"))
    }
    /// The stream of an agent: reports come in, orders go out.
    async fn attach_agent(
        &self,
        cx: &Context,
        reports: BoxStream<'static, agent::Report>,
    ) -> Result<BoxStream<'static, agent::Order>>;
}

/// The answer of an implementation that lacks an operation.
fn not_here(operation: &str) -> Error {
    Error::new(Code::Unsupported, format!("this server does not know `{operation}`"))
}
