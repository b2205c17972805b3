//! The contract of `NameService`, kept by a host's agent on its socket, with its cache between callers and the server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;

use byname_api::caller::Caller;
use byname_api::launch::Launch;
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_client::{Clerk, Options};
use byname_testkit::contract::{Asker, Fixture, Program};
use byname_testkit::{Options as Started, Server, eventually, eventually_async, kill};

struct AtTheAgent {
    server: Server,
    agent: Child,
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
        AtTheAgent { owner: ask(&socket), onlooker: ask(&server.api()), server, agent }
    }

    fn ticket_file(&self, instance: &str) -> PathBuf {
        self.server.scratch().join("tickets").join(instance)
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
        let [first, second] = program.lines();
        let what = match program {
            Program::Serves => "exec python3 -ISc 'import os, socket; s = socket.create_server((\"127.0.0.1\", \
                 int(os.environ[\"PORT\"]))); [c.close() for c, _ in iter(s.accept, None)]'"
                .to_owned(),
            Program::Fails => "exit 3".to_owned(),
            Program::Mute => "exec sleep 1000".to_owned(),
            Program::Advertises => {
                let file = self.ticket_file("$BYNAME_INSTANCE").display().to_string();
                fs::create_dir_all(self.ticket_file("")).unwrap();
                format!("cat <&$BYNAME_TICKET_FD > {file}.new; mv {file}.new {file}; exec sleep 1000")
            }
        };
        let script = format!("echo '{first}'; echo '{second}' >&2; {what}");
        let command = ["sh", "-c", &script].map(String::from);
        // Outside of `dev`, a program runs as root only where that is said.
        let user = (fs::metadata("/proc/self").unwrap().uid() == 0).then(|| "root".to_owned());
        Launch { command: Some(command.into()), ready: Some(program.ready()), user, ..Launch::default() }
    }

    fn kill(&self, pid: u32) {
        kill(pid);
    }

    async fn ticket(&self, instance: InstanceId) -> (String, String) {
        let file = self.ticket_file(&instance.to_string());
        let read = || async { fs::read_to_string(&file).ok() };
        let text = eventually_async("the ticket", read).await;
        let (program, server) = text.trim().split_once(' ').unwrap();
        (program.into(), server.into())
    }
}

byname_testkit::contract_tests!(AtTheAgent::new());
