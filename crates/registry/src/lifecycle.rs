//! Instances: ordered, started, ready, advertised, stopped, ended.

use std::sync::Arc;

use byname_api::error::{Code, Error, Result};
use byname_api::launch::{Launch, Restart, Start};
use byname_api::object::{InstanceId, Kind, ObjectId, Spec, Stamp};
use byname_api::request::Change as ObjectChange;
use byname_api::service::{Endpoint, Exit, State};
use byname_name::Name;

use crate::batch;
use crate::command::{Advertise, Change, Event, Evidence, Order, Reply};
use crate::computers::{self, Footing};
use crate::health;
use crate::service::{End, Instance, Origin, Service};
use crate::tree::{Node, Tree};

fn gone() -> Error {
    Error::new(Code::NotFound, "the service is not there any more")
}

/// Makes known that a service's state has changed.
pub(crate) fn tell_state(tree: &mut Tree, id: ObjectId, events: &mut Vec<Event>) {
    tree.revision += 1;
    events.push(Event::Service(id));
    if let Some(node) = tree.by_id(id) {
        events.push(Event::Object { revision: tree.revision, change: ObjectChange::State, node });
    }
}

fn budget(node: &Node) -> Restart {
    node.spec.launch.as_ref().map(Launch::restart).unwrap_or_default()
}

pub(crate) fn order(tree: &mut Tree, order: &Order, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    if tree.by_instance(order.instance).is_some() {
        return Err(Error::internal(format!("instance {} was ordered twice", order.instance)));
    }
    let footing = computers::footing(tree, &order.computer);
    let taken = tree
        .change_service(order.service, |node, service| {
            let max = node.spec.launch.as_ref().map_or(0, |l| l.copies().max) as usize;
            if service.copies() >= order.wanted as usize || service.taken() >= max {
                return Ok(false);
            }
            if service.failed {
                return Err(Error::new(Code::CrashLooping, "the restart budget is spent"));
            }
            service.starts += 1;
            service.tell(stamp.at, Some(order.instance), format!("ordered on {}, {}", order.computer, order.why));
            service.instances.push(Instance {
                id: order.instance,
                computer: Some(order.computer.clone()),
                endpoints: Vec::new(),
                state: State::Starting,
                pid: None,
                started: stamp.at,
                origin: Origin::Launched { ticket: Some(order.ticket), proof: order.proof },
                credential: None,
                weight: None,
                health: None,
                checked: None,
                reported: None,
                revoked: false,
                footing,
            });
            Ok(true)
        })
        .ok_or_else(gone)??;
    if taken {
        tell_state(tree, order.service, events);
        return Ok(Reply::Ordered);
    }
    Ok(Reply::Enough)
}

pub(crate) fn report(
    tree: &mut Tree,
    instance: InstanceId,
    change: &Change,
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Reply {
    // An instance that is not known has ended in the log already, or its service was deleted.
    let Some(node) = tree.by_instance(instance) else { return Reply::Done };
    let changed = tree.change_service(node.id, |node, service| match change {
        Change::Started { pid, endpoints } => started(service, instance, *pid, endpoints, stamp),
        Change::Ready { pid, endpoints } => ready(service, instance, *pid, endpoints, stamp),
        Change::Unhealthy { why } => unhealthy(service, instance, why, stamp),
        Change::Health { source, verdict } => health::changed(service, instance, *source, verdict.as_ref(), stamp),
        Change::Ended { exit, last_lines, error, ordered } => {
            let end = Ended { exit, last_lines, error: error.as_ref(), ordered: *ordered };
            let computer = ended(node, service, instance, end, stamp);
            events.push(Event::Ended { instance, computer });
            true
        }
    });
    if changed == Some(true) {
        tell_state(tree, node.id, events);
        drop_if_empty(tree, node.id, events);
    }
    Reply::Done
}

fn started(service: &mut Service, id: InstanceId, pid: Option<u32>, endpoints: &[Endpoint], stamp: &Stamp) -> bool {
    let Some(instance) = service.instance_mut(id) else { return false };
    if instance.pid == pid && instance.endpoints == endpoints {
        return false;
    }
    instance.pid = pid;
    // A program may advertise itself, without saying where, before its agent's word arrives.
    if instance.state == State::Starting || instance.endpoints.is_empty() {
        instance.endpoints = endpoints.to_vec();
    }
    let what = match pid {
        Some(pid) => format!("started as process {pid}"),
        None => "started".into(),
    };
    service.tell(stamp.at, Some(id), what);
    true
}

fn ready(service: &mut Service, id: InstanceId, pid: Option<u32>, endpoints: &[Endpoint], stamp: &Stamp) -> bool {
    let Some(instance) = service.instance_mut(id) else { return false };
    let was = instance.state;
    if was == State::Stopping || instance.revoked {
        return false;
    }
    let known = instance.pid == pid || pid.is_none();
    // What its checks found is not taken back by the program's own word.
    let said = instance.health.is_some();
    if matches!(was, State::Running | State::Unhealthy) && !said && known {
        return false;
    }
    instance.state = State::Running;
    instance.health = None;
    instance.settle();
    instance.pid = pid.or(instance.pid);
    if was == State::Starting && !endpoints.is_empty() {
        instance.endpoints = endpoints.to_vec();
    }
    let after = stamp.at.0.saturating_sub(instance.started.0);
    let what = match was {
        State::Unhealthy => "well again".to_owned(),
        _ => match instance.pid {
            Some(pid) => format!("ready after {after} ms, process {pid}"),
            None => format!("ready after {after} ms"),
        },
    };
    service.tell(stamp.at, Some(id), what);
    true
}

fn unhealthy(service: &mut Service, id: InstanceId, why: &str, stamp: &Stamp) -> bool {
    let Some(instance) = service.instance_mut(id) else { return false };
    if !matches!(instance.state, State::Running | State::Unhealthy) || instance.revoked || instance.health.is_some() {
        return false;
    }
    instance.health = Some(why.to_owned());
    instance.settle();
    service.tell(stamp.at, Some(id), format!("unhealthy: {why}"));
    true
}

struct Ended<'a> {
    exit: &'a Exit,
    last_lines: &'a str,
    error: Option<&'a Error>,
    ordered: bool,
}

fn ended(node: &Node, service: &mut Service, id: InstanceId, end: Ended<'_>, stamp: &Stamp) -> Option<Name> {
    let position = service.instances.iter().position(|i| i.id == id)?;
    let instance = service.instances.remove(position);
    // One whose place another has taken was stopped by whoever cut its host off.
    let ordered = end.ordered || instance.state == State::Stopping || instance.footing == Footing::Lost;
    let error = match (instance.state, end.error) {
        (State::Starting, None) if !ordered => Some(Error::new(
            Code::StartFailed,
            match end.last_lines {
                "" => format!("the program {} before it was ready, and wrote nothing", end.exit),
                lines => format!("the program {} before it was ready; its last lines:\n{lines}", end.exit),
            },
        )),
        (_, error) => error.cloned(),
    };
    let how = match &error {
        Some(error) if *end.exit == Exit::NotStarted => error.message().to_owned(),
        _ => end.exit.to_string(),
    };
    let launch = node.spec.launch.as_ref();
    let always = launch.is_some_and(|l| l.start() == Start::Always || l.copies().min > 0);
    // A program that has done its work and leaves is no failure, unless it is wanted always. A refusal is the host's
    // policy and no failure of the program, but it must not be repeated for ever either.
    let refused = error.as_ref().is_some_and(|e| matches!(e.code(), Code::Denied | Code::NoHost));
    let clean = error.is_none() && *end.exit == Exit::Status(0);
    service.tell(stamp.at, Some(id), if ordered { format!("stopped: {how}") } else { how.clone() });
    if !ordered && (always || !(clean || refused)) {
        let restart = budget(node);
        if service.count_failure(stamp.at, restart) {
            let (max, window) = (restart.max, restart.window);
            service.tell(stamp.at, None, format!("failed: {max} failures within {window}; `byname reset` clears this"));
        }
    }
    service.note_end(End { instance: id, at: stamp.at, how, last_lines: end.last_lines.to_owned(), error });
    instance.computer
}

pub(crate) fn stop(
    tree: &mut Tree,
    id: ObjectId,
    hold: bool,
    reset: bool,
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Result<Reply> {
    let mut stops = Vec::new();
    tree.change_service(id, |_, service| {
        if reset {
            service.failed = false;
            service.failures.clear();
            service.held = None;
            service.tell(stamp.at, None, format!("reset by {}", stamp.by));
        } else if hold && service.held.is_none() {
            service.held = Some(stamp.clone());
            service.tell(stamp.at, None, format!("held by {}: stays stopped until `launch` or `reset`", stamp.by));
        }
        let mut told = Vec::new();
        service.instances.retain_mut(|instance| {
            if matches!(instance.origin, Origin::Advertised { .. }) {
                told.push((instance.id, format!("withdrawn by {}", stamp.by)));
                return false;
            }
            if instance.state != State::Stopping {
                told.push((instance.id, format!("told to stop by {}", stamp.by)));
                instance.state = State::Stopping;
            }
            if let Some(computer) = &instance.computer {
                stops.push(Event::Stop { instance: instance.id, computer: computer.clone() });
            }
            if reset {
                instance.endpoints.clear();
            }
            true
        });
        for (instance, what) in told {
            service.tell(stamp.at, Some(instance), what);
        }
    })
    .ok_or_else(gone)?;
    events.append(&mut stops);
    tell_state(tree, id, events);
    drop_if_empty(tree, id, events);
    Ok(Reply::Done)
}

pub(crate) fn release(tree: &mut Tree, id: ObjectId, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    let changed = tree
        .change_service(id, |_, service| {
            let changed = service.failed || service.held.is_some() || !service.failures.is_empty();
            if changed {
                service.failed = false;
                service.failures.clear();
                service.held = None;
                service.tell(stamp.at, None, format!("launched by {}", stamp.by));
            }
            changed
        })
        .ok_or_else(gone)?;
    if changed {
        tell_state(tree, id, events);
    }
    Ok(Reply::Done)
}

pub(crate) fn advertise(tree: &mut Tree, ad: &Advertise, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    // A refusal leaves nothing behind, not even the service that was made for it.
    let (mut next, mut fresh) = (tree.clone(), Vec::new());
    let reply = advertise_in(&mut next, ad, stamp, &mut fresh)?;
    *tree = next;
    events.append(&mut fresh);
    Ok(reply)
}

fn advertise_in(tree: &mut Tree, ad: &Advertise, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    let node = match tree.resolve(&ad.name) {
        Ok(resolved) => resolved.node,
        Err(error) if error.code() == Code::NotFound && ad.evidence == Evidence::Right => {
            let name = tree.follow(&ad.name, true, None)?;
            batch::make_unregistered(tree, name, Spec::of(Kind::Service), stamp, events)?
        }
        Err(error) => return Err(error),
    };
    if node.kind() != Kind::Service {
        return Err(Error::new(
            Code::Unsupported,
            format!("`{}` is {}: only a service can be advertised", node.name, node.kind().with_article()),
        ));
    }
    if let Some(other) = tree.by_instance(ad.instance).filter(|other| other.id != node.id) {
        return Err(Error::new(
            Code::Conflict,
            format!("the instance {} belongs to another service: leave `instance` out for a new one", ad.instance),
        )
        .field("instance")
        .log(format!("advertise of {} with {}, an instance of {}", node.name, ad.instance, other.name)));
    }
    let reply = tree.change_service(node.id, |_, service| take(service, ad, stamp, events)).ok_or_else(gone)??;
    tell_state(tree, node.id, events);
    Ok(reply)
}

fn take(service: &mut Service, ad: &Advertise, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    let refused = || {
        Error::new(
            Code::Denied,
            "the ticket is not the one that this instance was launched with, or it was used before: only the program \
             that the name server started may advertise with it",
        )
        .field("ticket")
        .log(format!(
            "advertise of {} refused: wrong ticket or credential for {}, from {}",
            ad.name, ad.instance, stamp.by
        ))
    };
    let Some(instance) = service.instance_mut(ad.instance) else {
        if ad.evidence != Evidence::Right {
            return Err(refused());
        }
        let ttl_ms = ad.ttl_ms.unwrap_or(30_000);
        service.instances.push(Instance {
            id: ad.instance,
            computer: None,
            endpoints: ad.endpoints.clone(),
            state: State::Running,
            pid: ad.pid,
            started: stamp.at,
            origin: Origin::Advertised { ttl_ms, renewal: 1 },
            credential: Some(ad.credential),
            weight: ad.weight,
            health: None,
            checked: None,
            reported: None,
            revoked: false,
            footing: Footing::Firm,
        });
        service.tell(stamp.at, Some(ad.instance), format!("advertised by {}", stamp.by));
        events.push(Event::Lease { instance: ad.instance, renewal: 1, ttl_ms });
        return Ok(Reply::Advertised { proof: None, renewal: 1 });
    };
    let shown = match (&ad.evidence, &instance.origin) {
        (Evidence::Ticket(hash), Origin::Launched { ticket: Some(ticket), .. }) => hash == ticket,
        (Evidence::Credential(hash), _) => instance.credential.as_ref() == Some(hash),
        (Evidence::Right, Origin::Advertised { .. }) => true,
        _ => false,
    };
    if instance.revoked {
        return Err(Error::new(Code::Denied, "the instance was revoked: nobody can advertise it any more")
            .field("instance")
            .log(format!("advertise of {} refused: {} was revoked, from {}", ad.name, ad.instance, stamp.by)));
    }
    if !shown {
        return Err(refused());
    }
    if instance.state == State::Stopping {
        return Err(Error::new(Code::Conflict, "the instance is being stopped"));
    }
    let was = instance.state;
    if !ad.endpoints.is_empty() {
        instance.endpoints.clone_from(&ad.endpoints);
    }
    instance.state = State::Running;
    instance.health = None;
    instance.settle();
    instance.weight = ad.weight.or(instance.weight);
    instance.pid = instance.pid.or(ad.pid);
    if matches!(ad.evidence, Evidence::Ticket(_)) || instance.credential.is_none() {
        instance.credential = Some(ad.credential);
    }
    let (proof, renewal) = match &mut instance.origin {
        Origin::Launched { ticket, proof } => (ticket.take().map(|_| *proof), 0),
        Origin::Advertised { ttl_ms, renewal } => {
            *ttl_ms = ad.ttl_ms.unwrap_or(*ttl_ms);
            *renewal += 1;
            events.push(Event::Lease { instance: ad.instance, renewal: *renewal, ttl_ms: *ttl_ms });
            (None, *renewal)
        }
    };
    if proof.is_some()
        && let Some(computer) = &instance.computer
    {
        events.push(Event::Advertised { instance: ad.instance, computer: computer.clone() });
    }
    if was == State::Starting {
        let after = stamp.at.0.saturating_sub(instance.started.0);
        service.tell(stamp.at, Some(ad.instance), format!("advertised itself with its ticket after {after} ms"));
    }
    Ok(Reply::Advertised { proof, renewal })
}

pub(crate) fn withdraw(
    tree: &mut Tree,
    id: ObjectId,
    which: &[InstanceId],
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Result<Reply> {
    let mut withdrawn = Vec::new();
    tree.change_service(id, |_, service| {
        service.instances.retain_mut(|instance| {
            if !which.contains(&instance.id) {
                return true;
            }
            withdrawn.push(instance.id);
            // A launched program that withdraws still runs: it is on its way out.
            let launched = matches!(instance.origin, Origin::Launched { .. });
            if launched {
                instance.state = State::Stopping;
                if let Some(computer) = &instance.computer {
                    events.push(Event::Stop { instance: instance.id, computer: computer.clone() });
                }
            }
            launched
        });
        for instance in &withdrawn {
            service.tell(stamp.at, Some(*instance), format!("withdrawn by {}", stamp.by));
        }
    })
    .ok_or_else(gone)?;
    if !withdrawn.is_empty() {
        tell_state(tree, id, events);
        drop_if_empty(tree, id, events);
    }
    Ok(Reply::Withdrawn(withdrawn))
}

/// Takes an instance its ticket and its credential, and hides it from every find.
pub(crate) fn revoke(tree: &mut Tree, id: InstanceId, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    let node = tree.by_instance(id).ok_or_else(|| {
        Error::new(Code::NotFound, format!("there is no instance {id}, or it has ended")).field("instance")
    })?;
    let changed = tree.change_service(node.id, |_, service| {
        let Some(instance) = service.instance_mut(id).filter(|i| !i.revoked) else { return false };
        instance.revoked = true;
        // Whoever compares what was shown with these finds nothing.
        instance.credential = None;
        if let Origin::Launched { ticket, .. } = &mut instance.origin {
            *ticket = None;
        }
        if instance.state != State::Stopping {
            instance.state = State::Unhealthy;
        }
        let why = format!("revoked by {} at {}", stamp.by, stamp.at);
        service.tell(stamp.at, Some(id), format!("revoked by {}", stamp.by));
        if let Some(instance) = service.instance_mut(id) {
            instance.health = Some(why);
        }
        true
    });
    if changed == Some(true) {
        tell_state(tree, node.id, events);
    }
    Ok(Reply::Done)
}

pub(crate) fn expire(tree: &mut Tree, id: InstanceId, ran_out: u64, stamp: &Stamp, events: &mut Vec<Event>) -> Reply {
    let Some(node) = tree.by_instance(id) else { return Reply::Done };
    let expired = tree.change_service(node.id, |_, service| {
        let before = service.instances.len();
        service
            .instances
            .retain(|i| i.id != id || !matches!(i.origin, Origin::Advertised { renewal, .. } if renewal == ran_out));
        let expired = service.instances.len() < before;
        if expired {
            service.tell(stamp.at, Some(id), "its lease ran out: it was not renewed");
            service.note_end(End {
                instance: id,
                at: stamp.at,
                how: "was not renewed in time".into(),
                last_lines: String::new(),
                error: None,
            });
        }
        expired
    });
    if expired == Some(true) {
        tell_state(tree, node.id, events);
        events.push(Event::Ended { instance: id, computer: None });
        drop_if_empty(tree, node.id, events);
    }
    Reply::Done
}

/// What nobody added vanishes with its last instance and its lock. One that has got children stays as their directory.
pub(crate) fn drop_if_empty(tree: &mut Tree, id: ObjectId, events: &mut Vec<Event>) {
    let Some(node) = tree.by_id(id) else { return };
    let in_use = node.lock.is_some() || node.service.as_ref().is_some_and(|s| !s.instances.is_empty());
    if !node.unregistered || in_use {
        return;
    }
    let event = if tree.has_children(&node.name) {
        let spec = Arc::new(Spec { owner: node.spec.owner.clone(), ..Spec::of(Kind::Directory) });
        let version = tree.revision;
        let left = Node { version, spec, service: None, unregistered: false, ..Node::clone(&node) };
        let node = tree.put(Some(&node), left);
        Event::Object { revision: tree.revision, change: ObjectChange::Changed, node }
    } else {
        tree.remove(&node.name);
        Event::Object { revision: tree.revision, change: ObjectChange::Deleted, node }
    };
    events.push(event);
}

/// Nobody has used a copy for as long as its service says.
pub(crate) fn idle(tree: &mut Tree, id: InstanceId, stamp: &Stamp, events: &mut Vec<Event>) -> Reply {
    let Some(node) = tree.by_instance(id) else { return Reply::Enough };
    let Some(launch) = node.spec.launch.as_ref() else { return Reply::Enough };
    let Some(idle_stop) = launch.idle_stop.filter(|_| launch.start() != Start::Always) else { return Reply::Enough };
    let min = launch.copies().min as usize;
    let stopped = tree.change_service(node.id, |_, service| {
        let spare = service.copies() > min;
        let instance = service.instance_mut(id).filter(|i| spare && i.state == State::Running)?;
        let computer = instance.computer.clone().filter(|_| matches!(instance.origin, Origin::Launched { .. }))?;
        instance.state = State::Stopping;
        service.tell(stamp.at, Some(id), format!("idle: nobody used it for {idle_stop}"));
        Some(computer)
    });
    let Some(Some(computer)) = stopped else { return Reply::Enough };
    tell_state(tree, node.id, events);
    events.push(Event::Stop { instance: id, computer });
    Reply::Done
}
