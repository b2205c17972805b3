//! The authority of a trust domain: a root, an issuing authority signed by it, and the certificates that this one signs
//! for names.
//!
//! ```text
//! root         ten years, CN "corp.example root", URI spiffe://corp.example; its key may be kept off line
//!   issuing    one year, may certify names of its subtree and a few hosts (RFC 5280 name constraints)
//!     leaf     one name: URI spiffe://corp.example/BVODS/QS, DNS qs.bvods.corp.example, the object's id
//! ```
//!
//! The constraint of an issuing authority is on DNS names: the domain (or the part of it that is the subtree's), and
//! `localhost`; OpenSSL and webpki both hold leaves to it. A host outside it must be named when the authority is made
//! ([`Authority::create_for`]). Constraints for URIs cover hosts and no paths, so [`verify`] reads the subtree from the
//! DNS constraint and holds the SPIFFE id to it.

use std::time::Duration;

use byname_api::error::{Code, Error, Result};
use byname_api::span::Timestamp;
use byname_name::{Name, spiffe};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;

use crate::jwt::JwtKey;
use crate::pem;

mod describe;
mod files;
mod issuing;
mod profile;
mod request;
mod roots;
mod stored;
mod verify;

pub use describe::{Description, Sort, show};
pub use files::{RootFiles, Sign};
pub use profile::{Subject, Usage};
pub use request::{NewKey, SigningRequest, external_request, new_key};
pub use roots::Roots;
pub use verify::{Peer, Purpose, verify, verify_pem};

pub(crate) use issuing::public_key_of;
pub(crate) use profile::{spiffe_id, timestamp};
#[cfg(fuzzing)]
pub(crate) use verify::read_unsigned;
pub(crate) use verify::{Refusal, Rule, refusal_of, verify_chain, verify_host};

use profile::{ISSUING_LIFE, Scope, date, internal, is_host_name, is_host_under};

/// The most bytes of a trust domain that is also a DNS suffix: names must still fit in front of it.
pub const MAX_DOMAIN_BYTES: usize = 128;

/// A trust domain's issuing authority, with the root's key or without.
pub struct Authority {
    domain: String,
    scope: Scope,
    roots: Roots,
    root_key_pem: Option<String>,
    issuing_der: CertificateDer<'static>,
    issuing_key_pem: String,
    issuing_not_before: Timestamp,
    issuing_not_after: Timestamp,
    issuer: Issuer<'static, KeyPair>,
    jwt_key: JwtKey,
}

/// A certificate that was just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The leaf and the issuing authority, PEM.
    pub chain_pem: String,
    /// The leaf alone, DER.
    pub leaf_der: Vec<u8>,
    /// The serial number, in hexadecimal digits.
    pub serial: String,
    /// From when it is good: five minutes ago, for clocks that are behind.
    pub not_before: Timestamp,
    /// Until when it is good.
    pub not_after: Timestamp,
}

impl Authority {
    /// Makes a root and an issuing authority for the whole of `domain`, which is the trust domain and the DNS suffix.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when `domain` cannot be both.
    pub fn create(domain: &str, now: Timestamp) -> Result<Self> {
        Authority::create_for(domain, &[], now)
    }

    /// As [`Authority::create`]; server certificates may also name `hosts` and what is beneath them in the DNS.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when `domain` cannot be both or a host is none.
    pub fn create_for(domain: &str, hosts: &[String], now: Timestamp) -> Result<Self> {
        check_domain(domain)?;
        let (root_key_pem, root_pem) = new_root(domain, now)?;
        let scope = Scope { under: Name::root(), hosts: hosts.to_vec() };
        let (issuing_key_pem, request_pem) = {
            let NewKey { key_pem, request_pem } = new_key()?;
            (key_pem, request_pem)
        };
        let request = SigningRequest::parse(request_pem.as_bytes())?;
        let issuing = sign_issuing(domain, &root_pem, &root_key_pem, &request, &scope, ISSUING_LIFE, now)?;
        Authority::assemble(&root_pem, Some(root_key_pem), &issuing, issuing_key_pem, JwtKey::generate()?)
    }

    /// An authority whose root key is elsewhere: `chain_pem` begins with the certificate that was signed for
    /// `issuing_key_pem`. What it may certify is read from its constraints.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the certificate is not the key's, no authority, not signed by the root, of another trust
    /// domain, without a constraint to it, or out of date.
    pub fn external(
        domain: &str,
        chain_pem: &str,
        issuing_key_pem: &str,
        root_pem: &str,
        now: Timestamp,
    ) -> Result<Self> {
        check_domain(domain)?;
        let roots = Roots::from_pem(root_pem)?;
        if roots.domain() != Some(domain) {
            let whose = roots.domain().unwrap_or("no trust domain");
            return Err(Error::invalid("root", format!("the root is of {whose} and not of {domain}")));
        }
        let chain = pem::certificates(chain_pem)?;
        issuing::verify_issuing(&roots, &chain, now).map_err(|error| error.within("the issuing certificate"))?;
        let first = chain.first().map(|der| pem::encode(pem::CERTIFICATE, der)).unwrap_or_default();
        Authority::assemble(root_pem, None, &first, issuing_key_pem.to_owned(), JwtKey::generate()?)
    }

    /// The same with a new issuing authority, when more than two thirds of this one's life are over and the root's key is
    /// here; else nothing. What the old one signed stays good.
    ///
    /// # Errors
    ///
    /// `internal` when signing fails.
    pub fn renewed(&self, now: Timestamp) -> Result<Option<Self>> {
        let life = self.issuing_not_after.0.saturating_sub(self.issuing_not_before.0);
        let due = self.issuing_not_before.0.saturating_add(life / 3 * 2);
        let Some(root_key_pem) = self.root_key_pem.as_ref().filter(|_| now.0 >= due) else { return Ok(None) };
        let key = new_key()?;
        let request = SigningRequest::parse(key.request_pem.as_bytes())?;
        let root_pem = self.root_pem();
        let issuing = sign_issuing(&self.domain, &root_pem, root_key_pem, &request, &self.scope, ISSUING_LIFE, now)?;
        let jwt_key = JwtKey::from_pkcs8(self.jwt_key.to_pkcs8())?;
        Authority::assemble(&root_pem, Some(root_key_pem.clone()), &issuing, key.key_pem, jwt_key).map(Some)
    }

    /// Certifies that the holder of the request's key is `subject`, for `validity` or until the issuing authority's own
    /// end, whichever comes first.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the name has no form in SPIFFE (the message says why), is outside the authority's subtree,
    /// or a host is outside its constraint; `unavailable` when the issuing authority has expired.
    pub fn certify(
        &self,
        request: &SigningRequest,
        subject: &Subject,
        validity: Duration,
        now: Timestamp,
    ) -> Result<Certificate> {
        if now >= self.issuing_not_after {
            let what = format!("the issuing authority of {} expired on {}", self.domain, self.issuing_not_after);
            return Err(Error::new(Code::Unavailable, what));
        }
        if !subject.name.is_under(&self.scope.under) {
            let what =
                format!("{} is not beneath {}, which is all that is certified here", subject.name, self.scope.under);
            return Err(Error::invalid("name", what));
        }
        if let Some(host) = subject.dns.iter().find(|host| !self.permits_host(host)) {
            let what = format!(
                "the authority of {} may not certify the host `{host}`, only {}",
                self.domain,
                self.scope.subtrees(&self.domain)?.join(", ")
            );
            return Err(Error::invalid("dns", what));
        }
        let mut params = profile::leaf(&self.domain, subject, now, validity)?;
        params.not_after = params.not_after.min(date(self.issuing_not_after)?);
        let signed = params.signed_by(request.key(), &self.issuer).map_err(internal)?;
        let issuing_pem = pem::encode(pem::CERTIFICATE, &self.issuing_der);
        Ok(Certificate {
            chain_pem: pem::encode(pem::CERTIFICATE, signed.der()) + &issuing_pem,
            leaf_der: signed.der().to_vec(),
            serial: params.serial_number.map(|serial| hex::encode(serial.to_bytes())).unwrap_or_default(),
            not_before: timestamp(params.not_before),
            not_after: timestamp(params.not_after),
        })
    }

    /// Whether a certificate may hold this host name beside the name's own form.
    pub fn permits_host(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let within = |subtrees: Vec<String>| subtrees.iter().any(|subtree| is_host_under(host, subtree));
        is_host_name(host) && self.scope.subtrees(&self.domain).is_ok_and(within)
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The subtree whose names are certified here: the root for the whole domain.
    pub fn under(&self) -> &Name {
        &self.scope.under
    }

    /// The root's certificate, PEM.
    pub fn root_pem(&self) -> String {
        self.roots.to_pem()
    }

    /// What others must trust to verify our certificates, PEM: the root.
    pub fn bundle_pem(&self) -> String {
        self.roots.to_pem()
    }

    /// The same, read.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// SHA-256 of the root's certificate (DER): what a join token pins.
    pub fn root_fingerprint(&self) -> [u8; 32] {
        self.roots.fingerprints().next().unwrap_or_default()
    }

    /// The issuing authority's certificate, PEM.
    pub fn issuing_pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, &self.issuing_der)
    }

    /// When the issuing authority expires.
    pub fn issuing_not_after(&self) -> Timestamp {
        self.issuing_not_after
    }

    /// The key that signs tokens for names ([`crate::jwt`]). It stays when the issuing authority is renewed.
    pub fn jwt_key(&self) -> &JwtKey {
        &self.jwt_key
    }

    /// The trust domain's keys as SPIFFE's own tools take them (JSON): the roots, and the key for tokens.
    pub fn spiffe_bundle(&self) -> String {
        self.jwt_key.bundle(&self.roots)
    }

    /// The root's private key, PKCS#8 in PEM, when it is here.
    pub(crate) fn root_key_pem(&self) -> Option<&str> {
        self.root_key_pem.as_deref()
    }

    /// Whether the root's key is here, so that the authority can renew itself.
    pub fn holds_root_key(&self) -> bool {
        self.root_key_pem.is_some()
    }

    fn assemble(
        root_pem: &str,
        root_key_pem: Option<String>,
        issuing_pem: &str,
        issuing_key_pem: String,
        jwt_key: JwtKey,
    ) -> Result<Self> {
        let roots = Roots::from_pem(root_pem)?;
        let Some(domain) = roots.domain().map(str::to_owned) else {
            return Err(Error::invalid("root", "the root names no trust domain (a URI `spiffe://DOMAIN`)"));
        };
        let issuing_der = pem::certificates(issuing_pem)?.swap_remove(0);
        let facts = issuing::issuing_facts(&issuing_der, &domain)?;
        let key = key_pair(&issuing_key_pem)?;
        if key.public_key_raw() != facts.public_key.as_slice() {
            return Err(Error::invalid("key", "the key is not that of the issuing certificate"));
        }
        let issuer = Issuer::from_ca_cert_der(&issuing_der, key).map_err(internal)?;
        Ok(Authority {
            domain,
            scope: facts.scope,
            roots,
            root_key_pem,
            issuing_der,
            issuing_key_pem,
            issuing_not_before: facts.not_before,
            issuing_not_after: facts.not_after,
            issuer,
            jwt_key,
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .field("scope", &self.scope)
            .field("issuing_not_after", &self.issuing_not_after)
            .field("holds_root_key", &self.holds_root_key())
            .finish_non_exhaustive()
    }
}

/// A root's key and certificate.
pub(crate) fn new_root(domain: &str, now: Timestamp) -> Result<(String, String)> {
    check_domain(domain)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(internal)?;
    let signed = profile::root(domain, now)?.self_signed(&key).map_err(internal)?;
    Ok((key.serialize_pem(), pem::encode(pem::CERTIFICATE, signed.der())))
}

/// Has the root sign an issuing authority, which lives no longer than the root; gives its certificate in PEM.
pub(crate) fn sign_issuing(
    domain: &str,
    root_pem: &str,
    root_key_pem: &str,
    request: &SigningRequest,
    scope: &Scope,
    life: Duration,
    now: Timestamp,
) -> Result<String> {
    let root_der = pem::certificates(root_pem)?.swap_remove(0);
    let root_end = issuing::validity(&root_der)?.1;
    if now >= root_end {
        return Err(Error::new(Code::Unavailable, format!("the root of {domain} expired on {root_end}")));
    }
    let mut params = profile::issuing(domain, scope, now, life)?;
    params.not_after = params.not_after.min(date(root_end)?);
    let issuer = Issuer::from_ca_cert_der(&root_der, key_pair(root_key_pem)?).map_err(internal)?;
    let signed = params.signed_by(request.key(), &issuer).map_err(internal)?;
    Ok(pem::encode(pem::CERTIFICATE, signed.der()))
}

/// A domain that is a trust domain and a DNS suffix.
pub(crate) fn check_domain(domain: &str) -> Result<()> {
    if spiffe::is_trust_domain(domain) && is_host_name(domain) && domain.len() <= MAX_DOMAIN_BYTES {
        return Ok(());
    }
    let what = format!(
        "`{domain}` cannot be a trust domain and a DNS suffix: it is at most {MAX_DOMAIN_BYTES} of a-z, 0-9, `-`, `_` and `.`"
    );
    Err(Error::invalid("domain", what))
}

fn key_pair(pem_text: &str) -> Result<KeyPair> {
    let der = pem::private_key(pem_text)?;
    KeyPair::try_from(&der)
        .map_err(|error| Error::invalid("key", "the private key cannot be used").log(error.to_string()))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod bad;
