//! Tests of passwords: both sides, in one process.

use super::*;

const PASSWORD: &str = "correct horse battery";

fn server() -> PasswordServer {
    PasswordServer::from_setup(&PasswordServer::new_setup()).unwrap()
}

/// A record, and every message that was sent for it.
fn register(server: &PasswordServer, id: &[u8], password: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (client, first) = Registration::start(password).unwrap();
    let answer = server.register_start(id, &first).unwrap();
    let upload = client.finish(&answer).unwrap();
    (PasswordServer::register_finish(&upload).unwrap(), vec![first, answer, upload])
}

fn login(server: &PasswordServer, record: Option<&[u8]>, id: &[u8], password: &str) -> Result<Vec<Vec<u8>>> {
    let (client, first) = Login::start(password).unwrap();
    let (state, answer) = server.login_start(record, id, &first).unwrap();
    let last = client.finish(&answer)?;
    PasswordServer::login_finish(state, &last)?;
    Ok(vec![first, answer, last])
}

#[test]
fn the_right_password_is_taken_and_never_sent() {
    let setup = PasswordServer::new_setup();
    let server = PasswordServer::from_setup(&setup).unwrap();
    let (record, mut sent) = register(&server, b"ada", PASSWORD);
    // After a restart, too.
    let server = PasswordServer::from_setup(&setup).unwrap();
    sent.extend(login(&server, Some(&record), b"ada", PASSWORD).unwrap());
    sent.extend([record, setup]);
    for message in sent {
        assert!(!message.windows(7).any(|part| part == b"correct"));
    }
}

#[test]
fn anything_else_is_refused_with_the_same_words() {
    let server = server();
    let (record, _) = register(&server, b"ada", PASSWORD);
    let (bobs, _) = register(&server, b"bob", "another password");
    let elsewhere = PasswordServer::from_setup(&PasswordServer::new_setup()).unwrap();
    for (server, record, id, password) in [
        (&server, Some(&record), &b"ada"[..], "correct horse batterz"),
        (&server, Some(&record), b"bob", PASSWORD),
        (&server, Some(&bobs), b"ada", PASSWORD),
        (&server, None, b"ada", PASSWORD),
        (&elsewhere, Some(&record), b"ada", PASSWORD),
    ] {
        let error = login(server, record.map(Vec::as_slice), id, password).unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Unauthenticated, "the name or the password is wrong"));
    }
}

#[test]
fn who_is_not_there_looks_like_anybody_else() {
    let server = server();
    let (record, _) = register(&server, b"ada", PASSWORD);
    let (_, first) = Login::start(PASSWORD).unwrap();
    let (_, known) = server.login_start(Some(&record), b"ada", &first).unwrap();
    let (_, unknown) = server.login_start(None, b"eve", &first).unwrap();
    assert_eq!(known.len(), unknown.len());
    // What does not change from try to try for one, does not for the other either: the evaluated element.
    let (_, known_again) = server.login_start(Some(&record), b"ada", &first).unwrap();
    let (_, unknown_again) = server.login_start(None, b"eve", &first).unwrap();
    assert_eq!(known[..32], known_again[..32]);
    assert_eq!(unknown[..32], unknown_again[..32]);
    assert_ne!(known[32..], known_again[32..]);
    assert_ne!(unknown[32..], unknown_again[32..]);
}

#[test]
fn messages_that_are_cut_foreign_or_of_another_step_are_refused() {
    let server = server();
    let (record, sent) = register(&server, b"ada", PASSWORD);
    let (client, first) = Login::start(PASSWORD).unwrap();
    let (state, answer) = server.login_start(Some(&record), b"ada", &first).unwrap();
    for at in [0, 1, first.len() - 1] {
        assert!(server.login_start(Some(&record), b"ada", &first[..at]).is_err());
        assert!(server.register_start(b"ada", &sent[0][..at.min(31)]).is_err());
    }
    for other in [&sent[0], &sent[1], &sent[2], &answer] {
        assert!(server.login_start(Some(&record), b"ada", other).is_err());
    }
    assert!(PasswordServer::register_finish(&sent[1]).is_err());
    assert!(server.login_start(Some(&record[1..]), b"ada", &first).is_err_and(|e| e.code() == Code::Internal));
    assert!(PasswordServer::from_setup(&[1; 8]).is_err());
    let longer = |message: &[u8]| [message, &[0]].concat();
    assert!(server.register_start(b"ada", &longer(&sent[0])).is_err());
    assert!(Registration::start(PASSWORD).unwrap().0.finish(&longer(&sent[1])).is_err());
    assert!(PasswordServer::register_finish(&longer(&sent[2])).is_err());
    assert!(server.login_start(Some(&record), b"ada", &longer(&first)).is_err());
    assert!(server.login_start(Some(&longer(&record)), b"ada", &first).is_err());
    assert!(Login::start(PASSWORD).unwrap().0.finish(&longer(&answer)).is_err());
    assert!(LoginState::from_bytes(&longer(&state.to_bytes())).is_err());
    assert!(PasswordServer::from_setup(&longer(&PasswordServer::new_setup())).is_err());
    // A group element that is none, and the identity.
    assert!(server.register_start(b"ada", &[0xff; 32]).is_err());
    assert!(server.register_start(b"ada", &[0; 32]).is_err());

    let kept = state.to_bytes();
    assert_eq!(PasswordServer::login_finish(state, &answer).unwrap_err().code(), Code::Unauthenticated);
    let last = client.finish(&answer).unwrap();
    let state = LoginState::from_bytes(&kept).unwrap();
    assert!(PasswordServer::login_finish(state, &longer(&last)).is_err());
    let state = LoginState::from_bytes(&kept).unwrap();
    assert!(PasswordServer::login_finish(state, &last).is_ok());
    // The last message of one login is none of another.
    let (_, first) = Login::start(PASSWORD).unwrap();
    let (state, _) = server.login_start(Some(&record), b"ada", &first).unwrap();
    assert_eq!(PasswordServer::login_finish(state, &last).unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn a_password_has_bounds() {
    assert!(Registration::start("1234567").is_err());
    assert!(Registration::start("üüüüüüüü").is_ok());
    assert!(Registration::start(&"x".repeat(1_025)).is_err());
    assert!(Login::start(&"x".repeat(1_025)).is_err());
    assert!(Login::start("").is_ok(), "only setting a password has rules for it");
}
