//! Tests of authorities: what they sign, what is refused, how they are kept and renewed.

use std::net::{IpAddr, Ipv4Addr};

use byname_api::object::{InstanceId, ObjectId};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::bad::{DAY, after, before, beneath, cases, certified, now, subject};
use super::*;

fn chain(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    pem::certificates(&certificate.chain_pem).unwrap()
}

#[test]
fn a_certificate_says_whose_it_is() {
    let now = now();
    let authority = Authority::create("corp.example", now).unwrap();
    let mut subject = subject("/BVODS/VFS1/CMS", Usage::Both);
    subject.instance = Some(InstanceId(9));
    subject.addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    subject.dns = vec!["localhost".to_owned()];
    let (_, certificate) = certified(&authority, &subject, now);
    for purpose in [Purpose::Client, Purpose::Server] {
        let peer = verify(authority.roots(), &chain(&certificate), purpose, now).unwrap();
        assert_eq!(peer.name.as_str(), "/BVODS/VFS1/CMS");
        assert_eq!((peer.id, peer.instance), (Some(ObjectId(4_711)), Some(InstanceId(9))));
        assert_eq!((peer.domain.as_str(), peer.is_server_name), ("corp.example", false));
        assert_eq!((&peer.serial, peer.not_after), (&certificate.serial, certificate.not_after));
        assert_eq!(peer.fingerprint, roots::fingerprint(&certificate.leaf_der));
    }
    let (_, parsed) = X509Certificate::from_der(&certificate.leaf_der).unwrap();
    assert_eq!(parsed.subject().to_string(), "O=corp.example, CN=/BVODS/VFS1/CMS, serialNumber=o4k7.i9");
    let names = verify::Alternatives::of(&parsed).unwrap();
    assert_eq!(names.uris, ["spiffe://corp.example/BVODS/VFS1/CMS"]);
    assert_eq!(names.dns, ["cms.vfs1.bvods.corp.example", "localhost"]);
    assert_eq!(names.addresses, subject.addresses);
    assert_eq!(certificate.serial.len(), 32);
    assert!(certificate.not_before < now && certificate.not_after > now);
    let (_, second) = certified(&authority, &subject, now);
    assert_ne!(second.serial, certificate.serial);
}

#[test]
fn every_bad_certificate_is_refused_for_its_reason() {
    let now = now();
    for case in cases() {
        for purpose in [Purpose::Client, Purpose::Server] {
            // What depends on the host that was dialled is a test of TLS.
            if case.purpose.is_some_and(|only| only != purpose) || case.label.starts_with("no URI, for") {
                continue;
            }
            let error = match verify(&case.roots, &case.chain, purpose, now) {
                Err(error) => error,
                Ok(peer) => panic!("{} was accepted for {purpose:?} as {peer:?}", case.label),
            };
            assert_eq!(error.code(), Code::Unauthenticated, "{}", case.label);
            assert!(error.message().contains(case.says), "{}: {error}", case.label);
        }
    }
    let roots = cases().swap_remove(0).roots;
    assert!(verify(&roots, &[[0; 0]; 0], Purpose::Client, now).is_err());
}

#[test]
fn a_name_without_a_form_in_spiffe_gets_no_certificate_and_hears_why() {
    let now = now();
    let authority = Authority::create("corp.example", now).unwrap();
    let key = new_key().unwrap();
    let request = SigningRequest::parse(key.request_pem.as_bytes()).unwrap();
    let mut outside = subject("/a", Usage::Client);
    outside.dns = vec!["www.example.org".to_owned()];
    let mut of_another = subject("/a", Usage::Client);
    of_another.dns = vec!["b.corp.example".to_owned()];
    let mut no_host = subject("/a", Usage::Client);
    no_host.dns = vec!["a b".to_owned()];
    for (subject, says) in [
        (subject("/a/b c", Usage::Client), "holds ` `"),
        (subject("/", Usage::Client), "whole trust domain"),
        (outside, "may not certify the host `www.example.org`, only corp.example, localhost"),
        (of_another, "the form of another name"),
        (no_host, "may not certify the host `a b`"),
    ] {
        let error = authority.certify(&request, &subject, DAY, now).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(says), "{error}");
    }
    let below = beneath(&authority, "/BVODS", now);
    let error = below.certify(&request, &subject("/BVODSX", Usage::Client), DAY, now).unwrap_err();
    assert!(error.message().contains("not beneath /bvods"), "{error}");
    assert!(below.certify(&request, &subject("/bvods/QS", Usage::Client), DAY, now).is_ok());
}

#[test]
fn names_that_the_dns_cannot_hold_and_long_ones_have_certificates_too() {
    let now = now();
    let authority = Authority::create("corp.example", now).unwrap();
    let long = format!("/{}/{}", "a".repeat(63), "b".repeat(63));
    for name in ["/v1.2/a", "/_x/y", "/-a/b-", &long] {
        let (_, certificate) = certified(&authority, &subject(name, Usage::Client), now);
        let peer = verify(authority.roots(), &chain(&certificate), Purpose::Client, now).unwrap();
        assert_eq!(peer.name.as_str(), name);
    }
}

#[test]
fn a_name_server_goes_by_many_hosts() {
    let now = now();
    let hosts = ["lan".to_owned(), "Ns.Example.NET".to_owned(), "sub.corp.example".to_owned()];
    let authority = Authority::create_for("corp.example", &hosts, now).unwrap();
    assert!(authority.permits_host("node1.lan") && authority.permits_host("ns.example.net."));
    assert!(!authority.permits_host("example.net") && !authority.permits_host("xlan"));
    let mut subject = Subject { id: None, ..subject("/byname/servers/s1", Usage::Both) };
    subject.dns = ["ns.corp.example", "node1.lan", "NS.example.net", "localhost"].map(str::to_owned).to_vec();
    let authority = authority.renewed(after(now, DAY * 300)).unwrap().unwrap();
    let (_, certificate) = certified(&authority, &subject, after(now, DAY * 300));
    let peer = verify(authority.roots(), &chain(&certificate), Purpose::Server, after(now, DAY * 300)).unwrap();
    assert!(peer.is_server_name);
}

#[test]
fn a_certificate_of_an_object_or_of_a_copy_is_not_a_name_servers_own() {
    let now = now();
    let authority = Authority::create("corp.example", now).unwrap();
    for instance in [None, Some(InstanceId(9))] {
        let subject = Subject { instance, ..subject("/byname/servers/s1", Usage::Both) };
        let (_, certificate) = certified(&authority, &subject, now);
        let peer = verify(authority.roots(), &chain(&certificate), Purpose::Server, now).unwrap();
        assert!(!peer.is_server_name, "{instance:?}");
    }
}

#[test]
fn a_leaf_never_outlives_its_authority() {
    let now = now();
    let authority = Authority::create("corp.example", before(now, DAY * 365)).unwrap();
    let (_, certificate) = certified(&authority, &subject("/a", Usage::Client), before(now, DAY));
    assert_eq!(
        certificate.not_after,
        before(now, DAY).0.checked_add(86_400_000).map(|ms| Timestamp(ms / 1_000 * 1_000)).unwrap()
    );
    let key = new_key().unwrap();
    let request = SigningRequest::parse(key.request_pem.as_bytes()).unwrap();
    let long = authority.certify(&request, &subject("/a", Usage::Client), DAY * 1_000, now).unwrap();
    assert_eq!(long.not_after, authority.issuing_not_after());
    let late = authority.certify(&request, &subject("/a", Usage::Client), DAY, after(now, DAY * 2)).unwrap_err();
    assert_eq!(late.code(), Code::Unavailable);
}

#[test]
fn renewing_makes_another_issuing_authority_when_it_is_time() {
    let now = now();
    let authority = Authority::create("corp.example", now).unwrap();
    assert!(authority.renewed(after(now, DAY * 200)).unwrap().is_none());
    let then = after(now, DAY * 250);
    let renewed = authority.renewed(then).unwrap().expect("renewed");
    assert_eq!(renewed.root_fingerprint(), authority.root_fingerprint());
    assert!(renewed.issuing_not_after() > authority.issuing_not_after());
    let (_, old) = certified(&authority, &subject("/a", Usage::Client), then);
    let (_, new) = certified(&renewed, &subject("/a", Usage::Client), then);
    for certificate in [&old, &new] {
        assert!(verify(authority.roots(), &chain(certificate), Purpose::Client, then).is_ok());
    }
    assert!(beneath(&authority, "/", now).renewed(then).unwrap().is_none(), "without the root's key");
}

#[test]
fn what_is_kept_comes_back() {
    let now = now();
    let authority = Authority::create("corp.example", now).unwrap();
    let mut kept = authority.to_sealed_form().unwrap();
    let again = Authority::from_sealed_form(&kept).unwrap();
    assert_eq!(again.bundle_pem(), authority.bundle_pem());
    assert!(again.holds_root_key());
    let (_, certificate) = certified(&again, &subject("/a", Usage::Client), now);
    assert!(verify(authority.roots(), &chain(&certificate), Purpose::Client, now).is_ok());

    kept[0] = 9;
    assert_eq!(Authority::from_sealed_form(&kept).unwrap_err().code(), Code::Unsupported);
    kept[0] = 1;
    for cut in [0, 1, 2, kept.len() / 2, kept.len() - 1] {
        assert!(Authority::from_sealed_form(&kept[..cut]).is_err(), "cut at {cut}");
    }
    assert!(!format!("{authority:?}").contains("PRIVATE"));
}

#[test]
fn an_issuing_authority_signed_elsewhere_is_checked() {
    let now = now();
    let ours = Authority::create("corp.example", now).unwrap();
    let other = Authority::create("other.example", now).unwrap();
    let issuing = beneath(&ours, "/BVODS", now);
    let (pem, key, root) = (issuing.issuing_pem(), issuing.issuing_key_pem.clone(), ours.root_pem());
    let made = Authority::external("corp.example", &pem, &key, &root, now).unwrap();
    assert_eq!(made.under(), &Name::parse("/BVODS").unwrap());
    assert!(!made.holds_root_key());
    let (leaf_key, leaf) = certified(&ours, &subject("/a", Usage::Client), now);
    for (domain, chain, key, root, at, says) in [
        ("other.example", &pem, &key, &root, now, "the root is of corp.example"),
        ("corp.example", &pem, &other.issuing_key_pem, &root, now, "not that of the issuing certificate"),
        ("corp.example", &leaf.chain_pem, &leaf_key, &root, now, "not that of an authority"),
        ("other.example", &pem, &key, &other.root_pem(), now, "another trust domain"),
        ("corp.example", &pem, &key, &Authority::create("corp.example", now).unwrap().root_pem(), now, "not signed by"),
        ("corp.example", &pem, &key, &root, after(now, DAY * 60), "not now"),
        ("corp.example", &"".to_owned(), &key, &root, now, "no certificate"),
        ("corp.example", &pem, &"".to_owned(), &root, now, "no private key"),
    ] {
        let error = Authority::external(domain, chain, key, root, at).unwrap_err();
        assert!(error.message().contains(says), "{says}: {error}");
    }
}

#[test]
fn only_the_key_of_a_request_counts() {
    let now = now();
    let authority = Authority::create("corp.example", now).unwrap();
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let der = params.serialize_request(&key).unwrap().der().to_vec();
        let request = SigningRequest::parse(&der).unwrap();
        let leaf = authority.certify(&request, &subject("/a", Usage::Client), DAY, now).unwrap();
        let (_, parsed) = X509Certificate::from_der(&leaf.leaf_der).unwrap();
        assert!(!parsed.is_ca());
        assert_eq!(verify::Alternatives::of(&parsed).unwrap().dns, ["a.corp.example"]);

        let mut damaged = der.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let error = SigningRequest::parse(&damaged).unwrap_err();
        assert!(error.message().contains("not signed by the key"), "{error}");
        assert!(SigningRequest::parse(&[der, vec![0]].concat()).is_err());
    }
    for bytes in
        [&b""[..], b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", b"\x30\x00"]
    {
        assert_eq!(SigningRequest::parse(bytes).unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(SigningRequest::parse(&vec![0; 20_000]).unwrap_err().code(), Code::TooLarge);
    let odd = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let der = rcgen::CertificateParams::default().serialize_request(&odd).unwrap();
    assert!(SigningRequest::parse(der.der()).unwrap_err().message().contains("none of P-256"));
}

#[test]
fn a_domain_is_a_trust_domain_and_a_dns_suffix() {
    let long = format!("{}.example", "a".repeat(63)).repeat(3);
    for domain in ["", "Corp.example", "corp..example", "corp.example.", "-a", "a b", "127.0.0.1", "ü", &long] {
        assert_eq!(Authority::create(domain, now()).unwrap_err().code(), Code::InvalidArgument, "{domain}");
    }
    assert!(Authority::create("byname.internal", now()).is_ok());
}
