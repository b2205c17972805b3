//! Agents on other hosts: they join with a token and are known by their certificate from then on.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use byname_testkit::{Output, Server, eventually, run};

use crate::support::{audit, server, tail};

/// An agent with a data directory and a home of its own: it knows the server by its token alone.
struct Host<'a> {
    server: &'a Server,
    name: &'static str,
}

impl Host<'_> {
    fn command(&self, more: &[&str]) -> std::process::Command {
        let data = format!("host-{}", self.name);
        let words = ["agent", "--data", &data, "--programs", "programs.d", "--computer", self.name];
        let mut command = self.server.command(&[&words[..], more].concat());
        let home = self.server.scratch().join(format!("home-{}", self.name));
        fs::create_dir_all(&home).unwrap();
        command.env_remove("BYNAME_SERVER").env("HOME", home);
        command
    }

    fn log(&self) -> PathBuf {
        self.server.scratch().join(format!("{}.log", self.name))
    }

    fn start(&self, more: &[&str]) -> Running {
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        Running(self.command(more).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Starts it where it must be refused.
    fn refused(&self, more: &[&str]) -> Output {
        run(&mut self.command(more), "")
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server and a catalogue with one program.
fn with_program() -> Server {
    let server = server();
    let folder = server.scratch().join("programs.d");
    fs::create_dir(&folder).unwrap();
    let script =
        "import os, socket; s = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\\nwhile 1: s.accept()";
    // Outside of `dev`, a program runs as root only where that is said.
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let user = if root { "user = 'root'" } else { "" };
    let entry = format!("[serve]\ncommand = [\"python3\", \"-IS\", \"-c\", \"{script}\"]\n{user}\n");
    fs::write(folder.join("serve.toml"), entry).unwrap();
    server
}

fn invite(server: &Server, more: &[&str]) -> String {
    let token = server.byname(&[&["cluster", "invite", "--agent"], more].concat());
    let lines = token.lines();
    assert_eq!(lines.len(), 1, "the token is alone on its line: {lines:?}");
    lines[0].to_owned()
}

#[test]
fn an_agent_joins_once_with_a_token_and_is_known_by_its_certificate_from_then_on() {
    let server = with_program();
    server.byname(&["add", "/BVODS/QS", "--program", "serve", "--host", "/computers/mojave"]).lines();
    let token = invite(&server, &["--computer", "mojave"]);
    let host = Host { server: &server, name: "mojave" };
    let agent = host.start(&["--join", &token]);
    let find = || server.byname(&["find", "-o", "json", "/BVODS/QS"]);
    let pid = |found: &Output| found.json()["instances"][0]["pid"].as_u64().unwrap();
    let found = eventually("the program on the new host", || Some(find()).filter(|f| f.status == 0));
    assert_eq!(found.json()["instances"][0]["computer"], "/computers/mojave", "{}", tail(&host.log()));
    let started = pid(&found);
    for file in ["cert.pem", "key.pem", "ca.pem"] {
        assert!(server.scratch().join("host-mojave/identity").join(file).exists(), "{file}");
    }
    let joined = audit(&server, &["--operation", "join"]);
    assert_eq!((&joined[0]["outcome"], &joined[0]["by"]), (&"ok".into(), &"/computers/mojave".into()), "{joined:?}");
    let secret = token.rsplit(['.', '@', ':']).find(|part| part.len() >= 32).unwrap_or(&token);
    assert_eq!(crate::support::holds(server.data(), secret.as_bytes()), None, "the token is nowhere in the clear");

    // Again with the same token.
    let thief = Host { server: &server, name: "thief" };
    let refused = thief.refused(&["--join", &token]);
    assert!(refused.status == 4, "{refused:#?}");
    assert!(!server.scratch().join("host-thief/identity/cert.pem").exists());
    let denied = audit(&server, &["--operation", "join"]);
    assert_ne!(denied[0]["outcome"], "ok", "{denied:?}");

    // Without it: the certificate is enough, and the program is still the same.
    drop(agent);
    let _agent = host.start(&[]);
    server.byname(&["stop", "/BVODS/QS"]);
    let again =
        eventually("another process on the host", || Some(find()).filter(|f| f.status == 0 && pid(f) != started));
    assert_eq!(again.json()["instances"][0]["computer"], "/computers/mojave");
}

#[test]
fn the_certificate_of_a_host_speaks_for_no_other() {
    let server = with_program();
    let anne = Host { server: &server, name: "anne" };
    let running = anne.start(&["--join", &invite(&server, &[])]);
    let certificate = server.scratch().join("host-anne/identity/cert.pem");
    eventually("its certificate", || certificate.exists().then_some(()));
    drop(running);
    // What was stolen from anne, on a host that calls itself bugs.
    let bugs = Host { server: &server, name: "bugs" };
    let own = server.scratch().join("host-bugs/identity");
    fs::create_dir_all(&own).unwrap();
    for entry in fs::read_dir(server.scratch().join("host-anne/identity")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, own.join(path.file_name().unwrap())).unwrap();
    }
    let refused = bugs.refused(&[]);
    assert_eq!(refused.status, 4, "{refused:#?}");
    assert!(refused.talk.contains("/computers/bugs") || refused.talk.contains("/computers/anne"), "{}", refused.talk);
    let denied = audit(&server, &["--outcome", "denied"]);
    assert!(denied.iter().any(|record| record["by"] == "/computers/anne"), "{denied:?}");
    // A token for one computer lets nobody join as another.
    let token = invite(&server, &["--computer", "mojave"]);
    let refused = Host { server: &server, name: "carrot" }.refused(&["--join", &token]);
    assert_eq!(refused.status, 4, "{refused:#?}");
}
