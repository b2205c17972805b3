//! Searching, newest first, by reading the files backwards.

use std::fmt;
use std::io;
use std::path::Path;

use byname_api::audit::{AuditReply, AuditRequest, DEFAULT_LIMIT};
use byname_api::error::{Error, Result};
use byname_api::span::Timestamp;
use byname_name::{Name, Pattern};

use crate::files::{self, Backwards};
use crate::line::Line;
use crate::unavailable;

/// A page has so many records at most.
const MAX_LIMIT: u32 = 1_000;
/// A page looks at so many records at most.
const LOOKED_AT: u64 = 200_000;
/// So many records in a row that are too old end a search: one alone may be of a clock that was wrong for a moment.
const OLD: u32 = 1_000;
/// Records stand in the order in which they were recorded, and times may step back by so much, in milliseconds: floods are
/// recorded at their end, and clocks are set.
const DISORDER_MS: u64 = 3_600_000;

pub(crate) fn search(dir: &Path, request: &AuditRequest) -> Result<AuditReply> {
    let filter = Filter::of(request)?;
    let from = request.next.as_deref().map(Token::parse).transpose()?;
    page(dir, request, &filter, from).map_err(|error| unavailable(dir, &error))
}

fn page(dir: &Path, request: &AuditRequest, filter: &Filter<'_>, from: Option<Token>) -> io::Result<AuditReply> {
    let limit = match request.limit {
        0 => DEFAULT_LIMIT,
        more => more.min(MAX_LIMIT),
    } as usize;
    let mut reply = AuditReply::default();
    let (mut looked_at, mut old) = (0, 0);
    let found = files::list(dir)?;
    for first in found.into_iter().rev().filter(|first| from.is_none_or(|from| *first <= from.file)) {
        let end = from.filter(|from| from.file == first).map(|from| from.end);
        let path = files::path(dir, first);
        let lines = match Backwards::new(&path, end) {
            Ok(lines) if end.is_some() || !filter.is_later(&path)? => Some(lines),
            Ok(_) => None,
            // The owner may remove the oldest at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(mut lines) = lines else { continue };
        while let Some((at, bytes)) = lines.next()? {
            looked_at += 1;
            // What is no record is for a verification to say.
            if let Ok(line) = Line::read(&bytes) {
                let is_old = filter.since.is_some_and(|since| line.at.0.saturating_add(DISORDER_MS) < since.0);
                old = if is_old { old + 1 } else { 0 };
                if old >= OLD {
                    return Ok(reply);
                }
                if filter.fits(&line) {
                    reply.records.extend(line.record());
                }
            }
            if reply.records.len() >= limit || looked_at >= LOOKED_AT {
                reply.next = Some(Token { file: first, end: at }.to_string());
                return Ok(reply);
            }
        }
    }
    Ok(reply)
}

/// What is asked for, read.
struct Filter<'a> {
    request: &'a AuditRequest,
    name: Option<Pattern>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter<'_> {
    fn of(request: &AuditRequest) -> Result<Filter<'_>> {
        let pattern = |text: &String| Pattern::parse(text).map_err(|error| Error::invalid("name", error.to_string()));
        let name = request.name.as_ref().map(pattern).transpose()?;
        Ok(Filter { request, name, since: request.since, until: request.until })
    }

    /// Whether all of the file was written later than what is asked for, by its first and its last record.
    fn is_later(&self, path: &Path) -> io::Result<bool> {
        let Some(until) = self.until else { return Ok(false) };
        let later = |bytes: Option<Vec<u8>>| {
            let line = bytes.and_then(|bytes| Line::read(&bytes).ok());
            line.is_some_and(|line| line.at.0 > until.0.saturating_add(DISORDER_MS))
        };
        if !later(files::first_line(path)?) {
            return Ok(false);
        }
        match Backwards::new(path, None) {
            Ok(mut lines) => Ok(later(lines.next()?.map(|(_, bytes)| bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fits(&self, line: &Line) -> bool {
        let request = self.request;
        request.by.as_ref().is_none_or(|by| *by == line.by)
            && request.operation.as_ref().is_none_or(|operation| *operation == line.operation)
            && request.outcome.is_none_or(|outcome| outcome.as_str() == line.outcome)
            && self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at <= until)
            && self.name.as_ref().is_none_or(|pattern| {
                line.name.as_deref().and_then(|name| Name::parse(name).ok()).is_some_and(|name| pattern.matches(&name))
            })
    }
}

/// Where a page goes on: before the byte `end` of a file. Files only grow at their ends, so it stays true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    file: u64,
    end: u64,
}

impl Token {
    fn parse(text: &str) -> Result<Token> {
        text.split_once('-')
            .and_then(|(file, end)| {
                Some(Token { file: u64::from_str_radix(file, 16).ok()?, end: u64::from_str_radix(end, 16).ok()? })
            })
            .ok_or_else(|| Error::invalid("next", "`next` is what the page before gave, and nothing else"))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.file, self.end)
    }
}
