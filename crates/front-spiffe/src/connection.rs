//! Connections, each with the instance that it comes from.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use byname_api::object::InstanceId;
use byname_launch::Workloads;
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// How many connections there may be: each is a descriptor of the agent's.
const CONNECTIONS: usize = 1024;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The instance; none when the process belongs to none.
    pub(crate) instance: Option<InstanceId>,
}

/// A connection of one process.
pub(crate) struct Connection {
    stream: UnixStream,
    caller: Caller,
    _permit: Option<OwnedSemaphorePermit>,
}

/// All connections to come.
pub(crate) fn accept(
    listener: UnixListener,
    workloads: Arc<dyn Workloads>,
) -> impl Stream<Item = io::Result<Connection>> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    futures_util::stream::unfold((listener, workloads, room), |(listener, workloads, room)| async move {
        // The semaphore is never closed, so there is a permit in the end.
        let permit = room.clone().acquire_owned().await.ok();
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let caller = Caller { instance: workloads.identify(stream.as_fd()) };
        let connection = Connection { stream, caller, _permit: permit };
        Some((Ok(connection), (listener, workloads, room)))
    })
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
