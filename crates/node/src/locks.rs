//! `lock` and `unlock`: locks of objects, with fencing tokens, held by leases.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use byname_api::caller::Right;
use byname_api::error::{Code, Error, Result};
use byname_api::request::{Context, LockReply, LockRequest, UnlockReply, UnlockRequest};
use byname_registry::{Command, Reply};

use crate::Inner;
use crate::advertise::hash_of;

/// How long a lock holds when the request does not say.
const DEFAULT_TTL_MS: u64 = 30_000;
/// How often a lock is tried anew when its name was not there before and taken after; what else is a conflict stays one.
const UNSEEN: u32 = 50;
/// The longest wait for a lock.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

impl Inner {
    pub(crate) async fn lock(self: &Arc<Self>, cx: &Context, request: LockRequest) -> Result<LockReply> {
        self.authorise(&cx.caller, Right::Modify, &request.name)?;
        let ttl_ms = request.ttl.map_or(DEFAULT_TTL_MS, |t| t.as_millis());
        if !(1_000..=86_400_000).contains(&ttl_ms) {
            return Err(Error::invalid("ttl", "a lock holds from 1s to 1d without renewal"));
        }
        let (key, given) = match &request.key {
            Some(text) => (hash_of(text, "key")?, None),
            None if request.renew => return Err(Error::invalid("key", "say which lock: its key")),
            None => {
                let secret: [u8; 32] = rand::random();
                (Sha256::digest(secret).into(), Some(hex::encode(secret)))
            }
        };
        if let Some(reply) = self.renew_lock(&request, key, ttl_ms) {
            self.still_leads().await?;
            return Ok(reply);
        }
        let deadline = Instant::now() + request.wait.map_or(Duration::ZERO, |w| w.duration()).min(MAX_WAIT);
        let mut unseen = 0;
        loop {
            // Listened to before it is tried, so that no release is missed.
            let id = self.view.load().resolve(&request.name).map(|r| r.node.id).ok();
            let wait = id.map(|id| self.waits.listen(id));
            let changed = wait.as_ref().map(|w| w.changed());
            tokio::pin!(changed);
            if let Some(changed) = changed.as_mut().as_pin_mut() {
                changed.enable();
            }
            // While it waited, the name may have come to lead elsewhere.
            self.authorise(&cx.caller, Right::Modify, &request.name)?;
            // A lock that was lost does not come back by waiting.
            let waited = request.wait.is_some() && !request.renew && Instant::now() < deadline;
            // Without the request id, whose first refusal would be remembered for all tries: the key does its work.
            let held = self.held_by_another(&request, key);
            let outcome = match held {
                Some(error) if waited => Err(error),
                _ => {
                    let command = Command::Lock { name: request.name.clone(), key, ttl_ms, renew: request.renew };
                    self.propose(&cx.caller.principal, None, command).await
                }
            };
            match outcome {
                Ok(Reply::Locked { name, fence, .. }) => return Ok(LockReply { name, fence, key: given, ttl_ms }),
                Ok(other) => return Err(Error::internal(format!("lock gave {other:?}"))),
                Err(error) if error.code() != Code::Conflict || !waited => return Err(error),
                Err(error) => match changed.as_pin_mut() {
                    Some(changed) => {
                        let _ = tokio::time::timeout_at(deadline, changed).await;
                    }
                    // There was no name to listen to, and somebody made it for a lock of their own just now.
                    None if unseen < UNSEEN => {
                        unseen += 1;
                        tokio::time::sleep(Duration::from_millis(u64::from(unseen))).await;
                    }
                    None => return Err(error),
                },
            }
        }
    }

    /// A renewal that changes nothing is not logged: the primary's timer is all that moves.
    fn renew_lock(&self, request: &LockRequest, key: [u8; 32], ttl_ms: u64) -> Option<LockReply> {
        let tree = self.view.load();
        let node = tree.resolve(&request.name).ok()?.node;
        let lock = node.lock.as_ref().filter(|lock| lock.key == key && lock.ttl_ms == ttl_ms)?;
        let reply = LockReply { name: node.name.clone(), fence: lock.fence, key: None, ttl_ms };
        self.lock_leases.renew(node.id).then_some(reply)
    }

    /// The refusal that the log would give, without asking it.
    fn held_by_another(&self, request: &LockRequest, key: [u8; 32]) -> Option<Error> {
        let tree = self.view.load();
        let node = tree.resolve(&request.name).ok()?.node;
        let lock = node.lock.as_ref().filter(|lock| lock.key != key)?;
        Some(Error::new(Code::Conflict, format!("`{}` is locked by {}", node.name, lock.by)))
    }

    pub(crate) async fn unlock(self: &Arc<Self>, cx: &Context, request: UnlockRequest) -> Result<UnlockReply> {
        let key = match &request.key {
            Some(text) => Some(hash_of(text, "key")?),
            None => {
                self.authorise(&cx.caller, Right::Modify, &request.name)?;
                None
            }
        };
        if let Some(key) = key {
            // What the view refuses is not worth an entry in the log.
            let tree = self.view.load();
            let held = tree.resolve(&request.name).ok().and_then(|found| Some(found.node.lock.as_ref()?.key == key));
            if held.is_none() {
                return Ok(UnlockReply { released: false });
            }
        }
        let command = Command::Unlock { name: request.name.clone(), key };
        match self.propose(&cx.caller.principal, cx.request, command).await {
            Ok(Reply::Unlocked(released)) => Ok(UnlockReply { released }),
            Ok(other) => Err(Error::internal(format!("unlock gave {other:?}"))),
            Err(error) if error.code() == Code::Denied => {
                self.note_refusal(&cx.caller, "unlock", Some(&request.name), &error);
                // As where nothing is.
                let sees = self.sees(&self.view.load(), &cx.caller, &request.name);
                if sees { Err(error) } else { Ok(UnlockReply { released: false }) }
            }
            Err(error) => Err(error),
        }
    }
}
