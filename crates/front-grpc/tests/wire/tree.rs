//! A small tree with watches, for tests of what the clerk does when servers break, lag or refuse. Several servers may
//! share one tree, as those of a cluster do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use byname_api::agent::{Order, Report};
use byname_api::error::NO_PRIMARY;
use byname_api::object::{InstanceId, Kind, Object, ObjectId, ServiceStatus, Spec, Stamp, Version};
use byname_api::request::*;
use byname_api::service::{Endpoint, Instance, State};
use byname_api::span::Timestamp;
use byname_api::{Code, Error, NameService, Result};
use byname_name::{Name, Pattern};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{Notify, broadcast};

use crate::fake::name;

/// What every server of the cluster has.
pub struct Tree {
    state: Mutex<Content>,
    told: broadcast::Sender<WatchReply>,
}

#[derive(Default)]
struct Content {
    revision: u64,
    objects: Vec<Object>,
    events: Vec<WatchReply>,
    /// Reports, as they came.
    reports: Vec<ReportRequest>,
    /// Request ids of the batches that were applied.
    applied: Vec<RequestId>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree { state: Mutex::default(), told: broadcast::channel(1_000).0 }
    }
}

impl Tree {
    /// Puts an object, and tells those who watch.
    pub fn put(&self, object: Object) {
        self.change(if self.read(&object.name).is_some() { Change::Changed } else { Change::Created }, object);
    }

    pub fn record(&self, at: &str, value: &str) {
        self.put(object(at, Spec { value: Some(value.into()), ..Spec::of(Kind::Record) }));
    }

    /// A service with these running copies.
    pub fn service(&self, at: &str, spec: Spec, copies: &[u64]) {
        let instances = copies.iter().map(|id| instance(*id)).collect();
        let state = if copies.is_empty() { State::Stopped } else { State::Running };
        let status = ServiceStatus {
            name: name(at),
            state,
            instances,
            unregistered: false,
            held: None,
            starts: 1,
            failures: 0,
            last_exit: None,
            listening: Vec::new(),
        };
        let kind = spec.kind.unwrap_or(Kind::Service);
        let known = self.read(&name(at));
        let version = known.as_ref().map_or(Version(1), |known| known.version);
        let new = Object { status: Some(status), version, ..object(at, Spec { kind: Some(kind), ..spec }) };
        self.change(if known.is_some() { Change::State } else { Change::Created }, new);
    }

    pub fn delete(&self, at: &str) {
        if let Some(object) = self.read(&name(at)) {
            self.change(Change::Deleted, object);
        }
    }

    fn change(&self, change: Change, object: Object) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        state.objects.retain(|other| other.name != object.name);
        if change != Change::Deleted {
            state.objects.push(object.clone());
        }
        let event = WatchEvent { change, name: object.name.clone(), object };
        let message = WatchReply { at: state.revision.to_string(), events: vec![event] };
        state.events.push(message.clone());
        let _ = self.told.send(message);
    }

    fn read(&self, name: &Name) -> Option<Object> {
        self.state.lock().unwrap().objects.iter().find(|object| object.name == *name).cloned()
    }

    fn revision(&self) -> u64 {
        self.state.lock().unwrap().revision
    }

    pub fn reports(&self) -> Vec<ReportRequest> {
        self.state.lock().unwrap().reports.clone()
    }

    pub fn applied(&self) -> Vec<RequestId> {
        self.state.lock().unwrap().applied.clone()
    }
}

pub fn object(at: &str, spec: Spec) -> Object {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let stamp = Stamp { at: Timestamp(1), by: "uid:0".into() };
    Object {
        host: None,
        name: name(at),
        id: ObjectId(next),
        version: Version(next),
        spec,
        created: stamp.clone(),
        modified: stamp,
        status: None,
        lock: None,
        forms: None,
    }
}

fn instance(id: u64) -> Instance {
    Instance {
        note: None,
        id: InstanceId(id),
        computer: None,
        endpoints: vec![Endpoint { protocol: "tcp".into(), address: "192.0.2.1".into(), port: id as u16 }],
        state: State::Running,
        pid: None,
        started: None,
        last_seen: None,
        load: None,
        weight: None,
        health: None,
        connections: None,
    }
}

/// One server of the cluster.
#[derive(Default)]
pub struct Member {
    pub tree: Arc<Tree>,
    /// What it says of its cluster.
    pub members: Mutex<Vec<byname_api::request::Member>>,
    /// It knows no primary: writes and starts are refused.
    pub headless: AtomicBool,
    /// It takes requests and does not answer.
    pub silent: AtomicBool,
    /// It answers each question with this.
    pub refuses: Mutex<Option<Error>>,
    /// Operations that came, in order.
    pub asked: Mutex<Vec<String>>,
    /// A write has come and is not answered.
    pub hanging: Notify,
    /// Writes are applied and never answered.
    pub swallows: AtomicBool,
}

impl Member {
    pub fn of(tree: &Arc<Tree>) -> Arc<Member> {
        Arc::new(Member { tree: tree.clone(), ..Member::default() })
    }

    async fn ask(&self, what: String, writes: bool) -> Result<()> {
        self.asked.lock().unwrap().push(what);
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.refuses.lock().unwrap().clone() {
            return Err(error);
        }
        if writes && self.headless.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Unavailable, "there is no primary at the moment").field(NO_PRIMARY));
        }
        Ok(())
    }

    pub fn asked(&self, what: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.starts_with(what)).count()
    }

    fn fresh(&self) -> Fresh {
        Fresh { revision: self.tree.revision(), age_ms: 0, stale: false }
    }

    fn there(&self, name: &Name) -> Result<Object> {
        self.tree.read(name).ok_or_else(|| Error::new(Code::NotFound, format!("there is no `{name}`")))
    }
}

fn unused<T>() -> Result<T> {
    Err(Error::new(Code::Unsupported, "this server does not know that"))
}

#[async_trait::async_trait]
impl NameService for Member {
    async fn find(&self, _: &Context, request: FindRequest) -> Result<FindReply> {
        self.ask(format!("find {}", request.name), false).await?;
        let mut object = self.there(&request.name)?;
        while let Some(target) = object.spec.target.clone() {
            object = self.there(&target)?;
        }
        let instances = object.status.iter().flat_map(|s| s.instances.iter().take(1).cloned()).collect::<Vec<_>>();
        if instances.is_empty() && object.spec.kind == Some(Kind::Service) {
            return Err(Error::new(Code::NotRunning, "it is stopped"));
        }
        Ok(FindReply {
            name: request.name.clone(),
            canonical: (object.name != request.name).then(|| object.name.clone()),
            kind: object.spec.kind.unwrap(),
            instances,
            members: object.spec.members.clone(),
            addresses: None,
            value: object.spec.value.clone(),
            version: object.version,
            junction: None,
            ttl_ms: None,
            started: false,
            fresh: self.fresh(),
        })
    }

    async fn read(&self, _: &Context, request: ReadRequest) -> Result<ReadReply> {
        self.ask(format!("read {}", request.name), false).await?;
        Ok(ReadReply { object: self.there(&request.name)?, fresh: self.fresh() })
    }

    async fn list(&self, _: &Context, request: ListRequest) -> Result<ListReply> {
        self.ask(format!("list {}", request.pattern), false).await?;
        Ok(ListReply { entries: Vec::new(), next: None, fresh: self.fresh() })
    }

    async fn status(&self, _: &Context, request: ListRequest) -> Result<StatusReply> {
        self.ask(format!("status {}", request.pattern), false).await?;
        Ok(StatusReply { services: Vec::new(), next: None, fresh: self.fresh() })
    }

    async fn batch(&self, cx: &Context, request: BatchRequest) -> Result<BatchReply> {
        self.ask("batch".into(), true).await?;
        let id = cx.request.expect("every write has an id");
        let fresh = {
            let mut state = self.tree.state.lock().unwrap();
            let fresh = !state.applied.contains(&id);
            if fresh {
                state.applied.push(id);
            }
            fresh
        };
        for op in request.ops.iter().filter(|_| fresh) {
            if let Op::Put { name, spec, .. } = op {
                self.tree.put(object(name.as_str(), spec.clone()));
            }
        }
        if self.swallows.load(Ordering::SeqCst) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(BatchReply { results: Vec::new(), revision: self.tree.revision() })
    }

    async fn report(&self, _: &Context, request: ReportRequest) -> Result<ReportReply> {
        self.ask("report".into(), false).await?;
        self.tree.state.lock().unwrap().reports.push(request.clone());
        if self.swallows.load(Ordering::SeqCst) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(ReportReply { instance: request.instance.unwrap_or(InstanceId(1)) })
    }

    async fn watch(&self, _: &Context, request: WatchRequest) -> Result<BoxStream<'static, Result<WatchReply>>> {
        self.ask(format!("watch {} from {:?}", request.pattern, request.from), false).await?;
        let pattern = Pattern::parse(&request.pattern).unwrap();
        let state = self.tree.state.lock().unwrap();
        let told = self.tree.told.subscribe();
        let from: u64 = request.from.as_ref().map_or(state.revision, |from| from.parse().unwrap());
        let wanted = |objects: &[Object], pattern: &Pattern| -> Vec<WatchEvent> {
            let of = objects.iter().filter(|object| request.initial && pattern.matches(&object.name));
            of.map(|o| WatchEvent { change: Change::Present, name: o.name.clone(), object: o.clone() }).collect()
        };
        let mut first = vec![WatchReply { at: from.to_string(), events: wanted(&state.objects, &pattern) }];
        first.extend(state.events.iter().filter(|m| m.at.parse::<u64>().unwrap() > from).cloned());
        drop(state);
        let later = stream::unfold(told, |mut told| async move { Some((told.recv().await.ok()?, told)) });
        let matching = move |mut message: WatchReply| {
            message.events.retain(|event| pattern.matches(&event.name));
            Ok(message)
        };
        Ok(stream::iter(first).chain(later).map(matching).boxed())
    }

    async fn info(&self, _: &Context) -> Result<ServerInfo> {
        self.ask("info".into(), false).await?;
        Ok(ServerInfo {
            version: "0.1.0".into(),
            server: 1,
            term: 1,
            primary: true,
            revision: 1,
            objects: 1,
            servers: vec![1],
            members: self.members.lock().unwrap().clone(),
            agents: Vec::new(),
            log_bytes: 0,
            snapshot_index: 0,
            stalled: None,
            started: Stamp { at: Timestamp(1), by: "uid:0".into() },
        })
    }

    async fn act(&self, _: &Context, _: ActRequest) -> Result<ActReply> {
        unused()
    }

    async fn why(&self, _: &Context, _: Name) -> Result<WhyReply> {
        unused()
    }

    async fn advertise(&self, _: &Context, _: AdvertiseRequest) -> Result<AdvertiseReply> {
        unused()
    }

    async fn withdraw(&self, _: &Context, _: WithdrawRequest) -> Result<WithdrawReply> {
        unused()
    }

    async fn logs(&self, _: &Context, _: LogsRequest) -> Result<BoxStream<'static, Result<Bytes>>> {
        unused()
    }

    async fn attach_agent(&self, _: &Context, _: BoxStream<'static, Report>) -> Result<BoxStream<'static, Order>> {
        unused()
    }
}
