//! Health checks as they are declared: how it is found out whether a copy that was ready is well.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{EndpointSpec, Handover, Launch};
use crate::error::{Error, Result};
use crate::span::Span;

/// How many checks a service may have.
const MAX_CHECKS: usize = 16;
/// The longest pause between two checks.
const MAX_INTERVAL: Span = Span::from_secs(24 * 3_600);

/// One check. Its agent makes it every `interval`, except `ttl`, for which the program reports by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is done.
    pub kind: CheckKind,
    /// Which endpoint is asked: its protocol, or its place in the list, counted from 1. The first that takes connections
    /// when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    pub endpoint: Option<String>,
    /// `http`: the path that is asked for; `/` when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http`: the statuses that are good; 200 to 399 when unsaid. Of the others 429 is a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusRange>,
    /// `grpc`: the service that is asked about; the server as a whole when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `command`: the program and its arguments, where the host's policy allows plain commands. `${PORT} ${NAME}
    /// ${INSTANCE}` expand. Status 0 is passing, 1 a warning, all else critical.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::command")]
    pub command: Option<Vec<String>>,
    /// `command`: an entry of the host's own catalogue, in place of `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// `command`: arguments after those of `command` or `program`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The pause between two checks; 10 s when unsaid. A tenth more or less, so that not all come at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// How long one check may take before it has failed; 2 s when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// `ttl`: how long a report of the program counts; 30 s when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// So many better results in a row make it better; 2 when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// So many worse results in a row make it worse; 3 when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// End a copy that is critical, so that the restart policy starts another; no when unsaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<bool>,
}

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// Connects.
    Tcp,
    /// Asks for a page.
    Http,
    /// Asks with grpc.health.v1.
    Grpc,
    /// Runs a command.
    Command,
    /// Nothing: the program reports by itself, and is critical when it does not.
    Ttl,
}

impl CheckKind {
    /// Every one.
    pub const ALL: [CheckKind; 5] =
        [CheckKind::Tcp, CheckKind::Http, CheckKind::Grpc, CheckKind::Command, CheckKind::Ttl];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            CheckKind::Tcp => "tcp",
            CheckKind::Http => "http",
            CheckKind::Grpc => "grpc",
            CheckKind::Command => "command",
            CheckKind::Ttl => "ttl",
        }
    }
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Statuses of HTTP, both ends included: `200`, `200-299`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The least.
    pub from: u16,
    /// The greatest.
    pub to: u16,
}

impl Default for StatusRange {
    fn default() -> Self {
        StatusRange { from: 200, to: 399 }
    }
}

impl StatusRange {
    /// Whether a status is among them.
    pub fn contains(&self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to { write!(f, "{}", self.from) } else { write!(f, "{}-{}", self.from, self.to) }
    }
}

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || format!("`{}` is no range of statuses: write 200 or 200-299", text.escape_debug());
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|n| (100..=599).contains(n)).ok_or_else(bad);
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let range = StatusRange { from: number(from)?, to: number(to)? };
        if range.from <= range.to { Ok(range) } else { Err(bad()) }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = text_or_number(d)?.unwrap_or_default();
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Check {
    /// A check of this kind, with nothing else said.
    pub fn of(kind: CheckKind) -> Check {
        Check {
            kind,
            endpoint: None,
            path: None,
            status: None,
            service: None,
            command: None,
            program: None,
            args: None,
            interval: None,
            timeout: None,
            ttl: None,
            rise: None,
            fall: None,
            restart: None,
        }
    }

    /// The pause between two checks.
    pub fn interval(&self) -> Span {
        self.interval.unwrap_or(Span::from_secs(10))
    }

    /// How long one check may take.
    pub fn timeout(&self) -> Span {
        self.timeout.unwrap_or(Span::from_secs(2))
    }

    /// How long a report of the program counts.
    pub fn ttl(&self) -> Span {
        self.ttl.unwrap_or(Span::from_secs(30))
    }

    /// So many better results in a row make it better.
    pub fn rise(&self) -> u32 {
        self.rise.unwrap_or(2)
    }

    /// So many worse results in a row make it worse.
    pub fn fall(&self) -> u32 {
        self.fall.unwrap_or(3)
    }

    /// Which of these endpoints it asks; `None` when there is none of that name or number, or none that takes
    /// connections.
    pub fn endpoint_in<'a, T>(&self, endpoints: &'a [T], protocol: impl Fn(&T) -> &str) -> Option<&'a T> {
        let found = match &self.endpoint {
            None => endpoints.iter().find(|e| protocol(e) != "udp"),
            Some(text) => match text.parse::<usize>() {
                Ok(number) => endpoints.get(number.checked_sub(1)?),
                Err(_) => endpoints.iter().find(|e| protocol(e) == text),
            },
        };
        found.filter(|e| protocol(e) != "udp")
    }

    fn check(&self, endpoints: &[EndpointSpec], sockets: bool) -> std::result::Result<(), (&'static str, String)> {
        let bad = |field, message: &str| Err((field, message.to_owned()));
        let kind = self.kind;
        // What another kind reads would be silently of no effect.
        let fields: [(&str, bool, &[CheckKind]); 10] = [
            ("endpoint", self.endpoint.is_some(), &[CheckKind::Tcp, CheckKind::Http, CheckKind::Grpc]),
            ("path", self.path.is_some(), &[CheckKind::Http]),
            ("status", self.status.is_some(), &[CheckKind::Http]),
            ("service", self.service.is_some(), &[CheckKind::Grpc]),
            ("command", self.command.is_some(), &[CheckKind::Command]),
            ("program", self.program.is_some(), &[CheckKind::Command]),
            ("args", self.args.is_some(), &[CheckKind::Command]),
            ("ttl", self.ttl.is_some(), &[CheckKind::Ttl]),
            ("interval", self.interval.is_some(), &CheckKind::ALL[..4]),
            ("timeout", self.timeout.is_some(), &CheckKind::ALL[..4]),
        ];
        for (field, said, kinds) in fields {
            if said && !kinds.contains(&kind) {
                return Err((field, format!("a check of kind `{kind}` has no `{field}`")));
            }
        }
        if kind == CheckKind::Ttl {
            for (field, said) in
                [("rise", self.rise.is_some()), ("fall", self.fall.is_some()), ("restart", self.restart == Some(true))]
            {
                if said {
                    return Err((field, format!("a check of kind `ttl` has no `{field}`: the program's word counts")));
                }
            }
        }
        if matches!(kind, CheckKind::Tcp | CheckKind::Http | CheckKind::Grpc)
            && !(endpoints.is_empty() && sockets)
            && self.endpoint_in(endpoints, |e| &e.protocol).is_none()
        {
            return bad(
                "endpoint",
                "there is no such endpoint that takes connections: give the protocol of one, or its place, counted from 1",
            );
        }
        if self.path.as_ref().is_some_and(|p| !p.starts_with('/') || p.contains(|c: char| c.is_control() || c == ' ')) {
            return bad("path", "must begin with `/` and hold no blanks");
        }
        if self.path.as_ref().is_some_and(|p| p.len() > 1_024) || self.service.as_ref().is_some_and(|s| s.len() > 1_024)
        {
            return bad(if self.path.is_some() { "path" } else { "service" }, "1024 bytes at most");
        }
        if kind == CheckKind::Command {
            match (&self.command, &self.program) {
                (Some(_), Some(_)) => return bad("command", "give either `command` or `program`, not both"),
                (None, None) => return bad("command", "say what to run: the program and its arguments"),
                (Some(words), None) if words.first().is_none_or(String::is_empty) => {
                    return bad("command", "the command is empty: give the program and its arguments");
                }
                _ => {}
            }
            if self.command.iter().flatten().chain(self.args.iter().flatten()).any(|t| t.contains('\0')) {
                return bad("command", "an argument cannot hold a NUL character");
            }
        }
        let between = |span: Span, least: u64| (least..=MAX_INTERVAL.as_millis()).contains(&span.as_millis());
        if !between(self.interval(), 100) {
            return bad("interval", "must be from 100ms to 24h");
        }
        if !between(self.timeout(), 10) {
            return bad("timeout", "must be from 10ms to 24h");
        }
        if !between(self.ttl(), 1_000) {
            return bad("ttl", "must be from 1s to 24h");
        }
        for (field, count) in [("rise", self.rise()), ("fall", self.fall())] {
            if !(1..=1_000).contains(&count) {
                return bad(field, "must be from 1 to 1000");
            }
        }
        Ok(())
    }
}

/// Limits kept for the checks of every launch.
pub(super) fn check_all(launch: &Launch) -> Result<()> {
    let checks = launch.check.as_deref().unwrap_or_default();
    if checks.len() > MAX_CHECKS {
        return Err(Error::invalid("launch.check", format!("{MAX_CHECKS} checks at most")));
    }
    let endpoints = launch.endpoints();
    for (at, check) in checks.iter().enumerate() {
        check
            .check(&endpoints, launch.handover() == Handover::Fds)
            .map_err(|(field, message)| Error::invalid(format!("launch.check[{at}].{field}"), message))?;
        if check.kind == CheckKind::Ttl && checks.iter().take(at).any(|c| c.kind == CheckKind::Ttl) {
            return Err(Error::invalid(
                format!("launch.check[{at}].kind"),
                "there is a check of kind `ttl` already: a report does not say which it is for",
            ));
        }
    }
    Ok(())
}

/// A list of checks, or one that stands for a list of one.
pub(super) fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Vec<Check>>, D::Error> {
    struct Either;

    // By hand, because an untagged choice would say of a mistake only that nothing matches.
    impl<'de> serde::de::Visitor<'de> for Either {
        type Value = Option<Vec<Check>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a check or a list of checks")
        }

        fn visit_none<E>(self) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: serde::Deserializer<'de>>(self, d: D) -> std::result::Result<Self::Value, D::Error> {
            d.deserialize_any(self)
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
            let check = Check::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
            Ok(Some(vec![check]))
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> std::result::Result<Self::Value, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Some)
        }
    }
    d.deserialize_option(Either)
}

/// A text, or a number that stands for its digits.
fn text_or_number<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Text(String),
    }
    Ok(Option::<Either>::deserialize(d)?.map(|either| match either {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(text: &str) -> Launch {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn one_check_or_several_with_defaults() {
        let one = launch("check = { kind = 'http', path = '/healthz', status = 200, interval = '1s' }");
        one.check().unwrap();
        let check = &one.check.as_deref().unwrap()[0];
        assert_eq!((check.kind, check.status), (CheckKind::Http, Some(StatusRange { from: 200, to: 200 })));
        assert_eq!((check.interval(), check.timeout()), (Span::from_secs(1), Span::from_secs(2)));
        assert_eq!((check.rise(), check.fall()), (2, 3));
        let two = launch(
            "endpoints = [{ protocol = 'udp' }, { protocol = 'http' }]\n\
             check = [{ kind = 'tcp', endpoint = 2 }, { kind = 'command', command = \"test -e 'a b'\" }, { kind = 'ttl' }]",
        );
        two.check().unwrap();
        let checks = two.check.as_deref().unwrap();
        assert_eq!(checks[1].command.as_deref().unwrap(), ["test", "-e", "a b"]);
        assert_eq!(checks[0].endpoint_in(&two.endpoints(), |e| &e.protocol).unwrap().protocol, "http");
        let json = serde_json::to_string(&two).unwrap();
        assert_eq!(serde_json::from_str::<Launch>(&json).unwrap(), two);
        assert!(json.contains(r#""check":[{"kind":"tcp","endpoint":"2"}"#), "{json}");
    }

    #[test]
    fn wrong_checks_are_named() {
        for (text, field) in [
            ("check = { kind = 'tcp', path = '/x' }", "[0].path"),
            ("check = [{ kind = 'tcp' }, { kind = 'http', interval = '1ms' }]", "[1].interval"),
            ("check = { kind = 'http', timeout = '0s' }", "[0].timeout"),
            ("check = { kind = 'http', path = 'x' }", "[0].path"),
            ("check = { kind = 'tcp', endpoint = 2 }", "[0].endpoint"),
            ("check = { kind = 'tcp', endpoint = 0 }", "[0].endpoint"),
            ("check = { kind = 'tcp', endpoint = 'http' }", "[0].endpoint"),
            ("check = { kind = 'tcp' }\nendpoints = [{ protocol = 'udp' }]", "[0].endpoint"),
            ("check = { kind = 'command' }", "[0].command"),
            ("check = { kind = 'command', command = [] }", "[0].command"),
            ("check = { kind = 'command', command = ['a'], program = 'b' }", "[0].command"),
            ("check = { kind = 'ttl', ttl = '10ms' }", "[0].ttl"),
            ("check = { kind = 'ttl', fall = 2 }", "[0].fall"),
            ("check = { kind = 'ttl', restart = true }", "[0].restart"),
            ("check = [{ kind = 'ttl' }, { kind = 'ttl' }]", "[1].kind"),
            ("check = { kind = 'tcp', rise = 0 }", "[0].rise"),
        ] {
            let error = launch(text).check().unwrap_err();
            assert_eq!(error.at_field(), Some(format!("launch.check{field}").as_str()), "{text}");
        }
        let error = toml::from_str::<Launch>("check = { kind = 'tpc' }").unwrap_err().to_string();
        assert!(error.contains("tpc") && error.contains("`ttl`"), "{error}");
        for text in ["", "20", "600", "300-200", "2xx", "200-"] {
            assert!(text.parse::<StatusRange>().is_err(), "{text}");
        }
    }
}
