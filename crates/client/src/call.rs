//! One call: to whom, how long, how often.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use byname_api::proto::REQUEST_ID_METADATA;
use byname_api::request::RequestId;
use byname_api::{Code, Error, Result};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::address::Address;
use crate::dial::Dial;
use crate::link::Link;
use crate::status::Failure;

/// The pause before the second round over the servers; doubled for each further one, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The servers, and which of them answered last.
pub(crate) struct Servers {
    links: Vec<Link>,
    current: AtomicUsize,
    token: Option<MetadataValue<Ascii>>,
    /// How long calls whose connection broke are tried again.
    patience: Duration,
}

/// How a call is made.
pub(crate) struct Plan {
    /// The whole call, retries included, takes no longer.
    pub(crate) bound: Duration,
    /// Tell the server the bound, so that it stops working when nobody waits any more.
    pub(crate) tell: bool,
    /// The id of a write.
    pub(crate) write: Option<RequestId>,
    /// Send it once: a connection that breaks with the request on it ends the call.
    pub(crate) once: bool,
    /// Do not show the token: an old one would be refused before the operation is looked at.
    pub(crate) stranger: bool,
}

impl Servers {
    pub(crate) fn new(
        addresses: Vec<Address>,
        token: Option<MetadataValue<Ascii>>,
        connect_timeout: Duration,
        patience: Duration,
        tls: Option<Arc<dyn Dial>>,
    ) -> Self {
        let links = addresses.into_iter().map(|address| Link::new(address, connect_timeout, tls.clone())).collect();
        Servers { links, current: AtomicUsize::new(0), token, patience }
    }

    /// Asks the servers in turn, beginning with the one that answered last, until one answers.
    ///
    /// A server that cannot be reached is passed over; when that is so for all of them, the call ends at once. A
    /// connection that breaks with the request on it starts another round, as long as the clerk's patience lasts.
    pub(crate) async fn call<M, R, F>(
        &self,
        plan: &Plan,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<(R, &Link)>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let begun = Instant::now();
        let deadline = begun + plan.bound;
        let mut give_up = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut tried = Vec::new();
            for index in self.in_turn() {
                let Some(link) = self.links.get(index) else { continue };
                let connection = match timeout_at(deadline, link.connection()).await {
                    Ok(Ok(connection)) => connection,
                    Ok(Err(why)) => {
                        tried.push((&link.address, why));
                        continue;
                    }
                    Err(_) => return Err(late(link, plan)),
                };
                let request = self.request(link, plan, deadline, message.clone());
                let answer = timeout_at(deadline, send(connection.channel.clone(), request)).await;
                let failure = match answer {
                    Ok(Ok(response)) => {
                        self.current.store(index, Ordering::Relaxed);
                        return Ok((response.into_inner(), link));
                    }
                    Ok(Err(status)) => Failure::from(status),
                    Err(_) => Failure::Late,
                };
                match failure {
                    Failure::Answer(error) => {
                        self.current.store(index, Ordering::Relaxed);
                        return Err(error);
                    }
                    Failure::Late => return Err(late(link, plan)),
                    Failure::Broken(why) => {
                        link.forget(&connection).await;
                        if plan.once {
                            return Err(broken_once(link, &why));
                        }
                        give_up.get_or_insert_with(|| Instant::now() + self.patience);
                        tried.push((&link.address, why));
                    }
                }
            }
            let next = Instant::now() + pause;
            match give_up {
                Some(end) if next < end.min(deadline) => sleep_until(next).await,
                _ => return Err(unreachable(&tried, give_up.is_some() && plan.write.is_some())),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection of its own to the first server that can be reached.
    pub(crate) async fn dial(&self) -> Result<(Channel, &Link)> {
        let mut tried = Vec::new();
        for index in self.in_turn() {
            let Some(link) = self.links.get(index) else { continue };
            match link.dial().await {
                Ok(channel) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((channel, link));
                }
                Err(why) => tried.push((&link.address, why)),
            }
        }
        Err(unreachable(&tried, false))
    }

    /// The places of the servers, that of the one that answered last in front.
    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let first = self.current.load(Ordering::Relaxed);
        (first..self.links.len()).chain(0..first)
    }

    /// The message with what goes beside it.
    pub(crate) fn request<M>(&self, link: &Link, plan: &Plan, deadline: Instant, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if plan.tell {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        if let Some(token) = self.token.as_ref().filter(|_| !plan.stranger && link.address.takes_token()) {
            request.metadata_mut().insert("authorization", token.clone());
        }
        if let Some(id) = plan.write.and_then(|id| MetadataValue::try_from(id.to_string()).ok()) {
            request.metadata_mut().insert(REQUEST_ID_METADATA, id);
        }
        request
    }
}

fn late(link: &Link, plan: &Plan) -> Error {
    let doubt = if plan.write.is_some() { "; the change may have been made all the same" } else { "" };
    Error::new(Code::Timeout, format!("{} did not answer within {:?}{doubt}", link.address, plan.bound))
}

fn unreachable(tried: &[(&Address, String)], doubt: bool) -> Error {
    let doubt = if doubt { "; the change may have been made, and can be asked for again" } else { "" };
    // What goes wrong with TLS has its own advice, and a server elsewhere is not started here.
    let all_https = tried.iter().all(|(address, _)| matches!(address, Address::Https(_)));
    let advice = if all_https { "" } else { ". Is the server running? Start one with `byname dev`" };
    let tried: Vec<String> = tried.iter().map(|(address, why)| format!("{address} ({why})")).collect();
    Error::new(Code::Unavailable, format!("no server answers: tried {}{doubt}{advice}", tried.join(", ")))
}

fn broken_once(link: &Link, why: &str) -> Error {
    Error::new(
        Code::Unavailable,
        format!("the connection to {} broke before the answer came: {why}. Begin anew", link.address),
    )
}

/// What a stream that broke off says.
pub(crate) fn broke_off(address: &Address, status: Status) -> Error {
    match Failure::from(status) {
        Failure::Answer(error) => error,
        Failure::Late => Error::new(Code::Timeout, format!("{address} did not answer in time")),
        Failure::Broken(why) => Error::new(Code::Unavailable, format!("the connection to {address} broke: {why}")),
    }
}
