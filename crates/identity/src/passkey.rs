//! Passkeys and security keys: WebAuthn Level 3, with the trust domain as the relying party.
//!
//! What goes to and comes from the browser is the JSON of its own interface (`PublicKeyCredential.toJSON()`). The private
//! key never leaves the authenticator, and it signs for our origin only, so that a page that looks like ours gets nothing.
//!
//! Registering and logging in take two steps each. What a server keeps between them ([`Challenge::state`]) is good for five
//! minutes and for **one** second step: to be kept where it can be taken away, in memory, and never given to the browser.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use byname_api::error::{Code, Error, Result};
use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::{
    Passkey, PasskeyAuthentication, PasskeyRegistration, PublicKeyCredential, RegisterPublicKeyCredential, Url, Uuid,
    Webauthn, WebauthnBuilder, WebauthnError,
};

/// How long a challenge is good, in milliseconds.
const CHALLENGE_MS: u64 = 5 * 60 * 1_000;
/// The most bytes of an answer or of a stored form.
const MAX_BYTES: usize = 64 * 1024;
/// The most passkeys of one principal.
pub const MAX_PASSKEYS: usize = 32;
/// The format of a stored passkey and of a state: the first byte, before JSON.
const VERSION: u8 = 1;

/// The relying party.
pub struct Passkeys {
    webauthn: Webauthn,
    rp_id: String,
}

/// The first step's result.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// For the browser: JSON `{"publicKey": …}`.
    pub options: String,
    /// For the second step: see the module's text.
    pub state: Vec<u8>,
}

/// A login that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Which of the passkeys it was, by its place in the list.
    pub index: usize,
    /// The passkey as it is to be stored from now on, when it changed: its counter has moved.
    pub updated: Option<Vec<u8>>,
}

impl Passkeys {
    /// A relying party. `rp_id` is the trust domain (`localhost` under `dev`); each of `origins` is a URL whose host is
    /// that or beneath it. `any_port` lets `localhost` be asked on whichever port the server got.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when an origin is no URL, is not of the domain, or is neither https nor on localhost; or when
    /// `any_port` is asked for another domain.
    pub fn new(rp_id: &str, origins: &[String], any_port: bool) -> Result<Self> {
        if any_port && rp_id != "localhost" {
            return Err(Error::invalid("any_port", "only localhost may be asked on any port"));
        }
        let urls = origins.iter().map(|origin| check_origin(origin, rp_id)).collect::<Result<Vec<_>>>()?;
        let Some((first, others)) = urls.split_first() else {
            return Err(Error::invalid("origins", "passkeys need the URL at which the server is asked"));
        };
        let mut builder = WebauthnBuilder::new(rp_id, first)
            .map_err(|error| {
                Error::invalid("origins", format!("{first} is not of the domain {rp_id}")).log(error.to_string())
            })?
            .rp_name(rp_id)
            .allow_any_port(any_port);
        for other in others {
            builder = builder.append_allowed_origin(other);
        }
        let webauthn = builder.build().map_err(|error| Error::internal(format!("setting up passkeys: {error}")))?;
        Ok(Passkeys { webauthn, rp_id: rp_id.to_owned() })
    }

    /// Begins to register a passkey for a principal that has proved itself otherwise. `existing` are those that it has.
    ///
    /// # Errors
    ///
    /// `too-large` when it has as many as there may be, `invalid-argument` when one of them is damaged.
    pub fn register_start(&self, id: ObjectId, name: &str, existing: &[Vec<u8>], now: Timestamp) -> Result<Challenge> {
        if existing.len() >= MAX_PASSKEYS {
            return Err(Error::new(Code::TooLarge, format!("a principal has at most {MAX_PASSKEYS} passkeys")));
        }
        let known = existing.iter().map(|bytes| stored::<Passkey>(bytes)).collect::<Result<Vec<_>>>()?;
        let exclude = known.iter().map(|passkey| passkey.cred_id().clone()).collect();
        let (options, state) = self
            .webauthn
            .start_passkey_registration(self.handle(id), name, name, Some(exclude))
            .map_err(|error| Error::internal(format!("starting a passkey's registration: {error}")))?;
        challenge(&options, Registering { until_ms: now.0.saturating_add(CHALLENGE_MS), state })
    }

    /// The passkey to be stored, from the browser's answer (JSON). That no other principal has the same one
    /// ([`credential_id`]) is for the caller to check.
    ///
    /// # Errors
    ///
    /// `unauthenticated` when the answer is not one to this challenge from an allowed origin.
    pub fn register_finish(&self, state: &[u8], answer: &[u8], now: Timestamp) -> Result<Vec<u8>> {
        let kept: Registering = kept(state)?;
        in_time(kept.until_ms, now)?;
        let answer: RegisterPublicKeyCredential = read_answer(answer)?;
        let passkey =
            self.webauthn.finish_passkey_registration(&answer, &kept.state).map_err(|error| refused(&error))?;
        to_stored(&passkey)
    }

    /// Begins a login of a principal with these passkeys.
    ///
    /// # Errors
    ///
    /// `unauthenticated` when there is none, `invalid-argument` when one is damaged.
    pub fn login_start(&self, passkeys: &[Vec<u8>], now: Timestamp) -> Result<Challenge> {
        let known = passkeys.iter().map(|bytes| stored::<Passkey>(bytes)).collect::<Result<Vec<_>>>()?;
        if known.is_empty() {
            return Err(Error::new(Code::Unauthenticated, "there is no passkey: register one first"));
        }
        let (options, state) = self
            .webauthn
            .start_passkey_authentication(&known)
            .map_err(|error| Error::internal(format!("starting a login with a passkey: {error}")))?;
        challenge(&options, LoggingIn { until_ms: now.0.saturating_add(CHALLENGE_MS), state })
    }

    /// Whether the browser's answer (JSON) proves one of the passkeys, which are given again as they are stored now.
    ///
    /// # Errors
    ///
    /// `unauthenticated` when the answer is not one to this challenge from an allowed origin by one of the passkeys, or
    /// when the passkey's counter went back: then it was copied.
    pub fn login_finish(&self, state: &[u8], answer: &[u8], passkeys: &[Vec<u8>], now: Timestamp) -> Result<Used> {
        let kept: LoggingIn = kept(state)?;
        in_time(kept.until_ms, now)?;
        let answer: PublicKeyCredential = read_answer(answer)?;
        let result =
            self.webauthn.finish_passkey_authentication(&answer, &kept.state).map_err(|error| refused(&error))?;
        for (index, bytes) in passkeys.iter().enumerate() {
            let mut passkey: Passkey = stored(bytes)?;
            // The state knows the counters of its first step; another login may have moved them.
            let moved_on = counter(&passkey).is_some_and(|known| known > 0 && result.counter() <= known);
            match passkey.update_credential(&result) {
                None => continue,
                Some(_) if moved_on => return Err(refused(&WebauthnError::CredentialPossibleCompromise)),
                Some(false) => return Ok(Used { index, updated: None }),
                Some(true) => return Ok(Used { index, updated: Some(to_stored(&passkey)?) }),
            }
        }
        Err(Error::new(Code::Unauthenticated, "the passkey has been removed"))
    }

    /// What an authenticator knows the principal by: nothing that says who it is (WebAuthn section 14.6.1).
    fn handle(&self, id: ObjectId) -> Uuid {
        let hash = digest(&SHA256, format!("byname passkey {} {id}", self.rp_id).as_bytes());
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Uuid::from_bytes(bytes)
    }
}

impl fmt::Debug for Passkeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passkeys").field("rp_id", &self.rp_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The id of a stored passkey's credential: unique among all that were ever registered.
///
/// # Errors
///
/// `invalid-argument` when it is damaged.
pub fn credential_id(passkey: &[u8]) -> Result<Vec<u8>> {
    Ok(stored::<Passkey>(passkey)?.cred_id().to_vec())
}

#[derive(Serialize, Deserialize)]
struct Registering {
    until_ms: u64,
    state: PasskeyRegistration,
}

#[derive(Serialize, Deserialize)]
struct LoggingIn {
    until_ms: u64,
    state: PasskeyAuthentication,
}

fn check_origin(origin: &str, rp_id: &str) -> Result<Url> {
    let wrong = |what: &str| Error::invalid("origins", format!("`{origin}` {what}"));
    let url = Url::parse(origin).map_err(|_| wrong("is no URL"))?;
    let host = url.domain().ok_or_else(|| wrong("has no host name, which passkeys are bound to"))?;
    if host != rp_id && !host.ends_with(&format!(".{rp_id}")) {
        return Err(wrong(&format!("is not of the domain {rp_id}")));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if host == "localhost" => Ok(url),
        _ => Err(wrong("is not https, and browsers know passkeys there only")),
    }
}

fn challenge(options: &impl Serialize, state: impl Serialize) -> Result<Challenge> {
    let options = serde_json::to_string(options)
        .map_err(|error| Error::internal(format!("writing a passkey's challenge: {error}")))?;
    Ok(Challenge { options, state: to_stored(&state)? })
}

fn in_time(until_ms: u64, now: Timestamp) -> Result<()> {
    if now.0 >= until_ms {
        return Err(Error::new(Code::Unauthenticated, "the answer of the passkey came too late: try again"));
    }
    Ok(())
}

fn to_stored(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).map_err(|error| Error::internal(format!("writing a passkey: {error}")))?;
    Ok(bytes)
}

fn stored<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    read(bytes).ok_or_else(|| Error::new(Code::InvalidArgument, "a stored passkey is damaged"))
}

fn kept<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    read(bytes).ok_or_else(|| Error::new(Code::Unauthenticated, "there is no such challenge of a passkey: try again"))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match bytes {
        [VERSION, json @ ..] if json.len() <= MAX_BYTES => serde_json::from_slice(json).ok(),
        _ => None,
    }
}

fn read_answer<T: DeserializeOwned>(answer: &[u8]) -> Result<T> {
    if answer.len() > MAX_BYTES {
        return Err(Error::new(Code::TooLarge, format!("the answer of a passkey has at most {MAX_BYTES} bytes")));
    }
    serde_json::from_slice(answer).map_err(|error| {
        Error::invalid("answer", "this is not what a browser says of a passkey")
            .log(format!("a passkey's answer: {error}"))
    })
}

/// The counter of a stored passkey, which the library keeps to itself.
fn counter(passkey: &Passkey) -> Option<u32> {
    let value = serde_json::to_value(passkey).ok()?;
    value.get("cred")?.get("counter")?.as_u64().and_then(|counter| u32::try_from(counter).ok())
}

fn refused(error: &WebauthnError) -> Error {
    let what = match error {
        WebauthnError::CredentialPossibleCompromise => {
            "the passkey's counter went back: it may have been copied, so it is not taken any more"
        }
        WebauthnError::InvalidRPOrigin => "the passkey was asked for from another site",
        WebauthnError::MismatchedChallenge => "the passkey answered another challenge",
        _ => "the passkey did not prove itself",
    };
    Error::new(Code::Unauthenticated, what).log(format!("{what} ({error})"))
}

#[cfg(test)]
mod tests;
