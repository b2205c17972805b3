//! The contract of `NameService`, kept by the clerk over a unix socket, with the real server and real programs.

use std::sync::Arc;

use byname_api::caller::Caller;
use byname_api::launch::Launch;
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_client::{Clerk, Options};
use byname_testkit::contract::{Asker, Fixture, Program, Programs};
use byname_testkit::{Server, kill};

struct OverTheWire {
    _server: Server,
    programs: Programs,
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
        OverTheWire {
            programs: Programs::of_dev(server.scratch()),
            owner: ask(&server.url()),
            onlooker: ask(&server.api()),
            _server: server,
        }
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
        self.programs.launch(program)
    }

    fn kill(&self, pid: u32) {
        kill(pid);
    }

    async fn ticket(&self, instance: InstanceId) -> (String, String) {
        self.programs.ticket(instance).await
    }
}

byname_testkit::contract_tests!(OverTheWire::new());
