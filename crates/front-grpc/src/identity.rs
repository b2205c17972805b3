//! `Identity`: who is who.

use std::sync::Arc;

use byname_api::{NameService, Result, proto};
use tonic::{Request, Response, Status};

use crate::call::{close, context, open};
use crate::generated::identity_server::Identity;

pub(crate) struct Front(pub(crate) Arc<dyn NameService>);

#[tonic::async_trait]
impl Identity for Front {
    async fn login(&self, request: Request<proto::LoginRequest>) -> Result<Response<proto::LoginReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.login(&cx, asked).await)
    }

    async fn logout(&self, request: Request<proto::LogoutRequest>) -> Result<Response<proto::LogoutReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.logout(&cx, asked).await)
    }

    async fn whoami(&self, request: Request<proto::WhoamiRequest>) -> Result<Response<proto::WhoamiReply>, Status> {
        let cx = context(&request)?;
        close(self.0.whoami(&cx).await)
    }

    async fn enrol(&self, request: Request<proto::EnrolRequest>) -> Result<Response<proto::EnrolReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.enrol(&cx, asked).await)
    }

    async fn certify(&self, request: Request<proto::CertifyRequest>) -> Result<Response<proto::CertifyReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.certify(&cx, asked).await)
    }

    async fn trust(&self, request: Request<proto::TrustRequest>) -> Result<Response<proto::TrustReply>, Status> {
        let cx = context(&request)?;
        close(self.0.trust(&cx).await)
    }

    async fn introduce(
        &self,
        request: Request<proto::IntroduceRequest>,
    ) -> Result<Response<proto::IntroduceReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.introduce(&cx, asked).await)
    }

    async fn verify(&self, request: Request<proto::VerifyRequest>) -> Result<Response<proto::VerifyReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.verify(&cx, asked).await)
    }

    async fn invite(&self, request: Request<proto::InviteRequest>) -> Result<Response<proto::InviteReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.invite(&cx, asked).await)
    }

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.join(&cx, asked).await)
    }

    async fn revoke(&self, request: Request<proto::RevokeRequest>) -> Result<Response<proto::RevokeReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.revoke(&cx, asked).await)
    }

    async fn access(&self, request: Request<proto::AccessRequest>) -> Result<Response<proto::AccessReply>, Status> {
        let (cx, asked) = open(request)?;
        close(self.0.access(&cx, asked).await)
    }
}
