//! The one place where a caller's right to an operation on an object is decided, whatever the operation and whatever
//! front end it came through. The rules are pure and the registry's (`byname_registry::access`); here they meet the
//! caller, and a refusal is counted and written to the audit log.
//!
//! A refusal tells nothing about what exists: a name that the caller may not see is answered as one that is not there.

use byname_api::access::{AccessReply, AccessRequest, Subject};
use byname_api::caller::{Caller, Mechanism, Right, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::launch::{EnvValue, Launch};
use byname_api::object::{Kind, Spec, check_owner};
use byname_api::request::{Context, Op};
use byname_name::{Name, NameKey};
use byname_registry::access::{self, Sight, Who};
use byname_registry::{Node as Object, Tree, check_nothing};

use crate::Inner;

impl Inner {
    /// The caller, as the rules see it.
    pub(crate) fn who<'a>(&'a self, caller: &'a Caller) -> Who<'a> {
        Who {
            standing: caller.standing,
            name: caller.name.as_ref(),
            id: caller.id,
            uid: caller.uid(),
            anyone_looks: self.anyone_looks(),
            certified: match self.identity() {
                Some(identity) => &*identity.certified,
                None => access::NONE_CERTIFIED,
            },
        }
    }

    /// Whether a caller may do this to what a name stands for.
    ///
    /// # Errors
    ///
    /// `denied`; `not-found` for a name that the caller may not see.
    pub(crate) fn authorise(&self, caller: &Caller, right: Right, name: &Name) -> Result<()> {
        if caller.standing == Standing::Full {
            return Ok(());
        }
        self.authorise_in(&self.view.load(), caller, right, name)
    }

    /// The same, with the view that the operation will look at.
    pub(crate) fn authorise_in(&self, tree: &Tree, caller: &Caller, right: Right, name: &Name) -> Result<()> {
        self.authorise_end(tree, caller, right, name, name, true)
    }

    /// The same, where the operation is about an alias itself and not about what it leads to.
    pub(crate) fn authorise_itself(&self, tree: &Tree, caller: &Caller, right: Right, name: &Name) -> Result<()> {
        self.authorise_end(tree, caller, right, name, name, false)
    }

    /// A refusal speaks of `asked`, which is `name` or is made beneath it.
    fn authorise_end(
        &self,
        tree: &Tree,
        caller: &Caller,
        right: Right,
        name: &Name,
        asked: &Name,
        last: bool,
    ) -> Result<()> {
        if caller.standing == Standing::Full {
            return Ok(());
        }
        let who = self.who(caller);
        let mut refused = None;
        if !self.allows(tree, &who, right, name, caller) {
            refused = Some(name.clone());
        } else if let Ok(end) = tree.follow(name, last, None)
            // What an alias leads to has rules of its own.
            && end != *name
            && !self.allows(tree, &who, right, &end, caller)
        {
            refused = Some(end);
        }
        let Some(at) = refused else { return Ok(()) };
        let hidden = |at: &Name| access::hidden(tree, &who, at) && !is_itself(tree, at, caller);
        // What is not there must look as what is hidden, also to whoever may not do this to either. (Whoever may not see
        // that nothing is there is refused as it would be if there were something.)
        let nothing = tree.get(&at).is_none() && looks(tree, &who, &at);
        // Where nothing can be made there is no telling whether something is.
        let tells_nothing = right == Right::Add || !(nothing || hidden(&at) || hidden(name));
        let error = if tells_nothing { denied(caller, right, asked) } else { tree.not_found_for(name, &who) };
        self.note_refusal(caller, &right.to_string(), Some(asked), &denied(caller, right, asked));
        Err(error)
    }

    /// Whether the caller may look at what a name stands for, or would if there were something.
    pub(crate) fn sees(&self, tree: &Tree, caller: &Caller, name: &Name) -> bool {
        let who = self.who(caller);
        let may_look = |at: &Name| looks(tree, &who, at) || is_itself(tree, at, caller);
        may_look(name) && tree.follow(name, true, None).map_or(true, |end| may_look(&end))
    }

    /// The error for somebody who showed something wrong about a name: what it may look at it is told of, what is
    /// hidden is not there, and whoever sees nothing is told the same of everything.
    pub(crate) fn told(&self, tree: &Tree, caller: &Caller, name: &Name, error: Error, refusal: Error) -> Error {
        if self.sees(tree, caller, name) {
            return error;
        }
        let who = self.who(caller);
        let end = tree.follow(name, true, None).ok().filter(|end| end != name);
        if access::hidden(tree, &who, name) || end.is_some_and(|end| access::hidden(tree, &who, &end)) {
            return tree.not_found_for(name, &who);
        }
        refusal
    }

    /// The rules, and that a program may always speak for its own service.
    fn allows(&self, tree: &Tree, who: &Who<'_>, right: Right, name: &Name, caller: &Caller) -> bool {
        if access::allows(tree, who, right, name) {
            return true;
        }
        let own = matches!(right, Right::Advertise | Right::Find | Right::List | Right::Read);
        own && is_itself(tree, name, caller)
    }

    /// Whether the caller may start a service by asking for it.
    pub(crate) fn may_start(&self, tree: &Tree, caller: &Caller, node: &Object) -> bool {
        if caller.standing == Standing::Full {
            return true;
        }
        let launch = node.spec.launch.as_ref();
        if caller.mechanism == Mechanism::LookUp && launch.is_some_and(|launch| launch.dns_start == Some(true)) {
            return true;
        }
        let who = self.who(caller);
        match launch.and_then(|launch| launch.start_by.as_ref()) {
            None => caller.standing == Standing::Authenticated || access::allows(tree, &who, Right::Launch, &node.name),
            Some(list) => {
                list.iter().filter_map(|text| text.parse::<Subject>().ok()).any(|s| access::matches(tree, &who, &s))
                    || access::allows(tree, &who, Right::Launch, &node.name)
            }
        }
    }

    /// Whether the caller was granted the right by an entry about it, and not by the default or by being an admin.
    pub(crate) fn granted_by_entry(&self, tree: &Tree, caller: &Caller, right: Right, name: &Name) -> bool {
        let who = Who { standing: Standing::Authenticated, ..self.who(caller) };
        let decision = access::explain(tree, &who, right, name);
        decision.allowed && decision.entry.is_some_and(|entry| entry.rights.has(right))
    }

    /// Rights are looked up in the tree before a batch. So no name in it may lead through an alias that the batch makes,
    /// moves or removes, by which it would end elsewhere than where it was allowed; and what is made in the place of what
    /// the batch removes is new there.
    ///
    /// # Errors
    ///
    /// `invalid-argument`; those of [`Inner::authorise`].
    pub(crate) fn check_ways(&self, tree: &Tree, caller: &Caller, ops: &[Op]) -> Result<()> {
        if caller.standing == Standing::Full || ops.len() < 2 {
            return Ok(());
        }
        let moves = |op: &&Op| targets(op) || matches!(op, Op::Delete { .. });
        if !ops.iter().any(|op| moves(&op)) {
            return Ok(());
        }
        let aliases: Vec<NameKey> = ops.iter().filter(|op| targets(op)).map(|op| op.name().key()).collect();
        let mut removed: Vec<NameKey> = Vec::new();
        for op in ops {
            let key = op.name().key();
            let straight = tree.follow(op.name(), false, None).map_or(true, |end| end.key() == key);
            if !straight || aliases.iter().any(|alias| *alias != key && key.is_under(alias)) {
                return Err(Error::invalid(
                    "ops",
                    format!(
                        "`{}` leads through an alias, and this batch makes, moves or removes names: write the name that it \
                         leads to, or make two batches",
                        op.name()
                    ),
                ));
            }
            match op {
                Op::Delete { .. } => removed.push(key),
                Op::Add { .. } | Op::Put { .. } | Op::Declare { .. } => {
                    for gone in removed.iter().filter(|gone| key.is_under(gone)) {
                        let above = op.name().ancestors().find(|at| !at.key().is_under(gone));
                        self.authorise_in(tree, caller, Right::Add, &above.unwrap_or_else(Name::root))?;
                    }
                }
                Op::Modify { .. } | Op::Check { .. } => {}
            }
        }
        Ok(())
    }

    /// The rights that a change needs.
    ///
    /// # Errors
    ///
    /// As [`Inner::authorise`].
    pub(crate) fn authorise_change(&self, tree: &Tree, caller: &Caller, op: &Op) -> Result<()> {
        if caller.standing == Standing::Full {
            return op_owner(op).map_or(Ok(()), check_owner);
        }
        // Where the change goes: what is above it may be an alias, it itself is meant.
        let place = tree.follow(op.name(), false, None).unwrap_or_else(|_| op.name().clone());
        let name = &place;
        let system = Name::parse("/byname").is_ok_and(|byname| name.is_under(&byname));
        if system && !matches!(op, Op::Check { .. }) {
            // Who the admins are, above all.
            let makes = matches!(op, Op::Add { .. } | Op::Put { .. } | Op::Declare { .. }) && tree.get(name).is_none();
            let parent = name.parent().filter(|_| makes);
            return self.authorise_end(tree, caller, Right::Admin, parent.as_ref().unwrap_or(name), name, false);
        }
        let exists = tree.get(name).is_some();
        let parent = name.parent().unwrap_or_else(Name::root);
        let (spec, makes) = match op {
            Op::Check { exists, if_version, fence, .. } => {
                return self.authorise_itself(tree, caller, Right::Read, op.name()).map_err(|error| {
                    match error.code() {
                        // What is hidden fails the check as what is not there.
                        Code::NotFound => check_nothing(name, *exists, *if_version, *fence).err().unwrap_or(error),
                        _ => error,
                    }
                });
            }
            Op::Delete { recursive, .. } => {
                self.authorise_itself(tree, caller, Right::Delete, name)?;
                // Objects beneath with rules of their own may be closed to whoever may remove what is above them. Which
                // they are is not told: they may be hidden.
                let who = self.who(caller);
                if *recursive && !access::allows_beneath(tree, &who, Right::Delete, name) {
                    let error = Error::new(
                        Code::Denied,
                        format!("`{}` may not delete everything beneath `{name}`", caller.principal),
                    );
                    self.note_refusal(caller, "delete", Some(name), &error);
                    return Err(error);
                }
                return Ok(());
            }
            Op::Add { spec, .. } => (Some(spec), true),
            Op::Put { spec, .. } | Op::Declare { spec, .. } => (Some(spec), !exists),
            Op::Modify { spec, .. } => (Some(spec), false),
        };
        if makes {
            // What is made takes nothing from a name that it may take the place of.
            self.authorise_end(tree, caller, Right::Add, &parent, name, true)?;
        } else {
            self.authorise_itself(tree, caller, Right::Modify, name)?;
            // Whoever says what runs decides who gets its ticket.
            if spec.is_some_and(|spec| spec.launch.is_some()) {
                self.authorise_itself(tree, caller, Right::Launch, name)?;
            }
        }
        let Some(spec) = spec else { return Ok(()) };
        if let Some(owner) = &spec.owner {
            check_owner(owner)?;
        }
        // Whoever makes an object owns it, and may say who else may use it; all else is for its admins.
        let own = spec.owner.as_ref().is_none_or(|owner| *owner == caller.principal);
        // A whole new declaration takes away what the old one said.
        let replaces = matches!(op, Op::Put { .. })
            && tree.get(name).is_some_and(|node| node.spec.acl.is_some() || node.spec.audit.is_some());
        let clears =
            matches!(op, Op::Modify { clear, .. } if clear.iter().any(|field| field == "acl" || field == "audit"));
        if (!makes && (spec.acl.is_some() || spec.owner.is_some() || spec.audit.is_some() || clears || replaces))
            || !own
        {
            self.authorise_itself(tree, caller, Right::Admin, if makes { &parent } else { name })?;
        }
        if !own {
            // What belongs to somebody may do what its owner may: be given secrets, above all.
            self.authorise_itself(tree, caller, Right::Admin, &Name::root())?;
        }
        self.authorise_secrets(tree, caller, name, spec)
    }

    /// A declaration that names a secret, or changes the launch of a service that has one, could send it anywhere: that
    /// takes the right to the secret itself.
    fn authorise_secrets(&self, tree: &Tree, caller: &Caller, name: &Name, spec: &Spec) -> Result<()> {
        let Some(launch) = &spec.launch else { return Ok(()) };
        if caller.standing == Standing::Full {
            return Ok(());
        }
        let old = tree.get(name).and_then(|node| node.spec.launch.clone());
        for secret in secrets_of(launch).chain(old.iter().flat_map(secrets_of)) {
            // An alias leads to a secret with rules of its own.
            let end = tree.follow(&secret, true, None).unwrap_or_else(|_| secret.clone());
            if !self.may_use_secret(tree, caller, &secret) || !self.may_use_secret(tree, caller, &end) {
                let error = denied(caller, Right::Read, &secret);
                self.note_refusal(caller, "use-secret", Some(&secret), &error);
                return Err(error.field("launch.env"));
            }
        }
        Ok(())
    }

    /// Secrets are not covered by the default that lets everybody read.
    fn may_use_secret(&self, tree: &Tree, caller: &Caller, secret: &Name) -> bool {
        let who = self.who(caller);
        let decision = access::explain(tree, &who, Right::Read, secret);
        (decision.allowed && decision.at.is_some()) || access::allows(tree, &who, Right::Admin, secret)
    }

    /// Whether a service may be given a secret: it was granted the right to read it, or its owner may use it.
    pub(crate) fn service_may_use(&self, tree: &Tree, service: &Object, secret: &Object) -> bool {
        let by_name = Caller::authenticated(&service.name, service.id, Mechanism::Ticket);
        if self.may_use_secret(tree, &by_name, &secret.name) {
            return true;
        }
        let owner = service.spec.owner.as_deref().unwrap_or_default();
        match owner.parse::<Subject>() {
            // Local users, the token and the server itself are its admins.
            Ok(Subject::User(_)) => true,
            Err(_) => matches!(owner, "byname" | "token"),
            Ok(Subject::Named(name)) => tree.get(&name).is_some_and(|node| {
                owned_by(service, &node)
                    && self.may_use_secret(tree, &Caller::authenticated(&name, node.id, Mechanism::None), &secret.name)
            }),
            Ok(Subject::Anyone | Subject::Authenticated) => false,
        }
    }

    /// `acl show` and `acl explain`.
    pub(crate) fn access(&self, cx: &Context, request: &AccessRequest) -> Result<AccessReply> {
        let tree = self.view.load_full();
        let end = tree.follow(&request.name, true, None)?;
        // Where something is hidden the answer is about what would be made beside it, as where nothing is.
        let about = match self.authorise_in(&tree, &cx.caller, Right::Read, &request.name) {
            Ok(()) => end.clone(),
            Err(error) if error.code() == Code::NotFound => {
                let beside = self
                    .beside(&tree, &cx.caller, &end)
                    .filter(|at| access::allows(&tree, &self.who(&cx.caller), Right::Read, at));
                beside.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        let own = own_subject(&cx.caller);
        let who = request.who.clone().unwrap_or_else(|| own.clone());
        if who != own {
            self.authorise_in(&tree, &cx.caller, Right::Admin, &request.name)?;
        }
        if let (Subject::Named(name), false) = (&who, who == own) {
            self.authorise_in(&tree, &cx.caller, Right::Read, name)?;
        }
        let asked = if who == own { cx.caller.clone() } else { self.caller_for(&tree, &who)? };
        let rights = request.right.map_or_else(|| Right::ALL.to_vec(), |right| vec![right]);
        let seen = self.who(&asked);
        Ok(AccessReply {
            decisions: rights.into_iter().map(|right| access::explain(&tree, &seen, right, &about)).collect(),
            lists: access::lists(&tree, &about),
            name: end,
            who,
        })
    }

    /// A name that nothing has, beneath the nearest object above this one that the caller may see.
    fn beside(&self, tree: &Tree, caller: &Caller, name: &Name) -> Option<Name> {
        let above = name.ancestors().find(|at| tree.get(at).is_some() && self.sees(tree, caller, at))?;
        let above = above.as_str().trim_end_matches('/');
        let names = (0..u32::MAX).filter_map(|n| Name::parse(&format!("{above}/{n}")).ok());
        names.into_iter().find(|at| tree.get(at).is_none())
    }

    /// A caller as somebody would be.
    fn caller_for(&self, tree: &Tree, who: &Subject) -> Result<Caller> {
        Ok(match who {
            Subject::Anyone => Caller::anonymous(),
            Subject::User(uid) => {
                let standing = Standing::Authenticated;
                Caller { standing, ..Caller::local(*uid, None) }
            }
            Subject::Authenticated => Caller { standing: Standing::Authenticated, ..Caller::anonymous() },
            Subject::Named(name) => {
                let node = tree.resolve(name)?.node;
                if !matches!(node.kind(), Kind::Principal | Kind::Service | Kind::Computer) {
                    return Err(Error::new(
                        Code::Unsupported,
                        format!("`{}` is a {}: principals, services and computers act", node.name, node.kind()),
                    )
                    .field("who"));
                }
                Caller::authenticated(&node.name, node.id, Mechanism::None)
            }
        })
    }
}

/// Whether the caller is what the name stands for.
fn is_itself(tree: &Tree, name: &Name, caller: &Caller) -> bool {
    caller.id.is_some() && tree.get(name).map(|node| node.id) == caller.id
}

/// Names of the secrets in a launch's environment.
pub(crate) fn secrets_of(launch: &Launch) -> impl Iterator<Item = Name> + '_ {
    launch.env.iter().flatten().filter_map(|(_, value)| match value {
        EnvValue::Secret { secret } => Name::parse(secret).ok(),
        EnvValue::Text(_) => None,
    })
}

/// Whether an object is owned by this one, and not by an earlier one of its name.
fn owned_by(owned: &Object, owner: &Object) -> bool {
    match owned.owner_id {
        Some(id) => id == owner.id,
        None => owner.id < owned.id && owned.spec.owner.as_deref() == Some(owner.name.as_str()),
    }
}

/// What a caller may see of lists: none when that is everything.
pub(crate) fn sight<'a>(tree: &'a Tree, who: &'a Who<'a>, rights: &'a [Right]) -> Option<Sight<'a>> {
    (who.standing != Standing::Full).then(|| Sight::new(tree, who, rights))
}

/// Whether a change says where an alias leads.
fn targets(op: &Op) -> bool {
    match op {
        Op::Add { spec, .. } | Op::Put { spec, .. } | Op::Declare { spec, .. } | Op::Modify { spec, .. } => {
            spec.target.is_some()
        }
        Op::Delete { .. } | Op::Check { .. } => false,
    }
}

/// Whether somebody may look at a name in any way.
fn looks(tree: &Tree, who: &Who<'_>, name: &Name) -> bool {
    [Right::List, Right::Find, Right::Read].iter().any(|right| access::allows(tree, who, *right, name))
}

fn op_owner(op: &Op) -> Option<&str> {
    match op {
        Op::Add { spec, .. } | Op::Put { spec, .. } | Op::Declare { spec, .. } | Op::Modify { spec, .. } => {
            spec.owner.as_deref()
        }
        Op::Delete { .. } | Op::Check { .. } => None,
    }
}

fn own_subject(caller: &Caller) -> Subject {
    match (&caller.name, caller.uid(), caller.standing) {
        (Some(name), ..) => Subject::Named(name.clone()),
        (None, Some(uid), _) => Subject::User(uid),
        (None, None, Standing::Anonymous) => Subject::Anyone,
        _ => Subject::Authenticated,
    }
}

fn denied(caller: &Caller, right: Right, name: &Name) -> Error {
    let advice = match caller.standing {
        Standing::Anonymous => {
            "say who you are: `byname login`, a certificate, the unix socket, or the bearer token (the file `token` in the \
             server's data directory, in BYNAME_TOKEN)"
        }
        _ => "`byname acl explain` tells why, and an admin of it can grant the right with `byname acl grant`",
    };
    Error::new(Code::Denied, format!("`{}` may not {right} `{name}`: {advice}", caller.principal))
}
