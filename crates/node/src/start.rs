//! Starting copies: which host, the order, the ticket; and the services that shall always run.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use byname_api::agent::{Order as AgentOrder, StartOrder, TicketPair};
use byname_api::error::{Code, Error, Result};
use byname_api::launch::{Launch, Start};
use byname_api::object::{InstanceId, Kind, ObjectId};
use byname_api::service::State;
use byname_api::span::Timestamp;
use byname_name::{Name, Pattern};
use byname_registry::command::Order;
use byname_registry::{Command, Node as Object, Reply, Tree};

use crate::Inner;

/// How long a server that has just been started waits for agents to find it.
pub(crate) const AGENT_GRACE: Duration = Duration::from_secs(3);

/// Instances that were ordered and whose agents have not been told yet: a sync must not take them for lost.
#[derive(Default)]
pub(crate) struct OnTheWay(Mutex<HashSet<InstanceId>>);

/// Services that are being brought to their number of copies: each by one task, so that every copy is placed with the one
/// before in view.
#[derive(Default)]
pub(crate) struct Kept(Mutex<HashSet<ObjectId>>);

impl Inner {
    /// Whether its agent may not know of it yet.
    pub(crate) fn is_on_its_way(&self, id: InstanceId) -> bool {
        self.on_the_way.0.lock().contains(&id)
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
        let (computer, how) = self.place(&node, deadline).await?;
        let instance = InstanceId(rand::random::<u64>() >> 4);
        let ticket = match &node.spec.launch {
            Some(launch) => self.new_pair(launch, instance)?,
            None => TicketPair { program: rand::random(), server: rand::random() },
        };
        let order = Order {
            service,
            instance,
            computer: computer.clone(),
            ticket: Sha256::digest(ticket.program).into(),
            proof: Sha256::digest(ticket.server).into(),
            wanted,
            why: why + &how,
        };
        let inner = self.clone();
        // Whoever asked may go away; what is in the log must be told to the agent all the same.
        let ordering = tokio::spawn(async move {
            inner.on_the_way.0.lock().insert(instance);
            let reign = inner.reign();
            let started = match inner.propose("byname", None, Command::Order(order)).await {
                Ok(Reply::Ordered) => inner.tell_agent(reign, service, instance, &computer, ticket).await,
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            inner.on_the_way.0.lock().remove(&instance);
            started
        });
        ordering.await.unwrap_or_else(|_| Err(Error::internal("an order was not given")))
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

    /// Brings a service that shall always run to its number of copies, in the background.
    pub(crate) fn keep(self: &Arc<Self>, id: ObjectId) {
        if !self.kept.0.lock().insert(id) {
            return;
        }
        let inner = self.clone();
        tokio::spawn(async move {
            loop {
                inner.keep_running(id).await;
                inner.kept.0.lock().remove(&id);
                // Something may have happened after the last look and before that.
                let missing = inner.view.load().by_id(id).is_some_and(|node| missing_copies(&node).is_some());
                if !missing || inner.gone() || !inner.kept.0.lock().insert(id) {
                    return;
                }
            }
        });
    }

    /// Whether it is not this server's business any more what runs.
    fn gone(&self) -> bool {
        self.stopping() || !self.reigns()
    }

    /// Brings a service that shall always run to its number of copies, after the pause that its failures ask for.
    async fn keep_running(self: &Arc<Self>, id: ObjectId) {
        loop {
            if self.gone() {
                return;
            }
            let Some(node) = self.view.load().by_id(id) else { return };
            let Some(wanted) = missing_copies(&node) else { return };
            let pause = self.pause_before_start(&node);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
                continue;
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            match self.start_copy(id, wanted, "to keep it running".into(), deadline).await {
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(service = %node.name, error = error.log_line(), "cannot keep it running; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
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

/// How many copies shall be there, if there are fewer and nothing forbids another.
pub(crate) fn missing_copies(node: &Object) -> Option<u32> {
    let (service, launch) = (node.service.as_ref()?, node.spec.launch.as_ref()?);
    let wanted = always(launch)?;
    let copies = launch.copies();
    let room = service.taken() < copies.max as usize;
    (service.copies() < wanted as usize && room && service.held.is_none() && !service.failed).then_some(wanted)
}

/// The number of copies that run always, if any do.
pub(crate) fn always(launch: &Launch) -> Option<u32> {
    let min = launch.copies().min;
    let wanted = if launch.start() == Start::Always { min.max(1) } else { min };
    (wanted > 0 && (launch.program.is_some() || launch.command.is_some())).then_some(wanted)
}

/// Whether an entry of `hosts` allows a computer: a label or pattern of labels, an absolute pattern, or a group.
pub(crate) fn allows(tree: &Tree, entry: &str, computer: &Name, depth: u8) -> bool {
    let text = if entry.starts_with('/') { entry.to_owned() } else { format!("/computers/{entry}") };
    let Ok(pattern) = Pattern::parse(&text) else { return false };
    if pattern.matches(computer) {
        return true;
    }
    let group = pattern.as_exact().and_then(|name| tree.resolve(&name).ok());
    group.is_some_and(|r| {
        r.node.kind() == Kind::Group
            && depth < 8
            && r.node.spec.members.iter().flatten().any(|m| allows(tree, m, computer, depth + 1))
    })
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
