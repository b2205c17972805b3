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

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// A new HTTP/2 connection; every system is asked over such ones.
pub(crate) async fn connect(address: &str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?)
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
