//! Bytes, commands and refusals.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use byname_testkit::eventually;

use crate::raw::{Peer, server};

#[test]
fn frames_are_those_of_the_original_byte_for_byte() {
    let server = server();
    let mut peer = Peer::to(&server.dp());
    peer.expect("Connection accepted\n");
    peer.send("    31 e      0 ns_AreYouAlive ");
    peer.expect("    17 r      0 1");
    // Several in one segment, and one in several.
    peer.send("    30 e      1 ns_AreYouAlive    30 e 999999 ns_AreYouAlive    30 e  ");
    peer.expect("    17 r      1 1    17 r 999999 1");
    peer.send("    2 ns_Are");
    peer.send("YouAlive");
    peer.expect("    17 r      2 1");
    // A notice has no answer, and what is the matter with the next request is told as a list of two.
    peer.send("    30 d      0 ns_AreYouAlive    30 e      0 set mike rules");
    peer.expect(
        "    96 x      0 {invalid command name \"set\"} {invalid command name \"set\"\n    in the name server}",
    );
    peer.send("    31 d      0 dp_CloseRPCFile");
    peer.expect_end();
}

#[test]
fn a_second_command_in_a_message_is_not_run() {
    let server = server();
    let mut peer = Peer::connect(&server);
    for message in ["ns_AreYouAlive; expr 40+2", "ns_AreYouAlive\nexpr 40+2", "expr 40+2", "ns_AreYouAlive [expr 40+2]"]
    {
        let error = peer.try_ask(message).unwrap_err();
        assert!(error.contains("invalid command name") || error.contains("wrong # args"), "{message}: {error}");
        assert!(!error.contains("42"), "{error}");
    }
    for message in ["ns_UpdateState {exec id}", "ns_SetPrimarySID 1", "ns_Exit", "ns_ExitAll"] {
        assert!(peer.try_ask(message).unwrap_err().contains("is refused"), "{message}");
    }
    assert_eq!(peer.ask("ns_AreYouAlive"), "1");
}

#[test]
fn what_is_no_frame_ends_the_connection_and_nothing_else() {
    let server = server();
    for bytes in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "    10 e      0 ", "999999999999999999", "    20 q      0 abcd"]
    {
        let mut peer = Peer::connect(&server);
        peer.send(bytes);
        peer.expect_end();
    }
    let mut peer = Peer::connect(&server);
    peer.stream.write_all(b"    19 e      0 \xff\xfe\x00").unwrap();
    assert!(peer.frame().2.contains("UTF-8"));
    // The largest frame there is.
    let message = format!("ns_ListServices {}", "x".repeat(999_999 - 16 - 16));
    assert_eq!(peer.ask(&message), "");
}

#[test]
fn services_are_listed_in_the_order_in_which_they_were_registered_and_found() {
    let server = server();
    let mut peer = Peer::connect(&server);
    assert_eq!(peer.ask("ns_ListServices *"), "");
    for name in ["/z/last", "/BVODS/VFS1/CMS", "/a b"] {
        assert_eq!(server.byname(&["add", name, "--kind", "service", "--", "sleep", "1000"]).status, 0);
    }
    assert_eq!(server.byname(&["alias", "/BVODS/VFS1/CMS", "/BVODS/second"]).status, 0);
    assert_eq!(server.byname(&["add", "/conf/motd", "--value", "hello"]).status, 0);
    assert_eq!(peer.ask("ns_ListServices *"), "/z/last /BVODS/VFS1/CMS {/a b} /BVODS/second");
    assert_eq!(peer.ask("ns_ListServices /BVODS/*"), "/BVODS/VFS1/CMS /BVODS/second");
    assert_eq!(peer.ask("ns_ListServices /*/CMS"), "/BVODS/VFS1/CMS");
    assert_eq!(peer.ask("ns_ListServices {/a b}"), "{/a b}");
    assert_eq!(peer.ask("ns_ListServices /nothing/*"), "");
    assert_eq!(peer.ask("ns_ListServices /conf/motd"), "");
    assert_eq!(peer.ask("ns_FindServices /z/*"), "{/z/last {} 0}");
    assert_eq!(
        peer.ask("ns_ServiceState *"),
        "{/z/last onDemand} {/BVODS/VFS1/CMS onDemand} {{/a b} onDemand} {/BVODS/second onDemand}"
    );
    assert_eq!(peer.ask("ns_AuthenticateService /z/last"), "");
    assert_eq!(peer.ask("ns_AuthenticateService /nothing"), "");
}

#[test]
fn a_service_that_nobody_registered_comes_and_goes() {
    let server = server();
    let mut peer = Peer::connect(&server);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    // Nobody may advertise without a right.
    let advertise = format!("ns_AdvertiseService /cms/bugs-bunny localhost {port} 17");
    assert!(peer.try_ask(&advertise).is_err());
    grant(&server, "anyone", "add,advertise", "/");
    peer.ask(&advertise);
    assert_eq!(peer.ask("ns_ServiceState *"), "{/cms/bugs-bunny unregistered}");
    let found = format!("{{/cms/bugs-bunny {{127.0.0.1 {port}}} 0}}");
    assert_eq!(peer.ask("ns_FindServices *"), found);
    // Once more, or elsewhere, it is still one.
    peer.ask(&advertise);
    assert_eq!(peer.ask("ns_FindServices /cms/bugs-bunny"), found);
    peer.ask("ns_AdvertiseService /cms/bugs-bunny 127.0.0.1 1");
    assert_eq!(peer.ask("ns_FindServices *"), "{/cms/bugs-bunny {127.0.0.1 1} 0}");
    peer.ask(&advertise);
    // Uses are counted, and there are never fewer than none.
    for (message, uses) in [("Decr", 0), ("Incr", 1), ("Incr", 2), ("Decr", 1), ("Decr", 0), ("Decr", 0)] {
        peer.ask(&format!("ns_{message}Connection /cms/*"));
        assert_eq!(peer.ask("ns_FindServices *"), found.replace(" 0}", &format!(" {uses}}}")));
    }
    // A claim is probed before it is believed.
    grant(&server, "anyone", "launch", "/cms");
    assert_eq!(peer.ask("ns_ServiceState /cms/bugs-bunny dead"), "{/cms/bugs-bunny unregistered}");
    drop(socket);
    assert_eq!(peer.ask("ns_ServiceState /cms/bugs-bunny dead"), "");
    assert_eq!(peer.ask("ns_ListServices *"), "");
    // It also goes when it says so.
    peer.ask(&advertise);
    peer.ask("ns_UnadvertiseService /cms/bugs-bunny");
    assert_eq!(peer.ask("ns_ListServices *"), "");
}

#[test]
fn services_are_administered_in_the_words_of_the_original() {
    let server = server();
    let mut peer = Peer::connect(&server);
    assert!(peer.try_ask("ns_Register addService /a localhost {sleep 1000}").is_err());
    grant(&server, "anyone", "add,modify,delete,launch", "/");
    peer.ask("ns_Register addService /a localhost {sleep 1000}");
    let refused = |peer: &mut Peer, message: &str| {
        let error = peer.try_ask(message).unwrap_err();
        error.split(['{', '}']).nth(1).unwrap().to_owned()
    };
    assert_eq!(refused(&mut peer, "ns_Register addService /a localhost {sleep 1}"), "/a already exists");
    assert_eq!(refused(&mut peer, "ns_Register deleteService /b"), "/b does not exist");
    assert_eq!(refused(&mut peer, "ns_Register aliasService /b /c"), "/b does not exist");
    assert_eq!(refused(&mut peer, "ns_Register infoService /b"), "/b does not exist");
    assert_eq!(refused(&mut peer, "ns_Register addService /b 192.0.2.7 true"), "no computer has the address 192.0.2.7");
    for command in ["{}", "{{}}", "\\{a"] {
        assert!(
            refused(&mut peer, &format!("ns_Register addService /b localhost {command}")).starts_with("bad command")
        );
    }
    peer.ask("ns_Register aliasService /a /x/alias");
    peer.ask("ns_Register aliasService /x/alias /x/more");
    assert_eq!(peer.ask("ns_Register infoService /a"), "/a {} localhost {sleep 1000}");
    assert_eq!(peer.ask("ns_Register info /x/alias"), "/x/alias /a localhost {sleep 1000}");
    peer.ask("ns_Register editService /a * {sh -c {sleep 1000; exit 1}}");
    assert_eq!(peer.ask("ns_Register infoService /a"), "/a {} * {sh -c {sleep 1000; exit 1}}");
    peer.ask("ns_Register modifyService /a localhost {sh -c {exec sleep 1000}}");
    assert_eq!(peer.ask("ns_ListServices *"), "/a /x/alias /x/more");
    peer.ask("ns_LaunchServices /a");
    eventually("the start of /a", || peer.ask("ns_ServiceState /a").contains("launching").then_some(()));
    assert_eq!(refused(&mut peer, "ns_Register editService /a localhost {sleep 1}"), "/a is currently running");
    assert_eq!(refused(&mut peer, "ns_Register deleteService /a"), "/a is currently running");
    peer.ask("ns_KillServices /a");
    eventually("the end of /a", || peer.ask("ns_ServiceState /a").contains("onDemand").then_some(()));
    peer.ask("ns_Register deleteService /x/more");
    assert_eq!(peer.ask("ns_ListServices *"), "/a /x/alias");
    peer.ask("ns_Register deleteService /a");
    assert_eq!(peer.ask("ns_ListServices *"), "");
}

#[test]
fn the_catalogue_decides_what_a_command_of_the_original_starts() {
    let server = server();
    let catalogue = server.data().join("programs.d");
    std::fs::create_dir_all(&catalogue).unwrap();
    let text =
        "[movies]\ncommand = ['sh', '-c', 'read a b; echo \"$# $1 $2 $3\" >&2; exit 3', 'sh']\nallow_args = ['--db']\n";
    std::fs::write(Path::new(&catalogue).join("p.toml"), text).unwrap();
    server.hang_up();
    let mut peer = Peer::connect(&server);
    grant(&server, "anyone", "add,launch", "/");
    peer.ask("ns_Register addService /good localhost {movies --db}");
    peer.ask("ns_Register addService /bad localhost {movies --rm}");
    eventually("the new catalogue", || {
        let error = peer.try_ask("ns_LaunchServices /bad").unwrap_err();
        error.contains("catalogue does not let `movies` have the argument").then_some(())
    });
    assert!(peer.try_ask("ns_LaunchServices /good").unwrap_err().contains("exited with status 3"));
    let why = server.byname(&["why", "/good"]).out;
    assert!(why.contains("3 --db -service /good"), "{why}");
}

#[test]
fn a_server_says_which_one_it_is() {
    let server = server();
    let mut peer = Peer::connect(&server);
    let id = peer.ask("ns_GetServerID");
    assert_eq!((peer.ask("ns_WhoIsPrimary"), peer.ask("ns_IsPrimary")), (id, "1".to_owned()));
    let _ = peer.try_ask("expr 40+2");
    // And its metrics say what it was asked, without the words of those who ask.
    let address = server.api();
    let mut page = Peer::to(address.strip_prefix("http://").unwrap());
    page.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    page.stream.read_to_string(&mut text).unwrap();
    for line in [
        "byname_dp_requests_total{command=\"ns_IsPrimary\",outcome=\"ok\"} 1",
        "byname_dp_requests_total{command=\"other\",outcome=\"error\"} 1",
        "byname_dp_connections 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn whoever_shows_the_token_may_what_its_owner_may() {
    let server = server();
    let mut peer = Peer::connect(&server);
    assert!(peer.try_ask("ns_Identify guess").is_err());
    assert!(peer.try_ask("ns_Register addService /a localhost {sleep 1}").is_err());
    assert_eq!(peer.ask(&format!("ns_Identify {}", server.token())), "token");
    peer.ask("ns_Register addService /a localhost {sleep 1}");
    let mut other = Peer::connect(&server);
    assert!(other.try_ask("ns_Register addService /b localhost {sleep 1}").is_err());
}

/// Lets somebody do something.
pub(crate) fn grant(server: &byname_testkit::Server, who: &str, rights: &str, name: &str) {
    let granted = server.byname(&["acl", "grant", who, rights, name]);
    assert_eq!(granted.status, 0, "{granted:?}");
}
