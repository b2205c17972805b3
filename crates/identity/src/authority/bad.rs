//! For tests: certificates that must be refused, each with the words of the refusal.

use std::time::Duration;

use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use byname_name::Name;
use rcgen::{CertificateParams, DnType, IsCa, KeyUsagePurpose, PublicKeyData, SanType};
use rustls_pki_types::CertificateDer;

use super::profile::{Scope, leaf, root};
use super::*;

/// A day.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A certificate that must be refused.
pub(crate) struct Case {
    pub(crate) label: &'static str,
    pub(crate) roots: Roots,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key_pem: String,
    /// For what it must be refused; both when none is said.
    pub(crate) purpose: Option<Purpose>,
    pub(crate) says: &'static str,
}

/// The time by the machine's clock, as the TLS library sees it.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

pub(crate) fn before(now: Timestamp, span: Duration) -> Timestamp {
    Timestamp(now.0 - profile::millis(span))
}

pub(crate) fn after(now: Timestamp, span: Duration) -> Timestamp {
    Timestamp(now.0 + profile::millis(span))
}

pub(crate) fn subject(name: &str, usage: Usage) -> Subject {
    Subject {
        name: Name::parse(name).unwrap(),
        id: Some(ObjectId(4_711)),
        instance: None,
        dns: Vec::new(),
        addresses: Vec::new(),
        usage,
    }
}

/// A certificate with its key, as a client would get it.
pub(crate) fn certified(authority: &Authority, subject: &Subject, now: Timestamp) -> (String, Certificate) {
    let key = new_key().unwrap();
    let request = SigningRequest::parse(key.request_pem.as_bytes()).unwrap();
    (key.key_pem, authority.certify(&request, subject, DAY, now).unwrap())
}

/// What the issuing authority would never sign by itself: a good leaf, changed.
fn forged(
    authority: &Authority,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (Vec<CertificateDer<'static>>, String) {
    let mut params = leaf(authority.domain(), &subject(name, Usage::Both), now(), DAY).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, &authority.issuer).unwrap();
    (vec![signed.der().clone(), authority.issuing_der.clone()], key.serialize_pem())
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn host(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// An authority for what is beneath a name only, made of another's root.
pub(crate) fn beneath(authority: &Authority, under: &str, now: Timestamp) -> Authority {
    let scope = Scope { under: Name::parse(under).unwrap(), hosts: Vec::new() };
    let key = new_key().unwrap();
    let request = SigningRequest::parse(key.request_pem.as_bytes()).unwrap();
    let (root_pem, root_key) = (authority.root_pem(), authority.root_key_pem.as_deref().unwrap());
    let issuing = sign_issuing(authority.domain(), &root_pem, root_key, &request, &scope, DAY * 30, now).unwrap();
    Authority::external(authority.domain(), &issuing, &key.key_pem, &root_pem, now).unwrap()
}

/// Every bad certificate, against the root of `corp.example`.
pub(crate) fn cases() -> Vec<Case> {
    let now = now();
    let ours = Authority::create("corp.example", before(now, DAY * 30)).unwrap();
    let mut cases = Vec::new();
    let mut add = |label, purpose, says, (chain, key_pem): (Vec<CertificateDer<'static>>, String)| {
        cases.push(Case { label, roots: ours.roots().clone(), chain, key_pem, purpose, says });
    };
    let good = |authority: &Authority, subject: &Subject, at: Timestamp| {
        let (key_pem, certificate) = certified(authority, subject, at);
        (pem::certificates(&certificate.chain_pem).unwrap(), key_pem)
    };
    let both = subject("/byname/servers/s1", Usage::Both);

    add("expired", None, "expired on", good(&ours, &both, before(now, DAY * 10)));
    add("not yet valid", None, "not valid before", good(&ours, &both, after(now, DAY)));
    let other = Authority::create("other.example", now).unwrap();
    add("another domain", None, "of another trust domain: other.example", good(&other, &both, now));
    let twin = Authority::create("corp.example", now).unwrap();
    add("another root of the same name", None, "does not lead to the root of corp.example", good(&twin, &both, now));
    let client = subject("/byname/servers/s1", Usage::Client);
    add("a client's for a server", Some(Purpose::Server), "not meant for", good(&ours, &client, now));
    let server = subject("/byname/servers/s1", Usage::Server);
    add("a server's for a client", Some(Purpose::Client), "not meant for", good(&ours, &server, now));
    add(
        "an authority's own",
        None,
        "that of an authority",
        (vec![ours.issuing_der.clone()], ours.issuing_key_pem.clone()),
    );
    let elsewhere = beneath(&ours, "/BVODS", now);
    let (mut chain, key) = good(&elsewhere, &subject("/BVODS/QS", Usage::Both), now);
    chain.truncate(1);
    add("without its authority", None, "does not lead to the root", (chain, key));
    add("beneath another subtree", None, "by an authority for what is beneath /bvods", {
        forged(&elsewhere, "/byname/servers/s1", |params| params.subject_alt_names.truncate(1))
    });
    add("a DNS name that its authority may not certify", None, "a name that its authority may not certify", {
        forged(&elsewhere, "/byname/servers/s1", |_| ())
    });

    let forge = |change: fn(&mut CertificateParams)| forged(&ours, "/byname/servers/s1", change);
    add("two URIs", None, "2 URIs", forge(|p| p.subject_alt_names.push(uri("spiffe://corp.example/a"))));
    add(
        "a URI of the web",
        Some(Purpose::Client),
        "no name",
        forge(|p| p.subject_alt_names = vec![uri("https://corp.example/a")]),
    );
    add("no URI", Some(Purpose::Client), "no SPIFFE id", forge(|p| drop(p.subject_alt_names.remove(0))));
    add(
        "no URI, for another host",
        Some(Purpose::Server),
        "not for the host",
        forge(|p| drop(p.subject_alt_names.remove(0))),
    );
    add("no names at all", Some(Purpose::Client), "no SPIFFE id", forge(|p| p.subject_alt_names.clear()));
    add(
        "our root, a foreign id",
        None,
        "of another trust domain: other.example",
        forge(|p| p.subject_alt_names = vec![uri("spiffe://other.example/byname/servers/s1")]),
    );
    add(
        "the whole trust domain",
        None,
        "nobody in it",
        forge(|p| p.subject_alt_names = vec![uri("spiffe://corp.example")]),
    );
    add(
        "an id that is no name",
        None,
        "is no name",
        forge(|p| p.subject_alt_names = vec![uri("spiffe://corp.example/a//b")]),
    );
    add("two names", None, "also holds `b.corp.example`", {
        forged(&ours, "/a", |p| p.subject_alt_names.push(host("b.corp.example")))
    });
    add("a host of others", None, "may not certify", forge(|p| p.subject_alt_names.push(host("www.example.org"))));
    add("a CA that is a leaf", None, "that of an authority", {
        forge(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0)))
    });
    add("no extended usage", None, "not meant for", forge(|p| p.extended_key_usages.clear()));
    add("no usage", None, "key usage", forge(|p| p.key_usages.clear()));
    add("may certify", None, "key usage", forge(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)));
    add("an id of nothing", None, "no id of an object", {
        forge(|p| {
            p.distinguished_name.remove(DnType::from_oid(&[2, 5, 4, 5]));
            p.distinguished_name.push(DnType::from_oid(&[2, 5, 4, 5]), "nonsense");
        })
    });

    // An authority that our root signed without bounding it.
    let root_key = key_pair(ours.root_key_pem.as_deref().unwrap()).unwrap();
    let root_der = pem::certificates(&ours.root_pem()).unwrap().swap_remove(0);
    let root_issuer = Issuer::from_ca_cert_der(&root_der, root_key).unwrap();
    let scope = Scope { under: Name::root(), hosts: Vec::new() };
    let unbounded_key = KeyPair::generate().unwrap();
    let mut params = profile::issuing("corp.example", &scope, now, DAY).unwrap();
    params.name_constraints = None;
    let unbounded = params.signed_by(&unbounded_key, &root_issuer).unwrap();
    let issuer = Issuer::from_ca_cert_der(unbounded.der(), unbounded_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = leaf("corp.example", &both, now, DAY).unwrap().signed_by(&key, &issuer).unwrap();
    let chain = vec![signed.der().clone(), unbounded.der().clone()];
    add("an unbounded authority", None, "is not constrained to names", (chain, key.serialize_pem()));

    // A leaf that plays the authority.
    let (chain, key_pem) = good(&ours, &both, now);
    let issuer = Issuer::from_ca_cert_der(&chain[0], key_pair(&key_pem).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = leaf("corp.example", &both, now, DAY).unwrap().signed_by(&key, &issuer).unwrap();
    let long = [vec![signed.der().clone()], chain].concat();
    add("issued by a leaf", None, "by one that is no authority", (long, key.serialize_pem()));

    let key = KeyPair::generate().unwrap();
    let signed = leaf("corp.example", &both, now, DAY).unwrap().self_signed(&key).unwrap();
    add("signs itself", None, "does not lead to the root", (vec![signed.der().clone()], key.serialize_pem()));
    let key = KeyPair::generate().unwrap();
    let signed = root("corp.example", now).unwrap().self_signed(&key).unwrap();
    add("a root", None, "that of an authority", (vec![signed.der().clone()], key.serialize_pem()));
    let key = KeyPair::generate().unwrap();
    let bytes = CertificateDer::from(key.subject_public_key_info());
    add("no certificate", None, "damaged", (vec![bytes], key.serialize_pem()));

    // An authority whose own time is over, under a root that still lives.
    let old = Authority::create("corp.example", before(now, DAY * 400)).unwrap();
    let (chain, key_pem) = forged(&old, "/byname/servers/s1", |_| ());
    let roots = old.roots().clone();
    cases.push(Case { label: "an expired authority", roots, chain, key_pem, purpose: None, says: "expired on" });
    // A root whose time is over.
    let ancient = Authority::create("corp.example", before(now, DAY * 3_653)).unwrap();
    let young = beneath(&ancient, "/", before(now, DAY * 20));
    let end = date(after(now, DAY)).unwrap();
    let scope = Scope { under: Name::root(), hosts: Vec::new() };
    let mut params = profile::issuing("corp.example", &scope, before(now, DAY), DAY).unwrap();
    params.not_after = end;
    let key = key_pair(&young.issuing_key_pem).unwrap();
    let root_key = key_pair(ancient.root_key_pem.as_deref().unwrap()).unwrap();
    let root_der = pem::certificates(&ancient.root_pem()).unwrap().swap_remove(0);
    let issuing = params.signed_by(&key, &Issuer::from_ca_cert_der(&root_der, root_key).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_der(issuing.der(), key).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = leaf("corp.example", &both, now, DAY).unwrap().signed_by(&key, &issuer).unwrap();
    cases.push(Case {
        label: "an expired root",
        roots: ancient.roots().clone(),
        chain: vec![signed.der().clone(), issuing.der().clone()],
        key_pem: key.serialize_pem(),
        purpose: None,
        says: "the root of the certificate expired",
    });
    cases
}
