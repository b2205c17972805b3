//! Several servers as processes: growing and shrinking, who leads, backups, and what is left when disks are lost.

use std::path::Path;

use byname_testkit::{Options, Server, eventually};

fn server(words: &[&str]) -> Server {
    let arguments = words.iter().map(|word| (*word).to_owned()).collect();
    Server::start_with(env!("CARGO_BIN_EXE_byname"), Options { role: "server", arguments, ..Options::default() })
}

/// A new server of the cluster that `of` belongs to.
fn joins(of: &Server) -> Server {
    server(&["--join", done(of, &["cluster", "invite", "--name-server"]).trim()])
}

/// A command that goes well; gives its standard output.
#[track_caller]
fn done(server: &Server, words: &[&str]) -> String {
    let output = server.byname(words);
    assert_eq!(output.status, 0, "{words:?}: {}", output.talk);
    output.out
}

fn members(server: &Server) -> Vec<(u64, bool, bool)> {
    let output = server.byname(&["cluster", "status", "-o", "json"]);
    let info = output.json();
    let all = info["members"].as_array().cloned().unwrap_or_default();
    let of = |member: &serde_json::Value| {
        (member["id"].as_u64().unwrap(), member["voter"].as_bool().unwrap(), member["primary"].as_bool().unwrap())
    };
    all.iter().map(of).collect()
}

/// Waits until these are the voters, and one of them leads.
#[track_caller]
fn settled(server: &Server, voters: &[u64]) {
    eventually("the servers agree", || {
        let members = members(server);
        let agreed = members.iter().map(|member| member.0).eq(voters.iter().copied())
            && members.iter().all(|member| member.1)
            && members.iter().any(|member| member.2);
        agreed.then_some(())
    });
}

#[test]
fn one_server_grows_to_three_and_back_and_every_one_takes_writes() {
    let first = server(&[]);
    let (second, third) = (joins(&first), joins(&first));
    settled(&first, &[1, 2, 3]);
    for (number, server) in [&first, &second, &third].into_iter().enumerate() {
        let name = format!("/conf/{number}");
        done(server, &["add", &name, "--kind", "record", "--value", "here"]);
        assert_eq!(done(server, &["find", &name]), "here\n", "whoever wrote at a server reads it there");
    }
    assert_eq!(done(&third, &["find", "/conf/0", "--consistent"]), "here\n");

    done(&second, &["cluster", "transfer", "3"]);
    eventually("3 leads", || members(&first).contains(&(3, true, true)).then_some(()));
    done(&first, &["cluster", "remove", "3"]);
    settled(&first, &[1, 2]);
    // What it proved a second ago may still be believed.
    eventually("the one that was taken out is refused", || {
        let words = ["add", "/conf/gone", "--kind", "record", "--value", "x"];
        (third.byname(&words).status == 5).then_some(())
    });
    done(&second, &["cluster", "remove", "2"]);
    settled(&first, &[1]);
    done(&first, &["add", "/conf/last", "--kind", "record", "--value", "x"]);

    // The numbers of those that went are not given again.
    let _fourth = joins(&first);
    settled(&first, &[1, 4]);
}

#[test]
fn what_is_wrong_with_a_change_of_the_servers_is_said() {
    let only = server(&[]);
    for (words, status, said) in [
        (["cluster", "remove", "1"], 6, "the last server with a vote"),
        (["cluster", "remove", "7"], 6, "there is no server 7"),
        (["cluster", "transfer", "7"], 6, "has no vote"),
    ] {
        let refused = only.byname(&words);
        assert_eq!(refused.status, status, "{}", refused.talk);
        assert!(refused.talk.contains(said), "{}", refused.talk);
    }
    let token = done(&only, &["cluster", "invite", "--name-server"]);
    let joined = server(&["--join", token.trim()]);
    settled(&only, &[1, 2]);
    let again = Options { role: "server", arguments: vec!["--join".into(), token.trim().into()], ..Options::default() };
    let refused = Server::prepare(env!("CARGO_BIN_EXE_byname"), again).try_start().unwrap_err();
    assert_eq!(refused.status, 4, "{}", refused.talk);
    drop(joined);
}

#[test]
fn a_dead_primary_is_followed_and_all_start_again_together() {
    let mut first = server(&[]);
    let (mut second, mut third) = (joins(&first), joins(&first));
    settled(&first, &[1, 2, 3]);
    done(&first, &["add", "/conf/x", "--kind", "record", "--value", "1"]);
    for server in [&mut first, &mut second, &mut third] {
        server.keep_port();
    }
    first.kill();
    done(&second, &["edit", "/conf/x", "--value", "2"]);
    second.kill();
    // Alone it answers what it has, says how old that is, and takes nothing.
    let stale = eventually("it notices", || {
        let shown = third.byname(&["show", "/conf/x", "-o", "json"]).json();
        (shown["stale"] == true).then_some(shown)
    });
    assert_eq!(stale["value"], "2");
    let refused = third.byname(&["edit", "/conf/x", "--value", "3"]);
    assert_eq!(refused.status, 5, "{}", refused.talk);
    assert!(refused.talk.contains("no primary"), "{}", refused.talk);
    third.kill();

    // The other two never come back, as far as it knows: it starts, and answers with what it had.
    third.start_again();
    let shown = third.byname(&["show", "/conf/x", "-o", "json"]).json();
    assert_eq!((&shown["value"], &shown["stale"]), (&"2".into(), &true.into()));
    let refused = third.byname(&["edit", "/conf/x", "--value", "3"]);
    assert_eq!(refused.status, 5, "{}", refused.talk);
    let get = |path: &str| {
        let socket = third.socket();
        let words = ["-s", "-w", " %{http_code}", "--unix-socket", &socket, &format!("http://localhost{path}")];
        third.run("curl", &words).out
    };
    let live = get("/livez");
    assert!(live.ends_with(" 200"), "{live}");
    let ready = get("/readyz");
    assert!(ready.ends_with(" 503") && ready.contains("has not heard from a majority"), "{ready}");
    third.kill();

    // Each waits for the others, whom it looks for where they were, before it is ready.
    std::thread::scope(|scope| {
        for server in [&mut first, &mut second, &mut third] {
            scope.spawn(|| server.start_again());
        }
    });
    settled(&third, &[1, 2, 3]);
    assert_eq!(done(&first, &["find", "/conf/x", "--consistent"]), "2\n");
}

#[test]
fn a_backup_begins_a_new_cluster_and_whoever_was_known_is_known_there() {
    let mut first = server(&[]);
    // Terms have gone by.
    for _ in 0..2 {
        first.kill();
        first.start_again();
    }
    let _second = joins(&first);
    settled(&first, &[1, 2]);
    done(&first, &["add", "/conf/x", "--kind", "record", "--value", "1"]);
    let file = first.scratch().join("names.backup");
    let file = file.to_str().unwrap();
    let key = first.data().join("identity/cluster.key");
    let key = key.to_str().unwrap();
    done(&first, &["cluster", "backup", file]);
    done(&first, &["edit", "/conf/x", "--value", "2"]);

    let mut restored = Server::prepare(env!("CARGO_BIN_EXE_byname"), Options { role: "server", ..Options::default() });
    let data = restored.data().to_str().unwrap().to_owned();
    let made = first.byname(&["cluster", "restore", file, "--data", &data, "--key", key]);
    assert_eq!(made.status, 0, "{}", made.talk);
    let again = first.byname(&["cluster", "restore", file, "--data", &data, "--key", key]);
    assert_eq!(again.status, 6, "{}", again.talk);
    restored.start_again();
    settled(&restored, &[3]);
    assert_eq!(done(&restored, &["find", "/conf/x"]), "1\n");
    let root = |server: &Server| std::fs::read_to_string(server.ca()).unwrap();
    assert_eq!(root(&restored), root(&first), "the trust domain is the same");
    // It can grow.
    let _fourth = joins(&restored);
    settled(&restored, &[3, 4]);

    let other = server(&[]);
    let wrong = other.data().join("identity/cluster.key");
    let refused = first.byname(&["cluster", "restore", file, "--data", "elsewhere", "--key", wrong.to_str().unwrap()]);
    assert_eq!(refused.status, 2, "{}", refused.talk);
    assert!(refused.talk.contains("not the key"), "{}", refused.talk);
    let mut damaged = std::fs::read(file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(file, damaged).unwrap();
    let refused = first.byname(&["cluster", "restore", file, "--data", "elsewhere", "--key", key]);
    assert_eq!(refused.status, 5, "{}", refused.talk);
    assert!(refused.talk.contains("damaged"), "{}", refused.talk);
    assert!(!Path::new("elsewhere").exists());
}

#[test]
fn one_disk_is_enough_to_go_on_when_the_others_are_lost() {
    let mut first = server(&[]);
    let (mut second, mut third) = (joins(&first), joins(&first));
    settled(&first, &[1, 2, 3]);
    done(&first, &["add", "/conf/x", "--kind", "record", "--value", "1"]);
    // The one that will be left has it.
    assert_eq!(done(&third, &["find", "/conf/x", "--consistent"]), "1\n");
    let data = third.data().to_str().unwrap().to_owned();
    let running = first.byname(&["cluster", "stand-alone", "--data", &data]);
    assert_eq!(running.status, 5, "{}", running.talk);
    assert!(running.talk.contains("in use"), "{}", running.talk);
    for server in [&mut first, &mut second, &mut third] {
        server.keep_port();
        server.kill();
    }
    let alone = third.byname(&["cluster", "stand-alone", "--data", &data]);
    assert_eq!(alone.status, 0, "{}", alone.talk);
    third.start_again();
    settled(&third, &[3]);
    done(&third, &["edit", "/conf/x", "--value", "2"]);
    let _fourth = joins(&third);
    settled(&third, &[3, 4]);
    assert_eq!(done(&third, &["find", "/conf/x"]), "2\n");
    // The two that were lost are a majority of what was: they come back, hear that they are out, and end.
    std::thread::scope(|scope| {
        for server in [&mut first, &mut second] {
            scope.spawn(|| {
                let ended = match server.try_start() {
                    Ok(_) => server.ends(),
                    Err(ended) => ended,
                };
                assert_eq!(ended.status, 6, "{}", ended.talk);
                assert!(ended.talk.contains("with a new data directory"), "{}", ended.talk);
            });
        }
    });
    done(&third, &["edit", "/conf/x", "--value", "3"]);
    settled(&third, &[3, 4]);
}

#[test]
fn a_server_is_found_in_the_tree_and_leaves_it_when_it_goes() {
    let first = server(&[]);
    let mut second = joins(&first);
    settled(&first, &[1, 2]);
    let found = |number: u32| first.byname(&["find", &format!("/byname/servers/{number}"), "--no-start"]);
    let address = eventually("the second is found", || Some(found(2)).filter(|found| found.status == 0));
    let port = second.api().rsplit(':').next().unwrap().to_owned();
    assert!(address.out.contains(&port), "{}", address.out);
    assert_eq!(found(1).status, 0);
    assert_eq!(second.terminate(), 0);
    assert_ne!(found(2).status, 0);
}
