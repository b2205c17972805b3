//! gRPC statuses as errors.

use std::error::Error as _;

use byname_api::Error;
use byname_api::proto::{CODE_METADATA, FIELD_METADATA, StatusParts};
use tonic::{Code, Status};

use crate::link::innermost;

/// What a call that did not succeed came to.
pub(crate) enum Failure {
    /// The server answered with this error.
    Answer(Error),
    /// No answer came in time.
    Late,
    /// The connection broke, for this reason. Whether the server has done what was asked is not known.
    Broken(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let text = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
        let (code, field) = (text(CODE_METADATA), text(FIELD_METADATA));
        if code.is_none() {
            if is_late(&status) {
                return Failure::Late;
            }
            // Statuses made on this side of the connection have a source, those that came over it have none. A proxy
            // that finds no server says UNAVAILABLE.
            if status.source().is_some() || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
            {
                let why = status.source().map_or_else(|| status.message().to_owned(), innermost);
                return Failure::Broken(why);
            }
        }
        Failure::Answer(StatusParts::into_error(status.code().into(), status.message(), code, field))
    }
}

/// The channel's own timer, or a server or proxy that keeps the deadline for us.
fn is_late(status: &Status) -> bool {
    let mut chain = std::iter::successors(status.source(), |error| (*error).source());
    status.code() == Code::DeadlineExceeded || chain.any(|error| error.is::<tonic::TimeoutExpired>())
}
