//! The commands that ask a server, each with its output. They speak to any [`NameService`], so that tests bring their
//! own.

pub(crate) mod acl;
pub(crate) mod act;
pub(crate) mod advertise;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod ca;
pub(crate) mod cert;
pub(crate) mod change;
pub(crate) mod cluster;
pub(crate) mod context;
pub(crate) mod credentials;
pub(crate) mod drain;
pub(crate) mod editor;
pub(crate) mod find;
pub(crate) mod group;
pub(crate) mod lock;
pub(crate) mod login;
pub(crate) mod look;
pub(crate) mod man;
pub(crate) mod principal;
pub(crate) mod run;
pub(crate) mod search;
pub(crate) mod secret;
pub(crate) mod ticket;
pub(crate) mod validate;
pub(crate) mod version;
pub(crate) mod watch;
pub(crate) mod why;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use byname_api::access::Subject;
use byname_api::caller::Caller;
use byname_api::request::{Context, Fresh, ServerInfo};
use byname_api::service::Endpoint;
use byname_api::span::Timestamp;
use byname_api::{Code, Error, NameService};
use byname_name::{Name, Pattern};

use crate::failure::{Failure, Outcome};
use crate::reach::Target;
use crate::screen::Screen;

/// A server, the user's context and the user's screen.
pub(crate) struct Session {
    /// The server.
    pub service: Arc<dyn NameService>,
    /// What goes along with each request. The server finds out by itself who calls.
    pub cx: Context,
    /// Where the server is, and what it is shown.
    pub target: Target,
    /// What relative names are read against.
    pub context: Name,
    /// Where answers go.
    pub screen: Screen,
    /// The present, for ages.
    pub now: Timestamp,
    /// Tells the time of what comes later.
    pub clock: fn() -> Timestamp,
}

impl Session {
    /// A session that speaks to this server.
    pub(crate) fn new(service: Arc<dyn NameService>, context: Name, screen: Screen) -> Self {
        Session { service, cx: anyone(), target: Target::default(), context, screen, now: clock(), clock }
    }

    /// A name as the user wrote it.
    pub(crate) fn name(&self, text: &str) -> Outcome<Name> {
        Ok(Name::resolve(&self.context, text).map_err(|e| quoted(e.into(), text))?)
    }

    /// Somebody as the user wrote it: a relative name is read against the context.
    pub(crate) fn subject(&self, text: &str) -> Outcome<Subject> {
        match text.parse() {
            Ok(subject) => Ok(subject),
            Err(error) if text.starts_with(['/']) || text.starts_with("uid:") => Err(quoted(error, text).into()),
            Err(_) => Ok(Subject::Named(self.name(text)?)),
        }
    }

    /// A principal as the user wrote it, or else whom the server takes the caller for.
    pub(crate) async fn principal(&self, text: Option<&str>) -> Outcome<Name> {
        if let Some(text) = text {
            return self.name(text);
        }
        let caller = self.service.whoami(&self.cx).await?.principal;
        Name::parse(&caller).map_err(|_| {
            let message = format!(
                "the server takes you for `{caller}`, which is no principal of the tree: say whose, such as /people/liu"
            );
            Failure::usage(message)
        })
    }

    /// A pattern as the user wrote it.
    pub(crate) fn pattern(&self, text: &str) -> Outcome<Pattern> {
        Ok(Pattern::resolve(&self.context, text)
            .map_err(|e| quoted(Error::new(Code::InvalidName, e.to_string()), text))?)
    }

    /// What the server says about itself.
    pub(crate) async fn info(&self) -> byname_api::Result<ServerInfo> {
        self.service.info(&self.cx).await
    }

    /// Says so when an answer may be old.
    pub(crate) fn warn_stale(&mut self, fresh: &Fresh) {
        if fresh.stale {
            let age = age_ms(fresh.age_ms);
            self.screen.say(&format!("byname: note: stale: the last word from the servers was {age} ago"));
        }
    }

    /// How long ago something was.
    fn age(&self, at: Timestamp) -> String {
        age_ms(self.now.0.saturating_sub(at.0))
    }
}

/// What goes along with a request of somebody whom the server will know better.
pub(crate) fn anyone() -> Context {
    Context::of(Caller::anonymous())
}

/// The time of this host.
pub(crate) fn clock() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    Timestamp(u64::try_from(now).unwrap_or(u64::MAX))
}

/// Whether trying again may help.
fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Timeout | Code::RateLimited)
}

fn quoted(error: Error, text: &str) -> Error {
    error.within(format!("`{}`", text.escape_debug()))
}

/// A length of time in one unit: `850ms`, `12s`, `3m`, `5h`, `9d`.
fn age_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

/// An endpoint as programs take it: `HOST:PORT`, or a path.
fn address(endpoint: &Endpoint) -> String {
    match (endpoint.protocol.as_str(), endpoint.address.contains(':')) {
        ("unix", _) => endpoint.address.clone(),
        (_, true) => format!("[{}]:{}", endpoint.address, endpoint.port),
        (_, false) => format!("{}:{}", endpoint.address, endpoint.port),
    }
}

/// An instance's addresses in one cell.
fn addresses(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "-".into();
    }
    endpoints.iter().map(address).collect::<Vec<_>>().join(",")
}
