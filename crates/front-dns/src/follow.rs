//! Keeps the image as the tree is: reads the whole tree once, then every change (`watch`).
//!
//! What `anyone` may find is the name service's decision. It is the same for all that stand beneath the same list, so it
//! is asked for once a list, and again when that list or one above it changes; then what is beneath is read again. No
//! rule is known here but that one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use byname_api::NameService;
use byname_api::access::{AccessRequest, AclEntry, Subject};
use byname_api::caller::{Caller, Right};
use byname_api::error::{Code, Result};
use byname_api::host::HostState;
use byname_api::object::{Kind, Object};
use byname_api::request::{Change, Context, FindRequest, ReadRequest, WatchEvent, WatchRequest};
use byname_name::{Name, NameKey};

use crate::key::{Key, above};
use crate::render::{self, World};
use crate::zone::{Entry, Image};

/// The name that the zone's servers share.
pub(crate) const SERVERS: &[u8] = b"\x02ns";

/// What keeps an image.
pub(crate) struct Follower {
    service: Arc<dyn NameService>,
    image: Arc<Image>,
    suffix: String,
    /// Addresses of this server, until the tree names servers.
    own: Vec<IpAddr>,
    /// Everything up to here is in the image.
    at: Option<String>,
    /// The number of the reading of the tree under way.
    reading: u32,
    /// Whether `anyone` finds what stands beneath no list.
    open: bool,
    /// Objects with lists of their own.
    lists: BTreeMap<NameKey, List>,
    /// Hosts: their addresses and whether they are being emptied, and the services with copies on them.
    hosts: HashMap<NameKey, Host>,
    /// How many names are directly beneath each.
    beneath: HashMap<Key, u32>,
    /// Name servers of the tree, with their addresses.
    servers: BTreeMap<NameKey, Vec<IpAddr>>,
}

struct List {
    name: Name,
    alias: bool,
    acl: Vec<AclEntry>,
    open: bool,
}

#[derive(Default)]
struct Host {
    addresses: Vec<String>,
    leaving: bool,
    services: HashSet<Name>,
}

impl Follower {
    pub(crate) fn new(service: Arc<dyn NameService>, image: Arc<Image>, suffix: String, own: Vec<IpAddr>) -> Follower {
        Follower {
            service,
            image,
            suffix,
            own,
            at: None,
            reading: 0,
            open: false,
            lists: BTreeMap::new(),
            hosts: HashMap::new(),
            beneath: HashMap::new(),
            servers: BTreeMap::new(),
        }
    }

    /// Follows the tree for ever.
    pub(crate) async fn run(mut self) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.follow().await {
                Ok(()) => pause = Duration::from_millis(50),
                Err(error) if error.code() == Code::Conflict => {
                    tracing::info!("the DNS reads the tree anew: {}", error.message());
                    self.at = None;
                }
                Err(error) => tracing::debug!(error = error.log_line(), "the DNS cannot follow the tree, trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn follow(&mut self) -> Result<()> {
        let cx = internal();
        let image = self.image.clone();
        if self.at.is_none() {
            let mut whole = image.whole.write().await;
            *whole = false;
            self.open = self.finds(&Name::root()).await?;
            self.lists.clear();
            self.reading = self.reading.wrapping_add(1);
            self.put_top();
            let pattern = "/**".into();
            let mut stream = self.service.watch(&cx, WatchRequest { pattern, from: None, initial: true }).await?;
            let at = self.read_initial(&mut stream).await?;
            self.sweep(b"");
            self.image.set_complete(true);
            self.reach(&at);
            *whole = true;
            drop(whole);
            tracing::debug!(names = self.image.len(), "the DNS has read the tree");
            return self.listen(stream).await;
        }
        let request = WatchRequest { pattern: "/**".into(), from: self.at.clone(), initial: false };
        let stream = self.service.watch(&cx, request).await?;
        self.listen(stream).await
    }

    async fn listen(&mut self, mut stream: Stream) -> Result<()> {
        let image = self.image.clone();
        while let Some(message) = stream.next().await {
            let message = message?;
            // A copy for a transfer is of one revision.
            let mut whole = image.whole.write().await;
            *whole = false;
            if let Err(error) = self.take(message.events).await {
                // Half of it is in the image: nothing less than reading all of it makes that whole.
                self.at = None;
                return Err(error);
            }
            self.reach(&message.at);
            *whole = true;
        }
        Ok(())
    }

    async fn take(&mut self, events: Vec<WatchEvent>) -> Result<()> {
        let declared = events.iter().any(|event| event.change != Change::State);
        for event in events {
            self.apply(event).await?;
        }
        if declared {
            self.look_at_aliases().await?;
        }
        Ok(())
    }

    fn reach(&mut self, at: &str) {
        self.at = Some(at.to_owned());
        if let Ok(revision) = at.parse() {
            self.image.reached(revision);
        }
    }

    /// Takes what is there. The last of it has a point to go on from, those before it have none.
    async fn read_initial(&mut self, stream: &mut Stream) -> Result<String> {
        let mut silent = 0;
        loop {
            let message = match tokio::time::timeout(Duration::from_secs(1), stream.next()).await {
                Ok(Some(message)) => message?,
                Ok(None) => return Err(gone()),
                // A tree that nobody has changed yet is at the point that means none.
                Err(_) if self.service.info(&internal()).await.is_ok_and(|info| info.revision == 0) => {
                    return Ok("0".into());
                }
                Err(_) if silent < 60 => {
                    silent += 1;
                    continue;
                }
                Err(_) => return Err(gone()),
            };
            silent = 0;
            let done = message.at != "0" || message.events.is_empty();
            for event in message.events {
                self.apply(event).await?;
            }
            if done {
                return Ok(message.at);
            }
        }
    }

    /// Reads again what is at a name and beneath it.
    fn read_again<'a>(&'a mut self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        // Boxed, for it applies events, which may lead here; none of these does.
        Box::pin(self.read_from(name))
    }

    async fn read_from(&mut self, name: &Name) -> Result<()> {
        self.reading = self.reading.wrapping_add(1);
        let pattern = if name.is_root() { "/**".into() } else { format!("{name}/**") };
        let request = WatchRequest { pattern, from: None, initial: true };
        let mut stream = self.service.watch(&internal(), request).await?;
        self.read_initial(&mut stream).await?;
        if let Some(labels) = render::labels_of(name, &self.suffix) {
            self.sweep(&labels);
        }
        Ok(())
    }

    /// Removes what is at these labels or beneath them and was not seen in this reading.
    fn sweep(&mut self, top: &[u8]) {
        let mut old = Vec::new();
        self.image.for_each(|labels, entry| {
            if entry.own && entry.reading != self.reading && is_beneath(labels, top) {
                old.push(labels.to_vec());
            }
        });
        for labels in old.iter().filter(|labels| !labels.is_empty()) {
            self.remove(labels);
        }
        self.put_top();
    }

    async fn apply(&mut self, event: WatchEvent) -> Result<()> {
        let WatchEvent { change, name, object } = event;
        let gone = change == Change::Deleted;
        let initial = change == Change::Present;
        let key = name.key();
        self.note_list(&name, &key, &object, gone, initial).await?;
        match object.spec.kind() {
            Kind::Computer => self.note_host(&key, &object, gone).await?,
            Kind::Service => self.note_copies(&name, &object, gone),
            _ => {}
        }
        self.show(&name, &key, &object, gone);
        Ok(())
    }

    /// Takes note of an object's list. What is beneath is read again when that changes what is open.
    async fn note_list(
        &mut self,
        name: &Name,
        key: &NameKey,
        object: &Object,
        gone: bool,
        initial: bool,
    ) -> Result<()> {
        let acl = object.spec.acl.clone().filter(|_| !gone);
        if self.lists.get(key).map(|list| &list.acl) == acl.as_ref() {
            return Ok(());
        }
        let before = self.is_open(key);
        match acl {
            Some(acl) => {
                let alias = object.spec.kind() == Kind::Alias;
                let open = if alias { self.finds_alias(name).await? } else { self.finds(name).await? };
                self.lists.insert(key.clone(), List { name: name.clone(), alias, acl, open });
            }
            None => drop(self.lists.remove(key)),
        }
        let mut changed = before != self.is_open(key);
        // Lists beneath that say nothing of `anyone` go by this one.
        let beneath: Vec<NameKey> =
            self.lists.range(key.clone()..).map(|(at, _)| at.clone()).take_while(|at| at.is_under(key)).collect();
        for at in beneath.iter().filter(|at| *at != key) {
            changed |= self.decide(at).await?;
        }
        if changed && !initial {
            self.read_again(name).await?;
        }
        if name.is_root() && changed {
            self.open = self.finds(&Name::root()).await?;
        }
        Ok(())
    }

    /// Asks again about one list; whether the answer is another than before.
    async fn decide(&mut self, key: &NameKey) -> Result<bool> {
        let Some(list) = self.lists.get(key) else { return Ok(false) };
        let (name, alias) = (list.name.clone(), list.alias);
        let open = if alias { self.finds_alias(&name).await? } else { self.finds(&name).await? };
        let Some(list) = self.lists.get_mut(key) else { return Ok(false) };
        Ok(std::mem::replace(&mut list.open, open) != open)
    }

    /// What an alias with a list leads to may be hidden or shown without a word about the alias.
    async fn look_at_aliases(&mut self) -> Result<()> {
        let aliases: Vec<(NameKey, Name)> = self
            .lists
            .iter()
            .filter(|(_, list)| list.alias)
            .map(|(key, list)| (key.clone(), list.name.clone()))
            .collect();
        for (key, name) in aliases {
            if self.decide(&key).await? {
                self.read_again(&name).await?;
            }
        }
        Ok(())
    }

    /// Whether `anyone` may find a name.
    async fn finds(&self, name: &Name) -> Result<bool> {
        let request = AccessRequest { name: name.clone(), who: Some(Subject::Anyone), right: Some(Right::Find) };
        match self.service.access(&internal(), request).await {
            Ok(reply) => Ok(reply.decisions.first().is_some_and(|decision| decision.allowed)),
            Err(error) if matches!(error.code(), Code::NotFound | Code::AliasLoop) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same for an alias itself: a question about rights would follow it.
    async fn finds_alias(&self, name: &Name) -> Result<bool> {
        let request = FindRequest { start: false, ..FindRequest::new(name.clone()) };
        match self.service.find(&Context::of(Caller::anonymous()), request).await {
            Err(error) if matches!(error.code(), Code::Denied | Code::NotFound | Code::Unauthenticated) => Ok(false),
            Err(error) if error.code() == Code::Unavailable => Err(error),
            Ok(_) | Err(_) => Ok(true),
        }
    }

    /// Whether what stands at a name is open, by the nearest list.
    fn is_open(&self, key: &NameKey) -> bool {
        if self.lists.is_empty() {
            return self.open;
        }
        let mut at = Some(key.clone());
        while let Some(key) = at {
            if let Some(list) = self.lists.get(&key) {
                return list.open;
            }
            at = key.parent();
        }
        self.open
    }

    /// A host's addresses are those of its copies, and copies on one that is being emptied are named last.
    async fn note_host(&mut self, key: &NameKey, object: &Object, gone: bool) -> Result<()> {
        let addresses = object.spec.addresses.clone().filter(|_| !gone).unwrap_or_default();
        let leaving = !gone && object.host.as_ref().is_some_and(|host| host.state == HostState::Draining);
        let host = self.hosts.entry(key.clone()).or_default();
        if host.addresses == addresses && host.leaving == leaving {
            return Ok(());
        }
        (host.addresses, host.leaving) = (addresses, leaving);
        if gone && host.services.is_empty() {
            self.hosts.remove(key);
            return Ok(());
        }
        let services: Vec<Name> = host.services.iter().cloned().collect();
        for name in services {
            match self.service.read(&internal(), ReadRequest { name: name.clone(), consistent: false }).await {
                Ok(reply) => self.show(&name, &name.key(), &reply.object, false),
                Err(error) if error.code() == Code::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn note_copies(&mut self, name: &Name, object: &Object, gone: bool) {
        let copies = object.status.iter().flat_map(|status| &status.instances).filter(|_| !gone);
        let on: HashSet<NameKey> = copies.filter_map(|copy| copy.computer.as_ref()).map(Name::key).collect();
        for (key, host) in &mut self.hosts {
            if !on.contains(key) && !host.services.is_empty() {
                host.services.remove(name);
            }
        }
        for key in on {
            self.hosts.entry(key).or_default().services.insert(name.clone());
        }
    }

    /// Puts an object into the image, or takes it out.
    fn show(&mut self, name: &Name, key: &NameKey, object: &Object, gone: bool) {
        let open = !gone && object.spec.kind() != Kind::Secret && self.is_open(key);
        self.show_reverse(name, object, open);
        let is_server = self.note_server(name, key, object, gone);
        let Some(labels) = render::labels_of(name, &self.suffix) else { return };
        if !open && !is_server {
            self.remove(&labels);
            return;
        }
        let hosts = &self.hosts;
        let leaving = |computer: &Name| hosts.get(&computer.key()).is_some_and(|host| host.leaving);
        let mut entry = render::entry(object, &labels, &World { suffix: &self.suffix, leaving: &leaving });
        if !open {
            // Where name servers are must be told for anything to be asked of them.
            entry = render::server_entry(&render::addresses(object));
        }
        self.put(&labels, entry);
    }

    /// `/backmap/ADDRESS` leads to a name.
    fn show_reverse(&self, name: &Name, object: &Object, open: bool) {
        let mut labels = name.labels();
        let (Some(first), Some(text), None) = (labels.next(), labels.next(), labels.next()) else { return };
        let Some(address) = text.parse::<IpAddr>().ok().filter(|_| first.eq_ignore_ascii_case("backmap")) else {
            return;
        };
        let target = object.spec.target.as_ref().filter(|_| open && object.spec.kind() == Kind::Alias);
        let entry = target.and_then(|target| render::wire_of(target, &self.suffix)).map(render::reverse_entry);
        self.image.set_outside(&render::reverse_of(address), entry);
    }

    /// Takes note of a name server; whether it is one.
    fn note_server(&mut self, name: &Name, key: &NameKey, object: &Object, gone: bool) -> bool {
        let mut labels = name.labels();
        let place = (labels.next(), labels.next(), labels.next().is_some(), labels.next());
        if place != (Some("byname"), Some("servers"), true, None) || object.spec.kind() != Kind::Service {
            return false;
        }
        let addresses = render::addresses(object);
        if gone || addresses.is_empty() {
            self.servers.remove(key);
        } else {
            self.servers.insert(key.clone(), addresses);
        }
        self.put_top();
        !gone
    }

    /// The zone's own name, and that of its servers unless the tree has an object of that name.
    fn put_top(&mut self) {
        let image = self.image.clone();
        let guard = image.guard();
        if image.get(b"", &guard).is_none() {
            self.put(b"", Entry { own: true, ttl: render::USUAL_TTL, ..Entry::default() });
        }
        let taken = image.get(SERVERS, &guard).is_some_and(|entry| entry.reading != 0);
        drop(guard);
        if taken {
            return;
        }
        let addresses: Vec<IpAddr> = self.servers.values().flatten().copied().collect();
        let addresses = if addresses.is_empty() { &self.own } else { &addresses };
        let entry = render::server_entry(addresses);
        self.put_as(SERVERS, Entry { reading: 0, ..entry });
    }

    fn put(&mut self, labels: &[u8], entry: Entry) {
        // 0 is for what is no object's.
        let reading = self.reading.max(1);
        self.put_as(labels, Entry { reading, ..entry });
    }

    fn put_as(&mut self, labels: &[u8], mut entry: Entry) {
        let guard = self.image.guard();
        let old = self.image.get(labels, &guard);
        let (old_service, new) = (old.and_then(|old| old.service.as_ref()), old.is_none());
        if let (Some(old), Some(new)) = (old_service, &mut entry.service)
            && old.name == new.name
        {
            let idle = new.used.idle_ms.load(std::sync::atomic::Ordering::Relaxed);
            new.used = old.used.clone();
            new.used.idle_ms.store(idle, std::sync::atomic::Ordering::Relaxed);
        }
        let offers = entry.service.as_ref().map(|s| &s.kinds[..]).unwrap_or_default();
        self.image.list(labels, old_service.map(|s| &s.kinds[..]).unwrap_or_default(), offers);
        drop(guard);
        self.image.put(labels, entry);
        if new {
            self.added(labels);
        }
    }

    /// One name more: those on the way to it are there too.
    fn added(&mut self, labels: &[u8]) {
        let mut at = labels;
        while let Some(parent) = above(at) {
            *self.beneath.entry(Key::new(parent)).or_default() += 1;
            if self.image.get(parent, &self.image.guard()).is_some() {
                return;
            }
            self.image.put(parent, Entry { ttl: render::USUAL_TTL, ..Entry::default() });
            at = parent;
        }
    }

    fn remove(&mut self, labels: &[u8]) {
        let guard = self.image.guard();
        let Some(old) = self.image.get(labels, &guard).filter(|entry| entry.own) else { return };
        self.image.list(labels, old.service.as_ref().map(|s| &s.kinds[..]).unwrap_or_default(), &[]);
        drop(guard);
        if labels.is_empty() {
            // The zone's own name stays, with nothing of an object's.
            self.image.put(b"", Entry { own: true, ttl: render::USUAL_TTL, ..Entry::default() });
            return;
        }
        if self.beneath.contains_key(labels) {
            self.image.put(labels, Entry { ttl: render::USUAL_TTL, ..Entry::default() });
        } else {
            self.image.remove(labels);
            self.removed(labels);
        }
        if labels == SERVERS {
            self.put_top();
        }
    }

    /// One name less: those that only led to it go too.
    fn removed(&mut self, labels: &[u8]) {
        let mut at = labels;
        while let Some(parent) = above(at) {
            let Some(count) = self.beneath.get_mut(parent) else { return };
            *count -= 1;
            if *count > 0 {
                return;
            }
            self.beneath.remove(parent);
            let own = self.image.get(parent, &self.image.guard()).is_none_or(|entry| entry.own);
            if own {
                return;
            }
            self.image.remove(parent);
            at = parent;
        }
    }
}

type Stream = futures_util::stream::BoxStream<'static, Result<byname_api::request::WatchReply>>;

fn internal() -> Context {
    Context::of(Caller::internal())
}

fn gone() -> byname_api::Error {
    byname_api::Error::new(Code::Unavailable, "the watch ended while the tree was being read")
}

/// Whether labels are these or end in them.
fn is_beneath(labels: &[u8], top: &[u8]) -> bool {
    let mut at = Some(labels);
    while let Some(labels) = at {
        if labels == top {
            return true;
        }
        at = above(labels);
    }
    false
}
