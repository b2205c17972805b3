//! Every way in which an agent learns that a program is ready.

use byname_api::agent::{Order, Phase};
use byname_api::launch::{EndpointSpec, Launch, Ready};
use byname_api::object::InstanceId;

use crate::host::{self, Host, command, deaf, eventually, plain, run, shell, web};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    a_port_that_takes_connections,
    a_page_that_answers,
    a_page_that_does_not_exist_is_not_ready,
    a_notification,
    an_advertisement,
    what_a_program_says_about_itself,
    the_environment_of_a_program,
    the_ticket_is_on_its_descriptor_and_nowhere_else,
    an_order_repeated_starts_once,
    a_stop_is_orderly_and_then_not,
    a_probe_tells_the_living_from_the_deaf,
];

fn a_port_that_takes_connections() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, web(Ready::Port)).await;
        let report = agent.until_ready(1).await;
        let port = report.endpoints[0].port;
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("it takes connections");
        assert!(host::alive(report.pid.unwrap()));
        assert!(report.started.is_some());
        agent.stop(1, false).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!((end.exit.as_str(), end.ordered, end.error), ("ended by signal 15 (SIGTERM)", true, None));
        assert!(!host::alive(report.pid.unwrap()));
    });
}

fn a_page_that_answers() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, web(Ready::Http)).await;
        agent.until_ready(1).await;
    });
}

fn a_page_that_does_not_exist_is_not_ready() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let launch = Launch {
            ready_path: Some("/nowhere".into()),
            start_timeout: Some("1500ms".parse().unwrap()),
            ..web(Ready::Http)
        };
        agent.start_service(1, launch).await;
        let end = host::ended(&agent.until_ended(1).await);
        let error = end.error.unwrap();
        assert_eq!(error.code(), byname_api::Code::StartTimeout);
        assert!(error.message().contains("did not answer GET /nowhere"), "{error}");
    });
}

fn a_notification() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, shell("exec sleep 1000")).await;
        agent.until_ready(1).await;
    });
}

fn an_advertisement() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.until_started(1).await;
        agent.order(Order::Advertised { instance: InstanceId(1) }).await;
        agent.until_ready(1).await;
    });
}

fn what_a_program_says_about_itself() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let script = "
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['NOTIFY_SOCKET'])
s.send(b'READY=1\\nSTATUS=fine')
for line in open('go'):
    s.send(line.strip().encode().replace(b'+', b'\\n'))
";
        std::fs::create_dir_all(host.dir.path().join("work")).unwrap();
        let go = host.dir.path().join("work/go");
        rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let launch = Launch {
            directory: Some(host.dir.path().join("work").display().to_string()),
            ..command(Ready::Notify, ["python3", "-u", "-c", script])
        };
        agent.start_service(1, launch).await;
        agent.until_ready(1).await;
        let mut fifo = std::fs::File::options().write(true).open(&go).unwrap();
        let mut say = |text: &str| std::io::Write::write_all(&mut fifo, format!("{text}\n").as_bytes()).unwrap();
        say("WATCHDOG=trigger+STATUS=on fire");
        let report = agent.until(1, |p| matches!(p, Phase::Unhealthy { .. })).await;
        assert!(matches!(report.phase, Phase::Unhealthy { why } if why.contains("on fire")));
        say("WATCHDOG=1");
        agent.until_ready(1).await;
        say("STOPPING=1");
        agent.until(1, |p| *p == Phase::Stopping).await;
        drop(fifo);
        assert_eq!(host::ended(&agent.until_ended(1).await).exit, "exited with status 0");
    });
}

fn the_environment_of_a_program() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let mut launch = plain("env > env; echo \"$0 $1\" > args; ls -l /proc/self/fd > fds; exec sleep 1000");
        launch.args = Some(vec!["--port=${PORT}".into(), "$${PORT}".into()]);
        launch.env = Some([("WHO".to_owned(), byname_api::launch::EnvValue::Text("${NAME}".into()))].into());
        launch.endpoints = Some(
            ["tcp", "udp"].map(|protocol| EndpointSpec { protocol: protocol.into(), port: 0, address: None }).into(),
        );
        agent.start_service(1, launch).await;
        let report = agent.until_started(1).await;
        let work = host.instance_dir(1).join("work");
        eventually("the program wrote its files", || std::fs::read(work.join("fds")).is_ok_and(|b| !b.is_empty()))
            .await;
        let env = std::fs::read_to_string(work.join("env")).unwrap();
        let has = |line: &str| assert!(env.lines().any(|l| l == line), "{line} is not in {env}");
        let (first, second) = (report.endpoints[0].port, report.endpoints[1].port);
        has(&format!("PORT={first}"));
        has(&format!("PORT_1={first}"));
        has(&format!("PORT_2={second}"));
        has("BYNAME_NAME=/BVODS/QS");
        has("BYNAME_INSTANCE=i1");
        has("BYNAME_SERVER=unix:///run/byname/socket");
        has("BYNAME_TICKET_FD=9");
        has("WHO=/BVODS/QS");
        assert!(env.contains("NOTIFY_SOCKET="));
        assert!(!env.contains("CARGO"), "nothing of the agent's own environment");
        let args = std::fs::read_to_string(work.join("args")).unwrap();
        assert_eq!(args, format!("--port={first} ${{PORT}}\n"));
        // Nothing else is inherited than the standard three and the tickets (and what ls opens itself).
        let fds = std::fs::read_to_string(work.join("fds")).unwrap();
        let open = fds.lines().filter(|l| l.contains(" -> ") && !l.contains("/fds") && !l.contains("/proc/")).count();
        assert_eq!(open, 3, "{fds}");
        let group = std::fs::read_to_string(format!("/proc/{}/stat", report.pid.unwrap())).unwrap();
        let words: Vec<&str> = group.rsplit(')').next().unwrap().split_whitespace().collect();
        assert_eq!(
            (words[2], words[3]),
            (report.pid.unwrap().to_string().as_str(), report.pid.unwrap().to_string().as_str())
        );
    });
}

fn the_ticket_is_on_its_descriptor_and_nowhere_else() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, plain("cat <&$BYNAME_TICKET_FD > ticket; exec sleep 1000")).await;
        let report = agent.until_started(1).await;
        let file = host.instance_dir(1).join("work/ticket");
        eventually("the program read its ticket", || std::fs::read(&file).is_ok_and(|b| b.len() == 130)).await;
        let (program, server) = ("a1".repeat(32), "b2".repeat(32));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{program} {server}\n"));
        std::fs::remove_file(file).unwrap();
        for place in ["environ", "cmdline"] {
            let text = std::fs::read(format!("/proc/{}/{place}", report.pid.unwrap())).unwrap();
            assert!(!text.is_empty());
            assert!(!String::from_utf8_lossy(&text).contains(&program[..16]), "in {place}");
        }
        // Nor is it in any file of the agent's.
        let mut folders = vec![host.dir.path().to_owned()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if let Ok(bytes) = std::fs::read(entry.path()) {
                    files += 1;
                    assert!(!String::from_utf8_lossy(&bytes).contains(&program[..16]), "in {:?}", entry.path());
                }
            }
        }
        assert!(files >= 3);
    });
}

fn an_order_repeated_starts_once() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        for _ in 0..3 {
            agent.start_service(1, plain("echo started >> started; exec sleep 1000")).await;
        }
        let pid = agent.until_started(1).await.pid;
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.order(Order::Stop { term: 1, instance: InstanceId(1), now: true }).await;
        assert_eq!(agent.until_ended(1).await.pid, pid);
        agent.start_service(1, plain("exec sleep 1000")).await;
        let again = agent.until_ended(1).await;
        assert_eq!(again.pid, pid);
        agent.order(Order::Forget { instance: InstanceId(1) }).await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.order(Order::Welcome { term: 1, known: vec![] }).await;
        let told = agent.sync().await;
        assert!(told.is_empty() || told.iter().all(|r| r.pid == pid), "{told:?}");
    });
}

fn a_stop_is_orderly_and_then_not() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let launch = Launch { stop_timeout: Some("300ms".parse().unwrap()), ..deaf("while :; do sleep 0.05; done") };
        agent.start_service(1, launch).await;
        let pid = agent.until_ready(1).await.pid.unwrap();
        agent.stop(1, false).await;
        agent.until(1, |p| *p == Phase::Stopping).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!((end.exit.as_str(), end.ordered), ("ended by signal 9 (SIGKILL)", true));
        assert!(!host::alive(pid));
    });
}

fn a_probe_tells_the_living_from_the_deaf() {
    run(async {
        use byname_api::agent::Report;
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, web(Ready::Port)).await;
        let report = agent.until_ready(1).await;
        let mut deaf = report.endpoints.clone();
        deaf[0].port = 1;
        for (request, instance, endpoints, expect) in
            [(1, 1, report.endpoints.clone(), true), (2, 1, deaf, false), (3, 2, report.endpoints.clone(), false)]
        {
            agent.order(Order::Probe { request, instance: InstanceId(instance), endpoints }).await;
            loop {
                if let Report::Probed { request: answered, alive, .. } = agent.next().await {
                    assert_eq!((answered, alive), (request, expect));
                    break;
                }
            }
        }
    });
}
