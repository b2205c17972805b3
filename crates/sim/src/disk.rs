//! A disk in memory that loses power, fills up, fails to sync and rots, as the test wants.
//!
//! What a power cut leaves: of every sector written since the last sync either the old or the new content, drawn from the
//! seed; of the names changed since the last `sync_dir` the first few, in order.
//!
//! With a [`Pace`] it is a disk for a world on one thread: its calls are made by tasks, which wait as long as it says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use byname_cluster::disk::{Disk, DiskFile};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

const SECTOR: usize = 512;

/// How long a sync takes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// At least.
    pub shortest: Duration,
    /// What chance adds at most.
    pub spread: Duration,
}

/// The disk. Clones are one.
#[derive(Clone)]
pub struct FaultyDisk {
    world: Arc<Mutex<World>>,
    died: Arc<Notify>,
}

struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not durable.
    renamed: Vec<Change>,
    /// Bytes that may still be taken.
    free: u64,
    failing_syncs: u32,
    /// The power goes before this many more changes.
    power: Option<u64>,
    dead: bool,
    pace: Option<Pace>,
    /// Nothing is on disk before.
    frozen: Option<Instant>,
    dice: StdRng,
}

#[derive(Clone)]
enum Change {
    Set(PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

struct OpenFile {
    disk: FaultyDisk,
    inode: usize,
}

impl Default for FaultyDisk {
    fn default() -> FaultyDisk {
        FaultyDisk::new()
    }
}

impl FaultyDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> FaultyDisk {
        FaultyDisk::with(World {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamed: Vec::new(),
            free: u64::MAX / 2,
            failing_syncs: 0,
            power: None,
            dead: false,
            pace: None,
            frozen: None,
            dice: StdRng::seed_from_u64(0),
        })
    }

    /// An empty disk for a world on one thread.
    #[must_use]
    pub fn paced(seed: u64, pace: Pace) -> FaultyDisk {
        let disk = FaultyDisk::new();
        {
            let mut world = disk.world();
            world.pace = Some(pace);
            world.dice = StdRng::seed_from_u64(seed);
        }
        disk
    }

    /// Makes its syncs faster or slower.
    pub fn set_pace(&self, pace: Pace) {
        self.world().pace = Some(pace);
    }

    /// Lets no sync end before so much time is over.
    pub fn freeze(&self, time: Duration) {
        self.world().frozen = Some(Instant::now() + time);
    }

    fn with(world: World) -> FaultyDisk {
        FaultyDisk { world: Arc::new(Mutex::new(world)), died: Arc::new(Notify::new()) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the power go after `changes` more changes.
    pub fn cut_power_after(&self, changes: u64) {
        self.world().power = Some(changes);
    }

    /// Returns when the power is gone.
    pub async fn died(&self) {
        let notified = self.died.notified();
        if self.world().dead {
            return;
        }
        notified.await;
    }

    /// What is left after a power cut now. Whoever has this one can change nothing any more.
    #[must_use]
    pub fn after_power_cut(&self, seed: u64) -> FaultyDisk {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut world = self.world();
        world.dead = true;
        let mut names = world.durable_names.clone();
        let survived = dice.random_range(0..=world.renamed.len());
        for change in &world.renamed[..survived] {
            change.clone().make(&mut names);
        }
        world.forget_removed();
        let inodes = world.inodes.iter().map(|inode| inode.torn(&mut dice)).collect();
        FaultyDisk::with(World {
            inodes,
            durable_names: names.clone(),
            names,
            renamed: Vec::new(),
            free: world.free,
            failing_syncs: 0,
            power: None,
            dead: false,
            pace: world.pace,
            frozen: None,
            dice: world.dice.clone(),
        })
    }

    /// What a killed process leaves: everything it wrote. Whoever has this one can change nothing any more.
    #[must_use]
    pub fn after_kill(&self) -> FaultyDisk {
        let mut world = self.world();
        world.dead = true;
        world.forget_removed();
        FaultyDisk::with(World {
            inodes: world.inodes.clone(),
            names: world.names.clone(),
            durable_names: world.durable_names.clone(),
            renamed: world.renamed.clone(),
            free: world.free,
            failing_syncs: 0,
            power: None,
            dead: false,
            pace: world.pace,
            frozen: None,
            dice: world.dice.clone(),
        })
    }

    /// Leaves so much room.
    pub fn set_free(&self, bytes: u64) {
        self.world().free = bytes;
    }

    /// Lets the next syncs fail, and forget what they were to write, as Linux does.
    pub fn fail_syncs(&self, count: u32) {
        self.world().failing_syncs = count;
    }

    /// The files beneath a folder.
    #[must_use]
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        self.world().names.keys().filter(|name| name.starts_with(dir)).cloned().collect()
    }

    /// Changes the durable content of a file that is there.
    pub fn change(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let mut world = self.world();
        if let Ok(inode) = world.find(path) {
            change(&mut world.inodes[inode].content);
            change(&mut world.inodes[inode].durable);
        }
    }

    /// The content of a file, without bytes when there is none.
    #[must_use]
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let world = self.world();
        world.find(path).map(|inode| world.inodes[inode].content.clone()).unwrap_or_default()
    }

    /// Counts a change; the one at which the power goes is not made.
    fn begin(&self) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world();
        if let Some(power) = &mut world.power {
            if *power == 0 {
                world.dead = true;
                self.died.notify_waiters();
            } else {
                *power -= 1;
            }
        }
        if world.dead { Err(io::Error::from_raw_os_error(5)) } else { Ok(world) }
    }
}

impl Change {
    fn make(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Change::Set(path, inode) => {
                names.insert(path, inode);
            }
            Change::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

impl World {
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.free -= bytes;
        Ok(())
    }

    /// Gives back the memory of files that have no name.
    fn forget_removed(&mut self) {
        let renamed = self.renamed.iter().filter_map(|change| match change {
            Change::Set(_, inode) => Some(inode),
            Change::Remove(_) => None,
        });
        let named: BTreeSet<usize> =
            self.names.values().chain(self.durable_names.values()).chain(renamed).copied().collect();
        for (number, inode) in self.inodes.iter_mut().enumerate() {
            if !named.contains(&number) {
                *inode = Inode::default();
            }
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        self.renamed.push(change.clone());
        change.make(&mut self.names);
    }
}

impl Inode {
    fn torn(&self, dice: &mut StdRng) -> Inode {
        let mut left = self.durable.clone();
        if left.len() < self.content.len() && dice.random() {
            left.resize(self.content.len(), 0);
        }
        for &sector in &self.dirty {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(left.len()).min(self.content.len());
            if from < to && dice.random() {
                left[from..to].copy_from_slice(&self.content[from..to]);
            }
        }
        Inode { content: left.clone(), durable: left, dirty: BTreeSet::new() }
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        let inside = world.names.keys().filter(|name| name.parent() == Some(dir));
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.begin()?;
        world.take(bytes)?;
        let inode = world.inodes.len();
        world.inodes.push(Inode { content: vec![0; bytes as usize], ..Inode::default() });
        world.change(Change::Set(path.to_owned(), inode));
        Ok(Arc::new(OpenFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.world().find(path)?;
        Ok(Arc::new(OpenFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.begin()?;
        let inode = world.find(from)?;
        world.change(Change::Remove(from.to_owned()));
        world.change(Change::Set(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.begin()?;
        let inode = world.find(path)?;
        world.free += world.inodes[inode].content.len() as u64;
        world.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut world = self.begin()?;
        world.durable_names = world.names.clone();
        world.renamed.clear();
        Ok(())
    }

    fn waits(&self) -> Option<Duration> {
        let mut world = self.world();
        let Pace { shortest, spread } = world.pace?;
        let drawn = shortest + spread.mul_f64(world.dice.random());
        let frozen = world.frozen.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        Some(drawn.max(frozen))
    }
}

impl DiskFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.world().inodes[self.inode].content.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let world = self.disk.world();
        let content = &world.inodes[self.inode].content;
        let from = (at as usize).min(content.len());
        let bytes = into.len().min(content.len() - from);
        into[..bytes].copy_from_slice(&content[from..from + bytes]);
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut world = self.disk.begin()?;
        let end = at as usize + bytes.len();
        let grown = end.saturating_sub(world.inodes[self.inode].content.len());
        world.take(grown as u64)?;
        let inode = &mut world.inodes[self.inode];
        let size = inode.content.len().max(end);
        inode.content.resize(size, 0);
        inode.content[at as usize..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            inode.dirty.extend(at as usize / SECTOR..=(end - 1) / SECTOR);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.begin()?;
        if world.failing_syncs > 0 {
            world.failing_syncs -= 1;
            world.inodes[self.inode].dirty.clear();
            return Err(io::Error::from_raw_os_error(5));
        }
        let inode = &mut world.inodes[self.inode];
        inode.durable.resize(inode.content.len(), 0);
        for sector in std::mem::take(&mut inode.dirty) {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(inode.content.len());
            inode.durable[from..to].copy_from_slice(&inode.content[from..to]);
        }
        Ok(())
    }
}
