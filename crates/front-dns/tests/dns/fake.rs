//! A name service of a few objects that a test changes, and the DNS in front of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use byname_api::access::{AccessReply, AccessRequest, Decision, Subject};
use byname_api::agent::{Order, Report};
use byname_api::caller::Mechanism;
use byname_api::error::{Code, Error, Result};
use byname_api::object::Object;
use byname_api::request::*;
use byname_api::{NameService, request::Context};
use byname_front_dns::{Bound, Config, Dns};
use byname_name::Name;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

pub(crate) struct Tree {
    objects: Mutex<BTreeMap<String, Object>>,
    hidden: Mutex<BTreeSet<String>>,
    revision: AtomicU32,
    told: broadcast::Sender<WatchReply>,
    /// Finds that may start.
    pub(crate) starts: AtomicU32,
    /// Finds that only look.
    pub(crate) looks: AtomicU32,
    /// How long a start takes.
    pub(crate) start_takes: Mutex<Duration>,
}

pub(crate) struct World {
    pub(crate) tree: Arc<Tree>,
    pub(crate) address: SocketAddr,
    _dns: Dns,
}

impl World {
    /// The DNS of `corp.example` in front of these objects.
    pub(crate) async fn new(objects: &[(&str, Value)]) -> World {
        World::with(objects, |_| {}).await
    }

    pub(crate) async fn with(objects: &[(&str, Value)], change: impl FnOnce(&mut Config)) -> World {
        World::at("127.0.0.1:0", objects, change).await
    }

    pub(crate) async fn at(address: &str, objects: &[(&str, Value)], change: impl FnOnce(&mut Config)) -> World {
        let tree = Arc::new(Tree {
            objects: Mutex::default(),
            hidden: Mutex::default(),
            revision: AtomicU32::new(1),
            told: broadcast::channel(1_000).0,
            starts: AtomicU32::new(0),
            looks: AtomicU32::new(0),
            start_takes: Mutex::default(),
        });
        for (name, object) in objects {
            tree.put(name, object.clone());
        }
        let bound = Bound::bind(address.parse().unwrap(), 2).unwrap();
        let address = bound.address();
        let mut config = Config::new("corp.example");
        config.addresses = vec![IpAddr::from([192, 0, 2, 53])];
        change(&mut config);
        let dns = Dns::serve(bound, tree.clone(), config).unwrap();
        assert!(dns.ready(Duration::from_secs(30)).await);
        World { tree, address, _dns: dns }
    }
}

/// An object as JSON gives it, with what every object has.
fn object(name: &str, given: Value) -> Object {
    let mut whole = json!({
        "name": name, "id": "o1", "version": "v1",
        "created": {"at": "2026-01-01T00:00:00Z", "by": "test"}, "modified": {"at": "2026-01-01T00:00:00Z", "by": "test"},
    });
    for (key, value) in given.as_object().unwrap() {
        whole[key] = value.clone();
    }
    if let Some(status) = whole.get_mut("status") {
        for (key, value) in [("name", json!(name)), ("starts", json!(0)), ("failures", json!(0))] {
            status[key] = value;
        }
    }
    serde_json::from_value(whole).unwrap()
}

/// A service with these copies: `(id, address, port)`, and more of it.
pub(crate) fn service(copies: &[(&str, &str, u16)], more: Value) -> Value {
    let copies: Vec<Value> = copies
        .iter()
        .map(|(id, address, port)| {
            json!({"id": id, "state": "running", "endpoints": [{"protocol": "http", "address": address, "port": port}]})
        })
        .collect();
    let state = if copies.is_empty() { "stopped" } else { "running" };
    let mut whole = json!({"kind": "service", "status": {"state": state, "instances": copies}});
    for (key, value) in more.as_object().unwrap() {
        whole[key] = value.clone();
    }
    whole
}

impl Tree {
    /// Makes or changes an object.
    pub(crate) fn put(&self, name: &str, given: Value) {
        let object = object(name, given);
        let old = self.objects.lock().insert(name.to_lowercase(), object.clone());
        self.tell(if old.is_some() { Change::Changed } else { Change::Created }, object);
    }

    pub(crate) fn delete(&self, name: &str) {
        let old = self.objects.lock().remove(&name.to_lowercase()).expect("it is there");
        self.tell(Change::Deleted, old);
    }

    /// Hides a name and what is beneath it from `anyone`, or shows it, by its list.
    pub(crate) fn hide(&self, name: &str, hide: bool) {
        {
            let mut hidden = self.hidden.lock();
            if hide {
                hidden.insert(name.to_lowercase())
            } else {
                hidden.remove(&name.to_lowercase())
            };
        }
        let mut objects = self.objects.lock();
        let object = objects.get_mut(&name.to_lowercase()).expect("it is there");
        object.spec.acl = hide
            .then(|| serde_json::from_value(json!([{"who": "anyone", "rights": ["find"], "allow": false}])).unwrap());
        let object = object.clone();
        drop(objects);
        self.tell(Change::Changed, object);
    }

    fn tell(&self, change: Change, object: Object) {
        let at = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        let event = WatchEvent { change, name: object.name.clone(), object };
        let _ = self.told.send(WatchReply { at: at.to_string(), events: vec![event] });
    }

    pub(crate) fn revision(&self) -> u32 {
        self.revision.load(Ordering::SeqCst)
    }
}

fn not_here<T>() -> Result<T> {
    Err(Error::new(Code::Unsupported, "not in this test"))
}

#[async_trait::async_trait]
impl NameService for Tree {
    async fn find(&self, cx: &Context, request: FindRequest) -> Result<FindReply> {
        let key = request.name.to_string().to_lowercase();
        let found = self.objects.lock().get(&key).cloned();
        let found = found.ok_or_else(|| Error::new(Code::NotFound, "nothing there"))?;
        if !request.start {
            self.looks.fetch_add(1, Ordering::SeqCst);
        } else {
            assert_eq!(cx.caller.mechanism, Mechanism::LookUp);
            self.starts.fetch_add(1, Ordering::SeqCst);
            let takes = *self.start_takes.lock();
            if takes > request.timeout.unwrap().duration() {
                tokio::time::sleep(request.timeout.unwrap().duration()).await;
                return Err(Error::new(Code::Timeout, "still starting"));
            }
            tokio::time::sleep(takes).await;
            let launch = serde_json::to_value(&found.spec.launch).unwrap();
            self.put(&key, service(&[("inew", "192.0.2.99", 99)], json!({"launch": launch})));
        }
        let instances = found.status.map(|status| status.instances).unwrap_or_default();
        let reply = json!({"name": request.name, "kind": "service", "version": "v1", "revision": 1, "age_ms": 0});
        Ok(FindReply { instances, ..serde_json::from_value(reply).unwrap() })
    }

    async fn read(&self, _: &Context, request: ReadRequest) -> Result<ReadReply> {
        let found = self.objects.lock().get(&request.name.to_string().to_lowercase()).cloned();
        let object = found.ok_or_else(|| Error::new(Code::NotFound, "nothing there"))?;
        Ok(ReadReply { object, fresh: Fresh::default() })
    }

    async fn access(&self, _: &Context, request: AccessRequest) -> Result<AccessReply> {
        assert_eq!(request.who, Some(Subject::Anyone));
        let hidden = self.hidden.lock();
        let name = request.name.to_string().to_lowercase();
        let allowed = !hidden.iter().any(|at| name == *at || name.starts_with(&format!("{at}/")));
        let right = request.right.unwrap();
        let because = String::new();
        let decision = Decision { right, allowed, at: None, entry: None, through: Vec::new(), because };
        Ok(AccessReply { name: request.name, who: Subject::Anyone, decisions: vec![decision], lists: Vec::new() })
    }

    async fn watch(&self, _: &Context, request: WatchRequest) -> Result<BoxStream<'static, Result<WatchReply>>> {
        let top = request.pattern.strip_suffix("/**").unwrap().to_lowercase();
        let beneath = move |name: &Name| {
            let name = name.to_string().to_lowercase();
            name == top || name.starts_with(&format!("{top}/"))
        };
        let objects = self.objects.lock();
        let told = self.told.subscribe();
        let events = objects.values().filter(|object| beneath(&object.name)).map(|object| WatchEvent {
            change: Change::Present,
            name: object.name.clone(),
            object: object.clone(),
        });
        let first = WatchReply { at: self.revision().to_string(), events: events.collect() };
        let later = futures_util::stream::unfold(told, |mut told| async move {
            let message = told.recv().await.ok()?;
            Some((message, told))
        });
        let initial = futures_util::stream::iter(request.initial.then_some(first));
        let later = later.filter_map(move |mut message: WatchReply| {
            message.events.retain(|event| beneath(&event.name));
            std::future::ready(Some(message))
        });
        Ok(initial.chain(later).map(Ok).boxed())
    }

    async fn list(&self, _: &Context, _: ListRequest) -> Result<ListReply> {
        not_here()
    }
    async fn status(&self, _: &Context, _: ListRequest) -> Result<StatusReply> {
        not_here()
    }
    async fn act(&self, _: &Context, _: ActRequest) -> Result<ActReply> {
        not_here()
    }
    async fn why(&self, _: &Context, _: Name) -> Result<WhyReply> {
        not_here()
    }
    async fn batch(&self, _: &Context, _: BatchRequest) -> Result<BatchReply> {
        not_here()
    }
    async fn advertise(&self, _: &Context, _: AdvertiseRequest) -> Result<AdvertiseReply> {
        not_here()
    }
    async fn withdraw(&self, _: &Context, _: WithdrawRequest) -> Result<WithdrawReply> {
        not_here()
    }
    async fn logs(&self, _: &Context, _: LogsRequest) -> Result<BoxStream<'static, Result<bytes::Bytes>>> {
        not_here()
    }
    async fn info(&self, _: &Context) -> Result<ServerInfo> {
        not_here()
    }
    async fn attach_agent(&self, _: &Context, _: BoxStream<'static, Report>) -> Result<BoxStream<'static, Order>> {
        not_here()
    }
}
