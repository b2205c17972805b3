//! Secrets on their way to a program.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use byname_api::Code;
use byname_api::agent::{Order, StartOrder};
use byname_api::identity::Secret;
use byname_api::launch::{EnvValue, Launch, Ready};

use crate::host::{self, Host, eventually, plain, run};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    a_secret_is_in_the_program_s_environment_and_nowhere_else,
    a_secret_that_did_not_come_starts_nothing,
    a_catalogue_decides_about_secrets_too,
];

const PLANTED: &str = "${NAME}-swordfish-7d1f";

fn order(instance: u64, launch: Launch) -> StartOrder {
    let env = Some([("KEY".to_owned(), EnvValue::Secret { secret: "/secrets/key".into() })].into());
    let mut order = host::start(instance, Launch { env, ..launch });
    order.secrets.insert("KEY".into(), Secret(PLANTED.into()));
    order
}

fn a_secret_is_in_the_program_s_environment_and_nowhere_else() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.order(Order::Start(Box::new(order(1, plain("echo \"got ${#KEY}\"; exec sleep 1000"))))).await;
        let pid = agent.until_started(1).await.pid.unwrap();
        let log = host.instance_dir(1).join("log");
        let got = format!("got {}", PLANTED.len());
        eventually("the program has it", || std::fs::read_to_string(&log).is_ok_and(|l| l.contains(&got))).await;
        let environ = format!("/proc/{pid}/environ");
        eventually("it is found where it is", || holds(Path::new(&environ))).await;

        let holder = host::holder_of(pid);
        for place in ["cmdline", "environ"] {
            assert!(!holds(Path::new(&format!("/proc/{holder}/{place}"))), "{place} of the holder");
        }
        assert!(!anywhere(host.dir.path()), "while it runs");
        // A core dump of the holder would hold it, and so would its memory for a debugger of the same user.
        assert_eq!(owner_of_memory(holder), 0);

        drop(agent);
        let mut agent = host.agent_again().await;
        let told = agent.sync().await;
        assert_eq!(told.len(), 1);
        assert!(!format!("{told:?}").contains(PLANTED));
        agent.stop(1, true).await;
        agent.until_ended(1).await;
        assert!(!anywhere(host.dir.path()), "after its end");

        let mut failing = order(2, Launch { ready: Some(Ready::Port), ..plain("true") });
        failing.launch.command = Some(vec!["/no/such/program".into()]);
        agent.order(Order::Start(Box::new(failing))).await;
        let report = agent.until_ended(2).await;
        assert!(!format!("{report:?}").contains(PLANTED));
        assert!(!anywhere(host.dir.path()), "after a start that failed");
    });
}

fn a_secret_that_did_not_come_starts_nothing() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let mut order = order(1, plain("true"));
        order.secrets.clear();
        agent.order(Order::Start(Box::new(order))).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert_eq!((error.code(), error.at_field()), (Code::StartFailed, Some("launch.env.KEY")));
        assert!(error.message().contains("`/secrets/key`"), "{error}");
        assert!(!host.instance_dir(1).exists());
    });
}

fn a_catalogue_decides_about_secrets_too() {
    run(async {
        let host = Host::new();
        host.catalogue("[qs]\ncommand = ['sleep', '1000']\nallow_env = ['OTHER']");
        let mut agent = host.agent().await;
        let mut order = order(1, Launch { program: Some("qs".into()), ..Launch::default() });
        order.launch.ready = Some(Ready::Advertise);
        agent.order(Order::Start(Box::new(order))).await;
        assert_eq!(host::ended(&agent.until_ended(1).await).error.unwrap().code(), Code::Denied);
    });
}

/// The user whom the memory of a process belongs to: root, when the process may not be looked into.
fn owner_of_memory(pid: u32) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid()
}

fn holds(file: &Path) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    let part = b"swordfish-7d1f";
    bytes.windows(part.len()).any(|found| found == part)
}

/// Whether any file of a folder holds the secret.
fn anywhere(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            anywhere(&entry.path())
        } else {
            !kind.is_socket() && !kind.is_symlink() && holds(&entry.path())
        }
    })
}
