//! The servers of a world: they begin, end in every way, and begin again on what their disks have left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use byname_cluster::{Cluster, OpenError, Options, Server, State};
use byname_sim::{Answer, FaultyDisk, Network, Pace, note, seen, violation};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::machine::{Ledger, Lists, View};

/// Room on a disk that is not full.
pub(crate) const ROOM: u64 = 1 << 40;
pub(crate) const QUICK: Pace = Pace { shortest: Duration::from_micros(200), spread: Duration::from_millis(3) };

/// What is the same for all servers of a world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) segment_bytes: u64,
    pub(crate) snapshot_every: u64,
}

/// All servers that there ever were.
pub(crate) struct Servers {
    pub(crate) network: Network,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    sizes: Sizes,
    slots: Mutex<BTreeMap<u64, Slot>>,
    dice: Mutex<StdRng>,
    /// Who led in a term.
    primaries: Mutex<BTreeMap<u64, u64>>,
}

struct Slot {
    disk: FaultyDisk,
    running: Option<Running>,
    /// Ends what begins or runs.
    ended: Arc<AtomicBool>,
}

/// A process that has opened its log.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) cluster: Cluster,
    pub(crate) view: Arc<Mutex<View>>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is killed; its host goes on.
    Kill,
    /// The power of its host is cut.
    Power,
}

pub(crate) fn server(id: u64) -> Server {
    Server { id, address: format!("server-{id}:7600") }
}

impl Servers {
    pub(crate) fn new(network: Network, sizes: Sizes, seed: u64) -> Arc<Servers> {
        Arc::new(Servers {
            network,
            ledger: Arc::default(),
            sizes,
            slots: Mutex::default(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            primaries: Mutex::default(),
        })
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.slots.lock().unwrap()
    }

    fn dice(&self) -> MutexGuard<'_, StdRng> {
        self.dice.lock().unwrap()
    }

    pub(crate) fn running(&self, id: u64) -> Option<Running> {
        self.slots().get(&id)?.running.clone()
    }

    /// Those that run now.
    pub(crate) fn all_running(&self) -> BTreeMap<u64, Running> {
        self.slots().iter().filter_map(|(id, slot)| Some((*id, slot.running.clone()?))).collect()
    }

    /// Those that ever began and were not taken away for good.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.slots().keys().copied().collect()
    }

    pub(crate) fn disk(&self, id: u64) -> Option<FaultyDisk> {
        Some(self.slots().get(&id)?.disk.clone())
    }

    /// The one that believes to be the primary, of the latest term.
    pub(crate) fn primary(&self) -> Option<(u64, Running)> {
        let running = self.all_running().into_iter();
        running.filter(|(_, server)| server.cluster.is_primary()).max_by_key(|(_, server)| server.cluster.term())
    }

    /// Begins a process on the disk of its host, which is empty the first time. False when it could not open its log, which
    /// only a disk may be the reason of.
    pub(crate) async fn begin(self: &Arc<Self>, id: u64, found: bool) -> bool {
        let ended = Arc::new(AtomicBool::new(false));
        let disk = {
            let disk_seed = self.dice().random();
            let mut slots = self.slots();
            let slot = slots.entry(id).or_insert_with(|| Slot {
                disk: FaultyDisk::paced(disk_seed, QUICK),
                running: None,
                ended: Arc::default(),
            });
            slot.ended = Arc::clone(&ended);
            slot.disk.clone()
        };
        note(format_args!("server {id} begins"));
        let port = self.network.begin(id);
        let options = Options {
            segment_bytes: self.sizes.segment_bytes,
            snapshot_every: self.sizes.snapshot_every,
            stall_patience: Duration::from_millis(200),
            found,
            address: server(id).address,
            ..Options::new("/cluster", id)
        };
        let (machine, view) = Lists::new(id, Arc::clone(&self.ledger), Arc::clone(&ended));
        let opened = Cluster::open_with(Arc::new(disk), Arc::new(port.clone()), options, machine).await;
        let cluster = match opened {
            Ok(cluster) => cluster,
            Err(error) => {
                note(format_args!("server {id} does not open: {error}"));
                // Only the disk may keep it from opening: one that is full, fails, or lost its power meanwhile.
                if !matches!(error, OpenError::Io { .. }) && !ended.load(Ordering::Relaxed) {
                    violation(format!("server {id} does not open: {error}"));
                }
                return false;
            }
        };
        if ended.load(Ordering::Relaxed) {
            tokio::spawn(async move { cluster.shutdown().await });
            return false;
        }
        let answering = cluster.clone();
        let answer: Answer = Arc::new(move |request| Box::pin(answering.answer(request)));
        port.serve(answer);
        if let Some(slot) = self.slots().get_mut(&id) {
            slot.running = Some(Running { cluster, view });
        }
        true
    }

    /// Ends a process, whatever it was doing. Peers notice the end of a process mostly, and that of a host not.
    pub(crate) fn end(self: &Arc<Self>, id: u64, how: End) {
        let running = {
            let seed = self.dice().random();
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(&id) else { return };
            slot.ended.store(true, Ordering::Relaxed);
            slot.disk = match how {
                End::Kill => slot.disk.after_kill(),
                End::Power => slot.disk.after_power_cut(seed),
            };
            slot.running.take()
        };
        note(format_args!("server {id} ends: {how:?}"));
        seen(if how == End::Kill { "kill" } else { "power cut" });
        self.network.end(id, how == End::Power);
        // Nothing reaches it and nothing of it reaches anybody, so its remains may take their time.
        if let Some(running) = running {
            tokio::spawn(async move { running.cluster.shutdown().await });
        }
        if how == End::Kill {
            for (other, running) in self.all_running() {
                let (noticed, after) = {
                    let mut dice = self.dice();
                    (dice.random_ratio(4, 5), Duration::from_millis(dice.random_range(1..5)))
                };
                if noticed && self.network.whole(id, other) {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        running.cluster.peer_gone(id);
                    });
                }
            }
        }
    }

    /// Takes away a host and its disk for good.
    pub(crate) fn forget(self: &Arc<Self>, id: u64) {
        self.end(id, End::Power);
        self.slots().remove(&id);
    }

    /// Looks at who leads: at most one server a term.
    pub(crate) fn look(&self) {
        for (id, running) in self.all_running() {
            let status = running.cluster.status();
            if status.state == State::Stopped {
                violation(format!("server {id} has stopped by itself"));
            }
            if status.state == State::Primary {
                let mut primaries = self.primaries.lock().unwrap();
                match primaries.get(&status.term) {
                    None => {
                        note(format_args!("server {id} is the primary of term {}", status.term));
                        primaries.insert(status.term, id);
                        seen("primary");
                    }
                    Some(known) if *known != id => {
                        violation(format!("servers {known} and {id} are both the primary of term {}", status.term));
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// The members by the word of the primary.
    pub(crate) fn members(&self) -> BTreeSet<u64> {
        let Some((_, primary)) = self.primary() else { return BTreeSet::new() };
        primary.cluster.members().into_iter().map(|member| member.server.id).collect()
    }
}
