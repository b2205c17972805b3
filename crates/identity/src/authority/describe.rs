//! What a certificate or a request says, for people: nothing of it is checked, except that a request is signed by its key.

use std::fmt;
use std::net::IpAddr;

use byname_api::error::{Error, Result};
use byname_api::span::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::roots::fingerprint;
use super::verify::{Alternatives, parse, significant};
use super::{SigningRequest, timestamp};
use crate::pem;

/// What a PEM section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// An authority that signed itself.
    Root,
    /// An authority that another one signed.
    Issuing,
    /// A certificate that certifies nobody else.
    Certificate,
    /// A request for one.
    Request,
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Sort::Root => "root",
            Sort::Issuing => "issuing authority",
            Sort::Certificate => "certificate",
            Sort::Request => "request",
        })
    }
}

/// What a certificate or a request says. `Display` gives a line for each thing that it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it is.
    pub sort: Sort,
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's; none in a request.
    pub issuer: Option<String>,
    /// URIs: one, the SPIFFE id, in certificates of ours.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// The kind of its key.
    pub key: String,
    /// What it may be used for.
    pub usage: Vec<&'static str>,
    /// DNS subtrees that an authority is constrained to.
    pub constraints: Vec<String>,
    /// The serial number, in hexadecimal digits; empty in a request.
    pub serial: String,
    /// From when until when it is good; none in a request.
    pub validity: Option<(Timestamp, Timestamp)>,
    /// SHA-256 of a certificate, or of the public key of a request, in hexadecimal digits.
    pub fingerprint: String,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.sort)?;
        let mut line = |label: &str, value: &str| match value {
            "" => Ok(()),
            value => writeln!(f, "  {label:<12}{value}"),
        };
        line("subject", &self.subject)?;
        line("issuer", self.issuer.as_deref().unwrap_or_default())?;
        line("id", &self.uris.join(", "))?;
        line("dns", &self.dns.join(", "))?;
        line("addresses", &self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "))?;
        line("key", &self.key)?;
        line("usage", &self.usage.join(", "))?;
        line("only for", &self.constraints.join(", "))?;
        line("serial", &self.serial)?;
        if let Some((from, until)) = &self.validity {
            line("from", &from.to_string())?;
            line("until", &until.to_string())?;
        }
        line("sha-256", &self.fingerprint)
    }
}

/// Describes every certificate of a PEM text, or its request.
///
/// # Errors
///
/// `invalid-argument` when it holds neither, or what it holds is damaged.
pub fn show(text: &str) -> Result<Vec<Description>> {
    let is_request = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).is_ok();
    if is_request {
        SigningRequest::parse(text.as_bytes())?;
        return Ok(vec![request(&pem::request(text)?)?]);
    }
    pem::certificates(text)?.iter().map(certificate).collect()
}

fn certificate(der: &CertificateDer<'_>) -> Result<Description> {
    let damaged = || Error::invalid("certificate", "the certificate is damaged");
    let parsed = parse(der).map_err(|_| damaged())?;
    let names = Alternatives::of(&parsed).map_err(|_| damaged())?;
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Ok(Description {
        sort: match (parsed.is_ca(), parsed.subject().as_raw() == parsed.issuer().as_raw()) {
            (true, true) => Sort::Root,
            (true, false) => Sort::Issuing,
            (false, _) => Sort::Certificate,
        },
        subject: parsed.subject().to_string(),
        issuer: Some(parsed.issuer().to_string()),
        uris: owned(&names.uris),
        dns: owned(&names.dns),
        addresses: names.addresses.clone(),
        key: key_of(parsed.public_key()),
        usage: usage_of(&parsed),
        constraints: constraints_of(&parsed),
        serial: hex::encode(significant(parsed.raw_serial())),
        validity: Some((
            timestamp(parsed.validity().not_before.to_datetime()),
            timestamp(parsed.validity().not_after.to_datetime()),
        )),
        fingerprint: hex::encode(fingerprint(der)),
    })
}

fn request(der: &[u8]) -> Result<Description> {
    let (_, request) = X509CertificationRequest::from_der(der)
        .map_err(|_| Error::invalid("request", "the certificate request is damaged"))?;
    let info = &request.certification_request_info;
    Ok(Description {
        sort: Sort::Request,
        subject: info.subject.to_string(),
        issuer: None,
        uris: Vec::new(),
        dns: Vec::new(),
        addresses: Vec::new(),
        key: key_of(&info.subject_pki),
        usage: Vec::new(),
        constraints: Vec::new(),
        serial: String::new(),
        validity: None,
        fingerprint: hex::encode(fingerprint(info.subject_pki.raw)),
    })
}

fn key_of(info: &SubjectPublicKeyInfo<'_>) -> String {
    match info.parsed() {
        Ok(PublicKey::EC(point)) => format!("P-{}", point.key_size()),
        Ok(PublicKey::RSA(key)) => format!("RSA of {} bits", key.key_size()),
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => "Ed25519".to_owned(),
        _ => info.algorithm.algorithm.to_id_string(),
    }
}

fn usage_of(parsed: &X509Certificate<'_>) -> Vec<&'static str> {
    let mut found = Vec::new();
    if let Ok(Some(usage)) = parsed.extended_key_usage() {
        found.extend(usage.value.client_auth.then_some("client"));
        found.extend(usage.value.server_auth.then_some("server"));
    }
    if let Ok(Some(usage)) = parsed.key_usage() {
        found.extend(usage.value.key_cert_sign().then_some("signs certificates"));
    }
    found
}

fn constraints_of(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(constraints)) = parsed.name_constraints() else { return Vec::new() };
    let subtrees = constraints.value.permitted_subtrees.iter().flatten();
    subtrees
        .filter_map(|subtree| match &subtree.base {
            GeneralName::DNSName(host) => Some((*host).to_owned()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::bad::{certified, now, subject};
    use super::super::{Authority, Usage, new_key};
    use super::*;

    #[test]
    fn everything_that_matters_is_shown() {
        let authority = Authority::create("corp.example", now()).unwrap();
        let (_, certificate) = certified(&authority, &subject("/BVODS/QS", Usage::Both), now());
        let shown = show(&(certificate.chain_pem.clone() + &authority.root_pem())).unwrap();
        assert_eq!(
            shown.iter().map(|one| one.sort).collect::<Vec<_>>(),
            [Sort::Certificate, Sort::Issuing, Sort::Root]
        );
        let text = shown[0].to_string();
        for line in [
            "certificate\n",
            "  subject     O=corp.example, CN=/BVODS/QS, serialNumber=o4k7\n",
            "  id          spiffe://corp.example/BVODS/QS\n",
            "  dns         qs.bvods.corp.example\n",
            "  key         P-256\n",
            "  usage       client, server\n",
            &format!("  serial      {}\n", certificate.serial),
            &format!("  until       {}\n", certificate.not_after),
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!(shown[1].constraints, ["corp.example", "localhost"]);
        assert_eq!(shown[2].fingerprint, hex::encode(authority.root_fingerprint()));
        assert_eq!(show(&new_key().unwrap().request_pem).unwrap()[0].sort, Sort::Request);
        assert!(show("").is_err());
    }
}
