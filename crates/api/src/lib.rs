//! What callers and servers say to each other, as plain data: requests, replies, errors, and the one trait that every
//! front end translates to and that `node` (in process) and `client` (over the wire) implement.
//!
//! The serde forms of these types are version 1 of the JSON interface (`/v1`): a field is added, never renamed.

pub mod agent;
pub mod audit;
pub mod caller;
pub mod error;
pub mod filter;
pub mod launch;
pub mod object;
pub mod proto;
pub mod request;
pub mod service;
pub mod span;

pub use error::{Code, Error, Result};

use futures_util::stream::BoxStream;

use byname_name::Name;
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
    /// Takes or renews the lock of an object.
    async fn lock(&self, _cx: &Context, _request: LockRequest) -> Result<LockReply> {
        Err(not_here("lock"))
    }
    /// Lets go of a lock.
    async fn unlock(&self, _cx: &Context, _request: UnlockRequest) -> Result<UnlockReply> {
        Err(not_here("unlock"))
    }
    /// About the server itself.
    async fn info(&self, cx: &Context) -> Result<ServerInfo>;
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
