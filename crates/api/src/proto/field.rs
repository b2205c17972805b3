//! Reading single fields, with errors that name them.

use std::fmt::Display;
use std::str::FromStr;

use byname_name::{Name, Pattern};

use super::Strings;
use crate::error::{Code, Error, Result};
use crate::span::Span;

/// Puts the error's field beneath `parent`: `launch.ready` becomes `spec.launch.ready`.
pub(super) fn within(parent: impl Display) -> impl FnOnce(Error) -> Error {
    move |error| {
        let field = match error.at_field() {
            Some(field) => format!("{parent}.{field}"),
            None => parent.to_string(),
        };
        error.field(field)
    }
}

/// The error of a message that must be there and is not.
pub(super) fn missing(field: &str) -> Error {
    Error::invalid(field, "is missing")
}

pub(super) fn name(text: &str, field: &str) -> Result<Name> {
    Name::parse(text).map_err(|error| Error::from(error).field(field))
}

pub(super) fn name_option(text: Option<String>, field: &str) -> Result<Option<Name>> {
    text.map(|text| name(&text, field)).transpose()
}

/// A pattern. It stays text, as the requests have it.
pub(super) fn pattern(text: String, field: &str) -> Result<String> {
    match Pattern::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::new(Code::InvalidName, error.to_string()).field(field)),
    }
}

/// An id or a version.
pub(super) fn id<T: FromStr<Err = Error>>(text: &str, field: &str) -> Result<T> {
    text.parse().map_err(|error: Error| error.field(field))
}

pub(super) fn id_option<T: FromStr<Err = Error>>(text: Option<String>, field: &str) -> Result<Option<T>> {
    text.map(|text| id(&text, field)).transpose()
}

pub(super) fn span(ms: u64, field: &str) -> Result<Span> {
    let span = Span::from_millis(ms);
    if span.as_millis() == ms { Ok(span) } else { Err(Error::invalid(field, "is longer than ten years")) }
}

pub(super) fn span_option(ms: Option<u64>, field: &str) -> Result<Option<Span>> {
    ms.map(|ms| span(ms, field)).transpose()
}

pub(super) fn port(number: u32, field: &str) -> Result<u16> {
    u16::try_from(number).map_err(|_| Error::invalid(field, format!("{number} is no port: the highest is 65535")))
}

/// The word for a protocol; `tcp` when unsaid.
pub(super) fn protocol(text: String) -> String {
    if text.is_empty() { "tcp".into() } else { text }
}

/// Converts each element; errors are within `field[INDEX]`.
pub(super) fn each<M, D: TryFrom<M, Error = Error>>(messages: Vec<M>, field: &str) -> Result<Vec<D>> {
    let mut values = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        values.push(D::try_from(message).map_err(|error| within(format_args!("{field}[{index}]"))(error))?);
    }
    Ok(values)
}

/// Converts a message that may be absent.
pub(super) fn option<M, D: TryFrom<M, Error = Error>>(message: Option<M>, field: &str) -> Result<Option<D>> {
    message.map(D::try_from).transpose().map_err(within(field))
}

/// Converts a message that must be there.
pub(super) fn required<M, D: TryFrom<M, Error = Error>>(message: Option<M>, field: &str) -> Result<D> {
    D::try_from(message.ok_or_else(|| missing(field))?).map_err(within(field))
}

pub(super) fn all_into<M: From<D>, D>(values: Vec<D>) -> Vec<M> {
    values.into_iter().map(M::from).collect()
}

impl From<Vec<String>> for Strings {
    fn from(values: Vec<String>) -> Self {
        Strings { values }
    }
}

impl From<Strings> for Vec<String> {
    fn from(message: Strings) -> Self {
        message.values
    }
}
