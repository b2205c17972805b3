//! Completion in a real bash, with a real server.

use byname_testkit::Server;

/// What bash offers for the words of a line, the last of which the cursor stands at.
fn offered(server: &Server, setup: &str, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
    let script = format!(
        "{setup}\nsource <(byname completions bash)\ncomplete -p byname >/dev/null || exit 9\n\
         f=$(complete -p byname | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
         COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9\n\
         \"$f\" byname \"${{COMP_WORDS[COMP_CWORD]}}\" x\n\
         for word in \"${{COMPREPLY[@]}}\"; do printf '%s\\n' \"$word\"; done",
        quoted.join(" "),
        words.len() - 1
    );
    let done = server.run("bash", &["--norc", "-c", &script]);
    assert_eq!(done.talk, "", "nothing is said while somebody types");
    done.lines().into_iter().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_names_and_words_on_a_tab() {
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    server.apply(
        "['/BVODS/QS']\nkind = 'service'\n['/BVODS/VFS1/CMS']\nkind = 'record'\n['/conf/motd']\nkind = 'record'\n['/conf/two words']\nkind = 'record'\n",
    );
    for (words, expected) in [
        (&["byname", "fin"][..], &["find"][..]),
        (&["byname", "find", "/BV"], &["/BVODS", "/BVODS/"]),
        (&["byname", "find", "/BVODS/"], &["/BVODS/QS", "/BVODS/VFS1/"]),
        (&["byname", "find", "/BVODS/V"], &["/BVODS/VFS1", "/BVODS/VFS1/"]),
        (&["byname", "find", "--no-start", "/BVODS/VFS1/C"], &["/BVODS/VFS1/CMS"]),
        (&["byname", "status", "/BVODS/QS", "/conf/m"], &["/conf/motd"]),
        (&["byname", "--root", "/BVODS", "show", "Q"], &["QS"]),
        (&["byname", "add", "/new", "--kind", "ser"], &["service"]),
        (&["byname", "find", "/conf/t"], &["/conf/two\\ words"]),
        (&["byname", "find", "/conf/two\\ w"], &["/conf/two\\ words"]),
        (&["byname", "find", "/none/"], &[]),
    ] {
        assert_eq!(offered(&server, "", words), expected, "{words:?}");
    }
    // The context of this user counts here too.
    assert_eq!(server.byname(&["context", "/BVODS"]).lines(), ["/BVODS (byname context)"]);
    assert_eq!(offered(&server, "", &["byname", "show", "VFS1/"]), ["VFS1/CMS"]);
}

#[test]
fn without_a_server_nothing_is_offered_and_nothing_is_said() {
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    assert_eq!(offered(&server, "export BYNAME_SERVER=unix:///nowhere", &["byname", "find", "/"]), [""; 0]);
    // A server that takes connections and never answers is left after half a second.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = format!("export BYNAME_SERVER=http://{}", deaf.local_addr().unwrap());
    assert_eq!(offered(&server, &setup, &["byname", "find", "/"]), [""; 0]);
}
