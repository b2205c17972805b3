//! What a cache holds: objects as the servers told them, with how fresh each is. Readers take no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use byname_api::object::{Choose, Kind, Object};
use byname_api::request::{FindReply, FindRequest, Fresh, Junction};
use byname_api::service::{Instance, State};
use byname_name::{Name, NameKey, Pattern};
use papaya::HashMap;
use tokio::time::Instant;

/// A watch that has said nothing for so long is not believed any more: an idle one speaks every 10 s.
const SILENCE_MS: i64 = 15_000;
/// How long a server's word is good that this caller may see an object. It is asked again on the side before that.
const RIGHTS_MS: u64 = 30_000;
/// Where a store's clock begins: what was allowed before it was made is long ago.
const START_MS: u64 = 1_000_000;
/// How many aliases a look-up follows.
const ALIASES: usize = 8;

/// Bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most objects.
    pub entries: usize,
    /// What they may hold in memory, in bytes, by a rough estimate.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { entries: 10_000, bytes: 32 << 20 }
    }
}

/// A subscription, as those see it whose freshness it vouches for.
#[derive(Debug)]
pub(crate) struct Watch {
    /// What it tells of.
    pub(crate) pattern: Pattern,
    /// The key that everything it tells of is or lies beneath.
    pub(crate) prefix: NameKey,
    /// It tells of one name only.
    pub(crate) exact: bool,
    /// It is connected and has told all up to now.
    pub(crate) live: AtomicBool,
    /// Counts the times that changes were missed: what was told before the last of them is not certain.
    pub(crate) epoch: AtomicU64,
    /// When it last said something, by the store's clock; negative where that is long ago.
    pub(crate) heard: AtomicI64,
    /// The revision that it has told everything up to.
    pub(crate) at: AtomicU64,
}

impl Watch {
    /// One that tells of a single name, or of it and all beneath.
    pub(crate) fn new(name: &Name, exact: bool) -> Option<Watch> {
        let pattern = match (exact, name.is_root()) {
            (true, _) => Pattern::exact(name.clone()),
            (false, true) => Pattern::every(),
            (false, false) => Pattern::parse(&format!("{name}/**")).ok()?,
        };
        Some(Watch {
            pattern,
            prefix: name.key(),
            exact,
            live: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            heard: AtomicI64::new(0),
            at: AtomicU64::new(0),
        })
    }

    /// Whether it tells of this name.
    pub(crate) fn covers(&self, key: &NameKey) -> bool {
        if self.exact { *key == self.prefix } else { key.is_under(&self.prefix) }
    }
}

/// What outlives the versions of an object.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When a server last let this caller find it, by the store's clock; 0 for never.
    pub(crate) found: AtomicU64,
    /// The same for reading it.
    pub(crate) read: AtomicU64,
    /// When it was last asked for.
    pub(crate) used: AtomicU64,
    /// This caller has changed it, and what is here may be from before that.
    pub(crate) doubted: AtomicBool,
    /// A server is being asked for it again.
    pub(crate) asking: AtomicBool,
    turn: AtomicU64,
}

/// An object as it was told.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) object: Object,
    pub(crate) seen: Arc<Seen>,
    /// Whose word it is.
    pub(crate) watch: Arc<Watch>,
    epoch: u64,
    /// The revision that it is of, or a later one.
    pub(crate) revision: u64,
    /// The copies that a find chooses from, by their places.
    candidates: Vec<usize>,
    choose: Choose,
    /// Which copy is chosen hangs on loads and speeds, which no watch tells of.
    sampled: bool,
    /// How long a find keeps an idle copy from being stopped, in milliseconds: a server must hear of use before that.
    idle_ms: u64,
    bytes: usize,
}

impl Entry {
    fn new(object: Object, watch: Arc<Watch>, seen: Arc<Seen>, revision: u64) -> Entry {
        let choose = object.spec.choose.unwrap_or_default();
        let instances = object.status.as_ref().map_or(&[][..], |status| &status.instances);
        let running = instances.iter().enumerate().filter(|(_, i)| i.state == State::Running);
        let mut candidates: Vec<usize> = running.map(|(place, _)| place).collect();
        let sampled = matches!(choose, Choose::LeastLoaded | Choose::Fastest) && candidates.len() > 1;
        let load = |place: &usize| instances.get(*place).and_then(|i| i.load).filter(|l| l.is_finite()).unwrap_or(0.0);
        if choose == Choose::LeastLoaded {
            let least = candidates.iter().map(load).fold(f64::INFINITY, f64::min);
            candidates.retain(|place| load(place) <= least);
        }
        let idle = object.spec.launch.as_ref().and_then(|launch| launch.idle_stop);
        Entry {
            epoch: watch.epoch.load(Ordering::Acquire),
            bytes: weight(&object),
            idle_ms: idle.map_or(u64::MAX, |span| span.as_millis()),
            object,
            seen,
            watch,
            revision,
            candidates,
            choose,
            sampled,
        }
    }

    /// Whether this watch stands behind it.
    pub(crate) fn is_of(&self, watch: &Arc<Watch>) -> bool {
        Arc::ptr_eq(&self.watch, watch) && self.epoch == watch.epoch.load(Ordering::Acquire)
    }

    fn instances(&self) -> &[Instance] {
        self.object.status.as_ref().map_or(&[], |status| &status.instances)
    }

    fn choose(&self) -> Option<usize> {
        let count = self.candidates.len() as u64;
        let at = match (count, self.choose) {
            (0, _) => return None,
            (1, _) | (_, Choose::First | Choose::Nearest | Choose::All) => 0,
            (_, Choose::Random) => mix(self.seen.turn.fetch_add(1, Ordering::Relaxed)) % count,
            // Ties are taken in turn.
            _ => self.seen.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        self.candidates.get(usize::try_from(at).unwrap_or(0)).copied()
    }
}

/// The finaliser of SplitMix64: spreads consecutive numbers.
fn mix(turn: u64) -> u64 {
    let x = turn.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// About how many bytes an object takes in memory.
fn weight(object: &Object) -> usize {
    let texts = object.spec.value.as_ref().map_or(0, String::len)
        + object.spec.attributes.iter().flatten().map(|(name, values)| name.len() + 64 * values.len()).sum::<usize>();
    let instances = object.status.as_ref().map_or(0, |status| {
        status.instances.len() * 300 + status.last_exit.as_ref().map_or(0, |exit| exit.last_lines.len())
    });
    let lists = object.spec.members.iter().flatten().map(|member| 24 + member.len()).sum::<usize>();
    1_000 + 6 * object.name.as_str().len() + texts + instances + lists
}

/// What a look-up found. It shares the cached object: nothing is copied.
#[derive(Clone, Debug)]
pub struct Found {
    entry: Arc<Entry>,
    chosen: Option<usize>,
    age_ms: u64,
    stale: bool,
}

impl Found {
    /// The object that answers, aliases followed.
    pub fn object(&self) -> &Object {
        &self.entry.object
    }

    /// Service: the copy that was chosen by its rule.
    pub fn instance(&self) -> Option<&Instance> {
        self.entry.instances().get(self.chosen?)
    }

    /// How fresh it is: the time since the last word of a server on it.
    pub fn fresh(&self) -> Fresh {
        let revision = self.entry.revision.max(self.entry.watch.at.load(Ordering::Relaxed));
        Fresh { revision, age_ms: self.age_ms, stale: self.stale }
    }
}

/// Whether only what is certain is wanted, or what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A watch stands behind it.
    Certain,
    /// The servers cannot be reached.
    Anything,
}

/// What is asked of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Find,
    Read,
}

#[derive(Debug)]
pub(crate) struct Store {
    entries: HashMap<NameKey, Arc<Entry>>,
    begun: Instant,
    bounds: Bounds,
    bytes: AtomicUsize,
    /// Counts this caller's own changes: what was asked for before one is not taken after it.
    pub(crate) changes: AtomicU64,
    /// Something changed since it was written to disk.
    pub(crate) dirty: AtomicBool,
}

impl Store {
    pub(crate) fn new(bounds: Bounds) -> Store {
        Store {
            entries: HashMap::new(),
            begun: Instant::now(),
            bounds,
            bytes: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
        }
    }

    /// The store's clock, in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        START_MS + millis(self.begun.elapsed())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.pin().len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The entry of a name, whatever it is worth.
    pub(crate) fn get(&self, name: &Name) -> Option<Arc<Entry>> {
        let entries = self.entries.pin();
        name.with_key(|key| entries.get(key).cloned())
    }

    /// Whether it can be answered without asking anybody.
    pub(crate) fn is_certain(&self, entry: &Entry) -> bool {
        self.worth(entry, self.now(), Wanted::Certain).is_some()
    }

    /// Looks a name up, and whether a server must be asked again on the side.
    pub(crate) fn look(&self, name: &Name, look: Look, wanted: Wanted) -> Option<(Found, bool)> {
        let now = self.now();
        let entries = self.entries.pin();
        let mut entry = name.with_key(|key| entries.get(key))?;
        let seen = &entry.seen;
        let allowed = match look {
            Look::Find => &seen.found,
            Look::Read => &seen.read,
        };
        let allowed = allowed.load(Ordering::Relaxed);
        let since = now.saturating_sub(allowed);
        let good = (RIGHTS_MS).min(entry.idle_ms);
        if allowed == 0 || (wanted == Wanted::Certain && since > good) {
            return None;
        }
        if seen.used.load(Ordering::Relaxed) != now {
            seen.used.store(now, Ordering::Relaxed);
        }
        let ask = wanted == Wanted::Certain && since > good / 3 && !seen.asking.swap(true, Ordering::Relaxed);
        let found = (|| {
            let (mut age_ms, mut stale) = self.worth(entry, now, wanted)?;
            if look == Look::Find {
                let mut hops = 0;
                while entry.object.spec.kind == Some(Kind::Alias) {
                    hops += 1;
                    let target = entry.object.spec.target.as_ref().filter(|_| hops <= ALIASES)?;
                    entry = target.with_key(|key| entries.get(key))?;
                    let (age, old) = self.worth(entry, now, wanted)?;
                    (age_ms, stale) = (age_ms.max(age), stale | old);
                }
            }
            Some(Found { entry: entry.clone(), chosen: None, age_ms, stale })
        })();
        if found.is_none() && ask {
            seen.asking.store(false, Ordering::Relaxed);
        }
        Some((found?, ask))
    }

    /// How old the word on an entry is, and whether nobody stands behind it; none when that will not do.
    fn worth(&self, entry: &Entry, now: u64, wanted: Wanted) -> Option<(u64, bool)> {
        let age = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(entry.watch.heard.load(Ordering::Relaxed));
        let certain = entry.watch.live.load(Ordering::Acquire)
            && entry.watch.epoch.load(Ordering::Acquire) == entry.epoch
            && age <= SILENCE_MS
            && !entry.seen.doubted.load(Ordering::Acquire);
        let will_do = certain || wanted == Wanted::Anything;
        will_do.then(|| (u64::try_from(age).unwrap_or(0), !certain))
    }

    /// Looks for what a find gives: a copy of what runs, or what the object holds.
    pub(crate) fn find(&self, name: &Name, wanted: Wanted) -> Option<(Found, bool)> {
        let (mut found, ask) = self.look(name, Look::Find, wanted)?;
        if found.object().spec.kind == Some(Kind::Service) {
            if found.entry.sampled && wanted == Wanted::Certain {
                if ask {
                    self.asked(name);
                }
                return None;
            }
            found.chosen = found.entry.choose();
            if found.chosen.is_none() {
                if ask {
                    self.asked(name);
                }
                return None;
            }
        }
        Some((found, ask))
    }

    /// Nobody is asked on the side after all.
    fn asked(&self, name: &Name) {
        if let Some(entry) = self.get(name) {
            entry.seen.asking.store(false, Ordering::Relaxed);
        }
    }

    /// Takes what a watch or a server told. What is newer stays.
    pub(crate) fn put(&self, object: Object, watch: &Arc<Watch>, seen: Option<Arc<Seen>>, revision: u64) {
        let key = object.name.key();
        let old = self.entries.pin().get(&key).cloned();
        if let Some(old) = &old
            && old.revision > revision
            && old.epoch == old.watch.epoch.load(Ordering::Acquire)
            && Arc::ptr_eq(&old.watch, watch)
        {
            return;
        }
        let seen = old.as_ref().map(|old| old.seen.clone()).or(seen).unwrap_or_default();
        if let Some(old) = &old
            && (old.object.version != object.version || old.object.id != object.id)
        {
            // Its list or its target may have changed: the next find asks a server whether this caller still may.
            seen.found.store(0, Ordering::Relaxed);
        }
        let entry = Arc::new(Entry::new(object, watch.clone(), seen, revision));
        self.bytes.fetch_add(entry.bytes, Ordering::Relaxed);
        let replaced = self.entries.pin().insert(key, entry).map(|old| old.bytes);
        self.bytes.fetch_sub(replaced.unwrap_or(0), Ordering::Relaxed);
        self.dirty.store(true, Ordering::Relaxed);
        if self.len() > self.bounds.entries || self.bytes() > self.bounds.bytes {
            self.evict();
        }
    }

    /// It is gone, or this caller may not see it any more.
    pub(crate) fn remove(&self, name: &Name) {
        let removed = name.with_key(|key| self.entries.pin().remove(key).map(|old| old.bytes));
        if let Some(bytes) = removed {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// Makes room: those that were not asked for the longest go, a sixteenth at once.
    fn evict(&self) {
        let mut all: Vec<(u64, NameKey, usize)> = Vec::new();
        for (key, entry) in &self.entries.pin() {
            all.push((entry.seen.used.load(Ordering::Relaxed), key.clone(), entry.bytes));
        }
        all.sort_by_key(|(used, ..)| *used);
        let (mut count, mut bytes) = (all.len(), self.bytes());
        let entries = self.bounds.entries - self.bounds.entries / 16;
        let most = self.bounds.bytes - self.bounds.bytes / 16;
        for (_, key, weight) in all {
            if count <= entries && bytes <= most {
                break;
            }
            if self.entries.pin().remove(&key).is_some() {
                self.bytes.fetch_sub(weight, Ordering::Relaxed);
            }
            (count, bytes) = (count - 1, bytes.saturating_sub(weight));
        }
    }

    /// Every entry for which this holds.
    pub(crate) fn all(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
        self.entries.pin().iter().filter(|(_, entry)| wanted(entry)).map(|(_, entry)| entry.clone()).collect()
    }

    /// A server let this caller see it.
    pub(crate) fn allow(&self, seen: &Seen, look: Look) {
        let now = self.now();
        match look {
            Look::Find => seen.found.store(now, Ordering::Relaxed),
            Look::Read => seen.read.store(now, Ordering::Relaxed),
        }
    }

    /// This caller has changed what is here, so it may be from before that.
    pub(crate) fn doubt(&self, concerned: impl Fn(&Name) -> bool) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let mut names: Vec<Name> = Vec::new();
        for entry in self.all(|entry| concerned(&entry.object.name)) {
            entry.seen.doubted.store(true, Ordering::Release);
            // What is said of an alias happens to what it leads to.
            names.extend(entry.object.spec.target.clone());
        }
        for name in names {
            if let Some(entry) = self.get(&name) {
                entry.seen.doubted.store(true, Ordering::Release);
            }
        }
    }

    /// What a find of this request answers.
    pub(crate) fn reply(&self, request: &FindRequest, found: &Found) -> Option<FindReply> {
        let object = found.object();
        let same = object.name.as_str() == request.name.as_str();
        let spec = &object.spec;
        let kind = spec.kind?;
        let mut reply = FindReply {
            name: request.name.clone(),
            canonical: (!same).then(|| object.name.clone()),
            kind,
            instances: Vec::new(),
            members: None,
            addresses: None,
            value: None,
            version: object.version,
            junction: None,
            ttl_ms: spec.ttl.map(|ttl| ttl.as_millis()),
            started: false,
            fresh: found.fresh(),
        };
        match kind {
            Kind::Service if request.all || spec.choose == Some(Choose::All) => {
                let there = |i: &&Instance| i.state == State::Running || (request.all && i.state == State::Unhealthy);
                reply.instances = found.entry.instances().iter().filter(there).cloned().collect();
            }
            Kind::Service => reply.instances.push(found.instance()?.clone()),
            Kind::Group => reply.members = Some(spec.members.clone().unwrap_or_default()),
            Kind::Computer => reply.addresses = Some(spec.addresses.clone().unwrap_or_default()),
            Kind::Record => reply.value = Some(spec.value.clone().unwrap_or_default()),
            Kind::Junction => {
                reply.junction = Some(Junction {
                    servers: spec.servers.clone().unwrap_or_default(),
                    choose: spec.choose.unwrap_or_default(),
                    interface: spec.interface.clone().unwrap_or_default(),
                    parameter: spec.parameter.clone(),
                });
            }
            // A server has the sentence that says why not.
            Kind::Principal | Kind::Secret | Kind::Directory | Kind::Alias => return None,
        }
        Some(reply)
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
