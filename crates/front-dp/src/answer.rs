//! From a command to the operations of the interface, and from their replies to lists.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use byname_api::agent::TicketPair;
use byname_api::caller::same_secret;
use byname_api::error::{Code, Error};
use byname_api::object::InstanceId;
use byname_api::request::{ActRequest, AdvertiseRequest, Context, FindRequest, ServerInfo, Verb, WithdrawRequest};
use byname_api::service::{Endpoint, State};
use byname_api::span::Span;
use byname_name::Name;
use tokio::task::JoinSet;

use crate::call::Line;
use crate::command::Command;
use crate::connection::Who;
use crate::glob::Glob;
use crate::services::{Found, reachable};
use crate::{Front, Vouched, list};

/// How long the peer waits for a start that it asked for: what refuses it is known by then. The start goes on.
const REFUSED_BY: Duration = Duration::from_secs(1);
/// How long the peer waits for the end of what it kills.
const ENDED_BY: Duration = Duration::from_secs(15);
/// How long what advertised itself without a ticket is kept after its last word; the original kept it for ever.
const LEASE: Span = Span::from_secs(86_400);
/// How long a host's name may take to look up.
const LOOKED_UP_BY: Duration = Duration::from_secs(1);
/// The longest message of an error, in characters.
const MAX_TOLD: usize = 4_000;
/// Starts that go on in the background.
const MAX_LAUNCHING: usize = 1_024;
/// Services whose use is counted, and that are known to have advertised themselves.
const MAX_REMEMBERED: usize = 100_000;

/// Why a command was not done: what the peer is told, and its `errorInfo`.
pub(crate) struct Refused {
    message: String,
    code: Option<Code>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        if error.code() == Code::Internal {
            tracing::error!("{}", error.log_line());
        }
        Refused { message: error.message().to_owned(), code: Some(error.code()) }
    }
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Refused { message, code: None }
    }
}

impl From<&str> for Refused {
    fn from(message: &str) -> Self {
        Refused::from(message.to_owned())
    }
}

impl Refused {
    /// The same with the code of an error.
    pub(crate) fn with(self, code: Code) -> Refused {
        Refused { code: Some(code), ..self }
    }

    /// The message of an `x` frame: a list of two.
    pub(crate) fn message(&self) -> String {
        // What a peer has sent is repeated, but not all of it.
        let message: String = match self.message.char_indices().nth(MAX_TOLD) {
            Some((end, _)) => format!("{}…", self.message.get(..end).unwrap_or_default()),
            None => self.message.clone(),
        };
        let story = match self.code {
            Some(code) => format!("{message}\n    in the name server ({code})"),
            None => format!("{message}\n    in the name server"),
        };
        list::merge([message, story])
    }
}

type Answer = Result<String, Refused>;

/// Answers one command.
pub(crate) async fn answer(front: &Front, who: &Who, command: Command) -> Answer {
    if command == Command::AreYouAlive {
        return Ok("1".into());
    }
    let cx = Context::of(who.caller(front)?);
    match command {
        Command::AreYouAlive | Command::Close | Command::Identify(_) => Ok(String::new()),
        Command::List(pattern) => {
            let found = front.matching(&cx, &pattern).await?;
            Ok(list::merge(found.iter().map(|service| service.name.as_str())))
        }
        Command::Find(pattern) => front.find(&cx, &pattern).await,
        Command::Launch(pattern) => front.launch(cx, &pattern).await,
        Command::Kill(pattern) => front.kill(&cx, &pattern).await,
        Command::State { pattern, dead } => front.state(&cx, &pattern, dead).await,
        Command::Use { pattern, more } => front.use_of(&cx, &pattern, more).await,
        Command::Advertise { name, host, port, pid, ticket } => {
            let endpoint = Endpoint { protocol: "tcp".into(), address: address(&host, who.peer).await, port };
            front.advertise(&cx, &name, endpoint, pid, ticket).await
        }
        Command::Unadvertise { name, ticket } => front.unadvertise(&cx, &name, ticket).await,
        Command::Register(register) => front.register(&cx, register).await,
        Command::Authenticate(name) => front.authenticate(&cx, &name).await,
        Command::WhoIsPrimary => {
            let info = front.service.info(&cx).await?;
            primary(&info).map(|id| id.to_string()).ok_or_else(|| "no primary is known at the moment".into())
        }
        Command::ServerId => Ok(front.service.info(&cx).await?.server.to_string()),
        Command::IsPrimary => Ok(u8::from(front.service.info(&cx).await?.primary).to_string()),
    }
}

fn primary(info: &ServerInfo) -> Option<u64> {
    let member = info.members.iter().find(|member| member.primary);
    member.map(|member| member.id).or_else(|| info.primary.then_some(info.server))
}

/// The address of a host that calls itself so: what is an address is taken as it is, what cannot be looked up is where the
/// call comes from.
async fn address(host: &str, peer: SocketAddr) -> String {
    let from = peer.ip().to_canonical();
    let usable = |ip: &IpAddr| !ip.is_unspecified();
    if let Ok(ip) = host.parse::<IpAddr>() {
        return if usable(&ip) { ip } else { from }.to_string();
    }
    let looking = tokio::net::lookup_host((host, 0));
    let found: Vec<IpAddr> = match tokio::time::timeout(LOOKED_UP_BY, looking).await {
        Ok(Ok(found)) => found.map(|at| at.ip().to_canonical()).filter(usable).collect(),
        _ => Vec::new(),
    };
    if found.contains(&from) {
        return from.to_string();
    }
    // A host's own name often leads to a loopback address, which tells others nothing.
    let other = found.iter().find(|ip| !ip.is_loopback());
    other.unwrap_or(&from).to_string()
}

impl Front {
    async fn find(&self, cx: &Context, pattern: &str) -> Answer {
        let found = self.matching(cx, pattern).await?;
        // Whoever asks for one wants to use it. A monitor asks for all, again and again, and that is no use.
        let one = Glob::new(pattern).as_exact().is_some();
        let mut lines = Vec::with_capacity(found.len());
        for service in &found {
            let endpoint = match one && service.endpoint().is_some() {
                true => self.chosen(cx, service).await?,
                false => service.endpoint().cloned(),
            };
            let place = match endpoint {
                Some(at) => list::merge([at.address, at.port.to_string()]),
                None => String::new(),
            };
            let uses = self.uses.lock().get(&service.status.name).copied().unwrap_or_default();
            lines.push(list::merge([service.name.as_str(), &place, &uses.to_string()]));
        }
        Ok(list::merge(lines))
    }

    /// The copy that a find chooses.
    async fn chosen(&self, cx: &Context, service: &Found) -> Result<Option<Endpoint>, Error> {
        let request = FindRequest { start: false, ..FindRequest::new(service.name.clone()) };
        match self.service.find(cx, request).await {
            Ok(reply) => Ok(reply.instances.iter().find_map(reachable).cloned()),
            // It has just ended.
            Err(error) if matches!(error.code(), Code::NotRunning | Code::NotFound | Code::Unavailable) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn launch(&self, cx: Context, pattern: &str) -> Answer {
        let found = self.matching(&cx, pattern).await?;
        let idle = found.into_iter().filter(|service| service.state() == "onDemand");
        let mut starts: JoinSet<Result<(), Error>> = JoinSet::new();
        for Found { status, .. } in idle {
            let (service, cx, name) = (self.service.clone(), cx.clone(), status.name.clone());
            let mut launching = self.launching.lock();
            launching.retain(|_, start| !start.is_finished());
            if launching.contains_key(&name) {
                continue;
            }
            if launching.len() >= MAX_LAUNCHING {
                return Err(Error::new(Code::Unavailable, "too many services are being launched: ask again").into());
            }
            // It goes on whether or not the peer waits for it.
            let start = tokio::spawn(async move { start(&*service, &cx, status.name).await });
            launching.insert(name, start.abort_handle());
            starts.spawn(async move { start.await.unwrap_or(Ok(())) });
        }
        let refused = async {
            while let Some(started) = starts.join_next().await {
                if let Ok(Err(error)) = started {
                    return Err(error);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(REFUSED_BY, refused).await {
            Ok(done) => done.map(|()| String::new()).map_err(Refused::from),
            Err(_) => Ok(String::new()),
        }
    }

    async fn kill(&self, cx: &Context, pattern: &str) -> Answer {
        let found = self.matching(cx, pattern).await?;
        let patterns: Vec<String> =
            found.iter().filter(|service| service.is_busy()).map(|service| service.status.name.to_string()).collect();
        if patterns.is_empty() {
            return Ok(String::new());
        }
        // Who waits for a start would start it again.
        for service in &found {
            if let Some(start) = self.launching.lock().remove(&service.status.name) {
                start.abort();
            }
        }
        let timeout = Some(Span::from_millis(ENDED_BY.as_millis() as u64));
        let request = ActRequest { verb: Verb::Stop, patterns, hold: false, now: false, timeout };
        let acted = self.service.act(cx, request).await?;
        let error = acted.services.into_iter().find_map(|service| service.error);
        error.map_or(Ok(String::new()), |problem| Err(Error::from(problem).into()))
    }

    async fn state(&self, cx: &Context, pattern: &str, dead: bool) -> Answer {
        let mut found = self.matching(cx, pattern).await?;
        if dead {
            for service in found.iter().filter(|service| service.endpoint().is_some()) {
                self.report_dead(cx, service).await?;
            }
            found = self.matching(cx, pattern).await?;
        }
        Ok(list::merge(found.iter().map(|service| list::merge([service.name.as_str(), service.state()]))))
    }

    /// A client found it dead. The server probes before it believes that.
    async fn report_dead(&self, cx: &Context, service: &Found) -> Result<(), Error> {
        let running = service.status.instances.iter().filter(|instance| instance.state == State::Running);
        for instance in running {
            let request =
                FindRequest { start: false, failed: Some(instance.id), ..FindRequest::new(service.name.clone()) };
            match self.service.find(cx, request).await {
                // What it answers is looked at afterwards.
                Ok(_) => {}
                Err(error) if matches!(error.code(), Code::Denied | Code::Unauthenticated) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    async fn use_of(&self, cx: &Context, pattern: &str, more: bool) -> Answer {
        let found = self.matching(cx, pattern).await?;
        let mut uses = self.uses.lock();
        let room = uses.len().saturating_add(found.len()) <= MAX_REMEMBERED;
        for service in found {
            let name = service.status.name;
            match (uses.get_mut(&name), more) {
                (Some(count), true) => *count = count.saturating_add(1),
                (Some(count), false) => {
                    *count -= 1;
                    if *count == 0 {
                        uses.remove(&name);
                    }
                }
                (None, true) if room => {
                    uses.insert(name, 1);
                }
                (None, _) => {}
            }
        }
        Ok(String::new())
    }

    async fn advertise(
        &self,
        cx: &Context,
        name: &str,
        endpoint: Endpoint,
        pid: Option<u32>,
        ticket: Option<String>,
    ) -> Answer {
        let asked = Name::parse(name).map_err(Error::from)?;
        let by_ticket = ticket.is_some();
        if ticket.as_ref().is_some_and(|ticket| !looks_like_ticket(ticket)) {
            return Err(invalid_ticket(name));
        }
        let instance = match by_ticket {
            true => None,
            false => self.earlier(cx, &asked, &endpoint).await?,
        };
        let request = AdvertiseRequest {
            name: Some(asked.clone()),
            endpoints: vec![endpoint],
            ticket,
            instance,
            ttl: (!by_ticket).then_some(LEASE),
            pid,
            ..AdvertiseRequest::default()
        };
        match self.service.advertise(cx, request).await {
            Ok(reply) => {
                let mut advertised = self.advertised.lock();
                if !by_ticket && (advertised.len() < MAX_REMEMBERED || advertised.contains_key(&asked)) {
                    advertised.insert(asked, reply.instance);
                }
                Ok(String::new())
            }
            Err(error) if error.code() == Code::Denied && error.at_field() == Some("ticket") && by_ticket => {
                Err(invalid_ticket(name))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The copy that a service advertised itself as before, here or at another server: it takes the place of that.
    async fn earlier(&self, cx: &Context, name: &Name, endpoint: &Endpoint) -> Result<Option<InstanceId>, Error> {
        let Some(object) = self.object(cx, name.as_str()).await? else { return Ok(None) };
        let Some(found) = self.found(cx, object).await? else { return Ok(None) };
        let own = found.status.instances.iter().filter(|instance| instance.computer.is_none());
        let known = self.advertised.lock().get(name).copied();
        let is_it = |id: InstanceId, at: &[Endpoint]| known == Some(id) || at.contains(endpoint);
        Ok(own.into_iter().find(|instance| is_it(instance.id, &instance.endpoints)).map(|instance| instance.id))
    }

    async fn unadvertise(&self, cx: &Context, name: &str, ticket: Option<String>) -> Answer {
        let asked = Name::parse(name).map_err(Error::from)?;
        let by_ticket = ticket.is_some();
        if ticket.as_ref().is_some_and(|ticket| !looks_like_ticket(ticket)) {
            return Err(invalid_ticket(name));
        }
        let request = WithdrawRequest { name: asked.clone(), instance: None, credential: ticket };
        match self.service.withdraw(cx, request).await {
            Ok(_) => {
                self.advertised.lock().remove(&asked);
                Ok(String::new())
            }
            Err(error) if error.code() == Code::NotFound => {
                Err(Refused::from(format!("{name} does not exist")).with(Code::NotFound))
            }
            Err(error) if error.code() == Code::Denied && by_ticket => Err(invalid_ticket(name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Figure 7 of the paper: does the service still hold its half of the pair? Then it and the client get a new one.
    async fn authenticate(&self, cx: &Context, name: &str) -> Answer {
        let Ok(asked) = Name::parse(name) else { return Ok(String::new()) };
        let Some(vouched) = self.pairs.pair(cx, &asked)? else { return Ok(String::new()) };
        let pair = self.introduce(&vouched).await;
        let outcome = if pair.is_ok() { "ok" } else { "refused" };
        tracing::info!(service = %vouched.name, instance = %vouched.instance, by = cx.caller.principal, outcome,
            "asked a service for its half of the pair");
        pair.map_err(|why| Refused::from(format!("{name} {why}")))
    }

    async fn introduce(&self, vouched: &Vouched) -> Result<String, &'static str> {
        let not_running = |error: std::io::Error| {
            tracing::debug!(service = %vouched.name, %error, "a service does not answer the name server");
            "is not running"
        };
        let mut line = Line::open(&vouched.endpoint).await.map_err(not_running)?;
        let (ours, theirs) = (hex::encode(vouched.pair.server), hex::encode(vouched.pair.program));
        let shown = line.call(&["ns_Authenticate", &ours]).await.unwrap_or_default();
        if !same_secret(shown.as_bytes(), theirs.as_bytes()) {
            tracing::warn!(service = %vouched.name, instance = %vouched.instance, endpoint = %vouched.endpoint,
                "what answers there does not hold the ticket that it was started with");
            return Err("is being tampered with");
        }
        let fresh = TicketPair { program: rand::random(), server: rand::random() };
        let pair = list::merge([hex::encode(fresh.server), hex::encode(fresh.program)]);
        line.call(&["ns_RecordTicket", &pair]).await.map_err(not_running)?;
        line.close().await;
        Ok(pair)
    }
}

/// A start as a find asks for it, so that `start_by` counts; where only an order starts it, that.
async fn start(service: &dyn byname_api::NameService, cx: &Context, name: Name) -> Result<(), Error> {
    match service.find(cx, FindRequest::new(name.clone())).await {
        Ok(_) => return Ok(()),
        Err(error) if error.code() == Code::NotRunning => {}
        Err(error) => return Err(error),
    }
    let patterns = vec![name.to_string()];
    let request = ActRequest { verb: Verb::Launch, patterns, hold: false, now: false, timeout: None };
    let acted = service.act(cx, request).await?;
    acted.services.into_iter().find_map(|service| service.error).map_or(Ok(()), |problem| Err(problem.into()))
}

fn looks_like_ticket(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn invalid_ticket(name: &str) -> Refused {
    Refused::from(format!("Invalid ticket for {name}")).with(Code::Denied)
}
