//! Tests of introductions: both ends in one process, and a server that knows nothing else.

use std::collections::HashMap;
use std::sync::Mutex;

use byname_api::agent::{Order, Report};
use byname_api::caller::Caller;
use byname_api::request::*;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::*;

const CREDENTIAL: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const COPY: InstanceId = InstanceId(7);

/// A server with one service, `/db`, whose one copy is [`COPY`].
#[derive(Default)]
struct Server {
    pairs: Mutex<HashMap<String, String>>,
}

#[async_trait::async_trait]
impl NameService for Server {
    async fn introduce(&self, _: &Context, request: IntroduceRequest) -> Result<IntroduceReply> {
        let mut pairs = self.pairs.lock().unwrap();
        let ticket = format!("{:064x}", 0xa0 + pairs.len());
        let proof = format!("{:064x}", 0xb0 + pairs.len());
        pairs.insert(ticket.clone(), proof.clone());
        Ok(IntroduceReply {
            name: request.name,
            instance: COPY,
            endpoints: vec![Endpoint { protocol: "tcp".into(), address: "127.0.0.1".into(), port: 4711 }],
            ticket: Secret(ticket),
            proof: Secret(proof),
            expires: Timestamp(60_000),
        })
    }

    async fn verify(&self, _: &Context, request: VerifyRequest) -> Result<VerifyReply> {
        let refused = || Error::new(Code::Unauthenticated, "no");
        // Without a credential the connection would say who asks.
        if request.credential.as_ref().is_some_and(|shown| shown.0 != CREDENTIAL || request.instance != Some(COPY)) {
            return Err(refused());
        }
        let proof = self.pairs.lock().unwrap().remove(&request.ticket.0).ok_or_else(refused)?;
        Ok(VerifyReply { client: "/people/ann".into(), client_id: None, proof: Secret(proof) })
    }

    async fn find(&self, _: &Context, _: FindRequest) -> Result<FindReply> {
        unreachable!()
    }
    async fn read(&self, _: &Context, _: ReadRequest) -> Result<ReadReply> {
        unreachable!()
    }
    async fn list(&self, _: &Context, _: ListRequest) -> Result<ListReply> {
        unreachable!()
    }
    async fn status(&self, _: &Context, _: ListRequest) -> Result<StatusReply> {
        unreachable!()
    }
    async fn act(&self, _: &Context, _: ActRequest) -> Result<ActReply> {
        unreachable!()
    }
    async fn why(&self, _: &Context, _: Name) -> Result<WhyReply> {
        unreachable!()
    }
    async fn batch(&self, _: &Context, _: BatchRequest) -> Result<BatchReply> {
        unreachable!()
    }
    async fn advertise(&self, _: &Context, _: AdvertiseRequest) -> Result<AdvertiseReply> {
        unreachable!()
    }
    async fn withdraw(&self, _: &Context, _: WithdrawRequest) -> Result<WithdrawReply> {
        unreachable!()
    }
    async fn logs(&self, _: &Context, _: LogsRequest) -> Result<BoxStream<'static, Result<Bytes>>> {
        unreachable!()
    }
    async fn info(&self, _: &Context) -> Result<ServerInfo> {
        unreachable!()
    }
    async fn attach_agent(&self, _: &Context, _: BoxStream<'static, Report>) -> Result<BoxStream<'static, Order>> {
        unreachable!()
    }
}

fn cx() -> Context {
    Context::of(Caller::anonymous())
}

async fn introduced(server: &Server) -> Introduction {
    Introduction::to(server, &cx(), "/db".parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn both_ends_know_each_other_afterwards() {
    let server = Server::default();
    let service = Service::new(COPY, CREDENTIAL);
    let introduction = introduced(&server).await;
    assert_eq!((introduction.name().as_str(), introduction.instance()), ("/db", COPY));
    assert_eq!((introduction.endpoints()[0].port, introduction.expires()), (4711, Timestamp(60_000)));
    // As lines come: with their ends.
    let client = service.verify(&server, &cx(), &format!("{}\r\n", introduction.ticket())).await.unwrap();
    assert_eq!(client.client, "/people/ann");
    introduction.check(&format!("{}\n", client.proof.0)).unwrap();
    introduction.check(&client.proof.0.to_uppercase()).unwrap();
}

#[tokio::test]
async fn whoever_answers_with_anything_else_is_not_the_service() {
    let server = Server::default();
    let introduction = introduced(&server).await;
    let another = introduced(&server).await;
    let stolen = Service::by_connection().verify(&server, &cx(), another.ticket()).await.unwrap().proof.0;
    for answer in ["", " ", "b", introduction.ticket(), &stolen, &"0".repeat(64), &"é".repeat(32)] {
        let error = introduction.check(answer).unwrap_err();
        assert_eq!((error.code(), error.at_field()), (Code::Unauthenticated, Some("proof")), "{answer}");
        assert!(error.message().starts_with("whoever answered is not `/db`"), "{}", error.message());
    }
    // A server that sends no proof leaves nothing to check by.
    let mut reply = introduction.reply.clone();
    reply.proof = Secret(String::new());
    assert!(Introduction::from(reply).check("").is_err());
}

#[tokio::test]
async fn a_ticket_is_good_once_and_for_the_copy_that_holds_the_credential() {
    let server = Server::default();
    let introduction = introduced(&server).await;
    let other_copy = Service::new(InstanceId(8), CREDENTIAL);
    let wrong = Service::new(COPY, "d".repeat(64));
    for service in [other_copy, wrong] {
        let error = service.verify(&server, &cx(), introduction.ticket()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
    }
    let service = Service::new(COPY, CREDENTIAL);
    service.verify(&server, &cx(), introduction.ticket()).await.unwrap();
    assert!(service.verify(&server, &cx(), introduction.ticket()).await.is_err());
}

#[tokio::test]
async fn what_is_no_ticket_is_not_asked_about() {
    let server = Server::default();
    for text in ["", "abc", &"g".repeat(64), &"a".repeat(65), &"a".repeat(1 << 20), &"é".repeat(32)] {
        let error = Service::by_connection().verify(&server, &cx(), text).await.unwrap_err();
        assert_eq!((error.code(), error.at_field()), (Code::InvalidArgument, Some("ticket")));
        assert!(error.message().contains("64 hexadecimal digits"), "{}", error.message());
    }
}

#[test]
fn a_copy_is_known_by_its_first_advertise() {
    let first =
        AdvertiseReply { instance: COPY, credential: Some(CREDENTIAL.into()), proof: None, ttl_ms: Some(30_000) };
    let service = Service::advertised(&first).unwrap();
    assert_eq!(service.own, Some((COPY, Secret(CREDENTIAL.into()))));
    let error = Service::advertised(&AdvertiseReply { credential: None, ..first }).unwrap_err();
    assert_eq!((error.code(), error.at_field()), (Code::InvalidArgument, Some("credential")));
}

#[tokio::test]
async fn no_secret_is_shown() {
    let server = Server::default();
    let introduction = introduced(&server).await;
    let service = Service::new(COPY, CREDENTIAL);
    let mut shown = format!("{introduction:?} {service:?}");
    let client = service.verify(&server, &cx(), introduction.ticket()).await.unwrap();
    shown.push_str(&format!("{client:?} {:?}", introduction.check("").unwrap_err()));
    assert!(shown.contains("/db") && shown.contains("(secret)"), "{shown}");
    for secret in [introduction.ticket(), &client.proof.0, CREDENTIAL] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
