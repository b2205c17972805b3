//! How much one caller may ask, and how often somebody may fail to prove who it is. Bounds against abuse, not a fair
//! share: they lie far above what a busy program needs. The server's own user has none.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use papaya::HashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use byname_api::caller::Peer;
use byname_api::error::{Code, Error, Result};
use byname_api::object::ObjectId;
use byname_name::{Name, NameKey};

/// Requests a second of one principal, and how many may come at once.
const PRINCIPAL: Rate = Rate { per_second: 100_000, burst: 200_000 };
/// The same for what one address asks without saying who it is.
const ADDRESS: Rate = Rate { per_second: 5_000, burst: 20_000 };
/// Steps of signing in from one address.
const SIGN_IN: Rate = Rate { per_second: 50, burst: 200 };
/// Failures to sign in that cost nothing.
const FREE_FAILURES: u32 = 5;
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Failures are forgotten after so long without another.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Callers that are counted at once; beyond it the idle ones are forgotten.
const COUNTED: usize = 65_536;

struct Rate {
    per_second: u64,
    burst: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Principal(ObjectId),
    Address(IpAddr),
    SignIn(IpAddr),
}

/// How often in a row and when last, by address and whose name it was, in whatever letters.
type Failures = std::collections::HashMap<(Option<IpAddr>, NameKey), (u32, Instant)>;

/// The bounds, and who has used how much of them.
pub(crate) struct Limits {
    begun: Instant,
    /// When each key's bucket would be empty again, in microseconds since `begun` (the generic cell rate algorithm).
    buckets: HashMap<Key, Arc<AtomicU64>>,
    failures: Mutex<Failures>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { begun: Instant::now(), buckets: HashMap::new(), failures: Mutex::default() }
    }
}

impl Limits {
    /// Counts a request.
    ///
    /// # Errors
    ///
    /// `rate-limited`.
    pub(crate) fn request(&self, peer: Peer, principal: Option<ObjectId>) -> Result<()> {
        match (principal, peer) {
            (Some(id), _) => self.take(Key::Principal(id), &PRINCIPAL),
            (None, Peer::Tcp { address, .. }) if !peer.is_loopback() => self.take(Key::Address(address), &ADDRESS),
            (None, _) => Ok(()),
        }
    }

    /// Counts a step of signing in, before anything is computed for it.
    ///
    /// # Errors
    ///
    /// `rate-limited`.
    pub(crate) fn sign_in(&self, address: Option<IpAddr>) -> Result<()> {
        match address {
            Some(address) => self.take(Key::SignIn(address), &SIGN_IN),
            None => Ok(()),
        }
    }

    fn take(&self, key: Key, rate: &Rate) -> Result<()> {
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let map = self.buckets.pin();
        if map.len() >= COUNTED {
            map.retain(|_, until| until.load(Ordering::Relaxed) > now);
        }
        let bucket = map.get_or_insert_with(key, Arc::default);
        let (one, whole) = (1_000_000 / rate.per_second.max(1), rate.burst * 1_000_000 / rate.per_second.max(1));
        let counted = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            let next = until.max(now) + one;
            (next <= now + whole).then_some(next)
        });
        counted.map(drop).map_err(|_| {
            metrics::counter!("byname_rate_limited_total").increment(1);
            Error::new(Code::RateLimited, "too many requests: wait a moment and ask more slowly")
        })
    }

    /// Whether somebody who failed before may try again now.
    ///
    /// # Errors
    ///
    /// `rate-limited`, with how long to wait.
    pub(crate) fn may_try(&self, address: Option<IpAddr>, principal: &Name) -> Result<()> {
        let failures = self.failures.lock();
        let Some((count, last)) = failures.get(&(address, principal.key())) else { return Ok(()) };
        let wait = pause_after(*count).saturating_sub(last.elapsed());
        if wait.is_zero() {
            return Ok(());
        }
        let seconds = wait.as_secs() + 1;
        Err(Error::new(Code::RateLimited, format!("too many failures to sign in: try again in {seconds} s")))
    }

    /// Notes how an attempt ended.
    pub(crate) fn note_attempt(&self, address: Option<IpAddr>, principal: &Name, succeeded: bool) {
        let mut failures = self.failures.lock();
        let key = (address, principal.key());
        if succeeded {
            failures.remove(&key);
            return;
        }
        if failures.len() >= COUNTED {
            failures.retain(|_, (_, last)| last.elapsed() < FORGET_AFTER);
        }
        let entry = failures.entry(key).or_insert((0, Instant::now()));
        if entry.1.elapsed() > FORGET_AFTER {
            entry.0 = 0;
        }
        *entry = (entry.0.saturating_add(1), Instant::now());
    }
}

/// Doubles with each failure beyond those that cost nothing.
fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(FREE_FAILURES) {
        None => Duration::ZERO,
        Some(more) => Duration::from_secs(1u64 << more.min(16)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: [u8; 4]) -> Peer {
        Peer::Tcp { address: address.into(), encrypted: true }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_passes_when_it_ends() {
        let limits = Limits::default();
        let other = from([192, 0, 2, 2]);
        let flood = (0..30_000).filter(|_| limits.request(from([192, 0, 2, 1]), None).is_ok()).count();
        assert_eq!(flood as u64, ADDRESS.burst);
        limits.request(other, None).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let more = (0..30_000).filter(|_| limits.request(from([192, 0, 2, 1]), None).is_ok()).count();
        assert_eq!(more as u64, ADDRESS.per_second);
        assert!((0..100_000).all(|_| limits.request(from([127, 0, 0, 1]), None).is_ok()), "this host is not counted");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_cost_time_and_a_success_forgives() {
        let limits = Limits::default();
        let (here, liu) = (Some(IpAddr::from([192, 0, 2, 1])), Name::parse("/people/liu").unwrap());
        for _ in 0..FREE_FAILURES {
            limits.may_try(here, &liu).unwrap();
            limits.note_attempt(here, &liu, false);
        }
        let error = limits.may_try(here, &liu).unwrap_err();
        assert_eq!(error.code(), Code::RateLimited);
        limits.may_try(None, &liu).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        limits.may_try(here, &liu).unwrap();
        limits.note_attempt(here, &liu, false);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.may_try(here, &liu).is_err(), "twice as long");
        tokio::time::advance(Duration::from_secs(1)).await;
        limits.note_attempt(here, &liu, true);
        limits.may_try(here, &liu).unwrap();
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
