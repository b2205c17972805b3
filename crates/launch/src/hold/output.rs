//! What a program writes: kept in two log files of bounded size, and its last lines in memory.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// How much of the end of the output is remembered, in bytes.
const TAIL: usize = 4096;
/// The bounds of `last_lines`.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 2048;

/// The log of one instance: `log`, and `log.1` that was `log` before it grew to its limit, in the current folder.
///
/// A full disk never holds the program up: what cannot be written is dropped and counted, and a mark says so as soon
/// as there is room again.
pub(super) struct Output {
    file: Option<File>,
    size: u64,
    limit: u64,
    dropped: u64,
    in_line: bool,
    tail: Vec<u8>,
}

impl Output {
    /// Begins a log.
    pub(super) fn new() -> Output {
        let mut output = Output { file: None, size: 0, limit: u64::MAX, dropped: 0, in_line: false, tail: Vec::new() };
        output.open();
        output
    }

    /// How many bytes each of the files holds.
    pub(super) fn limit(&mut self, bytes: u64) {
        self.limit = bytes.max(64 << 10);
    }

    fn open(&mut self) {
        self.file = OpenOptions::new().append(true).create(true).mode(0o600).open("log").ok();
        self.size = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
    }

    /// Takes what the program wrote.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        self.remember(bytes);
        if self.dropped > 0 {
            let note = format!("{}[byname] {} bytes of output are missing here\n", self.line_break(), self.dropped);
            if self.append(note.as_bytes()) == note.len() {
                self.dropped = 0;
                self.in_line = false;
            }
        }
        let written = if self.dropped == 0 { self.append(bytes) } else { 0 };
        self.dropped += (bytes.len() - written) as u64;
        if written > 0 {
            self.in_line = written < bytes.len() || *last != b'\n';
        }
    }

    /// Adds a line of our own.
    pub(super) fn mark(&mut self, text: &str) {
        let line = format!("{}[byname] {text}\n", self.line_break());
        self.write(line.as_bytes());
    }

    /// The last lines, made printable: 20 lines and 2 KiB at most.
    pub(super) fn last_lines(&self) -> String {
        printable(&self.tail)
    }

    fn line_break(&self) -> &'static str {
        if self.in_line { "\n" } else { "" }
    }

    fn remember(&mut self, bytes: &[u8]) {
        let keep = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or(bytes);
        self.tail.extend_from_slice(keep);
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    /// Appends as much as the disk takes.
    fn append(&mut self, bytes: &[u8]) -> usize {
        if self.size > 0 && self.size + bytes.len() as u64 > self.limit {
            // Renaming frees the older file first, so it helps even when the disk is full.
            if std::fs::rename("log", "log.1").is_ok() {
                self.open();
            }
        }
        if self.file.is_none() {
            self.open();
        }
        let Some(file) = &mut self.file else { return 0 };
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match file.write(rest) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.size += done as u64;
        done
    }
}

/// The last lines of raw output as text that can be shown: lossy UTF-8, control characters escaped.
fn printable(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail.get(tail.len().saturating_sub(TAIL)..).unwrap_or(tail));
    let mut lines = Vec::new();
    let mut bytes = 0;
    for line in text.trim_end_matches(['\n', '\r', '\0']).rsplit('\n').take(LAST_LINES) {
        let shown = escape(line.trim_end_matches('\r'));
        if bytes + shown.len() + 1 > LAST_BYTES {
            let room = LAST_BYTES.saturating_sub(bytes + 4);
            let from = (shown.len().saturating_sub(room)..=shown.len()).find(|at| shown.is_char_boundary(*at));
            if let Some(end) = from.and_then(|at| shown.get(at..)).filter(|end| !end.is_empty()) {
                lines.push(format!("…{end}"));
            }
            break;
        }
        bytes += shown.len() + 1;
        lines.push(shown);
    }
    lines.reverse();
    lines.join("\n")
}

/// A line that can be shown: what would change how it looks is escaped.
pub(crate) fn escape(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        if c == '\t' || !(c.is_control() || is_direction(c)) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// Characters that change how the text around them is laid out.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_few_short_and_printable() {
        assert_eq!(printable(b""), "");
        assert_eq!(printable(b"one\r\ntwo\n\n"), "one\ntwo");
        assert_eq!(printable(b"\x1b[31mred\x07\tx\xff"), "\\u{1b}[31mred\\u{7}\tx\u{fffd}");
        let many: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(printable(many.as_bytes()).lines().count(), LAST_LINES);
        assert!(printable(many.as_bytes()).ends_with("line 99"));
        for byte in [0u8, b'x', 0xff, 0xc3] {
            let flood = printable(&[byte; 10_000]);
            assert!(flood.len() <= LAST_BYTES, "{} bytes of {byte}", flood.len());
        }
        assert!(printable("é".repeat(5_000).as_bytes()).starts_with('…'));
    }
}
