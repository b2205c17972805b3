//! Statements about groups and principals that the root signs off line, so that a stolen name server cannot forge who is a
//! member of what.
//!
//! `byname-certified-1.`, base64url of postcard `{domain, kind, name, members, not_after}`, `.`, base64url of an ES256
//! signature (64 bytes) by the root's key over the words `byname certified statement 1`, a zero and the payload's bytes.
//! Nothing else that the root signs begins so: certificates begin with 0x30.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use byname_api::error::{Code, Error, Result};
use byname_api::span::Timestamp;
use byname_name::Name;
use serde::{Deserialize, Serialize};

use crate::authority::{Authority, RootFiles, Roots, public_key_of};
use crate::pem;

/// How a statement begins.
pub const PREFIX: &str = "byname-certified-1.";
/// The most bytes of a statement.
pub const MAX_STATEMENT_BYTES: usize = 1024 * 1024;
/// The most members of a group in one.
pub const MAX_MEMBERS: usize = 10_000;

const CONTEXT: &[u8] = b"byname certified statement 1\0";

/// What a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// A group: its members are names of principals and groups, and there are no others.
    Group,
    /// A principal: its members are the ids of the keys that it proves itself with, and there are no others.
    Principal,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            About::Group => "group",
            About::Principal => "principal",
        })
    }
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The trust domain.
    pub domain: String,
    /// What it is about.
    pub about: About,
    /// Whom it is about.
    pub name: Name,
    /// Names or keys, sorted, each once.
    pub members: Vec<String>,
    /// Until when it holds.
    pub not_after: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    domain: String,
    about: u8,
    name: String,
    members: Vec<String>,
    not_after_ms: u64,
}

/// Has the root sign a statement. Members are sorted, and those that are there twice taken once.
///
/// # Errors
///
/// `invalid-argument` when it is for another trust domain or a member of a group is no name; `too-large`.
pub fn sign(root: &RootFiles, statement: &Statement) -> Result<String> {
    sign_with(root.domain(), root.root_key_pem(), statement)
}

/// The same, where the root's key is kept by the servers.
///
/// # Errors
///
/// As [`sign`]; `unsupported` when the root's key is elsewhere.
pub fn sign_on_line(authority: &Authority, statement: &Statement) -> Result<String> {
    let key = authority.root_key_pem().ok_or_else(|| {
        Error::new(Code::Unsupported, "the root's key is kept off line: sign there, with `byname ca`")
    })?;
    sign_with(authority.domain(), key, statement)
}

/// Reads a statement that a root signed and that still holds.
///
/// # Errors
///
/// `unauthenticated` when no root of ours signed it, it is of another domain or it holds no longer; `invalid-argument` when
/// it is none.
pub fn verify(roots: &Roots, text: &str, now: Timestamp) -> Result<Statement> {
    let none = || Error::new(Code::InvalidArgument, "this is no certified statement");
    let refuse = |what: String| Error::new(Code::Unauthenticated, format!("the statement is refused: {what}"));
    let text = text.trim();
    if text.len() > MAX_STATEMENT_BYTES {
        return Err(none());
    }
    let (payload, signature) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or_else(none)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| none())?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| none())?;
    let message = [CONTEXT, &payload].concat();
    let domain = roots.domain().unwrap_or_default();
    let signed = roots
        .live(now)
        .filter_map(public_key_of)
        .any(|point| UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(&message, &signature).is_ok());
    if !signed {
        return Err(refuse(format!("no root of {domain} signed it")));
    }
    let (wire, rest) = postcard::take_from_bytes::<Wire>(&payload).map_err(|_| none())?;
    let statement = Statement {
        about: match wire.about {
            0 => About::Group,
            1 => About::Principal,
            _ => return Err(refuse("it is of a kind that this version does not know".to_owned())),
        },
        name: Name::parse(&wire.name).map_err(|_| none())?,
        domain: wire.domain,
        members: wire.members,
        not_after: Timestamp(wire.not_after_ms),
    };
    if !rest.is_empty() || !statement.members.is_sorted() {
        return Err(none());
    }
    if statement.domain != domain {
        return Err(refuse(format!("it is of another trust domain: {}", statement.domain)));
    }
    if now >= statement.not_after {
        return Err(refuse(format!("it held until {}", statement.not_after)));
    }
    Ok(statement)
}

fn sign_with(domain: &str, key_pem: &str, statement: &Statement) -> Result<String> {
    if statement.domain != domain {
        let what = format!("the root is of {domain} and the statement of {}", statement.domain);
        return Err(Error::invalid("domain", what));
    }
    let mut members = statement.members.clone();
    if statement.about == About::Group {
        for member in &mut members {
            *member = Name::parse(member)?.to_string();
        }
    }
    members.sort();
    members.dedup();
    let wire = Wire {
        domain: statement.domain.clone(),
        about: match statement.about {
            About::Group => 0,
            About::Principal => 1,
        },
        name: statement.name.to_string(),
        members,
        not_after_ms: statement.not_after.0,
    };
    let payload =
        postcard::to_stdvec(&wire).map_err(|error| Error::internal(format!("writing a statement: {error}")))?;
    let key = pem::private_key(key_pem)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der())
        .map_err(|_| Error::new(Code::Unsupported, "the root's key is not P-256"))?;
    let signature = pair
        .sign(&SystemRandom::new(), &[CONTEXT, &payload].concat())
        .map_err(|_| Error::internal("signing a statement failed"))?;
    let text = format!("{PREFIX}{}.{}", URL_SAFE_NO_PAD.encode(&payload), URL_SAFE_NO_PAD.encode(signature));
    if wire.members.len() > MAX_MEMBERS || text.len() > MAX_STATEMENT_BYTES {
        let what = format!("a statement has at most {MAX_MEMBERS} members and {MAX_STATEMENT_BYTES} bytes");
        return Err(Error::new(Code::TooLarge, what));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);
    const LATER: Timestamp = Timestamp(1_000_000_100_000);

    fn group() -> Statement {
        Statement {
            domain: "corp.example".to_owned(),
            about: About::Group,
            name: Name::parse("/groups/admins").unwrap(),
            members: ["/people/eve", "/people/ada", "/people/ada"].map(str::to_owned).to_vec(),
            not_after: LATER,
        }
    }

    #[test]
    fn what_the_root_signed_is_believed_until_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootFiles::init(folder.path(), "corp.example", NOW).unwrap();
        let roots = Roots::from_pem(root.root_pem()).unwrap();
        let text = sign(&root, &group()).unwrap();
        let read = verify(&roots, &format!("{text}\n"), NOW).unwrap();
        assert_eq!(read.members, ["/people/ada", "/people/eve"]);
        assert_eq!((read.name, read.about, read.not_after), (group().name, About::Group, LATER));
        let error = verify(&roots, &text, LATER).unwrap_err();
        assert!(error.message().contains("it held until"), "{error}");

        let authority = Authority::create("corp.example", NOW).unwrap();
        let of_a_principal = Statement { about: About::Principal, members: vec!["sha256:00".into()], ..group() };
        let text = sign_on_line(&authority, &of_a_principal).unwrap();
        assert_eq!(verify(authority.roots(), &text, NOW).unwrap(), of_a_principal);
    }

    #[test]
    fn nobody_else_can_say_it() {
        let ours = Authority::create("corp.example", NOW).unwrap();
        let twin = Authority::create("corp.example", NOW).unwrap();
        let text = sign_on_line(&ours, &group()).unwrap();
        let error = verify(twin.roots(), &text, NOW).unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        assert!(error.message().contains("no root of corp.example signed it"), "{error}");

        let (front, signature) = text.rsplit_once('.').unwrap();
        let payload = URL_SAFE_NO_PAD.decode(front.strip_prefix(PREFIX).unwrap()).unwrap();
        for at in 0..payload.len() {
            let mut other = payload.clone();
            other[at] ^= 1;
            let text = format!("{PREFIX}{}.{signature}", URL_SAFE_NO_PAD.encode(other));
            assert_eq!(verify(ours.roots(), &text, NOW).unwrap_err().code(), Code::Unauthenticated, "byte {at}");
        }
        for text in ["", "byname-certified-1.", "byname-certified-1.AA", front] {
            assert_eq!(verify(ours.roots(), text, NOW).unwrap_err().code(), Code::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn a_root_signs_for_its_own_domain_and_names_only() {
        let authority = Authority::create("corp.example", NOW).unwrap();
        let foreign = Statement { domain: "other.example".into(), ..group() };
        assert_eq!(sign_on_line(&authority, &foreign).unwrap_err().code(), Code::InvalidArgument);
        let odd = Statement { members: vec!["ada".into()], ..group() };
        assert_eq!(sign_on_line(&authority, &odd).unwrap_err().code(), Code::InvalidName);
        let members = (0..10_001).map(|n| format!("/p{n}")).collect();
        let huge = Statement { members, ..group() };
        assert_eq!(sign_on_line(&authority, &huge).unwrap_err().code(), Code::TooLarge);
    }
}
