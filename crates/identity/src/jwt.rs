//! JWT-SVIDs: a name proved by a text, where the other end cannot look at a certificate (the SPIFFE standards JWT-SVID and
//! "SPIFFE Trust Domain and Bundle"; RFC 7515, 7517, 7519). Only ES256, and only what those ask for.
//!
//! Whoever holds such a text is believed to be its subject: it names its audience and lives for minutes.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use byname_api::error::{Code, Error, Result};
use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use byname_name::{Name, spiffe};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::authority::Roots;

/// The most bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The longest life of a token.
pub const MAX_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How far ahead a token's beginning may lie: clocks of a fleet differ.
const SKEW_S: u64 = 5 * 60;
/// The most audiences of one token.
const MAX_AUDIENCES: usize = 16;
/// The most keys of a bundle, and its bytes.
const MAX_KEYS: usize = 64;
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// A P-256 point without compression: 4, x, y (SEC 1 section 2.3.3).
const POINT_BYTES: usize = 65;

/// A key that signs tokens.
pub struct JwtKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

/// What a token says, once it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtPeer {
    /// The subject's name.
    pub name: Name,
    /// The object that held the name when the token was signed. Tokens of other SPIFFE systems do not say.
    pub id: Option<ObjectId>,
    /// Until when the token is good.
    pub expires: Timestamp,
}

impl JwtKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// `internal` without randomness.
    pub fn generate() -> Result<Self> {
        let defect = |_| Error::internal("no randomness for a token's key");
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(defect)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(defect)?;
        Ok(JwtKey { pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()), pair })
    }

    /// The key of these bytes (PKCS#8).
    ///
    /// # Errors
    ///
    /// `invalid-argument` when they are none.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes)
            .map_err(|_| Error::new(Code::InvalidArgument, "the key for tokens is damaged"))?;
        Ok(JwtKey { pkcs8: Zeroizing::new(bytes.to_vec()), pair })
    }

    /// The private key (PKCS#8), to be sealed.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key's id: its thumbprint (RFC 7638).
    pub fn id(&self) -> String {
        thumbprint(self.pair.public_key().as_ref())
    }

    /// Signs that the holder of the token is `name`, towards `audience`, for `life`, at most a day.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the name has no form in SPIFFE, or there is no audience or too many.
    pub fn sign(
        &self,
        domain: &str,
        name: &Name,
        id: Option<ObjectId>,
        audience: &[String],
        life: Duration,
        now: Timestamp,
    ) -> Result<String> {
        if audience.is_empty() || audience.len() > MAX_AUDIENCES || audience.iter().any(String::is_empty) {
            return Err(Error::invalid("audience", format!("a token is for 1 to {MAX_AUDIENCES} audiences")));
        }
        let subject = crate::authority::spiffe_id(name, domain)?;
        let issued = now.0 / 1_000;
        let mut claims = json!({
            "sub": subject, "aud": audience, "iat": issued, "exp": issued.saturating_add(life.min(MAX_LIFE).as_secs()),
        });
        if let (Some(id), Some(claims)) = (id, claims.as_object_mut()) {
            claims.insert(ID_CLAIM.to_owned(), Value::String(id.to_string()));
        }
        let header = json!({"alg": "ES256", "kid": self.id(), "typ": "JWT"});
        let signed = format!("{}.{}", coded(&header), coded(&claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| Error::internal("signing a token failed"))?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Error::new(Code::TooLarge, format!("a token has at most {MAX_TOKEN_BYTES} bytes")));
        }
        Ok(token)
    }

    /// The bundle of a trust domain: this key and the roots, as SPIFFE's own tools take them (JSON).
    pub fn bundle(&self, roots: &Roots) -> String {
        let mut keys = Vec::new();
        for der in roots.ders() {
            if let Some(mut key) = crate::authority::public_key_of(der).and_then(|point| key_json(&point)) {
                key["use"] = "x509-svid".into();
                key["x5c"] = json!([STANDARD.encode(der)]);
                keys.push(key);
            }
        }
        let own = self.pair.public_key();
        if let Some(mut key) = key_json(own.as_ref()) {
            key["use"] = "jwt-svid".into();
            key["kid"] = self.id().into();
            keys.push(key);
        }
        json!({"keys": keys, "spiffe_refresh_hint": 3_600}).to_string()
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKey").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A private claim of ours: the object's id.
const ID_CLAIM: &str = "byname_id";

/// The public keys of a trust domain: who verifies tokens.
#[derive(Clone, Debug)]
pub struct JwtKeys {
    domain: String,
    keys: Vec<(String, Vec<u8>)>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: f64,
    iat: Option<f64>,
    nbf: Option<f64>,
    #[serde(rename = "byname_id")]
    id: Option<String>,
}

/// RFC 7519 section 4.1.3: a text or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl JwtKeys {
    /// Reads the bundle of a trust domain. Keys for other uses and of other kinds are passed over.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when it is no bundle.
    pub fn from_bundle(domain: &str, bundle: &str) -> Result<Self> {
        let wrong = || Error::invalid("bundle", "this is no bundle of keys (JWKS)");
        if bundle.len() > MAX_BUNDLE_BYTES {
            return Err(wrong());
        }
        let value: Value = serde_json::from_str(bundle).map_err(|_| wrong())?;
        let listed =
            value.get("keys").and_then(Value::as_array).filter(|keys| keys.len() <= MAX_KEYS).ok_or_else(wrong)?;
        let keys = listed.iter().filter_map(point_of).collect();
        Ok(JwtKeys { domain: domain.to_owned(), keys })
    }

    /// Whose token it is, if it is good now and for `audience`.
    ///
    /// # Errors
    ///
    /// `unauthenticated`, with a sentence that says why.
    pub fn verify(&self, token: &str, audience: &str, now: Timestamp) -> Result<JwtPeer> {
        let refuse = |what: &str| Error::new(Code::Unauthenticated, format!("the token is refused: {what}"));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refuse("it is too long"));
        }
        let none = || refuse("it is no JWT");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(none)?;
        let (header, claims) = signed.split_once('.').ok_or_else(none)?;
        let header: Header = decoded(header).ok_or_else(none)?;
        if header.alg != "ES256" {
            return Err(refuse("its method is not ES256"));
        }
        if header.crit.is_some() || !matches!(header.typ.as_deref(), None | Some("JWT" | "JOSE")) {
            return Err(refuse("it is of another type"));
        }
        let key = header.kid.and_then(|id| self.keys.iter().find(|(known, _)| *known == id));
        let Some((_, point)) = key else {
            return Err(refuse(&format!("it is not signed by a key of {}", self.domain)));
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| none())?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| refuse("its signature is wrong"))?;
        let claims: Claims = decoded(claims).ok_or_else(|| refuse("its claims are not those of a JWT-SVID"))?;
        let now_s = now.0 / 1_000;
        // A number that is none, or below zero, becomes 0 and has expired.
        let expires_s = claims.exp as u64;
        if now_s >= expires_s {
            return Err(refuse(&format!("it expired on {}", Timestamp(expires_s.saturating_mul(1_000)))));
        }
        let latest = now_s.saturating_add(SKEW_S) as f64;
        if [claims.iat, claims.nbf].into_iter().flatten().any(|begin| begin > latest) {
            return Err(refuse("it is not yet valid"));
        }
        let meant = match &claims.aud {
            Audience::One(one) => one == audience,
            Audience::Several(all) => all.iter().any(|one| one == audience),
        };
        if !meant {
            return Err(refuse("it is for another audience"));
        }
        let name = spiffe::from_id(&claims.sub, &self.domain).map_err(|reason| refuse(&reason.to_string()))?;
        if name.is_root() {
            return Err(refuse("its subject is a whole trust domain"));
        }
        let id =
            claims.id.map(|id| id.parse()).transpose().map_err(|_: Error| refuse("its id is none of an object"))?;
        Ok(JwtPeer { name, id, expires: Timestamp(expires_s.saturating_mul(1_000)) })
    }
}

fn coded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decoded<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// A P-256 key as JSON (RFC 7518 section 6.2.1); none when the point is of another curve.
fn key_json(point: &[u8]) -> Option<Value> {
    let (x, y) = coordinates(point)?;
    Some(json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}))
}

fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    (point.len() == POINT_BYTES).then_some(())?;
    point.strip_prefix(&[4])?.split_at_checked(32)
}

/// The id and the point of a key that verifies tokens.
fn point_of(key: &Value) -> Option<(String, Vec<u8>)> {
    let text = |field: &str| key.get(field)?.as_str();
    (text("use")? == "jwt-svid" && text("kty")? == "EC" && text("crv")? == "P-256").then_some(())?;
    let coordinate = |field| URL_SAFE_NO_PAD.decode(text(field)?).ok().filter(|bytes| bytes.len() == 32);
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    Some((text("kid")?.to_owned(), point))
}

/// RFC 7638 section 3: the hash of the key's JSON in one form.
fn thumbprint(point: &[u8]) -> String {
    let (x, y) = coordinates(point).unwrap_or_default();
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests;
