//! Clients that write and read records, and what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use byname_testkit::eventually;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::history::{Operation, violations};
use crate::support::{Hosts, look, put, runtime};

/// Records that the clients share.
const KEYS: usize = 24;

/// Clients at work.
pub(crate) struct Load {
    runtime: Runtime,
    begun: Instant,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    operations: Vec<Operation>,
    errors: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Writes that were answered.
    pub(crate) answered: u64,
    /// Operations that failed, with their errors.
    pub(crate) errors: Vec<String>,
    /// The longest time in which no write was answered to anybody.
    pub(crate) pause: Duration,
    /// What is wrong with the history.
    pub(crate) violations: Vec<String>,
}

impl Load {
    /// So many clients, each a clerk of its own that knows all servers: two writes, then a linearizable read, without a pause.
    pub(crate) fn start(hosts: &Hosts, clients: usize) -> Load {
        Load::start_at(hosts, clients, Duration::ZERO)
    }

    /// The same with so much time between two operations of a client.
    pub(crate) fn start_at(hosts: &Hosts, clients: usize, pause: Duration) -> Load {
        let runtime = runtime();
        let (stop, answered, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Instant::now());
        let clients = (0..clients)
            .map(|number| {
                let _within = runtime.enter();
                let (clerk, stop, answered) = (hosts.clerk(), stop.clone(), answered.clone());
                runtime.spawn(async move {
                    let mut seen = Seen::default();
                    let mut turn = number;
                    while !stop.load(Ordering::Relaxed) {
                        turn += 1;
                        if !pause.is_zero() {
                            tokio::time::sleep(pause).await;
                        }
                        let key = format!("/load/{}", (turn * 7 + number) % KEYS);
                        let write = !turn.is_multiple_of(3);
                        let begin = micros(begun);
                        let (value, done) = if write {
                            let value = format!("{number}-{turn}");
                            let done = put(&clerk, &key, &value).await.map_err(|e| (e, true));
                            (Some(value), done)
                        } else {
                            match look(&clerk, &key, true).await {
                                Ok(found) => (found.value, Ok(())),
                                Err(error) if error.code() == byname_api::Code::NotFound => (None, Ok(())),
                                Err(error) => (None, Err((error, false))),
                            }
                        };
                        let end = match done {
                            Ok(()) => Some(micros(begun)),
                            Err((error, write)) => {
                                seen.errors.push(format!("{key} at {begin}, after {}: {error}", micros(begun) - begin));
                                if !write {
                                    continue;
                                }
                                None
                            }
                        };
                        if write && end.is_some() {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        seen.operations.push(Operation { key, value, write, begin, end });
                    }
                    seen
                })
            })
            .collect();
        Load { runtime, begun, stop, answered, clients }
    }

    /// Waits until so many more writes have been answered.
    pub(crate) fn goes_on(&self, writes: u64) {
        let aim = self.answered.load(Ordering::Relaxed) + writes;
        eventually("more answered writes", || (self.answered.load(Ordering::Relaxed) >= aim).then_some(()));
    }

    /// Writes that were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets the clients end, reads every record once more, and judges what they saw.
    pub(crate) fn stop(self, hosts: &Hosts) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let (mut operations, mut errors) = (Vec::new(), Vec::new());
        for client in self.clients {
            let seen = self.runtime.block_on(client).unwrap();
            operations.extend(seen.operations);
            errors.extend(seen.errors);
        }
        let mut answers: Vec<u64> = operations.iter().filter(|o| o.write).filter_map(|o| o.end).collect();
        answers.sort_unstable();
        let pause = answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        self.runtime.block_on(async {
            let _within = self.runtime.enter();
            let clerk = hosts.clerk();
            for number in 0..KEYS {
                let key = format!("/load/{number}");
                let begin = micros(self.begun);
                let found = match look(&clerk, &key, true).await {
                    Ok(found) => found.value,
                    Err(error) if error.code() == byname_api::Code::NotFound => None,
                    Err(error) => panic!("{key}: {error}"),
                };
                let end = Some(micros(self.begun));
                operations.push(Operation { key, value: found, write: false, begin, end });
            }
        });
        let answered = self.answered.load(Ordering::Relaxed);
        Outcome { answered, errors, pause: Duration::from_micros(pause), violations: violations(&operations) }
    }
}

fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}
