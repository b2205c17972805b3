//! An instance's folder, from the agent's side.
//!
//! Folders are made in `DIR/spare/` together with the holders that wait there (`spare`), and move to their place when
//! they are used. `DIR/instances/ID/` holds `intent` (what was ordered, written before the spawn), `running` and `exit` (written by
//! the holder), the sockets `control` and `notify`, the log files, `identity` (`identity::files`) and `work`, the folder that the program starts in.
//! Whoever has the folder's lock (flock) is in charge: first the agent, then, by way of the passed descriptor, the
//! holder until it leaves. When the primary has logged an instance's end, its folder moves to `DIR/ended/SERVICE/ID`,
//! where the last few are kept for their logs.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use byname_api::agent::Checked;
use byname_api::launch::Ready;
use byname_api::object::InstanceId;
use byname_api::service::Endpoint;
use byname_api::span::Timestamp;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::wire::{self, End, Identity, Running, Text};

/// How many ended instances of a service keep their logs.
const KEPT: usize = 5;

/// What was ordered, as far as an agent that adopts the instance must know. No tickets and no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub(crate) instance: String,
    pub(crate) service: u64,
    pub(crate) name: String,
    pub(crate) term: u64,
    pub(crate) ordered_ms: u64,
    pub(crate) endpoints: Vec<StoredEndpoint>,
    pub(crate) ready: StoredReady,
    pub(crate) start_timeout_ms: u64,
    pub(crate) stop_timeout_ms: u64,
    /// It has the service's stable sockets themselves.
    #[serde(default)]
    pub(crate) has_sockets: bool,
    /// It is ready as soon as it runs, whatever `ready` says: its sockets take connections all the time.
    #[serde(default)]
    pub(crate) ready_at_start: bool,
    /// Its connections are counted.
    #[serde(default)]
    pub(crate) counted: bool,
    /// Where its certificate and key are, when it has some.
    #[serde(default)]
    pub(crate) identity: Option<Place>,
    /// The checks that are made once it is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) checks: Vec<StoredCheck>,
    /// It is stopped when the primary has not heard this host for so long.
    #[serde(default)]
    pub(crate) stop_after_ms: Option<u64>,
}

/// One check, with everything decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredCheck {
    pub(crate) probe: StoredProbe,
    pub(crate) interval_ms: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
    pub(crate) restart: bool,
}

/// What a check does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredProbe {
    Tcp {
        endpoint: StoredEndpoint,
    },
    Http {
        endpoint: StoredEndpoint,
        path: String,
        /// The statuses that are good, both ends included.
        from: u16,
        to: u16,
    },
    Grpc {
        endpoint: StoredEndpoint,
        service: String,
    },
    Command(Box<StoredRun>),
    /// A later agent wrote what this one does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A command that a check runs. No secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredRun {
    pub(crate) argv: Vec<Text>,
    pub(crate) env: Vec<(Text, Text)>,
    /// The instance's `work` folder when none.
    pub(crate) directory: Option<Text>,
    pub(crate) identity: Option<Identity>,
}

/// What each check said last that counted, in the order of the intent's, as the file `checked` tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredHealth {
    pub(crate) each: Vec<Option<Checked>>,
}

/// Where an instance's certificate and key are, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// User and group of the program, when they are not the agent's.
    pub(crate) owner: Option<(u32, u32)>,
}

/// What a later agent must know of a certificate and cannot read from it.
#[derive(Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) spiffe: String,
    pub(crate) issued: Timestamp,
    pub(crate) expires: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredEndpoint {
    protocol: String,
    address: String,
    port: u16,
}

/// How readiness is learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredReady {
    Advertise,
    Notify,
    Port,
    Http { path: String },
}

impl StoredReady {
    pub(crate) fn new(ready: Ready, path: Option<&str>) -> StoredReady {
        match ready {
            Ready::Advertise => StoredReady::Advertise,
            Ready::Notify => StoredReady::Notify,
            Ready::Port => StoredReady::Port,
            Ready::Http => StoredReady::Http { path: path.unwrap_or("/").to_owned() },
        }
    }
}

impl From<&Endpoint> for StoredEndpoint {
    fn from(e: &Endpoint) -> Self {
        StoredEndpoint { protocol: e.protocol.clone(), address: e.address.clone(), port: e.port }
    }
}

impl From<&StoredEndpoint> for Endpoint {
    fn from(e: &StoredEndpoint) -> Self {
        Endpoint { protocol: e.protocol.clone(), address: e.address.clone(), port: e.port }
    }
}

/// One instance's folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    /// Where the folder of a living or not yet forgotten instance is.
    pub(crate) fn of(dir: &Path, instance: InstanceId) -> Folder {
        Folder { path: dir.join("instances").join(instance.to_string()) }
    }

    /// Makes a folder for whatever instance will come, and locks it. The lock is held by the descriptor that is returned.
    pub(crate) fn create_spare(dir: &Path) -> io::Result<(Folder, OwnedFd)> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        let folder = (0u64..)
            .find_map(|n| {
                let path = dir.join("spare").join(format!("{}-{n}", std::process::id()));
                match builder.create(&path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                    made => Some(made.map(|()| Folder { path })),
                }
            })
            .unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))?;
        let fd = folder.open(OFlags::RDONLY)?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        builder.create(folder.path.join("work"))?;
        File::options().write(true).create_new(true).mode(0o600).open(folder.path.join("intent"))?;
        Ok((folder, fd))
    }

    /// Makes a spare folder that of an instance. From then on an agent that comes later takes the instance for ordered.
    ///
    /// Nothing is synced: only a crash of the whole host could lose the intent, and then the program is gone too. The
    /// order is what counts: there is no program without an intent, for whoever comes after a crash of the agent.
    pub(crate) fn claim(self, dir: &Path, id: InstanceId, intent: &Intent) -> io::Result<Folder> {
        let mut file = File::options().write(true).truncate(true).open(self.path.join("intent"))?;
        file.write_all(&wire::seal("intent", intent)?)?;
        let claimed = Folder::of(dir, id);
        // Fails when the instance has a folder already.
        std::fs::rename(&self.path, &claimed.path)?;
        Ok(claimed)
    }

    fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::open(&self.path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    fn read<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Option<T> {
        wire::unseal(kind, &std::fs::read(self.path.join(kind)).ok()?)
    }

    /// What was ordered; none when the agent was stopped before it had written it, and so before any start.
    pub(crate) fn intent(&self) -> Option<Intent> {
        self.read("intent")
    }

    /// The program that the holder started.
    pub(crate) fn running(&self) -> Option<Running> {
        self.read("running")
    }

    /// How it ended.
    pub(crate) fn end(&self) -> Option<End> {
        self.read("exit")
    }

    /// Takes the lock, if neither a holder nor an order on its way to one has it.
    pub(crate) fn try_lock(&self) -> io::Result<Option<OwnedFd>> {
        let fd = self.open(OFlags::RDONLY)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(fd)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Connects to the holder. By way of a descriptor, because the path may be longer than a socket address.
    pub(crate) async fn connect(&self) -> io::Result<tokio::net::UnixStream> {
        let fd = self.open(OFlags::PATH)?;
        tokio::net::UnixStream::connect(format!("/proc/self/fd/{}/control", fd.as_raw_fd())).await
    }

    /// What its checks said; nothing when none has said anything.
    pub(crate) fn health(&self) -> StoredHealth {
        self.read("checked").unwrap_or_default()
    }

    /// Writes down what its checks say, for an agent that comes later.
    pub(crate) fn store_health(&self, health: &StoredHealth) -> io::Result<()> {
        let new = self.path.join("checked.new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&wire::seal("checked", health)?)?;
        std::fs::rename(new, self.path.join("checked"))
    }

    /// Writes the end of an instance whose holder could not.
    pub(crate) fn store_end(&self, end: &End) -> io::Result<()> {
        let new = self.path.join("exit.new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&wire::seal("exit", end)?)?;
        std::fs::rename(new, self.path.join("exit"))
    }

    /// Moves the folder to those of the ended, and drops the oldest of its service there.
    pub(crate) fn retire(&self, dir: &Path, service: u64) -> io::Result<()> {
        let shelf = dir.join("ended").join(service.to_string());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&shelf)?;
        if let Some(id) = self.path.file_name() {
            std::fs::rename(&self.path, shelf.join(id))?;
        }
        let mut shelved = ended(dir, service);
        while shelved.len() > KEPT {
            std::fs::remove_dir_all(shelved.remove(0).path)?;
        }
        Ok(())
    }
}

/// The folders of a service's ended instances, the oldest first.
pub(crate) fn ended(dir: &Path, service: u64) -> Vec<Folder> {
    let mut folders: Vec<(u64, Folder)> = std::fs::read_dir(dir.join("ended").join(service.to_string()))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let folder = Folder { path: entry.ok()?.path() };
            Some((folder.intent()?.ordered_ms, folder))
        })
        .collect();
    folders.sort_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
    folders.into_iter().map(|(_, folder)| folder).collect()
}

/// Removes folders that were made for instances and never used.
pub(crate) fn remove_spare(dir: &Path) {
    for entry in std::fs::read_dir(dir.join("spare")).into_iter().flatten().flatten() {
        let folder = Folder { path: entry.path() };
        // Locked: its holder has not noticed yet that the agent it waited for is gone.
        if matches!(folder.try_lock(), Ok(Some(_))) {
            let _ = std::fs::remove_dir_all(folder.path);
        }
    }
}

/// The instances whose end the primary may not know yet.
pub(crate) fn instances(dir: &Path) -> io::Result<Vec<(InstanceId, Folder)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir.join("instances"))? {
        let path = entry?.path();
        if let Some(id) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) {
            found.push((id, Folder { path }));
        }
    }
    Ok(found)
}
