//! The cache's file: one line that says what follows, then JSON. Whatever does not fit its checksum, its version or its
//! owner is left alone, and the cache begins empty.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use byname_api::object::Object;
use byname_name::Name;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::store::{Seen, Watch, millis};
use crate::servers::write_private;

/// What the first line begins with: the version of what follows.
const HEAD: &str = "byname cache 1 ";
/// The most that is read.
const LARGEST: u64 = 256 << 20;

/// The content of the file, version 1.
#[derive(Serialize, Deserialize)]
struct File {
    /// Whose cache it is.
    identity: String,
    entries: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    object: Object,
    /// Its owner may find it.
    found: bool,
    /// Its owner may read it.
    read: bool,
    revision: u64,
    /// When a server last stood behind it, in milliseconds since 1970. Only told, never decided by.
    heard: u64,
}

impl Shared {
    /// Writes what is there, when there is something new.
    pub(super) fn save(&self) {
        let Some(file) = &self.options.file else { return };
        if !self.store.dirty.swap(false, Ordering::AcqRel) {
            return;
        }
        let (wall, now) = (wall(), i64::try_from(self.store.now()).unwrap_or(i64::MAX));
        let kept = |entry: &Arc<super::store::Entry>| {
            let age = now.saturating_sub(entry.watch.heard.load(Ordering::Relaxed)).max(0);
            Kept {
                object: entry.object.clone(),
                found: entry.seen.found.load(Ordering::Relaxed) != 0,
                read: entry.seen.read.load(Ordering::Relaxed) != 0,
                revision: entry.revision,
                heard: wall.saturating_sub(u64::try_from(age).unwrap_or(0)),
            }
        };
        let entries = self.store.all(|_| true).iter().map(kept).collect();
        let content = File { identity: self.options.identity.clone(), entries };
        let written = serde_json::to_vec(&content).map_err(io::Error::other).and_then(|body| {
            let mut bytes = format!("{HEAD}{} {:08x}\n", body.len(), crc32c::crc32c(&body)).into_bytes();
            bytes.extend(body);
            write_private(file, &bytes)
        });
        if let Err(error) = written {
            self.store.dirty.store(true, Ordering::Release);
            tracing::warn!(%error, file = %file.display(), "the cache cannot be written");
        }
    }

    /// Takes what was written for the same owner. It is old until a server says otherwise.
    pub(super) fn load(self: &Arc<Self>) {
        let Some(file) = &self.options.file else { return };
        let content = match read(file) {
            Ok(Some(content)) if content.identity == self.options.identity => content,
            Ok(Some(_)) => {
                tracing::info!(file = %file.display(), "the cache is another one's and is not used");
                return;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "the cache is not used and is written anew");
                return;
            }
        };
        let (wall, now) = (wall(), i64::try_from(self.store.now()).unwrap_or(i64::MAX));
        let mut names: Vec<Name> = Vec::new();
        for kept in content.entries {
            let Some(watch) = Watch::new(&kept.object.name, true).map(Arc::new) else { continue };
            let age = i64::try_from(wall.saturating_sub(kept.heard)).unwrap_or(i64::MAX);
            watch.heard.store(now.saturating_sub(age), Ordering::Relaxed);
            let seen = Arc::new(Seen::default());
            // Good while no server can be reached, and not before one was asked otherwise.
            seen.found.store(kept.found.into(), Ordering::Relaxed);
            seen.read.store(kept.read.into(), Ordering::Relaxed);
            names.push(kept.object.name.clone());
            self.store.put(kept.object, &watch, Some(seen), kept.revision);
        }
        self.store.dirty.store(false, Ordering::Relaxed);
        names.sort_by_key(Name::key);
        self.keep_all(names);
    }
}

fn read(file: &std::path::Path) -> io::Result<Option<File>> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if found.len() > LARGEST => return Err(bad("it is too large")),
        Ok(_) => {}
    }
    let bytes = fs::read(file)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| bad("it has no first line"))?;
    let (head, body) = bytes.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).ok().and_then(|head| head.strip_prefix(HEAD));
    let (length, sum) =
        head.and_then(|head| head.split_once(' ')).ok_or_else(|| bad("it is no cache of this version"))?;
    if length.parse() != Ok(body.len()) || sum != format!("{:08x}", crc32c::crc32c(body)) {
        return Err(bad("it does not fit its checksum"));
    }
    serde_json::from_slice(body).map(Some).map_err(io::Error::other)
}

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}
