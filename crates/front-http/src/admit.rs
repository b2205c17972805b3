//! Asks the gate about one request: the connection says where it comes from, the headers say the rest.

use byname_api::caller::{Admission, Connection, Gate, PASSED_ON, Peer};
use byname_api::{Code, Error, Result};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Request, Version};

/// Who sends this request. Over TCP the host that it names has to be unambiguous before the gate looks at it
/// (RFC 9112 section 3.2). No web page reaches a socket.
pub(crate) fn admit<B>(gate: &Gate, connection: &Connection, request: &Request<B>) -> Admission {
    if let Peer::Socket { .. } | Peer::Internal = connection.peer {
        let header = authorization(request.headers());
        return Admission(header.and_then(|header| gate.admit(connection, None, None, header)));
    }
    Admission(over_tcp(gate, connection, request))
}

fn authorization(headers: &HeaderMap) -> Result<Option<&str>> {
    single(headers, &AUTHORIZATION, || {
        Error::new(Code::Unauthenticated, "the Authorization header is given twice").field("Authorization")
    })
}

fn over_tcp<B>(gate: &Gate, connection: &Connection, request: &Request<B>) -> Result<byname_api::caller::Caller> {
    let headers = request.headers();
    let ambiguous = || Error::invalid("Host", "the request names more than one host");
    let header = single(headers, &HOST, ambiguous)?;
    // An absolute-form target or `:authority` takes precedence, but a client that means well names one host only.
    let host = match (request.uri().authority(), header) {
        (Some(authority), Some(header)) if !authority.as_str().eq_ignore_ascii_case(header) => return Err(ambiguous()),
        (Some(authority), _) => Some(authority.as_str()),
        (None, header) => header,
    };
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(Error::invalid("Host", "an HTTP/1.1 request needs a Host header"));
    }
    let origin = single(headers, &ORIGIN, || {
        Error::new(Code::Denied, "the request names more than one origin").field("Origin")
    })?;
    let caller = gate.admit(connection, host, origin, authorization(headers)?)?;
    let passed_on =
        single(headers, &HeaderName::from_static(PASSED_ON), || Error::invalid(PASSED_ON, "is given twice"))?;
    gate.on_behalf(caller, passed_on)
}

/// The one value of a header. What is not visible ASCII is as wrong as two values are.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName, wrong: impl Fn() -> Error) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong());
    }
    first.to_str().map(Some).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_unambiguous_host_gets_in() {
        let gate = Gate::new("secret");
        let here = Connection::from(Peer::Tcp { address: [127, 0, 0, 1].into(), encrypted: false });
        let asked = |uri: &str, headers: &[&(HeaderName, &str)]| {
            let mut request = Request::builder().uri(uri);
            for (name, value) in headers.iter().copied() {
                request = request.header(name, *value);
            }
            let Admission(result) = admit(&gate, &here, &request.body(()).unwrap());
            result.map(|c| c.principal).map_err(|e| (e.code(), e.at_field().unwrap_or_default().to_owned()))
        };
        let wrong = |code, field: &str| Err((code, field.to_owned()));
        let here = (HOST, "localhost:1");
        assert_eq!(asked("/", &[&here]), Ok("anyone".into()));
        assert_eq!(asked("http://localhost:1/", &[]), Ok("anyone".into()));
        assert_eq!(asked("http://localhost:1/", &[&here]), Ok("anyone".into()));
        assert_eq!(asked("/", &[]), wrong(Code::InvalidArgument, "Host"));
        assert_eq!(asked("/", &[&here, &here]), wrong(Code::InvalidArgument, "Host"));
        assert_eq!(asked("http://evil.example/", &[&here]), wrong(Code::InvalidArgument, "Host"));
        assert_eq!(asked("http://evil.example/", &[]), wrong(Code::Denied, "Host"));
        assert_eq!(asked("http://localhost@evil.example/", &[]), wrong(Code::Denied, "Host"));
        assert_eq!(asked("/", &[&(HOST, "h\u{e9}")]), wrong(Code::InvalidArgument, "Host"));
        let page = (ORIGIN, "http://evil.example");
        assert_eq!(asked("/", &[&here, &page]), wrong(Code::Denied, "Origin"));
        assert_eq!(asked("/", &[&here, &page, &page]), wrong(Code::Denied, "Origin"));
        let token = (AUTHORIZATION, "Bearer secret");
        assert_eq!(asked("/", &[&here, &token]), Ok("token".into()));
        assert_eq!(asked("/", &[&here, &token, &token]), wrong(Code::Unauthenticated, "Authorization"));
    }
}
