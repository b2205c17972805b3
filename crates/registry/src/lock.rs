//! Locks: one holder an object, a fencing token, a lease.

use std::sync::Arc;

use byname_api::error::{Code, Error, Result};
use byname_api::object::{Kind, ObjectId, Spec, Stamp};
use byname_api::request::Change;
use byname_api::span::Span;
use byname_name::Name;

use crate::batch;
use crate::command::{Event, Reply};
use crate::lifecycle::drop_if_empty;
use crate::service::LockState;
use crate::tree::{Node, Tree};

/// What a holder asks for.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a Name,
    pub(crate) key: [u8; 32],
    pub(crate) ttl_ms: u64,
    pub(crate) renew: bool,
}

pub(crate) fn lock(tree: &mut Tree, wanted: &Wanted<'_>, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    // A refusal leaves nothing behind, not even the record that was made for it.
    let (mut next, mut fresh) = (tree.clone(), Vec::new());
    let reply = lock_in(&mut next, wanted, stamp, &mut fresh)?;
    *tree = next;
    events.append(&mut fresh);
    Ok(reply)
}

fn lock_in(tree: &mut Tree, wanted: &Wanted<'_>, stamp: &Stamp, events: &mut Vec<Event>) -> Result<Reply> {
    let node = match tree.resolve(wanted.name) {
        Ok(resolved) => resolved.node,
        Err(error) if error.code() == Code::NotFound && !wanted.renew => {
            let name = tree.follow(wanted.name, true, None)?;
            batch::make_unregistered(tree, name, Spec::of(Kind::Record), stamp, events)?
        }
        Err(error) if error.code() == Code::NotFound => return Err(lost(wanted.name)),
        Err(error) => return Err(error),
    };
    let renewal = tree.revision + 1;
    let state = match node.lock.as_deref() {
        Some(held) if held.key == wanted.key => LockState { ttl_ms: wanted.ttl_ms, renewal, ..held.clone() },
        _ if wanted.renew => return Err(lost(&node.name)),
        Some(held) => {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "`{}` is locked by {} since {}, for {} without renewal: wait for it to be let go, or break it with \
                     `byname unlock --break {}`",
                    node.name,
                    held.by,
                    held.since,
                    Span::from_millis(held.ttl_ms),
                    node.name
                ),
            ));
        }
        None => LockState {
            fence: renewal,
            by: stamp.by.clone(),
            since: stamp.at,
            ttl_ms: wanted.ttl_ms,
            renewal,
            key: wanted.key,
        },
    };
    let (id, name, fence) = (node.id, node.name.clone(), state.fence);
    let granted = node.lock.is_none();
    tree.revision += 1;
    let node = tree.put_state(&node, Node { lock: Some(Arc::new(state)), ..Node::clone(&node) });
    events.push(Event::LockLease { object: id, renewal, ttl_ms: wanted.ttl_ms });
    if granted {
        events.push(Event::Object { revision: tree.revision, change: Change::State, node });
    }
    Ok(Reply::Locked { name, fence, renewal })
}

fn lost(name: &Name) -> Error {
    Error::new(
        Code::Conflict,
        format!("the lock of `{name}` is lost: it ran out, was broken or is held by another; take it anew"),
    )
    .field("key")
}

pub(crate) fn unlock(tree: &mut Tree, name: &Name, key: Option<[u8; 32]>, events: &mut Vec<Event>) -> Result<Reply> {
    let node = match tree.resolve(name) {
        Ok(resolved) => resolved.node,
        Err(error) if error.code() == Code::NotFound => return Ok(Reply::Unlocked(false)),
        Err(error) => return Err(error),
    };
    let Some(held) = node.lock.as_deref() else { return Ok(Reply::Unlocked(false)) };
    if key.is_some_and(|key| key != held.key) {
        return Err(Error::new(
            Code::Denied,
            format!("the key is not that of the lock of `{}`, which {} holds since {}", node.name, held.by, held.since),
        )
        .field("key"));
    }
    release(tree, &node, events);
    Ok(Reply::Unlocked(true))
}

pub(crate) fn expire(tree: &mut Tree, object: ObjectId, renewal: u64, events: &mut Vec<Event>) -> Reply {
    let node = tree.by_id(object);
    if let Some(node) = node.filter(|n| n.lock.as_deref().is_some_and(|l| l.renewal == renewal)) {
        release(tree, &node, events);
    }
    Reply::Done
}

fn release(tree: &mut Tree, node: &Node, events: &mut Vec<Event>) {
    tree.revision += 1;
    let node = tree.put_state(node, Node { lock: None, ..node.clone() });
    let id = node.id;
    events.push(Event::Object { revision: tree.revision, change: Change::State, node });
    drop_if_empty(tree, id, events);
}
