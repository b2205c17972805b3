//! Errors as problem details (RFC 9457), for whatever went wrong and wherever: nothing else leaves the server with a
//! status of 400 or above.

use axum::response::{IntoResponse, Response};
use byname_api::{Code, Error};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// An error on its way to an HTTP client.
#[derive(Debug)]
pub(crate) struct Problem {
    error: Error,
    /// Says more about HTTP than the code does: 405 and 415 have no code of their own.
    status: Option<StatusCode>,
    allow: Option<String>,
}

/// The body of a problem.
#[derive(Serialize)]
struct Details<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    /// The path does not lead anywhere.
    pub(crate) fn no_route(path: &str) -> Self {
        let shown: String = path.chars().take(100).collect();
        Error::new(
            Code::NotFound,
            format!(
                "there is no `{}` in this interface: GET /v1/openapi.json lists what there is",
                shown.escape_debug()
            ),
        )
        .into()
    }

    /// The path exists, but not with this method. `allow` is the value of the Allow header.
    pub(crate) fn wrong_method(method: &str, allow: String) -> Self {
        let shown: String = method.chars().take(20).collect();
        Problem {
            error: Error::new(
                Code::Unsupported,
                format!("{} is not possible here, only {allow}", shown.escape_debug()),
            ),
            status: Some(StatusCode::METHOD_NOT_ALLOWED),
            allow: Some(allow),
        }
    }

    /// The body is announced as something that is not taken here.
    pub(crate) fn wrong_content_type(given: Option<&str>, wanted: &str) -> Self {
        let message = match given {
            Some(given) => {
                let shown: String = given.chars().take(60).collect();
                format!("the body is announced as `{}`: send {wanted}", shown.escape_debug())
            }
            None => format!("the body's type is not announced: send it with Content-Type {wanted}"),
        };
        Problem {
            error: Error::invalid("Content-Type", message),
            status: Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            allow: None,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem { error, status: None, allow: None }
    }
}

impl Problem {
    fn status(&self) -> StatusCode {
        let of_code = || StatusCode::from_u16(self.error.code().http_status()).ok();
        self.status.or_else(of_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The problem as data: the body, wherever it is sent.
    pub(crate) fn details(&self) -> impl Serialize + '_ {
        let code = self.error.code();
        Details {
            r#type: format!("/v1/errors/{code}"),
            title: code.title(),
            status: self.status().as_u16(),
            detail: self.error.message(),
            code,
            field: self.error.at_field(),
        }
    }
}

impl Problem {
    /// The whole answer as HTTP/1.1 writes it, for a connection that no server of HTTP gets to see.
    pub(crate) fn raw(&self) -> Vec<u8> {
        let body = serde_json::to_vec(&self.details()).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
             x-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
            self.status(),
            body.len()
        );
        [head.as_bytes(), &body].concat()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = self.error.code();
        let status = self.status();
        if code == Code::Internal {
            tracing::error!(error = self.error.log_line(), "a request failed by a defect of the server");
        } else {
            tracing::debug!(code = code.as_str(), error = self.error.log_line(), "a request was refused");
        }
        let body = serde_json::to_vec(&self.details()).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if code == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.allow.and_then(|a| HeaderValue::try_from(a).ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}
