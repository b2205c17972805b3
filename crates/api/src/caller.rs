//! Who asks, and what asking may do.

use std::fmt;

use crate::error::{Code, Error, Result};

/// How a caller reached the server; what the front end saw of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The server's own work (restarts, agents in the same process).
    Internal,
    /// The unix socket, with the peer credentials that the kernel vouches for.
    Socket {
        /// User id of the process at the other end.
        uid: u32,
        /// Its process id, when known.
        pid: Option<u32>,
    },
    /// TCP from this host.
    Loopback,
    /// TCP from elsewhere.
    Remote,
}

/// An admitted caller: what every operation is authorised for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The principal, as it appears in stamps and in the audit log.
    pub principal: String,
    /// What it may do before there are access control lists.
    pub standing: Standing,
}

/// What a caller may do before identity lands (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything: the unix socket, or TCP with the bearer token.
    Full,
    /// Find without starting, list and read: TCP from this host without a token.
    ReadOnly,
}

impl Caller {
    /// The server itself.
    pub fn internal() -> Self {
        Caller { principal: "byname".into(), standing: Standing::Full }
    }
}

/// The rights of DESIGN section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Ask where something is.
    Find,
    /// See that it is there.
    List,
    /// See all of it.
    Read,
    /// Make something beneath it.
    Add,
    /// Change it.
    Modify,
    /// Remove it.
    Delete,
    /// Start and stop it.
    Launch,
    /// Say that one is it.
    Advertise,
    /// Everything else.
    Admin,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Right::Find => "find",
            Right::List => "list",
            Right::Read => "read",
            Right::Add => "add",
            Right::Modify => "modify",
            Right::Delete => "delete",
            Right::Launch => "launch",
            Right::Advertise => "advertise",
            Right::Admin => "admin",
        })
    }
}

/// Decides who a request comes from. One gate serves every front end.
#[derive(Clone)]
pub struct Gate {
    token: String,
}

impl Gate {
    /// A gate that takes this bearer token over TCP (the content of `DIR/token`).
    pub fn new(token: impl Into<String>) -> Self {
        Gate { token: token.into() }
    }

    /// Who the caller is, from what the connection and the headers say. `host` is the Host header or `:authority`,
    /// `origin` the Origin header, `authorization` the Authorization header, as sent.
    ///
    /// Over TCP the Host must name this host and a foreign Origin is refused: otherwise any web page that a user
    /// visits could talk to the server behind the user's back (DNS rebinding, cross-site requests).
    pub fn admit(
        &self,
        peer: Peer,
        host: Option<&str>,
        origin: Option<&str>,
        authorization: Option<&str>,
    ) -> Result<Caller> {
        match peer {
            Peer::Internal => return Ok(Caller::internal()),
            Peer::Socket { uid, .. } => {
                return Ok(Caller { principal: format!("uid:{uid}"), standing: Standing::Full });
            }
            Peer::Remote => {
                return Err(Error::new(
                    Code::Denied,
                    "this server answers only callers on its own host until it has certificates",
                ));
            }
            Peer::Loopback => {}
        }
        if !host.is_some_and(|h| is_loopback_host(host_of(h))) {
            return Err(Error::new(
                Code::Denied,
                "the Host header must name this host (localhost, 127.0.0.1 or [::1]), so that web pages cannot reach the server under another name",
            )
            .field("Host"));
        }
        if let Some(origin) = origin {
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            let same = own.zip(host).is_some_and(|(o, h)| o.eq_ignore_ascii_case(h));
            if !same {
                return Err(
                    Error::new(Code::Denied, "requests from web pages of another origin are refused").field("Origin")
                );
            }
        }
        match authorization {
            None => Ok(Caller { principal: "anyone".into(), standing: Standing::ReadOnly }),
            Some(header) => {
                let token = header
                    .split_once(' ')
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                    .map(|(_, t)| t.trim());
                match token {
                    Some(token) if same_secret(token.as_bytes(), self.token.as_bytes()) => {
                        Ok(Caller { principal: "token".into(), standing: Standing::Full })
                    }
                    Some(_) => Err(Error::new(
                        Code::Unauthenticated,
                        "the bearer token is not this server's: it is in the file `token` of its data directory",
                    )
                    .field("Authorization")),
                    None => Err(Error::new(Code::Unauthenticated, "the Authorization header must be `Bearer TOKEN`")
                        .field("Authorization")),
                }
            }
        }
    }
}

/// What the gate said to one request. The listener puts it into the request's extensions, and every front end on the
/// port reads it there: the error is answered in the front end's own form.
#[derive(Clone, Debug)]
pub struct Admission(pub Result<Caller>);

/// The host part of `host:port`, without the brackets of IPv6.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.contains(':') => host,
        _ => authority,
    }
}

fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Compares without telling by the time it takes where the difference is.
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_what_before_identity() {
        let gate = Gate::new("secret");
        let admit =
            |peer, host, origin, auth| gate.admit(peer, host, origin, auth).map(|c| c.standing).map_err(|e| e.code());
        use Peer::*;
        use Standing::*;
        let socket = Socket { uid: 1, pid: None };
        for (peer, host, origin, auth, expect) in [
            (socket, None, None, None, Ok(Full)),
            (Loopback, Some("127.0.0.1:7600"), None, None, Ok(ReadOnly)),
            (Loopback, Some("localhost"), None, Some("Bearer secret"), Ok(Full)),
            (Loopback, Some("[::1]:7600"), None, Some("bearer secret"), Ok(Full)),
            (Loopback, Some("127.0.0.1:7600"), None, Some("Bearer wrong!"), Err(Code::Unauthenticated)),
            (Loopback, Some("127.0.0.1:7600"), None, Some("Basic c2VjcmV0"), Err(Code::Unauthenticated)),
            (Loopback, Some("evil.example"), None, Some("Bearer secret"), Err(Code::Denied)),
            (Loopback, Some("127.0.0.1.evil.example"), None, None, Err(Code::Denied)),
            (Loopback, None, None, None, Err(Code::Denied)),
            (Loopback, Some("127.0.0.1:7600"), Some("http://evil.example"), None, Err(Code::Denied)),
            (Loopback, Some("127.0.0.1:7600"), Some("null"), Some("Bearer secret"), Err(Code::Denied)),
            (Loopback, Some("127.0.0.1:7600"), Some("http://127.0.0.1:7600"), None, Ok(ReadOnly)),
            (Loopback, Some("127.0.0.1:7600"), Some("http://127.0.0.1:80"), None, Err(Code::Denied)),
            (Remote, Some("127.0.0.1:7600"), None, Some("Bearer secret"), Err(Code::Denied)),
        ] {
            assert_eq!(admit(peer, host, origin, auth), expect, "{peer:?} {host:?} {origin:?} {auth:?}");
        }
    }
}
