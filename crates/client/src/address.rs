//! Where servers are: `unix:///run/byname/socket`, `https://names.example:7600`, `http://127.0.0.1:7600`, or
//! `dns:names.example:7600` for every address of a name; several with commas.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use byname_api::{Error, Result};
use http::Uri;

/// The port of servers when `dns:` names none.
const PORT: u16 = 7600;

/// What a list of servers names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// One server.
    Server(Address),
    /// Every address that the DNS has for a name, with TLS.
    Dns {
        /// The name, which the servers' certificates must hold.
        name: String,
        /// The port.
        port: u16,
    },
}

impl Place {
    /// Reads a list.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Place>> {
        let places: Vec<Place> =
            text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(Place::parse).collect::<Result<_>>()?;
        if places.is_empty() {
            return Err(Error::invalid("server", format!("no server is given: {FORMS}")));
        }
        Ok(places)
    }

    fn parse(text: &str) -> Result<Place> {
        let Some(rest) = text.strip_prefix("dns:") else { return Address::parse(text).map(Place::Server) };
        let wrong = |why: &str| Error::invalid("server", format!("`{}` {why}: {FORMS}", text.escape_debug()));
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) => {
                (name, port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong("has no good port"))?)
            }
            None => (rest, PORT),
        };
        // Read as part of an address, so that what comes of it can be one.
        if name.is_empty() || name.contains(['/', '@']) || format!("https://{name}:{port}").parse::<Uri>().is_err() {
            return Err(wrong("does not read as the name of a host"));
        }
        Ok(Place::Dns { name: name.to_owned(), port })
    }
}

/// The addresses that the host's resolver has for a name. All of a name's servers speak TLS and show that name.
///
/// # Errors
///
/// Why there are none.
pub(crate) async fn resolve(name: &str, port: u16) -> std::result::Result<Vec<(Address, IpAddr)>, String> {
    let uri: Uri = format!("https://{name}:{port}").parse().map_err(|_| format!("`{name}` is no host's name"))?;
    let found = tokio::net::lookup_host((name, port)).await.map_err(|error| error.to_string())?;
    let mut all: Vec<(Address, IpAddr)> = Vec::new();
    for address in found {
        if all.iter().all(|(_, ip)| *ip != address.ip()) {
            all.push((Address::Https(uri.clone()), address.ip()));
        }
    }
    Ok(all)
}

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
    /// Reads one.
    pub(crate) fn parse(text: &str) -> Result<Address> {
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

const FORMS: &str =
    "write unix:///PATH, https://HOST:PORT, dns:NAME:PORT or http://127.0.0.1:PORT, several with commas";

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
        let server = |place| match place {
            Place::Server(address) => address,
            Place::Dns { .. } => panic!("{place:?}"),
        };
        let list: Vec<Address> = Place::parse_list(text).unwrap().into_iter().map(server).collect();
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
            ("dns:names.example:0", "no good port"),
            ("dns:names.example:https", "no good port"),
            ("dns:", "does not read"),
            ("dns:me@names.example", "does not read"),
            ("dns:names.example/v1", "does not read"),
        ] {
            let error = Place::parse_list(text).unwrap_err();
            assert_eq!((error.code(), error.at_field()), (byname_api::Code::InvalidArgument, Some("server")), "{text}");
            assert!(error.message().contains(part), "{text}: {}", error.message());
        }
    }

    #[tokio::test]
    async fn a_name_of_the_dns_stands_for_all_of_its_addresses() {
        let place = |name: &str, port| Place::Dns { name: name.into(), port };
        let list = Place::parse_list("dns:names.example,dns:names.example:1").unwrap();
        assert_eq!(list, [place("names.example", 7600), place("names.example", 1)]);
        let found = resolve("localhost", 1).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|(_, ip)| ip.is_loopback()), "{found:?}");
        assert!(found.iter().all(|(address, _)| address.to_string() == "https://localhost:1"), "{found:?}");
        assert!(resolve("there.is.none.invalid", 1).await.is_err());
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
