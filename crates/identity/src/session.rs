//! Tokens: a text that stands for a proof already given, until it expires. `bn1.` and base64url of claims that are sealed
//! under the cluster's key, so that any server reads what another one wrote and nobody else can write or read any.
//!
//! A token says who somebody was when it was written. Whether the object is still there and the session not ended is for
//! the caller to look up: claims carry the object's id and the session's for that.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use byname_api::error::{Code, Error, Result};
use byname_api::object::{InstanceId, ObjectId};
use byname_api::span::Timestamp;
use serde::{Deserialize, Serialize};

use crate::seal::{ClusterKey, Sealer};

/// How a token begins.
pub const PREFIX: &str = "bn1.";

/// The most bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 2_048;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The principal's name.
    pub principal: String,
    /// The object that held the name.
    pub id: Option<ObjectId>,
    /// The running copy, when the principal is one.
    pub instance: Option<InstanceId>,
    /// The session, random: what ending a session names.
    pub session: u64,
    /// How the principal proved itself (`password`, `passkey`, …): for the audit.
    pub mechanism: String,
    /// When.
    pub issued: Timestamp,
    /// Until when the token is good.
    pub expires: Timestamp,
}

/// The claims as they are sealed. A field more is a new prefix.
#[derive(Serialize, Deserialize)]
struct Wire {
    principal: String,
    id: Option<u64>,
    instance: Option<u64>,
    session: u64,
    mechanism: String,
    issued_ms: u64,
    expires_ms: u64,
}

/// Writes and reads tokens of one purpose.
#[derive(Debug)]
pub struct Sessions {
    sealer: Sealer,
}

impl Sessions {
    /// Session tokens.
    ///
    /// # Errors
    ///
    /// `internal`, never seen.
    pub fn new(key: &ClusterKey) -> Result<Self> {
        Sessions::for_purpose(key, "session")
    }

    /// Tokens of the same form for another purpose, such as a link that is good once. Those of one purpose are not read
    /// for another.
    ///
    /// # Errors
    ///
    /// `internal`, never seen.
    pub fn for_purpose(key: &ClusterKey, purpose: &str) -> Result<Self> {
        Ok(Sessions { sealer: key.sealer(&format!("token {purpose}"))? })
    }

    /// The token that says `claims`.
    ///
    /// # Errors
    ///
    /// `too-large` when the names in it are longer than any, `internal` without randomness.
    pub fn issue(&self, claims: &Claims) -> Result<String> {
        let wire = Wire {
            principal: claims.principal.clone(),
            id: claims.id.map(|id| id.0),
            instance: claims.instance.map(|id| id.0),
            session: claims.session,
            mechanism: claims.mechanism.clone(),
            issued_ms: claims.issued.0,
            expires_ms: claims.expires.0,
        };
        let bytes = postcard::to_stdvec(&wire).map_err(|error| Error::internal(format!("writing a token: {error}")))?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.sealer.seal(&bytes)?));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Error::new(Code::TooLarge, format!("a token has at most {MAX_TOKEN_BYTES} bytes")));
        }
        Ok(token)
    }

    /// What a token says, if it is one of ours for this purpose and has not expired.
    ///
    /// # Errors
    ///
    /// `unauthenticated`.
    pub fn read(&self, token: &str, now: Timestamp) -> Result<Claims> {
        let foreign =
            || Error::new(Code::Unauthenticated, "the token is not one of this cluster's: authenticate again");
        if token.len() > MAX_TOKEN_BYTES {
            return Err(foreign());
        }
        let sealed =
            token.strip_prefix(PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or_else(foreign)?;
        let bytes = self.sealer.open(&sealed).map_err(|_| foreign())?;
        let wire: Wire = postcard::from_bytes(&bytes).map_err(|_| foreign())?;
        let claims = Claims {
            principal: wire.principal,
            id: wire.id.map(ObjectId),
            instance: wire.instance.map(InstanceId),
            session: wire.session,
            mechanism: wire.mechanism,
            issued: Timestamp(wire.issued_ms),
            expires: Timestamp(wire.expires_ms),
        };
        if now >= claims.expires {
            let what = format!("the token of {} expired on {}: authenticate again", claims.principal, claims.expires);
            return Err(Error::new(Code::Unauthenticated, what));
        }
        Ok(claims)
    }
}

/// The random id of a new session.
///
/// # Errors
///
/// `internal` without randomness.
pub fn new_id() -> Result<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::internal("no randomness for a session"))?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(principal: &str) -> Claims {
        Claims {
            principal: principal.to_owned(),
            id: Some(ObjectId(77)),
            instance: None,
            session: new_id().unwrap(),
            mechanism: "password".to_owned(),
            issued: Timestamp(1_000),
            expires: Timestamp(2_000),
        }
    }

    #[test]
    fn any_server_with_the_key_reads_the_token_until_it_expires() {
        let key = ClusterKey::generate().unwrap();
        let issued = claims("/people/ada");
        let token = Sessions::new(&key).unwrap().issue(&issued).unwrap();
        assert!(token.starts_with("bn1."), "{token}");
        let reader = Sessions::new(&key).unwrap();
        assert_eq!(reader.read(&token, Timestamp(1_999)).unwrap(), issued);
        let late = reader.read(&token, Timestamp(2_000)).unwrap_err();
        assert_eq!(late.code(), Code::Unauthenticated);
        assert!(late.message().contains("expired"), "{late}");
    }

    #[test]
    fn what_this_cluster_did_not_issue_for_this_is_refused() {
        let key = ClusterKey::generate().unwrap();
        let sessions = Sessions::new(&key).unwrap();
        let token = sessions.issue(&claims("/people/ada")).unwrap();
        let foreign = Sessions::new(&ClusterKey::generate().unwrap()).unwrap().issue(&claims("/people/ada")).unwrap();
        let link = Sessions::for_purpose(&key, "link").unwrap().issue(&claims("/people/ada")).unwrap();
        let long = format!("bn1.{}", "A".repeat(1 << 20));
        let (upper, cut) = (token.replacen("bn1", "BN1", 1), &token[..token.len() - 1]);
        let padded = format!("{token}=");
        for other in [&foreign, &link, &long, &upper, cut, &padded, "", "bn1.", "bn1.AAAA", "bn1.ü"] {
            let error = sessions.read(other, Timestamp(1_500)).unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated);
            assert!(error.message().contains("not one of this cluster's"), "{error}");
        }
    }

    #[test]
    fn the_longest_name_has_a_token_and_a_longer_text_none() {
        let sessions = Sessions::new(&ClusterKey::generate().unwrap()).unwrap();
        let longest = claims(&"ü".repeat(byname_name::MAX_NAME_BYTES / 2));
        assert_eq!(sessions.read(&sessions.issue(&longest).unwrap(), Timestamp(0)).unwrap(), longest);
        assert_eq!(sessions.issue(&claims(&"x".repeat(2_000))).unwrap_err().code(), Code::TooLarge);
    }

    #[test]
    fn nothing_of_the_claims_can_be_read_in_the_token() {
        let sessions = Sessions::new(&ClusterKey::generate().unwrap()).unwrap();
        let token = sessions.issue(&claims("/people/ada")).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX).unwrap()).unwrap();
        assert!(!bytes.windows(3).any(|part| part == b"ada"));
    }
}
