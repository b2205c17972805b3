//! Who may prove what: credentials, tickets of introduction, join tokens, revocations, and what is kept sealed.
//!
//! All of it is kept beside the objects, in persistent maps, so that a frozen view has it. Whatever ends, ends by logged
//! time: it counts as gone from then on, and is swept out a little with every command.

use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use byname_api::error::{Code, Error, Result};
use byname_api::identity::JoinAs;
use byname_api::object::{InstanceId, Kind, ObjectId, Spec, Stamp};
use byname_api::request::Op;
use byname_api::span::Timestamp;
use byname_name::Name;

use crate::batch;
use crate::command::{CredentialChange, Event, Reply, Revoked};
use crate::lifecycle;
use crate::tree::Tree;

/// Introductions whose tickets nobody has shown yet.
const MAX_INTRODUCTIONS: usize = 100_000;
/// Join tokens that nobody has used yet.
const MAX_INVITES: usize = 10_000;
/// Sessions that were revoked and have not ended by themselves.
const MAX_REVOKED: usize = 200_000;
/// Anchors kept for each server, the newest.
const MAX_ANCHORS: usize = 1_024;
/// Servers whose anchors are kept.
const MAX_SERVERS: usize = 1_024;
/// Passkeys of one principal.
const MAX_PASSKEYS: usize = 32;
/// The longest label of a passkey, in bytes.
const MAX_LABEL: usize = 128;
/// So many of each kind that have ended are swept out with one command.
const SWEEP: usize = 64;

/// What a principal proves itself with.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The password file, sealed.
    pub password: Option<Arc<[u8]>>,
    /// Passkeys and security keys, in the order in which they were added.
    pub passkeys: Vec<Passkey>,
    /// Sessions and certificates that were given before this moment do not count any more.
    pub valid_from: Timestamp,
}

/// A passkey or security key.
#[derive(Clone, PartialEq, Eq)]
pub struct Passkey {
    /// What its owner calls it.
    pub label: String,
    /// The public key and its counter, sealed.
    pub key: Arc<[u8]>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<&str> = self.passkeys.iter().map(|p| p.label.as_str()).collect();
        f.debug_struct("Credentials")
            .field("password", &self.password.is_some())
            .field("passkeys", &labels)
            .field("valid_from", &self.valid_from)
            .finish()
    }
}

impl fmt::Debug for Passkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passkey({:?})", self.label)
    }
}

/// A ticket of introduction that nobody has shown yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Introduction {
    pub(crate) client: String,
    pub(crate) client_id: Option<ObjectId>,
    pub(crate) service: ObjectId,
    pub(crate) instance: InstanceId,
}

/// A join token that nobody has used yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Invite {
    pub(crate) join_as: JoinAs,
    pub(crate) computer: Option<Name>,
}

/// Things by key, each until its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expiring<K: Ord + Clone, V: Clone> {
    by_key: OrdMap<K, (Timestamp, V)>,
    by_end: OrdSet<(Timestamp, K)>,
}

impl<K: Ord + Clone, V: Clone> Default for Expiring<K, V> {
    fn default() -> Self {
        Expiring { by_key: OrdMap::new(), by_end: OrdSet::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Expiring<K, V> {
    pub(crate) fn get(&self, key: &K, now: Timestamp) -> Option<&V> {
        self.by_key.get(key).filter(|(end, _)| *end > now).map(|(_, value)| value)
    }

    pub(crate) fn insert(&mut self, key: K, end: Timestamp, value: V) {
        self.remove(&key);
        self.by_end.insert((end, key.clone()));
        self.by_key.insert(key, (end, value));
    }

    fn remove(&mut self, key: &K) {
        if let Some((end, _)) = self.by_key.remove(key) {
            self.by_end.remove(&(end, key.clone()));
        }
    }

    fn has_ended(&self, now: Timestamp) -> bool {
        self.by_end.get_min().is_some_and(|(end, _)| *end <= now)
    }

    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..SWEEP {
            let Some((_, key)) = self.by_end.get_min().filter(|(end, _)| *end <= now).cloned() else { break };
            self.remove(&key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// In the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, Timestamp, &V)> {
        self.by_key.iter().map(|(key, (end, value))| (key, *end, value))
    }
}

/// All of it. Behind one pointer in the tree, because most commands change none of it.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Identity {
    pub(crate) credentials: OrdMap<ObjectId, Arc<Credentials>>,
    pub(crate) vault: OrdMap<String, Arc<[u8]>>,
    /// The sealed values of secrets.
    pub(crate) secrets: OrdMap<ObjectId, Arc<str>>,
    pub(crate) introductions: Expiring<[u8; 32], Arc<Introduction>>,
    pub(crate) invites: Expiring<[u8; 32], Arc<Invite>>,
    pub(crate) revoked: Expiring<u64, ()>,
    pub(crate) anchors: OrdMap<u64, OrdMap<u64, [u8; 32]>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sealed or not, none of it belongs into a message.
        f.write_str("Identity(…)")
    }
}

impl Identity {
    fn has_ended(&self, now: Timestamp) -> bool {
        self.introductions.has_ended(now) || self.invites.has_ended(now) || self.revoked.has_ended(now)
    }
}

impl Tree {
    /// What this principal proves itself with.
    pub fn credentials(&self, id: ObjectId) -> Option<&Credentials> {
        self.identity.credentials.get(&id).map(|c| &**c)
    }

    /// What the server keeps sealed under a key.
    pub fn vault(&self, key: &str) -> Option<&[u8]> {
        self.identity.vault.get(key).map(|sealed| &**sealed)
    }

    /// The sealed value of a secret.
    pub fn secret(&self, id: ObjectId) -> Option<Arc<str>> {
        self.identity.secrets.get(&id).cloned()
    }

    /// Whether a session was revoked before its end.
    pub fn is_revoked(&self, session: u64) -> bool {
        self.identity.revoked.get(&session, self.now).is_some()
    }

    /// The newest heads of a server's audit log that are known to all, in their order: sequence and hash.
    pub fn anchors(&self, server: u64) -> Vec<(u64, [u8; 32])> {
        self.identity.anchors.get(&server).into_iter().flatten().map(|(sequence, hash)| (*sequence, *hash)).collect()
    }

    /// The servers with an audit log that is anchored.
    pub fn anchored_servers(&self) -> Vec<u64> {
        self.identity.anchors.keys().copied().collect()
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn identity_mut(&mut self) -> &mut Identity {
        Arc::make_mut(&mut self.identity)
    }

    /// Forgets what belonged to an object that is gone.
    pub(crate) fn forget_identity(&mut self, id: ObjectId) {
        if self.identity.secrets.contains_key(&id) {
            self.identity_mut().secrets.remove(&id);
        }
        if self.identity.credentials.contains_key(&id) {
            self.identity_mut().credentials.remove(&id);
        }
    }

    /// Forgets some of what has ended.
    pub(crate) fn sweep(&mut self) {
        let now = self.now;
        if self.identity.has_ended(now) {
            let identity = self.identity_mut();
            identity.introductions.sweep(now);
            identity.invites.sweep(now);
            identity.revoked.sweep(now);
        }
    }
}

fn gone(id: ObjectId) -> Error {
    Error::new(Code::NotFound, format!("the object {id} is not there any more"))
}

fn too_many(what: &str) -> Error {
    Error::new(Code::RateLimited, format!("there are too many {what} that wait: try again in a while"))
}

pub(crate) fn credential(tree: &mut Tree, principal: ObjectId, change: &CredentialChange) -> Result<Reply> {
    let node = tree.by_id(principal).ok_or_else(|| gone(principal))?;
    if node.kind() != Kind::Principal {
        return Err(Error::new(
            Code::Unsupported,
            format!("`{}` is {}: only a principal has credentials", node.name, node.kind().with_article()),
        ));
    }
    let now = tree.now;
    let mut credentials = tree.credentials(principal).cloned().unwrap_or_default();
    let missing = |label: &str| {
        Error::new(Code::NotFound, format!("`{}` has no passkey `{}`", node.name, label.escape_debug())).field("label")
    };
    let place = |all: &[Passkey], label: &str| all.iter().position(|p| p.label == label);
    match change {
        CredentialChange::Password(password) => {
            // Whoever knew the one before may have sessions.
            if credentials.password.is_some() {
                credentials.valid_from = Timestamp(now.0.saturating_add(1));
            }
            credentials.password = password.as_deref().map(Into::into);
        }
        CredentialChange::AddPasskey { label, key } => {
            if label.is_empty() || label.len() > MAX_LABEL || label.chars().any(char::is_control) {
                return Err(Error::invalid("label", format!("a label is 1 to {MAX_LABEL} bytes of text")));
            }
            if place(&credentials.passkeys, label).is_some() {
                let what = format!("`{}` has a passkey `{label}` already: give this one another label", node.name);
                return Err(Error::new(Code::AlreadyExists, what).field("label"));
            }
            if credentials.passkeys.len() >= MAX_PASSKEYS {
                let what = format!("`{}` has {MAX_PASSKEYS} passkeys, which is the most: remove one", node.name);
                return Err(Error::new(Code::TooLarge, what));
            }
            credentials.passkeys.push(Passkey { label: label.clone(), key: key.as_slice().into() });
        }
        CredentialChange::UpdatePasskey { label, key } => {
            let passkey = credentials.passkeys.iter_mut().find(|p| p.label == *label).ok_or_else(|| missing(label))?;
            passkey.key = key.as_slice().into();
        }
        CredentialChange::RemovePasskey { label } => {
            let at = place(&credentials.passkeys, label).ok_or_else(|| missing(label))?;
            credentials.passkeys.remove(at);
        }
    }
    tree.identity_mut().credentials.insert(principal, Arc::new(credentials));
    Ok(Reply::Done)
}

pub(crate) fn vault(tree: &mut Tree, key: &str, sealed: &[u8], only_if_absent: bool) -> Result<Reply> {
    if only_if_absent && tree.vault(key).is_some() {
        return Err(Error::new(Code::Conflict, format!("something is kept under `{}` already", key.escape_debug())));
    }
    tree.identity_mut().vault.insert(key.to_owned(), sealed.into());
    Ok(Reply::Done)
}

/// The words of `Command::Introduce`.
pub(crate) struct Wanted<'a> {
    pub(crate) ticket: [u8; 32],
    pub(crate) client: &'a str,
    pub(crate) client_id: Option<ObjectId>,
    pub(crate) service: ObjectId,
    pub(crate) instance: InstanceId,
    pub(crate) expires: Timestamp,
}

pub(crate) fn introduce(tree: &mut Tree, wanted: &Wanted<'_>) -> Result<Reply> {
    let node = tree.by_id(wanted.service).ok_or_else(|| gone(wanted.service))?;
    let holds = node.service.as_deref().and_then(|s| s.instance(wanted.instance)).is_some_and(|i| i.holds_ticket());
    if !holds {
        return Err(Error::new(
            Code::Denied,
            format!("`{}` has no instance {} that has shown its ticket and holds it still", node.name, wanted.instance),
        )
        .field("instance"));
    }
    if wanted.expires <= tree.now {
        return Err(Error::invalid("expires", "is over"));
    }
    if tree.identity.introductions.len() >= MAX_INTRODUCTIONS {
        return Err(too_many("introductions"));
    }
    let introduction = Introduction {
        client: wanted.client.to_owned(),
        client_id: wanted.client_id,
        service: wanted.service,
        instance: wanted.instance,
    };
    tree.identity_mut().introductions.insert(wanted.ticket, wanted.expires, Arc::new(introduction));
    Ok(Reply::Done)
}

pub(crate) fn verify(tree: &mut Tree, ticket: [u8; 32], instance: InstanceId) -> Result<Reply> {
    // One sentence for all of it: whoever guesses learns nothing.
    let refused = || {
        Error::new(
            Code::Denied,
            "the ticket is not good: it is unknown, used or expired, or it was made for another instance",
        )
        .field("ticket")
    };
    let now = tree.now;
    let found = tree.identity.introductions.get(&ticket, now).filter(|i| i.instance == instance).cloned();
    let introduction = found.ok_or_else(refused)?;
    let node = tree.by_id(introduction.service).ok_or_else(refused)?;
    let holds = node.service.as_deref().and_then(|s| s.instance(instance)).is_some_and(|i| i.holds_ticket());
    if !holds {
        return Err(refused());
    }
    tree.identity_mut().introductions.remove(&ticket);
    Ok(Reply::Verified { client: introduction.client.clone(), client_id: introduction.client_id })
}

pub(crate) fn invite(
    tree: &mut Tree,
    secret: [u8; 32],
    join_as: JoinAs,
    computer: Option<&Name>,
    expires: Timestamp,
) -> Result<Reply> {
    if expires <= tree.now {
        return Err(Error::invalid("expires", "is over"));
    }
    if tree.identity.invites.len() >= MAX_INVITES {
        return Err(too_many("join tokens"));
    }
    let invite = Invite { join_as, computer: computer.cloned() };
    tree.identity_mut().invites.insert(secret, expires, Arc::new(invite));
    Ok(Reply::Done)
}

pub(crate) fn join(
    tree: &mut Tree,
    secret: [u8; 32],
    computer: &Name,
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Result<Reply> {
    let refused = || {
        Error::new(
            Code::Denied,
            "the join token is not good: it is unknown, used or expired, or it was made for another \
             computer (a host that is in the tree already needs a token that names it)",
        )
        .field("secret")
    };
    let now = tree.now;
    let invite = tree.identity.invites.get(&secret, now).cloned().ok_or_else(refused)?;
    if invite.computer.as_ref().is_some_and(|only| only.key() != computer.key()) {
        return Err(refused());
    }
    // A token for an agent makes no server, nor one for a server a host; and it is not used up by the attempt.
    let labels: Vec<&str> = computer.labels().collect();
    let server = matches!(labels.as_slice(), ["byname", "servers", _]);
    if server != (invite.join_as == JoinAs::Server) {
        return Err(refused());
    }
    let place = tree.follow(computer, true, None)?;
    let node = match tree.get(&place) {
        // A token for any host is for a new one: else whoever holds it could pass for a host that is there.
        Some(_) if invite.computer.is_none() => return Err(refused()),
        Some(node) => node,
        None => {
            let kind = if server { Kind::Service } else { Kind::Computer };
            let op = Op::Add { name: place.clone(), spec: Spec::of(kind) };
            batch::apply(tree, &[op], None, stamp, false, events)?;
            tree.get(&place).ok_or_else(|| Error::internal(format!("`{place}` was made and is not there")))?
        }
    };
    if node.kind() != if server { Kind::Service } else { Kind::Computer } {
        return Err(Error::new(
            Code::Conflict,
            format!("`{}` is {}: a computer needs a name of its own", node.name, node.kind().with_article()),
        )
        .field("computer"));
    }
    tree.identity_mut().invites.remove(&secret);
    Ok(Reply::Joined { computer: node.id, join_as: invite.join_as })
}

pub(crate) fn revoke(tree: &mut Tree, what: Revoked, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    match what {
        Revoked::Instance(instance) => lifecycle::revoke(tree, instance, stamp, events),
        Revoked::Principal(id) => {
            if tree.by_id(id).is_none() {
                return Err(gone(id));
            }
            // What was given within this millisecond came before.
            let valid_from = Timestamp(tree.now.0.saturating_add(1));
            let credentials = Credentials { valid_from, ..tree.credentials(id).cloned().unwrap_or_default() };
            tree.identity_mut().credentials.insert(id, Arc::new(credentials));
            Ok(Reply::Done)
        }
        Revoked::Session { session, until } => {
            if until <= tree.now {
                return Ok(Reply::Done);
            }
            if tree.identity.revoked.len() >= MAX_REVOKED {
                return Err(Error::new(
                    Code::RateLimited,
                    "too many sessions are revoked already: revoke the principal, or wait until some have ended",
                ));
            }
            tree.identity_mut().revoked.insert(session, until, ());
            Ok(Reply::Done)
        }
    }
}

pub(crate) fn anchor(tree: &mut Tree, server: u64, sequence: u64, hash: [u8; 32]) -> Result<Reply> {
    let known = tree.identity.anchors.get(&server);
    match known.and_then(|a| a.get(&sequence)) {
        Some(there) if *there == hash => return Ok(Reply::Done),
        Some(_) => {
            return Err(Error::new(
                Code::Conflict,
                format!("record {sequence} of the audit log of server {server} was anchored with another hash"),
            ));
        }
        None => {}
    }
    if let Some((newest, _)) = known.and_then(|a| a.get_max()).filter(|(newest, _)| *newest > sequence) {
        return Err(Error::new(
            Code::Conflict,
            format!("the audit log of server {server} is anchored up to record {newest}, and {sequence} is older"),
        ));
    }
    if known.is_none() && tree.identity.anchors.len() >= MAX_SERVERS {
        return Err(too_many("servers with an audit log"));
    }
    let anchors = tree.identity_mut().anchors.entry(server).or_default();
    anchors.insert(sequence, hash);
    while anchors.len() > MAX_ANCHORS {
        let Some(oldest) = anchors.get_min().map(|(sequence, _)| *sequence) else { break };
        anchors.remove(&oldest);
    }
    Ok(Reply::Done)
}

/// A secret's value as it comes: sealed, with the fingerprint in front.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sealed {
    pub(crate) fingerprint: String,
    pub(crate) text: Arc<str>,
}

/// The longest sealed value: the largest in base64, with room for what sealing adds.
const MAX_SEALED: usize = byname_api::object::MAX_SECRET_BYTES / 3 * 4 + 1_024;

impl Sealed {
    /// Reads `FINGERPRINT.BASE64`.
    pub(crate) fn parse(text: &str) -> Result<Sealed> {
        let word = |c: u8| c.is_ascii_alphanumeric() || b"-_+/:=".contains(&c);
        let fits = |part: &str, most| (1..=most).contains(&part.len()) && part.bytes().all(word);
        match text.split_once('.') {
            Some((fingerprint, rest)) if fits(fingerprint, 128) && fits(rest, MAX_SEALED) => {
                Ok(Sealed { fingerprint: fingerprint.to_owned(), text: text.into() })
            }
            _ => Err(Error::invalid("value", "the value of a secret reaches the log sealed, and this is not")),
        }
    }
}
