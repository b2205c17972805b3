//! What `dev`, `server` and `agent` are told: flags beat environment beats `/etc/byname/*.toml`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use byname_api::error::{Code, Error, Result};
use byname_api::span::Span;
use byname_node::HostTimes;

use super::files::DataDir;
use crate::cli::serve::{AgentArgs, DevArgs, Listen, ServerArgs};
use crate::environment::{Environment, system_config_dir};

/// The trust domain when none is configured.
pub(crate) const DOMAIN: &str = "byname.internal";
/// The data directory of a server or agent when none is configured.
const DATA: &str = "/var/lib/byname";

/// `/etc/byname/server.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerFile {
    /// The data directory.
    data: Option<PathBuf>,
    /// gRPC and HTTP: `ADDRESS:PORT` or `off`.
    #[serde(deserialize_with = "listen")]
    listen: Option<Listen>,
    /// The DNS: `ADDRESS:PORT` or `off`.
    #[serde(deserialize_with = "listen")]
    dns: Option<Listen>,
    /// How the DNS answers.
    dns_options: DnsFile,
    /// The protocol of the Tcl-DP name server: `ADDRESS:PORT` or `off`.
    #[serde(deserialize_with = "listen")]
    dp: Option<Listen>,
    /// Its callers on other hosts are let in, as `anyone`.
    dp_anyone: Option<bool>,
    /// The trust domain: also the suffix of the DNS forms of names. Fixed at the first start.
    #[serde(alias = "dns_suffix")]
    domain: Option<String>,
    /// Host names, beside those beneath the trust domain, that clients reach this server by. Fixed at the first start.
    host_names: Option<Vec<String>>,
    /// Where the other servers reach this one: `HOST:PORT`, or a host alone.
    address: Option<String>,
    /// `own`: the server makes the root of the trust domain; `external`: the root is elsewhere (`byname ca`).
    ca: Option<Ca>,
    /// A host whose agent was silent for so long is down.
    host_silence: Option<Span>,
    /// Copies on a host that was silent for so long are started elsewhere.
    host_grace: Option<Span>,
}

/// `[dns_options]` in server.toml.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DnsFile {
    /// Answers of a kind a second over UDP to one network; 0 for no limit.
    rate_limit: Option<u32>,
    /// The largest datagram that is sent, in bytes.
    #[serde(deserialize_with = "udp_bytes")]
    udp_bytes: Option<u16>,
    /// Resolvers that are asked for names of others: `ADDRESS` or `ADDRESS:PORT`.
    #[serde(deserialize_with = "resolvers")]
    forward: Option<Vec<SocketAddr>>,
    /// For clients of these networks: `ADDRESS/BITS`.
    #[serde(deserialize_with = "networks")]
    forward_for: Option<Vec<byname_front_dns::Network>>,
    /// Secondaries that may take the whole zone, by address: `ADDRESS` or `ADDRESS/BITS`.
    #[serde(deserialize_with = "networks")]
    transfer: Option<Vec<byname_front_dns::Network>>,
    /// Keys of those who sign what they ask (TSIG).
    key: Vec<DnsKeyFile>,
}

/// `[[dns_options.key]]` in server.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsKeyFile {
    /// Its name, as the others call it.
    name: String,
    /// `hmac-sha256` (when unsaid), `hmac-sha384` or `hmac-sha512`.
    algorithm: Option<String>,
    /// The file with the secret in base64.
    secret_file: PathBuf,
    /// Whoever has it may take the whole zone.
    #[serde(default)]
    transfer: bool,
}

impl DnsKeyFile {
    fn read(&self) -> Result<byname_front_dns::Key> {
        use base64::Engine as _;
        let wrong = |text: String| Error::invalid("dns_options.key", format!("`{}`: {text}", self.name.escape_debug()));
        let algorithm = self
            .algorithm
            .as_deref()
            .map_or(Some(byname_front_dns::Algorithm::default()), byname_front_dns::Algorithm::named);
        let algorithm =
            algorithm.ok_or_else(|| wrong("the algorithm must be hmac-sha256, hmac-sha384 or hmac-sha512".into()))?;
        let path = self.secret_file.display();
        let text = fs::read_to_string(&self.secret_file).map_err(|e| wrong(format!("cannot read {path}: {e}")))?;
        // Nothing of the secret is in any message.
        let secret = base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .map_err(|_| wrong(format!("{path} must have the secret in base64, and nothing else")))?;
        byname_front_dns::Key::new(&self.name, algorithm, &secret, self.transfer)
            .ok_or_else(|| wrong("needs a name in the DNS and a secret of at least 16 bytes".into()))
    }
}

/// Where the root of the trust domain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ca {
    /// The server makes it.
    #[default]
    Own,
    /// Elsewhere: it signs what the server issues with.
    External,
}

/// `/etc/byname/agent.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentFile {
    /// The data directory.
    data: Option<PathBuf>,
    /// Where the servers are.
    server: Option<String>,
    /// The file with the bearer token.
    token_file: Option<PathBuf>,
    /// The label of this host.
    computer: Option<String>,
    /// Folders of catalogue files.
    programs: Option<Vec<PathBuf>>,
    /// Let orders name plain commands, too, and not only entries of the catalogue.
    allow_commands: Option<bool>,
    /// Addresses of this host that others can reach, the best first.
    addresses: Option<Vec<IpAddr>>,
    /// Where programs of this host ask the agent.
    socket: Option<PathBuf>,
    /// Local users, by number, that may look through the agent.
    serve_users: Option<Vec<u32>>,
}

/// What a server needs.
pub(crate) struct ServerSettings {
    /// The data directory.
    pub data: PathBuf,
    /// Where to listen.
    pub listen: Listen,
    /// Where the DNS listens.
    pub dns: Listen,
    /// How it answers.
    pub dns_options: DnsFile,
    /// Where the protocol of the Tcl-DP name server is spoken, and whether with everybody.
    pub dp: super::dp::Settings,
    /// The trust domain, and the suffix of the DNS forms.
    pub domain: String,
    /// Host names that clients reach it by.
    pub host_names: Vec<String>,
    /// Where the other servers reach it.
    pub address: Option<String>,
    /// The token of the servers that it joins.
    pub join: Option<String>,
    /// The root of the trust domain is elsewhere.
    pub external_ca: bool,
    /// `byname dev`: for one person on one machine.
    pub dev: bool,
    /// Folders of catalogue files (`dev`).
    pub programs: Vec<PathBuf>,
    /// When hosts are judged.
    pub host_times: HostTimes,
}

/// What an agent needs.
pub(crate) struct AgentSettings {
    /// The data directory.
    pub data: PathBuf,
    /// Where the servers are; none before it has joined with a token.
    pub server: Option<String>,
    /// A join token.
    pub join: Option<String>,
    /// The file with the bearer token.
    pub token_file: Option<PathBuf>,
    /// The socket for the programs of this host.
    pub socket: Option<PathBuf>,
    /// Local users, beside its own and root, that may look through the agent.
    pub serve_users: Vec<u32>,
    computer: Option<String>,
    programs: Vec<PathBuf>,
    allow_commands: bool,
    /// The addresses to announce, where somebody said which.
    pub addresses: Vec<IpAddr>,
}

/// `dev` has no file.
pub(crate) fn dev(args: DevArgs, env: &Environment) -> Result<ServerSettings> {
    let data = args.data.or_else(|| env.dev_dir()).ok_or_else(|| {
        Error::invalid("data", "there is no home directory to keep data in: say where with --data DIR")
    })?;
    for folder in &args.programs {
        if !folder.is_dir() {
            return Err(Error::invalid("programs", format!("{} is not a folder", folder.display())));
        }
    }
    Ok(ServerSettings {
        data,
        listen: args.listen.listen.unwrap_or_default(),
        dns: args.listen.dns.unwrap_or(Listen::Off),
        dns_options: DnsFile::default().or_given(args.listen.dns_forward),
        dp: super::dp::Settings { listen: args.listen.dp.unwrap_or(Listen::Off), anyone: false },
        domain: DOMAIN.into(),
        host_names: Vec::new(),
        address: None,
        join: None,
        external_ca: false,
        dev: true,
        programs: args.programs,
        host_times: HostTimes::default(),
    })
}

/// `server`.
pub(crate) fn server(args: ServerArgs) -> Result<ServerSettings> {
    let file: ServerFile = read(args.config.as_deref(), "server.toml")?;
    let domain = args.domain.or(file.domain).unwrap_or_else(|| DOMAIN.into());
    if !byname_name::spiffe::is_trust_domain(&domain) {
        return Err(Error::invalid(
            "domain",
            format!("`{}` is no trust domain: write it like a host name, in small letters", domain.escape_debug()),
        ));
    }
    let given = Some(args.host_names).filter(|names| !names.is_empty());
    Ok(ServerSettings {
        data: args.data.or(file.data).unwrap_or_else(|| DATA.into()),
        listen: args.listen.listen.or(file.listen).unwrap_or_default(),
        dns: args.listen.dns.or(file.dns).unwrap_or(Listen::Off),
        dns_options: file.dns_options.or_given(args.listen.dns_forward),
        dp: super::dp::Settings {
            listen: args.listen.dp.or(file.dp).unwrap_or(Listen::Off),
            anyone: args.dp_anyone || file.dp_anyone.unwrap_or(false),
        },
        domain,
        host_names: given.or(file.host_names).unwrap_or_default(),
        address: args.address.or(file.address),
        join: args.join,
        external_ca: match &args.ca {
            Some(word) => word == Path::new("external"),
            None => file.ca == Some(Ca::External),
        },
        dev: false,
        programs: Vec::new(),
        host_times: host_times(args.host_silence.or(file.host_silence), args.host_grace.or(file.host_grace))?,
    })
}

impl DnsFile {
    /// What a flag says goes before the file.
    fn or_given(self, forward: Vec<SocketAddr>) -> DnsFile {
        DnsFile { forward: Some(forward).filter(|given| !given.is_empty()).or(self.forward), ..self }
    }
}

/// How the DNS of a server is served that is bound to this address.
pub(crate) fn dns(settings: &ServerSettings, bound: SocketAddr) -> Result<byname_front_dns::Config> {
    let mut config = byname_front_dns::Config::new(settings.domain.clone());
    if !bound.ip().is_unspecified() {
        config.addresses = vec![bound.ip()];
    }
    config.rate_limit = settings.dns_options.rate_limit.unwrap_or(config.rate_limit);
    config.udp_bytes = settings.dns_options.udp_bytes.unwrap_or(config.udp_bytes);
    config.forward = settings.dns_options.forward.clone().unwrap_or_default();
    config.forward_for = settings.dns_options.forward_for.clone().unwrap_or_default();
    config.transfer = settings.dns_options.transfer.clone().unwrap_or_default();
    config.keys = settings.dns_options.key.iter().map(DnsKeyFile::read).collect::<Result<_>>()?;
    Ok(config)
}

/// When hosts are judged, as far as somebody says.
fn host_times(silence: Option<Span>, grace: Option<Span>) -> Result<HostTimes> {
    let usual = HostTimes::default();
    let silence = silence.map_or(usual.silence, |span| span.duration());
    let grace = grace.map_or(usual.grace.max(silence), |span| span.duration());
    if silence < Duration::from_millis(500) {
        return Err(Error::invalid("host_silence", "half a second is the least: a beat may be late"));
    }
    if grace < silence {
        return Err(Error::invalid("host_grace", "must not be shorter than `host_silence`"));
    }
    // Two beats may be lost before a host is taken to be down.
    Ok(HostTimes { beat: usual.beat.min(silence / 3), silence, grace, ..usual })
}

/// `agent`.
pub(crate) fn agent(args: AgentArgs, env: &Environment) -> Result<AgentSettings> {
    let file: AgentFile = read(args.config.as_deref(), "agent.toml")?;
    let server = args.server.or(file.server);
    let data = args.data.or(file.data).unwrap_or_else(|| PathBuf::from(DATA).join("agent"));
    let mut programs = args.programs;
    if programs.is_empty() {
        programs = file.programs.unwrap_or_else(|| vec![system_config_dir().join("programs.d")]);
    }
    Ok(AgentSettings {
        data,
        server,
        join: args.join,
        token_file: env.token_file.clone().or(file.token_file),
        computer: args.computer.or(file.computer),
        programs,
        allow_commands: file.allow_commands.unwrap_or(false),
        addresses: Some(args.addresses).filter(|given| !given.is_empty()).or(file.addresses).unwrap_or_default(),
        socket: file.socket,
        serve_users: file.serve_users.unwrap_or_default(),
    })
}

/// The agent of `dev`: reads `DATA/programs.d` too, and lets its own user launch plain commands. Programs are told where
/// the protocol of Tcl-DP is spoken, if it is.
pub(crate) fn launch(
    data: &DataDir,
    settings: &ServerSettings,
    env: &Environment,
    dp: Option<SocketAddr>,
) -> byname_launch::Config {
    let mut environment = env.for_programs.clone();
    environment.extend(dp.map(|address| ("BYNAME_DP".into(), address.to_string().into())));
    let mut programs = vec![data.path("programs.d")];
    programs.extend(settings.programs.iter().cloned());
    byname_launch::Config {
        dir: data.path("launch"),
        computer: host_label(),
        addresses: vec!["127.0.0.1".into()],
        programs,
        allow_commands: true,
        holder: holder(),
        environment,
        server: format!("unix://{}", data.socket().display()),
        require_user: false,
        port_range: None,
        shared: None,
    }
}

/// The label of the host that an agent speaks for.
pub(crate) fn computer(settings: &AgentSettings) -> String {
    settings.computer.clone().unwrap_or_else(host_label)
}

/// The agent of a host.
pub(crate) fn agent_launch(
    data: &DataDir,
    settings: &AgentSettings,
    server: &str,
    env: &Environment,
) -> byname_launch::Config {
    byname_launch::Config {
        dir: data.path("launch"),
        computer: computer(settings),
        // What is announced is found out before each connection.
        addresses: Vec::new(),
        programs: settings.programs.clone(),
        allow_commands: settings.allow_commands,
        holder: holder(),
        environment: env.for_programs.clone(),
        server: server.to_owned(),
        require_user: true,
        port_range: None,
        shared: shared(data),
    }
}

/// Where programs of other users can get at what is theirs: only an agent of root's starts any.
fn shared(data: &DataDir) -> Option<PathBuf> {
    data.is_roots().then(|| PathBuf::from("/run/byname").join(data.short_name()))
}

/// Holders run this very program, even when its file was replaced by an upgrade meanwhile.
fn holder() -> Vec<OsString> {
    vec!["/proc/self/exe".into(), "hold".into()]
}

/// The host's name as a label; what cannot be one is left out.
fn host_label() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label: String =
        text.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(63).collect();
    let good = byname_name::Name::root().child(&label).is_ok();
    if good { label } else { "localhost".into() }
}

fn resolvers<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Vec<SocketAddr>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let read = texts.iter().map(|text| crate::cli::serve::resolver(text));
    read.collect::<std::result::Result<_, _>>().map(Some).map_err(serde::de::Error::custom)
}

fn networks<'de, D: serde::Deserializer<'de>>(
    d: D,
) -> std::result::Result<Option<Vec<byname_front_dns::Network>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts
        .iter()
        .map(|text| text.parse())
        .collect::<std::result::Result<_, _>>()
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// RFC 6891 section 6.2.5: less than 512 is taken as 512, and more than 4096 brings nothing but fragments.
fn udp_bytes<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<u16>, D::Error> {
    let bytes = u16::deserialize(d)?;
    if !(512..=4096).contains(&bytes) {
        return Err(serde::de::Error::custom("must be from 512 to 4096"));
    }
    Ok(Some(bytes))
}

fn listen<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Listen>, D::Error> {
    String::deserialize(d)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn read<T: DeserializeOwned + Default>(given: Option<&Path>, usual: &str) -> Result<T> {
    let path = given.map_or_else(|| system_config_dir().join(usual), Path::to_owned);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && given.is_none() => return Ok(T::default()),
        Err(e) => return Err(Error::new(Code::InvalidArgument, format!("cannot read {}: {e}", path.display()))),
    };
    toml::from_str(&text)
        .map_err(|e| Error::new(Code::InvalidArgument, format!("{}: {}", path.display(), e.to_string().trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.toml");
        for (text, part) in [("data = '/d'\nlisen = 'off'\n", "lisen"), ("\nlisten = 'here'\n", "ADDRESS:PORT")] {
            fs::write(&path, text).unwrap();
            let error = read::<ServerFile>(Some(&path), "").unwrap_err();
            assert!(error.message().contains("line 2") && error.message().contains(part), "{error}");
        }
        for (text, part) in [
            ("forward = ['resolver']", "ADDRESS:PORT"),
            ("forward_for = ['10.0.0.0/99']", "ADDRESS/BITS"),
            ("udp_bytes = 100", "512"),
            ("rate_limt = 1", "rate_limt"),
        ] {
            fs::write(&path, format!("dns = '127.0.0.1:0'\n[dns_options]\n{text}\n")).unwrap();
            let error = read::<ServerFile>(Some(&path), "").unwrap_err();
            assert!(error.message().contains("line 3") && error.message().contains(part), "{error}");
        }
        fs::write(&path, "listen = '127.0.0.1:0'\n[dns_options]\nforward = ['::1', '192.0.2.1:5353']\n").unwrap();
        assert!(read::<ServerFile>(Some(&path), "").is_ok());
    }

    #[test]
    fn flags_beat_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.toml");
        fs::write(&path, "data = '/from/file'\nlisten = 'off'\n").unwrap();
        let args = ServerArgs { config: Some(path.clone()), ..ServerArgs::default() };
        let settings = server(args.clone()).unwrap();
        assert_eq!((settings.data.as_path(), settings.listen), (Path::new("/from/file"), Listen::Off));
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let mut flags = ServerArgs { data: Some("/from/flag".into()), ..args };
        flags.listen.listen = Some(Listen::At(address));
        let settings = server(flags).unwrap();
        assert_eq!((settings.data.as_path(), settings.listen), (Path::new("/from/flag"), Listen::At(address)));
    }
}
