//! `Services`: what runs.

use std::sync::Arc;

use byname_api::request::{self, Verb};
use byname_api::{NameService, Result, proto};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use crate::call::{close, context, open, patience};
use crate::generated::services_server::Services;
use crate::status::status;

pub(crate) struct Front(pub(crate) Arc<dyn NameService>);

impl Front {
    async fn act(&self, verb: Verb, request: Request<proto::ActRequest>) -> Result<Response<proto::ActReply>, Status> {
        let cx = context(&request)?;
        let patience = patience(request.metadata());
        let mut asked = proto::act_request(verb, request.into_inner()).map_err(|error| status(&error))?;
        asked.timeout = asked.timeout.or(patience);
        close(self.0.act(&cx, asked).await)
    }
}

#[tonic::async_trait]
impl Services for Front {
    async fn status(&self, request: Request<proto::ListRequest>) -> Result<Response<proto::StatusReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.status(&cx, asked).await)
    }

    async fn launch(&self, request: Request<proto::ActRequest>) -> Result<Response<proto::ActReply>, Status> {
        self.act(Verb::Launch, request).await
    }

    async fn stop(&self, request: Request<proto::ActRequest>) -> Result<Response<proto::ActReply>, Status> {
        self.act(Verb::Stop, request).await
    }

    async fn restart(&self, request: Request<proto::ActRequest>) -> Result<Response<proto::ActReply>, Status> {
        self.act(Verb::Restart, request).await
    }

    async fn reset(&self, request: Request<proto::ActRequest>) -> Result<Response<proto::ActReply>, Status> {
        self.act(Verb::Reset, request).await
    }

    async fn why(&self, request: Request<proto::WhyRequest>) -> Result<Response<proto::WhyReply>, Status> {
        let (cx, name) = open(request)?;
        close(self.0.why(&cx, name).await)
    }

    async fn advertise(
        &self,
        request: Request<proto::AdvertiseRequest>,
    ) -> Result<Response<proto::AdvertiseReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.advertise(&cx, asked).await)
    }

    async fn withdraw(
        &self,
        request: Request<proto::WithdrawRequest>,
    ) -> Result<Response<proto::WithdrawReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.withdraw(&cx, asked).await)
    }

    async fn report(&self, request: Request<proto::ReportRequest>) -> Result<Response<proto::ReportReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.report(&cx, asked).await)
    }

    async fn drain(&self, request: Request<proto::DrainRequest>) -> Result<Response<proto::DrainReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.drain_host(&cx, asked).await)
    }

    async fn report_failure(
        &self,
        request: Request<proto::ReportFailureRequest>,
    ) -> Result<Response<proto::FindReply>, Status> {
        let patience = patience(request.metadata());
        let (cx, mut asked) = open::<_, request::FindRequest>(request)?;
        asked.timeout = asked.timeout.or(patience);
        close(self.0.find(&cx, asked).await)
    }

    type LogsStream = BoxStream<'static, Result<proto::LogChunk, Status>>;

    async fn logs(&self, request: Request<proto::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let (cx, asked) = open(request)?;
        let pieces = self.0.logs(&cx, asked).await.map_err(|error| status(&error))?;
        let chunks = pieces.map(|piece| match piece {
            Ok(bytes) => Ok(proto::LogChunk { bytes }),
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(chunks.boxed()))
    }
}
