//! Tests of passkeys, with an authenticator in software.

use super::*;
use crate::authenticator::Authenticator;

const ORIGIN: &str = "https://ns.corp.example";
const NOW: Timestamp = Timestamp(1_000_000);

fn passkeys() -> Passkeys {
    Passkeys::new("corp.example", &[ORIGIN.to_owned(), "https://corp.example:7600".to_owned()], false).unwrap()
}

fn register(passkeys: &Passkeys, device: &mut Authenticator, existing: &[Vec<u8>]) -> Vec<u8> {
    let challenge = passkeys.register_start(ObjectId(7), "/people/ada", existing, NOW).unwrap();
    let answer = device.register(&challenge.options, ORIGIN).unwrap();
    passkeys.register_finish(&challenge.state, answer.as_bytes(), NOW).unwrap()
}

fn login(passkeys: &Passkeys, device: &mut Authenticator, stored: &[Vec<u8>], origin: &str) -> Result<Used> {
    let challenge = passkeys.login_start(stored, NOW).unwrap();
    let answer = device.login(&challenge.options, origin).unwrap();
    passkeys.login_finish(&challenge.state, answer.as_bytes(), stored, NOW)
}

#[test]
fn a_passkey_logs_in_and_its_counter_moves() {
    let (passkeys, mut device) = (passkeys(), Authenticator::new());
    let mut stored = vec![register(&passkeys, &mut device, &[])];
    for origin in [ORIGIN, "https://corp.example:7600"] {
        let used = login(&passkeys, &mut device, &stored, origin).unwrap();
        assert_eq!(used.index, 0);
        stored[0] = used.updated.expect("the counter moved");
    }
    assert_eq!(counter(&super::stored(&stored[0]).unwrap()), Some(2));
}

#[test]
fn one_principal_has_several_passkeys() {
    let (passkeys, mut first, mut second) = (passkeys(), Authenticator::new(), Authenticator::new());
    second.step = 0;
    let one = register(&passkeys, &mut first, &[]);
    let two = register(&passkeys, &mut second, std::slice::from_ref(&one));
    assert_ne!(credential_id(&one).unwrap(), credential_id(&two).unwrap());
    let stored = vec![one, two];
    assert_eq!(login(&passkeys, &mut first, &stored, ORIGIN).unwrap().index, 0);
    assert_eq!(login(&passkeys, &mut second, &stored, ORIGIN).unwrap(), Used { index: 1, updated: None });
    let challenge = passkeys.register_start(ObjectId(7), "/people/ada", &stored, NOW).unwrap();
    assert_eq!(challenge.options.matches("\"id\":").count(), 4, "the relying party, the user, both keys");
    assert!(passkeys.register_start(ObjectId(7), "/people/ada", &vec![stored[0].clone(); 32], NOW).is_err());
}

#[test]
fn another_site_gets_nothing() {
    let (passkeys, mut device) = (passkeys(), Authenticator::new());
    let stored = vec![register(&passkeys, &mut device, &[])];
    for origin in
        ["https://evil.example", "http://ns.corp.example", "https://ns.corp.example:8443", "https://x.ns.corp.example"]
    {
        let error = login(&passkeys, &mut device, &stored, origin).unwrap_err();
        assert_eq!((error.code(), error.message().contains("another site")), (Code::Unauthenticated, true), "{origin}");
        let challenge = passkeys.register_start(ObjectId(7), "/people/ada", &[], NOW).unwrap();
        let answer = device.register(&challenge.options, origin).unwrap();
        assert!(passkeys.register_finish(&challenge.state, answer.as_bytes(), NOW).is_err(), "{origin}");
    }
}

#[test]
fn another_relying_party_an_unverified_user_and_another_key_are_refused() {
    let (passkeys, mut device) = (passkeys(), Authenticator::new());
    let stored = vec![register(&passkeys, &mut device, &[])];
    device.other_rp = Some("evil.example".to_owned());
    assert_eq!(login(&passkeys, &mut device, &stored, ORIGIN).unwrap_err().code(), Code::Unauthenticated);
    let challenge = passkeys.register_start(ObjectId(7), "/people/ada", &[], NOW).unwrap();
    let answer = device.register(&challenge.options, ORIGIN).unwrap();
    assert!(passkeys.register_finish(&challenge.state, answer.as_bytes(), NOW).is_err());

    device.other_rp = None;
    device.unverified = true;
    assert_eq!(login(&passkeys, &mut device, &stored, ORIGIN).unwrap_err().code(), Code::Unauthenticated);
    device.unverified = false;

    let mut stranger = Authenticator::new();
    let strange = vec![register(&passkeys, &mut stranger, &[])];
    let mine = passkeys.login_start(&stored, NOW).unwrap();
    let theirs = passkeys.login_start(&strange, NOW).unwrap();
    let answer = stranger.login(&theirs.options, ORIGIN).unwrap();
    assert!(passkeys.login_finish(&mine.state, answer.as_bytes(), &stored, NOW).is_err());
}

#[test]
fn an_answer_is_good_for_its_own_challenge_and_for_five_minutes() {
    let (passkeys, mut device) = (passkeys(), Authenticator::new());
    let stored = vec![register(&passkeys, &mut device, &[])];
    let challenge = passkeys.login_start(&stored, NOW).unwrap();
    let answer = device.login(&challenge.options, ORIGIN).unwrap();
    let used = passkeys.login_finish(&challenge.state, answer.as_bytes(), &stored, NOW).unwrap();

    let again = passkeys.login_start(&stored, NOW).unwrap();
    let error = passkeys.login_finish(&again.state, answer.as_bytes(), &stored, NOW).unwrap_err();
    assert!(error.message().contains("another challenge"), "{error}");
    // The same answer to the same challenge: the counter that is stored now shows it.
    let now_stored = vec![used.updated.unwrap()];
    let error = passkeys.login_finish(&challenge.state, answer.as_bytes(), &now_stored, NOW).unwrap_err();
    assert!(error.message().contains("went back"), "{error}");

    let late = Timestamp(NOW.0 + CHALLENGE_MS);
    let answer = device.login(&again.options, ORIGIN).unwrap();
    let error = passkeys.login_finish(&again.state, answer.as_bytes(), &stored, late).unwrap_err();
    assert!(error.message().contains("too late"), "{error}");
    assert!(passkeys.login_finish(&again.state, answer.as_bytes(), &[], NOW).is_err(), "it was removed meanwhile");
}

#[test]
fn a_counter_that_goes_back_shows_a_copy() {
    let (passkeys, mut device) = (passkeys(), Authenticator::new());
    let mut stored = vec![register(&passkeys, &mut device, &[])];
    device.set_counter(10);
    stored[0] = login(&passkeys, &mut device, &stored, ORIGIN).unwrap().updated.unwrap();
    for counter in [0, 5, 10] {
        device.set_counter(counter);
        let error = login(&passkeys, &mut device, &stored, ORIGIN).unwrap_err();
        assert!(error.message().contains("went back"), "{counter}: {error}");
    }
    device.set_counter(11);
    assert!(login(&passkeys, &mut device, &stored, ORIGIN).is_ok());
}

#[test]
fn what_is_no_answer_is_an_error_and_nothing_else() {
    let (passkeys, mut device) = (passkeys(), Authenticator::new());
    let stored = vec![register(&passkeys, &mut device, &[])];
    let challenge = passkeys.login_start(&stored, NOW).unwrap();
    let answer = device.login(&challenge.options, ORIGIN).unwrap();
    for at in 0..answer.len() {
        assert!(passkeys.login_finish(&challenge.state, &answer.as_bytes()[..at], &stored, NOW).is_err());
    }
    for text in ["", "{}", "null", "[]"] {
        assert!(passkeys.login_finish(&challenge.state, text.as_bytes(), &stored, NOW).is_err());
        assert!(passkeys.login_finish(text.as_bytes(), answer.as_bytes(), &stored, NOW).is_err());
        assert!(passkeys.login_start(&[text.as_bytes().to_vec()], NOW).is_err());
    }
    assert_eq!(passkeys.login_start(&[], NOW).unwrap_err().code(), Code::Unauthenticated);
    let huge = vec![b' '; MAX_BYTES + 1];
    assert_eq!(passkeys.login_finish(&challenge.state, &huge, &stored, NOW).unwrap_err().code(), Code::TooLarge);
}

#[test]
fn under_dev_localhost_is_asked_on_any_port() {
    let dev = Passkeys::new("localhost", &["http://localhost".to_owned()], true).unwrap();
    let mut device = Authenticator::new();
    let challenge = dev.register_start(ObjectId(7), "/people/ada", &[], NOW).unwrap();
    let answer = device.register(&challenge.options, "http://localhost:41234").unwrap();
    assert!(dev.register_finish(&challenge.state, answer.as_bytes(), NOW).is_ok());

    for (rp, origin, any, says) in [
        ("corp.example", "https://corp.example", true, "only localhost"),
        ("corp.example", "http://corp.example", false, "not https"),
        ("corp.example", "https://acorp.example", false, "not of the domain"),
        ("corp.example", "https://127.0.0.1", false, "no host name"),
        ("corp.example", "corp.example", false, "no URL"),
    ] {
        let error = Passkeys::new(rp, &[origin.to_owned()], any).unwrap_err();
        assert!(error.message().contains(says), "{error}");
    }
    assert!(Passkeys::new("corp.example", &[], false).is_err());
}
