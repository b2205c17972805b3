//! For tests, here and in other crates (feature `testing`): an authenticator and the browser around it, in software. It
//! makes ES256 keys, attests nothing (`none`) and says that it has seen and verified its user.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Bits of the flags of authenticator data (WebAuthn section 6.1): present, verified, with a credential.
const PRESENT: u8 = 0x01;
const VERIFIED: u8 = 0x04;
const WITH_CREDENTIAL: u8 = 0x40;

/// An authenticator.
#[derive(Default)]
pub struct Authenticator {
    keys: Vec<Key>,
    /// What every signature counts up by; 0 for one that does not count, as synchronised passkeys do.
    pub step: u32,
    /// The relying party that is signed for, whatever the page says: what an attacker's browser might do.
    pub other_rp: Option<String>,
    /// Whether the user is not verified (no PIN, no finger).
    pub unverified: bool,
}

struct Key {
    id: Vec<u8>,
    pair: EcdsaKeyPair,
    counter: u32,
}

impl Authenticator {
    /// One that counts.
    pub fn new() -> Self {
        Authenticator { step: 1, ..Authenticator::default() }
    }

    /// Sets the counter of every key, as a copy of the device would have it.
    pub fn set_counter(&mut self, counter: u32) {
        self.keys.iter_mut().for_each(|key| key.counter = counter);
    }

    /// What the browser at `origin` answers to the options for a new key; nothing when they are none.
    pub fn register(&mut self, options: &str, origin: &str) -> Option<String> {
        let options: Value = serde_json::from_str(options).ok()?;
        let options = options.get("publicKey")?;
        let rp = self.other_rp.clone().or_else(|| Some(options.get("rp")?.get("id")?.as_str()?.to_owned()))?;
        let client_data = client_data("webauthn.create", options, origin)?;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).ok()?;
        let mut id = vec![0; 16];
        aws_lc_rs::rand::fill(&mut id).ok()?;

        let mut data = self.authenticator_data(&rp, WITH_CREDENTIAL, 0);
        data.extend([0; 16]);
        data.extend(u16::try_from(id.len()).ok()?.to_be_bytes());
        data.extend(&id);
        data.extend(cose_key(pair.public_key().as_ref())?);
        let attestation = attestation(&data)?;
        self.keys.push(Key { id: id.clone(), pair, counter: 0 });
        let answer = json!({
            "id": coded(&id), "rawId": coded(&id), "type": "public-key", "clientExtensionResults": {},
            "response": {
                "attestationObject": coded(&attestation), "clientDataJSON": coded(&client_data), "transports": ["usb"],
            },
        });
        Some(answer.to_string())
    }

    /// What the browser at `origin` answers to the options of a login; nothing when no key of this authenticator is asked
    /// for.
    pub fn login(&mut self, options: &str, origin: &str) -> Option<String> {
        let options: Value = serde_json::from_str(options).ok()?;
        let options = options.get("publicKey")?;
        let rp = self.other_rp.clone().or_else(|| Some(options.get("rpId")?.as_str()?.to_owned()))?;
        let client_data = client_data("webauthn.get", options, origin)?;
        let asked: Vec<Vec<u8>> = options
            .get("allowCredentials")?
            .as_array()?
            .iter()
            .filter_map(|one| URL_SAFE_NO_PAD.decode(one.get("id")?.as_str()?).ok())
            .collect();
        let at = self.keys.iter().position(|key| asked.contains(&key.id))?;
        let step = self.step;
        let counter = {
            let key = self.keys.get_mut(at)?;
            key.counter += step;
            key.counter
        };
        let data = self.authenticator_data(&rp, 0, counter);
        let key = self.keys.get(at)?;
        let mut signed = data.clone();
        signed.extend(digest(&SHA256, &client_data).as_ref());
        let signature = key.pair.sign(&SystemRandom::new(), &signed).ok()?;
        let answer = json!({
            "id": coded(&key.id), "rawId": coded(&key.id), "type": "public-key", "clientExtensionResults": {},
            "response": {
                "authenticatorData": coded(&data), "clientDataJSON": coded(&client_data),
                "signature": coded(signature.as_ref()), "userHandle": null,
            },
        });
        Some(answer.to_string())
    }

    fn authenticator_data(&self, rp: &str, more: u8, counter: u32) -> Vec<u8> {
        let mut data = digest(&SHA256, rp.as_bytes()).as_ref().to_vec();
        data.push(more | PRESENT | if self.unverified { 0 } else { VERIFIED });
        data.extend(counter.to_be_bytes());
        data
    }
}

/// WebAuthn section 5.8.1.
fn client_data(kind: &str, options: &Value, origin: &str) -> Option<Vec<u8>> {
    let challenge = options.get("challenge")?.as_str()?;
    Some(json!({"type": kind, "challenge": challenge, "origin": origin, "crossOrigin": false}).to_string().into_bytes())
}

/// A P-256 key in COSE (RFC 9053 section 7.1): `{1: 2, 3: -7, -1: 1, -2: x, -3: y}` in CBOR.
fn cose_key(point: &[u8]) -> Option<Vec<u8>> {
    let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
    Some([&[0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20][..], x, &[0x22, 0x58, 0x20], y].concat())
}

/// `{"fmt": "none", "attStmt": {}, "authData": data}` in CBOR (WebAuthn section 6.5.4).
fn attestation(data: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(data.len()).ok()?;
    Some([&b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58"[..], &[length], data].concat())
}

fn coded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
