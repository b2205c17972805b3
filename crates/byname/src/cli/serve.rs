//! The words of `dev`, `server` and `agent`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use byname_api::span::Span;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// Nowhere.
    Off,
    /// Here; port 0 picks a free one.
    At(SocketAddr),
}

impl Default for Listen {
    /// 127.0.0.1:7600.
    fn default() -> Self {
        Listen::At(SocketAddr::from(([127, 0, 0, 1], 7600)))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Listen::Off);
        }
        text.parse().map(Listen::At).map_err(|_| "write ADDRESS:PORT, such as 127.0.0.1:7600, or off".into())
    }
}

/// What `dev` and `server` listen on.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Listening")]
pub(crate) struct ListenArgs {
    /// gRPC and HTTP/JSON: ADDRESS:PORT, port 0 picks one, `off` leaves only the socket [default: 127.0.0.1:7600]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<Listen>,
    /// DNS over UDP and TCP: ADDRESS:PORT, port 0 picks one; 7653 is the usual one without rights to 53 [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    pub dns: Option<Listen>,
    /// A resolver, ADDRESS or ADDRESS:PORT, that the DNS asks for names of others on behalf of this host and of private
    /// networks; may be repeated [default: such names are refused]
    #[arg(long, value_name = "ADDR", value_parser = resolver)]
    pub dns_forward: Vec<SocketAddr>,
    /// LDAP [default: off]
    #[arg(long, value_name = "ADDR:PORT", value_parser = off)]
    pub ldap: Option<Listen>,
    /// The protocol of the Tcl-DP name server: ADDRESS:PORT, 4765 of old; for callers on this host [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    pub dp: Option<Listen>,
}

/// `dev`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DevArgs {
    /// The data directory [default: ~/.local/state/byname/dev]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A folder of catalogue files, besides DATA/programs.d; may be repeated
    #[arg(long, value_name = "DIR")]
    pub programs: Vec<PathBuf>,
    /// What to listen on.
    #[command(flatten)]
    pub listen: ListenArgs,
}

/// `server`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServerArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The configuration [default: /etc/byname/server.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to listen on.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The trust domain, and the suffix of the DNS forms of names; fixed at the first start [default: byname.internal]
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// A host name, beside those beneath the domain, that clients reach this server by; may be repeated
    #[arg(long = "host-name", value_name = "NAME")]
    pub host_names: Vec<String>,
    /// Where the root of the trust domain is: `own` makes one, `external` has it sign a request (`byname ca`)
    // It takes the place of the `--ca FILE` of every command, which asks a server: so it has that one's type.
    #[arg(long, value_name = "WHERE", value_parser = where_root())]
    pub ca: Option<PathBuf>,
    /// A host whose agent was silent for so long is down: what runs there is not answered [default: 3s]
    #[arg(long, value_name = "TIME")]
    pub host_silence: Option<Span>,
    /// The copies on a host that was silent for so long are started elsewhere, those that shall always run [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub host_grace: Option<Span>,
    /// Callers of --dp on other hosts are let in too, as `anyone`: that protocol has neither encryption nor a proof of who calls
    #[arg(long)]
    pub dp_anyone: bool,
    /// Where the other servers reach this one: HOST:PORT, or a host alone [default: what it listens on]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Join the servers that made this token, once: the server keeps what it is given (`byname cluster invite --name-server`)
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<String>,
}

/// `agent`. The server to serve is the `--server` of every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AgentArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A folder of catalogue files; may be repeated
    #[arg(long, value_name = "DIR")]
    pub programs: Vec<PathBuf>,
    /// The configuration [default: /etc/byname/agent.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The label of this host beneath /computers [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub computer: Option<String>,
    /// An address at which others reach this host, the best first; may be repeated [default: that of the interface by
    /// which it reaches the server, then its others; 127.0.0.1 when the server is on this host]
    #[arg(long = "address", value_name = "IP")]
    pub addresses: Vec<IpAddr>,
    /// Join the servers that made this token, once: the agent keeps what it is given (`byname cluster invite --agent`)
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<String>,
    /// Where the servers are: `--server` or BYNAME_SERVER, filled in by the caller.
    #[arg(skip)]
    pub server: Option<String>,
    /// The bearer token for the server, filled in by the caller.
    #[arg(skip)]
    pub token: Option<String>,
}

/// The words of `ca` in server.toml.
fn where_root() -> impl TypedValueParser<Value = PathBuf> {
    PossibleValuesParser::new(["own", "external"]).map(PathBuf::from)
}

/// Where a resolver is asked: port 53 when none is said.
pub(crate) fn resolver(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    address.or_else(|_| text.parse()).map_err(|_| "write ADDRESS or ADDRESS:PORT, such as 192.0.2.53".into())
}

fn off(text: &str) -> Result<Listen, String> {
    match text.parse()? {
        Listen::Off => Ok(Listen::Off),
        Listen::At(_) => Err("this front end is not in this build yet: leave it `off`".into()),
    }
}
