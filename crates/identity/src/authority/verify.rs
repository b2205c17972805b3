//! Whose a certificate is. One function for every use: the TLS verifier, certificates carried in messages, tests.

use std::net::IpAddr;

use byname_api::error::{Code, Error, Result};
use byname_api::object::{InstanceId, ObjectId};
use byname_api::span::Timestamp;
use byname_name::{Name, dns, spiffe};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;
use x509_parser::prelude::FromDer;

use super::issuing::subtree_of;
use super::profile::{is_host_under, is_server};
use super::roots::{fingerprint, trust_domain};
use super::{Roots, timestamp};

/// Who is at the other end, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The principal's name, spelled as it was created.
    pub name: Name,
    /// The trust domain.
    pub domain: String,
    /// The object that held the name when the certificate was made.
    pub id: Option<ObjectId>,
    /// The running copy, where the certificate is one copy's.
    pub instance: Option<InstanceId>,
    /// The certificate's serial number, in hexadecimal digits: what a revocation names.
    pub serial: String,
    /// SHA-256 of the certificate (DER).
    pub fingerprint: [u8; 32],
    /// When the certificate was made, as far as its validity tells.
    pub issued: Timestamp,
    /// When the certificate expires. A connection may live longer: who cares asks again.
    pub not_after: Timestamp,
    /// Whether the name is that of a name server (`/byname/servers/…`).
    pub is_server_name: bool,
    /// Whether the name has the form of a name server's, whoever the certificate was made for.
    pub has_server_form: bool,
}

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Its holder connected.
    Client,
    /// Its holder was connected to.
    Server,
}

/// Which rule a certificate broke, as far as a TLS alert can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Malformed,
    NotYet,
    Expired,
    Issuer,
    Purpose,
    Other,
}

/// A certificate that is refused, and the sentence that says why.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) rule: Rule,
    pub(crate) error: Error,
}

/// A refusal with the code that every one has.
pub(crate) fn refusal_of(rule: Rule, what: impl Into<String>) -> Refusal {
    Refusal { rule, error: Error::new(Code::Unauthenticated, what) }
}

/// Verifies a chain, leaf first (DER), against our roots. The rules:
///
/// - it leads to one of the roots, everything in it is in date, and name constraints hold (RFC 5280 section 6),
/// - the leaf is no authority, may sign, and is meant for `purpose`,
/// - it has exactly one URI, the SPIFFE id of a name in the roots' trust domain (X509-SVID section 2),
/// - the name is beneath the subtree of every authority in the chain,
/// - a DNS name within the domain is the form of the same name. Those of a name server are free: it goes by many.
///
/// # Errors
///
/// `unauthenticated`, with a sentence that says which rule was broken.
pub fn verify(roots: &Roots, chain: &[impl AsRef<[u8]>], purpose: Purpose, now: Timestamp) -> Result<Peer> {
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    verify_chain(roots, &chain, purpose, now).map_err(|refusal| refusal.error)
}

/// The same for a chain in PEM.
///
/// # Errors
///
/// As [`verify`]; `invalid-argument` when the text holds no certificate.
pub fn verify_pem(roots: &Roots, chain_pem: &str, purpose: Purpose, now: Timestamp) -> Result<Peer> {
    verify(roots, &crate::pem::certificates(chain_pem)?, purpose, now)
}

pub(crate) fn verify_chain(
    roots: &Roots,
    chain: &[CertificateDer<'_>],
    purpose: Purpose,
    now: Timestamp,
) -> Result<Peer, Refusal> {
    let Some((leaf, between)) = chain.split_first() else {
        return Err(refusal_of(Rule::Malformed, "there is no certificate"));
    };
    let parsed = parse(leaf)?;
    let authorities = verify_path(roots, leaf, &parsed, between, purpose, now)?;
    let Some(domain) = roots.domain() else {
        return Err(refusal_of(Rule::Issuer, "the roots name no trust domain, so no certificate is one of a name"));
    };
    check_usage(&parsed, purpose)?;
    let alternatives = Alternatives::of(&parsed)?;
    let name = name_of(&alternatives, domain)?;
    let server = is_server(&name);
    for authority in &authorities {
        let subtree = subtree_of(authority, domain)?;
        if !name.is_under(&subtree) {
            let what = format!("the certificate for {name} was issued by an authority for what is beneath {subtree}");
            return Err(refusal_of(Rule::Issuer, what));
        }
    }
    if !server {
        let own = dns::to_dns(&name, domain).ok();
        let foreign = alternatives.dns.iter().find(|host| {
            is_host_under(host, domain) && !own.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(host))
        });
        if let Some(foreign) = foreign {
            let what = format!("the certificate for {name} also holds `{foreign}`, the form of another name");
            return Err(refusal_of(Rule::Other, what));
        }
    }
    let (id, instance) = ids_of(&parsed)?;
    Ok(Peer {
        name,
        domain: domain.to_owned(),
        id,
        instance,
        serial: hex::encode(significant(parsed.raw_serial())),
        fingerprint: fingerprint(leaf),
        issued: super::profile::issued(timestamp(parsed.validity().not_before.to_datetime())),
        not_after: timestamp(parsed.validity().not_after.to_datetime()),
        // One made for an object or a copy of that name is not the server's own.
        is_server_name: server && id.is_none() && instance.is_none(),
        has_server_form: server,
    })
}

/// Whether a server without a SPIFFE id is one of the host that was dialled (RFC 9525), by a chain to the roots. `false`
/// when its certificate has a SPIFFE id: then that alone says who it is.
pub(crate) fn verify_host(
    roots: &Roots,
    chain: &[CertificateDer<'_>],
    host: &ServerName<'_>,
    now: Timestamp,
) -> Result<bool, Refusal> {
    let Some((leaf, between)) = chain.split_first() else {
        return Err(refusal_of(Rule::Malformed, "there is no certificate"));
    };
    let parsed = parse(leaf)?;
    let alternatives = Alternatives::of(&parsed)?;
    if alternatives.uris.iter().any(|uri| uri.starts_with("spiffe:")) {
        return Ok(false);
    }
    verify_path(roots, leaf, &parsed, between, Purpose::Server, now)?;
    check_usage(&parsed, Purpose::Server)?;
    let end = EndEntityCert::try_from(leaf).map_err(|_| refusal_of(Rule::Malformed, "the certificate is damaged"))?;
    end.verify_is_valid_for_subject_name(host).map_err(|_| {
        let what = format!("the certificate has no SPIFFE id and is not for the host `{}`", host.to_str());
        refusal_of(Rule::Other, what)
    })?;
    Ok(true)
}

/// Checks the path and its dates; gives the authorities between the leaf and the root.
fn verify_path(
    roots: &Roots,
    leaf: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    between: &[CertificateDer<'_>],
    purpose: Purpose,
    now: Timestamp,
) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    let malformed = |_| refusal_of(Rule::Malformed, "the certificate is damaged");
    let end = EndEntityCert::try_from(leaf).map_err(malformed)?;
    let anchors = roots.anchors();
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
    let path = end
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, between, time, usage, None, None)
        .map_err(|error| path_refusal(&error, roots, parsed))?;
    match roots.end_of(path.anchor()) {
        Some(root_end) if now >= root_end => {
            Err(refusal_of(Rule::Expired, format!("the root of the certificate expired on {root_end}")))
        }
        _ => Ok(path.intermediate_certificates().map(|cert| cert.der().into_owned()).collect()),
    }
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(refusal_of(Rule::Malformed, "the certificate is damaged")),
    }
}

/// What the chain builder found, as a sentence.
fn path_refusal(error: &webpki::Error, roots: &Roots, parsed: &X509Certificate<'_>) -> Refusal {
    use webpki::Error as Path;
    let at = |time: UnixTime| Timestamp(time.as_secs().saturating_mul(1_000));
    let refusal = match error {
        Path::CertExpired { not_after, .. } => {
            refusal_of(Rule::Expired, format!("the certificate expired on {}", at(*not_after)))
        }
        Path::CertNotValidYet { not_before, .. } => {
            refusal_of(Rule::NotYet, format!("the certificate is not valid before {}", at(*not_before)))
        }
        Path::CaUsedAsEndEntity => {
            refusal_of(Rule::Purpose, "the certificate is that of an authority, which cannot stand for a name")
        }
        Path::EndEntityUsedAsCa | Path::PathLenConstraintViolated => {
            refusal_of(Rule::Issuer, "the certificate was issued by one that is no authority")
        }
        Path::RequiredEkuNotFoundContext(_) | Path::EmptyEkuExtension => {
            refusal_of(Rule::Purpose, "the certificate is not meant for this use (extended key usage)")
        }
        Path::NameConstraintViolation => {
            refusal_of(Rule::Issuer, "the certificate holds a name that its authority may not certify")
        }
        Path::UnknownIssuer | Path::InvalidSignatureForPublicKey => {
            let what = match (trust_domain(parsed), roots.domain()) {
                (Some(theirs), Some(ours)) if theirs != ours => {
                    format!("the certificate is of another trust domain: {theirs}, and not {ours}")
                }
                (_, Some(ours)) => format!("the certificate does not lead to the root of {ours} that is trusted here"),
                (_, None) => "the certificate does not lead to a root that is trusted here".to_owned(),
            };
            refusal_of(Rule::Issuer, what)
        }
        Path::BadDer | Path::BadDerTime | Path::TrailingData(_) | Path::MalformedExtensions => {
            refusal_of(Rule::Malformed, "the certificate is damaged")
        }
        other => refusal_of(Rule::Other, format!("the certificate cannot be accepted: {other}")),
    };
    Refusal { error: refusal.error.clone().log(format!("{}: {error:?}", refusal.error.message())), ..refusal }
}

/// The leaf's own usage: the chain builder takes one without an extended usage for any.
fn check_usage(parsed: &X509Certificate<'_>, purpose: Purpose) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(refusal_of(Rule::Purpose, what));
    if parsed.is_ca() {
        return refuse("the certificate is that of an authority, which cannot stand for a name");
    }
    match parsed.key_usage() {
        Ok(Some(usage)) if usage.value.digital_signature() && !usage.value.key_cert_sign() => {}
        _ => return refuse("the certificate's key usage is not that of a leaf, which signs and certifies nobody"),
    }
    let meant = match parsed.extended_key_usage() {
        Ok(Some(usage)) => match purpose {
            Purpose::Client => usage.value.client_auth,
            Purpose::Server => usage.value.server_auth,
        },
        _ => false,
    };
    match (meant, purpose) {
        (true, _) => Ok(()),
        (false, Purpose::Client) => refuse("the certificate is not meant for clients (extended key usage)"),
        (false, Purpose::Server) => refuse("the certificate is not meant for servers (extended key usage)"),
    }
}

/// The names that a certificate holds.
pub(crate) struct Alternatives<'a> {
    pub(crate) uris: Vec<&'a str>,
    pub(crate) dns: Vec<&'a str>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl<'a> Alternatives<'a> {
    pub(crate) fn of(parsed: &'a X509Certificate<'_>) -> Result<Self, Refusal> {
        let damaged = || refusal_of(Rule::Malformed, "the certificate's alternative names are damaged");
        let mut found = Alternatives { uris: Vec::new(), dns: Vec::new(), addresses: Vec::new() };
        let Some(names) = parsed.subject_alternative_name().map_err(|_| damaged())? else { return Ok(found) };
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => found.uris.push(uri),
                GeneralName::DNSName(host) => found.dns.push(host),
                GeneralName::IPAddress(bytes) => found.addresses.push(address(bytes).ok_or_else(damaged)?),
                GeneralName::Invalid(..) => return Err(damaged()),
                _ => {}
            }
        }
        Ok(found)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn name_of(alternatives: &Alternatives<'_>, domain: &str) -> Result<Name, Refusal> {
    let uri = match alternatives.uris.as_slice() {
        [uri] => uri,
        [] => return Err(refusal_of(Rule::Other, "the certificate has no SPIFFE id, so it is nobody's")),
        several => {
            let what = format!("the certificate has {} URIs, and must have one", several.len());
            return Err(refusal_of(Rule::Other, what));
        }
    };
    match spiffe::from_id(uri, domain) {
        Ok(name) if name.is_root() => {
            Err(refusal_of(Rule::Other, "the certificate is for a whole trust domain and for nobody in it"))
        }
        Ok(name) => Ok(name),
        Err(spiffe::NotAForm::OtherTrustDomain) => {
            let theirs = uri.trim_start_matches("spiffe://").split('/').next().unwrap_or_default();
            let what = format!("the certificate is of another trust domain: {theirs}, and not {domain}");
            Err(refusal_of(Rule::Other, what))
        }
        Err(reason) => Err(refusal_of(Rule::Other, format!("the certificate's URI is no name: {reason}"))),
    }
}

/// The object and copy that a certificate is bound to.
fn ids_of(parsed: &X509Certificate<'_>) -> Result<(Option<ObjectId>, Option<InstanceId>), Refusal> {
    let unknown = || refusal_of(Rule::Other, "the certificate's subject serial number is no id of an object");
    let mut found = parsed.subject().iter_by_oid(&OID_X509_SERIALNUMBER);
    let Some(attribute) = found.next() else { return Ok((None, None)) };
    let text = attribute.as_str().map_err(|_| unknown())?;
    if found.next().is_some() {
        return Err(unknown());
    }
    let (id, instance) = match text.split_once('.') {
        Some((id, instance)) => (id, Some(instance.parse().map_err(|_| unknown())?)),
        None => (text, None),
    };
    Ok((Some(id.parse().map_err(|_| unknown())?), instance))
}

/// A serial number without the zero that keeps it positive.
pub(crate) fn significant(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    }
}

/// Reads all that is read of a certificate once its chain holds.
#[cfg(fuzzing)]
pub(crate) fn read_unsigned(der: &CertificateDer<'_>, domain: &str) {
    let _ = super::issuing::issuing_facts(der, domain);
    let Ok(parsed) = parse(der) else { return };
    let _ = (check_usage(&parsed, Purpose::Client), check_usage(&parsed, Purpose::Server), ids_of(&parsed));
    if let Ok(name) = Alternatives::of(&parsed).and_then(|names| name_of(&names, domain)) {
        assert!(!name.is_root());
        assert!(spiffe::to_id(&name, domain).is_ok(), "{name}");
    }
}
