//! `watch`: the newest changes in a ring of bounded size, and those who follow them.
//!
//! A watcher costs its pattern, a place in the ring and a receiver. It listens to the channel of its pattern's literal
//! prefix (`/BVODS` for `/BVODS/**`), so a change wakes only those whose prefix it lies beneath: 64 look-ups at most,
//! whatever the number of watchers. A watcher that falls behind its channel reads from the ring; one that falls behind
//! the ring is told `conflict`. No watcher can hold anything up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use byname_api::caller::{Caller, Right, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::request::{Change, Context, WatchEvent, WatchReply, WatchRequest};
use byname_name::{Name, NameKey, Pattern};
use byname_registry::access::{self, Sight};
use byname_registry::{Event, Node as Object, query};

use crate::Inner;
use crate::machine::Told;

/// Changes that are kept for those who come back.
const KEPT: usize = 100_000;
/// What the changes that are kept may hold, in bytes, by a rough estimate.
const KEPT_BYTES: usize = 64 << 20;
/// Changes that may wait for one prefix.
const CHANNEL: usize = 64;
/// Events in one message.
const MESSAGE: usize = 256;
/// What the events of one message may hold, in bytes, by the same estimate: gRPC libraries take 4 MiB by default.
const MESSAGE_BYTES: usize = 1 << 20;
/// How often a watcher that sees nothing is told how far it has come.
const PROGRESS: Duration = Duration::from_secs(10);

/// What one revision changed.
pub(crate) struct Record {
    revision: u64,
    events: Vec<(Change, Arc<Object>)>,
    bytes: usize,
}

/// The ring and the channels.
pub(crate) struct Hub {
    inner: Mutex<Ring>,
    /// The newest revision that removed an object with a list of its own.
    newest_gone: AtomicU64,
}

#[derive(Default)]
struct Ring {
    /// The newest revision that was published.
    revision: u64,
    /// Changes up to this revision are not here any more.
    floor: u64,
    records: VecDeque<Arc<Record>>,
    events: usize,
    bytes: usize,
    channels: HashMap<NameKey, broadcast::Sender<Arc<Record>>>,
    /// Objects that are gone and had lists of their own, by name, each with the revision that removed it: what happened
    /// beneath them before is as hidden as it was.
    gone: HashMap<NameKey, Vec<(u64, Arc<Object>)>>,
    closed: bool,
}

/// Whether an event took away an object with a list of its own.
fn takes_list(change: Change, node: &Object) -> bool {
    change == Change::Deleted && node.spec.acl.is_some()
}

impl Hub {
    /// A hub that knows nothing of what came before this revision.
    pub(crate) fn new(revision: u64) -> Hub {
        let ring = Ring { revision, floor: revision, ..Ring::default() };
        Hub { inner: Mutex::new(ring), newest_gone: AtomicU64::new(0) }
    }

    /// Takes what happened before anybody could watch; the hub begins with the first of it.
    pub(crate) fn learn(hub: &mut Option<Hub>, told: &Told) {
        let Told::Events(happened) = told else {
            *hub = None;
            return;
        };
        let first = happened.iter().find_map(|event| match event {
            Event::Object { revision, .. } => Some(revision.saturating_sub(1)),
            _ => None,
        });
        if let Some(before) = first {
            hub.get_or_insert_with(|| Hub::new(before)).tell(happened);
        }
    }

    /// Begins anew at this revision: the tree was replaced. Watches end, and learn that they must begin anew too.
    pub(crate) fn restart(&self, revision: u64) {
        let mut ring = self.inner.lock();
        let closed = ring.closed;
        *ring = Ring { revision, floor: revision, closed, ..Ring::default() };
    }

    /// Takes what happened.
    pub(crate) fn tell(&self, happened: &[Event]) {
        let mut gathered: Vec<(Change, Arc<Object>)> = Vec::new();
        let mut of = 0;
        for event in happened {
            let Event::Object { revision, change, node } = event else { continue };
            if *revision != of {
                self.publish(of, std::mem::take(&mut gathered));
                of = *revision;
            }
            gathered.push((*change, node.clone()));
        }
        self.publish(of, gathered);
    }

    /// Takes what a revision changed. Several commands of one revision come one after another.
    pub(crate) fn publish(&self, revision: u64, events: Vec<(Change, Arc<Object>)>) {
        let mut ring = self.inner.lock();
        ring.revision = ring.revision.max(revision);
        if events.is_empty() {
            return;
        }
        let bytes = events.iter().map(|(_, node)| weight(node)).sum();
        let record = Arc::new(Record { revision, events, bytes });
        ring.events += record.events.len();
        ring.bytes += bytes;
        ring.records.push_back(record.clone());
        for (_, node) in record.events.iter().filter(|(change, node)| takes_list(*change, node)) {
            ring.gone.entry(node.name.key()).or_default().push((revision, node.clone()));
            self.newest_gone.fetch_max(revision, Ordering::Release);
        }
        while ring.records.len() > 1 && (ring.events > KEPT || ring.bytes > KEPT_BYTES) {
            let Some(old) = ring.records.pop_front() else { break };
            ring.events -= old.events.len();
            ring.bytes -= old.bytes;
            ring.floor = old.revision;
            for (_, node) in old.events.iter().filter(|(change, node)| takes_list(*change, node)) {
                let key = node.name.key();
                if let Some(gone) = ring.gone.get_mut(&key) {
                    gone.retain(|(revision, _)| *revision > old.revision);
                    if gone.is_empty() {
                        ring.gone.remove(&key);
                    }
                }
            }
        }
        if ring.channels.is_empty() {
            return;
        }
        let mut told: Vec<NameKey> = Vec::new();
        for (_, node) in &record.events {
            let mut key = Some(node.name.key());
            while let Some(prefix) = key {
                key = prefix.parent();
                if ring.channels.contains_key(&prefix) && !told.contains(&prefix) {
                    told.push(prefix);
                }
            }
        }
        for prefix in told {
            // Nobody listens there any more: the channel goes.
            if ring.channels.get(&prefix).is_some_and(|c| c.send(record.clone()).is_err()) {
                ring.channels.remove(&prefix);
            }
        }
    }

    fn listen(&self, prefix: NameKey) -> broadcast::Receiver<Arc<Record>> {
        let mut ring = self.inner.lock();
        if ring.closed {
            return broadcast::channel(1).1;
        }
        if ring.channels.len() > 1_000 && ring.channels.len().is_power_of_two() {
            ring.channels.retain(|_, channel| channel.receiver_count() > 0);
        }
        ring.channels.entry(prefix).or_insert_with(|| broadcast::channel(CHANNEL).0).subscribe()
    }

    /// Ends every watch: the server is going.
    pub(crate) fn close(&self) {
        let mut ring = self.inner.lock();
        ring.closed = true;
        ring.channels.clear();
    }

    /// Everything after a revision, and the newest revision.
    fn since(&self, revision: u64) -> Result<(Vec<Arc<Record>>, u64)> {
        let ring = self.inner.lock();
        if revision < ring.floor {
            return Err(too_old());
        }
        let first = ring.records.partition_point(|r| r.revision <= revision);
        Ok((ring.records.range(first..).cloned().collect(), ring.revision.max(revision)))
    }

    /// Objects with lists of their own that are gone, and stood at this name or above it at this revision.
    fn gone_above(&self, name: &Name, revision: u64) -> Vec<Arc<Object>> {
        if self.newest_gone.load(Ordering::Acquire) < revision {
            return Vec::new();
        }
        let ring = self.inner.lock();
        let keys = std::iter::successors(Some(name.key()), NameKey::parent);
        let lists = keys.filter_map(|key| ring.gone.get(&key)).flatten();
        lists.filter(|(went, _)| *went >= revision).map(|(_, node)| node.clone()).collect()
    }

    /// The newest revision, if nothing waits in this receiver.
    fn caught_up(&self, receiver: &broadcast::Receiver<Arc<Record>>) -> Option<u64> {
        let ring = self.inner.lock();
        receiver.is_empty().then_some(ring.revision)
    }

    /// Channels, records and bytes that are kept: for `/metrics`.
    pub(crate) fn measure(&self) -> (usize, usize, usize) {
        let ring = self.inner.lock();
        (ring.channels.values().map(broadcast::Sender::receiver_count).sum(), ring.events, ring.bytes)
    }
}

/// About how many bytes an object takes in memory.
fn weight(node: &Object) -> usize {
    let texts = node.spec.value.as_ref().map_or(0, String::len)
        + node.spec.attributes.iter().flatten().map(|(k, v)| k.len() + 64 * v.len()).sum::<usize>();
    600 + 3 * node.name.as_str().len() + texts
}

fn too_old() -> Error {
    Error::new(
        Code::Conflict,
        "changes since then are not kept any more: list what is there, and watch from its revision (or with `initial`)",
    )
    .field("from")
}

impl Inner {
    /// Whether a watcher may be told of this object. One that is gone is judged by what is above it, and by its own list.
    fn may_watch(&self, caller: &Caller, node: &Object) -> bool {
        if caller.standing == Standing::Full {
            return true;
        }
        if caller.standing == Standing::Authenticated && !self.is_still_there(caller) {
            return false;
        }
        let (tree, who) = (self.view.load(), self.who(caller));
        Sight::new(&tree, &who, &[Right::Read]).sees(node)
    }

    pub(crate) fn watch(
        self: &Arc<Self>,
        cx: &Context,
        request: WatchRequest,
    ) -> Result<BoxStream<'static, Result<WatchReply>>> {
        let pattern = crate::pattern(&request.pattern)?;
        let prefix = pattern.literal_prefix();
        let sees_prefix = self.authorise(&cx.caller, Right::Read, &prefix);
        // What is hidden is watched as what is not there: nothing is told of it.
        if let Err(error) = sees_prefix
            && error.code() != Code::NotFound
        {
            // Something beneath may be open to the caller all the same.
            let (tree, who) = (self.view.load(), self.who(&cx.caller));
            let open = |at: &Name| access::allows(&tree, &who, Right::Read, at);
            if !tree.with_acl_beneath(&prefix).iter().any(open) {
                return Err(error);
            }
        }
        if request.initial && request.from.is_some() {
            return Err(Error::invalid("initial", "either begin with what is there, or go on from a point"));
        }
        // Listened to before anything is read, so that nothing is missed in between.
        let receiver = self.hub.listen(pattern.literal_prefix().key());
        let tree = self.view.load_full();
        let mut waiting = VecDeque::new();
        let at = match &request.from {
            None => tree.revision,
            Some(text) => {
                let from: u64 = text.parse().map_err(|_| {
                    Error::invalid("from", "this is not the `at` of an earlier message, nor a revision")
                })?;
                if from > tree.revision {
                    return Err(Error::new(
                        Code::Conflict,
                        "this server does not know that point yet: list what is there, and watch from its revision",
                    )
                    .field("from"));
                }
                waiting.extend(self.hub.since(from)?.0);
                from
            }
        };
        let initial = request.initial.then(|| Initial { tree, after: None });
        let inner = self.clone();
        let caller = cx.caller.clone();
        let watcher =
            Watcher { inner, caller, pattern, receiver, waiting, at, sent: 0, hello: true, initial, over: false };
        Ok(futures_util::stream::unfold(watcher, |mut watcher| async move {
            if watcher.over {
                return None;
            }
            let next = watcher.next().await;
            watcher.over = next.is_err();
            Some((next, watcher))
        })
        .boxed())
    }
}

struct Watcher {
    inner: Arc<Inner>,
    /// Rights are looked at for each event: what is taken away ends with the next.
    caller: Caller,
    pattern: Pattern,
    receiver: broadcast::Receiver<Arc<Record>>,
    /// Records that were read from the ring.
    waiting: VecDeque<Arc<Record>>,
    /// Everything up to this revision was told.
    at: u64,
    /// Of the next record so many events were told.
    sent: usize,
    /// The first message is still to come.
    hello: bool,
    initial: Option<Initial>,
    over: bool,
}

/// What is there, page by page.
struct Initial {
    tree: Arc<byname_registry::Tree>,
    after: Option<String>,
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchReply> {
        if let Some(page) = self.initial_page()? {
            return Ok(page);
        }
        if std::mem::take(&mut self.hello) {
            return Ok(self.message(Vec::new()));
        }
        loop {
            if let Some(record) = self.waiting.front().cloned() {
                let events = self.events_of(&record);
                if events.is_empty() {
                    continue;
                }
                return Ok(self.message(events));
            }
            match tokio::time::timeout(PROGRESS, self.receiver.recv()).await {
                Ok(Ok(record)) if record.revision <= self.at => {}
                Ok(Ok(record)) => self.waiting.push_back(record),
                // It fell behind: the ring may still have what it missed.
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => {
                    self.waiting.extend(self.inner.hub.since(self.at)?.0)
                }
                Ok(Err(broadcast::error::RecvError::Closed)) => {
                    return Err(Error::new(Code::Unavailable, "the server is stopping: watch another one"));
                }
                Err(_) => {
                    if let Some(revision) = self.inner.hub.caught_up(&self.receiver) {
                        self.at = self.at.max(revision);
                        return Ok(self.message(Vec::new()));
                    }
                }
            }
        }
    }

    fn message(&self, events: Vec<WatchEvent>) -> WatchReply {
        WatchReply { at: self.at.to_string(), events }
    }

    /// The next events of the record in front that match; moves on when it has no more.
    fn events_of(&mut self, record: &Record) -> Vec<WatchEvent> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        if record.revision > self.at {
            for (change, node) in record.events.iter().skip(self.sent) {
                self.sent += 1;
                if self.pattern.matches(&node.name) && self.may_tell(record, node) {
                    bytes += weight(node);
                    events.push(self.event(*change, node));
                }
                if events.len() == MESSAGE || bytes > MESSAGE_BYTES {
                    break;
                }
            }
        }
        if record.revision <= self.at || self.sent >= record.events.len() {
            self.waiting.pop_front();
            self.sent = 0;
            // Several commands may share a revision: only the last one's end is a point to resume from.
            if self.waiting.front().is_none_or(|next| next.revision > record.revision) {
                self.at = self.at.max(record.revision);
            }
        }
        events
    }

    /// Whether the caller may be told. What is gone is judged as if it were still there, and so is what went with it, or
    /// happened beneath it while it was there.
    fn may_tell(&self, record: &Record, node: &Object) -> bool {
        self.caller.standing == Standing::Full
            || (self.inner.may_watch(&self.caller, node)
                && self
                    .inner
                    .hub
                    .gone_above(&node.name, record.revision)
                    .iter()
                    .all(|gone| self.inner.may_watch(&self.caller, gone)))
    }

    fn event(&self, change: Change, node: &Object) -> WatchEvent {
        let tree = self.inner.view.load();
        let object = self.inner.object(&tree, node);
        WatchEvent { change, name: node.name.clone(), object }
    }

    /// The next part of what was there when the watch began.
    fn initial_page(&mut self) -> Result<Option<WatchReply>> {
        let Some(Initial { tree, after }) = self.initial.take() else { return Ok(None) };
        let who = self.inner.who(&self.caller);
        let sight = crate::access::sight(&tree, &who, &[Right::Read]);
        let page = query::list(&tree, &self.pattern, Some(MESSAGE as u32), after.as_deref(), None, sight.as_ref())?;
        drop(sight);
        let objects = page.entries.iter().filter_map(|e| tree.get(&e.name).map(|n| (e.name.clone(), n.clone())));
        let events: Vec<WatchEvent> = objects
            .map(|(name, node)| WatchEvent { change: Change::Present, name, object: self.inner.object(&tree, &node) })
            .collect();
        // Only the last page is a point to resume from; before it, that is the beginning of all.
        let at = if page.next.is_some() { 0 } else { self.at }.to_string();
        if let Some(next) = page.next {
            self.initial = Some(Initial { tree, after: Some(next) });
        } else {
            self.hello = false;
        }
        Ok(Some(WatchReply { at, events }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byname_api::object::{Kind, ObjectId, Spec, Stamp};
    use byname_api::span::Timestamp;

    fn node(name: &str) -> Arc<Object> {
        let stamp = Stamp { at: Timestamp(0), by: "test".into() };
        Arc::new(Object {
            id: ObjectId(1),
            name: Name::parse(name).unwrap(),
            version: 1,
            spec: Arc::new(Spec::of(Kind::Directory)),
            set: None,
            created: stamp.clone(),
            modified: stamp,
            service: None,
            lock: None,
            owner_id: None,
            unregistered: false,
        })
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_says_so() {
        let hub = Hub::new(5);
        assert!(hub.since(4).is_err(), "before its time");
        for revision in 6..6 + KEPT as u64 + 10 {
            hub.publish(revision, vec![(Change::Created, node("/a"))]);
        }
        assert!(hub.since(5).is_err());
        assert!(hub.since(15).is_ok());
        let (_, events, bytes) = hub.measure();
        assert!(events <= KEPT && bytes <= KEPT_BYTES, "{events} events, {bytes} bytes");
        let (records, newest) = hub.since(KEPT as u64 + 13).unwrap();
        assert_eq!((records.len(), newest), (2, KEPT as u64 + 15));
    }

    #[test]
    fn a_change_reaches_those_above_it_only() {
        let hub = Hub::new(0);
        let key = |text: &str| Name::parse(text).unwrap().key();
        let mut above: Vec<_> = ["/", "/a", "/a/b"].map(|p| hub.listen(key(p))).into();
        let mut beside: Vec<_> = ["/a/b/c", "/b", "/a/bb"].map(|p| hub.listen(key(p))).into();
        hub.publish(1, vec![(Change::Created, node("/A/b")), (Change::Created, node("/a/x"))]);
        for receiver in &mut above {
            assert_eq!(receiver.try_recv().unwrap().revision, 1);
            assert!(receiver.try_recv().is_err(), "once");
        }
        assert!(beside.iter_mut().all(|r| r.try_recv().is_err()));
        drop((above, beside));
        hub.publish(2, vec![(Change::Created, node("/a/b"))]);
        assert_eq!(hub.inner.lock().channels.keys().filter(|k| key("/a/b").is_under(k)).count(), 0);
    }
}
