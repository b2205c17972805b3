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
        let setup = whole(bytes, ServerSetup::<Suite>::deserialize(bytes), |setup| setup.serialize().len())
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
        let request =
            whole(message, RegistrationRequest::<Suite>::deserialize(message), |message| message.serialize().len())?;
        let answer = ServerRegistration::<Suite>::start(&self.setup, request, principal_id).map_err(damaged)?;
        Ok(answer.message.serialize().to_vec())
    }

    /// The record to be stored, from the last message of a registration.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the message is none.
    pub fn register_finish(upload: &[u8]) -> Result<Vec<u8>> {
        let upload =
            whole(upload, RegistrationUpload::<Suite>::deserialize(upload), |upload| upload.serialize().len())?;
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
        let request =
            whole(message, CredentialRequest::<Suite>::deserialize(message), |message| message.serialize().len())?;
        let record = record
            .map(|bytes| {
                whole(bytes, ServerRegistration::<Suite>::deserialize(bytes), |record| record.serialize().len())
            })
            .transpose()
            .map_err(|error| Error::internal(format!("a stored password record is damaged: {}", error.log_line())))?;
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
        let finalization =
            whole(message, CredentialFinalization::<Suite>::deserialize(message), |message| message.serialize().len())
                .map_err(|_| wrong())?;
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
        whole(bytes, ServerLogin::<Suite>::deserialize(bytes), |state| state.serialize().len()).map(LoginState)
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
        let answer =
            whole(answer, RegistrationResponse::<Suite>::deserialize(answer), |answer| answer.serialize().len())?;
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
        let answer =
            whole(answer, CredentialResponse::<Suite>::deserialize(answer), |answer| answer.serialize().len())?;
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

/// What was read, if it was all of `bytes`: the library takes what it needs and leaves the rest.
fn whole<T>(bytes: &[u8], read: Result<T, ProtocolError>, length: impl Fn(&T) -> usize) -> Result<T> {
    let read = read.map_err(damaged)?;
    if length(&read) != bytes.len() {
        return Err(Error::new(Code::InvalidArgument, "something follows the message of a password exchange"));
    }
    Ok(read)
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
mod tests;
