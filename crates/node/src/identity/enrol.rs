//! Giving a principal a way to prove itself, and taking one away: its own business, or its admins'.

use std::sync::Arc;

use byname_api::caller::{Mechanism, Right, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::identity::{Blob, EnrolReply, EnrolRequest, RevokeRequest};
use byname_api::object::{Kind, ObjectId};
use byname_api::request::Context;
use byname_api::span::Timestamp;
use byname_identity::password::PasswordServer;
use byname_name::{Name, http};
use byname_registry::command::CredentialChange;
use byname_registry::{Command, Node as Object};

use super::Attempt;
use super::login::{PASSKEY, PASSWORD, claimed, handle};
use crate::{Inner, start};

/// How long a link to make a passkey is good for, in milliseconds.
const LINK_MS: u64 = 600_000;
/// Passkeys of one principal.
const PASSKEYS: usize = 16;

impl Inner {
    pub(crate) async fn enrol(self: &Arc<Self>, cx: &Context, request: EnrolRequest) -> Result<EnrolReply> {
        let identity = self.own_identity()?;
        match request {
            EnrolRequest::PasswordStart { principal, message } => {
                let node = self.enrollable(cx, &principal)?;
                let answer = identity.passwords.register_start(&handle(Some(node.id), &principal), &message.0)?;
                Ok(EnrolReply::Challenge { attempt: None, message: Blob(answer) })
            }
            EnrolRequest::PasswordFinish { principal, message } => {
                let node = self.enrollable(cx, &principal)?;
                let record = PasswordServer::register_finish(&message.0)?;
                let sealed = identity.key.seal(PASSWORD, &record)?;
                let done = self.change_credentials(cx, &node, CredentialChange::Password(Some(sealed))).await;
                self.note_change(cx, "set-password", Some(&node.name), &done);
                done
            }
            EnrolRequest::PasswordRemove { principal } => {
                let node = self.enrollable(cx, &principal)?;
                let done = self.change_credentials(cx, &node, CredentialChange::Password(None)).await;
                self.note_change(cx, "remove-password", Some(&node.name), &done);
                done
            }
            EnrolRequest::PasskeyPage { principal } => {
                let node = self.enrollable(cx, &principal)?;
                let link = identity.attempts.keep(Attempt::Link { principal: node.id })?;
                self.note_change(cx, "passkey-link", Some(&node.name), &Ok(()));
                Ok(EnrolReply::Page {
                    path: format!("/enrol#link={}&principal=/{}", link.0, http::to_path(&node.name)),
                    expires: Timestamp(start::now().0 + LINK_MS),
                })
            }
            EnrolRequest::PasskeyStart { link } => {
                identity.limits.sign_in(cx.caller.address)?;
                let by = claimed(cx, None, Mechanism::Passkey);
                let Attempt::Link { principal } = self.take_attempt(&by, "add-passkey", &link)? else {
                    return Err(self.other_kind(&by, "add-passkey"));
                };
                let node = self.by_principal_id(principal)?;
                let existing: Vec<Vec<u8>> = self.passkeys_of(node.id)?.into_iter().map(|(_, key)| key).collect();
                if existing.len() >= PASSKEYS {
                    return Err(Error::new(Code::TooLarge, "a principal has 16 passkeys at most: remove one"));
                }
                let challenge =
                    identity.passkeys.register_start(node.id, node.name.as_str(), &existing, start::now())?;
                let attempt = Attempt::NewPasskey { principal: node.id, state: challenge.state };
                let attempt = identity.attempts.keep(attempt)?;
                Ok(EnrolReply::Challenge { attempt: Some(attempt), message: Blob(challenge.options.into_bytes()) })
            }
            EnrolRequest::PasskeyFinish { attempt, credential, label } => {
                let by = claimed(cx, None, Mechanism::Passkey);
                let Attempt::NewPasskey { principal, state } = self.take_attempt(&by, "add-passkey", &attempt)? else {
                    return Err(self.other_kind(&by, "add-passkey"));
                };
                check_label(&label)?;
                let node = self.by_principal_id(principal)?;
                if credential.len() > 64 << 10 {
                    return Err(
                        Error::new(Code::TooLarge, "the authenticator's answer is too long").field("credential")
                    );
                }
                let made = match identity.passkeys.register_finish(&state, credential.as_bytes(), start::now()) {
                    Ok(key) => {
                        let key = identity.key.seal(PASSKEY, &key)?;
                        let change = CredentialChange::AddPasskey { label, key };
                        self.change_credentials(cx, &node, change).await
                    }
                    Err(error) => Err(error),
                };
                let by = claimed(cx, Some(&node.name), Mechanism::Passkey);
                self.note_answered(&by, "add-passkey", Some(&node.name), &made);
                made
            }
            EnrolRequest::PasskeyRemove { principal, label } => {
                let node = self.enrollable(cx, &principal)?;
                let done = self.change_credentials(cx, &node, CredentialChange::RemovePasskey { label }).await;
                self.note_change(cx, "remove-passkey", Some(&node.name), &done);
                done
            }
            EnrolRequest::List { principal } => {
                let node = self.enrollable(cx, &principal)?;
                let tree = self.view.load();
                let credentials = tree.credentials(node.id);
                Ok(EnrolReply::Credentials {
                    password: credentials.is_some_and(|c| c.password.is_some()),
                    passkeys: credentials
                        .map(|c| c.passkeys.iter().map(|p| p.label.clone()).collect())
                        .unwrap_or_default(),
                })
            }
        }
    }

    async fn change_credentials(
        self: &Arc<Self>,
        cx: &Context,
        node: &Object,
        change: CredentialChange,
    ) -> Result<EnrolReply> {
        let command = Command::Credential { principal: node.id, change };
        self.propose(&cx.caller.principal, cx.request, command).await?;
        self.forget_known();
        Ok(EnrolReply::Done)
    }

    /// Somebody whose ways to prove itself the caller may change. Only people and machines have any: a service has its
    /// ticket.
    fn enrollable(&self, cx: &Context, principal: &Name) -> Result<Arc<Object>> {
        if cx.caller.name.as_ref() != Some(principal) || cx.caller.standing == Standing::Anonymous {
            self.authorise(&cx.caller, Right::Admin, principal)?;
        }
        let node = self.principal(principal)?;
        if node.kind() != Kind::Principal {
            return Err(Error::new(
                Code::Unsupported,
                format!("`{principal}` is {}: only principals have passwords and passkeys", node.kind().with_article()),
            ));
        }
        Ok(node)
    }

    fn by_principal_id(&self, id: ObjectId) -> Result<Arc<Object>> {
        let node = self.view.load().by_id(id).filter(|node| node.spec.disabled != Some(true));
        node.ok_or_else(|| Error::new(Code::Unauthenticated, "the principal is not there any more"))
    }

    /// What a revocation is about, for the audit log.
    pub(crate) fn revoked_name(&self, request: &RevokeRequest) -> Option<Name> {
        match request {
            RevokeRequest::Instance { instance } => {
                self.view.load().by_instance(*instance).map(|node| node.name.clone())
            }
            RevokeRequest::Principal { principal } => Some(principal.clone()),
        }
    }
}

fn check_label(label: &str) -> Result<()> {
    let fits = (1..=63).contains(&label.chars().count()) && !label.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(Error::invalid("label", "1 to 63 characters, none of them a control character")) }
}
