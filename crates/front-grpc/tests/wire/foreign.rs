//! Clients that are not ours: what any gRPC library or grpcurl sees.

use std::time::Duration;

use byname_api::proto;
use byname_api::request::RequestId;
use futures_util::{StreamExt, stream};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::{v1, v1alpha};

use crate::fake::{Fake, Server, admitted, full};

async fn served() -> (Server, Channel) {
    let server = Server::tcp(admitted(std::sync::Arc::new(Fake::default()), full())).await;
    let channel = Endpoint::from_shared(server.address.clone()).unwrap().connect().await.unwrap();
    (server, channel)
}

async fn call<M, R>(channel: Channel, path: &'static str, request: Request<M>) -> Result<Response<R>, Status>
where
    M: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default()).await
}

fn seen(status: &Status) -> (Code, Option<&str>, Option<&str>) {
    let text = |key| status.metadata().get(key).map(|value| value.to_str().unwrap());
    (status.code(), text("byname-code"), text("byname-field"))
}

fn find(name: &str) -> Request<proto::FindRequest> {
    Request::new(proto::FindRequest { name: name.into(), ..Default::default() })
}

const FIND: &str = "/byname.v1.Names/Find";

#[tokio::test]
async fn an_error_has_a_status_a_code_and_a_field() {
    let (_server, channel) = served().await;
    let asked = async |name| call::<_, proto::FindReply>(channel.clone(), FIND, find(name)).await.unwrap_err();
    assert_eq!(seen(&asked("/missing").await), (Code::NotFound, Some("not-found"), Some("n%C3%A4me%20%25")));
    assert_eq!(seen(&asked("").await), (Code::InvalidArgument, Some("invalid-name"), Some("name")));
    assert_eq!(seen(&asked("/broken").await), (Code::Internal, Some("internal"), None));
}

#[tokio::test]
async fn what_the_library_refuses_has_a_code_too() {
    let (_server, channel) = served().await;
    let status = call::<_, proto::FindReply>(channel.clone(), "/byname.v1.Names/Lose", find("/a")).await.unwrap_err();
    assert_eq!(seen(&status), (Code::FailedPrecondition, Some("unsupported"), None));
    // A text that is not UTF-8 where a name should be.
    let garbage = Request::new(proto::AgentFrame { json: vec![0xff, 0xfe].into() });
    let status = call::<_, proto::FindReply>(channel.clone(), FIND, garbage).await.unwrap_err();
    assert_eq!(seen(&status), (Code::InvalidArgument, Some("invalid-argument"), None));
    let status = call::<_, proto::FindReply>(channel.clone(), FIND, find(&"x".repeat(5 << 20))).await.unwrap_err();
    assert_eq!(seen(&status), (Code::ResourceExhausted, Some("too-large"), None));
    // Whoever signs in is not known yet, and gets less room.
    let finish = proto::login_request::PasskeyFinish { credential: "x".repeat(65 << 10), ..Default::default() };
    let login = proto::LoginRequest { step: Some(proto::login_request::Step::PasskeyFinish(finish)) };
    let path = "/byname.v1.Identity/Login";
    let status = call::<_, proto::LoginReply>(channel, path, Request::new(login)).await.unwrap_err();
    assert_eq!(seen(&status), (Code::ResourceExhausted, Some("too-large"), None));
}

#[tokio::test]
async fn the_deadline_is_the_wait_when_the_request_has_none() {
    let (_server, channel) = served().await;
    let mut request = find("/a");
    request.set_timeout(Duration::from_secs(10));
    let reply: proto::FindReply = call(channel.clone(), FIND, request).await.unwrap().into_inner();
    assert_eq!(reply.value.as_deref(), Some("9s900ms"));

    let mut request = find("/a");
    request.get_mut().timeout_ms = Some(2_000);
    request.set_timeout(Duration::from_secs(10));
    let reply: proto::FindReply = call(channel, FIND, request).await.unwrap().into_inner();
    assert_eq!(reply.value.as_deref(), Some("2s"));
}

#[tokio::test]
async fn a_request_id_is_read_or_refused() {
    let (_server, channel) = served().await;
    let add = |id: &str| {
        let mut request = Request::new(proto::AddRequest { name: "/a".into(), spec: None });
        request.metadata_mut().insert("byname-request-id", id.parse().unwrap());
        call::<_, proto::OpResult>(channel.clone(), "/byname.v1.Names/Add", request)
    };
    let result = add(&RequestId { session: 1, sequence: 2 }.to_string()).await.unwrap().into_inner();
    assert_eq!((result.name.as_str(), result.outcome), ("/a", proto::Outcome::Created.into()));
    let status = add("7").await.unwrap_err();
    assert_eq!(seen(&status), (Code::InvalidArgument, Some("invalid-argument"), Some("byname-request-id")));
}

#[tokio::test]
async fn a_single_change_and_a_reported_failure_are_shorthand() {
    let (_server, channel) = served().await;
    let request = Request::new(proto::DeleteRequest { name: "/a".into(), ..Default::default() });
    let result: proto::OpResult = call(channel.clone(), "/byname.v1.Names/Delete", request).await.unwrap().into_inner();
    assert_eq!(result.outcome, i32::from(proto::Outcome::Deleted));
    let request = Request::new(proto::ModifyRequest { name: "/a".into(), ..Default::default() });
    let result: proto::OpResult = call(channel.clone(), "/byname.v1.Names/Modify", request).await.unwrap().into_inner();
    assert_eq!(result.name, "/a");
    let request = proto::ReportFailureRequest { name: "/a".into(), instance: "i7".into(), timeout_ms: Some(1_000) };
    let path = "/byname.v1.Services/ReportFailure";
    let reply: proto::FindReply = call(channel, path, Request::new(request)).await.unwrap().into_inner();
    assert_eq!((reply.value.as_deref(), reply.started), (Some("1s"), true));
}

#[tokio::test]
async fn every_service_is_healthy() {
    let (_server, channel) = served().await;
    let mut health = HealthClient::new(channel);
    for service in
        ["", "byname.v1.Names", "byname.v1.Services", "byname.v1.Cluster", "byname.v1.Identity", "byname.v1.Audit"]
    {
        let reply = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(reply.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "byname.v1.Other".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let (_server, channel) = served().await;
    macro_rules! listed {
        ($version:ident) => {{
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let list = MessageRequest::ListServices(String::new());
            let request = $version::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
            let mut client = $version::server_reflection_client::ServerReflectionClient::new(channel.clone());
            let answers = client.server_reflection_info(stream::iter([request])).await.unwrap();
            let answer = answers.into_inner().next().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("{:?}", answer.message_response)
            };
            list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }};
    }
    for names in [listed!(v1), listed!(v1alpha)] {
        for service in [
            "byname.v1.Names",
            "byname.v1.Cluster",
            "byname.v1.Identity",
            "byname.v1.Audit",
            "byname.v1.Agents",
            "grpc.health.v1.Health",
        ] {
            assert!(names.iter().any(|name| name == service), "{service} is not in {names:?}");
        }
    }
}
