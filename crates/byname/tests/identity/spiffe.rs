//! Programs that learn who they are from Byname: by the SPIFFE Workload API, with a library for it that is not ours, and by
//! the files that lie there for them.

use std::fs;
use std::path::PathBuf;

use byname_testkit::{Server, eventually};

use crate::support::{dev, openssl};

/// The program that asks with that library: this executable, started again by the agent.
#[test]
#[ignore = "it is the program that `a_program_asks_who_it_is` has Byname start"]
fn the_program() {
    // Run by hand, there is nobody to ask.
    let (Ok(_), Ok(folder)) = (std::env::var("SPIFFE_ENDPOINT_SOCKET"), std::env::var("BYNAME_IDENTITY")) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (svid, bundles) = runtime.block_on(async {
        let client = spiffe::WorkloadApiClient::connect_env().await.unwrap();
        (client.fetch_x509_svid().await.unwrap(), client.fetch_x509_bundles().await.unwrap())
    });
    let domain = svid.spiffe_id().trust_domain();
    assert!(bundles.get(domain).is_some_and(|bundle| !bundle.authorities().is_empty()), "no roots of {domain}");
    let ders: Vec<u8> = svid.cert_chain().iter().flat_map(|cert| cert.as_bytes().to_vec()).collect();
    fs::write("chain.der", &ders).unwrap();
    fs::write("leaf.der", svid.leaf().as_bytes()).unwrap();
    fs::write("authority.der", svid.cert_chain().get(1).map(|cert| cert.as_bytes().to_vec()).unwrap_or_default())
        .unwrap();
    fs::write("told.new", format!("{} {folder}", svid.spiffe_id())).unwrap();
    fs::rename("told.new", "told").unwrap();
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    while listener.accept().is_ok() {}
}

/// Declares a service that runs this in the scratch folder.
fn declare(server: &Server, name: &str, command: &[&str], env: &str) {
    let command = serde_json::to_string(command).unwrap();
    let directory = server.scratch().to_str().unwrap();
    server.apply(&format!(
        "[\"{name}\"]\nkind = \"service\"\n[\"{name}\".launch]\ncommand = {command}\ndirectory = \"{directory}\"\nenv = {{ {env} }}\n"
    ));
}

#[test]
fn a_program_asks_who_it_is_and_its_certificate_leads_to_the_root_that_lies_there() {
    let server = dev();
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    declare(&server, "/shop/till", &[own, "--ignored", "--exact", "spiffe::the_program", "--nocapture"], "");
    let found = server.byname(&["find", "/shop/till"]);
    assert_eq!(found.status, 0, "{found:#?}\n{}", server.byname(&["logs", "/shop/till"]).out);
    let told = eventually("what it was told", || fs::read_to_string(server.scratch().join("told")).ok());
    let (id, folder) = told.split_once(' ').unwrap();
    assert_eq!(id, "spiffe://byname.internal/shop/till");
    let bundle = PathBuf::from(folder).join("bundle.pem");
    for name in ["leaf", "authority"] {
        let words = ["x509", "-inform", "DER", "-in", &format!("{name}.der"), "-out", &format!("{name}.pem")];
        assert_eq!(openssl(&server, &words).status, 0, "{name}");
    }
    let words = ["verify", "-CAfile", bundle.to_str().unwrap(), "-untrusted", "authority.pem", "leaf.pem"];
    assert_eq!(openssl(&server, &words).lines(), ["leaf.pem: OK"]);
    let shown = openssl(&server, &["x509", "-in", "leaf.pem", "-noout", "-ext", "subjectAltName"]).out;
    assert!(shown.contains(&format!("URI:{id}")), "{shown}");
}

/// Answers over TLS to whoever has a certificate of the trust domain, with who that is.
const SERVE: &str = r#"
import os, socket, ssl
mine = os.environ["BYNAME_IDENTITY"]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=mine + "/bundle.pem")
context.load_cert_chain(mine + "/cert.pem", mine + "/key.pem")
context.verify_mode = ssl.CERT_REQUIRED
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    client, _ = listener.accept()
    try:
        with context.wrap_socket(client, server_side=True) as stream:
            names = [name for kind, name in stream.getpeercert()["subjectAltName"] if kind == "URI"]
            stream.sendall(names[0].encode())
    except (OSError, ssl.SSLError):
        pass
"#;

/// Asks it, and writes down who answered and what.
const ASK: &str = r#"
import os, socket, ssl
mine = os.environ["BYNAME_IDENTITY"]
context = ssl.create_default_context(cafile=mine + "/bundle.pem")
context.load_cert_chain(mine + "/cert.pem", mine + "/key.pem")
context.check_hostname = False
host, port = os.environ["TILL"].rsplit(":", 1)
with context.wrap_socket(socket.create_connection((host, int(port)))) as stream:
    names = [name for kind, name in stream.getpeercert()["subjectAltName"] if kind == "URI"]
    answer = stream.recv(1000).decode()
with open("asked.new", "w") as file:
    file.write(names[0] + " " + answer)
os.rename("asked.new", "asked")
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    listener.accept()
"#;

#[test]
fn two_programs_are_sure_of_each_other_by_the_files_that_lie_there_for_them() {
    let server = dev();
    fs::write(server.scratch().join("serve.py"), SERVE).unwrap();
    fs::write(server.scratch().join("ask.py"), ASK).unwrap();
    declare(&server, "/shop/till", &["python3", "-IS", "serve.py"], "");
    let address = server.byname(&["find", "-o", "name", "/shop/till"]);
    let address = address.lines()[0].to_owned();
    declare(&server, "/shop/clerk", &["python3", "-IS", "ask.py"], &format!("TILL = \"{address}\""));
    let found = server.byname(&["find", "/shop/clerk"]);
    assert_eq!(found.status, 0, "{found:#?}\n{}", server.byname(&["logs", "/shop/clerk"]).out);
    let asked = eventually("the answer", || fs::read_to_string(server.scratch().join("asked")).ok());
    assert_eq!(asked, "spiffe://byname.internal/shop/till spiffe://byname.internal/shop/clerk");
    // Whoever has no certificate is not answered.
    let ca = server.ca();
    let words = ["s_client", "-connect", &address, "-CAfile", ca.to_str().unwrap(), "-brief", "-ign_eof"];
    let stranger = openssl(&server, &words);
    assert!(!stranger.out.contains("spiffe://"), "{stranger:#?}");
}
