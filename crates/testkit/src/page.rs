//! Pages of a guide in Markdown, of which every command is run.
//!
//! A fenced block of the language `console` holds commands as a scenario does ([`crate::scenario`]): `$ ` begins one,
//! `> ` goes on with it, and the lines up to the next `$ ` or the end of the block are what it writes, with `[exit N]`
//! when its status was not 0. A block whose fence says `file=NAME` behind its language is written to that file before
//! what follows is run. Other blocks and the prose are for people only.
//!
//! A page shows what one run wrote, process ids and ports and times as they were, because masks do not read well;
//! what the commands write now is compared with it under the masks of [`crate::scenario::mask`]. What would tell the
//! machine is shown as if another had run it ([`Shown`]).

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use crate::diff::diff;
use crate::scenario;
use crate::server::Server;

/// The port of a server, as pages show it.
const PORT: u16 = 7600;
/// That of the protocol of Tcl-DP.
const DP_PORT: u16 = 4765;
/// The port of its DNS, where it has one.
const DNS_PORT: u16 = 7653;
/// The folder in which the commands of a page run, as pages show it.
const FOLDER: &str = "/home/you/guide";

/// Runs what the page shows and compares; `rewrite` writes the page anew instead, with the outputs of this run.
/// `ports` are those that the page takes for stable sockets: each stands for a free one.
///
/// # Panics
///
/// When they differ, with the difference; when the page cannot be read or written, or has a block that does not end.
pub fn check(file: &Path, server: &Server, ports: &[u16], rewrite: bool) {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let shown = Shown::new(server, ports);
    let found = replay(&text, server, &shown);
    let (told, is) = (masked(&text, server), masked(&found, server));
    if told == is {
        return;
    }
    if rewrite {
        fs::write(file, found).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        return;
    }
    panic!("{} is not as told (- as told, + as it is):\n{}", file.display(), diff(&told, &is));
}

/// The page with what its commands write now.
fn replay(text: &str, server: &Server, shown: &Shown) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(info) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let mut words = info.split_whitespace();
        let (language, name) = (words.next(), words.find_map(|word| word.strip_prefix("file=")));
        if let Some(name) = name {
            let text: String = block.iter().flat_map(|line| [line, "\n"]).collect();
            let file = server.scratch().join(name);
            fs::write(&file, shown.to_real(&text)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        if language == Some("console") {
            out.push_str(&console(&block, server, shown));
        } else {
            block.iter().for_each(|line| out.extend([line, "\n"]));
        }
        out.push_str("```\n");
    }
    out
}

/// The lines of a block of commands, with what they write now.
fn console(block: &[&str], server: &Server, shown: &Shown) -> String {
    let mut out = String::new();
    let mut lines = block.iter().peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("$ ") else { continue };
        let mut command = first.to_owned();
        out.extend([line, "\n"]);
        while let Some(more) = lines.peek().and_then(|l| l.strip_prefix("> ").or((**l == ">").then_some(""))) {
            command.extend(["\n", more]);
            out.extend([lines.next().unwrap_or(&""), "\n"]);
        }
        out.push_str(&shown.to_shown(&scenario::output(&shown.to_real(&command), server)));
    }
    out
}

/// The page as it is compared: the lines of its `console` blocks masked.
fn masked(text: &str, server: &Server) -> String {
    let mut inside = false;
    let mut out = String::new();
    for line in text.lines() {
        inside = if line.starts_with("```") { !inside && line.starts_with("```console") } else { inside };
        let command = ["$ ", "> ", "```"].iter().any(|mark| line.starts_with(mark));
        if inside && !command { out.push_str(&scenario::mask(line, server)) } else { out.extend([line, "\n"]) }
    }
    out
}

/// What a page shows, and what there is in this run instead.
#[derive(Debug)]
struct Shown {
    /// Each shown port, and the one in its place.
    ports: Vec<(String, String)>,
    /// Texts of this machine, and what is shown of them.
    texts: Vec<(String, String)>,
}

impl Shown {
    fn new(server: &Server, ports: &[u16]) -> Shown {
        let api = server.api();
        let api = api.rsplit(':').next().unwrap_or_default().to_owned();
        let mut pairs = vec![(PORT.to_string(), api)];
        if let Some((_, dp)) = server.dp_if_spoken().as_deref().and_then(|address| address.rsplit_once(':')) {
            pairs.push((DP_PORT.to_string(), dp.to_owned()));
        }
        if let Some(dns) = server.dns() {
            pairs.push((DNS_PORT.to_string(), dns.port().to_string()));
        }
        // Held until all are picked, or one might be picked twice.
        let picked: Vec<TcpListener> =
            ports.iter().map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
        for (port, free) in ports.iter().zip(&picked) {
            pairs.push((port.to_string(), free.local_addr().expect("its port").port().to_string()));
        }
        let folder = server.scratch().display().to_string();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        let texts = vec![
            (format!("{folder}/home"), "/home/you".into()),
            (folder, FOLDER.into()),
            (format!("/computers/{host}"), "/computers/vm".into()),
            (format!("`{host}`"), "`vm`".into()),
            (format!("uid:{}", rustix::process::getuid().as_raw()), "uid:1000".into()),
        ];
        Shown { ports: pairs, texts }
    }

    fn to_real(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (shown, real)| replace_word(&text, shown, real))
    }

    fn to_shown(&self, text: &str) -> String {
        let text = self.texts.iter().fold(text.to_owned(), |text, (real, shown)| replace_word(&text, real, shown));
        self.ports.iter().fold(text, |text, (shown, real)| replace_word(&text, real, shown))
    }
}

/// Replaces what stands by itself: no letter or digit follows it, nor a digit a number.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let number = from.starts_with(|c: char| c.is_ascii_digit());
        let part_before = number && before.ends_with(|c: char| c.is_ascii_alphanumeric());
        let part_after = after.starts_with(|c: char| c.is_ascii_alphanumeric());
        out.push_str(before);
        out.push_str(if part_before || part_after { from } else { to });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::replace_word;

    #[test]
    fn what_stands_by_itself_is_replaced() {
        for (text, replaced) in [
            ("127.0.0.1:8080/x, 8080", "127.0.0.1:43210/x, 43210"),
            ("18080 80801 i8080", "18080 80801 i8080"),
            ("8080", "43210"),
            ("", ""),
        ] {
            assert_eq!(replace_word(text, "8080", "43210"), replaced);
        }
        assert_eq!(replace_word("uid:0 uid:01 (uid:0)", "uid:0", "uid:1000"), "uid:1000 uid:01 (uid:1000)");
    }
}
