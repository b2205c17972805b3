//! Which host a new copy is started on.
//!
//! Of the hosts that the launch allows, that are up and not drained, and that have room, in this order: not the one where
//! the service failed last; the one with the fewest copies of it; the least busy; the one with the fewest programs; the
//! first by name.
//!
//! Copies are placed one at a time, and those that are on their way count: many that are started at once go to many hosts. Of a
//! fleet that is large, so many hosts as are enough are compared, others each time.

use std::collections::HashMap;
use std::sync::Arc;

use byname_api::error::{Code, Error, Result};
use byname_api::host::HostState;
use byname_api::launch::Launch;
use byname_api::object::Value;
use byname_name::Name;
use byname_registry::computers::Host;
use byname_registry::{Node as Object, Tree};
use tokio::time::Instant;

use crate::Inner;
use crate::start::{AGENT_GRACE, Allowed, Seat, not_there_yet};

/// Hosts whose load a core differs by less are taken to be equally busy: a load average is slow, and many starts at once
/// must not all go to the host that looked best before them.
const BUSY_STEP: f64 = 0.25;

/// Of more hosts than this that could take a copy, so many are compared.
const COMPARED: usize = 100;
/// So many copies that shall always run are started on one host at once.
const STARTING: u32 = 64;
/// So many hosts are named in a refusal.
const NAMED: usize = 8;

/// What a copy is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody waits for it.
    Find,
    /// It shall always run: it can wait while its host starts many others.
    Keep,
}

/// Why a copy has no place.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    /// The hosts are only busy with other starts.
    pub(crate) full: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal { error, full: false }
    }
}

/// A host that could take a copy.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    name: Name,
    /// The service failed there last.
    failed: bool,
    /// Copies of the service that are there.
    copies: usize,
    /// Load a core, where that is known.
    load: Option<f64>,
    /// Copies of all services that are there.
    programs: usize,
}

impl Candidate {
    /// In steps; what is not known is taken for idle.
    fn busy(&self) -> u64 {
        (self.load.unwrap_or(0.0) / BUSY_STEP) as u64
    }
}

/// The best of them, and why.
fn best(mut candidates: Vec<Candidate>) -> Option<(Name, String)> {
    candidates.sort_by(|a, b| {
        let key = |c: &Candidate| (c.failed, c.copies, c.busy(), c.programs);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    let count = candidates.len();
    let mut sorted = candidates.into_iter();
    let best = sorted.next()?;
    let why = match sorted.next() {
        None => String::new(),
        Some(next) => {
            let reason = if best.failed != next.failed {
                "it failed last elsewhere".to_owned()
            } else if best.copies != next.copies {
                "the fewest copies of it".to_owned()
            } else if best.busy() != next.busy() {
                format!("the lowest load, {:.2} a core", best.load.unwrap_or(0.0))
            } else if best.programs != next.programs {
                "the fewest programs".to_owned()
            } else {
                "the first by name".to_owned()
            };
            format!(", of {count} hosts: {reason}")
        }
    };
    Some((best.name, why))
}

/// How far hosts were from taking a copy.
#[derive(Default)]
struct Looked<'a> {
    /// They may run it, and are drained or down.
    unusable: Vec<&'a Name>,
    /// They are up, and have no room for what it may use.
    without_room: Vec<&'a Name>,
    /// They have room, and start many others.
    starting: usize,
}

impl Inner {
    /// The host for a new copy, which is on its way there as long as the seat is kept.
    pub(crate) async fn place(
        self: &Arc<Self>,
        node: &Object,
        deadline: Instant,
        purpose: Purpose,
    ) -> Result<Seat, Refusal> {
        loop {
            let arrived = self.agents.arrived.notified();
            let refusal = {
                // One at a time: no more than one thread of the runtime does this, and each counts those before.
                let mut begin = self.placing.lock().await;
                let on_the_way = self.on_the_way.all();
                let tree = self.view.load_full();
                let coming = not_there_yet(&on_the_way, &tree);
                let connected = self.agents.computers();
                let found = self.candidates(&tree, node, &connected, *begin, &coming, purpose);
                *begin = begin.wrapping_add(COMPARED);
                match found {
                    Ok(candidates) => match best(candidates) {
                        Some((computer, how)) => return Ok(Seat::take(self, computer, how)),
                        None => no_agent(node).into(),
                    },
                    Err(refusal) => refusal,
                }
            };
            let patience = (*self.since.lock() + AGENT_GRACE).min(deadline);
            if Instant::now() >= patience {
                return Err(refusal);
            }
            let _ = tokio::time::timeout_at(patience, arrived).await;
        }
    }

    /// Those that could take a copy, beginning with the connected one of this number; when there are none, why.
    fn candidates(
        &self,
        tree: &Tree,
        node: &Object,
        connected: &[Name],
        begin: usize,
        coming: &HashMap<Name, usize>,
        purpose: Purpose,
    ) -> Result<Vec<Candidate>, Refusal> {
        if connected.is_empty() {
            return Err(no_agent(node).into());
        }
        let launch = node.spec.launch.as_ref();
        let hosts = launch.and_then(|l| l.hosts.as_deref()).map(|entries| Allowed::by(tree, entries));
        let fits = |c: &Name| hosts.as_ref().is_none_or(|hosts| hosts.has(c));
        let failed = self.hosts.failed_last(node.id);
        // Looked up only where there is a choice.
        let choice = connected.len() > 1;
        let (mut found, mut looked) = (Vec::new(), Looked::default());
        let (before, after) = connected.split_at(begin % connected.len());
        for computer in after.iter().chain(before).filter(|computer| fits(computer)) {
            if tree.host(computer).map(Host::state).unwrap_or(HostState::Up) != HostState::Up {
                looked.unusable.push(computer);
                continue;
            }
            if !has_room(tree, computer, launch) {
                looked.without_room.push(computer);
                continue;
            }
            let (programs, starting) = tree.count_on(&computer.key());
            let coming = coming.get(computer).copied().unwrap_or(0);
            if purpose == Purpose::Keep && starting as usize + coming >= STARTING as usize {
                looked.starting += 1;
                continue;
            }
            let copies = node.service.iter().flat_map(|s| &s.instances);
            let load = || self.hosts.of(computer).and_then(|(heard, _)| heard.load).map(|l| l / cores(tree, computer));
            found.push(Candidate {
                name: computer.clone(),
                failed: failed.as_ref() == Some(computer),
                copies: copies.filter(|i| i.computer.as_ref() == Some(computer)).count(),
                load: choice.then(load).flatten(),
                programs: programs + coming,
            });
            if found.len() == COMPARED {
                break;
            }
        }
        if found.is_empty() { Err(no_host(node, connected, &looked)) } else { Ok(found) }
    }
}

/// The first few of them, and how many more there are.
fn shown<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    let names: Vec<&str> = names.into_iter().filter_map(Name::leaf).collect();
    let (first, rest) = names.split_at(names.len().min(NAMED));
    match rest.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn no_agent(node: &Object) -> Error {
    Error::new(
        Code::NoHost,
        format!("no agent is connected, so `{}` can be started nowhere: start `byname agent` on a host", node.name),
    )
}

/// Why no host takes a copy.
fn no_host(node: &Object, connected: &[Name], looked: &Looked<'_>) -> Refusal {
    let are = |names: &[&Name]| match names {
        [one] => format!("{} is", shown([*one])),
        many => format!("{} are", shown(many.iter().copied())),
    };
    let what = if looked.starting > 0 {
        format!("every host that may take `{}` is starting {STARTING} others", node.name)
    } else if !looked.without_room.is_empty() {
        format!(
            "no host has room for the memory or the cores that `{}` may use: {} full",
            node.name,
            are(&looked.without_room)
        )
    } else if !looked.unusable.is_empty() {
        format!(
            "no host may take `{}` now: {} drained or down (`byname list '/computers/*'` shows them, `byname undrain HOST` \
             lets one be used again)",
            node.name,
            are(&looked.unusable)
        )
    } else {
        let hosts = node.spec.launch.as_ref().and_then(|launch| launch.hosts.as_deref());
        format!(
            "`{}` may run on {} only, and no such host has a connected agent (connected: {})",
            node.name,
            hosts.unwrap_or_default().join(", "),
            shown(connected)
        )
    };
    Refusal { error: Error::new(Code::NoHost, what), full: looked.starting > 0 }
}

/// A fact about a host, up to the first blank.
fn fact(tree: &Tree, computer: &Name, which: &str) -> Option<f64> {
    let node = tree.get(computer)?;
    match node.spec.attributes.as_ref()?.get(which)?.first()? {
        Value::Text(text) => text.split(' ').next()?.parse().ok(),
        _ => None,
    }
}

fn cores(tree: &Tree, computer: &Name) -> f64 {
    fact(tree, computer, "cores").filter(|cores| *cores >= 1.0).unwrap_or(1.0)
}

/// Whether what a copy may use at most is there beside what those that are there may use; what is not said or not known
/// is no reason against a host.
fn has_room(tree: &Tree, computer: &Name, launch: Option<&Launch>) -> bool {
    let Some(limits) = launch.and_then(|launch| launch.limits.as_ref()) else { return true };
    let (memory, cpu) = (limits.memory.map(|bytes| bytes.0 as f64), limits.cpu);
    if memory.is_none() && cpu.is_none() {
        return true;
    }
    let (mut memory_taken, mut cpu_taken) = (0.0, 0.0);
    for instance in tree.on_computer(&computer.key()) {
        let Some(node) = tree.by_instance(instance) else { continue };
        let Some(theirs) = node.spec.launch.as_ref().and_then(|l| l.limits.as_ref()) else { continue };
        memory_taken += theirs.memory.map_or(0.0, |bytes| bytes.0 as f64);
        cpu_taken += theirs.cpu.unwrap_or(0.0);
    }
    // Facts tell memory in MiB.
    let has = fact(tree, computer, "memory").map(|mib| mib * 1_048_576.0);
    let room = |wanted: Option<f64>, taken: f64, has: Option<f64>| match (wanted, has) {
        (Some(wanted), Some(has)) => taken + wanted <= has,
        _ => true,
    };
    room(memory, memory_taken, has) && room(cpu, cpu_taken, fact(tree, computer, "cores"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Candidate {
        let name = Name::parse(&format!("/computers/{name}")).unwrap();
        Candidate { name, failed: false, copies: 0, load: Some(0.0), programs: 0 }
    }

    fn chosen(candidates: &[Candidate]) -> (String, String) {
        let (name, why) = best(candidates.to_vec()).unwrap();
        let mut turned = candidates.to_vec();
        turned.reverse();
        assert_eq!(best(turned).unwrap().0, name, "whatever the order");
        (name.leaf().unwrap().to_owned(), why)
    }

    #[test]
    fn each_reason_counts_more_than_those_after_it() {
        let (a, b) = (host("a"), host("b"));
        assert_eq!(chosen(std::slice::from_ref(&a)), ("a".into(), String::new()));
        let said = |why: &str| format!(", of 2 hosts: {why}");
        assert_eq!(chosen(&[a.clone(), b.clone()]), ("a".into(), said("the first by name")));
        let a = Candidate { programs: 1, ..a };
        assert_eq!(chosen(&[a.clone(), b.clone()]), ("b".into(), said("the fewest programs")));
        let b = Candidate { load: Some(0.3), ..b };
        assert_eq!(chosen(&[a.clone(), b.clone()]), ("a".into(), said("the lowest load, 0.00 a core")));
        let a = Candidate { copies: 1, ..a };
        assert_eq!(chosen(&[a.clone(), b.clone()]), ("b".into(), said("the fewest copies of it")));
        let b = Candidate { failed: true, ..b };
        assert_eq!(chosen(&[a, b]), ("a".into(), said("it failed last elsewhere")));
    }

    #[test]
    fn a_small_difference_in_load_does_not_draw_every_start_to_one_host() {
        let (a, b) = (Candidate { load: Some(0.2), ..host("a") }, Candidate { programs: 3, ..host("b") });
        assert_eq!(chosen(&[a, b]).0, "a");
    }
}
