//! Both ends of an introduction: a client and a service that never met prove themselves to each other by a server that
//! both trust (figure 7 of the paper).
//!
//! How ticket and proof travel between the two is theirs to say: a line each, a header each. They are worth something
//! to whoever sees them, so a network that others listen on needs TLS all the same.
//!
//! ```no_run
//! use byname_api::request::Context;
//! use byname_api::{NameService, Result};
//! use byname_client::introduction::{Introduction, Service};
//! # async fn send(_: &str) {}
//! # async fn receive() -> String { String::new() }
//!
//! async fn client(names: &dyn NameService, cx: &Context) -> Result<()> {
//!     let introduction = Introduction::to(names, cx, "/db/orders".parse()?).await?;
//!     send(introduction.ticket()).await; // to one of introduction.endpoints()
//!     introduction.check(&receive().await) // from here on it is the service
//! }
//!
//! async fn service(names: &dyn NameService, cx: &Context, own: &Service) -> Result<()> {
//!     let client = own.verify(names, cx, &receive().await).await?;
//!     println!("{} is here", client.client);
//!     send(&client.proof.0).await;
//!     Ok(())
//! }
//! ```
//!
//! `examples/introduction.rs` in this crate plays both over a socket.

use byname_api::caller::same_secret;
use byname_api::identity::{IntroduceReply, IntroduceRequest, Secret, VerifyReply, VerifyRequest};
use byname_api::object::InstanceId;
use byname_api::request::{AdvertiseReply, Context};
use byname_api::service::Endpoint;
use byname_api::span::Timestamp;
use byname_api::{Code, Error, NameService, Result};
use byname_name::Name;

/// Hexadecimal digits of a ticket and of a proof.
const DIGITS: usize = 64;

/// Who showed a ticket, and the proof to answer with.
pub type VerifiedClient = VerifyReply;

/// The client's end: good for one conversation with one copy of a service.
#[derive(Clone, Debug)]
pub struct Introduction {
    reply: IntroduceReply,
}

impl Introduction {
    /// Asks to be introduced to a service; the server chooses the copy. `From<IntroduceReply>` takes an answer that was
    /// asked for in another way.
    ///
    /// # Errors
    ///
    /// Those of [`NameService::introduce`]: `unauthenticated` for a caller whom the server does not know, `denied` where
    /// no copy can be vouched for.
    pub async fn to(names: &dyn NameService, cx: &Context, name: Name) -> Result<Introduction> {
        names.introduce(cx, IntroduceRequest { name, instance: None }).await.map(Introduction::from)
    }

    /// The service, by the name that the server knows it by.
    pub fn name(&self) -> &Name {
        &self.reply.name
    }

    /// The copy that it is good for.
    pub fn instance(&self) -> InstanceId {
        self.reply.instance
    }

    /// Where that copy answers.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.reply.endpoints
    }

    /// What to show to it: 64 hexadecimal digits, good once.
    pub fn ticket(&self) -> &str {
        &self.reply.ticket.0
    }

    /// When it ends, by the server's clock. The server holds to it: a service that comes later is given no proof.
    pub fn expires(&self) -> Timestamp {
        self.reply.expires
    }

    /// Whether this answer to the ticket is the service's. Space around it does not matter. How long it takes does not
    /// tell where a wrong one differs.
    ///
    /// # Errors
    ///
    /// `unauthenticated`: whoever answered is not the service, and should be told nothing more.
    pub fn check(&self, proof: &str) -> Result<()> {
        let expected = self.reply.proof.0.as_bytes();
        // An empty answer must never do, whatever a server sent.
        if expected.len() == DIGITS && same_secret(expected, proof.trim().to_ascii_lowercase().as_bytes()) {
            return Ok(());
        }
        Err(Error::new(
            Code::Unauthenticated,
            format!("whoever answered is not `{}`: it did not show the proof that the server gave it", self.reply.name),
        )
        .field("proof"))
    }
}

impl From<IntroduceReply> for Introduction {
    fn from(reply: IntroduceReply) -> Self {
        Introduction { reply }
    }
}

/// The service's end: what a running copy shows when it asks who its client is.
#[derive(Clone, Debug, Default)]
pub struct Service {
    own: Option<(InstanceId, Secret)>,
}

impl Service {
    /// A copy that the connection to the server says by itself: by its session or its certificate.
    pub fn by_connection() -> Service {
        Service::default()
    }

    /// A copy with the credential that it was given, 64 hexadecimal digits.
    pub fn new(instance: InstanceId, credential: impl Into<String>) -> Service {
        Service { own: Some((instance, Secret(credential.into()))) }
    }

    /// A copy by the answer to its first `advertise`.
    ///
    /// # Errors
    ///
    /// `invalid-argument` for the answer to a later one: the credential is given once.
    pub fn advertised(reply: &AdvertiseReply) -> Result<Service> {
        let credential = reply.credential.as_ref().ok_or_else(|| {
            Error::invalid("credential", "this answer holds no credential: only that of the first `advertise` does")
        })?;
        Ok(Service::new(reply.instance, credential))
    }

    /// Asks who showed this ticket. That uses it up. Space around it does not matter.
    ///
    /// # Errors
    ///
    /// `invalid-argument` for what is no ticket, without asking; otherwise those of [`NameService::verify`]:
    /// `unauthenticated` for a ticket that is unknown, used, expired or another copy's, and for a wrong credential.
    pub async fn verify(&self, names: &dyn NameService, cx: &Context, ticket: &str) -> Result<VerifiedClient> {
        let ticket = ticket.trim();
        if ticket.len() != DIGITS || !ticket.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::invalid("ticket", format!("this is no ticket: one has {DIGITS} hexadecimal digits")));
        }
        let (instance, credential) = self.own.clone().unzip();
        names.verify(cx, VerifyRequest { ticket: Secret(ticket.to_owned()), instance, credential }).await
    }
}

#[cfg(test)]
mod tests;
