//! A real `byname dev` or `byname server` for one test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process;
use crate::wait::{PATIENCE, eventually};

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The command: `dev`, or `server` for one without an agent.
    pub role: &'static str,
    /// Keep the data here, from the scratch folder when relative, instead of in its `data`.
    pub data: Option<PathBuf>,
    /// The TCP address; port 0 picks a free one.
    pub listen: &'static str,
    /// More words for the command.
    pub arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { role: "dev", data: None, listen: "127.0.0.1:0", arguments: Vec::new() }
    }
}

/// `byname dev` on a folder and a port of its own. Dropping it ends it and every program that it started.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    role: &'static str,
    listen: std::borrow::Cow<'static, str>,
    arguments: Vec<String>,
    data: PathBuf,
    child: Option<Child>,
    endpoints: serde_json::Value,
    /// Removed last.
    scratch: tempfile::TempDir,
}

/// What a command wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and the signal when one ended it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub talk: String,
}

impl Output {
    /// The lines of standard output, of a command that went well.
    ///
    /// # Panics
    ///
    /// When it did not.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        assert_eq!(self.status, 0, "{}{}", self.out, self.talk);
        self.out.lines().collect()
    }

    /// Standard output as JSON, of a command that went well.
    ///
    /// # Panics
    ///
    /// When it did not, or that is no JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.status, 0, "{}{}", self.out, self.talk);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// How a server ended that was not to start.
pub type Ended = Output;

impl Server {
    /// Starts this binary and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready; with its log.
    pub fn start(binary: impl AsRef<Path>) -> Server {
        Server::start_with(binary, Options::default())
    }

    /// The same with options.
    ///
    /// # Panics
    ///
    /// As [`Server::start`].
    pub fn start_with(binary: impl AsRef<Path>, options: Options) -> Server {
        let mut server = Server::prepare(binary, options);
        server.start_again();
        server
    }

    /// A server that was not started yet.
    ///
    /// # Panics
    ///
    /// When there is no folder for temporary files.
    pub fn prepare(binary: impl AsRef<Path>, options: Options) -> Server {
        let scratch = tempfile::Builder::new().prefix("byname-test-").tempdir().expect("a temporary folder");
        let scratch_path = fs::canonicalize(scratch.path()).expect("the temporary folder");
        fs::create_dir_all(scratch_path.join("home")).expect("a home");
        let data = scratch_path.join(options.data.unwrap_or_else(|| "data".into()));
        let binary = binary.as_ref().to_owned();
        Server {
            binary,
            role: options.role,
            listen: options.listen.into(),
            arguments: options.arguments,
            data,
            child: None,
            endpoints: serde_json::Value::Null,
            scratch,
        }
    }

    /// Starts it on the data that is there, and waits until it is ready. Gives the time that took.
    ///
    /// # Panics
    ///
    /// When it runs, or does not become ready.
    #[track_caller]
    pub fn start_again(&mut self) -> Duration {
        self.try_start().unwrap_or_else(|ended| panic!("the server is not ready: {ended:#?}\n{}", self.log()))
    }

    /// Starts it, or tells how it ended instead of becoming ready.
    ///
    /// # Errors
    ///
    /// The exit status, and what the process wrote.
    ///
    /// # Panics
    ///
    /// When it runs already, or neither becomes ready nor ends.
    pub fn try_start(&mut self) -> Result<Duration, Box<Ended>> {
        assert!(self.child.is_none(), "the server runs");
        let log = File::options().create(true).append(true).open(self.log_file()).expect("the server's log");
        let told_before = log.metadata().map_or(0, |m| m.len());
        let begun = Instant::now();
        let mut child = self
            .command_of(self.role)
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &self.listen])
            .args(&self.arguments)
            .env_remove("BYNAME_SERVER")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the byname binary");
        let mut words = BufReader::new(child.stdout.take().expect("standard output"));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = words.read_line(&mut line);
            let _ = tell.send(line);
        });
        let Ok(line) = told.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("the server is neither ready nor gone\n{}", self.log());
        };
        if line != "ready\n" {
            let status = code(child.wait().expect("the end of the server"));
            let talk = self.log().get(told_before as usize..).unwrap_or_default().to_owned();
            return Err(Box::new(Output { status, out: line, talk }));
        }
        let took = begun.elapsed();
        self.child = Some(child);
        let endpoints = fs::read(self.data.join("endpoints.json")).expect("endpoints.json of a server that is ready");
        self.endpoints = serde_json::from_slice(&endpoints).expect("endpoints.json");
        Ok(took)
    }

    /// Waits until it ends by itself, and tells how.
    ///
    /// # Panics
    ///
    /// When it does not run, or goes on.
    pub fn ends(&mut self) -> Box<Ended> {
        let mut child = self.child.take().expect("the server runs");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("the end of the server") {
                break code(status);
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the server goes on\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Box::new(Output { status, out: String::new(), talk: self.log() })
    }

    /// Listens on the same port when it is started again: what others were told of it holds.
    ///
    /// # Panics
    ///
    /// When it does not listen on TCP.
    pub fn keep_port(&mut self) {
        let api = self.https();
        let address = api.strip_prefix("https://").expect("an address");
        self.listen = address.to_owned().into();
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    ///
    /// When the server was never ready.
    pub fn api(&self) -> String {
        self.endpoint("api")
    }

    /// Where the DNS answers, if it does.
    pub fn dns(&self) -> Option<std::net::SocketAddr> {
        self.endpoints["dns"].as_str()?.parse().ok()
    }

    /// `https://127.0.0.1:PORT`: the same port with TLS.
    ///
    /// # Panics
    ///
    /// When the server was never ready.
    pub fn https(&self) -> String {
        self.endpoint("https")
    }

    /// `127.0.0.1:PORT`: where it speaks the protocol of Tcl-DP.
    ///
    /// # Panics
    ///
    /// When the server was never ready, or was not started with `--dp`.
    pub fn dp(&self) -> String {
        self.endpoint("dp")
    }

    /// The same, where it does.
    pub fn dp_if_spoken(&self) -> Option<String> {
        self.endpoints["dp"].as_str().map(str::to_owned)
    }

    /// The file with the root certificates of its trust domain.
    pub fn ca(&self) -> PathBuf {
        self.data.join("ca.pem")
    }

    /// The path of the unix socket.
    ///
    /// # Panics
    ///
    /// When the server was never ready.
    pub fn socket(&self) -> String {
        self.endpoint("socket")
    }

    /// `unix:///PATH`: what BYNAME_SERVER is for this server's commands.
    ///
    /// # Panics
    ///
    /// When the server was never ready.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket())
    }

    /// The bearer token.
    ///
    /// # Panics
    ///
    /// When the server was never ready.
    pub fn token(&self) -> String {
        fs::read_to_string(self.endpoint("token_file")).expect("the token").trim().to_owned()
    }

    fn endpoint(&self, which: &str) -> String {
        self.endpoints[which].as_str().unwrap_or_else(|| panic!("no `{which}` in endpoints.json")).to_owned()
    }

    /// The process.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a server that runs").id()
    }

    /// What it logged so far, in all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("server.log")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGHUP: it reads again what it can.
    pub fn hang_up(&self) {
        process::send(self.pid(), Signal::HUP);
    }

    /// SIGTERM, and the exit status once it has ended.
    ///
    /// # Panics
    ///
    /// When it does not run or does not end.
    pub fn terminate(&mut self) -> i32 {
        let mut child = self.child.take().expect("a server that runs");
        process::send(child.id(), Signal::TERM);
        let ended = eventually("the end of the server after SIGTERM", || child.try_wait().ok().flatten());
        code(ended)
    }

    /// A command of the binary, with BYNAME_SERVER set, in the scratch folder.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.command_of(words.first().copied().unwrap_or("help"));
        command.args(words.get(1..).unwrap_or_default());
        command
    }

    fn command_of(&self, word: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(word);
        self.environment(&mut command);
        command
    }

    /// The environment and folder for a command that shall talk to this server and to no other.
    pub fn environment(&self, command: &mut Command) {
        let scratch = self.scratch.path();
        let mut path = self.binary.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", scratch.join("home"))
            .env("LANG", "C.UTF-8")
            .current_dir(scratch);
        if let Some(socket) = self.endpoints["socket"].as_str() {
            command.env("BYNAME_SERVER", format!("unix://{socket}"));
        }
    }

    /// Runs a command of the binary to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started or does not end.
    pub fn byname(&self, words: &[&str]) -> Output {
        run(&mut self.command(words), "")
    }

    /// The same with this on standard input.
    ///
    /// # Panics
    ///
    /// As [`Server::byname`].
    pub fn byname_with(&self, words: &[&str], input: &str) -> Output {
        run(&mut self.command(words), input)
    }

    /// Runs any program with the environment of this server's commands.
    ///
    /// # Panics
    ///
    /// As [`Server::byname`].
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Output {
        let mut command = Command::new(program);
        self.environment(&mut command);
        command.args(arguments);
        run(&mut command, "")
    }

    /// Applies this tree file.
    ///
    /// # Panics
    ///
    /// When it is refused.
    #[track_caller]
    pub fn apply(&self, toml: &str) {
        let applied = self.byname_with(&["apply", "-f", "-"], toml);
        assert_eq!(applied.status, 0, "{}", applied.talk);
    }

    /// Holders and programs that this server started and that are there.
    pub fn processes(&self) -> Vec<u32> {
        process::of_folder(&self.data)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of the server\n{}---", self.log());
        }
        self.kill();
        // What is killed may have been starting something.
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let mut left = process::of_folder(self.scratch.path());
            left.extend(process::of_folder(&self.data));
            if left.is_empty() || Instant::now() > until {
                return;
            }
            for pid in left {
                process::kill(pid);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Runs a command to its end, with this on standard input.
///
/// # Panics
///
/// When it cannot be started, or has not ended in time.
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("standard input");
    let (mut out, mut talk) = (child.stdout.take().expect("output"), child.stderr.take().expect("errors"));
    let input = input.to_owned();
    // A command that does not read its input is none of our business.
    std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let talk = std::thread::spawn(move || read_all(&mut talk));
    let out = std::thread::spawn(move || read_all(&mut out));
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the state of a child") {
            break status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Output { status: code(status), out: text(out), talk: text(talk) }
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
