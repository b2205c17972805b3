//! The challenge of somebody who has no passkey, or is not there: it looks like any other, so that nobody learns by
//! asking who exists. What answers it is refused.

use aws_lc_rs::digest::{SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use byname_api::error::{Error, Result};
use serde_json::json;

use super::{CHALLENGE_MS, Challenge, Passkeys};

impl Passkeys {
    /// Such a challenge. `seed` must be the same each time for the same name, and secret: the key that the challenge
    /// names depends on it alone, as that of a real one does not change either.
    ///
    /// # Errors
    ///
    /// `internal` without randomness.
    pub fn decoy(&self, seed: &[u8; 32]) -> Result<Challenge> {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Error::internal("no randomness for a challenge"))?;
        let key = digest(&SHA512, seed);
        let key = key.as_ref().get(..KEY_BYTES).unwrap_or_default();
        let options = json!({ "publicKey": {
            "challenge": URL_SAFE_NO_PAD.encode(nonce),
            "timeout": CHALLENGE_MS,
            "rpId": self.rp_id,
            "allowCredentials": [{ "type": "public-key", "id": URL_SAFE_NO_PAD.encode(key) }],
            "userVerification": "required",
        }});
        Ok(Challenge { options: options.to_string(), state: Vec::new() })
    }
}

/// As long as the keys' ids of common authenticators.
const KEY_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use byname_api::object::ObjectId;
    use byname_api::span::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::authenticator::Authenticator;

    const ORIGIN: &str = "http://localhost:1";

    /// The names in a JSON text, and the kinds of what they hold.
    fn shape(value: &Value) -> Value {
        match value {
            Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
            Value::Array(list) => list.iter().map(shape).collect(),
            Value::String(text) if text.len() > 20 => "…".into(),
            other => other.clone(),
        }
    }

    #[test]
    fn a_decoy_looks_like_a_challenge() {
        let passkeys = Passkeys::new("localhost", &[ORIGIN.into()], true).unwrap();
        let mut authenticator = Authenticator::new();
        let now = Timestamp(1);
        let begun = passkeys.register_start(ObjectId(1), "/people/liu", &[], now).unwrap();
        let answer = authenticator.register(&begun.options, ORIGIN).unwrap();
        let key = passkeys.register_finish(&begun.state, answer.as_bytes(), now).unwrap();
        let real = passkeys.login_start(&[key], now).unwrap();
        let decoy = passkeys.decoy(&[1; 32]).unwrap();
        let [real, fake] = [&real.options, &decoy.options].map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(shape(&fake), shape(&real));
        let again: Value = serde_json::from_str(&passkeys.decoy(&[1; 32]).unwrap().options).unwrap();
        assert_eq!(again["publicKey"]["allowCredentials"], fake["publicKey"]["allowCredentials"]);
        assert_ne!(again["publicKey"]["challenge"], fake["publicKey"]["challenge"]);
        let answer = authenticator.login(&decoy.options, ORIGIN);
        let taken = passkeys.login_finish(&decoy.state, answer.unwrap_or_default().as_bytes(), &[], now);
        assert!(taken.is_err());
    }
}
