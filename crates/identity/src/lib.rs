//! Who is who: what proves that a caller is what it says it is, and what it is then given.
//!
//! - [`authority`] issues certificates for names and says whose a certificate is,
//! - [`tls`] proves both ends of a connection with them,
//! - [`passkey`] proves a security key or a passkey of a browser,
//! - [`password`] proves a password without showing it,
//! - [`seal`] keeps secrets of the cluster that lie on a disk,
//! - [`session`] holds the texts that stand for a proof already given,
//! - [`join`] lets a new server or agent in,
//! - [`jwt`] proves a name by a text, for those who cannot look at a certificate,
//! - [`certified`] says who is a member of what, signed off line.
//!
//! A certificate, a password, a passkey or a token each ends in a principal's name; what that principal may do is not
//! decided here. Nothing here knows a registry, reads a variable of the environment or asks a clock where the caller can
//! say what time it is; only the TLS library has a clock of its own.

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
pub mod authenticator;
pub mod authority;
pub mod certified;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod join;
pub mod jwt;
pub mod passkey;
pub mod password;
pub mod seal;
pub mod session;
pub mod tls;

mod pem;
mod private_file;
