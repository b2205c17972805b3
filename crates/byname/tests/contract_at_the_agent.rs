//! The contract of `NameService`, kept by a host's agent on its socket, with its cache between callers and the server.

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

struct AtTheAgent {
    _server: Server,
    agent: Child,
    programs: Programs,
    owner: Asker,
    onlooker: Asker,
}

impl AtTheAgent {
    fn new() -> Self {
        let server = Server::start_with(env!("CARGO_BIN_EXE_byname"), Started { role: "server", ..Started::default() });
        let folder = server.scratch();
        fs::create_dir(folder.join("programs.d")).unwrap();
        fs::write(folder.join("agent.toml"), "allow_commands = true\n").unwrap();
        let log = fs::File::create(folder.join("agent.log")).unwrap();
        let words = ["agent", "--data", "agent", "--programs", "programs.d", "--config", "agent.toml"];
        let agent = server.command(&words).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let endpoints = || {
            let text = fs::read(folder.join("agent/endpoints.json")).ok()?;
            let endpoints: serde_json::Value = serde_json::from_slice(&text).ok()?;
            endpoints["socket"].as_str().map(|path| format!("unix://{path}"))
        };
        let socket = eventually("the agent's socket", endpoints);
        let computers = || (!server.byname(&["list", "-o", "name", "/computers/*"]).out.is_empty()).then_some(());
        eventually("the agent at the server", computers);
        // As `byname dev` has it.
        let granted = server.byname(&["acl", "grant", "anyone", "find,list,read", "/"]);
        assert_eq!(granted.status, 0, "{}", granted.talk);
        let ask = |address: &str| Asker {
            service: Arc::new(Clerk::connect(address, Options::default()).unwrap()),
            cx: Context::of(Caller::internal()),
        };
        AtTheAgent {
            programs: Programs::of_agent(server.scratch()),
            owner: ask(&socket),
            onlooker: ask(&server.api()),
            _server: server,
            agent,
        }
    }
}

impl Drop for AtTheAgent {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

#[async_trait::async_trait]
impl Fixture for AtTheAgent {
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

byname_testkit::contract_tests!(AtTheAgent::new());
