//! The key that the servers of a cluster share, and what is sealed under it: authorities, password set-ups, launch
//! secrets and session tokens.
//!
//! A sealed text is `1, nonce (12 bytes), AES-256-GCM ciphertext, tag (16 bytes)`. Each purpose has a key of its own
//! (HKDF-SHA256 of the cluster's key, RFC 5869, with the purpose in `info`), and the version and the purpose are
//! authenticated with it, so that a text sealed for one purpose opens for no other. Nonces are random: one purpose may
//! seal 2^32 texts before two of them meet with a probability of 2^-32 (SP 800-38D section 8.3).

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::{hmac, rand};
use byname_api::error::{Code, Error, Result};
use zeroize::Zeroizing;

use crate::private_file;

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
/// How the file begins; the key follows in hexadecimal digits.
const FILE_HEAD: &str = "byname-cluster-key-1 ";

/// The key of a cluster: 256 random bits. It is handed to a server that joins, and printed nowhere.
#[derive(Clone)]
pub struct ClusterKey(Zeroizing<[u8; KEY_BYTES]>);

/// The key of one purpose, derived once: for what seals and opens often.
pub struct Sealer {
    key: RandomizedNonceKey,
    aad: Vec<u8>,
}

impl ClusterKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// `internal` without randomness.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut()).map_err(|_| Error::internal("no randomness for a cluster key"))?;
        Ok(ClusterKey(bytes))
    }

    /// The key that another server handed over.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        ClusterKey(Zeroizing::new(bytes))
    }

    /// The key, for a server that joins.
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        self.0.clone()
    }

    /// Reads the key of a file, or makes one there (mode 0600, on disk before this returns).
    ///
    /// # Errors
    ///
    /// `denied` when others than the owner may read the file, `invalid-argument` when it is damaged, `internal` when the
    /// disk refuses.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        if let Some(key) = ClusterKey::load(path)? {
            return Ok(key);
        }
        let key = ClusterKey::generate()?;
        match key.store(path) {
            Ok(()) => Ok(key),
            // Another process was quicker: its key is the one that others will read.
            Err(error) if error.code() == Code::AlreadyExists => ClusterKey::load(path)?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Reads the key of a file; none when there is no such file.
    ///
    /// # Errors
    ///
    /// As [`ClusterKey::load_or_create`].
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = private_file::read(path)?.map(Zeroizing::new) else { return Ok(None) };
        let damaged = || Error::new(Code::InvalidArgument, format!("{} is no cluster key", path.display()));
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
        let digits = text.strip_prefix(FILE_HEAD).ok_or_else(damaged)?.trim_end_matches('\n');
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(digits, key.as_mut()).map_err(|_| damaged())?;
        Ok(Some(ClusterKey(key)))
    }

    /// Writes the key to a new file (mode 0600).
    ///
    /// # Errors
    ///
    /// `already-exists`: a key is never written over.
    pub fn store(&self, path: &Path) -> Result<()> {
        let text = Zeroizing::new(format!("{FILE_HEAD}{}\n", hex::encode(self.0.as_ref())));
        private_file::create(path, text.as_bytes(), private_file::PRIVATE)
    }

    /// The key for one purpose.
    ///
    /// # Errors
    ///
    /// `internal`, never seen.
    pub fn sealer(&self, purpose: &str) -> Result<Sealer> {
        let key = self.derive(b"byname seal 1", purpose)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_ref())
            .map_err(|_| Error::internal("AES-256-GCM refuses its key"))?;
        let mut aad = vec![VERSION];
        aad.extend_from_slice(purpose.as_bytes());
        Ok(Sealer { key, aad })
    }

    /// Seals a text for a purpose.
    ///
    /// # Errors
    ///
    /// `internal` without randomness.
    pub fn seal(&self, purpose: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        self.sealer(purpose)?.seal(plaintext)
    }

    /// Opens what was sealed for the same purpose.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when it was sealed under another key or for another purpose, or is damaged: these cannot be
    /// told from each other.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        self.sealer(purpose)?.open(sealed)
    }

    /// A keyed hash (HMAC-SHA256 under a key of the purpose's own): what only this cluster can compute again.
    ///
    /// # Errors
    ///
    /// `internal`, never seen.
    pub fn mac(&self, purpose: &str, data: &[u8]) -> Result<[u8; 32]> {
        let key = self.derive(b"byname mac 1", purpose)?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), data);
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        Ok(out)
    }

    fn derive(&self, label: &[u8], purpose: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>> {
        struct Length;
        impl KeyType for Length {
            fn len(&self) -> usize {
                KEY_BYTES
            }
        }
        let defect = |_| Error::internal("deriving a key failed");
        let secret: Prk = Salt::new(HKDF_SHA256, label).extract(self.0.as_ref());
        let mut out = Zeroizing::new([0; KEY_BYTES]);
        let info = [purpose.as_bytes()];
        secret.expand(&info, Length).map_err(defect)?.fill(out.as_mut()).map_err(defect)?;
        Ok(out)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl Sealer {
    /// Seals a text.
    ///
    /// # Errors
    ///
    /// `internal` without randomness.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>> {
        let mut text = plaintext.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(self.aad.as_slice()), &mut text)
            .map_err(|_| Error::internal("sealing failed"))?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Opens what was sealed for the same purpose under the same key.
    ///
    /// # Errors
    ///
    /// `invalid-argument`.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let refused = || Error::new(Code::InvalidArgument, "it was not sealed here for this, or it is damaged");
        let Some((&VERSION, rest)) = sealed.split_first() else { return Err(refused()) };
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or_else(refused)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let mut text = text.to_vec();
        let length =
            self.key.open_in_place(nonce, Aad::from(self.aad.as_slice()), &mut text).map_err(|_| refused())?.len();
        text.truncate(length);
        Ok(text)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_sealed_opens_for_its_purpose_only() {
        let key = ClusterKey::generate().unwrap();
        let sealed = key.seal("authority", b"a secret").unwrap();
        assert_eq!(key.open("authority", &sealed).unwrap(), b"a secret");
        assert_ne!(key.seal("authority", b"a secret").unwrap(), sealed);
        assert!(!sealed.windows(8).any(|part| part == b"a secret"));
        for (other, purpose) in [(&key, "session"), (&key, ""), (&ClusterKey::generate().unwrap(), "authority")] {
            assert_eq!(other.open(purpose, &sealed).unwrap_err().code(), Code::InvalidArgument);
        }
        assert_eq!(ClusterKey::from_bytes(*key.to_bytes()).open("authority", &sealed).unwrap(), b"a secret");
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let key = ClusterKey::generate().unwrap();
        let sealed = key.seal("p", b"x").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut other = sealed.clone();
                other[at] ^= 1 << bit;
                assert!(key.open("p", &other).is_err(), "byte {at} bit {bit}");
            }
            assert!(key.open("p", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(key.open("p", &[sealed, vec![0]].concat()).is_err());
    }

    #[test]
    fn an_empty_text_can_be_sealed() {
        let key = ClusterKey::generate().unwrap();
        assert_eq!(key.open("p", &key.seal("p", b"").unwrap()).unwrap(), b"");
    }

    #[test]
    fn a_keyed_hash_depends_on_key_purpose_and_data() {
        let key = ClusterKey::from_bytes([7; 32]);
        let mac = key.mac("pair", b"data").unwrap();
        assert_eq!(mac, ClusterKey::from_bytes([7; 32]).mac("pair", b"data").unwrap());
        assert_ne!(mac, key.mac("pair", b"datb").unwrap());
        assert_ne!(mac, key.mac("other", b"data").unwrap());
        assert_ne!(mac, ClusterKey::from_bytes([8; 32]).mac("pair", b"data").unwrap());
    }

    #[test]
    fn the_file_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(ClusterKey::load(&path).unwrap().is_none());
        let key = ClusterKey::load_or_create(&path).unwrap();
        assert_eq!(*ClusterKey::load_or_create(&path).unwrap().to_bytes(), *key.to_bytes());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(key.store(&path).unwrap_err().code(), Code::AlreadyExists);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(ClusterKey::load_or_create(&path).unwrap_err().code(), Code::Denied);
    }

    #[test]
    fn a_damaged_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in ["", "byname-cluster-key-1 12", "byname-cluster-key-2 00"] {
            let _ = std::fs::remove_file(&path);
            private_file::create(&path, text.as_bytes(), private_file::PRIVATE).unwrap();
            assert_eq!(ClusterKey::load_or_create(&path).unwrap_err().code(), Code::InvalidArgument, "{text:?}");
        }
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        assert_eq!(format!("{:?}", ClusterKey::from_bytes([7; 32])), "ClusterKey");
    }
}
