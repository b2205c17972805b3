//! The DNS in front of [`NameService`]: the tree as a zone, over UDP and TCP.
//!
//! ```text
//!  watch ──▶ follow ──▶ zone (the image: what anyone may find, ready to be copied)
//!                         │ read without a lock
//!  udp (a thread a core) ─┴─▶ answer ──▶ compose          the answer, at once
//!  tcp (tokio)                  │
//!                               ├▶ start                  what has to be waited for
//!                               └▶ tsig ─▶ transfer       what is signed; the zone as a whole
//! ```
//!
//! `wire` knows bytes, `render` and `rdata` make records of objects, `zone` holds them, `answer` and `compose` decide. All
//! of these are pure but for the image's own cells. Rights are the name service's business: the image holds what it says
//! that `anyone` may find.
//!
//! Names ([`byname_name::dns`]) are beneath one suffix, which is the zone. An address that leads back to a name
//! (`4.3.2.1.in-addr.arpa`) is a zone of its own. There are no wildcards.

mod answer;
mod compose;
mod cookie;
mod count;
mod follow;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod key;
mod limit;
mod rdata;
mod render;
mod start;
mod tcp;
mod transfer;
mod tsig;
mod udp;
mod wire;
mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use byname_api::NameService;
use byname_api::error::{Error, Result};

pub use forward::Network;
pub use tsig::{Algorithm, Key};

use answer::{Answered, Answers, Asker, Scratch, Settings, Verdict};
use forward::Forward;
use limit::{Allowed, Limit};
use start::Starts;
use udp::Job;
use wire::Rcode;
use zone::Image;

/// The largest datagram that is sent unless a configuration says otherwise: it needs no fragments anywhere.
pub const UDP_BYTES: u16 = 1_232;
/// Answers of a kind a second to one network unless a configuration says otherwise.
pub const RATE_LIMIT: u32 = 200;
/// Questions that may wait to be dealt with.
const MAX_JOBS: usize = 4_096;
/// Of these so many at once.
const MAX_DEALT_WITH: usize = 1_024;

/// How the DNS is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// The suffix of the DNS forms of names: the zone.
    pub suffix: String,
    /// Addresses of this server for others, until the tree names servers.
    pub addresses: Vec<IpAddr>,
    /// Sockets and threads for UDP; one a processor when 0.
    pub threads: usize,
    /// The largest datagram that is sent, in bytes.
    pub udp_bytes: u16,
    /// Answers of a kind a second over UDP to one network (a /24, a /56); 0 for no limit. This host, TCP and whoever shows
    /// a cookie are not limited.
    pub rate_limit: u32,
    /// Resolvers that are asked for names of others; none to refuse these.
    pub forward: Vec<SocketAddr>,
    /// For whom; this host and private networks when empty.
    pub forward_for: Vec<Network>,
    /// Who may take the whole zone, by address; nobody when empty.
    pub transfer: Vec<Network>,
    /// Keys of those who sign what they ask.
    pub keys: Vec<Key>,
}

impl Config {
    /// The usual way for this suffix.
    pub fn new(suffix: impl Into<String>) -> Config {
        Config {
            suffix: suffix.into(),
            addresses: Vec::new(),
            threads: 0,
            udp_bytes: UDP_BYTES,
            rate_limit: RATE_LIMIT,
            forward: Vec::new(),
            forward_for: Vec::new(),
            transfer: Vec::new(),
            keys: Vec::new(),
        }
    }
}

/// Sockets for UDP and TCP on one port.
pub struct Bound {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Binds an address; port 0 picks one that is free for both. On `[::]` IPv4 is taken, too.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Bound> {
        let threads = if threads > 0 { threads } else { processors() };
        let mut tries = 0;
        loop {
            let udp = udp::bind_all(address, threads)?;
            let Some(at) = udp.first().map(UdpSocket::local_addr).transpose()? else {
                return Err(io::Error::other("no socket"));
            };
            // A server that was there before holds this one, while sockets for UDP would be shared.
            match TcpListener::bind(at) {
                Ok(tcp) => {
                    tcp.set_nonblocking(true)?;
                    return Ok(Bound { udp, tcp, address: at });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && tries < 20 => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(64)
}

/// The DNS, served.
pub struct Dns {
    stop: Arc<AtomicBool>,
    stop_tcp: Option<oneshot::Sender<()>>,
    image: Arc<Image>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// What threads and tasks share.
pub(crate) struct Shared {
    pub(crate) answers: Answers,
    pub(crate) limit: Limit,
    pub(crate) jobs: mpsc::Sender<Job>,
    transfers: transfer::Transfers,
    keys: Vec<Arc<Key>>,
    starts: Arc<Starts>,
    now: AtomicU32,
}

impl Shared {
    /// Seconds since 1970, as of the last second.
    pub(crate) fn clock(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Deals with a message that could not be answered at once; gives the answer, if there is to be one.
    pub(crate) async fn deal_with(&self, message: &[u8], asker: Asker, verdict: Verdict) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match verdict {
            Verdict::Answer(_) | Verdict::Silent => return None,
            Verdict::Wait(awaited) => {
                self.starts.wait(&awaited, &asker).await;
                let asker = Asker { waited: true, now: self.clock(), ..asker };
                // A guard must not be held across a wait: the answer is composed here, at once.
                match self.answers.answer(message, asker, &mut Scratch::default(), &mut out) {
                    Verdict::Answer(_) => {}
                    _ => return None,
                }
            }
            Verdict::Forward => {
                let (mut name, own) = (wire::Asked::default(), self.answers.settings.udp_bytes);
                let edns = wire::Query::read(message, &mut name).ok().and_then(|query| query.edns);
                let largest = forward::largest(edns, asker.tcp, own);
                if !self.answers.settings.forward.ask(message, &asker, largest, &mut out).await {
                    return None;
                }
            }
            Verdict::Signed => {
                let mut signed = match self.open(message, asker) {
                    Ok(signed) => signed,
                    Err(answer) => return answer,
                };
                let answer = match signed.verdict {
                    Verdict::Answer(_) => signed.answer,
                    verdict => Box::pin(self.deal_with(&signed.message, asker, verdict)).await?,
                };
                out = self.sign(answer, &signed.message, asker, &mut signed.session);
            }
            // Over UDP there is no transfer (RFC 5936 section 4.2).
            Verdict::Transfer => {
                answer::refuse(message, Rcode::Refused, &mut out);
            }
            Verdict::Operation(_) => {
                answer::bare(message, Rcode::NotImp, &mut out);
            }
        }
        Some(out)
    }
}

/// A signed message, taken apart.
struct Signed {
    message: Vec<u8>,
    session: tsig::Session,
    verdict: Verdict,
    /// The answer, if there is one at once.
    answer: Vec<u8>,
}

impl Shared {
    /// The same over TCP, where there may be many answers.
    pub(crate) async fn deal_over_tcp(
        &self,
        message: Vec<u8>,
        asker: Asker,
        verdict: Verdict,
        answers: mpsc::Sender<Vec<u8>>,
    ) {
        let transfers = &self.transfers;
        let image = &self.answers.image;
        let answer = match verdict {
            Verdict::Transfer => return transfers.serve(image, &message, asker, None, &answers).await,
            Verdict::Signed => match self.open(&message, asker) {
                Ok(Signed { message, session, verdict: Verdict::Transfer, .. }) => {
                    return transfers.serve(image, &message, asker, Some(session), &answers).await;
                }
                Ok(_) => self.deal_with(&message, asker, verdict).await,
                Err(answer) => answer,
            },
            verdict => self.deal_with(&message, asker, verdict).await,
        };
        if let Some(answer) = answer {
            count::count_answer(&answer);
            let _ = answers.send(answer).await;
        }
    }

    /// Checks a signature and looks at what it signs.
    ///
    /// # Errors
    ///
    /// The answer to one that does not count, if there is to be one.
    fn open(&self, message: &[u8], asker: Asker) -> std::result::Result<Signed, Option<Vec<u8>>> {
        let mut answer = Vec::new();
        let at = wire::Query::read(message, &mut wire::Asked::default()).ok().and_then(|query| query.tsig);
        let Some(at) = at else { return Err(None) };
        match tsig::check(message, at, &self.keys, u64::from(self.clock())) {
            Ok((message, session)) => {
                let verdict = self.answers.answer(&message, asker, &mut Scratch::default(), &mut answer);
                if matches!(verdict, Verdict::Silent | Verdict::Signed) {
                    return Err(None);
                }
                Ok(Signed { message, session, verdict, answer })
            }
            Err(refusal) => {
                metrics::counter!("byname_dns_signatures_refused_total").increment(1);
                match refusal {
                    tsig::Refusal::Form => drop(answer::bare(message, Rcode::FormErr, &mut answer)),
                    tsig::Refusal::Wrong(answering) => {
                        answer::refuse(message, Rcode::NotAuth, &mut answer);
                        answering.push(&mut answer);
                    }
                }
                Err(Some(answer))
            }
        }
    }

    /// Signs an answer; what does not fit into a datagram with its signature is cut off (RFC 8945 section 5.3.1).
    fn sign(&self, mut answer: Vec<u8>, message: &[u8], asker: Asker, session: &mut tsig::Session) -> Vec<u8> {
        let edns = wire::Query::read(message, &mut wire::Asked::default()).ok().and_then(|query| query.edns);
        if answer.len() + session.len() > forward::largest(edns, asker.tcp, self.answers.settings.udp_bytes) {
            answer::refuse(message, Rcode::NoError, &mut answer);
            if let Some(bits) = answer.get_mut(2) {
                *bits |= (wire::flag::TC >> 8) as u8;
            }
        }
        session.sign(&mut answer, u64::from(self.clock()));
        answer
    }
}

impl Dns {
    /// Serves what was bound. It reads the tree first, beside the caller: see [`Dns::ready`].
    ///
    /// # Errors
    ///
    /// `invalid-argument` when the suffix is no name in the DNS.
    pub fn serve(bound: Bound, service: Arc<dyn NameService>, config: Config) -> Result<Dns> {
        count::describe();
        let image = Image::new(&config.suffix).map(Arc::new).ok_or_else(|| {
            Error::invalid("domain", format!("`{}` is no name in the DNS", config.suffix.escape_debug()))
        })?;
        let (jobs, taken) = mpsc::channel(MAX_JOBS);
        let (uses, used) = mpsc::channel(MAX_JOBS);
        let clients = if config.forward_for.is_empty() { Network::private() } else { config.forward_for };
        let forward = Forward::new(config.forward, clients);
        let settings = Settings { udp_bytes: config.udp_bytes.max(wire::PLAIN_UDP as u16), forward };
        let answers = Answers { image: image.clone(), cookies: cookie::Cookies::default(), settings, uses };
        let starts = Arc::new(Starts::new(service.clone(), image.clone(), config.suffix.clone()));
        let shared = Arc::new(Shared {
            answers,
            limit: Limit::new(config.rate_limit),
            jobs,
            transfers: transfer::Transfers::new(config.transfer),
            keys: config.keys.into_iter().map(Arc::new).collect(),
            starts: starts.clone(),
            now: AtomicU32::new(wall_clock()),
        });
        let follower = follow::Follower::new(service, image.clone(), config.suffix, config.addresses);
        let tcp = tokio::net::TcpListener::from_std(bound.tcp)
            .map_err(|error| Error::internal(format!("the DNS's listener: {error}")))?;
        let (stop_tcp, stopped) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = vec![
            tokio::spawn(follower.run()),
            tokio::spawn(tcp::serve(tcp, shared.clone(), stopped)),
            tokio::spawn(deal_with_jobs(shared.clone(), taken)),
            tokio::spawn(note_uses(starts, used)),
            tokio::spawn(keep_time(shared.clone())),
        ];
        let mut threads = Vec::new();
        for (number, socket) in bound.udp.into_iter().enumerate() {
            let (socket, shared, stop) = (Arc::new(socket), shared.clone(), stop.clone());
            let thread = std::thread::Builder::new().name(format!("dns-{number}"));
            let thread = thread.spawn(move || udp::serve(socket, shared, stop));
            threads.push(thread.map_err(|error| Error::internal(format!("a thread for the DNS: {error}")))?);
        }
        Ok(Dns { stop, stop_tcp: Some(stop_tcp), image, tasks, threads })
    }

    /// Waits until the tree has been read, or for so long. Before that names of the zone are answered with `SERVFAIL`.
    pub async fn ready(&self, at_most: Duration) -> bool {
        let mut changes = self.image.changes();
        let complete = async {
            while !self.image.is_complete() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(at_most, complete).await.is_ok()
    }

    /// Ends it. The threads notice within a second; nobody needs to wait for them.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(stop) = self.stop_tcp.take() {
            let _ = stop.send(());
        }
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.threads.clear();
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.end();
    }
}

async fn deal_with_jobs(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>) {
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_DEALT_WITH));
    while let Some(job) = jobs.recv().await {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let shared = shared.clone();
        tokio::spawn(async move {
            let _place = place;
            let started = matches!(&job.verdict, Verdict::Wait(awaited) if awaited.start);
            let Some(answer) = shared.deal_with(&job.message, job.asker, job.verdict).await else { return };
            // Who started something has shown a cookie.
            let answered = Answered { known: started, ..count::count_answer(&answer) };
            let question = job.message.get(wire::HEADER..).unwrap_or_default();
            if shared.limit.count(job.asker.address, question, answered, shared.clock()) == Allowed::Whole {
                udp::send_from(&job.socket, &answer, job.way);
            }
        });
    }
}

async fn note_uses(starts: Arc<Starts>, mut used: mpsc::Receiver<byname_name::Name>) {
    while let Some(name) = used.recv().await {
        starts.use_it(name).await;
    }
}

/// Keeps the clock that answers go by, and measures.
async fn keep_time(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        shared.now.store(wall_clock(), Ordering::Relaxed);
        metrics::gauge!("byname_dns_names").set(shared.answers.image.len() as f64);
    }
}

fn wall_clock() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}
