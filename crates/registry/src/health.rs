//! How well a running copy is: what its program says, what its agent's checks find, what is reported of it.
//!
//! The worst of them counts. A critical copy is `unhealthy`, and so out of answers; a warning one is named only where no
//! better one is there. What nobody looks at counts as well: that it was ready is all that is known of it.

use byname_api::object::InstanceId;
use byname_api::object::Stamp;
use byname_api::service::{Health, State};

use crate::service::{Instance, Service};

/// What was found of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How well it is.
    pub health: Health,
    /// Why, in words; empty when there is nothing to say.
    pub note: String,
}

/// Who found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The checks that its agent makes.
    Checks,
    /// Whoever reports of it: the program itself, or somebody who may.
    Reports,
}

impl Instance {
    /// What a source last found; `None` when it does not look.
    pub fn verdict(&self, source: Source) -> Option<&Verdict> {
        match source {
            Source::Checks => self.checked.as_ref(),
            Source::Reports => self.reported.as_ref(),
        }
    }

    pub(crate) fn verdict_mut(&mut self, source: Source) -> &mut Option<Verdict> {
        match source {
            Source::Checks => &mut self.checked,
            Source::Reports => &mut self.reported,
        }
    }

    /// How well it is by all that is known, and why: the worst word counts. `None` when nobody looks.
    pub fn well(&self) -> (Option<Health>, Option<&str>) {
        let said = self.health.as_deref().map(|why| (Health::Critical, why));
        let found = [&self.checked, &self.reported].into_iter().flatten().map(|v| (v.health, v.note.as_str()));
        // Of equals the first: what the program says, then what was found, then what was reported.
        let mut worst: Option<(Health, &str)> = None;
        for (health, note) in said.into_iter().chain(found) {
            if worst.is_none_or(|(so_far, _)| health > so_far) {
                worst = Some((health, note));
            }
        }
        match worst {
            Some((health, note)) => (Some(health), Some(note).filter(|note| !note.is_empty())),
            None => (None, None),
        }
    }

    /// Whether it is well enough to be named while better ones are not there, and worse than those.
    pub(crate) fn is_second_choice(&self) -> bool {
        self.well().0 == Some(Health::Warning)
    }

    /// Lets its state follow from its health. Copies that start or stop are what they are.
    pub(crate) fn settle(&mut self) {
        if !matches!(self.state, State::Running | State::Unhealthy) {
            return;
        }
        let ill = self.revoked || self.well().0 == Some(Health::Critical);
        self.state = if ill { State::Unhealthy } else { State::Running };
    }
}

/// A source has another word about a copy. True when that changed anything.
pub(crate) fn changed(
    service: &mut Service,
    id: InstanceId,
    source: Source,
    verdict: Option<&Verdict>,
    stamp: &Stamp,
) -> bool {
    let Some(instance) = service.instance_mut(id) else { return false };
    // What is on its way out is judged no more.
    if !matches!(instance.state, State::Running | State::Unhealthy) || instance.verdict(source) == verdict {
        return false;
    }
    let before = instance.verdict(source).map(|v| v.health);
    *instance.verdict_mut(source) = verdict.cloned();
    instance.settle();
    let what = match (source, verdict) {
        (_, None) => "is not checked any more".to_owned(),
        // The first word, when it is a good one, is no news.
        (_, Some(v)) if v.health == Health::Passing && before.is_none() => return true,
        (source, Some(v)) => {
            let by = match source {
                Source::Checks => String::new(),
                Source::Reports => format!(", reported by {}", stamp.by),
            };
            let note = if v.note.is_empty() { String::new() } else { format!(": {}", v.note) };
            format!("{}{by}{note}", v.health)
        }
    };
    service.tell(stamp.at, Some(id), what);
    true
}
