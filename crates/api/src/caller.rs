//! Who asks, and what asking may do.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use byname_name::Name;

use crate::error::{Code, Error, Result};
use crate::object::{InstanceId, ObjectId};
use crate::span::Timestamp;

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
    /// TCP.
    Tcp {
        /// Where from.
        address: IpAddr,
        /// Whether it is TLS.
        encrypted: bool,
    },
}

impl Peer {
    /// Whether it is TCP from this host.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Peer::Tcp { address, .. } if address.to_canonical().is_loopback())
    }
}

/// A client certificate that was checked: it leads to the trust domain's root and holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub name: Name,
    /// The immutable id of the object of that name when it was made.
    pub id: Option<ObjectId>,
    /// The instance that it was made for.
    pub instance: Option<InstanceId>,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// SHA-256 of it.
    pub fingerprint: [u8; 32],
    /// When it was made.
    pub issued: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// What a front end knows of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where it comes from.
    pub peer: Peer,
    /// The client's certificate, if it showed one.
    pub certificate: Option<Arc<Certificate>>,
}

impl From<Peer> for Connection {
    fn from(peer: Peer) -> Self {
        Connection { peer, certificate: None }
    }
}

/// An admitted caller: what every operation is authorised for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The principal, as it appears in stamps and in the audit log: a name, or `uid:1000`, `token`, `anyone`, `byname`.
    pub principal: String,
    /// The same as a name, when it is an object of the tree.
    pub name: Option<Name>,
    /// The immutable id of the principal's object: rights bind to it.
    pub id: Option<ObjectId>,
    /// The instance, when the caller is a launched program.
    pub instance: Option<InstanceId>,
    /// Whether access control lists are asked at all.
    pub standing: Standing,
    /// How it proved who it is.
    pub mechanism: Mechanism,
    /// The proof, as the audit log names it: `pid 17`, `certificate 5f3a…`, `session 9c…`. Never a secret.
    pub evidence: Option<Arc<str>>,
    /// Where it comes from, over TCP.
    pub address: Option<IpAddr>,
    /// When the proof ends.
    pub expires: Option<Timestamp>,
    /// When the proof was given, where that is known: what was revoked later does not hold any more.
    pub issued: Option<Timestamp>,
    /// The number of the session, when it is one.
    pub session: Option<u64>,
    /// The server that admitted the caller, when another one passed the request on.
    pub via: Option<Name>,
}

/// The header in which a server says for whom it asks.
pub const PASSED_ON: &str = "byname-caller";

/// A caller on its way between two servers. What a later version adds is not looked at.
#[derive(Serialize, Deserialize)]
struct PassedOn {
    principal: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<ObjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<InstanceId>,
    standing: Standing,
    mechanism: Mechanism,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
}

/// The field of the error that a name server hears which does not belong to the cluster any more.
pub const LEFT_OUT: &str = "server";

/// The number of a name server, by its name `/byname/servers/NUMBER`.
pub fn server_number(name: &str) -> Option<u64> {
    name.strip_prefix("/byname/servers/")?.parse().ok()
}

/// Which rules hold for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It may do everything: the server's own user on its host, and the server itself.
    Full,
    /// It has proved who it is, and access control lists say what it may do.
    Authenticated,
    /// It has not said who it is.
    Anonymous,
}

/// How a caller proved who it is (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// It is the server itself.
    Internal,
    /// Peer credentials of the unix socket.
    Socket,
    /// The bearer token in the server's data directory.
    Token,
    /// A client certificate.
    Certificate,
    /// A password (OPAQUE).
    Password,
    /// A passkey or security key (WebAuthn).
    Passkey,
    /// A launch ticket, or the credential it was exchanged for.
    Ticket,
    /// A join token.
    Join,
    /// A look-up in the DNS that came over TCP or with a cookie: what is sent to its address arrives there, and that is
    /// all that is known.
    LookUp,
    /// Not at all.
    None,
}

impl Mechanism {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mechanism::Internal => "internal",
            Mechanism::Socket => "socket",
            Mechanism::Token => "token",
            Mechanism::Certificate => "certificate",
            Mechanism::Password => "password",
            Mechanism::Passkey => "passkey",
            Mechanism::Ticket => "ticket",
            Mechanism::Join => "join",
            Mechanism::LookUp => "look-up",
            Mechanism::None => "none",
        }
    }

    /// Every mechanism.
    pub const ALL: [Mechanism; 10] = [
        Mechanism::Internal,
        Mechanism::Socket,
        Mechanism::Token,
        Mechanism::Certificate,
        Mechanism::Password,
        Mechanism::Passkey,
        Mechanism::Ticket,
        Mechanism::Join,
        Mechanism::LookUp,
        Mechanism::None,
    ];
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Mechanism {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Mechanism::ALL.into_iter().find(|m| m.as_str() == text);
        found.ok_or_else(|| Error::invalid("mechanism", "is none that this server knows"))
    }
}

impl Caller {
    /// The server itself.
    pub fn internal() -> Self {
        Caller::full("byname", Mechanism::Internal)
    }

    /// Somebody who may do everything.
    pub fn full(principal: impl Into<String>, mechanism: Mechanism) -> Self {
        Caller { standing: Standing::Full, mechanism, ..Caller::called(principal.into()) }
    }

    /// A local user of the server's host, by the unix socket.
    pub fn local(uid: u32, pid: Option<u32>) -> Self {
        let evidence = pid.map(|pid| format!("pid {pid}").into());
        Caller { evidence, ..Caller::full(format!("uid:{uid}"), Mechanism::Socket) }
    }

    /// Somebody who has not said who it is.
    pub fn anonymous() -> Self {
        Caller { standing: Standing::Anonymous, mechanism: Mechanism::None, ..Caller::called("anyone".into()) }
    }

    /// Somebody who has not said who it is and looks a name up in the DNS, from an address that is its own. It may start
    /// what says so (`dns_start`), and else do what `anyone` may.
    pub fn by_look_up(address: IpAddr) -> Self {
        Caller { mechanism: Mechanism::LookUp, address: Some(address), ..Caller::anonymous() }
    }

    /// An authenticated principal of the tree.
    pub fn authenticated(name: &Name, id: ObjectId, mechanism: Mechanism) -> Self {
        Caller { mechanism, name: Some(name.clone()), id: Some(id), ..Caller::called(name.to_string()) }
    }

    fn called(principal: String) -> Self {
        Caller {
            principal,
            name: None,
            id: None,
            instance: None,
            standing: Standing::Authenticated,
            mechanism: Mechanism::None,
            evidence: None,
            address: None,
            expires: None,
            issued: None,
            session: None,
            via: None,
        }
    }

    /// This caller as a server passes it on with a request, in the header [`PASSED_ON`].
    pub fn pass_on(&self) -> String {
        let wire = PassedOn {
            principal: self.principal.clone(),
            name: self.name.clone(),
            id: self.id,
            instance: self.instance,
            standing: self.standing,
            mechanism: self.mechanism,
            evidence: self.evidence.as_deref().map(str::to_owned),
            address: self.address,
            expires: self.expires,
            issued: self.issued,
            session: self.session,
        };
        // Plain data: it cannot fail.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// The caller that the server `via` passed on.
    ///
    /// # Errors
    ///
    /// `invalid-argument` for what no server sends.
    pub fn passed_on(header: &str, via: Name) -> Result<Caller> {
        let wrong = || Error::invalid(PASSED_ON, "is no caller that a server passed on");
        let bytes = URL_SAFE_NO_PAD.decode(header).map_err(|_| wrong())?;
        let wire: PassedOn = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        Ok(Caller {
            principal: wire.principal,
            name: wire.name,
            id: wire.id,
            instance: wire.instance,
            standing: wire.standing,
            mechanism: wire.mechanism,
            evidence: wire.evidence.map(Arc::from),
            address: wire.address,
            expires: wire.expires,
            issued: wire.issued,
            session: wire.session,
            via: Some(via),
        })
    }

    /// The number of the server that this caller is, when it is one, by its certificate.
    pub fn server(&self) -> Option<u64> {
        let proved = self.standing == Standing::Full && self.mechanism == Mechanism::Certificate;
        proved.then_some(self.principal.as_str()).and_then(server_number)
    }

    /// The same caller, or whom it passes on if it is a server and says so.
    ///
    /// # Errors
    ///
    /// `denied` when anybody but a server passes somebody on.
    pub fn on_behalf(self, header: Option<&str>) -> Result<Caller> {
        let Some(header) = header else { return Ok(self) };
        match (self.server(), Name::parse(&self.principal)) {
            (Some(_), Ok(via)) => Caller::passed_on(header, via),
            _ => Err(Error::new(Code::Denied, "only name servers pass requests on for others").field(PASSED_ON)),
        }
    }

    /// The user id of a local user.
    pub fn uid(&self) -> Option<u32> {
        self.principal.strip_prefix("uid:")?.parse().ok()
    }
}

/// The rights of DESIGN section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

impl Right {
    /// Every right.
    pub const ALL: [Right; 9] = [
        Right::Find,
        Right::List,
        Right::Read,
        Right::Add,
        Right::Modify,
        Right::Delete,
        Right::Launch,
        Right::Advertise,
        Right::Admin,
    ];
}

impl FromStr for Right {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Right::ALL.into_iter().find(|right| right.to_string() == text).ok_or_else(|| {
            let words: Vec<String> = Right::ALL.iter().map(Right::to_string).collect();
            let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            Error::invalid("rights", format!("`{shown}` is no right: it is one of {}, or all", words.join(", ")))
        })
    }
}

/// Turns what a connection or a request shows into a caller. One implementation for each kind of server; every
/// mechanism ends here.
pub trait Authenticator: Send + Sync + 'static {
    /// A process at the other end of the unix socket.
    fn local(&self, uid: u32, pid: Option<u32>) -> Result<Caller>;
    /// A bearer token: a session, or the server's own token.
    fn bearer(&self, peer: Peer, token: &str) -> Result<Caller>;
    /// A client certificate that leads to the trust domain's root.
    fn certificate(&self, peer: Peer, certificate: &Certificate) -> Result<Caller>;
    /// Nothing was shown.
    fn anonymous(&self, peer: Peer) -> Result<Caller>;
    /// Another server has admitted this caller, who may be shut out by now: it may not know that yet.
    fn passed_on(&self, _caller: &Caller) -> Result<()> {
        Ok(())
    }
    /// What was shown is refused: for the audit log and for back-off.
    fn refused(&self, _peer: Peer, _error: &Error) {}
}

/// Decides who a request comes from. One gate serves every front end.
#[derive(Clone)]
pub struct Gate(Arc<dyn Authenticator>);

impl Gate {
    /// A gate that knows one bearer token over TCP and nobody else: for tests and for servers without a tree.
    pub fn new(token: impl Into<String>) -> Self {
        Gate(Arc::new(OneToken(token.into())))
    }

    /// A gate before this authenticator.
    pub fn before(authenticator: Arc<dyn Authenticator>) -> Self {
        Gate(authenticator)
    }

    /// A connection was refused before its first request, such as for its certificate.
    pub fn refused(&self, peer: Peer, error: &Error) {
        self.0.refused(peer, error);
    }

    /// The admitted caller, or whom it passes on if it is a server and says so in the header [`PASSED_ON`].
    ///
    /// # Errors
    ///
    /// `denied` when anybody but a server passes somebody on, `unauthenticated` when whom it passes on is shut out.
    pub fn on_behalf(&self, caller: Caller, header: Option<&str>) -> Result<Caller> {
        let caller = caller.on_behalf(header)?;
        if caller.via.is_some() {
            self.0.passed_on(&caller)?;
        }
        Ok(caller)
    }

    /// Who the caller is, from what the connection and the headers say. `host` is the Host header or `:authority`,
    /// `origin` the Origin header, `authorization` the Authorization header, as sent. A bearer token goes before a
    /// certificate.
    ///
    /// Over plain TCP the Host must name this host, and a foreign Origin is always refused: otherwise any web page that a
    /// user visits could talk to the server behind the user's back (DNS rebinding, cross-site requests).
    ///
    /// # Errors
    ///
    /// `denied` for a wrong Host or Origin, and for plain TCP from elsewhere; `unauthenticated` for what proves nothing.
    pub fn admit(
        &self,
        connection: &Connection,
        host: Option<&str>,
        origin: Option<&str>,
        authorization: Option<&str>,
    ) -> Result<Caller> {
        let peer = connection.peer;
        let (address, encrypted) = match peer {
            Peer::Internal => return Ok(Caller::internal()),
            Peer::Socket { uid, pid } => {
                // Whoever shows something wants to be taken for that, and not for the local user.
                let caller = match authorization {
                    Some(header) => bearer_token(header).and_then(|token| self.0.bearer(peer, token)),
                    None => self.0.local(uid, pid),
                };
                return caller.inspect_err(|error| self.0.refused(peer, error));
            }
            Peer::Tcp { address, encrypted } => (address, encrypted),
        };
        if !encrypted && !peer.is_loopback() {
            return Err(Error::new(Code::Denied, "callers from elsewhere must use TLS: write https://"));
        }
        if !encrypted && !host.is_some_and(|h| is_loopback_host(host_of(h))) {
            return Err(Error::new(
                Code::Denied,
                "the Host header must name this host (localhost, 127.0.0.1 or [::1]), so that web pages cannot reach the server under another name",
            )
            .field("Host"));
        }
        if let Some(origin) = origin {
            let scheme = if encrypted { "https://" } else { "http://" };
            let same = origin.strip_prefix(scheme).zip(host).is_some_and(|(o, h)| o.eq_ignore_ascii_case(h));
            if !same {
                return Err(
                    Error::new(Code::Denied, "requests from web pages of another origin are refused").field("Origin")
                );
            }
        }
        let caller = match (authorization, &connection.certificate) {
            (Some(header), _) => bearer_token(header).and_then(|token| self.0.bearer(peer, token)),
            (None, Some(certificate)) => self.0.certificate(peer, certificate),
            (None, None) => self.0.anonymous(peer),
        };
        match caller {
            Ok(caller) => Ok(Caller { address: Some(address), ..caller }),
            Err(error) => {
                self.0.refused(peer, &error);
                Err(error)
            }
        }
    }

    /// Who the caller is in an old protocol over TCP that knows neither encryption nor a Host: nobody, or whose token it
    /// shows. Callers from other hosts are let in only where `from_elsewhere` says so, and then as nobody: what they
    /// would show could be read on the way.
    ///
    /// # Errors
    ///
    /// `denied` for callers from elsewhere, `unauthenticated` for a token that proves nothing.
    pub fn admit_plain(&self, peer: Peer, from_elsewhere: bool, token: Option<&str>) -> Result<Caller> {
        let here = peer.is_loopback();
        if !here && !from_elsewhere {
            return Err(Error::new(Code::Denied, "this protocol is spoken with callers on the same host only"));
        }
        if !here && token.is_some() {
            return Err(Error::new(
                Code::Denied,
                "a token is taken from callers on the same host only: it could be read",
            ));
        }
        let caller = match token {
            Some(token) => self.0.bearer(peer, token),
            None => self.0.anonymous(peer),
        };
        let address = match peer {
            Peer::Tcp { address, .. } => Some(address),
            Peer::Internal | Peer::Socket { .. } => None,
        };
        match caller {
            Ok(caller) => Ok(Caller { address, ..caller }),
            Err(error) => {
                self.0.refused(peer, &error);
                Err(error)
            }
        }
    }
}

fn bearer_token(header: &str) -> Result<&str> {
    let token =
        header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, t)| t.trim());
    token.ok_or_else(|| {
        Error::new(Code::Unauthenticated, "the Authorization header must be `Bearer TOKEN`").field("Authorization")
    })
}

/// The error of a bearer token that nobody was given.
pub fn unknown_token() -> Error {
    Error::new(
        Code::Unauthenticated,
        "the bearer token is not this server's: it is in the file `token` of its data directory, or `byname login` gives one",
    )
    .field("Authorization")
}

struct OneToken(String);

impl Authenticator for OneToken {
    fn local(&self, uid: u32, pid: Option<u32>) -> Result<Caller> {
        Ok(Caller::local(uid, pid))
    }

    fn bearer(&self, _peer: Peer, token: &str) -> Result<Caller> {
        if same_secret(token.as_bytes(), self.0.as_bytes()) {
            Ok(Caller::full("token", Mechanism::Token))
        } else {
            Err(unknown_token())
        }
    }

    fn certificate(&self, _peer: Peer, _certificate: &Certificate) -> Result<Caller> {
        Err(Error::new(Code::Unauthenticated, "this server knows no certificates"))
    }

    fn anonymous(&self, _peer: Peer) -> Result<Caller> {
        Ok(Caller::anonymous())
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
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Compares without telling by the time it takes where the difference is.
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_protocol_is_spoken_with_this_host_and_with_others_only_where_somebody_says_so() {
        let gate = Gate::new("secret");
        let admit = |address: [u8; 4], elsewhere, token| {
            let peer = Peer::Tcp { address: address.into(), encrypted: false };
            gate.admit_plain(peer, elsewhere, token).map(|c| c.standing).map_err(|e| e.code())
        };
        let (here, there) = ([127, 0, 0, 1], [192, 0, 2, 1]);
        assert_eq!(admit(here, false, None), Ok(Standing::Anonymous));
        assert_eq!(admit(here, false, Some("secret")), Ok(Standing::Full));
        assert_eq!(admit(here, false, Some("guess!")), Err(Code::Unauthenticated));
        assert_eq!(admit(there, false, None), Err(Code::Denied));
        assert_eq!(admit(there, true, None), Ok(Standing::Anonymous));
        assert_eq!(admit(there, true, Some("secret")), Err(Code::Denied));
    }

    #[test]
    fn a_server_passes_a_caller_on_whole_and_nobody_else_does() {
        let via = Name::parse("/byname/servers/2").unwrap();
        let caller = Caller {
            instance: Some(InstanceId(7)),
            evidence: Some("session 9c".into()),
            address: Some([192, 0, 2, 1].into()),
            expires: Some(Timestamp(5)),
            issued: Some(Timestamp(4)),
            session: Some(0x9c),
            ..Caller::authenticated(&Name::parse("/people/liu").unwrap(), ObjectId(3), Mechanism::Password)
        };
        let header = caller.pass_on();
        assert!(header.bytes().all(|byte| byte.is_ascii_graphic()));
        let server = Caller::full(via.to_string(), Mechanism::Certificate);
        assert_eq!(server.server(), Some(2));
        let got = server.clone().on_behalf(Some(&header)).unwrap();
        assert_eq!(got, Caller { via: Some(via), ..caller.clone() });
        assert_eq!(server.clone().on_behalf(None).unwrap(), server);
        assert_eq!(server.on_behalf(Some("?")).unwrap_err().code(), Code::InvalidArgument);
        for pretender in [caller, Caller::full("/byname/servers/2", Mechanism::Token), Caller::anonymous()] {
            assert_eq!(pretender.on_behalf(Some(&header)).unwrap_err().code(), Code::Denied);
        }
    }

    #[test]
    fn what_a_connection_and_its_headers_let_in() {
        let gate = Gate::new("secret");
        let admit = |peer: Peer, host, origin, auth| {
            gate.admit(&peer.into(), host, origin, auth).map(|c| c.standing).map_err(|e| e.code())
        };
        use Standing::*;
        let socket = Peer::Socket { uid: 1, pid: None };
        let tcp = |address: [u8; 4], encrypted| Peer::Tcp { address: address.into(), encrypted };
        let here = tcp([127, 0, 0, 1], false);
        let here_tls = tcp([127, 0, 0, 1], true);
        let (there, there_tls) = (tcp([192, 0, 2, 1], false), tcp([192, 0, 2, 1], true));
        for (peer, host, origin, auth, expect) in [
            (socket, None, None, None, Ok(Full)),
            (socket, None, None, Some("Bearer wrong!"), Err(Code::Unauthenticated)),
            (here, Some("127.0.0.1:7600"), None, None, Ok(Anonymous)),
            (here, Some("localhost"), None, Some("Bearer secret"), Ok(Full)),
            (here, Some("[::1]:7600"), None, Some("bearer secret"), Ok(Full)),
            (here, Some("127.0.0.1:7600"), None, Some("Bearer wrong!"), Err(Code::Unauthenticated)),
            (here, Some("127.0.0.1:7600"), None, Some("Basic c2VjcmV0"), Err(Code::Unauthenticated)),
            (here, Some("evil.example"), None, Some("Bearer secret"), Err(Code::Denied)),
            (here, Some("127.0.0.1.evil.example"), None, None, Err(Code::Denied)),
            (here, None, None, None, Err(Code::Denied)),
            (here, Some("127.0.0.1:7600"), Some("http://evil.example"), None, Err(Code::Denied)),
            (here, Some("127.0.0.1:7600"), Some("null"), Some("Bearer secret"), Err(Code::Denied)),
            (here, Some("127.0.0.1:7600"), Some("http://127.0.0.1:7600"), None, Ok(Anonymous)),
            (here, Some("127.0.0.1:7600"), Some("http://127.0.0.1:80"), None, Err(Code::Denied)),
            (here, Some("127.0.0.1:7600"), Some("https://127.0.0.1:7600"), None, Err(Code::Denied)),
            (there, Some("127.0.0.1:7600"), None, Some("Bearer secret"), Err(Code::Denied)),
            (here_tls, Some("names.example"), None, None, Ok(Anonymous)),
            (there_tls, Some("names.example"), Some("https://names.example"), Some("Bearer secret"), Ok(Full)),
            (there_tls, Some("names.example"), Some("https://evil.example"), Some("Bearer secret"), Err(Code::Denied)),
        ] {
            assert_eq!(admit(peer, host, origin, auth), expect, "{peer:?} {host:?} {origin:?} {auth:?}");
        }
    }
}
