//! The registry as the log's state machine, and the view of it that readers share.

use std::io::{self, Read, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;

use byname_api::error::Error;
use byname_cluster::{Frozen, Machine, Position};
use byname_registry::stored::{self, StoredError};
use byname_registry::{Event, Registry, Reply, Tree};

/// The tree as of the last published change. Loading it takes no lock and waits for nobody.
pub(crate) type View = Arc<ArcSwap<Tree>>;

/// Applies the log's commands to the registry.
pub(crate) struct RegistryMachine {
    registry: Registry,
    view: View,
    fresh: Vec<Event>,
    events: mpsc::UnboundedSender<Told>,
}

/// What a machine tells of its changes.
#[derive(Debug)]
pub(crate) enum Told {
    /// What happened, in order.
    Events(Vec<Event>),
    /// The tree was replaced by another server's: nobody can say what changed.
    Restored,
}

impl RegistryMachine {
    /// A machine with an empty tree, its view, and where its events come out (after the view shows their effect).
    pub(crate) fn new() -> (Self, View, mpsc::UnboundedReceiver<Told>) {
        let registry = Registry::default();
        let view: View = Arc::new(ArcSwap::from_pointee(registry.tree().clone()));
        let (events, out) = mpsc::unbounded_channel();
        (RegistryMachine { registry, view: view.clone(), fresh: Vec::new(), events }, view, out)
    }
}

impl Machine for RegistryMachine {
    fn apply(&mut self, _at: Position, commands: &[Bytes]) -> io::Result<Vec<Bytes>> {
        let mut replies = Vec::with_capacity(commands.len());
        for bytes in commands {
            let reply = match stored::decode_command(bytes) {
                Ok(entry) => self.registry.apply(&entry, &mut self.fresh),
                // A later version applies it. To refuse it here would make this server another one than those.
                Err(error @ StoredError::Newer(_)) => return Err(io::Error::new(io::ErrorKind::Unsupported, error)),
                // Every server refuses it alike, so they stay equal.
                Err(error) => Reply::Refused(Error::internal(format!("a command in the log: {error}"))),
            };
            replies.push(Bytes::from(stored::encode_reply(&reply)));
        }
        Ok(replies)
    }

    fn publish(&mut self, _at: Position) {
        self.view.store(Arc::new(self.registry.tree().clone()));
        if !self.fresh.is_empty() {
            // Nobody listens any more only when the server is going down.
            let _ = self.events.send(Told::Events(std::mem::take(&mut self.fresh)));
        }
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(FrozenRegistry(self.registry.clone()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        self.registry = stored::read_snapshot(from).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.fresh.clear();
        self.view.store(Arc::new(self.registry.tree().clone()));
        let _ = self.events.send(Told::Restored);
        Ok(())
    }
}

struct FrozenRegistry(Registry);

impl Frozen for FrozenRegistry {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        stored::write_snapshot(&self.0, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_logged_is_not_refused_and_what_nobody_can_read_is() {
        let (mut machine, _, _) = RegistryMachine::new();
        let at = Position { term: 1, index: 1 };
        let error = machine.apply(at, &[Bytes::from_static(&[255, 0])]).unwrap_err();
        assert!(error.to_string().contains("does not know"), "{error}");
        let refused = machine.apply(at, &[Bytes::new()]).unwrap();
        assert!(matches!(stored::decode_reply(&refused[0]), Ok(Reply::Refused(_))));
    }
}
