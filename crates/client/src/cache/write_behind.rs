//! What running copies say of themselves goes to the servers in batches: the last value of each copy counts, uses add up.
//! What is lost on the way is said again with the next report. Registrations never wait here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use byname_api::object::InstanceId;
use byname_api::request::{Context, ReportReply, ReportRequest};
use byname_api::{NameService, Result};
use byname_name::Name;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Shared, own};

/// How long a report waits for others at most.
const EVERY: Duration = Duration::from_secs(1);
/// Reports that do not wait any longer.
const MOST: usize = 256;
/// Copies whose first report was taken.
const KNOWN: usize = 10_000;

/// Whose report it is, and by which credential.
type Key = (Option<Name>, Option<InstanceId>, Option<String>);

#[derive(Default)]
pub(super) struct WriteBehind {
    state: Mutex<State>,
    full: Notify,
    handed_on: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Key, ReportRequest>,
    /// Whose first report a server has taken, and for which copy.
    known: HashMap<Key, InstanceId>,
}

impl WriteBehind {
    pub(super) fn handed_on(&self) -> u64 {
        self.handed_on.load(Ordering::Relaxed)
    }
}

fn key(request: &ReportRequest) -> Key {
    (request.name.clone(), request.instance, request.credential.clone())
}

/// Two reports of one copy as one: what the later one does not say, the earlier one does.
fn merged(earlier: ReportRequest, later: ReportRequest) -> ReportRequest {
    let uses = match (earlier.uses, later.uses) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    };
    ReportRequest { load: later.load.or(earlier.load), uses, ..later }
}

impl Shared {
    /// The first report of a copy goes to a server, which says whether it may; the later ones wait for others.
    pub(super) async fn take_report(&self, cx: &Context, request: ReportRequest) -> Result<ReportReply> {
        let key = key(&request);
        {
            let mut state = self.reports.state.lock();
            if let Some(instance) = state.known.get(&key).copied()
                && (request.load.is_some() || request.uses.is_some())
                && request.load.is_none_or(f64::is_finite)
            {
                let waiting = match state.waiting.remove(&key) {
                    Some(earlier) => merged(earlier, request),
                    None => request,
                };
                state.waiting.insert(key, waiting);
                if state.waiting.len() >= MOST {
                    self.reports.full.notify_one();
                }
                return Ok(ReportReply { instance });
            }
        }
        let reply = self.clerk.report(cx, request).await?;
        let mut state = self.reports.state.lock();
        if state.known.len() >= KNOWN {
            state.known.clear();
        }
        state.known.insert(key, reply.instance);
        Ok(reply)
    }

    /// Hands on what waits, every second or when there is much of it.
    pub(super) async fn hand_on(self: Arc<Self>) {
        loop {
            let _ = tokio::time::timeout(EVERY, self.reports.full.notified()).await;
            self.flush_reports().await;
        }
    }

    pub(super) async fn flush_reports(&self) {
        self.flush_reports_of(|_| true).await;
    }

    /// Hands on what waits about some names: whoever asks about them sees what it reported.
    pub(super) async fn flush_reports_of(&self, concerned: impl Fn(&Name) -> bool) {
        let waiting: Vec<(Key, ReportRequest)> = {
            let mut state = self.reports.state.lock();
            if state.waiting.is_empty() {
                return;
            }
            let of = |key: &Key, _: &mut ReportRequest| key.0.as_ref().is_none_or(&concerned);
            state.waiting.extract_if(of).collect()
        };
        let send = waiting.into_iter().map(|(key, request)| async move {
            match self.clerk.report(&own(), request).await {
                Ok(_) => {
                    self.reports.handed_on.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    // The next one goes to a server, and its sender hears why.
                    self.reports.state.lock().known.remove(&key);
                    tracing::debug!(reason = error.message(), "a report was lost");
                }
            }
        });
        futures_util::stream::StreamExt::collect::<Vec<()>>(futures_util::stream::StreamExt::buffer_unordered(
            futures_util::stream::iter(send),
            16,
        ))
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_uses_add_up() {
        let report = |load, uses| ReportRequest { load, uses, ..ReportRequest::default() };
        assert_eq!(merged(report(Some(1.0), Some(2)), report(Some(3.0), Some(4))), report(Some(3.0), Some(6)));
        assert_eq!(merged(report(Some(1.0), None), report(None, Some(4))), report(Some(1.0), Some(4)));
        assert_eq!(merged(report(None, Some(u64::MAX)), report(None, Some(4))), report(None, Some(u64::MAX)));
    }
}
