//! A certificate with its key, as files and as the Workload API want them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use byname_api::identity::{CertifyReply, Secret};
use byname_api::span::Timestamp;
use byname_api::{Error, Result};

use crate::instance::now_ms;

/// What an instance proves itself with (an X.509-SVID). `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Svid {
    /// The SPIFFE id.
    pub spiffe: String,
    /// The chain in PEM, the instance's certificate first.
    pub chain_pem: String,
    /// The key, PKCS#8 in PEM.
    pub key_pem: Secret,
    /// The roots of the trust domain in PEM.
    pub bundle_pem: String,
    /// The chain, each certificate in DER, one after the other.
    pub chain: Vec<u8>,
    /// The key, PKCS#8 in DER.
    pub key: Vec<u8>,
    /// The roots in DER, one after the other.
    pub bundle: Vec<u8>,
    /// When it came.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid").field("spiffe", &self.spiffe).field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Svid {
    /// Puts an answer and the key that it is for together.
    ///
    /// # Errors
    ///
    /// `internal` when a part of it cannot be read.
    pub fn new(reply: CertifyReply, key_pem: Secret) -> Result<Svid> {
        Svid::of(reply.spiffe, reply.chain, key_pem, reply.bundle, Timestamp(now_ms()), reply.expires)
            .ok_or_else(|| Error::internal("a certificate was issued that cannot be read"))
    }

    pub(super) fn of(
        spiffe: String,
        chain_pem: String,
        key_pem: Secret,
        bundle_pem: String,
        issued: Timestamp,
        expires: Timestamp,
    ) -> Option<Svid> {
        let chain = der(&chain_pem, "CERTIFICATE")?;
        let key = der(&key_pem.0, "PRIVATE KEY")?;
        let bundle = der(&bundle_pem, "CERTIFICATE")?;
        Some(Svid { spiffe, chain_pem, key_pem, bundle_pem, chain, key, bundle, issued, expires })
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        let rest = self.spiffe.strip_prefix("spiffe://").unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }
}

/// The sections of this kind in a PEM text (RFC 7468), decoded, one after the other; none when there is no such section
/// or one is damaged.
fn der(pem: &str, label: &str) -> Option<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some((_, after)) = rest.split_once(&begin) {
        let (body, after) = after.split_once(&end)?;
        let body: String = body.split_ascii_whitespace().collect();
        STANDARD.decode_vec(body, &mut found).ok()?;
        rest = after;
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_put_one_after_the_other() {
        let text = "words\n-----BEGIN A-----\nAQID\nBA==\n-----END A-----\n-----BEGIN B-----\nCQ==\n-----END B-----\n\
                    -----BEGIN A-----\r\nBQ==\r\n-----END A-----\r\n";
        assert_eq!(der(text, "A"), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(der(text, "B"), Some(vec![9]));
        assert_eq!(der(text, "C"), None);
        assert_eq!(der("-----BEGIN A-----\nAQ", "A"), None);
        assert_eq!(der("-----BEGIN A-----\n!!\n-----END A-----", "A"), None);
    }
}
