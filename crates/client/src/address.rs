//! Where servers are: `unix:///run/byname/socket`, `https://names.example:7600`, `http://127.0.0.1:7600`, several with
//! commas.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use byname_api::{Error, Result};
use http::Uri;

/// The address of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket on this host.
    Unix(PathBuf),
    /// Plain TCP.
    Http(Uri),
    /// TLS.
    Https(Uri),
}

impl Address {
    /// Reads a list.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Address>> {
        let addresses: Vec<Address> =
            text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(Address::parse).collect::<Result<_>>()?;
        if addresses.is_empty() {
            return Err(Error::invalid("server", format!("no server is given: {FORMS}")));
        }
        Ok(addresses)
    }

    fn parse(text: &str) -> Result<Address> {
        let wrong = |why: &str| Error::invalid("server", format!("`{}` {why}: {FORMS}", text.escape_debug()));
        // A bare path is what `endpoints.json` says of the socket.
        let path = text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"))
            .or(Some(text).filter(|t| t.starts_with('/')));
        if let Some(path) = path {
            if !path.starts_with('/') {
                return Err(wrong("names no absolute path"));
            }
            return Ok(Address::Unix(path.into()));
        }
        let encrypted = text.starts_with("https://");
        if !encrypted && !text.starts_with("http://") {
            return Err(wrong("is no address of a server"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("does not read as an address"))?;
        if uri.port_u16().is_none() {
            return Err(wrong("names no port"));
        }
        if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(wrong("has something behind the port"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("holds a user, which is of no use here"));
        }
        Ok(if encrypted { Address::Https(uri) } else { Address::Http(uri) })
    }

    /// Whether the bearer token may go there: plain TCP shows it to everybody on the way, so only within this host.
    pub(crate) fn takes_token(&self) -> bool {
        match self {
            // Nobody else is on the way. Without a token the kernel says who calls.
            Address::Unix(_) => true,
            Address::Https(_) => true,
            Address::Http(uri) => uri.host().is_some_and(|host| {
                host.eq_ignore_ascii_case("localhost") || bare(host).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }),
        }
    }
}

/// The host of a URI without the brackets of IPv6.
pub(crate) fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

const FORMS: &str = "write unix:///PATH, https://HOST:PORT or http://127.0.0.1:PORT, several with commas";

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Http(uri) | Address::Https(uri) => match (uri.scheme_str(), uri.authority()) {
                (Some(scheme), Some(authority)) => write!(f, "{scheme}://{authority}"),
                _ => write!(f, "{uri}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_and_print() {
        let text = "unix:///run/byname/socket, http://127.0.0.1:7600 ,http://[::1]:1/,https://names.example:7600";
        let list = Address::parse_list(text).unwrap();
        let shown: Vec<String> = list.iter().map(Address::to_string).collect();
        assert_eq!(
            shown,
            ["unix:///run/byname/socket", "http://127.0.0.1:7600", "http://[::1]:1", "https://names.example:7600"]
        );
        assert!(matches!(list.last(), Some(Address::Https(_))));
    }

    #[test]
    fn a_bare_path_is_a_socket() {
        for text in ["/run/byname/socket", "unix:/run/byname/socket", "unix:///run/byname/socket"] {
            assert_eq!(Address::parse(text).unwrap(), Address::Unix("/run/byname/socket".into()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "no server is given"),
            (" , ", "no server is given"),
            ("https://127.0.0.1", "names no port"),
            ("127.0.0.1:7600", "is no address"),
            ("unix://socket", "no absolute path"),
            ("http://127.0.0.1", "names no port"),
            ("http://127.0.0.1:7600/v1", "behind the port"),
            ("http://me@127.0.0.1:7600", "a user"),
            ("http://a b:1", "does not read"),
        ] {
            let error = Address::parse_list(text).unwrap_err();
            assert_eq!((error.code(), error.at_field()), (byname_api::Code::InvalidArgument, Some("server")), "{text}");
            assert!(error.message().contains(part), "{text}: {}", error.message());
        }
    }

    #[test]
    fn the_token_stays_on_this_host() {
        for (text, expect) in [
            ("http://127.0.0.1:7600", true),
            ("http://127.9.9.9:7600", true),
            ("http://[::1]:7600", true),
            ("http://LOCALHOST:7600", true),
            ("http://192.0.2.1:7600", false),
            ("http://localhost.example:7600", false),
            ("https://192.0.2.1:7600", true),
            ("https://localhost:7600", true),
            ("unix:///x", true),
        ] {
            assert_eq!(Address::parse(text).unwrap().takes_token(), expect, "{text}");
        }
    }
}
