//! The state machine of a zone: the tree, its services and their instances, and the replies to recent requests.
//!
//! It does no I/O and has no clock, no randomness and no order of its own: the same commands in the same order give
//! the same state and the same replies on every server. Time and the caller come inside the command.
//!
//! - [`Registry::apply`] is the only way to change anything. A refused command changes nothing.
//! - [`Tree`] is a frozen view that costs nothing to take: reads (`query`) work on one while writes go on.
//! - What is stored has its own types and versions (`stored`); nothing else knows them.

pub mod access;
pub mod command;
pub mod computers;
pub mod health;
pub mod query;
pub mod service;
pub mod stored;

mod aliases;
mod batch;
mod bind;
mod derived;
mod identity;
mod ids;
mod index;
mod lifecycle;
mod lock;
mod names;
mod search;
mod sessions;
mod tree;
mod walk;

pub use batch::{MAX_OPS, check_nothing};
pub use command::{Command, CredentialChange, Entry, Event, Reply, Revoked};
pub use identity::{Credentials, Passkey};
pub use tree::{Node, Resolved, Tree};

use std::sync::Arc;

use byname_api::error::Result;
use byname_api::object::Stamp;
use byname_api::request::{BatchReply, Op};
use byname_api::span::Timestamp;

use sessions::Sessions;

/// The whole replicated state of a zone.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    tree: Tree,
    sessions: Sessions,
}

impl Registry {
    /// A view of the tree as it is now.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Applies one command and says what came of it. Events go to those who wait for changes.
    pub fn apply(&mut self, entry: &Entry, events: &mut Vec<Event>) -> Reply {
        self.tree.now = self.tree.now.max(entry.at);
        self.tree.sweep();
        let now = self.tree.now;
        if let Some(id) = entry.request {
            match self.sessions.recall(id, now) {
                Some(Ok(bytes)) => return stored::decode_reply(&bytes).unwrap_or_else(Reply::Refused),
                Some(Err(error)) => return Reply::Refused(error),
                None => {}
            }
        }
        let stamp = Stamp { at: now, by: entry.by.clone() };
        let reply = self.run(&entry.command, &stamp, events).unwrap_or_else(Reply::Refused);
        if let Some(id) = entry.request {
            self.sessions.remember(id, Arc::from(stored::encode_reply(&reply)), now);
        }
        reply
    }

    fn run(&mut self, command: &Command, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
        let tree = &mut self.tree;
        match command {
            Command::Batch { ops, set } => {
                batch::apply(tree, ops, set.as_deref(), stamp, false, events).map(Reply::Batch)
            }
            Command::Order(order) => lifecycle::order(tree, order, stamp, events),
            Command::Report { instance, change } => Ok(lifecycle::report(tree, *instance, change, stamp, events)),
            Command::Stop { service, hold, reset } => lifecycle::stop(tree, *service, *hold, *reset, stamp, events),
            Command::Release { service } => lifecycle::release(tree, *service, stamp, events),
            Command::Advertise(ad) => lifecycle::advertise(tree, ad, stamp, events),
            Command::Withdraw { service, instances } => lifecycle::withdraw(tree, *service, instances, stamp, events),
            Command::Expire { instance, renewal } => Ok(lifecycle::expire(tree, *instance, *renewal, stamp, events)),
            Command::Computer { name, addresses, facts } => {
                computers::computer(tree, name, addresses, facts, stamp, events)
            }
            Command::Arrive { name, addresses, facts } => {
                computers::arrive(tree, name, addresses, facts, stamp, events)
            }
            Command::Hosts { changes } => Ok(computers::change(tree, changes, stamp, events)),
            Command::Lose { instances } => Ok(computers::lose(tree, instances, stamp, events)),
            Command::Retire { instance, why } => Ok(computers::retire(tree, *instance, why, stamp, events)),
            Command::Idle { instance } => Ok(lifecycle::idle(tree, *instance, stamp, events)),
            Command::Lock { name, key, ttl_ms, renew } => {
                let wanted = lock::Wanted { name, key: *key, ttl_ms: *ttl_ms, renew: *renew };
                lock::lock(tree, &wanted, stamp, events)
            }
            Command::Unlock { name, key } => lock::unlock(tree, name, *key, events),
            Command::ExpireLock { object, renewal } => Ok(lock::expire(tree, *object, *renewal, events)),
            Command::Credential { principal, change } => identity::credential(tree, *principal, change),
            Command::Vault { key, sealed, only_if_absent } => identity::vault(tree, key, sealed, *only_if_absent),
            Command::Introduce { ticket, client, client_id, service, instance, expires } => {
                let wanted = identity::Wanted {
                    ticket: *ticket,
                    client,
                    client_id: *client_id,
                    service: *service,
                    instance: *instance,
                    expires: *expires,
                };
                identity::introduce(tree, &wanted)
            }
            Command::Verify { ticket, instance } => identity::verify(tree, *ticket, *instance),
            Command::Invite { secret, join_as, computer, expires } => {
                identity::invite(tree, *secret, *join_as, computer.as_ref(), *expires)
            }
            Command::Join { secret, computer } => identity::join(tree, *secret, computer, stamp, events),
            Command::Revoke(what) => identity::revoke(tree, *what, stamp, events),
            Command::Anchor { server, sequence, hash } => identity::anchor(tree, *server, *sequence, *hash),
            Command::Earlier(command) => {
                tree.binds = false;
                let result = self.run(command, stamp, events);
                self.tree.binds = true;
                result
            }
        }
    }
}

/// What a batch would do to this view, with the declarations before and after.
pub fn rehearse(tree: &Tree, ops: &[Op], set: Option<&str>, by: &str, at: Timestamp) -> Result<BatchReply> {
    let mut tree = tree.clone();
    let stamp = Stamp { at, by: by.into() };
    batch::apply(&mut tree, ops, set, &stamp, true, &mut Vec::new())
}
