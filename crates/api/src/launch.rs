//! How a service is started: the declared form (every field optional, so that a file or a patch may give a part) and
//! the effective one, with the defaults filled in.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use byname_name::Name;

use crate::access::Subject;
use crate::error::{Error, Result};
use crate::span::Span;

mod check;

pub use check::{Check, CheckKind, StatusRange};

/// What a file, a request or a patch says about a service's launch. A field that is absent is unsaid: it keeps its
/// value in a patch and takes its default when the service is started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Launch {
    /// An entry of the host's own catalogue (`programs.d`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// A command line, where the host's policy allows one: the program and its arguments.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "command")]
    pub command: Option<Vec<String>>,
    /// Arguments after those of the program or command. `${PORT} ${NAME} ${INSTANCE}` expand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment, on top of the agent's small standard one. The same variables expand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, EnvValue>>,
    /// The folder to start in. When unsaid: a folder of the instance's own, or `/` when it runs as another user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Hosts that may run it: names or patterns of computers, or groups. Any host when unsaid.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_many")]
    pub hosts: Option<Vec<String>>,
    /// How many copies run at least and at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<Copies>,
    /// When it is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Who may start it by asking for it: principals or groups. Every authenticated caller when unsaid.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_many")]
    pub start_by: Option<Vec<String>>,
    /// Whether a DNS look-up may start it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_start: Option<bool>,
    /// Stop a copy that nobody has used for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_stop: Option<Span>,
    /// What the program will listen on; port 0 lets the agent choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<EndpointSpec>>,
    /// Stable sockets that wake the service (`127.0.0.1:5432`, `unix:/run/x.sock`).
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_many")]
    pub listen: Option<Vec<String>>,
    /// How the connections of `listen` get to the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// How the program is told its name and its tickets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convention: Option<Convention>,
    /// How the agent learns that the program is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// The path asked for with `ready = "http"`; `/` when unsaid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_path: Option<String>,
    /// How long a start may take before it is `start-timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout: Option<Span>,
    /// How long a program may take to end after SIGTERM before it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<Span>,
    /// How often it may fail before it is `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Bounds on what a copy may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The user to run as; the agent's own when unsaid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What the agent does with it when cut off from the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_partition: Option<OnPartition>,
    /// How it is found out whether a copy that was ready is well.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "check::one_or_many")]
    pub check: Option<Vec<Check>>,
}

/// The value of one environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvValue {
    /// The text itself.
    Text(String),
    /// The value of a secret, by name; never shown.
    Secret {
        /// The secret's name.
        secret: String,
    },
}

/// Bounds on the number of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// So many run always.
    #[serde(default)]
    pub min: u32,
    /// So many may run at once; at least 1.
    #[serde(default = "one")]
    pub max: u32,
}

impl Default for Copies {
    fn default() -> Self {
        Copies { min: 0, max: 1 }
    }
}

/// When a service is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When somebody asks for it.
    #[default]
    OnDemand,
    /// As soon as it is known, and again whenever it ends.
    Always,
    /// Only by `launch`.
    Manual,
}

/// How the agent learns that a program is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// The program says so itself, with its ticket.
    Advertise,
    /// `READY=1` on NOTIFY_SOCKET (sd_notify).
    Notify,
    /// Its port takes connections.
    #[default]
    Port,
    /// A GET of `ready_path` answers with a status below 400.
    Http,
}

/// How the connections of a stable socket get to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handover {
    /// Bytes are passed on in the kernel to the endpoint of a running copy: for programs that know nothing of it.
    #[default]
    Relay,
    /// The listening socket itself is passed to the program (LISTEN_FDS, as systemd does it).
    Fds,
}

/// How a program is told its name and its tickets, beside the variables that every program has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Convention {
    /// BYNAME_NAME, and a pair that is good once, on the descriptor BYNAME_TICKET_FD.
    #[default]
    Byname,
    /// That of the Tcl-DP name server: `-service NAME` at the end of the command line, and a pair on standard input that
    /// is good as long as the program lives.
    Dp,
}

/// What an agent that is cut off from the servers does with a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnPartition {
    /// Let it run.
    #[default]
    Keep,
    /// Stop it after a time.
    Stop,
}

/// The restart budget: after `max` failures within `window` the service is `failed` until `reset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// Failures allowed within the window.
    pub max: u32,
    /// The window.
    pub window: Span,
    /// The pause before the second start in a row; doubled each time, 30 s at most. The first follows at once.
    pub backoff: Span,
}

impl Default for Restart {
    fn default() -> Self {
        Restart { max: 5, window: Span::from_secs(30), backoff: Span::from_millis(100) }
    }
}

/// Bounds on one copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processors, as a number of cores (`0.5`). Needs cgroup v2 with the cpu controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Memory, in bytes; text such as `512M` or `2GiB` is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Open files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
}

/// A number of bytes; reads `512M`, `2GiB` (powers of 1,024) or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// An endpoint as declared, before a port is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// `tcp`, `udp`, `http` …: a word that clients understand.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// The port; 0 lets the agent choose a free one.
    #[serde(default)]
    pub port: u16,
    /// The address; that of the instance's computer when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Launch {
    /// Limits kept for every launch, whoever declared it.
    pub fn check(&self) -> Result<()> {
        let field = |name: &str, message: &str| Err(Error::invalid(format!("launch.{name}"), message));
        if self.program.is_some() && self.command.is_some() {
            return field("program", "give either `program` (an entry of the host's catalogue) or `command`, not both");
        }
        if self.command.as_ref().is_some_and(|c| c.is_empty() || c[0].is_empty()) {
            return field("command", "the command is empty: give the program and its arguments");
        }
        if self.copies.is_some_and(|c| c.max == 0 || c.min > c.max) {
            return field("copies", "`max` must be at least 1 and at least `min`");
        }
        if self.copies.is_some_and(|c| c.max > 10_000) {
            return field("copies", "`max` is 10000 at most");
        }
        if self.restart.is_some_and(|r| r.max == 0) {
            return field("restart.max", "must be at least 1");
        }
        if self.endpoints.as_ref().is_some_and(|e| e.len() > 64) {
            return field("endpoints", "64 at most");
        }
        if self.endpoints.iter().flatten().any(|e| e.protocol.is_empty() || e.protocol.len() > 32) {
            return field("endpoints.protocol", "must be a word of 1 to 32 bytes, such as tcp or http");
        }
        for address in self.endpoints.iter().flatten().filter_map(|e| e.address.as_deref()) {
            if address.parse::<std::net::IpAddr>().is_err() {
                return field("endpoints.address", "must be an IP address");
            }
        }
        if self.start_timeout.is_some_and(|t| t.as_millis() == 0) {
            return field("start_timeout", "must be longer than zero");
        }
        if self.limits.as_ref().and_then(|l| l.cpu).is_some_and(|c| !c.is_finite() || c <= 0.0) {
            return field("limits.cpu", "must be a number of cores above zero, such as 0.5");
        }
        if self.limits.as_ref().and_then(|l| l.memory).is_some_and(|m| m.0 < 1 << 20) {
            return field("limits.memory", "must be at least 1M");
        }
        if self.limits.as_ref().and_then(|l| l.files).is_some_and(|f| f < 16) {
            return field("limits.files", "must be at least 16");
        }
        if self.ready_path.as_ref().is_some_and(|p| !p.starts_with('/') || p.contains(['\r', '\n', ' '])) {
            return field("ready_path", "must begin with `/` and hold no blanks");
        }
        let texts = self.command.iter().flatten().chain(self.args.iter().flatten());
        if texts.clone().any(|t| t.contains('\0')) {
            return field("args", "an argument cannot hold a NUL character");
        }
        for (key, value) in self.env.iter().flatten() {
            if key.is_empty() || key.contains(['=', '\0']) {
                return field("env", "a variable's name cannot be empty nor hold `=` or NUL");
            }
            if let Some(why) = set_by_agent(key) {
                return field(&format!("env.{key}"), &why);
            }
            match value {
                EnvValue::Text(text) if text.contains('\0') => return field("env", "a value cannot hold NUL"),
                EnvValue::Secret { secret } => {
                    Name::parse(secret).map_err(|e| Error::from(e).field(format!("launch.env.{key}")))?;
                }
                EnvValue::Text(_) => {}
            }
        }
        if self.listen.as_ref().is_some_and(|l| l.len() > 16) {
            return field("listen", "16 sockets at most");
        }
        for (at, text) in self.listen.iter().flatten().enumerate() {
            let socket = StableSocket::parse(text).map_err(|e| e.field("launch.listen"))?;
            if self.listen.iter().flatten().take(at).any(|t| StableSocket::parse(t).is_ok_and(|s| s == socket)) {
                return field("listen", "the same socket is named twice");
            }
        }
        if self.handover == Some(Handover::Fds) {
            if self.listen.as_ref().is_none_or(Vec::is_empty) {
                return field("handover", "there is no socket to hand over: say which in `listen`");
            }
            if self.copies().max > 1 {
                return field(
                    "copies",
                    "a socket is handed over to one copy: `max` must be 1, or leave `handover` out",
                );
            }
        }
        for who in self.start_by.iter().flatten() {
            who.parse::<Subject>().map_err(|e| e.field("launch.start_by"))?;
        }
        if self.idle_stop.is_some_and(|t| t.as_millis() < 100) {
            return field("idle_stop", "must be at least 100ms");
        }
        check::check_all(self)
    }

    /// Lays the fields that `patch` gives over this one.
    pub fn overlay(&mut self, patch: &Launch) {
        macro_rules! take { ($($f:ident),* $(,)?) => { $( if patch.$f.is_some() { self.$f.clone_from(&patch.$f); } )* } }
        take!(
            args,
            env,
            directory,
            hosts,
            copies,
            start,
            start_by,
            dns_start,
            idle_stop,
            endpoints,
            listen,
            handover,
            convention,
            ready,
            ready_path,
            start_timeout,
            stop_timeout,
            restart,
            limits,
            user,
            on_partition,
            check,
        );
        // The two ways to say what runs exclude each other, so the newer one wins.
        if patch.program.is_some() || patch.command.is_some() {
            self.program.clone_from(&patch.program);
            self.command.clone_from(&patch.command);
        }
    }

    /// Forgets one field, by its name; false when there is no such field.
    pub fn clear(&mut self, field: &str) -> bool {
        macro_rules! forget { ($($f:ident),* $(,)?) => {
            match field { $(stringify!($f) => { self.$f = None; true })* _ => false }
        } }
        forget!(
            program,
            command,
            args,
            env,
            directory,
            hosts,
            copies,
            start,
            start_by,
            dns_start,
            idle_stop,
            endpoints,
            listen,
            handover,
            convention,
            ready,
            ready_path,
            start_timeout,
            stop_timeout,
            restart,
            limits,
            user,
            on_partition,
            check,
        )
    }

    /// How many copies run.
    pub fn copies(&self) -> Copies {
        self.copies.unwrap_or_default()
    }

    /// When it is started.
    pub fn start(&self) -> Start {
        self.start.unwrap_or_default()
    }

    /// How the connections of `listen` get to the program.
    pub fn handover(&self) -> Handover {
        self.handover.unwrap_or_default()
    }

    /// The stable sockets; texts that are none are left out.
    pub fn stable_sockets(&self) -> Vec<StableSocket> {
        self.listen.iter().flatten().filter_map(|text| StableSocket::parse(text).ok()).collect()
    }

    /// How the program is told its name and its tickets.
    pub fn convention(&self) -> Convention {
        self.convention.unwrap_or_default()
    }

    /// How readiness is learnt. A program of Tcl-DP says so itself when nothing else is said.
    pub fn ready(&self) -> Ready {
        match self.convention() {
            Convention::Dp => self.ready.unwrap_or(Ready::Advertise),
            Convention::Byname => self.ready.unwrap_or_default(),
        }
    }

    /// The restart budget.
    pub fn restart(&self) -> Restart {
        self.restart.unwrap_or_default()
    }

    /// How long a start may take; 30 s when unsaid.
    pub fn start_timeout(&self) -> Span {
        self.start_timeout.unwrap_or(Span::from_secs(30))
    }

    /// How long a stop may take; 10 s when unsaid.
    pub fn stop_timeout(&self) -> Span {
        self.stop_timeout.unwrap_or(Span::from_secs(10))
    }

    /// What it listens on; one TCP port that the agent chooses when unsaid, and nothing that is known before when the
    /// stable sockets are handed over to it, or when it will say so itself as programs of Tcl-DP do.
    pub fn endpoints(&self) -> Vec<EndpointSpec> {
        match &self.endpoints {
            Some(list) => list.clone(),
            None if self.handover() == Handover::Fds || self.convention() == Convention::Dp => Vec::new(),
            None => vec![EndpointSpec { protocol: tcp(), port: 0, address: None }],
        }
    }
}

/// A stable socket: where a service is reached whether or not it runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StableSocket {
    /// A TCP address; the port is never 0.
    Tcp(std::net::SocketAddr),
    /// The absolute path of a unix socket.
    Unix(String),
}

impl StableSocket {
    /// Reads `ADDRESS:PORT`, `tcp://ADDRESS:PORT` or `unix:/PATH`.
    ///
    /// # Errors
    ///
    /// `invalid-argument` for anything else: a host's name, a port of 0, a relative path.
    pub fn parse(text: &str) -> Result<StableSocket> {
        let bad = |why: &str| Err(Error::invalid("listen", format!("`{}` {why}", text.escape_debug())));
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            // sockaddr_un(7): 108 bytes with the NUL.
            return match path {
                _ if !path.starts_with('/') || path.contains('\0') => {
                    bad("is no absolute path: write unix:/run/x.sock")
                }
                _ if path.len() > 107 => bad("is too long: the path of a socket is 107 bytes at most"),
                _ => Ok(StableSocket::Unix(path.into())),
            };
        }
        match text.strip_prefix("tcp://").unwrap_or(text).parse::<std::net::SocketAddr>() {
            Ok(address) if address.port() == 0 => bad("has no port: a stable socket needs one that never changes"),
            Ok(address) => Ok(StableSocket::Tcp(address)),
            Err(_) => bad("is no socket: write an IP address and a port (127.0.0.1:5432), or unix:/PATH"),
        }
    }
}

impl fmt::Display for StableSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StableSocket::Tcp(address) => address.fmt(f),
            StableSocket::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Why a variable cannot be declared: the agent sets it, and what is declared would be lost.
fn set_by_agent(key: &str) -> Option<String> {
    let number = key.strip_prefix("PORT_").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match key {
        "BYNAME_NAME" | "BYNAME_INSTANCE" | "BYNAME_SERVER" | "BYNAME_TICKET_FD" | "BYNAME_IDENTITY"
        | "NOTIFY_SOCKET" | "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES" => {
            Some(format!("{key} is set by the agent"))
        }
        _ if key == "PORT" || number => Some(format!("{key} is set by the agent: declare the port in `endpoints`")),
        _ => None,
    }
}

fn one() -> u32 {
    1
}

fn tcp() -> String {
    "tcp".into()
}

/// A list, or one text that stands for a list of one.
fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Either>::deserialize(d)?.map(|either| match either {
        Either::One(text) => vec![text],
        Either::Many(list) => list,
    }))
}

/// A list of words, or one line that is split as a shell splits words (quotes are honoured, nothing is expanded).
fn command<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Line(String),
        Words(Vec<String>),
    }
    match Option::<Either>::deserialize(d)? {
        None => Ok(None),
        Some(Either::Words(words)) => Ok(Some(words)),
        Some(Either::Line(line)) => shlex::split(&line)
            .map(Some)
            .ok_or_else(|| serde::de::Error::custom("the command has an unfinished quote or escape")),
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || format!("`{text}` is not a number of bytes: write for example 512M, 2GiB or 1048576");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| bad())?;
        let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Bytes).ok_or_else(bad)
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Number(n) => Ok(Bytes(n)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_design_s_example_reads() {
        let launch: Launch = toml::from_str(
            r#"program = "query-server"
               args = ["--db", "/var/lib/bvods/index.db"]
               start = "on-demand"
               copies = { min = 0, max = 2 }
               idle_stop = "10m"
               ready = "port"
               limits = { memory = "512M", files = 100 }
               hosts = "bugs-*""#,
        )
        .unwrap();
        launch.check().unwrap();
        assert_eq!(launch.copies().max, 2);
        assert_eq!(launch.idle_stop, Some(Span::from_secs(600)));
        assert_eq!(launch.hosts.as_deref(), Some(&["bugs-*".to_string()][..]));
        assert_eq!(launch.limits.clone().unwrap().memory, Some(Bytes(512 << 20)));
        let json = serde_json::to_string(&launch).unwrap();
        assert_eq!(serde_json::from_str::<Launch>(&json).unwrap(), launch);
    }

    #[test]
    fn a_command_may_be_one_line() {
        let launch: Launch = toml::from_str(r#"command = "python3 -c 'print(1)'""#).unwrap();
        assert_eq!(launch.command.unwrap(), ["python3", "-c", "print(1)"]);
        assert!(toml::from_str::<Launch>(r#"command = "echo 'x""#).is_err());
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let mut launch = Launch { program: Some("a".into()), ready: Some(Ready::Notify), ..Launch::default() };
        launch.overlay(&Launch { command: Some(vec!["b".into()]), ..Launch::default() });
        assert_eq!((launch.program.clone(), launch.ready), (None, Some(Ready::Notify)));
        assert!(launch.clear("ready"));
        assert!(!launch.clear("nonsense"));
        assert_eq!(launch.ready(), Ready::Port);
    }

    #[test]
    fn wrong_fields_are_named() {
        for (text, field) in [
            ("program = 'a'\ncommand = ['b']", "launch.program"),
            ("command = []", "launch.command"),
            ("copies = { min = 3, max = 2 }", "launch.copies"),
            ("restart = { max = 0 }", "launch.restart.max"),
            ("endpoints = [{ address = 'here' }]", "launch.endpoints.address"),
            ("limits = { files = 1 }", "launch.limits.files"),
            ("env = { 'A=B' = 'x' }", "launch.env"),
            ("env = { PORT = '80' }", "launch.env.PORT"),
            ("env = { PORT_2 = '80' }", "launch.env.PORT_2"),
            ("env = { BYNAME_SERVER = 'x' }", "launch.env.BYNAME_SERVER"),
            ("env = { NOTIFY_SOCKET = 'x' }", "launch.env.NOTIFY_SOCKET"),
            ("env = { LISTEN_FDS = '1' }", "launch.env.LISTEN_FDS"),
            ("listen = 'localhost:80'", "launch.listen"),
            ("listen = '127.0.0.1:0'", "launch.listen"),
            ("listen = 'unix:x'", "launch.listen"),
            ("listen = ['127.0.0.1:80', 'tcp://127.0.0.1:80']", "launch.listen"),
            ("handover = 'fds'", "launch.handover"),
            ("handover = 'fds'\nlisten = '[::1]:80'\ncopies = { max = 2 }", "launch.copies"),
        ] {
            let error = toml::from_str::<Launch>(text).unwrap().check().unwrap_err();
            assert_eq!(error.at_field(), Some(field), "{text}");
        }
    }

    #[test]
    fn variables_of_the_agent_are_refused_and_others_taken() {
        let env = |key: &str| toml::from_str::<Launch>(&format!("env = {{ {key} = 'x' }}")).unwrap().check();
        assert_eq!(
            env("PORT").unwrap_err().to_string(),
            "invalid-argument: launch.env.PORT: PORT is set by the agent: declare the port in `endpoints`"
        );
        assert_eq!(env("LISTEN_PID").unwrap_err().message(), "LISTEN_PID is set by the agent");
        for key in ["OWN_PORT", "PORT_RANGE", "PORT_", "BYNAME_ROOT", "NOTIFY"] {
            env(key).unwrap();
        }
    }
}
