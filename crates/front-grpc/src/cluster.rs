//! `Cluster`: the server about itself.

use std::sync::Arc;

use byname_api::{NameService, Result, proto};
use tonic::{Request, Response, Status};

use crate::call::{close, context};
use crate::generated::cluster_server::Cluster;

pub(crate) struct Front(pub(crate) Arc<dyn NameService>);

#[tonic::async_trait]
impl Cluster for Front {
    async fn info(&self, request: Request<proto::InfoRequest>) -> Result<Response<proto::ServerInfo>, Status> {
        let cx = context(&request)?;
        close(self.0.info(&cx).await)
    }
}
