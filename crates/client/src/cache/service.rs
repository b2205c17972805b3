//! The operations of a name server by way of the cache: what it can answer, what it passes on, and what it says while no
//! server can be reached.

use std::sync::atomic::Ordering;

use byname_api::access::{AccessReply, AccessRequest};
use byname_api::agent::{Order, Report};
use byname_api::audit::{AuditReply, AuditRequest};
use byname_api::host::{DrainReply, DrainRequest};
use byname_api::identity::*;
use byname_api::object::Kind;
use byname_api::request::{
    ActReply, ActRequest, AdvertiseReply, AdvertiseRequest, BatchReply, BatchRequest, ChangeServers, Context,
    FindReply, FindRequest, Fresh, ListReply, ListRequest, LockReply, LockRequest, LogsRequest, ReadReply, ReadRequest,
    ReportReply, ReportRequest, SearchReply, SearchRequest, ServerInfo, StatusReply, UnlockReply, UnlockRequest,
    WatchReply, WatchRequest, WhyReply, WithdrawReply, WithdrawRequest,
};
use byname_api::{Code, Error, NameService, Result};
use byname_name::{Name, Pattern};
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::store::{Entry, Look, Wanted};
use super::{CachingClerk, Shared};

/// What a page of a list holds when nobody says.
const PAGE: usize = 1_000;

impl CachingClerk {
    /// Whether an error says that no server can do its work, and not what one thinks of the request.
    fn is_away(&self, error: &Error) -> bool {
        matches!(error.code(), Code::Unavailable | Code::Timeout)
            && (self.shared.clerk.is_away() || error.at_field() == Some(byname_api::error::NO_PRIMARY))
    }

    /// A find answered from the cache.
    fn cached(&self, request: &FindRequest, wanted: Wanted) -> Option<FindReply> {
        if request.consistent || request.failed.is_some() {
            return None;
        }
        let (found, ask) = self.shared.store.find(&request.name, wanted)?;
        if ask {
            self.shared.ask_again(request.name.clone(), Look::Find);
        }
        self.shared.store.reply(request, &found)
    }

    fn cached_read(&self, request: &ReadRequest, wanted: Wanted) -> Option<ReadReply> {
        if request.consistent {
            return None;
        }
        let (found, ask) = self.shared.store.look(&request.name, Look::Read, wanted)?;
        if ask {
            self.shared.ask_again(request.name.clone(), Look::Read);
        }
        Some(ReadReply { object: found.object().clone(), fresh: found.fresh() })
    }

    fn hit<T>(&self, answer: T) -> Result<T> {
        self.shared.hits.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    fn old<T>(&self, answer: T) -> Result<T> {
        self.shared.stale.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// What the cache has of a list, when the servers are away: a page of what it knows, marked `stale`.
    fn listed(&self, request: &ListRequest) -> Option<(Vec<std::sync::Arc<Entry>>, Option<String>, Fresh)> {
        if request.consistent || request.set.is_some() {
            return None;
        }
        let pattern = Pattern::parse(&request.pattern).ok()?;
        // This caller may read them, so it may know that they are there.
        let mut all = self
            .shared
            .store
            .all(|entry| entry.seen.read.load(Ordering::Relaxed) != 0 && pattern.matches(&entry.object.name));
        all.sort_by_key(|entry| entry.object.name.key());
        if let Some(next) = &request.next {
            let after = Name::parse(next).ok()?.key();
            all.retain(|entry| entry.object.name.key() > after);
        }
        let limit = request.limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE)).clamp(1, 10_000);
        let more = all.len() > limit;
        all.truncate(limit);
        let next = all.last().filter(|_| more).map(|entry| entry.object.name.to_string());
        let now = i64::try_from(self.shared.store.now()).unwrap_or(i64::MAX);
        let heard = all.iter().map(|entry| entry.watch.heard.load(Ordering::Relaxed)).min().unwrap_or(now);
        let revision = all.iter().map(|entry| entry.revision).max().unwrap_or(0);
        let age_ms = u64::try_from(now.saturating_sub(heard)).unwrap_or(0);
        (!all.is_empty()).then_some((all, next, Fresh { revision, age_ms, stale: true }))
    }
}

impl Shared {
    /// Takes note of what a find found.
    fn note(self: &std::sync::Arc<Self>, reply: &FindReply) {
        self.want(&reply.name, Look::Find);
        if let Some(canonical) = reply.canonical.as_ref().filter(|canonical| **canonical != reply.name) {
            // By its own name it is found as well: an alias grants nothing, and takes nothing.
            self.want(canonical, Look::Find);
        }
    }
}

/// Names that a change concerns: those that are named, what stands beneath them, and what patterns select.
fn concerns<'a>(texts: impl Iterator<Item = &'a str>) -> impl Fn(&Name) -> bool {
    let patterns: Vec<Pattern> = texts.filter_map(|text| Pattern::parse(text).ok()).collect();
    move |name| {
        patterns
            .iter()
            .any(|pattern| pattern.matches(name) || pattern.as_exact().is_some_and(|exact| name.is_under(&exact)))
    }
}

/// A line of a list.
fn line(entry: &Entry) -> byname_api::request::Entry {
    let object = &entry.object;
    byname_api::request::Entry {
        name: object.name.clone(),
        kind: object.spec.kind.unwrap_or(Kind::Directory),
        state: object.status.as_ref().map(|status| status.state),
        host: object.host.as_ref().map(|host| host.state),
        target: object.spec.target.clone(),
        version: object.version,
    }
}

/// The operations that go to a server as they are.
macro_rules! passed_on {
    ($($method:ident($($argument:ident: $type:ty),*) -> $reply:ty;)*) => { $(
        fn $method<'life0, 'life1, 'async_trait>(
            &'life0 self,
            cx: &'life1 Context,
            $($argument: $type,)*
        ) -> std::pin::Pin<Box<dyn Future<Output = Result<$reply>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            self.shared.clerk.$method(cx, $($argument),*)
        }
    )* };
}

#[async_trait::async_trait]
impl NameService for CachingClerk {
    async fn find(&self, cx: &Context, request: FindRequest) -> Result<FindReply> {
        if let Some(reply) = self.cached(&request, Wanted::Certain) {
            return self.hit(reply);
        }
        // The watches find out when a server answers again.
        if self.shared.clerk.is_away()
            && let Some(reply) = self.cached(&request, Wanted::Anything)
        {
            return self.old(reply);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        self.shared.flush_reports_of(|name| *name == request.name).await;
        match self.shared.clerk.find(cx, request.clone()).await {
            Ok(reply) => {
                self.shared.note(&reply);
                Ok(reply)
            }
            Err(error) if self.is_away(&error) => match self.cached(&request, Wanted::Anything) {
                Some(reply) => self.old(reply),
                None => Err(error),
            },
            Err(error) => {
                self.shared.refused(&request.name, &error);
                Err(error)
            }
        }
    }

    async fn read(&self, cx: &Context, request: ReadRequest) -> Result<ReadReply> {
        if let Some(reply) = self.cached_read(&request, Wanted::Certain) {
            return self.hit(reply);
        }
        if self.shared.clerk.is_away()
            && let Some(reply) = self.cached_read(&request, Wanted::Anything)
        {
            return self.old(reply);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        match self.shared.clerk.read(cx, request.clone()).await {
            Ok(reply) => {
                self.shared.want(&reply.object.name, Look::Read);
                Ok(reply)
            }
            Err(error) if self.is_away(&error) => match self.cached_read(&request, Wanted::Anything) {
                Some(reply) => self.old(reply),
                None => Err(error),
            },
            Err(error) => {
                self.shared.refused(&request.name, &error);
                Err(error)
            }
        }
    }

    async fn list(&self, cx: &Context, request: ListRequest) -> Result<ListReply> {
        match self.shared.clerk.list(cx, request.clone()).await {
            Err(error) if self.is_away(&error) => {
                let Some((entries, next, fresh)) = self.listed(&request) else { return Err(error) };
                self.old(ListReply { entries: entries.iter().map(|entry| line(entry)).collect(), next, fresh })
            }
            answer => answer,
        }
    }

    async fn status(&self, cx: &Context, request: ListRequest) -> Result<StatusReply> {
        let pattern = Pattern::parse(&request.pattern);
        self.shared.flush_reports_of(|name| pattern.as_ref().is_ok_and(|pattern| pattern.matches(name))).await;
        match self.shared.clerk.status(cx, request.clone()).await {
            Err(error) if self.is_away(&error) => {
                let Some((entries, next, fresh)) = self.listed(&request) else { return Err(error) };
                let services = entries.iter().filter_map(|entry| entry.object.status.clone()).collect();
                self.old(StatusReply { services, next, fresh })
            }
            answer => answer,
        }
    }

    async fn act(&self, cx: &Context, request: ActRequest) -> Result<ActReply> {
        let patterns = request.patterns.clone();
        let answer = self.shared.clerk.act(cx, request).await;
        self.shared.store.doubt(concerns(patterns.iter().map(String::as_str)));
        answer
    }

    async fn batch(&self, cx: &Context, request: BatchRequest) -> Result<BatchReply> {
        let names: Vec<Name> = request.ops.iter().map(|op| op.name().clone()).collect();
        let answer = self.shared.clerk.batch(cx, request).await;
        self.shared.store.doubt(concerns(names.iter().map(Name::as_str)));
        answer
    }

    async fn advertise(&self, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        let name = request.name.clone();
        let answer = self.shared.clerk.advertise(cx, request).await;
        self.shared.store.doubt(|other| name.as_ref().is_none_or(|name| name == other));
        answer
    }

    async fn withdraw(&self, cx: &Context, request: WithdrawRequest) -> Result<WithdrawReply> {
        let name = request.name.clone();
        let answer = self.shared.clerk.withdraw(cx, request).await;
        self.shared.store.doubt(|other| *other == name);
        answer
    }

    async fn lock(&self, cx: &Context, request: LockRequest) -> Result<LockReply> {
        let name = request.name.clone();
        let answer = self.shared.clerk.lock(cx, request).await;
        self.shared.store.doubt(|other| *other == name);
        answer
    }

    async fn unlock(&self, cx: &Context, request: UnlockRequest) -> Result<UnlockReply> {
        let name = request.name.clone();
        let answer = self.shared.clerk.unlock(cx, request).await;
        self.shared.store.doubt(|other| *other == name);
        answer
    }

    async fn report(&self, cx: &Context, request: ReportRequest) -> Result<ReportReply> {
        self.shared.take_report(cx, request).await
    }

    passed_on! {
        why(name: Name) -> WhyReply;
        logs(request: LogsRequest) -> BoxStream<'static, Result<Bytes>>;
        search(request: SearchRequest) -> SearchReply;
        watch(request: WatchRequest) -> BoxStream<'static, Result<WatchReply>>;
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
}
