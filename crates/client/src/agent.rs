//! The frames of an agent's stream: JSON, because their content follows the server's version.

use std::pin::Pin;
use std::task::{Context, Poll};

use byname_api::agent::{Order, Report};
use byname_api::proto::AgentFrame;
use futures_util::future::ready;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tonic::Streaming;

use crate::call::broke_off;

/// A stream with a name: for a boxed one the compiler cannot prove that the call which sends it may change threads.
pub(crate) struct Frames(BoxStream<'static, AgentFrame>);

impl Stream for Frames {
    type Item = AgentFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AgentFrame>> {
        self.0.poll_next_unpin(cx)
    }
}

/// Reports on their way up.
pub(crate) fn frames(reports: BoxStream<'static, Report>) -> Frames {
    let frames = reports.filter_map(|report| {
        ready(match serde_json::to_vec(&report) {
            Ok(json) => Some(AgentFrame { json: json.into() }),
            Err(error) => {
                tracing::error!(%error, "a report has no JSON form and is not sent");
                None
            }
        })
    });
    Frames(frames.boxed())
}

/// Orders coming down. The stream ends with the connection, and at the first frame that does not read: the agent
/// connects again and is told everything anew.
pub(crate) fn orders(frames: Streaming<AgentFrame>, server: String) -> BoxStream<'static, Order> {
    let orders = frames.scan((), move |(), frame| {
        ready(match frame {
            Ok(frame) => match serde_json::from_slice(&frame.json) {
                Ok(order) => Some(order),
                Err(error) => {
                    tracing::warn!(%error, %server, "the server's stream is given up: an order does not read");
                    None
                }
            },
            Err(status) => {
                let error = broke_off(&server, status);
                tracing::info!(reason = error.message(), "the server's stream broke");
                None
            }
        })
    });
    orders.boxed()
}
