//! Closed sets of words: as enums where many messages carry them, as text where only declarations do.

use super::{Change, Health, Kind, Outcome, State};
use crate::audit::Outcome as AuditOutcome;
use crate::error::{Error, Result};
use crate::host::{DrainAct, HostState};
use crate::identity::JoinAs;
use crate::launch::{CheckKind, Convention, Handover, OnPartition, Ready, Start};
use crate::object::{self, Audited, Choose};
use crate::{request, service};

/// A set of words that travels as text.
pub(super) trait Word: Copy + 'static {
    /// Every word with its text.
    const ALL: &'static [(&'static str, Self)];

    fn text(self) -> &'static str;

    fn read(text: &str, field: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|(word, _)| *word).collect();
            let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            Error::invalid(field, format!("`{shown}` is none of {}", words.join(", ")))
        })
    }
}

pub(super) fn word_option<W: Word>(text: Option<String>, field: &str) -> Result<Option<W>> {
    text.map(|text| W::read(&text, field)).transpose()
}

pub(super) fn text_option<W: Word>(word: Option<W>) -> Option<String> {
    word.map(|word| word.text().into())
}

macro_rules! words {
    ($($type:ident { $($variant:ident = $text:literal),* $(,)? })*) => { $(
        impl Word for $type {
            const ALL: &'static [(&'static str, Self)] = &[$(($text, $type::$variant)),*];

            fn text(self) -> &'static str {
                match self { $($type::$variant => $text),* }
            }
        }
    )* };
}

words! {
    Choose {
        First = "first",
        Fastest = "fastest",
        Random = "random",
        RoundRobin = "round-robin",
        LeastLoaded = "least-loaded",
        Nearest = "nearest",
        All = "all",
    }
    Start { OnDemand = "on-demand", Always = "always", Manual = "manual" }
    Ready { Advertise = "advertise", Notify = "notify", Port = "port", Http = "http" }
    OnPartition { Keep = "keep", Stop = "stop" }
    AuditOutcome { Ok = "ok", Denied = "denied", Unauthenticated = "unauthenticated", Failed = "failed" }
    JoinAs { Agent = "agent", Server = "server" }
    Audited { Changes = "changes", Reads = "reads" }
    HostState { Up = "up", Draining = "draining", Down = "down" }
    DrainAct { Look = "look", Drain = "drain", Undrain = "undrain" }
    Handover { Relay = "relay", Fds = "fds" }
    Convention { Byname = "byname", Dp = "dp" }
    CheckKind { Tcp = "tcp", Http = "http", Grpc = "grpc", Command = "command", Ttl = "ttl" }
}

/// An enum that travels as a number, with 0 for unsaid.
macro_rules! numbers {
    ($($domain:path, $message:ident, $read:ident, $read_option:ident { $($variant:ident),* $(,)? })*) => { $(
        impl From<$domain> for $message {
            fn from(value: $domain) -> Self {
                use $domain as D;
                match value { $(D::$variant => $message::$variant),* }
            }
        }

        /// Reads the number; 0 is `None`.
        pub(super) fn $read_option(number: i32, field: &str) -> Result<Option<$domain>> {
            use $domain as D;
            match $message::try_from(number) {
                Ok($message::Unspecified) => Ok(None),
                $(Ok($message::$variant) => Ok(Some(D::$variant)),)*
                Err(_) => Err(Error::invalid(
                    field,
                    format!(concat!("{} is no number of ", stringify!($message), " that this server knows"), number),
                )),
            }
        }

        /// Reads the number; 0 is an error.
        #[allow(dead_code, reason = "some sets are never required")]
        pub(super) fn $read(number: i32, field: &str) -> Result<$domain> {
            $read_option(number, field)?.ok_or_else(|| super::field::missing(field))
        }
    )* };
}

numbers! {
    object::Kind, Kind, kind, kind_option { Directory, Service, Alias, Group, Computer, Record, Junction, Principal, Secret }
    service::State, State, state, state_option { Stopped, Starting, Running, Unhealthy, Stopping, Failed }
    service::Health, Health, health, health_option { Passing, Warning, Critical }
    request::Outcome, Outcome, outcome, outcome_option { Created, Changed, Unchanged, Deleted, Checked }
    request::Change, Change, change, change_option { Present, Created, Changed, Deleted, State }
}

/// The number of an enum, 0 for none.
pub(super) fn number_option<M: From<D> + Into<i32>, D>(value: Option<D>) -> i32 {
    value.map_or(0, |value| M::from(value).into())
}
