//! Objects as the tree keeps them: one allocation each, and what most questions need without reading the rest.
//!
//! ```text
//! head: id, version, lengths of key and name, kind, flags
//! bytes: key | name, unless the key tells it | the stamps, the owner and the set (postcard) | the declaration (JSON of
//!        the interface's version 1, without kind and owner; nothing when it says nothing more)
//! ```
//!
//! A snapshot holds these bytes as they are since format 3: whoever changes them makes a new format.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use triomphe::ThinArc;

use byname_api::launch::{Launch, Start};
use byname_api::object::{Kind, ObjectId, Spec, Stamp};
use byname_api::span::Timestamp;
use byname_name::Name;

use crate::tree::Node;

/// The name is not what the key tells.
const NAMED: u8 = 1;
/// Nobody added it.
const UNREGISTERED: u8 = 2;
/// It has an entry in the indexes of special services, sockets or attributes.
const SPECIAL: u8 = 4;

/// What is known of an object without reading its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    id: u64,
    version: u64,
    key: u16,
    name: u16,
    kind: u8,
    flags: u8,
}

/// The part between name and declaration.
#[derive(Serialize, Deserialize)]
struct Tail<'a> {
    created: (u64, &'a str),
    /// When it is another than `created`.
    #[serde(borrow)]
    modified: Option<(u64, Option<&'a str>)>,
    owner: Owner<'a>,
    set: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
enum Owner<'a> {
    Creator,
    Nobody,
    Other(&'a str),
    /// Since format 4.
    Bound(&'a str, u64),
}

/// An object. Cloning copies a pointer; order and equality are those of the keys.
#[derive(Clone, Debug)]
pub(crate) struct Slot(ThinArc<Head, u8>);

impl Slot {
    /// Packs an object, without what lives beside it: a service's state and a lock.
    pub(crate) fn pack(node: &Node) -> Slot {
        let key = node.name.key();
        let derived = derived_name(key.as_bytes());
        let name = if derived == node.name.as_str() { "" } else { node.name.as_str() };
        let by = |stamp: &Stamp| stamp.by.clone();
        let (created_by, modified_by) = (by(&node.created), by(&node.modified));
        let tail = Tail {
            created: (node.created.at.0, &created_by),
            modified: (node.modified != node.created)
                .then_some((node.modified.at.0, (modified_by != created_by).then_some(modified_by.as_str()))),
            owner: match (&node.spec.owner, node.owner_id) {
                (Some(owner), Some(id)) => Owner::Bound(owner, id.0),
                (Some(owner), None) if *owner == created_by => Owner::Creator,
                (Some(owner), None) => Owner::Other(owner),
                (None, _) => Owner::Nobody,
            },
            set: node.set.as_deref(),
        };
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(name.as_bytes());
        // Writing into a growing vector cannot fail.
        let mut bytes = postcard::to_extend(&tail, bytes).unwrap_or_default();
        let spec = Spec { kind: None, owner: None, ..Spec::clone(&node.spec) };
        if spec != Spec::default() {
            // Our own types have string keys only, so this cannot fail.
            let _ = serde_json::to_writer(&mut bytes, &spec);
        }
        let mut flags = 0;
        for (flag, is) in
            [(NAMED, !name.is_empty()), (UNREGISTERED, node.unregistered), (SPECIAL, needs_index(&node.spec))]
        {
            flags |= if is { flag } else { 0 };
        }
        let head = Head {
            id: node.id.0,
            version: node.version,
            // A name is 1,023 bytes at most, and its key at most a few times that.
            key: u16::try_from(key.as_bytes().len()).unwrap_or(u16::MAX),
            name: u16::try_from(name.len()).unwrap_or(u16::MAX),
            kind: Kind::ALL.iter().position(|k| *k == node.kind()).unwrap_or_default() as u8,
            flags,
        };
        Slot(ThinArc::from_header_and_slice(head, &bytes))
    }

    /// The object without what lives beside it; a service is as it was made.
    pub(crate) fn unpack(&self) -> Node {
        let kind = self.kind();
        let (tail, json) = self.tail();
        let mut spec: Spec =
            if json.is_empty() { Spec::default() } else { serde_json::from_slice(json).unwrap_or_default() };
        spec.kind = Some(kind);
        spec.owner = match tail.owner {
            Owner::Creator => Some(tail.created.1.into()),
            Owner::Nobody => None,
            Owner::Other(owner) | Owner::Bound(owner, _) => Some(owner.into()),
        };
        let owner_id = match tail.owner {
            Owner::Bound(_, id) => Some(ObjectId(id)),
            _ => None,
        };
        let stamp = |at, by: &str| Stamp { at: Timestamp(at), by: by.into() };
        let created = stamp(tail.created.0, tail.created.1);
        let modified = match tail.modified {
            Some((at, by)) => stamp(at, by.unwrap_or(tail.created.1)),
            None => created.clone(),
        };
        Node {
            id: self.id(),
            name: self.name(),
            version: self.version(),
            spec: Arc::new(spec),
            set: tail.set.map(Into::into),
            created,
            modified,
            service: (kind == Kind::Service).then(Arc::default),
            unregistered: self.head().flags & UNREGISTERED != 0,
            lock: None,
            owner_id,
        }
    }

    /// Its place in the order of names.
    pub(crate) fn key(&self) -> &[u8] {
        self.bytes().get(..usize::from(self.head().key)).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> ObjectId {
        ObjectId(self.head().id)
    }

    pub(crate) fn version(&self) -> u64 {
        self.head().version
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::ALL.get(usize::from(self.head().kind)).copied().unwrap_or(Kind::Directory)
    }

    /// Whether it has an entry in an index beside that of names. Aliases have, by their targets, and groups, by their
    /// members, without the flag.
    pub(crate) fn is_special(&self) -> bool {
        self.head().flags & SPECIAL != 0 || matches!(self.kind(), Kind::Alias | Kind::Group)
    }

    /// The name as created.
    pub(crate) fn name(&self) -> Name {
        let head = self.head();
        let (from, to) = (usize::from(head.key), usize::from(head.key) + usize::from(head.name));
        let parsed = if head.flags & NAMED != 0 {
            std::str::from_utf8(self.bytes().get(from..to).unwrap_or_default()).ok().and_then(|n| Name::parse(n).ok())
        } else {
            Name::parse(&derived_name(self.key())).ok()
        };
        // What was packed was a name, and what a snapshot holds is checked when it is read.
        parsed.unwrap_or_else(Name::root)
    }

    /// The apply set that declared it.
    pub(crate) fn set(&self) -> Option<&str> {
        self.tail().0.set
    }

    /// Its owner, with the id that the owner was bound to when somebody named it.
    pub(crate) fn owner(&self) -> Option<(&str, Option<ObjectId>)> {
        let tail = self.tail().0;
        match tail.owner {
            Owner::Creator => Some((tail.created.1, None)),
            Owner::Other(owner) => Some((owner, None)),
            Owner::Bound(owner, id) => Some((owner, Some(ObjectId(id)))),
            Owner::Nobody => None,
        }
    }

    /// Whether attributes are declared: they come first in a declaration.
    pub(crate) fn has_attributes(&self) -> bool {
        self.tail().1.starts_with(b"{\"attributes\"")
    }

    /// Where an alias leads.
    pub(crate) fn target(&self) -> Option<Name> {
        if self.kind() == Kind::Alias { self.unpack().spec.target.clone() } else { None }
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    fn bytes(&self) -> &[u8] {
        &self.0.slice
    }

    fn tail(&self) -> (Tail<'_>, &[u8]) {
        let head = self.head();
        let from = usize::from(head.key) + usize::from(head.name);
        let nothing = Tail { created: (0, ""), modified: None, owner: Owner::Nobody, set: None };
        postcard::take_from_bytes(self.bytes().get(from..).unwrap_or_default()).unwrap_or((nothing, &[]))
    }

    /// Appends the form that a snapshot holds.
    pub(crate) fn write(&self, mut out: Vec<u8>) -> Vec<u8> {
        let Head { id, version, key, name, kind, flags } = *self.head();
        out = postcard::to_extend(&(id, version, key, name, kind, flags), out).unwrap_or_default();
        out.extend_from_slice(self.bytes());
        out
    }

    /// Reads what [`Slot::write`] made. The declaration is not looked at: the caller vouches for it by a checksum.
    pub(crate) fn read(bytes: &[u8]) -> Option<Slot> {
        let ((id, version, key, name, kind, flags), rest): ((u64, u64, u16, u16, u8, u8), _) =
            postcard::take_from_bytes(bytes).ok()?;
        let head = Head { id, version, key, name, kind, flags };
        let named = flags & NAMED != 0;
        let end = usize::from(key) + usize::from(name);
        let key = rest.get(..usize::from(key))?;
        let whole = key.is_empty() || key.ends_with(&[0]);
        let fits = usize::from(kind) < Kind::ALL.len() && whole && named == (name > 0) && end < rest.len();
        if !fits || std::str::from_utf8(rest.get(..end)?).is_err() {
            return None;
        }
        Some(Slot(ThinArc::from_header_and_slice(head, rest)))
    }
}

/// The name that a key tells: its labels with slashes.
fn derived_name(key: &[u8]) -> String {
    let mut name = String::with_capacity(key.len() + 1);
    let labels = key.strip_suffix(&[0]).unwrap_or_default();
    name.push('/');
    name.extend(std::str::from_utf8(labels).unwrap_or_default().chars().map(|c| if c == '\0' { '/' } else { c }));
    name
}

/// Whether a declaration needs an entry in an index beside that of names.
fn needs_index(spec: &Spec) -> bool {
    spec.index.is_some() || spec.acl.is_some() || spec.audit.is_some() || spec.launch.as_ref().is_some_and(is_special)
}

/// A service that has stable sockets, stops when idle, or shall always run.
pub(crate) fn is_special(launch: &Launch) -> bool {
    launch.listen.is_some() || launch.idle_stop.is_some() || launch.start() == Start::Always || launch.copies().min > 0
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Slot {}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
