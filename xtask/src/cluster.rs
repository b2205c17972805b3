//! `cluster`: three servers and three agents on hosts of their own, to try things out with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use byname_hosts::{Fleet, Plan};

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(crate) enum Order<'a> {
    /// Say whether hosts can be made here.
    Check,
    /// Make the hosts and start everything.
    Up {
        /// With the release build.
        release: bool,
    },
    /// End everything and take the hosts away.
    Down,
    /// Pull a host's cable.
    Cut(&'a str),
    /// Nothing that a host sends arrives.
    Silence(&'a str),
    /// Put all cables back.
    Heal,
    /// Lose so many of a hundred packets of a host.
    Loss(&'a str, u8),
    /// End a host's process with SIGKILL.
    Kill(&'a str),
    /// Start it again, on one host or several.
    Start(&'a [&'a str]),
    /// Say what there is.
    Status,
    /// Run a command on a host.
    Exec(&'a str, &'a [&'a str]),
}

impl<'a> Order<'a> {
    /// Reads the words behind `cluster`; none when they make no sense.
    pub(crate) fn parse(words: &'a [&'a str]) -> Option<Order<'a>> {
        Some(match words {
            ["check"] => Order::Check,
            ["up"] => Order::Up { release: false },
            ["up", "--release"] => Order::Up { release: true },
            ["down"] => Order::Down,
            ["cut", host] => Order::Cut(host),
            ["silence", host] => Order::Silence(host),
            ["heal"] => Order::Heal,
            ["loss", host, percent] => Order::Loss(host, percent.parse().ok().filter(|percent| *percent <= 100)?),
            ["kill", host] => Order::Kill(host),
            ["start", hosts @ ..] if !hosts.is_empty() => Order::Start(hosts),
            ["status"] => Order::Status,
            ["exec", host, "--", command @ ..] if !command.is_empty() => Order::Exec(host, command),
            _ => return None,
        })
    }
}

/// Does it. False when a command on a host failed.
pub(crate) fn run(root: &Path, order: &Order<'_>) -> anyhow::Result<bool> {
    // nft is in a folder that is in root's path only.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join("cluster");
    if let Order::Check = order {
        let obstacle = byname_hosts::Network::obstacle();
        println!("{}", obstacle.as_deref().unwrap_or("hosts can be made here"));
        return Ok(obstacle.is_none());
    }
    if let Order::Up { release } = order {
        return up(root, &target, &folder, *release);
    }
    let note = std::fs::read_to_string(folder.join("binary"));
    let binary = note.context("there is no cluster: `cargo xtask cluster up` makes one")?;
    let fleet = Fleet::of(Path::new(binary.trim()), &folder, Plan::default())?;
    if let Order::Down = order {
        fleet.down();
        std::fs::remove_dir_all(&folder)?;
        return Ok(true);
    }
    ensure!(fleet.network().is_up(), "there is no cluster: `cargo xtask cluster up` makes one");
    let named: &[&str] = match order {
        Order::Cut(host) | Order::Silence(host) | Order::Loss(host, _) | Order::Kill(host) | Order::Exec(host, _) => {
            &[*host]
        }
        Order::Start(hosts) => hosts,
        Order::Check | Order::Up { .. } | Order::Down | Order::Heal | Order::Status => &[],
    };
    if let Some(stranger) = named.iter().find(|host| !fleet.network().hosts().iter().any(|known| known == *host)) {
        bail!("there is no host {stranger}, but {}", fleet.network().hosts().join(", "));
    }
    match order {
        Order::Cut(host) => fleet.network().cut(host)?,
        Order::Silence(host) => fleet.network().silence(host)?,
        Order::Loss(host, percent) => fleet.network().lose(host, *percent)?,
        Order::Heal => fleet.network().heal()?,
        Order::Kill(host) => fleet.kill(host)?,
        Order::Start(hosts) => {
            for host in *hosts {
                ensure!(fleet.pid(host).is_none(), "what belongs on {host} runs");
            }
            fleet.start_again(hosts)?;
        }
        Order::Exec(host, words) => {
            let mut command = fleet.command(host, words[0]);
            return Ok(command.args(&words[1..]).env("PATH", path_with(Path::new(binary.trim()))).status()?.success());
        }
        Order::Check | Order::Up { .. } | Order::Down | Order::Status => {}
    }
    status(&fleet);
    Ok(true)
}

fn up(root: &Path, target: &Path, folder: &Path, release: bool) -> anyhow::Result<bool> {
    let needed = Command::new(root.join(".ci/need")).args(["ip", "nft"]).status().context("cannot run .ci/need")?;
    ensure!(needed.success(), "iproute2 and nftables are needed");
    if let Some(obstacle) = byname_hosts::Network::obstacle() {
        bail!("{obstacle}");
    }
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--package", "byname"]).current_dir(root);
    if release {
        build.arg("--release");
    }
    ensure!(build.status().context("cannot start cargo")?.success(), "the binary cannot be built");
    let binary = target.join(if release { "release" } else { "debug" }).join("byname");
    std::fs::create_dir_all(folder)?;
    let one = Fleet::of(&binary, folder, Plan::default())?;
    ensure!(!one.network().is_up(), "there is a cluster already: `cargo xtask cluster down` ends it");
    std::fs::remove_dir_all(folder)?;
    let fleet = Fleet::new(&binary, folder, Plan::default())?;
    std::fs::write(folder.join("binary"), binary.display().to_string())?;
    if let Err(error) = fleet.start() {
        eprintln!("the logs are in {}; `cargo xtask cluster down` clears up", folder.display());
        return Err(error.into());
    }
    status(&fleet);
    println!(
        "\nByname on a host, with its own server or agent:\n  cargo xtask cluster exec s1 -- byname cluster status\n  \
         cargo xtask cluster exec a1 -- byname find NAME\nFrom outside, by a unix socket:\n  \
         export BYNAME_SERVER={}\nPull a cable, put it back, kill a server, end it all:\n  \
         cargo xtask cluster cut s1\n  cargo xtask cluster heal\n  cargo xtask cluster kill s1\n  \
         cargo xtask cluster down",
        fleet.url("s1")
    );
    Ok(true)
}

fn status(fleet: &Fleet) {
    println!("{:5} {:12} {:8} {:9} {:>5} {:>9}  folder", "host", "address", "process", "is", "term", "revision");
    for host in fleet.network().hosts() {
        let pid = fleet.pid(host);
        let info = pid.filter(|_| host.starts_with('s')).and_then(|_| fleet.info(host));
        let is = match (&info, pid) {
            (_, None) => "gone",
            (Some(info), _) if info["primary"] == true => "primary",
            (Some(_), _) => "backup",
            (None, _) if host.starts_with('a') => "agent",
            (None, _) => "no answer",
        };
        let figure = |key: &str| {
            info.as_ref().and_then(|info| info[key].as_u64()).map_or_else(String::new, |figure| figure.to_string())
        };
        println!(
            "{host:5} {:12} {:8} {is:9} {:>5} {:>9}  {}",
            fleet.network().address(host).to_string(),
            pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            figure("term"),
            figure("revision"),
            fleet.folder(host).display()
        );
    }
    for fault in fleet.network().faults() {
        println!("cable: {fault}");
    }
}

/// The path, with the folder of the binary in front.
fn path_with(binary: &Path) -> std::ffi::OsString {
    let mut path = binary.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_behind_cluster() {
        assert_eq!(Order::parse(&["up"]), Some(Order::Up { release: false }));
        assert_eq!(Order::parse(&["loss", "s1", "30"]), Some(Order::Loss("s1", 30)));
        assert_eq!(Order::parse(&["loss", "s1", "130"]), None);
        assert_eq!(Order::parse(&["exec", "a1", "--", "ip", "a"]), Some(Order::Exec("a1", &["ip", "a"])));
        assert_eq!(Order::parse(&["exec", "a1", "--"]), None);
        assert_eq!(Order::parse(&["cut"]), None);
    }
}
