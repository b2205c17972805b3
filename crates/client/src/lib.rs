//! The clerk: every operation of a name server, asked over the wire.
//!
//! A [`Clerk`] knows one or several servers. It connects when it is first asked something, stays with the server that
//! answered, and goes to the next one when a connection breaks. Everything that it sends may be sent again: reads and
//! finds change nothing that a second one would not leave the same, and every write carries a request id, so that the
//! servers apply a retry once. Only a step of signing in is sent once: what answers it is good once.
//!
//! Errors come back as the server made them: code, sentence and field. What the clerk says itself is `unavailable` when
//! no server could be reached, with the addresses that were tried, and `timeout` when no answer came in time.
//!
//! [`introduction`] is both ends of an introduction, for programs that prove themselves to each other by tickets.

#![forbid(unsafe_code)]

mod address;
mod agent;
mod call;
mod clerk;
mod dial;
mod health;
pub mod introduction;
mod link;
mod status;

pub use clerk::{Clerk, Options};
pub use dial::{Dial, Stream};
pub use health::ask_health;

/// The client's side of the services, generated.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    tonic::include_proto!("byname.v1");
}
