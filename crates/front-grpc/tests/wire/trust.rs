//! Encrypted addresses: whom the clerk dials, what it tells of a refusal, and where the token goes.

use std::io;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::middleware::Next;
use byname_api::identity::LoginRequest;
use byname_api::{Code, NameService};
use byname_client::{Clerk, Dial, Options, Stream};
use tokio::net::TcpStream;

use crate::fake::{Fake, Server, admitted, anyone, full};

/// Takes note of whom it is to dial, and connects to this address, or refuses.
struct Dialler {
    asked: Mutex<Vec<String>>,
    to: Result<String, String>,
}

#[async_trait::async_trait]
impl Dial for Dialler {
    async fn dial(&self, host: &str, port: u16, _: Option<std::net::IpAddr>) -> io::Result<Box<dyn Stream>> {
        self.asked.lock().unwrap().push(format!("{host} {port}"));
        match &self.to {
            Ok(address) => Ok(Box::new(TcpStream::connect(address).await?)),
            Err(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why.clone())),
        }
    }
}

fn options(dialler: &Arc<Dialler>) -> Options {
    let tls: Arc<dyn Dial> = dialler.clone();
    Options { token: Some("t".into()), tls: Some(tls), ..Options::default() }
}

#[tokio::test]
async fn the_dialler_makes_the_connection_and_the_token_goes_over_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noting = seen.clone();
    let note = move |request: Request, next: Next| {
        let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let scheme = request.uri().scheme_str().unwrap_or_default().to_owned();
        noting.lock().unwrap().push((header("authorization"), scheme, authority));
        next.run(request)
    };
    let router = admitted(Arc::new(Fake::default()), full()).layer(axum::middleware::from_fn(note));
    let server = Server::tcp(router).await;
    let to = Ok(server.address.trim_start_matches("http://").to_owned());
    let dialler = Arc::new(Dialler { asked: Mutex::default(), to });
    for (address, host) in
        [("https://names.example:7600", "names.example 7600"), ("https://[2001:db8::1]:7601", "2001:db8::1 7601")]
    {
        let clerk = Clerk::connect(address, options(&dialler)).unwrap();
        clerk.info(&anyone()).await.unwrap();
        assert_eq!(dialler.asked.lock().unwrap().last().map(String::as_str), Some(host));
        let authority = address.trim_start_matches("https://").to_owned();
        let expect = ("Bearer t".to_owned(), "https".to_owned(), authority);
        assert_eq!(seen.lock().unwrap().pop(), Some(expect.clone()));
        // An old session must not keep anybody from signing in anew.
        clerk.login(&anyone(), LoginRequest::PageStart { principal: None }).await.unwrap();
        assert_eq!(seen.lock().unwrap().pop(), Some((String::new(), expect.1, expect.2)));
    }
}

#[tokio::test]
async fn what_the_dialler_says_reaches_the_user() {
    let why = "the certificate of names.example is of another trust domain";
    let dialler = Arc::new(Dialler { asked: Mutex::default(), to: Err(why.into()) });
    let clerk = Clerk::connect("https://names.example:7600", options(&dialler)).unwrap();
    let error = clerk.info(&anyone()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.message(), format!("no server answers: tried https://names.example:7600 ({why})"));
}

#[tokio::test]
async fn without_a_dialler_https_cannot_be_reached() {
    let clerk = Clerk::connect("https://127.0.0.1:1", Options::default()).unwrap();
    let error = clerk.info(&anyone()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(
        error.message(),
        "no server answers: tried https://127.0.0.1:1 (no certificate of the server's trust domain is known: \
         give --ca FILE)"
    );
}
