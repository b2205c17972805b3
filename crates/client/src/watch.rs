//! A watch that outlives the server it began at: it goes on at another one, from where it was.

use std::sync::Arc;
use std::time::Duration;

use byname_api::request::{WatchReply, WatchRequest};
use byname_api::{Code, Error, Result, proto};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, sleep};
use tonic::Streaming;

use crate::call::{Plan, broke_off};
use crate::clerk::names;
use crate::link::Link;
use crate::servers::Servers;

/// The pause before another server is asked that is not as far yet.
const NOT_YET: Duration = Duration::from_millis(50);

/// What `at` says before all of the initial state has come.
const BEFORE: &str = "0";

struct Watch {
    servers: Arc<Servers>,
    plan: Plan,
    request: WatchRequest,
    /// The messages as they come, and from whom.
    messages: Streaming<proto::WatchReply>,
    link: Arc<Link>,
    /// From where it goes on; none before the first point.
    at: Option<String>,
    /// Something was told before the first point: it cannot begin anew in silence.
    told: bool,
}

/// Begins a watch at the first server that answers.
pub(crate) async fn begin(
    servers: Arc<Servers>,
    plan: Plan,
    request: WatchRequest,
) -> Result<BoxStream<'static, Result<WatchReply>>> {
    let (messages, link) = ask(&servers, &plan, request.clone()).await?;
    let watch = Watch { servers, plan, request, messages, link, at: None, told: false };
    Ok(stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        match watch.next().await {
            Some(Ok(message)) => Some((Ok(message), Some(watch))),
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    })
    .boxed())
}

async fn ask(
    servers: &Servers,
    plan: &Plan,
    request: WatchRequest,
) -> Result<(Streaming<proto::WatchReply>, Arc<Link>)> {
    let message = proto::WatchRequest::from(request);
    servers.call(plan, message, |channel, request| async { names(channel).watch(request).await }).await
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchReply>> {
        loop {
            let error = match self.messages.next().await {
                Some(Ok(message)) => return Some(self.take(message)),
                Some(Err(status)) => broke_off(&self.link.to_string(), status),
                None => return None,
            };
            // What the server says of the watch itself is for whoever watches.
            if error.code() != Code::Unavailable || (self.at.is_none() && self.told) {
                return Some(Err(error));
            }
            self.servers.failed(&self.link);
            if let Err(error) = self.go_on().await {
                return Some(Err(error));
            }
            tracing::debug!(server = %self.link, "a watch goes on at another server");
        }
    }

    fn take(&mut self, message: proto::WatchReply) -> Result<WatchReply> {
        let read = WatchReply::try_from(message)
            .map_err(|error| Error::internal(format!("a message of {} does not read: {error}", self.link)))?;
        if read.at == BEFORE {
            self.told |= !read.events.is_empty();
        } else {
            self.at = Some(read.at.clone());
        }
        Ok(read)
    }

    /// Goes on where it broke off, at whichever server is as far as that.
    async fn go_on(&mut self) -> Result<()> {
        let request = match &self.at {
            Some(at) => WatchRequest { from: Some(at.clone()), initial: false, ..self.request.clone() },
            None => self.request.clone(),
        };
        let give_up = Instant::now() + self.servers.patience;
        loop {
            match ask(&self.servers, &self.plan, request.clone()).await {
                Ok((messages, link)) => {
                    (self.messages, self.link) = (messages, link);
                    return Ok(());
                }
                // It does not know that point: it is behind, or has forgotten it. The first passes.
                Err(error) if error.code() == Code::Conflict && Instant::now() < give_up => sleep(NOT_YET).await,
                Err(error) => return Err(error),
            }
        }
    }
}
