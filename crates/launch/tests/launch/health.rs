//! Health checks of real programs: what counts, what is told, what is ended.

use std::path::{Path, PathBuf};

use byname_api::Code;
use byname_api::agent::{Checked, Phase, Report};
use byname_api::identity::Secret;
use byname_api::launch::{Check, CheckKind, EnvValue, Launch, Ready};
use byname_api::object::InstanceId;
use byname_api::service::Health;
use byname_api::span::Span;
use byname_launch::{Config, Connection, GrpcHealth};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::host::{self, Host, Running, command, eventually, on_term, run, shell, start, web};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    a_page_that_fails_is_critical_after_so_many_and_well_after_so_many,
    a_page_that_fails_every_other_time_is_left_alone,
    a_page_that_does_not_answer_in_time,
    a_port_that_nothing_listens_on_any_more,
    a_command_says_how_well_it_is_and_never_runs_twice_at_once,
    a_command_knows_the_program_s_environment_and_none_of_its_secrets,
    a_command_goes_by_the_catalogue,
    grpc_is_asked_by_somebody_else,
    the_worst_of_several_counts,
    a_critical_copy_is_ended_where_that_is_declared,
    a_later_agent_goes_on_counting,
    what_is_told_to_stop_is_judged_no_more,
];

/// Answers with the status in the file `mood`, one word of it after the other, and writes each down in `asked`.
const MOODY: &str = "
import http.server, os
turn = 0
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global turn
        words = open('mood').read().split() if os.path.exists('mood') else ['200']
        word = words[turn % len(words)]
        turn += 1
        if word == 'hang':
            import time
            time.sleep(1000)
        open('asked', 'a').write(word + '\\n')
        self.send_response(int(word))
        self.end_headers()
        self.wfile.write(b'mood ' + word.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Page).serve_forever()
";

fn check(kind: CheckKind) -> Check {
    let ms = |ms| Some(Span::from_millis(ms));
    Check { interval: ms(100), timeout: ms(5_000), rise: Some(2), fall: Some(3), ..Check::of(kind) }
}

fn moody(check: Check) -> Launch {
    Launch { check: Some(vec![check]), ..command(Ready::Port, ["python3", "-u", "-c", MOODY]) }
}

/// A check that is this shell script.
fn script(text: &str) -> Check {
    Check { command: Some(["sh", "-c", text].map(str::to_owned).into()), ..check(CheckKind::Command) }
}

struct Mood(PathBuf);

impl Mood {
    fn of(host: &Host) -> Mood {
        Mood(host.instance_dir(1).join("work"))
    }

    fn set(&self, words: &str) {
        // At once, because the program may be reading it.
        let new = self.0.join("mood.new");
        std::fs::write(&new, words).unwrap();
        std::fs::rename(new, self.0.join("mood")).unwrap();
    }

    fn asked(&self) -> Vec<String> {
        lines(&self.0.join("asked"))
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

impl Running {
    /// The next word about the instance's health that is another than this one.
    async fn until_health(&mut self, health: Health) -> Checked {
        loop {
            if let Report::Instance(report) = self.next().await
                && let Some(checked) = report.checked
                && checked.health == health
            {
                return checked;
            }
        }
    }

    /// What waits to be told.
    fn told(&mut self) -> Vec<Health> {
        let mut told = Vec::new();
        while let Ok(report) = self.link.reports.try_recv() {
            if let Report::Instance(report) = report {
                told.extend(report.checked.map(|checked| checked.health));
            }
        }
        told
    }
}

fn a_page_that_fails_is_critical_after_so_many_and_well_after_so_many() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, moody(Check { path: Some("/healthz".into()), ..check(CheckKind::Http) })).await;
        let port = agent.until_ready(1).await.endpoints[0].port;
        let mood = Mood::of(&host);
        let first = agent.until_health(Health::Passing).await;
        assert_eq!(first.note, format!("GET /healthz on port {port}: answered 200"));
        mood.set("503");
        let fallen = agent.until_health(Health::Critical).await;
        assert_eq!(fallen.note, format!("GET /healthz on port {port}: answered 503: mood 503"));
        let count = |word: &str| mood.asked().iter().filter(|asked| *asked == word).count();
        assert!(count("503") >= 3, "{:?}", mood.asked());
        let before = count("200");
        mood.set("200");
        agent.until_health(Health::Passing).await;
        assert!(count("200") >= before + 2, "{:?}", mood.asked());
        mood.set("429");
        agent.until_health(Health::Warning).await;
        // It goes on without another word.
        let so_far = mood.asked().len();
        eventually("it is asked again", || mood.asked().len() > so_far + 5).await;
        assert_eq!(agent.told(), []);
    });
}

fn a_page_that_fails_every_other_time_is_left_alone() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, moody(Check { fall: Some(2), ..check(CheckKind::Http) })).await;
        agent.until_ready(1).await;
        let mood = Mood::of(&host);
        agent.until_health(Health::Passing).await;
        mood.set("503 200");
        eventually("it is asked often", || mood.asked().len() > 25).await;
        assert!(mood.asked().contains(&"503".to_owned()));
        assert_eq!(agent.told(), []);
    });
}

fn a_page_that_does_not_answer_in_time() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let hasty = Check { timeout: Some(Span::from_millis(300)), fall: Some(1), ..check(CheckKind::Http) };
        agent.start_service(1, moody(hasty)).await;
        agent.until_ready(1).await;
        agent.until_health(Health::Passing).await;
        Mood::of(&host).set("hang");
        let note = agent.until_health(Health::Critical).await.note;
        assert!(note.ends_with(": no answer within 300ms"), "{note}");
    });
}

fn a_port_that_nothing_listens_on_any_more() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let script = "
import os, socket, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(os.environ['PORT'])))
s.listen()
while not os.path.exists('close'):
    time.sleep(0.01)
s.close()
time.sleep(1000)
";
        let launch = Launch {
            check: Some(vec![Check { endpoint: Some("tcp".into()), ..check(CheckKind::Tcp) }]),
            ..command(Ready::Port, ["python3", "-c", script])
        };
        agent.start_service(1, launch).await;
        let port = agent.until_ready(1).await.endpoints[0].port;
        agent.until_health(Health::Passing).await;
        std::fs::write(host.instance_dir(1).join("work/close"), "").unwrap();
        let checked = agent.until_health(Health::Critical).await;
        assert_eq!(checked.note, format!("tcp port {port}: Connection refused"));
    });
}

fn a_command_says_how_well_it_is_and_never_runs_twice_at_once() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let text = "echo x >> runs; mkdir busy || echo doubled >> doubled; sleep 0.2; rmdir busy; \
                    echo it is so; exit $(cat status 2>/dev/null || echo 0)";
        let check = Check { fall: Some(1), rise: Some(1), ..script(text) };
        agent.start_service(1, Launch { check: Some(vec![check]), ..shell("exec sleep 1000") }).await;
        agent.until_ready(1).await;
        let work = host.instance_dir(1).join("work");
        assert_eq!(agent.until_health(Health::Passing).await.note, "command: status 0: it is so");
        for (status, health) in [("1", Health::Warning), ("2", Health::Critical), ("0", Health::Passing)] {
            std::fs::write(work.join("status.new"), status).unwrap();
            std::fs::rename(work.join("status.new"), work.join("status")).unwrap();
            assert_eq!(agent.until_health(health).await.note, format!("command: status {status}: it is so"));
        }
        eventually("it was run often", || lines(&work.join("runs")).len() > 8).await;
        assert!(!work.join("doubled").exists());
    });
}

fn a_command_knows_the_program_s_environment_and_none_of_its_secrets() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let env = [
            ("WHO".to_owned(), EnvValue::Text("${NAME}".into())),
            ("KEY".to_owned(), EnvValue::Secret { secret: "/conf/key".into() }),
        ];
        let launch = Launch {
            env: Some(env.into()),
            check: Some(vec![script("echo \"$WHO ${PORT} $PORT ${KEY-none}\"")]),
            ..shell("exec sleep 1000")
        };
        let mut order = start(1, launch);
        order.secrets = [("KEY".to_owned(), Secret("swordfish".into()))].into();
        agent.order(byname_api::agent::Order::Start(Box::new(order))).await;
        let port = agent.until_ready(1).await.endpoints[0].port;
        let note = agent.until_health(Health::Passing).await.note;
        assert_eq!(note, format!("command: status 0: /BVODS/QS {port} {port} none"));
        let intent = std::fs::read_to_string(host.instance_dir(1).join("intent")).unwrap();
        assert!(intent.contains("${KEY-none}") && !intent.contains("swordfish"));
    });
}

fn a_command_goes_by_the_catalogue() {
    run(async {
        let host = Host::new();
        host.catalogue(
            "[sleeper]\ncommand = ['sleep', '1000']\n\
             [looks]\ncommand = ['sh', '-c', 'echo \"$0 $TOLD\"']\nallow_args = ['good']\nenv = { TOLD = 'here' }",
        );
        let mut agent = Running::start(Config { allow_commands: false, ..host.config() }).await;
        let launch = |check: Check| Launch {
            program: Some("sleeper".into()),
            ready: Some(Ready::Advertise),
            check: Some(vec![check]),
            ..Launch::default()
        };
        let looks = |arg: &str| Check {
            program: Some("looks".into()),
            args: Some(vec![arg.into()]),
            ..check(CheckKind::Command)
        };
        let refused = [
            (script("true"), "command"),
            (looks("bad"), "args"),
            (Check { program: Some("rm".into()), ..check(CheckKind::Command) }, "program"),
        ];
        for (number, (check, field)) in (1..).zip(refused) {
            agent.start_service(number, launch(check)).await;
            let error = host::ended(&agent.until_ended(number).await).error.unwrap();
            let field = format!("launch.check[0].{field}");
            assert_eq!((error.code(), error.at_field()), (Code::Denied, Some(field.as_str())), "{error}");
        }
        agent.start_service(9, launch(looks("good"))).await;
        agent.until_started(9).await;
        agent.order(byname_api::agent::Order::Advertised { instance: InstanceId(9) }).await;
        assert_eq!(agent.until_health(Health::Passing).await.note, "command: status 0: good here");
    });
}

/// Says what the program answers to the service's name.
struct Plain;

#[async_trait::async_trait]
impl GrpcHealth for Plain {
    async fn ask(&self, mut connection: Box<dyn Connection>, service: &str) -> Result<(bool, String), String> {
        let said = async {
            connection.write_all(format!("{service}\n").as_bytes()).await?;
            let mut word = String::new();
            connection.read_to_string(&mut word).await?;
            Ok::<_, std::io::Error>(word)
        };
        let word = said.await.map_err(|error| error.to_string())?;
        Ok((word == "SERVING", word))
    }
}

fn grpc_is_asked_by_somebody_else() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let program = "
import os, socketserver
class Word(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline().strip()
        if line:
            self.wfile.write(b'NOT_SERVING' if os.path.exists('ill') or line != b'films.Query' else b'SERVING')
socketserver.ThreadingTCPServer(('127.0.0.1', int(os.environ['PORT'])), Word).serve_forever()
";
        let check =
            Check { service: Some("films.Query".into()), fall: Some(1), rise: Some(1), ..check(CheckKind::Grpc) };
        agent
            .start_service(1, Launch { check: Some(vec![check]), ..command(Ready::Port, ["python3", "-c", program]) })
            .await;
        let port = agent.until_ready(1).await.endpoints[0].port;
        let place = format!("grpc films.Query on port {port}");
        let note = agent.until_health(Health::Critical).await.note;
        assert_eq!(note, format!("{place}: this agent cannot ask over gRPC"));
        agent.agent.set_grpc_health(std::sync::Arc::new(Plain));
        assert_eq!(agent.until_health(Health::Passing).await.note, format!("{place}: SERVING"));
        std::fs::write(host.instance_dir(1).join("work/ill"), "").unwrap();
        assert_eq!(agent.until_health(Health::Critical).await.note, format!("{place}: NOT_SERVING"));
    });
}

fn the_worst_of_several_counts() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let by = |file: &str| Check {
            fall: Some(1),
            rise: Some(1),
            ..script(&format!("echo {file}; exit $(cat {file} 2>/dev/null || echo 0)"))
        };
        let launch = Launch { check: Some(vec![by("one"), by("two")]), ..shell("exec sleep 1000") };
        agent.start_service(1, launch).await;
        agent.until_ready(1).await;
        agent.until_health(Health::Passing).await;
        let work = host.instance_dir(1).join("work");
        std::fs::write(work.join("one"), "1").unwrap();
        assert_eq!(agent.until_health(Health::Warning).await.note, "command: status 1: one");
        std::fs::write(work.join("two"), "2").unwrap();
        assert_eq!(agent.until_health(Health::Critical).await.note, "command: status 2: two");
        std::fs::remove_file(work.join("two")).unwrap();
        assert_eq!(agent.until_health(Health::Warning).await.note, "command: status 1: one");
    });
}

fn a_critical_copy_is_ended_where_that_is_declared() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let check = Check { restart: Some(true), ..script("test ! -e ill || { echo too hot; exit 2; }") };
        let mut launch = on_term("echo bye; exit 0", "while :; do sleep 0.02; done");
        launch.check = Some(vec![check]);
        agent.start_service(1, launch).await;
        agent.until_ready(1).await;
        agent.until_health(Health::Passing).await;
        std::fs::write(host.instance_dir(1).join("work/ill"), "").unwrap();
        let note = agent.until_health(Health::Critical).await.note;
        assert_eq!(note, "command: status 2: too hot, and is ended for it");
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!((end.exit.as_str(), end.ordered), ("exited with status 0", false));
        assert!(end.last_lines.ends_with("bye"), "it was asked to end, and had its time: {}", end.last_lines);
        let error = end.error.expect("it counts as a failure, however orderly the program ends");
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("too hot"), "{error}");
    });
}

fn a_later_agent_goes_on_counting() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, moody(Check { rise: Some(3), ..check(CheckKind::Http) })).await;
        let pid = agent.until_ready(1).await.pid;
        agent.until_health(Health::Passing).await;
        let mood = Mood::of(&host);
        mood.set("503");
        let fallen = agent.until_health(Health::Critical).await;
        agent.agent.shutdown().await;
        drop(agent);
        let before = mood.asked().len();
        mood.set("200");
        let mut agent = host.agent_again().await;
        let told = agent.sync().await;
        assert_eq!((told[0].pid, told[0].checked.as_ref()), (pid, Some(&fallen)), "it is known before it is asked");
        agent.until_health(Health::Passing).await;
        let good = mood.asked().split_off(before).iter().filter(|word| *word == "200").count();
        assert!(good >= 3, "{good} good answers were enough");
    });
}

fn what_is_told_to_stop_is_judged_no_more() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let check = Check { fall: Some(1), restart: Some(true), ..script("test ! -e ill") };
        let script = on_term("touch ill", "while ! [ -e go ]; do sleep 0.02; done; exit 0");
        agent.start_service(1, Launch { check: Some(vec![check]), ..script }).await;
        agent.until_ready(1).await;
        agent.until_health(Health::Passing).await;
        agent.stop(1, false).await;
        let work = host.instance_dir(1).join("work");
        agent.until(1, |phase| *phase == Phase::Stopping).await;
        eventually("it has got its signal", || work.join("ill").exists()).await;
        std::fs::write(work.join("go"), "").unwrap();
        let report = agent.until_ended(1).await;
        assert_eq!(report.checked.as_ref().map(|checked| checked.health), Some(Health::Passing));
        let end = host::ended(&report);
        assert_eq!((end.ordered, end.error), (true, None));
        // And one without any check says nothing of its health.
        agent.start_service(2, web(Ready::Port)).await;
        assert_eq!(agent.until_ready(2).await.checked, None);
    });
}
