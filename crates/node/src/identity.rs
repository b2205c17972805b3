//! Who is who: what a server needs to prove itself and others, and the operations of identity.
//!
//! The authority and the password set-up are made at the first start and lie in the replicated state, sealed under the
//! cluster key, so that every server of the zone issues and checks the same. The key itself is in no log.

pub(crate) mod authenticate;
mod certify;
mod enrol;
mod introduce;
mod join;
mod limits;
mod login;
mod pairs;
mod secrets;

pub use pairs::Paired;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use tokio::time::Instant;

use byname_api::caller::Caller;
use byname_api::error::{Code, Error, Result};
use byname_api::identity::{Secret, TrustReply};
use byname_api::object::{Kind, ObjectId};
use byname_api::span::Timestamp;
use byname_audit::Audit;
use byname_identity::authority::{Authority, Certificate, SigningRequest, Subject, Usage};
use byname_identity::certified::{self, About};
use byname_identity::passkey::{self, Passkeys};
use byname_identity::password::PasswordServer;
use byname_identity::seal::ClusterKey;
use byname_identity::session::Sessions;
use byname_name::Name;
use byname_registry::{Command, Node as Object, Reply};

use crate::{Inner, Node, start};

/// How long a session holds that somebody signed in to.
pub(crate) const SESSION: Duration = Duration::from_secs(12 * 3_600);
/// How long a step of a mechanism may take.
const ATTEMPT: Duration = Duration::from_secs(60);
/// How long a page that somebody is sent to is good for.
const PAGE: Duration = Duration::from_secs(600);
/// Attempts that may be open at once, so that those who have not proved anything cannot fill the memory.
const ATTEMPTS: usize = 4_096;

/// What a server is given to prove itself and others.
pub struct Setup {
    /// The trust domain; also the DNS suffix and the relying party of passkeys.
    pub domain: String,
    /// The key that the servers of the cluster share.
    pub key: ClusterKey,
    /// The bearer token of the server's own user.
    pub token: String,
    /// The audit log.
    pub audit: Option<Audit>,
    /// Callers that have not said who they are may find, list and read where no list says otherwise (`byname dev`).
    pub anyone_looks: bool,
    /// Web origins that passkeys may be used from.
    pub origins: Vec<String>,
    /// The relying party of passkeys: the trust domain, or `localhost` under `byname dev`.
    pub relying_party: String,
    /// An authority that was signed elsewhere, in place of one of our own making.
    pub external: Option<Authority>,
    /// Host names that the server's certificate may have beside those of the trust domain.
    pub hosts: Vec<String>,
    /// Where join tokens say that servers are.
    pub servers: Vec<String>,
}

/// What a server that has a [`Setup`] holds.
pub(crate) struct Identity {
    pub(crate) domain: String,
    pub(crate) key: ClusterKey,
    pub(crate) token: String,
    pub(crate) audit: Option<Audit>,
    pub(crate) anyone_looks: bool,
    pub(crate) authority: Arc<ArcSwap<Authority>>,
    /// Whether what an authority off line has signed about an object holds.
    pub(crate) certified: Box<dyn Fn(&Object) -> bool + Send + Sync>,
    pub(crate) sessions: Sessions,
    pub(crate) passwords: PasswordServer,
    pub(crate) passkeys: Passkeys,
    pub(crate) servers: Vec<String>,
    pub(crate) limits: limits::Limits,
    pub(crate) known: authenticate::Known,
    attempts: Attempts,
}

impl Node {
    /// Makes the server one that can tell who is who. What is not in the replicated state yet is made and put there.
    ///
    /// # Errors
    ///
    /// `unavailable` when the log does not take it; `invalid-argument` when the key is not that of this cluster.
    pub async fn establish(&self, setup: Setup) -> Result<()> {
        let inner = &self.inner;
        let now = start::now();
        let authority = match setup.external {
            Some(given) => {
                let kept = inner.view.load().vault(AUTHORITY).and_then(|sealed| setup.key.open(AUTHORITY, sealed).ok());
                let kept = kept.and_then(|form| Authority::from_sealed_form(&form).ok());
                match kept.filter(|kept| kept.issuing_pem() == given.issuing_pem()) {
                    // With the key that tokens are signed with: those that were given stay good.
                    Some(kept) => kept,
                    None => {
                        let sealed = setup.key.seal(AUTHORITY, &given.to_sealed_form()?)?;
                        inner.put_vault(AUTHORITY, sealed, false).await?;
                        given
                    }
                }
            }
            None => {
                let made = || Authority::create_for(&setup.domain, &setup.hosts, now)?.to_sealed_form();
                Authority::from_sealed_form(&inner.vault(&setup.key, AUTHORITY, made).await?)?
            }
        };
        if authority.domain() != setup.domain {
            return Err(Error::invalid(
                "domain",
                format!(
                    "this server's trust domain is `{}`, not `{}`: it cannot be changed",
                    authority.domain(),
                    setup.domain
                ),
            ));
        }
        let authority = Arc::new(ArcSwap::from_pointee(authority));
        let password_setup = inner.vault(&setup.key, PASSWORDS, || Ok(PasswordServer::new_setup())).await?;
        let identity = Identity {
            sessions: Sessions::new(&setup.key)?,
            passwords: PasswordServer::from_setup(&password_setup)?,
            passkeys: Passkeys::new(&setup.relying_party, &setup.origins, setup.relying_party == "localhost")?,
            certified: certified_by(authority.clone(), Arc::downgrade(inner)),
            authority,
            domain: setup.domain,
            key: setup.key,
            token: setup.token,
            audit: setup.audit,
            anyone_looks: setup.anyone_looks,
            servers: setup.servers,
            limits: limits::Limits::default(),
            known: authenticate::Known::default(),
            attempts: Attempts::default(),
        };
        if inner.identity.set(Box::new(identity)).is_err() {
            return Err(Error::internal("a server's identity was established twice"));
        }
        tokio::spawn(crate::auditing::anchor(inner.clone()));
        tokio::spawn(renew_authority(inner.clone()));
        Ok(())
    }

    /// The authority of the trust domain as it lies in the replicated state, sealed under the cluster key. With it, a server
    /// can prove itself to the others before it has heard from them.
    pub fn sealed_authority(&self) -> Option<Vec<u8>> {
        self.inner.view.load().vault(AUTHORITY).map(<[u8]>::to_vec)
    }

    /// Opens what [`sealed_authority`](Node::sealed_authority) gave.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when it was sealed under another key or is damaged.
    pub fn open_authority(key: &ClusterKey, sealed: &[u8]) -> Result<Authority> {
        Authority::from_sealed_form(&key.open(AUTHORITY, sealed)?)
    }

    /// What the audit log's head was when it was last anchored: to open the log with.
    pub fn anchored(&self) -> Option<byname_audit::Anchor> {
        let (sequence, hash) = self.inner.view.load().anchors(self.inner.config.id).pop()?;
        Some(byname_audit::Anchor { sequence, hash })
    }

    /// The authority of the trust domain, as it is now.
    ///
    /// # Errors
    ///
    /// `unsupported` before [`Node::establish`].
    pub fn authority(&self) -> Result<Arc<Authority>> {
        Ok(self.inner.own_identity()?.authority.load_full())
    }

    /// The root certificates of the trust domain, and what their names may be.
    ///
    /// # Errors
    ///
    /// `unsupported` before [`Node::establish`].
    pub fn bundle(&self) -> Result<String> {
        Ok(self.inner.own_identity()?.authority.load().bundle_pem())
    }

    /// Writes and anchors what the audit log holds: the last thing before a server goes.
    pub async fn anchor_audit(&self) {
        crate::auditing::anchor_now(&self.inner, 0).await;
    }
}

/// A certificate for a server itself, for these host names and addresses.
///
/// # Errors
///
/// `invalid-argument` for a host name that the authority may not certify.
pub fn server_certificate(
    authority: &Authority,
    server: u64,
    request: &str,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
) -> Result<Certificate> {
    let name = crate::members::name_of(server)?;
    let subject = Subject { name, id: None, instance: None, dns, addresses, usage: Usage::Both };
    let request = SigningRequest::parse(request.as_bytes())?;
    authority.certify(&request, &subject, certify::SERVER, start::now())
}

pub(crate) const AUTHORITY: &str = "authority";
const PASSWORDS: &str = "passwords";
/// All that a server needs of the replicated state to tell who is who.
pub(crate) const VAULT: [&str; 2] = [AUTHORITY, PASSWORDS];

impl Inner {
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.get().map(Box::as_ref)
    }

    /// The identity of a server that has one.
    pub(crate) fn own_identity(&self) -> Result<&Identity> {
        self.identity().ok_or_else(|| Error::new(Code::Unsupported, "this server has no authority"))
    }

    pub(crate) fn anyone_looks(&self) -> bool {
        self.identity().is_none_or(|identity| identity.anyone_looks)
    }

    /// What the replicated state keeps sealed under this name; made and put there when there is none.
    async fn vault(&self, key: &ClusterKey, name: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let open = |sealed: &[u8]| {
            key.open(name, sealed).map_err(|_| {
                Error::new(
                    Code::InvalidArgument,
                    "the cluster key in this data directory is not the one that this cluster's secrets are sealed with: \
                     put back the key that belongs to the log (identity/cluster.key)",
                )
            })
        };
        loop {
            if let Some(sealed) = self.view.load().vault(name) {
                return open(sealed);
            }
            if self.reigns() || self.cluster.is_primary() || self.cluster.status().stalled.is_some() {
                break;
            }
            // The others have made it, and it is on its way here; or this server becomes the primary and makes it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match self.put_vault(name, key.seal(name, &make()?)?, true).await {
            Err(error) if error.code() != Code::Conflict => return Err(error),
            // Another server was quicker.
            _ => {}
        }
        match self.view.load().vault(name) {
            Some(sealed) => open(sealed),
            None => Err(Error::internal(format!("`{name}` was sealed and is not there"))),
        }
    }

    /// Takes the authority that the primary has renewed.
    fn take_over_authority(&self, identity: &Identity) {
        let Some(sealed) = self.view.load().vault(AUTHORITY).map(<[u8]>::to_vec) else { return };
        match Node::open_authority(&identity.key, &sealed) {
            Ok(authority) if authority.issuing_pem() != identity.authority.load().issuing_pem() => {
                identity.authority.store(Arc::new(authority));
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error = error.log_line(), "the authority cannot be opened"),
        }
    }

    async fn put_vault(&self, name: &str, sealed: Vec<u8>, only_if_absent: bool) -> Result<()> {
        let command = Command::Vault { key: name.to_owned(), sealed, only_if_absent };
        self.propose("byname", None, command).await.map(drop)
    }

    pub(crate) fn trust(&self) -> Result<TrustReply> {
        let authority = self.own_identity()?.authority.load();
        Ok(TrustReply {
            domain: authority.domain().to_owned(),
            bundle: authority.bundle_pem(),
            fingerprint: hex::encode(authority.root_fingerprint()),
            keys: authority.jwt_key().bundle(authority.roots()),
        })
    }

    /// An object that can act and is not shut out.
    pub(crate) fn principal(&self, name: &Name) -> Result<Arc<Object>> {
        let tree = self.view.load();
        let node = tree.resolve(name)?.node;
        match node.kind() {
            Kind::Principal | Kind::Service | Kind::Computer => Ok(node),
            kind => Err(Error::new(
                Code::Unsupported,
                format!("`{name}` is {}: principals, services and computers prove who they are", kind.with_article()),
            )),
        }
    }

    /// A new session of a principal.
    pub(crate) fn new_session(
        &self,
        node: &Object,
        caller: &Caller,
        expires_in: Duration,
    ) -> Result<byname_api::identity::Session> {
        let identity = self.own_identity()?;
        let tree = self.view.load();
        // What is given after a revocation is not under it, though it be within the same millisecond.
        let valid_from = tree.credentials(node.id).map(|credentials| credentials.valid_from);
        let issued = start::now().max(tree.now).max(valid_from.unwrap_or_default());
        let expires = Timestamp(issued.0 + expires_in.as_millis() as u64);
        let claims = byname_identity::session::Claims {
            principal: node.name.to_string(),
            id: Some(node.id),
            instance: caller.instance,
            session: byname_identity::session::new_id()?,
            mechanism: caller.mechanism.as_str().to_owned(),
            issued,
            expires,
        };
        let token = identity.sessions.issue(&claims)?;
        Ok(byname_api::identity::Session { token: Secret(token), principal: node.name.clone(), expires })
    }
}

/// Whether what an authority off line has signed about a group or principal holds, and says what is there now.
fn certified_by(authority: Arc<ArcSwap<Authority>>, inner: Weak<Inner>) -> Box<dyn Fn(&Object) -> bool + Send + Sync> {
    Box::new(move |node| {
        let Some(text) = &node.spec.certified else { return false };
        let authority = authority.load();
        let Ok(statement) = certified::verify(authority.roots(), text, start::now()) else { return false };
        if statement.name.key() != node.name.key() {
            return false;
        }
        match (statement.about, node.kind()) {
            (About::Group, Kind::Group) => {
                let mut members = node.spec.members.clone().unwrap_or_default();
                members.sort();
                members.dedup();
                statement.members == members
            }
            // It proves itself with these keys and with nothing else.
            (About::Principal, Kind::Principal) => inner.upgrade().is_some_and(|inner| {
                let tree = inner.view.load();
                let password = tree.credentials(node.id).is_some_and(|credentials| credentials.password.is_some());
                let keys = inner.passkeys_of(node.id).unwrap_or_default();
                let signed = |key: &[u8]| {
                    passkey::credential_id(key).is_ok_and(|id| statement.members.contains(&URL_SAFE_NO_PAD.encode(id)))
                };
                !password && keys.iter().all(|(_, key)| signed(key))
            }),
            _ => false,
        }
    })
}

/// Renews the issuing certificate long before it ends, if the root key is here.
async fn renew_authority(inner: Arc<Inner>) {
    let mut every = tokio::time::interval(Duration::from_secs(3_600));
    loop {
        every.tick().await;
        if inner.stopping() {
            return;
        }
        let Some(identity) = inner.identity() else { return };
        if !inner.reigns() {
            inner.take_over_authority(identity);
            continue;
        }
        let renewed = identity.authority.load().renewed(start::now());
        let stored = match renewed {
            Ok(None) => continue,
            Ok(Some(authority)) => {
                match authority.to_sealed_form().and_then(|form| identity.key.seal(AUTHORITY, &form)) {
                    Ok(sealed) => inner.put_vault(AUTHORITY, sealed, false).await.map(|()| authority),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok(authority) => {
                identity.authority.store(Arc::new(authority));
                tracing::info!("the issuing certificate was renewed");
            }
            Err(error) => tracing::error!(error = error.log_line(), "the issuing certificate cannot be renewed"),
        }
    }
}

/// Steps of mechanisms that wait for the next: in memory, bounded, for a minute.
#[derive(Default)]
pub(crate) struct Attempts(Mutex<HashMap<String, (Instant, Attempt)>>);

/// What a mechanism must remember until its next step.
pub(crate) enum Attempt {
    /// OPAQUE, after its first message.
    Password {
        principal: Option<ObjectId>,
        name: Name,
        begun: Timestamp,
        state: Box<byname_identity::password::LoginState>,
    },
    /// WebAuthn, after the challenge.
    Passkey { principal: Option<ObjectId>, name: Name, begun: Timestamp, state: Vec<u8> },
    /// Making a passkey.
    NewPasskey { principal: ObjectId, begun: Timestamp, state: Vec<u8> },
    /// A link to make a passkey with.
    Link { principal: ObjectId, begun: Timestamp },
    /// Another name of an attempt, for whoever may hand it something and take nothing.
    Name { of: Secret },
    /// A command line that waits for somebody to sign in on the page.
    Page { session: Option<byname_api::identity::Session> },
}

impl Attempts {
    /// Keeps one; gives the secret that it goes on with.
    pub(crate) fn keep(&self, attempt: Attempt) -> Result<Secret> {
        let held = match &attempt {
            Attempt::Link { .. } | Attempt::Page { .. } => PAGE,
            _ => ATTEMPT,
        };
        let secret = Secret(hex::encode(rand::random::<[u8; 32]>()));
        self.put(secret.clone(), attempt, held)?;
        Ok(secret)
    }

    /// Gives an attempt another name.
    fn name(&self, name: Secret, of: Secret) -> Result<()> {
        self.put(name, Attempt::Name { of }, PAGE)
    }

    /// The attempt of that other name.
    fn named(&self, name: &Secret) -> Result<Secret> {
        match self.take(name)? {
            Attempt::Name { of } => Ok(of),
            _ => Err(Error::new(Code::Unauthenticated, "nobody waits for this any more: begin again")),
        }
    }

    fn put(&self, secret: Secret, attempt: Attempt, held: Duration) -> Result<()> {
        let mut map = self.0.lock();
        let now = Instant::now();
        if map.len() >= ATTEMPTS {
            map.retain(|_, (until, _)| *until > now);
        }
        if map.len() >= ATTEMPTS {
            return Err(Error::new(Code::RateLimited, "too many are signing in at this moment: try again in a minute"));
        }
        map.insert(secret.0, (now + held, attempt));
        Ok(())
    }

    /// Takes it: each is good once.
    pub(crate) fn take(&self, secret: &Secret) -> Result<Attempt> {
        let taken = self.0.lock().remove(&secret.0);
        match taken {
            Some((until, attempt)) if until > Instant::now() => Ok(attempt),
            _ => Err(Error::new(Code::Unauthenticated, "this attempt has ended or was used: begin again")),
        }
    }

    /// Drops one that nobody has finished in time; whether it was there.
    fn give_up(&self, secret: &Secret) -> bool {
        self.0.lock().remove(&secret.0).is_some()
    }

    /// Looks at a page that a command line waits for.
    fn page<R>(
        &self,
        secret: &Secret,
        look: impl FnOnce(&mut Option<byname_api::identity::Session>) -> R,
    ) -> Result<R> {
        let mut map = self.0.lock();
        match map.get_mut(&secret.0) {
            Some((until, Attempt::Page { session })) if *until > Instant::now() => Ok(look(session)),
            _ => Err(Error::new(Code::Unauthenticated, "nobody waits for this any more: begin again")),
        }
    }
}

/// The reply of the log to a command that has its own.
pub(crate) fn unexpected(what: &str, reply: &Reply) -> Error {
    Error::internal(format!("{what} gave {reply:?}"))
}
