//! A name server that answers from the request itself, and servers that carry it.

use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::{Extension, Router};
use byname_api::access::{AccessReply, AccessRequest, AclEntry, Decision, Listed, Subject};
use byname_api::agent::{Order, Report};
use byname_api::audit::{AuditReply, AuditRequest, Outcome as AuditOutcome, Record, Verification};
use byname_api::caller::{Admission, Caller, Mechanism, Right};
use byname_api::identity::*;
use byname_api::launch::Launch;
use byname_api::object::{InstanceId, Kind, Object, ObjectId, ServiceStatus, Spec, Stamp, Version};
use byname_api::request::*;
use byname_api::service::{Endpoint, Instance, State};
use byname_api::span::Timestamp;
use byname_api::{Code, Error, NameService, Result};
use byname_name::Name;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;

/// Answers as its name in a request says, and remembers what it was asked.
#[derive(Default)]
pub struct Fake {
    pub asked: Mutex<Vec<String>>,
    /// A batch with the set `hang` waits for ever; this says that it has come.
    pub hanging: Notify,
}

impl Fake {
    fn note(&self, line: String) {
        self.asked.lock().unwrap().push(line);
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn anyone() -> Context {
    Context::of(Caller::internal())
}

fn instance() -> Instance {
    Instance {
        id: InstanceId(7),
        computer: Some(name("/computers/bugs")),
        endpoints: vec![Endpoint { protocol: "tcp".into(), address: "192.0.2.1".into(), port: 4711 }],
        state: State::Running,
        pid: Some(42),
        started: Some(Timestamp(1_700_000_000_000)),
        last_seen: None,
        load: Some(0.5),
        weight: None,
        health: None,
        note: None,
        connections: None,
    }
}

fn status_of(name: Name) -> ServiceStatus {
    ServiceStatus {
        name,
        state: State::Running,
        instances: vec![instance()],
        unregistered: false,
        held: None,
        starts: 1,
        failures: 0,
        last_exit: None,
        listening: Vec::new(),
    }
}

fn secret(text: &str) -> Secret {
    Secret(text.into())
}

fn certificate() -> CertifyReply {
    CertifyReply {
        chain: "chain".into(),
        bundle: "bundle".into(),
        spiffe: "spiffe://byname.internal/a".into(),
        expires: Timestamp(9),
        token: Some(secret("jwt")),
    }
}

fn stamp() -> Stamp {
    Stamp { at: Timestamp(1), by: "uid:0".into() }
}

#[async_trait::async_trait]
impl NameService for Fake {
    async fn find(&self, cx: &Context, request: FindRequest) -> Result<FindReply> {
        self.note(format!("find {} by {} failed {:?}", request.name, cx.caller.principal, request.failed));
        match request.name.as_str() {
            "/missing" => Err(Error::new(Code::NotFound, "there is no `/missing`: naïve\nuser").field("näme %")),
            "/broken" => Err(Error::internal("the operator's secret")),
            "/wordy" => Err(Error::new(Code::CrashLooping, "line\n".repeat(20_000))),
            _ => Ok(FindReply {
                name: request.name,
                canonical: None,
                kind: Kind::Service,
                instances: vec![instance()],
                members: None,
                addresses: None,
                junction: None,
                value: request.timeout.map(|span| span.to_string()),
                version: Version(3),
                ttl_ms: Some(5_000),
                started: request.start,
                fresh: Fresh { revision: 9, age_ms: 0, stale: false },
            }),
        }
    }

    async fn read(&self, _: &Context, request: ReadRequest) -> Result<ReadReply> {
        let object = Object {
            name: request.name.clone(),
            id: ObjectId(1),
            version: Version(2),
            spec: Spec { launch: Some(Launch::default()), ..Spec::of(Kind::Service) },
            created: stamp(),
            modified: stamp(),
            status: Some(status_of(request.name)),
            host: None,
            lock: None,
            forms: None,
        };
        Ok(ReadReply { object, fresh: Fresh::default() })
    }

    async fn list(&self, _: &Context, request: ListRequest) -> Result<ListReply> {
        let entry = |n: u32| Entry {
            name: name(&format!("/{}{n}", "x".repeat(50))),
            kind: Kind::Record,
            state: None,
            host: None,
            target: None,
            version: Version(n.into()),
        };
        let limit = request.limit.unwrap_or(3);
        Ok(ListReply { entries: (0..limit).map(entry).collect(), next: Some(request.pattern), fresh: Fresh::default() })
    }

    async fn status(&self, _: &Context, request: ListRequest) -> Result<StatusReply> {
        Ok(StatusReply { services: vec![status_of(name(&request.pattern))], next: None, fresh: Fresh::default() })
    }

    async fn act(&self, cx: &Context, request: ActRequest) -> Result<ActReply> {
        self.note(format!(
            "{} {:?} {:?} id {}",
            request.verb.as_str(),
            request.patterns,
            request.timeout,
            cx.request.is_some()
        ));
        let problem = Problem { code: Code::Conflict, message: "busy".into(), field: None };
        let line = |text: &String| Acted {
            name: name(text),
            state: State::Stopped,
            instances: vec![],
            error: Some(problem.clone()),
        };
        Ok(ActReply { services: request.patterns.iter().map(line).collect() })
    }

    async fn why(&self, _: &Context, name: Name) -> Result<WhyReply> {
        let story = vec![Happening { at: Timestamp(5), instance: Some(InstanceId(7)), what: "started".into() }];
        Ok(WhyReply { status: status_of(name), story, fresh: Fresh::default() })
    }

    async fn batch(&self, cx: &Context, request: BatchRequest) -> Result<BatchReply> {
        self.note(format!("batch {}", cx.request.map(|id| id.to_string()).unwrap_or_default()));
        if request.set.as_deref() == Some("hang") {
            self.hanging.notify_one();
            return pending().await;
        }
        let result = |op: &Op| OpResult {
            name: op.name().clone(),
            outcome: if matches!(op, Op::Delete { .. }) { Outcome::Deleted } else { Outcome::Created },
            version: Version(1),
            before: None,
            after: None,
        };
        Ok(BatchReply { results: request.ops.iter().map(result).collect(), revision: 12 })
    }

    async fn advertise(&self, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        self.note(format!("advertise {:?} {} id {}", request.name, request.endpoints.len(), cx.request.is_some()));
        Ok(AdvertiseReply { instance: InstanceId(8), credential: Some("c".into()), proof: None, ttl_ms: Some(1) })
    }

    async fn withdraw(&self, _: &Context, request: WithdrawRequest) -> Result<WithdrawReply> {
        Ok(WithdrawReply { withdrawn: request.instance.into_iter().collect() })
    }

    async fn logs(&self, _: &Context, request: LogsRequest) -> Result<BoxStream<'static, Result<Bytes>>> {
        if request.name.as_str() == "/silent" {
            return Err(Error::new(Code::Unsupported, "a directory writes nothing"));
        }
        let pieces = stream::iter(["one\n", "two\n", "\u{fffd}\n"]).map(|text| Ok(Bytes::from_static(text.as_bytes())));
        if request.follow {
            return Ok(pieces.chain(stream::pending()).boxed());
        }
        let end = stream::iter([Err(Error::new(Code::Unavailable, "the host went down"))]);
        Ok(pieces.chain(end).boxed())
    }

    async fn login(&self, cx: &Context, request: LoginRequest) -> Result<LoginReply> {
        self.note(format!("login {request:?} id {}", cx.request.is_some()));
        Ok(match request {
            LoginRequest::PasswordStart { principal, .. } if principal.as_str() == "/hang" => {
                self.hanging.notify_one();
                return pending().await;
            }
            LoginRequest::PasswordStart { message, .. } => {
                LoginReply::Challenge { attempt: secret("attempt"), message: Blob([&message.0[..], b"!"].concat()) }
            }
            LoginRequest::PageStart { .. } => LoginReply::Page {
                attempt: secret("attempt"),
                path: "/login#x".into(),
                code: "ABCD-EFGH".into(),
                every_ms: 500,
            },
            LoginRequest::PagePoll { .. } => LoginReply::Pending,
            LoginRequest::PasskeyFinish { device: Some(_), .. } => LoginReply::HandedOver,
            _ => LoginReply::Session(Session {
                token: secret("token"),
                principal: name("/people/liu"),
                expires: Timestamp(7),
            }),
        })
    }

    async fn logout(&self, cx: &Context, request: LogoutRequest) -> Result<()> {
        self.note(format!("logout {} {:?} id {}", request.everywhere, request.principal, cx.request.is_some()));
        Ok(())
    }

    async fn whoami(&self, cx: &Context) -> Result<WhoamiReply> {
        Ok(WhoamiReply {
            principal: cx.caller.principal.clone(),
            id: Some(ObjectId(4)),
            instance: None,
            mechanism: Mechanism::Socket,
            expires: Some(Timestamp(8)),
            groups: vec![name("/byname/admins")],
            admin: true,
        })
    }

    async fn enrol(&self, cx: &Context, request: EnrolRequest) -> Result<EnrolReply> {
        self.note(format!("enrol {request:?} id {}", cx.request.is_some()));
        Ok(match request {
            EnrolRequest::PasswordStart { message, .. } => EnrolReply::Challenge { attempt: None, message },
            EnrolRequest::PasskeyPage { .. } => {
                EnrolReply::Page { path: "/enrol#link=x".into(), expires: Timestamp(6) }
            }
            EnrolRequest::List { .. } => EnrolReply::Credentials { password: true, passkeys: vec!["key".into()] },
            _ => EnrolReply::Done,
        })
    }

    async fn certify(&self, _: &Context, request: CertifyRequest) -> Result<CertifyReply> {
        self.note(format!("certify {request:?}"));
        Ok(certificate())
    }

    async fn trust(&self, _: &Context) -> Result<TrustReply> {
        Ok(TrustReply {
            domain: "byname.internal".into(),
            bundle: "bundle".into(),
            fingerprint: "f".into(),
            keys: "{}".into(),
        })
    }

    async fn introduce(&self, cx: &Context, request: IntroduceRequest) -> Result<IntroduceReply> {
        self.note(format!("introduce {} id {}", request.name, cx.request.is_some()));
        if request.name.as_str() == "/hang" {
            self.hanging.notify_one();
            return pending().await;
        }
        Ok(IntroduceReply {
            name: request.name,
            instance: request.instance.unwrap_or(InstanceId(7)),
            endpoints: instance().endpoints,
            ticket: secret("t1"),
            proof: secret("t2"),
            expires: Timestamp(5),
        })
    }

    async fn verify(&self, cx: &Context, request: VerifyRequest) -> Result<VerifyReply> {
        self.note(format!("verify {:?} id {}", request.instance, cx.request.is_some()));
        Ok(VerifyReply { client: "/people/liu".into(), client_id: Some(ObjectId(3)), proof: request.ticket })
    }

    async fn invite(&self, cx: &Context, request: InviteRequest) -> Result<InviteReply> {
        self.note(format!("invite {request:?} id {}", cx.request.is_some()));
        Ok(InviteReply {
            secret: secret("join"),
            root: "root".into(),
            servers: vec!["https://192.0.2.1:7600".into()],
            expires: Timestamp(4),
        })
    }

    async fn join(&self, cx: &Context, request: JoinRequest) -> Result<JoinReply> {
        self.note(format!("join {} id {}", request.computer, cx.request.is_some()));
        Ok(JoinReply { certificate: certificate(), cluster_key: Some(request.secret), server: None })
    }

    async fn revoke(&self, cx: &Context, request: RevokeRequest) -> Result<()> {
        self.note(format!("revoke {request:?} id {}", cx.request.is_some()));
        Ok(())
    }

    async fn access(&self, _: &Context, request: AccessRequest) -> Result<AccessReply> {
        let entry = AclEntry::allow(Subject::Anyone, Right::Find);
        let decision = Decision {
            right: request.right.unwrap_or(Right::Read),
            allowed: false,
            at: Some(name("/")),
            entry: Some(AclEntry { allow: false, ..entry.clone() }),
            through: vec![name("/groups/all")],
            because: "it is refused".into(),
        };
        let list = Listed { name: name("/"), owner: "uid:0".into(), acl: vec![entry] };
        let who = request.who.unwrap_or(Subject::Authenticated);
        Ok(AccessReply { name: request.name, who, decisions: vec![decision], lists: vec![list] })
    }

    async fn audit(&self, _: &Context, request: AuditRequest) -> Result<AuditReply> {
        self.note(format!("audit {request:?}"));
        let record = Record {
            server: 1,
            sequence: 2,
            at: Timestamp(3),
            by: "/people/liu".into(),
            how: "socket pid 1".into(),
            from: None,
            operation: "add".into(),
            name: request.name,
            outcome: request.outcome.unwrap_or(AuditOutcome::Ok),
            code: None,
            detail: None,
            count: 1,
            previous: "00".into(),
            hash: "11".into(),
        };
        let verified = request.verify.then(|| Verification {
            server: 1,
            records: 2,
            first: 1,
            last: 2,
            head: "11".into(),
            anchors: 0,
            intact: true,
            trouble: None,
        });
        Ok(AuditReply { records: vec![record], next: request.next, verified })
    }

    async fn info(&self, _: &Context) -> Result<ServerInfo> {
        Ok(ServerInfo {
            version: "0.1.0".into(),
            server: 1,
            term: 2,
            primary: true,
            revision: 3,
            objects: 4,
            servers: vec![1],
            members: Vec::new(),
            agents: vec!["bugs".into()],
            log_bytes: 5,
            snapshot_index: 6,
            stalled: None,
            started: stamp(),
        })
    }

    /// Each probe's answer is acknowledged by forgetting the instance with the probe's number.
    async fn attach_agent(
        &self,
        _: &Context,
        reports: BoxStream<'static, Report>,
    ) -> Result<BoxStream<'static, Order>> {
        let orders = reports.map(|report| match report {
            Report::Probed { request, .. } => Order::Forget { instance: InstanceId(request) },
            _ => Order::Welcome { term: 1, known: vec![] },
        });
        Ok(orders.boxed())
    }
}

pub fn full() -> Admission {
    Admission(Ok(Caller::local(1000, None)))
}

/// The routes as a listener serves them, with one admission for everybody.
pub fn admitted(fake: Arc<Fake>, admission: Admission) -> Router {
    byname_front_grpc::routes(fake).layer(Extension(admission))
}

/// A server in a runtime of its own, so that it can die as a killed process does: every connection closes at once.
pub struct Server {
    runtime: Option<Runtime>,
    pub address: String,
}

impl Server {
    pub async fn tcp(router: Router) -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        Server::start(router, address, || {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            incoming.map(|stream| stream.inspect(|stream| stream.set_nodelay(true).unwrap()))
        })
    }

    pub async fn unix(router: Router, path: &Path) -> Server {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("unix://{}", path.display());
        Server::start(router, address, || UnixListenerStream::new(UnixListener::from_std(listener).unwrap()))
    }

    fn start<S, C>(router: Router, address: String, incoming: impl FnOnce() -> S) -> Server
    where
        S: Stream<Item = std::io::Result<C>> + Send + 'static,
        C: tokio::io::AsyncRead + tokio::io::AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let guard = runtime.enter();
        let incoming = incoming();
        drop(guard);
        let server = tonic::transport::Server::builder().add_routes(Routes::from(router));
        runtime.spawn(server.serve_with_incoming(incoming));
        Server { runtime: Some(runtime), address }
    }

    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An address where nobody listens.
pub fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
