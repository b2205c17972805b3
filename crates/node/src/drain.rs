//! Emptying hosts: `byname drain`.
//!
//! A drained host gets no new copies. Those that shall always run are started elsewhere first and stopped here when the
//! other runs; those that run on demand are stopped when nobody is connected to them. What is left when the time is up is
//! stopped. The host stays as it is until somebody says `undrain`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use byname_api::agent::Order;
use byname_api::caller::Right;
use byname_api::error::{Code, Error, Result};
use byname_api::host::{DRAIN_TIMEOUT, DrainAct, DrainReply, DrainRequest, HostState, HostedCopy};
use byname_api::object::{InstanceId, Kind, ObjectId};
use byname_api::request::Context;
use byname_api::service::State;
use byname_name::Name;
use byname_registry::command::HostChange;
use byname_registry::computers::Footing;
use byname_registry::{Command, Tree};

use crate::Inner;
use crate::keep::always;

/// How often the copies on a drained host are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Empties hosts, as long as the server lives and while it is the primary. A new primary grants the whole time anew.
pub(crate) async fn follow(inner: Arc<Inner>) {
    // Since when, by this primary's monotonic clock.
    let mut begun = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if inner.stopping() {
            return;
        }
        if inner.reigns() {
            inner.empty_hosts(&mut begun).await;
        } else {
            begun.clear();
        }
    }
}

impl Inner {
    pub(crate) async fn drain(self: &Arc<Self>, cx: &Context, request: DrainRequest) -> Result<DrainReply> {
        let right = if request.act == DrainAct::Look { Right::Read } else { Right::Modify };
        self.authorise(&cx.caller, right, &request.name)?;
        let tree = self.view.load_full();
        let node = tree.resolve(&request.name)?.node;
        if node.kind() != Kind::Computer {
            return Err(Error::new(
                Code::Unsupported,
                format!("`{}` is {}: only a computer can be drained", node.name, node.kind().with_article()),
            ));
        }
        if tree.host_of(node.id).is_none() {
            return Err(Error::new(
                Code::Unsupported,
                format!("`{}` has never had an agent, so nothing runs there by our doing", node.name),
            ));
        }
        let change = match request.act {
            DrainAct::Look => None,
            DrainAct::Drain => {
                Some(HostChange::Drain { timeout_ms: request.timeout.unwrap_or(DRAIN_TIMEOUT).as_millis() })
            }
            DrainAct::Undrain => Some(HostChange::Undrain),
        };
        if let Some(change) = change {
            let changes = vec![(node.name.clone(), change)];
            self.propose(&cx.caller.principal, cx.request, Command::Hosts { changes }).await?;
            self.hosts.news.notify_one();
        }
        let tree = self.view.load_full();
        Ok(DrainReply {
            computer: node.name.clone(),
            state: tree.host_of(node.id).map_or(HostState::Up, |host| host.state()),
            copies: self.copies_on(&tree, cx, &node.name),
        })
    }

    /// The copies on a host whose services the caller may see.
    fn copies_on(&self, tree: &Tree, cx: &Context, computer: &Name) -> Vec<HostedCopy> {
        let mut copies = Vec::new();
        for node in tree.live().filter(|node| self.sees(tree, &cx.caller, &node.name)) {
            for instance in node.service.iter().flat_map(|s| &s.instances) {
                if instance.computer.as_ref() == Some(computer) {
                    let (service, state) = (node.name.clone(), instance.seen_state());
                    copies.push(HostedCopy { service, instance: instance.id, state });
                }
            }
        }
        copies.sort_by(|a, b| a.service.cmp(&b.service).then(a.instance.cmp(&b.instance)));
        copies
    }

    /// Goes on with emptying the hosts that are drained.
    async fn empty_hosts(self: &Arc<Self>, begun: &mut HashMap<ObjectId, Instant>) {
        let tree = &*self.view.load_full();
        let mut due = Vec::new();
        begun.retain(|id, _| tree.host_of(*id).is_some_and(|host| host.drain.is_some()));
        for (node, host) in tree.hosts() {
            let Some(drain) = &host.drain else { continue };
            let over =
                begun.entry(node.id).or_insert_with(Instant::now).elapsed() >= Duration::from_millis(drain.timeout_ms);
            if host.state() == HostState::Draining {
                due.push((node.name.clone(), over));
            }
        }
        for (computer, over) in due {
            for (id, why) in self.to_leave(tree, &computer, over).await {
                let command = Command::Retire { instance: id, why };
                if let Err(error) = self.propose("byname", None, command).await {
                    tracing::warn!(%computer, error = error.log_line(), "a drained host is emptied later");
                    return;
                }
            }
        }
    }

    /// The copies that may leave a drained host now, and why.
    async fn to_leave(&self, tree: &Tree, computer: &Name, over: bool) -> Vec<(InstanceId, String)> {
        let mut leave = Vec::new();
        for node in tree.live() {
            let (Some(service), Some(launch)) = (&node.service, &node.spec.launch) else { continue };
            let elsewhere = service.instances.iter().filter(|i| i.counts() && i.state == State::Running).count();
            let wanted = always(launch).unwrap_or(0) as usize;
            for instance in &service.instances {
                let here = instance.computer.as_ref() == Some(computer) && instance.footing == Footing::Leaving;
                if !here || instance.state == State::Stopping {
                    continue;
                }
                if over {
                    leave.push((instance.id, format!("{computer} is drained, and the time is up")));
                } else if wanted > 0 && service.held.is_none() {
                    if elsewhere >= wanted {
                        leave.push((instance.id, format!("{computer} is drained, and another copy runs elsewhere")));
                    }
                } else if instance.state != State::Starting && self.is_unused(computer, instance.id).await {
                    leave.push((instance.id, format!("{computer} is drained, and nobody is connected")));
                }
            }
        }
        leave
    }

    /// Whether nobody is connected to a copy. From then on nobody is passed to it.
    async fn is_unused(&self, computer: &Name, id: InstanceId) -> bool {
        let rested = self.agents.rest(computer, |request| Order::Rest { request, instance: id }).await;
        let unused = rested.is_some_and(|rested| rested.connections == Some(0));
        if !unused {
            self.agents.send(computer, Order::Wake { instance: id });
        }
        unused
    }
}
