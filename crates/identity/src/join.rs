//! Join tokens: what a new server or agent is told to find the cluster, to know it, and to be let in once.
//!
//! `byname-join-1.` and base64url of postcard `{servers, root, secret}`. Whoever holds the text may join: it is a secret,
//! and the cluster keeps only [`JoinToken::secret_hash`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use byname_api::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How a join token begins.
pub const PREFIX: &str = "byname-join-1.";

/// The most bytes of a join token.
pub const MAX_TOKEN_BYTES: usize = 4_096;

/// The most servers in one.
pub const MAX_SERVERS: usize = 16;

/// A join token. `Display` gives the text, `Debug` keeps the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Where to ask: addresses with ports, best first.
    pub servers: Vec<String>,
    /// SHA-256 of the root's certificate: [`crate::tls::Trust::Pin`].
    pub root: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    servers: Vec<String>,
    root: [u8; 32],
    secret: [u8; 32],
}

impl JoinToken {
    /// A token with a new secret of 256 random bits.
    ///
    /// # Errors
    ///
    /// `invalid-argument` without a server or with too many, or when the whole is too long; `internal` without
    /// randomness.
    pub fn new(servers: Vec<String>, root: [u8; 32]) -> Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(secret.as_mut()).map_err(|_| Error::internal("no randomness for a join token"))?;
        JoinToken::of(servers, root, *secret)
    }

    /// A token with a secret that the cluster has made.
    ///
    /// # Errors
    ///
    /// As [`JoinToken::new`].
    pub fn of(servers: Vec<String>, root: [u8; 32], secret: [u8; 32]) -> Result<Self> {
        let token = JoinToken { servers, root, secret: Zeroizing::new(secret) };
        token.check()?;
        if token.to_string().len() > MAX_TOKEN_BYTES {
            return Err(Error::invalid("servers", format!("a join token has at most {MAX_TOKEN_BYTES} bytes")));
        }
        Ok(token)
    }

    /// What the newcomer proves that it was invited with.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// SHA-256 of the secret: what the cluster keeps, and looks up.
    pub fn secret_hash(&self) -> [u8; 32] {
        secret_hash(self.secret.as_ref())
    }

    fn check(&self) -> Result<()> {
        if self.servers.is_empty() || self.servers.len() > MAX_SERVERS {
            return Err(Error::invalid("servers", format!("a join token names 1 to {MAX_SERVERS} servers")));
        }
        Ok(())
    }
}

/// SHA-256 of a join token's secret.
pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, secret).as_ref());
    out
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = Wire { servers: self.servers.clone(), root: self.root, secret: *self.secret };
        let bytes = Zeroizing::new(postcard::to_stdvec(&wire).map_err(|_| fmt::Error)?);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes))
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let wrong = |what: &str| Error::new(Code::InvalidArgument, what.to_owned());
        if text.len() > MAX_TOKEN_BYTES {
            return Err(wrong("this is longer than any join token"));
        }
        let Some(coded) = text.strip_prefix(PREFIX) else {
            return Err(match text.strip_prefix("byname-join-") {
                Some(_) => wrong("the join token comes from another version of Byname"),
                None => wrong("a join token begins with `byname-join-1.`; `byname cluster invite` prints one"),
            });
        };
        let damaged = || wrong("the join token is damaged: copy all of it");
        let bytes = URL_SAFE_NO_PAD.decode(coded).map(Zeroizing::new).map_err(|_| damaged())?;
        let (wire, rest) = postcard::take_from_bytes::<Wire>(&bytes).map_err(|_| damaged())?;
        if !rest.is_empty() {
            return Err(damaged());
        }
        let token = JoinToken { servers: wire.servers, root: wire.root, secret: Zeroizing::new(wire.secret) };
        token.check().map_err(|_| damaged())?;
        Ok(token)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("servers", &self.servers)
            .field("root", &hex::encode(self.root))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(vec!["192.0.2.1:7600".into(), "[2001:db8::1]:7600".into()], [7; 32]).unwrap()
    }

    #[test]
    fn a_token_reads_back_and_keeps_its_secret_to_itself() {
        let token = token();
        let text = token.to_string();
        assert!(text.starts_with("byname-join-1."));
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
        assert_eq!(token.secret_hash(), secret_hash(token.secret()));
        assert!(!format!("{token:?}").contains(&hex::encode(token.secret())));
        assert_ne!(JoinToken::new(token.servers.clone(), [7; 32]).unwrap().secret(), token.secret());
    }

    #[test]
    fn what_is_no_token_is_refused_with_a_hint() {
        let text = token().to_string();
        for (text, says) in [
            ("", "byname cluster invite"),
            ("byname-join-2.AAAA", "another version"),
            ("byname-join-1.", "damaged"),
            (&text[..text.len() - 2], "damaged"),
            (&format!("{text}AAAA"), "damaged"),
            (&"byname-join-1.".repeat(1_000), "longer"),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message().contains(says), "{text}: {error}");
        }
        assert!(JoinToken::new(Vec::new(), [7; 32]).is_err());
        assert!(JoinToken::new(vec!["x".repeat(5_000)], [7; 32]).is_err());
    }
}
