//! The pages where people sign in and make passkeys. They hold no state of the server: what they need is in the
//! fragment of their address, which no browser sends, and they call the same interface as everybody.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use http::{HeaderValue, StatusCode};

use crate::operations;

/// A file for a browser.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Page {
    /// Where somebody signs in for a command line.
    Login,
    /// Where somebody makes a passkey.
    Enrol,
    /// What both do.
    Script,
    /// How both look.
    Style,
}

/// Nothing but our own script and style, no connection but to this server, and in nobody's frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'; \
     base-uri 'none'; form-action 'none'",
);

impl Page {
    /// The file as an answer. It is not kept by browsers: the address that leads here is good once.
    pub(crate) fn answer(self) -> Response {
        let (content_type, text) = match self {
            Page::Login => ("text/html; charset=utf-8", include_str!("pages/login.html")),
            Page::Enrol => ("text/html; charset=utf-8", include_str!("pages/enrol.html")),
            Page::Script => ("text/javascript; charset=utf-8", include_str!("pages/sign-in.js")),
            Page::Style => ("text/css; charset=utf-8", include_str!("pages/sign-in.css")),
        };
        let mut response = operations::text(StatusCode::OK, content_type, Body::from(text));
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}
