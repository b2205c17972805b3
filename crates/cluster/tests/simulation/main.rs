//! Whole clusters on one thread: servers on disks and a network that fail in every way, clients that write down what they saw,
//! and a seed that decides it all.
//!
//! Held all the time:
//!
//! - the history of every list that the clients saw is linearizable: no answered write is lost, no read is stale, whatever
//!   server was asked, and a write that was sent again and again was made once,
//! - all servers apply the same entries in the same order, each once, also over snapshots,
//! - no two servers are the primary of one term,
//! - no server stops by itself or finds its own disk damaged,
//! - when everything is repaired, the cluster answers again and all servers come to the same end.
//!
//! The variables that choose seeds are those of the crate `byname-sim`.

mod clients;
mod faults;
mod machine;
mod servers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use byname_cluster::Mutation;
use byname_sim::{Network, Seeds, Setup, again, note, only_world, violation, was_world, world, worlds};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use clients::{Client, History};
use faults::{ALL, FAIR, Fate};
use machine::Ask;
use servers::{Servers, Sizes, server};

/// For how long things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// The variant in which nothing goes wrong but that the primary is killed, under the writes of many.
const KILLS: &str = "kills";
const KILLS_A_WORLD: u64 = 20;
/// How long a cluster that is whole again may take to settle.
const PATIENCE: Duration = Duration::from_secs(20);

async fn live(setup: Setup) {
    if let Some(mutation) = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == setup.variant) {
        mutation.activate();
    }
    let mut dice = StdRng::seed_from_u64(setup.seed);
    let weather = FAIR;
    let sizes = Sizes { segment_bytes: 4 << dice.random_range(10..13), snapshot_every: 4 << dice.random_range(10..14) };
    let servers = Servers::new(Network::new(dice.random(), weather), sizes, dice.random());
    let kills = setup.variant == KILLS;
    let count = if kills { 3 } else { [1, 2, 3, 3, 3, 3, 3, 3, 5, 5][dice.random_range(0..10)] };
    servers.begin(1, true).await;
    let Some(first) = servers.running(1) else { return violation("the first server does not begin") };
    for id in 2..=count {
        servers.begin(id, false).await;
        if let Err(error) = first.cluster.add_server(server(id)).await {
            return violation(format!("server {id} is not added: {error}"));
        }
    }
    note(format_args!("{count} servers, {sizes:?}"));
    let looking = Arc::clone(&servers);
    tokio::spawn(async move {
        loop {
            looking.look();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });

    let history = Arc::<Mutex<History>>::default();
    let stop = Arc::new(AtomicBool::new(false));
    let (number, keys) = (dice.random_range(2..7), dice.random_range(1..5));
    let pause = Duration::from_millis(dice.random_range(20..300));
    let (number, keys, pause) = if kills { (64, 8, Duration::from_millis(300)) } else { (number, keys, pause) };
    let client = |number, dice: &mut StdRng| {
        let dice = StdRng::seed_from_u64(dice.random());
        Client::new(number, keys, Arc::clone(&servers), Arc::clone(&history), Arc::clone(&stop), dice)
    };
    let clients: Vec<_> = (0..number).map(|number| tokio::spawn(client(number, &mut dice).work(pause))).collect();

    let fate_dice = StdRng::seed_from_u64(dice.random());
    let mut fate = Fate { servers: Arc::clone(&servers), dice: fate_dice, clients: number, next_id: 10, weather };
    let calm = dice.random_range(100..3000);
    for strike in 0.. {
        if if kills { strike == KILLS_A_WORLD } else { byname_sim::elapsed() >= TROUBLE } {
            break;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..calm))).await;
        if kills {
            fate.kill_primary().await;
        } else {
            fate.strike(ALL[dice.random_range(0..ALL.len())]).await;
        }
    }
    // What is under way ends, and is repaired.
    tokio::time::sleep(Duration::from_secs(4)).await;
    faults::repair(&servers, weather).await;
    note(format_args!("everything is repaired"));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let _ = client.await;
    }
    if !client(number, &mut dice).steadfast().write(0, Ask::Append(0)).await {
        return violation("a cluster that is whole does not take a write");
    }
    settle(&servers).await;
    history.lock().unwrap().check(&servers.ledger.lock().unwrap());
}

/// Returns when all members have applied all that anybody applied.
async fn settle(servers: &Servers) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (members, last) = (servers.members(), servers.ledger.lock().unwrap().last());
        let behind: Vec<_> = members
            .into_iter()
            .map(|id| (id, servers.running(id).and_then(|running| running.cluster.status().applied)))
            .filter(|(_, applied)| *applied < Some(last))
            .collect();
        if behind.is_empty() && servers.primary().is_some() {
            return;
        }
        if tokio::time::Instant::now() > end {
            return violation(format!("these do not come to entry {last}: {behind:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn clusters_answer_like_one_machine_whatever_fails() {
    const TEST: &str = "clusters_answer_like_one_machine_whatever_fails";
    if was_world(live) || only_world(live) {
        return;
    }
    let summary = worlds(TEST, "", Seeds::For { seconds: 60 });
    println!(
        "{} worlds, {} s of their own time, {} events: {:?}",
        summary.worlds,
        summary.lasted_ms / 1000,
        summary.events,
        summary.seen
    );
    if let Some((seed, text)) = summary.failed {
        panic!("{text}\nseed {seed} failed; again: {}", again("byname-cluster", TEST, seed, ""));
    }
}

#[test]
fn two_hundred_kills_of_the_primary_under_64_clients_lose_nothing() {
    const TEST: &str = "two_hundred_kills_of_the_primary_under_64_clients_lose_nothing";
    if was_world(live) || only_world(live) {
        return;
    }
    let summary = worlds(TEST, KILLS, Seeds::UntilFailure { first: 0, count: 200 / KILLS_A_WORLD });
    println!("{} worlds: {:?}", summary.worlds, summary.seen);
    if let Some((seed, text)) = summary.failed {
        panic!("{text}\nseed {seed} failed; again: {}", again("byname-cluster", TEST, seed, KILLS));
    }
    assert_eq!(summary.seen.get("kill").copied(), Some(200));
}

#[test]
fn a_seed_is_the_same_run_again() {
    const TEST: &str = "a_seed_is_the_same_run_again";
    if was_world(live) {
        return;
    }
    let run = |seed| world(TEST, seed, "").unwrap_or_else(|text| panic!("{text}"));
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first.hash, run(2).hash);
}

/// Whoever breaks one of the rules that the crate lives by is found out, by the worlds in which nothing else is found.
#[test]
fn every_way_to_be_broken_is_noticed_within_a_hundred_seeds() {
    const TEST: &str = "every_way_to_be_broken_is_noticed_within_a_hundred_seeds";
    if was_world(live) || only_world(live) {
        return;
    }
    let mut unnoticed = Vec::new();
    for mutation in Mutation::ALL {
        let variant = format!("{mutation:?}");
        let summary = worlds(TEST, &variant, Seeds::UntilFailure { first: 0, count: 100 });
        match summary.failed {
            Some((seed, text)) => {
                let why = text.lines().find_map(|line| Some(line.split_once("VIOLATION: ")?.1)).unwrap_or_default();
                println!("{variant} is noticed with seed {seed}: {why}");
            }
            None => unnoticed.push(mutation),
        }
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}
