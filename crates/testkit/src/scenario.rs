//! Readable scripts of commands with their full output.
//!
//! A script is prose with commands in it. A line that begins with `$ ` is a command; lines that begin with `> ` go on
//! with it. What follows, until an empty line, is everything that it wrote: standard output and standard error as they
//! came, and `[exit N]` when its status was not 0. An empty line of output is written as a line with a single `.`.
//! Everything else is prose. Commands run with `sh` in one folder, with `byname` in PATH and BYNAME_SERVER set, so that
//! they read as a person would type them.
//!
//! What differs from run to run is masked in the output: `[pid]`, `[port]`, `[instance]`, `[time]`, `[ms]` …, see
//! [`mask`]. [`check`] compares, or writes the file anew when it is told to.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;

use crate::diff::diff;
use crate::server::Server;

/// No command of a script takes longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Runs the script and compares what its commands write with what it says; `rewrite` writes the file anew instead.
///
/// # Panics
///
/// When they differ, with the difference; when the file cannot be read or written.
pub fn check(file: &Path, server: &Server, rewrite: bool) {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let found = replay(&text, server);
    if found == text {
        return;
    }
    if rewrite {
        fs::write(file, found).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        return;
    }
    panic!("{} is not as told (- as told, + as it is):\n{}", file.display(), diff(&text, &found));
}

/// The script with the output that its commands have now.
fn replay(text: &str, server: &Server) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(first) = line.strip_prefix("$ ") else { continue };
        let mut command = first.to_owned();
        while let Some(more) = lines.peek().and_then(|l| l.strip_prefix("> ").or((*l == ">").then_some(""))) {
            command.push('\n');
            command.push_str(more);
            out.push_str(lines.next().unwrap_or_default());
            out.push('\n');
        }
        while lines.peek().is_some_and(|l| !l.is_empty() && !l.starts_with("$ ")) {
            lines.next();
        }
        out.push_str(&mask(&perform(&command, server), server));
    }
    out
}

/// What a command writes, with its exit status when that is not 0, as a scenario has it: empty lines would end it.
fn perform(command: &str, server: &Server) -> String {
    output(command, server).lines().map(|l| format!("{}\n", if l.is_empty() { "." } else { l })).collect()
}

/// What a command writes, and its exit status when that is not 0.
pub(crate) fn output(command: &str, server: &Server) -> String {
    let mut shell = Command::new("sh");
    server.environment(&mut shell);
    // Closed in the shell but for its outputs, or what it leaves behind would hold them open.
    let (output, both) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let mut output = fs::File::from(output);
    let again: OwnedFd = both.try_clone().expect("a pipe");
    // Output that nobody closes would be waited for: what a command leaves behind must have its own.
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(both).stderr(again);
    let mut child = shell.spawn().expect("sh");
    drop(shell);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let until = Instant::now() + LONGEST;
    while !reader.is_finished() {
        assert!(Instant::now() < until, "this takes too long: {command}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = child.wait().expect("the end of sh");
    let mut text: String = reader.join().unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push_str("[no newline]\n");
    }
    if let Some(code) = status.code().filter(|code| *code != 0) {
        text.push_str(&format!("[exit {code}]\n"));
    }
    text
}

/// Replaces what differs from run to run:
///
/// | what | by |
/// |---|---|
/// | `2026-01-01T00:00:00.000Z`, `01/Jan/2026 00:00:00` | `[time]` |
/// | an age in a column, `12ms ago`, `after 12 ms` | `[ms]` |
/// | an instance's id | `[instance]` |
/// | a process id behind `process`, `pid` or in a PID column | `[pid]` |
/// | the port behind `127.0.0.1:` or `"port":` | `[port]` |
/// | a version, the id of an object, the revision of the tree | `[version]`, `[id]`, `[revision]` |
/// | the point in a watch, a lock's fencing token | `[at]`, `[token]` |
/// | the server's folder, the host's name, the user's id | `[dir]`, `[host]`, `[uid]` |
///
/// Blanks that align columns are squeezed to two, because the masked words are of different length.
pub fn mask(text: &str, server: &Server) -> String {
    let folder = server.scratch().display().to_string();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let uid = rustix::process::getuid().as_raw();
    let text = text
        .replace(&folder, "[dir]")
        .replace(&format!("/computers/{host}"), "/computers/[host]")
        .replace(&format!("`{host}`"), "`[host]`")
        .replace(&format!("uid:{uid}"), "uid:[uid]");
    text.lines().map(|line| mask_line(line) + "\n").collect()
}

fn mask_line(line: &str) -> String {
    let mut out = String::new();
    let mut pid_column = None;
    let squeezed = squeeze(line);
    let mut rest = squeezed.as_str();
    while let Some(first) = rest.chars().next() {
        // A word begins where the one before has ended.
        let begins = !out.chars().last().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        let word: &str = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())];
        let masked = if begins && !word.is_empty() { mask_word(word, rest, &out, &mut pid_column) } else { None };
        match masked {
            Some((length, mask)) => {
                out.push_str(mask);
                rest = &rest[length..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// The length of what begins here and its mask, when it is masked.
fn mask_word(word: &str, rest: &str, before: &str, pid_column: &mut Option<()>) -> Option<(usize, &'static str)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if rest.len() >= 24 && rest.is_char_boundary(24) && is_time(&rest[..24]) {
        return Some((24, "[time]"));
    }
    if rest.len() >= 20 && rest.is_char_boundary(20) && has_shape(&rest[..20], b"dd/aaa/dddd dd:dd:dd") {
        return Some((20, "[time]"));
    }
    // Rarely short, and rarely without a digit; never both.
    if is_id(word, 'i') && (word.len() >= 12 || word.len() >= 8 && word.bytes().any(|b| b.is_ascii_digit())) {
        return Some((word.len(), "[instance]"));
    }
    if is_id(word, 'v') {
        let after = &rest[word.len()..];
        let shown = before.ends_with('(') && after.starts_with(')')
            || before.ends_with("\"version\":\"")
            || before.ends_with("version is ")
            || before.ends_with("  version ")
            || before.ends_with("and not ")
            || before.ends_with("  ") && after.is_empty();
        if shown {
            return Some((word.len(), "[version]"));
        }
    }
    if is_id(word, 'o') && (before == "  id  " || before.ends_with("\"id\":\"")) {
        return Some((word.len(), "[id]"));
    }
    if digits(word) {
        let behind = |words: &[&str]| words.iter().any(|w| before.ends_with(w));
        if behind(&["127.0.0.1:", "localhost:", "[::1]:", "\"port\":", "on port ", "started: port "]) {
            return Some((word.len(), "[port]"));
        }
        if behind(&["process ", "pid ", "\"pid\":"]) {
            return Some((word.len(), "[pid]"));
        }
        if behind(&["\"revision\":", "revision "]) || before == "id: " {
            return Some((word.len(), "[revision]"));
        }
        if behind(&["\"at\":\""]) {
            return Some((word.len(), "[at]"));
        }
        if behind(&["token ", "older than "]) {
            return Some((word.len(), "[token]"));
        }
        if behind(&["\"age_ms\":", "after "]) && !rest[word.len()..].starts_with('s') {
            return Some((word.len(), "[ms]"));
        }
        // In a table a process stands in a column of its own, beside the state or the address.
        let after = &rest[word.len()..];
        let column = before.ends_with("  ") && after.starts_with("  ") && word.len() >= 2;
        let beside = ["  127.0.0.1:", "  starting", "  running", "  unhealthy", "  stopping", "  -"];
        if column && pid_column.is_none() && beside.iter().any(|b| after.starts_with(b)) {
            *pid_column = Some(());
            return Some((word.len(), "[pid]"));
        }
    }
    // 12ms, 3s, 1m30s: in the AGE column, in brackets and so on; what a user declared stands behind `=` or a blank.
    let span = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if digits(span) && word.ends_with("ms") || digits(span) && word.ends_with('s') && word.len() == span.len() + 1 {
        let after = &rest[word.len()..];
        let age = !before.starts_with(' ') && before.ends_with("  ") && (after.is_empty() || after.starts_with("  "))
            || after.starts_with(" ago");
        if age {
            return Some((word.len(), "[ms]"));
        }
    }
    None
}

/// An id with this letter in front.
fn is_id(word: &str, letter: char) -> bool {
    let digits = |rest: &str| rest.bytes().all(|b| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&b));
    word.len() > 1 && word.strip_prefix(letter).is_some_and(digits)
}

/// Two or more blanks within a line become two.
fn squeeze(line: &str) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let mut out = line[..indent].to_owned();
    let mut blanks = 0;
    for c in line[indent..].chars() {
        blanks = if c == ' ' { blanks + 1 } else { 0 };
        if blanks <= 2 {
            out.push(c);
        }
    }
    out.trim_end().to_owned()
}

/// `2026-01-01T00:00:00.000Z`.
fn is_time(text: &str) -> bool {
    has_shape(text, b"dddd-dd-ddTdd:dd:dd.dddZ")
}

/// Whether digits stand where the shape has a `d`, letters where it has an `a`, and the rest is the same.
fn has_shape(text: &str, shape: &[u8]) -> bool {
    text.bytes().zip(shape).all(|(b, s)| match s {
        b'd' => b.is_ascii_digit(),
        b'a' => b.is_ascii_alphabetic(),
        same => b == *same,
    })
}

#[cfg(test)]
mod tests {
    use super::mask_line;

    #[test]
    fn what_differs_is_masked_and_nothing_else() {
        for (line, masked) in [
            (
                "127.0.0.1:22259  tcp       22039  running  ijvdkptkdgz8m",
                "127.0.0.1:[port]  tcp  [pid]  running  [instance]",
            ),
            (
                "/t/web  running  22039  127.0.0.1:22259  1       363ms",
                "/t/web  running  [pid]  127.0.0.1:[port]  1  [ms]",
            ),
            (
                "  2026-11-22T19:51:50.110Z  ifapdpawaz1f9: ready after 286 ms, process 22039",
                "  [time]  [instance]: ready after [ms] ms, process [pid]",
            ),
            ("created /t/web (vkz)", "created /t/web ([version])"),
            ("/t/web  record  -  v1b", "/t/web  record  -  [version]"),
            ("a very old view", "a very old view"),
            ("  ttl  5s", "  ttl  5s"),
            ("/t/bad  stopped  -  -  5", "/t/bad  stopped  -  -  5"),
            ("exited with status 3 (18ms ago).", "exited with status 3 ([ms] ago)."),
            ("start_timeout = 300ms", "start_timeout = 300ms"),
            ("{\"pid\":22039,\"port\":80}", "{\"pid\":[pid],\"port\":[port]}"),
            ("interesting instances", "interesting instances"),
            ("{\"at\":\"15\",\"id\":\"o7\"}", "{\"at\":\"[at]\",\"id\":\"[id]\"}"),
            ("token 8 is older than 23", "token [token] is older than [token]"),
            ("- [24/Nov/2026 16:05:34] -", "- [[time]] -"),
            ("id: 14", "id: [revision]"),
        ] {
            assert_eq!(mask_line(line), masked);
        }
    }
}
