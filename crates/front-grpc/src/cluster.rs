//! `Cluster`: the servers about themselves.

use std::sync::Arc;

use byname_api::{NameService, Result, proto};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use crate::call::{close, context, open};
use crate::generated::cluster_server::Cluster;
use crate::status::status;

pub(crate) struct Front(pub(crate) Arc<dyn NameService>);

#[tonic::async_trait]
impl Cluster for Front {
    async fn info(&self, request: Request<proto::InfoRequest>) -> Result<Response<proto::ServerInfo>, Status> {
        let cx = context(&request)?;
        close(self.0.info(&cx).await)
    }

    async fn change_servers(
        &self,
        request: Request<proto::ChangeServersRequest>,
    ) -> Result<Response<proto::ServerInfo>, Status> {
        let (cx, change) = open(request)?;
        close(self.0.change_servers(&cx, change).await)
    }

    type BackupStream = BoxStream<'static, Result<proto::BackupPiece, Status>>;

    async fn backup(&self, request: Request<proto::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let cx = context(&request)?;
        let pieces = self.0.backup(&cx).await.map_err(|error| status(&error))?;
        let pieces = pieces.map(|piece| match piece {
            Ok(bytes) => Ok(proto::BackupPiece { bytes }),
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(pieces.boxed()))
    }
}
