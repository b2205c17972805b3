//! `logs`: what a service's programs wrote, from the agent that keeps it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};

use byname_api::agent::Order;
use byname_api::caller::{Caller, Right, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::request::{Context, LogsRequest};
use byname_name::Name;
use byname_registry::{access, query};

use crate::Inner;

impl Inner {
    pub(crate) async fn logs(
        self: &Arc<Self>,
        cx: &Context,
        request: LogsRequest,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        // What a program writes may be private to its operators.
        self.authorise(&cx.caller, Right::Launch, &request.name)?;
        let node = query::service_named(&self.view.load(), &request.name)?;
        let last = node.service.iter().flat_map(|s| &s.instances).rev().find_map(|i| i.computer.clone());
        let computer = last.or_else(|| self.agents.computers().into_iter().next()).ok_or_else(|| {
            Error::new(Code::NoHost, "no agent is connected, and the logs are kept by the agents of the hosts")
        })?;
        let (LogsRequest { tail, follow, .. }, service) = (request, node.id.0);
        let read = self.agents.read_log(&computer, |request| Order::Logs { request, service, tail, follow });
        let Some((request, pieces)) = read else {
            return Err(Error::new(
                Code::Unavailable,
                format!("the agent of `{computer}`, which keeps the log, is not connected"),
            ));
        };
        let (caller, service) = (cx.caller.clone(), node.name.clone());
        let reader = Reader { inner: self.clone(), computer, request, pieces, caller, service };
        let stream = futures_util::stream::unfold(reader, |mut reader| async move {
            loop {
                if !reader.may_go_on() {
                    return None;
                }
                // A log that says nothing is left, too, by whoever may not read it any more.
                match tokio::time::timeout(LOOK_AGAIN, reader.pieces.recv()).await {
                    Ok(piece) => return piece.map(|piece| (piece, reader)),
                    Err(_) => continue,
                }
            }
        });
        Ok(stream.boxed())
    }
}

/// Tells the agent when its reader has gone.
struct Reader {
    inner: Arc<Inner>,
    computer: Name,
    request: u64,
    pieces: tokio::sync::mpsc::Receiver<Result<Bytes>>,
    caller: Caller,
    service: Name,
}

/// How often the right to follow a log is looked at when nothing is written.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Reader {
    /// Whether its caller is still somebody who may read this.
    fn may_go_on(&self) -> bool {
        let tree = self.inner.view.load();
        let there = self.caller.standing != Standing::Authenticated || self.inner.is_still_there(&self.caller);
        there && access::allows(&tree, &self.inner.who(&self.caller), Right::Launch, &self.service)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.inner.agents.send(&self.computer, Order::EndLogs { request: self.request });
    }
}
