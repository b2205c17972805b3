//! `Names`: look up, list, change.

use std::sync::Arc;

use byname_api::request::{self, BatchRequest, Context, Op};
use byname_api::{Error, NameService, Result, proto};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use crate::call::{close, open, patience};
use crate::generated::names_server::Names;
use crate::status::status;

pub(crate) struct Front(pub(crate) Arc<dyn NameService>);

impl Front {
    /// A batch of one.
    async fn change(&self, cx: &Context, op: Op) -> Result<request::OpResult> {
        let reply = self.0.batch(cx, BatchRequest::of(op)).await?;
        let result = reply.results.into_iter().next();
        result.ok_or_else(|| Error::internal("a batch of one change was answered without a result"))
    }
}

#[tonic::async_trait]
impl Names for Front {
    async fn find(&self, request: Request<proto::FindRequest>) -> Result<Response<proto::FindReply>, Status> {
        let patience = patience(request.metadata());
        let (cx, mut asked) = open::<_, request::FindRequest>(request)?;
        asked.timeout = asked.timeout.or(patience);
        close(self.0.find(&cx, asked).await)
    }

    async fn read(&self, request: Request<proto::ReadRequest>) -> Result<Response<proto::ReadReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.read(&cx, asked).await)
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Result<Response<proto::ListReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.list(&cx, asked).await)
    }

    async fn add(&self, request: Request<proto::AddRequest>) -> Result<Response<proto::OpResult>, Status> {
        let (cx, op) = open(request)?;
        close(self.change(&cx, op).await)
    }

    async fn modify(&self, request: Request<proto::ModifyRequest>) -> Result<Response<proto::OpResult>, Status> {
        let (cx, op) = open(request)?;
        close(self.change(&cx, op).await)
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::OpResult>, Status> {
        let (cx, op) = open(request)?;
        close(self.change(&cx, op).await)
    }

    async fn search(&self, request: Request<proto::SearchRequest>) -> Result<Response<proto::SearchReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.search(&cx, asked).await)
    }

    type WatchStream = BoxStream<'static, Result<proto::WatchReply, Status>>;

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (cx, asked) = open(request)?;
        let messages = self.0.watch(&cx, asked).await.map_err(|error| status(&error))?;
        let messages = messages.map(|message| match message {
            Ok(message) => Ok(message.into()),
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn lock(&self, request: Request<proto::LockRequest>) -> Result<Response<proto::LockReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.lock(&cx, asked).await)
    }

    async fn unlock(&self, request: Request<proto::UnlockRequest>) -> Result<Response<proto::UnlockReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.unlock(&cx, asked).await)
    }

    async fn batch(&self, request: Request<proto::BatchRequest>) -> Result<Response<proto::BatchReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.batch(&cx, asked).await)
    }
}
