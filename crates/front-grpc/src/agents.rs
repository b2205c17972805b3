//! `Agents`: the stream of a host's agent. Frames hold JSON, because their content follows the server's version and
//! not that of the published interface.

use std::sync::Arc;

use byname_api::agent::Report;
use byname_api::{Error, NameService, Result, proto};
use futures_util::future::ready;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::call::context;
use crate::generated::agents_server::Agents;
use crate::status::status;

pub(crate) struct Front(pub(crate) Arc<dyn NameService>);

#[tonic::async_trait]
impl Agents for Front {
    type ConnectStream = BoxStream<'static, Result<proto::AgentFrame, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<proto::AgentFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let cx = context(&request)?;
        let reports = reports(request.into_inner()).boxed();
        let orders = self.0.attach_agent(&cx, reports).await.map_err(|error| status(&error))?;
        let frames = orders.map(|order| match serde_json::to_vec(&order) {
            Ok(json) => Ok(proto::AgentFrame { json: json.into() }),
            Err(error) => Err(status(&Error::internal(format!("an order has no JSON form: {error}")))),
        });
        Ok(Response::new(frames.boxed()))
    }
}

/// The agent's reports. The stream ends with the connection, and at the first frame that does not read: the agent
/// connects again and tells everything anew.
fn reports(frames: Streaming<proto::AgentFrame>) -> impl Stream<Item = Report> {
    frames.scan((), |(), frame| {
        ready(match frame {
            Ok(frame) => match serde_json::from_slice(&frame.json) {
                Ok(report) => Some(report),
                Err(error) => {
                    tracing::warn!(%error, "an agent's stream is given up: a report does not read");
                    None
                }
            },
            Err(status) => {
                tracing::info!(reason = status.message(), "an agent's stream broke");
                None
            }
        })
    })
}
