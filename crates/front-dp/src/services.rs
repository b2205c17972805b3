//! What a pattern means: services and aliases of the tree, in the order in which they were registered.

use byname_api::error::{Code, Error, Result};
use byname_api::object::{Kind, Object, ServiceStatus};
use byname_api::request::{Context, ListRequest, ReadRequest, SearchRequest};
use byname_api::service::{Endpoint, Instance, State};
use byname_name::Name;

use crate::Front;
use crate::frame::MAX_MESSAGE;
use crate::glob::Glob;

/// Objects that are looked at for a pattern in one go.
const PAGE: u32 = 1_000;
/// Beneath this name a server keeps what is its own; patterns that do not name it do not mean it.
const OWN: &str = "/byname";
/// Aliases of aliases of a name that are followed back.
const MAX_ALIASES: usize = 1_000;

/// A service, or an alias of one.
pub(crate) struct Found {
    /// Its own name, also of an alias.
    pub(crate) name: Name,
    /// The service's state; of an alias, that of its target.
    pub(crate) status: ServiceStatus,
}

impl Front {
    /// The services that a pattern means, aliases included.
    ///
    /// # Errors
    ///
    /// Those of a read or a search; none for what is not there.
    pub(crate) async fn matching(&self, cx: &Context, pattern: &str) -> Result<Vec<Found>> {
        let glob = Glob::new(pattern);
        if let Some(exact) = glob.as_exact() {
            let Some(object) = self.object(cx, exact).await? else { return Ok(Vec::new()) };
            return Ok(self.found(cx, object).await?.into_iter().collect());
        }
        let Some(under) = directory(&glob) else { return Ok(Vec::new()) };
        let own = Name::parse(OWN).ok().filter(|own| !under.is_under(own));
        let (mut objects, mut bytes) = (Vec::new(), 0);
        let mut request = SearchRequest { limit: Some(PAGE), ..SearchRequest::new("(|(kind=service)(kind=alias))") };
        request.under = under;
        loop {
            let page = match self.service.search(cx, request.clone()).await {
                Ok(page) => page,
                Err(error) if error.code() == Code::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            for object in page.objects {
                let hidden = own.as_ref().is_some_and(|own| object.name.is_under(own));
                if hidden || !glob.matches(object.name.as_str()) {
                    continue;
                }
                // Whatever is answered names it, so that what fits no frame is not collected.
                bytes += object.name.as_str().len() + 1;
                if bytes > MAX_MESSAGE {
                    return Err(Error::new(
                        Code::TooLarge,
                        "the pattern matches more than an answer has room for: ask with a narrower one",
                    ));
                }
                objects.push((object.id, self.brief(object)));
            }
            match page.next {
                Some(next) => request.next = Some(next),
                None => break,
            }
        }
        objects.sort_by_key(|(id, _)| *id);
        let mut found = Vec::with_capacity(objects.len());
        for (_, brief) in objects {
            match brief {
                Brief::Service(service) => found.push(*service),
                Brief::Alias(name) => found.extend(self.end_of(cx, name).await?),
            }
        }
        Ok(found)
    }

    /// What is kept of an object until all are there.
    fn brief(&self, object: Object) -> Brief {
        match object.status {
            Some(status) => Brief::Service(Box::new(Found { name: object.name, status: slim(status) })),
            None => Brief::Alias(object.name),
        }
    }

    /// The object of a name; none when there is nothing, or it is no name.
    pub(crate) async fn object(&self, cx: &Context, name: &str) -> Result<Option<Object>> {
        let Ok(name) = Name::parse(name) else { return Ok(None) };
        match self.service.read(cx, ReadRequest { name, consistent: false }).await {
            Ok(reply) => Ok(Some(reply.object)),
            Err(error) if matches!(error.code(), Code::NotFound | Code::AliasLoop) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An object as a service or an alias of one; none for every other.
    pub(crate) async fn found(&self, cx: &Context, object: Object) -> Result<Option<Found>> {
        match (object.spec.kind(), object.status) {
            (Kind::Service, Some(status)) => Ok(Some(Found { name: object.name, status })),
            (Kind::Alias, _) => self.end_of(cx, object.name).await,
            _ => Ok(None),
        }
    }

    /// An alias with the state of what it leads to.
    async fn end_of(&self, cx: &Context, name: Name) -> Result<Option<Found>> {
        // A name is a pattern that matches it alone, and an exact one follows aliases.
        match self.service.status(cx, ListRequest::new(name.as_str())).await {
            Ok(reply) => Ok(reply.services.into_iter().next().map(|status| Found { name, status: slim(status) })),
            Err(error) if matches!(error.code(), Code::NotFound | Code::Unsupported | Code::AliasLoop) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All aliases that lead to a name, those of its aliases included.
    pub(crate) async fn aliases_of(&self, cx: &Context, name: &Name) -> Result<Vec<Name>> {
        let mut found: Vec<Name> = Vec::new();
        let mut at = 0;
        let mut target = name.clone();
        loop {
            let filter = format!("(&(kind=alias)(target={}))", escaped(target.as_str()));
            let mut request = SearchRequest { limit: Some(PAGE), ..SearchRequest::new(filter) };
            loop {
                let page = self.service.search(cx, request.clone()).await?;
                for object in page.objects {
                    if !found.contains(&object.name) && object.name != *name {
                        found.push(object.name);
                    }
                }
                if found.len() > MAX_ALIASES {
                    return Err(Error::new(Code::TooLarge, format!("`{name}` has too many aliases to delete at once")));
                }
                match page.next {
                    Some(next) => request.next = Some(next),
                    None => break,
                }
            }
            let Some(next) = found.get(at) else { return Ok(found) };
            target = next.clone();
            at += 1;
        }
    }
}

enum Brief {
    Service(Box<Found>),
    Alias(Name),
}

/// The stories of the past are long, and nobody asks for them here.
fn slim(mut status: ServiceStatus) -> ServiceStatus {
    status.last_exit = None;
    status.listening = Vec::new();
    status
}

/// Where everything is that a pattern can match; none when that is no name.
fn directory(glob: &Glob) -> Option<Name> {
    match glob.directory() {
        "" => Some(Name::root()),
        directory => Name::parse(directory).ok(),
    }
}

/// A value in a search filter (RFC 4515 section 3).
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '*' | '(' | ')' | '\\' => out.push_str(&format!("\\{:02x}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

impl Found {
    /// The word of the original for its state.
    pub(crate) fn state(&self) -> &'static str {
        match self.status.state {
            _ if self.status.unregistered => "unregistered",
            State::Starting => "launching",
            State::Running | State::Unhealthy => "running",
            State::Stopped | State::Stopping | State::Failed => "onDemand",
        }
    }

    /// Whether a copy runs or is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.status.instances.is_empty()
    }

    /// Where it answers, if it does.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.status.instances.iter().filter(|instance| instance.state == State::Running).find_map(reachable)
    }
}

/// Where a copy takes connections: this protocol can name nothing but a host and a port of TCP.
pub(crate) fn reachable(instance: &Instance) -> Option<&Endpoint> {
    instance.endpoints.iter().find(|endpoint| {
        !matches!(endpoint.protocol.as_str(), "unix" | "udp") && endpoint.port != 0 && !endpoint.address.is_empty()
    })
}
