//! Every operation of `NameService`: authorised, done, and written to the audit log where it must be.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};

use byname_api::access::{AccessReply, AccessRequest};
use byname_api::audit::{AuditReply, AuditRequest};
use byname_api::caller::{Caller, Right};
use byname_api::error::{Code, Error, Result};
use byname_api::filter::Filter;
use byname_api::host::{DrainAct, DrainReply, DrainRequest};
use byname_api::identity::*;
use byname_api::request::*;
use byname_api::{NameService, agent};
use byname_name::Name;
use byname_registry::{Command, Reply, Tree, query};

use crate::access::sight;
use crate::{Inner, Node, agents, auditing, check_op, declares_sockets, pattern, start};

#[async_trait::async_trait]
impl NameService for Node {
    async fn find(&self, cx: &Context, request: FindRequest) -> Result<FindReply> {
        let inner = &self.inner;
        inner.finds.increment(1);
        let name = request.name.clone();
        let found = inner.find(cx, request).await;
        match &found {
            // A find that starts something is a launch.
            Ok(reply) if reply.started => inner.note(&cx.caller, "start", Some(&name), Ok(())),
            Err(error) if matches!(error.code(), Code::StartFailed | Code::StartTimeout) => {
                inner.note(&cx.caller, "start", Some(&name), Err(error));
            }
            _ => inner.note_read(cx, "find", &name, &found),
        }
        found
    }

    async fn read(&self, cx: &Context, request: ReadRequest) -> Result<ReadReply> {
        let inner = &self.inner;
        inner.authorise_itself(&inner.view.load(), &cx.caller, Right::Read, &request.name)?;
        inner.confirm_if(request.consistent).await?;
        let tree = inner.view.load_full();
        // While it waited, the name may have come to lead elsewhere.
        inner.authorise_itself(&tree, &cx.caller, Right::Read, &request.name)?;
        let read = query::read(&tree, &request.name, &inner.config.dns_suffix);
        drop(tree);
        inner.note_read(cx, "read", &request.name, &read);
        let mut reply = read?;
        inner.add_samples(&mut reply.object);
        inner.freshen(&mut reply.fresh);
        Ok(reply)
    }

    async fn list(&self, cx: &Context, request: ListRequest) -> Result<ListReply> {
        let inner = &self.inner;
        let pattern = pattern(&request.pattern)?;
        inner.confirm_if(request.consistent).await?;
        let tree = inner.view.load_full();
        let who = inner.who(&cx.caller);
        let sight = sight(&tree, &who, &[Right::List]);
        let next = request.next.as_deref();
        let mut reply = query::list(&tree, &pattern, request.limit, next, request.set.as_deref(), sight.as_ref())?;
        if reply.entries.is_empty() && reply.next.is_none() {
            inner.refuse_the_seen(&tree, &cx.caller, Right::List, &pattern.literal_prefix())?;
        }
        inner.freshen(&mut reply.fresh);
        Ok(reply)
    }

    async fn status(&self, cx: &Context, request: ListRequest) -> Result<StatusReply> {
        let inner = &self.inner;
        let pattern = pattern(&request.pattern)?;
        inner.confirm_if(request.consistent).await?;
        let tree = inner.view.load_full();
        let who = inner.who(&cx.caller);
        let sight = sight(&tree, &who, &[Right::Read]);
        if sight.is_some() && pattern.as_exact().is_some() {
            inner.authorise_in(&tree, &cx.caller, Right::Read, &pattern.literal_prefix())?;
        }
        let mut reply = query::status(&tree, &pattern, request.limit, request.next.as_deref(), sight.as_ref())?;
        if reply.services.is_empty() && reply.next.is_none() {
            inner.refuse_the_seen(&tree, &cx.caller, Right::Read, &pattern.literal_prefix())?;
        }
        reply.services.iter_mut().for_each(|status| inner.add_to_status(&tree, status));
        inner.freshen(&mut reply.fresh);
        Ok(reply)
    }

    async fn act(&self, cx: &Context, request: ActRequest) -> Result<ActReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.act(cx, request).await).await;
        }
        let verb = request.verb;
        let acted = self.inner.act(cx, request).await;
        for service in acted.iter().flat_map(|reply| &reply.services) {
            let failed = service.error.as_ref().map(|problem| Error::new(problem.code, problem.message.clone()));
            self.inner.note(&cx.caller, verb.as_str(), Some(&service.name), failed.as_ref().map_or(Ok(()), Err));
        }
        acted
    }

    async fn why(&self, cx: &Context, name: Name) -> Result<WhyReply> {
        let inner = &self.inner;
        inner.authorise(&cx.caller, Right::Read, &name)?;
        let tree = inner.view.load();
        let mut reply = query::why(&tree, &name)?;
        inner.note_read(cx, "why", &name, &Ok(()));
        inner.add_to_status(&tree, &mut reply.status);
        Ok(reply)
    }

    async fn batch(&self, cx: &Context, request: BatchRequest) -> Result<BatchReply> {
        if !request.dry_run
            && let Some(primary) = self.inner.elsewhere(cx).await?
        {
            return self.inner.seen_here(primary.batch(cx, request).await).await;
        }
        let operations = if request.dry_run { Vec::new() } else { auditing::operations(&request) };
        let done = self.inner.batch(cx, request).await;
        self.inner.note_batch(cx, &operations, &done);
        done
    }

    async fn advertise(&self, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.advertise(cx, request).await).await;
        }
        let (name, shown) = (request.name.clone(), request.ticket.is_some() || request.credential.is_some());
        let done = self.inner.advertise(cx, request).await;
        // Renewals of a lease are not news.
        let news = done.as_ref().map_or(true, |reply| reply.credential.is_some());
        match (&done, &name) {
            (Err(error), Some(name)) if shown => {
                // Also where the name is said not to be there: something was shown that is not good.
                let denied = Error::new(Code::Denied, error.message());
                let refusal = if error.code() == Code::NotFound { &denied } else { error };
                self.inner.note_refusal(&cx.caller, "advertise", Some(name), refusal);
            }
            (_, name) if news => self.inner.note_change(cx, "advertise", name.as_ref(), &done),
            _ => {}
        }
        done
    }

    async fn withdraw(&self, cx: &Context, request: WithdrawRequest) -> Result<WithdrawReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.withdraw(cx, request).await).await;
        }
        let name = request.name.clone();
        let done = self.inner.withdraw(cx, request).await;
        self.inner.note_change(cx, "withdraw", Some(&name), &done);
        done
    }

    async fn logs(&self, cx: &Context, request: LogsRequest) -> Result<BoxStream<'static, Result<Bytes>>> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.logs(cx, request).await;
        }
        let name = request.name.clone();
        let logs = self.inner.logs(cx, request).await;
        self.inner.note_read(cx, "logs", &name, &logs);
        logs
    }

    async fn search(&self, cx: &Context, request: SearchRequest) -> Result<SearchReply> {
        let inner = &self.inner;
        let filter = Filter::parse(&request.filter)?;
        inner.confirm_if(request.consistent).await?;
        let tree = inner.view.load_full();
        let who = inner.who(&cx.caller);
        let sight = sight(&tree, &who, &[Right::Read]);
        let (under, next) = (&request.under, request.next.as_deref());
        let suffix = &inner.config.dns_suffix;
        if sight.is_some() && tree.get(under).is_none() {
            inner.authorise_in(&tree, &cx.caller, Right::Read, under)?;
        }
        let found = query::search(&tree, &filter, under, request.limit, next, suffix, sight.as_ref());
        if sight.is_some() && matches!(&found, Err(error) if error.code() == Code::NotFound) {
            // Noted when it is because of who asks.
            inner.authorise_in(&tree, &cx.caller, Right::Read, under)?;
        }
        let mut reply = found?;
        if reply.objects.is_empty() && reply.next.is_none() {
            inner.authorise_in(&tree, &cx.caller, Right::Read, under)?;
        }
        reply.objects.iter_mut().for_each(|object| inner.add_samples(object));
        inner.freshen(&mut reply.fresh);
        Ok(reply)
    }

    async fn watch(&self, cx: &Context, request: WatchRequest) -> Result<BoxStream<'static, Result<WatchReply>>> {
        self.inner.watch(cx, request)
    }

    async fn report(&self, cx: &Context, request: ReportRequest) -> Result<ReportReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            let (told, logged) = ((request.instance, request.load), request.health.is_some());
            let done = primary.report(cx, request).await;
            if logged {
                return self.inner.seen_here(done).await;
            }
            // The primary tells it in a moment; whoever reported it here sees it now.
            if let (Ok(_), (Some(instance), Some(load))) = (&done, told) {
                self.inner.usage.note_load(instance, load);
            }
            return done;
        }
        self.inner.report(cx, request).await
    }

    async fn drain_host(&self, cx: &Context, request: DrainRequest) -> Result<DrainReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.drain_host(cx, request).await).await;
        }
        let (name, act) = (request.name.clone(), request.act);
        let done = self.inner.drain(cx, request).await;
        if act != DrainAct::Look {
            self.inner.note_change(cx, act.as_str(), Some(&name), &done);
        }
        done
    }

    async fn lock(&self, cx: &Context, request: LockRequest) -> Result<LockReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.lock(cx, request).await).await;
        }
        let (name, renew) = (request.name.clone(), request.renew);
        let done = self.inner.lock(cx, request).await;
        if !renew {
            self.inner.note_change(cx, "lock", Some(&name), &done);
        }
        done
    }

    async fn unlock(&self, cx: &Context, request: UnlockRequest) -> Result<UnlockReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.unlock(cx, request).await).await;
        }
        let name = request.name.clone();
        let done = self.inner.unlock(cx, request).await;
        self.inner.note_change(cx, "unlock", Some(&name), &done);
        done
    }

    async fn login(&self, cx: &Context, request: LoginRequest) -> Result<LoginReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.login(cx, request).await;
        }
        self.inner.login(cx, request).await
    }

    async fn logout(&self, cx: &Context, request: LogoutRequest) -> Result<()> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.logout(cx, request).await).await;
        }
        let whose = request.principal.clone().or_else(|| cx.caller.name.clone());
        let done = self.inner.logout(cx, request).await;
        self.inner.note_change(cx, "logout", whose.as_ref(), &done);
        done
    }

    async fn whoami(&self, cx: &Context) -> Result<WhoamiReply> {
        Ok(self.inner.whoami(&cx.caller))
    }

    async fn enrol(&self, cx: &Context, request: EnrolRequest) -> Result<EnrolReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.enrol(cx, request).await).await;
        }
        self.inner.enrol(cx, request).await
    }

    async fn certify(&self, cx: &Context, request: CertifyRequest) -> Result<CertifyReply> {
        // A server that is behind may not know yet that something was revoked.
        let done = match self.inner.confirm().await {
            // And neither had it known that when it admitted the caller.
            Ok(()) => match self.inner.still_holds(&cx.caller) {
                Ok(()) => self.inner.certify(cx, &request),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        // Renewals for instances by their own hosts come every half hour for each: the first of them is the launch.
        if request.instance.is_none() || done.is_err() {
            let name = request.principal.as_ref().or(cx.caller.name.as_ref());
            self.inner.note_change(cx, "certify", name, &done);
        }
        done
    }

    async fn trust(&self, _cx: &Context) -> Result<TrustReply> {
        self.inner.trust()
    }

    async fn introduce(&self, cx: &Context, request: IntroduceRequest) -> Result<IntroduceReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.introduce(cx, request).await;
        }
        let name = request.name.clone();
        let done = self.inner.introduce(cx, request).await;
        self.inner.note_answered(&cx.caller, "introduce", Some(&name), &done);
        done
    }

    async fn verify(&self, cx: &Context, request: VerifyRequest) -> Result<VerifyReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.verify(cx, request).await;
        }
        let done = self.inner.verify(cx, request).await;
        self.inner.note_answered(&cx.caller, "verify", cx.caller.name.as_ref(), &done);
        done
    }

    async fn invite(&self, cx: &Context, request: InviteRequest) -> Result<InviteReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.invite(cx, request).await;
        }
        let name = request.computer.clone();
        let done = self.inner.invite(cx, request).await;
        self.inner.note_change(cx, "invite", name.as_ref(), &done);
        done
    }

    async fn join(&self, cx: &Context, request: JoinRequest) -> Result<JoinReply> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.join(cx, request).await;
        }
        let computer = request.computer.clone();
        let done = self.inner.join(cx, request).await;
        let id = self.inner.view.load().get(&computer).map(|node| node.id);
        let who = match &done {
            Ok(_) => self.inner.joined(cx, &computer, id),
            Err(_) => cx.caller.clone(),
        };
        self.inner.note_answered(&who, "join", Some(&computer), &done);
        done
    }

    async fn revoke(&self, cx: &Context, request: RevokeRequest) -> Result<()> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return self.inner.seen_here(primary.revoke(cx, request).await).await;
        }
        let name = self.inner.revoked_name(&request);
        let done = self.inner.revoke(cx, request).await;
        self.inner.note_change(cx, "revoke", name.as_ref(), &done);
        done
    }

    async fn access(&self, cx: &Context, request: AccessRequest) -> Result<AccessReply> {
        self.inner.access(cx, &request)
    }

    async fn audit(&self, cx: &Context, request: AuditRequest) -> Result<AuditReply> {
        self.inner.audit(cx, request).await
    }

    async fn info(&self, cx: &Context) -> Result<ServerInfo> {
        let inner = &self.inner;
        inner.authorise(&cx.caller, Right::Find, &Name::root())?;
        let status = inner.cluster.status();
        let tree = inner.view.load();
        Ok(ServerInfo {
            version: inner.config.version.clone(),
            server: inner.config.id,
            term: status.term,
            primary: inner.cluster.is_primary(),
            revision: tree.revision,
            objects: tree.len() as u64,
            servers: inner.cluster.members().iter().map(|member| member.server.id).collect(),
            members: inner.members(),
            agents: inner.agents.computers().iter().map(Name::to_string).collect(),
            log_bytes: status.log_bytes,
            snapshot_index: status.snapshot.unwrap_or_default(),
            stalled: status.stalled,
            started: inner.started.clone(),
        })
    }

    async fn change_servers(&self, cx: &Context, change: ChangeServers) -> Result<ServerInfo> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.change_servers(cx, change).await;
        }
        self.inner.authorise(&cx.caller, Right::Admin, &Name::root())?;
        let done = self.inner.change_servers(change).await;
        let (operation, server) = match change {
            ChangeServers::Remove(server) => ("remove-server", server),
            ChangeServers::Transfer(server) => ("transfer", server),
        };
        self.inner.note_change(cx, operation, crate::members::name_of(server).ok().as_ref(), &done);
        done?;
        self.info(cx).await
    }

    async fn backup(&self, cx: &Context) -> Result<BoxStream<'static, Result<Bytes>>> {
        if let Some(primary) = self.inner.elsewhere(cx).await? {
            return primary.backup(cx).await;
        }
        self.inner.authorise(&cx.caller, Right::Admin, &Name::root())?;
        let pieces = self.inner.cluster.backup().await.map_err(|e| Error::new(Code::Unavailable, e.to_string()));
        self.inner.note_change(cx, "backup", None, &pieces);
        let pieces = StreamExt::map(pieces?, |piece| piece.map_err(|e| Error::new(Code::Unavailable, e.to_string())));
        Ok(pieces.boxed())
    }

    async fn attach_agent(
        &self,
        cx: &Context,
        reports: BoxStream<'static, agent::Report>,
    ) -> Result<BoxStream<'static, agent::Order>> {
        if !self.inner.reigns() {
            // The stream would end with this server, though the primary lives.
            return Err(match self.inner.elsewhere(cx).await? {
                Some(_) => Error::new(Code::Unavailable, "this server is not the primary: agents serve the primary"),
                None => Error::new(Code::Unavailable, "this server becomes the primary: ask again"),
            });
        }
        // A host's own certificate lets its agent speak for this host and no other; an admin's, for any.
        let only = match &cx.caller.name {
            Some(name) if self.inner.is_computer(&cx.caller) => Some(name.clone()),
            _ => {
                self.inner.authorise(&cx.caller, Right::Admin, &Name::root())?;
                None
            }
        };
        let attached = agents::attach(self.inner.clone(), reports, only.clone()).await;
        match &attached {
            Err(error) if error.code() == Code::Denied => {
                self.inner.note_refusal(&cx.caller, "attach-agent", only.as_ref(), error);
            }
            other => self.inner.note(&cx.caller, "attach-agent", only.as_ref(), other.as_ref().map(|_| ())),
        }
        attached
    }
}

impl Inner {
    /// Refuses an empty list where the caller may know that there is something it may not see; what is hidden is
    /// answered by the empty list, as what is not there.
    fn refuse_the_seen(&self, tree: &Tree, caller: &Caller, right: Right, prefix: &Name) -> Result<()> {
        match self.authorise_in(tree, caller, right, prefix) {
            Err(error) if error.code() != Code::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A linearizable view, when one is asked for.
    pub(crate) async fn confirm_if(&self, consistent: bool) -> Result<()> {
        if consistent { self.confirm().await } else { Ok(()) }
    }

    /// Changes to the tree.
    async fn batch(self: &Arc<Self>, cx: &Context, mut request: BatchRequest) -> Result<BatchReply> {
        let tree = self.view.load_full();
        self.check_ways(&tree, &cx.caller, &request.ops)?;
        let of_one = request.ops.len() == 1;
        for (index, op) in request.ops.iter().enumerate() {
            self.authorise_change(&tree, &cx.caller, op)?;
            check_op(op).map_err(|error| match error.at_field() {
                Some(field) if !of_one => {
                    let field = format!("ops[{index}].{field}");
                    error.field(field)
                }
                _ => error,
            })?;
        }
        self.seal_secrets(&tree, &mut request.ops)?;
        let (by, set) = (&cx.caller.principal, request.set);
        if request.dry_run {
            return byname_registry::rehearse(&tree, &request.ops, set.as_deref(), by, start::now());
        }
        drop(tree);
        let listens = request.ops.iter().any(declares_sockets);
        match self.propose(by, cx.request, Command::Batch { ops: request.ops, set }).await? {
            Reply::Batch(reply) => {
                if listens {
                    self.await_sockets(&reply.results).await;
                }
                Ok(reply)
            }
            // A request id that was used for another kind of write.
            _ => Err(Error::new(Code::Conflict, "the request id was used for another request").field("request_id")),
        }
    }

    /// Notes an answer to somebody who was proving something: each refusal with its evidence.
    pub(crate) fn note_answered<T>(&self, caller: &Caller, operation: &str, name: Option<&Name>, result: &Result<T>) {
        match result {
            Ok(_) => self.note(caller, operation, name, Ok(())),
            Err(error) if matches!(error.code(), Code::Denied | Code::Unauthenticated) => {
                self.note_refusal(caller, operation, name, error);
            }
            Err(error) => self.note(caller, operation, name, Err(error)),
        }
    }
}
