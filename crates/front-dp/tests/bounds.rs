//! What peers may hold, and what becomes of those who hold too much.

use std::sync::Arc;
use std::time::Duration;

use byname_api::caller::Gate;
use byname_api::error::{Code, Error, Result};
use byname_api::request::*;
use byname_api::{NameService, agent};
use byname_front_dp::{Front, Limits, Pairs, Vouched};
use byname_name::Name;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A tree in which one service is found again and again: without an end, or beneath `/long` as often as just fits a frame.
struct Endless;

fn nothing<T>() -> Result<T> {
    Err(Error::new(Code::NotFound, "there is nothing"))
}

#[async_trait::async_trait]
impl NameService for Endless {
    async fn find(&self, _: &Context, _: FindRequest) -> Result<FindReply> {
        nothing()
    }
    async fn read(&self, _: &Context, _: ReadRequest) -> Result<ReadReply> {
        nothing()
    }
    async fn list(&self, _: &Context, _: ListRequest) -> Result<ListReply> {
        nothing()
    }
    async fn status(&self, _: &Context, _: ListRequest) -> Result<StatusReply> {
        nothing()
    }
    async fn act(&self, _: &Context, _: ActRequest) -> Result<ActReply> {
        nothing()
    }
    async fn why(&self, _: &Context, _: Name) -> Result<WhyReply> {
        nothing()
    }
    async fn batch(&self, _: &Context, _: BatchRequest) -> Result<BatchReply> {
        nothing()
    }
    async fn advertise(&self, _: &Context, _: AdvertiseRequest) -> Result<AdvertiseReply> {
        nothing()
    }
    async fn withdraw(&self, _: &Context, _: WithdrawRequest) -> Result<WithdrawReply> {
        nothing()
    }
    async fn logs(&self, _: &Context, _: LogsRequest) -> Result<BoxStream<'static, Result<bytes::Bytes>>> {
        nothing()
    }
    async fn info(&self, _: &Context) -> Result<ServerInfo> {
        nothing()
    }
    async fn search(&self, _: &Context, request: SearchRequest) -> Result<SearchReply> {
        let object = serde_json::json!({
            "name": format!("/long/{}", ["x".repeat(60), "y".repeat(60)].join("/")), "id": "o1", "version": "v1", "kind": "service",
            "created": {"at": "2026-01-01T00:00:00Z", "by": "byname"}, "modified": {"at": "2026-01-01T00:00:00Z", "by": "byname"},
            "status": {"name": "/x", "state": "stopped", "instances": [], "starts": 0, "failures": 0},
        });
        let object = serde_json::from_value(object).unwrap();
        if request.under.as_str() == "/long" {
            return Ok(SearchReply { objects: vec![object; 7_000], next: None, fresh: Fresh::default() });
        }
        let objects = vec![object; request.limit.unwrap_or(1) as usize];
        Ok(SearchReply { objects, next: Some("/x".into()), fresh: Fresh::default() })
    }
    async fn attach_agent(
        &self,
        _: &Context,
        _: BoxStream<'static, agent::Report>,
    ) -> Result<BoxStream<'static, agent::Order>> {
        nothing()
    }
}

impl Pairs for Endless {
    fn pair(&self, _: &Context, _: &Name) -> Result<Option<Vouched>> {
        Ok(None)
    }
}

/// A front end with these bounds; it stops when the sender goes.
async fn front(limits: Limits) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let front = Front::with(limits, Arc::new(Endless), Gate::new("token"), Arc::new(Endless), false);
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(byname_front_dp::serve(listener, front, async {
        let _ = stopped.await;
    }));
    (address, stop, serving)
}

async fn all_of(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

async fn greeted(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 20];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"Connection accepted\n");
    stream
}

/// Waits until somebody who connects is let in.
async fn a_place_is_free(address: std::net::SocketAddr) {
    loop {
        let mut next = TcpStream::connect(address).await.unwrap();
        let mut beginning = [0; 12];
        next.read_exact(&mut beginning).await.unwrap();
        if &beginning == b"Connection a" {
            return;
        }
    }
}

const ALIVE: &[u8] = b"    30 e      0 ns_AreYouAlive";

async fn is_answered(stream: &mut TcpStream) {
    stream.write_all(ALIVE).await.unwrap();
    let mut answer = [0; 17];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"    17 r      0 1");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_a_place_that_is_left_is_taken() {
    let (address, _stop, _) = front(Limits { connections: 2, ..Limits::default() }).await;
    let (first, mut second) = (greeted(address).await, greeted(address).await);
    let mut third = TcpStream::connect(address).await.unwrap();
    assert_eq!(all_of(&mut third).await, "Connection refused: there are too many connections\n");
    is_answered(&mut second).await;
    drop(first);
    a_place_is_free(address).await;
}

#[tokio::test]
async fn who_does_not_finish_a_frame_is_disconnected_and_who_is_silent_is_not() {
    let (address, _stop, _) = front(Limits { patience: Duration::from_millis(50), ..Limits::default() }).await;
    let (mut half, mut silent) = (greeted(address).await, greeted(address).await);
    half.write_all(b"999999 e      0 ns_ListServices ").await.unwrap();
    assert_eq!(all_of(&mut half).await, "");
    is_answered(&mut silent).await;
}

#[tokio::test]
async fn long_frames_wait_for_each_other_and_short_ones_for_nobody() {
    let limits = Limits { long: 1, ..Limits::default() };
    let (address, _stop, _) = front(limits).await;
    let (mut long, mut short) = (greeted(address).await, greeted(address).await);
    let frame = [b"200000 e      0 ".as_slice(), &vec![b'a'; 200_000 - 16]].concat();
    long.write_all(&frame[..150_000]).await.unwrap();
    is_answered(&mut short).await;
    long.write_all(&frame[150_000..]).await.unwrap();
    let mut token = [0; 8];
    long.read_exact(&mut token).await.unwrap();
    assert_eq!(token[7], b'x');
    is_answered(&mut short).await;
}

#[tokio::test]
async fn who_does_not_read_is_disconnected_and_holds_nobody_up() {
    let limits = Limits { connections: 2, working: 1, patience: Duration::from_millis(100), ..Limits::default() };
    let (address, _stop, _) = front(limits).await;
    let mut deaf = greeted(address).await;
    let mut other = greeted(address).await;
    // More answers than the kernel keeps for somebody who does not read.
    const QUESTIONS: usize = 64;
    let question = b"    39 e      0 ns_ListServices /long/*";
    deaf.write_all(&question.repeat(QUESTIONS)).await.unwrap();
    is_answered(&mut other).await;
    // Its place is free, so it was disconnected; what the kernel kept of its answers is there.
    a_place_is_free(address).await;
    let mut answers = Vec::new();
    let _ = deaf.read_to_end(&mut answers).await;
    assert!(answers.len() > 16 && answers.len() < QUESTIONS * 800_000, "{}", answers.len());
    is_answered(&mut other).await;
}

#[tokio::test]
async fn what_is_refused_is_told_in_few_words_however_long_the_question() {
    let (address, _stop, _) = front(Limits::default()).await;
    let mut peer = greeted(address).await;
    let message = format!("ns_Register info {}", "x".repeat(900_000));
    peer.write_all(format!("{:>6} e      0 {message}", message.len() + 16).as_bytes()).await.unwrap();
    let mut header = [0; 16];
    peer.read_exact(&mut header).await.unwrap();
    assert_eq!(header[7], b'x');
    let length: usize = std::str::from_utf8(&header[..6]).unwrap().trim().parse().unwrap();
    assert!(length < 20_000, "{length}");
}

#[tokio::test]
async fn a_pattern_that_matches_more_than_a_frame_holds_is_refused_and_not_collected() {
    let (address, _stop, _) = front(Limits::default()).await;
    let mut peer = greeted(address).await;
    peer.write_all(b"    33 e      0 ns_ListServices *").await.unwrap();
    let mut header = [0; 16];
    peer.read_exact(&mut header).await.unwrap();
    assert_eq!(header[7], b'x');
    let length: usize = std::str::from_utf8(&header[..6]).unwrap().trim().parse().unwrap();
    let mut message = vec![0; length - 16];
    peer.read_exact(&mut message).await.unwrap();
    assert!(String::from_utf8(message).unwrap().contains("ask with a narrower one"));
    is_answered(&mut peer).await;
}

#[tokio::test]
async fn a_front_end_that_stops_leaves_no_connection_behind() {
    let (address, stop, serving) = front(Limits::default()).await;
    let mut peer = greeted(address).await;
    is_answered(&mut peer).await;
    stop.send(()).unwrap();
    assert_eq!(all_of(&mut peer).await, "");
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
