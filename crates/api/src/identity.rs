//! Who is who: signing in, certificates, tickets, introductions, join tokens (DESIGN section 6).
//!
//! No type here shows its secrets with `{:?}`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use byname_name::Name;

use crate::caller::Mechanism;
use crate::object::{InstanceId, ObjectId};
use crate::service::Endpoint;
use crate::span::{Span, Timestamp};

/// Bytes of a mechanism, in JSON as base64url without padding. Not shown in logs: they may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(d)?;
        URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map(Blob).map_err(|_| de::Error::custom("is no base64url"))
    }
}

/// A text that is never shown: a token, a ticket.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// One step of signing in. Whoever asks is not known yet, so all of it is bounded and none of it tells whether a
/// principal exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LoginRequest {
    /// Password, first message (OPAQUE, RFC 9807: KE1).
    PasswordStart {
        /// Who signs in.
        principal: Name,
        /// KE1.
        message: Blob,
    },
    /// Password, second message (KE3).
    PasswordFinish {
        /// The attempt, as the first step's answer named it.
        attempt: Secret,
        /// KE3.
        message: Blob,
    },
    /// Passkey or security key: asks for a challenge (WebAuthn).
    PasskeyStart {
        /// Who signs in.
        principal: Name,
    },
    /// The authenticator's answer.
    PasskeyFinish {
        /// The attempt.
        attempt: Secret,
        /// `PublicKeyCredential` as JSON.
        credential: String,
        /// Hands the session to the command line that waits with this code, instead of giving it to the page.
        #[serde(default)]
        device: Option<Secret>,
    },
    /// A launched program shows the credential that it was given for its ticket.
    Instance {
        /// Which instance.
        instance: InstanceId,
        /// Its credential, 64 hexadecimal digits.
        credential: Secret,
    },
    /// A command line asks for a page where somebody signs in for it.
    PageStart {
        /// Who will sign in, to fill in the form.
        #[serde(default)]
        principal: Option<Name>,
    },
    /// It asks whether that has happened.
    PagePoll {
        /// The attempt.
        attempt: Secret,
    },
}

/// The answer to a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum LoginReply {
    /// The next message of the mechanism.
    Challenge {
        /// Names the attempt in the next step. It ends after a minute.
        attempt: Secret,
        /// OPAQUE: KE2. WebAuthn: the options as JSON.
        message: Blob,
    },
    /// Where somebody signs in for a command line.
    Page {
        /// For [`LoginRequest::PagePoll`].
        attempt: Secret,
        /// Path and query of the page, on the server's own address.
        path: String,
        /// Shown on both sides, so that people see that they belong together.
        code: String,
        /// How often to ask, in milliseconds.
        every_ms: u64,
    },
    /// Nobody has signed in there yet.
    Pending,
    /// Signed in elsewhere: the command line has the session.
    HandedOver,
    /// Signed in.
    Session(Session),
}

/// A session: shown as a bearer token until it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The bearer token.
    pub token: Secret,
    /// Whose it is.
    pub principal: Name,
    /// When it ends.
    pub expires: Timestamp,
}

/// Ends sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogoutRequest {
    /// Every session and certificate of the principal, not only the one of this call.
    pub everywhere: bool,
    /// Whose; the caller's own when unsaid. Others need the right `admin` to the principal.
    pub principal: Option<Name>,
}

/// Who the server takes the caller for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhoamiReply {
    /// The principal.
    pub principal: String,
    /// Its immutable id, when it is an object of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ObjectId>,
    /// The instance, for a launched program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// How it proved that.
    pub mechanism: Mechanism,
    /// When the proof ends, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Groups that it is in, also through others.
    pub groups: Vec<Name>,
    /// Whether it may do everything.
    pub admin: bool,
}

/// One step of giving a principal a way to prove itself, or taking one away. One's own, or with the right `admin` to the
/// principal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EnrolRequest {
    /// Password: the client's first message (OPAQUE registration).
    PasswordStart {
        /// For whom.
        principal: Name,
        /// The registration request.
        message: Blob,
    },
    /// The record to keep. It ends the principal's other sessions.
    PasswordFinish {
        /// For whom.
        principal: Name,
        /// The registration record.
        message: Blob,
    },
    /// Forgets the password.
    PasswordRemove {
        /// Whose.
        principal: Name,
    },
    /// Asks for a page where a passkey is made, good once and for ten minutes.
    PasskeyPage {
        /// For whom.
        principal: Name,
    },
    /// The page asks for a challenge.
    PasskeyStart {
        /// From the page's address.
        link: Secret,
    },
    /// The authenticator's answer.
    PasskeyFinish {
        /// The attempt.
        attempt: Secret,
        /// `PublicKeyCredential` as JSON.
        credential: String,
        /// What people call it.
        label: String,
    },
    /// Forgets a passkey.
    PasskeyRemove {
        /// Whose.
        principal: Name,
        /// Its label.
        label: String,
    },
    /// What there is.
    List {
        /// Whose.
        principal: Name,
    },
}

/// The answer to a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum EnrolReply {
    /// The next message of the mechanism.
    Challenge {
        /// Names the attempt in the next step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<Secret>,
        /// OPAQUE: the registration response. WebAuthn: the options as JSON.
        message: Blob,
    },
    /// Where the passkey is made.
    Page {
        /// Path and fragment of the page, on the server's own address.
        path: String,
        /// Until when.
        expires: Timestamp,
    },
    /// It is done.
    Done,
    /// Ways to prove it that the principal has.
    Credentials {
        /// Whether there is a password.
        password: bool,
        /// Passkeys, by label.
        passkeys: Vec<String>,
    },
}

/// Asks for a certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifyRequest {
    /// A PKCS#10 request in PEM: only its public key is taken, and the proof that the asker has the private one.
    pub request: String,
    /// For which instance; an agent asks for those that run on its host. The caller itself when unsaid.
    #[serde(default)]
    pub instance: Option<InstanceId>,
    /// For which principal; the caller itself when unsaid. Others need the right `admin` to it.
    #[serde(default)]
    pub principal: Option<Name>,
    /// How long it shall hold; bounded by the server (an hour for instances, a day for others).
    #[serde(default)]
    pub validity: Option<Span>,
    /// Also sign tokens for these audiences (JWT-SVID) instead of a certificate.
    #[serde(default)]
    pub audience: Vec<String>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertifyReply {
    /// Its chain in PEM, the certificate first, without the root.
    pub chain: String,
    /// The trust domain's root certificates in PEM.
    pub bundle: String,
    /// The SPIFFE id in it.
    pub spiffe: String,
    /// When it ends.
    pub expires: Timestamp,
    /// A token instead, when audiences were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// What others need to check this trust domain's certificates and tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrustReply {
    /// The trust domain.
    pub domain: String,
    /// Its root certificates in PEM.
    pub bundle: String,
    /// SHA-256 of the root certificate, in hexadecimal.
    pub fingerprint: String,
    /// Keys that tokens are signed with (RFC 7517), as JSON.
    pub keys: String,
}

/// Asks for an introduction to a service (figure 7 of the paper, step 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntroduceRequest {
    /// The service.
    pub name: Name,
    /// Which instance; one that the service's `choose` rule gives when unsaid.
    #[serde(default)]
    pub instance: Option<InstanceId>,
}

/// The client's end of a pair: it shows `ticket` to the service and expects `proof` back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntroduceReply {
    /// The service.
    pub name: Name,
    /// Which instance it is good for.
    pub instance: InstanceId,
    /// Where that answers.
    pub endpoints: Vec<Endpoint>,
    /// The paper's T1, 64 hexadecimal digits: good once.
    pub ticket: Secret,
    /// The paper's T2: who answers with it is the service.
    pub proof: Secret,
    /// When both end.
    pub expires: Timestamp,
}

/// A service asks who showed it a ticket (figure 7, steps 2 to 4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The ticket that a client showed.
    pub ticket: Secret,
    /// The instance that asks, when the call itself does not say who it is.
    #[serde(default)]
    pub instance: Option<InstanceId>,
    /// Its credential.
    #[serde(default)]
    pub credential: Option<Secret>,
}

/// The service's end of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyReply {
    /// Who the client is.
    pub client: String,
    /// Its immutable id, when it is an object of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ObjectId>,
    /// What the service answers with, so that the client knows it.
    pub proof: Secret,
}

/// What a join token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinAs {
    /// An agent on a new host.
    Agent,
    /// A name server.
    Server,
}

/// Asks for a join token. Needs the right `admin` to the root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// For whom.
    pub join_as: JoinAs,
    /// The computer it is for (`/computers/NAME`); any label when unsaid.
    #[serde(default)]
    pub computer: Option<Name>,
    /// How long it is good for; an hour when unsaid, a day at most.
    #[serde(default)]
    pub ttl: Option<Span>,
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InviteReply {
    /// The secret in it, 64 hexadecimal digits; the command line adds addresses and the root's fingerprint.
    pub secret: Secret,
    /// SHA-256 of the root certificate, in hexadecimal.
    pub root: String,
    /// Addresses of servers (`https://192.0.2.1:7600`).
    pub servers: Vec<String>,
    /// When it ends.
    pub expires: Timestamp,
}

/// Uses a join token. Whoever asks is not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: Secret,
    /// The computer that joins.
    pub computer: Name,
    /// A PKCS#10 request in PEM for its certificate.
    pub request: String,
    /// Where its peers reach it, `HOST:PORT`, for a server. Its name is `/byname/servers/new` then: the cluster numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What a computer that joined is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinReply {
    /// Its certificate.
    pub certificate: CertifyReply,
    /// The cluster key, for a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_key: Option<Secret>,
    /// What a server is beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<JoinedServer>,
}

/// What a server that joined is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinedServer {
    /// Its number.
    pub id: u64,
    /// The trust domain.
    pub domain: String,
    /// The authority of the trust domain, sealed under the cluster key, in base64.
    pub authority: String,
}

/// Takes trust away. In effect when it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RevokeRequest {
    /// An instance's ticket, credential, sessions and certificates: it is marked and refused from then on. Needs `admin`
    /// to the service.
    Instance {
        /// Which.
        instance: InstanceId,
    },
    /// Sessions and certificates of a principal that were given until now.
    Principal {
        /// Whose.
        principal: Name,
    },
}

/// What an audit log or a list may show of a secret.
pub fn fingerprint(hash: &[u8]) -> String {
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
