//! From an order to a work order: the host's policy, ports, variables, the environment, limits and the user.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::net::IpAddr;

use byname_api::agent::StartOrder;
use byname_api::launch::{Convention, EndpointSpec, EnvValue, Handover, Launch, Limits, Ready, StableSocket};
use byname_api::object::InstanceId;
use byname_api::service::Endpoint;
use byname_api::{Code, Error};
use nix::unistd::{Gid, User};

use crate::catalogue::{Catalogue, Entry, denied};
use crate::check;
use crate::folder::{Folder, Place, StoredCheck};
use crate::ports::{Ports, Taken, Transport};
use crate::wire::{self, Identity, Text, Work};
use crate::{Config, cgroup::Cgroups, porters};

/// The size at which a log file is put aside; an instance has two.
const LOG_BYTES: u64 = 4 << 20;

/// What is to be done for an order.
pub(crate) struct Plan {
    pub(crate) work: Box<Work>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Where its certificate and key go.
    pub(crate) identity: Option<Place>,
    /// The checks that the agent makes once it is ready.
    pub(crate) checks: Vec<StoredCheck>,
}

/// Decides whether and how an order is carried out. `certified`: a certificate is asked for. On an error, ports that were chosen are still the instance's;
/// the caller releases them.
pub(crate) fn plan(
    order: &StartOrder,
    certified: bool,
    config: &Config,
    catalogue: &Catalogue,
    ports: &Ports,
    cgroups: &Cgroups,
) -> Result<Plan, Error> {
    let launch = &order.launch;
    launch.check()?;
    let dp = launch.convention() == Convention::Dp;
    // A command of Tcl-DP that begins with a word of the catalogue means that program: there is no other word for it.
    let named =
        launch.command.as_deref().and_then(<[String]>::split_first).filter(|(word, _)| dp && catalogue.has(word));
    let entry = match (launch.program.as_ref().or(named.map(|(word, _)| word)), &launch.command) {
        (Some(program), _) => Some((program.as_str(), catalogue.entry(program, &order.name, &config.computer)?)),
        (None, Some(_)) if config.allow_commands => None,
        (None, Some(_)) => {
            let message = format!(
                "`{}` starts no plain commands: name a `program` of its catalogue in {}",
                config.computer,
                catalogue.place()
            );
            return Err(denied("launch.command", message));
        }
        (None, None) => {
            let message = format!("{} cannot be started: its launch has neither `program` nor `command`", order.name);
            return Err(Error::invalid("launch.program", message));
        }
    };
    let user = user(entry, launch.user.as_deref(), config)?;
    let endpoints = endpoints(order, ports)?;
    if matches!(launch.ready(), Ready::Port | Ready::Http)
        && !endpoints.iter().any(|e| Transport::of(&e.protocol) != Some(Transport::Udp))
    {
        let message =
            "this readiness needs an endpoint that takes connections: declare one, or say `notify` or `advertise`";
        return Err(Error::invalid("launch.ready", message));
    }

    let path = launch.ready_path.as_deref().unwrap_or("/");
    if !path.starts_with('/') || path.chars().any(|c| c.is_control() || c == ' ') {
        return Err(Error::invalid("launch.ready_path", "a path begins with `/` and has no spaces"));
    }
    let variables = variables(order, &endpoints);
    let mut argv: Vec<String> = match entry {
        Some((_, entry)) => entry.command.clone(),
        None => launch.command.clone().unwrap_or_default(),
    };
    if let Some((program, entry)) = entry {
        let added = named.map(|(_, args)| args).unwrap_or_default();
        for arg in added.iter().chain(launch.args.iter().flatten()) {
            entry.check_arg(program, arg)?;
        }
        argv.extend(added.iter().cloned());
    }
    argv.extend(launch.args.iter().flatten().cloned());
    let mut argv: Vec<Text> = argv.iter().map(|arg| expand(arg, &variables).into()).collect();
    if dp {
        // Told by the agent itself, so the catalogue is not asked whether it may be added.
        argv.extend(["-service".into(), order.name.as_str().into()]);
    }

    let identity = certified.then(|| place(order.instance, config, user.as_ref())).flatten();
    let env = environment(order, entry, config, &variables, user.as_ref(), &endpoints, identity.as_ref())?;
    let limits = limits(launch.limits.as_ref(), entry.map(|(_, e)| &e.limits));
    let cgroup = cgroups.prepare(order.instance, &limits);
    // Another user cannot get back into the instance's folder by its full path: the agent's folders are private.
    let elsewhere = user.as_ref().map(|_| "/".to_owned());
    let directory = entry.and_then(|(_, e)| e.directory.clone()).or_else(|| launch.directory.clone()).or(elsewhere);
    if let Some(folder) = directory.as_ref().filter(|d| !d.starts_with('/') || d.contains('\0')) {
        let message = format!("`{}` is no absolute path", folder.escape_debug());
        return Err(Error::invalid("launch.directory", message));
    }
    let nul = |text: &Text| text.as_os_str().as_encoded_bytes().contains(&0);
    if argv.iter().any(nul) || env.iter().any(|(k, v)| nul(k) || nul(v)) {
        return Err(Error::invalid("launch.args", "arguments and environment cannot hold the character U+0000"));
    }
    let data = if cgroup.as_ref().is_some_and(|c| c.memory) { None } else { limits.memory.map(|m| m.0) };
    let notify = Folder::of(&config.dir, order.instance).path.join("notify");
    let notify = (user.is_none() && notify.as_os_str().len() <= 100).then(|| notify.as_path().into());
    let work = Box::new(Work {
        format: wire::FORMAT,
        instance: order.instance.to_string(),
        argv,
        env,
        directory: directory.map(Text::from),
        identity: user.map(|u| u.identity),
        files: limits.files,
        data,
        cgroup: cgroup.map(|c| c.path.as_path().into()),
        notify,
        sockets: socket_names(launch),
        // The original gives the name server's half first, and the program shows the second.
        ticket: match dp {
            true => ticket(&order.ticket.server, &order.ticket.program),
            false => ticket(&order.ticket.program, &order.ticket.server),
        },
        ticket_on_stdin: dp,
        log_bytes: LOG_BYTES,
    });
    let checks = check::plan(order, &endpoints, &variables, &work, config, catalogue)?;
    Ok(Plan { work, endpoints, identity, checks })
}

fn ticket(program: &[u8; 32], server: &[u8; 32]) -> String {
    let mut line = String::with_capacity(130);
    for (bytes, end) in [(program, ' '), (server, '\n')] {
        for byte in bytes {
            for digit in [byte >> 4, byte & 15] {
                line.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        line.push(end);
    }
    line
}

/// The declared endpoints with their ports.
fn endpoints(order: &StartOrder, ports: &Ports) -> Result<Vec<Endpoint>, Error> {
    let mut endpoints = Vec::new();
    for EndpointSpec { protocol, port, address } in order.launch.endpoints() {
        let address = address.unwrap_or_default();
        let port = match Transport::of(&protocol) {
            None => 0,
            Some(transport) => {
                let ip = address.parse::<IpAddr>().ok();
                if ip.is_none() && !address.is_empty() {
                    let message = format!("`{}` is no IP address", address.escape_debug());
                    return Err(Error::invalid("launch.endpoints", message));
                }
                if port == 0 {
                    ports.choose(transport, ip, order.instance).ok_or_else(|| {
                        Error::new(Code::StartFailed, format!("{} cannot be started: no port is free", order.name))
                    })?
                } else if is_handed(&order.launch, transport, ip, port) {
                    port
                } else {
                    ports.claim(transport, ip, port, order.instance).map_err(|taken| {
                        let why = match taken {
                            Taken::InUse => format!("port {port} is in use already"),
                            Taken::Held(by) => {
                                format!("port {port} is a stable socket of `{by}`; change one of them, or leave the port out")
                            }
                        };
                        let message = format!("{} cannot be started: {why}", order.name);
                        Error::new(Code::StartFailed, message).field("launch.endpoints")
                    })?;
                    port
                }
            }
        };
        endpoints.push(Endpoint { protocol, address, port });
    }
    if endpoints.is_empty() && order.launch.handover() == Handover::Fds {
        endpoints = order.launch.stable_sockets().iter().map(porters::endpoint).collect();
    }
    Ok(endpoints)
}

/// Whether the program is given this very socket.
fn is_handed(launch: &Launch, transport: Transport, ip: Option<IpAddr>, port: u16) -> bool {
    let same = |socket: &StableSocket| match socket {
        StableSocket::Tcp(held) => held.port() == port && ip.is_none_or(|ip| ip == held.ip()),
        StableSocket::Unix(_) => false,
    };
    launch.handover() == Handover::Fds && transport == Transport::Tcp && launch.stable_sockets().iter().any(same)
}

/// What the program finds in LISTEN_FDNAMES: the port of a socket, or the name of its file. A colon stands between the
/// names, so there is none in them (sd_listen_fds_with_names(3)).
fn socket_names(launch: &Launch) -> Vec<String> {
    let named = |socket: &StableSocket| match socket {
        StableSocket::Tcp(address) => address.port().to_string(),
        StableSocket::Unix(path) => {
            let file = path.rsplit('/').next().unwrap_or_default();
            file.chars().map(|c| if c.is_control() || c == ':' { '_' } else { c }).collect()
        }
    };
    match launch.handover() {
        Handover::Fds => launch.stable_sockets().iter().map(named).collect(),
        Handover::Relay => Vec::new(),
    }
}

fn variables(order: &StartOrder, endpoints: &[Endpoint]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    variables.insert("NAME".into(), order.name.to_string());
    variables.insert("INSTANCE".into(), order.instance.to_string());
    for (at, endpoint) in endpoints.iter().filter(|e| e.port != 0).enumerate() {
        if at == 0 {
            variables.insert("PORT".into(), endpoint.port.to_string());
        }
        variables.insert(format!("PORT_{}", at + 1), endpoint.port.to_string());
    }
    variables
}

/// Puts `${VARIABLE}` in place. `$${` stands for `${`; a variable that is not known stays as it is.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        expanded.push_str(before);
        let end = from.find('}');
        match end.and_then(|end| Some((end, variables.get(from.get(2..end)?)?))) {
            Some((end, value)) => {
                expanded.push_str(value);
                rest = from.get(end + 1..).unwrap_or_default();
            }
            None => {
                expanded.push_str("${");
                rest = from.get(2..).unwrap_or_default();
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

/// The environment, from the weakest word to the strongest: the agent's base, the user's, the catalogue's, the
/// launch's, and what every program is told.
fn environment(
    order: &StartOrder,
    entry: Option<(&str, &Entry)>,
    config: &Config,
    variables: &BTreeMap<String, String>,
    user: Option<&Account>,
    endpoints: &[Endpoint],
    identity: Option<&Place>,
) -> Result<Vec<(Text, Text)>, Error> {
    let mut env: BTreeMap<OsString, OsString> = config.environment.iter().cloned().collect();
    if let Some(user) = user {
        for (key, value) in
            [("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name), ("SHELL", &user.shell)]
        {
            env.insert(key.into(), value.into());
        }
    }
    for (key, value) in entry.iter().flat_map(|(_, e)| &e.env) {
        env.insert(key.into(), expand(value, variables).into());
    }
    for (key, value) in order.launch.env.iter().flatten() {
        let field = || format!("launch.env.{key}");
        if key.is_empty() || key.contains('=') {
            return Err(Error::invalid(field(), "the name of a variable is not empty and has no `=`"));
        }
        if let Some((program, entry)) = entry {
            entry.check_env(program, key)?;
        }
        match value {
            EnvValue::Text(text) => env.insert(key.into(), expand(text, variables).into()),
            // As it is: what it holds is nobody's pattern.
            EnvValue::Secret { secret } => match order.secrets.get(key) {
                Some(value) => env.insert(key.into(), value.0.clone().into()),
                None => {
                    let message =
                        format!("{} cannot be started: the server did not send the secret `{secret}`", order.name);
                    return Err(Error::new(Code::StartFailed, message).field(field()));
                }
            },
        };
    }
    for (key, value) in variables.iter().filter(|(key, _)| key.starts_with("PORT")) {
        if key == "PORT" || endpoints.len() > 1 {
            env.insert(key.into(), value.into());
        }
    }
    env.insert("BYNAME_NAME".into(), order.name.to_string().into());
    env.insert("BYNAME_INSTANCE".into(), order.instance.to_string().into());
    env.insert("BYNAME_SERVER".into(), config.server.clone().into());
    if let Some(place) = identity {
        env.insert("BYNAME_IDENTITY".into(), place.dir.clone().into());
        let socket = config.workload_socket();
        // Longer ones fit no address. Whoever declares another socket has another authority.
        if socket.as_os_str().len() < 108 {
            let mut url = OsString::from("unix://");
            url.push(socket);
            env.entry("SPIFFE_ENDPOINT_SOCKET".into()).or_insert(url);
        }
    }
    Ok(env.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
}

/// Where an instance's certificate goes: into its folder, or where its user can go. None when there is no such place.
fn place(instance: InstanceId, config: &Config, user: Option<&Account>) -> Option<Place> {
    match user {
        None => Some(Place { dir: Folder::of(&config.dir, instance).path.join("identity"), owner: None }),
        Some(Account { identity, .. }) => {
            let dir = config.shared.as_ref()?.join(instance.to_string());
            Some(Place { dir, owner: Some((identity.uid, identity.gid)) })
        }
    }
}

/// The smaller of what is asked for and what the host allows.
fn limits(asked: Option<&Limits>, allowed: Option<&Limits>) -> Limits {
    fn least<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b < a { b } else { a }),
            (a, b) => a.or(b),
        }
    }
    let (asked, allowed) = (asked.cloned().unwrap_or_default(), allowed.cloned().unwrap_or_default());
    Limits {
        cpu: least(asked.cpu, allowed.cpu),
        memory: least(asked.memory, allowed.memory),
        files: least(asked.files, allowed.files),
    }
}

pub(crate) struct Account {
    pub(crate) identity: Identity,
    name: OsString,
    home: OsString,
    shell: OsString,
}

/// Whom to run as; none stays the agent's own user.
pub(crate) fn user(
    entry: Option<(&str, &Entry)>,
    asked: Option<&str>,
    config: &Config,
) -> Result<Option<Account>, Error> {
    let fixed = entry.and_then(|(_, e)| e.user.as_deref());
    if let (Some(fixed), Some(asked)) = (fixed, asked)
        && fixed != asked
    {
        let message = format!("the catalogue of `{}` runs this program as `{fixed}` only", config.computer);
        return Err(denied("launch.user", message));
    }
    let own = rustix::process::geteuid();
    let Some(name) = fixed.or(asked) else {
        if config.require_user && own.is_root() {
            let message = format!(
                "the agent of `{}` is root and runs nothing as root by default: name a `user` in the launch or the catalogue",
                config.computer
            );
            return Err(denied("launch.user", message));
        }
        return Ok(None);
    };
    let unknown = |why: String| Error::invalid("launch.user", format!("`{}` {why}", name.escape_debug()));
    let user = User::from_name(name)
        .map_err(|e| unknown(format!("cannot be looked up: {}", e.desc())))?
        .ok_or_else(|| unknown(format!("is no user of `{}`", config.computer)))?;
    if user.uid.as_raw() == own.as_raw() {
        return Ok(None);
    }
    if !own.is_root() {
        let message =
            format!("the agent of `{}` is not root, so it cannot start programs as `{name}`", config.computer);
        return Err(denied("launch.user", message));
    }
    let groups = CString::new(user.name.as_bytes())
        .ok()
        .and_then(|name| nix::unistd::getgrouplist(&name, user.gid).ok())
        .unwrap_or_else(|| vec![user.gid]);
    Ok(Some(Account {
        identity: Identity {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        },
        name: user.name.into(),
        home: user.dir.into(),
        shell: user.shell.into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_and_the_unknown_stays() {
        let variables: BTreeMap<String, String> =
            [("PORT", "80"), ("PORT_2", "81"), ("NAME", "/a")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, expect) in [
            ("${PORT}", "80"),
            ("--at=${NAME}:${PORT_2}!", "--at=/a:81!"),
            ("$${PORT}", "${PORT}"),
            ("$$${PORT}", "$${PORT}"),
            ("${OTHER} $PORT ${PORT", "${OTHER} $PORT ${PORT"),
            ("${${PORT}}", "${80}"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &variables), expect, "{text}");
        }
    }

    #[test]
    fn the_smaller_limit_wins() {
        let asked = Limits { cpu: Some(2.0), memory: None, files: Some(10) };
        let allowed = Limits { cpu: Some(1.0), memory: Some(byname_api::launch::Bytes(5)), files: Some(20) };
        let both = limits(Some(&asked), Some(&allowed));
        assert_eq!((both.cpu, both.memory.map(|m| m.0), both.files), (Some(1.0), Some(5), Some(10)));
    }

    #[test]
    fn a_ticket_is_two_words_of_hexadecimal_digits() {
        let line = ticket(&[0xab; 32], &[1; 32]);
        assert_eq!(line.len(), 130);
        assert!(line.starts_with("abab") && line.ends_with("0101\n") && line.as_bytes()[64] == b' ');
    }
}
