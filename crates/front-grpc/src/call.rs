//! What every call has in common: who asks, until when, what, and the answer.

use std::time::Duration;

use byname_api::caller::Admission;
use byname_api::proto::REQUEST_ID_METADATA;
use byname_api::request::Context;
use byname_api::span::Span;
use byname_api::{Error, Result};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::status::status;

/// Who asks, and the id of the write if it is one.
pub(crate) fn context<M>(request: &Request<M>) -> Result<Context, Status> {
    read_context(request).map_err(|error| status(&error))
}

/// The context and the request itself, checked.
pub(crate) fn open<M, R: TryFrom<M, Error = Error>>(request: Request<M>) -> Result<(Context, R), Status> {
    let cx = context(&request)?;
    let asked = R::try_from(request.into_inner()).map_err(|error| status(&error))?;
    Ok((cx, asked))
}

/// The answer.
pub(crate) fn close<A, M: From<A>>(answer: Result<A>) -> Result<Response<M>, Status> {
    match answer {
        Ok(answer) => Ok(Response::new(answer.into())),
        Err(error) => Err(status(&error)),
    }
}

fn read_context<M>(request: &Request<M>) -> Result<Context> {
    let Some(Admission(admission)) = request.extensions().get() else {
        return Err(no_gate());
    };
    let mut cx = Context::of(admission.clone()?);
    if let Some(value) = request.metadata().get(REQUEST_ID_METADATA) {
        let id = value.to_str().unwrap_or_default().parse();
        cx.request = Some(id.map_err(|error: Error| error.field(REQUEST_ID_METADATA))?);
    }
    Ok(cx)
}

/// The error of a request that came around the gate.
pub(crate) fn no_gate() -> Error {
    Error::internal("a request reached the gRPC front end without an admission in its extensions")
}

/// How long the server may wait so that its answer still reaches a client with this deadline: the client then learns
/// why (`start-timeout`, with the program's last lines) and not only that time is up.
pub(crate) fn patience(metadata: &MetadataMap) -> Option<Span> {
    let deadline = read_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let margin = (deadline / 20).min(Duration::from_millis(100));
    Some(Span::from_millis(u64::try_from((deadline - margin).as_millis()).unwrap_or(u64::MAX)))
}

/// `TimeoutValue = positive integer of at most 8 digits, TimeoutUnit = H | M | S | m | u | n` (gRPC over HTTP/2).
fn read_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_reads_as_the_standard_writes_it() {
        for (text, expect) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("", None),
            ("S", None),
            ("3", None),
            ("3s", None),
            ("-3S", None),
            ("+3S", None),
            ("100000000S", None),
            ("1é", None),
        ] {
            assert_eq!(read_timeout(text), expect, "{text}");
        }
    }

    #[test]
    fn the_server_answers_a_little_before_the_deadline() {
        let wait = |text: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", tonic::metadata::MetadataValue::from_static(text));
            patience(&metadata).map(Span::as_millis)
        };
        assert_eq!(wait("10S"), Some(9_900));
        assert_eq!(wait("100m"), Some(95));
        assert_eq!(wait("0m"), Some(0));
        assert_eq!(wait("soon"), None);
    }
}
