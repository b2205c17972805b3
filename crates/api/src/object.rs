//! Objects of the tree: their kinds, what is declared about them and what a read shows.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use byname_name::Name;

use crate::access::{AclEntry, MAX_ENTRIES, Subject};
use crate::error::{Code, Error, Result};
use crate::host::HostStatus;
use crate::launch::Launch;
use crate::service::{Instance, State};
use crate::span::{Span, Timestamp};

/// The largest value of a record, and the largest declaration, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), Base32(self.0))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                text.strip_prefix($prefix).and_then(parse_base32).map($name).ok_or_else(|| {
                    Error::new(Code::InvalidArgument, concat!("an id of this kind begins with `", $prefix, "`"))
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                let text = <std::borrow::Cow<'_, str>>::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )* };
}

ids! {
    /// The immutable identity of an object: a name that is used again gets another, so it inherits nothing.
    ObjectId "o";
    /// The identity of one running copy; never used again.
    InstanceId "i";
    /// The version of an object: opaque for clients, changed by every write to it.
    Version "v";
}

/// Digits without those that are mistaken for each other (as in Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

struct Base32(u64);

impl fmt::Display for Base32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [b'0'; 13];
        let (mut rest, mut at) = (self.0, 13);
        loop {
            at -= 1;
            digits[at] = DIGITS[(rest & 31) as usize];
            rest >>= 5;
            if rest == 0 {
                break;
            }
        }
        f.write_str(std::str::from_utf8(&digits[at..]).unwrap_or_default())
    }
}

fn parse_base32(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 13 {
        return None;
    }
    text.bytes().try_fold(0u64, |sum, byte| {
        let digit = DIGITS.iter().position(|d| *d == byte)? as u64;
        sum.checked_mul(32)?.checked_add(digit)
    })
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An object that is there for its children.
    Directory,
    /// Something that can run.
    Service,
    /// Another name for an object.
    Alias,
    /// A set of names.
    Group,
    /// A host.
    Computer,
    /// A value.
    Record,
    /// A place where the tree goes on elsewhere.
    Junction,
    /// Somebody who can be authenticated: a person, or a machine that is no computer of the tree.
    Principal,
    /// A value that is kept sealed and never shown.
    Secret,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] = [
        Kind::Directory,
        Kind::Service,
        Kind::Alias,
        Kind::Group,
        Kind::Computer,
        Kind::Record,
        Kind::Junction,
        Kind::Principal,
        Kind::Secret,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Directory => "directory",
            Kind::Service => "service",
            Kind::Alias => "alias",
            Kind::Group => "group",
            Kind::Computer => "computer",
            Kind::Record => "record",
            Kind::Junction => "junction",
            Kind::Principal => "principal",
            Kind::Secret => "secret",
        }
    }
}

impl Kind {
    /// The word with its article: `a service`, `an alias`.
    pub fn with_article(self) -> String {
        format!("{} {}", if self == Kind::Alias { "an" } else { "a" }, self.as_str())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Kind::ALL.into_iter().find(|k| k.as_str() == text).ok_or_else(|| {
            Error::invalid(
                "kind",
                format!(
                    "`{text}` is no kind: it is one of directory, service, alias, group, computer, record, junction, principal, secret"
                ),
            )
        })
    }
}

/// One value of an attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(v) => write!(f, "{v}"),
            Value::Int(v) => write!(f, "{v}"),
            Value::Float(v) => write!(f, "{v}"),
            Value::Text(v) => f.write_str(v),
        }
    }
}

/// Attributes: each has one or several values.
pub type Attributes = BTreeMap<String, Vec<Value>>;

/// Which of several instances a `find` gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choose {
    /// The first in the order of their starts.
    #[default]
    First,
    /// The first to respond.
    Fastest,
    /// Any.
    Random,
    /// Each in turn.
    RoundRobin,
    /// The one with the least load.
    LeastLoaded,
    /// The nearest to the caller.
    Nearest,
    /// All of them.
    All,
}

/// What is declared about an object: the content of a table in a declarative file, of an `add` and of an `edit`. What
/// is absent is unsaid. The same struct is the JSON form and the patch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// What it is; a directory when unsaid at creation. Fixed from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Attributes; in a patch each named attribute is replaced.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "attributes")]
    pub attributes: Option<Attributes>,
    /// The attributes that may leave by the DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<Vec<String>>,
    /// Who is responsible; the creator when unsaid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// How long others may remember an answer about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// Service: how it is started. Without one it is only what advertises itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    /// Service: which instance a `find` gives. Junction: which of the servers is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choose: Option<Choose>,
    /// Alias: the name it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Name>,
    /// Group: names of its members, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<String>>,
    /// Group: the ids of its members, as they were when they were added or made: for access control a name that is used
    /// again is another member. Set by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_ids: Option<BTreeMap<String, ObjectId>>,
    /// Computer: its IP addresses, the best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Record: its value. Secret: the value, in requests only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "record_value")]
    pub value: Option<String>,
    /// Directory: attributes of what is beneath it that searches find without looking at every object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Vec<String>>,
    /// Junction: the servers that hold the rest of the tree: names or a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<String>>,
    /// Junction: what they speak (`byname.names/1`, `dns`, `ldap`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Junction: what is handed to them beside the rest of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// Who may do what with it and with what is beneath it, beyond what it inherits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<AclEntry>>,
    /// Which reads of it the audit log holds beside changes and refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audited>,
    /// Group, principal: what an authority off line has signed about it (`byname ca certify`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certified: Option<String>,
    /// Principal: it may not prove itself any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Secret: tells whether two values are the same, and nothing else. Set by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// What the audit log holds of an object beside changes, launches, refusals and authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audited {
    /// Nothing more.
    #[default]
    Changes,
    /// Every find and read of it and of what is beneath it.
    Reads,
}

/// The longest value of a secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// The most attributes that one directory may have indexed.
pub const MAX_INDEXED: usize = 16;

impl Spec {
    /// A declaration of this kind that says nothing more.
    pub fn of(kind: Kind) -> Self {
        Spec { kind: Some(kind), ..Spec::default() }
    }

    /// The kind, with the default.
    pub fn kind(&self) -> Kind {
        self.kind.unwrap_or(Kind::Directory)
    }

    /// Limits kept for every object, whoever declared it: field by field, each with its name.
    pub fn check(&self) -> Result<()> {
        let kind = self.kind();
        let belongs = |present: bool, field: &str, to: Kind| {
            if present && kind != to {
                Err(Error::invalid(
                    field,
                    format!("only {} has this, and this is {}", to.with_article(), kind.with_article()),
                ))
            } else {
                Ok(())
            }
        };
        belongs(self.launch.is_some(), "launch", Kind::Service)?;
        belongs(self.choose.is_some() && kind != Kind::Junction, "choose", Kind::Service)?;
        belongs(self.target.is_some(), "target", Kind::Alias)?;
        belongs(self.members.is_some(), "members", Kind::Group)?;
        belongs(self.member_ids.is_some(), "member_ids", Kind::Group)?;
        belongs(self.addresses.is_some(), "addresses", Kind::Computer)?;
        belongs(self.value.is_some() && kind != Kind::Secret, "value", Kind::Record)?;
        belongs(self.certified.is_some() && kind != Kind::Group, "certified", Kind::Principal)?;
        belongs(self.disabled.is_some(), "disabled", Kind::Principal)?;
        belongs(self.fingerprint.is_some(), "fingerprint", Kind::Secret)?;
        if self.acl.as_ref().is_some_and(|acl| acl.len() > MAX_ENTRIES) {
            return Err(Error::new(Code::TooLarge, format!("a list has {MAX_ENTRIES} entries at most")).field("acl"));
        }
        if self.acl.iter().flatten().any(|entry| entry.rights.is_empty()) {
            return Err(Error::invalid("acl", "an entry needs at least one right"));
        }
        if self.certified.as_ref().is_some_and(|c| c.len() > 64 << 10) {
            return Err(Error::new(Code::TooLarge, "a signed statement is 64 KiB at most").field("certified"));
        }
        belongs(self.index.is_some(), "index", Kind::Directory)?;
        belongs(self.servers.is_some(), "servers", Kind::Junction)?;
        belongs(self.interface.is_some(), "interface", Kind::Junction)?;
        belongs(self.parameter.is_some(), "parameter", Kind::Junction)?;
        if kind == Kind::Junction {
            self.check_junction()?;
        }
        if self.index.as_ref().is_some_and(|i| i.len() > MAX_INDEXED) {
            return Err(Error::invalid("index", format!("{MAX_INDEXED} attributes at most")));
        }
        if let Some(bad) = self.index.iter().flatten().find(|a| !is_attribute_name(a)) {
            return Err(Error::invalid("index", format!("`{}`: {ATTRIBUTE_NAME}", bad.escape_debug())));
        }
        if kind == Kind::Alias && self.target.is_none() {
            return Err(Error::invalid("target", "an alias needs the name that it stands for"));
        }
        if self.value.as_ref().is_some_and(|v| v.len() > MAX_VALUE_BYTES) {
            return Err(Error::new(Code::TooLarge, "a value is 1 MiB (1048576 bytes) at most").field("value"));
        }
        for (name, values) in self.attributes.iter().flatten() {
            if !is_attribute_name(name) {
                let field = format!("attributes.{}", name.chars().take(63).collect::<String>());
                return Err(Error::invalid(field, ATTRIBUTE_NAME));
            }
            let size: usize = values.iter().map(|v| if let Value::Text(t) = v { t.len() } else { 8 }).sum();
            if size > MAX_VALUE_BYTES {
                return Err(Error::new(Code::TooLarge, "an attribute is 1 MiB (1048576 bytes) at most")
                    .field(format!("attributes.{name}")));
            }
            if values.iter().any(|v| matches!(v, Value::Float(f) if !f.is_finite())) {
                return Err(Error::invalid(format!("attributes.{name}"), "a number must be finite"));
            }
        }
        for address in self.addresses.iter().flatten() {
            if address.parse::<std::net::IpAddr>().is_err() {
                return Err(Error::invalid("addresses", format!("`{}` is no IP address", address.escape_debug())));
            }
        }
        for member in self.members.iter().flatten() {
            Name::parse(member).map_err(|e| Error::from(e).field("members"))?;
        }
        if let Some(launch) = &self.launch {
            launch.check()?;
        }
        Ok(())
    }

    fn check_junction(&self) -> Result<()> {
        if self.servers.as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("servers", "a junction needs the servers that hold the rest of the tree"));
        }
        for server in self.servers.iter().flatten() {
            Name::parse(server).map_err(|e| Error::from(e).field("servers"))?;
        }
        // `byname.names/1`, `dns`: a word, and a version if it has several.
        let fits = |i: &String| {
            (1..=63).contains(&i.len()) && i.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        };
        if !self.interface.as_ref().is_some_and(fits) {
            return Err(Error::invalid(
                "interface",
                "a junction needs what its servers speak, a word such as byname.names/1, dns or ldap",
            ));
        }
        if self.parameter.as_ref().is_some_and(|p| p.len() > 4_096) {
            return Err(Error::new(Code::TooLarge, "a parameter is 4096 bytes at most").field("parameter"));
        }
        Ok(())
    }

    /// Lays the fields that `patch` gives over this one. Attributes are replaced one by one (an empty list removes
    /// one), a launch field by field.
    pub fn overlay(&mut self, patch: &Spec) {
        macro_rules! take { ($($f:ident),*) => { $( if patch.$f.is_some() { self.$f.clone_from(&patch.$f); } )* } }
        take!(public, owner, ttl, choose, target, members, addresses, value, index, servers, interface, parameter);
        take!(acl, audit, certified, disabled, fingerprint, member_ids);
        if let Some(changes) = &patch.attributes {
            let mine = self.attributes.get_or_insert_default();
            for (name, values) in changes {
                if values.is_empty() {
                    mine.remove(name);
                } else {
                    mine.insert(name.clone(), values.clone());
                }
            }
        }
        if let Some(launch) = &patch.launch {
            self.launch.get_or_insert_default().overlay(launch);
        }
    }

    /// Forgets one field by its dotted path (`ttl`, `launch.limits`, `attributes.title`).
    pub fn clear(&mut self, path: &str) -> Result<()> {
        macro_rules! forget { ($($f:ident),*) => {
            match path { $(stringify!($f) => { self.$f = None; true })* _ => false }
        } }
        let known = if let Some(field) = path.strip_prefix("launch.") {
            self.launch.as_mut().is_none_or(|l| l.clear(field))
        } else if let Some(name) = path.strip_prefix("attributes.") {
            if let Some(attributes) = &mut self.attributes {
                attributes.remove(name);
            }
            true
        } else {
            forget!(
                attributes, public, ttl, launch, choose, members, addresses, value, index, parameter, acl, audit,
                certified, disabled
            )
        };
        if known {
            Ok(())
        } else {
            Err(Error::invalid("clear", format!("there is no field `{}` to clear", path.escape_debug())))
        }
    }
}

const ATTRIBUTE_NAME: &str = "an attribute's name is 1 to 63 letters, digits, `-`, `_` or `.`";

fn is_attribute_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// An owner that somebody names is a principal; the words for callers without an object are taken as they appear in
/// stamps.
///
/// # Errors
///
/// `invalid-argument` for what is neither.
pub fn check_owner(owner: &str) -> Result<()> {
    if matches!(owner, "byname" | "token") || owner.parse::<Subject>().is_ok() {
        return Ok(());
    }
    Err(Error::invalid("owner", "must be the name of a principal (`/people/liu`) or `uid:NUMBER`"))
}

/// A value may be written as text, a number or a yes/no; it is kept as text.
fn record_value<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Option<String>, D::Error> {
    Ok(Option::<Value>::deserialize(d)?.map(|v| v.to_string()))
}

/// An attribute may be written as one value or a list.
fn attributes<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Option<Attributes>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Many(Vec<Value>),
        One(Value),
    }
    Ok(Option::<BTreeMap<String, Either>>::deserialize(d)?.map(|map| {
        map.into_iter()
            .map(|(name, either)| match either {
                Either::One(value) => (name, vec![value]),
                Either::Many(values) => (name, values),
            })
            .collect()
    }))
}

/// Who did something, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// When, by the primary's clock.
    pub at: Timestamp,
    /// The principal.
    pub by: String,
}

/// An object as a read shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Its name, as created.
    pub name: Name,
    /// Its immutable id.
    pub id: ObjectId,
    /// Its version, for conditional writes.
    pub version: Version,
    /// What is declared about it; the kind and the owner are always there.
    #[serde(flatten)]
    pub spec: Spec,
    /// When and by whom it was made.
    pub created: Stamp,
    /// When and by whom it was last changed.
    pub modified: Stamp,
    /// Service: its state and instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceStatus>,
    /// Computer with an agent: its state and load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostStatus>,
    /// Who holds its lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// The name in other worlds; what has no form there says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forms: Option<Forms>,
}

/// An object's name in other worlds (DESIGN section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forms {
    /// The DNS form, or why there is none.
    pub dns: String,
    /// The path in the HTTP interface.
    pub http: String,
    /// The distinguished name in LDAP and X.500, or why there is none.
    #[serde(default)]
    pub ldap: String,
    /// The SPIFFE id, or why there is none.
    #[serde(default)]
    pub spiffe: String,
}

/// The lock of an object, as others see it. It ends with its lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// The fencing token: greater than that of every earlier lock of the tree. Whoever is guarded by the lock refuses
    /// requests that carry a smaller one than the greatest it has seen.
    pub fence: u64,
    /// Who holds it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// How long it holds without renewal, in milliseconds.
    pub ttl_ms: u64,
}

/// The state of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service's name.
    pub name: Name,
    /// Derived from its instances.
    pub state: State,
    /// Its live instances, in the order of their starts.
    pub instances: Vec<Instance>,
    /// Nobody added it: it advertised itself and vanishes with its last instance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unregistered: bool,
    /// Somebody stopped it; it stays so until `launch` or `reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Stamp>,
    /// Starts since it was made.
    pub starts: u64,
    /// Failures within the restart budget's window.
    pub failures: u32,
    /// The last end of an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// Its stable sockets, on the hosts that hold them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listening: Vec<Listening>,
}

/// A stable socket on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listening {
    /// The host.
    pub computer: Name,
    /// The socket, as declared.
    pub socket: String,
    /// Why it cannot be listened on, when it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How the last instance ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    /// Which.
    pub instance: InstanceId,
    /// When.
    pub at: Timestamp,
    /// In words: `exited with status 1`.
    pub how: String,
    /// The last lines it wrote, made printable.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_lines: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        // Declarations are stored and sent as JSON, and servers must agree to the last bit.
        #[test]
        fn numbers_are_the_same_after_json(number in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            let json = serde_json::to_string(&Value::Float(number)).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), Value::Float(number), "{}", json);
        }
    }

    #[test]
    fn ids_read_back() {
        for n in [0, 1, 31, 32, u64::MAX, 0x1234_5678_9abc_def0] {
            assert_eq!(Version(n).to_string().parse::<Version>().unwrap(), Version(n));
        }
        for bad in ["", "v", "vu", "o1", "v00000000000000", "vzzzzzzzzzzzzz", "v1 "] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_s_table_reads() {
        let spec: Spec = toml::from_str("kind = 'record'\nvalue = 7\nattributes = { a = 1, b = ['x', true] }").unwrap();
        assert_eq!(spec.value.as_deref(), Some("7"));
        assert_eq!(spec.attributes.as_ref().unwrap()["b"], [Value::Text("x".into()), Value::Bool(true)]);
        spec.check().unwrap();
    }

    #[test]
    fn fields_of_other_kinds_are_refused() {
        for (text, field) in [
            ("kind = 'record'\nmembers = []", "members"),
            ("kind = 'service'\nvalue = 'x'", "value"),
            ("kind = 'alias'", "target"),
            ("kind = 'computer'\naddresses = ['home']", "addresses"),
            ("attributes = { 'a b' = 1 }", "attributes.a b"),
        ] {
            let error = toml::from_str::<Spec>(text).unwrap().check().unwrap_err();
            assert_eq!(error.at_field(), Some(field), "{text}");
        }
    }

    #[test]
    fn a_patch_changes_what_it_names_and_clear_forgets() {
        let mut spec: Spec = toml::from_str("kind = 'service'\nttl = '5s'\nattributes = { a = 1, b = 2 }").unwrap();
        spec.overlay(&toml::from_str("attributes = { a = [], c = 3 }\nlaunch = { program = 'x' }").unwrap());
        assert_eq!(spec.attributes.as_ref().unwrap().keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(spec.launch.as_ref().unwrap().program.as_deref(), Some("x"));
        assert_eq!(spec.ttl, Some(Span::from_secs(5)));
        spec.clear("attributes.b").unwrap();
        spec.clear("ttl").unwrap();
        assert!(spec.clear("kind").is_err());
        assert_eq!((spec.ttl, spec.attributes.unwrap().len()), (None, 1));
    }
}
