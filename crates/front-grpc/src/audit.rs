//! `Audit`: who did what, when, and what proved it.

use std::sync::Arc;

use byname_api::{NameService, Result, proto};
use tonic::{Request, Response, Status};

use crate::call::{close, open};
use crate::generated::audit_server::Audit;

pub(crate) struct Front(pub(crate) Arc<dyn NameService>);

#[tonic::async_trait]
impl Audit for Front {
    async fn search(&self, request: Request<proto::AuditRequest>) -> Result<Response<proto::AuditReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.audit(&cx, asked).await)
    }
}
