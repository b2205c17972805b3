//! The agent: what it knows of its instances, and its beginning and end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use byname_api::agent::{InstanceReport, Phase, Report, StartOrder};
use byname_api::object::InstanceId;
use byname_api::service::Endpoint;
use byname_api::{Code, Error};
use parking_lot::{Mutex, RwLock};
use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::alive::Alive;
use crate::catalogue::{Catalogue, Problem};
use crate::cgroup::Cgroups;
use crate::check::GrpcHealth;
use crate::identity::{Identities, Issuer};
use crate::instance::{self, Command};
use crate::link::{self, Link};
use crate::partition::Partition;
use crate::porters::Porters;
use crate::ports::Ports;
use crate::spare::Spare;
use crate::workloads::{Holders, Workloads};
use crate::{Config, folder, wire};

/// How long the start of an agent waits for holders that do not answer.
const ADOPTION: Duration = Duration::from_secs(5);
/// How many ended and forgotten instances are remembered, so that a late repetition of their order starts nothing.
const FORGOTTEN: usize = 10_000;

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder cannot be used.
    #[error("the agent's folder {path} cannot be used: {source}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has the folder.
    #[error("another agent uses the folder {0}: end it first, or give this one a folder of its own")]
    Locked(PathBuf),
    /// The file that holds the highest term is damaged.
    #[error("{0} is damaged: remove it if no other primary than the present one can still send orders to this host")]
    Term(PathBuf),
    /// The catalogue cannot be read; each problem has its file, line and column.
    #[error("the catalogue of programs has errors: {}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "))]
    Catalogue(Vec<Problem>),
}

/// The agent of a host. Dropping it ends its work as `shutdown` does; programs and their holders go on.
pub struct Agent {
    inner: Arc<Inner>,
}

impl Agent {
    /// Reads the catalogue, takes up every instance of an earlier life again, and gets a holder ready.
    ///
    /// An instance whose holder does not answer within 5 seconds (it may be stopped) is taken up later, in the
    /// background.
    pub async fn start(mut config: Config) -> Result<Agent, StartError> {
        // Programs are told a path in it, and start elsewhere.
        config.dir = std::path::absolute(&config.dir)
            .map_err(|source| StartError::Folder { path: config.dir.clone(), source })?;
        let catalogue = Catalogue::load(&config.programs).map_err(StartError::Catalogue)?;
        let dir = config.dir.clone();
        let failed = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| StartError::Folder { path, source }
        };
        for folder in [dir.clone(), dir.join("instances"), dir.join("ended"), dir.join("spare"), dir.join("listen")] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed(&folder))?;
        }
        if let Some(shared) = &mut config.shared {
            *shared =
                std::path::absolute(&*shared).map_err(|source| StartError::Folder { path: shared.clone(), source })?;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&*shared);
            let own = made.and_then(|()| std::fs::symlink_metadata(&*shared)).and_then(|found| {
                let own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
                if own { Ok(()) } else { Err(io::Error::other("it belongs to another user")) }
            });
            // Whatever the umask is.
            own.and_then(|()| std::fs::set_permissions(&*shared, Permissions::from_mode(0o711)))
                .map_err(failed(shared))?;
        }
        let lock_path = dir.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StartError::Locked(dir));
        }
        let term_path = dir.join("term");
        let term = match std::fs::read(&term_path) {
            Ok(bytes) => wire::unseal("term", &bytes).ok_or(StartError::Term(term_path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(StartError::Folder { path: term_path, source }),
        };
        let inner = Arc::new(Inner {
            catalogue: RwLock::new(Arc::new(catalogue)),
            addresses: RwLock::new(config.addresses.clone().into()),
            partition: Partition::default(),
            ports: Ports::new(config.port_range.clone()),
            cgroups: Cgroups::find(),
            spare: Arc::new(Spare::new(config.dir.clone(), config.holder.clone())),
            alive: Alive::default(),
            porters: Porters::default(),
            identities: Arc::default(),
            holders: Holders::default(),
            grpc: RwLock::default(),
            config,
            runtime: Handle::current(),
            table: Mutex::default(),
            news: Notify::new(),
            term: tokio::sync::Mutex::new(term),
            _lock: lock,
        });
        metrics::describe_counter!("byname_checks_total", "Health checks made, by what they found.");
        let agent = Agent { inner };
        folder::remove_spare(&dir);
        agent.inner.spare.refill();
        let found = folder::instances(&dir).map_err(failed(&dir))?;
        for (id, folder) in &found {
            if let Some(intent) = folder.intent().filter(|intent| intent.has_sockets && folder.end().is_none()) {
                agent.inner.has_sockets(intent.service, *id);
            }
        }
        agent.inner.adopt_porters();
        agent.adopt(found).await;
        Ok(agent)
    }

    async fn adopt(&self, found: Vec<(InstanceId, folder::Folder)>) {
        let mut settled = JoinSet::new();
        for (id, folder) in found {
            let Some(intent) = folder.intent() else {
                // The agent was stopped before the intent was written, so nothing was started. The lock is free then.
                if matches!(folder.try_lock(), Ok(Some(_))) {
                    let _ = std::fs::remove_dir_all(&folder.path);
                }
                continue;
            };
            let (told, heard) = oneshot::channel();
            let mut report = instance::unknown(id, intent.service);
            report.endpoints = intent.endpoints.iter().map(Into::into).collect();
            report.pid = folder.running().map(|r| r.pid);
            let inner = self.inner.clone();
            self.inner.add(id, report, |commands| instance::adopt(inner, id, folder, intent, commands, told));
            settled.spawn(heard);
        }
        let all = async { while settled.join_next().await.is_some() {} };
        if tokio::time::timeout(ADOPTION, all).await.is_err() {
            tracing::warn!("some holders do not answer yet");
        }
    }

    /// Opens the stream to the primary. A later call replaces the earlier link: the server has started again, or
    /// another one is the primary now.
    ///
    /// The first report is `Hello`. Nothing else is told before a `Welcome` came; then every instance is, and
    /// `Synced` after them.
    pub fn connect(&self) -> Link {
        link::open(&self.inner)
    }

    /// What is told of this host's addresses from the next link on: those that others can reach, the best first.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        *self.inner.addresses.write() = addresses.into();
    }

    /// Reads the catalogue again. When it has errors the old one stays.
    pub async fn reload(&self) -> Result<(), Error> {
        let folders = self.inner.config.programs.clone();
        let loaded = tokio::task::spawn_blocking(move || Catalogue::load(&folders)).await;
        match loaded.map_err(|e| Error::internal(e.to_string()))? {
            Ok(catalogue) => {
                *self.inner.catalogue.write() = Arc::new(catalogue);
                Ok(())
            }
            Err(problems) => {
                let text = problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ");
                Err(Error::new(Code::InvalidArgument, format!("the catalogue was not read again: {text}")))
            }
        }
    }

    /// Tells a server in the same process whether a program has just ended.
    pub fn alive(&self) -> Alive {
        self.inner.alive.clone()
    }

    /// Sets who certifies instances from now on. Those that are started before have no identity; call it before
    /// `connect`. Must be called in a runtime.
    pub fn set_issuer(&self, issuer: Arc<dyn Issuer>) {
        self.inner.identities.set_issuer(issuer);
    }

    /// Sets how checks of kind `grpc` are made. Before, they fail.
    pub fn set_grpc_health(&self, grpc: Arc<dyn GrpcHealth>) {
        *self.inner.grpc.write() = Some(grpc);
    }

    /// What programs on this host may ask the agent for.
    pub fn workloads(&self) -> Arc<dyn Workloads> {
        self.inner.clone()
    }

    /// Where programs look for that (`Config::workload_socket`), as an absolute path.
    pub fn workload_socket(&self) -> PathBuf {
        self.inner.config.workload_socket()
    }

    /// Listens there, in place of a socket that was left behind. Everybody may connect who can reach it: who it is shows
    /// by its process.
    ///
    /// # Errors
    ///
    /// Those of the system; a path of more than 107 bytes is no address.
    pub fn listen_for_workloads(&self) -> io::Result<UnixListener> {
        let path = self.workload_socket();
        // The folder is this agent's, so nobody else listens there.
        if std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(listener)
    }

    /// Ends the agent's work. Programs and their holders go on; the next agent on the same folder finds them.
    pub async fn shutdown(&self) {
        self.inner.end();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.inner.end();
    }
}

/// What all parts of an agent share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) catalogue: RwLock<Arc<Catalogue>>,
    addresses: RwLock<Arc<[String]>>,
    pub(crate) partition: Partition,
    pub(crate) ports: Ports,
    pub(crate) cgroups: Cgroups,
    pub(crate) spare: Arc<Spare>,
    pub(crate) alive: Alive,
    pub(crate) porters: Porters,
    pub(crate) identities: Arc<Identities>,
    pub(crate) holders: Holders,
    pub(crate) grpc: RwLock<Option<Arc<dyn GrpcHealth>>>,
    pub(crate) runtime: Handle,
    table: Mutex<Table>,
    /// Something was added to the table's `news`, or the link was replaced.
    pub(crate) news: Notify,
    /// The highest term seen. Held while it is written to disk.
    term: tokio::sync::Mutex<u64>,
    _lock: File,
}

#[derive(Default)]
struct Table {
    entries: HashMap<InstanceId, Entry>,
    /// Instances whose report has not been told, in the order of the changes; each is here once.
    news: VecDeque<InstanceId>,
    fresh: HashSet<InstanceId>,
    forgotten: VecDeque<InstanceId>,
    /// The synced link's way for reports, and its task.
    reports: Option<mpsc::Sender<Report>>,
    link: Option<AbortHandle>,
    closed: bool,
}

struct Entry {
    report: InstanceReport,
    commands: mpsc::Sender<Command>,
    task: AbortHandle,
    /// Its connections are counted.
    counted: bool,
}

impl Inner {
    /// The addresses of this host that others can reach, the best first.
    pub(crate) fn addresses(&self) -> Arc<[String]> {
        self.addresses.read().clone()
    }

    /// Starts an instance, unless it was before.
    pub(crate) fn start(self: &Arc<Self>, order: StartOrder) {
        let (id, inner) = (order.instance, self.clone());
        self.add(id, instance::unknown(id, order.service), |commands| instance::start(inner, order, commands));
    }

    fn add<F>(&self, id: InstanceId, report: InstanceReport, task: impl FnOnce(mpsc::Receiver<Command>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut table = self.table.lock();
        if table.closed || table.forgotten.contains(&id) {
            return;
        }
        if table.entries.contains_key(&id) {
            table.tell(id);
            self.news.notify_one();
            return;
        }
        self.alive.note(&report);
        let (commands, received) = mpsc::channel(64);
        let task = self.runtime.spawn(task(received)).abort_handle();
        table.entries.insert(id, Entry { report, commands, task, counted: false });
    }

    /// Passes a command to an instance's task; false when there is no such instance. An ended one is told again.
    pub(crate) fn command(&self, id: InstanceId, command: Command) -> bool {
        let mut table = self.table.lock();
        let Some(entry) = table.entries.get(&id) else { return false };
        if matches!(entry.report.phase, Phase::Ended { .. }) {
            table.tell(id);
            self.news.notify_one();
        } else if let Err(error) = entry.commands.try_send(command) {
            tracing::warn!(instance = %id, %error, "an order is dropped");
        }
        true
    }

    /// Gets a holder and a key ready for the next start, if none are.
    pub(crate) fn refill(&self) {
        self.spare.refill();
        self.identities.refill();
    }

    /// Changes a report without telling it yet.
    pub(crate) fn set(&self, id: InstanceId, change: impl FnOnce(&mut InstanceReport)) {
        if let Some(entry) = self.table.lock().entries.get_mut(&id) {
            change(&mut entry.report);
            self.alive.note(&entry.report);
        }
    }

    /// Changes a report and tells it, if that made a difference or nothing was told before.
    pub(crate) fn publish(&self, id: InstanceId, change: impl FnOnce(&mut InstanceReport)) {
        let mut table = self.table.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return };
        let before = entry.report.clone();
        change(&mut entry.report);
        if entry.report == before {
            return;
        }
        self.alive.note(&entry.report);
        let report = Report::Instance(entry.report.clone());
        // Straight to the primary when nothing waits in front; this is the way of a program that became ready.
        let direct = table.reports.as_ref().filter(|_| table.news.is_empty());
        if direct.is_none_or(|reports| reports.try_send(report).is_err()) {
            table.tell(id);
            self.news.notify_one();
        }
    }

    /// The next report that waits. Until it was sent and `synced` is called, none may go past it.
    pub(crate) fn next_report(&self) -> Option<Report> {
        let mut table = self.table.lock();
        while let Some(id) = table.news.pop_front() {
            table.fresh.remove(&id);
            let report = table.entries.get(&id).map(|entry| Report::Instance(entry.report.clone()));
            if report.is_some() {
                table.reports = None;
                return report;
            }
        }
        None
    }

    /// Marks every instance to be told. The link's reports are told one by one until it is synced.
    pub(crate) fn tell_all(&self) {
        let mut table = self.table.lock();
        table.reports = None;
        let mut ids: Vec<InstanceId> = table.entries.keys().copied().collect();
        ids.sort();
        for id in ids {
            table.tell(id);
        }
        self.news.notify_one();
    }

    /// From now on reports may go straight to this link.
    pub(crate) fn synced(&self, reports: &mpsc::Sender<Report>) {
        let mut table = self.table.lock();
        if table.link.is_some() {
            table.reports = Some(reports.clone());
        }
    }

    /// Replaces the link.
    pub(crate) fn replace_link(&self, task: AbortHandle) {
        let mut table = self.table.lock();
        table.reports = None;
        if let Some(old) = table.link.replace(task) {
            old.abort();
        }
        if table.closed
            && let Some(link) = table.link.take()
        {
            link.abort();
        }
    }

    /// Drops an instance that has ended; its folder stays for the log.
    pub(crate) fn forget(self: &Arc<Self>, id: InstanceId) {
        let service = match self.table.lock().entries.get(&id) {
            Some(Entry { report: InstanceReport { phase: Phase::Ended { .. }, service, .. }, .. }) => *service,
            Some(_) => {
                tracing::warn!(instance = %id, "an instance that has not ended is not forgotten");
                return;
            }
            None => return,
        };
        self.alive.forget(id);
        let inner = self.clone();
        self.runtime.spawn_blocking(move || {
            // One that was refused has no folder. The entry goes last, so that its log can be found all the time.
            let _ = folder::Folder::of(&inner.config.dir, id).retire(&inner.config.dir, service);
            let mut table = inner.table.lock();
            if table.entries.remove(&id).is_some() {
                table.forgotten.push_back(id);
                if table.forgotten.len() > FORGOTTEN {
                    table.forgotten.pop_front();
                }
            }
        });
    }

    /// The instances of a service that are not forgotten, the oldest first.
    pub(crate) fn of_service(&self, service: u64) -> Vec<InstanceId> {
        let table = self.table.lock();
        let mut found: Vec<_> =
            table.entries.iter().filter(|(_, e)| e.report.service == service).map(|(id, _)| *id).collect();
        found.sort();
        found
    }

    /// Notes whether an instance's connections are counted.
    pub(crate) fn count(&self, id: InstanceId, counted: bool) {
        if let Some(entry) = self.table.lock().entries.get_mut(&id) {
            entry.counted = counted;
        }
    }

    /// The running instances whose connections are counted, with their services and where they listen.
    pub(crate) fn counted(&self) -> Vec<(InstanceId, u64, Vec<Endpoint>)> {
        let table = self.table.lock();
        let counted = |(id, entry): (&InstanceId, &Entry)| {
            let counts = entry.counted && !matches!(entry.report.phase, Phase::Ended { .. });
            counts.then(|| (*id, entry.report.service, entry.report.endpoints.clone()))
        };
        table.entries.iter().filter_map(counted).collect()
    }

    /// How many instances have not ended.
    pub(crate) fn living_count(&self) -> usize {
        let table = self.table.lock();
        table.entries.values().filter(|entry| !matches!(entry.report.phase, Phase::Ended { .. })).count()
    }

    /// The service of an instance that has not ended, and where it listens.
    pub(crate) fn living(&self, id: InstanceId) -> Option<(u64, Vec<Endpoint>)> {
        let table = self.table.lock();
        let report = &table.entries.get(&id)?.report;
        let ended = matches!(report.phase, Phase::Ended { .. });
        (!ended).then(|| (report.service, report.endpoints.clone()))
    }

    /// Whether the instance's program runs, as far as its holder has said.
    pub(crate) fn is_running(&self, id: InstanceId) -> bool {
        self.table
            .lock()
            .entries
            .get(&id)
            .is_some_and(|e| e.report.pid.is_some() && !matches!(e.report.phase, Phase::Ended { .. }))
    }

    /// Whether orders of this term are to be obeyed. A higher one than any before is written down first.
    pub(crate) async fn accept_term(&self, term: u64) -> bool {
        let mut highest = self.term.lock().await;
        if term > *highest {
            let dir = self.config.dir.clone();
            let stored = tokio::task::spawn_blocking(move || -> io::Result<()> {
                let new = dir.join("term.new");
                let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
                file.write_all(&wire::seal("term", &term)?)?;
                file.sync_all()?;
                std::fs::rename(new, dir.join("term"))?;
                File::open(dir)?.sync_all()
            });
            match stored.await {
                Ok(Ok(())) => {}
                // A full disk must not keep the host from its primary: the term is kept in memory at least.
                Ok(Err(error)) => tracing::error!(%error, term, "the term cannot be written down"),
                Err(error) => tracing::error!(%error, term, "the term cannot be written down"),
            }
            *highest = term;
        }
        if term < *highest {
            tracing::warn!(term, highest = *highest, "an order of an older term is refused");
        }
        term == *highest
    }

    fn end(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        table.reports = None;
        if let Some(link) = table.link.take() {
            link.abort();
        }
        for entry in table.entries.values() {
            entry.task.abort();
        }
        drop(table);
        self.leave_porters();
        self.identities.end();
        if let Some(waiting) = self.spare.take() {
            drop(waiting.conn);
            let _ = std::fs::remove_dir_all(waiting.folder.path);
        }
    }
}

impl Table {
    fn tell(&mut self, id: InstanceId) {
        if self.fresh.insert(id) {
            self.news.push_back(id);
        }
    }
}
