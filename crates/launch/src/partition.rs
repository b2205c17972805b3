//! How long this host has been cut off from the primary, by its own monotonic clock.
//!
//! A copy with `on_partition = stop` must not run here and elsewhere at once. The primary starts another only after the
//! term, the time that a stop takes, and a margin; the term here begins when the last beat that was heard was sent, which
//! is before the primary heard it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What is known of the primary's hearing.
pub(crate) struct Partition(watch::Sender<State>);

#[derive(Clone, Copy, Default)]
struct State {
    /// When the last beat that the primary heard was sent.
    heard: Option<Instant>,
    /// How long after that copies may go on that shall not outlive their primary.
    term: Option<Duration>,
}

impl Default for Partition {
    fn default() -> Self {
        Partition(watch::Sender::new(State::default()))
    }
}

impl Partition {
    /// The primary says which term it goes by.
    pub(crate) fn set_term(&self, term: Duration) {
        self.0.send_modify(|state| {
            state.term = Some(term);
            state.heard = state.heard.or_else(|| Some(Instant::now()));
        });
    }

    /// A copy of an earlier life of this agent goes by this term. What that life heard last nobody knows, so the term
    /// begins now unless something was heard meanwhile.
    pub(crate) fn begin(&self, term: Duration) {
        self.0.send_modify(|state| {
            state.term = state.term.or(Some(term));
            state.heard = state.heard.or_else(|| Some(Instant::now()));
        });
    }

    /// The primary has heard what was sent then.
    pub(crate) fn heard(&self, sent: Instant) {
        self.0.send_modify(|state| state.heard = state.heard.max(Some(sent)));
    }

    /// The term in milliseconds, once the primary has told one.
    pub(crate) fn term_ms(&self) -> Option<u64> {
        self.0.borrow().term.map(|term| u64::try_from(term.as_millis()).unwrap_or(u64::MAX))
    }

    /// Waits until the term is over.
    pub(crate) async fn over(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            let deadline = state.heard.zip(state.term).and_then(|(heard, term)| heard.checked_add(term));
            match deadline {
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                        return;
                    }
                }
                None => drop(changes.changed().await),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);

    async fn is_over(partition: &Partition) -> bool {
        tokio::time::timeout(Duration::from_millis(1), partition.over()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_term_begins_with_the_last_beat_that_was_heard() {
        let partition = Partition::default();
        tokio::time::advance(TERM * 10).await;
        assert!(!is_over(&partition).await, "no primary has told a term");
        partition.set_term(TERM);
        let sent = Instant::now();
        tokio::time::advance(Duration::from_secs(10)).await;
        partition.heard(sent + Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(5_990)).await;
        assert!(!is_over(&partition).await);
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(is_over(&partition).await);
        assert!(partition.0.borrow().heard < Some(Instant::now()), "the word itself is older than its arrival");
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_in_time_begins_the_term_anew_for_those_who_wait() {
        let partition = Partition::default();
        partition.set_term(TERM);
        let begun = Instant::now();
        let talk = async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                partition.heard(Instant::now());
            }
        };
        tokio::join!(talk, partition.over());
        assert_eq!(begun.elapsed().as_secs(), 55);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_was_started_again_while_cut_off_waits_one_term() {
        let partition = Partition::default();
        partition.begin(TERM);
        let begun = Instant::now();
        partition.over().await;
        assert_eq!(begun.elapsed().as_secs(), 15);
    }
}
