//! The health checks of a running copy: when they are made, and what their results come to.
//!
//! Each check is a task of its own, so that one that hangs holds up no other and none is made twice at once. Results go
//! to the instance's task, which counts them (`Judge`): a check gets worse after `fall` worse results in a row, and better
//! after `rise` better ones. What the worst check says is what the primary is told, and only when that changes.

mod command;
mod plan;
mod probe;

use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use byname_api::agent::Checked;
use byname_api::object::InstanceId;
use byname_api::service::Health;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::agent::Inner;
use crate::folder::StoredCheck;

pub(crate) use plan::plan;
pub use probe::{Connection, GrpcHealth};

/// What is kept of what a check wrote or read, in bytes.
const KEPT: usize = 256;

/// The checks of one instance.
pub(crate) struct Checks {
    declared: Vec<StoredCheck>,
    judges: Vec<Judge>,
    found: mpsc::Receiver<(usize, Checked)>,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
    told: Option<Checked>,
}

/// What the checks of an instance come to.
pub(crate) struct Verdict {
    /// What is to be told.
    pub(crate) checked: Checked,
    /// What each check said last that counted, for an agent that comes later.
    pub(crate) each: Vec<Option<Checked>>,
    /// A check wants the copy to be ended.
    pub(crate) restart: bool,
}

impl Checks {
    /// Begins to make them. `known` is what each said to an earlier agent.
    pub(crate) fn begin(
        agent: &Arc<Inner>,
        id: InstanceId,
        folder: PathBuf,
        declared: &[StoredCheck],
        known: Vec<Option<Checked>>,
    ) -> Checks {
        let (tell, found) = mpsc::channel(declared.len().max(1));
        let mut tasks = JoinSet::new();
        let adopted = !known.is_empty();
        for (at, check) in declared.iter().enumerate() {
            let (agent, check, folder, tell) = (agent.clone(), check.clone(), folder.clone(), tell.clone());
            tasks.spawn(async move {
                let interval = Duration::from_millis(check.interval_ms);
                // A program that has just become ready is looked at soon. One that was found again is one of many.
                let first = if adopted { interval } else { interval / 10 };
                tokio::time::sleep(first.mul_f64(share(id, at, 0))).await;
                for turn in 1.. {
                    let checked = probe::make(&agent, id, &folder, &check).await;
                    if tell.send((at, checked)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(interval.mul_f64(0.9 + 0.2 * share(id, at, turn))).await;
                }
            });
        }
        let mut known = known.into_iter();
        let judges = declared.iter().map(|check| Judge::new(check, known.next().flatten())).collect::<Vec<_>>();
        let told = worst(&judges);
        Checks { declared: declared.to_vec(), judges, found, _tasks: tasks, told }
    }

    /// What was told last.
    pub(crate) fn told(&self) -> Option<&Checked> {
        self.told.as_ref()
    }

    /// Waits until something is to be told.
    pub(crate) async fn next(&mut self) -> Verdict {
        loop {
            let Some((at, checked)) = self.found.recv().await else { return pending().await };
            let (Some(judge), Some(check)) = (self.judges.get_mut(at), self.declared.get(at)) else { continue };
            if !judge.take(checked) {
                continue;
            }
            let restart = check.restart && judge.now.as_ref().is_some_and(|now| now.health == Health::Critical);
            let Some(worst) = worst(&self.judges) else { continue };
            let same = self.told.as_ref().is_some_and(|told| told.health == worst.health);
            if same && !restart {
                continue;
            }
            self.told = Some(worst.clone());
            return Verdict { checked: worst, each: self.judges.iter().map(|j| j.now.clone()).collect(), restart };
        }
    }
}

/// A number from 0 to 1 that differs from check to check and from turn to turn.
fn share(id: InstanceId, at: usize, turn: u64) -> f64 {
    let random = RandomState::new().hash_one((id, at, turn));
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// What the worst check says; of equals the first. None before any has said anything.
fn worst(judges: &[Judge]) -> Option<Checked> {
    let mut worst: Option<&Checked> = None;
    for now in judges.iter().filter_map(|judge| judge.now.as_ref()) {
        if worst.is_none_or(|so_far| now.health > so_far.health) {
            worst = Some(now);
        }
    }
    worst.cloned()
}

/// Counts the results of one check.
struct Judge {
    rise: u32,
    fall: u32,
    /// What counts; none before the first result that does.
    now: Option<Checked>,
    /// Results in a row that were worse than what counts, and the best of them.
    worse: u32,
    at_least: Health,
    /// Results in a row that were better, and the worst of them.
    better: u32,
    at_most: Health,
}

impl Judge {
    fn new(check: &StoredCheck, known: Option<Checked>) -> Judge {
        let (at_least, at_most) = (Health::Critical, Health::Passing);
        Judge { rise: check.rise, fall: check.fall, now: known, worse: 0, at_least, better: 0, at_most }
    }

    /// Takes a result; true when something else counts now.
    fn take(&mut self, found: Checked) -> bool {
        // That it was ready is as good as a first result, but no word of a check.
        let now = self.now.as_ref().map_or(Health::Passing, |now| now.health);
        if found.health > now {
            self.better = 0;
            self.at_least = if self.worse == 0 { found.health } else { self.at_least.min(found.health) };
            self.worse += 1;
            if self.worse < self.fall {
                return false;
            }
            return self.settle(Checked { health: self.at_least, ..found });
        }
        if found.health < now {
            self.worse = 0;
            self.at_most = if self.better == 0 { found.health } else { self.at_most.max(found.health) };
            self.better += 1;
            if self.better < self.rise {
                return false;
            }
            return self.settle(Checked { health: self.at_most, ..found });
        }
        (self.worse, self.better) = (0, 0);
        self.now.is_none() && self.settle(found)
    }

    fn settle(&mut self, now: Checked) -> bool {
        (self.worse, self.better) = (0, 0);
        self.now = Some(now);
        true
    }
}

/// The end of what was written, made printable, on one line.
fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(KEPT);
    // A character that was cut in two is no character.
    let cut = bytes.get(from..).unwrap_or_default();
    let whole = cut.iter().take(3).take_while(|byte| from > 0 && (**byte & 0xc0) == 0x80).count();
    let text = String::from_utf8_lossy(cut.get(whole..).unwrap_or_default());
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    crate::hold::escape(&lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Health::{Critical, Passing, Warning};

    fn judge(rise: u32, fall: u32) -> Judge {
        let check = StoredCheck { rise, fall, ..StoredCheck::default() };
        Judge::new(&check, None)
    }

    fn run(judge: &mut Judge, results: &[Health]) -> Vec<Option<Health>> {
        let one = |health: &Health| {
            let changed = judge.take(Checked { health: *health, note: String::new() });
            changed.then(|| judge.now.as_ref().unwrap().health)
        };
        results.iter().map(one).collect()
    }

    #[test]
    fn it_falls_after_so_many_failures_in_a_row_and_rises_after_so_many_successes() {
        let mut judge = judge(2, 3);
        assert_eq!(run(&mut judge, &[Passing, Critical, Critical, Passing]), [Some(Passing), None, None, None]);
        assert_eq!(run(&mut judge, &[Critical, Critical, Critical]), [None, None, Some(Critical)]);
        assert_eq!(run(&mut judge, &[Passing, Critical, Passing, Passing]), [None, None, None, Some(Passing)]);
    }

    #[test]
    fn every_other_failure_changes_nothing() {
        let mut judge = judge(2, 2);
        run(&mut judge, &[Passing]);
        let flapping: Vec<Health> = (0..100).map(|n| if n % 2 == 0 { Critical } else { Passing }).collect();
        assert!(run(&mut judge, &flapping).iter().all(Option::is_none));
    }

    #[test]
    fn a_warning_is_between_the_two() {
        let mut judge = judge(1, 2);
        run(&mut judge, &[Passing]);
        assert_eq!(
            run(&mut judge, &[Critical, Warning]),
            [None, Some(Warning)],
            "two worse ones, and the better of them"
        );
        assert_eq!(run(&mut judge, &[Critical, Critical]), [None, Some(Critical)]);
        assert_eq!(run(&mut judge, &[Warning, Passing]), [Some(Warning), Some(Passing)]);
    }

    #[test]
    fn a_copy_that_never_passed_falls_as_well() {
        let mut judge = judge(1, 3);
        assert_eq!(run(&mut judge, &[Critical, Critical]), [None, None]);
        assert_eq!(judge.now, None, "that it was ready counts so long");
        assert_eq!(run(&mut judge, &[Critical]), [Some(Critical)]);
    }

    #[test]
    fn what_is_kept_is_short_and_printable() {
        assert_eq!(tail(b""), "");
        assert_eq!(tail(b"one\r\n\n two\x1b[31m\n"), "one; two\\u{1b}[31m");
        let long = "ä".repeat(200);
        let kept = tail(format!("x{long}").as_bytes());
        assert!(kept.len() <= KEPT && kept.chars().all(|c| c == 'ä'), "{kept}");
    }
}
