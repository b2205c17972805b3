//! Where the command line finds a server, and what it shows it to be let in.
//!
//! The order is: `--server`, BYNAME_SERVER, `/etc/byname/client.toml`, the host's own server at
//! `/run/byname/byname.sock`, then the socket of this user's `byname dev`, then that of the host's agent at
//! `/run/byname/agent.sock` and of this user's.
//!
//! What is shown there, the first of these: `--token-file`; the session of `--as`; BYNAME_TOKEN or BYNAME_TOKEN_FILE; the
//! last session that `byname login` gave at that server, unless `--cert` asks for a certificate; a client certificate
//! (`--cert`, BYNAME_IDENTITY); the token of the server that this user started there, which the server notes down with
//! [`remember`]. The unix socket needs none of them: the kernel says who calls, and a session is used there only when it
//! is asked for.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use byname_api::identity::Session;
use byname_api::span::Timestamp;
use byname_api::{Code, Error, Result};
use byname_name::Name;

use crate::environment::{Environment, system_config_dir};
use crate::sessions::{self, Found};

/// A server's address, how one knows it, and what it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// As in BYNAME_SERVER: `unix:///path`, `http://host:port` or `https://host:port`, several with commas.
    pub servers: String,
    /// The bearer token, when one is known.
    pub token: Option<String>,
    /// The root certificates of the server's trust domain, when they are known.
    pub ca: Option<PathBuf>,
    /// The client certificate.
    pub identity: Option<Identity>,
    /// Whose session the token is of.
    pub signed_in: Option<Name>,
    /// Whose session has ended and is therefore not used.
    pub ended: Option<Name>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The chain, PEM.
    pub chain: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Identity {
    /// A folder as `byname cert get` writes it, or the file of a chain with its key beside it.
    pub(crate) fn at(path: &Path, key: Option<&Path>) -> Self {
        let (chain, beside) = match path.is_dir() {
            true => (path.join("cert.pem"), path.join("key.pem")),
            false => (path.to_owned(), path.with_file_name("key.pem")),
        };
        Identity { chain, key: key.map_or(beside, Path::to_owned) }
    }
}

/// What flags say about the server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    /// `--server`.
    pub server: Option<&'a str>,
    /// `--token-file`.
    pub token_file: Option<&'a Path>,
    /// `--ca`.
    pub ca: Option<&'a Path>,
    /// `--cert`.
    pub cert: Option<&'a Path>,
    /// `--key`.
    pub key: Option<&'a Path>,
    /// `--as`.
    pub principal: Option<&'a Name>,
    /// Where a session is used that nobody asked for by name.
    pub sessions: Sessions,
}

/// Where the last session of a server is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// Over TCP: over the socket of a host its admin stays the admin.
    #[default]
    Tcp,
    /// Everywhere: the command is about the session.
    Everywhere,
    /// Nowhere: the command gets one, or is nobody's.
    Nowhere,
}

/// What `/etc/byname/client.toml` may say.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientConfig {
    /// As BYNAME_SERVER.
    pub server: Option<String>,
    /// As BYNAME_TOKEN_FILE.
    pub token_file: Option<PathBuf>,
    /// As BYNAME_ROOT.
    pub root: Option<String>,
    /// As BYNAME_CA.
    pub ca: Option<PathBuf>,
    /// As BYNAME_IDENTITY.
    pub identity: Option<PathBuf>,
}

/// What this host's files say; a struct so that tests bring their own.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    config: PathBuf,
    system_socket: PathBuf,
    agent_socket: PathBuf,
}

#[cfg(test)]
impl Places {
    /// The files of a host that is one folder.
    pub(crate) fn within(dir: &Path) -> Self {
        Places {
            config: dir.join("client.toml"),
            system_socket: dir.join("system.sock"),
            agent_socket: dir.join("agent.sock"),
        }
    }
}

impl Default for Places {
    fn default() -> Self {
        Places {
            config: system_config_dir().join("client.toml"),
            system_socket: PathBuf::from("/run/byname/byname.sock"),
            agent_socket: PathBuf::from("/run/byname/agent.sock"),
        }
    }
}

/// Reads `/etc/byname/client.toml`; nothing when there is none.
pub(crate) fn client_config(places: &Places) -> Result<ClientConfig> {
    let text = match fs::read_to_string(&places.config) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ClientConfig::default()),
        Err(e) => return Err(cannot_read(&places.config, &e)),
    };
    toml::from_str(&text).map_err(|e| {
        Error::new(Code::InvalidArgument, format!("{}: {}", places.config.display(), e.to_string().trim_end()))
    })
}

/// Who said what relative names are read against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// `--root`.
    Flag,
    /// BYNAME_ROOT.
    Environment,
    /// `byname context`.
    Context,
    /// `client.toml`.
    File,
    /// Nobody: it is the root.
    Nobody,
}

impl Said {
    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Said::Flag => "flag",
            Said::Environment => "environment",
            Said::Context => "context",
            Said::File => "file",
            Said::Nobody => "default",
        }
    }
}

/// What relative names are read against: `--root`, BYNAME_ROOT, what `byname context` noted, `client.toml`, the root.
///
/// # Errors
///
/// `invalid-name` for one that is no name.
pub(crate) fn context(env: &Environment, places: &Places, root: Option<&str>) -> Result<(Name, Said)> {
    let parsed = |text: &str| Name::parse(text).map_err(|e| Error::from(e).field("root"));
    for (given, said) in [(root, Said::Flag), (env.root.as_deref(), Said::Environment)] {
        if let Some(text) = given {
            return Ok((parsed(text)?, said));
        }
    }
    if let Some(note) = context_path(env)
        && let Ok(text) = fs::read_to_string(&note)
    {
        let name = Name::parse(text.strip_suffix('\n').unwrap_or(&text));
        let advice = format!("{} (`byname context --unset` forgets it)", note.display());
        return Ok((name.map_err(|e| Error::from(e).within(advice))?, Said::Context));
    }
    match client_config(places)?.root {
        Some(text) => Ok((parsed(&text)?, Said::File)),
        None => Ok((Name::root(), Said::Nobody)),
    }
}

/// Notes down, for later commands of this user, what relative names are read against; none forgets it.
///
/// # Errors
///
/// The user's state folder cannot be written, or is not known.
pub(crate) fn note_context(env: &Environment, name: Option<&Name>) -> io::Result<()> {
    let unknown = || io::Error::other("neither HOME nor XDG_STATE_HOME is set");
    let note = context_path(env).ok_or_else(unknown)?;
    match name {
        Some(name) => write_note(&note, name.as_str().as_bytes()),
        None => match fs::remove_file(note) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        },
    }
}

fn context_path(env: &Environment) -> Option<PathBuf> {
    Some(env.state_dir()?.join("context"))
}

/// Finds out where to ask, for a process that is nobody's command: it uses no session.
///
/// # Errors
///
/// As [`for_command`].
pub(crate) fn target(
    env: &Environment,
    places: &Places,
    server: Option<&str>,
    token_file: Option<&Path>,
) -> Result<Target> {
    let asked = Asked { server, token_file, sessions: Sessions::Nowhere, ..Asked::default() };
    for_command(env, places, &asked, Timestamp(0))
}

/// Finds out where to ask and what to show there.
///
/// # Errors
///
/// `unavailable` with what to do when no server is known; `invalid-argument` for a token file that cannot be read;
/// `unauthenticated` when there is no session of the principal that is asked for.
pub(crate) fn for_command(env: &Environment, places: &Places, asked: &Asked<'_>, now: Timestamp) -> Result<Target> {
    let config = client_config(places)?;
    let servers = match asked.server.map(str::to_owned).or_else(|| env.server.clone()).or(config.server) {
        Some(given) => given,
        None => local_server(env, places)?,
    };
    let each = || servers.split(',');
    let noted_ca = || each().find_map(|server| noted(&note_path(env, server, CA_NOTE)?));
    let ca = asked.ca.map(Path::to_owned).or_else(|| env.ca.clone()).or(config.ca).or_else(noted_ca);
    let identity = asked.cert.map(Path::to_owned).or_else(|| env.identity.clone()).or(config.identity);
    let identity = identity.map(|path| Identity::at(&path, asked.key));
    // `byname cert get` writes the roots beside the certificate.
    let beside = || Some(identity.as_ref()?.chain.with_file_name("bundle.pem")).filter(|bundle| bundle.exists());
    let ca = ca.or_else(beside);
    let mut target = Target { ca, identity, ..Target::default() };
    // Over the socket the kernel says who calls, and only what is asked for by name is shown instead.
    let local = each().all(|server| server.trim().starts_with('/') || server.trim().starts_with("unix:"));
    if let Some(file) = asked.token_file {
        target.token = Some(read_token(file)?);
    } else if let Some(principal) = asked.principal {
        match sessions::find(env, &servers, Some(principal), now) {
            Found::Session(session) => target.show(session),
            Found::Ended(name) => return Err(no_session(&name, "has ended", &[])),
            Found::Nothing => {
                return Err(no_session(principal, "is not there", &sessions::principals(env, &servers)));
            }
        }
    } else if let Some(token) = env.token.as_ref().filter(|_| !local) {
        target.token = Some(token.trim().to_owned());
    } else if let Some(file) = env.token_file.as_deref().or(config.token_file.as_deref()).filter(|_| !local) {
        target.token = Some(read_token(file)?);
    } else if asked.cert.is_none() {
        let used = match asked.sessions {
            Sessions::Tcp => !local,
            Sessions::Everywhere => true,
            Sessions::Nowhere => false,
        };
        match sessions::find(env, &servers, None, now) {
            Found::Session(session) if used => target.show(session),
            Found::Ended(name) if used => target.ended = Some(name),
            _ => {}
        }
    }
    if target.token.is_none() && target.identity.is_none() {
        target.token = each().find_map(|server| recall(env, server));
    }
    Ok(Target { servers, ..target })
}

impl Target {
    fn show(&mut self, session: Session) {
        self.token = Some(session.token.0);
        self.signed_in = Some(session.principal);
    }
}

fn no_session(principal: &Name, what: &str, others: &[Name]) -> Error {
    let others: Vec<&str> = others.iter().map(Name::as_str).collect();
    let others = if others.is_empty() { String::new() } else { format!(" (there is one of {})", others.join(", ")) };
    let message =
        format!("the session of `{principal}` at this server {what}{others}: `byname login {principal}` gives one");
    Error::new(Code::Unauthenticated, message)
}

/// Notes down, for later commands of the same user, where the agent of this user listens.
///
/// # Errors
///
/// The folder cannot be written.
pub(crate) fn remember_agent(env: &Environment, socket: &Path) -> io::Result<()> {
    match agent_note(env) {
        Some(note) => write_note(&note, socket.as_os_str().as_encoded_bytes()),
        None => Ok(()),
    }
}

/// Forgets it, if the note is still about this socket.
pub(crate) fn forget_agent(env: &Environment, socket: &Path) {
    if let Some(note) = agent_note(env)
        && noted(&note).is_some_and(|path| path == socket)
    {
        let _ = fs::remove_file(note);
    }
}

fn agent_note(env: &Environment) -> Option<PathBuf> {
    Some(env.state_dir()?.join("agent"))
}

/// Notes down, for later commands of the same user, that the server with this data directory listens here. Called by
/// a server after it has bound its port; the note holds the path of the token's file, not the token.
///
/// # Errors
///
/// The folder cannot be written. A server goes on without: its user then gives the token file by hand.
pub(crate) fn remember(env: &Environment, listen: SocketAddr, token_file: &Path) -> io::Result<()> {
    note(env, listen, "", token_file)
}

/// The same for the file that holds the root certificates of the server's trust domain.
///
/// # Errors
///
/// As [`remember`].
pub(crate) fn remember_ca(env: &Environment, listen: SocketAddr, ca_file: &Path) -> io::Result<()> {
    note(env, listen, CA_NOTE, ca_file)
}

/// What the note about root certificates has behind its name.
const CA_NOTE: &str = ".ca";

fn note(env: &Environment, listen: SocketAddr, suffix: &str, file: &Path) -> io::Result<()> {
    let Some(note) = note_at(env, listen.ip(), listen.port(), suffix) else { return Ok(()) };
    let file = fs::canonicalize(file)?;
    write_note(&note, std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()))
}

/// Writes a line for this user only.
pub(crate) fn write_note(note: &Path, line: &[u8]) -> io::Result<()> {
    write_file(note, &[line, b"\n"].concat(), 0o600)
}

/// Writes a file with this mode. Folders that are missing are made for this user only.
///
/// # Errors
///
/// The folder cannot be written; then the file is as it was.
pub(crate) fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    // The folder of a bare file name is the present one.
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Written beside and renamed, so that a reader never sees half of it.
    let fresh = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // What an earlier process of this number left there may have another mode.
    let _ = fs::remove_file(&fresh);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&fresh, path)
}

/// Takes the notes of [`remember`] back, when they are still this server's. Called by a server that ends.
pub(crate) fn forget(env: &Environment, listen: SocketAddr, token_file: &Path) {
    let Some(note) = note_at(env, listen.ip(), listen.port(), "") else { return };
    let own = fs::canonicalize(token_file).ok();
    if own.is_some() && noted(&note) == own {
        let _ = fs::remove_file(note);
        let _ = note_at(env, listen.ip(), listen.port(), CA_NOTE).map(fs::remove_file);
    }
}

/// The token of the server that this user started at `server`, when it is on this host and was noted down.
fn recall(env: &Environment, server: &str) -> Option<String> {
    let token = fs::read_to_string(noted(&note_path(env, server, "")?)?).ok()?;
    Some(token.trim().to_owned()).filter(|t| !t.is_empty())
}

fn noted(note: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(note).ok()?;
    Some(PathBuf::from(text.strip_suffix('\n').unwrap_or(&text)))
}

/// Where a note about the server at this URL is, when it is on this host.
fn note_path(env: &Environment, server: &str, suffix: &str) -> Option<PathBuf> {
    let (ip, port) = loopback(server)?;
    note_at(env, ip, port, suffix)
}

/// Where the note about a port is. Servers on any address of this host are reached by any of its loopback names, so
/// one note a port would do; the address keeps apart servers that share a port on different loopback addresses.
fn note_at(env: &Environment, ip: IpAddr, port: u16, suffix: &str) -> Option<PathBuf> {
    let ip = if ip.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { ip };
    Some(env.state_dir()?.join("known").join(format!("{ip}_{port}{suffix}")))
}

/// The address and port of a URL on this host.
fn loopback(server: &str) -> Option<(IpAddr, u16)> {
    let rest = server.trim().strip_prefix("http://").or_else(|| server.trim().strip_prefix("https://"))?;
    let authority = rest.split('/').next()?;
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return address.ip().is_loopback().then_some((address.ip(), address.port()));
    }
    let (host, port) = authority.rsplit_once(':')?;
    host.eq_ignore_ascii_case("localhost").then_some((IpAddr::from([127, 0, 0, 1]), port.parse().ok()?))
}

fn local_server(env: &Environment, places: &Places) -> Result<String> {
    if places.system_socket.exists() {
        return Ok(format!("unix://{}", places.system_socket.display()));
    }
    if let Some(dir) = env.dev_dir() {
        #[derive(Deserialize)]
        struct Endpoints {
            socket: Option<String>,
        }
        let found = fs::read(dir.join("endpoints.json")).ok();
        let socket = found.and_then(|text| serde_json::from_slice::<Endpoints>(&text).ok()?.socket);
        if let Some(socket) = socket {
            return Ok(if socket.starts_with("unix:") { socket } else { format!("unix://{socket}") });
        }
    }
    // An agent of this host answers from its cache and asks its servers for the rest.
    let agents = [Some(places.agent_socket.clone()), agent_note(env).and_then(|note| noted(&note))];
    if let Some(socket) = agents.into_iter().flatten().find(|socket| socket.exists()) {
        return Ok(format!("unix://{}", socket.display()));
    }
    Err(Error::new(
        Code::Unavailable,
        "no server is known: start one with `byname dev`, or say where it is with --server or BYNAME_SERVER \
         (unix:///path or https://host:port)",
    ))
}

fn read_token(file: &Path) -> Result<String> {
    let token = fs::read_to_string(file).map_err(|e| cannot_read(file, &e))?;
    Ok(token.trim().to_owned())
}

fn cannot_read(file: &Path, error: &io::Error) -> Error {
    Error::new(Code::InvalidArgument, format!("cannot read {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places::within(dir)
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let mut env = Environment::with_state(dir.path());
        let servers = |env: &Environment, flag: Option<&str>| target(env, &places, flag, None).map(|t| t.servers);

        assert_eq!(servers(&env, None).unwrap_err().code(), Code::Unavailable);
        let own = dir.path().join("own-agent.sock");
        fs::write(&own, "").unwrap();
        remember_agent(&env, &own).unwrap();
        assert_eq!(servers(&env, None).unwrap(), format!("unix://{}", own.display()));
        forget_agent(&env, &dir.path().join("another.sock"));
        fs::write(&places.agent_socket, "").unwrap();
        assert_eq!(servers(&env, None).unwrap(), format!("unix://{}", places.agent_socket.display()));
        fs::remove_file(&places.agent_socket).unwrap();
        forget_agent(&env, &own);
        assert_eq!(servers(&env, None).unwrap_err().code(), Code::Unavailable);
        let dev = env.dev_dir().unwrap();
        fs::create_dir_all(&dev).unwrap();
        fs::write(dev.join("endpoints.json"), r#"{"api": "http://127.0.0.1:1", "socket": "/d/byname.sock"}"#).unwrap();
        assert_eq!(servers(&env, None).unwrap(), "unix:///d/byname.sock");
        fs::write(&places.system_socket, "").unwrap();
        assert_eq!(servers(&env, None).unwrap(), format!("unix://{}", places.system_socket.display()));
        fs::write(&places.config, "server = 'http://file:1'").unwrap();
        assert_eq!(servers(&env, None).unwrap(), "http://file:1");
        env.server = Some("http://env:1".into());
        assert_eq!(servers(&env, None).unwrap(), "http://env:1");
        assert_eq!(servers(&env, Some("http://flag:1,http://flag:2")).unwrap(), "http://flag:1,http://flag:2");
    }

    #[test]
    fn the_token_of_ones_own_server_is_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let token = dir.path().join("token");
        fs::write(&token, "secret\n").unwrap();
        let listen: SocketAddr = "127.0.0.1:7600".parse().unwrap();
        let found = |server: &str| target(&env, &places(dir.path()), Some(server), None).unwrap().token;

        assert_eq!(found("http://127.0.0.1:7600"), None);
        remember(&env, listen, &token).unwrap();
        assert_eq!(found("http://127.0.0.1:7600").as_deref(), Some("secret"));
        assert_eq!(found("http://localhost:7600/").as_deref(), Some("secret"));
        assert_eq!(found("http://127.0.0.1:7601"), None);
        assert_eq!(found("http://192.0.2.1:7600"), None, "a token never leaves this host");
        forget(&env, listen, &dir.path().join("client.toml"));
        assert!(found("http://127.0.0.1:7600").is_some(), "the note of another server stays");
        forget(&env, listen, &token);
        assert_eq!(found("http://127.0.0.1:7600"), None);
    }

    #[test]
    fn a_given_token_beats_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("given");
        fs::write(&file, " from-file \n").unwrap();
        let mut env = Environment::with_state(dir.path());
        env.token = Some("from-env".into());
        let server = Some("http://127.0.0.1:1");
        let token = |file| target(&env, &places(dir.path()), server, file).unwrap().token;
        assert_eq!(token(None).as_deref(), Some("from-env"));
        assert_eq!(token(Some(file.as_path())).as_deref(), Some("from-file"));
        let socket = target(&env, &places(dir.path()), Some("unix:///x"), None).unwrap();
        assert_eq!(socket.token, None, "a token that has ended must not keep the admin out");
    }

    #[test]
    fn sessions_are_used_over_tcp_and_over_the_socket_only_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut env = Environment::with_state(dir.path());
        let liu: Name = "/people/liu".parse().unwrap();
        let (https, unix) = ("https://127.0.0.1:7600", "unix:///run/x.sock");
        for server in [https, unix] {
            let token = byname_api::identity::Secret("of-the-session".into());
            let session = Session { token, principal: liu.clone(), expires: Timestamp(100) };
            sessions::keep(&env, server, &session).unwrap();
        }
        let file = dir.path().join("token");
        fs::write(&file, "noted").unwrap();
        remember(&env, "127.0.0.1:7600".parse().unwrap(), &file).unwrap();
        let cert = dir.path().join("cert.pem");
        let ask = |env: &Environment, asked: Asked<'_>, now: u64| {
            for_command(env, &places(dir.path()), &asked, Timestamp(now)).map(|t| t.token.unwrap_or_default())
        };
        let tcp = Asked { server: Some(https), ..Asked::default() };
        let socket = Asked { server: Some(unix), ..Asked::default() };
        assert_eq!(ask(&env, tcp, 1).unwrap(), "of-the-session");
        assert_eq!(ask(&env, socket, 1).unwrap(), "");
        assert_eq!(ask(&env, Asked { sessions: Sessions::Everywhere, ..socket }, 1).unwrap(), "of-the-session");
        let signing_in = Asked { sessions: Sessions::Nowhere, ..tcp };
        assert_eq!(ask(&env, signing_in, 1).unwrap(), "noted", "an old session must not keep a new one away");
        assert_eq!(ask(&env, Asked { principal: Some(&liu), ..socket }, 1).unwrap(), "of-the-session");
        assert_eq!(ask(&env, tcp, 100).unwrap(), "noted", "one that has ended is not shown");
        let ended = for_command(&env, &places(dir.path()), &tcp, Timestamp(100)).unwrap().ended;
        assert_eq!(ended, Some(liu.clone()));
        let error = ask(&env, Asked { principal: Some(&liu), ..tcp }, 100).unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        assert_eq!(ask(&env, Asked { cert: Some(&cert), ..tcp }, 1).unwrap(), "", "a certificate that is asked for");
        assert_eq!(ask(&env, Asked { token_file: Some(&file), ..tcp }, 1).unwrap(), "noted");
        env.token = Some("from-env".into());
        assert_eq!(ask(&env, tcp, 1).unwrap(), "from-env");
        assert_eq!(ask(&env, Asked { principal: Some(&liu), ..tcp }, 1).unwrap(), "of-the-session");
        assert_eq!(target(&env, &places(dir.path()), Some(https), None).unwrap().token.unwrap(), "from-env");
    }

    #[test]
    fn a_server_s_certificates_are_known_from_its_note_and_an_identity_is_a_folder_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut env = Environment::with_state(dir.path());
        let (token, ca) = (dir.path().join("token"), dir.path().join("ca.pem"));
        fs::write(&token, "t").unwrap();
        fs::write(&ca, "").unwrap();
        let listen: SocketAddr = "127.0.0.1:7600".parse().unwrap();
        let found = |env: &Environment, asked: Asked<'_>| {
            let asked = Asked { server: Some("https://localhost:7600"), ..asked };
            for_command(env, &places(dir.path()), &asked, Timestamp(0)).unwrap()
        };
        assert_eq!(found(&env, Asked::default()).ca, None);
        remember(&env, listen, &token).unwrap();
        remember_ca(&env, listen, &ca).unwrap();
        assert_eq!(found(&env, Asked::default()).ca.unwrap(), fs::canonicalize(&ca).unwrap());
        forget(&env, listen, &token);
        assert_eq!(found(&env, Asked::default()).ca, None);
        env.identity = Some(dir.path().to_owned());
        let identity = found(&env, Asked::default()).identity.unwrap();
        assert_eq!((identity.chain, identity.key), (dir.path().join("cert.pem"), dir.path().join("key.pem")));
        let (chain, key) = (dir.path().join("c.crt"), dir.path().join("k"));
        let identity = found(&env, Asked { cert: Some(&chain), key: Some(&key), ..Asked::default() }).identity.unwrap();
        assert_eq!((identity.chain, identity.key), (chain, key));
    }
}
