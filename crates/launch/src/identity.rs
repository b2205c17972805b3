//! Certificates for instances: asked for when they start, renewed while they run, gone when they end.
//!
//! The key is made here and stays on this host; the server signs a request (`Issuer`). What a program finds in the
//! folder that BYNAME_IDENTITY names is written by `files`; who asks over a socket instead is served by `Workloads`.
//!
//! One task renews all. Certificates end by the clock on the wall, so that is what it goes by.

mod files;
mod svid;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use byname_api::identity::{CertifyReply, Secret, TrustReply};
use byname_api::object::InstanceId;
use byname_api::{Code, Error, Result};
use byname_name::{Name, spiffe};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::folder::Place;
use crate::instance::now_ms;
use files::Files;
pub use svid::Svid;

/// How long a start waits for its certificate.
pub(crate) const WAIT: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// The pause after a first failure; it doubles with each further one.
const PAUSE_MS: u64 = 500;
/// The longest pause, and the longest time for which the task does not look at the clock.
const LONGEST_PAUSE_MS: u64 = 60_000;
/// Nothing is renewed sooner than this after it came, however short it lives.
const SOONEST_MS: u64 = 200;
/// How many are renewed at once.
const AT_ONCE: usize = 8;

/// Who certifies instances: the server, as the agent reaches it.
#[async_trait]
pub trait Issuer: Send + Sync {
    /// A new key on the curve P-256, and a request signed with it. Takes well under a millisecond.
    fn new_key(&self) -> Result<NewKey>;

    /// Has the key of a request certified for an instance of this host.
    async fn certify(&self, instance: InstanceId, request_pem: String) -> Result<CertifyReply>;

    /// A token (JWT-SVID) for an instance of this host, good for these audiences.
    async fn token(&self, instance: InstanceId, audience: Vec<String>) -> Result<Secret>;

    /// What is needed to check certificates and tokens of the trust domain.
    async fn trust(&self) -> Result<TrustReply>;
}

/// A key for which a certificate is asked.
#[derive(Debug)]
pub struct NewKey {
    /// PKCS#8 in PEM.
    pub key_pem: Secret,
    /// PKCS#10 in PEM.
    pub request_pem: String,
}

/// The identities of an agent's instances.
#[derive(Default)]
pub(crate) struct Identities {
    issuer: RwLock<Option<Arc<dyn Issuer>>>,
    known: Mutex<HashMap<InstanceId, Known>>,
    /// Something is due earlier than the renewing task thinks.
    sooner: Notify,
    renewing: Mutex<Option<AbortHandle>>,
    /// A key that is ready, so that no start waits for one to be made.
    spare: Mutex<Option<NewKey>>,
}

struct Known {
    name: Name,
    svid: watch::Sender<Option<Arc<Svid>>>,
    files: Arc<Mutex<Files>>,
    /// When to ask for the next one; `u64::MAX` while that is being done.
    due_ms: u64,
    failures: u32,
}

impl Identities {
    /// Sets who certifies from now on.
    pub(crate) fn set_issuer(self: &Arc<Self>, issuer: Arc<dyn Issuer>) {
        *self.issuer.write() = Some(issuer);
        let mut renewing = self.renewing.lock();
        if renewing.as_ref().is_none_or(AbortHandle::is_finished) {
            *renewing = Some(tokio::spawn(renew(Arc::downgrade(self))).abort_handle());
        }
        self.sooner.notify_one();
        self.refill();
    }

    /// Makes a key ready, if none is.
    pub(crate) fn refill(&self) {
        let Ok(issuer) = self.issuer() else { return };
        if self.spare.lock().is_none() {
            *self.spare.lock() = issuer.new_key().ok();
        }
    }

    pub(crate) fn issuer(&self) -> Result<Arc<dyn Issuer>> {
        let none = || Error::new(Code::Unavailable, "this host has no authority to ask for certificates yet");
        self.issuer.read().clone().ok_or_else(none)
    }

    /// Asks for the first certificate of an instance, when it can have one. The task is done when the certificate is
    /// there or was refused.
    pub(crate) fn begin(self: &Arc<Self>, id: InstanceId, name: &Name) -> Option<JoinHandle<()>> {
        if self.issuer.read().is_none() {
            tracing::debug!(instance = %id, %name, "no certificate: nobody issues them");
            return None;
        }
        // The trust domain makes no difference to whether a name has a form, as long as it is short.
        if let Err(why) = spiffe::to_id(name, "a") {
            tracing::debug!(instance = %id, %name, %why, "no certificate: the name has no form in SPIFFE");
            return None;
        }
        self.add(id, name.clone(), Files::default(), None, u64::MAX);
        Some(tokio::spawn(self.clone().obtain(id)))
    }

    /// Takes up the identity of an instance of an earlier life of the agent.
    pub(crate) fn adopt(&self, id: InstanceId, name: Name, place: Place) {
        let (files, svid) = Files::open(place);
        let due_ms = svid.as_ref().map_or(0, |svid| due(svid.issued.0, svid.expires.0));
        self.add(id, name, files, svid, due_ms);
        self.sooner.notify_one();
    }

    fn add(&self, id: InstanceId, name: Name, files: Files, svid: Option<Arc<Svid>>, due_ms: u64) {
        let (svid, _) = watch::channel(svid);
        let files = Arc::new(Mutex::new(files));
        self.known.lock().insert(id, Known { name, svid, files, due_ms, failures: 0 });
    }

    /// Says where an instance's files go. What came before is written now, what comes later when it comes.
    pub(crate) fn place(&self, id: InstanceId, place: Place) {
        let Some(files) = self.known.lock().get(&id).map(|known| known.files.clone()) else { return };
        let mut files = files.lock();
        files.place(place);
        self.write(id, &mut files);
    }

    fn write(&self, id: InstanceId, files: &mut Files) {
        let newest = self.known.lock().get(&id).and_then(|known| known.svid.borrow().clone());
        if let Some(svid) = newest
            && let Err(error) = files.write(&svid)
        {
            tracing::error!(instance = %id, %error, "a certificate cannot be written");
        }
    }

    /// The certificate of an instance, now and whenever it changes; none when it never gets one. It closes with the
    /// end of the instance.
    pub(crate) fn watch(&self, id: InstanceId) -> Option<watch::Receiver<Option<Arc<Svid>>>> {
        self.known.lock().get(&id).map(|known| known.svid.subscribe())
    }

    /// The instance has ended: its key is removed.
    pub(crate) fn forget(&self, id: InstanceId) {
        let Some(known) = self.known.lock().remove(&id) else { return };
        known.files.lock().remove();
    }

    pub(crate) fn end(&self) {
        if let Some(task) = self.renewing.lock().take() {
            task.abort();
        }
    }

    /// Gets a certificate and puts it where it belongs, or notes when to try again.
    async fn obtain(self: Arc<Self>, id: InstanceId) {
        let asked = tokio::time::timeout(ANSWER, self.ask(id)).await;
        let answer = asked.unwrap_or_else(|_| Err(Error::new(Code::Unavailable, "no answer in time")));
        let files = {
            let mut known = self.known.lock();
            // It has ended meanwhile.
            let Some(known) = known.get_mut(&id) else { return };
            match answer {
                Ok(svid) => {
                    known.failures = 0;
                    known.due_ms = due(svid.issued.0, svid.expires.0);
                    known.svid.send_replace(Some(Arc::new(svid)));
                    Some(known.files.clone())
                }
                Err(error) => {
                    if known.failures == 0 {
                        tracing::warn!(instance = %id, name = %known.name, %error, "no certificate; asking again");
                    }
                    known.due_ms = now_ms() + pause(known.failures);
                    known.failures += 1;
                    None
                }
            }
        };
        self.sooner.notify_one();
        // The start of the instance has not come to that yet, and will write them itself.
        if let Some(files) = files.filter(|files| files.lock().has_place()) {
            let identities = self.clone();
            let written = tokio::task::spawn_blocking(move || identities.write(id, &mut files.lock()));
            let _ = written.await;
        }
    }

    async fn ask(&self, id: InstanceId) -> Result<Svid> {
        let issuer = self.issuer()?;
        let ready = self.spare.lock().take();
        let NewKey { key_pem, request_pem } = ready.map_or_else(|| issuer.new_key(), Ok)?;
        let reply = issuer.certify(id, request_pem).await?;
        Svid::new(reply, key_pem)
    }

    /// Those that are due, marked as being renewed, and how long nothing else is.
    fn take_due(&self, most: usize) -> (Vec<InstanceId>, Duration) {
        let now = now_ms();
        let mut wait = LONGEST_PAUSE_MS;
        let mut due = Vec::new();
        for (id, known) in self.known.lock().iter_mut() {
            if known.due_ms > now {
                wait = wait.min(known.due_ms - now);
            } else if due.len() < most {
                known.due_ms = u64::MAX;
                due.push(*id);
            } else {
                wait = 0;
            }
        }
        (due, Duration::from_millis(wait))
    }
}

async fn renew(identities: Weak<Identities>) {
    let mut under_way = tokio::task::JoinSet::new();
    loop {
        let Some(held) = identities.upgrade() else { return };
        let (due, wait) = held.take_due(AT_ONCE.saturating_sub(under_way.len()));
        for id in due {
            under_way.spawn(held.clone().obtain(id));
        }
        let full = under_way.len() >= AT_ONCE;
        tokio::select! {
            () = held.sooner.notified(), if !full => {}
            Some(_) = under_way.join_next() => {}
            () = tokio::time::sleep(wait), if !full => {}
        }
    }
}

/// When a certificate is to be renewed: after half its life, and up to a tenth earlier or later, so that those that were
/// given together are not asked for together.
fn due(issued_ms: u64, expires_ms: u64) -> u64 {
    let life = expires_ms.saturating_sub(issued_ms);
    let tenth = life / 10;
    let jitter = RandomState::new().hash_one(issued_ms) % (2 * tenth + 1);
    issued_ms.saturating_add((life / 2 - tenth + jitter).max(SOONEST_MS))
}

/// The pause after so many failures before this one.
fn pause(failures: u32) -> u64 {
    PAUSE_MS.checked_shl(failures.min(16)).unwrap_or(LONGEST_PAUSE_MS).min(LONGEST_PAUSE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_life_passes_before_the_next_is_asked_for() {
        for _ in 0..1000 {
            assert!((1_400_000..=1_600_000).contains(&(due(1_000_000, 2_000_000))));
        }
        assert_eq!(due(5000, 4000), 5000 + SOONEST_MS, "a clock that is ahead");
    }

    #[test]
    fn pauses_grow_and_end_growing() {
        assert_eq!([0, 1, 2].map(pause), [500, 1000, 2000]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE_MS);
    }
}
