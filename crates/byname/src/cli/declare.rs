//! The words by which `add` and `edit` declare an object.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;

use byname_api::launch::{
    Check, Convention, Copies, EndpointSpec, EnvValue, Handover, Launch, Limits, OnPartition, Ready, Restart,
    StableSocket, Start,
};
use byname_api::object::{Audited, Choose, Kind, Spec};
use byname_api::request::parse_attribute;
use byname_api::span::Span;
use byname_api::{Error, Result};
use byname_name::Name;

use crate::prompt;
use crate::tree_files::beside;

/// What is declared about any object.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Declaration")]
pub(crate) struct DeclareArgs {
    /// Record: its value
    #[arg(long, conflicts_with = "value_file", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Record, secret: the file that holds its value; - for standard input
    #[arg(long, value_name = "FILE")]
    pub value_file: Option<PathBuf>,
    /// Alias: the name that it stands for
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// Group: a member; may be repeated
    #[arg(long = "member", value_name = "NAME")]
    pub members: Vec<String>,
    /// Computer: an IP address, the best first; may be repeated
    #[arg(long = "address", value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Directory: an attribute of what is beneath it that searches find fast; may be repeated
    #[arg(long = "index", value_name = "ATTR")]
    pub index: Vec<String>,
    /// Junction: a server that holds the rest of the tree, or a group of them; may be repeated
    #[arg(long = "junction-server", value_name = "NAME")]
    pub servers: Vec<String>,
    /// Junction: what its servers speak, such as byname.names/1, dns or ldap
    #[arg(long, value_name = "WORD")]
    pub interface: Option<String>,
    /// Junction: what is handed to its servers beside the rest of the name
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub parameter: Option<String>,
    /// Principal: it may not sign in
    #[arg(long)]
    pub disabled: bool,
    /// Group, principal: the file with what an authority off line signed about it (`byname ca certify`)
    #[arg(long = "certified", value_name = "FILE")]
    pub certified_file: Option<PathBuf>,
    /// What the audit log holds of it and of what is beneath it: changes, or every find and read too
    #[arg(long, value_parser = word::<Audited>(["changes", "reads"]))]
    pub audit: Option<Audited>,
    /// An attribute, NAME=VALUE; several of one name are its values, NAME= removes it; may be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE")]
    pub attributes: Vec<String>,
    /// An attribute that may leave by the DNS; may be repeated
    #[arg(long, value_name = "NAME")]
    pub public: Vec<String>,
    /// How long others may remember an answer about it
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Span>,
    /// Who is responsible, and may do everything with it: a principal, or uid:NUMBER
    #[arg(long)]
    pub owner: Option<String>,
    /// Service: which instance a find gives. Junction: which of its servers is asked
    #[arg(long, value_parser = word::<Choose>(["first", "fastest", "random", "round-robin", "least-loaded", "nearest", "all"]))]
    pub choose: Option<Choose>,
}

/// How a service is started.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Service")]
pub(crate) struct LaunchArgs {
    /// An entry of the host's catalogue
    #[arg(long, conflicts_with_all = ["command", "words"])]
    pub program: Option<String>,
    /// A command line, split as a shell splits words
    #[arg(long, value_name = "LINE", conflicts_with = "words")]
    pub command: Option<String>,
    /// The command and its arguments, behind `--`
    #[arg(last = true, value_name = "CMD")]
    pub words: Vec<String>,
    /// An argument; ${PORT}, ${NAME} and ${INSTANCE} expand; may be repeated
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// A variable, NAME=VALUE; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The folder to start in
    #[arg(long, value_name = "DIR")]
    pub directory: Option<String>,
    /// A host that may run it: a name or pattern of computers, or a group; may be repeated
    #[arg(long = "host", value_name = "PATTERN")]
    pub hosts: Vec<String>,
    /// How many copies run at least and at most: MIN..MAX
    #[arg(long, value_name = "MIN..MAX", value_parser = copies)]
    pub copies: Option<Copies>,
    /// When it is started
    #[arg(long, value_parser = word::<Start>(["on-demand", "always", "manual"]))]
    pub start: Option<Start>,
    /// Who may start it by asking: a principal or group; may be repeated
    #[arg(long, value_name = "NAME")]
    pub start_by: Vec<String>,
    /// Whether a look-up in the DNS may start it; over TCP or with a cookie only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub dns_start: Option<bool>,
    /// Stop a copy that nobody has used for so long
    #[arg(long, value_name = "TIME")]
    pub idle_stop: Option<Span>,
    /// What it listens on: PROTOCOL:PORT, PORT or PROTOCOL:ADDRESS:PORT, port 0 picks one; may be repeated
    #[arg(long = "endpoint", value_name = "PROTO:PORT", value_parser = endpoint)]
    pub endpoints: Vec<EndpointSpec>,
    /// A stable socket that wakes it, ADDRESS:PORT or unix:/PATH; may be repeated
    #[arg(long = "listen", value_name = "SOCKET", value_parser = socket)]
    pub listen: Vec<String>,
    /// How the connections of --listen get to it: bytes are relayed, or it takes the socket itself (LISTEN_FDS)
    #[arg(long, value_parser = word::<Handover>(["relay", "fds"]))]
    pub handover: Option<Handover>,
    /// How it is told its name and tickets: in variables, or as the Tcl-DP name server did (-service NAME, standard input)
    #[arg(long, value_parser = word::<Convention>(["byname", "dp"]))]
    pub convention: Option<Convention>,
    /// How one learns that it is ready
    #[arg(long, value_parser = word::<Ready>(["advertise", "notify", "port", "http"]))]
    pub ready: Option<Ready>,
    /// The path to ask for with --ready http
    #[arg(long, value_name = "PATH")]
    pub ready_path: Option<String>,
    /// How long a start may take
    #[arg(long, value_name = "TIME")]
    pub start_timeout: Option<Span>,
    /// How long it may take to end before it is killed
    #[arg(long, value_name = "TIME")]
    pub stop_timeout: Option<Span>,
    /// The restart budget: max=5, window=30s or backoff=100ms; may be repeated
    #[arg(long = "restart", value_name = "KEY=VALUE")]
    pub restart: Vec<String>,
    /// A bound on a copy: memory=512M, cpu=0.5 or files=1024; may be repeated
    #[arg(long = "limit", value_name = "KEY=VALUE", value_parser = limit)]
    pub limits: Vec<Limits>,
    /// A health check, KIND[,KEY=VALUE…]: tcp, http,path=/healthz,interval=2s, grpc,service=NAME, ttl,ttl=30s or
    /// command,command=LINE (last); may be repeated
    #[arg(long = "check", value_name = "CHECK", value_parser = check)]
    pub checks: Vec<Check>,
    /// The user to run as
    #[arg(long)]
    pub user: Option<String>,
    /// What an agent that is cut off does with it
    #[arg(long, value_parser = word::<OnPartition>(["keep", "stop"]))]
    pub on_partition: Option<OnPartition>,
}

/// The declaration that flags make. Relative names are read against `context`, `./x` against `folder`.
pub(crate) fn spec(declare: &DeclareArgs, launch: &LaunchArgs, context: &Name, folder: &Path) -> Result<Spec> {
    let name = |field: &str, text: &str| {
        Name::resolve(context, text).map_err(|e| Error::from(e).field(field)).map(|n| n.as_str().to_owned())
    };
    let mut spec = Spec {
        kind: None,
        attributes: None,
        public: some(&declare.public),
        owner: declare.owner.clone(),
        ttl: declare.ttl,
        launch: self::launch(launch, folder)?,
        choose: declare.choose,
        target: None,
        members: None,
        addresses: some(&declare.addresses),
        value: value(declare)?,
        index: some(&declare.index),
        servers: None,
        interface: declare.interface.clone(),
        parameter: declare.parameter.clone(),
        audit: declare.audit,
        certified: declare.certified_file.as_deref().map(certified).transpose()?,
        disabled: declare.disabled.then_some(true),
        ..Spec::default()
    };
    if let Some(target) = &declare.target {
        spec.target = Some(Name::resolve(context, target).map_err(|e| Error::from(e).field("target"))?);
    }
    if !declare.members.is_empty() {
        spec.members = Some(declare.members.iter().map(|m| name("members", m)).collect::<Result<_>>()?);
    }
    if !declare.servers.is_empty() {
        spec.servers = Some(declare.servers.iter().map(|s| name("servers", s)).collect::<Result<_>>()?);
    }
    for attribute in &declare.attributes {
        parse_attribute(attribute, spec.attributes.get_or_insert_default())?;
    }
    Ok(spec)
}

/// The kind that a declaration without one has.
pub(crate) fn kind_of(spec: &Spec) -> Kind {
    if spec.value.is_some() {
        Kind::Record
    } else if spec.target.is_some() {
        Kind::Alias
    } else if spec.members.is_some() {
        Kind::Group
    } else if spec.addresses.is_some() {
        Kind::Computer
    } else if spec.servers.is_some() || spec.interface.is_some() || spec.parameter.is_some() {
        Kind::Junction
    } else if spec.launch.is_some() || spec.choose.is_some() {
        Kind::Service
    } else {
        Kind::Directory
    }
}

/// A parser of one of these words.
pub(crate) fn word<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: impl IntoIterator<Item = &'static str>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words)
        .try_map(|text| serde_json::from_value::<T>(serde_json::Value::String(text)).map_err(|e| e.to_string()))
}

fn value(declare: &DeclareArgs) -> Result<Option<String>> {
    let Some(file) = &declare.value_file else { return Ok(declare.value.clone()) };
    prompt::whole(file, byname_api::object::MAX_VALUE_BYTES, "value").map(Some)
}

fn certified(file: &Path) -> Result<String> {
    Ok(prompt::whole(file, 64 << 10, "certified")?.trim().to_owned())
}

/// The value of a secret never stands among the words of a command.
pub(crate) fn no_secret_in_words(kind: Option<Kind>, declare: &DeclareArgs) -> Result<()> {
    if kind == Some(Kind::Secret) && declare.value.is_some() {
        return Err(Error::invalid(
            "value",
            "everybody on this host can read the words of a command: take another value by now, and give it with \
             `byname secret set NAME`, which asks for it, or with --value-file FILE",
        ));
    }
    Ok(())
}

fn launch(args: &LaunchArgs, folder: &Path) -> Result<Option<Launch>> {
    let command = match &args.command {
        Some(line) => {
            let read: Launch = serde_json::from_value(serde_json::json!({ "command": line }))
                .map_err(|e| Error::invalid("launch.command", e.to_string()))?;
            read.command
        }
        None => some(&args.words),
    };
    let local = |list: Option<Vec<String>>| list.map(|l| l.iter().map(|t| beside(folder, t)).collect::<Vec<_>>());
    let mut limits: Option<Limits> = None;
    for limit in &args.limits {
        let all = limits.get_or_insert_default();
        all.cpu = limit.cpu.or(all.cpu);
        all.memory = limit.memory.or(all.memory);
        all.files = limit.files.or(all.files);
    }
    let mut env: Option<std::collections::BTreeMap<String, EnvValue>> = None;
    for variable in &args.env {
        let (name, value) = pair("launch.env", variable)?;
        env.get_or_insert_default().insert(name.into(), EnvValue::Text(beside(folder, value)));
    }
    let mut restart: Option<Restart> = None;
    for text in &args.restart {
        let (key, value) = pair("launch.restart", text)?;
        let span = || value.parse::<Span>().map_err(|e| Error::invalid(format!("launch.restart.{key}"), e.to_string()));
        let restart = restart.get_or_insert_default();
        match key {
            "max" => {
                restart.max = value.parse().map_err(|_| Error::invalid("launch.restart.max", "must be a number"))?;
            }
            "window" => restart.window = span()?,
            "backoff" => restart.backoff = span()?,
            _ => return Err(Error::invalid("launch.restart", "the keys are max, window and backoff")),
        }
    }
    let launch = Launch {
        program: args.program.clone(),
        command: local(command),
        args: local(some(&args.args)),
        env,
        directory: args.directory.as_deref().map(|d| beside(folder, d)),
        hosts: some(&args.hosts),
        copies: args.copies,
        start: args.start,
        start_by: some(&args.start_by),
        idle_stop: args.idle_stop,
        endpoints: (!args.endpoints.is_empty()).then(|| args.endpoints.clone()),
        listen: some(&args.listen),
        handover: args.handover,
        convention: args.convention,
        ready: args.ready,
        ready_path: args.ready_path.clone(),
        start_timeout: args.start_timeout,
        stop_timeout: args.stop_timeout,
        restart,
        limits,
        user: args.user.clone(),
        on_partition: args.on_partition,
        dns_start: args.dns_start,
        check: (!args.checks.is_empty()).then(|| args.checks.iter().map(|check| near(check, folder)).collect()),
    };
    Ok((launch != Launch::default()).then_some(launch))
}

fn some(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn pair<'a>(field: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| Error::invalid(field, format!("`{}` is not NAME=VALUE", text.escape_debug())))
}

/// A check whose command is relative to a folder.
fn near(check: &Check, folder: &Path) -> Check {
    let local = |list: &Option<Vec<String>>| list.as_ref().map(|l| l.iter().map(|t| beside(folder, t)).collect());
    Check { command: local(&check.command), args: local(&check.args), ..check.clone() }
}

/// `http,path=/healthz,interval=2s`: the kind, then fields; a command line is the last and may hold commas.
fn check(text: &str) -> Result<Check, String> {
    let (kind, mut rest) = text.split_once(',').unwrap_or((text, ""));
    let mut fields = serde_json::Map::new();
    fields.insert("kind".into(), kind.into());
    while !rest.is_empty() {
        let (field, after) = match rest.strip_prefix("command=") {
            Some(_) => (rest, ""),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        rest = after;
        let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` is not KEY=VALUE"))?;
        let value = match key {
            "rise" | "fall" => value.parse::<u32>().map(Into::into).map_err(|_| format!("{key} must be a number"))?,
            "restart" => {
                value.parse::<bool>().map(Into::into).map_err(|_| "restart must be true or false".to_owned())?
            }
            _ => serde_json::Value::from(value),
        };
        fields.insert(key.into(), value);
    }
    serde_json::from_value(fields.into()).map_err(|error| error.to_string())
}

fn copies(text: &str) -> Result<Copies, String> {
    let number =
        |t: &str| u32::from_str(t).map_err(|_| "write MIN..MAX, such as 0..2, or one number for both".to_owned());
    let copies = match text.split_once("..") {
        Some((min, max)) => Copies { min: if min.is_empty() { 0 } else { number(min)? }, max: number(max)? },
        None => Copies { min: number(text)?, max: number(text)? },
    };
    if copies.max == 0 || copies.min > copies.max {
        return Err("MAX must be at least 1 and at least MIN".into());
    }
    Ok(copies)
}

fn endpoint(text: &str) -> Result<EndpointSpec, String> {
    let bad = || "write PROTOCOL:PORT, such as tcp:0, or PORT".to_owned();
    let (protocol, rest) = text.split_once(':').unwrap_or(("tcp", text));
    let (address, port) = match rest.rsplit_once(':') {
        Some((address, port)) => (Some(address.trim_matches(['[', ']']).to_owned()), port),
        None => (None, rest),
    };
    if protocol.is_empty() {
        return Err(bad());
    }
    Ok(EndpointSpec { protocol: protocol.into(), port: port.parse().map_err(|_| bad())?, address })
}

fn socket(text: &str) -> Result<String, String> {
    StableSocket::parse(text).map(|_| text.to_owned()).map_err(|e| e.message().to_owned())
}

fn limit(text: &str) -> Result<Limits, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let mut limits = Limits::default();
    match key {
        "memory" => limits.memory = Some(value.parse()?),
        "cpu" => limits.cpu = Some(value.parse().map_err(|_| "cpu is a number of cores, such as 0.5".to_owned())?),
        "files" => limits.files = Some(value.parse().map_err(|_| "files is a number".to_owned())?),
        _ => return Err("write memory=512M, cpu=0.5 or files=1024".into()),
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};

    use super::*;
    use crate::cli::{Cli, Command, command};

    fn add(words: &[&str]) -> Result<Spec> {
        let words = ["byname", "add", "/x"].iter().chain(words);
        let cli = Cli::from_arg_matches(&command().get_matches_from(words)).unwrap();
        let Some(Command::Add(args)) = cli.command else { panic!("not an add") };
        let mut spec = spec(&args.declare, &args.launch, &"/ctx".parse().unwrap(), Path::new("/here"))?;
        spec.kind = Some(args.kind.unwrap_or_else(|| kind_of(&spec)));
        spec.check()?;
        Ok(spec)
    }

    fn toml(text: &str) -> Spec {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn flags_say_what_files_say() {
        for (words, file) in [
            (&[][..], "kind = 'directory'"),
            (&["--value", "-1"], "kind = 'record'\nvalue = '-1'"),
            (&["--target", "a/b"], "kind = 'alias'\ntarget = '/ctx/a/b'"),
            (&["--member", "/a", "--member", "b"], "kind = 'group'\nmembers = ['/a', '/ctx/b']"),
            (&["--index", "team", "--index", "tier"], "kind = 'directory'\nindex = ['team', 'tier']"),
            (
                &[
                    "--junction-server",
                    "/s/1",
                    "--junction-server",
                    "s2",
                    "--interface",
                    "dns",
                    "--parameter",
                    "-p",
                    "--choose",
                    "random",
                ],
                "kind = 'junction'\nservers = ['/s/1', '/ctx/s2']\ninterface = 'dns'\nparameter = '-p'\nchoose = 'random'",
            ),
            (
                &["--listen", "127.0.0.1:5432", "--listen", "unix:/run/x.sock", "--handover", "fds", "--", "x"],
                "kind = 'service'\n[launch]\ncommand = ['x']\nlisten = ['127.0.0.1:5432', 'unix:/run/x.sock']\nhandover = 'fds'",
            ),
            (
                &[
                    "--check",
                    "http,path=/healthz,status=200-299,interval=1s,rise=1,restart=true",
                    "--check",
                    "command,timeout=5s,command=./look --all 'a, b'",
                    "--check",
                    "ttl",
                    "--",
                    "x",
                ],
                "kind = 'service'\n[launch]\ncommand = ['x']\ncheck = [\
                 { kind = 'http', path = '/healthz', status = '200-299', interval = '1s', rise = 1, restart = true },\
                 { kind = 'command', timeout = '5s', command = ['/here/look', '--all', 'a, b'] }, { kind = 'ttl' }]",
            ),
            (
                &["--kind", "principal", "--disabled", "--audit", "reads"],
                "kind = 'principal'\ndisabled = true\naudit = 'reads'",
            ),
            (&["--address", "192.0.2.1"], "kind = 'computer'\naddresses = ['192.0.2.1']"),
            (
                &["--attr", "n=1", "--attr", "n=two", "--attr", "f=true", "--ttl", "5m", "--owner", "me"],
                "kind = 'directory'\nattributes = { n = [1, 'two'], f = true }\nttl = '5m'\nowner = 'me'",
            ),
            (
                &["--choose", "round-robin", "--", "./serve", "--port", "${PORT}"],
                "kind = 'service'\nchoose = 'round-robin'\nlaunch.command = ['/here/serve', '--port', '${PORT}']",
            ),
            (
                &["--command", "sh -c 'echo ./x'", "--ready", "notify", "--start", "always", "--on-partition", "stop"],
                "kind = 'service'\nlaunch = { command = ['sh', '-c', 'echo ./x'], ready = 'notify', start = 'always', on_partition = 'stop' }",
            ),
            (
                &[
                    "--program",
                    "redis",
                    "--arg",
                    "--save",
                    "--arg",
                    "",
                    "--env",
                    "A=b=c",
                    "--copies",
                    "1..3",
                    "--host",
                    "h*",
                    "--idle-stop",
                    "10m",
                    "--limit",
                    "memory=512M",
                    "--limit",
                    "cpu=0.5",
                    "--endpoint",
                    "http:8080",
                    "--endpoint",
                    "0",
                    "--endpoint",
                    "udp:[::1]:53",
                    "--restart",
                    "max=2",
                    "--user",
                    "nobody",
                ],
                "kind = 'service'\n[launch]\nprogram = 'redis'\nargs = ['--save', '']\nenv = { A = 'b=c' }\n\
                 copies = { min = 1, max = 3 }\nhosts = 'h*'\nidle_stop = '10m'\nlimits = { memory = '512M', cpu = 0.5 }\n\
                 endpoints = [{ protocol = 'http', port = 8080 }, {}, { protocol = 'udp', address = '::1', port = 53 }]\n\
                 restart = { max = 2 }\nuser = 'nobody'",
            ),
        ] {
            assert_eq!(add(words).unwrap(), toml(file), "{words:?}");
        }
    }

    #[test]
    fn a_wrong_flag_is_named() {
        for (words, field) in [
            (&["--target", "a//b"][..], "target"),
            (&["--attr", "n"], "attributes"),
            (&["--kind", "alias"], "target"),
            (&["--kind", "group", "--value", "x"], "value"),
            (&["--env", "=x"], "launch.env"),
            (&["--command", "echo 'x"], "launch.command"),
            (&["--restart", "often=1"], "launch.restart"),
            (&["--interface", "dns"], "servers"),
            (&["--junction-server", "/a"], "interface"),
            (&["--junction-server", "a//b", "--interface", "dns"], "servers"),
            (&["--handover", "fds", "--", "x"], "launch.handover"),
            (&["--check", "tcp", "--check", "http,path=x", "--", "x"], "launch.check[1].path"),
            (&["--index", "a b"], "index"),
            (&["--value-file", "/does/not/exist"], "value"),
            (&["--certified", "/does/not/exist"], "certified"),
            (&["--kind", "group", "--disabled"], "disabled"),
        ] {
            assert_eq!(add(words).unwrap_err().at_field(), Some(field), "{words:?}");
        }
    }

    #[test]
    fn a_value_comes_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "line 1\nline 2\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(add(&["--value-file", path]).unwrap().value.as_deref(), Some("line 1\nline 2\n"));
        std::fs::write(file.path(), vec![b'x'; (1 << 20) + 1]).unwrap();
        assert_eq!(add(&["--value-file", path]).unwrap_err().code(), byname_api::Code::TooLarge);
        std::fs::write(file.path(), [0xff]).unwrap();
        assert_eq!(add(&["--value-file", path]).unwrap_err().at_field(), Some("value"));
    }

    #[test]
    fn program_and_command_exclude_each_other() {
        assert!(Cli::try_parse_from(["byname", "add", "/x", "--program", "a", "--command", "b"]).is_err());
        assert!(Cli::try_parse_from(["byname", "add", "/x", "--program", "a", "--", "b"]).is_err());
    }
}
