//! A name service for tests of the command line: it answers from a small fixed tree and writes down what it was asked.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use byname_api::access::{AccessReply, AccessRequest, AclEntry, Decision, Listed, Rights, Subject};
use byname_api::audit::{AuditReply, AuditRequest, Record, Verification};
use byname_api::caller::{Mechanism, Right};
use byname_api::host::{DrainAct, DrainReply, DrainRequest, HostState, HostedCopy};
use byname_api::identity::*;

use byname_api::object::{
    Choose, Forms, InstanceId, Kind, LastExit, Listening, Lock, Object, ObjectId, ServiceStatus, Spec, Stamp, Version,
};
use byname_api::request::*;
use byname_api::service::{Endpoint, Instance, State};
use byname_api::span::Timestamp;
use byname_api::{Code, Error, NameService, Result, agent};
use byname_identity::password::{LoginState, PasswordServer};
use byname_name::{Name, Pattern};
use clap::FromArgMatches;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;

use crate::cli::{self, Cli, Command};
use crate::commands::Session as Asking;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::screen::{Format, Screen};

/// The time of everything in the tree; commands run 90 seconds later.
const AT: Timestamp = Timestamp(1_700_000_000_000);

/// What a command did.
pub(crate) struct Done {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub talk: String,
    /// The exit status.
    pub status: u8,
    /// What the service was asked.
    pub log: Vec<String>,
}

/// Runs a command line against a fake service.
pub(crate) async fn run(line: &str) -> Done {
    run_in(line, &Environment::default()).await
}

/// The same in this environment.
pub(crate) async fn run_in(line: &str, env: &Environment) -> Done {
    let words = std::iter::once("byname").chain(line.split_whitespace());
    let cli = Cli::from_arg_matches(&cli::command().get_matches_from(words)).unwrap();
    let fake = Fake::default();
    let log = fake.log.clone();
    let (screen, out, talk) = Screen::captured(cli.global.output.unwrap_or(Format::Table), false);
    let context = cli.global.root.as_deref().map_or(Name::root(), |r| r.parse().unwrap());
    let mut session = Asking::new(Arc::new(fake), context, screen);
    session.target.servers = "https://names.example:7600".into();
    session.now = Timestamp(AT.0 + 90_000);
    session.clock = || Timestamp(AT.0 + 90_000);
    let outcome = crate::ask(&mut session, cli.command.unwrap_or(Command::Version), env).await;
    let status = match outcome {
        Ok(()) | Err(Failure::Pipe) => 0,
        Err(failure) => session.screen.tell(&failure),
    };
    let log = std::mem::take(&mut *log.lock().unwrap());
    Done { out: out.take(), talk: talk.take(), status, log }
}

/// The service.
#[derive(Default)]
pub(crate) struct Fake {
    log: Arc<Mutex<Vec<String>>>,
    /// How often `/groups/busy` was to be changed.
    busy: AtomicU32,
    /// How often somebody asked whether a page was used.
    polls: AtomicU32,
    /// What it knows of the one password that there is.
    password: Mutex<Password>,
    watch: Option<mpsc::UnboundedSender<String>>,
}

/// The server's side of a password, between its messages.
#[derive(Default)]
struct Password {
    setup: Option<Vec<u8>>,
    record: Option<Vec<u8>>,
    login: Option<LoginState>,
}

impl Password {
    fn server(&mut self) -> PasswordServer {
        PasswordServer::from_setup(self.setup.get_or_insert_with(PasswordServer::new_setup)).unwrap()
    }
}

impl Fake {
    /// A service whose calls can be waited for.
    pub(crate) fn watched() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (watch, calls) = mpsc::unbounded_channel();
        (Fake { watch: Some(watch), ..Fake::default() }, calls)
    }

    fn note(&self, call: String) {
        if let Some(watch) = &self.watch {
            let _ = watch.send(call.clone());
        }
        self.log.lock().unwrap().push(call);
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn stamp() -> Stamp {
    Stamp { at: AT, by: "uid:0".into() }
}

/// The service of the tree has a lock; services have a state.
fn object(name: Name, spec: &str) -> Object {
    let spec: Spec = toml::from_str(spec).unwrap();
    let service = spec.kind() == Kind::Service;
    Object {
        id: ObjectId(5),
        version: Version(2),
        spec,
        host: None,
        created: stamp(),
        modified: stamp(),
        status: service.then(|| status(name.as_str())),
        lock: (name.as_str() == "/BVODS/QS").then(lock),
        forms: None,
        name,
    }
}

fn lock() -> Lock {
    Lock { fence: 42, by: "uid:7".into(), since: AT, ttl_ms: 30_000 }
}

/// An object with a list of its own; one entry is about an earlier bearer of a name.
const LISTED: &str = "kind = 'directory'\nacl = [{ who = '/people/liu', id = 'o5', rights = ['read', 'find'] }, \
    { who = '/people/ann', id = 'o1', rights = ['all'] }, { who = 'anyone', rights = ['find'], allow = false }]";

fn missing(name: &Name) -> Error {
    Error::new(Code::NotFound, format!("there is no `{name}`"))
}

fn session() -> Session {
    let token = Secret("bn1.token".into());
    Session { token, principal: name("/people/liu"), expires: Timestamp(AT.0 + 3_600_000) }
}

fn instance() -> Instance {
    let endpoint =
        |protocol: &str, address: &str, port| Endpoint { protocol: protocol.into(), address: address.into(), port };
    Instance {
        id: InstanceId(7),
        computer: Some(name("/computers/h")),
        endpoints: vec![endpoint("tcp", "127.0.0.1", 41234), endpoint("http", "::1", 80)],
        state: State::Running,
        pid: Some(4242),
        started: Some(AT),
        last_seen: None,
        load: None,
        weight: None,
        health: None,
        note: None,
        connections: None,
    }
}

fn status(of: &str) -> ServiceStatus {
    let mut status = ServiceStatus {
        name: name(of),
        state: State::Stopped,
        instances: Vec::new(),
        unregistered: false,
        held: None,
        starts: 0,
        failures: 0,
        last_exit: None,
        listening: Vec::new(),
    };
    match of {
        "/BVODS/QS" => {
            status = ServiceStatus { state: State::Running, instances: vec![instance()], starts: 3, ..status };
        }
        "/busy" => {
            let endpoints = vec![Endpoint { protocol: "tcp".into(), address: "127.0.0.1".into(), port: 80 }];
            let busy = Instance { id: InstanceId(8), endpoints, load: Some(0.5), connections: Some(12), ..instance() };
            let socket = |computer: &str, socket: &str, error: Option<&str>| Listening {
                computer: name(computer),
                socket: socket.into(),
                error: error.map(Into::into),
            };
            let listening = vec![
                socket("/computers/h", "127.0.0.1:5432", None),
                socket("/computers/i", "unix:/run/x", Some("permission denied")),
            ];
            status = ServiceStatus { state: State::Running, instances: vec![busy], starts: 1, listening, ..status };
        }
        "/listens" => {
            let socket =
                |computer: &str| Listening { computer: name(computer), socket: "127.0.0.1:8080".into(), error: None };
            status.listening = vec![socket("/computers/h"), socket("/computers/i")];
        }
        "/failed" => {
            let last_lines = "no such file\nbye\u{1b}[2J".into();
            let exit = LastExit { instance: InstanceId(9), at: AT, how: "exited with status 1".into(), last_lines };
            status = ServiceStatus { state: State::Failed, starts: 6, failures: 5, last_exit: Some(exit), ..status };
        }
        _ => status.held = Some(stamp()),
    }
    status
}

/// Names, kinds and apply sets of the tree.
fn tree() -> Vec<(Name, Kind, &'static str)> {
    use Kind::*;
    let fixed = [
        ("/BVODS", Directory, ""),
        ("/BVODS/CMS", Alias, ""),
        ("/BVODS/QS", Service, ""),
        ("/failed", Service, ""),
        ("/held", Service, ""),
        ("/old", Directory, "old"),
        ("/old/dir", Directory, "old"),
        ("/old/dir/x", Record, "old"),
        ("/old/kept", Directory, "old"),
        ("/old/kept/other", Record, ""),
    ];
    let many = (0..2_500).map(|n| (name(&format!("/many/{n:04}")), Record, ""));
    fixed.into_iter().map(|(n, k, s)| (name(n), k, s)).chain(many).collect()
}

#[async_trait::async_trait]
impl NameService for Fake {
    async fn find(&self, _cx: &Context, r: FindRequest) -> Result<FindReply> {
        self.note(format!(
            "find {} start={} all={} timeout={:?} consistent={} failed={:?}",
            r.name, r.start, r.all, r.timeout, r.consistent, r.failed
        ));
        let mut reply = FindReply {
            name: r.name.clone(),
            canonical: None,
            kind: Kind::Service,
            instances: Vec::new(),
            members: None,
            addresses: None,
            value: None,
            junction: None,
            version: Version(2),
            ttl_ms: None,
            started: false,
            fresh: Fresh::default(),
        };
        match r.name.as_str() {
            "/BVODS/QS" => reply.instances = vec![instance()],
            "/conf/motd" => reply.value = Some("Hello\nworld".into()),
            "/busy" => reply.instances = status("/busy").instances,
            "/dns" => {
                reply.kind = Kind::Junction;
                reply.junction = Some(Junction {
                    servers: vec!["/dns1".into(), "/dns2".into()],
                    choose: Choose::Random,
                    interface: "dns".into(),
                    parameter: Some("corp.example".into()),
                });
            }
            "/team" => reply.members = Some(vec!["/people/a".into(), "/people/b".into()]),
            "/computers/h" => reply.addresses = Some(vec!["192.0.2.1".into()]),
            "/failed" => return Err(Error::new(Code::CrashLooping, "it keeps failing")),
            _ => return Err(missing(&r.name)),
        }
        Ok(reply)
    }

    async fn read(&self, _cx: &Context, r: ReadRequest) -> Result<ReadReply> {
        let known = match r.name.as_str() {
            "/people/liu" => "kind = 'principal'\nowner = 'uid:0'\nattributes = { mail = 'liu@corp.example' }",
            "/people/ann" | "/people/bob" => "kind = 'principal'\nowner = 'uid:0'",
            "/groups/media" => "kind = 'group'\nmembers = ['/people/liu', '/groups/inner', '/people/gone']",
            "/groups/inner" => "kind = 'group'\nmembers = ['/people/ann', '/groups/media', '/people/liu']",
            "/groups/busy" => "kind = 'group'\nmembers = ['/people/ann']",
            "/listed" => LISTED,
            "/sealed" => "kind = 'secret'\nfingerprint = '5f3a00112233'\ncertified = 'x'",
            "/people/gone" | "/groups/new" => return Err(missing(&r.name)),
            _ => "",
        };
        if !known.is_empty() {
            return Ok(ReadReply { object: object(r.name, known), fresh: Fresh::default() });
        }
        let spec = "kind = 'service'\nowner = 'uid:0'\nattributes = { title = 'Query server' }\n\
                    launch = { program = 'query-server', args = ['--port', '${PORT}'] }";
        let forms = Forms {
            dns: "qs.bvods.byname.internal".into(),
            http: "/v1/names/BVODS/QS".into(),
            ldap: "cn=QS,ou=BVODS,dc=byname,dc=internal".into(),
            spiffe: "spiffe://byname.internal/BVODS/QS".into(),
        };
        let object = object(r.name, spec);
        Ok(ReadReply { object: Object { forms: Some(forms), ..object }, fresh: Fresh::default() })
    }

    async fn list(&self, _cx: &Context, r: ListRequest) -> Result<ListReply> {
        let set = r.set.as_deref().unwrap_or_default();
        let (next, limit) = (r.next.clone().unwrap_or_default(), r.limit.unwrap_or(1_000) as usize);
        self.note(format!("list {} limit={limit} next={next} set={set}", r.pattern));
        let pattern: Pattern = r.pattern.parse().unwrap();
        let from: usize = next.parse().unwrap_or(0);
        let entry = |(name, kind, _): (Name, Kind, &str)| Entry {
            state: (kind == Kind::Service).then_some(State::Running),
            host: None,
            target: (kind == Kind::Alias).then(|| self::name("/CMS/1")),
            version: Version(match name.as_str() {
                "/BVODS" => 1,
                "/BVODS/QS" => 2,
                _ => 3,
            }),
            name,
            kind,
        };
        let matching = tree().into_iter().filter(|(n, _, s)| pattern.matches(n) && (set.is_empty() || *s == set));
        let mut rest: Vec<Entry> = matching.skip(from).map(entry).collect();
        let next = (rest.len() > limit).then(|| (from + limit).to_string());
        rest.truncate(limit);
        Ok(ListReply { entries: rest, next, fresh: Fresh::default() })
    }

    async fn status(&self, _cx: &Context, r: ListRequest) -> Result<StatusReply> {
        let pattern: Pattern = r.pattern.parse().unwrap();
        let services = tree().into_iter().filter(|(n, k, _)| *k == Kind::Service && pattern.matches(n));
        let mut services: Vec<ServiceStatus> = services.map(|(n, ..)| status(n.as_str())).collect();
        if let "/busy" | "/listens" = r.pattern.as_str() {
            services.push(status(&r.pattern));
        }
        Ok(StatusReply { services, next: None, fresh: Fresh::default() })
    }

    async fn act(&self, _cx: &Context, r: ActRequest) -> Result<ActReply> {
        let patterns = r.patterns.join(" ");
        self.note(format!("{} {patterns} hold={} now={} timeout={:?}", r.verb.as_str(), r.hold, r.now, r.timeout));
        let patterns: Vec<Pattern> = r.patterns.iter().map(|p| p.parse().unwrap()).collect();
        let services =
            tree().into_iter().filter(|(n, k, _)| *k == Kind::Service && patterns.iter().any(|p| p.matches(n)));
        let acted = |(n, ..): (Name, Kind, &str)| {
            let ServiceStatus { name, state, instances, .. } = status(n.as_str());
            let late = Error::new(Code::StartTimeout, "it took too long");
            let error = (state == State::Failed).then(|| Problem::from(&late));
            Acted { name, state, instances, error }
        };
        Ok(ActReply { services: services.map(acted).collect() })
    }

    async fn why(&self, _cx: &Context, name: Name) -> Result<WhyReply> {
        let happening = |at: u64, instance: Option<u64>, what: &str| Happening {
            at: Timestamp(AT.0 + at),
            instance: instance.map(InstanceId),
            what: what.into(),
        };
        let story = vec![happening(0, Some(9), "started on h"), happening(1_000, None, "gave up")];
        Ok(WhyReply { status: status(name.as_str()), story, fresh: Fresh::default() })
    }

    async fn batch(&self, _cx: &Context, r: BatchRequest) -> Result<BatchReply> {
        let ops: Vec<String> = r.ops.iter().map(|op| serde_json::to_string(op).unwrap()).collect();
        let set = r.set.map_or_else(String::new, |s| format!("set={s} "));
        let dry = if r.dry_run { "dry " } else { "" };
        self.note(format!("batch {set}{dry}{}", ops.join(" ")));
        if r.ops.iter().any(|op| op.name().as_str() == "/groups/busy") && self.busy.fetch_add(1, Ordering::Relaxed) < 2
        {
            return Err(Error::new(Code::Conflict, "its version is another by now").field("ops[0].if_version"));
        }
        let taken = |op: &Op| op.name().is_under(&name("/refused"));
        if let Some(index) = r.ops.iter().position(taken) {
            let error = Error::new(Code::AlreadyExists, "the name is taken");
            return Err(if r.ops.len() > 1 { error.field(format!("ops[{index}]")) } else { error });
        }
        let result = |op: Op| {
            let outcome = match &op {
                Op::Add { .. } | Op::Put { .. } | Op::Declare { .. } => Outcome::Created,
                Op::Modify { .. } => Outcome::Changed,
                Op::Delete { .. } => Outcome::Deleted,
                Op::Check { .. } => Outcome::Checked,
            };
            let name = op.name().clone();
            let after: Option<Spec> = match op {
                Op::Add { spec, .. } | Op::Put { spec, .. } | Op::Declare { spec, .. } if r.dry_run => Some(spec),
                _ => None,
            };
            OpResult { name, outcome, version: Version(9), before: None, after }
        };
        Ok(BatchReply { results: r.ops.into_iter().map(result).collect(), revision: 10 })
    }

    async fn advertise(&self, _cx: &Context, r: AdvertiseRequest) -> Result<AdvertiseReply> {
        let endpoints: Vec<String> = r.endpoints.iter().map(ToString::to_string).collect();
        self.note(format!(
            "advertise {} [{}] ttl={:?} instance={:?} credential={:?}",
            r.name.unwrap(),
            endpoints.join(" "),
            r.ttl,
            r.instance,
            r.credential
        ));
        // SHA-256 of the bytes 00 ff.
        let proof = "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312eb86dc7169389b8".into();
        Ok(AdvertiseReply {
            instance: InstanceId(20),
            credential: r.credential.is_none().then(|| "c0ffee".into()),
            proof: r.ticket.is_some().then_some(proof),
            ttl_ms: Some(30),
        })
    }

    async fn withdraw(&self, _cx: &Context, r: WithdrawRequest) -> Result<WithdrawReply> {
        self.note(format!("withdraw {} instance={:?} credential={:?}", r.name, r.instance, r.credential));
        Ok(WithdrawReply { withdrawn: vec![r.instance.unwrap_or(InstanceId(20))] })
    }

    async fn logs(&self, _cx: &Context, r: LogsRequest) -> Result<BoxStream<'static, Result<bytes::Bytes>>> {
        self.note(format!("logs {} tail={:?} follow={}", r.name, r.tail, r.follow));
        let pieces: Vec<Result<bytes::Bytes>> = match r.name.as_str() {
            "/broken" => vec![Ok("begin\n".into()), Err(Error::new(Code::Unavailable, "the agent has gone"))],
            _ => vec![Ok("one\ntw".into()), Ok("o\u{1b}[0m".into())],
        };
        Ok(stream::iter(pieces).boxed())
    }

    async fn search(&self, _cx: &Context, r: SearchRequest) -> Result<SearchReply> {
        let (next, limit) = (r.next.clone().unwrap_or_default(), r.limit.unwrap_or(1_000));
        self.note(format!("search {} under={} limit={limit} next={next}", r.filter, r.under));
        let found = |name: &str, spec: &str| object(self::name(name), spec);
        let kind = r.filter.strip_prefix("(kind=").and_then(|rest| rest.strip_suffix(')'));
        if let (Some(kind @ ("principal" | "group")), "") = (kind, next.as_str()) {
            let objects = match kind {
                "principal" => vec![
                    found("/people/liu", "kind = 'principal'"),
                    found("/people/off", "kind = 'principal'\ndisabled = true"),
                    found("/machines/m", "kind = 'principal'"),
                ],
                _ => vec![found("/groups/media", "kind = 'group'\nowner = 'uid:0'\nmembers = ['/people/liu']")],
            };
            return Ok(SearchReply { objects, next: None, fresh: Fresh::default() });
        }
        let objects = match next.as_str() {
            "" => vec![found("/BVODS/QS", "kind = 'service'\nattributes = { team = 'media', Tier = [1, 2] }")],
            // A page may be empty and not the last.
            "1" => Vec::new(),
            _ => vec![found("/conf/motd", "kind = 'record'\nvalue = 'Hello'\nattributes = { team = 'media' }")],
        };
        let next = match next.as_str() {
            "" => Some("1".into()),
            "1" => Some("2".into()),
            _ => None,
        };
        Ok(SearchReply { objects, next, fresh: Fresh::default() })
    }

    async fn watch(&self, _cx: &Context, r: WatchRequest) -> Result<BoxStream<'static, Result<WatchReply>>> {
        self.note(format!("watch {} from={:?} initial={}", r.pattern, r.from, r.initial));
        let event = |change: Change, name: &str, spec: &str| {
            let object = object(self::name(name), spec);
            WatchEvent { change, name: object.name.clone(), object }
        };
        let message = |at: &str, events: Vec<WatchEvent>| Ok(WatchReply { at: at.into(), events });
        let motd = |value: &str| event(Change::Changed, "/conf/motd", &format!("kind = 'record'\nvalue = '{value}'"));
        let broken = || Err(Error::new(Code::Unavailable, "the server has gone"));
        let messages = match r.from.as_deref() {
            Some("w0") => return Err(Error::new(Code::Conflict, "that is too long ago: list anew")),
            // Within a revision the place does not move: what was seen of it comes again.
            Some("w2") => vec![
                message("w2", Vec::new()),
                message("w2", vec![motd("3")]),
                message("w3", vec![event(Change::Deleted, "/conf/motd", "kind = 'record'\nvalue = '3'")]),
                message("w4", vec![event(Change::State, "/BVODS/QS", "kind = 'service'")]),
            ],
            _ => vec![
                message(
                    "w1",
                    if r.initial { vec![event(Change::Present, "/a", "kind = 'directory'")] } else { vec![] },
                ),
                message("w1", vec![event(Change::Created, "/conf/motd", "kind = 'record'\nvalue = '1'")]),
                message("w2", vec![motd("2")]),
                message("w2", vec![motd("3")]),
                broken(),
            ],
        };
        Ok(stream::iter(messages).chain(stream::pending()).boxed())
    }

    async fn report(&self, _cx: &Context, r: ReportRequest) -> Result<ReportReply> {
        let health = r.health.map(|health| format!(" health={health} note={:?}", r.note)).unwrap_or_default();
        let (name, instance, load, uses) = (r.name.unwrap(), r.instance, r.load, r.uses);
        self.note(format!("report {name} instance={instance:?} load={load:?} uses={uses:?}{health}"));
        Ok(ReportReply { instance: r.instance.unwrap_or(InstanceId(7)) })
    }

    async fn drain_host(&self, _cx: &Context, r: DrainRequest) -> Result<DrainReply> {
        let timeout = r.timeout.map(|t| t.to_string());
        self.note(format!(
            "drain {} {} timeout={}",
            r.name,
            r.act.as_str(),
            match timeout {
                Some(timeout) => format!("Some({timeout})"),
                None => "None".into(),
            }
        ));
        let left = 3 - self.log.lock().unwrap().iter().filter(|line| line.starts_with("drain ")).count().min(3);
        let copy =
            |name: &str| HostedCopy { service: name.parse().unwrap(), instance: InstanceId(7), state: State::Running };
        let copies = ["/a", "/b"].into_iter().take(left).map(copy).collect();
        let state = if r.act == DrainAct::Undrain { HostState::Up } else { HostState::Draining };
        Ok(DrainReply { computer: r.name, state, copies })
    }

    async fn lock(&self, _cx: &Context, r: LockRequest) -> Result<LockReply> {
        self.note(format!("lock {} ttl={:?} wait={:?} key={:?}", r.name, r.ttl, r.wait, r.key));
        match (r.name.as_str(), &r.key) {
            ("/slow", _) => std::future::pending().await,
            ("/taken", _) => Err(Error::new(Code::Conflict, "uid:7 holds it")),
            ("/lost", Some(_)) => Err(Error::new(Code::Conflict, "the lock is not held any more")),
            _ => {
                let ttl_ms = r.ttl.map_or(30, byname_api::span::Span::as_millis);
                Ok(LockReply { name: r.name, fence: 42, key: r.key.is_none().then(|| "c0ffee".into()), ttl_ms })
            }
        }
    }

    async fn unlock(&self, _cx: &Context, r: UnlockRequest) -> Result<UnlockReply> {
        self.note(format!("unlock {} key={:?}", r.name, r.key));
        Ok(UnlockReply { released: r.name.as_str() != "/free" })
    }

    async fn login(&self, _cx: &Context, r: LoginRequest) -> Result<LoginReply> {
        self.note(match &r {
            LoginRequest::PasswordStart { principal, .. } => format!("login start {principal}"),
            LoginRequest::PasswordFinish { .. } => "login finish".into(),
            other => format!("login {}", serde_json::to_string(other).unwrap()),
        });
        match r {
            LoginRequest::PageStart { principal } => Ok(LoginReply::Page {
                attempt: Secret(principal.map_or("attempt", |_| "of-liu").into()),
                path: "/login?code=XK-42".into(),
                code: "XK-42".into(),
                every_ms: 1,
            }),
            LoginRequest::PagePoll { .. } if self.polls.fetch_add(1, Ordering::Relaxed) < 2 => Ok(LoginReply::Pending),
            LoginRequest::PasswordStart { principal, message } => {
                let mut password = self.password.lock().unwrap();
                let record = password.record.clone();
                let id = principal.as_str().as_bytes();
                let (state, answer) = password.server().login_start(record.as_deref(), id, &message.0)?;
                password.login = Some(state);
                Ok(LoginReply::Challenge { attempt: Secret("attempt".into()), message: Blob(answer) })
            }
            LoginRequest::PasswordFinish { message, .. } => {
                let state = self.password.lock().unwrap().login.take().unwrap();
                PasswordServer::login_finish(state, &message.0)?;
                Ok(LoginReply::Session(session()))
            }
            LoginRequest::PagePoll { attempt } if attempt.0 == "of-liu" => Ok(LoginReply::Session(session())),
            LoginRequest::PagePoll { .. } => Err(Error::new(Code::Unauthenticated, "nobody signed in there in time")),
            _ => Err(Error::new(Code::Unsupported, "not here")),
        }
    }

    async fn logout(&self, _cx: &Context, r: LogoutRequest) -> Result<()> {
        self.note(format!("logout {}", serde_json::to_string(&r).unwrap()));
        Ok(())
    }

    async fn whoami(&self, _cx: &Context) -> Result<WhoamiReply> {
        Ok(WhoamiReply {
            principal: "/people/liu".into(),
            id: Some(ObjectId(5)),
            instance: None,
            mechanism: Mechanism::Password,
            expires: Some(AT),
            groups: vec![name("/groups/media"), name("/byname/admins")],
            admin: true,
        })
    }

    async fn enrol(&self, _cx: &Context, r: EnrolRequest) -> Result<EnrolReply> {
        self.note(match &r {
            EnrolRequest::PasswordStart { principal, .. } => format!("enrol start {principal}"),
            EnrolRequest::PasswordFinish { principal, .. } => format!("enrol finish {principal}"),
            other => format!("enrol {}", serde_json::to_string(other).unwrap()),
        });
        match r {
            EnrolRequest::PasswordStart { principal, message } => {
                let id = principal.as_str().as_bytes();
                let answer = self.password.lock().unwrap().server().register_start(id, &message.0)?;
                Ok(EnrolReply::Challenge { attempt: None, message: Blob(answer) })
            }
            EnrolRequest::PasswordFinish { message, .. } => {
                self.password.lock().unwrap().record = Some(PasswordServer::register_finish(&message.0)?);
                Ok(EnrolReply::Done)
            }
            EnrolRequest::List { principal } if principal.as_str() == "/people/ann" => {
                Err(Error::new(Code::Denied, "not yours"))
            }
            EnrolRequest::List { .. } => {
                Ok(EnrolReply::Credentials { password: true, passkeys: vec!["blue".into(), "red\u{1b}".into()] })
            }
            EnrolRequest::PasskeyPage { .. } => Ok(EnrolReply::Page { path: "/passkey#secret".into(), expires: AT }),
            _ => Ok(EnrolReply::Done),
        }
    }

    async fn certify(&self, _cx: &Context, r: CertifyRequest) -> Result<CertifyReply> {
        assert!(r.request.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{}", r.request);
        self.note(format!("certify principal={:?} validity={:?}", r.principal.map(|p| p.to_string()), r.validity));
        Ok(CertifyReply {
            chain: "the chain\n".into(),
            bundle: "the roots\n".into(),
            spiffe: "spiffe://byname.internal/people/liu".into(),
            expires: AT,
            token: None,
        })
    }

    async fn introduce(&self, _cx: &Context, r: IntroduceRequest) -> Result<IntroduceReply> {
        self.note(format!("introduce {} instance={:?}", r.name, r.instance));
        Ok(IntroduceReply {
            name: r.name,
            instance: InstanceId(7),
            endpoints: instance().endpoints,
            ticket: Secret("t1".into()),
            proof: Secret("t2".into()),
            expires: AT,
        })
    }

    async fn verify(&self, _cx: &Context, r: VerifyRequest) -> Result<VerifyReply> {
        self.note(format!("verify {}", serde_json::to_string(&r).unwrap()));
        Ok(VerifyReply { client: "/people/liu".into(), client_id: Some(ObjectId(5)), proof: Secret("t2".into()) })
    }

    async fn invite(&self, _cx: &Context, r: InviteRequest) -> Result<InviteReply> {
        self.note(format!("invite {}", serde_json::to_string(&r).unwrap()));
        Ok(InviteReply {
            secret: Secret("ab".repeat(32)),
            root: "cd".repeat(32),
            servers: vec!["https://192.0.2.1:7600".into()],
            expires: AT,
        })
    }

    async fn revoke(&self, _cx: &Context, r: RevokeRequest) -> Result<()> {
        self.note(format!("revoke {}", serde_json::to_string(&r).unwrap()));
        Ok(())
    }

    async fn access(&self, _cx: &Context, r: AccessRequest) -> Result<AccessReply> {
        self.note(format!("access {}", serde_json::to_string(&r).unwrap()));
        let grant =
            |who: &str, rights: &str| AclEntry::allow(who.parse().unwrap(), Rights::parse(rights.split(',')).unwrap());
        let decision = |right: Right| Decision {
            right,
            allowed: matches!(right, Right::Read | Right::Find),
            at: Some(name("/listed")),
            entry: Some(grant("/groups/media", "find,read")),
            through: vec![name("/groups/media"), name("/groups/inner")],
            because: format!("a list decides about {right}"),
        };
        let rights = r.right.map_or(Right::ALL.to_vec(), |right| vec![right]);
        let refusal = AclEntry { allow: false, certified: true, ..grant("anyone", "all") };
        let listed = |of: &str, acl: Vec<AclEntry>| Listed { name: name(of), owner: "uid:0".into(), acl };
        Ok(AccessReply {
            name: r.name,
            who: r.who.unwrap_or(Subject::Named(name("/people/liu"))),
            decisions: rights.into_iter().map(decision).collect(),
            lists: vec![listed("/listed", vec![grant("/groups/media", "find,read"), refusal]), listed("/", vec![])],
        })
    }

    async fn audit(&self, _cx: &Context, r: AuditRequest) -> Result<AuditReply> {
        self.note(format!("audit {}", serde_json::to_string(&r).unwrap()));
        let first = r.next.is_none();
        let record = |sequence: u64, outcome: byname_api::audit::Outcome, code: Option<&str>| Record {
            server: 1,
            sequence,
            at: AT,
            by: "/people/liu".into(),
            how: "password session 8c".into(),
            from: first.then(|| "192.0.2.9".into()),
            operation: "add".into(),
            name: Some("/a".into()),
            outcome,
            code: code.map(Into::into),
            detail: (!first).then(|| "bad\u{1b}".into()),
            count: if first { 1 } else { 12 },
            previous: String::new(),
            hash: String::new(),
        };
        use byname_api::audit::Outcome::{Denied, Failed, Ok as Well};
        let mut records = match first {
            true => vec![record(9, Well, None), record(8, Denied, Some("denied"))],
            false => vec![record(7, Failed, Some("conflict"))],
        };
        records.truncate(r.limit as usize);
        let verified = r.verify.then(|| Verification {
            server: 1,
            records: 9,
            first: 1,
            last: 9,
            head: "abcdef0123456789".into(),
            anchors: 3,
            intact: r.by.is_none(),
            trouble: r.by.is_some().then(|| "audit/1.log:3: the hash differs".into()),
        });
        Ok(AuditReply { records, next: first.then(|| "7".into()), verified })
    }

    async fn info(&self, _cx: &Context) -> Result<ServerInfo> {
        Ok(ServerInfo {
            version: "9.9.9".into(),
            server: 1,
            term: 1,
            primary: true,
            revision: 34,
            objects: 12,
            servers: vec![1],
            members: Vec::new(),
            agents: Vec::new(),
            log_bytes: 0,
            snapshot_index: 0,
            stalled: None,
            started: stamp(),
        })
    }

    async fn attach_agent(
        &self,
        _cx: &Context,
        _reports: BoxStream<'static, agent::Report>,
    ) -> Result<BoxStream<'static, agent::Order>> {
        Err(Error::new(Code::Unsupported, "no agents here"))
    }
}
