//! Programs that do not do what they should: each ends in a clear state, with its last lines.

use byname_api::Code;
use byname_api::agent::Phase;
use byname_api::launch::{Launch, Ready};

use crate::host::{self, Host, command, deaf, eventually, plain, run, shell, web};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    one_that_ends_at_once,
    one_that_never_becomes_ready,
    one_that_ends_later_is_no_failed_start,
    one_that_forks_away,
    one_that_leaves_a_deaf_child,
    one_that_floods_its_log,
    one_that_prints_binary,
    one_that_does_not_exist,
    one_that_may_not_be_run,
    one_whose_folder_does_not_exist,
    one_whose_port_is_taken,
    one_whose_holder_is_killed,
    one_that_is_stopped_before_it_is_ready,
];

fn one_that_ends_at_once() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let launch = Launch { ready: Some(Ready::Port), ..plain("echo out; echo cannot open the index >&2; exit 3") };
        agent.start_service(1, launch).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!(
            (end.exit.as_str(), end.last_lines.as_str(), end.ordered),
            ("exited with status 3", "out\ncannot open the index", false)
        );
        let error = end.error.unwrap();
        assert_eq!(error.code(), Code::StartFailed);
        assert_eq!(
            error.message(),
            "/BVODS/QS exited with status 3 before it was ready; its last lines: out\ncannot open the index"
        );
    });
}

fn one_that_never_becomes_ready() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let launch = Launch {
            ready: Some(Ready::Port),
            start_timeout: Some("300ms".parse().unwrap()),
            ..plain("trap '' TERM; echo waiting for nothing; sleep 1000 & sleep 1000")
        };
        agent.start_service(1, launch).await;
        let pid = agent.until_started(1).await.pid.unwrap();
        let end = host::ended(&agent.until_ended(1).await);
        let error = end.error.unwrap();
        assert_eq!((error.code(), end.ordered), (Code::StartTimeout, false));
        assert!(error.message().contains("within 300ms") && error.message().contains("waiting for nothing"), "{error}");
        assert!(!host::alive(pid));
    });
}

fn one_that_ends_later_is_no_failed_start() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, shell("echo going; kill -SEGV $$")).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!(
            (end.exit.as_str(), end.error, end.last_lines.as_str()),
            ("ended by signal 11 (SIGSEGV)", None, "going")
        );
    });
}

fn one_that_forks_away() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let script = "setsid sleep 1000 & echo $! > child; sleep 1001 & exit 0";
        agent.start_service(1, Launch { ready: Some(Ready::Port), ..plain(script) }).await;
        let end = host::ended(&agent.until_ended(1).await);
        let error = end.error.unwrap();
        assert!(
            error.message().starts_with(
                "/BVODS/QS exited with status 0 and left 2 processes in the background before it was ready: run it in the foreground"
            ),
            "{error}"
        );
        assert!(end.last_lines.contains("run it in the foreground"), "{}", end.last_lines);
        let child = std::fs::read_to_string(host.instance_dir(1).join("work/child")).unwrap();
        assert!(!host::alive(child.trim().parse().unwrap()));
    });
}

fn one_that_leaves_a_deaf_child() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        // The main process obeys SIGTERM at once; its child gets the whole stop timeout, and not more.
        let script = "sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 0.05; done' & wait";
        let launch = Launch { stop_timeout: Some("300ms".parse().unwrap()), ..plain(script) };
        agent.start_service(1, launch).await;
        agent.until_started(1).await;
        let file = host.instance_dir(1).join("work/child");
        eventually("the child is there", || std::fs::read(&file).is_ok_and(|b| b.ends_with(b"\n"))).await;
        let child = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let before = std::time::Instant::now();
        agent.stop(1, false).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert!(before.elapsed().as_millis() >= 300);
        assert_eq!((end.exit.as_str(), end.error, end.ordered), ("ended by signal 15 (SIGTERM)", None, true));
        assert!(!host::alive(child));
    });
}

fn one_that_floods_its_log() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, shell("exec yes a line of some length that nobody reads")).await;
        agent.until_ready(1).await;
        let folder = host.instance_dir(1);
        eventually("the log was put aside", || folder.join("log.1").exists()).await;
        let size = |name| std::fs::metadata(folder.join(name)).map_or(0, |m| m.len());
        for _ in 0..20 {
            assert!(size("log") <= 4 << 20 && size("log.1") <= 4 << 20);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let before = std::time::Instant::now();
        agent.stop(1, false).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert!(before.elapsed().as_secs() < 5, "it answers in spite of the flood");
        assert!(end.last_lines.lines().count() <= 20 && end.last_lines.len() <= 2048);
        assert!(end.last_lines.ends_with("a line of some length that nobody reads"), "{}", end.last_lines);
    });
}

fn one_that_prints_binary() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, plain("head -c 100000 /dev/urandom; printf '\\033[2J\\000end\\n'; exit 1")).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert!(end.last_lines.len() <= 2048 && end.last_lines.ends_with("\\u{1b}[2J\\u{0}end"), "{}", end.last_lines);
        assert!(!end.last_lines.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
        let log = std::fs::read(host.instance_dir(1).join("log")).unwrap();
        assert_eq!(log.len(), 100_000 + 9, "the log itself has the bytes as they were");
    });
}

fn one_that_does_not_exist() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, command(Ready::Port, ["/nowhere/to/be/found"])).await;
        let end = host::ended(&agent.until_ended(1).await);
        let error = end.error.unwrap();
        assert_eq!((error.code(), end.exit.as_str()), (Code::StartFailed, "was not started"));
        assert_eq!(
            error.message(),
            "/BVODS/QS cannot be started: cannot run /nowhere/to/be/found: No such file or directory"
        );
    });
}

fn one_that_may_not_be_run() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, command(Ready::Port, ["/etc/passwd"])).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert!(error.message().ends_with("cannot run /etc/passwd: Permission denied"), "{error}");
    });
}

fn one_whose_folder_does_not_exist() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let launch = Launch { directory: Some("/nowhere".into()), ..plain("true") };
        agent.start_service(1, launch).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert!(error.message().ends_with("cannot enter /nowhere: No such file or directory"), "{error}");
    });
}

fn one_whose_port_is_taken() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut launch = web(Ready::Port);
        launch.endpoints = Some(vec![byname_api::launch::EndpointSpec { protocol: "tcp".into(), port, address: None }]);
        agent.start_service(1, launch.clone()).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert!(error.message().contains(&format!("port {port} is in use")), "{error}");
        drop(taken);
        agent.start_service(2, launch).await;
        assert_eq!(agent.until_ready(2).await.endpoints[0].port, port);
    });
}

fn one_whose_holder_is_killed() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, shell("sleep 1000 & echo $! > child; wait")).await;
        let pid = agent.until_ready(1).await.pid.unwrap();
        let file = host.instance_dir(1).join("work/child");
        eventually("the child is there", || std::fs::read(&file).is_ok_and(|b| b.ends_with(b"\n"))).await;
        let child = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        host::kill(host::holder_of(pid));
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!((end.exit.as_str(), end.ordered), ("ended in a way that nobody saw", false));
        eventually("nothing is left unwatched", || !host::alive(pid) && !host::alive(child)).await;
    });
}

fn one_that_is_stopped_before_it_is_ready() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, Launch { ready: Some(Ready::Port), ..deaf("exec sleep 1000") }).await;
        agent.stop(1, true).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!((end.ordered, end.error), (true, None));
        assert_eq!(end.exit, "ended by signal 9 (SIGKILL)");
        agent.order(byname_api::agent::Order::Welcome { term: 1, known: vec![] }).await;
        let told = agent.sync().await;
        assert!(matches!(told[0].phase, Phase::Ended { .. }));
    });
}
