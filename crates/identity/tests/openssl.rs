//! OpenSSL, which is on every Debian, as the foreign end: it verifies our chains, holds them to the same constraints, and
//! connects to us. Without it on the machine there is nothing to compare with.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use byname_identity::authority::{
    Authority, RootFiles, Sign, SigningRequest, Subject, Usage, external_request, new_key,
};
use byname_identity::tls::{Acceptor, Identity};
use byname_name::Name;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use tokio::io::AsyncWriteExt;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// What it said, or nothing when it is not there.
fn openssl(arguments: &[&str], files: &[&Path]) -> Option<(bool, String)> {
    match Command::new("openssl").args(arguments).args(files).output() {
        Ok(Output { status, stdout, stderr }) => {
            Some((status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("openssl: {error}"),
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn verify(&self, root: &str, chain: &str, purpose: &str) -> Option<(bool, String)> {
        let root = self.file("verify-root.pem", root);
        let chain = self.file("verify-chain.pem", chain);
        let (root, chain) = (root.to_str().unwrap(), chain.to_str().unwrap());
        let arguments = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", root, "-untrusted", chain, chain];
        openssl(&arguments, &[])
    }
}

fn server_subject() -> Subject {
    Subject {
        name: name("/byname/servers/s1"),
        id: Some(ObjectId(7)),
        instance: None,
        dns: vec!["node1.lan".to_owned(), "localhost".to_owned()],
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        usage: Usage::Both,
    }
}

#[test]
fn it_verifies_our_chains_and_keeps_to_our_constraints() {
    let folder = Folder::new();
    let authority = Authority::create_for("corp.example", &["lan".to_owned()], now()).unwrap();
    let key = new_key().unwrap();
    let request = SigningRequest::parse(key.request_pem.as_bytes()).unwrap();
    let good = authority.certify(&request, &server_subject(), DAY, now()).unwrap();
    for purpose in ["sslserver", "sslclient"] {
        let Some((ok, said)) = folder.verify(&authority.root_pem(), &good.chain_pem, purpose) else { return };
        assert!(ok, "{said}");
    }

    // What an issuing authority signs beyond its bounds, when somebody else holds its key.
    let root = RootFiles::init(&folder.0.path().join("root"), "corp.example", now()).unwrap();
    let asked = external_request("corp.example").unwrap();
    let what = Sign::Issuing { under: name("/BVODS"), hosts: Vec::new() };
    let issuing = root.sign(asked.request_pem.as_bytes(), &what, DAY * 30, now()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&issuing, KeyPair::from_pem(&asked.key_pem).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    for (host, good) in [("qs.bvods.corp.example", true), ("qs.corp.example", false), ("www.example.org", false)] {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        let (ok, said) = folder.verify(root.root_pem(), &(leaf + &issuing), "sslserver").unwrap();
        assert_eq!(ok, good, "{host}: {said}");
        assert!(good || said.contains("permitted subtree violation"), "{host}: {said}");
    }
}

#[test]
fn its_requests_are_read_whatever_their_key() {
    let folder = Folder::new();
    for (algorithm, option, good) in [
        ("EC", "ec_paramgen_curve:P-256", true),
        ("EC", "ec_paramgen_curve:P-384", true),
        ("EC", "ec_paramgen_curve:secp256k1", false),
        ("RSA", "rsa_keygen_bits:2048", true),
        ("RSA", "rsa_keygen_bits:1024", false),
        ("ED25519", "", true),
    ] {
        let key = folder.0.path().join("key.pem");
        let mut arguments = vec!["genpkey", "-algorithm", algorithm];
        if !option.is_empty() {
            arguments.extend(["-pkeyopt", option]);
        }
        arguments.push("-out");
        let Some((ok, said)) = openssl(&arguments, &[&key]) else { return };
        assert!(ok, "{said}");
        let (ok, request) = openssl(&["req", "-new", "-subj", "/CN=evil", "-key"], &[&key]).unwrap();
        assert!(ok, "{request}");
        let read = SigningRequest::parse(request.as_bytes());
        assert_eq!(read.is_ok(), good, "{algorithm} {option}: {read:?}");
        if let Ok(read) = read {
            let authority = Authority::create_for("corp.example", &["lan".to_owned()], now()).unwrap();
            let leaf = authority.certify(&read, &server_subject(), DAY, now()).unwrap();
            let (ok, said) = folder.verify(&authority.root_pem(), &leaf.chain_pem, "sslserver").unwrap();
            assert!(ok, "{said}");
        }
    }
}

#[tokio::test]
async fn it_connects_with_a_certificate_of_ours() {
    let folder = Folder::new();
    let authority = Authority::create_for("corp.example", &["lan".to_owned()], now()).unwrap();
    let certify = |subject: &Subject| {
        let key = new_key().unwrap();
        let request = SigningRequest::parse(key.request_pem.as_bytes()).unwrap();
        let certificate = authority.certify(&request, subject, DAY, now()).unwrap();
        Identity { chain_pem: certificate.chain_pem, key_pem: key.key_pem }
    };
    let acceptor = Acceptor::new(&certify(&server_subject()), authority.roots().clone()).unwrap();
    let mine = certify(&Subject {
        name: name("/people/ada"),
        dns: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
        ..server_subject()
    });
    let chain = folder.file("chain.pem", &mine.chain_pem);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let started = Command::new("openssl")
        .args(["s_client", "-verify_return_error", "-verify_hostname", "localhost", "-alpn", "http/1.1", "-connect"])
        .arg(listener.local_addr().unwrap().to_string())
        .arg("-CAfile")
        .arg(folder.file("root.pem", &authority.root_pem()))
        .arg("-cert_chain")
        .arg(&chain)
        .arg("-cert")
        .arg(&chain)
        .arg("-key")
        .arg(folder.file("key.pem", &mine.key_pem))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut client) = started else { return };
    let (stream, _) = listener.accept().await.unwrap();
    let (mut stream, peer) = acceptor.accept(stream).await.unwrap();
    assert_eq!(peer.unwrap().name.as_str(), "/people/ada");
    stream.write_all(b"hello from byname\n").await.unwrap();
    stream.shutdown().await.unwrap();
    drop(client.stdin.take());
    let out = client.wait_with_output().unwrap();
    // Versions of it differ in how they write a distinguished name.
    let said = String::from_utf8_lossy(&out.stdout).replace(" = ", "=");
    assert!(said.contains("hello from byname") && said.contains("Verification: OK"), "{said}");
    assert!(said.contains("Acceptable client certificate CA names\nO=corp.example, CN=corp.example root"), "{said}");
}
