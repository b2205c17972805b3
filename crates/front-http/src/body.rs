//! Reading the body of a request: bounded in size and time, announced as JSON, and refused with the place and the
//! field when it is not what the route takes.

use std::time::Duration;

use axum::body::Body;
use byname_api::{Code, Error, Result};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The largest body: room for a record's value of 1 MiB however it is escaped.
pub(crate) const MAX_BODY_BYTES: usize = 4 << 20;

/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// What of a body that is too large is read and dropped, so that its sender gets to read the answer.
const DISCARDED_BYTES: usize = 32 << 20;

/// The whole body.
pub(crate) async fn read(headers: &HeaderMap, mut body: Body) -> Result<Bytes> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if headers.contains_key(EXPECT) && announced.is_some_and(|n| n > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let whole = async {
        let mut bytes = Vec::with_capacity(announced.unwrap_or_default().min(MAX_BODY_BYTES));
        let mut dropped = 0;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| Error::new(Code::InvalidArgument, "the body broke off").log(e.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            if dropped > 0 || bytes.len() + data.len() > MAX_BODY_BYTES {
                dropped += bytes.len() + data.len();
                bytes = Vec::new();
                if dropped > DISCARDED_BYTES {
                    break;
                }
            } else {
                bytes.extend_from_slice(&data);
            }
        }
        if dropped > 0 { Err(too_large()) } else { Ok(Bytes::from(bytes)) }
    };
    tokio::time::timeout(ARRIVAL, whole)
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Timeout, "the body did not arrive within 30 seconds")))
}

fn too_large() -> Error {
    Error::new(Code::TooLarge, "the body is 4 MiB (4194304 bytes) at most")
}

/// Refuses a body that is not announced as one of these types. Browsers send the types of forms without asking, so
/// this is also what keeps foreign pages out.
pub(crate) fn check_type(headers: &HeaderMap, wanted: &[&str]) -> Result<(), Problem> {
    let given = headers.get(CONTENT_TYPE).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let essence = given.as_deref().map(|g| g.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if essence.is_some_and(|e| wanted.contains(&e.as_str())) {
        Ok(())
    } else {
        Err(Problem::wrong_content_type(given.as_deref(), &wanted.join(" or ")))
    }
}

/// Reads JSON text.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::new(Code::InvalidArgument, "the body is empty: send a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        at_path(&path, e.into_inner())
    })?;
    reader.end().map_err(|e| at_path(".", e))?;
    Ok(value)
}

/// Reads a JSON value that was text before.
pub(crate) fn value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        at_path(&path, e.into_inner())
    })
}

fn at_path(path: &str, error: serde_json::Error) -> Error {
    use serde_json::error::Category;
    let kind = match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => "the body is not JSON",
        Category::Data => "the body is not what is wanted here",
    };
    let wrong = Error::new(Code::InvalidArgument, format!("{kind}: {error}"));
    if path == "." { wrong } else { wrong.field(path) }
}
