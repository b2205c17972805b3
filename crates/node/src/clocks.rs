//! Which time goes into the log.
//!
//! Logged time never goes back, and all servers live by it: a primary whose clock is far ahead would end the sessions, tokens and
//! certificates of everybody, for good. So a primary asks the others for their clocks. While it agrees with a majority of them its
//! own clock counts; one that is off by more than [`BOUND`] takes the majority's, and says so. Until it has heard a majority, time
//! goes on from where the log is, by the monotonic clock. After a long stop of all servers it leaps as soon as they have met.
//! What a backup proposes brings no time at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use byname_api::span::Timestamp;

use crate::{Inner, start};

/// A clock that differs from the majority's by more is wrong. Operators see to seconds; certificates forgive minutes.
const BOUND: Duration = Duration::from_secs(300);

/// What the primary knows of the clocks of the servers.
pub(crate) struct Clocks {
    inner: Mutex<Known>,
    /// A reign begins: the others are asked at once.
    pub(crate) asked: Notify,
}

struct Known {
    /// The logged time when the reign began, or later, and when that was.
    since: (Timestamp, Instant),
    /// By how many milliseconds the majority's clock is ahead of the own one, when that is known.
    ahead: Option<i64>,
    /// The same of each other server.
    others: BTreeMap<u64, i64>,
    /// Servers of which it was said that their clocks are wrong.
    said: BTreeSet<u64>,
}

impl Default for Clocks {
    fn default() -> Self {
        let known = Known {
            since: (Timestamp(0), Instant::now()),
            ahead: None,
            others: BTreeMap::new(),
            said: BTreeSet::new(),
        };
        Clocks { inner: Mutex::new(known), asked: Notify::new() }
    }
}

impl Clocks {
    /// A reign begins, at this logged time.
    pub(crate) fn begin(&self, logged: Timestamp) {
        let mut known = self.inner.lock();
        (known.since, known.ahead) = ((logged, Instant::now()), None);
        known.others.clear();
        drop(known);
        self.asked.notify_one();
    }

    /// The time for the log, by a clock that shows `wall`, where so many servers have a vote.
    fn time(&self, wall: Timestamp, servers: usize) -> Timestamp {
        let mut known = self.inner.lock();
        let (at, since) = known.since;
        let goes_on = Timestamp(at.0.saturating_add(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)));
        let time = match known.ahead {
            _ if servers < 2 => wall,
            Some(ahead) if ahead.unsigned_abs() > bound() => {
                goes_on.max(Timestamp(wall.0.saturating_add_signed(ahead)))
            }
            Some(_) => wall,
            None => goes_on,
        };
        if time > goes_on {
            known.since = (time, Instant::now());
        }
        time
    }

    /// What the clocks of other servers show, while the own one shows `wall`. Gives those of which it is news that they are wrong,
    /// with how far they are ahead of the majority's.
    fn heard(&self, own: u64, wall: Timestamp, others: &[(u64, Timestamp)], servers: usize) -> Vec<(u64, i64)> {
        let difference = |at: Timestamp| i64::try_from(i128::from(at.0) - i128::from(wall.0)).unwrap_or(i64::MAX);
        let mut known = self.inner.lock();
        known.others.extend(others.iter().map(|(id, at)| (*id, difference(*at))));
        let Some(ahead) = agreed(known.others.values().copied(), servers) else { return Vec::new() };
        known.ahead = Some(ahead);
        let all: Vec<(u64, i64)> = known.others.iter().map(|(id, other)| (*id, *other)).chain([(own, 0)]).collect();
        let mut news = Vec::new();
        for (id, other) in all {
            let off = other.saturating_sub(ahead);
            if off.unsigned_abs() <= bound() {
                known.said.remove(&id);
            } else if known.said.insert(id) {
                news.push((id, off));
            }
        }
        news
    }

    /// By how many seconds each server's clock is ahead of the majority's, as far as that is known.
    fn offsets(&self, own: u64) -> Vec<(u64, f64)> {
        let known = self.inner.lock();
        let Some(ahead) = known.ahead else { return Vec::new() };
        let all = known.others.iter().map(|(id, other)| (*id, *other)).chain([(own, 0)]);
        all.map(|(id, other)| (id, other.saturating_sub(ahead) as f64 / 1_000.0)).collect()
    }
}

fn bound() -> u64 {
    BOUND.as_millis() as u64
}

/// By how much the majority's clock is ahead of the own one, from by how much the others' are: none when no majority of so many
/// servers is known. Where two are in the middle and differ, nobody knows which is right, and the earlier one does no harm.
fn agreed(others: impl Iterator<Item = i64>, servers: usize) -> Option<i64> {
    let mut all: Vec<i64> = others.chain([0]).collect();
    if all.len() <= servers / 2 {
        return None;
    }
    all.sort_unstable();
    let (low, high) = (*all.get((all.len() - 1) / 2)?, *all.get(all.len() / 2)?);
    Some(if low.abs_diff(high) > bound() { low } else { 0.clamp(low, high) })
}

impl Inner {
    /// The time for what this server logs.
    pub(crate) fn time_to_log(&self) -> Timestamp {
        if self.reigns() || self.cluster.is_primary() {
            self.clocks.time(start::now(), self.voters().count())
        } else {
            Timestamp(0)
        }
    }

    fn voters(&self) -> impl Iterator<Item = u64> {
        self.cluster.members().into_iter().filter(|member| member.voter).map(|member| member.server.id)
    }

    /// What this server's clock shows, as it tells the primary.
    pub(crate) fn clock_to_tell() -> Vec<u8> {
        start::now().0.to_le_bytes().to_vec()
    }

    /// Takes what the other servers answered to a word: their clocks, if they say them.
    pub(crate) fn hear_clocks(&self, answers: &[(u64, bytes::Bytes)]) {
        let said = |(id, bytes): &(u64, bytes::Bytes)| {
            let at: [u8; 8] = bytes.as_ref().try_into().ok()?;
            Some((*id, Timestamp(u64::from_le_bytes(at))))
        };
        let voters: Vec<u64> = self.voters().collect();
        let others: Vec<(u64, Timestamp)> =
            answers.iter().filter_map(said).filter(|(id, _)| voters.contains(id)).collect();
        let (own, servers) = (self.config.id, voters.len());
        for (server, ahead) in self.clocks.heard(own, start::now(), &others, servers) {
            let seconds = ahead / 1_000;
            match server == own {
                true => tracing::error!(
                    seconds,
                    "this server's clock is that far ahead of those of the majority, whose time is logged: set it right"
                ),
                false => tracing::error!(
                    server,
                    seconds,
                    "the server's clock is that far ahead of those of the majority: set it right"
                ),
            }
        }
    }

    /// Sets the gauges of the clocks.
    pub(crate) fn measure_clocks(&self) {
        if self.reigns() {
            for (server, seconds) in self.clocks.offsets(self.config.id) {
                metrics::gauge!("byname_clock_offset_seconds", "server" => server.to_string()).set(seconds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(1_700_000_000_000);
    const DAY: u64 = 86_400_000;

    fn later(at: Timestamp, ms: u64) -> Timestamp {
        Timestamp(at.0 + ms)
    }

    #[tokio::test(start_paused = true)]
    async fn a_primary_whose_clock_is_a_day_ahead_takes_nobodys_time_away() {
        let (clocks, wall) = (Clocks::default(), later(NOON, DAY));
        clocks.begin(NOON);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clocks.time(wall, 3), later(NOON, 1_000), "before anybody is heard");
        let others = [(2, later(NOON, 1_000)), (3, later(NOON, 1_020))];
        assert_eq!(clocks.heard(1, later(wall, 1_000), &others, 3), [(1, DAY as i64 - 20)]);
        assert_eq!(clocks.time(later(wall, 1_000), 3), later(NOON, 1_020));
        assert_eq!(clocks.time(later(wall, 5_000), 3), later(NOON, 5_020));
        assert_eq!(clocks.offsets(1).last(), Some(&(1, (DAY - 20) as f64 / 1_000.0)));
        assert_eq!(clocks.heard(1, later(wall, 1_000), &others, 3), [], "it is said once");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_stop_time_leaps_when_the_servers_have_met() {
        let (clocks, wall) = (Clocks::default(), later(NOON, DAY));
        clocks.begin(NOON);
        assert_eq!(clocks.time(wall, 3), NOON);
        assert_eq!(clocks.heard(1, wall, &[], 3), []);
        assert_eq!(clocks.time(wall, 3), NOON, "one is no majority");
        assert_eq!(clocks.heard(1, wall, &[(3, later(wall, 200))], 3), []);
        assert_eq!(clocks.time(wall, 3), wall, "what differs a little is the own clock");
        assert_eq!(clocks.time(wall, 1), wall, "who is alone has no other clock");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_with_a_wrong_clock_changes_nothing_and_is_named() {
        let clocks = Clocks::default();
        clocks.begin(NOON);
        assert_eq!(clocks.heard(1, NOON, &[(2, later(NOON, DAY)), (3, NOON)], 3), [(2, DAY as i64)]);
        assert_eq!(clocks.time(NOON, 3), NOON);
        assert_eq!(clocks.heard(1, NOON, &[(2, NOON)], 3), []);
        assert_eq!(clocks.heard(1, NOON, &[(2, Timestamp(0))], 3), [(2, -(NOON.0 as i64))], "it may go wrong again");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_differ_the_earlier_counts_and_time_goes_on_at_least() {
        let clocks = Clocks::default();
        clocks.begin(NOON);
        assert_eq!(clocks.heard(1, later(NOON, DAY), &[(2, NOON)], 3), [(1, DAY as i64)]);
        assert_eq!(clocks.time(later(NOON, DAY), 3), NOON);
        clocks.begin(NOON);
        clocks.heard(1, NOON, &[(2, Timestamp(0))], 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clocks.time(later(NOON, 1_000), 3), later(NOON, 1_000));
    }

    #[test]
    fn the_majority_is_that_of_all_servers() {
        assert_eq!(agreed([].into_iter(), 2), None);
        assert_eq!(agreed([1].into_iter(), 4), None);
        assert_eq!(agreed([5, 7, 9].into_iter(), 4), Some(5));
        assert_eq!(agreed([-5, -7, 9].into_iter(), 5), Some(0));
        assert_eq!(agreed([i64::MAX].into_iter(), 2), Some(0));
        assert_eq!(agreed([i64::MIN].into_iter(), 2), Some(i64::MIN));
    }
}
