//! Waiting for a service that a look-up asks for: its start, or that the server takes note of its use.
//!
//! All who wait for one service wait for one find, whatever they ask for. A wait lasts two seconds at most; a start that
//! takes longer goes on, and whoever asks again finds it. New starts are bounded for each service and for each source:
//! beyond that the answer is `SERVFAIL`, and nothing is asked of the server.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::error::Code;
use byname_api::request::{Context, FindRequest};
use byname_api::span::Span;
use byname_name::{Name, NameKey};

use crate::answer::{Asker, Awaited};
use crate::count::{Times, WAIT_SECONDS};
use crate::limit::Bucket;
use crate::render;
use crate::zone::Image;

/// How long a look-up waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Services that are waited for at once.
const MAX_WAITED: usize = 1_000;
/// Starts of one service a second, and at once.
const OF_A_SERVICE: (f64, f64) = (1.0, 4.0);
/// Starts by one source a second, and at once.
const BY_A_SOURCE: (f64, f64) = (5.0, 20.0);
/// Sources and services that are remembered; those that are full again are forgotten.
const MAX_BUCKETS: usize = 10_000;

/// Waits for services.
pub(crate) struct Starts {
    service: Arc<dyn NameService>,
    image: Arc<Image>,
    suffix: String,
    inner: Mutex<Inner>,
}

type Wait = Shared<BoxFuture<'static, bool>>;

#[derive(Default)]
struct Inner {
    under_way: HashMap<(NameKey, bool), Wait>,
    services: HashMap<NameKey, Bucket>,
    sources: HashMap<IpAddr, Bucket>,
}

impl Starts {
    pub(crate) fn new(service: Arc<dyn NameService>, image: Arc<Image>, suffix: String) -> Starts {
        Starts { service, image, suffix, inner: Mutex::default() }
    }

    /// Waits until the image shows the service, or it is no use; false when the answer is that it cannot be said now.
    pub(crate) async fn wait(self: &Arc<Self>, awaited: &Awaited, asker: &Asker) -> bool {
        let begun = Instant::now();
        let outcome = match self.join(awaited, asker) {
            None => "refused",
            Some(wait) => match tokio::time::timeout(PATIENCE, wait).await {
                Ok(true) => "there",
                Ok(false) => "failed",
                Err(_) => "late",
            },
        };
        if awaited.start {
            metrics::counter!("byname_dns_starts_total", "outcome" => outcome).increment(1);
            let mut times = Times::default();
            times.record(begun.elapsed());
            times.publish(WAIT_SECONDS);
        }
        outcome == "there"
    }

    /// The find that others wait for already, or a new one, if there may be one.
    fn join(self: &Arc<Self>, awaited: &Awaited, asker: &Asker) -> Option<Wait> {
        let key = (awaited.name.key(), awaited.start);
        let now = self.image.now_ms();
        let mut inner = self.inner.lock();
        if let Some(wait) = inner.under_way.get(&key) {
            return Some(wait.clone());
        }
        if inner.under_way.len() >= MAX_WAITED {
            return None;
        }
        if awaited.start {
            let source = source_of(asker.address);
            let by = take(&mut inner.sources, source, BY_A_SOURCE, now);
            if !by || !take(&mut inner.services, key.0.clone(), OF_A_SERVICE, now) {
                return None;
            }
        }
        let find = self.clone().find(awaited.name.clone(), awaited.start, asker.address);
        // It goes on when those who wait have gone.
        let task = tokio::spawn(find);
        let wait: Wait = async move { task.await.unwrap_or(false) }.boxed().shared();
        inner.under_way.insert(key.clone(), wait.clone());
        drop(inner);
        let (starts, done) = (self.clone(), wait.clone());
        tokio::spawn(async move {
            done.await;
            starts.inner.lock().under_way.remove(&key);
        });
        Some(wait)
    }

    async fn find(self: Arc<Self>, name: Name, start: bool, from: IpAddr) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let asked_ms = self.image.now_ms();
        let mut changes = self.image.changes();
        let timeout = Some(Span::from_millis(PATIENCE.as_millis() as u64));
        let caller = if start { Caller::by_look_up(from) } else { Caller::internal() };
        let request = FindRequest { start, timeout, ..FindRequest::new(name.clone()) };
        let found = self.service.find(&Context::of(caller), request).await;
        if let Err(error) = &found {
            let level_is_usual = matches!(error.code(), Code::NotRunning | Code::Timeout | Code::NotFound);
            if start && !level_is_usual {
                tracing::debug!(service = %name, error = error.log_line(), "a look-up could not start it");
            }
        }
        if found.is_ok() {
            self.note_use(&name, asked_ms);
        } else if start {
            return false;
        }
        // The image comes after the server: what the server says it shows in a moment.
        let settled = if found.is_ok() { deadline } else { deadline.min(Instant::now() + Duration::from_millis(200)) };
        loop {
            if self.shows_copies(&name) == found.is_ok() {
                return true;
            }
            match tokio::time::timeout_at(settled, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return !start,
            }
        }
    }

    /// Whether the image names copies of a service.
    fn shows_copies(&self, name: &Name) -> bool {
        self.with_service(name, |service| !service.copies.is_empty()).unwrap_or(false)
    }

    fn note_use(&self, name: &Name, at_ms: u64) {
        self.with_service(name, |service| service.used.told_ms.fetch_max(at_ms.max(1), Ordering::Relaxed));
    }

    fn with_service<T>(&self, name: &Name, look: impl FnOnce(&crate::zone::Service) -> T) -> Option<T> {
        let labels = render::labels_of(name, &self.suffix)?;
        let guard = self.image.guard();
        let entry = self.image.get(&labels, &guard)?;
        entry.service.as_deref().map(look)
    }

    /// Has the server take note of a use.
    pub(crate) async fn use_it(&self, name: Name) {
        let asked_ms = self.image.now_ms();
        let request = FindRequest { start: false, ..FindRequest::new(name.clone()) };
        if self.service.find(&Context::of(Caller::internal()), request).await.is_ok() {
            self.note_use(&name, asked_ms);
        }
    }
}

/// One source: an address, or for IPv6 the network of a site.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() & !((1 << 72) - 1)).into(),
        address => address,
    }
}

fn take<K: std::hash::Hash + Eq>(
    buckets: &mut HashMap<K, Bucket>,
    key: K,
    (rate, burst): (f64, f64),
    now: u64,
) -> bool {
    if buckets.len() >= MAX_BUCKETS {
        buckets.retain(|_, bucket| !bucket.is_full(rate, burst, now));
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&key) {
            return false;
        }
    }
    buckets.entry(key).or_insert_with(|| Bucket::full(burst, now)).take(rate, burst, now)
}
