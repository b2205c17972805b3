//! Tests of TLS: real handshakes over a stream in memory, good and bad.

use std::net::{IpAddr, Ipv4Addr};

use byname_api::object::{InstanceId, ObjectId};
use byname_name::Name;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::authority::bad::{DAY, before, cases, certified, now, subject};
use crate::authority::{Authority, Purpose, Subject, Usage};

const BUFFER: usize = 64 * 1024;

fn authority() -> Authority {
    Authority::create("corp.example", now()).unwrap()
}

fn identity(authority: &Authority, subject: &Subject) -> Identity {
    let (key_pem, certificate) = certified(authority, subject, now());
    Identity { chain_pem: certificate.chain_pem, key_pem }
}

fn server(authority: &Authority) -> Identity {
    identity(authority, &Subject { id: None, ..subject("/byname/servers/s1", Usage::Both) })
}

fn client(authority: &Authority) -> Identity {
    identity(authority, &subject("/people/ada", Usage::Client))
}

fn acceptor(authority: &Authority) -> Acceptor {
    Acceptor::new(&server(authority), authority.roots().clone()).unwrap()
}

fn connector(authority: &Authority, identity: Option<&Identity>) -> Connector {
    Connector::new(Trust::Bundle(authority.roots().clone()), identity).unwrap()
}

/// Both ends' results of one handshake.
async fn handshake(
    acceptor: &Acceptor,
    connector: &Connector,
    host: &str,
) -> (
    io::Result<(ServerStream<DuplexStream>, Option<crate::authority::Peer>)>,
    io::Result<(ClientStream<DuplexStream>, Option<crate::authority::Peer>)>,
) {
    let (near, far) = duplex(BUFFER);
    tokio::join!(acceptor.accept(far), connector.connect_to_peer(near, host))
}

/// A client or a server that takes any certificate, so that only the other end decides.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn unchecked(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> Arc<SingleCertAndKey> {
    let key = PROVIDER.key_provider.load_private_key(pem::private_key(key_pem).unwrap().into()).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

/// A client of the library with none of our rules.
fn plain_client(
    versions: &[&'static rustls::SupportedProtocolVersion],
    certified: Option<Arc<SingleCertAndKey>>,
) -> tokio_rustls::TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let config = match certified {
        Some(certified) => builder.with_client_cert_resolver(certified),
        None => builder.with_no_client_auth(),
    };
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn both_ends_prove_themselves() {
    let authority = authority();
    let (acceptor, mine) = (acceptor(&authority), client(&authority));
    let (accepted, connected) = handshake(&acceptor, &connector(&authority, Some(&mine)), "ns.example.net").await;
    let (mut at_server, who) = accepted.unwrap();
    let (mut at_client, whom) = connected.unwrap();
    assert_eq!(who.unwrap().name.as_str(), "/people/ada");
    let whom = whom.unwrap();
    assert_eq!((whom.name.as_str(), whom.is_server_name), ("/byname/servers/s1", true));
    assert_eq!(at_server.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(at_client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    at_client.write_all(b"ping").await.unwrap();
    let mut read = [0; 4];
    at_server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_nobody_and_is_served() {
    let authority = authority();
    let (accepted, connected) = handshake(&acceptor(&authority), &connector(&authority, None), "127.0.0.1").await;
    assert_eq!(accepted.unwrap().1, None);
    assert!(connected.is_ok());
}

#[tokio::test]
async fn a_bad_client_certificate_fails_the_handshake_with_an_alert_and_a_reason() {
    for case in cases().into_iter().filter(|case| case.purpose != Some(Purpose::Server)) {
        let authority = authority();
        let acceptor = Acceptor::new(&server(&authority), case.roots.clone()).unwrap();
        let client = plain_client(&[&rustls::version::TLS13], Some(unchecked(case.chain, &case.key_pem)));
        let (near, far) = duplex(BUFFER);
        let name = ServerName::try_from("ns.example.net").unwrap();
        let (accepted, connected) = tokio::join!(acceptor.accept(far), client.connect(name, near));
        let Err(error) = accepted else { panic!("{} was accepted", case.label) };
        let why = reason(&error).expect(case.label);
        assert_eq!(why.code(), Code::Unauthenticated, "{}: {why}", case.label);
        assert!(why.message().starts_with("the client's certificate is refused: "), "{}: {why}", case.label);
        assert!(why.message().contains(case.says), "{}: {why}", case.label);
        // In TLS 1.3 the client is through before its certificate is looked at.
        let heard = connected.unwrap().read_u8().await.unwrap_err();
        let heard = reason(&heard).expect(case.label);
        assert!(heard.message().starts_with("the other end refused our certificate"), "{}: {heard}", case.label);
    }
}

#[tokio::test]
async fn a_bad_server_certificate_is_refused_by_the_client_for_its_reason() {
    for case in cases().into_iter().filter(|case| case.purpose != Some(Purpose::Client)) {
        let config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(unchecked(case.chain, &case.key_pem));
        let server = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let connector = Connector::new(Trust::Bundle(case.roots.clone()), None).unwrap();
        let (near, far) = duplex(BUFFER);
        let (accepted, connected) = tokio::join!(server.accept(far), connector.connect(near, "ns.example.net"));
        let Err(error) = connected else { panic!("{} was accepted", case.label) };
        let why = reason(&error).expect(case.label);
        assert!(why.message().starts_with("the server's certificate is refused: "), "{}: {why}", case.label);
        assert!(why.message().contains(case.says), "{}: {why}", case.label);
        let heard = reason(&accepted.unwrap_err()).expect(case.label);
        assert!(heard.message().starts_with("the other end refused our certificate"), "{}: {heard}", case.label);
    }
}

#[tokio::test]
async fn the_alert_tells_what_it_can() {
    for (label, says) in [
        ("expired", "it has expired"),
        ("another domain", "does not trust the authority"),
        ("a server's for a client", "not meant for this use"),
    ] {
        let case = cases().into_iter().find(|case| case.label == label).unwrap();
        let acceptor = Acceptor::new(&server(&authority()), case.roots).unwrap();
        let client = plain_client(&[&rustls::version::TLS13], Some(unchecked(case.chain, &case.key_pem)));
        let (near, far) = duplex(BUFFER);
        let name = ServerName::try_from("ns.example.net").unwrap();
        let (_, connected) = tokio::join!(acceptor.accept(far), client.connect(name, near));
        let heard = reason(&connected.unwrap().read_u8().await.unwrap_err()).unwrap();
        assert!(heard.message().contains(says), "{heard}");
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let acceptor = acceptor(&authority());
    let client = plain_client(&[&rustls::version::TLS12], None);
    let (near, far) = duplex(BUFFER);
    let name = ServerName::try_from("ns.example.net").unwrap();
    let (accepted, connected) = tokio::join!(acceptor.accept(far), client.connect(name, near));
    let why = reason(&accepted.unwrap_err()).unwrap();
    assert_eq!(why.code(), Code::Unsupported);
    assert!(why.message().contains("1.3"), "{why}");
    let heard = reason(&connected.unwrap_err()).unwrap();
    assert!(heard.message().contains("TLS 1.3"), "{heard}");
}

#[tokio::test]
async fn bytes_that_are_no_tls_are_an_error_and_nothing_else() {
    let acceptor = acceptor(&authority());
    let (mut near, far) = duplex(BUFFER);
    near.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let error = acceptor.accept(far).await.unwrap_err();
    assert!(reason(&error).unwrap().message().contains("does not speak TLS"), "{error}");
    let (near, far) = duplex(BUFFER);
    drop(near);
    assert!(reason(&acceptor.accept(far).await.unwrap_err()).is_none(), "the stream's own error stays");
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let authority = authority();
    let acceptor = acceptor(&authority);
    // A client that would resume if it were let.
    let client = plain_client(&[&rustls::version::TLS13], None);
    for _ in 0..3 {
        let (near, far) = duplex(BUFFER);
        let name = ServerName::try_from("ns.example.net").unwrap();
        let (accepted, connected) = tokio::join!(acceptor.accept(far), client.connect(name, near));
        let (mut at_server, mut at_client) = (accepted.unwrap().0, connected.unwrap());
        at_server.write_all(b"x").await.unwrap();
        at_client.read_u8().await.unwrap();
        assert_eq!(at_client.get_ref().1.tls13_tickets_received(), 0);
        let kind = at_server.get_ref().1.handshake_kind();
        assert!(matches!(kind, Some(rustls::HandshakeKind::Full | rustls::HandshakeKind::FullWithHelloRetryRequest)));
    }
}

#[tokio::test]
async fn a_join_token_pins_the_root() {
    let authority = authority();
    let acceptor = acceptor(&authority);
    let right = Connector::new(Trust::Pin(authority.root_fingerprint()), None).unwrap();
    let (_, connected) = handshake(&acceptor, &right, "127.0.0.1").await;
    assert_eq!(connected.unwrap().1.unwrap().name.as_str(), "/byname/servers/s1");

    let wrong = Connector::new(Trust::Pin([7; 32]), None).unwrap();
    let (_, connected) = handshake(&acceptor, &wrong, "127.0.0.1").await;
    let why = reason(&connected.unwrap_err()).unwrap();
    assert!(why.message().contains("the root that the join token names"), "{why}");

    // The right root at the end of another's chain.
    let mut stolen = server(&Authority::create("corp.example", now()).unwrap());
    stolen.chain_pem.push_str(&authority.root_pem());
    let liar = Acceptor::new(&stolen, authority.roots().clone()).unwrap();
    let (_, connected) = handshake(&liar, &right, "127.0.0.1").await;
    let why = reason(&connected.unwrap_err()).unwrap();
    assert!(why.message().contains("does not lead to the root"), "{why}");
}

#[tokio::test]
async fn a_service_does_not_pass_for_a_name_server() {
    let authority = authority();
    let mut service = subject("/BVODS/QS", Usage::Both);
    service.addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let acceptor = Acceptor::new(&identity(&authority, &service), authority.roots().clone()).unwrap();
    let (_, connected) = handshake(&acceptor, &connector(&authority, None), "127.0.0.1").await;
    let why = reason(&connected.unwrap_err()).unwrap();
    assert!(why.message().contains("that of /BVODS/QS, which is no name server"), "{why}");

    let trust = Trust::Bundle(authority.roots().clone());
    for (name, good) in [("/bvods/qs", true), ("/BVODS/other", false)] {
        let expect = Expect::Name(Name::parse(name).unwrap());
        let connector = Connector::to(trust.clone(), expect, None).unwrap();
        let (_, connected) = handshake(&acceptor, &connector, "127.0.0.1").await;
        assert_eq!(connected.is_ok(), good, "{name}");
    }
}

#[tokio::test]
async fn a_program_of_a_servers_name_does_not_pass_for_that_server() {
    let authority = authority();
    let own = Subject { id: None, ..subject("/byname/servers/2", Usage::Both) };
    let name = Name::parse("/byname/servers/2").unwrap();
    for (id, instance) in [(None, None), (Some(ObjectId(7)), None), (Some(ObjectId(7)), Some(InstanceId(9)))] {
        let shown = Subject { id, instance, ..own.clone() };
        let acceptor = Acceptor::new(&identity(&authority, &shown), authority.roots().clone()).unwrap();
        let trust = Trust::Bundle(authority.roots().clone());
        let connector = Connector::to(trust, Expect::Name(name.clone()), None).unwrap();
        let (_, connected) = handshake(&acceptor, &connector, "127.0.0.1").await;
        assert_eq!(connected.is_ok(), id.is_none(), "{id:?} {instance:?}");
    }
}

#[tokio::test]
async fn a_server_with_a_foreign_certificate_is_known_by_its_host() {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(params, root_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["ns.example.net".to_owned(), "192.0.2.1".to_owned()]).unwrap();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let chain_pem = leaf.signed_by(&key, &issuer).unwrap().pem();
    let identity = Identity { chain_pem, key_pem: key.serialize_pem() };
    let acceptor = Acceptor::new(&identity, authority().roots().clone()).unwrap();
    let foreign = crate::authority::Roots::from_pem(&root.pem()).unwrap();
    let connector = Connector::new(Trust::Bundle(foreign), None).unwrap();
    for (host, good) in [
        ("ns.example.net", true),
        ("NS.example.net.", true),
        ("192.0.2.1", true),
        ("[192.0.2.1]", true),
        ("x.net", false),
    ] {
        let (_, connected) = handshake(&acceptor, &connector, host).await;
        assert_eq!(connected.is_ok(), good, "{host}: {connected:?}");
    }
    let (near, _far) = duplex(BUFFER);
    let error = connector.connect(near, "no host").await.unwrap_err();
    assert!(reason(&error).unwrap().message().contains("neither a host name nor an address"));
}

#[tokio::test]
async fn identities_are_exchanged_under_open_connections() {
    let authority = authority();
    let acceptor = acceptor(&authority);
    let connector = connector(&authority, Some(&client(&authority)));
    let (accepted, connected) = handshake(&acceptor, &connector, "127.0.0.1").await;
    let (mut at_server, mut at_client) = (accepted.unwrap().0, connected.unwrap().0);

    let second = identity(&authority, &Subject { id: None, ..subject("/byname/servers/s2", Usage::Both) });
    acceptor.reload(&second, authority.roots().clone()).unwrap();
    connector.reload(Some(&identity(&authority, &subject("/people/bob", Usage::Client)))).unwrap();
    at_client.write_all(b"still").await.unwrap();
    let mut read = [0; 5];
    at_server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still");
    let (accepted, connected) = handshake(&acceptor, &connector, "127.0.0.1").await;
    assert_eq!(accepted.unwrap().1.unwrap().name.as_str(), "/people/bob");
    assert_eq!(connected.unwrap().1.unwrap().name.as_str(), "/byname/servers/s2");

    let mut mixed = second.clone();
    mixed.key_pem = client(&authority).key_pem;
    let error = acceptor.reload(&mixed, authority.roots().clone()).unwrap_err();
    assert!(error.message().contains("not that of the certificate"), "{error}");
    let (_, connected) = handshake(&acceptor, &connector, "127.0.0.1").await;
    assert_eq!(connected.unwrap().1.unwrap().name.as_str(), "/byname/servers/s2", "it stays as it was");

    // The other root is believed from now on, and the first no longer.
    let other = Authority::create("corp.example", before(now(), DAY)).unwrap();
    acceptor.reload(&second, other.roots().clone()).unwrap();
    let (accepted, _) = handshake(&acceptor, &connector, "127.0.0.1").await;
    assert!(accepted.is_err());
}
