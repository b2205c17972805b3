//! The clients of a world: they write and read, fail over, and write down what they saw.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use byname_cluster::{Lane, ProposeError};
use byname_sim::linear::{self, Operation};
use byname_sim::{elapsed, seen, trace, violation};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use crate::machine::{Answer, Ask, Command, Ledger, List, answer_of};
use crate::servers::Servers;

type Work<T> = BoxFuture<'static, Result<T, ProposeError>>;

/// Clients have the places from here on in the network.
pub(crate) const PLACE: u64 = 1000;
/// One try at one server.
const TRY: Duration = Duration::from_millis(700);
/// A client that got no answer for so long gives up.
const PATIENCE: Duration = Duration::from_secs(8);

/// What all clients saw.
#[derive(Default)]
pub(crate) struct History {
    events: Vec<Event>,
    last: u64,
}

struct Event {
    key: u8,
    /// The request, of a write.
    request: Option<(u64, u64)>,
    operation: Operation<Ask, Answer>,
}

impl History {
    /// A moment that comes after all others: the time in hundredths of microseconds, or a little later.
    fn moment(&mut self) -> u64 {
        self.last = (self.last + 1).max(elapsed().as_micros() as u64 * 100);
        self.last
    }

    /// Whether each list could have been seen so, and no answered write was lost. The servers have come to their end, so what
    /// took no effect by now never does.
    pub(crate) fn check(&self, ledger: &Ledger) {
        let mut lists: BTreeMap<u8, Vec<Operation<Ask, Answer>>> = BTreeMap::new();
        for Event { key, request, operation } in &self.events {
            let mut operation = operation.clone();
            if let Some((client, sequence)) = request {
                operation.place = ledger.place(*client, *sequence);
                match (&operation.place, &operation.output) {
                    (None, None) => continue,
                    (None, Some(_)) => {
                        return violation(format!(
                            "request {sequence} of client {client:x} was answered and never took effect: {operation:?}"
                        ));
                    }
                    (Some(_), _) => {}
                }
            }
            lists.entry(*key).or_default().push(operation);
        }
        for (key, operations) in &lists {
            if let Err(report) = linear::check::<List>(operations) {
                violation(format!("the history of list {key} is not linearizable: {report}"));
            }
        }
    }
}

/// One that asks one thing at a time.
pub(crate) struct Client {
    place: u64,
    /// Its name in request ids; a new one after it gave up.
    session: u64,
    sequence: u64,
    servers: Arc<Servers>,
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
    dice: StdRng,
    believes: u64,
    keys: u8,
    value: u32,
    /// It may give up at any time.
    fickle: bool,
}

/// What came of a try.
enum Tried<T> {
    Done(T),
    /// It was not done; go there, if somebody knows.
    Not(Option<u64>),
    /// Nobody knows.
    Unknown,
}

impl Client {
    pub(crate) fn new(
        number: u64,
        keys: u8,
        servers: Arc<Servers>,
        history: Arc<Mutex<History>>,
        stop: Arc<AtomicBool>,
        dice: StdRng,
    ) -> Client {
        let place = PLACE + number;
        Client {
            place,
            session: number << 32,
            sequence: 0,
            servers,
            history,
            stop,
            dice,
            believes: 1,
            keys,
            value: (number as u32) << 16,
            fickle: true,
        }
    }

    pub(crate) async fn work(mut self, pause: Duration) {
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(pause.mul_f64(self.dice.random::<f64>() * 2.0)).await;
            let key = self.dice.random_range(0..self.keys);
            match self.dice.random_range(0..20) {
                0..8 => self.read(key).await,
                8..10 => {
                    let value = self.next_value();
                    self.write(key, Ask::Set(value)).await;
                }
                10..16 => {
                    let value = self.next_value();
                    self.write(key, Ask::Append(value)).await;
                }
                _ => {
                    let (value, length) = (self.next_value(), self.dice.random_range(0..6));
                    self.write(key, Ask::AppendAt(length, value)).await;
                }
            }
        }
    }

    /// It gives up when it is out of patience, and not before.
    pub(crate) fn steadfast(self) -> Client {
        Client { fickle: false, ..self }
    }

    fn next_value(&mut self) -> u32 {
        self.value += 1;
        self.value
    }

    fn moment(&self) -> u64 {
        self.history.lock().unwrap().moment()
    }

    /// Goes on to another server, perhaps to one that was named.
    async fn turn(&mut self, to: Option<u64>) {
        let ids = self.servers.ids();
        self.believes = match to {
            Some(to) if self.dice.random_ratio(9, 10) => to,
            _ => ids[self.dice.random_range(0..ids.len())],
        };
        tokio::time::sleep(Duration::from_millis(self.dice.random_range(2..60))).await;
    }

    /// Writes until there is an answer, always under one request id.
    pub(crate) async fn write(&mut self, key: u8, ask: Ask) -> bool {
        self.sequence += 1;
        let padding = vec![0; self.dice.random_range(0..200)];
        let command = Command { client: self.session, sequence: self.sequence, key, ask, padding };
        let (asked, until) = (self.moment(), elapsed() + PATIENCE);
        let mut perhaps = false;
        loop {
            match self.try_write(command.bytes()).await {
                Tried::Done(Answer::Late) => {
                    violation(format!("{command:?} is late, but no later one was sent"));
                    return false;
                }
                Tried::Done(answer) => {
                    seen(if perhaps { "write answered after a retry" } else { "write answered" });
                    let mut history = self.history.lock().unwrap();
                    let answered = history.moment();
                    trace(&[self.place, command.sequence, answered]);
                    let request = Some((command.client, command.sequence));
                    let (client, input, output) = (command.client, command.ask, Some(answer));
                    let operation = Operation { client, input, output, asked, answered, place: None };
                    history.events.push(Event { key, request, operation });
                    return true;
                }
                Tried::Not(to) => self.turn(to).await,
                Tried::Unknown => {
                    perhaps = true;
                    self.turn(None).await;
                }
            }
            if elapsed() > until || (perhaps && self.fickle && self.dice.random_ratio(1, 30)) {
                if perhaps {
                    seen("write given up");
                    let request = Some((command.client, command.sequence));
                    let (client, input) = (command.client, command.ask);
                    let operation = Operation { client, input, output: None, asked, answered: 0, place: None };
                    self.history.lock().unwrap().events.push(Event { key, request, operation });
                    self.session += 1;
                    self.sequence = 0;
                }
                return false;
            }
        }
    }

    async fn try_write(&mut self, command: Bytes) -> Tried<Answer> {
        let (servers, to) = (Arc::clone(&self.servers), self.believes);
        let anywhere = self.dice.random_ratio(1, 4);
        let make = move || {
            let (server, command) = (servers.running(to)?, command.clone());
            let work = async move {
                match anywhere {
                    true => server.cluster.propose_anywhere(command).await,
                    false => server.cluster.propose(command).await,
                }
            };
            Some(Box::pin(work) as Work<Bytes>)
        };
        match self.servers.network.carry((self.place, to), Lane::Log, TRY, make).await {
            Ok(Ok(bytes)) => Tried::Done(answer_of(&bytes)),
            Ok(Err(ProposeError::NotPrimary { primary })) => Tried::Not(primary),
            Ok(Err(ProposeError::Unknown(_) | ProposeError::Stopped)) => Tried::Unknown,
            Ok(Err(_)) => Tried::Not(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Tried::Not(None),
            Err(_) => Tried::Unknown,
        }
    }

    /// Reads what must be the newest, at any server.
    async fn read(&mut self, key: u8) {
        let until = elapsed() + PATIENCE;
        while elapsed() < until {
            if self.dice.random_ratio(1, 3) {
                let ids = self.servers.ids();
                self.believes = ids[self.dice.random_range(0..ids.len())];
            }
            let asked = self.moment();
            match self.try_read(key).await {
                Tried::Done((index, list)) => {
                    seen("read answered");
                    let mut history = self.history.lock().unwrap();
                    let answered = history.moment();
                    trace(&[self.place, answered]);
                    let (client, output) = (self.session, Some(Answer::List(list)));
                    // Behind all of the entry.
                    let place = Some((index, u64::MAX));
                    let operation = Operation { client, input: Ask::Read, output, asked, answered, place };
                    history.events.push(Event { key, request: None, operation });
                    return;
                }
                Tried::Not(to) => self.turn(to).await,
                Tried::Unknown => self.turn(None).await,
            }
        }
    }

    async fn try_read(&self, key: u8) -> Tried<(u64, Vec<u32>)> {
        let (servers, to) = (Arc::clone(&self.servers), self.believes);
        let make = move || {
            let server = servers.running(to)?;
            let work = async move {
                let at = server.cluster.confirm().await?;
                let view = server.view.lock().unwrap().clone();
                if view.at.index < at.index {
                    violation(format!("server {to} may be read at {at:?} and shows {:?}", view.at));
                }
                Ok((view.at.index, view.lists.get(&key).cloned().unwrap_or_default()))
            };
            Some(Box::pin(work) as Work<(u64, Vec<u32>)>)
        };
        match self.servers.network.carry((self.place, to), Lane::Log, TRY, make).await {
            Ok(Ok(seen)) => Tried::Done(seen),
            Ok(Err(ProposeError::NotPrimary { primary })) => Tried::Not(primary),
            Ok(Err(_)) | Err(_) => Tried::Unknown,
        }
    }
}
