//! A server asks another one on behalf of a caller that it has admitted.
//!
//! The caller in the context travels in a header ([`PASSED_ON`](byname_api::caller::PASSED_ON)), which the other end believes
//! only under a name server's certificate. Everything else is the clerk's work.

use std::sync::Arc;

use byname_api::access::{AccessReply, AccessRequest};
use byname_api::agent::{Order, Report};
use byname_api::audit::{AuditReply, AuditRequest};
use byname_api::error::{Code, Error, NO_PRIMARY};
use byname_api::host::{DrainReply, DrainRequest};
use byname_api::identity::*;
use byname_api::request::*;
use byname_api::{NameService, Result};
use byname_name::Name;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::Clerk;

tokio::task_local! {
    /// For whom the calls of this task are made, as the header has it.
    static CALLER: String;
}

/// The header of the call that is being made, if it is made for somebody else.
pub(crate) fn header() -> Option<String> {
    CALLER.try_with(Clone::clone).ok()
}

/// A clerk whose calls are made for the callers in their contexts.
pub struct OnBehalf(Arc<Clerk>);

impl OnBehalf {
    /// Asks by way of this clerk, which must show a name server's certificate.
    pub fn of(clerk: Arc<Clerk>) -> OnBehalf {
        OnBehalf(clerk)
    }
}

/// A primary that cannot be reached will not be it for long: whoever asked tries again.
fn gone(error: Error) -> Error {
    match error.code() {
        Code::Unavailable if error.at_field().is_none() => error.field(NO_PRIMARY),
        _ => error,
    }
}

macro_rules! on_behalf {
    ($($method:ident($($argument:ident: $request:ty)?) -> $reply:ty;)*) => {
        #[async_trait::async_trait]
        impl NameService for OnBehalf {
            $(async fn $method(&self, cx: &Context $(, $argument: $request)?) -> Result<$reply> {
                CALLER.scope(cx.caller.pass_on(), self.0.$method(cx $(, $argument)?)).await.map_err(gone)
            })*
        }
    };
}

on_behalf! {
    find(request: FindRequest) -> FindReply;
    read(request: ReadRequest) -> ReadReply;
    list(request: ListRequest) -> ListReply;
    status(request: ListRequest) -> StatusReply;
    act(request: ActRequest) -> ActReply;
    why(name: Name) -> WhyReply;
    batch(request: BatchRequest) -> BatchReply;
    advertise(request: AdvertiseRequest) -> AdvertiseReply;
    withdraw(request: WithdrawRequest) -> WithdrawReply;
    logs(request: LogsRequest) -> BoxStream<'static, Result<Bytes>>;
    search(request: SearchRequest) -> SearchReply;
    watch(request: WatchRequest) -> BoxStream<'static, Result<WatchReply>>;
    report(request: ReportRequest) -> ReportReply;
    lock(request: LockRequest) -> LockReply;
    unlock(request: UnlockRequest) -> UnlockReply;
    login(request: LoginRequest) -> LoginReply;
    logout(request: LogoutRequest) -> ();
    whoami() -> WhoamiReply;
    enrol(request: EnrolRequest) -> EnrolReply;
    certify(request: CertifyRequest) -> CertifyReply;
    trust() -> TrustReply;
    introduce(request: IntroduceRequest) -> IntroduceReply;
    verify(request: VerifyRequest) -> VerifyReply;
    invite(request: InviteRequest) -> InviteReply;
    join(request: JoinRequest) -> JoinReply;
    revoke(request: RevokeRequest) -> ();
    drain_host(request: DrainRequest) -> DrainReply;
    access(request: AccessRequest) -> AccessReply;
    audit(request: AuditRequest) -> AuditReply;
    info() -> ServerInfo;
    change_servers(change: ChangeServers) -> ServerInfo;
    backup() -> BoxStream<'static, Result<Bytes>>;
    attach_agent(reports: BoxStream<'static, Report>) -> BoxStream<'static, Order>;
}
