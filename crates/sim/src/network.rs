//! A network that loses, delays, repeats and reorders, and is cut in pieces.
//!
//! It carries calls between places, which are numbers: servers, and clients. A place may be *served* (somebody answers there),
//! *refusing* (the host is up, and nobody listens), or *dark*. A message is lost if its line is cut when it would arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use byname_cluster::{Lane, Server, Transport};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::timeline::{seen, trace};

/// How the network behaves where it is not cut.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The shortest time that a message is on its way.
    pub shortest: Duration,
    /// What chance adds at most, for nine messages of ten.
    pub spread: Duration,
    /// What chance adds at most, for the tenth.
    pub tail: Duration,
    /// The part of the messages that is lost.
    pub loss: f64,
    /// The part that arrives twice.
    pub twice: f64,
    /// Whether a message may overtake another.
    pub reorder: bool,
}

/// Answers what peers send.
pub type Answer = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// The network of one world. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    dice: StdRng,
    weather: Weather,
    places: BTreeMap<u64, Place>,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    last_arrival: BTreeMap<(u64, u64, bool), Instant>,
}

#[derive(Default)]
struct Place {
    /// Grows with every process that runs there.
    incarnation: u64,
    answer: Option<Answer>,
    /// Nobody listens, and the host says so.
    refusing: bool,
    /// Nothing goes in or out before.
    frozen: Option<Instant>,
}

/// The end of the network that one process has; no use when that has ended.
#[derive(Clone)]
pub struct Port {
    network: Network,
    place: u64,
    incarnation: u64,
}

impl Network {
    /// A network that is whole.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Network {
        Network {
            inner: Arc::new(Mutex::new(Inner {
                dice: StdRng::seed_from_u64(seed),
                weather,
                places: BTreeMap::new(),
                cut: BTreeSet::new(),
                last_arrival: BTreeMap::new(),
            })),
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A new process begins at `place`: it can send, and is reached when it is [served](Port::serve).
    #[must_use]
    pub fn begin(&self, place: u64) -> Port {
        let mut inner = self.inner();
        let entry = inner.places.entry(place).or_default();
        entry.incarnation += 1;
        entry.answer = None;
        entry.refusing = true;
        Port { network: self.clone(), place, incarnation: entry.incarnation }
    }

    /// The process at `place` has ended; nothing that is still on its way from it arrives. With `host`, so has the host.
    pub fn end(&self, place: u64, host: bool) {
        let mut inner = self.inner();
        let entry = inner.places.entry(place).or_default();
        entry.incarnation += 1;
        entry.answer = None;
        entry.refusing = !host;
        entry.frozen = None;
    }

    /// Cuts the line from one place to another, and not back.
    pub fn cut(&self, from: u64, to: u64) {
        self.inner().cut.insert((from, to));
    }

    /// Makes all lines whole.
    pub fn heal(&self) {
        self.inner().cut.clear();
    }

    /// Whether messages from one place reach the other.
    #[must_use]
    pub fn whole(&self, from: u64, to: u64) -> bool {
        !self.inner().cut.contains(&(from, to))
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    /// Holds up everything that goes in or out of a place for so long.
    pub fn freeze(&self, place: u64, time: Duration) {
        self.inner().places.entry(place).or_default().frozen = Some(Instant::now() + time);
    }

    /// Takes a call there and the answer back. `make` begins the work at `to`, at the moment of arrival; `None` when nobody is
    /// there. It is asked twice for a message that arrives twice.
    ///
    /// # Errors
    /// Nobody listens there, or no answer came within the time.
    pub async fn carry<T: Send + 'static>(
        &self,
        (from, to): (u64, u64),
        lane: Lane,
        within: Duration,
        make: impl Fn() -> Option<BoxFuture<'static, T>> + Send + Sync + 'static,
    ) -> io::Result<T> {
        let waits = self.send((from, to), lane, make);
        wait(waits, within).await
    }

    fn send<T: Send + 'static>(
        &self,
        (from, to): (u64, u64),
        lane: Lane,
        make: impl Fn() -> Option<BoxFuture<'static, T>> + Send + Sync + 'static,
    ) -> oneshot::Receiver<io::Result<T>> {
        let (tx, rx) = oneshot::channel();
        let (arrivals, sender) = {
            let mut inner = self.inner();
            let sender = inner.incarnation(from);
            let copies = inner.copies();
            let arrivals: Vec<Instant> = (0..copies).map(|_| inner.arrival(from, to, lane)).collect();
            (arrivals, sender)
        };
        let make = Arc::new(make);
        let tx = Arc::new(Mutex::new(Some(tx)));
        for arrival in arrivals {
            let (network, make, tx) = (self.clone(), Arc::clone(&make), Arc::clone(&tx));
            tokio::spawn(async move {
                let Some(result) = network.deliver((from, to), lane, sender, arrival, &*make).await else { return };
                let tx = tx.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                if let Some(tx) = tx {
                    let _ = tx.send(result);
                }
            });
        }
        rx
    }

    /// `None` when the message or its answer is lost.
    async fn deliver<T: Send + 'static>(
        &self,
        (from, to): (u64, u64),
        lane: Lane,
        sender: u64,
        arrival: Instant,
        make: &(impl Fn() -> Option<BoxFuture<'static, T>> + Send + Sync),
    ) -> Option<io::Result<T>> {
        tokio::time::sleep_until(arrival).await;
        self.thaw(to).await;
        let receiver = {
            let inner = self.inner();
            if inner.cut.contains(&(from, to)) || inner.incarnation(from) != sender {
                return None;
            }
            let place = inner.places.get(&to)?;
            if place.answer.is_none() && !place.refusing {
                return None;
            }
            place.incarnation
        };
        trace(&[from, to, receiver]);
        let result = match make() {
            Some(work) => Ok(work.await),
            None => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens")),
        };
        let arrival = {
            let mut inner = self.inner();
            if inner.incarnation(to) != receiver || inner.copies() == 0 {
                return None;
            }
            inner.arrival(to, from, lane)
        };
        tokio::time::sleep_until(arrival).await;
        self.thaw(from).await;
        let inner = self.inner();
        let lost = inner.cut.contains(&(to, from)) || inner.incarnation(from) != sender;
        (!lost).then_some(result)
    }

    /// Returns when the place is not frozen.
    async fn thaw(&self, place: u64) {
        loop {
            let until = self.inner().places.get(&place).and_then(|place| place.frozen);
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }
}

async fn wait<T>(waits: oneshot::Receiver<io::Result<T>>, within: Duration) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let end = Instant::now() + within;
    match tokio::time::timeout_at(end, waits).await {
        Ok(Ok(result)) => result,
        Err(_) => Err(late()),
        // Lost, which nobody knows before the time is over.
        Ok(Err(_)) => {
            tokio::time::sleep_until(end).await;
            Err(late())
        }
    }
}

impl Inner {
    fn incarnation(&self, place: u64) -> u64 {
        self.places.get(&place).map_or(0, |place| place.incarnation)
    }

    /// How often a message arrives.
    fn copies(&mut self) -> usize {
        if self.weather.loss > 0.0 && self.dice.random_bool(self.weather.loss) {
            seen("message lost");
            return 0;
        }
        if self.weather.twice > 0.0 && self.dice.random_bool(self.weather.twice) {
            seen("message doubled");
            return 2;
        }
        1
    }

    fn arrival(&mut self, from: u64, to: u64, lane: Lane) -> Instant {
        let Weather { shortest, spread, tail, reorder, .. } = self.weather;
        let most = if self.dice.random_ratio(1, 10) { tail } else { spread };
        let sent = self.places.get(&from).and_then(|place| place.frozen).map_or(Instant::now(), |t| t.max(Instant::now()));
        let mut arrival = sent + shortest + most.mul_f64(self.dice.random());
        let last = self.last_arrival.entry((from, to, lane == Lane::Bulk)).or_insert(arrival);
        if !reorder {
            arrival = arrival.max(*last);
        }
        *last = arrival.max(*last);
        arrival
    }
}

impl Port {
    /// From now on the process answers its peers.
    pub fn serve(&self, answer: Answer) {
        let mut inner = self.network.inner();
        if let Some(place) = inner.places.get_mut(&self.place)
            && place.incarnation == self.incarnation
        {
            place.answer = Some(answer);
        }
    }
}

impl Transport for Port {
    fn call(&self, to: &Server, lane: Lane, request: Bytes, within: Duration) -> BoxFuture<'static, io::Result<Bytes>> {
        let alive = self.network.inner().incarnation(self.place) == self.incarnation;
        if !alive {
            return Box::pin(wait(oneshot::channel().1, within));
        }
        let (network, place) = (self.network.clone(), to.id);
        let make = move || {
            let answer = network.inner().places.get(&place).and_then(|place| place.answer.clone())?;
            Some(answer(request.clone()))
        };
        Box::pin(wait(self.network.send((self.place, place), lane, make), within))
    }
}
