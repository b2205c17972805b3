//! One call: to whom, how long, how often.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use byname_api::caller::PASSED_ON;
use byname_api::error::NO_PRIMARY;
use byname_api::proto::REQUEST_ID_METADATA;
use byname_api::request::RequestId;
use byname_api::{Code, Error, Result};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::address::Address;
use crate::link::Link;
use crate::servers::Servers;
use crate::status::Failure;

/// The pause before the second round over the servers; doubled for each further one, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a connection to a server may take while there are others to ask.
const CONNECT_TRY: Duration = Duration::from_secs(1);

/// How a call is made.
pub(crate) struct Plan {
    /// The whole call, retries included, takes no longer.
    pub(crate) bound: Duration,
    /// So long one server may take, while there are others to ask.
    pub(crate) attempt: Option<Duration>,
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
    /// Asks the servers in turn until one answers.
    ///
    /// The next one is asked at once when a server cannot be reached, when its connection breaks, when it does not answer
    /// in time, and when it says that it has no primary. Only after all of them were asked there is a pause before the
    /// next round, as long as the clerk's patience lasts. When none can be reached at all, the call ends at once.
    pub(crate) async fn call<M, R, F>(
        &self,
        plan: &Plan,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<(R, Arc<Link>)>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + plan.bound;
        let mut give_up = None;
        let mut pause = FIRST_PAUSE;
        // A write may have been made by a server that did not say so.
        let mut doubt = false;
        loop {
            let mut tried = Vec::new();
            let mut refused = None;
            let links = self.in_turn(plan.write.is_some()).await?;
            for (index, link) in links.iter().enumerate() {
                let others = index + 1 < links.len();
                let connecting = if others { deadline.min(Instant::now() + CONNECT_TRY) } else { deadline };
                let connection = match timeout_at(connecting, link.connection()).await {
                    Ok(Ok(connection)) => connection,
                    Ok(Err(why)) => {
                        self.failed(link);
                        tried.push((link.clone(), why));
                        continue;
                    }
                    Err(_) if connecting < deadline => {
                        self.failed(link);
                        tried.push((link.clone(), format!("no answer within {CONNECT_TRY:?}")));
                        continue;
                    }
                    Err(_) => {
                        self.failed(link);
                        self.reached(false);
                        return Err(late(link, plan));
                    }
                };
                let attempt = plan.attempt.filter(|_| others && !plan.once);
                let until = attempt.map_or(deadline, |bound| deadline.min(Instant::now() + bound));
                let request = self.request(link, plan, deadline, message.clone());
                let failure = match timeout_at(until, send(connection.channel.clone(), request)).await {
                    Ok(Ok(response)) => {
                        self.answered(link, plan.write.is_some());
                        return Ok((response.into_inner(), link.clone()));
                    }
                    Ok(Err(status)) => Failure::from(status),
                    Err(_) => Failure::Late,
                };
                match failure {
                    Failure::Answer(error) if error.code() == Code::Unavailable && !plan.once => {
                        // One that has lost its primary is asked again, and last; others may have one.
                        if error.at_field() == Some(NO_PRIMARY) {
                            self.failed(link);
                            give_up.get_or_insert_with(|| Instant::now() + self.patience);
                        }
                        refused = Some(error);
                    }
                    Failure::Answer(error) => {
                        self.answered(link, plan.write.is_some());
                        return Err(error);
                    }
                    Failure::Late if until < deadline => {
                        self.failed(link);
                        doubt = true;
                        give_up.get_or_insert_with(|| Instant::now() + self.patience);
                        tried.push((link.clone(), "no answer in time".to_owned()));
                    }
                    Failure::Late => {
                        self.failed(link);
                        self.reached(false);
                        return Err(late(link, plan));
                    }
                    Failure::Broken(why) => {
                        link.forget(&connection).await;
                        self.failed(link);
                        if plan.once {
                            return Err(broken_once(link, &why));
                        }
                        doubt = true;
                        give_up.get_or_insert_with(|| Instant::now() + self.patience);
                        tried.push((link.clone(), why));
                    }
                }
            }
            // Jitter keeps the many clerks of a cluster apart.
            let next = Instant::now() + pause.mul_f64(rand::random_range(0.75..1.25));
            match (give_up, refused) {
                (Some(end), _) if next < end.min(deadline) => sleep_until(next).await,
                (_, Some(error)) => {
                    self.reached(true);
                    return Err(error);
                }
                _ => {
                    self.reached(false);
                    return Err(unreachable(&tried, doubt && plan.write.is_some()));
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection of its own to the first server that can be reached, the primary before others.
    pub(crate) async fn dial(&self) -> Result<(Channel, Arc<Link>)> {
        let mut tried = Vec::new();
        for link in self.in_turn(true).await? {
            match link.dial().await {
                Ok(channel) => return Ok((channel, link)),
                Err(why) => {
                    self.failed(&link);
                    tried.push((link, why));
                }
            }
        }
        Err(unreachable(&tried, false))
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
        if let Some(caller) = crate::behalf::header().and_then(|caller| MetadataValue::try_from(caller).ok()) {
            request.metadata_mut().insert(PASSED_ON, caller);
        }
        if let Some(id) = plan.write.and_then(|id| MetadataValue::try_from(id.to_string()).ok()) {
            request.metadata_mut().insert(REQUEST_ID_METADATA, id);
        }
        request
    }
}

fn late(link: &Link, plan: &Plan) -> Error {
    let doubt = if plan.write.is_some() { "; the change may have been made all the same" } else { "" };
    Error::new(Code::Timeout, format!("{link} did not answer within {:?}{doubt}", plan.bound))
}

fn unreachable(tried: &[(Arc<Link>, String)], doubt: bool) -> Error {
    let doubt = if doubt { "; the change may have been made, and can be asked for again" } else { "" };
    // What goes wrong with TLS has its own advice, and a server elsewhere is not started here.
    let all_https = tried.iter().all(|(link, _)| matches!(link.address, Address::Https(_)));
    let advice = if all_https { "" } else { ". Is the server running? Start one with `byname dev`" };
    let tried: Vec<String> = tried.iter().map(|(link, why)| format!("{link} ({why})")).collect();
    Error::new(Code::Unavailable, format!("no server answers: tried {}{doubt}{advice}", tried.join(", ")))
}

fn broken_once(link: &Link, why: &str) -> Error {
    Error::new(Code::Unavailable, format!("the connection to {link} broke before the answer came: {why}. Begin anew"))
}

/// What a stream that broke off says.
pub(crate) fn broke_off(address: &str, status: Status) -> Error {
    match Failure::from(status) {
        Failure::Answer(error) => error,
        Failure::Late => Error::new(Code::Timeout, format!("{address} did not answer in time")),
        Failure::Broken(why) => Error::new(Code::Unavailable, format!("the connection to {address} broke: {why}")),
    }
}
