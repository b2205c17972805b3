//! Impostors, and figure 7 of the paper: a client and a service that are introduced to each other by the name server and
//! prove themselves to each other, the service a program that knows nothing but HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use byname_testkit::Server;

use crate::support::{audit, contains, curl, dev, holds};

/// A quote service. It takes its ticket, advertises with it and keeps the credential that it is given for it. To whoever shows
/// it a ticket it answers with the proof and a quote; it asks the name server who that is.
const QUOTES: &str = r#"
import http.client, json, os, socket

def server(path, body):
    name_server = http.client.HTTPConnection("localhost")
    name_server.sock = socket.socket(socket.AF_UNIX)
    name_server.sock.connect(os.environ["BYNAME_SERVER"].removeprefix("unix://"))
    name_server.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = name_server.getresponse()
    return answer.status, json.loads(answer.read())

fd = int(os.environ["BYNAME_TICKET_FD"])
ticket = os.fdopen(fd).read().split()[0]
instance = os.environ["BYNAME_INSTANCE"]
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
status, own = server("/v1/services" + os.environ["BYNAME_NAME"] + ":advertise",
    {"endpoints": [{"port": int(os.environ["PORT"])}], "ticket": ticket, "instance": instance})
assert status == 200, own
while True:
    client, _ = listener.accept()
    with client, client.makefile("rw") as lines:
        shown = lines.readline().strip()
        status, told = server("/v1/verify", {"ticket": shown, "instance": instance, "credential": own["credential"]})
        if status == 200:
            lines.write(told["proof"] + " hello " + told["client"] + "\n")
        else:
            lines.write("refused: " + told["code"] + "\n")
"#;

/// A server with that service.
fn quotes() -> Server {
    let server = dev();
    std::fs::write(server.scratch().join("quotes.py"), QUOTES).unwrap();
    server.byname(&["add", "/BVODS/QS", "--ready", "advertise", "--", "python3", "-IS", "./quotes.py"]).lines();
    server
}

/// Shows a ticket to the service and gives its answer.
fn show(address: &str, ticket: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    writeln!(stream, "{ticket}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[test]
fn a_client_and_a_service_are_sure_of_each_other_and_a_revoked_one_is_gone_within_a_second() {
    let server = quotes();
    let found = server.byname(&["find", "-o", "json", "/BVODS/QS"]).json();
    let instance = found["instances"][0]["id"].as_str().unwrap().to_owned();
    server.byname(&["principal", "add", "/people/liu"]).lines();
    crate::support::certificate(&server, "/people/liu", "liu");
    let (https, ca) = (server.https(), server.ca());
    let as_liu = ["--server", &*https, "--ca", ca.to_str().unwrap(), "--cert", "liu"];
    let pair = server.byname(&[&["ticket", "pair", "-o", "name", "/BVODS/QS"], &as_liu[..]].concat());
    let words: Vec<&str> = pair.lines()[0].split(' ').collect();
    let [ticket, proof, of, address] = words[..] else { panic!("{pair:?}") };
    assert_eq!(of, instance);
    let answer = show(address, ticket);
    assert_eq!(answer, format!("{proof} hello /people/liu"), "it is the service, and it knows who asks");
    assert!(show(address, ticket).starts_with("refused: "), "a ticket is good once");
    assert!(show(address, &"0".repeat(64)).starts_with("refused: "), "one that was made up is good for nothing");
    for secret in [ticket, proof] {
        assert_eq!(holds(server.data(), secret.as_bytes()), None);
        assert!(!contains(server.log().as_bytes(), secret.as_bytes()));
    }
    let refusals = audit(&server, &["--operation", "verify"]);
    let outcomes: Vec<&str> = refusals.iter().filter_map(|record| record["outcome"].as_str()).collect();
    assert!(
        outcomes.contains(&"ok") && outcomes.iter().filter(|outcome| **outcome != "ok").count() == 2,
        "{refusals:?}"
    );

    server.byname(&["ticket", "revoke", "/BVODS/QS"]).lines();
    let revoked = Instant::now();
    let url = format!("{}/v1/find/BVODS/QS?start=false", server.api());
    loop {
        let found = curl(&server, &[&url]).out;
        if !found.contains(&instance) {
            break;
        }
        assert!(revoked.elapsed() < Duration::from_secs(1), "still found: {found}");
    }
    let vouched = server.byname(&["ticket", "pair", "--instance", &instance, "/BVODS/QS"]);
    assert!(vouched.status != 0 && vouched.out.is_empty(), "{vouched:#?}");
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
}

#[test]
fn an_impostor_is_not_found_in_place_of_the_program_that_was_started() {
    let server = quotes();
    let find = || server.byname(&["find", "-o", "name", "--all", "/BVODS/QS"]);
    let true_one = find().lines().join(" ");
    // The user whose server it is may do everything, and is not the program for all that.
    let refused = server.byname(&["advertise", "/BVODS/QS", "--port", "4711"]);
    assert!(
        refused.status == 4 && refused.talk.contains("denied") && refused.talk.contains("its ticket"),
        "{refused:#?}"
    );
    let denied = audit(&server, &["--operation", "advertise", "--outcome", "denied"]);
    assert_eq!((denied.len(), &denied[0]["name"]), (1, &"/BVODS/QS".into()), "{denied:?}");
    // Over TCP, with a ticket that it guessed.
    let found = server.byname(&["find", "-o", "json", "/BVODS/QS"]).json();
    let instance = found["instances"][0]["id"].as_str().unwrap();
    let ticket = "0123456789abcdef".repeat(4);
    let body = serde_json::json!({"endpoints": [{"port": 4711}], "ticket": ticket, "instance": instance}).to_string();
    let url = format!("{}/v1/services/BVODS/QS:advertise", server.api());
    let answer = curl(&server, &["-X", "POST", "-H", "content-type: application/json", "-d", &body, &url]).json();
    assert_eq!(answer["code"], "denied", "{answer}");
    let denied = audit(&server, &["--operation", "advertise", "--outcome", "denied"]);
    assert_eq!((denied.len(), &denied[0]["from"]), (2, &"127.0.0.1".into()), "{denied:?}");
    assert!(!denied.iter().any(|record| contains(record.to_string().as_bytes(), ticket.as_bytes())));
    assert_eq!(holds(Path::new(server.data()), ticket.as_bytes()), None);
    assert_eq!(find().lines().join(" "), true_one);
}
