//! Whole clusters on one thread: servers on disks and a network that fail in every way, clients that write down what they saw,
//! and a seed that decides it all.

mod clients;
mod machine;
mod servers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use byname_sim::{Network, Seeds, Setup, Weather, note, only_world, was_world, world, worlds};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use clients::{Client, History};
use servers::{End, Servers, Sizes, server};

async fn live(setup: Setup) {
    let mut dice = StdRng::seed_from_u64(setup.seed);
    let weather = Weather {
        shortest: Duration::from_micros(300),
        spread: Duration::from_millis(2),
        tail: Duration::from_millis(10),
        loss: 0.01,
        twice: 0.01,
        reorder: false,
    };
    let network = Network::new(dice.random(), weather);
    let sizes = Sizes { segment_bytes: 16 << 10, snapshot_every: 16 << 10 };
    let servers = Servers::new(network, sizes, dice.random());
    servers.begin(1, true).await;
    let first = servers.running(1).expect("server 1");
    for id in 2..=3 {
        servers.begin(id, false).await;
        first.cluster.add_server(server(id)).await.expect("a server is added");
    }
    let history = Arc::<Mutex<History>>::default();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let dice = StdRng::seed_from_u64(dice.random());
            let client = Client::new(number, 4, Arc::clone(&servers), Arc::clone(&history), Arc::clone(&stop), dice);
            tokio::spawn(client.work(Duration::from_millis(80)))
        })
        .collect();
    let looking = Arc::clone(&servers);
    tokio::spawn(async move {
        loop {
            looking.look();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(dice.random_range(200..3000))).await;
        let id = dice.random_range(1..=3);
        servers.end(id, if dice.random() { End::Kill } else { End::Power });
        tokio::time::sleep(Duration::from_millis(dice.random_range(10..1500))).await;
        servers.begin(id, false).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let _ = client.await;
    }
    note(format_args!("all clients have ended"));
    history.lock().unwrap().check();
}

#[test]
fn clusters_answer_like_one_machine_whatever_fails() {
    if was_world(live) || only_world(live) {
        return;
    }
    let test = "clusters_answer_like_one_machine_whatever_fails";
    let (a, b) = (world(test, 1, ""), world(test, 1, ""));
    if let Err(text) = &a {
        println!("{text}");
    }
    assert_eq!(a, b);
    let summary = worlds(test, "", Seeds::For { seconds: 10 });
    println!("{summary:?}");
    if let Some((seed, text)) = summary.failed {
        panic!("seed {seed}:\n{text}");
    }
}
