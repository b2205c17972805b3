//! What an agent does that no server hears.

use std::time::{Duration, Instant};

use byname_api::agent::{Order, Phase, Report};
use byname_api::launch::{Launch, OnPartition};
use byname_api::object::InstanceId;

use crate::host::{self, Host, Running, eventually, plain, run};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    what_must_not_outlive_its_primary_is_stopped_when_no_server_hears,
    one_that_is_adopted_is_stopped_too,
];

const TERM: Duration = Duration::from_millis(1_500);

fn must_stop() -> Launch {
    Launch { on_partition: Some(OnPartition::Stop), ..plain("exec sleep 1000") }
}

async fn beat(agent: &Running) {
    let stop_after_ms = TERM.as_millis() as u64;
    agent.order(Order::Beat { every_ms: 100, stop_after_ms }).await;
}

/// Hears the agent for so long.
async fn hear(agent: &mut Running, time: Duration) -> Instant {
    let until = Instant::now() + time;
    let mut heard = Instant::now();
    while Instant::now() < until {
        if let Report::Beat { beat, load, instances, .. } = agent.next().await {
            assert!(load.is_some() && instances == 2, "{load:?} {instances}");
            heard = Instant::now();
            agent.order(Order::Heard { beat }).await;
        }
    }
    heard
}

fn what_must_not_outlive_its_primary_is_stopped_when_no_server_hears() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.sync().await;
        beat(&agent).await;
        agent.start_service(1, must_stop()).await;
        agent.start_service(2, plain("exec sleep 1000")).await;
        agent.until_started(2).await;
        // It goes on for longer than the term while it is heard.
        let heard = hear(&mut agent, TERM * 2).await;
        let exit = |instance| host.instance_dir(instance).join("exit");
        assert!(!exit(1).exists());
        eventually("the end of the first", || exit(1).exists()).await;
        let took = heard.elapsed();
        assert!(took > TERM - Duration::from_millis(200), "{took:?}");
        assert!(!exit(2).exists(), "the other is kept");
        // The link was given up, because nobody answered. The next server is told of what happened.
        let link = agent.agent.connect();
        agent.link = link;
        assert!(matches!(agent.next().await, Report::Hello { beats: true, .. }));
        agent.order(Order::Welcome { term: 2, known: vec![] }).await;
        let told = agent.sync().await;
        let first = told.iter().find(|report| report.instance == InstanceId(1)).unwrap();
        assert!(host::ended(first).ordered, "the program did nothing wrong: {first:?}");
        assert!(told.iter().any(|r| r.instance == InstanceId(2) && !matches!(r.phase, Phase::Ended { .. })));
    });
}

fn one_that_is_adopted_is_stopped_too() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.sync().await;
        beat(&agent).await;
        agent.start_service(1, must_stop()).await;
        agent.until_started(1).await;
        drop(agent);
        // No server says anything to the agent that comes after it.
        let _agent = host.agent_again().await;
        eventually("its end", || host.instance_dir(1).join("exit").exists()).await;
    });
}
