//! Going along a chain of files, line by line, and noticing whatever does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::Anchor;
use crate::files::{self, Piece};
use crate::line::{BEGIN, DAMAGED, Hash, Line, origin};

/// So many findings are told; the rest is counted.
const TOLD: usize = 5;
/// Numbers from here on are not believed, nor those so far behind the record before: nobody makes so many records, and whoever
/// makes one up must not use the numbers up.
pub(crate) const NUMBERS: u64 = 1 << 62;
const LEAP: u64 = 1 << 40;

/// What is known after the lines that were seen.
#[derive(Default)]
pub(crate) struct Walk {
    /// The server of the first record, or the one that it must be.
    pub(crate) server: Option<u64>,
    /// The first record's number.
    pub(crate) first: Option<u64>,
    /// The last record that agrees with its own hash.
    pub(crate) tip: Option<Anchor>,
    /// Records that agree with their hashes.
    pub(crate) records: u64,
    /// What was found.
    pub(crate) troubles: Troubles,
    /// What stands behind the last line of the last file, and where it begins.
    pub(crate) torn: Option<(u64, Vec<u8>)>,
    /// Damage that a record notes is forgotten at that record, instead of told again.
    pub(crate) forgiving: bool,
    /// The line before was no record that holds: nothing can be said of how the next follows on it.
    loose: bool,
    /// The other server whose records were told of.
    foreign: Option<u64>,
    /// Another record than the anchored one was told of.
    remade: bool,
    anchors: BTreeMap<u64, [u8; 32]>,
    met: BTreeSet<u64>,
    scratch: Vec<u8>,
}

impl Walk {
    /// A walk that compares these heads of earlier times.
    pub(crate) fn new(server: Option<u64>, anchors: &[Anchor]) -> Walk {
        let mut walk = Walk { server, ..Walk::default() };
        for anchor in anchors.iter().filter(|anchor| (1..NUMBERS).contains(&anchor.sequence)) {
            if walk.anchors.insert(anchor.sequence, anchor.hash).is_some_and(|hash| hash != anchor.hash) {
                walk.troubles.add(format!("record {} was anchored with two hashes", anchor.sequence));
            }
        }
        walk
    }

    /// Goes along the first `len` bytes of a file.
    pub(crate) fn file(&mut self, dir: &Path, first: u64, len: u64) -> io::Result<()> {
        let (mut number, name) = (0u64, files::name(first));
        if self.torn.take().is_some() {
            self.troubles.add(format!("the file before {name} ends in the middle of a line"));
        }
        files::forwards(&files::path(dir, first), len, |at, piece| {
            number += 1;
            let place = Place { file: &name, line: number };
            match piece {
                Piece::Line(bytes) => self.line(&place, (number == 1).then_some(first), bytes),
                Piece::Rest(bytes) => self.torn = Some((at, bytes.to_vec())),
                Piece::TooLong => self.bad(&place, "is longer than any record"),
            }
            Ok(())
        })
    }

    /// Looks at one line. `named` is the number that the file's name says, for the first of a file.
    pub(crate) fn line(&mut self, place: &Place<'_>, named: Option<u64>, bytes: &[u8]) {
        let line = match Line::read(bytes) {
            Ok(line) => line,
            Err(why) => return self.bad(place, &why),
        };
        if !line.holds(bytes, &mut self.scratch) {
            self.met_anchor(place, &line);
            return self
                .bad(place, &format!("was changed: it says record {} and does not fit its hash", line.sequence));
        }
        if line.sequence >= NUMBERS || self.tip.is_some_and(|tip| line.sequence > tip.sequence + LEAP) {
            return self.bad(place, "has a number that no record has");
        }
        if *self.server.get_or_insert(line.server) != line.server
            && self.foreign.replace(line.server) != Some(line.server)
        {
            self.troubles.add(format!("{place}: record {} and others are of server {}", line.sequence, line.server));
        }
        if named.is_some_and(|named| named != line.sequence) {
            self.troubles.add(format!("{place}: the file begins with record {}: it was renamed", line.sequence));
        }
        if !self.loose {
            self.follows(place, &line);
        }
        if line.operation == BEGIN && origin(line.server, line.detail.as_deref().unwrap_or_default()) != line.previous {
            self.troubles.add(format!("{place}: record {} does not begin the chain it says", line.sequence));
        }
        self.met_anchor(place, &line);
        self.first.get_or_insert(line.sequence);
        self.tip = Some(Anchor { sequence: line.sequence, hash: line.hash.0 });
        self.loose = false;
        self.records += 1;
        if line.operation == DAMAGED {
            self.damage_noted(place, &line);
        }
    }

    /// Ends the walk: what was anchored and never met is missing.
    pub(crate) fn end(&mut self) {
        let last = self.tip.map_or(0, |tip| tip.sequence);
        for sequence in self.anchors.keys().copied().filter(|sequence| !self.met.contains(sequence)) {
            if sequence > last {
                self.troubles.add(match last {
                    0 => format!("there is no record, and there was once record {sequence}: all was removed"),
                    _ => format!(
                        "the log ends with record {last}, and there was once record {sequence}: its end was cut off"
                    ),
                });
            } else if self.first.is_some_and(|first| first < sequence) {
                self.troubles.add(format!("record {sequence}, which is anchored, is not there"));
            }
        }
    }

    /// Anchors that were compared with a record.
    pub(crate) fn anchors_met(&self) -> u64 {
        self.met.len() as u64
    }

    /// How a record follows on the one before.
    fn follows(&mut self, place: &Place<'_>, line: &Line) {
        let Some(tip) = self.tip else { return };
        let (before, this) = (tip.sequence, line.sequence);
        self.troubles.add(match this {
            _ if this <= before => {
                format!("{place}: record {this} stands behind record {before}: lines were swapped or put in")
            }
            _ if this == before + 2 => format!("{place}: record {} is missing", before + 1),
            _ if this > before + 1 => format!("{place}: records {} to {} are missing", before + 1, this - 1),
            _ if line.previous != Hash(tip.hash) => {
                format!("{place}: record {this} does not follow on record {before}: one of them was made anew")
            }
            _ => return,
        });
    }

    fn met_anchor(&mut self, place: &Place<'_>, line: &Line) {
        let Some(hash) = self.anchors.get(&line.sequence) else { return };
        self.met.insert(line.sequence);
        if *hash != line.hash.0 && !std::mem::replace(&mut self.remade, true) {
            let what = "is not the one that was anchored: the log was made anew";
            self.troubles.add(format!("{place}: record {} {what}", line.sequence));
        }
    }

    fn damage_noted(&mut self, place: &Place<'_>, line: &Line) {
        if self.forgiving {
            self.troubles = Troubles::default();
            self.anchors.retain(|sequence, _| *sequence > line.sequence);
            return;
        }
        let what = line.detail.as_deref().unwrap_or("damage");
        self.troubles.add(format!("{place}: the server noted at {}: {what}", line.at));
    }

    fn bad(&mut self, place: &Place<'_>, why: &str) {
        self.troubles.add(format!("{place} {why}"));
        self.loose = true;
    }
}

/// Where a line stands.
pub(crate) struct Place<'a> {
    file: &'a str,
    line: u64,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} line {}", self.file, self.line)
    }
}

/// The first findings, and how many there were.
#[derive(Default)]
pub(crate) struct Troubles {
    told: Vec<String>,
    count: u64,
}

impl Troubles {
    pub(crate) fn add(&mut self, what: String) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push(what);
        }
    }

    /// All of it in a sentence; `None` when there is none.
    pub(crate) fn told(&self) -> Option<String> {
        let more = self.count - self.told.len() as u64;
        let mut text = self.told.join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        (self.count > 0).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use byname_api::audit::Outcome;
    use byname_api::span::Timestamp;

    use super::*;
    use crate::entry::Entry;

    /// A chain of so many records.
    fn chain(count: u64) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut previous = origin(1, "aa");
        for sequence in 1..=count {
            let (operation, detail) = if sequence == 1 { (BEGIN, "aa") } else { ("add", "it") };
            let mut entry = Entry::new(Timestamp(sequence), "/people/ann", "token", operation, Outcome::Ok);
            entry.detail = Some(detail.into());
            let line = Line::new(1, sequence, previous, entry);
            previous = line.hash;
            lines.push(line);
        }
        lines
    }

    fn entry(detail: &str) -> Entry {
        let mut entry = Entry::new(Timestamp(9), "/people/eve", "token", "add", Outcome::Ok);
        entry.detail = Some(detail.into());
        entry
    }

    fn told(lines: &[Line], anchors: &[Anchor]) -> Option<String> {
        let mut walk = Walk::new(None, anchors);
        for (at, line) in lines.iter().enumerate() {
            let mut bytes = Vec::new();
            line.write(&mut bytes);
            bytes.pop();
            walk.line(&Place { file: "f", line: at as u64 + 1 }, (at == 0).then_some(1), &bytes);
        }
        walk.end();
        walk.troubles.told()
    }

    #[test]
    fn a_record_that_was_changed_and_hashed_again_does_not_carry_the_next() {
        let mut lines = chain(5);
        assert_eq!(told(&lines, &[]), None);
        lines[2] = Line::new(1, 3, lines[1].hash, entry("it"));
        assert_eq!(
            told(&lines, &[]).unwrap(),
            "f line 4: record 4 does not follow on record 3: one of them was made anew"
        );
    }

    #[test]
    fn a_chain_made_anew_from_the_middle_is_found_at_the_next_anchor_only() {
        let mut lines = chain(6);
        let anchor = |line: &Line| Anchor { sequence: line.sequence, hash: line.hash.0 };
        let (before, after) = (anchor(&lines[1]), anchor(&lines[4]));
        for at in 2..6 {
            lines[at] = Line::new(1, at as u64 + 1, lines[at - 1].hash, entry("anew"));
        }
        assert_eq!(told(&lines, &[before]), None);
        assert!(
            told(&lines, &[before, after]).unwrap().starts_with("f line 5: record 5 is not the one that was anchored")
        );
    }

    #[test]
    fn another_chain_behind_a_chain_and_a_beginning_of_nothing_are_found() {
        let mut lines = chain(3);
        let mut begin = entry("bb");
        begin.operation = BEGIN.into();
        lines.push(Line::new(1, 4, origin(1, "bb"), begin.clone()));
        assert!(told(&lines, &[]).unwrap().contains("record 4 does not follow on record 3"));
        lines = vec![Line::new(1, 1, origin(1, "cc"), begin)];
        assert!(told(&lines, &[]).unwrap().contains("does not begin the chain"));
    }

    #[test]
    fn numbers_that_no_record_has_are_not_believed() {
        for sequence in [u64::MAX, NUMBERS, LEAP + 3] {
            let mut lines = chain(2);
            lines.push(Line::new(1, sequence, lines[1].hash, entry("far")));
            assert_eq!(
                told(&lines, &[Anchor { sequence: u64::MAX, hash: [0; 32] }]).unwrap(),
                "f line 3 has a number that no record has"
            );
        }
    }

    #[test]
    fn many_findings_are_counted() {
        let mut lines = chain(40);
        for line in lines.iter_mut().skip(1) {
            line.by.push('x');
        }
        let told = told(&lines, &[]).unwrap();
        assert!(told.contains("f line 6 was changed") && told.ends_with("; and 34 more"), "{told}");
    }
}
