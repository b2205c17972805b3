//! The data directory: who holds it, its token, and `endpoints.json`.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use byname_api::error::{Code, Error, Result};
use byname_cluster::{DirLock, lock_data_dir};

/// A data directory that this process holds.
pub(crate) struct DataDir {
    dir: PathBuf,
    socket: PathBuf,
    /// Held as long as the process uses the directory.
    _lock: DirLock,
}

impl DataDir {
    /// Takes the directory, which is made when it is not there.
    pub(crate) fn take(dir: &Path) -> Result<DataDir> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| cannot("make", dir, &e))?;
        let dir = fs::canonicalize(dir).map_err(|e| cannot("use", dir, &e))?;
        let lock = lock_data_dir(&dir).map_err(super::cannot_start)?;
        let socket = socket_path(&dir)?;
        Ok(DataDir { dir, socket, _lock: lock })
    }

    /// A file or folder in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the unix socket is: the same after a restart, because programs that run were told.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The bearer token, made at the first start.
    pub(crate) fn token(&self) -> Result<String> {
        let path = self.path("token");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 32 => return Ok(text.trim().to_owned()),
            Ok(_) => {
                return Err(Error::new(
                    Code::InvalidArgument,
                    format!("{} is too short for a token: remove it, and a new one is made", path.display()),
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(cannot("read", &path, &e)),
        }
        let token: String = rand::random::<[u8; 32]>().iter().map(|b| format!("{b:02x}")).collect();
        write_private(&path, format!("{token}\n").as_bytes()).map_err(|e| cannot("write", &path, &e))?;
        Ok(token)
    }

    /// Says what was bound.
    pub(crate) fn write_endpoints(
        &self,
        api: Option<SocketAddr>,
        dns: Option<SocketAddr>,
        dp: Option<SocketAddr>,
    ) -> Result<()> {
        let mut endpoints = serde_json::Map::new();
        if let Some(dns) = dns {
            endpoints.insert("dns".into(), dns.to_string().into());
        }
        if let Some(api) = api {
            // One port speaks both; plain HTTP from this host alone.
            let plain = api.ip().is_loopback();
            let scheme = if plain { "http" } else { "https" };
            endpoints.insert("api".into(), format!("{scheme}://{api}").into());
            endpoints.insert("https".into(), format!("https://{api}").into());
            endpoints.insert("ca".into(), self.path("ca.pem").to_string_lossy().into());
        }
        if let Some(dp) = dp {
            endpoints.insert("dp".into(), dp.to_string().into());
        }
        endpoints.insert("socket".into(), self.socket.to_string_lossy().into());
        endpoints.insert("token_file".into(), self.path("token").to_string_lossy().into());
        endpoints.insert("pid".into(), std::process::id().into());
        let path = self.path("endpoints.json");
        let text = format!("{:#}\n", serde_json::Value::Object(endpoints));
        write_private(&path, text.as_bytes()).map_err(|e| cannot("write", &path, &e))
    }

    /// Says where an agent listens.
    pub(crate) fn write_agent_endpoints(&self, socket: &Path) -> Result<()> {
        let endpoints = serde_json::json!({"socket": socket.to_string_lossy(), "pid": std::process::id()});
        let path = self.path("endpoints.json");
        write_private(&path, format!("{endpoints:#}\n").as_bytes()).map_err(|e| cannot("write", &path, &e))
    }

    /// Where an agent listens for the programs of its host, unless it is the whole host's.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        let inside = self.path("agent.sock");
        // Beside that of a server with as long a path.
        if super::fits_socket(&inside) { inside } else { self.socket.with_extension("agent") }
    }

    /// Whether this is where the agent of the whole host keeps its data, and root's.
    pub(crate) fn is_the_host_s(&self) -> bool {
        self.dir == Path::new("/var/lib/byname/agent") && self.is_roots()
    }

    /// Whether root runs this.
    pub(crate) fn is_roots(&self) -> bool {
        fs::metadata(&self.dir).is_ok_and(|found| found.uid() == 0)
    }

    /// A short name for this directory, unlike that of any other on this host.
    pub(crate) fn short_name(&self) -> String {
        short_name(&self.dir)
    }

    /// A folder in it, for this user only.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|e| cannot("make", &path, &e))?;
        Ok(path)
    }

    /// Writes a file that others may read.
    pub(crate) fn write_public(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        write_as(&path, bytes, 0o644).map_err(|e| cannot("write", &path, &e))
    }

    /// Writes a file for this user only.
    pub(crate) fn write_private(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        write_private(&path, bytes).map_err(|e| cannot("write", &path, &e))
    }

    /// Nobody listens any more.
    pub(crate) fn remove_endpoints(&self) {
        let _ = fs::remove_file(self.path("endpoints.json"));
        let _ = fs::remove_file(&self.socket);
    }
}

/// `DIR/byname.sock`; for a directory too deep for the kernel's 107 bytes, a private folder in /tmp named after it.
fn socket_path(dir: &Path) -> Result<PathBuf> {
    let inside = dir.join("byname.sock");
    if super::fits_socket(&inside) {
        return Ok(inside);
    }
    let user = fs::metadata(dir).map_err(|e| cannot("use", dir, &e))?.uid();
    let folder = PathBuf::from(format!("/tmp/byname-{user}"));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(cannot("make", &folder, &e)),
        _ => {}
    }
    let found = fs::symlink_metadata(&folder).map_err(|e| cannot("use", &folder, &e))?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(Error::new(
            Code::Denied,
            format!("{} is not a private folder of this user's: remove it, or use a shorter --data", folder.display()),
        ));
    }
    Ok(folder.join(format!("{}.sock", short_name(dir))))
}

fn short_name(dir: &Path) -> String {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(dir.as_os_str().as_encoded_bytes());
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Written beside and renamed, so that nobody reads a half.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(path, bytes, 0o600)
}

fn write_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

fn cannot(doing: &str, path: &Path, error: &io::Error) -> Error {
    Error::new(Code::Unavailable, format!("cannot {doing} {}: {error}", path.display()))
}
