//! Who may do what: every operation, asked by everybody of every kind of object, held against a table that is written
//! down here and not computed by the rules themselves.
//!
//! What is refused must be in the audit log, and what is hidden must be answered as what is not there.

mod established;

use std::collections::HashMap;
use std::net::IpAddr;

use byname_api::NameService;
use byname_api::access::{AccessRequest, Rights};
use byname_api::audit::{AuditRequest, Outcome as Ended, Record};
use byname_api::caller::{Caller, Connection, Peer, Right};
use byname_api::error::{Code, Error, Result};
use byname_api::host::{DrainAct, DrainRequest};
use byname_api::identity::*;
use byname_api::object::{InstanceId, Kind, Spec};
use byname_api::proto::Method;
use byname_api::request::*;
use byname_api::span::Timestamp;
use byname_identity::session::{Claims, new_id};
use established::{Established, endpoint, entry, name, now};
use futures_util::StreamExt;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    Server,
    LocalUser,
    Admin,
    Owner,
    /// Was granted exactly the right that the operation needs.
    Exactly,
    /// Was granted every right but that one.
    AllBut,
    Plain,
    /// Member of a group that is refused everything.
    Refused,
    /// Of a principal that was deleted and whose name was made anew.
    Deleted,
    Disabled,
    /// A running copy of the service `/open/self`.
    Instance,
    Computer,
    Anonymous,
}

impl Who {
    const ALL: [Who; 13] = [
        Who::Server,
        Who::LocalUser,
        Who::Admin,
        Who::Owner,
        Who::Exactly,
        Who::AllBut,
        Who::Plain,
        Who::Refused,
        Who::Deleted,
        Who::Disabled,
        Who::Instance,
        Who::Computer,
        Who::Anonymous,
    ];
}

/// What is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Object {
    /// Anybody who is somebody may look; it has an owner and a list.
    Open,
    /// Closed by its own list.
    Hidden,
    /// Beneath it, without a list of its own.
    Deep,
    /// Leads to what is hidden.
    Alias,
    Admins,
    Secret,
    Root,
    /// The service that [`Who::Instance`] is a copy of, closed to everybody by its list.
    Itself,
}

impl Object {
    const ALL: [Object; 8] = [
        Object::Open,
        Object::Hidden,
        Object::Deep,
        Object::Alias,
        Object::Admins,
        Object::Secret,
        Object::Root,
        Object::Itself,
    ];

    fn name(self) -> &'static str {
        match self {
            Object::Open => "/open/box",
            Object::Hidden => "/open/hidden",
            Object::Deep => "/open/hidden/deep",
            Object::Alias => "/open/alias",
            Object::Admins => "/byname/admins",
            Object::Secret => "/open/secret",
            Object::Root => "/",
            Object::Itself => "/open/self",
        }
    }

    /// The same where nothing is.
    fn absent(self) -> &'static str {
        match self {
            Object::Alias => "/open/astray",
            Object::Deep => "/open/absent/deep",
            _ => "/open/absent",
        }
    }
}

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// This right to the object.
    On(Right),
    /// The same, and to be somebody.
    Known(Right),
    /// This right to the root.
    Root(Right),
    /// Nothing.
    Free,
    /// A secret that nobody here has.
    Proof,
}

/// Written down for each method; a method without a row does not compile.
fn need(method: Method) -> Need {
    use Need::*;
    use Right::*;
    match method {
        Method::NamesFind => On(Find),
        Method::NamesRead => On(Read),
        Method::NamesList => On(List),
        Method::NamesAdd => On(Add),
        Method::NamesModify => On(Modify),
        Method::NamesDelete => On(Delete),
        // Asked with a precondition, which is a read.
        Method::NamesBatch => On(Read),
        Method::NamesSearch => On(Read),
        Method::NamesWatch => On(Read),
        Method::NamesLock => On(Modify),
        Method::NamesUnlock => On(Modify),
        Method::ServicesStatus => On(Read),
        Method::ServicesLaunch => On(Launch),
        Method::ServicesStop => On(Launch),
        Method::ServicesRestart => On(Launch),
        Method::ServicesReset => On(Launch),
        Method::ServicesWhy => On(Read),
        Method::ServicesAdvertise => On(Advertise),
        Method::ServicesWithdraw => On(Advertise),
        Method::ServicesReportFailure => On(Find),
        Method::ServicesReport => On(Advertise),
        Method::ServicesDrain => On(Modify),
        Method::ServicesLogs => On(Launch),
        Method::ClusterInfo => Root(Find),
        Method::ClusterChangeServers | Method::ClusterBackup => Root(Admin),
        Method::AgentsConnect => Root(Admin),
        Method::IdentityLogin => Free,
        Method::IdentityLogout => On(Admin),
        Method::IdentityWhoami => Free,
        Method::IdentityEnrol => On(Admin),
        Method::IdentityCertify => On(Admin),
        Method::IdentityTrust => Free,
        Method::IdentityIntroduce => Known(Find),
        Method::IdentityVerify => Proof,
        Method::IdentityInvite => Root(Admin),
        Method::IdentityJoin => Proof,
        Method::IdentityRevoke => On(Admin),
        Method::IdentityAccess => On(Read),
        Method::AuditSearch => Root(Admin),
    }
}

/// How a cell must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Not refused; what else is wrong with the request is said.
    Allowed,
    Denied,
    /// As if there were no such name.
    Absent,
    Unauthenticated,
}

const fn looking(right: Right) -> bool {
    matches!(right, Right::Find | Right::List | Right::Read)
}

/// What gives a list, from which is left out what the caller may not see.
const fn listing(method: Method) -> bool {
    matches!(method, Method::NamesList | Method::NamesSearch | Method::NamesWatch | Method::ServicesStatus)
}

/// The table.
fn expected(who: Who, method: Method, object: Object, anyone_looks: bool) -> Expected {
    use Expected::*;
    if matches!(who, Who::Deleted | Who::Disabled) {
        return Unauthenticated;
    }
    let anonymous = who == Who::Anonymous;
    let right = match need(method) {
        Need::Free => return Allowed,
        Need::Proof if method == Method::IdentityVerify && who != Who::Instance => return Unauthenticated,
        Need::Proof => return Denied,
        Need::Known(_) if anonymous => return Unauthenticated,
        // A computer speaks for itself.
        Need::Root(Right::Admin) if who == Who::Computer && method == Method::AgentsConnect => return Allowed,
        Need::Root(right) => return if root(who, right, anyone_looks) { Allowed } else { Denied },
        Need::On(right) | Need::Known(right) => right,
    };
    let everybody_looks = looking(right) && (!anonymous || anyone_looks);
    let itself = matches!(method, Method::NamesRead | Method::NamesBatch | Method::NamesList | Method::NamesWatch);
    let holds = match (object, who) {
        (_, Who::Server | Who::LocalUser | Who::Admin) => true,
        (Object::Root | Object::Admins, _) => everybody_looks,
        // What is closed to everybody is in no list, also in its own program's.
        (Object::Itself, _) if listing(method) => false,
        (Object::Itself, _) => {
            let own = matches!(method, Method::IdentityLogout | Method::IdentityEnrol | Method::IdentityCertify);
            // Its program has advertised it by its ticket, and by that alone.
            let advertises = right == Right::Advertise && method != Method::ServicesAdvertise;
            looking(right) || advertises || own
        }
        (_, Who::Owner | Who::Exactly) => true,
        (_, Who::AllBut | Who::Refused) => false,
        // A list shows the alias, and not where it leads.
        (Object::Alias, _) if itself => everybody_looks,
        (Object::Hidden | Object::Deep | Object::Alias, _) => false,
        (Object::Open | Object::Secret, _) => everybody_looks,
    };
    if holds {
        return Allowed;
    }
    let sees = match (object, who) {
        (_, Who::Refused) => false,
        (Object::Itself, _) => !listing(method),
        // It is refused at the alias already, which is no secret.
        (Object::Alias, _) if !looking(right) => true,
        (Object::Hidden | Object::Deep | Object::Alias, _) => who == Who::AllBut,
        _ => true,
    };
    // Whoever sees nothing at all is told nothing by a refusal; nor is whoever would make something.
    let nothing = anonymous && !anyone_looks;
    let told = matches!(object, Object::Root | Object::Admins);
    if sees || nothing || told || right == Right::Add { Denied } else { Absent }
}

fn root(who: Who, right: Right, anyone_looks: bool) -> bool {
    match who {
        Who::Server | Who::LocalUser | Who::Admin => true,
        Who::Anonymous => looking(right) && anyone_looks,
        _ => looking(right),
    }
}

/// Principals, one for each right: with exactly it, and with all but it.
fn only(right: Right) -> String {
    format!("/people/only-{right}")
}

fn all_but(right: Right) -> String {
    format!("/people/but-{right}")
}

struct World {
    server: Established,
    instance: InstanceId,
    tokens: HashMap<Who, String>,
}

impl World {
    async fn new(anyone_looks: bool) -> World {
        let server = Established::new(anyone_looks).await;
        server.people(["/people/admin", "/people/owner", "/people/plain", "/people/refused"]).await;
        server.people(["/people/deleted", "/people/disabled"]).await;
        server.people(Right::ALL.iter().flat_map(|right| [only(*right), all_but(*right)])).await;
        let group = |member: &str| Spec { members: Some(vec![member.into()]), ..Spec::of(Kind::Group) };
        server.put("/byname/admins", group("/people/admin")).await;
        server.put("/teams/refused", group("/people/refused")).await;
        let grants = Right::ALL.iter().flat_map(|right| {
            // Who has the right `admin` has every right.
            let others = Rights::ALL.without((*right).into()).without(Right::Admin.into());
            [
                entry(&only(*right), *right, true),
                entry(&all_but(*right), others, true),
                entry(&all_but(*right), *right, false),
            ]
        });
        let open: Vec<_> = grants.chain([entry("/teams/refused", Rights::ALL, false)]).collect();
        let closed: Vec<_> = open.iter().cloned().chain([entry("anyone", Rights::ALL, false)]).collect();
        let owned =
            |acl: &[_], kind| Spec { acl: Some(acl.to_vec()), owner: Some("/people/owner".into()), ..Spec::of(kind) };
        server.put("/open", Spec::of(Kind::Directory)).await;
        server.put("/open/box", owned(&open, Kind::Service)).await;
        server.put("/open/hidden", owned(&closed, Kind::Service)).await;
        server.put("/open/hidden/deep", Spec::of(Kind::Service)).await;
        let secret = Spec { value: Some("swordfish".into()), ..owned(&open, Kind::Secret) };
        server.put("/open/secret", secret).await;
        let alias = |target| Spec { target: Some(name(target)), ..owned(&open, Kind::Alias) };
        server.put("/open/alias", alias("/open/hidden")).await;
        server.put("/open/astray", alias("/open/absent")).await;
        let itself = Spec { acl: Some(vec![entry("anyone", Rights::ALL, false)]), ..Spec::default() };
        let (instance, credential) = server.running("/open/self", itself).await;
        let mut tokens = HashMap::new();
        tokens.insert(Who::Deleted, server.token("/people/deleted").await);
        tokens.insert(Who::Disabled, server.token("/people/disabled").await);
        server.delete("/people/deleted").await;
        server.people(["/people/deleted"]).await;
        server.modify("/people/disabled", Spec { disabled: Some(true), ..Spec::default() }).await;
        server.instance_session(instance, &credential).await.unwrap();
        World { server, instance, tokens }
    }

    /// Through the gate, as everybody comes.
    async fn admit(&self, who: Who, method: Method, from: IpAddr) -> Result<Context> {
        let right = match need(method) {
            Need::On(right) | Need::Known(right) | Need::Root(right) => right,
            Need::Free | Need::Proof => Right::Find,
        };
        let server = &self.server;
        let token = match who {
            Who::Server => return Ok(Established::server()),
            Who::LocalUser => {
                let socket = Connection::from(Peer::Socket { uid: 1000, pid: Some(1) });
                return server.gate.admit(&socket, None, None, None).map(Context::of);
            }
            Who::Anonymous => return server.admit(from, None),
            Who::Deleted | Who::Disabled => self.tokens[&who].clone(),
            Who::Instance => server.token_of(&Claims {
                principal: "/open/self".into(),
                id: Some(server.id("/open/self").await),
                instance: Some(self.instance),
                session: new_id().unwrap(),
                mechanism: "ticket".into(),
                issued: now(),
                expires: Timestamp(now().0 + 3_600_000),
            }),
            Who::Admin => server.token("/people/admin").await,
            Who::Owner => server.token("/people/owner").await,
            Who::Plain => server.token("/people/plain").await,
            Who::Refused => server.token("/people/refused").await,
            Who::Exactly => server.token(&only(right)).await,
            Who::AllBut => server.token(&all_but(right)).await,
            Who::Computer => server.token("/computers/bugs").await,
        };
        server.admit(from, Some(&token))
    }

    /// Does it, in a way that leaves nothing behind.
    async fn ask(&self, cx: &Context, method: Method, at: &str) -> Result<()> {
        let (node, at) = (&self.server.node, name(at));
        let dry = |op: Op| BatchRequest { ops: vec![op], dry_run: true, set: None };
        let act = |verb| ActRequest { verb, patterns: vec![at.to_string()], hold: false, now: false, timeout: None };
        let find = FindRequest { start: false, ..FindRequest::new(at.clone()) };
        match method {
            Method::NamesFind => node.find(cx, find).await.map(drop),
            Method::NamesRead => node.read(cx, ReadRequest { name: at, consistent: false }).await.map(drop),
            Method::NamesList => node.list(cx, ListRequest::new(at.as_str())).await.and_then(|reply| {
                // A pattern that matches nothing is no error.
                if reply.entries.is_empty() { Err(Error::new(Code::NotFound, "an empty list")) } else { Ok(()) }
            }),
            Method::NamesAdd => {
                let beneath = name(&format!("{}/new", at.as_str().trim_end_matches('/')));
                node.batch(cx, dry(Op::Add { name: beneath, spec: Spec::of(Kind::Record) })).await.map(drop)
            }
            Method::NamesModify => {
                let spec = Spec { attributes: Some([("colour".into(), Vec::new())].into()), ..Spec::default() };
                node.batch(cx, dry(Op::Modify { name: at, spec, clear: Vec::new(), if_version: None })).await.map(drop)
            }
            Method::NamesDelete => {
                let delete = Op::Delete { name: at, recursive: false, stop: false, if_version: None };
                node.batch(cx, dry(delete)).await.map(drop)
            }
            Method::NamesBatch => {
                let check = Op::Check { name: at, exists: Some(true), if_version: None, fence: None };
                node.batch(cx, BatchRequest::of(check)).await.map(drop)
            }
            Method::NamesSearch => {
                let search = SearchRequest { under: at, ..SearchRequest::new("(kind=*)") };
                node.search(cx, search).await.and_then(|reply| {
                    if reply.objects.is_empty() { Err(Error::new(Code::NotFound, "nothing found")) } else { Ok(()) }
                })
            }
            Method::NamesWatch => {
                let watch = WatchRequest { pattern: at.to_string(), from: None, initial: true };
                let first = node.watch(cx, watch).await?.next().await.expect("a first message")?;
                // Who may not see something sees nothing.
                if first.events.is_empty() { Err(Error::new(Code::NotFound, "nothing is seen")) } else { Ok(()) }
            }
            Method::NamesLock => {
                let key = Some("5".repeat(64));
                let lock = LockRequest { name: at.clone(), ttl: None, wait: None, key, renew: false };
                node.lock(cx, lock).await?;
                node.unlock(&Established::server(), UnlockRequest { name: at, key: None }).await.map(drop)
            }
            Method::NamesUnlock => node.unlock(cx, UnlockRequest { name: at, key: None }).await.map(drop),
            Method::ServicesStatus => node.status(cx, ListRequest::new(at.as_str())).await.map(drop),
            Method::ServicesLaunch => node.act(cx, act(Verb::Launch)).await.map(drop),
            Method::ServicesStop => node.act(cx, act(Verb::Stop)).await.map(drop),
            Method::ServicesRestart => node.act(cx, act(Verb::Restart)).await.map(drop),
            Method::ServicesReset => node.act(cx, act(Verb::Reset)).await.map(drop),
            Method::ServicesWhy => node.why(cx, at).await.map(drop),
            Method::ServicesAdvertise => {
                let instance = cx.caller.instance;
                let name = Some(at.clone());
                let advertise =
                    AdvertiseRequest { name, endpoints: vec![endpoint()], instance, ..AdvertiseRequest::default() };
                let reply = node.advertise(cx, advertise).await?;
                let withdraw = WithdrawRequest { name: at, instance: Some(reply.instance), credential: None };
                if instance.is_none() {
                    node.withdraw(&Established::server(), withdraw).await?;
                }
                Ok(())
            }
            Method::ServicesWithdraw => {
                let withdraw = WithdrawRequest { name: at, instance: Some(InstanceId(7)), credential: None };
                node.withdraw(cx, withdraw).await.map(drop)
            }
            Method::ServicesReportFailure => {
                node.find(cx, FindRequest { failed: Some(InstanceId(7)), ..find }).await.map(drop)
            }
            Method::ServicesReport => {
                let report = ReportRequest { name: Some(at), uses: Some(1), ..ReportRequest::default() };
                node.report(cx, report).await.map(drop)
            }
            Method::ServicesDrain => {
                node.drain_host(cx, DrainRequest { name: at, act: DrainAct::Undrain, timeout: None }).await.map(drop)
            }
            Method::ServicesLogs => node.logs(cx, LogsRequest { name: at, tail: None, follow: false }).await.map(drop),
            Method::ClusterInfo => node.info(cx).await.map(drop),
            // To whom the lead goes that has it: nothing changes.
            Method::ClusterChangeServers => node.change_servers(cx, ChangeServers::Transfer(1)).await.map(drop),
            Method::ClusterBackup => node.backup(cx).await.map(drop),
            Method::AgentsConnect => node.attach_agent(cx, futures_util::stream::empty().boxed()).await.map(drop),
            Method::IdentityLogin => node.login(cx, LoginRequest::PageStart { principal: None }).await.map(drop),
            Method::IdentityLogout => node.logout(cx, LogoutRequest { everywhere: false, principal: Some(at) }).await,
            Method::IdentityWhoami => node.whoami(cx).await.map(drop),
            Method::IdentityEnrol => node.enrol(cx, EnrolRequest::List { principal: at }).await.map(drop),
            Method::IdentityCertify => {
                let principal = Some(at);
                let request = CertifyRequest {
                    request: String::new(),
                    instance: None,
                    principal,
                    validity: None,
                    audience: Vec::new(),
                };
                node.certify(cx, request).await.map(drop)
            }
            Method::IdentityTrust => node.trust(cx).await.map(drop),
            Method::IdentityIntroduce => {
                node.introduce(cx, IntroduceRequest { name: at, instance: None }).await.map(drop)
            }
            Method::IdentityVerify => {
                let ticket = Secret("7".repeat(64));
                node.verify(cx, VerifyRequest { ticket, instance: None, credential: None }).await.map(drop)
            }
            Method::IdentityInvite => {
                node.invite(cx, InviteRequest { join_as: JoinAs::Agent, computer: None, ttl: None }).await.map(drop)
            }
            Method::IdentityJoin => {
                let request = byname_identity::authority::new_key().unwrap().request_pem;
                let join = JoinRequest {
                    secret: Secret("7".repeat(64)),
                    computer: name("/computers/new"),
                    request,
                    address: None,
                };
                node.join(cx, join).await.map(drop)
            }
            Method::IdentityRevoke => node.revoke(cx, RevokeRequest::Principal { principal: at }).await,
            Method::IdentityAccess => {
                let reply = node.access(cx, AccessRequest { name: at, who: None, right: None }).await?;
                // Where nothing is the answer is about what would be made there.
                match reply.lists.first() {
                    Some(own) if own.name == reply.name => Ok(()),
                    _ => Err(Error::new(Code::NotFound, serde_json::to_string(&reply).unwrap())),
                }
            }
            Method::AuditSearch => node.audit(cx, AuditRequest::default()).await.map(drop),
        }
    }
}

/// What was asked, and how it had to end.
struct Cell {
    who: Who,
    method: Method,
    object: Object,
    from: IpAddr,
    by: String,
    expected: Expected,
}

async fn check(anyone_looks: bool, everybody: &[Who]) -> usize {
    let world = World::new(anyone_looks).await;
    let (mut cells, mut wrong) = (Vec::new(), Vec::new());
    for method in Method::ALL.iter().copied() {
        for object in Object::ALL {
            if !matches!(need(method), Need::On(_) | Need::Known(_)) && object != Object::Root {
                continue;
            }
            for who in everybody.iter().copied() {
                if object == Object::Itself && who != Who::Instance {
                    continue;
                }
                let from = world.server.address();
                let expected = expected(who, method, object, anyone_looks);
                let admitted = world.admit(who, method, from).await;
                let by = admitted.as_ref().map_or_else(|_| "anyone".into(), |cx| cx.caller.principal.clone());
                let outcome = match &admitted {
                    Ok(cx) => world.ask(cx, method, object.name()).await,
                    Err(error) => Err(error.clone()),
                };
                let ended = match &outcome {
                    Ok(()) => Expected::Allowed,
                    Err(error) => match error.code() {
                        Code::Denied => Expected::Denied,
                        Code::NotFound => Expected::Absent,
                        // A check fails as where nothing is.
                        Code::Conflict if method == Method::NamesBatch => Expected::Absent,
                        Code::Unauthenticated => Expected::Unauthenticated,
                        _ => Expected::Allowed,
                    },
                };
                let cell = format!("{who:?} {method:?} {object:?}");
                if ended != expected {
                    wrong.push(format!("{cell}: {expected:?} was expected, and it was {outcome:?}"));
                }
                if let (Ok(cx), Err(error)) = (&admitted, &outcome)
                    && !matches!(object, Object::Admins | Object::Root | Object::Itself)
                    && matches!(expected, Expected::Absent | Expected::Denied)
                    && who != Who::AllBut
                {
                    // From another address, so that it counts as no flood; refused or not, it is the same error.
                    let caller = Caller { address: Some(world.server.address()), ..cx.caller.clone() };
                    let absent = world.ask(&Context::of(caller), method, object.absent()).await;
                    // Whoever may look at what is not hidden may know that it is there.
                    let sees = matches!(object, Object::Open | Object::Secret) && expected == Expected::Denied;
                    let (error, absent) = (told(error), absent.err().as_ref().map(told));
                    if !sees && Some(&error) != absent.as_ref() {
                        wrong.push(format!("{cell} tells: {error:?}, and of what is not there {absent:?}"));
                    }
                }
                cells.push(Cell { who, method, object, from, by, expected });
            }
        }
    }
    let audited = world.server.audited().await;
    let mut by_address: HashMap<&str, Vec<&Record>> = HashMap::new();
    for record in &audited {
        by_address.entry(record.from.as_deref().unwrap_or_default()).or_default().push(record);
    }
    for cell in &cells {
        let refused = cell.expected != Expected::Allowed;
        // What is left out of a list is no refusal.
        if !refused || (cell.object == Object::Itself && listing(cell.method)) {
            continue;
        }
        // The server and its own user come from no address.
        let here = matches!(cell.who, Who::Server | Who::LocalUser);
        let from = if here { String::new() } else { cell.from.to_string() };
        let records = by_address.get(from.as_str()).cloned().unwrap_or_default();
        let about =
            matches!(need(cell.method), Need::On(_) | Need::Known(_)) && cell.expected != Expected::Unauthenticated;
        let object = match (cell.method, cell.object) {
            // Noted where it would have been made.
            (Method::NamesAdd, Object::Alias) => Object::Hidden.name(),
            _ => cell.object.name(),
        };
        let at = match cell.method {
            Method::NamesAdd => format!("{}/new", object.trim_end_matches('/')),
            _ => object.to_owned(),
        };
        let noted = records.iter().any(|record| {
            matches!(record.outcome, Ended::Denied | Ended::Unauthenticated)
                && record.by == cell.by
                && !record.operation.is_empty()
                && (!about || record.name.as_deref() == Some(at.as_str()))
        });
        if !noted {
            wrong
                .push(format!("{:?} {:?} {:?}: not in the audit log: {records:?}", cell.who, cell.method, cell.object));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    cells.len()
}

/// An error with the names replaced.
fn told(error: &Error) -> (Code, String, Option<String>) {
    let mut text = error.message().to_owned();
    for place in [Object::Alias.name(), Object::Alias.absent()] {
        text = text.replace(place, "ALIAS");
    }
    for place in ["/open/hidden", "/open/absent", "/open/box", "/open/secret"] {
        text = text.replace(place, "NAME");
    }
    (error.code(), text, error.at_field().map(Into::into))
}

#[tokio::test]
async fn everybody_may_do_what_the_table_says_and_nothing_else() {
    let cells = check(false, &Who::ALL).await;
    assert!(cells > 2_000, "{cells} cells");
}

#[tokio::test]
async fn under_dev_whoever_has_not_said_who_it_is_may_look_and_nothing_else() {
    check(true, &[Who::Anonymous]).await;
}

/// One change by somebody.
async fn change(server: &Established, cx: &Context, ops: Vec<Op>) -> Result<BatchReply> {
    server.node.batch(cx, BatchRequest { ops, ..BatchRequest::default() }).await
}

fn put(at: &str, spec: Spec) -> Op {
    Op::Put { name: name(at), spec, if_version: None }
}

fn remove(at: &str) -> Op {
    Op::Delete { name: name(at), recursive: true, stop: true, if_version: None }
}

fn alias(target: &str) -> Spec {
    Spec { target: Some(name(target)), ..Spec::of(Kind::Alias) }
}

fn members(who: &str) -> Spec {
    Spec { members: Some(vec![who.into()]), ..Spec::of(Kind::Group) }
}

/// Somebody with a directory of its own, and a place that is not its own.
async fn with_a_home() -> (Established, Context) {
    let server = Established::new(false).await;
    server.people(["/people/eve", "/people/owner"]).await;
    server.put("/byname/admins", members("/people/owner")).await;
    let home = Spec { owner: Some("/people/eve".into()), ..Spec::of(Kind::Directory) };
    server.put("/home/eve", home).await;
    server.put("/home/eve/link", alias("/shared")).await;
    let shared = vec![entry("/people/eve", [Right::Add, Right::Delete], true)];
    server.put("/shared", Spec { acl: Some(shared), ..Spec::of(Kind::Directory) }).await;
    server.put("/shared/record", Spec { value: Some("theirs".into()), ..Spec::of(Kind::Record) }).await;
    let closed = vec![entry("anyone", Rights::ALL, false)];
    server.put("/shared/closed", Spec { acl: Some(closed), ..Spec::of(Kind::Record) }).await;
    let cx = server.signed_in("/people/eve").await;
    (server, cx)
}

#[tokio::test]
async fn an_alias_of_ones_own_leads_to_no_right_that_one_has_not() {
    let (server, eve) = with_a_home().await;
    let record = |value: &str| Spec { value: Some(value.into()), ..Spec::of(Kind::Record) };
    // Whoever may add beneath a place may not replace what is there, by whatever name.
    for at in ["/shared/record", "/home/eve/link/record"] {
        let error = change(&server, &eve, vec![put(at, record("mine"))]).await.unwrap_err();
        assert_eq!(error.code(), Code::Denied, "{at}: {error}");
        let declare = Op::Declare { name: name(at), spec: record("mine") };
        assert_eq!(change(&server, &eve, vec![declare]).await.unwrap_err().code(), Code::Denied, "{at}");
    }
    change(&server, &eve, vec![put("/home/eve/link/new", record("mine"))]).await.unwrap();
    // Nor remove with it what is closed.
    let error = change(&server, &eve, vec![remove("/shared")]).await.unwrap_err();
    assert_eq!(error.code(), Code::Denied, "{error}");
    assert!(!error.message().contains("closed"), "a hidden name is told: {error}");
    server.put("/outer/shared", Spec::of(Kind::Directory)).await;
    server
        .put(
            "/outer/shared/closed",
            Spec { acl: Some(vec![entry("anyone", Rights::ALL, false)]), ..Spec::of(Kind::Record) },
        )
        .await;
    let acl = Some(vec![entry("/people/eve", [Right::Delete], true)]);
    server.modify("/outer", Spec { acl, ..Spec::default() }).await;
    change(&server, &eve, vec![put("/home/eve/out", alias("/outer"))]).await.unwrap();
    let error = change(&server, &eve, vec![remove("/home/eve/out/shared")]).await.unwrap_err();
    assert_eq!(error.code(), Code::Denied, "{error}");
    server.id("/outer/shared/closed").await;
    // Nor make oneself an administrator.
    change(&server, &eve, vec![put("/home/eve/system", alias("/byname"))]).await.unwrap();
    for op in [
        put("/home/eve/system/admins", members("/people/eve")),
        Op::Modify {
            name: name("/home/eve/system/admins"),
            spec: Spec { members: Some(vec!["/people/eve".into()]), ..Spec::default() },
            clear: Vec::new(),
            if_version: None,
        },
        put("/home/eve/system/new", members("/people/eve")),
        remove("/home/eve/system/admins"),
    ] {
        let error = change(&server, &eve, vec![op.clone()]).await.unwrap_err();
        assert_eq!(error.code(), Code::Denied, "{op:?}: {error}");
    }
}

#[tokio::test]
async fn a_batch_goes_through_no_alias_that_it_makes_itself() {
    let (server, eve) = with_a_home().await;
    let ways: Vec<Vec<Op>> = vec![
        vec![put("/home/eve/a", alias("/byname")), put("/home/eve/a/admins", members("/people/eve"))],
        vec![put("/home/eve/a", alias("/")), put("/home/eve/a/byname/admins", members("/people/eve"))],
        // An alias that is there is led elsewhere.
        vec![
            Op::Modify {
                name: name("/home/eve/link"),
                spec: Spec { target: Some(name("/byname")), ..Spec::default() },
                clear: Vec::new(),
                if_version: None,
            },
            put("/home/eve/link/admins", members("/people/eve")),
        ],
        // By another alias to the place where it is made.
        vec![
            put("/home/eve/me", alias("/home/eve")),
            put("/home/eve/me/a", alias("/byname")),
            put("/home/eve/a/admins", members("/people/eve")),
        ],
        // What an earlier change has put out of the way.
        vec![
            Op::Delete { name: name("/home/eve/link"), recursive: true, stop: false, if_version: None },
            Op::Add { name: name("/home/eve/link"), spec: alias("/byname") },
            put("/home/eve/link/admins", members("/people/eve")),
        ],
        // The name in other letters.
        vec![put("/home/eve/a", alias("/byname")), put("/HOME/Eve/A/admins", members("/people/eve"))],
    ];
    for ops in ways {
        let told = format!("{ops:?}");
        change(&server, &eve, ops).await.expect_err(&told);
        let read = ReadRequest { name: name("/byname/admins"), consistent: false };
        let admins = server.node.read(&Established::server(), read).await.unwrap().object;
        assert_eq!(admins.spec.members, Some(vec!["/people/owner".into()]), "{told}");
    }
    // What is made in the place of what was removed is new there.
    let acl = Some(vec![entry("/people/eve", [Right::Delete, Right::Modify], true)]);
    server.put("/theirs/record", Spec { acl, ..Spec::of(Kind::Record) }).await;
    let again = vec![remove("/theirs/record"), put("/theirs/record", Spec::of(Kind::Record))];
    assert_eq!(change(&server, &eve, again).await.unwrap_err().code(), Code::Denied);
    // What goes through none is done.
    change(&server, &eve, vec![put("/home/eve/b", alias("/shared")), put("/home/eve/c", Spec::of(Kind::Record))])
        .await
        .unwrap();
}

#[tokio::test]
async fn reads_are_audited_by_whatever_alias_they_come() {
    let (server, eve) = with_a_home().await;
    let audited = Spec { audit: Some(byname_api::object::Audited::Reads), ..Spec::default() };
    server.modify("/shared/record", audited).await;
    for at in ["/shared/record", "/home/eve/link/record"] {
        server.node.read(&eve, ReadRequest { name: name(at), consistent: false }).await.unwrap();
        server.node.find(&eve, FindRequest::new(name(at))).await.unwrap();
    }
    let records = server.audited().await;
    let reads = |operation: &str| records.iter().filter(|r| r.operation == operation && r.by == "/people/eve").count();
    assert_eq!((reads("read"), reads("find")), (2, 2));
}
