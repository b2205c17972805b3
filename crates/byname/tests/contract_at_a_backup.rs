//! The contract of `NameService`, kept by a backup: three servers, an agent at the primary, and callers who ask another.

use std::fs;
use std::process::{Child, Stdio};
use std::sync::Arc;

use byname_api::caller::Caller;
use byname_api::launch::Launch;
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_client::{Clerk, Options};
use byname_testkit::contract::{Asker, Fixture, Program, Programs};
use byname_testkit::{Options as Started, Server, eventually, kill};

struct AtABackup {
    backup: Server,
    _third: Server,
    _primary: Server,
    agent: Child,
    programs: Programs,
    owner: Asker,
    onlooker: Asker,
}

fn member(token: Option<&str>) -> Server {
    let mut words = Vec::new();
    if let Some(token) = token {
        words.extend(["--join".to_owned(), token.to_owned()]);
    }
    Server::start_with(env!("CARGO_BIN_EXE_byname"), Started { role: "server", arguments: words, ..Started::default() })
}

impl AtABackup {
    fn new() -> Self {
        let primary = member(None);
        let joined = || member(Some(primary.byname(&["cluster", "invite", "--name-server"]).out.trim()));
        let (backup, third) = (joined(), joined());
        let folder = primary.scratch();
        fs::create_dir(folder.join("programs.d")).unwrap();
        fs::write(folder.join("agent.toml"), "allow_commands = true\n").unwrap();
        let log = fs::File::create(folder.join("agent.log")).unwrap();
        let words = ["agent", "--data", "agent", "--programs", "programs.d", "--config", "agent.toml"];
        let agent = primary.command(&words).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let computers = || (!backup.byname(&["list", "-o", "name", "/computers/*"]).out.is_empty()).then_some(());
        eventually("the agent at the servers", computers);
        // As `byname dev` has it.
        let granted = backup.byname(&["acl", "grant", "anyone", "find,list,read", "/"]);
        assert_eq!(granted.status, 0, "{}", granted.talk);
        let ask = |address: &str| Asker {
            service: Arc::new(Clerk::connect(address, Options::default()).unwrap()),
            cx: Context::of(Caller::internal()),
        };
        AtABackup {
            programs: Programs::of_agent(primary.scratch()),
            owner: ask(&backup.url()),
            onlooker: ask(&backup.api()),
            backup,
            _third: third,
            _primary: primary,
            agent,
        }
    }
}

impl Drop for AtABackup {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let info = self.backup.byname(&["version"]).out;
        assert!(std::thread::panicking() || info.contains("backup"), "it was not a backup that was asked: {info}");
    }
}

#[async_trait::async_trait]
impl Fixture for AtABackup {
    fn owner(&self) -> Asker {
        self.owner.clone()
    }

    fn onlooker(&self) -> Asker {
        self.onlooker.clone()
    }

    fn launch(&self, program: Program) -> Launch {
        self.programs.launch(program)
    }

    fn kill(&self, pid: u32) {
        kill(pid);
    }

    async fn ticket(&self, instance: InstanceId) -> (String, String) {
        self.programs.ticket(instance).await
    }
}

byname_testkit::contract_tests!(AtABackup::new());
