//! Servers and foreign programs as these tests use them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use byname_testkit::{Options, Output, Server};

/// The trust domain of the servers here.
pub(crate) const DOMAIN: &str = "corp.example";

/// What a server of [`DOMAIN`] is started with.
pub(crate) fn of_domain(role: &'static str) -> Options {
    let arguments = match role {
        "server" => vec!["--domain".into(), DOMAIN.into()],
        _ => Vec::new(),
    };
    Options { role, arguments, ..Options::default() }
}

/// `byname server` for [`DOMAIN`].
pub(crate) fn server() -> Server {
    Server::start_with(env!("CARGO_BIN_EXE_byname"), of_domain("server"))
}

/// `byname dev`.
pub(crate) fn dev() -> Server {
    Server::start(env!("CARGO_BIN_EXE_byname"))
}

/// `HOST:PORT` of a server.
pub(crate) fn address(server: &Server) -> String {
    let https = server.https();
    https.trim_start_matches("https://").to_owned()
}

/// Runs curl, quietly.
pub(crate) fn curl(server: &Server, words: &[&str]) -> Output {
    server.run("curl", &[&["-s", "-S", "--max-time", "30"], words].concat())
}

/// Runs openssl.
pub(crate) fn openssl(server: &Server, words: &[&str]) -> Output {
    server.run("openssl", words)
}

/// Has the admin make a certificate for somebody, in a folder of the scratch folder.
#[track_caller]
pub(crate) fn certificate(server: &Server, principal: &str, folder: &str) {
    server.byname(&["cert", "get", "--name", principal, "--out", folder]).lines();
}

/// The records of the audit log that these words ask for, the newest first.
#[track_caller]
pub(crate) fn audit(server: &Server, words: &[&str]) -> Vec<serde_json::Value> {
    let reply = server.byname(&[&["audit", "-o", "json"], words].concat()).json();
    reply["records"].as_array().cloned().unwrap_or_default()
}

/// Whether any file beneath a folder, or the folder's own file, holds these bytes; its path, if so.
pub(crate) fn holds(folder: &Path, needle: &[u8]) -> Option<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        let bytes = fs::read(folder).unwrap_or_default();
        return contains(&bytes, needle).then(|| folder.to_owned());
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_file()))
        .find_map(|entry| holds(&entry.path(), needle))
}

/// Whether these bytes are among those.
pub(crate) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    assert!(!needle.is_empty());
    bytes.windows(needle.len()).any(|part| part == needle)
}

/// The end of a text, for messages.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn lines_of(from: impl Read + 'static) -> std::io::Lines<Box<dyn BufRead>> {
    let from: Box<dyn BufRead> = Box::new(BufReader::new(from));
    from.lines()
}

/// A program that is spoken with line by line. It is killed when it is dropped.
pub(crate) struct Talk {
    child: Child,
    /// What it is told.
    pub(crate) stdin: Option<ChildStdin>,
    lines: std::io::Lines<Box<dyn BufRead>>,
    talk: Option<JoinHandle<String>>,
}

impl Talk {
    /// Starts it.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Talk {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let lines = lines_of(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let talk = std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap_or_default());
        Talk { stdin: child.stdin.take(), child, lines, talk: Some(talk) }
    }

    /// Starts it with standard error in the place of standard output.
    #[track_caller]
    pub(crate) fn start_merged(command: &mut Command) -> Talk {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let lines = lines_of(child.stderr.take().unwrap());
        Talk { stdin: None, child, lines, talk: None }
    }

    /// Says a line to it.
    #[track_caller]
    pub(crate) fn say(&mut self, line: &str) {
        use std::io::Write;
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    /// What it says next.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.lines.next() {
            Some(line) => line.unwrap(),
            None => panic!("it said no more: {}", self.rest()),
        }
    }

    /// What it said beside.
    fn rest(&mut self) -> String {
        self.talk.take().map(|talk| talk.join().unwrap_or_default()).unwrap_or_default()
    }

    /// Waits for its end: its status and what it said on standard error.
    #[track_caller]
    pub(crate) fn end(mut self) -> (i32, String) {
        self.stdin = None;
        let status = byname_testkit::eventually("the end of a program", || self.child.try_wait().unwrap());
        (status.code().unwrap_or(-1), self.rest())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
