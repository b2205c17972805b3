//! The contract of `NameService`, kept by a server in this process with an agent that is played.

use std::sync::Arc;

use byname_api::NameService;
use byname_api::caller::{Caller, Mechanism, Standing};
use byname_api::launch::Launch;
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_node::{Config, Node};
use byname_testkit::contract::{Asker, Fixture, Program};
use byname_testkit::{PlayedAgent, eventually_async};

struct InProcess {
    node: Arc<dyn NameService>,
    agent: PlayedAgent,
    _dir: tempfile::TempDir,
}

impl InProcess {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config =
            Config { dir: dir.path().join("log"), id: 1, dns_suffix: "byname.internal".into(), version: "test".into() };
        let node: Arc<dyn NameService> = Arc::new(Node::open(config).await.unwrap());
        let agent = PlayedAgent::attach(&*node, "bugs").await;
        InProcess { node, agent, _dir: dir }
    }

    fn asker(&self, standing: Standing) -> Asker {
        let caller = Caller { standing, ..Caller::full("tester", Mechanism::Internal) };
        Asker { service: self.node.clone(), cx: Context::of(caller) }
    }
}

#[async_trait::async_trait]
impl Fixture for InProcess {
    fn owner(&self) -> Asker {
        self.asker(Standing::Full)
    }

    fn onlooker(&self) -> Asker {
        self.asker(Standing::Anonymous)
    }

    fn launch(&self, program: Program) -> Launch {
        PlayedAgent::launch(program)
    }

    fn kill(&self, pid: u32) {
        self.agent.kill(pid);
    }

    async fn ticket(&self, instance: InstanceId) -> (String, String) {
        let pair = eventually_async("a ticket", || async { self.agent.ticket(instance) }).await;
        (hex::encode(pair.program), hex::encode(pair.server))
    }
}

byname_testkit::contract_tests!(InProcess::new().await);
