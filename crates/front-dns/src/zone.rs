//! The image of the tree that is answered from: for each name in the DNS what its records are, ready to be copied into
//! an answer.
//!
//! One task writes it (`follow`), everybody reads it, and a read takes no lock. It holds what `anyone` may find, and
//! nothing else: what is hidden is not there, and no mistake in composing an answer can show it. Names that only lead to
//! others (empty non-terminals, RFC 8020) are there with nothing of their own.
//!
//! Wildcards are not used and have no meaning: a name is there or it is not.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use papaya::Guard;
use parking_lot::RwLock;
use tokio::sync::watch;

use byname_name::Name;

use crate::key::{Key, Seed, above};
use crate::wire;

/// Records of one type of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set<'a> {
    /// The type.
    pub(crate) rtype: u16,
    /// Whether the records take turns in being the first.
    pub(crate) turns: bool,
    /// How many there are.
    pub(crate) count: u16,
    /// For each two bytes of length and the data.
    records: &'a [u8],
}

impl<'a> Set<'a> {
    /// The data of each record, in order, from this turn on: those that take turns begin with another each time.
    pub(crate) fn data(self, turn: u32) -> impl Iterator<Item = &'a [u8]> {
        let skipped = if self.turns && self.count > 1 { turn % u32::from(self.count) } else { 0 } as usize;
        let all = Data(self.records);
        all.skip(skipped).chain(Data(self.records).take(skipped))
    }

    /// The first record's data.
    pub(crate) fn first(self) -> Option<&'a [u8]> {
        Data(self.records).next()
    }
}

#[derive(Clone)]
struct Data<'a>(&'a [u8]);

impl<'a> Iterator for Data<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.0 = rest;
        Some(data)
    }
}

/// Sets of records in one allocation: for each its type, whether it takes turns, its count, its length, its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets(Box<[u8]>);

impl Sets {
    /// The set of this type.
    pub(crate) fn get(&self, rtype: u16) -> Option<Set<'_>> {
        self.iter().find(|set| set.rtype == rtype)
    }

    /// Every set.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Set<'_>> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (head, behind) = rest.split_first_chunk::<9>()?;
            let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) as usize;
            let (records, behind) = behind.split_at_checked(length)?;
            rest = behind;
            Some(Set {
                rtype: u16::from_be_bytes([head[0], head[1]]),
                turns: head[2] != 0,
                count: u16::from_be_bytes([head[3], head[4]]),
                records,
            })
        })
    }
}

/// Makes [`Sets`].
#[derive(Default)]
pub(crate) struct SetsMaker(Vec<u8>);

impl SetsMaker {
    /// Adds a set; one without records is none. What would not fit into any message is left out.
    pub(crate) fn push<D: AsRef<[u8]>>(&mut self, rtype: u16, turns: bool, data: impl IntoIterator<Item = D>) {
        let mut records = Vec::new();
        let mut count = 0u16;
        for data in data {
            let data = data.as_ref();
            let Ok(length) = u16::try_from(data.len()) else { continue };
            if records.len() + data.len() > 60_000 {
                break;
            }
            records.extend_from_slice(&length.to_be_bytes());
            records.extend_from_slice(data);
            count += 1;
        }
        if count == 0 {
            return;
        }
        self.0.extend_from_slice(&rtype.to_be_bytes());
        self.0.push(u8::from(turns));
        self.0.extend_from_slice(&count.to_be_bytes());
        self.0.extend_from_slice(&(records.len() as u32).to_be_bytes());
        self.0.extend_from_slice(&records);
    }

    /// What was made.
    pub(crate) fn done(self) -> Sets {
        Sets(self.0.into())
    }
}

/// One name.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Which reading of the tree it is of: what an older one left behind is swept out.
    pub(crate) reading: u32,
    /// Whether it is an object's, and not only on the way to one.
    pub(crate) own: bool,
    /// How long others may remember an answer about it, in seconds.
    pub(crate) ttl: u32,
    /// Its records. An alias has one of type CNAME with the whole name that it stands for.
    pub(crate) sets: Sets,
    /// What only services have.
    pub(crate) service: Option<Box<Service>>,
}

/// What only services have.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its name in the tree.
    pub(crate) name: Name,
    /// Nothing of it runs, and a look-up may start it.
    pub(crate) starts: bool,
    /// It declares endpoints or has some: what is asked for beneath it, and what is listed beside it.
    pub(crate) kinds: Box<[Offered]>,
    /// Addresses of its copies, by the label that stands for each: `LABEL.NAME`.
    pub(crate) copies: Box<[(Box<[u8]>, IpAddr)]>,
    /// Its public attributes as a record of type TXT.
    pub(crate) text: Option<Box<[u8]>>,
    /// When it was last said to be in use, and what is counted from.
    pub(crate) used: Arc<Used>,
}

/// When a service was used, as the server was last told.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// It is stopped when it is not used for so long, in milliseconds; 0 if it is not.
    pub(crate) idle_ms: AtomicU64,
    /// When the server last took note of a use, by the clock of [`Image::now_ms`].
    pub(crate) told_ms: AtomicU64,
    /// When it was last asked to.
    pub(crate) asked_ms: AtomicU64,
}

/// One kind of endpoint of a service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// `_http._tcp` as labels.
    pub(crate) prefix: Box<[u8]>,
    /// Its records of types SRV and SVCB, at `_http._tcp.NAME`.
    pub(crate) sets: Sets,
}

/// What a directory lists (RFC 6763): for each kind of endpoint the labels of the services in it.
type Listed = HashMap<Box<[u8]>, BTreeSet<Box<[u8]>>>;

/// The image.
pub(crate) struct Image {
    /// The zone's name, whole, in small letters.
    pub(crate) zone: Vec<u8>,
    /// How many labels it has.
    pub(crate) zone_labels: usize,
    entries: papaya::HashMap<Key, Entry, Seed>,
    /// Records of names outside the zone, by their labels: addresses (`4.3.2.1.in-addr.arpa`) that lead back to names.
    outside: papaya::HashMap<Key, Entry, Seed>,
    listed: RwLock<HashMap<Key, Listed>>,
    /// How many aliases there are: without any, nothing has to be looked for above a name that is not there.
    aliases: AtomicUsize,
    services: AtomicUsize,
    serial: AtomicU32,
    complete: AtomicBool,
    /// Held by who changes the image, from one revision to the next; false when it was left half done.
    pub(crate) whole: tokio::sync::RwLock<bool>,
    changed: watch::Sender<u64>,
    begun: std::time::Instant,
}

/// The time to live of answers that something is not there, in seconds. What is stopped and started by name comes and
/// goes, so it is short for all.
pub(crate) const NEGATIVE_TTL: u32 = 5;

/// The times in SOA: when secondaries ask again, try again and give up, in seconds.
pub(crate) const SOA_TIMES: [u32; 3] = [3600, 600, 604_800];

impl Image {
    /// An empty image of the zone of this suffix; `None` if that is no name in the DNS.
    pub(crate) fn new(suffix: &str) -> Option<Image> {
        let zone = wire::wire_of(suffix)?;
        Some(Image {
            zone_labels: wire::count_labels(&zone),
            zone,
            entries: papaya::HashMap::with_hasher(Seed::default()),
            outside: papaya::HashMap::with_hasher(Seed::default()),
            listed: RwLock::default(),
            aliases: AtomicUsize::new(0),
            services: AtomicUsize::new(0),
            serial: AtomicU32::new(0),
            complete: AtomicBool::new(false),
            whole: tokio::sync::RwLock::new(false),
            changed: watch::channel(0).0,
            begun: std::time::Instant::now(),
        })
    }

    /// Keeps what is read from vanishing. Held for a whole batch it makes those within it cheap.
    pub(crate) fn guard(&self) -> papaya::LocalGuard<'_> {
        self.entries.guard()
    }

    /// The same for the names outside the zone.
    pub(crate) fn guard_outside(&self) -> papaya::LocalGuard<'_> {
        self.outside.guard()
    }

    /// The entry of a name, by its labels in front of the zone.
    pub(crate) fn get<'g>(&self, labels: &[u8], guard: &'g impl Guard) -> Option<&'g Entry> {
        self.entries.get(labels, guard)
    }

    /// The entry of a name outside the zone, by all of its labels.
    pub(crate) fn get_outside<'g>(&self, labels: &[u8], guard: &'g impl Guard) -> Option<&'g Entry> {
        self.outside.get(labels, guard)
    }

    /// The labels of a whole name in front of the zone, if it is in the zone.
    pub(crate) fn inside<'n>(&self, wire: &'n [u8]) -> Option<&'n [u8]> {
        let front = wire.len().checked_sub(self.zone.len())?;
        let (labels, zone) = wire.split_at_checked(front)?;
        // Where the zone's bytes begin a label must begin.
        let mut at = 0;
        while at < front {
            at += usize::from(*labels.get(at)?) + 1;
        }
        (at == front && zone == self.zone).then_some(labels)
    }

    /// Every name in the zone with its entry, in no order: for transfers.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&[u8], &Entry)) {
        for (key, entry) in self.entries.pin().iter() {
            each(key.as_bytes(), entry);
        }
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are aliases or services: then a name that is not there may still mean something.
    pub(crate) fn has_composed(&self) -> bool {
        self.aliases.load(Ordering::Relaxed) + self.services.load(Ordering::Relaxed) > 0
    }

    /// Puts an entry in the place of what a name had.
    pub(crate) fn put(&self, labels: &[u8], entry: Entry) {
        self.count(&entry, 1);
        let guard = self.entries.guard();
        if let Some(old) = self.entries.insert(Key::new(labels), entry, &guard) {
            self.count(old, -1);
        }
    }

    /// Takes a name away.
    pub(crate) fn remove(&self, labels: &[u8]) {
        let guard = self.entries.guard();
        if let Some(old) = self.entries.remove(labels, &guard) {
            self.count(old, -1);
        }
    }

    /// Puts the name of an address, or takes it away.
    pub(crate) fn set_outside(&self, labels: &[u8], entry: Option<Entry>) {
        let guard = self.outside.guard();
        match entry {
            Some(entry) => drop(self.outside.insert(Key::new(labels), entry, &guard).is_some()),
            None => drop(self.outside.remove(labels, &guard).is_some()),
        }
    }

    fn count(&self, entry: &Entry, by: isize) {
        let count = if entry.service.is_some() {
            &self.services
        } else if entry.sets.get(wire::rtype::CNAME).is_some() {
            &self.aliases
        } else {
            return;
        };
        count.fetch_add(by as usize, Ordering::Relaxed);
    }

    /// Lists a service in its directory under these kinds, or under none.
    pub(crate) fn list(&self, labels: &[u8], before: &[Offered], now: &[Offered]) {
        let (Some(directory), Some(size)) = (above(labels), labels.first()) else { return };
        let Some(label) = labels.get(1..=usize::from(*size)) else { return };
        let kinds = |offered: &[Offered]| offered.iter().map(|o| o.prefix.clone()).collect::<BTreeSet<_>>();
        let (before, now) = (kinds(before), kinds(now));
        if before == now {
            return;
        }
        let mut all = self.listed.write();
        let listed = all.entry(Key::new(directory)).or_default();
        for kind in before.difference(&now) {
            if let Some(labels) = listed.get_mut(kind) {
                labels.remove(label);
                if labels.is_empty() {
                    listed.remove(kind);
                }
            }
        }
        for kind in now.difference(&before) {
            listed.entry(kind.clone()).or_default().insert(label.into());
        }
        if listed.is_empty() {
            all.remove(directory);
        }
    }

    /// The labels of services of this kind in a directory; at most so many.
    pub(crate) fn listed(&self, directory: &[u8], kind: &[u8], most: usize) -> Vec<Box<[u8]>> {
        let all = self.listed.read();
        let labels = all.get(directory).and_then(|listed| listed.get(kind));
        labels.into_iter().flatten().take(most).cloned().collect()
    }

    /// Whether a directory lists this service under this kind.
    pub(crate) fn lists(&self, directory: &[u8], kind: &[u8], label: &[u8]) -> bool {
        let all = self.listed.read();
        all.get(directory).and_then(|listed| listed.get(kind)).is_some_and(|labels| labels.contains(label))
    }

    /// The kinds of services in a directory, sorted.
    pub(crate) fn kinds(&self, directory: &[u8]) -> Vec<Box<[u8]>> {
        let all = self.listed.read();
        let mut kinds: Vec<_> = all.get(directory).into_iter().flat_map(HashMap::keys).cloned().collect();
        kinds.sort();
        kinds
    }

    /// The serial number: the low half of the tree's revision (RFC 1982 lets it begin anew).
    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(Ordering::Acquire)
    }

    /// Everything up to this revision is in the image.
    pub(crate) fn reached(&self, revision: u64) {
        self.serial.store(revision as u32, Ordering::Release);
        self.changed.send_replace(revision);
    }

    /// Tells of each revision that is reached.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether the whole tree has been read. Before that nothing can be said about what is not there.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(crate) fn set_complete(&self, complete: bool) {
        self.complete.store(complete, Ordering::Release);
        self.changed.send_modify(|_| {});
    }

    /// Milliseconds since the image was made.
    pub(crate) fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_back_and_take_turns() {
        let mut maker = SetsMaker::default();
        maker.push(1, true, [[1u8; 4], [2; 4], [3; 4]]);
        maker.push(16, false, [vec![9u8; 300]]);
        maker.push(28, false, Vec::<[u8; 16]>::new());
        let sets = maker.done();
        let firsts: Vec<u8> = (0..4).map(|turn| sets.get(1).unwrap().data(turn).next().unwrap()[0]).collect();
        assert_eq!(firsts, [1, 2, 3, 1]);
        assert_eq!(sets.get(1).unwrap().data(2).map(|d| d[0]).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!(sets.get(16).unwrap().first().unwrap().len(), 300);
        assert!(sets.get(28).is_none());
    }

    #[test]
    fn a_name_is_inside_only_at_the_beginning_of_a_label() {
        let image = Image::new("corp.example").unwrap();
        let wire = |text: &str| wire::wire_of(text).unwrap();
        assert_eq!(image.inside(&wire("a.Corp.example")), Some(&b"\x01a"[..]));
        assert_eq!(image.inside(&wire("corp.example")), Some(&b""[..]));
        assert_eq!(image.inside(&wire("xcorp.example")), None);
        assert_eq!(image.inside(&wire("example")), None);
        // A label whose text looks like the zone's bytes.
        let tricky = [&[14u8][..], b"a\x04corp\x07example", &[0]].concat();
        assert_eq!(image.inside(&tricky), None);
    }
}
