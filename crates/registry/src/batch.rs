//! Changes to the tree: add, put, declare, modify, delete.

use std::sync::Arc;

use byname_api::error::{Code, Error, Result};
use byname_api::launch::Launch;
use byname_api::object::{Kind, ObjectId, Spec, Stamp, Version};
use byname_api::request::{BatchReply, Change as ObjectChange, Op, OpResult, Outcome};
use byname_name::Name;

use crate::aliases;
use crate::bind::{self, Unbound, only_declared};
use crate::command::Event;
use crate::identity::Sealed;
use crate::service::{Origin, Service};
use crate::tree::{Node, Tree};

/// The most changes that one batch may hold.
pub const MAX_OPS: usize = 10_000;
/// Above the name servers.
const SERVERS: &str = "/byname/servers";
/// So many names beneath a name are counted in a message.
const MANY: usize = 1_000;

/// Applies changes, all or nothing. With `show` the results carry the declarations before and after.
pub(crate) fn apply(
    tree: &mut Tree,
    ops: &[Op],
    set: Option<&str>,
    stamp: &Stamp,
    show: bool,
    events: &mut Vec<Event>,
) -> Result<BatchReply> {
    if ops.len() > MAX_OPS {
        return Err(
            Error::new(Code::TooLarge, format!("a batch is {MAX_OPS} changes at most: send several")).field("ops")
        );
    }
    let mut next = tree.clone();
    next.revision += 1;
    let mut results = Vec::with_capacity(ops.len());
    let (mut fresh, mut unbound) = (Vec::new(), Unbound::default());
    let blame = |index: usize, error: Error| {
        if ops.len() == 1 {
            return error;
        }
        let field = match error.at_field() {
            Some(field) => format!("ops[{index}].{field}"),
            None => format!("ops[{index}]"),
        };
        error.field(field)
    };
    for (index, op) in ops.iter().enumerate() {
        unbound.index = index;
        let (events, unbound) = (&mut fresh, &mut unbound);
        let mut change = Change { tree: &mut next, stamp, set, show, unregistered: false, events, unbound };
        results.push(change.apply(op).map_err(|error| blame(index, error))?);
    }
    bind::bind(&mut next, unbound, &mut fresh).map_err(|(index, error)| blame(index, error))?;
    if results.iter().all(|r| matches!(r.outcome, Outcome::Unchanged | Outcome::Checked)) {
        next.revision -= 1;
    }
    *tree = next;
    events.append(&mut fresh);
    Ok(BatchReply { results, revision: tree.revision })
}

/// Refuses what would let the number of a name server be given to another, and believe what the first one left behind. The name is
/// the one that all ways lead to.
fn keep_numbers(name: &Name) -> Result<()> {
    let Ok(servers) = Name::parse(SERVERS) else { return Ok(()) };
    let kept = match name.labels().count() {
        3 => name.parent().is_some_and(|parent| parent == servers),
        _ => *name == servers || servers.ancestors().any(|above| above == *name),
    };
    if !kept {
        return Ok(());
    }
    let what =
        "the names of servers stay, so that no number is given twice: `byname cluster remove N` takes a server out";
    Err(Error::new(Code::Conflict, what).field("name"))
}

/// Makes an object that nobody added: it vanishes with its last instance and its lock.
pub(crate) fn make_unregistered(
    tree: &mut Tree,
    name: Name,
    spec: Spec,
    stamp: &Stamp,
    events: &mut Vec<Event>,
) -> Result<Arc<Node>> {
    tree.revision += 1;
    let mut unbound = Unbound::default();
    let mut change = Change { tree, stamp, set: None, show: false, unregistered: true, events, unbound: &mut unbound };
    change.create(name.clone(), spec)?;
    bind::bind(tree, unbound, events).map_err(|(_, error)| error)?;
    tree.get(&name).ok_or_else(|| Error::internal(format!("`{name}` was made and is not there")))
}

struct Change<'a> {
    tree: &'a mut Tree,
    stamp: &'a Stamp,
    set: Option<&'a str>,
    show: bool,
    unregistered: bool,
    events: &'a mut Vec<Event>,
    unbound: &'a mut Unbound,
}

impl Change<'_> {
    fn apply(&mut self, op: &Op) -> Result<OpResult> {
        // What is beneath an alias is beneath its target; the last label is the object itself.
        let name = self.tree.follow(op.name(), false, None)?;
        match op {
            Op::Add { spec, .. } => match self.tree.get(&name) {
                Some(node) if node.unregistered => self.replace(&node, only_declared(spec)),
                Some(node) => Err(Error::new(
                    Code::AlreadyExists,
                    format!(
                        "`{}` is there already, {}: `byname edit` changes it",
                        node.name,
                        node.kind().with_article()
                    ),
                )),
                None => self.create(name, only_declared(spec)),
            },
            Op::Put { spec, if_version, .. } => match self.tree.get(&name) {
                Some(node) => {
                    check_version(&node, *if_version)?;
                    // Nobody can read the value of a secret to send it again, so one that is not named stays.
                    let fingerprint = node.spec.fingerprint.clone();
                    self.replace(&node, Spec { fingerprint, ..only_declared(spec) })
                }
                None if if_version.is_some() => Err(self.tree.not_found(&name)),
                None => self.create(name, only_declared(spec)),
            },
            Op::Declare { spec, .. } => match self.tree.get(&name) {
                Some(node) => {
                    let mut next = Spec::clone(&node.spec);
                    next.overlay(&only_declared(spec));
                    let kind = spec.kind.unwrap_or(node.kind());
                    self.replace(&node, Spec { kind: Some(kind), ..next })
                }
                None => self.create(name, only_declared(spec)),
            },
            Op::Modify { spec, clear, if_version, .. } => {
                let node = self.tree.get(&name).ok_or_else(|| self.tree.not_found(&name))?;
                check_version(&node, *if_version)?;
                let mut next = Spec::clone(&node.spec);
                for path in clear {
                    next.clear(path)?;
                    // It stands elsewhere: what is left of it here goes too.
                    if path == "value" {
                        next.fingerprint = None;
                    }
                }
                next.overlay(&only_declared(spec));
                let kind = spec.kind.unwrap_or(node.kind());
                self.replace(&node, Spec { kind: Some(kind), ..next })
            }
            Op::Delete { recursive, stop, if_version, .. } => self.delete(&name, *recursive, *stop, *if_version),
            Op::Check { exists, if_version, fence, .. } => self.check(name, *exists, *if_version, *fence),
        }
    }

    fn create(&mut self, name: Name, spec: Spec) -> Result<OpResult> {
        self.make_parents(&name)?;
        self.insert(name, spec, self.set, self.unregistered)
    }

    fn make_parents(&mut self, name: &Name) -> Result<()> {
        let mut missing: Vec<Name> = Vec::new();
        for ancestor in name.ancestors() {
            match self.tree.slot(&ancestor) {
                None => missing.push(ancestor),
                Some(slot) if slot.kind() == Kind::Junction => {
                    return Err(Error::new(
                        Code::Conflict,
                        format!("`{ancestor}` is a junction: what is beneath it belongs to its servers"),
                    )
                    .field("name"));
                }
                Some(_) => break,
            }
        }
        while let Some(parent) = missing.pop() {
            self.insert(parent, Spec::of(Kind::Directory), None, false)?;
        }
        Ok(())
    }

    fn insert(&mut self, name: Name, mut spec: Spec, set: Option<&str>, unregistered: bool) -> Result<OpResult> {
        spec.kind = Some(spec.kind());
        let owned = spec.owner.is_some();
        spec.owner.get_or_insert_with(|| self.stamp.by.clone());
        let sealed = take_sealed(&mut spec, None)?;
        spec.check()?;
        self.check_alias(&name, &spec)?;
        self.check_sockets(None, &spec)?;
        let id = ObjectId(self.tree.next_id);
        self.tree.next_id += 1;
        let version = self.tree.revision;
        let service = (spec.kind() == Kind::Service).then(|| Arc::new(Service::default()));
        let after = self.show.then(|| spec.clone());
        let node = Node {
            id,
            name: name.clone(),
            version,
            spec: Arc::new(spec),
            set: set.map(Into::into),
            created: self.stamp.clone(),
            modified: self.stamp.clone(),
            service,
            unregistered,
            lock: None,
            owner_id: None,
        };
        self.unbound.made(self.tree, &node.name);
        self.unbound.touched(id, &node.spec, owned);
        let node = self.tree.put(None, node);
        if let Some(sealed) = sealed {
            self.tree.identity_mut().secrets.insert(id, sealed);
        }
        self.tell(ObjectChange::Created, node);
        Ok(OpResult { name, outcome: Outcome::Created, version: Version(version), before: None, after })
    }

    fn replace(&mut self, node: &Node, mut spec: Spec) -> Result<OpResult> {
        spec.kind = Some(spec.kind.unwrap_or(node.kind()));
        // A record that is there for its lock only is nobody's declaration.
        let placeholder = node.unregistered && node.kind() == Kind::Record;
        if spec.kind() != node.kind() && !placeholder {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "`{}` is {} and cannot become {}: delete it first",
                    node.name,
                    node.kind().with_article(),
                    spec.kind().with_article()
                ),
            )
            .field("kind"));
        }
        if spec.owner.is_none() {
            spec.owner.clone_from(&node.spec.owner);
        }
        let owned = spec.owner != node.spec.owner;
        bind::carry_over(&mut spec, &node.spec);
        let sealed = take_sealed(&mut spec, Some(node))?;
        spec.check()?;
        self.check_alias(&node.name, &spec)?;
        self.check_sockets(Some(node.id), &spec)?;
        let set = self.set.map(str::to_owned).or_else(|| node.set.clone());
        if spec == *node.spec && set == node.set && !node.unregistered {
            return Ok(OpResult {
                name: node.name.clone(),
                outcome: Outcome::Unchanged,
                version: Version(node.version),
                before: None,
                after: None,
            });
        }
        let version = self.tree.revision;
        let (before, after) = if self.show { (Some((*node.spec).clone()), Some(spec.clone())) } else { (None, None) };
        let service = match spec.kind() {
            Kind::Service => node.service.clone().or_else(|| Some(Arc::new(Service::default()))),
            _ => None,
        };
        if node.spec.fingerprint.is_some() && spec.fingerprint.is_none() {
            self.tree.identity_mut().secrets.remove(&node.id);
        }
        if let Some(sealed) = sealed {
            self.tree.identity_mut().secrets.insert(node.id, sealed);
        }
        self.unbound.touched(node.id, &spec, owned);
        let changed = Node {
            version,
            owner_id: node.owner_id.filter(|_| !owned),
            spec: Arc::new(spec),
            set,
            modified: self.stamp.clone(),
            service,
            unregistered: false,
            ..node.clone()
        };
        let changed = self.tree.put(Some(node), changed);
        self.tell(ObjectChange::Changed, changed);
        Ok(OpResult { name: node.name.clone(), outcome: Outcome::Changed, version: Version(version), before, after })
    }

    fn delete(&mut self, name: &Name, recursive: bool, stop: bool, if_version: Option<Version>) -> Result<OpResult> {
        let node = self.tree.get(name).ok_or_else(|| self.tree.not_found(name))?;
        if name.is_root() {
            return Err(Error::invalid("name", "the root cannot be deleted"));
        }
        check_version(&node, if_version)?;
        keep_numbers(name)?;
        let key = name.key();
        let beneath = || self.tree.subtree(key.as_bytes()).skip(1);
        if !recursive {
            let message = match beneath().take(MANY + 1).count() {
                0 => None,
                1 => Some("has a name beneath it: `-r` deletes it too".to_owned()),
                count @ ..=MANY => Some(format!("has {count} names beneath it: `-r` deletes them too")),
                _ => Some(format!("has more than {MANY} names beneath it: `-r` deletes them too")),
            };
            if let Some(message) = message {
                return Err(Error::new(Code::Conflict, format!("`{}` {message}", node.name)));
            }
        }
        let beneath: Vec<Arc<Node>> = beneath().map(|slot| self.tree.node(slot)).collect();
        let all = || beneath.iter().chain([&node]);
        if !stop && let Some(busy) = all().find(|n| n.service.as_ref().is_some_and(|s| !s.instances.is_empty())) {
            return Err(Error::new(
                Code::Conflict,
                format!("`{}` is running: `--stop` stops it and deletes it", busy.name),
            ));
        }
        for gone in all() {
            for instance in gone.service.iter().flat_map(|s| &s.instances) {
                if let (Origin::Launched { .. }, Some(computer)) = (&instance.origin, &instance.computer) {
                    self.events.push(Event::Stop { instance: instance.id, computer: computer.clone() });
                }
            }
            self.tree.remove(&gone.name);
            self.tell(ObjectChange::Deleted, gone.clone());
        }
        let before = self.show.then(|| (*node.spec).clone());
        Ok(OpResult {
            name: node.name.clone(),
            outcome: Outcome::Deleted,
            version: Version(node.version),
            before,
            after: None,
        })
    }

    /// A precondition.
    fn check(
        &self,
        name: Name,
        exists: Option<bool>,
        if_version: Option<Version>,
        fence: Option<u64>,
    ) -> Result<OpResult> {
        let checked = |version| OpResult {
            name: name.clone(),
            outcome: Outcome::Checked,
            version: Version(version),
            before: None,
            after: None,
        };
        let Some(node) = self.tree.get(&name) else {
            return check_nothing(&name, exists, if_version, fence).map(|()| checked(0));
        };
        if let Some(fence) = fence {
            match node.lock.as_deref() {
                Some(held) if held.fence == fence => {}
                Some(held) => {
                    let why = format!("{} holds it with the fencing token {}", held.by, held.fence);
                    return Err(not_held(&name, fence, &why));
                }
                None => return Err(not_held(&name, fence, "nobody holds it")),
            }
        }
        if exists == Some(false) {
            return Err(Error::new(Code::Conflict, format!("`{}` is there and should not be", node.name)));
        }
        check_version(&node, if_version)?;
        Ok(checked(node.version))
    }

    /// Refuses an alias that does not end, with which others do not end, or that would hide what is beneath it.
    fn check_alias(&self, name: &Name, spec: &Spec) -> Result<()> {
        let Some(target) = spec.target.as_ref().filter(|_| spec.kind() == Kind::Alias) else { return Ok(()) };
        if self.tree.slot(name).is_none_or(|slot| slot.kind() != Kind::Alias) && self.tree.has_children(name) {
            let what = format!("`{name}` has names beneath it, which an alias would hide: delete them first");
            return Err(Error::new(Code::Conflict, what).field("name"));
        }
        aliases::check(self.tree, name, target)
    }

    /// A stable socket is one service's on each host.
    fn check_sockets(&self, own: Option<ObjectId>, spec: &Spec) -> Result<()> {
        let Some(launch) = &spec.launch else { return Ok(()) };
        for socket in launch.stable_sockets() {
            for id in self.tree.listening(&socket).filter(|id| Some(*id) != own) {
                let Some(other) = self.tree.by_id(id) else { continue };
                if other.spec.launch.as_ref().is_some_and(|l| share_hosts(l, launch)) {
                    return Err(Error::new(
                        Code::Conflict,
                        format!(
                            "`{}` listens on {socket} already: give one of them another socket, or other `hosts`",
                            other.name
                        ),
                    )
                    .field("launch.listen"));
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, change: ObjectChange, node: Arc<Node>) {
        let (id, kind) = (node.id, node.kind());
        self.events.push(Event::Object { revision: self.tree.revision, change, node });
        if kind == Kind::Service {
            self.events.push(Event::Service(id));
        }
    }
}

/// Takes the sealed value out of a secret's declaration, which keeps its fingerprint only. `None` when there is none, or
/// it is the one that is there.
fn take_sealed(spec: &mut Spec, before: Option<&Node>) -> Result<Option<Arc<str>>> {
    if spec.kind() != Kind::Secret {
        return Ok(None);
    }
    let there = before.and_then(|node| node.spec.fingerprint.clone());
    let Some(value) = spec.value.take() else { return Ok(None) };
    let sealed = Sealed::parse(&value)?;
    let same = there.as_ref() == Some(&sealed.fingerprint);
    spec.fingerprint = Some(sealed.fingerprint);
    Ok((!same).then_some(sealed.text))
}

fn share_hosts(one: &Launch, other: &Launch) -> bool {
    match (&one.hosts, &other.hosts) {
        (Some(one), Some(other)) => one.iter().any(|h| other.iter().any(|o| h.eq_ignore_ascii_case(o))),
        _ => true,
    }
}

/// What a check says where nothing is: also of what somebody may not see.
///
/// # Errors
///
/// `conflict`.
pub fn check_nothing(name: &Name, exists: Option<bool>, if_version: Option<Version>, fence: Option<u64>) -> Result<()> {
    match (fence, exists, if_version) {
        (Some(fence), ..) => Err(not_held(name, fence, "nobody holds it")),
        (None, Some(true), _) => Err(Error::new(Code::Conflict, format!("`{name}` is not there and should be"))),
        (None, _, Some(_)) => Err(Error::new(Code::Conflict, format!("`{name}` is not there, so it has no version"))),
        (None, ..) => Ok(()),
    }
}

fn not_held(name: &Name, fence: u64, why: &str) -> Error {
    let what = format!("the lock of `{name}` is not held with the fencing token {fence}: {why}");
    Error::new(Code::Conflict, what).field("fence")
}

fn check_version(node: &Node, wanted: Option<Version>) -> Result<()> {
    match wanted {
        Some(version) if version.0 != node.version => Err(Error::new(
            Code::Conflict,
            format!(
                "`{}` has changed: its version is {} and not {version}; read it and try again",
                node.name,
                Version(node.version)
            ),
        )
        .field("if_version")),
        _ => Ok(()),
    }
}
