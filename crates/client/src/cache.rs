//! The clerk's cache: what was asked for is answered from memory as long as a watch stands behind it, and while no server
//! can be reached, from what there is, marked `stale`.
//!
//! **What is in it.** Objects that this caller asked for, and the computers that their copies run on. Each is told by a
//! watch of its own name; when there are too many of these, those beneath one directory become one watch of the directory.
//! A service that does not run, a consistent read and a name that is not there are always asked of a server; and so is a
//! service of several copies that are chosen by load or speed, because no watch tells of these.
//!
//! **What it is worth.** An answer is as old as the last word on its watch, which is its `age_ms`; an idle watch speaks
//! every 10 s, and one that is silent for 15 s is not believed. When changes were missed, everything that they may have
//! touched is asked of a server before it is answered again. What this caller changes itself is asked of a server
//! afterwards, so that it reads what it wrote.
//!
//! **What takes from it.** Only an event that says that an object is gone, a server's answer about that very name that it
//! is not there or not for this caller, and the bounds. No failure and no empty answer wipes it.
//!
//! **Whose it is.** A cache belongs to one identity: what one caller may see another may not. A server decides whether the
//! caller may find or read a name, its word is good for 30 s and asked for again on the side while the name is used; a
//! change of the object itself makes it void at once. So a right that was taken away ends within 30 s.
//!
//! That same question tells the servers that a service is used: finds that are answered from the cache keep an idle
//! service alive, because they ask before `idle_stop` is over.

mod disk;
mod keep;
mod service;
mod store;
mod write_behind;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use byname_api::caller::Caller;
use byname_api::request::Context;
use byname_name::Name;

use crate::Clerk;
use keep::Keeper;
use store::{Look, Store, Wanted};
use write_behind::WriteBehind;

pub use store::{Bounds, Found};

/// How often what is new is written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(20);

/// What a cache is told.
#[derive(Clone, Debug, Default)]
pub struct CacheOptions {
    /// How much it may hold.
    pub bounds: Bounds,
    /// The file that it is kept in from one start to the next; in memory only when unsaid.
    pub file: Option<PathBuf>,
    /// Whose cache it is: a file that was written for somebody else is not read.
    pub identity: String,
}

/// How a cache does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Objects in it.
    pub entries: usize,
    /// What they take in memory, in bytes, by a rough estimate.
    pub bytes: usize,
    /// Watches that keep it fresh.
    pub watches: usize,
    /// Those of them that are connected.
    pub live: usize,
    /// Answers from it.
    pub hits: u64,
    /// Questions that went to a server.
    pub misses: u64,
    /// Answers from it, marked stale, because no server could be reached.
    pub stale: u64,
    /// Reports that were handed on in batches.
    pub reports: u64,
    /// Whether no server can be reached.
    pub away: bool,
}

/// A clerk with a cache: a [`NameService`](byname_api::NameService) for one caller.
///
/// Made within a tokio runtime. Dropping it ends its watches.
pub struct CachingClerk {
    shared: Arc<Shared>,
    tasks: tokio::task::JoinSet<()>,
}

struct Shared {
    clerk: Arc<Clerk>,
    store: Store,
    keeper: Keeper,
    reports: WriteBehind,
    options: CacheOptions,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
}

impl CachingClerk {
    /// Puts a cache in front of this clerk, with what is in its file.
    pub fn new(clerk: Arc<Clerk>, options: CacheOptions) -> CachingClerk {
        let shared = Arc::new(Shared {
            clerk,
            store: Store::new(options.bounds),
            keeper: Keeper::default(),
            reports: WriteBehind::default(),
            options,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
        });
        shared.load();
        let mut tasks = tokio::task::JoinSet::new();
        let saving = shared.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(SAVE_EVERY).await;
                saving.tidy();
                let writing = saving.clone();
                let _ = tokio::task::spawn_blocking(move || writing.save()).await;
            }
        });
        let reporting = shared.clone();
        tasks.spawn(async move { reporting.hand_on().await });
        CachingClerk { shared, tasks }
    }

    /// The clerk behind it.
    pub fn clerk(&self) -> &Arc<Clerk> {
        &self.shared.clerk
    }

    /// Where a name answers, from the cache alone: no server is asked before the answer, nothing is copied and nothing
    /// waited for. None when the cache cannot say: [`find`](byname_api::NameService::find) can.
    pub fn look(&self, name: &Name) -> Option<Found> {
        let (found, ask) = self.shared.store.find(name, Wanted::Certain)?;
        self.shared.hits.fetch_add(1, Ordering::Relaxed);
        if ask {
            self.shared.ask_again(name.clone(), Look::Find);
        }
        Some(found)
    }

    /// How it does.
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        let (watches, live) = shared.keeper.counts();
        CacheStats {
            entries: shared.store.len(),
            bytes: shared.store.bytes(),
            watches,
            live,
            hits: shared.hits.load(Ordering::Relaxed),
            misses: shared.misses.load(Ordering::Relaxed),
            stale: shared.stale.load(Ordering::Relaxed),
            reports: shared.reports.handed_on(),
            away: shared.clerk.is_away(),
        }
    }

    /// Writes what is new to disk and hands on what was reported: before the process ends.
    pub async fn close(&self) {
        self.shared.flush_reports().await;
        self.shared.save();
        self.shared.keeper.end();
    }
}

impl Drop for CachingClerk {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.shared.keeper.end();
    }
}

/// The clerk's own questions: the connection says who asks.
fn own() -> Context {
    Context::of(Caller::internal())
}
