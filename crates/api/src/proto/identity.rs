//! Who is who: signing in, certificates, introductions, join tokens.

use byname_name::Name;

use super::field::{all_into, each, id, id_option, missing, name, name_option, span_option, within};
use super::word::Word;
use super::{
    CertifyReply, CertifyRequest, EnrolReply, EnrolRequest, IntroduceReply, IntroduceRequest, InviteReply,
    InviteRequest, JoinReply, JoinRequest, JoinedServer, LoginReply, LoginRequest, LogoutReply, LogoutRequest,
    RevokeReply, RevokeRequest, TrustReply, VerifyReply, VerifyRequest, WhoamiReply, enrol_reply, enrol_request,
    login_reply, login_request, revoke_request,
};
use crate::error::{Code, Error, Result};
use crate::identity::{self, Blob, Secret, Session};
use crate::span::{Span, Timestamp};

fn text(name: &Name) -> String {
    name.as_str().to_owned()
}

fn text_option(name: Option<Name>) -> Option<String> {
    name.as_ref().map(text)
}

fn bytes(blob: Blob) -> bytes::Bytes {
    blob.0.into()
}

fn blob(bytes: bytes::Bytes) -> Blob {
    Blob(bytes.into())
}

/// The error of a request that says none of the steps.
fn no_step(steps: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("the request says no step: give {steps}"))
}

impl From<identity::LoginRequest> for LoginRequest {
    fn from(value: identity::LoginRequest) -> Self {
        use identity::LoginRequest as D;
        use login_request::*;
        let step = match value {
            D::PasswordStart { principal, message } => {
                Step::PasswordStart(PasswordStart { principal: text(&principal), message: bytes(message) })
            }
            D::PasswordFinish { attempt, message } => {
                Step::PasswordFinish(PasswordFinish { attempt: attempt.0, message: bytes(message) })
            }
            D::PasskeyStart { principal } => Step::PasskeyStart(PasskeyStart { principal: text(&principal) }),
            D::PasskeyFinish { attempt, credential, device } => Step::PasskeyFinish(PasskeyFinish {
                attempt: attempt.0,
                credential,
                device: device.map(|device| device.0),
            }),
            D::Instance { instance, credential } => {
                Step::Instance(Instance { instance: instance.to_string(), credential: credential.0 })
            }
            D::PageStart { principal } => Step::PageStart(PageStart { principal: text_option(principal) }),
            D::PagePoll { attempt } => Step::PagePoll(PagePoll { attempt: attempt.0 }),
        };
        LoginRequest { step: Some(step) }
    }
}

impl TryFrom<LoginRequest> for identity::LoginRequest {
    type Error = Error;

    fn try_from(message: LoginRequest) -> Result<Self> {
        use identity::LoginRequest as D;
        use login_request::Step;
        Ok(match message.step {
            Some(Step::PasswordStart(step)) => D::PasswordStart {
                principal: name(&step.principal, "password_start.principal")?,
                message: blob(step.message),
            },
            Some(Step::PasswordFinish(step)) => {
                D::PasswordFinish { attempt: Secret(step.attempt), message: blob(step.message) }
            }
            Some(Step::PasskeyStart(step)) => {
                D::PasskeyStart { principal: name(&step.principal, "passkey_start.principal")? }
            }
            Some(Step::PasskeyFinish(step)) => D::PasskeyFinish {
                attempt: Secret(step.attempt),
                credential: step.credential,
                device: step.device.map(Secret),
            },
            Some(Step::Instance(step)) => {
                D::Instance { instance: id(&step.instance, "instance.instance")?, credential: Secret(step.credential) }
            }
            Some(Step::PageStart(step)) => {
                D::PageStart { principal: name_option(step.principal, "page_start.principal")? }
            }
            Some(Step::PagePoll(step)) => D::PagePoll { attempt: Secret(step.attempt) },
            None => {
                return Err(no_step(
                    "password_start, password_finish, passkey_start, passkey_finish, instance, page_start or page_poll",
                ));
            }
        })
    }
}

impl From<identity::LoginReply> for LoginReply {
    fn from(value: identity::LoginReply) -> Self {
        use identity::LoginReply as D;
        use login_reply::*;
        let step = match value {
            D::Challenge { attempt, message } => {
                Step::Challenge(Challenge { attempt: attempt.0, message: bytes(message) })
            }
            D::Page { attempt, path, code, every_ms } => Step::Page(Page { attempt: attempt.0, path, code, every_ms }),
            D::Pending => Step::Pending(Pending {}),
            D::HandedOver => Step::HandedOver(HandedOver {}),
            D::Session(session) => Step::Session(Session {
                token: session.token.0,
                principal: text(&session.principal),
                expires_ms: session.expires.0,
            }),
        };
        LoginReply { step: Some(step) }
    }
}

impl TryFrom<LoginReply> for identity::LoginReply {
    type Error = Error;

    fn try_from(message: LoginReply) -> Result<Self> {
        use identity::LoginReply as D;
        use login_reply::Step;
        Ok(match message.step {
            Some(Step::Challenge(step)) => D::Challenge { attempt: Secret(step.attempt), message: blob(step.message) },
            Some(Step::Page(step)) => {
                D::Page { attempt: Secret(step.attempt), path: step.path, code: step.code, every_ms: step.every_ms }
            }
            Some(Step::Pending(_)) => D::Pending,
            Some(Step::HandedOver(_)) => D::HandedOver,
            Some(Step::Session(step)) => D::Session(Session {
                token: Secret(step.token),
                principal: name(&step.principal, "session.principal")?,
                expires: Timestamp(step.expires_ms),
            }),
            None => return Err(no_step("challenge, page, pending, handed_over or session")),
        })
    }
}

impl From<identity::LogoutRequest> for LogoutRequest {
    fn from(value: identity::LogoutRequest) -> Self {
        LogoutRequest { everywhere: value.everywhere, principal: text_option(value.principal) }
    }
}

impl TryFrom<LogoutRequest> for identity::LogoutRequest {
    type Error = Error;

    fn try_from(message: LogoutRequest) -> Result<Self> {
        Ok(identity::LogoutRequest {
            everywhere: message.everywhere,
            principal: name_option(message.principal, "principal")?,
        })
    }
}

impl From<()> for LogoutReply {
    fn from((): ()) -> Self {
        LogoutReply {}
    }
}

impl From<()> for RevokeReply {
    fn from((): ()) -> Self {
        RevokeReply {}
    }
}

impl From<identity::WhoamiReply> for WhoamiReply {
    fn from(value: identity::WhoamiReply) -> Self {
        WhoamiReply {
            principal: value.principal,
            id: value.id.map(|id| id.to_string()),
            instance: value.instance.map(|id| id.to_string()),
            mechanism: value.mechanism.as_str().into(),
            expires_ms: value.expires.map(|at| at.0),
            groups: value.groups.iter().map(text).collect(),
            admin: value.admin,
        }
    }
}

impl TryFrom<WhoamiReply> for identity::WhoamiReply {
    type Error = Error;

    fn try_from(message: WhoamiReply) -> Result<Self> {
        let mut groups = Vec::with_capacity(message.groups.len());
        for (index, text) in message.groups.iter().enumerate() {
            groups.push(Name::parse(text).map_err(|error| within(format_args!("groups[{index}]"))(error.into()))?);
        }
        Ok(identity::WhoamiReply {
            principal: message.principal,
            id: id_option(message.id, "id")?,
            instance: id_option(message.instance, "instance")?,
            mechanism: id(&message.mechanism, "mechanism")?,
            expires: message.expires_ms.map(Timestamp),
            groups,
            admin: message.admin,
        })
    }
}

impl From<identity::EnrolRequest> for EnrolRequest {
    fn from(value: identity::EnrolRequest) -> Self {
        use enrol_request::*;
        use identity::EnrolRequest as D;
        let step = match value {
            D::PasswordStart { principal, message } => {
                Step::PasswordStart(PasswordStart { principal: text(&principal), message: bytes(message) })
            }
            D::PasswordFinish { principal, message } => {
                Step::PasswordFinish(PasswordFinish { principal: text(&principal), message: bytes(message) })
            }
            D::PasswordRemove { principal } => Step::PasswordRemove(PasswordRemove { principal: text(&principal) }),
            D::PasskeyPage { principal } => Step::PasskeyPage(PasskeyPage { principal: text(&principal) }),
            D::PasskeyStart { link } => Step::PasskeyStart(PasskeyStart { link: link.0 }),
            D::PasskeyFinish { attempt, credential, label } => {
                Step::PasskeyFinish(PasskeyFinish { attempt: attempt.0, credential, label })
            }
            D::PasskeyRemove { principal, label } => {
                Step::PasskeyRemove(PasskeyRemove { principal: text(&principal), label })
            }
            D::List { principal } => Step::List(List { principal: text(&principal) }),
        };
        EnrolRequest { step: Some(step) }
    }
}

impl TryFrom<EnrolRequest> for identity::EnrolRequest {
    type Error = Error;

    fn try_from(message: EnrolRequest) -> Result<Self> {
        use enrol_request::Step;
        use identity::EnrolRequest as D;
        Ok(match message.step {
            Some(Step::PasswordStart(step)) => D::PasswordStart {
                principal: name(&step.principal, "password_start.principal")?,
                message: blob(step.message),
            },
            Some(Step::PasswordFinish(step)) => D::PasswordFinish {
                principal: name(&step.principal, "password_finish.principal")?,
                message: blob(step.message),
            },
            Some(Step::PasswordRemove(step)) => {
                D::PasswordRemove { principal: name(&step.principal, "password_remove.principal")? }
            }
            Some(Step::PasskeyPage(step)) => {
                D::PasskeyPage { principal: name(&step.principal, "passkey_page.principal")? }
            }
            Some(Step::PasskeyStart(step)) => D::PasskeyStart { link: Secret(step.link) },
            Some(Step::PasskeyFinish(step)) => {
                D::PasskeyFinish { attempt: Secret(step.attempt), credential: step.credential, label: step.label }
            }
            Some(Step::PasskeyRemove(step)) => {
                D::PasskeyRemove { principal: name(&step.principal, "passkey_remove.principal")?, label: step.label }
            }
            Some(Step::List(step)) => D::List { principal: name(&step.principal, "list.principal")? },
            None => {
                return Err(no_step(
                    "password_start, password_finish, password_remove, passkey_page, passkey_start, passkey_finish, \
                     passkey_remove or list",
                ));
            }
        })
    }
}

impl From<identity::EnrolReply> for EnrolReply {
    fn from(value: identity::EnrolReply) -> Self {
        use enrol_reply::*;
        use identity::EnrolReply as D;
        let step = match value {
            D::Challenge { attempt, message } => {
                Step::Challenge(Challenge { attempt: attempt.map(|attempt| attempt.0), message: bytes(message) })
            }
            D::Page { path, expires } => Step::Page(Page { path, expires_ms: expires.0 }),
            D::Done => Step::Done(Done {}),
            D::Credentials { password, passkeys } => Step::Credentials(Credentials { password, passkeys }),
        };
        EnrolReply { step: Some(step) }
    }
}

impl TryFrom<EnrolReply> for identity::EnrolReply {
    type Error = Error;

    fn try_from(message: EnrolReply) -> Result<Self> {
        use enrol_reply::Step;
        use identity::EnrolReply as D;
        Ok(match message.step {
            Some(Step::Challenge(step)) => {
                D::Challenge { attempt: step.attempt.map(Secret), message: blob(step.message) }
            }
            Some(Step::Page(step)) => D::Page { path: step.path, expires: Timestamp(step.expires_ms) },
            Some(Step::Done(_)) => D::Done,
            Some(Step::Credentials(step)) => D::Credentials { password: step.password, passkeys: step.passkeys },
            None => return Err(no_step("challenge, page, done or credentials")),
        })
    }
}

impl From<identity::CertifyRequest> for CertifyRequest {
    fn from(value: identity::CertifyRequest) -> Self {
        CertifyRequest {
            request: value.request,
            instance: value.instance.map(|id| id.to_string()),
            principal: text_option(value.principal),
            validity_ms: value.validity.map(Span::as_millis),
            audience: value.audience,
        }
    }
}

impl TryFrom<CertifyRequest> for identity::CertifyRequest {
    type Error = Error;

    fn try_from(message: CertifyRequest) -> Result<Self> {
        Ok(identity::CertifyRequest {
            request: message.request,
            instance: id_option(message.instance, "instance")?,
            principal: name_option(message.principal, "principal")?,
            validity: span_option(message.validity_ms, "validity_ms")?,
            audience: message.audience,
        })
    }
}

impl From<identity::CertifyReply> for CertifyReply {
    fn from(value: identity::CertifyReply) -> Self {
        CertifyReply {
            chain: value.chain,
            bundle: value.bundle,
            spiffe: value.spiffe,
            expires_ms: value.expires.0,
            token: value.token.map(|token| token.0),
        }
    }
}

impl From<CertifyReply> for identity::CertifyReply {
    fn from(message: CertifyReply) -> Self {
        identity::CertifyReply {
            chain: message.chain,
            bundle: message.bundle,
            spiffe: message.spiffe,
            expires: Timestamp(message.expires_ms),
            token: message.token.map(Secret),
        }
    }
}

impl From<identity::TrustReply> for TrustReply {
    fn from(value: identity::TrustReply) -> Self {
        let identity::TrustReply { domain, bundle, fingerprint, keys } = value;
        TrustReply { domain, bundle, fingerprint, keys }
    }
}

impl From<TrustReply> for identity::TrustReply {
    fn from(message: TrustReply) -> Self {
        let TrustReply { domain, bundle, fingerprint, keys } = message;
        identity::TrustReply { domain, bundle, fingerprint, keys }
    }
}

impl From<identity::IntroduceRequest> for IntroduceRequest {
    fn from(value: identity::IntroduceRequest) -> Self {
        IntroduceRequest { name: text(&value.name), instance: value.instance.map(|id| id.to_string()) }
    }
}

impl TryFrom<IntroduceRequest> for identity::IntroduceRequest {
    type Error = Error;

    fn try_from(message: IntroduceRequest) -> Result<Self> {
        Ok(identity::IntroduceRequest {
            name: name(&message.name, "name")?,
            instance: id_option(message.instance, "instance")?,
        })
    }
}

impl From<identity::IntroduceReply> for IntroduceReply {
    fn from(value: identity::IntroduceReply) -> Self {
        IntroduceReply {
            name: text(&value.name),
            instance: value.instance.to_string(),
            endpoints: all_into(value.endpoints),
            ticket: value.ticket.0,
            proof: value.proof.0,
            expires_ms: value.expires.0,
        }
    }
}

impl TryFrom<IntroduceReply> for identity::IntroduceReply {
    type Error = Error;

    fn try_from(message: IntroduceReply) -> Result<Self> {
        Ok(identity::IntroduceReply {
            name: name(&message.name, "name")?,
            instance: id(&message.instance, "instance")?,
            endpoints: each(message.endpoints, "endpoints")?,
            ticket: Secret(message.ticket),
            proof: Secret(message.proof),
            expires: Timestamp(message.expires_ms),
        })
    }
}

impl From<identity::VerifyRequest> for VerifyRequest {
    fn from(value: identity::VerifyRequest) -> Self {
        VerifyRequest {
            ticket: value.ticket.0,
            instance: value.instance.map(|id| id.to_string()),
            credential: value.credential.map(|credential| credential.0),
        }
    }
}

impl TryFrom<VerifyRequest> for identity::VerifyRequest {
    type Error = Error;

    fn try_from(message: VerifyRequest) -> Result<Self> {
        Ok(identity::VerifyRequest {
            ticket: Secret(message.ticket),
            instance: id_option(message.instance, "instance")?,
            credential: message.credential.map(Secret),
        })
    }
}

impl From<identity::VerifyReply> for VerifyReply {
    fn from(value: identity::VerifyReply) -> Self {
        VerifyReply { client: value.client, client_id: value.client_id.map(|id| id.to_string()), proof: value.proof.0 }
    }
}

impl TryFrom<VerifyReply> for identity::VerifyReply {
    type Error = Error;

    fn try_from(message: VerifyReply) -> Result<Self> {
        Ok(identity::VerifyReply {
            client: message.client,
            client_id: id_option(message.client_id, "client_id")?,
            proof: Secret(message.proof),
        })
    }
}

impl From<identity::InviteRequest> for InviteRequest {
    fn from(value: identity::InviteRequest) -> Self {
        InviteRequest {
            join_as: value.join_as.text().into(),
            computer: text_option(value.computer),
            ttl_ms: value.ttl.map(Span::as_millis),
        }
    }
}

impl TryFrom<InviteRequest> for identity::InviteRequest {
    type Error = Error;

    fn try_from(message: InviteRequest) -> Result<Self> {
        Ok(identity::InviteRequest {
            join_as: Word::read(&message.join_as, "join_as")?,
            computer: name_option(message.computer, "computer")?,
            ttl: span_option(message.ttl_ms, "ttl_ms")?,
        })
    }
}

impl From<identity::InviteReply> for InviteReply {
    fn from(value: identity::InviteReply) -> Self {
        InviteReply { secret: value.secret.0, root: value.root, servers: value.servers, expires_ms: value.expires.0 }
    }
}

impl From<InviteReply> for identity::InviteReply {
    fn from(message: InviteReply) -> Self {
        identity::InviteReply {
            secret: Secret(message.secret),
            root: message.root,
            servers: message.servers,
            expires: Timestamp(message.expires_ms),
        }
    }
}

impl From<identity::JoinRequest> for JoinRequest {
    fn from(value: identity::JoinRequest) -> Self {
        JoinRequest {
            secret: value.secret.0,
            computer: text(&value.computer),
            request: value.request,
            address: value.address,
        }
    }
}

impl TryFrom<JoinRequest> for identity::JoinRequest {
    type Error = Error;

    fn try_from(message: JoinRequest) -> Result<Self> {
        Ok(identity::JoinRequest {
            secret: Secret(message.secret),
            computer: name(&message.computer, "computer")?,
            request: message.request,
            address: message.address,
        })
    }
}

impl From<identity::JoinReply> for JoinReply {
    fn from(value: identity::JoinReply) -> Self {
        let server = value.server.map(|server| JoinedServer {
            id: server.id,
            domain: server.domain,
            authority: server.authority,
        });
        JoinReply {
            certificate: Some(value.certificate.into()),
            cluster_key: value.cluster_key.map(|key| key.0),
            server,
        }
    }
}

impl TryFrom<JoinReply> for identity::JoinReply {
    type Error = Error;

    fn try_from(message: JoinReply) -> Result<Self> {
        Ok(identity::JoinReply {
            certificate: message.certificate.ok_or_else(|| missing("certificate"))?.into(),
            cluster_key: message.cluster_key.map(Secret),
            server: message.server.map(|server| identity::JoinedServer {
                id: server.id,
                domain: server.domain,
                authority: server.authority,
            }),
        })
    }
}

impl From<identity::RevokeRequest> for RevokeRequest {
    fn from(value: identity::RevokeRequest) -> Self {
        use revoke_request::What;
        let what = match value {
            identity::RevokeRequest::Instance { instance } => What::Instance(instance.to_string()),
            identity::RevokeRequest::Principal { principal } => What::Principal(text(&principal)),
        };
        RevokeRequest { what: Some(what) }
    }
}

impl TryFrom<RevokeRequest> for identity::RevokeRequest {
    type Error = Error;

    fn try_from(message: RevokeRequest) -> Result<Self> {
        use revoke_request::What;
        match message.what {
            Some(What::Instance(text)) => Ok(identity::RevokeRequest::Instance { instance: id(&text, "instance")? }),
            Some(What::Principal(text)) => {
                Ok(identity::RevokeRequest::Principal { principal: name(&text, "principal")? })
            }
            None => Err(Error::new(
                Code::InvalidArgument,
                "the request says not whose trust ends: give instance or principal",
            )),
        }
    }
}
