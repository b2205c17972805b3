//! Network namespaces on a bridge, and what can happen to their cables.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failed;

/// The table of nftables that holds what was done to the cables.
const TABLE: &str = "byname";
/// What the names of namespaces of tests begin with; the process that made them and an `x` follow.
const TESTS: &str = "bnt";

/// Hosts with addresses of their own: the first has 10.77.0.1. They see each other and nothing else. Dropping this leaves them
/// as they are: [`Network::down`] takes them away.
#[derive(Clone, Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<String>,
}

impl Network {
    /// Why there can be no such network here; none when there can.
    pub fn obstacle() -> Option<String> {
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            if Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                return Some(format!("there is no `{program}`: install the package {package}"));
            }
        }
        let probe = Network { prefix: format!("bnprobe{}", std::process::id()), hosts: vec!["x".into()] };
        let outcome = probe.build().and_then(|()| probe.lose("x", 10));
        probe.down();
        outcome.err().map(|error| format!("network namespaces cannot be used here (they need root): {error}"))
    }

    /// Makes the hosts. `prefix` goes in front of the names of their namespaces, so that several networks can be there at once;
    /// with it and a hyphen, names of hosts can have 10 characters.
    ///
    /// # Errors
    ///
    /// What `ip` says. What was made until then is taken away.
    pub fn up(prefix: &str, hosts: &[&str]) -> io::Result<Network> {
        let network = Network::of(prefix, hosts);
        network.build().inspect_err(|_| network.down())?;
        Ok(network)
    }

    /// The same hosts, made by another process.
    pub fn of(prefix: &str, hosts: &[&str]) -> Network {
        Network { prefix: prefix.to_owned(), hosts: hosts.iter().map(|host| (*host).to_owned()).collect() }
    }

    /// What the names of namespaces of this process's tests begin with.
    pub fn for_tests() -> String {
        format!("{TESTS}{}x", std::process::id())
    }

    /// Ends and takes away what tests left that were killed themselves.
    pub fn sweep() {
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let space = name.to_string_lossy();
            let made_by = space.strip_prefix(TESTS).and_then(|rest| rest.split_once('x')?.0.parse().ok());
            if made_by.is_some_and(|pid: u32| !crate::alive(pid)) {
                let listed = Command::new("ip").args(["netns", "pids", &space]).output();
                let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                for pid in text.unwrap_or_default().lines().filter_map(|line| line.trim().parse().ok()) {
                    crate::fleet::send(pid, rustix::process::Signal::KILL);
                }
                let _ = ip(&["netns", "del", &space]);
            }
        }
    }

    fn build(&self) -> io::Result<()> {
        let bridge = self.bridge();
        ip(&["netns", "add", &bridge])?;
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &bridge, "link", "set", "br0", "up"])?;
        for host in &self.hosts {
            let (space, cable) = (self.namespace(host), cable(host));
            let address = format!("{}/24", self.address(host));
            ip(&["netns", "add", &space])?;
            ip(&["-n", &space, "link", "add", "eth0", "type", "veth", "peer", "name", &cable, "netns", &bridge])?;
            ip(&["-n", &bridge, "link", "set", &cable, "master", "br0", "up"])?;
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// Takes the hosts away. Processes on them must have ended; what is not there is no error.
    pub fn down(&self) {
        for host in &self.hosts {
            let _ = ip(&["netns", "del", &self.namespace(host)]);
        }
        let _ = ip(&["netns", "del", &self.bridge()]);
    }

    /// Whether it is there.
    pub fn is_up(&self) -> bool {
        Path::new("/run/netns").join(self.bridge()).exists()
    }

    /// The names of the hosts.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The address of a host.
    pub fn address(&self, host: &str) -> Ipv4Addr {
        let place = self.hosts.iter().position(|known| known == host).map_or(254, |n| n + 1);
        Ipv4Addr::new(10, 77, 0, u8::try_from(place).unwrap_or(254))
    }

    /// The namespace of a host, as `ip netns` knows it.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn bridge(&self) -> String {
        format!("{}-br", self.prefix)
    }

    /// A command on a host. The process is the program itself: its id can be signalled.
    pub fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// Pulls the cable of a host.
    ///
    /// # Errors
    ///
    /// What `nft` says.
    pub fn cut(&self, host: &str) -> io::Result<()> {
        self.rules(&[format!("iifname {} drop", cable(host)), format!("oifname {} drop", cable(host))])
    }

    /// Nothing that a host sends arrives any more; what is sent to it does.
    ///
    /// # Errors
    ///
    /// What `nft` says.
    pub fn silence(&self, host: &str) -> io::Result<()> {
        self.rules(&[format!("iifname {} drop", cable(host))])
    }

    /// Loses so many of a hundred packets of a host, in each direction.
    ///
    /// # Errors
    ///
    /// What `nft` says.
    pub fn lose(&self, host: &str, percent: u8) -> io::Result<()> {
        let lot = format!("numgen random mod 100 < {percent} drop");
        self.rules(&[format!("iifname {} {lot}", cable(host)), format!("oifname {} {lot}", cable(host))])
    }

    /// All cables are as good as new.
    ///
    /// # Errors
    ///
    /// What `nft` says.
    pub fn heal(&self) -> io::Result<()> {
        // To add a table that is there is no error, so there is always one to delete.
        self.nft(&format!("add table bridge {TABLE}; delete table bridge {TABLE}"))
    }

    /// What was done to the cables, as rules of nftables; empty when nothing was.
    pub fn faults(&self) -> Vec<String> {
        let mut command = self.in_bridge("nft");
        let listed = command.args(["list", "table", "bridge", TABLE]).stderr(Stdio::null()).output();
        let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().map(str::trim).filter(|line| line.ends_with("drop")).map(str::to_owned).collect()
    }

    fn rules(&self, rules: &[String]) -> io::Result<()> {
        let mut script = format!(
            "add table bridge {TABLE}; \
             add chain bridge {TABLE} cables {{ type filter hook forward priority 0; }}"
        );
        for rule in rules {
            script.push_str(&format!("; add rule bridge {TABLE} cables {rule}"));
        }
        self.nft(&script)
    }

    fn nft(&self, script: &str) -> io::Result<()> {
        run(self.in_bridge("nft").arg(script))
    }

    fn in_bridge(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.bridge(), program]);
        command
    }
}

/// The bridge's end of a host's cable.
fn cable(host: &str) -> String {
    format!("v{host}")
}

fn ip(words: &[&str]) -> io::Result<()> {
    run(Command::new("ip").args(words))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{} {}: {}", command.get_program().display(), words.join(" "), said.trim())))
}
