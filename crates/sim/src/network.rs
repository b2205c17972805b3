//! A network that loses, delays, repeats and reorders, and is cut in pieces.
//!
//! It carries calls between places, which are numbers: servers, and clients. A place may be *served* (somebody answers there),
//! *refusing* (the host is up, and nobody listens), or *dark*. A message is lost if its line is cut when it would arrive.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use byname_cluster::{Lane, Server, Transport};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, oneshot};
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
    posted: Arc<Notify>,
}

struct Inner {
    dice: StdRng,
    weather: Weather,
    places: BTreeMap<u64, Place>,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    last_arrival: BTreeMap<(u64, u64, bool), Instant>,
    /// What is on its way, by the time of its arrival and then in the order of the sending.
    post: BinaryHeap<Reverse<Letter>>,
    letters: u64,
}

struct Letter {
    at: Instant,
    number: u64,
    to: u64,
    arrive: Box<dyn FnOnce(&Network) + Send>,
}

impl PartialEq for Letter {
    fn eq(&self, other: &Letter) -> bool {
        self.number == other.number
    }
}

impl Eq for Letter {}

impl PartialOrd for Letter {
    fn partial_cmp(&self, other: &Letter) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Letter {
    fn cmp(&self, other: &Letter) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
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
    /// A network that is whole. To be called inside the runtime of the world.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Network {
        let network = Network {
            inner: Arc::new(Mutex::new(Inner {
                dice: StdRng::seed_from_u64(seed),
                weather,
                places: BTreeMap::new(),
                cut: BTreeSet::new(),
                last_arrival: BTreeMap::new(),
                post: BinaryHeap::new(),
                letters: 0,
            })),
            posted: Arc::default(),
        };
        tokio::spawn(network.clone().bring());
        network
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Makes the line from one place to another whole.
    pub fn join(&self, from: u64, to: u64) {
        self.inner().cut.remove(&(from, to));
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
        let call = Call { from, to, lane, make: Box::new(make), tell: Mutex::new(Some(tx)) };
        let call = Arc::new(call);
        let mut inner = self.inner();
        let sender = inner.incarnation(from);
        for _ in 0..inner.copies() {
            let call = Arc::clone(&call);
            inner.post((from, to), lane, move |network| call.arrive(network, sender));
        }
        drop(inner);
        self.posted.notify_one();
        rx
    }

    /// Brings what is on its way.
    async fn bring(self) {
        loop {
            let (due, next) = {
                let mut inner = self.inner();
                let now = Instant::now();
                let next = inner.post.peek().map(|Reverse(letter)| letter.at);
                (next.filter(|at| *at <= now).and_then(|_| inner.post.pop()), next)
            };
            match (due, next) {
                (Some(Reverse(mut letter)), _) => {
                    let mut inner = self.inner();
                    let frozen = inner.places.get(&letter.to).and_then(|place| place.frozen);
                    if let Some(until) = frozen.filter(|until| *until > Instant::now()) {
                        letter.at = until;
                        inner.post.push(Reverse(letter));
                    } else {
                        drop(inner);
                        (letter.arrive)(&self);
                    }
                }
                (None, Some(next)) => {
                    tokio::select! {
                        biased;
                        () = self.posted.notified() => {}
                        () = tokio::time::sleep_until(next) => {}
                    }
                }
                (None, None) => self.posted.notified().await,
            }
        }
    }
}

/// A message that wants an answer.
struct Call<T> {
    from: u64,
    to: u64,
    lane: Lane,
    make: Box<dyn Fn() -> Option<BoxFuture<'static, T>> + Send + Sync>,
    tell: Mutex<Option<oneshot::Sender<io::Result<T>>>>,
}

impl<T: Send + 'static> Call<T> {
    /// The message arrives.
    fn arrive(self: Arc<Self>, network: &Network, sender: u64) {
        let receiver = {
            let inner = network.inner();
            let Some(place) = inner.places.get(&self.to) else { return };
            let lost = inner.cut.contains(&(self.from, self.to)) || inner.incarnation(self.from) != sender;
            if lost || (place.answer.is_none() && !place.refusing) {
                return;
            }
            place.incarnation
        };
        trace(&[self.from, self.to, receiver]);
        match (self.make)() {
            Some(work) => {
                let network = network.clone();
                tokio::spawn(async move {
                    let result = work.await;
                    self.answer(&network, sender, receiver, Ok(result));
                });
            }
            None => {
                let error = io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens");
                self.answer(network, sender, receiver, Err(error));
            }
        }
    }

    fn answer(self: Arc<Self>, network: &Network, sender: u64, receiver: u64, result: io::Result<T>) {
        let (from, to) = (self.from, self.to);
        let lane = self.lane;
        let arrive = move |network: &Network| {
            let inner = network.inner();
            if inner.cut.contains(&(to, from)) || inner.incarnation(from) != sender {
                return;
            }
            drop(inner);
            trace(&[to, from, sender]);
            if let Some(tell) = self.tell.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = tell.send(result);
            }
        };
        let mut inner = network.inner();
        // What a process had to say when it ended was not said.
        if inner.incarnation(to) == receiver && inner.copies() > 0 {
            inner.post((to, from), lane, arrive);
            drop(inner);
            network.posted.notify_one();
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
        let sent =
            self.places.get(&from).and_then(|place| place.frozen).map_or(Instant::now(), |t| t.max(Instant::now()));
        let mut arrival = sent + shortest + most.mul_f64(self.dice.random());
        let last = self.last_arrival.entry((from, to, lane == Lane::Bulk)).or_insert(arrival);
        if !reorder {
            arrival = arrival.max(*last);
        }
        *last = arrival.max(*last);
        arrival
    }

    fn post(&mut self, (from, to): (u64, u64), lane: Lane, arrive: impl FnOnce(&Network) + Send + 'static) {
        let at = self.arrival(from, to, lane);
        self.letters += 1;
        self.post.push(Reverse(Letter { at, number: self.letters, to, arrive: Box::new(arrive) }));
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
