//! Hosts: their agents come and go, and what that means for the copies on them.
//!
//! A copy on a host that is down is out of answers and not buried: it comes back as it was. Only when it is taken for lost
//! does another start in its place. If the host returns after all there may be more copies than `max`; then the newest
//! are stopped, which are those that stood in.

use std::net::IpAddr;
use std::sync::Arc;

use byname_api::error::{Error, Result};
use byname_api::host::HostState;
use byname_api::object::{InstanceId, Kind, ObjectId, Spec, Stamp, Value};
use byname_api::request::{Change as ObjectChange, Op};
use byname_api::service::State;
use byname_api::span::Timestamp;
use byname_name::Name;

use crate::batch;
use crate::command::{Event, HostChange, Reply};
use crate::lifecycle::tell_state;
use crate::service::{Instance, Origin, Service};
use crate::tree::{Node, Tree};

/// What is known of a host that has, or had, an agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Since when its agent is silent.
    pub down: Option<Timestamp>,
    /// It is being emptied, or is empty.
    pub drain: Option<Drain>,
}

/// Who empties a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Drain {
    /// Who, and when that was said.
    pub by: Stamp,
    /// After how many milliseconds what is left is stopped.
    pub timeout_ms: u64,
}

impl Host {
    /// Its state.
    pub fn state(&self) -> HostState {
        match (self.down, &self.drain) {
            (Some(_), _) => HostState::Down,
            (None, Some(_)) => HostState::Draining,
            (None, None) => HostState::Up,
        }
    }
}

/// How firmly a copy stands, by the state of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Footing {
    /// Its host is up, or it has none.
    #[default]
    Firm,
    /// Its host is being emptied: it answers, and another shall take its place.
    Leaving,
    /// Its host is down: it does not answer, and may be back at once.
    Down,
    /// Its host has been down for so long that another shall take its place.
    Lost,
}

impl Instance {
    /// Whether it may be answered, as far as its host goes.
    pub fn is_reachable(&self) -> bool {
        matches!(self.footing, Footing::Firm | Footing::Leaving)
    }

    /// Whether it counts among the copies that a service has.
    pub fn counts(&self) -> bool {
        matches!(self.footing, Footing::Firm | Footing::Down)
    }

    /// Its state as others see it: what is out of reach is not well.
    pub fn seen_state(&self) -> State {
        match self.state {
            State::Starting | State::Running if !self.is_reachable() => State::Unhealthy,
            state => state,
        }
    }

    /// Why it is out of reach, if it is.
    pub fn out_of_reach(&self) -> Option<String> {
        let computer = self.computer.as_ref().filter(|_| !self.is_reachable())?;
        Some(format!("its host {computer} is down"))
    }
}

/// How a copy that is ordered on this computer stands.
pub(crate) fn footing(tree: &Tree, computer: &Name) -> Footing {
    match tree.host(computer).map(Host::state) {
        None | Some(HostState::Up) => Footing::Firm,
        Some(HostState::Draining) => Footing::Leaving,
        Some(HostState::Down) => Footing::Down,
    }
}

/// An agent said hello.
pub(crate) fn arrive(
    tree: &mut Tree,
    name: &Name,
    addresses: &[String],
    facts: &[(String, String)],
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Result<Reply> {
    let reply = computer(tree, name, addresses, facts, stamp, events)?;
    if let Some(node) = tree.get(name) {
        let addresses = node.spec.addresses.clone().unwrap_or_default();
        // Whoever uses that folder for something else goes without.
        let _ = backmap(tree, &node.name, &addresses, stamp, events);
        if !tree.hosts.contains_key(&node.id) {
            tree.hosts.insert(node.id, Host::default());
        }
    }
    Ok(reply)
}

/// The computer's object, as its agent describes it.
pub(crate) fn computer(
    tree: &mut Tree,
    name: &Name,
    addresses: &[String],
    facts: &[(String, String)],
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Result<Reply> {
    let mut spec = Spec::of(Kind::Computer);
    spec.attributes = Some(facts.iter().map(|(k, v)| (k.clone(), vec![Value::Text(v.clone())])).collect());
    // Addresses that somebody declared are better than what an agent sees.
    let declared = tree.get(name).is_some_and(|n| n.created.by != stamp.by && n.spec.addresses.is_some());
    if !declared {
        spec.addresses = Some(addresses.to_vec());
    }
    let op = Op::Declare { name: name.clone(), spec };
    batch::apply(tree, &[op], None, stamp, false, events)?;
    Ok(Reply::Done)
}

/// Keeps `/backmap/ADDRESS` leading to the computer that has the address. Of two that say so, the last.
fn backmap(
    tree: &mut Tree,
    computer: &Name,
    addresses: &[String],
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Result<()> {
    let folder = Name::parse("/backmap").map_err(Error::from)?;
    let mut wanted = Vec::new();
    // Every host has the loopback.
    let theirs = addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
    for address in theirs.filter(|a| !a.is_loopback() && !a.is_unspecified()) {
        wanted.push(folder.child(&address.to_string()).map_err(Error::from)?);
    }
    let mut ops = Vec::new();
    for name in &wanted {
        let declare = match tree.get(name) {
            None => true,
            // What somebody else declared stays.
            Some(node) => {
                let ours = node.kind() == Kind::Alias && node.created.by == stamp.by;
                ours && node.spec.target.as_ref().is_none_or(|target| target.key() != computer.key())
            }
        };
        if declare {
            let spec = Spec { target: Some(computer.clone()), ..Spec::of(Kind::Alias) };
            ops.push(Op::Declare { name: name.clone(), spec });
        }
    }
    let key = computer.key();
    let leading = tree.aliases_from(&key).take_while(|(target, _)| **target == key).map(|(_, slot)| slot.unpack());
    for alias in leading {
        let ours = alias.created.by == stamp.by && alias.name.is_under(&folder);
        if ours && !wanted.iter().any(|name| name.key() == alias.name.key()) {
            ops.push(Op::Delete { name: alias.name, recursive: false, stop: false, if_version: None });
        }
    }
    if !ops.is_empty() {
        batch::apply(tree, &ops, None, stamp, false, events)?;
    }
    Ok(())
}

/// Hosts went down, came back, are emptied or used again. Names that are no computers any more are passed over.
pub(crate) fn change(tree: &mut Tree, changes: &[(Name, HostChange)], stamp: &Stamp, events: &mut Vec<Event>) -> Reply {
    for (name, change) in changes {
        let Some(node) = tree.get(name).filter(|node| node.kind() == Kind::Computer) else { continue };
        let before = tree.hosts.get(&node.id).cloned().unwrap_or_default();
        let mut host = before.clone();
        match change {
            HostChange::Down => host.down = host.down.or(Some(stamp.at)),
            HostChange::Up => host.down = None,
            HostChange::Drain { timeout_ms } if host.drain.is_none() => {
                host.drain = Some(Drain { by: stamp.clone(), timeout_ms: *timeout_ms });
            }
            HostChange::Drain { .. } => {}
            HostChange::Undrain => host.drain = None,
        }
        if host == before && tree.hosts.contains_key(&node.id) {
            continue;
        }
        let state = host.state();
        tree.hosts.insert(node.id, host);
        tree.revision += 1;
        events.push(Event::Host(node.name.clone()));
        events.push(Event::Object { revision: tree.revision, change: ObjectChange::State, node: node.clone() });
        for id in services_on(tree, &node.name) {
            stand(tree, id, &node.name, state, stamp, events);
        }
    }
    Reply::Done
}

/// The services with copies on a host, in the order of their ids.
fn services_on(tree: &Tree, computer: &Name) -> Vec<ObjectId> {
    let key = computer.key();
    let on = |instance: &Instance| instance.computer.as_ref().is_some_and(|its| its.key() == key);
    tree.live().filter(|n| n.service.iter().flat_map(|s| &s.instances).any(on)).map(|n| n.id).collect()
}

/// What a host's new state means for the copies of a service that are on it.
fn stand(tree: &mut Tree, id: ObjectId, computer: &Name, state: HostState, stamp: &Stamp, events: &mut Vec<Event>) {
    let changed = tree.change_service(id, |node, service| {
        let mut told = Vec::new();
        for instance in service.instances.iter_mut() {
            if instance.computer.as_ref().is_none_or(|its| its.key() != computer.key()) {
                continue;
            }
            let was = instance.footing;
            instance.footing = match (state, was) {
                (HostState::Up, _) => Footing::Firm,
                (HostState::Draining, _) => Footing::Leaving,
                (HostState::Down, Footing::Lost) => Footing::Lost,
                (HostState::Down, _) => Footing::Down,
            };
            if was != instance.footing {
                told.push((instance.id, format!("its host {computer} is {state}")));
            }
        }
        let changed = !told.is_empty();
        for (instance, what) in told {
            service.tell(stamp.at, Some(instance), what);
        }
        if state == HostState::Up {
            stop_the_newest(node, service, stamp, events);
        }
        changed
    });
    if changed == Some(true) {
        tell_state(tree, id, events);
    }
}

/// Stops what is above `max`, the newest first: after a host has come back, those that stood in for its copies.
fn stop_the_newest(node: &Node, service: &mut Service, stamp: &Stamp, events: &mut Vec<Event>) {
    let Some(max) = node.spec.launch.as_ref().map(|launch| launch.copies().max as usize) else { return };
    let runs = |i: &&Instance| i.counts() && i.state != State::Stopping && matches!(i.origin, Origin::Launched { .. });
    let mut running: Vec<(Timestamp, InstanceId)> =
        service.instances.iter().filter(runs).map(|i| (i.started, i.id)).collect();
    running.sort_unstable();
    for (_, id) in running.split_off(max.min(running.len())) {
        retire_in(service, id, &format!("more than {max} copies: the newest goes"), stamp, events);
    }
}

fn retire_in(service: &mut Service, id: InstanceId, why: &str, stamp: &Stamp, events: &mut Vec<Event>) -> bool {
    let Some(instance) = service.instance_mut(id).filter(|i| i.state != State::Stopping) else { return false };
    let Some(computer) = instance.computer.clone().filter(|_| matches!(instance.origin, Origin::Launched { .. }))
    else {
        return false;
    };
    instance.state = State::Stopping;
    service.tell(stamp.at, Some(id), format!("told to stop: {why}"));
    events.push(Event::Stop { instance: id, computer });
    true
}

/// These have been out of reach for so long that others shall take their place. Those whose host has come back meanwhile
/// stay what they are.
pub(crate) fn lose(tree: &mut Tree, instances: &[InstanceId], stamp: &Stamp, events: &mut Vec<Event>) -> Reply {
    for id in instances {
        let Some(node) = tree.by_instance(*id) else { continue };
        let changed = tree.change_service(node.id, |_, service| {
            let Some(instance) = service.instance_mut(*id).filter(|i| i.footing == Footing::Down) else { return false };
            instance.footing = Footing::Lost;
            service.tell(stamp.at, Some(*id), "given up: another may take its place");
            true
        });
        if changed == Some(true) {
            tell_state(tree, node.id, events);
        }
    }
    Reply::Done
}

/// Stops one copy.
pub(crate) fn retire(tree: &mut Tree, id: InstanceId, why: &str, stamp: &Stamp, events: &mut Vec<Event>) -> Reply {
    let Some(node) = tree.by_instance(id) else { return Reply::Enough };
    let retired = tree.change_service(node.id, |_, service| retire_in(service, id, why, stamp, events));
    if retired != Some(true) {
        return Reply::Enough;
    }
    tell_state(tree, node.id, events);
    Reply::Done
}

impl Tree {
    /// What is known of the host of this name; `None` when no agent ever spoke for it.
    pub fn host(&self, computer: &Name) -> Option<&Host> {
        if self.hosts.is_empty() {
            return None;
        }
        self.slot(computer).and_then(|slot| self.hosts.get(&slot.id()))
    }

    /// What is known of the host whose object has this id.
    pub fn host_of(&self, id: ObjectId) -> Option<&Host> {
        self.hosts.get(&id)
    }

    /// The hosts that agents spoke for, with what is known of them, in the order of their ids.
    pub fn hosts(&self) -> impl Iterator<Item = (Arc<Node>, &Host)> {
        self.hosts.iter().filter_map(|(id, host)| Some((self.by_id(*id)?, host)))
    }
}
