//! What our certificates look like (RFC 5280): the one place that says which fields a root, an issuing authority and a
//! leaf have.

use std::net::IpAddr;
use std::time::Duration;

use byname_api::error::{Code, Error, Result};
use byname_api::object::{InstanceId, ObjectId};
use byname_api::span::Timestamp;
use byname_name::{Name, dns, spiffe};
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// How far before now a certificate begins: clocks of a fleet differ.
pub(crate) const SKEW: Duration = Duration::from_secs(5 * 60);
/// How long a root lives: ten years.
pub(crate) const ROOT_LIFE: Duration = Duration::from_secs(3_653 * 86_400);
/// How long an issuing authority lives: one year.
pub(crate) const ISSUING_LIFE: Duration = Duration::from_secs(366 * 86_400);
/// The most characters of a common name and of an organisation (RFC 5280 appendix A.1, `ub-common-name`).
pub(crate) const MAX_DN_CHARACTERS: usize = 64;
/// The host name that every authority may certify beside its own domain.
pub(crate) const LOCALHOST: &str = "localhost";

/// What a certificate may be used for (RFC 5280 section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// To prove itself when it connects.
    Client,
    /// To prove itself when it is connected to.
    Server,
    /// Both.
    Both,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The name, spelled as it was created.
    pub name: Name,
    /// The object that holds the name now. A certificate is bound to it, so that a name used again inherits nothing.
    /// Absent only in what is signed away from the tree.
    pub id: Option<ObjectId>,
    /// The running copy, where the certificate is one copy's.
    pub instance: Option<InstanceId>,
    /// Host names beside the name's own form in the DNS.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// What for.
    pub usage: Usage,
}

/// The bounds of an issuing authority: the subtree of names that it may certify, and host names beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Everything at or beneath it.
    pub(crate) under: Name,
    /// Each with everything beneath it in the DNS.
    pub(crate) hosts: Vec<String>,
}

impl Scope {
    /// The DNS subtrees, as in the certificate: the scope's own first.
    pub(crate) fn subtrees(&self, domain: &str) -> Result<Vec<String>> {
        let own = dns::to_dns(&self.under, domain).map_err(|reason| {
            Error::invalid("under", format!("an authority needs a subtree with a DNS name: {reason}"))
        })?;
        let mut all = vec![own, LOCALHOST.to_owned()];
        for host in &self.hosts {
            if !is_host_name(host) {
                return Err(Error::invalid("hosts", format!("`{host}` is not a host name")));
            }
            let host = host.to_ascii_lowercase();
            if is_host_under(&host, &all[0]) {
                continue;
            }
            if is_host_under(&host, domain) {
                let what = format!("`{host}` is the form of a name outside {}", self.under);
                return Err(Error::invalid("hosts", what));
            }
            all.push(host);
        }
        Ok(all)
    }
}

/// Whether `host` is `subtree` or beneath it (RFC 5280 section 4.2.1.10).
pub(crate) fn is_host_under(host: &str, subtree: &str) -> bool {
    let Some(at) = host.len().checked_sub(subtree.len()) else { return false };
    let (Some(front), Some(back)) = (host.get(..at), host.get(at..)) else { return false };
    back.eq_ignore_ascii_case(subtree) && (front.is_empty() || front.ends_with('.'))
}

/// Whether a text can stand as a DNS name in a certificate: letters of ASCII, digits, `-` and `_` in labels that neither
/// begin nor end with `-`, and not all digits at the end, which would be an address.
pub(crate) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=dns::MAX_DNS_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= dns::MAX_DNS_NAME_BYTES
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The root of a trust domain: signs itself, ten years.
pub(crate) fn root(domain: &str, now: Timestamp) -> Result<CertificateParams> {
    let mut params = base(domain, &format!("{domain} root"), now, ROOT_LIFE)?;
    params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = false;
    Ok(params)
}

/// An issuing authority: one year unless said otherwise, no authority beneath it, names and hosts of its scope only.
///
/// The constraint is on DNS names. Those of RFC 5280 for URIs cover a host and no path, so that what a SPIFFE id may be
/// is checked by our own verifier, from the same constraint.
pub(crate) fn issuing(domain: &str, scope: &Scope, now: Timestamp, life: Duration) -> Result<CertificateParams> {
    let mut params = base(domain, "", now, life)?;
    // A name of its own for each, so that no path goes by the wrong one.
    let mark = hex::encode(params.serial_number.as_ref().map(|serial| serial.to_bytes()).unwrap_or_default());
    let mark = mark.get(..8).unwrap_or_default();
    let front = cut(&format!("{domain} issuing"), MAX_DN_CHARACTERS - 9);
    params.distinguished_name.push(DnType::CommonName, format!("{front} {mark}"));
    params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: scope.subtrees(domain)?.into_iter().map(GeneralSubtree::DnsName).collect(),
        excluded_subtrees: Vec::new(),
    });
    Ok(params)
}

/// A leaf, without its end of life, which the issuing authority bounds.
pub(crate) fn leaf(domain: &str, subject: &Subject, now: Timestamp, life: Duration) -> Result<CertificateParams> {
    let id = spiffe_id(&subject.name, domain)?;
    let mut params = base(domain, subject.name.as_str(), now, life)?;
    if let Some(serial) = serial_attribute(subject) {
        let value = PrintableString::try_from(serial).map_err(internal)?;
        params.distinguished_name.push(DnType::from_oid(&SERIAL_NUMBER_OID), DnValue::PrintableString(value));
    }
    params.subject_alt_names = vec![SanType::URI(ia5(&id)?)];
    let mut hosts: Vec<String> =
        dns::to_dns(&subject.name, domain).ok().filter(|own| is_host_name(own)).into_iter().collect();
    for host in &subject.dns {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if !is_host_name(&host) {
            return Err(Error::invalid("dns", format!("`{host}` is not a host name")));
        }
        if is_host_under(&host, domain) && !is_server(&subject.name) && !hosts.contains(&host) {
            return Err(Error::invalid(
                "dns",
                format!("`{host}` is the form of another name: a certificate is for one name"),
            ));
        }
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    for host in hosts {
        params.subject_alt_names.push(SanType::DnsName(ia5(&host)?));
    }
    params.subject_alt_names.extend(subject.addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match subject.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    Ok(params)
}

/// `serialNumber` of a distinguished name (X.520).
const SERIAL_NUMBER_OID: [u64; 4] = [2, 5, 4, 5];

/// The name's form in SPIFFE; the root's stands for the trust domain and not for anybody in it.
pub(crate) fn spiffe_id(name: &Name, domain: &str) -> Result<String> {
    if name.is_root() {
        return Err(Error::invalid("name", "`/` stands for the whole trust domain and gets no certificate"));
    }
    spiffe::to_id(name, domain)
        .map_err(|reason| Error::invalid("name", format!("{name} cannot have a certificate: {reason}")))
}

/// Whether a name is that of a name server.
pub(crate) fn is_server(name: &Name) -> bool {
    let mut labels = name.labels();
    let front = (labels.next(), labels.next(), labels.next());
    matches!(front, (Some(a), Some(b), Some(_)) if a.eq_ignore_ascii_case("byname") && b.eq_ignore_ascii_case("servers"))
}

fn serial_attribute(subject: &Subject) -> Option<String> {
    match (subject.id, subject.instance) {
        (Some(id), Some(instance)) => Some(format!("{id}.{instance}")),
        (Some(id), None) => Some(id.to_string()),
        (None, _) => None,
    }
}

fn base(domain: &str, common_name: &str, now: Timestamp, life: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, cut(domain, MAX_DN_CHARACTERS));
    if !common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, cut(common_name, MAX_DN_CHARACTERS));
    }
    params.not_before = date(Timestamp(now.0.saturating_sub(millis(SKEW))))?;
    params.not_after = date(Timestamp(now.0.saturating_add(millis(life))))?;
    params.serial_number = Some(SerialNumber::from(random_serial()?));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 128 bits of which the first is 0 and the second 1: positive, and of one length (RFC 5280 section 4.1.2.2).
fn random_serial() -> Result<Vec<u8>> {
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| Error::internal("no randomness for a serial number"))?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial.to_vec())
}

pub(crate) fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

fn ia5(text: &str) -> Result<Ia5String> {
    Ia5String::try_from(text).map_err(internal)
}

/// A defect of ours in what is asked of the certificate library.
pub(crate) fn internal(error: rcgen::Error) -> Error {
    Error::internal(format!("making a certificate: {error}"))
}

/// A length of time in milliseconds.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time in whole seconds, as certificates have it.
pub(crate) fn date(at: Timestamp) -> Result<OffsetDateTime> {
    i64::try_from(at.0 / 1_000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| Error::new(Code::InvalidArgument, format!("{at} is not a time that a certificate can hold")))
}

/// The other way; what lies before 1970 is its first moment.
pub(crate) fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp(u64::try_from(at.unix_timestamp()).unwrap_or(0).saturating_mul(1_000))
}

/// When a certificate was made that holds from this time: clocks that are a little slow take it at once.
pub(super) fn issued(not_before: Timestamp) -> Timestamp {
    Timestamp(not_before.0.saturating_add(millis(SKEW)))
}
