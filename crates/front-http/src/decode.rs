//! Reading the target of a request: names out of paths, typed parameters out of queries. Percent escapes are decoded
//! exactly once.

use byname_api::object::InstanceId;
use byname_api::span::{Span, Timestamp};
use byname_api::{Code, Error, Result};
use byname_name::{Name, http};
use serde::Deserialize;
use serde::de::value::{Error as ReadError, StrDeserializer};

use crate::routes::{Param, ParamKind};

/// The name in a path, without its first slash, as sent. An escaped slash is refused: it would be a label's own
/// character, and no label holds one.
pub(crate) fn name(raw: &str) -> Result<Name> {
    http::from_path(raw).map_err(|e| Error::new(Code::InvalidName, e.to_string()).field("name"))
}

/// The values that a query gives for the parameters of a route.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(&'static str, Given)>);

#[derive(Debug)]
enum Given {
    Bool(bool),
    Count(u32),
    Span(Span),
    Instance(InstanceId),
    Time(Timestamp),
    Text(String),
}

impl Query {
    /// Reads a query against the parameters that a route takes.
    ///
    /// # Errors
    ///
    /// `invalid-argument` with the parameter as its field: unknown, given twice, or not of its type.
    pub(crate) fn parse(query: Option<&str>, params: &'static [Param]) -> Result<Self> {
        let mut given: Vec<(&'static str, Given)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = unescape(key).map_err(|e| e.within("a parameter's name"))?;
            let Some(param) = params.iter().find(|p| p.name == key) else {
                return Err(unknown(&key, params));
            };
            if given.iter().any(|(name, _)| *name == param.name) {
                return Err(Error::invalid(param.name, "the parameter is given twice"));
            }
            let value = unescape(value).map_err(|e| e.field(param.name))?;
            given.push((param.name, typed(param, value)?));
        }
        Ok(Query(given))
    }

    fn get(&self, name: &str) -> Option<&Given> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// A yes/no.
    pub(crate) fn bool(&self, name: &str, default: bool) -> bool {
        if let Some(Given::Bool(value)) = self.get(name) { *value } else { default }
    }

    /// A number.
    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        if let Some(Given::Count(value)) = self.get(name) { Some(*value) } else { None }
    }

    /// A length of time.
    pub(crate) fn span(&self, name: &str) -> Option<Span> {
        if let Some(Given::Span(value)) = self.get(name) { Some(*value) } else { None }
    }

    /// An instance.
    pub(crate) fn instance(&self, name: &str) -> Option<InstanceId> {
        if let Some(Given::Instance(value)) = self.get(name) { Some(*value) } else { None }
    }

    /// A point in time.
    pub(crate) fn time(&self, name: &str) -> Option<Timestamp> {
        if let Some(Given::Time(value)) = self.get(name) { Some(*value) } else { None }
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        if let Some(Given::Text(value)) = self.get(name) { Some(value.clone()) } else { None }
    }
}

fn typed(param: &Param, value: String) -> Result<Given> {
    let bad = |message: String| Error::invalid(param.name, message);
    let shown = || value.chars().take(40).collect::<String>().escape_debug().to_string();
    match param.kind {
        ParamKind::Bool(_) => match value.as_str() {
            "true" => Ok(Given::Bool(true)),
            "false" => Ok(Given::Bool(false)),
            _ => Err(bad(format!("`{}` is neither true nor false", shown()))),
        },
        ParamKind::Count(least, most) => value
            .parse::<u32>()
            .ok()
            .filter(|n| (least..=most).contains(n) && value.bytes().all(|b| b.is_ascii_digit()))
            .map(Given::Count)
            .ok_or_else(|| bad(format!("`{}` is not a whole number from {least} to {most}", shown()))),
        ParamKind::Span => value.parse().map(Given::Span).map_err(|e: byname_api::span::SpanError| bad(e.to_string())),
        ParamKind::Instance => value
            .parse()
            .map(Given::Instance)
            .map_err(|_| bad(format!("`{}` is not the id of an instance: those begin with `i`", shown()))),
        ParamKind::Time => Timestamp::deserialize(StrDeserializer::<ReadError>::new(&value))
            .map(Given::Time)
            .map_err(|_| bad(format!("`{}` is no point in time as 2026-01-31T12:00:00Z", shown()))),
        ParamKind::Word(words) if words.contains(&value.as_str()) => Ok(Given::Text(value)),
        ParamKind::Word(words) => Err(bad(format!("`{}` is none of {}", shown(), words.join(", ")))),
        ParamKind::Text => Ok(Given::Text(value)),
    }
}

fn unknown(key: &str, params: &[Param]) -> Error {
    let shown: String = key.chars().take(60).collect();
    let takes = params.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
    let message = if takes.is_empty() {
        "this path takes no parameters".to_owned()
    } else {
        format!("there is no such parameter here, only {takes}")
    };
    Error::invalid(shown, message)
}

/// Decodes percent escapes once; `+` is a space, as forms write it.
fn unescape(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).and_then(|d| std::str::from_utf8(d).ok());
                let value = digits
                    .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|d| u8::from_str_radix(d, 16).ok())
                    .ok_or_else(|| {
                        Error::new(Code::InvalidArgument, "a `%` must be followed by two hexadecimal digits")
                    })?;
                out.push(value);
                at += 3;
            }
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            other => {
                out.push(*other);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| Error::new(Code::InvalidArgument, "the escapes do not give UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    static PARAMS: &[Param] = &[
        Param { name: "all", kind: ParamKind::Bool(false), doc: "" },
        Param { name: "limit", kind: ParamKind::Count(1, 10), doc: "" },
        Param { name: "timeout", kind: ParamKind::Span, doc: "" },
        Param { name: "failed", kind: ParamKind::Instance, doc: "" },
        Param { name: "pattern", kind: ParamKind::Text, doc: "" },
        Param { name: "since", kind: ParamKind::Time, doc: "" },
        Param { name: "right", kind: ParamKind::Word(&["find", "read"]), doc: "" },
    ];

    #[test]
    fn a_query_reads_typed_and_decoded_once() {
        let q =
            Query::parse(Some("all=true&limit=10&timeout=1m30s&&failed=i7&pattern=%2Fa%252F+b%C3%A9"), PARAMS).unwrap();
        assert!(q.bool("all", false));
        assert_eq!(q.count("limit"), Some(10));
        assert_eq!(q.span("timeout"), Some(Span::from_secs(90)));
        assert_eq!(q.instance("failed"), Some(InstanceId(7)));
        assert_eq!(q.text("pattern").as_deref(), Some("/a%2F bé"));
        let q = Query::parse(Some("since=2023-11-14T23:13:20%2B01:00&right=read"), PARAMS).unwrap();
        assert_eq!((q.time("since"), q.text("right").as_deref()), (Some(Timestamp(1_700_000_000_000)), Some("read")));
    }

    #[test]
    fn what_is_wrong_in_a_query_is_named() {
        for (query, field) in [
            ("nonsense=1", "nonsense"),
            ("all", "all"),
            ("all=yes", "all"),
            ("all=true&all=true", "all"),
            ("limit=0", "limit"),
            ("limit=+3", "limit"),
            ("limit=99999999999999", "limit"),
            ("timeout=soon", "timeout"),
            ("failed=7", "failed"),
            ("pattern=%zz", "pattern"),
            ("pattern=%ff", "pattern"),
            ("pattern=%4", "pattern"),
            ("since=yesterday", "since"),
            ("since=2023-11-14", "since"),
            ("right=fly", "right"),
            ("right=", "right"),
        ] {
            let error = Query::parse(Some(query), PARAMS).unwrap_err();
            assert_eq!((error.code(), error.at_field()), (Code::InvalidArgument, Some(field)), "{query}");
        }
    }
}
