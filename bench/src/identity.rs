//! What authentication costs: on a connection that is open, and before it is of use.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use byname_identity::authority::{Roots, new_key};
use byname_identity::password::{Login, Registration};
use byname_identity::tls::{self, Connector, Identity, Trust};
use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::load::{self, Ask, Ratio, SERVICE, System, Workload};
use crate::machine::Machine;
use crate::stats::{Quantiles, Spread};
use crate::systems::{Advertised, Byname, Programs, with_token};
use crate::wire::byname::identity_client::IdentityClient;
use crate::wire::byname::names_client::NamesClient;
use crate::wire::{byname, connect, connect_tls};

/// Who proves to be somebody.
const PRINCIPAL: &str = "/bench/people/client";
const PASSWORD: &str = "correct horse battery staple";
/// What the design asks for: an authenticated rate within a tenth of the anonymous one.
const GOAL: f64 = 0.9;

/// How long and how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Times {
    /// Rounds; in each every kind of caller has its turn
    #[arg(long, default_value_t = 15)]
    pub(crate) rounds: usize,
    /// Seconds of a turn
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// How often what is done once is done
    #[arg(long, default_value_t = 50)]
    pub(crate) turns: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// `find` on open connections, by the number of clients.
    pub(crate) loads: Vec<Load>,
    /// What is done once.
    pub(crate) once: Vec<Once>,
}

/// `find` by each kind of caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// The figures. The first of the systems is the anonymous caller within TLS.
    pub(crate) workload: Workload,
    /// The rate of each of the others divided by the first one's, in the same round: the other way round than the
    /// workload's own ratios.
    pub(crate) shares: Vec<Ratio>,
}

/// Something that is done once, over the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Once {
    /// What.
    pub(crate) name: String,
    /// How long it takes.
    pub(crate) cost: Quantiles,
}

/// Asks in every way, on connections that are open; then does what comes before that.
pub(crate) async fn run(programs: &Programs, times: &Times, work: &Path) -> Result<Report> {
    ensure!(times.rounds > 0 && times.turns > 0, "nothing is measured in no rounds or turns");
    tls::install();
    let machine = Machine::describe(work)?;
    let server = Byname::start(&programs.byname, &work.join("byname"))?;
    let advertised = Advertised::new(&server, SERVICE).await?;
    let roots = Roots::from_pem(&std::fs::read_to_string(&server.ca)?)?;
    let connector = |shown: Option<&Identity>| Connector::new(Trust::Bundle(roots.clone()), shown).map(Arc::new);
    let stranger = connector(None)?;
    let admin = server.token();

    let channel = connect_tls(&server.https, &stranger).await?;
    enrol(&channel, &admin).await?;
    let session = login(&channel).await?;
    let known = connector(Some(&certify(&channel, &admin).await?))?;
    is_taken_for(PRINCIPAL, &channel, Some(&session)).await.context("the session")?;
    let certified = connect_tls(&server.https, &known).await?;
    is_taken_for(PRINCIPAL, &certified, None).await.context("the certificate")?;
    is_taken_for("anyone", &channel, None).await.context("nobody")?;

    let pid = server.pid();
    let system = |name, address, tls: Option<&Arc<Connector>>, token: Option<&MetadataValue<Ascii>>| System {
        name,
        pids: vec![pid],
        addresses: vec![address],
        tls: tls.cloned(),
        ask: Ask::Find(token.cloned()),
        goal: None,
    };
    let systems = [
        (system("anonymous, TLS", &server.https, Some(&stranger), None), None),
        (system("session token, TLS", &server.https, Some(&stranger), Some(&session)), Some(GOAL)),
        (system("client certificate, TLS", &server.https, Some(&known), None), Some(GOAL)),
        (system("anonymous, without TLS", &server.address, None, None), None),
    ];
    let mut loads = Vec::new();
    for clients in [1, 64] {
        eprintln!("find: {clients} clients on {clients} connections");
        let all: Vec<_> = systems.iter().map(|(system, _)| system).collect();
        let lengths =
            load::Times { rounds: times.rounds, seconds: times.seconds, only: String::new(), system: String::new() };
        let workload = load::measure("find", &all, clients, clients, &lengths).await?;
        let goals: Vec<_> = systems.iter().map(|(_, goal)| *goal).collect();
        loads.push(Load { shares: shares(&workload, &goals), workload });
    }

    let places = Places { server: &server, advertised: &advertised, stranger: &stranger, known: &known };
    let once = once(&places, &channel, &session, times.turns).await?;
    drop(advertised);
    server.stop()?;
    Ok(Report { machine, loads, once })
}

/// Each system's rate against the first one's, in the same round.
fn shares(workload: &Workload, goals: &[Option<f64>]) -> Vec<Ratio> {
    let Some((first, others)) = workload.systems.split_first() else { return Vec::new() };
    let with_goals = others.iter().zip(goals.iter().skip(1));
    with_goals
        .map(|(other, &goal)| Ratio {
            to: other.system.clone(),
            ratio: Spread::of(other.rounds.iter().zip(&first.rounds).map(|(other, first)| other.rate / first.rate)),
            goal,
        })
        .collect()
}

/// Where things are done once.
struct Places<'a> {
    server: &'a Byname,
    advertised: &'a Advertised,
    /// Makes connections that show nothing.
    stranger: &'a Arc<Connector>,
    /// Makes connections that show a certificate.
    known: &'a Arc<Connector>,
}

/// Does everything that is done once, in turns.
async fn once(
    places: &Places<'_>,
    channel: &Channel,
    session: &MetadataValue<Ascii>,
    turns: usize,
) -> Result<Vec<Once>> {
    let Places { server, advertised, stranger, known } = places;
    let admin = server.token();
    let mut seen: Vec<(&str, Vec<i64>)> = Vec::new();
    // The first turn is not counted: right after the load a connection took many times as long as later.
    for turn in 0..=turns {
        let mut lap = Lap::begin();
        find(&connect(&server.address).await?).await?;
        lap.end("a connection and its first `find`, without TLS");
        find(&connect_tls(&server.https, stranger).await?).await?;
        lap.end("the same with a handshake of TLS");
        find(&connect_tls(&server.https, known).await?).await?;
        lap.end("the same with a client certificate");
        login(channel).await?;
        lap.end("signing in with a password, the client's work included");
        certify(channel, &admin).await?;
        lap.end("a certificate, its key made included");
        let (ticket, proof) = introduce(channel, session).await?;
        lap.end("`introduce`");
        ensure!(verify(channel, advertised, ticket).await? == proof, "the service was given another proof");
        lap.end("`verify`");
        if turn == 0 {
            continue;
        }
        for (n, (name, ns)) in lap.done.into_iter().enumerate() {
            match seen.get_mut(n) {
                Some((_, all)) => all.push(ns),
                None => seen.push((name, vec![ns])),
            }
        }
    }
    let once: Vec<Once> = seen
        .into_iter()
        .map(|(name, mut ns)| Once { name: name.to_owned(), cost: Quantiles::of_ns(&mut ns) })
        .collect();
    for Once { name, cost } in &once {
        eprintln!("  {name:56} p50 {:8.2} ms   p99 {:8.2} ms", cost.p50_us / 1_000.0, cost.p99_us / 1_000.0);
    }
    Ok(once)
}

/// Times of what is done one after the other, in nanoseconds.
struct Lap {
    since: Instant,
    done: Vec<(&'static str, i64)>,
}

impl Lap {
    fn begin() -> Lap {
        Lap { since: Instant::now(), done: Vec::new() }
    }

    fn end(&mut self, name: &'static str) {
        self.done.push((name, i64::try_from(self.since.elapsed().as_nanos()).unwrap_or(i64::MAX)));
        self.since = Instant::now();
    }
}

/// Finds the service, as nobody or as what the connection shows.
async fn find(channel: &Channel) -> Result<()> {
    let request = byname::FindRequest { name: SERVICE.into(), ..Default::default() };
    let reply = NamesClient::new(channel.clone()).find(request).await?.into_inner();
    ensure!(reply.instances.len() == 1, "not found");
    Ok(())
}

/// Makes sure that the server takes the caller for this one: a measurement of somebody else would say nothing.
async fn is_taken_for(principal: &str, channel: &Channel, token: Option<&MetadataValue<Ascii>>) -> Result<()> {
    let mut request = tonic::Request::new(byname::WhoamiRequest {});
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token.clone());
    }
    let reply = IdentityClient::new(channel.clone()).whoami(request).await?.into_inner();
    ensure!(reply.principal == principal, "the caller is taken for {}", reply.principal);
    Ok(())
}

/// Makes the principal, with its password.
async fn enrol(channel: &Channel, admin: &MetadataValue<Ascii>) -> Result<()> {
    use byname::enrol_reply::Step as Answer;
    use byname::enrol_request::{PasswordFinish, PasswordStart, Step};

    let spec = byname::Spec { kind: byname::Kind::Principal as i32, ..Default::default() };
    let request = byname::AddRequest { name: PRINCIPAL.into(), spec: Some(spec) };
    NamesClient::new(channel.clone()).add(with_token(request, admin)).await?;

    let mut identity = IdentityClient::new(channel.clone());
    let principal = PRINCIPAL.to_owned();
    let (registration, message) = Registration::start(PASSWORD)?;
    let step = Step::PasswordStart(PasswordStart { principal: principal.clone(), message });
    let reply = identity.enrol(with_token(byname::EnrolRequest { step: Some(step) }, admin)).await?.into_inner();
    let Some(Answer::Challenge(challenge)) = reply.step else { bail!("no challenge came for the password") };
    let message = registration.finish(&challenge.message)?;
    let step = Step::PasswordFinish(PasswordFinish { principal, message });
    let reply = identity.enrol(with_token(byname::EnrolRequest { step: Some(step) }, admin)).await?.into_inner();
    ensure!(matches!(reply.step, Some(Answer::Done(_))), "the password was not set");
    Ok(())
}

/// Signs in with the password; gives what to show from then on.
async fn login(channel: &Channel) -> Result<MetadataValue<Ascii>> {
    use byname::login_reply::Step as Answer;
    use byname::login_request::{PasswordFinish, PasswordStart, Step};

    let mut identity = IdentityClient::new(channel.clone());
    let (login, message) = Login::start(PASSWORD)?;
    let step = Step::PasswordStart(PasswordStart { principal: PRINCIPAL.into(), message });
    let reply = identity.login(byname::LoginRequest { step: Some(step) }).await?.into_inner();
    let Some(Answer::Challenge(challenge)) = reply.step else { bail!("no challenge came for the login") };
    let message = login.finish(&challenge.message)?;
    let step = Step::PasswordFinish(PasswordFinish { attempt: challenge.attempt, message });
    let reply = identity.login(byname::LoginRequest { step: Some(step) }).await?.into_inner();
    let Some(Answer::Session(session)) = reply.step else { bail!("no session came of the login") };
    let mut token: MetadataValue<Ascii> = format!("Bearer {}", session.token).parse()?;
    // As our clerk sends it: whole each time, because a compressed header could be guessed at.
    token.set_sensitive(true);
    Ok(token)
}

/// Gets a certificate for the principal, with a new key.
async fn certify(channel: &Channel, admin: &MetadataValue<Ascii>) -> Result<Identity> {
    let key = new_key()?;
    let request =
        byname::CertifyRequest { request: key.request_pem, principal: Some(PRINCIPAL.into()), ..Default::default() };
    let reply = IdentityClient::new(channel.clone()).certify(with_token(request, admin)).await?.into_inner();
    Ok(Identity { chain_pem: reply.chain, key_pem: key.key_pem })
}

/// Has the principal introduced to the service; gives ticket and proof.
async fn introduce(channel: &Channel, session: &MetadataValue<Ascii>) -> Result<(String, String)> {
    let request = byname::IntroduceRequest { name: SERVICE.into(), ..Default::default() };
    let reply = IdentityClient::new(channel.clone()).introduce(with_token(request, session)).await?.into_inner();
    Ok((reply.ticket, reply.proof))
}

/// The service asks who showed the ticket; gives the proof.
async fn verify(channel: &Channel, advertised: &Advertised, ticket: String) -> Result<String> {
    let request = byname::VerifyRequest {
        ticket,
        instance: Some(advertised.instance.clone()),
        credential: advertised.credential.clone(),
    };
    let reply = IdentityClient::new(channel.clone()).verify(request).await?.into_inner();
    ensure!(reply.client == PRINCIPAL, "the service was told that {} came", reply.client);
    Ok(reply.proof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Measured, Turn};

    fn measured(system: &str, rates: &[f64]) -> Measured {
        let turn = |&rate: &f64| Turn { rate, latency: Quantiles::default(), server_cpu_us: 1.0 };
        Measured {
            system: system.to_owned(),
            rate: Spread::of(rates.iter().copied()),
            p50_us: Spread::default(),
            p99_us: Spread::default(),
            server_cpu_us: Spread::default(),
            rounds: rates.iter().map(turn).collect(),
        }
    }

    #[test]
    fn a_share_is_that_of_the_first_in_the_same_round() {
        let systems = vec![measured("anonymous", &[100.0, 200.0, 400.0]), measured("known", &[95.0, 180.0, 392.0])];
        let workload = Workload {
            name: "find".to_owned(),
            clients: 1,
            connections: 1,
            systems,
            ratios: Vec::new(),
            p50_goal_us: None,
        };
        let shares = shares(&workload, &[None, Some(0.9)]);
        assert_eq!(shares.len(), 1);
        assert_eq!((shares[0].to.as_str(), shares[0].goal), ("known", Some(0.9)));
        assert_eq!(shares[0].ratio, Spread { min: 0.9, median: 0.95, max: 0.98 });
    }
}
