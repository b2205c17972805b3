//! A name service that keeps declarations in a map, and clients that speak HTTP by hand, so that tests see exactly
//! what goes over the wire.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use byname_api::access::{AccessReply, AccessRequest, AclEntry, Decision, Listed, Subject};
use byname_api::agent::{Order, Report};
use byname_api::audit::{AuditReply, AuditRequest, Outcome as AuditOutcome, Record, Verification};
use byname_api::caller::{Gate, Right, Standing};
use byname_api::identity::*;
use byname_api::object::*;
use byname_api::request::*;
use byname_api::service::{Endpoint, Instance, State};
use byname_api::span::Timestamp;
use byname_api::{Code, Error, NameService, Result};
use byname_front_http::{Bound, Extras, Limits, Secure, router, serve_with};
use byname_name::Name;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

pub(crate) const TOKEN: &str = "0123456789abcdef";

/// What the fake remembers.
#[derive(Default)]
pub(crate) struct Fake {
    objects: Mutex<BTreeMap<Name, (Spec, u64)>>,
    /// Every call: the principal, the request id and the request.
    pub(crate) calls: Mutex<Vec<String>>,
    /// What a followed log goes on with.
    pub(crate) log: Mutex<Option<mpsc::UnboundedReceiver<Bytes>>>,
}

impl Fake {
    fn call(&self, cx: &Context, what: impl std::fmt::Debug) {
        let id = cx.request.map(|r| r.to_string()).unwrap_or_default();
        self.calls.lock().unwrap().push(format!("{} {id} {what:?}", cx.caller.principal));
    }

    pub(crate) fn last_call(&self) -> String {
        self.calls.lock().unwrap().last().cloned().unwrap_or_default()
    }

    fn object(&self, name: &Name) -> Result<(Spec, u64)> {
        let none = || Error::new(Code::NotFound, format!("there is no `{name}`"));
        self.objects.lock().unwrap().get(name).cloned().ok_or_else(none)
    }

    pub(crate) fn spec(&self, name: &str) -> Spec {
        self.object(&Name::parse(name).unwrap()).unwrap().0
    }

    fn apply(&self, op: Op) -> Result<OpResult> {
        let mut objects = self.objects.lock().unwrap();
        let next = objects.values().map(|(_, v)| *v).max().unwrap_or_default() + 1;
        let name = op.name().clone();
        let there = objects.get(&name).cloned();
        if let Op::Put { if_version: Some(v), .. }
        | Op::Modify { if_version: Some(v), .. }
        | Op::Delete { if_version: Some(v), .. } = &op
            && there.as_ref().map(|(_, now)| *now) != Some(v.0)
        {
            return Err(Error::new(Code::Conflict, format!("`{name}` has another version by now")));
        }
        let missing = || Error::new(Code::NotFound, format!("there is no `{name}`"));
        let mut outcome = if there.is_some() { Outcome::Changed } else { Outcome::Created };
        let spec = match op {
            Op::Add { .. } if there.is_some() => {
                return Err(Error::new(Code::AlreadyExists, format!("`{name}` is taken")));
            }
            Op::Add { spec, .. } | Op::Put { spec, .. } => spec,
            Op::Declare { spec, .. } => {
                let mut now = there.map_or_else(|| Spec::of(spec.kind()), |(now, _)| now);
                now.overlay(&spec);
                now
            }
            Op::Modify { spec, clear, .. } => {
                let mut now = there.ok_or_else(missing)?.0;
                now.overlay(&spec);
                clear.iter().try_for_each(|path| now.clear(path))?;
                now
            }
            Op::Delete { .. } => {
                objects.remove(&name).ok_or_else(missing)?;
                outcome = Outcome::Deleted;
                Spec::default()
            }
            Op::Check { .. } => {
                let version = there.map_or(0, |(_, version)| version);
                return Ok(OpResult {
                    name,
                    outcome: Outcome::Checked,
                    version: Version(version),
                    before: None,
                    after: None,
                });
            }
        };
        if outcome != Outcome::Deleted {
            spec.check()?;
            objects.insert(name.clone(), (spec, next));
        }
        Ok(OpResult { name, outcome, version: Version(next), before: None, after: None })
    }
}

fn bad_pattern(e: byname_name::PatternError) -> Error {
    Error::new(Code::InvalidName, e.to_string()).field("pattern")
}

fn fresh() -> Fresh {
    Fresh { revision: 7, age_ms: 0, stale: false }
}

fn instance() -> Instance {
    Instance {
        id: InstanceId(33),
        computer: Some(Name::parse("/computers/bugs").unwrap()),
        endpoints: vec![Endpoint { protocol: "tcp".into(), address: "127.0.0.1".into(), port: 4242 }],
        state: State::Running,
        pid: Some(4711),
        started: Some(Timestamp(1_700_000_000_000)),
        last_seen: None,
        load: None,
        weight: None,
        health: None,
        note: None,
        connections: None,
    }
}

fn status(name: Name) -> ServiceStatus {
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

fn certificate() -> CertifyReply {
    CertifyReply {
        chain: "chain".into(),
        bundle: "bundle".into(),
        spiffe: "spiffe://byname.internal/a".into(),
        expires: Timestamp(1_700_000_000_000),
        token: Some(Secret("jwt".into())),
    }
}

#[async_trait::async_trait]
impl NameService for Fake {
    async fn find(&self, cx: &Context, request: FindRequest) -> Result<FindReply> {
        self.call(cx, &request);
        if cx.caller.standing == Standing::Anonymous && request.start {
            return Err(Error::new(Code::Denied, "starting needs the bearer token"));
        }
        if request.name.as_str() == "/broken" {
            return Err(Error::internal("the secret reason"));
        }
        assert_ne!(request.name.as_str(), "/panic", "asked to panic");
        let (spec, version) = self.object(&request.name)?;
        let service = spec.kind() == Kind::Service;
        Ok(FindReply {
            name: request.name,
            canonical: None,
            kind: spec.kind(),
            instances: if service { vec![instance()] } else { vec![] },
            members: spec.members,
            addresses: spec.addresses,
            value: spec.value,
            junction: None,
            version: Version(version),
            ttl_ms: None,
            started: false,
            fresh: fresh(),
        })
    }

    async fn read(&self, cx: &Context, request: ReadRequest) -> Result<ReadReply> {
        self.call(cx, &request);
        let (mut spec, version) =
            if request.name.is_root() { (Spec::default(), 1) } else { self.object(&request.name)? };
        spec.kind = Some(spec.kind());
        let stamp = Stamp { at: Timestamp(1_700_000_000_000), by: "token".into() };
        let object = Object {
            name: request.name,
            id: ObjectId(5),
            version: Version(version),
            spec,
            created: stamp.clone(),
            modified: stamp,
            status: None,
            host: None,
            lock: None,
            forms: None,
        };
        Ok(ReadReply { object, fresh: fresh() })
    }

    async fn list(&self, cx: &Context, request: ListRequest) -> Result<ListReply> {
        self.call(cx, &request);
        let pattern = byname_name::Pattern::parse(&request.pattern).map_err(bad_pattern)?;
        let objects = self.objects.lock().unwrap();
        let entries = objects
            .iter()
            .filter(|(name, _)| pattern.matches(name))
            .map(|(name, (spec, version))| Entry {
                host: None,
                name: name.clone(),
                kind: spec.kind(),
                state: None,
                target: spec.target.clone(),
                version: Version(*version),
            })
            .collect();
        Ok(ListReply { entries, next: None, fresh: fresh() })
    }

    async fn status(&self, cx: &Context, request: ListRequest) -> Result<StatusReply> {
        self.call(cx, &request);
        byname_name::Pattern::parse(&request.pattern).map_err(bad_pattern)?;
        let services = vec![status(Name::parse("/BVODS/QS")?)];
        Ok(StatusReply { services, next: None, fresh: fresh() })
    }

    async fn act(&self, cx: &Context, request: ActRequest) -> Result<ActReply> {
        self.call(cx, &request);
        let mut services = Vec::new();
        for pattern in &request.patterns {
            let Some(name) = byname_name::Pattern::parse(pattern).map_err(bad_pattern)?.as_exact() else { continue };
            let error = (pattern == "/fails").then(|| Problem {
                code: Code::StartFailed,
                message: "the program exited with status 1".into(),
                field: None,
            });
            services.push(Acted { name, state: State::Running, instances: vec![instance()], error });
        }
        Ok(ActReply { services })
    }

    async fn why(&self, cx: &Context, name: Name) -> Result<WhyReply> {
        self.call(cx, &name);
        let story = vec![Happening {
            at: Timestamp(1_700_000_000_000),
            instance: Some(InstanceId(33)),
            what: "started because somebody asked for it".into(),
        }];
        Ok(WhyReply { status: status(name), story, fresh: fresh() })
    }

    async fn batch(&self, cx: &Context, request: BatchRequest) -> Result<BatchReply> {
        self.call(cx, &request);
        if cx.caller.standing == Standing::Anonymous {
            return Err(Error::new(Code::Denied, "changes need the bearer token"));
        }
        let results = request.ops.into_iter().map(|op| self.apply(op)).collect::<Result<_>>()?;
        Ok(BatchReply { results, revision: 8 })
    }

    async fn advertise(&self, cx: &Context, request: AdvertiseRequest) -> Result<AdvertiseReply> {
        self.call(cx, &request);
        Ok(AdvertiseReply {
            instance: InstanceId(33),
            credential: Some("ab".into()),
            proof: None,
            ttl_ms: Some(30_000),
        })
    }

    async fn withdraw(&self, cx: &Context, request: WithdrawRequest) -> Result<WithdrawReply> {
        self.call(cx, &request);
        Ok(WithdrawReply { withdrawn: vec![InstanceId(33)] })
    }

    async fn logs(&self, cx: &Context, request: LogsRequest) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.call(cx, &request);
        let first = futures_util::stream::iter([Ok(Bytes::from_static(b"one\n"))]);
        match self.log.lock().unwrap().take() {
            Some(rest) if request.follow => {
                let rest = futures_util::stream::unfold(rest, |mut rest| async move {
                    rest.recv().await.map(|bytes| (Ok(bytes), rest))
                });
                Ok(first.chain(rest).boxed())
            }
            _ => Ok(first.boxed()),
        }
    }

    async fn login(&self, cx: &Context, request: LoginRequest) -> Result<LoginReply> {
        self.call(cx, &request);
        let (attempt, expires) = (Secret("attempt".into()), Timestamp(1_700_000_000_000));
        Ok(match request {
            LoginRequest::PasswordStart { message, .. } => LoginReply::Challenge { attempt, message },
            LoginRequest::PasskeyStart { .. } => LoginReply::Challenge { attempt, message: Blob(b"{}".to_vec()) },
            LoginRequest::PasskeyFinish { device: Some(_), .. } => LoginReply::HandedOver,
            LoginRequest::PageStart { .. } => {
                LoginReply::Page { attempt, path: "/login#x".into(), code: "ABCD-EFGH".into(), every_ms: 500 }
            }
            LoginRequest::PagePoll { .. } => LoginReply::Pending,
            _ => LoginReply::Session(Session {
                token: Secret("s3ss".into()),
                principal: Name::parse("/people/liu")?,
                expires,
            }),
        })
    }

    async fn logout(&self, cx: &Context, request: LogoutRequest) -> Result<()> {
        self.call(cx, &request);
        Ok(())
    }

    async fn whoami(&self, cx: &Context) -> Result<WhoamiReply> {
        Ok(WhoamiReply {
            principal: cx.caller.principal.clone(),
            id: Some(ObjectId(5)),
            instance: Some(InstanceId(33)),
            mechanism: cx.caller.mechanism,
            expires: Some(Timestamp(1_700_000_000_000)),
            groups: vec![Name::parse("/byname/admins")?],
            admin: cx.caller.standing == Standing::Full,
        })
    }

    async fn enrol(&self, cx: &Context, request: EnrolRequest) -> Result<EnrolReply> {
        self.call(cx, &request);
        Ok(match request {
            EnrolRequest::PasswordStart { message, .. } => EnrolReply::Challenge { attempt: None, message },
            EnrolRequest::PasskeyPage { .. } => {
                EnrolReply::Page { path: "/enrol#link=x".into(), expires: Timestamp(1_700_000_000_000) }
            }
            EnrolRequest::List { .. } => EnrolReply::Credentials { password: true, passkeys: vec!["key".into()] },
            _ => EnrolReply::Done,
        })
    }

    async fn certify(&self, cx: &Context, request: CertifyRequest) -> Result<CertifyReply> {
        self.call(cx, &request);
        Ok(certificate())
    }

    async fn trust(&self, cx: &Context) -> Result<TrustReply> {
        self.call(cx, "trust");
        let (domain, bundle) = ("byname.internal".into(), "bundle".into());
        Ok(TrustReply { domain, bundle, fingerprint: "ab".into(), keys: "{}".into() })
    }

    async fn introduce(&self, cx: &Context, request: IntroduceRequest) -> Result<IntroduceReply> {
        self.call(cx, &request);
        Ok(IntroduceReply {
            name: request.name,
            instance: InstanceId(33),
            endpoints: instance().endpoints,
            ticket: Secret("t1".into()),
            proof: Secret("t2".into()),
            expires: Timestamp(1_700_000_000_000),
        })
    }

    async fn verify(&self, cx: &Context, request: VerifyRequest) -> Result<VerifyReply> {
        self.call(cx, &request);
        Ok(VerifyReply { client: "/people/liu".into(), client_id: Some(ObjectId(5)), proof: request.ticket })
    }

    async fn invite(&self, cx: &Context, request: InviteRequest) -> Result<InviteReply> {
        self.call(cx, &request);
        Ok(InviteReply {
            secret: Secret("join".into()),
            root: "ab".into(),
            servers: vec!["https://192.0.2.1:7600".into()],
            expires: Timestamp(1_700_000_000_000),
        })
    }

    async fn join(&self, cx: &Context, request: JoinRequest) -> Result<JoinReply> {
        self.call(cx, &request);
        Ok(JoinReply { certificate: certificate(), cluster_key: Some(request.secret), server: None })
    }

    async fn revoke(&self, cx: &Context, request: RevokeRequest) -> Result<()> {
        self.call(cx, &request);
        Ok(())
    }

    async fn access(&self, cx: &Context, request: AccessRequest) -> Result<AccessReply> {
        self.call(cx, &request);
        let (root, entry) = (Name::root(), AclEntry::allow(Subject::Anyone, Right::Find));
        let decision = Decision {
            right: request.right.unwrap_or(Right::Read),
            allowed: true,
            at: Some(root.clone()),
            entry: Some(entry.clone()),
            through: vec![Name::parse("/groups/all")?],
            because: "it is granted".into(),
        };
        Ok(AccessReply {
            name: request.name,
            who: request.who.unwrap_or(Subject::Authenticated),
            decisions: vec![decision],
            lists: vec![Listed { name: root, owner: "byname".into(), acl: vec![entry] }],
        })
    }

    async fn audit(&self, cx: &Context, request: AuditRequest) -> Result<AuditReply> {
        self.call(cx, &request);
        let record = Record {
            server: 1,
            sequence: 7,
            at: Timestamp(1_700_000_000_000),
            by: "/people/liu".into(),
            how: "socket pid 1".into(),
            from: Some("192.0.2.1".into()),
            operation: "add".into(),
            name: Some("/a".into()),
            outcome: AuditOutcome::Denied,
            code: Some("denied".into()),
            detail: Some("why".into()),
            count: 2,
            previous: "00".into(),
            hash: "11".into(),
        };
        let verified = request.verify.then(|| Verification {
            server: 1,
            records: 7,
            first: 1,
            last: 7,
            head: "11".into(),
            anchors: 2,
            intact: false,
            trouble: Some("a record is missing".into()),
        });
        Ok(AuditReply { records: vec![record], next: Some("n".into()), verified })
    }

    async fn info(&self, cx: &Context) -> Result<ServerInfo> {
        self.call(cx, "info");
        Ok(ServerInfo {
            version: "0.1.0".into(),
            server: 1,
            term: 1,
            primary: true,
            revision: 7,
            objects: 3,
            servers: vec![1],
            members: Vec::new(),
            agents: vec![],
            log_bytes: 0,
            snapshot_index: 0,
            stalled: None,
            started: Stamp { at: Timestamp(1_700_000_000_000), by: "byname".into() },
        })
    }

    async fn attach_agent(&self, _: &Context, _: BoxStream<'static, Report>) -> Result<BoxStream<'static, Order>> {
        Err(Error::new(Code::Unsupported, "no agents here"))
    }
}

/// A server on port 0 and on a unix socket.
pub(crate) struct Server {
    pub(crate) fake: Arc<Fake>,
    pub(crate) tcp: std::net::SocketAddr,
    pub(crate) socket: std::path::PathBuf,
    pub(crate) ready: Arc<Mutex<Result<(), String>>>,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) ended: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    pub(crate) async fn start() -> Server {
        Server::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Server {
        Server::secured(limits, None).await
    }

    pub(crate) async fn secured(limits: Limits, tls: Option<Arc<dyn Secure>>) -> Server {
        let fake = Arc::new(Fake::default());
        let ready = Arc::new(Mutex::new(Ok(())));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let unix = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let is_ready = ready.clone();
        let extras = Extras {
            metrics: Arc::new(|| "byname_finds_total 1\n".into()),
            ready: Arc::new(move || is_ready.lock().unwrap().clone()),
        };
        let app = router(fake.clone(), extras);
        let bound = vec![Bound::Tcp(tcp), Bound::Unix(unix)];
        let serving = serve_with(bound, app, Gate::new(TOKEN), limits, tls, async {
            let _ = stopped.await;
        });
        let ended = Some(tokio::spawn(serving));
        Server { fake, tcp: address, socket, ready, folder, stop: Some(stop), ended }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// With the token.
    pub(crate) async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let token = format!("Bearer {TOKEN}");
        let mut all = vec![("Authorization", token.as_str())];
        all.extend(headers);
        self.send_as(method, target, &all, body).await
    }

    /// Without it, unless the headers hold it.
    pub(crate) async fn send_as(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let stream = TcpStream::connect(self.tcp).await.unwrap();
        let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text += &format!("Host: {}\r\n", self.tcp);
        }
        exchange(stream, finish(text, headers, body), method == "HEAD").await
    }

    /// Over the unix socket.
    pub(crate) async fn send_local(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\nHost: anything\r\n");
        exchange(stream, finish(text, headers, body), method == "HEAD").await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], "").await
    }

    pub(crate) async fn put(&self, target: &str, body: &str) -> Answer {
        self.send("PUT", target, &[JSON], body).await
    }

    /// These bytes, and everything that is answered until the server closes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        within(stream.read_to_end(&mut all)).await.unwrap();
        String::from_utf8_lossy(&all).into_owned()
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

fn finish(mut text: String, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    (text + "\r\n" + body).into_bytes()
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: Vec<u8>, head: bool) -> Answer {
    within(async {
        stream.write_all(&request).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        Answer::parse(&all, head)
    })
    .await
}

/// A bound that only a broken server reaches.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("the server does not answer")
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8], head: bool) -> Answer {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (top, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = top.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> =
            lines.map(|l| l.split_once(": ").unwrap()).map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect();
        let chunked = headers.get("transfer-encoding").is_some_and(|v| v == "chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        if !head && let Some(length) = headers.get("content-length") {
            assert_eq!(length.parse(), Ok(body.len()));
        }
        Answer { status, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        assert!(self.header("content-type").starts_with("application/"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    /// The code and the field of a problem, whose form is checked.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        let code = json["code"].as_str().unwrap();
        assert_eq!(json["status"], self.status);
        assert_eq!(json["type"], format!("/v1/errors/{code}"));
        assert!(!json["title"].as_str().unwrap().is_empty() && !json["detail"].as_str().unwrap().is_empty());
        (self.status, code.to_owned(), json["field"].as_str().unwrap_or_default().to_owned())
    }
}

fn unchunk(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out += &rest[..size];
        text = &rest[size + 2..];
    }
    out
}

/// Whether an answer is as the document says of this operation.
#[track_caller]
pub(crate) fn conforms(document: &Value, method: &str, template: &str, answer: &Answer) {
    let operation = &document["paths"][template][method.to_ascii_lowercase()];
    let content = &operation["responses"][answer.status.to_string()]["content"];
    let schema = &content[answer.header("content-type")]["schema"];
    assert!(schema.is_object(), "{method} {template}: {} is not documented: {answer:?}", answer.status);
    fits_schema(document, schema, &answer.json(), template);
}

/// As much of JSON Schema as the document's answers use. What a schema does not name is taken for a mistake.
fn fits_schema<'a>(document: &'a Value, schema: &'a Value, value: &Value, at: &str) {
    if let Some(to) = schema["$ref"].as_str() {
        return fits_schema(document, document.pointer(&to[1..]).unwrap(), value, at);
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    if let Some(word) = schema.get("const") {
        return assert_eq!(word, value, "{at}");
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let resolve =
            |choice: &'a Value| choice["$ref"].as_str().map_or(choice, |to| document.pointer(&to[1..]).unwrap());
        // Steps are told apart by a word of their own.
        let step =
            |choice: &&Value| value.get("step").is_some() && choice["properties"]["step"]["const"] == value["step"];
        if let Some(choice) = choices.iter().map(resolve).find(step) {
            return fits_schema(document, choice, value, at);
        }
        assert!(value.get("step").is_none(), "{at}: {value} is no step of {choices:?}");
        let fits = |choice: &Value| is_of(&choice["type"], value) || choice.get("oneOf").is_some();
        return assert!(choices.iter().map(resolve).any(fits), "{at}: {value} fits none of {choices:?}");
    }
    assert!(is_of(&schema["type"], value), "{at}: {value} is no {}", schema["type"]);
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{at}: {required} is missing in {value}");
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, field) in fields {
            let known = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not documented"));
            fits_schema(document, known, field, &format!("{at} {name}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        fits_schema(document, &schema["items"], item, at);
    }
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
        Value::Null => true,
        kind => match value {
            Value::Null => kind == "null",
            Value::Bool(_) => kind == "boolean",
            Value::Number(n) => kind == "number" || (kind == "integer" && !n.is_f64()),
            Value::String(_) => kind == "string",
            Value::Array(_) => kind == "array",
            Value::Object(_) => kind == "object",
        },
    }
}
