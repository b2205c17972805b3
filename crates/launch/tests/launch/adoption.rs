//! An agent that goes away and comes back: nothing is killed, nothing is doubled, and no end is lost.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use byname_api::agent::{Order, Phase, Report};
use byname_api::launch::{Launch, Ready};
use byname_api::object::InstanceId;

use crate::host::{self, Host, Running, eventually, plain, run, shell, web};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    an_agent_that_is_killed,
    an_agent_that_is_shut_down,
    an_end_while_the_agent_is_away,
    a_program_that_becomes_ready_while_the_agent_is_away,
    a_holder_that_is_killed_while_the_agent_is_away,
    an_agent_killed_at_any_moment_of_a_start,
    a_folder_with_a_long_path,
    a_folder_has_one_agent,
    an_older_term_is_refused_even_later,
    a_new_link_replaces_the_old,
    a_forgotten_instance_is_not_told_again,
    a_spare_holder_leaves_with_its_agent,
];

fn an_agent_that_is_killed() {
    run(async {
        let host = Host::new();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("agent")
            .arg(host.dir.path())
            .arg("while ! [ -e end ]; do sleep 0.02; done; echo bye; exit 7")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid: u32 = line.trim().parse().expect("the agent started a program");
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(host::alive(pid));

        let mut agent = host.agent().await;
        let told = agent.sync().await;
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].pid, &told[0].phase), (Some(pid), &Phase::Ready));
        assert!(told[0].started.is_some() && told[0].endpoints[0].port != 0);
        std::fs::write(host.instance_dir(1).join("work/end"), "").unwrap();
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!((end.exit.as_str(), end.last_lines.as_str(), end.error), ("exited with status 7", "bye", None));
    });
}

fn an_agent_that_is_shut_down() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, web(Ready::Port)).await;
        let before = agent.until_ready(1).await;
        agent.agent.shutdown().await;
        drop(agent);
        let mut agent = host.agent_again().await;
        assert_eq!(agent.sync().await, std::slice::from_ref(&before));
        // Its port is not given to anybody else, and it is stopped like any other.
        agent.stop(1, false).await;
        assert!(host::ended(&agent.until_ended(1).await).ordered);
    });
}

fn an_end_while_the_agent_is_away() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, shell("while ! [ -e end ]; do sleep 0.02; done; echo bye; kill -9 $$")).await;
        let pid = agent.until_ready(1).await.pid;
        drop(agent);
        let folder = host.instance_dir(1);
        std::fs::write(folder.join("work/end"), "").unwrap();
        eventually("the holder wrote the end down", || folder.join("exit").exists()).await;
        let mut agent = host.agent_again().await;
        let told = agent.sync().await;
        let end = host::ended(&told[0]);
        assert_eq!(
            (told[0].pid, end.exit.as_str(), end.last_lines.as_str()),
            (pid, "ended by signal 9 (SIGKILL)", "bye")
        );
        assert_eq!(end.error, None, "it had been ready");
    });
}

fn a_program_that_becomes_ready_while_the_agent_is_away() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let mut launch = shell("echo > told; exec sleep 1000");
        if let Some(line) = launch.command.as_mut().and_then(|c| c.last_mut()) {
            line.insert_str(0, "while ! [ -e go ]; do sleep 0.02; done; ");
        }
        agent.start_service(1, launch).await;
        let before = agent.until_started(1).await;
        drop(agent);
        let folder = host.instance_dir(1);
        std::fs::write(folder.join("work/go"), "").unwrap();
        eventually("the program said that it is ready", || folder.join("work/told").exists()).await;
        let mut agent = host.agent_again().await;
        let told = agent.sync().await;
        assert_eq!((told[0].pid, &told[0].phase), (before.pid, &Phase::Ready));
    });
}

fn a_holder_that_is_killed_while_the_agent_is_away() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, shell("sleep 1000 & wait")).await;
        let pid = agent.until_ready(1).await.pid.unwrap();
        drop(agent);
        host::kill(host::holder_of(pid));
        let mut agent = host.agent_again().await;
        let told = agent.sync().await;
        assert_eq!(host::ended(&told[0]).exit, "ended in a way that nobody saw");
        eventually("the program is gone", || !host::alive(pid)).await;
    });
}

fn an_agent_killed_at_any_moment_of_a_start() {
    run(async {
        for round in 0..12u64 {
            let host = Host::new();
            let mut process = Command::new(std::env::current_exe().unwrap())
                .arg("agent")
                .arg(host.dir.path())
                .arg("exec sleep 1000")
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            // From before the order to after the spawn: the folder appears in between.
            let folder = host.instance_dir(1);
            eventually("the start has begun", || folder.exists()).await;
            std::thread::sleep(std::time::Duration::from_micros(150 * round));
            process.kill().unwrap();
            process.wait().unwrap();
            let mut agent = host.agent_again().await;
            let told = agent.sync().await;
            match told.as_slice() {
                [] => eventually("nothing runs", || host.programs() == 0).await,
                [one] if matches!(one.phase, Phase::Ended { .. }) => {
                    eventually("nothing is left of it", || host.programs() == 0).await;
                }
                [one] => {
                    assert!(one.pid.is_some_and(host::alive), "{one:?}");
                    agent.stop(1, true).await;
                    agent.until_ended(1).await;
                }
                more => panic!("{more:?}"),
            }
        }
    });
}

fn a_folder_with_a_long_path() {
    run(async {
        let host = Host::new();
        let long = host.dir.path().join("d".repeat(90)).join("e".repeat(90));
        std::fs::create_dir_all(&long).unwrap();
        let config = byname_launch::Config { dir: long.join("launch"), ..host.config() };
        let mut agent = Running::start(config.clone()).await;
        agent.start_service(1, shell("exec sleep 1000")).await;
        let before = agent.until_ready(1).await;
        drop(agent);
        let mut agent = Running::start_again(config).await;
        assert_eq!(agent.sync().await, [before]);
        agent.stop(1, true).await;
        agent.until_ended(1).await;
    });
}

fn a_folder_has_one_agent() {
    run(async {
        let host = Host::new();
        let _agent = host.agent().await;
        let second = byname_launch::Agent::start(host.config()).await;
        assert!(matches!(second, Err(byname_launch::StartError::Locked(_))));
    });
}

fn an_older_term_is_refused_even_later() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.order(Order::Welcome { term: 5, known: vec![] }).await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        let mut order = host::start(2, plain("exec sleep 1000"));
        order.term = 5;
        agent.order(Order::Start(Box::new(order))).await;
        assert_eq!(agent.until_started(2).await.instance, InstanceId(2));
        agent.stop(2, true).await;
        drop(agent);
        // The second agent is welcomed with term 1, which is too old: it says nothing.
        let mut agent = host.agent_again().await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.order(Order::Welcome { term: 6, known: vec![] }).await;
        let told = agent.sync().await;
        assert_eq!(told.iter().map(|r| r.instance).collect::<Vec<_>>(), [InstanceId(2)]);
        assert!(!matches!(told[0].phase, Phase::Ended { .. }), "the stop of an older term was refused: {told:?}");
    });
}

fn a_new_link_replaces_the_old() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        let before = agent.until_started(1).await;
        let mut old = std::mem::replace(&mut agent.link, agent.agent.connect());
        assert!(matches!(agent.next().await, Report::Hello { computer, .. } if computer == "bugs"));
        assert!(old.reports.recv().await.is_none_or(|r| matches!(r, Report::Synced)));
        // What happens in between is told in its latest state, and only after the welcome.
        agent.start_service(2, Launch { ready: Some(Ready::Port), ..plain("exit 4") }).await;
        eventually("the second has ended", || host.instance_dir(2).join("exit").exists()).await;
        agent.order(Order::Welcome { term: 2, known: vec![] }).await;
        let told = agent.sync().await;
        assert!(told.contains(&before) && told.len() == 2, "{told:?}");
    });
}

fn a_forgotten_instance_is_not_told_again() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        for instance in 1..=8 {
            agent.start_service(instance, plain("echo $BYNAME_INSTANCE; exit 0")).await;
            agent.until_ended(instance).await;
        }
        for instance in 1..=7 {
            agent.order(Order::Forget { instance: InstanceId(instance) }).await;
        }
        let shelf = host.dir.path().join("launch/ended/7");
        eventually("only the last five are kept", || {
            let kept = std::fs::read_dir(&shelf).map_or(0, |d| d.count());
            kept == 5 && !host.instance_dir(7).exists()
        })
        .await;
        drop(agent);
        let mut agent = host.agent_again().await;
        let told = agent.sync().await;
        assert_eq!(told.iter().map(|r| r.instance).collect::<Vec<_>>(), [InstanceId(8)]);
    });
}

fn a_spare_holder_leaves_with_its_agent() {
    run(async {
        let host = Host::new();
        let agent = host.agent().await;
        let spares = || host::children_named("byname-hold");
        eventually("a holder is ready", || spares() == 1).await;
        drop(agent);
        eventually("it has left", || spares() == 0).await;
    });
}
