//! Starting copies: the order, the ticket.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use byname_api::agent::{Order as AgentOrder, StartOrder, TicketPair};
use byname_api::error::{Code, Error, Result};
use byname_api::object::{InstanceId, Kind, ObjectId};
use byname_api::service::State;
use byname_api::span::Timestamp;
use byname_name::{Name, Pattern};
use byname_registry::command::Order;
use byname_registry::{Command, Node as Object, Reply, Tree};

use crate::Inner;
use crate::place::Purpose;

/// How long a server that has just been started waits for agents to find it.
pub(crate) const AGENT_GRACE: Duration = Duration::from_secs(3);

/// Groups in groups of hosts are looked into so deep.
const GROUPS_DEEP: u8 = 8;

/// Instances that were placed and whose agents have not been told yet: a sync must not take them for lost, and whoever places
/// the next one counts them.
#[derive(Default)]
pub(crate) struct OnTheWay(Mutex<HashMap<InstanceId, Name>>);

impl OnTheWay {
    /// All that are, and where. To be asked before the tree is looked at that is to show the others.
    pub(crate) fn all(&self) -> Vec<(InstanceId, Name)> {
        self.0.lock().iter().map(|(id, computer)| (*id, computer.clone())).collect()
    }
}

/// How many of them are not in the tree yet, by computer.
pub(crate) fn not_there_yet(on_the_way: &[(InstanceId, Name)], tree: &Tree) -> HashMap<Name, usize> {
    let mut counts = HashMap::new();
    for (_, computer) in on_the_way.iter().filter(|(id, _)| tree.by_instance(*id).is_none()) {
        *counts.entry(computer.clone()).or_default() += 1;
    }
    counts
}

/// Where a copy will be. As long as it is there, the copy is on its way.
pub(crate) struct Seat {
    inner: Arc<Inner>,
    instance: InstanceId,
    computer: Name,
    /// How it was chosen, in words that follow a reason.
    how: String,
}

impl Seat {
    pub(crate) fn take(inner: &Arc<Inner>, computer: Name, how: String) -> Seat {
        let instance = InstanceId(rand::random::<u64>() >> 4);
        inner.on_the_way.0.lock().insert(instance, computer.clone());
        Seat { inner: inner.clone(), instance, computer, how }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.inner.on_the_way.0.lock().remove(&self.instance);
    }
}

impl Inner {
    /// Whether its agent may not know of it yet.
    pub(crate) fn is_on_its_way(&self, id: InstanceId) -> bool {
        self.on_the_way.0.lock().contains_key(&id)
    }

    /// Orders one more copy of a service if fewer than `wanted` are starting or running. Gives the new instance, or
    /// `None` when enough are there.
    pub(crate) async fn start_copy(
        self: &Arc<Self>,
        service: ObjectId,
        wanted: u32,
        why: String,
        deadline: Instant,
    ) -> Result<Option<InstanceId>> {
        let node = self.view.load().by_id(service);
        let Some(node) = node else { return Err(Error::new(Code::NotFound, "the service is not there any more")) };
        let seat = self.place(&node, deadline, Purpose::Find).await.map_err(|refusal| refusal.error)?;
        let inner = self.clone();
        // Whoever asked may go away; what is in the log must be told to the agent all the same.
        let ordering = tokio::spawn(async move { inner.order_copy(service, wanted, why, seat).await });
        ordering.await.unwrap_or_else(|_| Err(Error::internal("an order was not given")))
    }

    /// Logs the order of a copy that has its place, and tells the agent.
    pub(crate) async fn order_copy(
        self: &Arc<Self>,
        service: ObjectId,
        wanted: u32,
        why: String,
        seat: Seat,
    ) -> Result<Option<InstanceId>> {
        let node = self.view.load().by_id(service);
        let ticket = match node.as_ref().and_then(|node| node.spec.launch.as_ref()) {
            Some(launch) => self.new_pair(launch, seat.instance)?,
            None => TicketPair { program: rand::random(), server: rand::random() },
        };
        let order = Order {
            service,
            instance: seat.instance,
            computer: seat.computer.clone(),
            ticket: Sha256::digest(ticket.program).into(),
            proof: Sha256::digest(ticket.server).into(),
            wanted,
            why: why + &seat.how,
        };
        let reign = self.reign();
        match self.propose("byname", None, Command::Order(order)).await {
            Ok(Reply::Ordered) => self.tell_agent(reign, service, seat.instance, &seat.computer, ticket).await,
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The launch as it is in the log at this moment goes to the agent, with the ticket, which goes nowhere else.
    async fn tell_agent(
        self: &Arc<Self>,
        reign: Option<u64>,
        service: ObjectId,
        instance: InstanceId,
        computer: &Name,
        ticket: TicketPair,
    ) -> Result<Option<InstanceId>> {
        let tree = self.view.load_full();
        let Some(node) = tree.by_id(service) else { return Ok(Some(instance)) };
        let secrets = match self.secrets_for(&tree, &node) {
            Ok(secrets) => secrets,
            Err(error) => return self.not_started(instance, error).await,
        };
        let start = StartOrder {
            // That of the order in the log: a later one would make an old order look new.
            term: reign.unwrap_or_default(),
            instance,
            service: service.0,
            name: node.name.clone(),
            launch: node.spec.launch.clone().unwrap_or_default(),
            ticket,
            secrets,
        };
        if self.agents.send(computer, AgentOrder::Start(Box::new(start))) {
            metrics::counter!("byname_starts_total").increment(1);
            return Ok(Some(instance));
        }
        self.not_started(instance, Error::new(Code::NoHost, format!("the agent of `{computer}` has just gone"))).await
    }

    /// An order that came to nothing: its end is logged with the reason.
    async fn not_started(self: &Arc<Self>, instance: InstanceId, error: Error) -> Result<Option<InstanceId>> {
        let change = byname_registry::command::Change::Ended {
            exit: byname_api::service::Exit::NotStarted,
            last_lines: String::new(),
            error: Some(error.clone()),
            ordered: false,
        };
        self.propose("byname", None, Command::Report { instance, change }).await?;
        Err(error)
    }

    /// How long the next start must wait because of failures.
    pub(crate) fn pause_before_start(&self, node: &Object) -> Duration {
        let (Some(service), Some(launch)) = (&node.service, &node.spec.launch) else { return Duration::ZERO };
        let now = now();
        let at = service.not_before(now, launch.restart());
        // A wall clock that was set back must not make it wait for longer than the pause itself.
        let longest = service.failures.last().map_or(0, |last| at.0.saturating_sub(last.0));
        Duration::from_millis(at.0.saturating_sub(now.0).min(longest))
    }
}

/// The computers that entries of `hosts` allow.
#[derive(Default)]
pub(crate) struct Allowed {
    names: HashSet<Name>,
    patterns: Vec<Pattern>,
}

impl Allowed {
    /// Each entry is a label or a pattern of labels, an absolute pattern, or a group.
    pub(crate) fn by(tree: &Tree, entries: &[String]) -> Allowed {
        let mut allowed = Allowed::default();
        entries.iter().for_each(|entry| allowed.add(tree, entry, 0));
        allowed
    }

    fn add(&mut self, tree: &Tree, entry: &str, depth: u8) {
        let text = if entry.starts_with('/') { entry.to_owned() } else { format!("/computers/{entry}") };
        let Ok(pattern) = Pattern::parse(&text) else { return };
        let Some(name) = pattern.as_exact() else { return self.patterns.push(pattern) };
        let group = tree.resolve(&name).ok().filter(|found| found.node.kind() == Kind::Group && depth < GROUPS_DEEP);
        // One that was there already has brought its members.
        if self.names.insert(name)
            && let Some(group) = group
        {
            group.node.spec.members.iter().flatten().for_each(|member| self.add(tree, member, depth + 1));
        }
    }

    pub(crate) fn has(&self, computer: &Name) -> bool {
        self.names.contains(computer) || self.patterns.iter().any(|pattern| pattern.matches(computer))
    }
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Instances that are starting: those that a find waits for.
pub(crate) fn starting(node: &Object) -> impl Iterator<Item = InstanceId> + '_ {
    node.service.iter().flat_map(|s| &s.instances).filter(|i| i.state == State::Starting).map(|i| i.id)
}
