//! Certificates of instances.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use byname_api::agent::{Order, StartOrder};
use byname_api::identity::{CertifyReply, Secret, TrustReply};
use byname_api::launch::{EnvValue, Launch};
use byname_api::object::InstanceId;
use byname_api::span::Timestamp;
use byname_api::{Code, Error, Result};
use byname_identity::authority::{self, Authority, SigningRequest, Subject, Usage};
use byname_launch::{Config, Issuer, NewKey};
use byname_name::Name;

use crate::host::{self, Host, Running, eventually, plain, run};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    a_program_finds_its_certificate_when_it_starts,
    a_certificate_is_renewed_and_the_key_goes_with_the_instance,
    an_agent_that_comes_later_goes_on_renewing,
    a_start_waits_a_second_for_its_certificate_and_no_longer,
    a_certificate_that_was_refused_is_asked_for_again,
    a_name_without_a_form_has_no_certificate,
    a_program_of_another_user_can_read_its_own,
    a_socket_of_one_s_own_choice_stays,
    whoever_connects_is_recognised,
];

const DOMAIN: &str = "corp.example";

/// The server's part.
pub(crate) struct Server {
    authority: Authority,
    /// How long certificates are said to be good.
    life: Duration,
    pub(crate) asked: AtomicU32,
    /// Says nothing while this is set.
    silent: AtomicBool,
    /// So many are refused.
    refusals: AtomicU32,
}

impl Server {
    pub(crate) fn new(life: Duration) -> Arc<Server> {
        Arc::new(Server {
            authority: Authority::create(DOMAIN, now()).unwrap(),
            life,
            asked: AtomicU32::new(0),
            silent: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
        })
    }
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

fn hour() -> Duration {
    Duration::from_secs(3600)
}

#[async_trait::async_trait]
impl Issuer for Server {
    fn new_key(&self) -> Result<NewKey> {
        let key = authority::new_key()?;
        Ok(NewKey { key_pem: Secret(key.key_pem), request_pem: key.request_pem })
    }

    async fn certify(&self, instance: InstanceId, request_pem: String) -> Result<CertifyReply> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        while self.silent.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::new(Code::Unavailable, "not now"));
        }
        let request = SigningRequest::parse(request_pem.as_bytes())?;
        let (id, dns, addresses) = (None, Vec::new(), Vec::new());
        let name = Name::parse("/BVODS/QS").unwrap();
        let subject = Subject { name, id, instance: Some(instance), dns, addresses, usage: Usage::Both };
        let signed = self.authority.certify(&request, &subject, hour(), now())?;
        Ok(CertifyReply {
            chain: signed.chain_pem,
            bundle: self.authority.bundle_pem(),
            spiffe: format!("spiffe://{DOMAIN}/BVODS/QS"),
            expires: Timestamp(now().0 + self.life.as_millis() as u64),
            token: None,
        })
    }

    async fn token(&self, _: InstanceId, audience: Vec<String>) -> Result<Secret> {
        Ok(Secret(audience.concat()))
    }

    async fn trust(&self) -> Result<TrustReply> {
        let (domain, bundle) = (DOMAIN.to_owned(), self.authority.bundle_pem());
        Ok(TrustReply { domain, bundle, fingerprint: String::new(), keys: "{}".into() })
    }
}

/// Does what the program does first, then sleeps.
fn reads_its_identity() -> Launch {
    plain("cd \"$BYNAME_IDENTITY\" && head -qn1 cert.pem key.pem bundle.pem; id -u; env; echo end; exec sleep 1000")
}

/// The lines that a program wrote, up to `end`.
async fn said(host: &Host, instance: u64) -> Vec<String> {
    let log = host.instance_dir(instance).join("log");
    let lines =
        || -> Vec<String> { std::fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect() };
    eventually("it wrote it", || lines().iter().any(|line| line == "end")).await;
    lines()
}

fn variables(lines: &[String]) -> HashMap<&str, &str> {
    lines.iter().filter_map(|line| line.split_once('=')).collect()
}

const HEADS: [&str; 3] = ["-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----"];

async fn agent_with(host: &Host, server: &Arc<Server>) -> Running {
    let agent = host.agent().await;
    agent.agent.set_issuer(server.clone());
    agent
}

fn a_program_finds_its_certificate_when_it_starts() {
    run(async {
        let host = Host::new();
        let mut agent = agent_with(&host, &Server::new(hour())).await;
        agent.start_service(1, reads_its_identity()).await;
        agent.until_started(1).await;
        let said = said(&host, 1).await;
        assert_eq!(said[..3], HEADS, "{said:?}");
        let dir = host.instance_dir(1).join("identity");
        let variables = variables(&said);
        assert_eq!(variables["BYNAME_IDENTITY"], dir.to_str().unwrap());
        let socket = format!("unix://{}/launch/spiffe.sock", host.dir.path().display());
        assert_eq!(variables["SPIFFE_ENDPOINT_SOCKET"], socket);
        assert_eq!(agent.agent.workload_socket(), host.dir.path().join("launch/spiffe.sock"));
        assert_eq!(std::fs::metadata(dir.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
        let svid = agent.agent.workloads().svid(InstanceId(1)).unwrap().borrow().clone().unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("cert.pem")).unwrap(), svid.chain_pem);
        assert_eq!((svid.spiffe.as_str(), svid.domain()), ("spiffe://corp.example/BVODS/QS", DOMAIN));
        let key = svid.key_pem.0.lines().nth(1).unwrap();
        assert!(!std::fs::read_to_string(host.instance_dir(1).join("intent")).unwrap().contains(key));
    });
}

fn a_certificate_is_renewed_and_the_key_goes_with_the_instance() {
    run(async {
        let host = Host::new();
        let server = Server::new(Duration::from_secs(1));
        let mut agent = agent_with(&host, &server).await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.until_started(1).await;
        let mut svids = agent.agent.workloads().svid(InstanceId(1)).unwrap();
        let first = svids.borrow_and_update().clone().unwrap();
        svids.changed().await.unwrap();
        let second = svids.borrow_and_update().clone().unwrap();
        assert!(first.key != second.key && first.chain != second.chain);
        assert!(second.issued.0 < first.expires.0, "in time");
        let cert = host.instance_dir(1).join("identity/cert.pem");
        eventually("the file follows", || std::fs::read_to_string(&cert).is_ok_and(|c| c != first.chain_pem)).await;
        agent.stop(1, true).await;
        agent.until_ended(1).await;
        while svids.changed().await.is_ok() {}
        assert!(!host.instance_dir(1).join("identity").exists());
        assert!(agent.agent.workloads().svid(InstanceId(1)).is_none());
    });
}

fn an_agent_that_comes_later_goes_on_renewing() {
    run(async {
        let host = Host::new();
        let server = Server::new(hour());
        let mut agent = agent_with(&host, &server).await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.until_started(1).await;
        let before = agent.agent.workloads().svid(InstanceId(1)).unwrap().borrow().clone().unwrap();
        drop(agent);
        let mut agent = host.agent_again().await;
        agent.sync().await;
        let svid = agent.agent.workloads().svid(InstanceId(1)).unwrap();
        assert_eq!(svid.borrow().as_deref(), Some(&*before), "it has what is on disk");
        assert_eq!(server.asked.load(Ordering::Relaxed), 1);
        drop((agent, svid));
        // Without that file it is not known how long the certificate is good.
        std::fs::remove_file(host.instance_dir(1).join("identity/..data/about")).unwrap();
        let mut agent = host.agent_again().await;
        agent.sync().await;
        let mut svid = agent.agent.workloads().svid(InstanceId(1)).unwrap();
        assert_eq!(*svid.borrow_and_update(), None);
        agent.agent.set_issuer(server.clone());
        svid.changed().await.unwrap();
        let key = host.instance_dir(1).join("identity/key.pem");
        eventually("it is replaced", || std::fs::read_to_string(&key).is_ok_and(|k| k != before.key_pem.0)).await;
        agent.stop(1, true).await;
        agent.until_ended(1).await;
        assert!(!key.exists());
    });
}

fn a_start_waits_a_second_for_its_certificate_and_no_longer() {
    run(async {
        let host = Host::new();
        let server = Server::new(hour());
        server.silent.store(true, Ordering::Relaxed);
        let mut agent = agent_with(&host, &server).await;
        let begun = Instant::now();
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.until_started(1).await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
        let dir = host.instance_dir(1).join("identity");
        assert!(!dir.exists());
        server.silent.store(false, Ordering::Relaxed);
        eventually("it comes later", || dir.join("key.pem").exists()).await;
    });
}

fn a_certificate_that_was_refused_is_asked_for_again() {
    run(async {
        let host = Host::new();
        let server = Server::new(hour());
        server.refusals.store(1, Ordering::Relaxed);
        let mut agent = agent_with(&host, &server).await;
        agent.start_service(1, plain("exec sleep 1000")).await;
        agent.until_started(1).await;
        eventually("it comes later", || host.instance_dir(1).join("identity/key.pem").exists()).await;
        assert_eq!(server.asked.load(Ordering::Relaxed), 2);
    });
}

fn a_name_without_a_form_has_no_certificate() {
    run(async {
        let host = Host::new();
        let server = Server::new(hour());
        let mut agent = agent_with(&host, &server).await;
        let name = Name::parse("/with space").unwrap();
        let order = StartOrder { name, ..host::start(1, plain("env; echo end; exec sleep 1000")) };
        agent.order(Order::Start(Box::new(order))).await;
        agent.until_started(1).await;
        let said = said(&host, 1).await;
        assert!(!variables(&said).contains_key("BYNAME_IDENTITY"), "{said:?}");
        assert_eq!(server.asked.load(Ordering::Relaxed), 0);
        assert!(agent.agent.workloads().svid(InstanceId(1)).is_none());
    });
}

fn a_program_of_another_user_can_read_its_own() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    run(async {
        let host = Host::new();
        let shared = tempfile::tempdir().unwrap();
        // As /run is.
        std::fs::set_permissions(shared.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let config = Config { shared: Some(shared.path().join("byname")), ..host.config() };
        let mut agent = Running::start(config).await;
        agent.agent.set_issuer(Server::new(hour()));
        agent.start_service(1, Launch { user: Some("nobody".into()), ..reads_its_identity() }).await;
        agent.until_started(1).await;
        let said = said(&host, 1).await;
        assert_eq!(said[..3], HEADS, "{said:?}");
        assert_ne!(said[3], "0");
        let dir = shared.path().join("byname").join(InstanceId(1).to_string());
        assert_eq!(variables(&said)["BYNAME_IDENTITY"], dir.to_str().unwrap());
        let key = std::fs::metadata(dir.join("key.pem")).unwrap();
        assert_eq!((key.uid().to_string(), key.mode() & 0o777), (said[3].clone(), 0o600));
        assert_eq!(std::fs::metadata(&dir).unwrap().uid(), 0, "its user cannot change what is there");
        let socket = shared.path().join("byname/spiffe.sock");
        assert_eq!(variables(&said)["SPIFFE_ENDPOINT_SOCKET"], format!("unix://{}", socket.display()));
        agent.stop(1, true).await;
        agent.until_ended(1).await;
        assert!(!dir.exists());

        // Without such a folder there is none.
        drop(agent);
        let mut agent = host.agent_again().await;
        let server = Server::new(hour());
        agent.agent.set_issuer(server.clone());
        let launch = Launch { user: Some("nobody".into()), ..plain("env; echo end; exec sleep 1000") };
        agent.start_service(2, launch).await;
        agent.until_started(2).await;
        assert!(!variables(&self::said(&host, 2).await).contains_key("BYNAME_IDENTITY"));
        assert!(agent.agent.workloads().svid(InstanceId(2)).is_none());
    });
}

fn a_socket_of_one_s_own_choice_stays() {
    run(async {
        let host = Host::new();
        let mut agent = agent_with(&host, &Server::new(hour())).await;
        let env = Some([("SPIFFE_ENDPOINT_SOCKET".to_owned(), EnvValue::Text("unix:///run/spire".into()))].into());
        agent.start_service(1, Launch { env, ..reads_its_identity() }).await;
        agent.until_started(1).await;
        assert_eq!(variables(&said(&host, 1).await)["SPIFFE_ENDPOINT_SOCKET"], "unix:///run/spire");
    });
}

fn whoever_connects_is_recognised() {
    use std::os::fd::AsFd;
    run(async {
        let host = Host::new();
        let mut agent = agent_with(&host, &Server::new(hour())).await;
        let path = host.dir.path().join("s");
        let socket = UnixListener::bind(&path).unwrap();
        let connect = format!(
            "import socket,time; s=socket.socket(socket.AF_UNIX); s.connect('{}'); time.sleep(1000)",
            Path::display(&path)
        );
        let workloads = agent.agent.workloads();
        // Itself, a child, and a child of another session whose parent is gone.
        let scripts = ["exec $PY", "$PY; true", "(setsid $PY &); exec sleep 1000"];
        for (instance, script) in (1..).zip(scripts) {
            let script = script.replace("$PY", &format!("python3 -c \"{connect}\""));
            agent.start_service(instance, plain(&script)).await;
            agent.until_started(instance).await;
            let (connected, _) = socket.accept().unwrap();
            assert_eq!(workloads.identify(connected.as_fd()), Some(InstanceId(instance)), "{script}");
        }
        let _own = UnixStream::connect(&path).unwrap();
        let (connected, _) = socket.accept().unwrap();
        assert_eq!(workloads.identify(connected.as_fd()), None);

        // Its id may be somebody else's by now.
        agent
            .start_service(
                4,
                plain(
                    "python3 -c \"import socket; s=socket.socket(socket.AF_UNIX); \
            s.connect('$S')\"; echo end; exec sleep 1000",
                )
                .with_socket(&path),
            )
            .await;
        let (connected, _) = socket.accept().unwrap();
        said(&host, 4).await;
        assert_eq!(workloads.identify(connected.as_fd()), None);
    });
}

trait WithSocket {
    fn with_socket(self, path: &Path) -> Launch;
}

impl WithSocket for Launch {
    fn with_socket(mut self, path: &Path) -> Launch {
        for word in self.command.iter_mut().flatten() {
            *word = word.replace("$S", path.to_str().unwrap());
        }
        self
    }
}
