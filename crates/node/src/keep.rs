//! The services that shall always run: each is brought to its number of copies, one copy after the other.
//!
//! One task goes through all that are short of copies, in the order in which they became so, however many there are: it places
//! one copy at a time and has at most [`ORDERS`] of them on their way through the log. So neither a thousand hosts nor ten
//! thousand services that were declared at once take the threads from the log, the agents' words and the reads.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use byname_api::error::{Error, Result};
use byname_api::launch::{Launch, Start};
use byname_api::object::{InstanceId, ObjectId};
use byname_registry::Node as Object;

use crate::Inner;
use crate::place::Purpose;
use crate::start::AGENT_GRACE;

/// Orders that may be on their way through the log to the agents.
const ORDERS: usize = 32;
/// Before a service that could not be started is tried again;
const AGAIN: Duration = Duration::from_secs(1);
/// while agents are still expected, and where a host was only busy starting others;
const SOON: Duration = Duration::from_millis(100);
/// and so much for each service that waits, so that trying takes a small part of one thread however many there are.
const EACH: Duration = Duration::from_millis(2);
/// How often it is said what cannot be kept running.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// So many services are named at once; of more, how many there are, and one as an example.
const NAMED: usize = 8;

/// Services that are short of copies.
pub(crate) struct Kept {
    inner: Mutex<Short>,
    news: Notify,
    orders: Arc<Semaphore>,
}

#[derive(Default)]
struct Short {
    services: HashMap<ObjectId, One>,
    /// When to look at which.
    due: BTreeSet<(Instant, u64, ObjectId)>,
    turn: u64,
    /// What is to be said: the service, and why.
    unsaid: Vec<(String, String)>,
}

/// One of them.
#[derive(Default)]
struct One {
    /// Why it could not be started last, as it was said.
    said: Option<String>,
    /// It is among those that are due; if not, it is being looked at, or its order is on its way.
    due: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { inner: Mutex::default(), news: Notify::new(), orders: Arc::new(Semaphore::new(ORDERS)) }
    }
}

impl Short {
    fn look_at(&mut self, id: ObjectId, at: Instant) {
        if let Some(one) = self.services.get_mut(&id)
            && !std::mem::replace(&mut one.due, true)
        {
            self.turn += 1;
            self.due.insert((at, self.turn, id));
        }
    }
}

impl Kept {
    /// How many services are short of copies.
    pub(crate) fn count(&self) -> usize {
        self.inner.lock().services.len()
    }

    /// Another server sees to them from now on.
    pub(crate) fn clear(&self) {
        *self.inner.lock() = Short::default();
    }

    /// Waits for the next one.
    async fn next(&self) -> ObjectId {
        loop {
            let news = self.news.notified();
            let first = {
                let mut short = self.inner.lock();
                match short.due.first().copied() {
                    Some(first @ (at, _, id)) if at <= Instant::now() => {
                        short.due.remove(&first);
                        if let Some(one) = short.services.get_mut(&id) {
                            one.due = false;
                            return id;
                        }
                        continue;
                    }
                    first => first,
                }
            };
            match first {
                None => news.await,
                Some((at, ..)) => tokio::select! { () = tokio::time::sleep_until(at) => {}, () = news => {} },
            }
        }
    }

    /// Looks at it again after so long, if it was not forgotten in between.
    fn again(&self, id: ObjectId, after: Duration) {
        self.inner.lock().look_at(id, Instant::now() + after);
        self.news.notify_one();
    }

    /// It could not be started: tells people, if it is for another reason than before, and when to try again.
    fn refused(&self, node: &Object, error: &Error, soon: bool) -> Duration {
        let mut short = self.inner.lock();
        let count = u32::try_from(short.services.len()).unwrap_or(u32::MAX);
        if soon {
            return SOON.max(EACH.saturating_mul(count));
        }
        let why = error.log_line().to_owned();
        if let Some(one) = short.services.get_mut(&node.id)
            && one.said.as_ref() != Some(&why)
        {
            one.said = Some(why.clone());
            short.unsaid.push((node.name.to_string(), why));
        }
        AGAIN.max(EACH.saturating_mul(count))
    }

    /// Writes down what is to be said.
    fn say(&self) {
        let unsaid = std::mem::take(&mut self.inner.lock().unsaid);
        match unsaid.as_slice() {
            [] => {}
            few if few.len() <= NAMED => {
                for (service, error) in few {
                    tracing::warn!(service, error, "cannot keep it running; trying again");
                }
            }
            [(service, error), ..] => {
                tracing::warn!(
                    services = unsaid.len(),
                    service,
                    error,
                    "cannot keep so many services running, of which one is shown; trying again"
                );
            }
        }
    }
}

/// Keeps running what shall, as long as the server lives; only the primary does.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut say = tokio::time::interval(SAY_EVERY);
    say.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !inner.stopping() {
        tokio::select! {
            biased;
            _ = say.tick() => inner.kept.say(),
            id = inner.kept.next() => inner.look_after(id).await,
        }
        // Whoever else has something to do comes first.
        tokio::task::yield_now().await;
    }
}

impl Inner {
    /// Brings a service that shall always run to its number of copies, in the background.
    pub(crate) fn keep(&self, id: ObjectId) {
        let mut short = self.kept.inner.lock();
        if short.services.contains_key(&id) {
            return;
        }
        short.services.insert(id, One::default());
        short.look_at(id, Instant::now());
        drop(short);
        self.kept.news.notify_one();
    }

    /// Places the next copy of a service that may be short of copies.
    async fn look_after(self: &Arc<Self>, id: ObjectId) {
        if !self.reigns() {
            // All are forgotten in a moment.
            return;
        }
        let Some((node, wanted)) = self.short_of_copies(id) else { return };
        let pause = self.pause_before_start(&node);
        if !pause.is_zero() {
            return self.kept.again(id, pause);
        }
        let Ok(permit) = self.kept.orders.clone().acquire_owned().await else { return };
        match self.place(&node, Instant::now(), Purpose::Keep).await {
            Ok(seat) => {
                let inner = self.clone();
                tokio::spawn(async move {
                    let why = "to keep it running".to_owned();
                    let ordered = inner.order_copy(id, wanted, why, seat).await;
                    inner.has_ordered(&node, ordered, permit);
                });
            }
            Err(refusal) => {
                let expected = self.since.lock().elapsed() < AGENT_GRACE;
                let after = self.kept.refused(&node, &refusal.error, refusal.full || expected);
                self.kept.again(id, after);
            }
        }
    }

    /// The order is with the agent, or came to nothing.
    fn has_ordered(&self, node: &Object, ordered: Result<Option<InstanceId>>, permit: OwnedSemaphorePermit) {
        drop(permit);
        let after = match ordered {
            Ok(Some(_)) => Duration::ZERO,
            Ok(None) => SOON,
            Err(error) => self.kept.refused(node, &error, false),
        };
        self.kept.again(node.id, after);
    }

    /// A service with how many copies it shall have, if it has fewer; one that has enough is forgotten.
    fn short_of_copies(&self, id: ObjectId) -> Option<(Arc<Object>, u32)> {
        let look = || {
            let node = self.view.load().by_id(id)?;
            let wanted = missing_copies(&node)?;
            Some((node, wanted))
        };
        look().or_else(|| {
            self.kept.inner.lock().services.remove(&id);
            // Something may have happened after the look and before that.
            let found = look()?;
            let mut short = self.kept.inner.lock();
            let gone = !short.services.contains_key(&id);
            gone.then(|| short.services.insert(id, One::default())).and(Some(found).filter(|_| gone))
        })
    }
}

/// How many copies shall be there, if there are fewer and nothing forbids another.
pub(crate) fn missing_copies(node: &Object) -> Option<u32> {
    let (service, launch) = (node.service.as_ref()?, node.spec.launch.as_ref()?);
    let wanted = always(launch)?;
    let copies = launch.copies();
    let room = service.taken() < copies.max as usize;
    (service.copies() < wanted as usize && room && service.held.is_none() && !service.failed).then_some(wanted)
}

/// The number of copies that run always, if any do.
pub(crate) fn always(launch: &Launch) -> Option<u32> {
    let min = launch.copies().min;
    let wanted = if launch.start() == Start::Always { min.max(1) } else { min };
    (wanted > 0 && (launch.program.is_some() || launch.command.is_some())).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    use byname_api::error::Code;
    use byname_registry::{Command, Entry, Registry};

    fn services(count: usize) -> Vec<Arc<Object>> {
        let mut registry = Registry::default();
        let name = |n: usize| byname_name::Name::parse(&format!("/s{n}")).unwrap();
        let spec = byname_api::object::Spec::of(byname_api::object::Kind::Service);
        let ops = (0..count).map(|n| byname_api::request::Op::Add { name: name(n), spec: spec.clone() }).collect();
        let command = Command::Batch { ops, set: None };
        let at = byname_api::span::Timestamp(1);
        registry.apply(&Entry { at, by: "liu".into(), request: None, command }, &mut Vec::new());
        (0..count).map(|n| registry.tree().get(&name(n)).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn why_a_service_cannot_run_is_said_once_until_it_is_for_another_reason() {
        let (kept, services) = (Kept::default(), services(3));
        let no_host = Error::new(Code::NoHost, "no host");
        for service in &services {
            kept.inner.lock().services.insert(service.id, One::default());
            for _ in 0..3 {
                kept.refused(service, &no_host, false);
            }
        }
        let said = || std::mem::take(&mut kept.inner.lock().unsaid);
        assert_eq!(said().len(), 3);
        kept.refused(&services[1], &Error::new(Code::NoHost, "no room"), false);
        kept.refused(&services[2], &no_host, false);
        assert_eq!(said(), [("/s1".to_owned(), "no room".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_wait_the_less_often_each_is_tried() {
        let (kept, services) = (Kept::default(), services(1));
        let error = Error::new(Code::NoHost, "no host");
        assert_eq!(kept.refused(&services[0], &error, false), AGAIN);
        for n in 0..10_000 {
            kept.inner.lock().services.insert(ObjectId(n), One::default());
        }
        assert_eq!(kept.refused(&services[0], &error, false), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn each_comes_in_its_turn_and_not_twice() {
        let kept = Kept::default();
        for n in [3, 1, 2] {
            let mut short = kept.inner.lock();
            short.services.insert(ObjectId(n), One::default());
            short.look_at(ObjectId(n), Instant::now());
            short.look_at(ObjectId(n), Instant::now());
        }
        for n in [3, 1, 2] {
            assert_eq!(kept.next().await, ObjectId(n));
        }
        kept.again(ObjectId(1), Duration::from_secs(5));
        kept.again(ObjectId(9), Duration::ZERO);
        let begun = Instant::now();
        assert_eq!(kept.next().await, ObjectId(1), "one that was forgotten does not come");
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}
