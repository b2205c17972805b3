//! `ns_Register`: the original's registered services as services of the tree.
//!
//! A service of the original has a host and a command. The command becomes a launch in this protocol's convention, and the
//! host's own catalogue and policy decide whether it runs; the host is kept as it was written, in an attribute.

use std::net::IpAddr;

use byname_api::error::{Code, Error};
use byname_api::launch::{Convention, Launch, Ready};
use byname_api::object::{Kind, Object, Spec, Value};
use byname_api::request::{BatchRequest, Context, Op};
use byname_name::Name;

use crate::answer::Refused;
use crate::command::Register;
use crate::{Front, list};

/// Where the host is kept as it was written.
const HOST: &str = "dp_host";
/// Where addresses lead back to computers.
const BACKMAP: &str = "/backmap";
/// The most words of a command.
const MAX_WORDS: usize = 1_024;

type Answer = Result<String, Refused>;

impl Front {
    pub(crate) async fn register(&self, cx: &Context, register: Register) -> Answer {
        match register {
            Register::Add { name, host, command } => self.add_service(cx, &name, &host, &command).await,
            Register::Edit { name, host, command } => self.edit_service(cx, &name, &host, &command).await,
            Register::Delete(name) => self.delete_service(cx, &name).await,
            Register::Alias { name, alias } => self.alias_service(cx, &name, &alias).await,
            Register::Info(name) => self.info_service(cx, &name).await,
        }
    }

    async fn add_service(&self, cx: &Context, name: &str, host: &str, command: &str) -> Answer {
        let asked = Name::parse(name).map_err(Error::from)?;
        let spec = Spec { kind: Some(Kind::Service), ..declared(host, self.computer(cx, host).await?, command)? };
        self.change(cx, vec![Op::Add { name: asked, spec }], name).await
    }

    async fn edit_service(&self, cx: &Context, name: &str, host: &str, command: &str) -> Answer {
        let object = self.registered(cx, name).await?;
        let spec = declared(host, self.computer(cx, host).await?, command)?;
        let asked = object.name.clone();
        let found = self.found(cx, object).await?.ok_or_else(|| not_there(name))?;
        if found.is_busy() {
            return Err(running(name));
        }
        let anywhere = spec.launch.as_ref().is_some_and(|launch| launch.hosts.is_none());
        let mut clear = vec!["launch.args".to_owned()];
        clear.extend(anywhere.then(|| "launch.hosts".to_owned()));
        // An alias is edited where it leads to.
        let target = if found.status.name == asked { asked } else { found.status.name };
        self.change(cx, vec![Op::Modify { name: target, spec, clear, if_version: None }], name).await
    }

    async fn delete_service(&self, cx: &Context, name: &str) -> Answer {
        let object = self.registered(cx, name).await?;
        let (asked, alias) = (object.name.clone(), object.spec.kind() == Kind::Alias);
        let found = self.found(cx, object).await?;
        if !alias && found.is_some_and(|found| found.is_busy()) {
            return Err(running(name));
        }
        self.uses.lock().remove(&asked);
        let mut names = match alias {
            true => Vec::new(),
            false => self.aliases_of(cx, &asked).await?,
        };
        names.push(asked);
        let ops = names.into_iter().map(|name| Op::Delete { name, recursive: false, stop: false, if_version: None });
        self.change(cx, ops.collect(), name).await
    }

    async fn alias_service(&self, cx: &Context, name: &str, alias: &str) -> Answer {
        let target = self.registered(cx, name).await?.name;
        let asked = Name::parse(alias).map_err(Error::from)?;
        let spec = Spec { target: Some(target), ..Spec::of(Kind::Alias) };
        self.change(cx, vec![Op::Add { name: asked, spec }], alias).await
    }

    async fn info_service(&self, cx: &Context, name: &str) -> Answer {
        let object = self.registered(cx, name).await?;
        let shown = object.name.to_string();
        let (alias_of, service) = match &object.spec.target {
            Some(target) => {
                let end = self.found(cx, object.clone()).await?.ok_or_else(|| not_there(name))?;
                let service = self.object(cx, end.status.name.as_str()).await?.ok_or_else(|| not_there(name))?;
                (target.to_string(), service)
            }
            None => (String::new(), object),
        };
        let launch = service.spec.launch.clone().unwrap_or_default();
        let host = match service.spec.attributes.as_ref().and_then(|all| all.get(HOST)?.first()) {
            Some(host) => host.to_string(),
            None => list::merge(launch.hosts.iter().flatten()),
        };
        let first = launch.program.iter().chain(launch.command.iter().flatten());
        let command = list::merge(first.chain(launch.args.iter().flatten()));
        Ok(list::merge([shown, alias_of, host, command]))
    }

    /// The computer that a host means; none for any.
    async fn computer(&self, cx: &Context, host: &str) -> Result<Option<String>, Refused> {
        let Some(ip) = address_elsewhere(host) else { return Ok((!is_any(host)).then(|| host.to_owned())) };
        let back = self.object(cx, &format!("{BACKMAP}/{ip}")).await?;
        let computer = back.and_then(|object| object.spec.target);
        let unknown = || Refused::from(format!("no computer has the address {ip}")).with(Code::NoHost);
        computer.map(|name| Some(name.to_string())).ok_or_else(unknown)
    }

    /// A service or an alias.
    async fn registered(&self, cx: &Context, name: &str) -> Result<Object, Refused> {
        let object = self.object(cx, name).await?;
        let object = object.filter(|object| matches!(object.spec.kind(), Kind::Service | Kind::Alias));
        object.ok_or_else(|| not_there(name))
    }

    /// Makes changes, and says what is wrong with them in the words of the original.
    async fn change(&self, cx: &Context, ops: Vec<Op>, name: &str) -> Answer {
        let deletes = matches!(ops.as_slice(), [Op::Delete { .. }, ..]);
        match self.service.batch(cx, BatchRequest { ops, ..BatchRequest::default() }).await {
            Ok(_) => Ok(String::new()),
            Err(error) if error.code() == Code::AlreadyExists => {
                Err(Refused::from(format!("{name} already exists")).with(error.code()))
            }
            Err(error) if error.code() == Code::NotFound => Err(not_there(name)),
            // Children are a conflict, too, and are told as what they are.
            Err(error) if error.code() == Code::Conflict && deletes && error.message().contains("running") => {
                Err(running(name))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The declaration of a service of the original, with the computers that may run it.
fn declared(host: &str, computer: Option<String>, command: &str) -> Result<Spec, Refused> {
    let words = list::split(command, MAX_WORDS).map_err(|error| format!("bad command: {error}"))?;
    if words.first().is_none_or(|program| program.is_empty()) {
        return Err("bad command: it is empty".into());
    }
    let launch = Launch {
        command: Some(words.into_iter().map(Into::into).collect()),
        hosts: computer.map(|computer| vec![computer]),
        convention: Some(Convention::Dp),
        ready: Some(Ready::Advertise),
        endpoints: Some(Vec::new()),
        ..Launch::default()
    };
    let attributes = [(HOST.to_owned(), vec![Value::Text(host.to_owned())])].into();
    Ok(Spec { launch: Some(launch), attributes: Some(attributes), ..Spec::default() })
}

/// A host as an address of another computer, if it is one.
fn address_elsewhere(host: &str) -> Option<IpAddr> {
    host.parse::<IpAddr>().ok().filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// Whether a host means any: in the original that was the name server's own, and here it is whichever there are.
fn is_any(host: &str) -> bool {
    host.is_empty() || host == "*" || host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

fn not_there(name: &str) -> Refused {
    Refused::from(format!("{name} does not exist")).with(Code::NotFound)
}

fn running(name: &str) -> Refused {
    Refused::from(format!("{name} is currently running")).with(Code::Conflict)
}
