//! A state machine for tests: it keeps every command and numbers them.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use byname_cluster::{Frozen, Machine, Position};
use bytes::Bytes;

/// What was published, for the test to look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published(Arc<Mutex<(Vec<Bytes>, Option<Position>)>>);

impl Published {
    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.0.lock().unwrap().0.clone()
    }

    #[allow(dead_code, reason = "not every test looks at it")]
    pub(crate) fn at(&self) -> Option<Position> {
        self.0.lock().unwrap().1
    }
}

#[derive(Default)]
pub(crate) struct Journal {
    commands: Vec<Bytes>,
    published: Published,
}

impl Journal {
    pub(crate) fn new() -> (Journal, Published) {
        let journal = Journal::default();
        let published = journal.published.clone();
        (journal, published)
    }
}

impl Machine for Journal {
    fn apply(&mut self, _at: Position, commands: &[Bytes]) -> io::Result<Vec<Bytes>> {
        let mut replies = Vec::new();
        for command in commands {
            self.commands.push(command.clone());
            replies.push(Bytes::from(self.commands.len().to_string()));
        }
        Ok(replies)
    }

    fn publish(&mut self, at: Position) {
        let mut published = self.published.0.lock().unwrap();
        let known = published.0.len();
        published.0.extend_from_slice(&self.commands[known..]);
        published.1 = Some(at);
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(FrozenJournal(self.commands.clone()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        self.commands.clear();
        let mut length = [0; 4];
        loop {
            match from.read_exact(&mut length) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let mut command = vec![0; u32::from_le_bytes(length) as usize];
            from.read_exact(&mut command)?;
            self.commands.push(command.into());
        }
    }
}

struct FrozenJournal(Vec<Bytes>);

impl Frozen for FrozenJournal {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        for command in &self.0 {
            out.write_all(&(command.len() as u32).to_le_bytes())?;
            out.write_all(command)?;
        }
        Ok(())
    }
}
