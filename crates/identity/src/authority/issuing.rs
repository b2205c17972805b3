//! Issuing authorities as their certificates describe them: what they may certify, and whether the root signed them.

use std::collections::BTreeSet;

use byname_api::error::{Error, Result};
use byname_api::span::Timestamp;
use byname_name::{Name, dns};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::profile::{LOCALHOST, Scope, is_host_name};
use super::roots::trust_domain;
use super::verify::{Refusal, Rule, parse, refusal_of};
use super::{Roots, timestamp};

/// The subtree of names that an authority is constrained to.
///
/// An authority without a constraint on DNS names within the domain is none of ours: it could certify anything.
pub(crate) fn subtree_of(authority: &CertificateDer<'_>, domain: &str) -> Result<Name, Refusal> {
    Ok(scope_of(&parse(authority)?, domain)?.under)
}

fn scope_of(parsed: &X509Certificate<'_>, domain: &str) -> Result<Scope, Refusal> {
    let refuse = |what: String| refusal_of(Rule::Issuer, what);
    let constraints = parsed
        .name_constraints()
        .map_err(|_| refusal_of(Rule::Malformed, "the authority's name constraints are damaged"))?
        .ok_or_else(|| refuse(format!("the issuing authority is not constrained to names of {domain}")))?;
    if constraints.value.excluded_subtrees.as_ref().is_some_and(|excluded| !excluded.is_empty()) {
        return Err(refuse("the issuing authority excludes names, which cannot be checked for SPIFFE ids".to_owned()));
    }
    let mut subtrees = BTreeSet::new();
    let mut hosts = Vec::new();
    for subtree in constraints.value.permitted_subtrees.iter().flatten() {
        let GeneralName::DNSName(base) = &subtree.base else { continue };
        let base = base.strip_prefix('.').unwrap_or(base);
        match dns::from_dns(base, domain) {
            Ok(name) => drop(subtrees.insert(name)),
            Err(_) if base.eq_ignore_ascii_case(LOCALHOST) => {}
            Err(_) if is_host_name(base) => hosts.push(base.to_ascii_lowercase()),
            Err(_) => return Err(refuse("the issuing authority's name constraints hold what is no host".to_owned())),
        }
    }
    let mut subtrees = subtrees.into_iter();
    match (subtrees.next(), subtrees.next()) {
        (Some(under), None) => Ok(Scope { under, hosts }),
        (None, _) => Err(refuse(format!("the issuing authority is not constrained to names of {domain}"))),
        (Some(_), Some(_)) => Err(refuse(format!("the issuing authority is for several subtrees of {domain}"))),
    }
}

/// What an issuing authority's certificate says of itself.
pub(crate) struct IssuingFacts {
    pub(crate) scope: Scope,
    pub(crate) public_key: Vec<u8>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// Reads an issuing authority's certificate: an authority of `domain`, with a scope.
pub(crate) fn issuing_facts(der: &CertificateDer<'_>, domain: &str) -> Result<IssuingFacts> {
    let wrong = |refusal: Refusal| Error::invalid("chain", refusal.error.message().to_owned());
    let parsed = parse(der).map_err(wrong)?;
    if !parsed.is_ca() || !matches!(parsed.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign()) {
        return Err(Error::invalid("chain", "the certificate is not that of an authority"));
    }
    if let Some(theirs) = trust_domain(&parsed).filter(|theirs| theirs != domain) {
        return Err(Error::invalid("chain", format!("the certificate is of another trust domain: {theirs}")));
    }
    Ok(IssuingFacts {
        scope: scope_of(&parsed, domain).map_err(wrong)?,
        public_key: parsed.public_key().subject_public_key.as_ref().to_vec(),
        not_before: timestamp(parsed.validity().not_before.to_datetime()),
        not_after: timestamp(parsed.validity().not_after.to_datetime()),
    })
}

/// Checks an issuing authority that was signed elsewhere: an authority of the roots' domain, signed by the root itself,
/// in date.
pub(crate) fn verify_issuing(roots: &Roots, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<()> {
    let Some(first) = chain.first() else { return Err(Error::invalid("chain", "there is no certificate")) };
    let domain = roots.domain().unwrap_or_default();
    let facts = issuing_facts(first, domain)?;
    if now < facts.not_before || now >= facts.not_after {
        let what = format!("is good from {} until {} and not now", facts.not_before, facts.not_after);
        return Err(Error::invalid("chain", what));
    }
    let parsed = parse(first).map_err(|refusal| refusal.error)?;
    let signed = roots.ders().any(|root| {
        let Ok(root) = parse(root) else { return false };
        root.subject().as_raw() == parsed.issuer().as_raw() && parsed.verify_signature(Some(root.public_key())).is_ok()
    });
    if !signed {
        return Err(Error::invalid("chain", format!("is not signed by the given root of {domain}")));
    }
    Ok(())
}

/// From when until when a certificate is good.
pub(crate) fn validity(der: &CertificateDer<'_>) -> Result<(Timestamp, Timestamp)> {
    let parsed = parse(der).map_err(|refusal| Error::invalid("certificate", refusal.error.message().to_owned()))?;
    let end = |time: x509_parser::time::ASN1Time| timestamp(time.to_datetime());
    Ok((end(parsed.validity().not_before), end(parsed.validity().not_after)))
}

/// The public key of a certificate, as its bit string; none when it is damaged.
pub(crate) fn public_key_of(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Some(parse(der).ok()?.public_key().subject_public_key.as_ref().to_vec())
}
