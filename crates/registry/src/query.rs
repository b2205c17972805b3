//! Reads: what a view of the tree says to each question. Nothing here waits; a find that needs a start says so.

use byname_api::error::{Code, Error, Result};
use byname_api::host::HostStatus;
use byname_api::launch::{Launch, Start};
use byname_api::object::{
    Choose, Forms, InstanceId, Kind, LastExit, Lock, Object, ObjectId, ServiceStatus, Spec, Version,
};
use byname_api::request::{Entry, FindReply, Fresh, Happening, Junction, ListReply, ReadReply, StatusReply, WhyReply};
use byname_api::service::{Endpoint, Instance as InstanceView, State};
use byname_name::ldap::LeafType;
use byname_name::{Name, NameKey, Pattern, dns, http, ldap, spiffe};

use crate::access::Sight;
use crate::computers::{Footing, Host};
use crate::health;
pub use crate::search::{MAX_VISITS, search};
use crate::service::{Instance, Service};
use crate::stored::packed::Slot;
use crate::tree::{Node, Resolved, Tree};
use crate::walk::{self, Found, Matches};

/// Entries on a page when the request does not say.
pub const DEFAULT_LIMIT: u32 = 1_000;
/// Entries on a page at most.
pub const MAX_LIMIT: u32 = 10_000;
/// A page ends when it holds so many bytes of names, so that it fits in a message.
pub(crate) const PAGE_BYTES: usize = 2 << 20;

/// What a find wants.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// Start it if need be, as the request says.
    pub start: bool,
    /// The caller may start it.
    pub may_start: bool,
    /// Somebody said `launch`: start even what is `manual`.
    pub force: bool,
    /// Every instance.
    pub all: bool,
    /// A number that differs from find to find, for `round-robin` and `random`.
    pub turn: u64,
}

/// What is known of instances beyond the tree: soft state, that no log holds.
pub trait Samples {
    /// The load that an instance last reported.
    fn load(&self, _instance: InstanceId) -> Option<f64> {
        None
    }

    /// How long an instance took to respond lately, in milliseconds.
    fn latency(&self, _instance: InstanceId) -> Option<f64> {
        None
    }
}

/// Nothing is known.
impl Samples for () {}

/// What a find comes to, at this moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Outlook {
    /// Here it is.
    Answer(Box<FindReply>),
    /// It is starting or stopping: look again when this service changes.
    Wait(ObjectId),
    /// A copy must be started.
    Start(ObjectId),
    /// It cannot be had.
    Refuse(Error),
}

/// The state table of `find` (DESIGN section 4).
pub fn find(tree: &Tree, name: &Name, wants: Wants, samples: &dyn Samples) -> Result<Outlook> {
    let Resolved { node, aliased } = tree.resolve(name)?;
    let mut reply = FindReply {
        name: name.clone(),
        canonical: (aliased || node.name.as_str() != name.as_str()).then(|| node.name.clone()),
        kind: node.kind(),
        instances: Vec::new(),
        members: None,
        addresses: None,
        value: None,
        junction: None,
        version: Version(node.version),
        ttl_ms: node.spec.ttl.map(|t| t.as_millis()),
        started: false,
        fresh: fresh(tree),
    };
    match node.kind() {
        Kind::Service => return Ok(find_service(tree, &node, reply, wants, samples)),
        Kind::Group => reply.members = Some(node.spec.members.clone().unwrap_or_default()),
        Kind::Computer => reply.addresses = Some(node.spec.addresses.clone().unwrap_or_default()),
        Kind::Record => reply.value = Some(node.spec.value.clone().unwrap_or_default()),
        Kind::Junction => {
            reply.junction = Some(Junction {
                servers: node.spec.servers.clone().unwrap_or_default(),
                choose: node.spec.choose.unwrap_or_default(),
                interface: node.spec.interface.clone().unwrap_or_default(),
                parameter: node.spec.parameter.clone(),
            });
        }
        Kind::Principal | Kind::Secret => {
            return Ok(Outlook::Refuse(Error::new(
                Code::Unsupported,
                format!("`{}` is a {} and answers nowhere: `byname show` tells about it", node.name, node.kind()),
            )));
        }
        Kind::Directory | Kind::Alias => {
            return Ok(Outlook::Refuse(Error::new(
                Code::Unsupported,
                format!(
                    "`{}` is a directory and answers nowhere: `byname list '{}'` shows what is in it",
                    node.name,
                    beneath(&node.name)
                ),
            )));
        }
    }
    Ok(Outlook::Answer(Box::new(reply)))
}

fn beneath(name: &Name) -> String {
    if name.is_root() { "/*".into() } else { format!("{name}/*") }
}

fn find_service(tree: &Tree, node: &Node, mut reply: FindReply, wants: Wants, samples: &dyn Samples) -> Outlook {
    let Some(service) = node.service.as_deref() else {
        return Outlook::Refuse(Error::internal(format!("service {} has no state", node.name)));
    };
    let mut running: Vec<&Instance> =
        service.instances.iter().filter(|i| i.state == State::Running && i.is_reachable()).collect();
    // What is about to leave is named only where nothing else is there.
    if running.iter().any(|i| i.footing == Footing::Firm) {
        running.retain(|i| i.footing == Footing::Firm);
    }
    if !running.is_empty() {
        health::keep_best(&mut running, |copy| copy.well().0);
        let chosen = if wants.all {
            let there =
                |i: &&Instance| matches!(i.state, State::Running | State::Unhealthy) && !i.revoked && i.is_reachable();
            service.instances.iter().filter(there).collect()
        } else {
            choose(running, node.spec.choose.unwrap_or_default(), wants.turn, samples)
        };
        reply.instances =
            chosen.into_iter().map(|i| InstanceView { load: samples.load(i.id), ..instance(tree, i) }).collect();
        return Outlook::Answer(Box::new(reply));
    }
    let not_running = |why: String| Outlook::Refuse(Error::new(Code::NotRunning, why));
    let state = service.state();
    if !wants.start && state != State::Failed {
        return not_running(format!("`{}` is {state}", node.name));
    }
    if state == State::Starting {
        return Outlook::Wait(node.id);
    }
    if let Some(held) = &service.held {
        return not_running(format!(
            "`{}` was stopped by {} at {} and is held: `byname launch {}` starts it",
            node.name, held.by, held.at, node.name
        ));
    }
    if service.failed && service.instances.is_empty() {
        return Outlook::Refuse(crash_looping(node, service));
    }
    let launch = match &node.spec.launch {
        Some(launch) if launch.program.is_some() || launch.command.is_some() => launch,
        _ => {
            return not_running(format!(
                "nobody advertises `{}`, and it has no launch that says how to start it",
                node.name
            ));
        }
    };
    let full = service.taken() >= launch.copies().max as usize;
    match state {
        State::Unhealthy if full || !may_start(launch, wants) => {
            let lost = service.instances.iter().find_map(Instance::out_of_reach);
            let said = service.instances.iter().find_map(|i| i.well().1.map(str::to_owned));
            let why = said.or(lost).unwrap_or_else(|| "no reason given".into());
            return Outlook::Refuse(Error::new(
                Code::Unavailable,
                format!("every copy of `{}` is unhealthy ({why}) and no other may be started", node.name),
            ));
        }
        State::Stopping if full => return Outlook::Wait(node.id),
        _ => {}
    }
    if launch.start() == Start::Manual && !wants.force {
        return not_running(format!("`{}` is {state} and starts only by `byname launch {}`", node.name, node.name));
    }
    if !wants.may_start {
        return not_running(format!(
            "`{}` is {state}, and this caller may only look: over TCP the bearer token, or the unix socket, may start it",
            node.name
        ));
    }
    Outlook::Start(node.id)
}

fn may_start(launch: &Launch, wants: Wants) -> bool {
    wants.start && wants.may_start && (wants.force || launch.start() != Start::Manual)
}

/// The error for a service whose restart budget is spent.
pub fn crash_looping(node: &Node, service: &Service) -> Error {
    let mut text = format!("`{}` keeps failing", node.name);
    if let Some(end) = service.ends.back() {
        let how = end.error.as_ref().map_or(end.how.as_str(), |e| e.message());
        text.push_str(&format!(": the last time, {how}"));
        if !end.last_lines.is_empty() && !text.contains(&end.last_lines) {
            text.push_str(&format!("; its last lines:\n{}", end.last_lines));
        }
    }
    text.push_str(&format!(
        "\n`byname why {}` tells the story, `byname reset {}` lets it start again",
        node.name, node.name
    ));
    Error::new(Code::CrashLooping, text)
}

fn choose<'a>(mut running: Vec<&'a Instance>, rule: Choose, turn: u64, samples: &dyn Samples) -> Vec<&'a Instance> {
    match rule {
        Choose::LeastLoaded => keep_least(&mut running, |id| samples.load(id)),
        Choose::Fastest => keep_least(&mut running, |id| samples.latency(id)),
        _ => {}
    }
    let count = running.len() as u64;
    let at = match rule {
        Choose::All => return running,
        // Ties are taken in turn.
        Choose::RoundRobin | Choose::LeastLoaded | Choose::Fastest => turn % count,
        // A bijective mix (the finaliser of SplitMix64): spreads consecutive turns.
        Choose::Random => {
            let x = (turn ^ (turn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (x ^ (x >> 31)) % count
        }
        Choose::First | Choose::Nearest => 0,
    };
    running.into_iter().skip(at as usize).take(1).collect()
}

/// Keeps those with the smallest sample; one that is not known counts as 0, so that a newcomer gets work.
fn keep_least(running: &mut Vec<&Instance>, sample: impl Fn(InstanceId) -> Option<f64>) {
    let of = |i: &Instance| sample(i.id).filter(|s| s.is_finite()).unwrap_or(0.0);
    let least = running.iter().map(|i| of(i)).fold(f64::INFINITY, f64::min);
    running.retain(|i| of(i) <= least);
}

pub(crate) fn fresh(tree: &Tree) -> Fresh {
    Fresh { revision: tree.revision, age_ms: 0, stale: false }
}

/// An instance as others see it. An endpoint without an address has that of its computer, looked up now, so that a
/// host that moves takes its services along (BOB's two steps: server to machine, machine to address).
fn instance(tree: &Tree, instance: &Instance) -> InstanceView {
    let address = || {
        let computer = instance.computer.as_ref().and_then(|c| tree.get(c));
        computer.and_then(|c| c.spec.addresses.as_ref()?.first().cloned()).unwrap_or_else(|| "127.0.0.1".into())
    };
    InstanceView {
        id: instance.id,
        computer: instance.computer.clone(),
        endpoints: instance
            .endpoints
            .iter()
            .map(|e| Endpoint {
                protocol: e.protocol.clone(),
                address: if e.address.is_empty() { address() } else { e.address.clone() },
                port: e.port,
            })
            .collect(),
        state: instance.seen_state(),
        pid: instance.pid,
        started: Some(instance.started),
        last_seen: None,
        load: None,
        weight: instance.weight,
        health: instance.well().0,
        note: instance.out_of_reach().or_else(|| instance.well().1.map(str::to_owned)),
        connections: None,
    }
}

/// The state of a service as others see it.
pub fn service_status(tree: &Tree, node: &Node) -> Option<ServiceStatus> {
    let service = node.service.as_deref()?;
    let budget = node.spec.launch.as_ref().map(Launch::restart).unwrap_or_default();
    Some(ServiceStatus {
        name: node.name.clone(),
        state: service.state(),
        instances: service.instances.iter().map(|i| instance(tree, i)).collect(),
        unregistered: node.unregistered,
        held: service.held.clone(),
        starts: service.starts,
        failures: service.recent_failures(tree.now, budget) as u32,
        last_exit: service.ends.back().map(|e| LastExit {
            instance: e.instance,
            at: e.at,
            how: e.error.as_ref().map_or_else(|| e.how.clone(), |error| format!("{}: {}", error.code(), e.how)),
            last_lines: e.last_lines.clone(),
        }),
        listening: Vec::new(),
    })
}

/// All about one object; the last label's alias is shown and not followed.
pub fn read(tree: &Tree, name: &Name, dns_suffix: &str) -> Result<ReadReply> {
    let place = tree.follow(name, false, None)?;
    let node = tree.get(&place).ok_or_else(|| tree.not_found(name))?;
    Ok(ReadReply { object: object(tree, &node, dns_suffix), fresh: fresh(tree) })
}

/// An object as others see it.
pub fn object(tree: &Tree, node: &Node, dns_suffix: &str) -> Object {
    Object {
        name: node.name.clone(),
        id: node.id,
        version: Version(node.version),
        spec: Spec::clone(&node.spec),
        created: node.created.clone(),
        modified: node.modified.clone(),
        status: service_status(tree, node),
        host: host_status(tree, node),
        lock: node.lock.as_deref().map(|l| Lock { fence: l.fence, by: l.by.clone(), since: l.since, ttl_ms: l.ttl_ms }),
        forms: Some(forms(node, dns_suffix)),
    }
}

/// How a host stands, as far as the tree knows.
fn host_status(tree: &Tree, node: &Node) -> Option<HostStatus> {
    let host = tree.host_of(node.id)?;
    let on = |i: &&Instance| i.computer.as_ref().is_some_and(|its| its.key() == node.name.key());
    let count = tree.live().map(|n| n.service.iter().flat_map(|s| &s.instances).filter(on).count()).sum::<usize>();
    let drain = host.drain.as_ref();
    Some(HostStatus {
        state: host.state(),
        since: host.down.or(drain.map(|drain| drain.by.at)),
        drained_by: drain.map(|drain| drain.by.by.clone()),
        instances: u32::try_from(count).unwrap_or(u32::MAX),
        last_seen: None,
        load: None,
        memory_free: None,
    })
}

/// The name in other worlds; the trust domain of SPIFFE and the suffix of LDAP are that of the DNS.
fn forms(node: &Node, suffix: &str) -> Forms {
    fn shown(form: std::result::Result<String, impl std::fmt::Display>) -> String {
        form.unwrap_or_else(|none| format!("none: {none}"))
    }
    let leaf = if node.kind() == Kind::Directory { LeafType::OrganizationalUnit } else { LeafType::CommonName };
    Forms {
        dns: shown(dns::to_dns(&node.name, suffix)),
        http: http::to_names_path(&node.name),
        ldap: shown(ldap::to_dn(&node.name, leaf, suffix)),
        spiffe: shown(spiffe::to_id(&node.name, suffix)),
    }
}

/// One page of what matches.
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

/// The least text that is greater than a key and not than what is beneath it.
pub(crate) fn just_after(key: &NameKey) -> Vec<u8> {
    [key.as_bytes(), &[0]].concat()
}

fn page<T>(
    tree: &Tree,
    pattern: &Pattern,
    limit: Option<u32>,
    next: Option<&str>,
    sight: Option<&Sight<'_>>,
    mut take: impl FnMut(&Slot) -> Option<(T, usize)>,
) -> Result<Page<T>> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(Error::invalid("limit", format!("a page has 1 to {MAX_LIMIT} entries")));
    }
    let from = match next {
        Some(next) => {
            let name =
                Name::parse(next).map_err(|_| Error::invalid("next", "this is not the `next` of an earlier page"))?;
            let after = name.key();
            if !walk::within(pattern, &after) {
                return Err(Error::invalid("next", "this is not the `next` of an earlier page of the same pattern"));
            }
            just_after(&after)
        }
        None => walk::first(pattern),
    };
    let exact = pattern.as_exact().is_some();
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut last: Option<&Slot> = None;
    let mut matches = Matches::new(tree.names(), pattern, &from, MAX_VISITS);
    while let Some(found) = matches.next() {
        let (slot, matched) = match found {
            Found::Match(slot) => (slot, exact || !slot.key().is_empty()),
            Found::Stopped(slot) => (slot, false),
        };
        // What the caller may not see is passed over: a page neither ends at it nor because of it.
        if let Some(sight) = sight
            && (matched || matches.visits() >= MAX_VISITS)
            && !sight.sees_slot(slot)
        {
            if sight.hides_all_beneath(slot.key()) {
                matches.pass(slot.key());
            }
            continue;
        }
        if matched && (items.len() == limit as usize || bytes > PAGE_BYTES) {
            return Ok(Page { items, next: last.map(|slot| slot.name().to_string()) });
        }
        if let Some((item, size)) = Some(slot).filter(|_| matched).and_then(&mut take) {
            bytes += size + slot.key().len();
            items.push(item);
            last = Some(slot);
        }
        if matches.visits() >= MAX_VISITS {
            let name = slot.name();
            let more = walk::within(pattern, &name.key());
            return Ok(Page { items, next: more.then(|| name.to_string()) });
        }
    }
    Ok(Page { items, next: None })
}

/// Names that match, sorted. `sight` is what the caller may see, when it may not see everything: what it does not see
/// leaves no trace.
pub fn list(
    tree: &Tree,
    pattern: &Pattern,
    limit: Option<u32>,
    next: Option<&str>,
    set: Option<&str>,
    sight: Option<&Sight<'_>>,
) -> Result<ListReply> {
    let page = page(tree, pattern, limit, next, sight, |slot| {
        if set.is_some() && slot.set() != set {
            return None;
        }
        let entry = Entry {
            name: slot.name(),
            kind: slot.kind(),
            state: tree.state(slot),
            host: tree.host_of(slot.id()).map(Host::state),
            target: slot.target(),
            version: Version(slot.version()),
        };
        Some((entry, 64))
    })?;
    Ok(ListReply { entries: page.items, next: page.next, fresh: fresh(tree) })
}

/// Services that match, with their states. A pattern that is an exact name follows aliases, and must be a service.
/// `sight` is what the caller may see, when it may not see everything.
pub fn status(
    tree: &Tree,
    pattern: &Pattern,
    limit: Option<u32>,
    next: Option<&str>,
    sight: Option<&Sight<'_>>,
) -> Result<StatusReply> {
    if let Some(name) = pattern.as_exact() {
        let unseen = |at: &Name| sight.filter(|sight| !sight.sees_name(at)).map(|s| tree.not_found_for(&name, s.who()));
        if let Some(error) = tree.follow(&name, true, None).ok().and_then(|end| unseen(&end)) {
            return Err(error);
        }
        let node = service_named(tree, &name)?;
        let services = service_status(tree, &node).into_iter().collect();
        return Ok(StatusReply { services, next: None, fresh: fresh(tree) });
    }
    let page = page(tree, pattern, limit, next, sight, |slot| {
        if slot.kind() != Kind::Service {
            return None;
        }
        let status = service_status(tree, &tree.node(slot))?;
        let size = 256 + 128 * status.instances.len() + status.last_exit.as_ref().map_or(0, |e| e.last_lines.len());
        Some((status, size))
    })?;
    Ok(StatusReply { services: page.items, next: page.next, fresh: fresh(tree) })
}

/// The service that a name leads to; another kind is `unsupported`.
pub fn service_named(tree: &Tree, name: &Name) -> Result<std::sync::Arc<Node>> {
    let node = tree.resolve(name)?.node;
    if node.kind() != Kind::Service {
        return Err(Error::new(
            Code::Unsupported,
            format!("`{}` is {} and not a service", node.name, node.kind().with_article()),
        ));
    }
    Ok(node)
}

/// The services that patterns stand for, each once, in the order of their names.
pub fn services(tree: &Tree, patterns: &[Pattern]) -> Result<Vec<std::sync::Arc<Node>>> {
    let mut found = std::collections::BTreeMap::new();
    for pattern in patterns {
        match pattern.as_exact() {
            Some(name) => {
                let node = service_named(tree, &name)?;
                found.insert(node.name.key(), node);
            }
            None => {
                let matches = Matches::new(tree.names(), pattern, &walk::first(pattern), usize::MAX);
                for found_one in matches {
                    if let Found::Match(slot) = found_one
                        && slot.kind() == Kind::Service
                    {
                        let node = tree.node(slot);
                        found.insert(node.name.key(), node);
                    }
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// The story of a service's last starts.
pub fn why(tree: &Tree, name: &Name) -> Result<WhyReply> {
    let node = service_named(tree, name)?;
    let status = service_status(tree, &node).ok_or_else(|| Error::internal("a service without state"))?;
    let story = node.service.iter().flat_map(|s| &s.story);
    Ok(WhyReply {
        status,
        story: story.map(|h| Happening { at: h.at, instance: h.instance, what: h.what.clone() }).collect(),
        fresh: fresh(tree),
    })
}
