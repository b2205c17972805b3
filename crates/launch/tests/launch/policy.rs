//! The host's own policy: what its catalogue lets run.

use byname_api::Code;
use byname_api::launch::{EnvValue, Launch, Ready};

use crate::host::{self, Host, Running, eventually, plain, run};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    what_is_not_in_the_catalogue_is_denied,
    a_plain_command_needs_permission,
    the_catalogue_s_words_come_first,
    a_reload_takes_effect_and_a_bad_one_does_not,
    a_bad_catalogue_is_told_with_its_place,
];

fn program(name: &str) -> Launch {
    Launch { program: Some(name.into()), ready: Some(Ready::Advertise), ..Launch::default() }
}

fn what_is_not_in_the_catalogue_is_denied() {
    run(async {
        let host = Host::new();
        host.catalogue("[qs]\ncommand = ['true']\nnames = ['/other/**']");
        let mut agent = host.agent().await;
        agent.start_service(1, program("rm")).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert_eq!(error.code(), Code::Denied);
        let place = host.dir.path().join("programs.d").display().to_string();
        for part in ["`rm`", "`bugs`", place.as_str()] {
            assert!(error.message().contains(part), "{error}");
        }
        agent.start_service(2, program("qs")).await;
        let error = host::ended(&agent.until_ended(2).await).error.unwrap();
        assert_eq!(error.code(), Code::Denied);
        assert!(!host.instance_dir(1).exists());
    });
}

fn a_plain_command_needs_permission() {
    run(async {
        let host = Host::new();
        let mut agent = Running::start(byname_launch::Config { allow_commands: false, ..host.config() }).await;
        agent.start_service(1, plain("true")).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert_eq!((end.error.unwrap().code(), end.exit.as_str()), (Code::Denied, "was not started"));
    });
}

fn the_catalogue_s_words_come_first() {
    run(async {
        let host = Host::new();
        host.catalogue(
            "[qs]\ncommand = ['sh', '-c', 'echo \"$WHO $*\" > said; exec sleep 1000', 'qs']\nargs = ['fixed']\n\
             allow_args = ['--a*']\nenv = { WHO = '${INSTANCE}' }\n",
        );
        let mut agent = host.agent().await;
        agent.start_service(1, Launch { args: Some(vec!["--bad".into()]), ..program("qs") }).await;
        assert_eq!(host::ended(&agent.until_ended(1).await).error.unwrap().code(), Code::Denied);
        let env = Some([("LD_PRELOAD".to_owned(), EnvValue::Text("x.so".into()))].into());
        agent.start_service(2, Launch { env, ..program("qs") }).await;
        assert_eq!(host::ended(&agent.until_ended(2).await).error.unwrap().code(), Code::Denied);
        agent.start_service(3, Launch { args: Some(vec!["--a=1".into()]), ..program("qs") }).await;
        agent.until_started(3).await;
        let said = host.instance_dir(3).join("work/said");
        eventually("it said so", || std::fs::read(&said).is_ok_and(|b| b.ends_with(b"\n"))).await;
        assert_eq!(std::fs::read_to_string(said).unwrap(), "i3 fixed --a=1\n");
    });
}

fn a_reload_takes_effect_and_a_bad_one_does_not() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        host.catalogue("[qs]\ncommand = ['sleep', '1000']");
        agent.agent.reload().await.unwrap();
        host.catalogue("[qs]\ncommand = 5");
        let error = agent.agent.reload().await.unwrap_err();
        assert!(error.message().contains("test.toml:2:11"), "{error}");
        agent.start_service(1, program("qs")).await;
        agent.until_started(1).await;
    });
}

fn a_bad_catalogue_is_told_with_its_place() {
    let host = Host::new();
    host.catalogue("[qs]\ncommand = ['sleep', '1000']\n\n[vmgr]\ncommand = ['x'\n");
    let folder = host.dir.path().join("programs.d");
    std::fs::write(folder.join("zz.toml"), "[a]\ncommand = ['a']\nnonsense = 1\n").unwrap();
    let problems = byname_launch::check_catalogue(&[folder.clone(), host.dir.path().join("nowhere")]);
    let places: Vec<_> = problems.iter().map(|p| (p.file.file_name().unwrap().to_str().unwrap(), p.line)).collect();
    assert_eq!(places, [("test.toml", 5), ("zz.toml", 3)], "{problems:?}");
    assert!(problems.iter().all(|p| p.column > 0));
    run(async move {
        let error = byname_launch::Agent::start(host.config()).await.err().expect("refused");
        assert!(error.to_string().contains("zz.toml:3:1"), "{error}");
    });
}
