//! The contract of `NameService`, kept by the clerk over a unix socket, with the real server and real programs.

use std::path::PathBuf;
use std::sync::Arc;

use byname_api::caller::Caller;
use byname_api::launch::Launch;
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_client::{Clerk, Options};
use byname_testkit::contract::{Asker, Fixture, Program};
use byname_testkit::{Server, eventually_async, kill};

struct OverTheWire {
    server: Server,
    owner: Asker,
    onlooker: Asker,
}

impl OverTheWire {
    fn new() -> Self {
        let server = Server::start(env!("CARGO_BIN_EXE_byname"));
        let ask = |address: &str| Asker {
            service: Arc::new(Clerk::connect(address, Options::default()).unwrap()),
            cx: Context::of(Caller::internal()),
        };
        OverTheWire { owner: ask(&server.url()), onlooker: ask(&server.api()), server }
    }

    fn ticket_file(&self, instance: &str) -> PathBuf {
        self.server.scratch().join("tickets").join(instance)
    }
}

#[async_trait::async_trait]
impl Fixture for OverTheWire {
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
                std::fs::create_dir_all(self.ticket_file("")).unwrap();
                format!("cat <&$BYNAME_TICKET_FD > {file}.new; mv {file}.new {file}; exec sleep 1000")
            }
        };
        let script = format!("echo '{first}'; echo '{second}' >&2; {what}");
        let command = ["sh", "-c", &script].map(String::from);
        Launch { command: Some(command.into()), ready: Some(program.ready()), ..Launch::default() }
    }

    fn kill(&self, pid: u32) {
        kill(pid);
    }

    async fn ticket(&self, instance: InstanceId) -> (String, String) {
        let file = self.ticket_file(&instance.to_string());
        let read = || async { std::fs::read_to_string(&file).ok() };
        let text = eventually_async("the ticket", read).await;
        let (program, server) = text.trim().split_once(' ').unwrap();
        (program.into(), server.into())
    }
}

byname_testkit::contract_tests!(OverTheWire::new());
