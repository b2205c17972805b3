//! The generated clients, and the server of the empty call.

/// Byname's.
#[allow(missing_docs, unreachable_pub, unused_qualifications, dead_code, clippy::all)]
pub(crate) mod byname {
    tonic::include_proto!("byname.v1");
}

/// etcd's.
#[allow(missing_docs, unreachable_pub, unused_qualifications, dead_code, clippy::all)]
pub(crate) mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// The empty call's.
#[allow(missing_docs, unreachable_pub, unused_qualifications, dead_code, clippy::all)]
pub(crate) mod empty {
    tonic::include_proto!("bench");
}

use std::sync::Arc;

use byname_identity::tls::Connector;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

/// A new HTTP/2 connection; every system is asked over such ones.
pub(crate) async fn connect(address: &str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?)
}

/// The same within TLS, made by Byname's own end of it.
pub(crate) async fn connect_tls(address: &str, tls: &Arc<Connector>) -> anyhow::Result<Channel> {
    let origin: Uri = format!("https://{address}").parse()?;
    let (tls, address) = (tls.clone(), address.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, address) = (tls.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            tls.connect(stream, host).await.map(TokioIo::new)
        }
    });
    // The library would want to make the TLS itself if it were told of https.
    Ok(Endpoint::from_static("http://localhost").origin(origin).connect_with_connector(connector).await?)
}

struct Nothing;

#[tonic::async_trait]
impl empty::empty_server::Empty for Nothing {
    async fn call(&self, _request: Request<empty::Nothing>) -> Result<Response<empty::Nothing>, Status> {
        Ok(Response::new(empty::Nothing {}))
    }
}

/// Serves the empty call until the process is killed, and prints the address first.
pub(crate) async fn serve_empty() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let service = empty::empty_server::EmptyServer::new(Nothing);
    let accepted = TcpListenerStream::new(listener);
    Server::builder().tcp_nodelay(true).add_service(service).serve_with_incoming(accepted).await?;
    Ok(())
}
