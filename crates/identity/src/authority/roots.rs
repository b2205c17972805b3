//! The roots that a certificate may lead to.

use aws_lc_rs::digest::{SHA256, digest};
use byname_api::error::{Error, Result};
use byname_api::span::Timestamp;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::timestamp;
use crate::pem;

/// The most roots of one bundle.
const MAX_ROOTS: usize = 512;

/// A bundle of roots, read once: usually one, two while one root takes over from another.
#[derive(Clone, Debug)]
pub struct Roots {
    roots: Vec<Root>,
    domain: Option<String>,
}

#[derive(Clone, Debug)]
struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_after: Timestamp,
}

impl Roots {
    /// Reads a bundle. The trust domain is that of the roots' SPIFFE URIs; a bundle of authorities that know nothing of
    /// SPIFFE has none, and with it a server can only be known by its host name.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when there is no certificate, one is damaged, or they are of several trust domains.
    pub fn from_pem(text: &str) -> Result<Self> {
        Roots::from_ders(pem::certificates(text)?)
    }

    pub(crate) fn from_ders(ders: Vec<CertificateDer<'static>>) -> Result<Self> {
        if ders.len() > MAX_ROOTS {
            return Err(Error::invalid("roots", format!("a bundle has at most {MAX_ROOTS} roots")));
        }
        let mut domain: Option<String> = None;
        let mut roots = Vec::with_capacity(ders.len());
        for der in ders {
            let damaged = || Error::invalid("roots", "a root's certificate is damaged");
            let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| damaged())?.to_owned();
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| damaged())?;
            if let Some(own) = trust_domain(&parsed) {
                match &domain {
                    Some(other) if *other != own => {
                        let what = format!("the bundle holds roots of several trust domains: {other}, {own}");
                        return Err(Error::invalid("roots", what));
                    }
                    _ => domain = Some(own),
                }
            }
            let not_after = timestamp(parsed.validity().not_after.to_datetime());
            drop(parsed);
            roots.push(Root { der, anchor, not_after });
        }
        Ok(Roots { roots, domain })
    }

    /// The trust domain, when the roots name one.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The bundle in PEM.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(|root| pem::encode(pem::CERTIFICATE, &root.der)).collect()
    }

    /// SHA-256 of each root (DER).
    pub fn fingerprints(&self) -> impl Iterator<Item = [u8; 32]> {
        self.roots.iter().map(|root| fingerprint(&root.der))
    }

    pub(crate) fn ders(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// Those that have not expired.
    pub(crate) fn live(&self, now: Timestamp) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().filter(move |root| now < root.not_after).map(|root| &root.der)
    }

    /// The root that a certificate names as its issuer, unless that is the certificate itself.
    pub(crate) fn issuer_of(&self, der: &CertificateDer<'_>) -> Option<CertificateDer<'static>> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let is_issuer = |root: &&Root| match X509Certificate::from_der(&root.der) {
            Ok((_, root)) => {
                root.subject().as_raw() == parsed.issuer().as_raw()
                    && parsed.verify_signature(Some(root.public_key())).is_ok()
            }
            Err(_) => false,
        };
        self.roots.iter().find(is_issuer).map(|root| root.der.clone()).filter(|root| root != der)
    }

    pub(crate) fn anchors(&self) -> Vec<TrustAnchor<'_>> {
        self.roots.iter().map(|root| root.anchor.clone()).collect()
    }

    /// Subjects as DER, for the hint to clients.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.roots.iter().map(|root| root.anchor.subject.as_ref())
    }

    /// When the root expires that an anchor was made of; the chain builder does not look.
    pub(crate) fn end_of(&self, anchor: &TrustAnchor<'_>) -> Option<Timestamp> {
        self.roots.iter().find(|root| root.anchor == *anchor).map(|root| root.not_after)
    }
}

/// SHA-256 of a certificate.
pub(crate) fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, der).as_ref());
    out
}

/// The trust domain of a certificate's first SPIFFE URI, whether or not it is to be believed.
pub(crate) fn trust_domain(parsed: &X509Certificate<'_>) -> Option<String> {
    let names = parsed.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => {
            let rest = uri.strip_prefix("spiffe://")?;
            let domain = rest.split('/').next().unwrap_or_default();
            byname_name::spiffe::is_trust_domain(domain).then(|| domain.to_owned())
        }
        _ => None,
    })
}
