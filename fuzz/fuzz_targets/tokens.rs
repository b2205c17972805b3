//! Texts that prove something: session and join tokens, JWTs and their bundles, statements, passkeys' answers, messages of a
//! password exchange.

#![no_main]

use std::sync::LazyLock;

use byname_api::span::Timestamp;
use byname_identity::authority::Authority;
use byname_identity::certified;
use byname_identity::join::JoinToken;
use byname_identity::jwt::JwtKeys;
use byname_identity::passkey::Passkeys;
use byname_identity::password::{LoginState, PasswordServer};
use byname_identity::seal::ClusterKey;
use byname_identity::session::Sessions;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

struct Readers {
    authority: Authority,
    sessions: Sessions,
    keys: JwtKeys,
    passkeys: Passkeys,
    passwords: PasswordServer,
}

static READERS: LazyLock<Readers> = LazyLock::new(|| {
    let authority = Authority::create("corp.example", NOW).expect("an authority");
    Readers {
        sessions: Sessions::new(&ClusterKey::generate().expect("a key")).expect("sessions"),
        keys: JwtKeys::from_bundle("corp.example", &authority.spiffe_bundle()).expect("keys"),
        passkeys: Passkeys::new("corp.example", &["https://corp.example".to_owned()], false).expect("passkeys"),
        passwords: PasswordServer::from_setup(&PasswordServer::new_setup()).expect("passwords"),
        authority,
    }
});

fuzz_target!(|bytes: &[u8]| {
    let readers = &*READERS;
    let _ = readers.passwords.register_start(b"1", bytes);
    let _ = readers.passwords.login_start(None, b"1", bytes);
    let _ = PasswordServer::register_finish(bytes);
    if let Ok(state) = LoginState::from_bytes(bytes) {
        assert_eq!(*state.to_bytes(), bytes);
    }
    let (state, answer) = bytes.split_at(bytes.len() / 2);
    assert!(readers.passkeys.register_finish(state, answer, NOW).is_err(), "no key signed it");
    let _ = readers.passkeys.login_start(&[bytes.to_vec()], NOW);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(readers.sessions.read(text, NOW).is_err(), "nobody has the cluster's key");
    assert!(readers.keys.verify(text, "a", NOW).is_err(), "nobody has the token's key");
    assert!(certified::verify(readers.authority.roots(), text, NOW).is_err(), "nobody has the root's key");
    if let Ok(keys) = JwtKeys::from_bundle("corp.example", text) {
        let _ = keys.verify(text, "a", NOW);
    }
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string().parse::<JoinToken>().as_ref(), Ok(&token));
    }
});
