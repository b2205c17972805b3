//! What the operations cost on this machine: `cargo run --release -p byname-identity --example cost`.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use byname_api::object::ObjectId;
use byname_api::span::Timestamp;
use byname_identity::authority::{Authority, Purpose, SigningRequest, Subject, Usage, new_key, verify_pem};
use byname_identity::jwt::JwtKeys;
use byname_identity::password::{Login, PasswordServer, Registration};
use byname_identity::seal::ClusterKey;
use byname_identity::session::{Claims, Sessions, new_id};
use byname_identity::tls::{Acceptor, Connector, Identity, Trust};
use byname_name::Name;

/// How long each is repeated.
const EACH: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let now = Timestamp(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?);
    let day = Duration::from_secs(86_400);
    let authority = Authority::create("corp.example", now)?;
    let key = new_key()?;
    let request = SigningRequest::parse(key.request_pem.as_bytes())?;
    let subject = Subject {
        name: Name::parse("/byname/servers/s1")?,
        id: Some(ObjectId(1)),
        instance: None,
        dns: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Both,
    };
    let certificate = authority.certify(&request, &subject, day, now)?;
    measure("make a key and its request", || drop(black_box(new_key())));
    measure("read and check a request", || drop(black_box(SigningRequest::parse(key.request_pem.as_bytes()))));
    measure("certify", || drop(black_box(authority.certify(&request, &subject, day, now))));
    let chain = &certificate.chain_pem;
    measure("verify a chain", || drop(black_box(verify_pem(authority.roots(), chain, Purpose::Client, now))));
    let token = authority.jwt_key().sign("corp.example", &subject.name, None, &["a".into()], day, now)?;
    let keys = JwtKeys::from_bundle("corp.example", &authority.spiffe_bundle())?;
    measure("verify a JWT", || drop(black_box(keys.verify(&token, "a", now))));

    let cluster = ClusterKey::generate()?;
    let (sealer, text) = (cluster.sealer("cost")?, [7; 256]);
    let sealed = sealer.seal(&text)?;
    measure("seal 256 bytes, purpose at hand", || drop(black_box(sealer.seal(&text))));
    measure("open 256 bytes, purpose at hand", || drop(black_box(sealer.open(&sealed))));
    measure("seal 256 bytes", || drop(black_box(cluster.seal("cost", &text))));
    let sessions = Sessions::new(&cluster)?;
    let claims = Claims {
        principal: "/people/ada".into(),
        id: Some(ObjectId(1)),
        instance: None,
        session: new_id()?,
        mechanism: "password".into(),
        issued: now,
        expires: Timestamp(now.0 + 3_600_000),
    };
    let token = sessions.issue(&claims)?;
    measure("issue a session", || drop(black_box(sessions.issue(&claims))));
    measure("read a session", || drop(black_box(sessions.read(&token, now))));

    let server = PasswordServer::from_setup(&PasswordServer::new_setup())?;
    let (client, first) = Registration::start("correct horse battery")?;
    let record = PasswordServer::register_finish(&client.finish(&server.register_start(b"1", &first)?)?)?;
    let (_, first) = Login::start("correct horse battery")?;
    measure("a login, the server's first step", || drop(black_box(server.login_start(Some(&record), b"1", &first))));
    measure("a login, the client's second step", || {
        let _ = Login::start("correct horse battery").and_then(|(client, first)| {
            let (_, answer) = server.login_start(Some(&record), b"1", &first)?;
            client.finish(&answer)
        });
    });

    let identity = Identity { chain_pem: certificate.chain_pem, key_pem: key.key_pem };
    let acceptor = Acceptor::new(&identity, authority.roots().clone())?;
    let connector = Connector::new(Trust::Bundle(authority.roots().clone()), Some(&identity))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    measure("a handshake, both ends and both certificates", || {
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (server, client) = tokio::join!(acceptor.accept(far), connector.connect(near, "127.0.0.1"));
            assert!(server.is_ok() && client.is_ok());
        });
    });
    Ok(())
}

fn measure(what: &str, mut once: impl FnMut()) {
    let begin = Instant::now();
    let mut times = 0_u32;
    while begin.elapsed() < EACH {
        once();
        times += 1;
    }
    println!("{what:<48}{:>12.2} µs", begin.elapsed().as_secs_f64() * 1e6 / f64::from(times));
}
