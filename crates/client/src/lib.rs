//! The clerk: every operation of a name server, asked over the wire.
//!
//! A [`Clerk`] knows one or several servers, by their addresses or by a name of the DNS, and may ask them for the others of
//! their cluster. It connects when it is first asked something, stays with the server that answered (for a write, begins
//! with the primary when it knows which that is), and goes to the next one when a connection breaks, no answer comes, or
//! there is no primary. One that failed or was slow is asked last for a while. A watch goes on at another server where it
//! broke off.
//!
//! Nearly everything that it sends may be sent again: reads and finds change nothing that a second one would not leave the
//! same, and every write carries a request id, so that the servers apply a retry once. A step of signing in is sent once:
//! what answers it is good once; and so is a count of uses, which adds up.
//!
//! Errors come back as the server made them: code, sentence and field. What the clerk says itself is `unavailable` when
//! no server could be reached, with the addresses that were tried, and `timeout` when no answer came in time.
//!
//! A [`CachingClerk`] answers from memory what it was asked before, as long as watches stand behind it, and goes on
//! answering while no server can be reached.
//!
//! [`introduction`] is both ends of an introduction, for programs that prove themselves to each other by tickets.

#![forbid(unsafe_code)]

mod address;
mod agent;
mod behalf;
mod cache;
mod call;
mod clerk;
mod dial;
pub mod introduction;
mod link;
mod servers;
mod status;
mod watch;

pub use behalf::OnBehalf;
pub use cache::{Bounds, CacheOptions, CacheStats, CachingClerk, Found};
pub use clerk::{Clerk, Options};
pub use dial::{Dial, Stream};

/// The client's side of the services, generated.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    tonic::include_proto!("byname.v1");
}
