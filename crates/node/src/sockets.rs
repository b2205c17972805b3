//! Stable sockets: which hosts hold which, where their connections go, and who knocks.
//!
//! What each host shall hold follows from the tree alone, and is told whenever that differs from what it was told
//! last. The agents' word of how their sockets stand is soft state: it is shown and decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use byname_api::agent::{Backend, Listen, Order};
use byname_api::error::Error;
use byname_api::object::{InstanceId, Listening, ObjectId};
use byname_api::request::{FindRequest, OpResult, Outcome};
use byname_api::service::{Endpoint, State};
use byname_name::Name;
use byname_registry::health::keep_best;
use byname_registry::query::{self, Wants};
use byname_registry::{Node as Object, Tree};

use crate::Inner;
use crate::start::Allowed;

/// How much longer than a start one who knocked waits for it.
const MARGIN: Duration = Duration::from_secs(5);
/// How long whoever declares a stable socket waits until its hosts listen.
const OPENING: Duration = Duration::from_secs(2);

/// What the hosts were told and what they said.
#[derive(Default)]
pub(crate) struct Sockets {
    told: Mutex<HashMap<(ObjectId, Name), Told>>,
    /// A host has said how its sockets stand.
    heard: Notify,
}

#[derive(Default)]
struct Told {
    listen: Option<Listen>,
    backends: Vec<Backend>,
    /// Each socket, and why it cannot be listened on if so.
    stand: Vec<(String, Option<String>)>,
}

impl Sockets {
    /// How the sockets of a service stand.
    pub(crate) fn of(&self, id: ObjectId) -> Vec<Listening> {
        let told = self.told.lock();
        let mut all: Vec<Listening> = told
            .iter()
            .filter(|((service, _), _)| *service == id)
            .flat_map(|((_, computer), told)| {
                told.stand.iter().map(|(socket, error)| Listening {
                    computer: computer.clone(),
                    socket: socket.clone(),
                    error: error.clone(),
                })
            })
            .collect();
        all.sort_by(|a, b| (&a.computer, &a.socket).cmp(&(&b.computer, &b.socket)));
        all
    }

    /// Forgets what was told: another server tells from now on.
    pub(crate) fn clear(&self) {
        self.told.lock().clear();
    }

    /// Hosts that were told of sockets of this service.
    fn hosts(&self, id: ObjectId) -> Vec<Name> {
        self.told.lock().keys().filter(|(service, _)| *service == id).map(|(_, computer)| computer.clone()).collect()
    }

    /// Whether any host was told of sockets of this service.
    fn knows(&self, id: ObjectId) -> bool {
        self.told.lock().keys().any(|(service, _)| *service == id)
    }

    fn set_listen(&self, id: ObjectId, computer: &Name, listen: Option<Listen>) -> bool {
        let mut told = self.told.lock();
        let key = (id, computer.clone());
        match listen {
            None => told.remove(&key).is_some(),
            Some(listen) => {
                let entry = told.entry(key).or_default();
                let changed = entry.listen.as_ref() != Some(&listen);
                if changed {
                    entry.stand.clear();
                }
                entry.listen = Some(listen);
                changed
            }
        }
    }

    fn set_backends(&self, id: ObjectId, computer: &Name, backends: &[Backend]) -> bool {
        let mut told = self.told.lock();
        let Some(entry) = told.get_mut(&(id, computer.clone())) else { return false };
        let changed = entry.backends != backends;
        entry.backends = backends.to_vec();
        changed
    }

    fn set_stand(&self, id: ObjectId, computer: &Name, stand: Vec<(String, Option<String>)>) -> bool {
        let mut told = self.told.lock();
        let Some(entry) = told.get_mut(&(id, computer.clone())) else { return false };
        let changed = entry.stand != stand;
        entry.stand = stand;
        drop(told);
        self.heard.notify_waiters();
        changed
    }

    /// Whether every host that was told of a service's sockets has said how they stand.
    fn stand(&self, id: ObjectId) -> bool {
        let told = self.told.lock();
        let mut of = told.iter().filter(|((service, _), _)| *service == id).peekable();
        of.peek().is_some() && of.all(|(_, told)| !told.stand.is_empty())
    }

    fn forget_host(&self, computer: &Name) {
        self.told.lock().retain(|(_, host), _| host != computer);
    }
}

/// What a host shall hold for a service; none when the service has no sockets or may not run there.
fn listen_of(tree: &Tree, node: &Object, computer: &Name) -> Option<Listen> {
    let launch = node.spec.launch.as_ref()?;
    let sockets = launch.listen.as_ref().filter(|list| !list.is_empty())?;
    if launch.program.is_none() && launch.command.is_none() {
        return None;
    }
    if let Some(hosts) = &launch.hosts
        && !Allowed::by(tree, hosts).has(computer)
    {
        return None;
    }
    Some(Listen {
        service: node.id.0,
        name: node.name.clone(),
        sockets: sockets.clone(),
        handover: launch.handover(),
        choose: node.spec.choose.unwrap_or_default(),
    })
}

/// Where connections may go: the running copies with something to connect to, those with a warning only where no other is.
fn backends_of(tree: &Tree, node: &Object) -> Vec<Backend> {
    let connectable = |e: &&Endpoint| !matches!(e.protocol.as_str(), "udp" | "dns" | "quic" | "h3");
    let instances = query::service_status(tree, node).map(|s| s.instances).unwrap_or_default();
    let mut running: Vec<_> = instances.into_iter().filter(|i| i.state == State::Running).collect();
    keep_best(&mut running, |copy| copy.health);
    running
        .into_iter()
        .filter_map(|i| Some(Backend { instance: i.id, endpoint: i.endpoints.iter().find(connectable)?.clone() }))
        .collect()
}

impl Inner {
    /// Tells a host that has just come all that it shall hold.
    pub(crate) fn tell_sockets(&self, computer: &Name) {
        let tree = self.view.load_full();
        self.sockets.forget_host(computer);
        let services: Vec<_> = tree.special().filter_map(|n| Some((listen_of(&tree, &n, computer)?, n))).collect();
        let all = services.iter().map(|(listen, _)| listen.clone()).collect();
        if !self.agents.send(computer, Order::Listens { term: self.order_term(), all }) {
            return;
        }
        for (listen, node) in services {
            self.sockets.set_listen(node.id, computer, Some(listen));
            self.tell_backends(&tree, &node, computer, false);
        }
    }

    /// A service changed: tells the hosts what differs for them.
    pub(crate) fn follow_sockets(&self, id: ObjectId) {
        let tree = self.view.load_full();
        let node = tree.by_id(id);
        let has = node.as_ref().is_some_and(|n| n.spec.launch.as_ref().is_some_and(|l| l.listen.is_some()));
        if !has && !self.sockets.knows(id) {
            return;
        }
        let term = self.order_term();
        let mut left = self.sockets.hosts(id);
        if let Some(node) = &node {
            for computer in self.agents.computers() {
                let Some(listen) = listen_of(&tree, node, &computer) else { continue };
                left.retain(|host| *host != computer);
                if self.sockets.set_listen(id, &computer, Some(listen.clone())) {
                    self.agents.send(&computer, Order::Listen { term, listen: Box::new(listen) });
                    self.tell_backends(&tree, node, &computer, true);
                } else {
                    self.tell_backends(&tree, node, &computer, false);
                }
            }
        }
        for computer in left {
            self.sockets.set_listen(id, &computer, None);
            let listen = Box::new(Listen {
                service: id.0,
                name: node.as_ref().map_or_else(Name::root, |n| n.name.clone()),
                sockets: Vec::new(),
                handover: Default::default(),
                choose: Default::default(),
            });
            self.agents.send(&computer, Order::Listen { term, listen });
        }
    }

    fn tell_backends(&self, tree: &Tree, node: &Object, computer: &Name, again: bool) {
        let backends = backends_of(tree, node);
        if self.sockets.set_backends(node.id, computer, &backends) || again {
            self.agents.send(computer, Order::Backends { service: node.id.0, backends });
        }
    }

    /// Whoever declares a stable socket may connect to it as soon as the answer comes: waits until the hosts listen that
    /// shall, for a short time at most. What keeps a host from it is shown, and no error of the declaration.
    pub(crate) async fn await_sockets(&self, changed: &[OpResult]) {
        let deadline = Instant::now() + OPENING;
        for result in changed.iter().filter(|r| matches!(r.outcome, Outcome::Created | Outcome::Changed)) {
            loop {
                let heard = self.sockets.heard.notified();
                tokio::pin!(heard);
                heard.as_mut().enable();
                let tree = self.view.load_full();
                let Some(node) = tree.get(&result.name) else { break };
                let hosts = self.agents.computers();
                let listens = hosts.iter().any(|computer| listen_of(&tree, &node, computer).is_some());
                if !listens || self.sockets.stand(node.id) || tokio::time::timeout_at(deadline, heard).await.is_err() {
                    break;
                }
            }
        }
    }

    /// A host says how its sockets for a service stand.
    pub(crate) fn note_sockets(&self, computer: &Name, service: u64, stand: Vec<(String, Option<String>)>) {
        let id = ObjectId(service);
        let errors: Vec<String> = stand.iter().filter_map(|(s, e)| Some(format!("{s} {}", e.as_ref()?))).collect();
        if self.sockets.set_stand(id, computer, stand) && !errors.is_empty() {
            let name = self.view.load().by_id(id).map(|n| n.name.to_string()).unwrap_or_default();
            tracing::warn!(service = name, %computer, "cannot listen: {}", errors.join("; "));
        }
    }

    /// Somebody connects to a socket of a service with no copy to go to.
    pub(crate) async fn answer_knock(
        self: Arc<Self>,
        computer: Name,
        service: u64,
        socket: String,
        dead: Vec<InstanceId>,
    ) {
        let id = ObjectId(service);
        let Some(node) = self.view.load().by_id(id).map(|n| Object::clone(&n)) else { return };
        metrics::counter!("byname_knocks_total").increment(1);
        let launch = node.spec.launch.clone().unwrap_or_default();
        let patience = launch.start_timeout().duration() + launch.stop_timeout().duration() + MARGIN;
        let started = async {
            for instance in dead {
                let caller = byname_api::caller::Caller::internal();
                self.check_failed(&caller, &node.name, instance).await?;
            }
            let request = FindRequest::new(node.name.clone());
            let wants = Wants { all: true, ..self.wants(&request, true) };
            let why = format!("a connection to {socket}");
            self.await_running(&node.name, wants, Instant::now() + patience, &why, None).await
        };
        match started.await {
            Ok(_) => {
                let tree = self.view.load_full();
                if let Some(node) = tree.by_id(id) {
                    self.tell_backends(&tree, &node, &computer, true);
                }
            }
            Err(error) => self.turn_away(&computer, service, error),
        }
    }

    fn turn_away(&self, computer: &Name, service: u64, error: Error) {
        self.agents.send(computer, Order::TurnAway { service, error });
    }
}
