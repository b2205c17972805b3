//! A client and a service that never met prove themselves to each other, over a socket of their own:
//! `cargo run -p byname-client --example introduction -- unix:///PATH/byname.sock`.
//!
//! It plays both ends, by a server whose address it is given (`byname dev` prints the path). Ticket and proof travel as a
//! line each, which is all that the two need to agree on.

use std::error::Error;

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::request::{AdvertiseRequest, Context, WithdrawRequest};
use byname_api::service::Endpoint;
use byname_client::introduction::{Introduction, Service};
use byname_client::{Clerk, Options};
use byname_name::Name;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the service is called.
const SERVICE: &str = "/examples/introduction";
/// The longest line that either end reads: nobody is known yet.
const LINE: u64 = 128;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1).ok_or("say which server: unix:///PATH/byname.sock")?;
    let name: Name = SERVICE.parse()?;
    // The connection says who asks, and not this.
    let cx = Context::of(Caller::anonymous());

    // The service listens, says where, and keeps what it is known by.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let names = Clerk::connect(&server, Options::default())?;
    let address = listener.local_addr()?;
    let endpoint = Endpoint { protocol: "tcp".into(), address: address.ip().to_string(), port: address.port() };
    let request = AdvertiseRequest { name: Some(name.clone()), endpoints: vec![endpoint], ..Default::default() };
    let advertised = names.advertise(&cx, request).await?;
    let own = Service::advertised(&advertised)?;

    let service = async {
        let (stream, _) = listener.accept().await?;
        serve(&names, &cx, &own, stream).await
    };
    let client = async {
        let names = Clerk::connect(&server, Options::default())?;
        ask(&names, &cx, &name).await
    };
    let done = tokio::try_join!(service, client);

    let credential = advertised.credential;
    names.withdraw(&cx, WithdrawRequest { name, instance: Some(advertised.instance), credential }).await?;
    done.map(|_| ())
}

/// The service's end of a connection.
async fn serve(names: &Clerk, cx: &Context, own: &Service, stream: TcpStream) -> Result<(), Box<dyn Error>> {
    let mut stream = BufReader::new(stream);
    let client = own.verify(names, cx, &line(&mut stream).await?).await?;
    println!("service: this is {}", client.client);
    stream.write_all(format!("{}\n", client.proof.0).as_bytes()).await?;
    Ok(())
}

/// The client's end.
async fn ask(names: &Clerk, cx: &Context, name: &Name) -> Result<(), Box<dyn Error>> {
    let introduction = Introduction::to(names, cx, name.clone()).await?;
    let endpoint = introduction.endpoints().first().ok_or("the service says no address")?;
    let mut stream = BufReader::new(TcpStream::connect((endpoint.address.as_str(), endpoint.port)).await?);
    stream.write_all(format!("{}\n", introduction.ticket()).as_bytes()).await?;
    introduction.check(&line(&mut stream).await?)?;
    println!("client: this is {}", introduction.name());
    Ok(())
}

async fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    stream.take(LINE).read_line(&mut line).await?;
    Ok(line)
}
