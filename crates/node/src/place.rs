//! Which host a new copy is started on.
//!
//! Of the hosts that the launch allows, that are up and not drained, and that have room, in this order: not the one where
//! the service failed last; the one with the fewest copies of it; the least busy; the one with the fewest programs; the
//! first by name.

use byname_api::error::{Code, Error, Result};
use byname_api::host::HostState;
use byname_api::launch::Launch;
use byname_api::object::Value;
use byname_name::Name;
use byname_registry::computers::Host;
use byname_registry::{Node as Object, Tree};
use tokio::time::Instant;

use crate::Inner;
use crate::start::{AGENT_GRACE, allows};

/// Hosts whose load a core differs by less are taken to be equally busy: a load average is slow, and many starts at once
/// must not all go to the host that looked best before them.
const BUSY_STEP: f64 = 0.25;

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

impl Inner {
    /// The host for a new copy, and how it was chosen, in words that follow a reason.
    pub(crate) async fn place(&self, node: &Object, deadline: Instant) -> Result<(Name, String)> {
        loop {
            let arrived = self.agents.arrived.notified();
            let tree = self.view.load_full();
            let connected = self.agents.computers();
            let refusal = match self.candidates(&tree, node, &connected) {
                Ok(candidates) => match best(candidates) {
                    Some(found) => return Ok(found),
                    None => no_agent(node),
                },
                Err(refusal) => refusal,
            };
            let patience = (*self.since.lock() + AGENT_GRACE).min(deadline);
            if Instant::now() >= patience {
                return Err(refusal);
            }
            let _ = tokio::time::timeout_at(patience, arrived).await;
        }
    }

    /// Those that could take a copy; when there are none, why.
    fn candidates(&self, tree: &Tree, node: &Object, connected: &[Name]) -> Result<Vec<Candidate>> {
        if connected.is_empty() {
            return Err(no_agent(node));
        }
        let shown = |names: &[&Name]| names.iter().filter_map(|n| n.leaf()).collect::<Vec<_>>().join(", ");
        let launch = node.spec.launch.as_ref();
        let hosts = launch.and_then(|l| l.hosts.as_deref());
        let fits = |c: &&Name| hosts.is_none_or(|list| list.iter().any(|h| allows(tree, h, c, 0)));
        let allowed: Vec<&Name> = connected.iter().filter(fits).collect();
        if allowed.is_empty() {
            return Err(Error::new(
                Code::NoHost,
                format!(
                    "`{}` may run on {} only, and no such host has a connected agent (connected: {})",
                    node.name,
                    hosts.unwrap_or_default().join(", "),
                    shown(&connected.iter().collect::<Vec<_>>())
                ),
            ));
        }
        let up = |c: &&&Name| tree.host(c).map(Host::state).unwrap_or(HostState::Up) == HostState::Up;
        let usable: Vec<&Name> = allowed.iter().filter(up).copied().collect();
        if usable.is_empty() {
            return Err(Error::new(
                Code::NoHost,
                format!(
                    "no host may take `{}` now: {} drained or down (`byname list '/computers/*'` shows them, `byname undrain \
                     HOST` lets one be used again)",
                    node.name,
                    match allowed.len() {
                        1 => format!("{} is", shown(&allowed)),
                        _ => format!("{} are", shown(&allowed)),
                    }
                ),
            ));
        }
        let roomy: Vec<&Name> = usable.iter().filter(|c| has_room(tree, c, launch)).copied().collect();
        if roomy.is_empty() {
            return Err(Error::new(
                Code::NoHost,
                format!(
                    "no host has room for the memory or the cores that `{}` may use: {} full",
                    node.name,
                    if usable.len() == 1 {
                        format!("{} is", shown(&usable))
                    } else {
                        format!("{} are", shown(&usable))
                    }
                ),
            ));
        }
        let failed = self.hosts.failed_last(node.id);
        let copies = |c: &Name| {
            node.service.iter().flat_map(|s| &s.instances).filter(|i| i.computer.as_ref() == Some(c)).count()
        };
        // Looked up only where there is a choice.
        let choice = roomy.len() > 1;
        let candidate = |c: &&Name| Candidate {
            name: (*c).clone(),
            failed: failed.as_ref() == Some(*c),
            copies: copies(c),
            load: if choice {
                self.hosts.of(c).and_then(|(heard, _)| heard.load).map(|l| l / cores(tree, c))
            } else {
                None
            },
            programs: if choice { programs(tree, c) } else { 0 },
        };
        Ok(roomy.iter().map(candidate).collect())
    }
}

fn no_agent(node: &Object) -> Error {
    Error::new(
        Code::NoHost,
        format!("no agent is connected, so `{}` can be started nowhere: start `byname agent` on a host", node.name),
    )
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

fn programs(tree: &Tree, computer: &Name) -> usize {
    let on = |node: &Object| {
        let instances = node.service.iter().flat_map(|s| &s.instances);
        instances.filter(|i| i.computer.as_ref() == Some(computer)).count()
    };
    tree.live().map(|node| on(&node)).sum()
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
    for node in tree.live() {
        let Some(theirs) = node.spec.launch.as_ref().and_then(|l| l.limits.as_ref()) else { continue };
        let instances = node.service.iter().flat_map(|s| &s.instances);
        let here = instances.filter(|i| i.computer.as_ref() == Some(computer)).count() as f64;
        memory_taken += here * theirs.memory.map_or(0.0, |bytes| bytes.0 as f64);
        cpu_taken += here * theirs.cpu.unwrap_or(0.0);
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
