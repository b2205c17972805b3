//! Asking any gRPC server for its health (grpc.health.v1), over a connection that somebody else has made.

use std::io;

use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::dial::Stream;

/// The longest answer that is read, in bytes.
const LONGEST: usize = 16 << 10;

/// Asks about a service, or about the server as a whole when that is empty. Gives whether it is serving, and its word for
/// it. The caller bounds the time.
///
/// # Errors
///
/// In words, why there is no answer: the server does not speak gRPC, does not know the service, has no health to tell.
pub async fn ask_health(connection: impl Stream, service: &str) -> Result<(bool, String), String> {
    let mut once = Some(TokioIo::new(connection));
    let connector = tower::service_fn(move |_: Uri| {
        let connection = once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { connection }
    });
    let channel = Endpoint::from_static("http://localhost")
        .user_agent("byname")
        .map_err(|error| error.to_string())?
        .connect_with_connector(connector)
        .await
        .map_err(|_| "does not speak HTTP/2".to_owned())?;
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).max_decoding_message_size(LONGEST).check(request).await {
        Ok(reply) => {
            let number = reply.into_inner().status;
            let word = ServingStatus::try_from(number).map_or("UNKNOWN", |status| status.as_str_name());
            Ok((number == ServingStatus::Serving as i32, word.to_owned()))
        }
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}
