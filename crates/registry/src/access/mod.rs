//! Who may do what: the rules of `byname_api::access`, over a frozen view.
//!
//! A decision goes from the object that is asked for up to the root and looks only at objects that have a list of their
//! own, which the tree keeps by name (`derived`): those above a name are the beginnings of its key. Owners are looked at
//! only when neither a list nor the default says yes.
//!
//! Everything binds to ids. An entry is about whoever has the id that its name had when the entry was made; a member of a
//! group counts when its object is the one that was bound. An owner whom nobody named is the creator: the object of the
//! creator's name, if it is older than what it made, for ids grow.

mod groups;
mod sight;

pub use groups::{groups, is_member};
pub use sight::Sight;

use byname_api::access::{ADMINS, AclEntry, Decision, Listed, Subject};
use byname_api::caller::{Right, Standing};
use byname_api::error::{Code, Error};
use byname_api::object::{Audited, Kind, ObjectId};
use byname_name::{Name, NameKey};
use imbl::OrdMap;

use crate::stored::packed::Slot;
use crate::tree::{MAX_ALIASES, Node, Tree};
use groups::Groups;

/// Somebody, as far as access control needs to know.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    /// Whether lists are asked at all.
    pub standing: Standing,
    /// The principal's name, when it is one of the tree.
    pub name: Option<&'a Name>,
    /// Its object: rights bind to it.
    pub id: Option<ObjectId>,
    /// A local user of the server's host.
    pub uid: Option<u32>,
    /// Whether those who have not said who they are may find, list and read when no list says anything (`byname dev`).
    pub anyone_looks: bool,
    /// Whether what an authority has signed off line about a group or a principal was verified, and says what the object
    /// says. Entries that ask for it count only then.
    pub certified: &'a (dyn Fn(&Node) -> bool + Sync),
}

/// Nothing is certified.
pub const NONE_CERTIFIED: &(dyn Fn(&Node) -> bool + Sync) = &|_| false;

impl<'a> Who<'a> {
    /// Somebody who has not said who it is.
    pub fn anonymous(anyone_looks: bool) -> Who<'a> {
        let standing = Standing::Anonymous;
        Who { standing, name: None, id: None, uid: None, anyone_looks, certified: NONE_CERTIFIED }
    }

    /// Somebody who may do everything.
    pub fn full() -> Who<'a> {
        Who { standing: Standing::Full, ..Who::anonymous(false) }
    }

    /// A principal of the tree that has proved who it is.
    pub fn authenticated(name: &'a Name, id: ObjectId) -> Who<'a> {
        let standing = Standing::Authenticated;
        Who { standing, name: Some(name), id: Some(id), ..Who::anonymous(false) }
    }

    fn by_default(&self, right: Right) -> bool {
        let looks = matches!(right, Right::Find | Right::List | Right::Read);
        match self.standing {
            Standing::Full => true,
            Standing::Authenticated => looks,
            Standing::Anonymous => looks && self.anyone_looks,
        }
    }

    /// Whether it can own anything.
    fn is_somebody(&self) -> bool {
        self.standing != Standing::Anonymous && (self.id.is_some() || self.uid.is_some())
    }

    /// Whether it owns this object.
    fn owns(&self, slot: &Slot) -> bool {
        self.is_somebody() && slot.owner().is_some_and(|(owner, id)| self.is_owner(owner, id, slot.id()))
    }

    fn is_owner(&self, owner: &str, bound: Option<ObjectId>, owned: ObjectId) -> bool {
        if let Some(uid) = owner.strip_prefix("uid:") {
            return self.uid.is_some_and(|own| uid.parse() == Ok(own));
        }
        match (bound, self.id, self.name) {
            (Some(bound), id, _) => id == Some(bound),
            // The creator was there before what it made. A name that is used again has a greater id.
            (None, Some(id), Some(name)) if id < owned && owner.starts_with('/') => {
                owner == name.as_str() || Name::parse(owner).is_ok_and(|owner| owner.key() == name.key())
            }
            _ => false,
        }
    }
}

/// What decides.
#[derive(Clone, Debug)]
enum Why<'t> {
    /// Lists are not asked.
    Standing,
    /// No list says anything.
    Default,
    /// The caller owns the object of this key.
    Owner(Vec<u8>),
    /// An entry of the list of the object of this key; the group of the caller's that it is about.
    Entry { at: &'t NameKey, entry: &'t AclEntry, group: Option<ObjectId> },
    /// The caller is a member of the administrators, which is this group.
    Administrator(ObjectId),
}

struct Verdict<'t> {
    allowed: bool,
    why: Why<'t>,
}

/// The nearest object, at this key or above it, that has an entry in a map by name.
fn nearest<'t, V>(map: &'t OrdMap<NameKey, V>, key: &str) -> Option<(&'t NameKey, &'t V)> {
    if map.is_empty() {
        return None;
    }
    let mut key = key;
    loop {
        let (found, value) = map.get_prev(key)?;
        if key.starts_with(found.as_str()) {
            return Some((found, value));
        }
        // What is above both is not beyond what they have in common, which ends at the end of a label.
        let common = key.bytes().zip(found.as_str().bytes()).take_while(|(a, b)| a == b).count();
        let end = key.as_bytes().get(..common)?.iter().rposition(|b| *b == 0).map_or(0, |at| at + 1);
        key = key.get(..end)?;
    }
}

/// The key of what is above; `None` above the root.
fn above(key: &str) -> Option<&str> {
    let end = key.len().checked_sub(1)?;
    key.get(..key.as_bytes().get(..end)?.iter().rposition(|b| *b == 0).map_or(0, |at| at + 1))
}

/// This key and those above it, the longest first.
fn upwards(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| above(key))
}

/// One decision about one caller: what it needs is looked up once.
struct Judge<'t, 'w> {
    tree: &'t Tree,
    who: &'w Who<'w>,
    groups: Groups<'t, 'w>,
}

impl<'t, 'w> Judge<'t, 'w> {
    fn new(tree: &'t Tree, who: &'w Who<'w>) -> Judge<'t, 'w> {
        Judge { tree, who, groups: Groups::new(tree, who) }
    }

    fn verdict(&mut self, right: Right, key: &str) -> Verdict<'t> {
        if self.who.standing == Standing::Full {
            return Verdict { allowed: true, why: Why::Standing };
        }
        let verdict = self.by_lists(right, key, true);
        if verdict.allowed || self.who.standing == Standing::Anonymous && self.tree.derived().acls().is_empty() {
            return verdict;
        }
        // The right `admin` by a list is every right. An owner has that right too, but may be refused others by name.
        if right != Right::Admin {
            let admin = self.by_lists(Right::Admin, key, false);
            if admin.allowed {
                return admin;
            }
        }
        if let Some(group) = administrators(self.tree)
            && self.groups.hold(group, false)
        {
            return Verdict { allowed: true, why: Why::Administrator(group) };
        }
        verdict
    }

    /// What lists, owners and the default say about one right.
    fn by_lists(&mut self, right: Right, key: &str, owners: bool) -> Verdict<'t> {
        let acls = self.tree.derived().acls();
        let owners = owners && self.who.is_somebody();
        let by_default = self.who.by_default(right);
        let mut refused: Option<Verdict<'t>> = None;
        // Where the search for a list goes on, and from where on owners have not been looked at.
        let (mut rest, mut unowned) = (Some(key), Some(key));
        while let Some((at, spec)) = rest.and_then(|from| nearest(acls, from)) {
            rest = above(at.as_str());
            let said = self.said(spec.acl.as_deref().unwrap_or_default(), right);
            if let Some((entry, group)) = said.filter(|(entry, _)| entry.allow && refused.is_none()) {
                return Verdict { allowed: true, why: Why::Entry { at, entry, group } };
            }
            // A list does not refuse the owner of what is as near as it is, or nearer.
            if owners && (refused.is_some() || said.is_some() || !by_default) {
                if let Some(place) = unowned.and_then(|from| self.owned(from, at.as_str().len())) {
                    return Verdict { allowed: true, why: Why::Owner(place) };
                }
                unowned = rest;
            }
            let Some((entry, group)) = said.filter(|(entry, _)| !entry.allow) else { continue };
            let by_name = group.is_none() && matches!(entry.who, Subject::Named(_) | Subject::User(_));
            let verdict = refused.take().unwrap_or(Verdict { allowed: false, why: Why::Entry { at, entry, group } });
            if !owners || by_name {
                return verdict;
            }
            refused = Some(verdict);
        }
        if owners
            && (refused.is_some() || !by_default)
            && let Some(place) = unowned.and_then(|from| self.owned(from, 0))
        {
            return Verdict { allowed: true, why: Why::Owner(place) };
        }
        refused.unwrap_or(Verdict { allowed: by_default, why: Why::Default })
    }

    /// The nearest object of the caller's at a key or above it, down to keys of a length.
    fn owned(&self, key: &str, least: usize) -> Option<Vec<u8>> {
        let own = |key: &&str| self.tree.names().get(key.as_bytes()).is_some_and(|slot| self.who.owns(slot));
        upwards(key).take_while(|key| key.len() >= least).find(own).map(|key| key.as_bytes().to_vec())
    }

    /// The entry of one list that is about the caller and the right, with the caller's group that it is about.
    fn said(&mut self, list: &'t [AclEntry], right: Right) -> Option<(&'t AclEntry, Option<ObjectId>)> {
        let mut best: Option<(u8, &AclEntry, Option<ObjectId>)> = None;
        for entry in list.iter().filter(|entry| entry.rights.has(right)) {
            let Some((rank, group)) = self.about(entry) else { continue };
            // Of equals a refusal goes before a grant, and otherwise the first.
            let better = match &best {
                None => true,
                Some((best, ..)) if rank != *best => rank > *best,
                Some((_, best, _)) => best.allow && !entry.allow,
            };
            if better {
                best = Some((rank, entry, group));
            }
        }
        best.map(|(_, entry, group)| (entry, group))
    }

    /// How closely an entry is about the caller, and by which group; `None` when it is not.
    fn about(&mut self, entry: &AclEntry) -> Option<(u8, Option<ObjectId>)> {
        let named = self.who.standing != Standing::Anonymous;
        match &entry.who {
            Subject::Anyone => Some((0, None)),
            Subject::Authenticated => named.then_some((1, None)),
            Subject::User(uid) => (named && self.who.uid == Some(*uid)).then_some((3, None)),
            Subject::Named(_) => {
                let id = entry.id.filter(|_| named)?;
                if self.who.id == Some(id) {
                    let holds = !entry.certified || self.tree.by_id(id).is_some_and(|n| (self.who.certified)(&n));
                    return holds.then_some((3, None));
                }
                self.groups.hold(id, entry.certified).then_some((2, Some(id)))
            }
        }
    }

    fn decision(&mut self, right: Right, name: &Name) -> Decision {
        let key = name.key();
        let Verdict { allowed, why } = self.verdict(right, key.as_str());
        let named = |key: &[u8]| self.tree.names().get(key).map(Slot::name);
        let mut decision =
            Decision { right, allowed, at: None, entry: None, through: Vec::new(), because: String::new() };
        decision.because = match why {
            Why::Standing => "may do everything on this server".into(),
            Why::Default if allowed => "no list says otherwise, and looking is open by default".into(),
            Why::Default => format!("no list grants `{right}`, and by default nobody but administrators has it"),
            Why::Owner(key) => {
                decision.at = named(&key);
                let at = decision.at.as_ref().map_or_else(|| "it".into(), |at| format!("`{at}`"));
                format!("owns {at}")
            }
            Why::Administrator(group) => {
                decision.at = self.tree.by_id(group).map(|n| n.name.clone());
                decision.through = self.groups.path(group, false);
                format!("is a member of `{ADMINS}`, who may do everything")
            }
            Why::Entry { at, entry, group } => {
                decision.at = named(at.as_bytes());
                decision.entry = Some(entry.clone());
                decision.through = group.map(|g| self.groups.path(g, entry.certified)).unwrap_or_default();
                let does = if entry.allow { "grants" } else { "refuses" };
                let what = if entry.rights.has(right) { right } else { Right::Admin };
                let every = if what == right { "" } else { ", which is every right" };
                let at = decision.at.as_ref().map_or_else(String::new, |at| format!(" of `{at}`"));
                format!("the list{at} {does} {} `{what}`{every}", entry.who)
            }
        };
        decision
    }
}

fn administrators(tree: &Tree) -> Option<ObjectId> {
    // Its key, so that no name need be made on the way.
    const KEY: &[u8] = b"byname\0admins\0";
    tree.names().get(KEY).filter(|slot| slot.kind() == Kind::Group).map(Slot::id)
}

/// Whether somebody has a right to a name, which need not exist: what would be made there inherits. Aliases are not
/// followed: the list of an alias is about the alias.
pub fn allows(tree: &Tree, who: &Who<'_>, right: Right, name: &Name) -> bool {
    who.standing == Standing::Full || name.with_key(|key| allows_key(tree, who, right, key))
}

fn allows_key(tree: &Tree, who: &Who<'_>, right: Right, key: &str) -> bool {
    if who.by_default(right) && nearest(tree.derived().acls(), key).is_none() {
        return true;
    }
    Judge::new(tree, who).verdict(right, key).allowed
}

/// Whether somebody has a right to a name and to all that is beneath it (`delete -r`). Looks only at what has a list of
/// its own: without one nothing is less open than what is above it.
pub fn allows_beneath(tree: &Tree, who: &Who<'_>, right: Right, name: &Name) -> bool {
    if who.standing == Standing::Full {
        return true;
    }
    let (key, acls) = (name.key(), tree.derived().acls());
    let mut judge = Judge::new(tree, who);
    let beneath = acls.range(key.clone()..).map(|(at, _)| at).take_while(|at| at.is_under(&key));
    let mut places = std::iter::once(key.as_str()).chain(beneath.map(NameKey::as_str));
    places.all(|at| judge.verdict(right, at).allowed)
}

/// What [`allows`] says, with what decides.
pub fn explain(tree: &Tree, who: &Who<'_>, right: Right, name: &Name) -> Decision {
    Judge::new(tree, who).decision(right, name)
}

/// The lists that a decision about a name looks at, the nearest first: that of the object, though it is empty, and those
/// above it.
pub fn lists(tree: &Tree, name: &Name) -> Vec<Listed> {
    let all = std::iter::once(name.clone()).chain(name.ancestors());
    let nodes =
        all.filter_map(|at| tree.get(&at)).filter(|node| node.spec.acl.is_some() || node.name.key() == name.key());
    nodes
        .map(|node| Listed {
            name: node.name.clone(),
            owner: node.spec.owner.clone().unwrap_or_default(),
            acl: node.spec.acl.clone().unwrap_or_default(),
        })
        .collect()
}

fn looks(judge: &mut Judge<'_, '_>, key: &str) -> bool {
    [Right::List, Right::Find, Right::Read].into_iter().any(|right| judge.verdict(right, key).allowed)
}

/// Whether a request about a name that was refused must look exactly as if there were no such name: the caller may
/// neither list, find nor read it, and the nearest object above it that the caller may list is one that hides what leads
/// here. Whoever may look at the object itself knows of it, whatever is above.
pub fn hidden(tree: &Tree, who: &Who<'_>, name: &Name) -> bool {
    name.with_key(|key| hidden_key(&mut Judge::new(tree, who), key))
}

fn hidden_key(judge: &mut Judge<'_, '_>, key: &str) -> bool {
    let acls = judge.tree.derived().acls();
    if judge.who.standing == Standing::Full || nearest(acls, key).is_none() || looks(judge, key) {
        return false;
    }
    // Only a list of its own makes an object less visible than what is above it.
    let mut rest = Some(key);
    while let Some((at, _)) = rest.and_then(|from| nearest(acls, from)) {
        let Some(parent) = above(at.as_str()) else { return false };
        if judge.verdict(Right::List, parent).allowed && !looks(judge, at.as_str()) {
            return true;
        }
        rest = Some(parent);
    }
    false
}

/// Whether somebody is whom a declaration names (`launch.start_by`). What it names is no id, so it is whoever has the name
/// now.
pub fn matches(tree: &Tree, who: &Who<'_>, subject: &Subject) -> bool {
    let named = who.standing != Standing::Anonymous;
    match subject {
        _ if who.standing == Standing::Full => true,
        Subject::Anyone => true,
        Subject::Authenticated => named,
        Subject::User(uid) => named && who.uid == Some(*uid),
        Subject::Named(name) => {
            let there = tree.slot(name).map(Slot::id).filter(|_| named);
            there.is_some_and(|id| who.id == Some(id) || Groups::new(tree, who).hold(id, false))
        }
    }
}

/// Whether finds and reads of a name are for the audit log: as the nearest object says that says anything.
pub fn audited_reads(tree: &Tree, name: &Name) -> bool {
    let audits = tree.derived().audits();
    !audits.is_empty() && name.with_key(|key| nearest(audits, key).is_some_and(|(_, audit)| *audit == Audited::Reads))
}

impl Tree {
    /// The names at or beneath this one that have lists of their own, in their order.
    pub fn with_acl_beneath(&self, name: &Name) -> Vec<Name> {
        let key = name.key();
        let range = (std::ops::Bound::Included(key.as_str()), std::ops::Bound::Unbounded);
        let lists = self.derived().acls().range::<_, str>(range).map(|(at, _)| at.as_str());
        let slots =
            lists.take_while(|at| at.starts_with(key.as_str())).filter_map(|at| self.names().get(at.as_bytes()));
        slots.map(Slot::name).collect()
    }

    /// The error for a name that is not there, or must look so to somebody: it names nothing that this caller may not see.
    pub fn not_found_for(&self, name: &Name, who: &Who<'_>) -> Error {
        let mut judge = Judge::new(self, who);
        let mut seen = |at: &Name| at.with_key(|key| looks(&mut judge, key));
        // An alias that the caller may not see is not there for it, nor where it leads.
        let mut end = name.clone();
        for _ in 0..=MAX_ALIASES {
            let mut way = std::iter::once(end.clone()).chain(end.ancestors()).filter(|at| self.slot(at).is_some());
            let Ok(Some(next)) = self.step(&end, true, None) else { break };
            if !way.all(|at| seen(&at)) {
                break;
            }
            end = next;
        }
        if end == *name {
            return self.missing(name, &mut seen);
        }
        match self.missing(&end, &mut seen) {
            error if error.code() == Code::NotFound => crate::tree::leads_nowhere(name, &end),
            error => error,
        }
    }
}
