//! The servers that a clerk knows: those it was told of, those that the DNS has, and those that they name themselves.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use byname_api::request::ServerInfo;
use byname_api::{Code, Error, Result};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use crate::address::{Address, Place, resolve};
use crate::dial::Dial;
use crate::link::Link;

/// How long what the DNS said is good.
const DNS_AGAIN: Duration = Duration::from_secs(60);
/// How often the servers are asked for the others of their cluster.
const LEARN_EVERY: Duration = Duration::from_secs(60);
/// The same after one of them has failed.
const LEARN_SOON: Duration = Duration::from_secs(2);
/// The most servers that are believed to be of one cluster.
const MOST: usize = 32;
/// The first line of the file that servers are remembered in.
const HEAD: &str = "byname servers 1 for ";

pub(crate) struct Servers {
    places: Vec<Place>,
    links: ArcSwap<Vec<Arc<Link>>>,
    /// The one that answered last.
    current: ArcSwapOption<Link>,
    /// The one that is the primary, as far as is known.
    primary: ArcSwapOption<Link>,
    pub(crate) token: Option<MetadataValue<Ascii>>,
    pub(crate) connect_timeout: Duration,
    /// How long calls whose connection broke are tried again.
    pub(crate) patience: Duration,
    tls: Option<Arc<dyn Dial>>,
    /// When the DNS was asked.
    resolved: tokio::sync::Mutex<Option<Instant>>,
    begun: Instant,
    /// When the servers may be asked for the others next, in milliseconds since `begun`; the highest number for never.
    learn_at: AtomicU64,
    /// Where the servers that were learned are remembered.
    file: Option<PathBuf>,
    /// Failures so far.
    failures: AtomicU64,
    /// The last call reached no server.
    away: AtomicBool,
}

/// How servers are reached.
pub(crate) struct Means {
    pub(crate) token: Option<MetadataValue<Ascii>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) patience: Duration,
    pub(crate) tls: Option<Arc<dyn Dial>>,
    /// Ask the servers for the others.
    pub(crate) learn: bool,
    pub(crate) file: Option<PathBuf>,
}

impl Servers {
    pub(crate) fn new(places: Vec<Place>, means: Means) -> Self {
        let Means { token, connect_timeout, patience, tls, learn, file } = means;
        // Over a socket the kernel says who calls; another server would take the caller for somebody else.
        let local = |place: &Place| matches!(place, Place::Server(Address::Unix(_)));
        let alone = places.iter().any(local);
        let links = places.iter().filter_map(|place| match place {
            Place::Server(address) => Some(Arc::new(Link::new(address.clone(), connect_timeout, tls.clone()))),
            Place::Dns { .. } => None,
        });
        let servers = Servers {
            links: ArcSwap::from_pointee(links.collect()),
            places,
            current: ArcSwapOption::empty(),
            primary: ArcSwapOption::empty(),
            token,
            connect_timeout,
            patience,
            tls,
            resolved: tokio::sync::Mutex::new(None),
            begun: Instant::now(),
            learn_at: AtomicU64::new(if learn && !alone { 0 } else { u64::MAX }),
            file: file.filter(|_| !alone),
            failures: AtomicU64::new(0),
            away: AtomicBool::new(false),
        };
        servers.recall();
        servers
    }

    /// Every server that is known, in the order in which they are asked: the primary first for a write, else the one
    /// that answered last; those that failed or were slow a moment ago at the end.
    ///
    /// # Errors
    ///
    /// `unavailable` when the DNS knows none.
    pub(crate) async fn in_turn(&self, write: bool) -> Result<Vec<Arc<Link>>> {
        let trouble = self.ask_dns().await;
        let first = if write { self.primary.load_full() } else { None };
        let first = first.or_else(|| self.current.load_full());
        let mut links: Vec<Arc<Link>> = self.links.load().iter().cloned().collect();
        links.sort_by_key(|link| (link.is_held_back(), !first.as_ref().is_some_and(|first| Arc::ptr_eq(first, link))));
        match trouble {
            Some(why) if links.is_empty() => {
                Err(Error::new(Code::Unavailable, format!("no server is known: the DNS {why}")))
            }
            _ => Ok(links),
        }
    }

    /// Those that are known without asking anybody.
    pub(crate) fn known(&self) -> Arc<Vec<Arc<Link>>> {
        self.links.load_full()
    }

    /// This server answered.
    pub(crate) fn answered(&self, link: &Arc<Link>, write: bool) {
        link.trust();
        self.reached(true);
        // A write goes to the primary, which need not be the nearest.
        if !write || self.current.load().is_none() {
            let current = self.current.load();
            if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
                self.current.store(Some(link.clone()));
            }
        }
    }

    /// This server failed, or took too long.
    pub(crate) fn failed(&self, link: &Arc<Link>) {
        link.hold_back();
        self.failures.fetch_add(1, Ordering::Relaxed);
        if self.primary.load().as_ref().is_some_and(|primary| Arc::ptr_eq(primary, link)) {
            self.primary.store(None);
        }
        // Somebody else may be the primary soon.
        let soon = self.now().saturating_add(millis(LEARN_SOON));
        let _ = self
            .learn_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| (at != u64::MAX && at > soon).then_some(soon));
    }

    /// Takes note of whether a call reached a server.
    pub(crate) fn reached(&self, one: bool) {
        if self.away.load(Ordering::Relaxed) == one {
            self.away.store(!one, Ordering::Relaxed);
        }
    }

    /// Whether the last call reached no server.
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Failures so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    /// Whether it is time to ask for the others; says so to one caller only.
    pub(crate) fn should_learn(&self) -> bool {
        let (now, at) = (self.now(), self.learn_at.load(Ordering::Relaxed));
        let next = now.saturating_add(millis(LEARN_EVERY));
        at <= now && self.learn_at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Takes a server's word about its cluster.
    pub(crate) fn learn(&self, info: &ServerInfo) {
        if info.members.is_empty() {
            return;
        }
        let mut links: Vec<Arc<Link>> = self.links.load().iter().cloned().collect();
        let mut named: Vec<Address> = Vec::new();
        let mut primary = None;
        for member in info.members.iter().take(MOST) {
            // Several addresses of one server are several ways to it.
            for text in member.address.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                let Ok(address) = Address::parse(text) else { continue };
                let known = links.iter().find(|link| link.address == address).cloned();
                if known.is_none() && !self.may_ask(&address) {
                    continue;
                }
                let link = known.unwrap_or_else(|| {
                    let link = Arc::new(Link::new(address.clone(), self.connect_timeout, self.tls.clone()).learned());
                    links.push(link.clone());
                    link
                });
                named.push(address);
                if member.primary {
                    primary.get_or_insert(link);
                }
            }
        }
        links.retain(|link| link.configured || named.contains(&link.address));
        if primary.is_some() {
            self.primary.store(primary);
        }
        self.links.store(Arc::new(links));
        self.remember();
    }

    /// Whether what a server says may lead there: to sockets it may not, and to plain TCP within this host only.
    fn may_ask(&self, address: &Address) -> bool {
        match address {
            Address::Unix(_) => false,
            Address::Https(_) => self.tls.is_some(),
            Address::Http(_) => address.takes_token(),
        }
    }

    /// Asks the DNS when it is time, and says what went wrong. What it said once is kept as long as it says nothing.
    async fn ask_dns(&self) -> Option<String> {
        if !self.places.iter().any(|place| matches!(place, Place::Dns { .. })) {
            return None;
        }
        let mut resolved = self.resolved.lock().await;
        let failing = || self.links.load().iter().all(|link| link.is_held_back());
        let pause = if failing() { LEARN_SOON } else { DNS_AGAIN };
        if resolved.is_some_and(|at| at.elapsed() < pause) && !self.links.load().is_empty() {
            return None;
        }
        let mut trouble = None;
        for place in &self.places {
            let Place::Dns { name, port } = place else { continue };
            match resolve(name, *port).await {
                Ok(found) if found.is_empty() => trouble = Some(format!("has no address for {name}")),
                Ok(found) => self.place(name, found),
                Err(why) => trouble = Some(format!("does not answer for {name}: {why}")),
            }
        }
        *resolved = Some(Instant::now());
        trouble
    }

    /// Takes what the DNS has for a name.
    fn place(&self, name: &str, found: Vec<(Address, IpAddr)>) {
        let mut links: Vec<Arc<Link>> = self.links.load().iter().cloned().collect();
        let of_name = |link: &Link| link.is_of(name);
        links.retain(|link| !of_name(link) || found.iter().any(|(address, at)| link.leads_to(address, Some(*at))));
        for (address, at) in found {
            if !links.iter().any(|link| link.leads_to(&address, Some(at))) {
                links.push(Arc::new(Link::new(address, self.connect_timeout, self.tls.clone()).at(at)));
            }
        }
        self.links.store(Arc::new(links));
    }

    /// Notes the servers that were learned, for the next process.
    fn remember(&self) {
        let Some(file) = &self.file else { return };
        let mut text = format!("{HEAD}{}\n", self.told());
        for link in self.links.load().iter().filter(|link| !link.configured) {
            text.push_str(&format!("{}\n", link.address));
        }
        if fs::read_to_string(file).is_ok_and(|kept| kept == text) {
            return;
        }
        if let Err(error) = write_private(file, text.as_bytes()) {
            tracing::warn!(%error, file = %file.display(), "the servers of the cluster cannot be noted down");
        }
    }

    /// Takes what was noted for the same list of servers.
    fn recall(&self) {
        let Some(text) = self.file.as_ref().and_then(|file| fs::read_to_string(file).ok()) else { return };
        let Some((head, rest)) = text.split_once('\n') else { return };
        if head.strip_prefix(HEAD) != Some(self.told().as_str()) {
            return;
        }
        let mut links: Vec<Arc<Link>> = self.links.load().iter().cloned().collect();
        for address in rest.lines().take(MOST).filter_map(|line| Address::parse(line).ok()) {
            if self.may_ask(&address) && links.iter().all(|link| link.address != address) {
                links.push(Arc::new(Link::new(address, self.connect_timeout, self.tls.clone()).learned()));
            }
        }
        self.links.store(Arc::new(links));
    }

    /// What was configured.
    fn told(&self) -> String {
        let one = |place: &Place| match place {
            Place::Server(address) => address.to_string(),
            Place::Dns { name, port } => format!("dns:{name}:{port}"),
        };
        self.places.iter().map(one).collect::<Vec<_>>().join(",")
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Written beside and renamed, so that nobody reads a half; for this user only.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Two processes of one user may write it at once.
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
