//! A server that can tell who is who, with an audit log and a played agent, for tests of rights and proofs.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use byname_api::access::{AclEntry, Rights, Subject};
use byname_api::audit::{AuditRequest, Record};
use byname_api::caller::{Caller, Connection, Gate, Peer};
use byname_api::error::Result;
use byname_api::identity::{LoginReply, LoginRequest, Secret};
use byname_api::object::{InstanceId, Kind, ObjectId, Spec};
use byname_api::request::*;
use byname_api::span::Timestamp;
use byname_api::{NameService, audit::Outcome};
use byname_audit::Audit;
use byname_cluster::disk::LocalDisk;
use byname_cluster::{Cluster, Frozen, Machine, Options, Position};
use byname_identity::seal::ClusterKey;
use byname_identity::session::{Claims, Sessions, new_id};
use byname_name::Name;
use byname_node::{Config, Node, Setup};
use byname_registry::{Command, Entry as LogEntry, stored};
use byname_testkit::contract::Program;
use byname_testkit::{PlayedAgent, eventually_async};

/// The cluster key of these servers.
pub(crate) const KEY: [u8; 32] = *b"a cluster key that must not leak";
/// Their own bearer token.
pub(crate) const TOKEN: &str = "the-bearer-token-that-must-not-leak";

/// A server, its agent and its folders.
pub(crate) struct Established {
    pub(crate) node: Node,
    pub(crate) agent: Option<PlayedAgent>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) gate: Gate,
    addresses: AtomicU32,
}

/// A name.
pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A list's entry about somebody of the tree.
pub(crate) fn entry(who: &str, rights: impl Into<Rights>, allow: bool) -> AclEntry {
    AclEntry { allow, ..AclEntry::allow(who.parse::<Subject>().unwrap(), rights) }
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

impl Established {
    /// A new server. `anyone_looks` as under `byname dev`.
    pub(crate) async fn new(anyone_looks: bool) -> Established {
        Established::over(tempfile::tempdir().unwrap(), anyone_looks, true).await
    }

    /// A server over a folder that may have been another's.
    pub(crate) async fn over(dir: tempfile::TempDir, anyone_looks: bool, with_agent: bool) -> Established {
        let node = open(dir.path()).await;
        let audit = Audit::open(&dir.path().join("audit"), 1, node.anchored()).unwrap();
        let setup = Setup {
            domain: "corp.example".into(),
            key: ClusterKey::from_bytes(KEY),
            token: TOKEN.into(),
            audit: Some(audit),
            anyone_looks,
            origins: vec!["https://corp.example".into()],
            relying_party: "corp.example".into(),
            external: None,
            hosts: Vec::new(),
            servers: vec!["https://192.0.2.1:7600".into()],
        };
        node.establish(setup).await.unwrap();
        let agent = if with_agent { Some(PlayedAgent::attach(&node, "bugs").await) } else { None };
        let gate = Gate::before(node.authenticator());
        Established { node, agent, dir, gate, addresses: AtomicU32::new(0) }
    }

    /// Ends the server and gives its folder.
    pub(crate) async fn close(self) -> tempfile::TempDir {
        self.node.shutdown().await;
        self.dir
    }

    /// The server itself.
    pub(crate) fn server() -> Context {
        Context::of(Caller::internal())
    }

    /// An address that nobody has called from before: refusals from it are in no flood.
    pub(crate) fn address(&self) -> IpAddr {
        let n = self.addresses.fetch_add(1, Ordering::Relaxed);
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + n))
    }

    /// What the gate says to this bearer token, from this address.
    pub(crate) fn admit(&self, from: IpAddr, token: Option<&str>) -> Result<Context> {
        let connection = Connection::from(Peer::Tcp { address: from, encrypted: true });
        let bearer = token.map(|token| format!("Bearer {token}"));
        self.gate.admit(&connection, Some("corp.example"), None, bearer.as_deref()).map(Context::of)
    }

    /// Somebody who has not said who it is, from an address of its own.
    pub(crate) fn stranger(&self) -> Context {
        self.admit(self.address(), None).unwrap()
    }

    /// A context of somebody with a session.
    pub(crate) async fn signed_in(&self, who: &str) -> Context {
        let token = self.token(who).await;
        self.admit(self.address(), Some(&token)).unwrap()
    }

    /// A session of a principal, as signing in gives it.
    pub(crate) async fn token(&self, who: &str) -> String {
        let id = self.id(who).await;
        self.token_of(&Claims {
            principal: who.into(),
            id: Some(id),
            instance: None,
            session: new_id().unwrap(),
            mechanism: "password".into(),
            issued: now(),
            expires: Timestamp(now().0 + 3_600_000),
        })
    }

    /// A session that says this.
    pub(crate) fn token_of(&self, claims: &Claims) -> String {
        Sessions::new(&ClusterKey::from_bytes(KEY)).unwrap().issue(claims).unwrap()
    }

    /// The immutable id of a name.
    pub(crate) async fn id(&self, of: &str) -> ObjectId {
        let request = ReadRequest { name: name(of), consistent: false };
        self.node.read(&Established::server(), request).await.unwrap_or_else(|e| panic!("{of}: {e}")).object.id
    }

    /// Makes or replaces an object.
    pub(crate) async fn put(&self, at: &str, spec: Spec) {
        let op = Op::Put { name: name(at), spec, if_version: None };
        self.node.batch(&Established::server(), BatchRequest::of(op)).await.unwrap_or_else(|e| panic!("{at}: {e}"));
    }

    /// Changes fields of an object.
    pub(crate) async fn modify(&self, at: &str, spec: Spec) {
        let op = Op::Modify { name: name(at), spec, clear: Vec::new(), if_version: None };
        self.node.batch(&Established::server(), BatchRequest::of(op)).await.unwrap_or_else(|e| panic!("{at}: {e}"));
    }

    /// Removes an object.
    pub(crate) async fn delete(&self, at: &str) {
        let op = Op::Delete { name: name(at), recursive: true, stop: true, if_version: None };
        self.node.batch(&Established::server(), BatchRequest::of(op)).await.unwrap_or_else(|e| panic!("{at}: {e}"));
    }

    /// Makes principals.
    pub(crate) async fn people(&self, names: impl IntoIterator<Item = impl AsRef<str>>) {
        for principal in names {
            self.put(principal.as_ref(), Spec::of(Kind::Principal)).await;
        }
    }

    /// Makes a service that advertises itself, starts it, and lets its program show the ticket. Gives the instance and
    /// the credential that it got.
    pub(crate) async fn running(&self, at: &str, spec: Spec) -> (InstanceId, String) {
        let launch = PlayedAgent::launch(Program::Advertises);
        self.put(at, Spec { kind: Some(Kind::Service), launch: Some(launch), ..spec }).await;
        self.start(at).await
    }

    /// Starts a copy of a service that is there.
    pub(crate) async fn start(&self, at: &str) -> (InstanceId, String) {
        let agent = self.agent.clone().expect("a server with an agent");
        let (node, asked) = (self.node.clone(), name(at));
        let finding = tokio::spawn(async move {
            node.find(&Established::server(), FindRequest::new(asked)).await.unwrap();
        });
        let instance = eventually_async("an instance", || async {
            let reply = self.node.status(&Established::server(), ListRequest::new(at)).await.unwrap();
            Some(reply.services.first()?.instances.first()?.id)
        })
        .await;
        let ticket = eventually_async("a ticket", || async { agent.ticket(instance) }).await;
        let advertise = AdvertiseRequest {
            name: Some(name(at)),
            endpoints: vec![endpoint()],
            ticket: Some(hex::encode(ticket.program)),
            instance: Some(instance),
            ..AdvertiseRequest::default()
        };
        let reply = self.node.advertise(&Context::of(Caller::anonymous()), advertise).await.unwrap();
        finding.await.unwrap();
        (instance, reply.credential.expect("a credential"))
    }

    /// Signs a running copy in.
    pub(crate) async fn instance_session(&self, instance: InstanceId, credential: &str) -> Result<String> {
        let request = LoginRequest::Instance { instance, credential: Secret(credential.into()) };
        match self.node.login(&self.stranger(), request).await? {
            LoginReply::Session(session) => Ok(session.token.0),
            other => panic!("{other:?}"),
        }
    }

    /// All that the audit log holds, oldest first, when what was done until now is in it.
    pub(crate) async fn audited(&self) -> Vec<Record> {
        self.node.anchor_audit().await;
        let mut all = Vec::new();
        let mut request = AuditRequest { limit: 1_000, ..AuditRequest::default() };
        loop {
            let page = self.node.audit(&Established::server(), request.clone()).await.unwrap();
            all.extend(page.records);
            match page.next {
                Some(next) => request.next = Some(next),
                None => break,
            }
        }
        all.reverse();
        all
    }

    /// Refusals from an address.
    pub(crate) async fn refusals(&self, from: IpAddr) -> Vec<Record> {
        let refused = |r: &Record| matches!(r.outcome, Outcome::Denied | Outcome::Unauthenticated);
        self.audited().await.into_iter().filter(|r| r.from == Some(from.to_string()) && refused(r)).collect()
    }
}

/// Opens the log of a server in this folder.
pub(crate) async fn open(dir: &Path) -> Node {
    let config = Config { dir: dir.join("log"), id: 1, dns_suffix: "corp.example".into(), version: "test".into() };
    // Small, so that a snapshot is taken soon.
    let sizes =
        Options { segment_bytes: 256 << 10, snapshot_every: 24 << 10, ..Options::new(config.dir.clone(), config.id) };
    Node::open_on(Arc::new(LocalDisk), sizes, config).await.unwrap()
}

/// Where nobody answers.
pub(crate) fn endpoint() -> byname_api::service::Endpoint {
    byname_api::service::Endpoint { protocol: "tcp".into(), address: "127.0.0.1".into(), port: 1 }
}

/// Time passes, as the log has it: an entry is written that was made so many milliseconds from now. For the server that
/// goes on with this folder, the clock was set back.
pub(crate) async fn time_passes(dir: &Path, ms: u64) {
    let cluster = Cluster::open(Options::new(dir.join("log"), 1), Nothing).await.unwrap();
    let at = Timestamp(now().0 + ms);
    let command = Command::Vault { key: "time".into(), sealed: vec![0; 32], only_if_absent: false };
    let entry = LogEntry { at, by: "byname".into(), request: None, command };
    cluster.propose(stored::encode_command(&entry).into()).await.unwrap();
    cluster.shutdown().await;
}

/// A state machine that keeps nothing.
struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _at: Position, commands: &[bytes::Bytes]) -> std::io::Result<Vec<bytes::Bytes>> {
        Ok(commands.iter().map(|_| bytes::Bytes::new()).collect())
    }

    fn publish(&mut self, _at: Position) {}

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(Nothing)
    }

    fn restore(&mut self, _from: &mut dyn std::io::Read) -> std::io::Result<()> {
        Ok(())
    }
}

impl Frozen for Nothing {
    fn write(self: Box<Self>, _out: &mut dyn std::io::Write) -> std::io::Result<()> {
        Err(std::io::Error::other("there is nothing"))
    }
}
