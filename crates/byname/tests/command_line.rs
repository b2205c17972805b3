//! Commands that keep something while they run, and the editor, with a real server and real programs.

use byname_testkit::Server;

fn server() -> Server {
    Server::start(env!("CARGO_BIN_EXE_byname"))
}

/// A program that says in its arguments what it does at SIGTERM, and serves its port until then.
const SERVE: &str = "import os, signal, socket, sys\n\
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[1])))\n\
    print(os.getpid(), flush=True)\n\
    s = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n\
    while True: s.accept()\n";

fn bash(server: &Server, script: &str) -> byname_testkit::Output {
    std::fs::write(server.scratch().join("serve.py"), SERVE).unwrap();
    server.run("bash", &["--norc", "-c", script])
}

#[test]
fn a_command_has_its_name_as_long_as_it_runs_and_gives_its_status() {
    let server = server();
    let done = bash(
        &server,
        "byname run /web -- python3 -IS serve.py 7 > pid 2> talk & run=$!\n\
         until byname find -o json /web > found 2> /dev/null; do :; done\n\
         kill -TERM $run; wait $run; echo $?\n\
         grep -c \"\\\"pid\\\":$(cat pid)\\b\" found\n\
         byname find /web 2> /dev/null; echo $?",
    );
    assert_eq!(done.lines(), ["7", "1", "3"], "{}", done.talk);
}

#[test]
fn a_command_ends_with_whoever_runs_it() {
    let server = server();
    let done = bash(
        &server,
        "byname run /web --ttl 1s -- python3 -IS serve.py 0 > pid 2> talk & run=$!\n\
         until byname find /web > /dev/null 2>&1; do :; done\n\
         kill -KILL $run; wait $run 2> /dev/null\n\
         while kill -0 $(cat pid) 2> /dev/null; do :; done\n\
         while byname find /web > /dev/null 2>&1; do :; done; echo gone",
    );
    assert_eq!(done.lines(), ["gone"], "{}", done.talk);
}

#[test]
fn an_editor_changes_what_was_opened_and_nothing_else() {
    let server = server();
    server.apply("['/QS']\nkind = 'service'\nttl = '5s'\nattributes.team = 'media'\nlaunch = { command = 'x y', ready = 'http' }\n");
    let edit = |editor: &str| server.run("env", &[&format!("EDITOR={editor}"), "byname", "edit", "/QS"]);
    let done = edit("sed -i -e /^ttl/d -e s/media/core/ -e s/http/port/");
    assert_eq!(done.status, 0, "{}", done.talk);
    assert_eq!(
        done.lines()[..7],
        [
            "~ /QS (service)",
            "  - attributes.team = \"media\"",
            "  + attributes.team = \"core\"",
            "  - launch.ready = \"http\"",
            "  + launch.ready = \"port\"",
            "  - ttl = \"5s\"",
            done.lines()[6],
        ]
    );
    assert!(done.lines()[6].starts_with("changed /QS ("), "{}", done.out);
    let shown = server.byname(&["show", "-o", "json", "/QS"]).json();
    assert_eq!((&shown["attributes"]["team"][0], &shown["ttl"]), (&"core".into(), &serde_json::Value::Null));

    // Mistakes have their line, and what was written is not lost.
    let done = edit("sed -i s/^owner/ownr/");
    assert_eq!(done.status, 2);
    assert!(done.talk.contains("ownr: unknown field `ownr`; did you mean `owner`?"), "{}", done.talk);
    let kept = done.talk.trim_end().rsplit(' ').next().unwrap().to_owned();
    assert!(std::fs::read_to_string(&kept).unwrap().contains("ownr = "), "{kept}");
    std::fs::remove_file(kept).unwrap();

    // What somebody else changed meanwhile stays.
    let done = edit("byname edit /QS --ttl 7s >/dev/null; sed -i s/core/other/");
    assert_eq!(done.status, 6, "{}", done.talk);
    std::fs::remove_file(done.talk.trim_end().rsplit(' ').next().unwrap()).unwrap();
    let shown = server.byname(&["show", "-o", "json", "/QS"]).json();
    assert_eq!((&shown["attributes"]["team"][0], &shown["ttl"]), (&"core".into(), &"7s".into()));
}

#[test]
fn the_context_is_what_relative_names_are_read_against() {
    let server = server();
    server.byname(&["add", "/BVODS/QS", "--kind", "service"]).lines();
    assert_eq!(server.byname(&["context", "/BVODS"]).lines(), ["/BVODS (byname context)"]);
    assert_eq!(server.byname(&["show", "-o", "name", "QS"]).lines(), ["/BVODS/QS"]);
    assert_eq!(server.byname(&["list", "-o", "name", "--root", "/", "BVODS/*"]).lines(), ["/BVODS/QS"]);
    let set = server.run("env", &["BYNAME_ROOT=/other", "byname", "context", "-o", "json"]);
    assert_eq!(set.json(), serde_json::json!({ "context": "/other", "said_by": "environment" }));
    assert_eq!(server.byname(&["context", "--unset"]).lines(), ["/ (nothing else is said)"]);
    assert_eq!(server.byname(&["show", "QS"]).status, 3);
}
