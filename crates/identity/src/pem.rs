//! PEM texts (RFC 7468): certificates, keys and requests as files and people carry them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use byname_api::error::{Code, Error, Result};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The most bytes that are read as PEM: all the roots of a system, and more.
pub(crate) const MAX_PEM_BYTES: usize = 1024 * 1024;

/// The label of a certificate.
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a request for one.
pub(crate) const REQUEST: &str = "CERTIFICATE REQUEST";

/// Every certificate of a text, in its order; what else it holds is passed over.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    bounded(pem)?;
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable("certificate", &error))?;
    if found.is_empty() {
        return Err(Error::new(Code::InvalidArgument, "there is no certificate in the PEM text"));
    }
    Ok(found)
}

/// The first private key of a text, which must be PKCS#8.
pub(crate) fn private_key(pem: &str) -> Result<PrivatePkcs8KeyDer<'static>> {
    bounded(pem)?;
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable("private key", &error))? {
        PrivateKeyDer::Pkcs8(key) => Ok(key),
        _ => Err(Error::new(
            Code::InvalidArgument,
            "the private key is not PKCS#8: `openssl pkcs8 -topk8 -nodes` makes it so",
        )),
    }
}

/// The first request of a text.
pub(crate) fn request(pem: &str) -> Result<CertificateSigningRequestDer<'static>> {
    bounded(pem)?;
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| unreadable("certificate request", &error))
}

/// Bytes as one PEM section.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let base64 = STANDARD.encode(der);
    for at in (0..base64.len()).step_by(64) {
        text.push_str(&base64[at..base64.len().min(at + 64)]);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn bounded(pem: &str) -> Result<()> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(Error::new(Code::TooLarge, format!("the PEM text is longer than {MAX_PEM_BYTES} bytes")));
    }
    Ok(())
}

fn unreadable(what: &str, error: &rustls_pki_types::pem::Error) -> Error {
    use rustls_pki_types::pem::Error as Pem;
    match error {
        Pem::NoItemsFound => Error::new(Code::InvalidArgument, format!("there is no {what} in the PEM text")),
        _ => {
            Error::new(Code::InvalidArgument, format!("the PEM text with the {what} is damaged")).log(error.to_string())
        }
    }
}
