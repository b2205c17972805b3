//! Signing in, step by step, and out again. Whoever asks is not known yet: all is bounded, and no answer tells whether a
//! principal exists or which ways to prove itself it has.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use byname_api::caller::{Caller, Mechanism, Right, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::identity::{Blob, LoginReply, LoginRequest, LogoutRequest, Secret, Session, WhoamiReply};
use byname_api::object::ObjectId;
use byname_api::request::Context;
use byname_api::span::Timestamp;
use byname_identity::password::PasswordServer;
use byname_name::{Name, http};
use byname_registry::command::{CredentialChange, Revoked};
use byname_registry::{Command, Node as Object, access};

use super::{Attempt, SESSION};
use crate::{Inner, start};

/// Bytes of one message of a mechanism.
const MAX_MESSAGE: usize = 16 << 10;
/// How often a command line asks whether somebody has signed in.
const POLL_MS: u64 = 1_000;

pub(super) const PASSWORD: &str = "password";
pub(super) const PASSKEY: &str = "passkey";
const DECOY: &str = "passkey decoy";

impl Inner {
    pub(crate) async fn login(self: &Arc<Self>, cx: &Context, request: LoginRequest) -> Result<LoginReply> {
        let identity = self.own_identity()?;
        if !matches!(request, LoginRequest::PagePoll { .. }) {
            identity.limits.sign_in(cx.caller.address)?;
        }
        match request {
            LoginRequest::PasswordStart { principal, message } => self.password_start(cx, principal, &message),
            LoginRequest::PasswordFinish { attempt, message } => self.password_finish(cx, &attempt, &message),
            LoginRequest::PasskeyStart { principal } => self.passkey_start(cx, principal),
            LoginRequest::PasskeyFinish { attempt, credential, device } => {
                self.passkey_finish(cx, &attempt, &credential, device.as_ref()).await
            }
            LoginRequest::Instance { instance, credential } => {
                let session = self.instance_session(cx, instance, &credential);
                let name = session.as_ref().ok().map(|session| session.principal.clone());
                self.note_answered(&claimed(cx, name.as_ref(), Mechanism::Ticket), "login", name.as_ref(), &session);
                session.map(LoginReply::Session)
            }
            LoginRequest::PageStart { principal } => {
                let attempt = identity.attempts.keep(Attempt::Page { session: None })?;
                let code = page_code(&attempt);
                let whose = principal.map(|name| format!("&principal=/{}", http::to_path(&name))).unwrap_or_default();
                let path = format!("/login#device={}&code={code}{whose}", device_of(&attempt).0);
                identity.attempts.name(device_of(&attempt), attempt.clone())?;
                Ok(LoginReply::Page { attempt, path, code, every_ms: POLL_MS })
            }
            LoginRequest::PagePoll { attempt } => Ok(match identity.attempts.page(&attempt, Option::take)? {
                Some(session) => LoginReply::Session(session),
                None => LoginReply::Pending,
            }),
        }
    }

    /// The answer tells a client whether its password is right (OPAQUE): whoever guessed wrong need never come back. So each
    /// attempt counts as failed from its beginning until it is finished well.
    fn password_start(self: &Arc<Self>, cx: &Context, principal: Name, message: &Blob) -> Result<LoginReply> {
        let identity = self.own_identity()?;
        check_size(message)?;
        let (principal, node) = self.claimant(principal);
        identity.limits.may_try(cx.caller.address, &principal)?;
        let tree = self.view.load();
        let sealed = node.as_ref().and_then(|node| tree.credentials(node.id)?.password.clone());
        let record = sealed.map(|sealed| identity.key.open(PASSWORD, &sealed)).transpose()?;
        let id = node.as_ref().map(|node| node.id);
        let (state, answer) = identity.passwords.login_start(record.as_deref(), &handle(id, &principal), &message.0)?;
        let kept = Attempt::Password {
            principal: id.filter(|_| record.is_some()),
            name: principal.clone(),
            begun: self.time(),
            state: Box::new(state),
        };
        let attempt = identity.attempts.keep(kept)?;
        identity.limits.note_attempt(cx.caller.address, &principal, false);
        self.miss(cx, attempt.clone(), principal);
        Ok(LoginReply::Challenge { attempt, message: Blob(answer) })
    }

    /// Notes an attempt that nobody has finished in time.
    fn miss(self: &Arc<Self>, cx: &Context, attempt: Secret, name: Name) {
        let (inner, cx) = (Arc::downgrade(self), cx.clone());
        tokio::spawn(async move {
            tokio::time::sleep(super::ATTEMPT).await;
            let Some(inner) = inner.upgrade() else { return };
            if inner.identity().is_some_and(|identity| identity.attempts.give_up(&attempt)) {
                let error = Error::new(Code::Unauthenticated, "a password was tried, and the attempt was not finished");
                let _ = inner.note_sign_in(&cx, &name, Mechanism::Password, Err(error));
            }
        });
    }

    fn password_finish(&self, cx: &Context, attempt: &Secret, message: &Blob) -> Result<LoginReply> {
        check_size(message)?;
        let by = claimed(cx, None, Mechanism::Password);
        let Attempt::Password { principal, name, begun, state } = self.take_attempt(&by, "login", attempt)? else {
            return Err(self.other_kind(&by, "login"));
        };
        // It was counted when it began, so no more than may fail are open.
        let proved = PasswordServer::login_finish(*state, &message.0);
        let session = match (proved, principal) {
            (Ok(()), Some(id)) => self.signed_in(cx, &name, id, begun, Mechanism::Password),
            _ => Err(Error::new(Code::Unauthenticated, "the name or the password is wrong")),
        };
        self.note_sign_in(cx, &name, Mechanism::Password, session)
    }

    fn passkey_start(&self, cx: &Context, principal: Name) -> Result<LoginReply> {
        let identity = self.own_identity()?;
        let (principal, node) = self.claimant(principal);
        identity.limits.may_try(cx.caller.address, &principal)?;
        let keys = match &node {
            Some(node) => self.passkeys_of(node.id)?,
            None => Vec::new(),
        };
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|(_, key)| key).collect();
        let id = node.map(|node| node.id).filter(|_| !keys.is_empty());
        let challenge = match id {
            Some(_) => identity.passkeys.login_start(&keys, start::now())?,
            // Looks like any other, and is the same for the same name.
            None => identity.passkeys.decoy(&identity.key.mac(DECOY, principal.key().as_bytes())?)?,
        };
        let attempt = Attempt::Passkey { principal: id, name: principal, begun: self.time(), state: challenge.state };
        let message = Blob(challenge.options.into_bytes());
        Ok(LoginReply::Challenge { attempt: identity.attempts.keep(attempt)?, message })
    }

    async fn passkey_finish(
        self: &Arc<Self>,
        cx: &Context,
        attempt: &Secret,
        credential: &str,
        device: Option<&Secret>,
    ) -> Result<LoginReply> {
        let identity = self.own_identity()?;
        if credential.len() > MAX_MESSAGE {
            return Err(Error::new(Code::TooLarge, "the authenticator's answer is too long").field("credential"));
        }
        let by = claimed(cx, None, Mechanism::Passkey);
        let Attempt::Passkey { principal, name, begun, state } = self.take_attempt(&by, "login", attempt)? else {
            return Err(self.other_kind(&by, "login"));
        };
        identity.limits.may_try(cx.caller.address, &name)?;
        let keys = principal.map(|id| self.passkeys_of(id)).transpose()?.unwrap_or_default();
        let plain: Vec<Vec<u8>> = keys.iter().map(|(_, key)| key.clone()).collect();
        let session =
            match (identity.passkeys.login_finish(&state, credential.as_bytes(), &plain, start::now()), principal) {
                (Ok(used), Some(id)) => {
                    if let Some(updated) = used.updated
                        && let Some((label, _)) = keys.get(used.index)
                    {
                        let key = identity.key.seal(PASSKEY, &updated)?;
                        let change = CredentialChange::UpdatePasskey { label: label.clone(), key };
                        self.propose(name.as_str(), None, Command::Credential { principal: id, change }).await?;
                    }
                    self.signed_in(cx, &name, id, begun, Mechanism::Passkey)
                }
                (Err(error), Some(_)) => Err(error),
                (_, None) => Err(Error::new(Code::Unauthenticated, "the name or the passkey is wrong")),
            };
        let reply = self.note_sign_in(cx, &name, Mechanism::Passkey, session)?;
        match (device, reply) {
            (Some(device), LoginReply::Session(session)) => {
                let attempt = identity.attempts.named(device)?;
                identity.attempts.page(&attempt, |waiting| *waiting = Some(session))?;
                Ok(LoginReply::HandedOver)
            }
            (_, reply) => Ok(reply),
        }
    }

    /// The later of the two clocks.
    pub(super) fn time(&self) -> Timestamp {
        start::now().max(self.view.load().now)
    }

    /// Whose name this is, by whatever alias and in whatever letters, and its object if it may sign in.
    fn claimant(&self, principal: Name) -> (Name, Option<Arc<Object>>) {
        let node = self.principal(&principal).ok();
        let name = node.as_ref().map_or(principal, |node| node.name.clone());
        (name, node.filter(|node| node.spec.disabled != Some(true)))
    }

    /// Takes an attempt; one that is not there is a refusal like another.
    pub(super) fn take_attempt(&self, by: &Caller, operation: &str, attempt: &Secret) -> Result<Attempt> {
        let taken = self.own_identity()?.attempts.take(attempt);
        if let Err(error) = &taken {
            self.note_refusal(by, operation, None, error);
        }
        taken
    }

    /// The refusal of an attempt of another mechanism.
    pub(super) fn other_kind(&self, by: &Caller, operation: &str) -> Error {
        let error = Error::new(Code::Unauthenticated, "this attempt is of another kind: begin again");
        self.note_refusal(by, operation, None, &error);
        error
    }

    /// A session for whoever has just proved to be this principal.
    fn signed_in(
        &self,
        cx: &Context,
        name: &Name,
        id: ObjectId,
        begun: Timestamp,
        mechanism: Mechanism,
    ) -> Result<Session> {
        let tree = self.view.load();
        // It may have been removed or shut out between the steps, and what proves it changed.
        let there = tree.by_id(id).filter(|node| self.still_there(&tree, &node.name, id, None, begun).is_ok());
        let node = there.ok_or_else(|| Error::new(Code::Unauthenticated, "the name or the password is wrong"))?;
        self.new_session(&node, &claimed(cx, Some(name), mechanism), SESSION)
    }

    fn note_sign_in(
        &self,
        cx: &Context,
        name: &Name,
        mechanism: Mechanism,
        session: Result<Session>,
    ) -> Result<LoginReply> {
        if let Some(identity) = self.identity() {
            // A password was counted when it was tried.
            if session.is_ok() || mechanism != Mechanism::Password {
                identity.limits.note_attempt(cx.caller.address, name, session.is_ok());
            }
        }
        self.note_answered(&claimed(cx, Some(name), mechanism), "login", Some(name), &session);
        metrics::counter!("byname_logins_total", "mechanism" => mechanism.as_str(), "ok" => session.is_ok().to_string())
            .increment(1);
        session.map(LoginReply::Session)
    }

    /// A principal's passkeys, opened, by label.
    pub(super) fn passkeys_of(&self, id: ObjectId) -> Result<Vec<(String, Vec<u8>)>> {
        let identity = self.own_identity()?;
        let tree = self.view.load();
        let keys = tree.credentials(id).map(|credentials| credentials.passkeys.clone()).unwrap_or_default();
        keys.iter().map(|kept| Ok((kept.label.clone(), identity.key.open(PASSKEY, &kept.key)?))).collect()
    }

    pub(crate) async fn logout(self: &Arc<Self>, cx: &Context, request: LogoutRequest) -> Result<()> {
        let caller = &cx.caller;
        let other = request.principal.is_some() && request.principal != caller.name;
        if let (true, Some(principal)) = (other, &request.principal) {
            self.authorise(caller, Right::Admin, principal)?;
        }
        let revoked = if request.everywhere || other {
            let principal = request.principal.as_ref().or(caller.name.as_ref());
            let principal = principal.ok_or_else(nobody)?;
            Revoked::Principal(self.principal(principal)?.id)
        } else {
            let session = caller.evidence.as_deref().and_then(|evidence| evidence.strip_prefix("session "));
            let session = session.and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or_else(nobody)?;
            let until = caller.expires.unwrap_or_else(start::now);
            Revoked::Session { session, until }
        };
        self.propose(&caller.principal, cx.request, Command::Revoke(revoked)).await?;
        self.forget_known();
        Ok(())
    }

    pub(crate) fn whoami(&self, caller: &Caller) -> WhoamiReply {
        let tree = self.view.load();
        let who = self.who(caller);
        WhoamiReply {
            principal: caller.principal.clone(),
            id: caller.id,
            instance: caller.instance,
            mechanism: caller.mechanism,
            expires: caller.expires,
            groups: access::groups(&tree, &who),
            admin: caller.standing == Standing::Full || access::allows(&tree, &who, Right::Admin, &Name::root()),
        }
    }
}

fn nobody() -> Error {
    Error::new(Code::InvalidArgument, "this call came without a session: there is nothing to sign out of")
}

/// Whoever tries to be somebody, for the audit log.
pub(super) fn claimed(cx: &Context, name: Option<&Name>, mechanism: Mechanism) -> Caller {
    let principal = name.map_or_else(|| cx.caller.principal.clone(), Name::to_string);
    Caller { principal, mechanism, evidence: None, ..cx.caller.clone() }
}

/// What OPAQUE and WebAuthn call a user: the immutable id, so that a name used again is another user; for one that does
/// not exist, something as long that is always the same.
pub(super) fn handle(id: Option<ObjectId>, name: &Name) -> [u8; 16] {
    let mut handle = [0; 16];
    match id {
        Some(ObjectId(id)) => {
            let digest = Sha256::digest([b"byname user ".as_slice(), &id.to_be_bytes()].concat());
            handle.copy_from_slice(digest.get(..16).unwrap_or_default());
        }
        None => {
            let digest = Sha256::digest([b"byname nobody ".as_slice(), name.key().as_bytes()].concat());
            handle.copy_from_slice(digest.get(..16).unwrap_or_default());
        }
    }
    handle
}

fn check_size(message: &Blob) -> Result<()> {
    if message.0.len() > MAX_MESSAGE {
        return Err(Error::new(Code::TooLarge, "a message of a mechanism is 16 KiB at most").field("message"));
    }
    Ok(())
}

/// What the page shows the server to hand its session over to the command line. Whoever sees the address of the page
/// cannot fetch the session with it.
fn device_of(attempt: &Secret) -> Secret {
    Secret(hex::encode(Sha256::digest(["byname device ", &attempt.0].concat())))
}

/// Shown on both sides, for people to compare.
fn page_code(attempt: &Secret) -> String {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let digest = Sha256::digest(["byname code ", &attempt.0].concat());
    let letters = digest.iter().take(8).filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
    let mut code: String = letters.map(|letter| char::from(*letter)).collect();
    code.insert(4, '-');
    code
}
