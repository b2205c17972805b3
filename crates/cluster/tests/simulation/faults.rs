//! What goes wrong in a world, and when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use byname_sim::{Pace, Weather, jump_wall_clock, note, seen};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::clients::PLACE;
use crate::servers::{End, QUICK, ROOM, Servers, server};

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed and begins again.
    Kill,
    /// The process of the primary is.
    KillPrimary,
    /// A host loses power.
    PowerCut,
    /// All hosts do, at once; at times while their disks are slow.
    Blackout,
    /// The network falls into two parts.
    Partition,
    /// Nothing arrives on some lines, in one direction.
    OneWay,
    /// A host is cut off, from its clients too.
    CutOff,
    /// The primary is cut off from the others, and its clients reach it.
    CutOffPrimary,
    /// A host stands still for a moment.
    Freeze,
    /// A disk is slow for a while.
    SlowDisk,
    /// A disk fails to sync a few times.
    FailedSyncs,
    /// A disk is full for a while.
    FullDisk,
    /// Much is lost, doubled, late and out of order.
    Storm,
    /// The wall clock jumps.
    ClockJump,
    /// The lead is handed over.
    Transfer,
    /// A server leaves for good, and a new one comes.
    Replace,
    /// A server writes a snapshot.
    Snapshot,
}

/// All of them, the likely ones more than once.
pub(crate) const ALL: &[Fault] = &[
    Fault::Kill,
    Fault::Kill,
    Fault::KillPrimary,
    Fault::KillPrimary,
    Fault::KillPrimary,
    Fault::PowerCut,
    Fault::PowerCut,
    Fault::PowerCut,
    Fault::Blackout,
    Fault::Partition,
    Fault::Partition,
    Fault::OneWay,
    Fault::OneWay,
    Fault::CutOff,
    Fault::CutOffPrimary,
    Fault::CutOffPrimary,
    Fault::Freeze,
    Fault::Freeze,
    Fault::SlowDisk,
    Fault::FailedSyncs,
    Fault::FullDisk,
    Fault::Storm,
    Fault::ClockJump,
    Fault::Transfer,
    Fault::Transfer,
    Fault::Replace,
    Fault::Snapshot,
];

pub(crate) const FAIR: Weather = Weather {
    shortest: Duration::from_micros(300),
    spread: Duration::from_millis(2),
    tail: Duration::from_millis(10),
    loss: 0.002,
    twice: 0.002,
    reorder: false,
};
const STORM: Weather = Weather {
    shortest: Duration::from_millis(1),
    spread: Duration::from_millis(40),
    tail: Duration::from_millis(400),
    loss: 0.2,
    twice: 0.1,
    reorder: true,
};

/// Whoever lets things go wrong.
pub(crate) struct Fate {
    pub(crate) servers: Arc<Servers>,
    pub(crate) dice: StdRng,
    pub(crate) clients: u64,
    /// The number of the next new server.
    pub(crate) next_id: u64,
    pub(crate) weather: Weather,
}

impl Fate {
    fn ms(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.dice.random_range(range))
    }

    fn any(&mut self) -> u64 {
        let ids = self.servers.ids();
        ids[self.dice.random_range(0..ids.len())]
    }

    fn primary_or_any(&mut self) -> u64 {
        match self.servers.primary() {
            Some((id, _)) => id,
            None => self.any(),
        }
    }

    /// Lets one thing go wrong, and repairs it, mostly after a while. Others may go wrong meanwhile.
    pub(crate) async fn strike(&mut self, fault: Fault) {
        seen(name(fault));
        match fault {
            Fault::Kill => {
                let id = self.any();
                self.end_for_a_while(id, End::Kill);
            }
            Fault::KillPrimary => {
                let id = self.primary_or_any();
                self.end_for_a_while(id, End::Kill);
            }
            Fault::PowerCut => {
                let id = if self.dice.random() { self.any() } else { self.primary_or_any() };
                self.end_for_a_while(id, End::Power);
            }
            Fault::Blackout => {
                if self.dice.random() {
                    self.brownout().await;
                }
                for id in self.servers.ids() {
                    self.end_for_a_while(id, End::Power);
                }
            }
            Fault::Partition => {
                let ids = self.servers.ids();
                let part: BTreeSet<u64> = ids.iter().copied().filter(|_| self.dice.random()).collect();
                note(format_args!("the network falls apart: {part:?} of {ids:?}"));
                let lines = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b)));
                let between = lines.filter(|(a, b)| part.contains(a) != part.contains(b)).collect();
                self.cut_for_a_while(between);
            }
            Fault::OneWay => {
                let ids = self.servers.ids();
                let lines = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b)));
                let some: Vec<_> = lines.filter(|(a, b)| a != b && self.dice.random_ratio(1, 3)).collect();
                note(format_args!("nothing arrives on {some:?}"));
                self.cut_for_a_while(some);
            }
            Fault::CutOff => {
                let id = self.any();
                note(format_args!("server {id} is cut off"));
                let others = self.servers.ids().into_iter().chain((0..self.clients).map(|number| PLACE + number));
                let lines = others.filter(|other| *other != id).flat_map(|other| [(id, other), (other, id)]).collect();
                self.cut_for_a_while(lines);
            }
            Fault::CutOffPrimary => {
                let id = self.primary_or_any();
                note(format_args!("server {id} is cut off from the others"));
                let others = self.servers.ids().into_iter().filter(|other| *other != id);
                let lines = others.flat_map(|other| [(id, other), (other, id)]).collect();
                self.cut_for_a_while(lines);
            }
            Fault::Freeze => {
                let (id, time) = (self.primary_or_any(), self.ms(20..1500));
                note(format_args!("server {id} stands still for {time:?}"));
                self.servers.network.freeze(id, time);
                if let Some(disk) = self.servers.disk(id) {
                    disk.freeze(time);
                }
            }
            Fault::SlowDisk => {
                let (id, spread) = (self.any(), self.ms(10..600));
                let time = self.ms(200..4000);
                note(format_args!("the disk of server {id} needs up to {spread:?} for {time:?}"));
                self.with_disk_for(time, move |servers, slow| {
                    let pace = if slow { Pace { shortest: spread / 4, spread } } else { QUICK };
                    servers.disk(id).inspect(|disk| disk.set_pace(pace));
                });
            }
            Fault::FailedSyncs => {
                let (id, count) = (self.any(), self.dice.random_range(1..5));
                note(format_args!("the disk of server {id} fails {count} times"));
                self.servers.disk(id).inspect(|disk| disk.fail_syncs(count));
            }
            Fault::FullDisk => {
                let (id, room, time) = (self.any(), self.dice.random_range(0..4000), self.ms(100..3000));
                note(format_args!("the disk of server {id} is full for {time:?}"));
                self.with_disk_for(time, move |servers, full| {
                    let free = if full { room } else { ROOM };
                    servers.disk(id).inspect(|disk| disk.set_free(free));
                });
            }
            Fault::Storm => {
                let (servers, weather, time) = (Arc::clone(&self.servers), self.weather, self.ms(300..3000));
                note(format_args!("a storm for {time:?}"));
                servers.network.set_weather(STORM);
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    servers.network.set_weather(weather);
                });
            }
            Fault::ClockJump => jump_wall_clock(self.dice.random_range(-86_400_000..86_400_000)),
            Fault::Transfer => {
                let to = self.any();
                if let Some((from, primary)) = self.servers.primary() {
                    note(format_args!("the lead is to go from server {from} to {to}"));
                    tokio::spawn(async move {
                        let moved = primary.cluster.transfer(to).await;
                        note(format_args!("the lead went to server {to}: {moved:?}"));
                        if moved.is_ok() {
                            seen("lead handed over");
                        }
                    });
                }
            }
            Fault::Replace => self.replace().await,
            Fault::Snapshot => {
                let id = self.any();
                if let Some(running) = self.servers.running(id) {
                    tokio::spawn(async move {
                        if running.cluster.snapshot().await.is_ok() {
                            seen("snapshot");
                        }
                    });
                }
            }
        }
    }

    /// All disks are slow before the power goes: much is on its way to them then.
    async fn brownout(&mut self) {
        let spread = self.ms(50..500);
        note(format_args!("all disks need up to {spread:?}"));
        for id in self.servers.ids() {
            self.with_disk_for(spread * 2, move |servers, slow| {
                let pace = if slow { Pace { shortest: spread / 2, spread } } else { QUICK };
                servers.disk(id).inspect(|disk| disk.set_pace(pace));
            });
        }
        tokio::time::sleep(self.ms(10..500)).await;
    }

    /// Kills the primary, as soon as there is one that takes writes, and begins it again.
    pub(crate) async fn kill_primary(&mut self) {
        let id = loop {
            match self.servers.primary() {
                Some((id, running)) if running.cluster.role().borrow().primary => break id,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        self.end_for_a_while(id, End::Kill);
    }

    /// Ends a process, and begins it again after a while.
    fn end_for_a_while(&mut self, id: u64, how: End) {
        if self.servers.running(id).is_none() {
            return;
        }
        self.servers.end(id, how);
        let (servers, time) = (Arc::clone(&self.servers), self.ms(10..3000));
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            begin(&servers, id).await;
        });
    }

    fn cut_for_a_while(&mut self, lines: Vec<(u64, u64)>) {
        for (from, to) in &lines {
            self.servers.network.cut(*from, *to);
        }
        let (servers, time) = (Arc::clone(&self.servers), self.ms(100..4000));
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            for (from, to) in lines {
                servers.network.join(from, to);
            }
        });
    }

    fn with_disk_for(&mut self, time: Duration, change: impl Fn(&Servers, bool) + Send + 'static) {
        change(&self.servers, true);
        let servers = Arc::clone(&self.servers);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            change(&servers, false);
        });
    }

    /// Takes a server out of the cluster and its host away, and adds another with an empty disk.
    async fn replace(&mut self) {
        let members: Vec<u64> = self.servers.members().into_iter().collect();
        let Some(old) = members.choose(&mut self.dice).copied() else { return };
        let new = self.next_id;
        self.next_id += 1;
        let servers = Arc::clone(&self.servers);
        tokio::spawn(async move {
            if !servers.begin(new, false).await {
                servers.forget(new);
                return;
            }
            let Some((_, primary)) = servers.primary() else { return };
            let added = tokio::time::timeout(Duration::from_secs(4), primary.cluster.add_server(server(new))).await;
            note(format_args!("server {new} is added: {added:?}"));
            if !matches!(added, Ok(Ok(()))) {
                return;
            }
            seen("server added");
            let Some((_, primary)) = servers.primary() else { return };
            let gone = tokio::time::timeout(Duration::from_secs(4), primary.cluster.remove_server(old)).await;
            note(format_args!("server {old} is removed: {gone:?}"));
            if matches!(gone, Ok(Ok(()))) {
                seen("server removed");
                servers.forget(old);
            }
        });
    }
}

/// Begins a server again, on a disk that perhaps does not let it: then again, until it does.
pub(crate) async fn begin(servers: &Arc<Servers>, id: u64) {
    while servers.disk(id).is_some() && servers.running(id).is_none() {
        if servers.begin(id, false).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Everything is repaired.
pub(crate) async fn repair(servers: &Arc<Servers>, weather: Weather) {
    servers.network.heal();
    servers.network.set_weather(weather);
    for id in servers.ids() {
        if let Some(disk) = servers.disk(id) {
            disk.set_free(ROOM);
            disk.set_pace(QUICK);
            disk.fail_syncs(0);
        }
        begin(servers, id).await;
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::Kill => "fault: kill",
        Fault::KillPrimary => "fault: kill of the primary",
        Fault::PowerCut => "fault: power cut",
        Fault::Blackout => "fault: blackout",
        Fault::Partition => "fault: partition",
        Fault::OneWay => "fault: one-way cut",
        Fault::CutOff => "fault: host cut off",
        Fault::CutOffPrimary => "fault: primary cut off",
        Fault::Freeze => "fault: standstill",
        Fault::SlowDisk => "fault: slow disk",
        Fault::FailedSyncs => "fault: failed syncs",
        Fault::FullDisk => "fault: full disk",
        Fault::Storm => "fault: storm",
        Fault::ClockJump => "fault: clock jump",
        Fault::Transfer => "fault: transfer",
        Fault::Replace => "fault: replacement",
        Fault::Snapshot => "fault: snapshot",
    }
}
