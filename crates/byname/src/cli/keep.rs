//! The words of the commands that ask for more than one answer, or keep something while they run: `search`, `watch`,
//! `report`, `lock`, `unlock` and `run`.

use clap::Args;

use byname_api::object::InstanceId;
use byname_api::service::Health;
use byname_api::span::Span;

use super::declare::word;

/// `search`.
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// The filter, as in LDAP (RFC 4515): team=media, (&(kind=service)(tier>=2))
    pub filter: String,
    /// Only this name and what is beneath it; the context when unsaid
    #[arg(long, value_name = "NAME")]
    pub under: Option<String>,
    /// At most so many names; all when unsaid
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Go on where a limited search ended (`next` of its JSON form)
    #[arg(long, value_name = "TOKEN")]
    pub next: Option<String>,
    /// Ask the majority of servers, so that the answer is the newest
    #[arg(long)]
    pub consistent: bool,
}

/// `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The pattern; everything beneath the context when unsaid
    pub pattern: Option<String>,
    /// Go on behind this place (`at` of the JSON form)
    #[arg(long, value_name = "AT", conflicts_with = "initial")]
    pub from: Option<String>,
    /// Tell first what is there now
    #[arg(long)]
    pub initial: bool,
    /// End after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The service
    pub name: String,
    /// Which instance; within a launched program its own, else the only one there is
    #[arg(long)]
    pub instance: Option<InstanceId>,
    /// Its load, in a unit of its own: the least loaded is chosen first
    #[arg(long, value_name = "NUMBER", value_parser = finite, required_unless_present_any = ["uses", "health"])]
    pub load: Option<f64>,
    /// So many uses since the last report, for `idle_stop`
    #[arg(long, value_name = "N")]
    pub uses: Option<u64>,
    /// How well it is: a critical copy is named in no answer, one with a warning only where no better one is there
    #[arg(long, value_parser = word::<Health>(["passing", "warning", "critical"]))]
    pub health: Option<Health>,
    /// Why, in a few words
    #[arg(long, value_name = "TEXT", requires = "health")]
    pub note: Option<String>,
}

/// `drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The computer, by its label or its name
    #[arg(value_name = "HOST")]
    pub host: String,
    /// What still runs there after so long is stopped
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: Span,
    /// Do not wait until it is empty
    #[arg(long)]
    pub no_wait: bool,
}

/// `undrain`.
#[derive(Debug, Args)]
pub(crate) struct UndrainArgs {
    /// The computer, by its label or its name
    #[arg(value_name = "HOST")]
    pub host: String,
}

/// `lock`.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The name; a record is made, and goes with the lock, when there is none
    pub name: String,
    /// How long it holds without renewal, which comes at a third of it [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Span>,
    /// Wait so long for another holder to let go; not at all when unsaid
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Span>,
    /// The command to run while the lock is held, and its arguments, behind `--`
    #[arg(last = true, value_name = "CMD")]
    pub words: Vec<String>,
}

/// `unlock`.
#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// The name
    pub name: String,
    /// Take the lock away from whoever holds it
    #[arg(long = "break")]
    pub broken: bool,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The name to run under
    pub name: String,
    /// Where it answers: tcp://HOST:PORT, HOST:PORT or unix:/PATH; may be repeated
    #[arg(long = "endpoint", value_name = "ENDPOINT", conflicts_with = "port")]
    pub endpoints: Vec<String>,
    /// The TCP port on this computer where it answers; 0, as when unsaid, picks a free one
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// With --endpoint: advertise when the first of them takes connections, instead of at once
    #[arg(long, requires = "endpoints")]
    pub ready_port: bool,
    /// How long the name stays without renewal, which comes at a third of it [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Span>,
    /// The command and its arguments, behind `--`; ${PORT} and ${NAME} expand
    #[arg(last = true, required = true, value_name = "CMD")]
    pub words: Vec<String>,
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| "write a number, such as 0.7".to_owned())
}
