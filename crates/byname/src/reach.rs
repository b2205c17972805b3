//! Where the command line finds a server, and what it shows it to be let in.
//!
//! The order is: `--server`, BYNAME_SERVER, `/etc/byname/client.toml`, the host's own server at
//! `/run/byname/byname.sock`, then the socket of this user's `byname dev`. The unix socket needs no token: the kernel
//! says who calls. For TCP on this host the token comes from `--token-file`, BYNAME_TOKEN or BYNAME_TOKEN_FILE, or
//! else from the data directory of the server that this user started there, which the server notes down with
//! [`remember`].

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use byname_api::{Code, Error, Result};
use byname_name::Name;

use crate::environment::{Environment, system_config_dir};

/// A server's address and the token for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As in BYNAME_SERVER: `unix:///path` or `http://host:port`, several with commas.
    pub servers: String,
    /// The bearer token, when one is known.
    pub token: Option<String>,
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
}

/// What this host's files say; a struct so that tests bring their own.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    config: PathBuf,
    system_socket: PathBuf,
}

#[cfg(test)]
impl Places {
    /// The files of a host that is one folder.
    pub(crate) fn within(dir: &Path) -> Self {
        Places { config: dir.join("client.toml"), system_socket: dir.join("system.sock") }
    }
}

impl Default for Places {
    fn default() -> Self {
        Places {
            config: system_config_dir().join("client.toml"),
            system_socket: PathBuf::from("/run/byname/byname.sock"),
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

/// Finds out where to ask.
///
/// # Errors
///
/// `unavailable` with what to do when no server is known; `invalid-argument` for a token file that cannot be read.
pub(crate) fn target(
    env: &Environment,
    places: &Places,
    server: Option<&str>,
    token_file: Option<&Path>,
) -> Result<Target> {
    let config = client_config(places)?;
    let servers = match server.map(str::to_owned).or_else(|| env.server.clone()).or(config.server) {
        Some(given) => given,
        None => local_server(env, places)?,
    };
    let token = match (token_file, &env.token, env.token_file.as_deref().or(config.token_file.as_deref())) {
        (Some(file), _, _) => Some(read_token(file)?),
        (None, Some(token), _) => Some(token.trim().to_owned()),
        (None, None, Some(file)) => Some(read_token(file)?),
        (None, None, None) => servers.split(',').find_map(|server| recall(env, server)),
    };
    Ok(Target { servers, token })
}

/// Notes down, for later commands of the same user, that the server with this data directory listens here. Called by
/// a server after it has bound its port; the note holds the path of the token's file, not the token.
///
/// # Errors
///
/// The folder cannot be written. A server goes on without: its user then gives the token file by hand.
pub(crate) fn remember(env: &Environment, listen: SocketAddr, token_file: &Path) -> io::Result<()> {
    let Some(note) = note_path(env, listen.ip(), listen.port()) else { return Ok(()) };
    let token_file = fs::canonicalize(token_file)?;
    write_note(&note, std::os::unix::ffi::OsStrExt::as_bytes(token_file.as_os_str()))
}

/// Writes a line for this user only.
fn write_note(note: &Path, line: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (note.parent(), note.file_name()) else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Written beside and renamed, so that a reader never sees half of it.
    let fresh = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(line)?;
    file.write_all(b"\n")?;
    drop(file);
    fs::rename(&fresh, note)
}

/// Takes the note of [`remember`] back, when it is still this server's. Called by a server that ends.
pub(crate) fn forget(env: &Environment, listen: SocketAddr, token_file: &Path) {
    let Some(note) = note_path(env, listen.ip(), listen.port()) else { return };
    let own = fs::canonicalize(token_file).ok();
    if own.is_some() && noted(&note) == own {
        let _ = fs::remove_file(note);
    }
}

/// The token of the server that this user started at `server`, when it is on this host and was noted down.
fn recall(env: &Environment, server: &str) -> Option<String> {
    let (ip, port) = loopback(server)?;
    let token = fs::read_to_string(noted(&note_path(env, ip, port)?)?).ok()?;
    Some(token.trim().to_owned()).filter(|t| !t.is_empty())
}

fn noted(note: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(note).ok()?;
    Some(PathBuf::from(text.strip_suffix('\n').unwrap_or(&text)))
}

/// Where the note about a port is. Servers on any address of this host are reached by any of its loopback names, so
/// one note a port would do; the address keeps apart servers that share a port on different loopback addresses.
fn note_path(env: &Environment, ip: IpAddr, port: u16) -> Option<PathBuf> {
    let ip = if ip.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { ip };
    Some(env.state_dir()?.join("known").join(format!("{ip}_{port}")))
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
    Err(Error::new(
        Code::Unavailable,
        "no server is known: start one with `byname dev`, or say where it is with --server or BYNAME_SERVER \
         (unix:///path or http://host:port)",
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
        let server = Some("unix:///x");
        let token = |file| target(&env, &places(dir.path()), server, file).unwrap().token;
        assert_eq!(token(None).as_deref(), Some("from-env"));
        assert_eq!(token(Some(file.as_path())).as_deref(), Some("from-file"));
    }
}
