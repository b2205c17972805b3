//! Response rate limiting: answers over UDP to one network, each kind so many a second. What is too much is not sent,
//! but for every second of them, which is cut short: whoever really asks comes again over TCP, and whoever is flooded in
//! somebody's name gets little.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::answer::Answered;
use crate::key::Seed;
use crate::wire::Rcode;

const SLOTS: usize = 1 << 16;

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// The answer.
    Whole,
    /// That there is one, over TCP.
    CutShort,
    /// Nothing.
    Nothing,
}

/// Counts what is sent. Of bounded size: networks that fall upon the same place in it are counted anew, so they are limited
/// less and never more.
pub(crate) struct Limit {
    rate: u32,
    seed: Seed,
    /// 16 bits of the key, 16 bits of the second, 32 bits of a count.
    slots: Box<[AtomicU64]>,
}

impl Limit {
    /// So many answers of a kind a second to one network; 0 for no limit.
    pub(crate) fn new(rate: u32) -> Limit {
        let slots = if rate == 0 { 0 } else { SLOTS };
        Limit { rate, seed: Seed::default(), slots: (0..slots).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts an answer to `to` about the question `name` in the second `now`.
    pub(crate) fn count(&self, to: IpAddr, name: &[u8], answered: Answered, now: u32) -> Allowed {
        if self.rate == 0 || answered.known || to.is_loopback() {
            return Allowed::Whole;
        }
        let network = match to.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits() >> 8),
            IpAddr::V6(address) => (address.to_bits() >> 72) as u64 | 1 << 63,
        };
        // Errors and what is not there are of one kind each, whatever was asked for.
        let name = if answered.rcode == Rcode::NoError { name } else { &[] };
        let mut hasher = self.seed.build_hasher();
        (network, answered.rcode as u16, name).hash(&mut hasher);
        let hash = std::hash::Hasher::finish(&hasher);
        let Some(slot) = self.slots.get(hash as usize & (SLOTS - 1)) else { return Allowed::Whole };
        let mark = (hash >> 48 << 48) | (u64::from(now) & 0xffff) << 32;
        let old = slot.load(Ordering::Relaxed);
        let count = if old & !0xffff_ffff == mark { (old as u32).saturating_add(1) } else { 1 };
        slot.store(mark | u64::from(count), Ordering::Relaxed);
        match count.checked_sub(self.rate + 1) {
            None => Allowed::Whole,
            Some(over) if over % 2 == 1 => Allowed::CutShort,
            Some(_) => Allowed::Nothing,
        }
    }
}

/// So many events a second on average, some more at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    left: f64,
    at_ms: u64,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(burst: f64, now_ms: u64) -> Bucket {
        Bucket { left: burst, at_ms: now_ms }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, rate: f64, burst: f64, now_ms: u64) -> bool {
        let passed = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        self.at_ms = now_ms;
        self.left = (self.left + passed * rate).min(burst);
        let taken = self.left >= 1.0;
        if taken {
            self.left -= 1.0;
        }
        taken
    }

    /// Whether it is full by now, so that nothing is lost when it is forgotten.
    pub(crate) fn is_full(&self, rate: f64, burst: f64, now_ms: u64) -> bool {
        self.left + now_ms.saturating_sub(self.at_ms) as f64 / 1000.0 * rate >= burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_cut_short_or_not_sent_and_others_are_not_touched() {
        let limit = Limit::new(3);
        let (victim, neighbour, other) = ("192.0.2.1", "192.0.2.200", "198.51.100.1");
        let answered = Answered { qtype: 1, rcode: Rcode::NoError, known: false };
        let count = |to: &str, name: &[u8], now| limit.count(to.parse().unwrap(), name, answered, now);
        let got: Vec<Allowed> = (0..7).map(|_| count(victim, b"\x01a", 1)).collect();
        use Allowed::*;
        assert_eq!(got, [Whole, Whole, Whole, Nothing, CutShort, Nothing, CutShort]);
        assert_ne!(count(neighbour, b"\x01a", 1), Whole, "the same network");
        assert_eq!(count(other, b"\x01a", 1), Whole);
        assert_eq!(count(victim, b"\x01b", 1), Whole, "another name");
        assert_eq!(count(victim, b"\x01a", 2), Whole, "the next second");
        let known = Answered { known: true, ..answered };
        assert!((0..9).all(|_| limit.count(victim.parse().unwrap(), b"\x01a", known, 2) == Whole));
        assert!((0..9).all(|_| count("127.0.0.1", b"\x01a", 2) == Whole));
    }

    #[test]
    fn a_bucket_fills_with_time() {
        let mut bucket = Bucket::full(2.0, 0);
        assert!(bucket.take(1.0, 2.0, 0) && bucket.take(1.0, 2.0, 0) && !bucket.take(1.0, 2.0, 500));
        assert!(bucket.take(1.0, 2.0, 1_000) && !bucket.take(1.0, 2.0, 1_000));
        assert!(!bucket.is_full(1.0, 2.0, 2_000) && bucket.is_full(1.0, 2.0, 3_000));
    }
}
