//! Every reader of what comes from outside, with bytes that nobody thought of: none panics, and nothing that was changed by
//! one byte is believed.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use byname_identity::authority::{
    Authority, Purpose, Roots, SigningRequest, Subject, Usage, new_key, show, verify, verify_pem,
};
use byname_identity::certified::{self, About, Statement};
use byname_identity::join::JoinToken;
use byname_identity::jwt::JwtKeys;
use byname_identity::passkey::Passkeys;
use byname_identity::password::{LoginState, PasswordServer};
use byname_identity::seal::ClusterKey;
use byname_identity::session::{Claims, Sessions};
use byname_name::Name;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const LIFE: Duration = Duration::from_secs(3_600);

/// One good text of each kind.
struct Good {
    authority: Authority,
    request: Vec<u8>,
    leaf: Vec<u8>,
    issuing: Vec<u8>,
    chain_pem: String,
    sessions: Sessions,
    session: String,
    keys: JwtKeys,
    jwt: String,
    statement: String,
    join: String,
    passwords: PasswordServer,
    passkeys: Passkeys,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let authority = Authority::create("corp.example", NOW).unwrap();
    let request = new_key().unwrap().request_pem.into_bytes();
    let name = Name::parse("/people/ada").unwrap();
    let subject = Subject {
        name: name.clone(),
        id: Some(ObjectId(1)),
        instance: None,
        dns: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Both,
    };
    let certificate = authority.certify(&SigningRequest::parse(&request).unwrap(), &subject, LIFE, NOW).unwrap();
    let sessions = Sessions::new(&ClusterKey::generate().unwrap()).unwrap();
    let claims = Claims {
        principal: name.to_string(),
        id: None,
        instance: None,
        session: 1,
        mechanism: "password".to_owned(),
        issued: NOW,
        expires: Timestamp(NOW.0 + 1_000),
    };
    let statement = Statement {
        domain: "corp.example".to_owned(),
        about: About::Group,
        name: name.clone(),
        members: vec!["/people/eve".to_owned()],
        not_after: Timestamp(NOW.0 + 1_000),
    };
    Good {
        leaf: certificate.leaf_der,
        chain_pem: certificate.chain_pem,
        session: sessions.issue(&claims).unwrap(),
        keys: JwtKeys::from_bundle("corp.example", &authority.spiffe_bundle()).unwrap(),
        jwt: authority.jwt_key().sign("corp.example", &name, None, &["a".to_owned()], LIFE, NOW).unwrap(),
        statement: certified::sign_on_line(&authority, &statement).unwrap(),
        join: JoinToken::new(vec!["192.0.2.1:7600".to_owned()], authority.root_fingerprint()).unwrap().to_string(),
        passwords: PasswordServer::from_setup(&PasswordServer::new_setup()).unwrap(),
        passkeys: Passkeys::new("corp.example", &["https://corp.example".to_owned()], false).unwrap(),
        issuing: der(&authority.issuing_pem()),
        authority,
        request,
        sessions,
    }
});

fn der(pem: &str) -> Vec<u8> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(lines).unwrap()
}

/// `good` with the byte at one place made another one.
fn changed(good: &[u8], place: usize, by: u8) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let at = place % bytes.len();
    bytes[at] ^= by.max(1);
    bytes
}

/// What a text can be changed to and stay a text.
fn changed_text(good: &str, place: usize, by: u8) -> String {
    let mut bytes = good.as_bytes().to_vec();
    let at = place % bytes.len();
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    let other = letters[usize::from(by) % letters.len()];
    bytes[at] = if other == bytes[at] { b'!' } else { other };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn all_that_is_good_is_good() {
    let good = &*GOOD;
    let roots = good.authority.roots();
    assert!(verify(roots, &[&good.leaf, &good.issuing], Purpose::Client, NOW).is_ok());
    assert!(verify_pem(roots, &good.chain_pem, Purpose::Client, NOW).is_ok());
    assert!(good.sessions.read(&good.session, NOW).is_ok());
    assert!(good.keys.verify(&good.jwt, "a", NOW).is_ok());
    assert!(certified::verify(roots, &good.statement, NOW).is_ok());
    assert!(good.join.parse::<JoinToken>().is_ok());
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let good = &*GOOD;
        let roots = good.authority.roots();
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(SigningRequest::parse(&bytes).is_err());
        prop_assert!(verify(roots, &[&bytes], Purpose::Client, NOW).is_err());
        prop_assert!(verify(roots, &[&good.leaf, &bytes], Purpose::Server, NOW).is_err());
        prop_assert!(Authority::from_sealed_form(&bytes).is_err());
        prop_assert!(Roots::from_pem(&text).is_err());
        prop_assert!(show(&text).is_err());
        prop_assert!(good.sessions.read(&text, NOW).is_err());
        prop_assert!(good.sessions.read(&["bn1.", &text].concat(), NOW).is_err());
        prop_assert!(good.keys.verify(&text, "a", NOW).is_err());
        prop_assert!(certified::verify(roots, &text, NOW).is_err());
        prop_assert!(text.parse::<JoinToken>().is_err());
        let _ = good.passwords.register_start(b"1", &bytes);
        let _ = good.passwords.login_start(None, b"1", &bytes);
        let _ = PasswordServer::register_finish(&bytes);
        if let Ok(state) = LoginState::from_bytes(&bytes) {
            prop_assert!(PasswordServer::login_finish(state, &bytes).is_err());
        }
        prop_assert!(good.passkeys.login_finish(&bytes, &bytes, std::slice::from_ref(&bytes), NOW).is_err());
        prop_assert!(good.passkeys.register_finish(&bytes, &bytes, NOW).is_err());
    }

    #[test]
    fn one_byte_decides(place in any::<usize>(), by in any::<u8>()) {
        let good = &*GOOD;
        let roots = good.authority.roots();
        let chain: [&[u8]; 2] = [&changed(&good.leaf, place, by), &good.issuing];
        prop_assert!(verify(roots, &chain, Purpose::Client, NOW).is_err());
        let chain: [&[u8]; 2] = [&good.leaf, &changed(&good.issuing, place, by)];
        prop_assert!(verify(roots, &chain, Purpose::Client, NOW).is_err());
        let _ = SigningRequest::parse(&changed(&good.request, place, by));
        let _ = show(&changed_text(&good.chain_pem, place, by));
        prop_assert!(good.sessions.read(&changed_text(&good.session, place, by), NOW).is_err());
        prop_assert!(good.keys.verify(&changed_text(&good.jwt, place, by), "a", NOW).is_err());
        prop_assert!(certified::verify(roots, &changed_text(&good.statement, place, by), NOW).is_err());
        if let Ok(other) = changed_text(&good.join, place, by).parse::<JoinToken>() {
            prop_assert_ne!(other.to_string(), good.join.clone());
        }
    }
}
