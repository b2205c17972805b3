//! The sockets that a server listens on.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use tokio::net::{TcpListener, UnixListener};

use byname_api::error::{Code, Error, Result};
use byname_front_http::Bound;

use super::files::DataDir;
use crate::cli::serve::Listen;

/// What was bound.
pub(crate) struct Listeners {
    /// All of it.
    pub all: Vec<Bound>,
    /// The TCP address, unless it is off.
    pub api: Option<SocketAddr>,
    /// The DNS's sockets, unless it is off.
    pub dns: Option<byname_front_dns::Bound>,
    /// That of the protocol of Tcl-DP, unless it is off.
    pub dp: Option<super::dp::Bound>,
}

impl Listeners {
    /// Binds the unix socket and, unless they are off, the TCP address and that of the DNS.
    pub(crate) async fn bind(data: &DataDir, listen: Listen, dns: Listen) -> Result<Listeners> {
        let mut all = vec![Bound::Unix(unix(data).map_err(|e| cannot(&data.socket().display().to_string(), &e))?)];
        let mut api = None;
        if let Listen::At(address) = listen {
            let listener = TcpListener::bind(address).await.map_err(|e| cannot(&address.to_string(), &e))?;
            api = Some(listener.local_addr().map_err(|e| cannot(&address.to_string(), &e))?);
            all.push(Bound::Tcp(listener));
        }
        let dns = match dns {
            Listen::Off => None,
            Listen::At(address) => {
                let bound = byname_front_dns::Bound::bind(address, 0);
                Some(bound.map_err(|e| cannot_dns(address, &e))?)
            }
        };
        Ok(Listeners { all, api, dns, dp: None })
    }
}

/// The data directory is ours alone, so a socket that lies there is a dead one of ours. Only its user may connect.
fn unix(data: &DataDir) -> io::Result<UnixListener> {
    let path = data.socket();
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // Bound under another name and renamed when its mode is right: nobody can connect before.
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

fn cannot_dns(address: SocketAddr, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another program answers there (systemd-resolved has 127.0.0.53:53); choose another with --dns"
        }
        io::ErrorKind::PermissionDenied => {
            ": ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose another with --dns, such as port 7653"
        }
        _ => "",
    };
    Error::new(Code::Unavailable, format!("cannot listen on {address} for the DNS: {error}{advice}"))
}

pub(super) fn cannot(what: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another program listens there; choose another with --listen (port 0 picks a free one)"
        }
        io::ErrorKind::PermissionDenied => ": choose a port above 1023 with --listen",
        _ => "",
    };
    Error::new(Code::Unavailable, format!("cannot listen on {what}: {error}{advice}"))
}
