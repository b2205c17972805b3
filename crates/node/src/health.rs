//! The health of running copies: what agents' checks find and what is reported becomes a command when it is better or
//! worse than before, and only then. Nothing else of it is logged.
//!
//! A check of kind `ttl` is a clock here: each report winds it up, and when it has run down the copy is critical. Like
//! leases it is the primary's monotonic clock, and a primary that has just become one grants everybody one whole ttl.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use byname_api::agent::Checked;
use byname_api::error::{Code, Error, Result};
use byname_api::launch::CheckKind;
use byname_api::object::{InstanceId, ObjectId};
use byname_api::service::{Health, State};
use byname_api::span::Span;
use byname_registry::command::Change;
use byname_registry::health::{Source, Verdict};
use byname_registry::service::Instance;
use byname_registry::{Command, Node as Object, Tree};

use crate::Inner;
use crate::leases::Leases;

/// The longest note that is kept, in bytes.
pub(crate) const MAX_NOTE: usize = 1_024;

/// The copies that must report, and when their time is up.
#[derive(Default)]
pub(crate) struct Reports {
    clocks: Leases<InstanceId>,
    known: Mutex<HashMap<InstanceId, Reporter>>,
}

struct Reporter {
    ttl: Span,
    /// Counts the reports.
    serial: u64,
    /// The last report, and who gave it.
    last: Option<(String, Verdict)>,
    /// Its silence is on its way into the log.
    expiring: bool,
}

impl Reports {
    /// A copy must report from now on. Known already with the same ttl: nothing changes.
    fn follow(&self, id: InstanceId, ttl: Span) {
        let mut known = self.known.lock();
        if known.get(&id).is_some_and(|reporter| reporter.ttl == ttl) {
            return;
        }
        let reporter = known.entry(id).or_insert(Reporter { ttl, serial: 0, last: None, expiring: false });
        reporter.ttl = ttl;
        self.clocks.grant(id, reporter.serial, ttl.as_millis());
    }

    /// It must report no more; true when it had to.
    fn forget(&self, id: InstanceId) -> bool {
        self.clocks.end(id);
        self.known.lock().remove(&id).is_some()
    }

    /// Another server is the primary.
    pub(crate) fn clear(&self) {
        self.known.lock().clear();
        self.clocks.clear();
    }

    /// It has reported. True when its silence may reach the log after this.
    fn told(&self, id: InstanceId, by: &str, verdict: &Verdict) -> bool {
        let mut known = self.known.lock();
        let Some(reporter) = known.get_mut(&id) else { return false };
        reporter.serial += 1;
        reporter.last = Some((by.to_owned(), verdict.clone()));
        self.clocks.grant(id, reporter.serial, reporter.ttl.as_millis());
        reporter.expiring
    }

    /// Its time is up: gives its ttl, unless it has reported meanwhile.
    fn expire(&self, id: InstanceId, serial: u64) -> Option<Span> {
        let mut known = self.known.lock();
        let reporter = known.get_mut(&id).filter(|reporter| reporter.serial == serial)?;
        reporter.expiring = true;
        Some(reporter.ttl)
    }

    /// Its silence is in the log. Gives what it has reported meanwhile.
    fn expired(&self, id: InstanceId, serial: u64) -> Option<(String, Verdict)> {
        let mut known = self.known.lock();
        let reporter = known.get_mut(&id)?;
        reporter.expiring = false;
        if reporter.serial == serial {
            self.clocks.end(id);
            return None;
        }
        reporter.last.clone()
    }
}

impl Inner {
    /// A new primary: everybody who must report has one whole ttl for it.
    pub(crate) fn begin_reports(&self, tree: &Tree) {
        self.reports.clear();
        for node in tree.live() {
            self.follow_reports(&node);
        }
    }

    /// A service changed: its copies must report from now on, or need not any more.
    pub(crate) fn follow_health(self: &Arc<Self>, id: ObjectId) {
        let Some(node) = self.view.load().by_id(id) else { return };
        for silent in self.follow_reports(&node) {
            // What was held against it holds no more.
            let inner = self.clone();
            tokio::spawn(async move { inner.log_health(silent, "byname", Source::Reports, None).await });
        }
    }

    /// Gives those that had to report, and have a word that nobody will take back.
    fn follow_reports(&self, node: &Object) -> Vec<InstanceId> {
        let mut free = Vec::new();
        let check = node.spec.launch.as_ref().and_then(|l| l.check.as_ref()?.iter().find(|c| c.kind == CheckKind::Ttl));
        for instance in node.service.iter().flat_map(|s| &s.instances) {
            let lives = matches!(instance.state, State::Running | State::Unhealthy);
            match check.filter(|_| lives) {
                Some(check) => self.reports.follow(instance.id, check.ttl()),
                None => {
                    if self.reports.forget(instance.id) && lives && instance.reported.is_some() {
                        free.push(instance.id);
                    }
                }
            }
        }
        free
    }

    /// An instance has ended.
    pub(crate) fn forget_health(&self, id: InstanceId) {
        self.reports.forget(id);
    }

    /// Its agent says what its checks found.
    pub(crate) async fn take_checked(&self, id: InstanceId, checked: Checked) {
        let verdict = Verdict { health: checked.health, note: bounded(checked.note) };
        let mut pause = Duration::from_millis(100);
        while self.differs(id, Source::Checks, &verdict) {
            match self.log_health(id, "byname", Source::Checks, Some(verdict.clone())).await {
                // An agent says each thing once, so it is tried until it is in the log.
                Err(error) if matches!(error.code(), Code::Unavailable | Code::RateLimited) && !self.stopping() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => {
                    tracing::error!(instance = %id, error = error.log_line(), "what checks found was not taken");
                    return;
                }
                Ok(()) => return,
            }
        }
    }

    /// Somebody who may says how well a copy is.
    pub(crate) async fn take_report(&self, by: &str, copy: &Instance, health: Health, note: String) -> Result<()> {
        if !matches!(copy.state, State::Running | State::Unhealthy) {
            return Err(Error::new(
                Code::Conflict,
                format!("the instance is {}: its health counts while it runs", copy.state),
            )
            .field("health"));
        }
        let verdict = Verdict { health, note: bounded(note) };
        let expiring = self.reports.told(copy.id, by, &verdict);
        if expiring || self.differs(copy.id, Source::Reports, &verdict) {
            self.log_health(copy.id, by, Source::Reports, Some(verdict)).await?;
        }
        Ok(())
    }

    /// Whether a verdict is better or worse than what is known. Another reason for the same is no news.
    fn differs(&self, id: InstanceId, source: Source, verdict: &Verdict) -> bool {
        let node = self.view.load().by_instance(id);
        let copy = node.as_ref().and_then(|node| node.service.as_deref()?.instance(id));
        copy.is_some_and(|copy| copy.verdict(source).map(|v| v.health) != Some(verdict.health))
    }

    async fn log_health(&self, id: InstanceId, by: &str, source: Source, verdict: Option<Verdict>) -> Result<()> {
        let change = Change::Health { source, verdict };
        self.propose(by, None, Command::Report { instance: id, change }).await.map(drop)
    }

    async fn judge_silence(&self, id: InstanceId, serial: u64) -> Result<()> {
        let Some(ttl) = self.reports.expire(id, serial) else { return Ok(()) };
        let verdict = Verdict { health: Health::Critical, note: format!("no report within {ttl}") };
        let logged = if self.differs(id, Source::Reports, &verdict) {
            self.log_health(id, "byname", Source::Reports, Some(verdict)).await
        } else {
            Ok(())
        };
        // When it was not logged its clock rings again.
        logged?;
        if let Some((by, verdict)) = self.reports.expired(id, serial) {
            self.log_health(id, &by, Source::Reports, Some(verdict)).await?;
        }
        Ok(())
    }

    /// How many running copies are how well, for `/metrics`.
    pub(crate) fn measure_health(&self, tree: &Tree) {
        let mut counts = [0u64; 4];
        for node in tree.live() {
            for instance in node.service.iter().flat_map(|s| &s.instances) {
                if matches!(instance.state, State::Running | State::Unhealthy) {
                    let at = instance.well().0.map_or(3, |health| health as usize);
                    if let Some(count) = counts.get_mut(at) {
                        *count += 1;
                    }
                }
            }
        }
        let words = Health::ALL.map(Health::as_str).into_iter().chain(["unchecked"]);
        for (word, count) in words.zip(counts) {
            metrics::gauge!("byname_instances", "health" => word).set(count as f64);
        }
    }
}

/// A note that can be shown anywhere: short, on one line.
fn bounded(note: String) -> String {
    let mut note: String = note.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if note.len() > MAX_NOTE {
        let at = (0..=MAX_NOTE - 3).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(at);
        note.push('…');
    }
    note
}

/// Takes those for critical that do not report, as long as the server lives.
pub(crate) async fn judge_the_silent(inner: Arc<Inner>) {
    loop {
        let (id, serial) = inner.reports.clocks.ran_out().await;
        if inner.stopping() {
            return;
        }
        if inner.view.load().by_instance(id).is_none() {
            inner.reports.forget(id);
            continue;
        }
        if !inner.reigns() {
            continue;
        }
        if let Err(error) = inner.judge_silence(id, serial).await {
            tracing::warn!(instance = %id, error = error.log_line(), "a missing report cannot be logged now");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InstanceId = InstanceId(1);

    fn passing() -> Verdict {
        Verdict { health: Health::Passing, note: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reports_in_time_is_not_judged_and_who_does_not_is() {
        let reports = Reports::default();
        reports.follow(A, Span::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!reports.told(A, "liu", &passing()));
        let begun = tokio::time::Instant::now();
        let (id, serial) = reports.clocks.ran_out().await;
        assert_eq!((id, serial, begun.elapsed().as_secs()), (A, 1, 10));
        assert_eq!(reports.expire(id, serial), Some(Span::from_secs(10)));
        assert_eq!(reports.expired(id, serial), None);
        assert!(tokio::time::timeout(Duration::from_secs(100), reports.clocks.ran_out()).await.is_err(), "said once");
        assert!(!reports.told(A, "liu", &passing()), "its clock is wound up again");
        assert_eq!(reports.clocks.ran_out().await, (A, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_comes_while_the_silence_is_logged_is_not_lost() {
        let reports = Reports::default();
        reports.follow(A, Span::from_secs(10));
        let (id, serial) = reports.clocks.ran_out().await;
        reports.expire(id, serial).unwrap();
        assert!(reports.told(A, "liu", &passing()));
        assert_eq!(reports.expired(id, serial), Some(("liu".into(), passing())));
        let (_, serial) = reports.clocks.ran_out().await;
        assert_eq!(serial, 1, "and its clock goes on");
        reports.told(A, "liu", &passing());
        assert_eq!(reports.expire(id, serial), None, "it has reported meanwhile");
    }

    #[test]
    fn a_note_is_bounded() {
        assert_eq!(bounded("ok\u{1b}\nyes".into()), "ok  yes");
        let long = bounded("ä".repeat(10_000));
        assert!(long.len() <= MAX_NOTE && long.ends_with('…'));
    }
}
