//! Requests for certificates (PKCS#10, RFC 2986): from everything that a request says, we take the public key.

use byname_api::error::{Code, Error, Result};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::profile::{MAX_DN_CHARACTERS, cut, internal};
use crate::pem;

/// The most bytes of a request.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// The shortest RSA key that we certify, in bits; longer ones than the second only cost time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// A request whose signature was checked: whoever sent it holds the private key.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    key: SubjectPublicKeyInfo,
}

impl SigningRequest {
    /// Reads a request in PEM or DER. Keys may be P-256, P-384, Ed25519 or RSA of 2,048 to 8,192 bits.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when it is no request, its signature is wrong or its key is of another kind; `too-large`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_REQUEST_BYTES {
            let what = format!("a certificate request has at most {MAX_REQUEST_BYTES} bytes");
            return Err(Error::new(Code::TooLarge, what));
        }
        let der = match std::str::from_utf8(bytes) {
            Ok(text) if text.contains("-----BEGIN") => pem::request(text)?,
            _ => CertificateSigningRequestDer::from(bytes.to_vec()),
        };
        let bad = |what: &str| Error::invalid("request", what.to_owned());
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| bad("this is not a certificate request (PKCS#10)"))?;
        if !rest.is_empty() {
            return Err(bad("something follows the certificate request"));
        }
        let info = &request.certification_request_info.subject_pki;
        let parsed = info.parsed().map_err(|_| bad("the public key of the certificate request is damaged"))?;
        if let PublicKey::RSA(key) = &parsed
            && !RSA_BITS.contains(&key.key_size())
        {
            return Err(bad("an RSA key has 2,048 to 8,192 bits"));
        }
        let key = SubjectPublicKeyInfo::from_der(info.raw)
            .ok()
            .filter(is_certified)
            .ok_or_else(|| bad("the key of the certificate request is none of P-256, P-384, Ed25519 and RSA"))?;
        request
            .verify_signature()
            .map_err(|_| bad("the certificate request is not signed by the key that it holds"))?;
        Ok(SigningRequest { key })
    }

    /// The public key.
    pub(crate) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

fn is_certified(key: &SubjectPublicKeyInfo) -> bool {
    [
        &PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA384,
        &rcgen::PKCS_RSA_SHA512,
    ]
    .contains(&key.algorithm())
}

/// A key of one's own and the request that asks for its certificate.
#[derive(Clone)]
pub struct NewKey {
    /// The private key, PKCS#8 in PEM.
    pub key_pem: String,
    /// The request, PKCS#10 in PEM. It holds no name: the authority decides whose the key is.
    pub request_pem: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("request_pem", &self.request_pem).finish_non_exhaustive()
    }
}

/// Makes a P-256 key and its request.
///
/// # Errors
///
/// `internal` without randomness.
pub fn new_key() -> Result<NewKey> {
    request_for(DistinguishedName::new())
}

/// Makes a P-256 key and the request of an issuing authority of `domain`, to be signed where the root's key is kept
/// ([`super::RootFiles::sign`]). The domain stands in the request for the people who carry it.
///
/// # Errors
///
/// `invalid-argument` when it is no domain, `internal` without randomness.
pub fn external_request(domain: &str) -> Result<NewKey> {
    super::check_domain(domain)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, cut(&format!("{domain} issuing"), MAX_DN_CHARACTERS));
    request_for(name)
}

fn request_for(name: DistinguishedName) -> Result<NewKey> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(internal)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    let request = params.serialize_request(&key).map_err(internal)?;
    Ok(NewKey { key_pem: key.serialize_pem(), request_pem: pem::encode(pem::REQUEST, request.der()) })
}
