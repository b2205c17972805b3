//! Stopping what nobody uses (DESIGN section 5).
//!
//! An instance is idle when no find named it, nobody reported a use and its agent saw no connection for `idle_stop`. Then,
//! in this order: its agent passes it no new connections and counts those it has; it is retired, which fails if a find
//! named it meanwhile; its stop is logged. A step that fails takes those before it back. Whoever comes from then on waits
//! in the agent's socket, or in a find, for the next instance.

use std::sync::Arc;
use std::time::Duration;

use byname_api::agent::Order;
use byname_api::caller::Right;
use byname_api::error::{Code, Error, Result};
use byname_api::object::{InstanceId, ObjectId};
use byname_api::request::{Context, ReportReply, ReportRequest};
use byname_name::Name;
use byname_registry::service::Instance;
use byname_registry::{Command, Reply, Tree, query};

use crate::Inner;
use crate::health::MAX_NOTE;

impl Inner {
    /// A service changed: what runs of it and shall stop when idle is followed from now on.
    pub(crate) fn follow_use(&self, id: ObjectId) {
        let tree = self.view.load();
        let Some(node) = tree.by_id(id) else { return };
        let idle = node.spec.launch.as_ref().and_then(|l| l.idle_stop);
        for instance in node.service.iter().flat_map(|s| &s.instances) {
            match idle {
                Some(idle) => self.usage.follow(instance.id, idle.duration()),
                None => self.usage.leave_alone(instance.id),
            }
        }
    }

    async fn rest(&self, id: InstanceId, clock: u64) -> Result<Outcome> {
        let found = {
            let tree = self.view.load();
            tree.by_instance(id).map(|n| (n.id, n.service.as_ref().and_then(|s| s.instance(id)?.computer.clone())))
        };
        let Some((service, Some(computer))) = found else { return Ok(Outcome::Nobodys) };
        let rested = self.agents.rest(&computer, |request| Order::Rest { request, instance: id }).await;
        match rested.and_then(|r| r.connections) {
            Some(0) => {}
            // The number itself is reported when it is looked at next; kept here, its end might not be told.
            Some(_) => {
                self.usage.touch(id);
                return Ok(Outcome::Used);
            }
            // Its agent is away, or does not know it yet.
            None => return Ok(Outcome::Unknown),
        }
        // Its connections were too short to be seen while they were there.
        if let Some(unused) = rested.and_then(|r| r.unused)
            && !self.usage.used_before(id, unused)
        {
            self.agents.send(&computer, Order::Wake { instance: id });
            return Ok(Outcome::Used);
        }
        if !self.usage.retire(id, clock) {
            self.agents.send(&computer, Order::Wake { instance: id });
            return Ok(Outcome::Used);
        }
        let reply = self.propose("byname", None, Command::Idle { instance: id }).await;
        if matches!(reply, Ok(Reply::Done)) {
            metrics::counter!("byname_idle_stops_total").increment(1);
            return Ok(Outcome::Stopped);
        }
        self.usage.bring_back(id);
        self.agents.send(&computer, Order::Wake { instance: id });
        // Finds that saw it retired look again.
        self.waits.wake(service);
        reply.map(|_| Outcome::Kept)
    }

    pub(crate) async fn report(&self, cx: &Context, request: ReportRequest) -> Result<ReportReply> {
        let name = request.name.ok_or_else(|| Error::new(Code::InvalidName, "say which name").field("name"))?;
        if request.load.is_some_and(|load| !load.is_finite() || load < 0.0) {
            return Err(Error::invalid("load", "must be a number, zero or more"));
        }
        if request.load.is_none() && request.uses.is_none() && request.health.is_none() {
            return Err(Error::invalid("load", "say something: a load, uses or its health"));
        }
        if request.note.is_some() && request.health.is_none() {
            return Err(Error::invalid("note", "a note says why the health is what it is: say the health, too"));
        }
        if request.note.as_ref().is_some_and(|note| note.len() > MAX_NOTE) {
            return Err(Error::invalid("note", format!("{MAX_NOTE} bytes at most")));
        }
        let tree = self.view.load_full();
        let shown =
            request.credential.as_deref().map(|text| crate::advertise::hash_of(text, "credential")).transpose()?;
        let copy = spoken_of(&tree, &name, request.instance);
        let proved = copy.as_ref().is_ok_and(|copy| match shown {
            Some(hash) => copy.credential == Some(hash),
            None => cx.caller.instance == Some(copy.id),
        });
        if !proved && shown.is_none() {
            self.authorise_in(&tree, &cx.caller, Right::Advertise, &name)?;
        }
        if !proved && shown.is_some() {
            let refusal = Error::new(Code::Denied, "the credential is not that of this instance").field("credential");
            self.note_refusal(&cx.caller, "report", Some(&name), &refusal);
            let error = copy.err().unwrap_or_else(|| refusal.clone());
            return Err(self.told(&tree, &cx.caller, &name, error, refusal));
        }
        let instance = copy?;
        if let Some(load) = request.load {
            self.usage.note_load(instance.id, load);
        }
        if request.uses.is_some_and(|uses| uses > 0) {
            self.usage.touch(instance.id);
        }
        if let Some(health) = request.health {
            let note = request.note.unwrap_or_default();
            self.take_report(&cx.caller.principal, &instance, health, note).await?;
        }
        Ok(ReportReply { instance: instance.id })
    }
}

/// The running copy that a report is about.
fn spoken_of(tree: &Tree, name: &Name, asked: Option<InstanceId>) -> Result<Instance> {
    let node = query::service_named(tree, name)?;
    let instances = node.service.as_deref().map(|service| service.instances.as_slice()).unwrap_or_default();
    match (asked, instances) {
        (Some(id), _) => instances.iter().find(|copy| copy.id == id).cloned().ok_or_else(|| {
            Error::new(Code::NotFound, format!("`{}` has no instance {id} now", node.name)).field("instance")
        }),
        (None, [one]) => Ok(one.clone()),
        (None, []) => Err(Error::new(Code::NotRunning, format!("`{}` does not run", node.name))),
        (None, _) => Err(Error::invalid("instance", format!("`{}` has several: say which", node.name))),
    }
}

enum Outcome {
    /// It was stopped.
    Stopped,
    /// It is used.
    Used,
    /// It is wanted all the same.
    Kept,
    /// Its agent could not be asked.
    Unknown,
    /// It is not there any more, or no agent's.
    Nobodys,
}

/// Stops what is idle, as long as the server lives.
pub(crate) async fn stop_the_idle(inner: Arc<Inner>) {
    loop {
        let (id, clock) = inner.usage.idle().await;
        if inner.stopping() {
            return;
        }
        let inner = inner.clone();
        tokio::spawn(async move {
            let pause = match inner.rest(id, clock).await {
                Ok(Outcome::Stopped | Outcome::Nobodys) => return,
                Ok(Outcome::Used) => Duration::from_millis(50),
                // What keeps it may change, but not every moment.
                Ok(Outcome::Kept | Outcome::Unknown) => Duration::from_secs(5),
                Err(error) => {
                    tracing::warn!(instance = %id, error = error.log_line(), "an idle instance cannot be stopped now");
                    Duration::from_secs(1)
                }
            };
            inner.usage.look_again(id, pause);
        });
    }
}
