//! Values that nobody shall see: they reach the programs that they are for, and are nowhere else.

use std::fs;
use std::process::Stdio;

use byname_testkit::eventually;

use crate::support::{contains, dev, holds};

/// Writes down what it was given, and listens.
const PROGRAM: &str = r#"
import os, socket
with open("told.new", "w") as told:
    told.write(os.environ["DB"])
os.rename("told.new", "told")
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    listener.accept()
"#;

#[test]
fn a_secret_reaches_the_program_that_it_is_for_and_is_nowhere_else() {
    let server = dev();
    let value = format!("rosebud-{:016x}", rand::random::<u64>());
    let mut watch = server.command(&["watch", "--initial", "/secrets/**", "-o", "json"]);
    let seen = server.scratch().join("watched");
    let mut watch = watch.stdout(fs::File::create(&seen).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    let set = server.byname_with(&["secret", "set", "/secrets/db", "--file", "-"], &value);
    set.lines();
    fs::write(server.scratch().join("db.py"), PROGRAM).unwrap();
    let directory = server.scratch().to_str().unwrap();
    let launch = "command = [\"python3\", \"-IS\", \"./db.py\"]\nenv = { DB = { secret = \"/secrets/db\" } }\n";
    server.apply(&format!("[\"/db\"]\nkind = \"service\"\n[\"/db\".launch]\ndirectory = \"{directory}\"\n{launch}"));
    let found = server.byname(&["launch", "/db", "-o", "json"]);
    assert_eq!(found.status, 0, "{found:#?}");
    let told = eventually("what the program was given", || fs::read_to_string(server.scratch().join("told")).ok());
    assert_eq!(told, value);

    // The program has it, and nobody else.
    fs::remove_file(server.scratch().join("told")).unwrap();
    let program = server.byname(&["status", "/db", "-o", "json"]).json();
    let program = program["services"][0]["instances"][0]["pid"].as_u64().unwrap();
    for words in [
        &["show", "/secrets/db"][..],
        &["show", "/secrets/db", "-o", "json"],
        &["find", "/secrets/db", "-o", "json"],
        &["list", "/**", "-o", "json"],
        &["search", "(name=*)", "-o", "json"],
        &["show", "/db", "-o", "json"],
        &["status", "/db", "-o", "json"],
        &["why", "/db"],
        &["logs", "/db"],
        &["audit", "-o", "json"],
    ] {
        let told = server.byname(words);
        assert!(!told.out.contains(&value) && !told.talk.contains(&value), "{words:?}");
    }
    eventually("the watch", || fs::read_to_string(&seen).ok().filter(|text| text.contains("/secrets/db")));
    assert!(server.byname(&["show", "/secrets/db"]).out.contains("fingerprint"), "it can be told from another");
    assert_eq!(holds(server.scratch(), value.as_bytes()), None, "in a file");
    assert!(!contains(server.log().as_bytes(), value.as_bytes()));
    let others = server.processes().into_iter().chain([server.pid()]).filter(|pid| u64::from(*pid) != program);
    let mut looked_at = 0;
    for pid in others {
        looked_at += 1;
        for file in ["environ", "cmdline"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!contains(&bytes, value.as_bytes()), "/proc/{pid}/{file}");
        }
    }
    assert!(looked_at >= 2, "the server and the holder, at least");
    let cmdline = fs::read(format!("/proc/{program}/cmdline")).unwrap();
    assert!(!contains(&cmdline, value.as_bytes()), "among the words of the program, which everybody may read");
    let _ = watch.kill();
    let _ = watch.wait();

    // Another value: what runs keeps the old one, the next start has the new one.
    server.byname_with(&["secret", "set", "/secrets/db", "--file", "-"], "another").lines();
    server.byname(&["restart", "/db"]);
    let told = eventually("the new one", || fs::read_to_string(server.scratch().join("told")).ok());
    assert_eq!(told, "another");
}
