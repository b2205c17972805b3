//! `find`, the main verb: answer from the view, or start and wait.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use byname_api::agent::Order;
use byname_api::caller::{Caller, Right, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::object::{InstanceId, ObjectId};
use byname_api::request::{Context, FindReply, FindRequest};
use byname_api::service::Endpoint;
use byname_name::Name;
use byname_registry::access;
use byname_registry::command::Change;
use byname_registry::query::{self, Outlook, Wants};
use byname_registry::{Command, Node as Object, Tree};

use crate::Inner;
use crate::start;

/// The bound on a find's wait when the request has none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait that a request may ask for.
const MAX_PATIENCE: Duration = Duration::from_secs(3_600);

/// How long a find waits for the word of an end that it knows of already.
const LAST_WORD: Duration = Duration::from_secs(2);

/// How long an answer may take of what no agent sees to.
const KNOCK: Duration = Duration::from_secs(1);

/// When a request with this bound gives up.
pub(crate) fn deadline(timeout: Option<byname_api::span::Span>) -> Instant {
    Instant::now() + timeout.map_or(PATIENCE, |t| t.duration()).min(MAX_PATIENCE)
}

impl Inner {
    pub(crate) async fn find(self: &Arc<Self>, cx: &Context, request: FindRequest) -> Result<FindReply> {
        self.authorise(&cx.caller, Right::Find, &request.name)?;
        self.confirm_if(request.consistent).await?;
        let wants = self.wants(&request, self.may_start_it(&cx.caller, &request));
        if request.failed.is_some()
            && let Some(primary) = self.elsewhere(cx).await?
        {
            return self.seen_here(primary.find(cx, request).await).await;
        }
        if let Some(failed) = request.failed {
            self.check_failed(&cx.caller, &request.name, failed).await?;
        }
        // A service that runs is answered from the view at once.
        {
            let tree = self.view.load();
            if request.consistent || request.failed.is_some() {
                // While it waited, the name may have come to lead elsewhere.
                self.authorise_in(&tree, &cx.caller, Right::Find, &request.name)?;
            }
            match query::find(&tree, &request.name, wants, &self.usage)? {
                // Whether it is used is the primary's to know: it may be stopping it for want of use at this moment.
                Outlook::Answer(reply) if self.counts_use(&tree, &reply) && !self.cluster.freshness().stale => {}
                Outlook::Answer(mut reply) if self.may_name(&reply) => {
                    self.freshen(&mut reply.fresh);
                    return Ok(*reply);
                }
                Outlook::Refuse(error) => return Err(error),
                Outlook::Answer(_) | Outlook::Wait(_) | Outlook::Start(_) => {}
            }
        }
        if let Some(primary) = self.elsewhere(cx).await? {
            return self.seen_here(primary.find(cx, request).await).await;
        }
        let why = format!("asked for by {}", cx.caller.principal);
        let asker = Some((&cx.caller, Right::Find));
        self.await_running(&request.name, wants, deadline(request.timeout), &why, asker).await
    }

    /// Whether this find may start what it asks for: looked up only when it wants to.
    fn may_start_it(&self, caller: &Caller, request: &FindRequest) -> bool {
        if caller.standing == Standing::Full || !request.start {
            return true;
        }
        let tree = self.view.load();
        tree.resolve(&request.name).is_ok_and(|found| self.may_start(&tree, caller, &found.node))
    }

    /// What a request asks for.
    pub(crate) fn wants(&self, request: &FindRequest, may_start: bool) -> Wants {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Wants { start: request.start, may_start, force: false, all: request.all, turn }
    }

    /// Whether the answer names what another server stops when it is not used.
    fn counts_use(&self, tree: &Tree, reply: &FindReply) -> bool {
        let name = reply.canonical.as_ref().unwrap_or(&reply.name);
        let stops = |node: &Object| node.spec.launch.as_ref().is_some_and(|launch| launch.idle_stop.is_some());
        !self.reigns() && !reply.instances.is_empty() && tree.get(name).is_some_and(|node| stops(&node))
    }

    /// Whether an answer may be given: none of its instances has ended or is being stopped without the log showing it
    /// yet. Whoever gets it uses what it names.
    fn may_name(&self, reply: &FindReply) -> bool {
        let ended = self.has_ended.get();
        reply.instances.iter().all(|i| !ended.is_some_and(|has_ended| has_ended(i.id)) && self.usage.touch(i.id))
    }

    /// Starts what a name stands for if need be, and waits until it runs. All who wait are answered by one start, and
    /// learn of its failure. The asker's right is looked at in every turn: while it waits, the name may come to lead
    /// elsewhere, and the right may be taken away.
    pub(crate) async fn await_running(
        self: &Arc<Self>,
        name: &Name,
        wants: Wants,
        deadline: Instant,
        why: &str,
        asker: Option<(&Caller, Right)>,
    ) -> Result<FindReply> {
        let mut wants = wants;
        let mut awaited: Vec<InstanceId> = Vec::new();
        let patience = (Instant::now() + LAST_WORD).min(deadline);
        loop {
            if !self.reigns() && !self.cluster.is_primary() && self.cluster.status().stalled.is_none() {
                return Err(crate::forward::no_primary());
            }
            let id = self.view.load().resolve(name)?.node.id;
            let wait = self.waits.listen(id);
            let changed = wait.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let tree = self.view.load_full();
            let Some(node) = tree.by_id(id) else { return Err(tree.not_found(name)) };
            if let Some((caller, right)) = asker {
                self.authorise_in(&tree, caller, right, name)?;
                wants.may_start = right == Right::Launch || self.may_start(&tree, caller, &node);
            }
            if let Some(error) = failed_start(&node, &awaited) {
                return Err(error);
            }
            let outlook = query::find(&tree, name, wants, &self.usage)?;
            drop(tree);
            match outlook {
                Outlook::Answer(reply) if !self.may_name(&reply) && Instant::now() < patience => {
                    let _ = tokio::time::timeout_at(patience, changed).await;
                    continue;
                }
                Outlook::Answer(mut reply) => {
                    reply.started = !awaited.is_empty();
                    return Ok(*reply);
                }
                Outlook::Refuse(error) => return Err(error),
                Outlook::Wait(_) => {
                    awaited.extend(start::starting(&node));
                    awaited.dedup();
                }
                Outlook::Start(id) => {
                    let pause = self.pause_before_start(&node);
                    if !pause.is_zero() {
                        let until = (Instant::now() + pause).min(deadline);
                        let _ = tokio::time::timeout_at(until, changed).await;
                        if Instant::now() >= deadline {
                            return Err(too_late(&node));
                        }
                        continue;
                    }
                    if let Some(instance) = self.start_copy(id, 1, why.to_owned(), deadline).await? {
                        awaited.push(instance);
                    }
                    // What the order did is in the view by now.
                    continue;
                }
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(too_late(&node));
            }
        }
    }

    /// A client found this instance dead. It is probed before it is believed; one that does not answer makes room for
    /// another.
    pub(crate) async fn check_failed(self: &Arc<Self>, caller: &Caller, name: &Name, failed: InstanceId) -> Result<()> {
        let node = query::service_named(&self.view.load(), name)?;
        let Some(service) = &node.service else { return Ok(()) };
        let Some(instance) = service.instance(failed).cloned() else { return Ok(()) };
        // Whoever may only look is not believed.
        if !self.may_start(&self.view.load(), caller, &node) {
            return Ok(());
        }
        let endpoints = query::service_status(&self.view.load(), &node)
            .and_then(|s| s.instances.into_iter().find(|i| i.id == failed))
            .map(|i| i.endpoints)
            .unwrap_or_default();
        let alive = match &instance.computer {
            Some(computer) => {
                let probe = |request| Order::Probe { request, instance: failed, endpoints };
                self.agents.probe(computer, probe).await.map(|probed| probed.alive)
            }
            // No agent sees to it: the server looks itself.
            None => knock(&endpoints).await,
        };
        match alive {
            Some(true) => return Ok(()),
            Some(false) => {}
            // Nobody could look: only whoever may stop it is believed.
            None if access::allows(&self.view.load(), &self.who(caller), Right::Launch, &node.name) => {}
            None => return Ok(()),
        }
        tracing::info!(service = %node.name, instance = %failed, by = caller.principal, "reported dead, and does not answer");
        let change = Change::Unhealthy { why: format!("does not answer (reported by {})", caller.principal) };
        self.propose(&caller.principal, None, Command::Report { instance: failed, change }).await?;
        let full = node.spec.launch.as_ref().is_none_or(|l| service.taken() >= l.copies().max as usize);
        if full {
            let withdraw = Command::Withdraw { service: node.id, instances: vec![failed] };
            self.propose(&caller.principal, None, withdraw).await?;
        }
        Ok(())
    }

    /// Waits until a condition on a service holds, or it is gone; false when the time is up.
    pub(crate) async fn await_service(&self, id: ObjectId, deadline: Instant, holds: impl Fn(&Object) -> bool) -> bool {
        loop {
            let wait = self.waits.listen(id);
            let changed = wait.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.view.load().by_id(id).is_none_or(|n| holds(&n)) {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return false;
            }
        }
    }
}

/// Whether something takes connections where a copy says that it listens; none when that cannot be known from here.
async fn knock(endpoints: &[Endpoint]) -> Option<bool> {
    let mut refused = None;
    for endpoint in endpoints.iter().filter(|endpoint| !matches!(endpoint.protocol.as_str(), "udp" | "unix")) {
        let Ok(address) = endpoint.address.parse::<IpAddr>() else { continue };
        let connecting = TcpStream::connect(SocketAddr::new(address, endpoint.port));
        match tokio::time::timeout(KNOCK, connecting).await {
            Ok(Ok(_)) => return Some(true),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => refused = Some(false),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    refused
}

/// The error of the first awaited start that failed.
fn failed_start(node: &Object, awaited: &[InstanceId]) -> Option<Error> {
    let service = node.service.as_ref()?;
    let error = awaited.iter().find_map(|id| service.end_of(*id)?.error.clone())?;
    Some(error.within(format!("starting `{}`", node.name)))
}

fn too_late(node: &Object) -> Error {
    let state = node.service.as_ref().map(|s| s.state().to_string()).unwrap_or_default();
    Error::new(
        Code::Timeout,
        format!(
            "`{}` is still {state}: ask again, or with a longer timeout; `byname why {}` tells what it does",
            node.name, node.name
        ),
    )
}
