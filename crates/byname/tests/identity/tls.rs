//! Certificates on the wire, as openssl and curl see them.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use byname_identity::authority::{RootFiles, Sign, SigningRequest, Subject, Usage};
use byname_testkit::{Options, Server, eventually};

use crate::support::{DOMAIN, Talk, address, audit, certificate, curl, of_domain, openssl, server};

#[test]
fn openssl_verifies_the_server_by_its_root_and_speaks_nothing_older_than_tls_1_3() {
    let server = server();
    let (address, ca) = (address(&server), server.ca());
    let ca = ca.to_str().unwrap();
    let ask = |more: &[&str]| {
        let words = ["s_client", "-connect", &address, "-CAfile", ca, "-verify_return_error", "-brief"];
        openssl(&server, &[&words[..], more].concat())
    };
    let good = ask(&["-verify_ip", "127.0.0.1"]);
    assert_eq!(good.status, 0, "{good:#?}");
    assert!(good.talk.contains("Verification: OK") && good.talk.contains("Protocol version: TLSv1.3"), "{}", good.talk);
    assert_eq!(ask(&["-verify_hostname", "localhost"]).status, 0);
    assert_ne!(ask(&["-verify_hostname", "elsewhere.example"]).status, 0);
    let old = ask(&["-tls1_2"]);
    assert!(old.status != 0 && old.talk.contains("protocol version"), "{old:#?}");
    // The same without the root.
    let strange = openssl(&server, &["s_client", "-connect", &address, "-verify_return_error", "-brief"]);
    assert!(strange.status != 0 && strange.talk.contains("verify error"), "{strange:#?}");
}

/// The answer to `/v1/whoami` with the certificate in a folder.
fn whoami(server: &Server, folder: &str) -> byname_testkit::Output {
    let (ca, url) = (server.ca(), format!("{}/v1/whoami", server.https()));
    let (cert, key) = (format!("{folder}/cert.pem"), format!("{folder}/key.pem"));
    curl(server, &["--cacert", ca.to_str().unwrap(), "--cert", &cert, "--key", &key, &url])
}

#[test]
fn a_certificate_proves_to_curl_and_to_the_command_line_who_asks() {
    let server = server();
    server.byname(&["principal", "add", "/people/liu"]).lines();
    certificate(&server, "/people/liu", "liu");
    let answer = whoami(&server, "liu").json();
    assert_eq!((&answer["principal"], &answer["mechanism"]), (&"/people/liu".into(), &"certificate".into()));
    assert_ne!(answer["admin"], true, "{answer}");
    let ca = server.ca();
    let at = ["--server", &*server.https(), "--ca", ca.to_str().unwrap(), "--cert", "liu"];
    assert_eq!(server.byname(&[&["whoami", "-o", "name"], &at[..]].concat()).lines(), ["/people/liu"]);
    server.byname(&["add", "/motd", "--value", "hello"]).lines();
    assert_eq!(server.byname(&[&["find", "/motd"], &at[..]].concat()).lines(), ["hello"]);
    let refused = server.byname(&[&["edit", "/motd", "--value", "bye"], &at[..]].concat());
    assert!(refused.status == 4 && refused.talk.contains("`/people/liu` may not modify"), "{refused:#?}");
    // Nobody in particular may not even look at a `server`.
    let url = format!("{}/v1/find/motd", server.https());
    let nobody = curl(&server, &["--cacert", ca.to_str().unwrap(), "-o", "answer", "-w", "%{http_code}", &url]);
    assert!(["401", "403"].contains(&nobody.out.as_str()), "{nobody:#?}");
    // What is disabled is out, whatever its certificate says.
    server.byname(&["principal", "disable", "/people/liu"]).lines();
    let out = whoami(&server, "liu").json();
    assert_eq!(out["code"], "unauthenticated", "{out}");
}

/// Signs a new key by the root in a folder, with a validity that begins then. Writes cert.pem and key.pem.
fn sign(root: &Path, name: &str, id: ObjectId, from: Timestamp, validity: Duration, folder: &Path) {
    let root = RootFiles::open(root).unwrap();
    let key = byname_identity::authority::new_key().unwrap();
    assert!(SigningRequest::parse(key.request_pem.as_bytes()).is_ok());
    let subject = Subject {
        name: name.parse().unwrap(),
        id: Some(id),
        instance: None,
        dns: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Both,
    };
    let signed = root.sign(key.request_pem.as_bytes(), &Sign::Certificate(subject), validity, from).unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("cert.pem"), signed).unwrap();
    fs::write(folder.join("key.pem"), &key.key_pem).unwrap();
}

/// Shows a certificate, and tells what comes back: in TLS 1.3 a client learns only when it reads that it was refused.
const SHOW: &str = "
import socket, ssl, sys
host, port, ca, cert, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
try:
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as stream:
        print('served', stream.recv(1))
except ssl.SSLError as refused:
    print(refused)
";

/// Shows a certificate that must be refused in the handshake, and gives why, as the audit log has it.
#[track_caller]
fn refused(server: &Server, folder: &str) -> String {
    let before = audit(server, &["--outcome", "unauthenticated"]).len();
    let (address, ca) = (address(server), server.ca());
    let (host, port) = address.rsplit_once(':').unwrap();
    let (cert, key) = (format!("{folder}/cert.pem"), format!("{folder}/key.pem"));
    let answer = server.run("python3", &["-c", SHOW, host, port, ca.to_str().unwrap(), &cert, &key]);
    assert!(answer.out.contains("alert"), "{answer:#?}");
    let record = eventually("its record in the audit log", || {
        let records = audit(server, &["--outcome", "unauthenticated"]);
        (records.len() > before).then(|| records[0].clone())
    });
    assert_eq!(record["from"], "127.0.0.1", "{record}");
    record["detail"].as_str().unwrap_or_else(|| panic!("no reason: {record}")).to_owned()
}

#[test]
fn a_certificate_of_another_trust_domain_is_refused_with_an_alert_and_audited() {
    let server = server();
    let other = Server::start_with(
        env!("CARGO_BIN_EXE_byname"),
        Options { role: "server", arguments: vec!["--domain".into(), "other.example".into()], ..Options::default() },
    );
    other.byname(&["principal", "add", "/people/liu"]).lines();
    let folder = server.scratch().join("of-another-server");
    certificate(&other, "/people/liu", folder.to_str().unwrap());
    let why = refused(&server, "of-another-server");
    assert!(why.contains("certificate"), "{why}");
    // One that says it is of this domain, of a root that somebody made.
    let run = |words: &[&str]| server.byname(words);
    run(&["ca", "init", "false-root", "--domain", DOMAIN]).lines();
    run(&["cert", "request", "--out", "false"]).lines();
    let made = ["ca", "sign", "false/request.pem", "--dir", "false-root", "--name", "/byname/admin", "--out"];
    assert_eq!(run(&[&made[..], &["false/cert.pem"]].concat()).status, 0);
    let why = refused(&server, "false");
    assert!(why.contains("certificate"), "{why}");
}

#[test]
fn a_server_serves_under_a_root_that_is_kept_off_line_and_refuses_what_has_expired() {
    let mut options = of_domain("server");
    options.arguments.extend(["--ca".into(), "external".into()]);
    let mut server = Server::prepare(env!("CARGO_BIN_EXE_byname"), options);
    let data = server.data().to_owned();
    let ended = server.try_start().expect_err("it has nothing to serve with");
    assert_ne!(ended.status, 0);
    let request = data.join("identity/issuing.request.pem");
    for part in ["byname ca sign", request.to_str().unwrap(), "issuing.pem", "root.pem"] {
        assert!(ended.talk.contains(part), "`{part}` is not in: {}", ended.talk);
    }
    let key = fs::read(data.join("identity/issuing.key")).unwrap();
    // What it says is what is done.
    server.byname(&["ca", "init", "root", "--domain", DOMAIN]).lines();
    let sign_it = ["ca", "sign", request.to_str().unwrap(), "--dir", "root", "--issuing", "--out", "issuing.pem"];
    assert_eq!(server.byname(&sign_it).status, 0);
    fs::copy(server.scratch().join("issuing.pem"), data.join("identity/issuing.pem")).unwrap();
    fs::copy(server.scratch().join("root/root.pem"), data.join("identity/root.pem")).unwrap();
    server.start_again();
    assert_eq!(fs::read(data.join("identity/issuing.key")).unwrap(), key, "the key is that of the request");
    let address = address(&server);
    let words = ["s_client", "-connect", &address, "-CAfile", "root/root.pem", "-verify_return_error", "-showcerts"];
    let shown = openssl(&server, &words);
    assert_eq!(shown.status, 0, "{shown:#?}");
    // Whoever joins knows no more than the hash of the root: so the root is shown too.
    let chain: Vec<&str> =
        shown.out.lines().filter_map(|line| line.trim().split_once("i:O = ")).map(|(_, by)| by).collect();
    let root = format!("{DOMAIN}, CN = {DOMAIN} root");
    assert!(chain.len() == 3 && chain[0] != root && chain[1..] == [&*root, &*root], "{chain:?}");
    assert!(shown.out.contains("Verify return code: 0"), "{}", shown.out);
    assert!(
        crate::support::holds(
            &data,
            fs::read_to_string(server.scratch().join("root/root.key")).unwrap().lines().nth(1).unwrap().as_bytes()
        )
        .is_none()
    );

    server.byname(&["principal", "add", "/people/liu"]).lines();
    certificate(&server, "/people/liu", "liu");
    assert_eq!(whoami(&server, "liu").json()["principal"], "/people/liu");
    // One that the root itself signed is as good, and one that has expired is not.
    let root = server.scratch().join("root");
    let shown = server.byname(&["show", "/people/liu", "-o", "json"]).json();
    let id: ObjectId = shown["id"].as_str().unwrap().parse().unwrap();
    let now = now();
    let hour = Duration::from_secs(3_600);
    server.byname(&["cert", "request", "--out", "signed"]).lines();
    let words =
        ["ca", "sign", "signed/request.pem", "--dir", "root", "--name", "/people/liu", "--out", "signed/cert.pem"];
    assert_eq!(server.byname(&words).status, 0);
    let nobody = whoami(&server, "signed").json();
    assert!(nobody["detail"].as_str().unwrap().contains("--id"), "the name may be somebody else's now: {nobody}");
    assert_eq!(server.byname(&[&words[..], &["--id", &id.to_string()]].concat()).status, 0);
    assert_eq!(whoami(&server, "signed").json()["principal"], "/people/liu");
    sign(&root, "/people/liu", id, Timestamp(now.0 - 7_200_000), hour, &server.scratch().join("expired"));
    let why = refused(&server, "expired");
    assert!(why.contains("expired"), "{why}");
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_millis().try_into().unwrap())
}

#[test]
fn plain_http_from_elsewhere_is_refused_with_a_sentence() {
    // An address of this host that is not loopback; where there is none, one in a network of its own.
    let own = byname_launch::own_addresses().into_iter().find(|ip| ip.is_ipv4() && !ip.is_loopback());
    let (ip, alone) = match own {
        Some(ip) => (ip, false),
        None => (IpAddr::from([192, 0, 2, 7]), true),
    };
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("byname");
    let inside = "ip link set lo up && ip address add 192.0.2.7/32 dev lo && exec \"$@\"";
    let start = if alone { format!("unshare -rn sh -c '{inside}' sh") } else { String::new() };
    fs::write(&wrapper, format!("#!/bin/sh\nexec {start} {} \"$@\"\n", env!("CARGO_BIN_EXE_byname"))).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut server = Server::prepare(&wrapper, Options { listen: "0.0.0.0:0", ..of_domain("server") });
    server.start_again();
    let port = server.https().rsplit(':').next().unwrap().to_owned();
    let pid = server.pid().to_string();
    let ca = server.ca();
    let ask = |words: &[&str]| {
        let entered = ["--preserve-credentials", "-U", "-n", "-t", &pid, "curl", "-s", "-S", "--max-time", "30"];
        if alone { server.run("nsenter", &[&entered[..], words].concat()) } else { curl(&server, words) }
    };
    let plain = ask(&["-w", "\n%{http_code}", &format!("http://{ip}:{port}/v1/find/x")]);
    let (body, status) = plain.out.rsplit_once('\n').unwrap_or_else(|| panic!("{plain:#?}"));
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {plain:#?}"));
    assert_eq!((status, &problem["code"]), ("403", &"denied".into()), "{body}");
    assert!(problem["detail"].as_str().unwrap().contains("this port speaks TLS: write https://"), "{body}");
    let secure = ask(&[
        "--cacert",
        ca.to_str().unwrap(),
        &format!("https://{ip}:{port}/livez"),
        "-w",
        "%{http_code}",
        "-o",
        "answer",
    ]);
    assert_eq!(secure.out, "200", "{secure:#?}");
    let own = ask(&[&format!("http://127.0.0.1:{port}/livez"), "-w", "%{http_code}", "-o", "answer"]);
    assert_eq!(own.out, "200", "the host itself may do without: {own:#?}");
}

/// Holds one connection, asks on it once a line, and tells the status and the serial of the certificate that it shows.
const HOLD: &str = "
import http.client, ssl, sys
host, port, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
held = http.client.HTTPSConnection(host, int(port), context=context)
held.connect()
first = held.sock
for line in sys.stdin:
    held.request('GET', '/livez')
    answer = held.getresponse()
    answer.read()
    print(answer.status, held.sock is first, held.sock.getpeercert()['serialNumber'], flush=True)
";

#[test]
fn a_reload_exchanges_the_certificate_and_breaks_no_connection() {
    let server = server();
    let address = address(&server);
    let (host, port) = address.rsplit_once(':').unwrap();
    let ca = server.ca();
    let hold = || {
        let mut command = std::process::Command::new("python3");
        server.environment(&mut command);
        Talk::start(command.args(["-c", HOLD, host, port]).arg(&ca))
    };
    let mut held = hold();
    let ask = |held: &mut Talk| {
        held.say("");
        let line = held.line();
        let (status, serial) = line.rsplit_once(' ').unwrap();
        assert_eq!(status, "200 True");
        serial.to_owned()
    };
    let first = ask(&mut held);
    server.hang_up();
    let second = eventually("another certificate", || Some(ask(&mut hold())).filter(|serial| *serial != first));
    assert_eq!(ask(&mut held), first, "the open connection goes on with what it began with");
    assert_ne!(first, second);
}
