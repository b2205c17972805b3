//! Recomputing the whole chain.

use std::io;
use std::path::Path;

use byname_api::audit::Verification;
use byname_api::error::{Code, Error, Result};

use crate::line::Hash;
use crate::queue::Place;
use crate::walk::Walk;
use crate::{Anchor, files, unavailable};

/// Verifies the log in a folder without its server, which should not run: a line that is being written looks torn.
///
/// # Errors
/// `not-found` when there is no such folder, `unavailable` when a file cannot be read.
pub fn verify_files(dir: &Path, anchors: &[Anchor]) -> Result<Verification> {
    all(dir, anchors).map_err(|error| {
        // Whoever calls this is at the machine and may know the folder.
        let code = if error.kind() == io::ErrorKind::NotFound { Code::NotFound } else { Code::Unavailable };
        Error::new(code, format!("the audit log in {} cannot be read: {error}", dir.display()))
    })
}

fn all(dir: &Path, anchors: &[Anchor]) -> io::Result<Verification> {
    let mut walk = Walk::new(None, anchors);
    for first in files::list(dir)? {
        walk.file(dir, first, u64::MAX)?;
    }
    Ok(verdict(walk))
}

/// Verifies a log that is being written, up to `place`.
pub(crate) fn verify(dir: &Path, server: u64, place: Place, anchors: &[Anchor]) -> Result<Verification> {
    up_to(dir, server, place, anchors).map_err(|error| unavailable(dir, &error))
}

fn up_to(dir: &Path, server: u64, place: Place, anchors: &[Anchor]) -> io::Result<Verification> {
    // What was written last is known here better than from any anchor.
    let mut all = anchors.to_vec();
    all.push(place.head);
    let mut walk = Walk::new(Some(server), &all);
    let written = |first: &u64| place.file == 0 || *first <= place.file;
    for first in files::list(dir)?.into_iter().filter(written) {
        let len = if first == place.file { place.len } else { u64::MAX };
        match walk.file(dir, first, len) {
            // Removed by the owner since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && walk.first.is_none() => {}
            other => other?,
        }
    }
    let mut verification = verdict(walk);
    if place.head.sequence > 0 && !anchors.iter().any(|anchor| anchor.sequence == place.head.sequence) {
        verification.anchors = verification.anchors.saturating_sub(1);
    }
    Ok(verification)
}

fn verdict(mut walk: Walk) -> Verification {
    if walk.torn.is_some() {
        let after = walk.tip.map_or(0, |tip| tip.sequence);
        walk.troubles.add(format!(
            "the last line, behind record {after}, has no end: a crash leaves one such line, which the server cuts off when it starts"
        ));
    }
    walk.end();
    let tip = walk.tip.unwrap_or_default();
    let trouble = walk.troubles.told();
    Verification {
        server: walk.server.unwrap_or(0),
        records: walk.records,
        first: walk.first.unwrap_or(0),
        last: tip.sequence,
        head: if tip.sequence > 0 { Hash(tip.hash).to_string() } else { String::new() },
        anchors: walk.anchors_met(),
        intact: trouble.is_none(),
        trouble,
    }
}
