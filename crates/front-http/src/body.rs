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

/// So many times of what is taken is read and dropped of a body that is too large, so that its sender gets to read the
/// answer.
const DISCARDED: usize = 8;

/// The whole body, of `room` bytes at most.
pub(crate) async fn read(headers: &HeaderMap, mut body: Body, room: usize) -> Result<Bytes> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if headers.contains_key(EXPECT) && announced.is_some_and(|n| n > room) {
        return Err(too_large(room));
    }
    let whole = async {
        let mut bytes = Vec::with_capacity(announced.unwrap_or_default().min(room));
        let mut dropped = 0;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| Error::new(Code::InvalidArgument, "the body broke off").log(e.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            if dropped > 0 || bytes.len() + data.len() > room {
                dropped += bytes.len() + data.len();
                bytes = Vec::new();
                if dropped > room * DISCARDED {
                    break;
                }
            } else {
                bytes.extend_from_slice(&data);
            }
        }
        if dropped > 0 { Err(too_large(room)) } else { Ok(Bytes::from(bytes)) }
    };
    tokio::time::timeout(ARRIVAL, whole)
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Timeout, "the body did not arrive within 30 seconds")))
}

fn too_large(room: usize) -> Error {
    let shown = if room < 1 << 20 { format!("{} KiB", room >> 10) } else { format!("{} MiB", room >> 20) };
    Error::new(Code::TooLarge, format!("the body is {shown} ({room} bytes) at most"))
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

/// Reads the text of a JSON object.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => {}
        // An array would be read too, as the fields in the order of their declaration: nobody means that.
        Some(_) => return Err(Error::new(Code::InvalidArgument, "the body is not a JSON object")),
        None => return Err(Error::new(Code::InvalidArgument, "the body is empty: send a JSON object")),
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        at_path(&path, e.into_inner())
    });
    match read {
        Ok(value) => {
            reader.end().map_err(|e| at_path(".", e))?;
            Ok(value)
        }
        // To JSON, 3.0 is as whole a number as 3; to the reader of integers it is not.
        Err(e) => {
            let mut tree = serde_json::from_slice(bytes).unwrap_or_default();
            if make_whole(&mut tree) { value(tree).map_err(|_| e) } else { Err(e) }
        }
    }
}

/// Writes numbers such as `3.0` as integers; true when there were any.
fn make_whole(value: &mut serde_json::Value) -> bool {
    use serde_json::Value;
    /// Up to here every whole number has a form of its own among floating-point numbers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) if float.fract() == 0.0 && float.abs() <= EXACT => {
                *value = Value::from(float as i64);
                true
            }
            _ => false,
        },
        Value::Array(list) => list.iter_mut().filter_map(|v| make_whole(v).then_some(())).count() > 0,
        Value::Object(map) => map.values_mut().filter_map(|v| make_whole(v).then_some(())).count() > 0,
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use byname_api::launch::{Copies, Launch};

    #[test]
    fn whole_numbers_may_be_written_with_a_point() {
        let launch: Launch = json(br#"{"copies":{"min":1.0,"max":2e0}}"#).unwrap();
        assert_eq!(launch.copies, Some(Copies { min: 1, max: 2 }));
        let error = json::<Launch>(br#"{"copies":{"min":1.5}}"#).unwrap_err();
        assert_eq!(error.at_field(), Some("copies.min"));
    }

    #[test]
    fn only_one_object_is_read() {
        for bad in ["[]", "[null]", "7", "\"{}\"", "{}{}", "{} x", "", " "] {
            assert_eq!(json::<Launch>(bad.as_bytes()).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
