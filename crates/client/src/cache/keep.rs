//! What keeps a cache fresh: watches, and questions on the side.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use byname_api::object::{Kind, Object};
use byname_api::request::{Change, FindRequest, ReadRequest, WatchReply, WatchRequest};
use byname_api::{Code, Error, NameService, Result};
use byname_name::{Name, NameKey};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::store::{Entry, Look, Seen, Watch};
use super::{Shared, own};

/// The most watches at once: a server serves many clerks, and a connection carries 200 streams.
const WATCHES: usize = 48;
/// The pause before a watch that broke is begun again; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Questions on the side at once.
const QUESTIONS: usize = 8;
/// Objects that are asked for when a watch has begun anew.
const AGAIN: usize = 256;
/// How often a watch is looked at that has just begun, and the pause in between.
const READY_LOOKS: usize = 100;
const READY_PAUSE: Duration = Duration::from_millis(20);
/// How often an object is asked for whose answer was older than its watch.
const ATTEMPTS: usize = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);

/// The watches of a cache.
pub(super) struct Keeper {
    watches: Mutex<Vec<Kept>>,
    questions: Arc<Semaphore>,
}

struct Kept {
    watch: Arc<Watch>,
    task: AbortHandle,
}

impl Default for Keeper {
    fn default() -> Self {
        Keeper { watches: Mutex::default(), questions: Arc::new(Semaphore::new(QUESTIONS)) }
    }
}

impl Keeper {
    /// How many there are, and how many of them are connected.
    pub(super) fn counts(&self) -> (usize, usize) {
        let watches = self.watches.lock();
        (watches.len(), watches.iter().filter(|kept| kept.watch.live.load(Ordering::Relaxed)).count())
    }

    /// Ends them all.
    pub(super) fn end(&self) {
        for kept in self.watches.lock().drain(..) {
            kept.end();
        }
    }
}

impl Kept {
    fn end(&self) {
        self.task.abort();
        self.watch.live.store(false, Ordering::Release);
    }
}

impl Shared {
    /// This name is asked for: it is kept from now on.
    pub(super) fn want(self: &Arc<Self>, name: &Name, look: Look) {
        let key = name.key();
        let mut watches = self.keeper.watches.lock();
        let covering = watches.iter().find(|kept| kept.watch.covers(&key)).map(|kept| kept.watch.clone());
        let seen = self.store.get(name).map(|entry| entry.seen.clone()).unwrap_or_default();
        self.store.allow(&seen, look);
        if let Some(watch) = covering {
            drop(watches);
            if !self.store.get(name).is_some_and(|entry| self.store.is_certain(&entry)) {
                self.fetch_later(name.clone(), watch, seen);
            }
            return;
        }
        self.begin(&mut watches, name, true, Some(seen));
        if watches.len() > WATCHES {
            self.join(&mut watches);
        }
    }

    fn begin(self: &Arc<Self>, watches: &mut Vec<Kept>, name: &Name, exact: bool, seen: Option<Arc<Seen>>) {
        let Some(watch) = Watch::new(name, exact).map(Arc::new) else { return };
        let (shared, kept) = (self.clone(), watch.clone());
        let task = tokio::spawn(async move { shared.keep(&kept, seen).await }).abort_handle();
        watches.push(Kept { watch, task });
    }

    /// Too many watches: those beneath the directory that has the most of them become one.
    fn join(self: &Arc<Self>, watches: &mut Vec<Kept>) {
        let Some(parent) = fullest(watches.iter().map(|kept| kept.watch.pattern.literal_prefix())) else { return };
        let key = parent.key();
        watches.retain(|kept| {
            let stays = !kept.watch.prefix.is_under(&key);
            if !stays {
                kept.end();
            }
            stays
        });
        tracing::debug!(beneath = %parent, "watches become one");
        self.begin(watches, &parent, false, None);
    }

    /// Ends watches that nothing in the cache needs any more.
    pub(super) fn tidy(&self) {
        let needed = self.store.all(|_| true);
        self.keeper.watches.lock().retain(|kept| {
            // One that has just begun has told nothing yet.
            let young = kept.watch.exact && !kept.watch.live.load(Ordering::Relaxed);
            let stays = young || needed.iter().any(|entry| Arc::ptr_eq(&entry.watch, &kept.watch));
            if !stays {
                kept.end();
            }
            stays
        });
    }

    /// Keeps one watch, as long as the cache lives.
    async fn keep(self: &Arc<Self>, watch: &Arc<Watch>, seen: Option<Arc<Seen>>) {
        let mut from: Option<String> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let request = WatchRequest {
                pattern: watch.pattern.as_str().to_owned(),
                initial: watch.exact && from.is_none(),
                from: from.clone(),
            };
            let error = match self.clerk.watch(&own(), request).await {
                Ok(mut messages) => loop {
                    match messages.next().await {
                        Some(Ok(message)) => {
                            pause = FIRST_PAUSE;
                            self.hear(watch, &message, seen.as_ref());
                            if message.at != "0" {
                                from = Some(message.at);
                            }
                        }
                        Some(Err(error)) => break error,
                        None => break Error::new(Code::Unavailable, "the watch has ended"),
                    }
                },
                Err(error) => error,
            };
            watch.live.store(false, Ordering::Release);
            match error.code() {
                // What was missed is not known: what is here is asked for again when the watch has begun anew.
                Code::Conflict => {
                    from = None;
                    watch.epoch.fetch_add(1, Ordering::AcqRel);
                    continue;
                }
                // Not for this caller. What is here is as good as a server's word on each name.
                Code::Denied | Code::NotFound | Code::InvalidArgument | Code::Unsupported => {
                    tracing::debug!(pattern = watch.pattern.as_str(), reason = error.message(), "not watched");
                    self.keeper.watches.lock().retain(|kept| !Arc::ptr_eq(&kept.watch, watch));
                    return;
                }
                _ => {}
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes a message of a watch.
    fn hear(self: &Arc<Self>, watch: &Arc<Watch>, message: &WatchReply, seen: Option<&Arc<Seen>>) {
        let at: u64 = message.at.parse().unwrap_or(0);
        for event in &message.events {
            let known = self.store.get(&event.name);
            match event.change {
                Change::Deleted => {
                    // Another object may have taken the name already.
                    if known.is_some_and(|entry| entry.object.id == event.object.id) {
                        self.store.remove(&event.name);
                    }
                }
                Change::Present | Change::Created | Change::Changed | Change::State => {
                    if let Some(entry) = &known
                        && (entry.object.spec.kind == Some(Kind::Computer)
                            && entry.object.spec.addresses != event.object.spec.addresses)
                    {
                        self.moved(&event.name);
                    }
                    if known.is_some() || watch.exact {
                        self.store.put(event.object.clone(), watch, seen.cloned(), at.max(1));
                        if event.change == Change::Present {
                            self.told_whole(&event.object);
                        }
                    }
                }
            }
        }
        watch.at.fetch_max(at, Ordering::AcqRel);
        watch.heard.store(i64::try_from(self.store.now()).unwrap_or(i64::MAX), Ordering::Relaxed);
        if message.at != "0" && !watch.live.swap(true, Ordering::AcqRel) {
            // What it tells of that was there before is asked for: what was used last now, the rest when it is used.
            let mut old = self.store.all(|entry| watch.covers(&entry.object.name.key()) && !entry.is_of(watch));
            old.sort_by_key(|entry| std::cmp::Reverse(entry.seen.used.load(Ordering::Relaxed)));
            for entry in old.into_iter().take(AGAIN) {
                self.fetch_later(entry.object.name.clone(), watch.clone(), entry.seen.clone());
            }
        }
    }

    /// An object came as it is now: what its answers hang on is kept, too.
    fn told_whole(self: &Arc<Self>, object: &Object) {
        if let Some(entry) = self.store.get(&object.name) {
            entry.seen.doubted.store(false, Ordering::Release);
        }
        let mut names: Vec<Name> = object.spec.target.iter().cloned().collect();
        for instance in object.status.iter().flat_map(|status| &status.instances) {
            names.extend(instance.computer.clone().filter(|computer| !names.contains(computer)));
        }
        for name in names.into_iter().filter(|name| self.store.get(name).is_none()) {
            // Not from within a watch's own lock.
            let shared = self.clone();
            tokio::spawn(async move { shared.want_quietly(&name) });
        }
    }

    /// Keeps names that were there at the start.
    pub(super) fn keep_all(self: &Arc<Self>, mut names: Vec<Name>) {
        // Too many to be watched one by one: by directory, and if there are too many of those, by the directories above.
        let mut wide = false;
        while names.len() > WATCHES {
            names = names.iter().map(|name| name.parent().unwrap_or_else(Name::root)).collect();
            names.dedup_by_key(|name| name.key());
            wide = true;
        }
        let mut watches = self.keeper.watches.lock();
        for name in names {
            let key = name.key();
            if !watches.iter().any(|kept| kept.watch.covers(&key)) {
                self.begin(&mut watches, &name, !wide, None);
            }
        }
    }

    /// Keeps a name that nobody asked for: no server has said that this caller may find it.
    fn want_quietly(self: &Arc<Self>, name: &Name) {
        let key = name.key();
        let mut watches = self.keeper.watches.lock();
        let covering = watches.iter().find(|kept| kept.watch.covers(&key)).map(|kept| kept.watch.clone());
        match covering {
            Some(watch) if !watch.exact => {
                drop(watches);
                self.fetch_later(name.clone(), watch, Arc::default());
            }
            Some(_) => {}
            None => {
                self.begin(&mut watches, name, true, None);
                if watches.len() > WATCHES {
                    self.join(&mut watches);
                }
            }
        }
    }

    /// A computer has other addresses: the endpoints of what runs on it are others.
    fn moved(self: &Arc<Self>, computer: &Name) {
        let on_it = |entry: &Entry| {
            let instances = entry.object.status.iter().flat_map(|status| &status.instances);
            instances.into_iter().any(|instance| instance.computer.as_ref() == Some(computer))
        };
        for entry in self.store.all(on_it) {
            entry.seen.doubted.store(true, Ordering::Release);
            self.fetch_later(entry.object.name.clone(), entry.watch.clone(), entry.seen.clone());
        }
    }

    fn fetch_later(self: &Arc<Self>, name: Name, watch: Arc<Watch>, seen: Arc<Seen>) {
        let shared = self.clone();
        tokio::spawn(async move {
            // An answer is of use only where a watch tells what comes after it.
            for _ in 0..READY_LOOKS {
                if watch.live.load(Ordering::Acquire) {
                    break;
                }
                tokio::time::sleep(READY_PAUSE).await;
            }
            let Ok(_turn) = shared.keeper.questions.clone().acquire_owned().await else { return };
            if let Err(error) = shared.fetch(&name, &watch, &seen).await {
                shared.refused(&name, &error);
            }
        });
    }

    /// Asks for an object that a watch tells of, until the answer is as new as what the watch has told.
    async fn fetch(self: &Arc<Self>, name: &Name, watch: &Arc<Watch>, seen: &Arc<Seen>) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if !watch.live.load(Ordering::Acquire) || self.store.get(name).is_some_and(|e| self.store.is_certain(&e)) {
                return Ok(());
            }
            let before = (watch.epoch.load(Ordering::Acquire), self.store.changes.load(Ordering::Acquire));
            let request = ReadRequest { name: name.clone(), consistent: false };
            let reply = self.clerk.read(&own(), request).await?;
            let after = (watch.epoch.load(Ordering::Acquire), self.store.changes.load(Ordering::Acquire));
            let told = watch.at.load(Ordering::Acquire);
            if reply.object.name.key() != name.key() {
                // Reached by an alias on the way: it is not told of under this name.
                return Ok(());
            }
            if watch.live.load(Ordering::Acquire) && reply.fresh.revision >= told && before == after {
                self.store.allow(seen, Look::Read);
                self.store.put(reply.object.clone(), watch, Some(seen.clone()), reply.fresh.revision);
                self.told_whole(&reply.object);
                return Ok(());
            }
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
        Ok(())
    }

    /// Takes a server's refusal to tell of a name.
    pub(super) fn refused(&self, name: &Name, error: &Error) {
        if matches!(error.code(), Code::NotFound | Code::Denied) {
            self.store.remove(name);
        }
    }

    /// Asks a server, on the side, whether this caller may still see a name: that also tells it that the name is used.
    pub(super) fn ask_again(self: &Arc<Self>, name: Name, look: Look) {
        let shared = self.clone();
        tokio::spawn(async move {
            let Some(entry) = shared.store.get(&name) else { return };
            let answer = match look {
                Look::Find => {
                    let request = FindRequest { start: false, ..FindRequest::new(name.clone()) };
                    shared.clerk.find(&own(), request).await.map(drop)
                }
                Look::Read => {
                    let request = ReadRequest { name: name.clone(), consistent: false };
                    shared.clerk.read(&own(), request).await.map(drop)
                }
            };
            match answer {
                Ok(()) => shared.store.allow(&entry.seen, look),
                Err(error) => shared.refused(&name, &error),
            }
            entry.seen.asking.store(false, Ordering::Relaxed);
        });
    }
}

/// The directory whose joining saves the most watches for the least that it tells beyond them: deep, with many beneath it.
/// The whole tree is the last resort.
fn fullest(names: impl Iterator<Item = Name>) -> Option<Name> {
    let mut count: HashMap<NameKey, (usize, Name)> = HashMap::new();
    for name in names {
        for above in name.ancestors() {
            count.entry(above.key()).or_insert((0, above)).0 += 1;
        }
    }
    let worth = |(count, name): &(usize, Name)| count * name.depth();
    count.into_values().filter(|(count, _)| *count >= 2).max_by_key(worth).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_that_holds_most_is_watched_as_one() {
        let fullest =
            |names: &[&str]| fullest(names.iter().map(|name| Name::parse(name).unwrap())).map(|name| name.to_string());
        assert_eq!(fullest(&["/a/1", "/a/2", "/a/3", "/b/c/1", "/x"]).as_deref(), Some("/a"));
        assert_eq!(fullest(&["/a/b/1", "/a/b/2", "/a/c/1", "/x"]).as_deref(), Some("/a/b"));
        assert_eq!(fullest(&["/a/1", "/b/1"]).as_deref(), Some("/"));
        assert_eq!(fullest(&["/a"]), None);
    }
}
