//! Limits and users.

use byname_api::Code;
use byname_api::launch::{Bytes, Launch, Limits};

use crate::host::{self, Host, Running, eventually, plain, run};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    the_smaller_number_of_files_holds,
    more_memory_than_allowed_is_not_to_be_had,
    another_user,
    a_user_that_does_not_exist,
    root_is_not_taken_for_granted,
];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn the_smaller_number_of_files_holds() {
    run(async {
        let host = Host::new();
        host.catalogue("[qs]\ncommand = ['sh', '-c', 'exec sleep 1000']\nlimits = { files = 40 }");
        let mut agent = host.agent().await;
        let mut launch = plain("");
        (launch.command, launch.program) = (None, Some("qs".into()));
        launch.limits = Some(Limits { files: Some(50), ..Limits::default() });
        agent.start_service(1, launch).await;
        let pid = agent.until_started(1).await.pid.unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let files: Vec<&str> =
            limits.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().collect();
        assert_eq!((files[3], files[4]), ("40", "40"));
    });
}

fn more_memory_than_allowed_is_not_to_be_had() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let script = "python3 -c 'x = bytearray(400 << 20)' || echo no memory; exit 1";
        let limits = Some(Limits { memory: Some(Bytes(100 << 20)), ..Limits::default() });
        agent.start_service(1, Launch { limits, ..plain(script) }).await;
        let end = host::ended(&agent.until_ended(1).await);
        assert!(end.last_lines.contains("no memory"), "{}", end.last_lines);
    });
}

fn another_user() {
    if !is_root() {
        return;
    }
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let script = "id -un > who; echo $HOME >> who; grep ^Groups: /proc/self/status >> who; cat <&$BYNAME_TICKET_FD | wc -c >> who; exec sleep 1000";
        // Its own place is closed to others, so it says where it writes.
        let folder = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let launch = Launch {
            user: Some("nobody".into()),
            directory: Some(folder.path().display().to_string()),
            ..plain(script)
        };
        agent.start_service(1, launch).await;
        let pid = agent.until_started(1).await.pid.unwrap();
        let who = folder.path().join("who");
        eventually("it said who it is", || std::fs::read_to_string(&who).is_ok_and(|t| t.lines().count() == 4)).await;
        let text = std::fs::read_to_string(&who).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "nobody");
        assert_eq!(lines[3].trim(), "130");
        assert!(!lines[2].contains(" 0 "), "{text}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid: Vec<&str> =
            status.lines().find(|l| l.starts_with("Uid:")).unwrap().split_whitespace().skip(1).collect();
        assert!(uid.iter().all(|u| *u == uid[0] && *u != "0"));
        // It goes with its holder all the same.
        host::kill(host::holder_of(pid));
        eventually("it is gone", || !host::alive(pid)).await;
    });
}

fn a_user_that_does_not_exist() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, Launch { user: Some("no-such-user".into()), ..plain("true") }).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert_eq!((error.code(), error.at_field()), (Code::InvalidArgument, Some("launch.user")));
    });
}

fn root_is_not_taken_for_granted() {
    if !is_root() {
        return;
    }
    run(async {
        let host = Host::new();
        let mut agent = Running::start(byname_launch::Config { require_user: true, ..host.config() }).await;
        agent.start_service(1, plain("true")).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert_eq!((error.code(), error.at_field()), (Code::Denied, Some("launch.user")));
        agent.start_service(2, Launch { user: Some("root".into()), ..plain("exec sleep 1000") }).await;
        agent.until_started(2).await;
    });
}
