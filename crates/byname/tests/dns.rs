//! The DNS of the real binary, asked by dig.

use std::path::Path;
use std::process::Command;

use byname_testkit::{Options, Server, eventually};
use serde_json::Value;

fn server() -> Server {
    let arguments = vec!["--dns".to_owned(), "127.0.0.1:0".to_owned()];
    Server::start_with(env!("CARGO_BIN_EXE_byname"), Options { arguments, ..Options::default() })
}

/// What dig says to these words.
fn dig(server: &Server, words: &str) -> String {
    let endpoints = std::fs::read_to_string(server.data().join("endpoints.json")).unwrap();
    let endpoints: Value = serde_json::from_str(&endpoints).unwrap();
    let (address, port) = endpoints["dns"].as_str().expect("the DNS is on").rsplit_once(':').unwrap();
    let output = Command::new("dig")
        .args([&format!("@{address}"), "-p", port, "+norecurse", "+tries=1", "+time=10"])
        .args(words.split(' '))
        .output()
        .expect("dig is there: bind9-dnsutils");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of the answer.
fn short(server: &Server, words: &str) -> Vec<String> {
    dig(server, &format!("+short {words}")).lines().map(str::to_owned).collect()
}

fn status(server: &Server, words: &str) -> String {
    let said = dig(server, words);
    let status = said.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
    status.unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn dig_finds_a_service_by_its_name_and_starts_it() {
    let server = server();
    let pages = Path::new(server.scratch()).join("site");
    std::fs::create_dir(&pages).unwrap();
    server.apply(&format!(
        r#"
        ["/BVODS/QS"]
        kind = "service"
        public = ["title"]
        attributes = {{ title = "Query server", salary = 1000 }}
        ["/BVODS/QS".launch]
        command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "{}", "${{PORT}}"]
        endpoints = [{{ protocol = "http", port = 0 }}]
        dns_start = true
        ["/BVODS/OFF"]
        kind = "service"
        launch = {{ command = ["sleep", "60"] }}
        ["/BVODS/CMS"]
        kind = "alias"
        target = "/BVODS/QS"
        ["/h1"]
        kind = "computer"
        addresses = ["192.0.2.7", "2001:db8::7"]
        ["/backmap/192.0.2.7"]
        kind = "alias"
        target = "/h1"
        "#,
        pages.display()
    ));
    // The image comes a moment after the answer to the write.
    eventually("the names are in the DNS", || (short(&server, "h1.byname.internal A") == ["192.0.2.7"]).then_some(()));
    // A datagram without a cookie starts nothing: dig comes again over TCP.
    let refused = dig(&server, "+nocookie +ignore qs.bvods.byname.internal A");
    assert!(refused.contains(" tc") && refused.contains("ANSWER: 0"), "{refused}");
    let state = |name: &str| server.byname(&["status", "-o", "json", name]).json()["services"][0]["state"].clone();
    assert_eq!(state("/BVODS/QS"), "stopped");
    let started = dig(&server, "+nocookie QS.bvods.byname.internal A");
    assert!(started.contains("127.0.0.1") && started.contains("retrying in TCP mode"), "{started}");
    assert_eq!(state("/BVODS/QS"), "running");
    assert_eq!(short(&server, "qs.bvods.byname.internal A"), ["127.0.0.1"]);
    assert_eq!(short(&server, "qs.bvods.byname.internal TXT"), ["\"title=Query server\""]);

    let place = short(&server, "_http._tcp.qs.bvods.byname.internal SRV");
    let words: Vec<&str> = place[0].split(' ').collect();
    let found = server.byname(&["find", "-o", "json", "/BVODS/QS"]).json();
    assert_eq!(words[2], found["instances"][0]["endpoints"][0]["port"].to_string());
    assert_eq!(short(&server, &format!("{} A", words[3])), ["127.0.0.1"]);
    assert_eq!(short(&server, "_http._tcp.bvods.byname.internal PTR"), ["qs._http._tcp.bvods.byname.internal."]);

    assert_eq!(short(&server, "cms.bvods.byname.internal A"), ["qs.bvods.byname.internal.", "127.0.0.1"]);
    assert_eq!(short(&server, "h1.byname.internal AAAA +tcp"), ["2001:db8::7"]);
    assert_eq!(short(&server, "-x 192.0.2.7"), ["h1.byname.internal."]);
    assert!(short(&server, "byname.internal SOA")[0].starts_with("ns.byname.internal. hostmaster.byname.internal. "));
    assert_eq!(short(&server, "qs.bvods.byname.internal ANY"), ["\"RFC8482\" \"\""]);

    for (words, expected) in [
        ("off.bvods.byname.internal A +tcp", "NOERROR"),
        ("nothing.bvods.byname.internal A", "NXDOMAIN"),
        ("example.org A", "REFUSED"),
        ("-x 192.0.2.8", "REFUSED"),
        ("+edns=7 +noednsnegotiation h1.byname.internal A", "BADVERS"),
        ("+opcode=status h1.byname.internal A", "NOTIMP"),
    ] {
        assert_eq!(status(&server, words), expected, "{words}");
    }
}

#[test]
fn what_anyone_may_not_find_is_not_in_the_dns() {
    let server = server();
    server.apply("['/a/b']\nkind = 'computer'\naddresses = ['192.0.2.1']\n['/a/c']\nkind = 'computer'\naddresses = ['192.0.2.2']\n");
    let is = |name: &str, expected: &str| {
        eventually(&format!("{name} is {expected}"), || {
            (status(&server, &format!("{name}.byname.internal A")) == expected).then_some(())
        });
    };
    is("b.a", "NOERROR");
    assert_eq!(server.byname(&["acl", "deny", "anyone", "find", "/a"]).status, 0);
    is("b.a", "NXDOMAIN");
    is("a", "NXDOMAIN");
    assert_eq!(server.byname(&["acl", "grant", "anyone", "find", "/a/c"]).status, 0);
    is("c.a", "NOERROR");
    is("a", "NOERROR");
    is("b.a", "NXDOMAIN");
    assert_eq!(server.byname(&["delete", "-r", "/a"]).status, 0);
    is("c.a", "NXDOMAIN");
}

#[test]
fn two_servers_do_not_share_a_port() {
    let first = server();
    let endpoints = std::fs::read_to_string(first.data().join("endpoints.json")).unwrap();
    let dns = serde_json::from_str::<Value>(&endpoints).unwrap()["dns"].as_str().unwrap().to_owned();
    let arguments = vec!["--dns".to_owned(), dns];
    let mut second = Server::prepare(env!("CARGO_BIN_EXE_byname"), Options { arguments, ..Options::default() });
    let ended = second.try_start().expect_err("the port is taken");
    assert!(ended.talk.contains("for the DNS") && ended.talk.contains("--dns"), "{}", ended.talk);
    assert_eq!(ended.status, 5);
}

#[test]
fn a_secondary_takes_the_zone_with_its_key() {
    const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let arguments = ["--dns", "127.0.0.1:0", "--config", "server.toml"].map(str::to_owned).to_vec();
    let options = Options { role: "server", arguments, ..Options::default() };
    let mut server = Server::prepare(env!("CARGO_BIN_EXE_byname"), options);
    let write = |name: &str, text: &str| std::fs::write(server.scratch().join(name), text).unwrap();
    let key = "[[dns_options.key]]\nname = 'secondary'\nsecret_file = 'key'\ntransfer = true\n";
    write("server.toml", key);
    write("key", "no secret");
    let ended = server.try_start().expect_err("the secret is none");
    assert!(ended.talk.contains("base64") && !ended.talk.contains("no secret"), "{}", ended.talk);
    std::fs::write(server.scratch().join("key"), SECRET).unwrap();
    server.try_start().unwrap();
    server.apply("['/h1']\nkind = 'computer'\naddresses = ['192.0.2.7']\n");
    assert_eq!(server.byname(&["acl", "grant", "anyone", "find", "/"]).status, 0);
    let own = format!("-y hmac-sha256:secondary:{SECRET} byname.internal AXFR");
    eventually("the zone has the name", || dig(&server, &own).contains("192.0.2.7").then_some(()));
    let refused = dig(&server, "byname.internal AXFR");
    assert!(refused.contains("Transfer failed") && !refused.contains("192.0.2.7"), "{refused}");
}
