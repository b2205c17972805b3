//! The files of a folder, and their lines, forwards and backwards.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::line::MAX_LINE;

/// How much is read at once.
const BLOCK: usize = 128 << 10;

/// The path of the file that begins with the record `first`.
pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(name(first))
}

/// The name of the file that begins with the record `first`.
pub(crate) fn name(first: u64) -> String {
    format!("{first:020}.jsonl")
}

/// No file begins with a record of a greater number. Far below the last number there is, so that whoever makes up a file
/// does not use the numbers up.
const MAX_FIRST: u64 = 1 << 60;

/// The files of the folder, each by its first record, oldest first. Whatever else lies there is not ours: neither links nor
/// pipes, which could be read for ever.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let file = entry.file_name();
        let digits = file.to_str().and_then(|file| file.strip_suffix(".jsonl"));
        if let Some(digits) = digits.filter(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())) {
            found.extend(digits.parse::<u64>().ok().filter(|first| *first <= MAX_FIRST));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A line without its end.
    Line(&'a [u8]),
    /// What stands behind the last end of a line.
    Rest(&'a [u8]),
    /// More than any line has.
    TooLong,
}

/// Hands every line of the first `len` bytes of a file to `each`, with the place at which it begins, in order.
pub(crate) fn forwards(
    path: &Path,
    len: u64,
    mut each: impl FnMut(u64, Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut from = File::open(path)?.take(len);
    let mut held: Vec<u8> = Vec::with_capacity(2 * BLOCK);
    let (mut at, mut skipping) = (0u64, false);
    loop {
        let known = held.len();
        if (&mut from).take(BLOCK as u64).read_to_end(&mut held)? == 0 {
            break;
        }
        let (mut start, mut seen) = (0, known);
        while let Some(end) = held[seen..].iter().position(|b| *b == b'\n').map(|found| seen + found) {
            let piece =
                if skipping || end - start > MAX_LINE { Piece::TooLong } else { Piece::Line(&held[start..end]) };
            each(at, piece)?;
            at += (end + 1 - start) as u64;
            (start, seen, skipping) = (end + 1, end + 1, false);
        }
        held.drain(..start);
        if held.len() > MAX_LINE {
            // Its beginning tells nothing, and its end may be far away.
            at += held.len() as u64;
            held.clear();
            skipping = true;
        }
    }
    match (skipping, held.is_empty()) {
        (true, _) => each(at, Piece::TooLong),
        (false, true) => Ok(()),
        (false, false) => each(at, Piece::Rest(&held)),
    }
}

/// The first line of a file, without its end; `None` when there is none, or no file any more.
pub(crate) fn first_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_LINE as u64 + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let end = bytes.iter().position(|b| *b == b'\n');
    Ok(end.map(|end| {
        bytes.truncate(end);
        bytes
    }))
}

/// The lines of a file from some place back to its beginning.
pub(crate) struct Backwards {
    file: File,
    /// Where `held` begins in the file.
    at: u64,
    /// Read and not yet given: ends behind the end of a line, once the first block was read.
    held: Vec<u8>,
    fresh: bool,
}

impl Backwards {
    /// Begins behind the last whole line before `end`.
    pub(crate) fn new(path: &Path, end: Option<u64>) -> io::Result<Backwards> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Backwards { file, at: end.map_or(len, |end| end.min(len)), held: Vec::new(), fresh: true })
    }

    /// The next line, without its end, and the place at which it begins. `None` at the beginning of the file; an empty line
    /// where one is longer than any.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut cut = false;
        loop {
            if self.fresh {
                // Whatever stands behind the last end of a line is no line.
                if let Some(end) = self.held.iter().rposition(|b| *b == b'\n') {
                    self.held.truncate(end);
                    self.fresh = false;
                    continue;
                }
                if self.at == 0 {
                    return Ok(None);
                }
                self.held.clear();
            } else if let Some(end) = self.held.iter().rposition(|b| *b == b'\n') {
                let line = self.held.split_off(end + 1);
                self.held.truncate(end);
                let at = self.at + end as u64 + 1;
                return Ok(Some((at, if cut { Vec::new() } else { line })));
            } else if self.at == 0 {
                self.fresh = true;
                let line = std::mem::take(&mut self.held);
                return Ok(Some((0, if cut { Vec::new() } else { line })));
            } else if self.held.len() > MAX_LINE {
                self.held.clear();
                cut = true;
            }
            self.block()?;
        }
    }

    fn block(&mut self) -> io::Result<()> {
        let bytes = self.at.min(BLOCK as u64) as usize;
        let mut block = vec![0; bytes];
        self.at -= bytes as u64;
        self.file.read_exact_at(&mut block, self.at)?;
        block.append(&mut self.held);
        self.held = block;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = Vec<(u64, Vec<u8>)>;

    fn both(content: &[u8]) -> (Lines, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), 1);
        std::fs::write(&path, content).unwrap();
        let (mut lines, mut rest) = (Vec::new(), None);
        forwards(&path, u64::MAX, |at, piece| {
            match piece {
                Piece::Line(line) => lines.push((at, line.to_vec())),
                Piece::Rest(bytes) => rest = Some(bytes.to_vec()),
                Piece::TooLong => lines.push((u64::MAX, Vec::new())),
            }
            Ok(())
        })
        .unwrap();
        let mut back = Backwards::new(&path, None).unwrap();
        let mut reversed = Vec::new();
        while let Some(line) = back.next().unwrap() {
            reversed.push(line);
        }
        reversed.reverse();
        if lines.iter().all(|(at, _)| *at != u64::MAX) {
            assert_eq!(lines, reversed);
        }
        (lines, rest)
    }

    #[test]
    fn both_ways_see_the_same_lines_and_neither_the_torn_one() {
        assert_eq!(both(b""), (vec![], None));
        assert_eq!(both(b"torn"), (vec![], Some(b"torn".to_vec())));
        assert_eq!(both(b"a\n"), (vec![(0, b"a".to_vec())], None));
        assert_eq!(both(b"\na\nb"), (vec![(0, vec![]), (1, b"a".to_vec())], Some(b"b".to_vec())));
        let many: Vec<u8> = (0..60_000).flat_map(|n| format!("{n} and more\n").into_bytes()).collect();
        let (lines, rest) = both(&many);
        assert_eq!((lines.len(), rest), (60_000, None));
        assert_eq!(lines[59_999].1, b"59999 and more");
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_those_around_it_are_seen() {
        let mut content = b"before\n".to_vec();
        content.resize(3 * BLOCK, b'x');
        content.extend_from_slice(b"\nafter\n");
        let (lines, _) = both(&content);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2].1, b"after");

        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), 1);
        std::fs::write(&path, &content).unwrap();
        let mut back = Backwards::new(&path, None).unwrap();
        assert_eq!(back.next().unwrap().unwrap().1, b"after");
        assert_eq!(back.next().unwrap().unwrap().1, b"");
        assert_eq!(back.next().unwrap().unwrap(), (0, b"before".to_vec()));
        assert_eq!(back.next().unwrap(), None);
    }

    #[test]
    fn only_names_of_ours_are_listed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "00000000000000000100.jsonl",
            "00000000000000000007.jsonl",
            "7.jsonl",
            "notes",
            "18446744073709551615.jsonl",
            "99999999999999999999.jsonl",
        ] {
            std::fs::write(dir.path().join(file), b"").unwrap();
        }
        std::fs::create_dir(path(dir.path(), 8)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path(dir.path(), 9)).unwrap();
        assert_eq!(list(dir.path()).unwrap(), [7, 100]);
    }
}
