//! The heartbeat of a link: the agent says that it is there and how busy its host is, and learns whether it was heard.

use std::collections::VecDeque;
use std::time::Duration;

use byname_api::agent::Report;
use tokio::time::Instant;

/// So many beats may be unheard before the link is given up for another.
const DEAF: u32 = 5;

/// Beats that were sent and not heard yet.
#[derive(Default)]
pub(crate) struct Pulse {
    every: Option<Duration>,
    next: Option<Instant>,
    count: u64,
    sent: VecDeque<(u64, Instant)>,
}

impl Pulse {
    /// Beats from now on.
    pub(crate) fn begin(&mut self, every: Duration) {
        self.every = Some(every.max(Duration::from_millis(10)));
        self.next = Some(Instant::now());
    }

    /// Whether it beats.
    pub(crate) fn beats(&self) -> bool {
        self.next.is_some()
    }

    /// Waits for the next beat; for ever while it does not beat.
    pub(crate) async fn due(&self) {
        match self.next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// Whether nothing was heard for so long that nobody listens.
    pub(crate) fn is_deaf(&self) -> bool {
        let patience = self.every.unwrap_or_default() * DEAF;
        self.sent.front().is_some_and(|(_, sent)| sent.elapsed() > patience)
    }

    /// The next beat, which is on its way from now on.
    pub(crate) fn beat(&mut self, instances: usize) -> Report {
        let now = Instant::now();
        self.next = self.every.map(|every| now + every);
        self.count += 1;
        self.sent.push_back((self.count, now));
        Report::Beat {
            beat: self.count,
            load: load(),
            memory_free: memory_free(),
            instances: u32::try_from(instances).unwrap_or(u32::MAX),
        }
    }

    /// A beat was heard, and with it those before. Gives when it was sent: up to then, at least, the server knew of
    /// this host.
    pub(crate) fn heard(&mut self, beat: u64) -> Option<Instant> {
        let mut last = None;
        while let Some((_, sent)) = self.sent.pop_front_if(|(sent, _)| *sent <= beat) {
            last = Some(sent);
        }
        last
    }
}

/// The load average over one minute.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Memory that programs could still get, in bytes.
fn memory_free() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim();
    line.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_beat_that_was_heard_tells_when_it_was_sent() {
        let mut pulse = Pulse::default();
        assert!(!pulse.beats());
        pulse.begin(Duration::from_secs(1));
        let mut sent = Vec::new();
        for _ in 0..3 {
            pulse.due().await;
            sent.push(Instant::now());
            pulse.beat(0);
        }
        assert_eq!(pulse.heard(2), Some(sent[1]));
        assert_eq!(pulse.heard(1), None, "it was heard already");
        assert_eq!(pulse.heard(3), Some(sent[2]));
        assert_eq!(pulse.heard(9), None, "it was never sent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_on_which_nobody_listens_is_deaf() {
        let mut pulse = Pulse::default();
        pulse.begin(Duration::from_secs(1));
        for _ in 0..DEAF {
            pulse.due().await;
            assert!(!pulse.is_deaf());
            pulse.beat(0);
        }
        pulse.due().await;
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(pulse.is_deaf());
        pulse.heard(u64::from(DEAF));
        assert!(!pulse.is_deaf());
    }

    #[test]
    fn the_system_tells_its_load_and_memory() {
        assert!(load().is_some_and(|load| load >= 0.0));
        assert!(memory_free().is_some_and(|bytes| bytes > 0));
    }
}
