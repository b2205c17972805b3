//! Another implementation of SPIFFE reads our certificates, tokens and bundle.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use byname_identity::authority::{Authority, SigningRequest, Subject, Usage, new_key};
use byname_name::Name;
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, TrustDomain, X509Bundle, X509Svid};

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

/// The sections of a PEM text, one after the other.
fn der(pem: &str) -> Vec<u8> {
    let bodies = pem.split("-----BEGIN").filter(|section| !section.is_empty());
    bodies
        .flat_map(|section| {
            let lines: String = section.lines().skip(1).filter(|line| !line.starts_with("-----")).collect();
            STANDARD.decode(lines).unwrap()
        })
        .collect()
}

#[test]
fn our_certificates_are_x509_svids() {
    let authority = Authority::create("corp.example", now()).unwrap();
    let key = new_key().unwrap();
    let request = SigningRequest::parse(key.request_pem.as_bytes()).unwrap();
    let subject = Subject {
        name: Name::parse("/BVODS/VFS1/CMS").unwrap(),
        id: Some(ObjectId(7)),
        instance: None,
        dns: vec!["localhost".to_owned()],
        addresses: Vec::new(),
        usage: Usage::Both,
    };
    let certificate = authority.certify(&request, &subject, Duration::from_secs(3_600), now()).unwrap();
    let svid = X509Svid::parse_from_der(&der(&certificate.chain_pem), &der(&key.key_pem)).unwrap();
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://corp.example/BVODS/VFS1/CMS");
    assert_eq!(svid.cert_chain().len(), 2);
    let domain = TrustDomain::new("corp.example").unwrap();
    let bundle = X509Bundle::parse_from_der(domain, &der(&authority.bundle_pem())).unwrap();
    assert_eq!(bundle.authorities().len(), 1);
}

#[test]
fn our_tokens_are_jwt_svids() {
    let authority = Authority::create("corp.example", now()).unwrap();
    let bundle: serde_json::Value = serde_json::from_str(&authority.spiffe_bundle()).unwrap();
    let keys: Vec<_> = bundle["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "jwt-svid").collect();
    let domain = TrustDomain::new("corp.example").unwrap();
    let keys = serde_json::json!({ "keys": keys }).to_string();
    let mut set = JwtBundleSet::new();
    set.add_bundle(JwtBundle::from_jwt_authorities(domain, keys.as_bytes()).unwrap());

    let name = Name::parse("/BVODS/QS").unwrap();
    let audience = ["spiffe://corp.example/people".to_owned()];
    let life = Duration::from_secs(300);
    let token = authority.jwt_key().sign("corp.example", &name, Some(ObjectId(7)), &audience, life, now()).unwrap();
    let read = JwtSvid::parse_and_validate(&token, &set, &audience).unwrap();
    assert_eq!(read.spiffe_id().to_string(), "spiffe://corp.example/BVODS/QS");
    assert!(JwtSvid::parse_and_validate(&token, &set, &["another"]).is_err());
}
