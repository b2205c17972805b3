//! The programs of the contract as shell scripts, for fixtures with real agents.

use std::fs;
use std::path::{Path, PathBuf};

use byname_api::launch::Launch;
use byname_api::object::InstanceId;

use super::Program;
use crate::eventually_async;

/// Programs that really run, and a folder where they leave their tickets.
#[derive(Clone, Debug)]
pub struct Programs {
    tickets: PathBuf,
    user: Option<String>,
}

impl Programs {
    /// Programs of `byname dev`, which runs them as its own user.
    ///
    /// # Panics
    ///
    /// When there can be no folder in `scratch`.
    pub fn of_dev(scratch: &Path) -> Programs {
        let tickets = scratch.join("tickets");
        fs::create_dir_all(&tickets).expect("a folder for tickets");
        Programs { tickets, user: None }
    }

    /// Programs of an agent: outside of `dev`, a program runs as root only where that is said.
    ///
    /// # Panics
    ///
    /// As [`Programs::of_dev`].
    pub fn of_agent(scratch: &Path) -> Programs {
        let user = rustix::process::getuid().is_root().then(|| "root".to_owned());
        Programs { user, ..Programs::of_dev(scratch) }
    }

    /// How to start one that behaves so.
    pub fn launch(&self, program: Program) -> Launch {
        let [first, second] = program.lines();
        let what = match program {
            Program::Serves => "exec python3 -ISc 'import os, socket; s = socket.create_server((\"127.0.0.1\", \
                 int(os.environ[\"PORT\"]))); [c.close() for c, _ in iter(s.accept, None)]'"
                .to_owned(),
            Program::Fails => "exit 3".to_owned(),
            Program::Mute => "exec sleep 1000".to_owned(),
            Program::Advertises => {
                let file = self.tickets.join("$BYNAME_INSTANCE").display().to_string();
                format!("cat <&$BYNAME_TICKET_FD > {file}.new; mv {file}.new {file}; exec sleep 1000")
            }
        };
        let script = format!("echo '{first}'; echo '{second}' >&2; {what}");
        let command = ["sh", "-c", &script].map(String::from);
        Launch {
            command: Some(command.into()),
            ready: Some(program.ready()),
            user: self.user.clone(),
            ..Launch::default()
        }
    }

    /// The ticket of an instance of [`Program::Advertises`].
    ///
    /// # Panics
    ///
    /// When it leaves none in time.
    pub async fn ticket(&self, instance: InstanceId) -> (String, String) {
        let file = self.tickets.join(instance.to_string());
        let text = eventually_async("the ticket", || async { fs::read_to_string(&file).ok() }).await;
        let (program, server) = text.trim().split_once(' ').expect("both halves of a ticket");
        (program.into(), server.into())
    }
}
