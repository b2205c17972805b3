//! Errors as gRPC carries them: the number of a status, its message, and metadata for what gRPC has no room for.
//!
//! | metadata | |
//! |---|---|
//! | `byname-code` | the stable code: `not-found` |
//! | `byname-field` | the field at fault; bytes other than visible ASCII and `%` as `%XX` |
//!
//! The numbers are those of <https://grpc.io/docs/guides/status-codes/>.

use crate::error::{Code, Error};

/// The metadata that holds the stable code of an error.
pub const CODE_METADATA: &str = "byname-code";
/// The metadata that holds the field at fault.
pub const FIELD_METADATA: &str = "byname-field";
/// The metadata of a request that makes a retried write apply once.
pub const REQUEST_ID_METADATA: &str = "byname-request-id";

/// Headers are limited to 8 KiB by many gRPC libraries, and a line break takes three bytes there. A message or a field
/// with more bytes than this loses its middle, because an error that breaks the connection says nothing.
const MESSAGE_BYTES: usize = 4_096;
const FIELD_BYTES: usize = 1_024;

/// An error, ready to be put into a gRPC status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusParts {
    /// The number of the gRPC status.
    pub number: i32,
    /// The message, cut to what fits into a header.
    pub message: String,
    /// The value of `byname-code`.
    pub code: &'static str,
    /// The value of `byname-field`: visible ASCII.
    pub field: Option<String>,
}

impl From<&Error> for StatusParts {
    fn from(error: &Error) -> Self {
        StatusParts {
            number: number(error.code()),
            message: cut(error.message(), MESSAGE_BYTES),
            code: error.code().as_str(),
            field: error.at_field().map(|field| escape(&cut(field, FIELD_BYTES))),
        }
    }
}

impl StatusParts {
    /// The error that a status stands for. `code` and `field` are the metadata's values; without a code that this
    /// version knows, the number decides.
    pub fn into_error(number: i32, message: &str, code: Option<&str>, field: Option<&str>) -> Error {
        let error = Error::new(code.and_then(Code::parse).unwrap_or_else(|| code_of_status(number)), message);
        match field {
            Some(field) => error.field(unescape(field)),
            None => error,
        }
    }
}

/// The number of the gRPC status for a code.
const fn number(code: Code) -> i32 {
    match code {
        Code::InvalidName | Code::InvalidArgument => 3,
        Code::Timeout | Code::StartTimeout => 4,
        Code::NotFound => 5,
        Code::AlreadyExists => 6,
        Code::Denied => 7,
        Code::TooLarge | Code::RateLimited => 8,
        Code::AliasLoop | Code::NotRunning | Code::StartFailed | Code::CrashLooping | Code::Unsupported => 9,
        Code::Conflict => 10,
        Code::Internal => 13,
        Code::Unavailable | Code::NoHost => 14,
        Code::Unauthenticated => 16,
    }
}

/// The nearest code for a status that did not come from a Byname server's own errors.
pub const fn code_of_status(number: i32) -> Code {
    match number {
        3 => Code::InvalidArgument,
        1 | 4 => Code::Timeout,
        5 => Code::NotFound,
        6 => Code::AlreadyExists,
        7 => Code::Denied,
        // OUT_OF_RANGE is what gRPC libraries say of a message beyond their limit.
        8 | 11 => Code::TooLarge,
        9 | 10 => Code::Conflict,
        12 => Code::Unsupported,
        14 => Code::Unavailable,
        16 => Code::Unauthenticated,
        _ => Code::Internal,
    }
}

/// Takes the middle out of a text that is too long: the beginning says what it is about, and the end is the newest of
/// a program's last lines.
fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let start = text.floor_char_boundary(bytes / 2);
    let end = text.ceil_char_boundary(text.len() - bytes / 2);
    let (start, end) = (text.get(..start).unwrap_or_default(), text.get(end..).unwrap_or_default());
    format!("{start} ... {end}")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                out.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
