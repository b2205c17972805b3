//! ZooKeeper: the server from Debian's package, and as much of its protocol (jute over TCP, in frames with their length
//! in front) as it takes to make nodes, many at once on one connection.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{TrySendError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Process, free_port, logged};

/// Creates that may wait for their answers; the server reads no more than 1,000 ahead.
const WINDOW: usize = 500;
/// How long the server may take to answer at first.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of the operation that makes a node.
const CREATE: i32 = 1;
/// No answer is larger.
const MAX_FRAME: usize = 1 << 20;

/// One server by itself with its defaults, fsync included.
pub(crate) struct Zookeeper {
    process: Process,
    address: String,
    log: PathBuf,
}

impl Zookeeper {
    /// Starts one with its data in `dir`; `jar` is Debian's `zookeeper.jar`, which names what else it needs.
    pub(crate) fn start(jar: &Path, dir: &Path) -> Result<Zookeeper> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let port = free_port()?;
        let config = dir.join("zoo.cfg");
        let data = dir.join("data");
        let text = format!(
            "tickTime=2000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
            data.display()
        );
        std::fs::write(&config, text)?;
        let log = dir.join("log");
        let mut command = logged(Path::new("java"), &log)?;
        command.args(["-Dzookeeper.root.logger=WARN,CONSOLE", "-Dzookeeper.jmx.log4j.disable=true"]);
        // On SIGQUIT it collects all garbage first.
        command.arg("-XX:+PrintClassHistogram");
        command.arg("-cp").arg(format!("/etc/zookeeper/conf:{}", jar.display()));
        command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(&config);
        let process = Process::spawn(&mut command)?;
        let server = Zookeeper { process, address: format!("127.0.0.1:{port}"), log };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = Session::open(&server.address) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("ZooKeeper: see {}", server.log.display()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A new session.
    pub(crate) fn session(&self) -> Result<Session> {
        Session::open(&self.address)
    }

    /// Has it collect its garbage, all of it.
    pub(crate) fn collect(&self) -> Result<()> {
        let before = std::fs::metadata(&self.log)?.len();
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGQUIT)?;
        let deadline = Instant::now() + PATIENCE;
        // The list of what it holds comes after the collection and ends with a sum.
        loop {
            let log = std::fs::read(&self.log)?;
            let told = String::from_utf8_lossy(log.get(before as usize..).unwrap_or_default()).into_owned();
            if told.lines().any(|line| line.trim_start().starts_with("Total ")) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "ZooKeeper did not collect: see {}", self.log.display());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A session on a connection of its own.
pub(crate) struct Session {
    stream: TcpStream,
    next: i32,
}

impl Session {
    fn open(address: &str) -> Result<Session> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut hello = Vec::new();
        hello.extend(0_i32.to_be_bytes()); // version of the protocol
        hello.extend(0_i64.to_be_bytes()); // the newest transaction that was seen
        hello.extend(30_000_i32.to_be_bytes()); // the session's end, in milliseconds
        hello.extend(0_i64.to_be_bytes()); // a new session
        buffer(&mut hello, &[0; 16]); // its password
        hello.push(0); // not read-only
        frame(&mut stream, &hello)?;
        let reply = answer(&mut stream)?;
        let granted = reply.get(4..8).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]])).unwrap_or(0);
        ensure!(granted > 0, "ZooKeeper grants no session");
        Ok(Session { stream, next: 1 })
    }

    /// Makes these nodes in this order, without waiting for one before the next is sent; parents must be there.
    pub(crate) fn create(&mut self, nodes: impl Iterator<Item = (String, Vec<u8>)>) -> Result<()> {
        let (sent, waiting) = sync_channel::<i32>(WINDOW);
        let mut input = BufReader::with_capacity(1 << 16, self.stream.try_clone()?);
        let mut output = BufWriter::with_capacity(1 << 16, self.stream.try_clone()?);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || -> Result<()> {
                while let Ok(xid) = waiting.recv() {
                    created(&answer(&mut input)?, xid)?;
                }
                Ok(())
            });
            for (path, data) in nodes {
                let xid = self.next;
                self.next += 1;
                frame(&mut output, &create_request(xid, &path, &data))?;
                match sent.try_send(xid) {
                    Ok(()) => {}
                    Err(TrySendError::Full(xid)) => {
                        output.flush()?;
                        if sent.send(xid).is_err() {
                            break; // the reader says why
                        }
                    }
                    Err(TrySendError::Disconnected(_)) => break,
                }
            }
            output.flush()?;
            drop(sent);
            match reading.join() {
                Ok(done) => done,
                Err(_) => bail!("the reader of ZooKeeper's answers panicked"),
            }
        })
    }
}

/// A create of a persistent node that everybody may do everything to.
fn create_request(xid: i32, path: &str, data: &[u8]) -> Vec<u8> {
    const ALL: i32 = 31;
    const PERSISTENT: i32 = 0;
    let mut body = Vec::with_capacity(path.len() + data.len() + 64);
    body.extend(xid.to_be_bytes());
    body.extend(CREATE.to_be_bytes());
    buffer(&mut body, path.as_bytes());
    buffer(&mut body, data);
    body.extend(1_i32.to_be_bytes()); // one rule
    body.extend(ALL.to_be_bytes());
    buffer(&mut body, b"world");
    buffer(&mut body, b"anyone");
    body.extend(PERSISTENT.to_be_bytes());
    body
}

/// Makes sure that an answer says that the node was made: xid, zxid, error.
fn created(reply: &[u8], xid: i32) -> Result<()> {
    let number = |at: usize| {
        reply.get(at..at + 4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]])).context("ZooKeeper's answer is cut")
    };
    ensure!(number(0)? == xid, "ZooKeeper answered {} instead of {xid}", number(0)?);
    let error = number(12)?;
    ensure!(error == 0, "ZooKeeper made no node: its error {error}");
    Ok(())
}

fn buffer(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend((bytes.len() as i32).to_be_bytes());
    into.extend(bytes);
}

fn frame(to: &mut impl Write, body: &[u8]) -> Result<()> {
    to.write_all(&(body.len() as i32).to_be_bytes())?;
    to.write_all(body)?;
    Ok(())
}

fn answer(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).context("ZooKeeper does not answer")?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    ensure!(length <= MAX_FRAME, "ZooKeeper's answer is too long");
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_is_laid_out_as_jute_wants_it() {
        let body = create_request(7, "/a", b"v");
        let mut wanted =
            vec![0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, b'/', b'a', 0, 0, 0, 1, b'v', 0, 0, 0, 1, 0, 0, 0, 31];
        wanted.extend([0, 0, 0, 5]);
        wanted.extend(b"world");
        wanted.extend([0, 0, 0, 6]);
        wanted.extend(b"anyone");
        wanted.extend([0, 0, 0, 0]);
        assert_eq!(body, wanted);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut reply = vec![0, 0, 0, 7];
        reply.extend([0; 8]);
        reply.extend((-101_i32).to_be_bytes()); // no such parent
        assert!(created(&reply, 7).unwrap_err().to_string().contains("-101"));
        assert!(created(&reply[..10], 7).is_err());
        reply[12..].fill(0);
        created(&reply, 7).unwrap();
        assert!(created(&reply, 8).is_err());
    }
}
