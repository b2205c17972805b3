//! The authority as it is kept, for its caller to seal: the bytes hold private keys in the clear.

use byname_api::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::Authority;
use crate::jwt::JwtKey;

/// The format of what follows the first byte.
const VERSION: u8 = 1;
/// More than any authority takes.
const MAX_BYTES: usize = 128 * 1024;

#[derive(Serialize, Deserialize)]
struct V1 {
    root_pem: String,
    root_key_pem: Option<String>,
    issuing_pem: String,
    issuing_key_pem: String,
    jwt_key_pkcs8: Vec<u8>,
}

impl Authority {
    /// Everything that makes the authority, private keys included: to be sealed under the cluster's key.
    ///
    /// # Errors
    ///
    /// `internal`, never seen.
    pub fn to_sealed_form(&self) -> Result<Vec<u8>> {
        let stored = V1 {
            root_pem: self.root_pem(),
            root_key_pem: self.root_key_pem.clone(),
            issuing_pem: self.issuing_pem(),
            issuing_key_pem: self.issuing_key_pem.clone(),
            jwt_key_pkcs8: self.jwt_key.to_pkcs8().to_vec(),
        };
        postcard::to_extend(&stored, vec![VERSION])
            .map_err(|error| Error::internal(format!("writing an authority: {error}")))
    }

    /// Reads what [`Authority::to_sealed_form`] gave.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the bytes are damaged, `unsupported` when they come from a newer version.
    pub fn from_sealed_form(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::new(Code::InvalidArgument, "the stored authority is damaged");
        let (version, rest) = bytes.split_first().filter(|_| bytes.len() <= MAX_BYTES).ok_or_else(damaged)?;
        if *version != VERSION {
            let what = format!("the stored authority is of format {version}, and this version knows {VERSION}");
            return Err(Error::new(Code::Unsupported, what));
        }
        let stored: V1 = postcard::from_bytes(rest).map_err(|_| damaged())?;
        let jwt_key = JwtKey::from_pkcs8(&stored.jwt_key_pkcs8)?;
        Authority::assemble(&stored.root_pem, stored.root_key_pem, &stored.issuing_pem, stored.issuing_key_pem, jwt_key)
    }
}
