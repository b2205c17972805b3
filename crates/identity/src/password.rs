//! Passwords that the server never sees: OPAQUE (RFC 9807) with OPRF(ristretto255, SHA-512), HKDF and HMAC of SHA-512, and
//! 3DH on ristretto255: the first configuration of its section 7, with Argon2id parameters for clerks of any size.
//!
//! ```text
//! set a password        client                         server
//!                       Registration::start  ────────▶ register_start
//!                       Registration::finish ◀────────
//!                                            ────────▶ register_finish   the record is stored
//! log in                Login::start         ────────▶ login_start       the record is read
//!                       Login::finish        ◀────────
//!                                            ────────▶ login_finish      good or not
//! ```
//!
//! What a server stores is worth nothing without the set-up, and with it a password must still be guessed through
//! Argon2id, one principal at a time. Who watches the messages, or plays the server, learns nothing to guess with.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use byname_api::error::{Code, Error, Result};
use opaque_ke::errors::{InternalError, ProtocolError};
use opaque_ke::generic_array::{ArrayLength, GenericArray};
use opaque_ke::ksf::Ksf;
use opaque_ke::{
    CipherSuite, ClientLogin, ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters,
    CredentialFinalization, CredentialRequest, CredentialResponse, RegistrationRequest, RegistrationResponse,
    RegistrationUpload, Ristretto255, ServerLogin, ServerLoginParameters, ServerRegistration, ServerSetup, TripleDh,
};
use rand_core::OsRng;
use sha2::Sha512;
use zeroize::Zeroizing;

/// Argon2id as RFC 9106 section 4 recommends where memory is short (its second choice): 64 MiB, three passes, four lanes.
/// Part of every stored record: another choice is another format.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// The shortest password, in characters (NIST SP 800-63B section 5.1.1.1). Only the client can look.
pub const MIN_CHARACTERS: usize = 8;
/// The longest, in bytes.
pub const MAX_BYTES: usize = 1_024;

/// Bound into every exchange, so that no other use of the same protocol can be mixed with it.
const CONTEXT: &[u8] = b"byname password 1";

/// The suite of algorithms.
struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, Sha512>;
    type Ksf = Stretch;
}

/// What makes guessing slow. The salt is the protocol's own: its input already depends on the server and the principal
/// (RFC 9807 section 4.1.2 has zeros here).
#[derive(Default)]
struct Stretch;

impl Ksf for Stretch {
    fn hash<L: ArrayLength<u8>>(&self, input: GenericArray<u8, L>) -> Result<GenericArray<u8, L>, InternalError> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| InternalError::KsfError)?;
        let mut output = GenericArray::default();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(&input, &[0; 16], &mut output)
            .map_err(|_| InternalError::KsfError)?;
        Ok(output)
    }
}

/// The server's side.
pub struct PasswordServer {
    setup: ServerSetup<Suite>,
}

/// What a server keeps between the two messages of one login, for the principal that it was asked for. Good for one
/// `login_finish`: to be kept in memory, with a bound on its age.
pub struct LoginState(ServerLogin<Suite>);

impl PasswordServer {
    /// A new set-up: one for a cluster, to be sealed under its key. Every record depends on it: without it all passwords
    /// must be set again.
    pub fn new_setup() -> Vec<u8> {
        ServerSetup::<Suite>::new(&mut OsRng).serialize().to_vec()
    }

    /// A server with that set-up.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when it is damaged.
    pub fn from_setup(bytes: &[u8]) -> Result<Self> {
        let setup = ServerSetup::deserialize(bytes)
            .map_err(|_| Error::new(Code::InvalidArgument, "the set-up of the passwords is damaged"))?;
        Ok(PasswordServer { setup })
    }

    /// Answers the first message of a registration. `principal_id` must stay as long as the record does: the object's id,
    /// not its name.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the message is none.
    pub fn register_start(&self, principal_id: &[u8], message: &[u8]) -> Result<Vec<u8>> {
        let request = RegistrationRequest::deserialize(message).map_err(damaged)?;
        let answer = ServerRegistration::<Suite>::start(&self.setup, request, principal_id).map_err(damaged)?;
        Ok(answer.message.serialize().to_vec())
    }

    /// The record to be stored, from the last message of a registration.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the message is none.
    pub fn register_finish(upload: &[u8]) -> Result<Vec<u8>> {
        let upload = RegistrationUpload::<Suite>::deserialize(upload).map_err(damaged)?;
        Ok(ServerRegistration::finish(upload).serialize().to_vec())
    }

    /// Answers the first message of a login. Without a record the answer looks like any other and the login fails in the
    /// end: so nobody learns which principals have a password. For a principal that is not there, `principal_id` must be
    /// the same each time (its name, say), or the answers tell.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the message is none, `internal` when the record is damaged.
    pub fn login_start(
        &self,
        record: Option<&[u8]>,
        principal_id: &[u8],
        message: &[u8],
    ) -> Result<(LoginState, Vec<u8>)> {
        let request = CredentialRequest::deserialize(message).map_err(damaged)?;
        let record = record
            .map(ServerRegistration::<Suite>::deserialize)
            .transpose()
            .map_err(|error| Error::internal(format!("a stored password record is damaged: {error}")))?;
        let answer = ServerLogin::start(&mut OsRng, &self.setup, record, request, principal_id, server_parameters())
            .map_err(damaged)?;
        Ok((LoginState(answer.state), answer.message.serialize().to_vec()))
    }

    /// Whether the last message of a login proves the password.
    ///
    /// # Errors
    ///
    /// `unauthenticated` when it does not, whatever the reason.
    pub fn login_finish(state: LoginState, message: &[u8]) -> Result<()> {
        let finalization = CredentialFinalization::deserialize(message).map_err(|_| wrong())?;
        state.0.finish(finalization, server_parameters()).map(drop).map_err(|_| wrong())
    }
}

impl fmt::Debug for PasswordServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordServer")
    }
}

impl LoginState {
    /// The state as bytes. They are a secret; a server that gives them out, sealed, must see to it that they come back
    /// once only.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize().to_vec())
    }

    /// Reads what [`LoginState::to_bytes`] gave.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        ServerLogin::deserialize(bytes).map(LoginState).map_err(damaged)
    }
}

impl fmt::Debug for LoginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginState")
    }
}

/// The client's side of setting a password.
pub struct Registration {
    state: ClientRegistration<Suite>,
    password: Zeroizing<Vec<u8>>,
}

impl Registration {
    /// Begins; gives the message for the server.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the password is too short or too long.
    pub fn start(password: &str) -> Result<(Self, Vec<u8>)> {
        if password.chars().count() < MIN_CHARACTERS {
            return Err(Error::invalid("password", format!("a password has at least {MIN_CHARACTERS} characters")));
        }
        let password = bounded(password)?;
        let started = ClientRegistration::start(&mut OsRng, &password).map_err(defect)?;
        Ok((Registration { state: started.state, password }, started.message.serialize().to_vec()))
    }

    /// Takes the server's answer; gives the last message. Takes 64 MiB and some tenths of a second.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the answer is none.
    pub fn finish(self, answer: &[u8]) -> Result<Vec<u8>> {
        let answer = RegistrationResponse::deserialize(answer).map_err(damaged)?;
        let finished = self
            .state
            .finish(&mut OsRng, &self.password, answer, ClientRegistrationFinishParameters::default())
            .map_err(damaged)?;
        Ok(finished.message.serialize().to_vec())
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration")
    }
}

/// The client's side of a login.
pub struct Login {
    state: ClientLogin<Suite>,
    password: Zeroizing<Vec<u8>>,
}

impl Login {
    /// Begins; gives the message for the server.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the password is longer than any.
    pub fn start(password: &str) -> Result<(Self, Vec<u8>)> {
        let password = bounded(password)?;
        let started = ClientLogin::start(&mut OsRng, &password).map_err(defect)?;
        Ok((Login { state: started.state, password }, started.message.serialize().to_vec()))
    }

    /// Takes the server's answer; gives the last message. Takes 64 MiB and some tenths of a second.
    ///
    /// # Errors
    ///
    /// `unauthenticated` when the password is wrong, there is no such principal, or the server is not the one that the
    /// password was set at; `invalid-argument` when the answer is none.
    pub fn finish(self, answer: &[u8]) -> Result<Vec<u8>> {
        let answer = CredentialResponse::deserialize(answer).map_err(damaged)?;
        let parameters = ClientLoginFinishParameters::new(Some(CONTEXT), Default::default(), None);
        match self.state.finish(&mut OsRng, &self.password, answer, parameters) {
            Ok(finished) => Ok(finished.message.serialize().to_vec()),
            Err(ProtocolError::InvalidLoginError) => Err(wrong()),
            Err(error) => Err(damaged(error)),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

fn server_parameters() -> ServerLoginParameters<'static, 'static> {
    ServerLoginParameters { context: Some(CONTEXT), identifiers: Default::default() }
}

fn bounded(password: &str) -> Result<Zeroizing<Vec<u8>>> {
    if password.len() > MAX_BYTES {
        return Err(Error::invalid("password", format!("a password has at most {MAX_BYTES} bytes")));
    }
    Ok(Zeroizing::new(password.as_bytes().to_vec()))
}

/// The one answer to everything that goes wrong in a login.
fn wrong() -> Error {
    Error::new(Code::Unauthenticated, "the name or the password is wrong")
}

fn damaged(error: ProtocolError) -> Error {
    Error::new(Code::InvalidArgument, "this is not the next message of a password exchange").log(error.to_string())
}

fn defect(error: ProtocolError) -> Error {
    Error::internal(format!("starting a password exchange: {error}"))
}

#[cfg(test)]
mod tests {
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
        // A group element that is none, and the identity.
        assert!(server.register_start(b"ada", &[0xff; 32]).is_err());
        assert!(server.register_start(b"ada", &[0; 32]).is_err());

        let kept = state.to_bytes();
        assert_eq!(PasswordServer::login_finish(state, &answer).unwrap_err().code(), Code::Unauthenticated);
        let last = client.finish(&answer).unwrap();
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
}
