//! Hosts: which can be heard, what runs on those that cannot, and how busy they are.
//!
//! What the agents say is soft state, held by the primary and logged by nobody. What follows from it is logged: a host goes
//! down when its agent was silent for [`HostTimes::silence`], its copies are given up after [`HostTimes::grace`], and it is
//! up again when its agent is back and has told what runs there. A server that has just become the primary gives every
//! host one full term before it judges, and so does one that was itself stopped for a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use byname_api::launch::{Launch, OnPartition};
use byname_api::object::{InstanceId, ObjectId};
use byname_api::span::Timestamp;
use byname_name::Name;
use byname_registry::command::HostChange;
use byname_registry::computers::Footing;
use byname_registry::{Command, Tree};

use crate::Inner;
use crate::start::now;
use byname_api::sample::OfHost;

/// How often the hosts are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// A look that comes so late says that this process was stopped, and nothing about the hosts.
const STOPPED: Duration = Duration::from_secs(1);
/// What is added to the time that a cut-off agent takes to stop a copy before another is started.
const MARGIN: Duration = Duration::from_secs(5);
/// How long a service is kept away from the host where it failed.
const AVOIDED: Duration = Duration::from_secs(600);

/// When a host is judged, and how.
#[derive(Clone, Copy, Debug)]
pub struct HostTimes {
    /// How often an agent says that it is there.
    pub beat: Duration,
    /// A host whose agent was silent for so long is down.
    pub silence: Duration,
    /// The copies on a host that was silent for so long are given up, and others start in their place.
    pub grace: Duration,
    /// A cut-off agent stops copies with `on_partition = stop` after so long.
    pub stop_after: Duration,
}

impl Default for HostTimes {
    fn default() -> Self {
        HostTimes {
            beat: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            grace: Duration::from_secs(30),
            stop_after: Duration::from_secs(15),
        }
    }
}

/// What the hosts' agents said lately.
#[derive(Default)]
pub(crate) struct Hosts {
    times: RwLock<HostTimes>,
    heard: Mutex<BTreeMap<Name, Heard>>,
    failed: Mutex<HashMap<ObjectId, (Name, Instant)>>,
    /// Something happened that the next look need not be waited for.
    pub(crate) news: Notify,
}

/// What is known of one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// When its agent last said something; when it was granted a term, if that is later.
    last: Instant,
    /// The same by the wall clock, for people; none before it said anything.
    seen: Option<Timestamp>,
    /// Streams that are open.
    streams: u32,
    /// Its agent says by itself that it is there. One that does not is believed to be as long as its stream is open.
    beats: bool,
    /// The newest stream's agent has told all that it has.
    synced: bool,
    /// Since it went down all of its copies were given up.
    settled: bool,
    /// Its load average.
    pub(crate) load: Option<f64>,
    /// Free memory, in bytes.
    pub(crate) memory_free: Option<u64>,
}

/// What a look at the hosts found.
#[derive(Debug, Default, PartialEq)]
struct Found {
    changes: Vec<(Name, HostChange)>,
    lost: Vec<InstanceId>,
}

impl Hosts {
    pub(crate) fn times(&self) -> HostTimes {
        *self.times.read()
    }

    pub(crate) fn set_times(&self, times: HostTimes) {
        *self.times.write() = times;
    }

    fn with<T>(&self, computer: &Name, change: impl FnOnce(&mut Heard) -> T) -> T {
        let mut heard = self.heard.lock();
        if let Some(known) = heard.get_mut(computer) {
            return change(known);
        }
        change(heard.entry(computer.clone()).or_insert(Heard {
            last: Instant::now(),
            seen: None,
            streams: 0,
            beats: false,
            synced: false,
            settled: false,
            load: None,
            memory_free: None,
        }))
    }

    /// A stream was opened.
    pub(crate) fn arrived(&self, computer: &Name, beats: bool) {
        self.with(computer, |heard| {
            (heard.last, heard.seen) = (Instant::now(), Some(now()));
            (heard.beats, heard.synced) = (beats, false);
            heard.streams += 1;
        });
    }

    /// A stream has ended.
    pub(crate) fn left(&self, computer: &Name) {
        self.with(computer, |heard| {
            heard.streams = heard.streams.saturating_sub(1);
            heard.synced &= heard.streams > 0;
        });
    }

    /// An agent said something.
    pub(crate) fn spoke(&self, computer: &Name) {
        self.with(computer, |heard| (heard.last, heard.seen) = (Instant::now(), Some(now())));
    }

    /// An agent said how busy its host is.
    pub(crate) fn sampled(&self, computer: &Name, load: Option<f64>, memory_free: Option<u64>) {
        let load = load.filter(|load| load.is_finite() && *load >= 0.0);
        self.with(computer, |heard| (heard.load, heard.memory_free) = (load, memory_free));
    }

    /// An agent has told all that it has.
    pub(crate) fn synced(&self, computer: &Name) {
        self.with(computer, |heard| heard.synced = heard.streams > 0);
        self.news.notify_one();
    }

    /// What is known of a host.
    pub(crate) fn of(&self, computer: &Name) -> Option<(Heard, Option<Timestamp>)> {
        self.heard.lock().get(computer).map(|heard| (*heard, heard.seen))
    }

    /// What is known of hosts, for the other servers.
    pub(crate) fn samples(&self) -> Vec<OfHost> {
        let heard = self.heard.lock();
        let known = heard.iter().filter(|(_, heard)| heard.seen.is_some());
        known
            .map(|(name, heard)| OfHost {
                name: name.to_string(),
                load: heard.load,
                memory_free: heard.memory_free,
                seen: heard.seen.map(|at| at.0),
            })
            .collect()
    }

    /// Takes what the primary knows of a host.
    pub(crate) fn take_sample(&self, computer: &Name, sample: &OfHost) {
        self.with(computer, |heard| {
            (heard.load, heard.memory_free) = (sample.load, sample.memory_free);
            heard.seen = sample.seen.map(Timestamp);
        });
    }

    /// Nobody is judged by what was not heard before now.
    pub(crate) fn grant_all(&self) {
        let now = Instant::now();
        for heard in self.heard.lock().values_mut() {
            heard.last = now;
        }
    }

    /// A copy failed on a host.
    pub(crate) fn failed(&self, service: ObjectId, computer: &Name) {
        let mut failed = self.failed.lock();
        failed.retain(|_, (_, at)| at.elapsed() < AVOIDED);
        failed.insert(service, (computer.clone(), Instant::now()));
    }

    /// Where a service failed last, if that was not long ago.
    pub(crate) fn failed_last(&self, service: ObjectId) -> Option<Name> {
        self.failed.lock().get(&service).filter(|(_, at)| at.elapsed() < AVOIDED).map(|(name, _)| name.clone())
    }

    /// What is to be logged.
    fn judge(&self, tree: &Tree) -> Found {
        let (times, now) = (self.times(), Instant::now());
        let mut found = Found::default();
        for (node, host) in tree.hosts() {
            let name = node.name.clone();
            let heard = self.with(&name, |heard| {
                if heard.streams > 0 && !heard.beats {
                    heard.last = now;
                }
                if host.down.is_none() {
                    heard.settled = false;
                }
                *heard
            });
            let silent = now.saturating_duration_since(heard.last);
            match host.down {
                None if silent > times.silence => found.changes.push((name, HostChange::Down)),
                Some(_) if heard.synced && silent <= times.silence => found.changes.push((name, HostChange::Up)),
                Some(_) if silent > times.grace && !heard.settled => {
                    let (lost, left) = given_up(tree, &name, silent, times);
                    if lost.is_empty() && !left {
                        self.with(&name, |heard| heard.settled = true);
                    }
                    found.lost.extend(lost);
                }
                _ => {}
            }
        }
        found
    }
}

/// The copies on a silent host that others shall take the place of by now, and whether any are left that shall later.
fn given_up(tree: &Tree, computer: &Name, silent: Duration, times: HostTimes) -> (Vec<InstanceId>, bool) {
    let (mut lost, mut left) = (Vec::new(), false);
    for id in tree.on_computer(&computer.key()) {
        let Some(node) = tree.by_instance(id) else { continue };
        let down = node.service.iter().filter_map(|s| s.instance(id)).any(|i| i.footing == Footing::Down);
        if down && silent > before_another(node.spec.launch.as_ref(), times) {
            lost.push(id);
        } else if down {
            left = true;
        }
    }
    (lost, left)
}

/// How long a host must have been silent before another copy of this service is started elsewhere. One that must not run
/// twice has been stopped by its agent by then.
fn before_another(launch: Option<&Launch>, times: HostTimes) -> Duration {
    match launch {
        Some(launch) if launch.on_partition == Some(OnPartition::Stop) => {
            times.grace.max(times.stop_after + launch.stop_timeout().duration() + MARGIN)
        }
        _ => times.grace,
    }
}

/// Follows the hosts, as long as the server lives; only the primary judges.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut primary) = (Instant::now(), false);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = inner.hosts.news.notified() => {}
        }
        if inner.stopping() {
            return;
        }
        let was = std::mem::replace(&mut primary, inner.reigns());
        if !primary {
            last = Instant::now();
            continue;
        }
        // The time that the log took counts: who could not log could not hear, for all that is known.
        let since = std::mem::replace(&mut last, Instant::now());
        if !was || since.elapsed() > STOPPED {
            inner.hosts.grant_all();
        }
        let tree = inner.view.load_full();
        let found = inner.hosts.judge(&tree);
        for (name, change) in &found.changes {
            match change {
                HostChange::Down => tracing::warn!(computer = %name, "its agent is silent: the host is down"),
                _ => tracing::info!(computer = %name, "the host is up again"),
            }
        }
        if !found.lost.is_empty() {
            tracing::warn!(copies = found.lost.len(), "given up: their hosts have been down for too long");
        }
        let Found { changes, lost } = found;
        let mut commands = Vec::new();
        if !changes.is_empty() {
            commands.push(Command::Hosts { changes });
        }
        if !lost.is_empty() {
            commands.push(Command::Lose { instances: lost });
        }
        for command in commands {
            if let Err(error) = inner.propose("byname", None, command).await {
                tracing::warn!(error = error.log_line(), "what became of hosts cannot be logged now; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_copy_waits_until_the_first_has_been_stopped() {
        let times = HostTimes::default();
        let launch = |on_partition| Launch { on_partition, ..Launch::default() };
        assert_eq!(before_another(None, times), times.grace);
        assert_eq!(before_another(Some(&launch(Some(OnPartition::Keep))), times), times.grace);
        let quick = HostTimes { grace: Duration::from_secs(4), ..times };
        let stop = launch(Some(OnPartition::Stop));
        let whole = quick.stop_after + stop.stop_timeout().duration() + MARGIN;
        assert_eq!(before_another(Some(&stop), quick), whole);
        let patient = HostTimes { grace: whole * 2, ..times };
        assert_eq!(before_another(Some(&stop), patient), whole * 2);
    }
}
