//! Every mechanism ends here: what a connection or a request shows becomes a caller.
//!
//! A session or a certificate says who somebody was when it was given. Whether the object is still there, not shut out,
//! and nothing was revoked since, is looked up in the view; the answer is remembered for a second, and forgotten at once
//! when this server learns of a change that could matter.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use papaya::HashMap;
use tokio::time::Instant;

use byname_api::caller::{
    Authenticator, Caller, Certificate, LEFT_OUT, Mechanism, Peer, Standing, same_secret, unknown_token,
};
use byname_api::error::{Code, Error, NO_PRIMARY, Result};
use byname_api::object::{InstanceId, ObjectId};
use byname_api::span::Timestamp;
use byname_name::Name;
use byname_registry::{Event, Tree};

use super::Identity;
use crate::{Inner, Node, start};

/// How long a look-up of a session or certificate is good for.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// What was made within this time may not be known to every server yet.
const NEW: Duration = Duration::from_secs(10);
/// Sessions and certificates that are remembered; beyond it, all are looked up anew.
const REMEMBERED: usize = 65_536;

/// Callers that proved themselves within the last second, by what they showed.
#[derive(Default)]
pub(crate) struct Known(HashMap<Shown, Arc<(Instant, Caller)>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shown {
    Session(String),
    Certificate([u8; 32]),
}

impl Known {
    fn recall(&self, shown: &Shown) -> Option<Caller> {
        let map = self.0.pin();
        let known = map.get(shown)?;
        (known.0.elapsed() < GOOD_FOR).then(|| known.1.clone())
    }

    fn remember(&self, shown: Shown, caller: &Caller) {
        let map = self.0.pin();
        if map.len() >= REMEMBERED {
            map.clear();
        }
        map.insert(shown, Arc::new((Instant::now(), caller.clone())));
    }

    /// Forgets everybody: something changed that could matter.
    pub(crate) fn forget(&self) {
        self.0.pin().clear();
    }
}

impl Node {
    /// What turns connections and requests into callers.
    pub fn authenticator(&self) -> Arc<dyn Authenticator> {
        Arc::new(Front(self.inner.clone()))
    }
}

struct Front(Arc<Inner>);

impl Authenticator for Front {
    fn local(&self, uid: u32, pid: Option<u32>) -> Result<Caller> {
        self.0.is_established()?;
        // The socket's mode lets only the server's own user and root connect.
        Ok(Caller::local(uid, pid))
    }

    fn bearer(&self, peer: Peer, token: &str) -> Result<Caller> {
        let inner = &self.0;
        inner.is_established()?;
        let Some(identity) = inner.identity() else { return Err(unknown_token()) };
        let here = peer.is_loopback() || matches!(peer, Peer::Socket { .. });
        if token.starts_with(byname_identity::session::PREFIX) {
            let caller = inner.session(identity, token)?;
            identity.limits.request(peer, caller.id)?;
            return Ok(caller);
        }
        if here && same_secret(token.as_bytes(), identity.token.as_bytes()) {
            return Ok(Caller::full("token", Mechanism::Token));
        }
        Err(unknown_token())
    }

    fn certificate(&self, peer: Peer, certificate: &Certificate) -> Result<Caller> {
        let inner = &self.0;
        if let Err(error) = inner.is_established() {
            // Servers bring what this one waits for.
            if certificate.id.is_some() || !is_server(&certificate.name) {
                return Err(error);
            }
            if inner.was_removed(&certificate.name) {
                return Err(left_out(&certificate.name));
            }
            return Ok(Caller::full(certificate.name.to_string(), Mechanism::Certificate));
        }
        let identity = inner.own_identity()?;
        let caller = inner.by_certificate(identity, certificate)?;
        // Another server asks for many.
        if caller.server().is_none() {
            identity.limits.request(peer, caller.id)?;
        }
        Ok(caller)
    }

    fn anonymous(&self, peer: Peer) -> Result<Caller> {
        self.0.is_established()?;
        if let Some(identity) = self.0.identity() {
            identity.limits.request(peer, None)?;
        }
        Ok(Caller::anonymous())
    }

    fn passed_on(&self, caller: &Caller) -> Result<()> {
        self.0.still_holds(caller)
    }

    fn refused(&self, peer: Peer, error: &Error) {
        // A server that is starting refuses everybody: that says nothing about them.
        if matches!(error.code(), Code::RateLimited | Code::Unavailable) {
            return;
        }
        let address = match peer {
            Peer::Tcp { address, .. } => Some(address),
            Peer::Internal | Peer::Socket { .. } => None,
        };
        let caller = Caller { address, ..Caller::anonymous() };
        self.0.note_refusal(&caller, "authenticate", None, error);
    }
}

impl Inner {
    /// Whether it can tell who is who, if it ever will.
    fn is_established(&self) -> Result<()> {
        if self.awaits_identity.load(Ordering::Relaxed) && self.identity().is_none() {
            let what = "the server is starting, and has not heard from a majority of the others yet: ask another one, or \
                        again";
            return Err(Error::new(Code::Unavailable, what).field(NO_PRIMARY));
        }
        Ok(())
    }

    fn session(&self, identity: &Identity, token: &str) -> Result<Caller> {
        let shown = Shown::Session(token.to_owned());
        if let Some(caller) = identity.known.recall(&shown) {
            return Ok(caller);
        }
        let tree = self.view.load();
        // The later of two clocks: one that was set back makes no session longer.
        let now = start::now().max(tree.now);
        let claims = identity.sessions.read(token, now)?;
        if tree.is_revoked(claims.session) {
            return Err(ended("the session was ended"));
        }
        let (Ok(name), Some(id)) = (Name::parse(&claims.principal), claims.id) else {
            return Err(ended("the session names nobody"));
        };
        let mechanism = claims.mechanism.parse().unwrap_or(Mechanism::Password);
        let caller = self.still_there(&tree, &name, id, claims.instance, claims.issued)?;
        let caller = Caller {
            mechanism,
            evidence: Some(format!("session {:016x}", claims.session).into()),
            expires: Some(claims.expires),
            issued: Some(claims.issued),
            session: Some(claims.session),
            ..caller
        };
        identity.known.remember(shown, &caller);
        Ok(caller)
    }

    fn by_certificate(&self, identity: &Identity, certificate: &Certificate) -> Result<Caller> {
        let shown = Shown::Certificate(certificate.fingerprint);
        if let Some(caller) = identity.known.recall(&shown) {
            return Ok(caller);
        }
        let tree = self.view.load();
        // A connection outlives the handshake in which this was checked.
        if start::now().max(tree.now) >= certificate.not_after {
            return Err(ended("the certificate has expired"));
        }
        let evidence: Arc<str> =
            format!("{} serial {}", byname_api::identity::fingerprint(&certificate.fingerprint), certificate.serial)
                .into();
        let caller = match certificate.id {
            Some(id) => self.still_there(&tree, &certificate.name, id, certificate.instance, certificate.issued)?,
            // Servers are no objects of the tree; nobody else gets a certificate without an id.
            None if is_server(&certificate.name) => {
                // Not by who belongs to the cluster now: a server that is behind does not know the newest yet.
                if self.was_removed(&certificate.name) {
                    return Err(left_out(&certificate.name));
                }
                Caller::full(certificate.name.to_string(), Mechanism::Certificate)
            }
            None => return Err(ended("the certificate has no id of who it names (`byname ca sign --id`)")),
        };
        let caller = Caller {
            mechanism: Mechanism::Certificate,
            evidence: Some(evidence),
            expires: Some(certificate.not_after),
            issued: Some(certificate.issued),
            ..caller
        };
        identity.known.remember(shown, &caller);
        Ok(caller)
    }

    /// Whether a principal that proved itself at `since` is still the one of that name, and not shut out.
    pub(crate) fn still_there(
        &self,
        tree: &Tree,
        name: &Name,
        id: ObjectId,
        instance: Option<InstanceId>,
        since: Timestamp,
    ) -> Result<Caller> {
        let node = tree.by_id(id).filter(|node| node.name.key() == name.key());
        let node = node.ok_or_else(|| {
            // What is new may be known to the others already, and not here.
            if !self.reigns() && start::now().0.saturating_sub(since.0) < NEW.as_millis() as u64 {
                let what = "this server has not heard of the principal yet: ask another one, or again";
                return Error::new(Code::Unavailable, what).field(NO_PRIMARY);
            }
            ended("the principal is not there any more")
        })?;
        if node.spec.disabled == Some(true) {
            let what = format!("`{}` is disabled: an admin can enable it (`byname principal enable`)", node.name);
            return Err(Error::new(Code::Unauthenticated, what));
        }
        if tree.credentials(id).is_some_and(|credentials| since < credentials.valid_from) {
            return Err(ended("what was given before was revoked"));
        }
        if let Some(instance) = instance {
            let service = node.service.as_deref();
            let copy = service.and_then(|service| service.instance(instance));
            if copy.is_none_or(|copy| copy.revoked) {
                return Err(ended("the instance has ended or was revoked"));
            }
        }
        let caller = Caller::authenticated(&node.name, id, Mechanism::None);
        Ok(Caller { instance, standing: Standing::Authenticated, ..caller })
    }

    /// Whether a caller of a long stream is still somebody.
    pub(crate) fn is_still_there(&self, caller: &Caller) -> bool {
        let (Some(name), Some(id)) = (&caller.name, caller.id) else { return true };
        if caller.expires.is_some_and(|end| start::now().max(self.view.load().now) >= end) {
            return false;
        }
        let since = caller.issued.unwrap_or(Timestamp(u64::MAX));
        self.still_there(&self.view.load(), name, id, caller.instance, since).is_ok()
    }

    /// Whether what a caller has proved holds by what is known here now: another server, or this one a moment ago, may have
    /// admitted it without knowing that it is shut out.
    pub(crate) fn still_holds(&self, caller: &Caller) -> Result<()> {
        let (Some(name), Some(id)) = (&caller.name, caller.id) else { return Ok(()) };
        let tree = self.view.load();
        if caller.session.is_some_and(|session| tree.is_revoked(session)) {
            return Err(ended("the session was ended"));
        }
        let since = caller.issued.unwrap_or(Timestamp(u64::MAX));
        self.still_there(&tree, name, id, caller.instance, since).map(drop)
    }

    /// Whether the caller is a host of the tree.
    pub(crate) fn is_computer(&self, caller: &Caller) -> bool {
        let tree = self.view.load();
        let node = caller.id.and_then(|id| tree.by_id(id));
        node.is_some_and(|node| node.kind() == byname_api::object::Kind::Computer)
    }

    pub(crate) fn forget_known(&self) {
        if let Some(identity) = self.identity() {
            identity.known.forget();
        }
    }

    /// Forgets who was looked up when an event could change the answer.
    pub(crate) fn follow_principals(&self, event: &Event) {
        let matters = match event {
            Event::Object { node, change, .. } => {
                matches!(node.kind(), byname_api::object::Kind::Principal)
                    || *change == byname_api::request::Change::Deleted
            }
            // A copy that was revoked is one of these too.
            Event::Service(_) | Event::Ended { .. } => true,
            _ => false,
        };
        if matters && let Some(identity) = self.identity() {
            identity.known.forget();
        }
    }
}

fn is_server(name: &Name) -> bool {
    let labels: Vec<&str> = name.labels().collect();
    matches!(labels.as_slice(), ["byname", "servers", _])
}

/// What a server hears that does not belong to the cluster any more; it ends by it.
fn left_out(server: &Name) -> Error {
    let what = format!(
        "`{server}` was taken out of the cluster, or left out when the cluster began anew: it must not go on with what is on its \
         disk. Let it join anew with a new data directory (`byname cluster invite --name-server`, `byname server --join TOKEN`)"
    );
    Error::new(Code::Unauthenticated, what).field(LEFT_OUT)
}

fn ended(why: &str) -> Error {
    Error::new(Code::Unauthenticated, format!("{why}: sign in again (`byname login`), or get another certificate"))
}
