//! A fleet for one test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use byname_api::caller::Caller;
use byname_api::object::{Kind, Spec};
use byname_api::request::{BatchRequest, Context, FindReply, FindRequest, Op};
use byname_api::{NameService, Result};
use byname_client::{Clerk, Options};
use byname_hosts::{Fleet, Network, Plan};
use byname_testkit::eventually;

/// A fleet that is gone when this is dropped; a test that fails prints its logs.
pub(crate) struct Hosts {
    pub(crate) fleet: Fleet,
    scratch: tempfile::TempDir,
}

impl Hosts {
    /// None, said on standard error, where hosts cannot be made.
    pub(crate) fn new(plan: Plan) -> Option<Hosts> {
        let hosts = Hosts::prepare(plan)?;
        hosts.fleet.start().unwrap();
        Some(hosts)
    }

    /// The same before anything was started.
    pub(crate) fn prepare(plan: Plan) -> Option<Hosts> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if let Some(obstacle) = Network::obstacle() {
            eprintln!("left out: {obstacle}");
            return None;
        }
        Network::sweep();
        let prefix = format!("{}{}", Network::for_tests(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let scratch = tempfile::Builder::new().prefix("byname-fleet-").tempdir().unwrap();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_byname"));
        let fleet = Fleet::new(&binary, scratch.path(), Plan { prefix, ..plan }).unwrap();
        Some(Hosts { fleet, scratch })
    }

    /// Three servers and nothing else.
    pub(crate) fn servers() -> Option<Hosts> {
        Hosts::new(Plan { agents: 0, ..Plan::default() })
    }

    /// A folder for the test's own files.
    pub(crate) fn scratch(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// The server that has the lead, among those that say so with the highest term, and the term.
    pub(crate) fn primary_among(&self, hosts: &[&str]) -> Option<(String, u64)> {
        let leads = |host: &&str| {
            let info = self.fleet.info(host)?;
            (info["primary"] == true).then(|| Some((host.to_string(), info["term"].as_u64()?)))?
        };
        hosts.iter().filter_map(leads).max_by_key(|(_, term)| *term)
    }

    /// Waits until one has the lead.
    pub(crate) fn primary(&self) -> (String, u64) {
        eventually("a primary", || self.primary_among(&self.fleet.servers()))
    }

    /// The other servers.
    pub(crate) fn others(&self, host: &str) -> Vec<&str> {
        self.fleet.servers().into_iter().filter(|other| *other != host).collect()
    }

    /// Waits until every server holds what the primary holds.
    pub(crate) fn caught_up(&self) {
        eventually("all servers with everything", || {
            let (primary, _) = self.primary_among(&self.fleet.servers())?;
            let members = self.fleet.info(&primary)?["members"].as_array()?.clone();
            let well =
                |m: &serde_json::Value| m["up"] == true && m["behind"].as_u64().is_none_or(|behind| behind < 100);
            (members.len() == self.fleet.servers().len() && members.iter().all(well)).then_some(())
        });
    }

    /// A clerk that knows all servers.
    pub(crate) fn clerk(&self) -> Clerk {
        Clerk::connect(&self.fleet.urls(), Options::default()).unwrap()
    }

    /// A clerk that knows the server of one host, and does not wait for a primary.
    pub(crate) fn clerk_of(&self, host: &str) -> Clerk {
        let patience = std::time::Duration::from_millis(300);
        let options = Options {
            patience,
            answer_timeout: std::time::Duration::from_secs(3),
            attempt_timeout: std::time::Duration::from_secs(3),
            ..Options::default()
        };
        Clerk::connect(&self.fleet.url(host), options).unwrap()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in self.fleet.network().hosts() {
                let log = self.fleet.log(host);
                let lines: Vec<&str> = log.lines().collect();
                let end = &lines[lines.len().saturating_sub(60)..];
                eprintln!("--- the end of the log of {host}\n{}", end.join("\n"));
            }
        }
        self.fleet.down();
    }
}

/// A runtime for clients.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Sets a record.
pub(crate) async fn put(clerk: &Clerk, name: &str, value: &str) -> Result<()> {
    let spec = Spec { kind: Some(Kind::Record), value: Some(value.to_owned()), ..Spec::default() };
    let op = Op::Put { name: name.parse().unwrap(), spec, if_version: None };
    clerk.batch(&nobody(), BatchRequest::of(op)).await.map(drop)
}

/// Looks at a record.
pub(crate) async fn look(clerk: &Clerk, name: &str, consistent: bool) -> Result<FindReply> {
    let request = FindRequest { start: false, consistent, ..FindRequest::new(name.parse().unwrap()) };
    clerk.find(&nobody(), request).await
}

/// The connection says who asks.
pub(crate) fn nobody() -> Context {
    Context::of(Caller::internal())
}
