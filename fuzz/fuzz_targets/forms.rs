//! The forms of names in DNS, LDAP, SPIFFE and HTTP, both ways.
//!
//! The first byte chooses a suffix; the rest is a name or a form.

#![no_main]

use byname_name::ldap::LeafType;
use byname_name::{Name, dns, http, ldap, spiffe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let suffix = if choice % 2 == 0 { "" } else { "Corp.example" };
    let domain = if choice % 2 == 0 { "a" } else { "corp.example" };

    if let Ok(name) = Name::parse(text) {
        check(&name, suffix, domain);
    }
    if let Ok(name) = dns::from_dns(text, suffix) {
        let form = dns::to_dns(&name, suffix).expect("what was read has a form");
        assert_eq!(dns::from_dns(&form, suffix), Ok(name.clone()));
        check(&name, suffix, domain);
    }
    if let Ok(name) = ldap::from_dn(text, suffix) {
        for leaf in [LeafType::CommonName, LeafType::OrganizationalUnit] {
            let form = ldap::to_dn(&name, leaf, suffix).expect("what was read has a form");
            assert_eq!(ldap::from_dn(&form, suffix), Ok(name.clone()));
        }
        check(&name, suffix, domain);
    }
    if let Ok(name) = spiffe::from_id(text, domain) {
        assert_eq!(spiffe::to_id(&name, domain).as_deref(), Ok(text));
        check(&name, suffix, domain);
    }
    if let Ok(name) = http::from_path(text) {
        check(&name, suffix, domain);
    }
});

fn check(name: &Name, suffix: &str, domain: &str) {
    if let Ok(form) = dns::to_dns(name, suffix) {
        assert_eq!(form, form.to_ascii_lowercase());
        assert_eq!(dns::from_dns(&form, suffix).as_ref(), Ok(name), "{form}");
    }
    for leaf in [LeafType::CommonName, LeafType::OrganizationalUnit] {
        if let Ok(form) = ldap::to_dn(name, leaf, suffix) {
            assert_eq!(ldap::from_dn(&form, suffix).as_ref(), Ok(name), "{form}");
        }
    }
    if let Ok(id) = spiffe::to_id(name, domain) {
        assert_eq!(spiffe::from_id(&id, domain).map(|name| name.to_string()), Ok(name.to_string()));
    }
    let path = http::to_path(name);
    assert_eq!(http::from_path(&path).map(|name| name.to_string()), Ok(name.to_string()));
}
