//! Many services that shall always run, declared at once, with agents that are played.

use byname_api::NameService;
use byname_api::caller::Caller;
use byname_api::launch::{Copies, Launch};
use byname_api::object::{Kind, Spec};
use byname_api::request::{BatchRequest, Context, FindRequest, Op};
use byname_name::Name;
use byname_node::{Config, Node};
use byname_testkit::contract::Program;
use byname_testkit::{PlayedAgent, eventually_async};

struct Fleet {
    node: Node,
    cx: Context,
    agents: Vec<PlayedAgent>,
    _dir: tempfile::TempDir,
}

impl Fleet {
    async fn new(hosts: usize) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let (dns_suffix, version) = ("byname.internal".into(), "test".into());
        let node = Node::open(Config { dir: dir.path().join("log"), id: 1, dns_suffix, version }).await.unwrap();
        let mut agents = Vec::new();
        for n in 0..hosts {
            agents.push(PlayedAgent::attach(&node, &format!("host-{n}")).await);
        }
        Fleet { node, cx: Context::of(Caller::internal()), agents, _dir: dir }
    }

    /// Declares services of which one copy shall always run, all in one batch.
    async fn declare(&self, count: usize, of: &str, program: Program, hosts: Option<&str>) {
        let service = |n: usize| {
            let hosts = hosts.map(|host| vec![host.to_owned()]);
            let launch = Launch { copies: Some(Copies { min: 1, max: 1 }), hosts, ..PlayedAgent::launch(program) };
            let name = Name::parse(&format!("/{of}/{n}")).unwrap();
            Op::Add { name, spec: Spec { launch: Some(launch), ..Spec::of(Kind::Service) } }
        };
        let ops = (0..count).map(service).collect();
        self.node.batch(&self.cx, BatchRequest { ops, ..BatchRequest::default() }).await.unwrap();
    }

    fn counts(&self) -> Vec<usize> {
        self.agents.iter().map(PlayedAgent::count).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_services_at_once_are_spread_over_the_hosts() {
    const HOSTS: usize = 40;
    const EACH: usize = 10;
    let fleet = Fleet::new(HOSTS).await;
    fleet.declare(HOSTS * EACH, "fleet", Program::Serves, None).await;
    eventually_async("all are started", || async {
        (fleet.counts().iter().sum::<usize>() == HOSTS * EACH).then_some(())
    })
    .await;
    let counts = fleet.counts();
    assert_eq!(counts.iter().max(), Some(&EACH), "{counts:?}");
    for n in [0, HOSTS * EACH - 1] {
        let request = FindRequest::new(Name::parse(&format!("/fleet/{n}")).unwrap());
        assert_eq!(fleet.node.find(&fleet.cx, request).await.unwrap().instances.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_many_gets_no_more_and_holds_up_no_other_host() {
    let fleet = Fleet::new(2).await;
    // They are started, and never ready.
    fleet.declare(100, "slow", Program::Advertises, Some("host-0")).await;
    eventually_async("the first host is busy", || async { (fleet.counts()[0] == 64).then_some(()) }).await;
    fleet.declare(100, "quick", Program::Serves, Some("host-1")).await;
    eventually_async("the other one starts its own", || async { (fleet.counts()[1] == 100).then_some(()) }).await;
    assert_eq!(fleet.counts()[0], 64);
    // Somebody who asks need not wait for those that nobody asks for.
    fleet.declare(1, "asked", Program::Serves, Some("host-0")).await;
    let request = FindRequest::new(Name::parse("/asked/0").unwrap());
    assert_eq!(fleet.node.find(&fleet.cx, request).await.unwrap().instances.len(), 1);
}
