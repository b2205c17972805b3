//! Finding out whether a program takes connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use byname_api::service::Endpoint;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::check::Connection;
use crate::ports::Transport;

/// The shortest and the longest pause between two attempts to connect. In between a pause is an eighth of the time
/// that the start has taken, so that waiting adds little to it, whether it takes a millisecond or a minute.
const PAUSE_MIN: Duration = Duration::from_micros(300);
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// How long one attempt may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How much of an answer over HTTP is read for a check.
const PAGE: usize = 4 << 10;
/// How long an answer over HTTP may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Waits until the first endpoint that can be connected to is; over HTTP until it answers with a status below 400.
/// `addresses` are those of this computer, for endpoints that name none.
pub(crate) async fn wait(endpoints: &[Endpoint], addresses: &[String], http: Option<&str>) {
    let Some(endpoint) = endpoints.iter().find(|e| Transport::of(&e.protocol) != Some(Transport::Udp)) else {
        return std::future::pending().await;
    };
    let begun = Instant::now();
    let mut pause = Pause::new();
    loop {
        let answer = match http {
            None => connect(endpoint, addresses).await.is_ok(),
            Some(path) => matches!(timeout(ANSWER, get(endpoint, addresses, path)).await, Ok(Ok(100..=399))),
        };
        if answer {
            return;
        }
        pause.wait((begun.elapsed() / 8).clamp(PAUSE_MIN, PAUSE_MAX)).await;
    }
}

/// Whether every endpoint takes connections now. Those that cannot be connected to are taken at their word.
pub(crate) async fn probe(endpoints: &[Endpoint], addresses: &[String]) -> bool {
    for endpoint in endpoints.iter().filter(|e| Transport::of(&e.protocol) != Some(Transport::Udp)) {
        if connect(endpoint, addresses).await.is_err() {
            return false;
        }
    }
    true
}

/// Connects to an endpoint. `addresses` are those of this computer, for one that names none.
pub(crate) async fn connect(endpoint: &Endpoint, addresses: &[String]) -> io::Result<Box<dyn Connection>> {
    if endpoint.protocol == "unix" {
        return Ok(Box::new(timeout(CONNECT, UnixStream::connect(&endpoint.address)).await??));
    }
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    for address in candidates(&endpoint.address, addresses) {
        match timeout(CONNECT, TcpStream::connect(SocketAddr::new(address, endpoint.port))).await {
            // Without a listener, a socket can meet itself when the kernel gives it the very port it is looking for.
            Ok(Ok(stream)) if stream.local_addr()? != stream.peer_addr()? => return Ok(Box::new(stream)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(last)
}

/// Where to look for a listener.
fn candidates(address: &str, own: &[String]) -> Vec<IpAddr> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    match address.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => loopback.into(),
        Ok(ip) => vec![ip],
        Err(_) => {
            let mut all = vec![loopback[0]];
            all.extend(own.iter().filter_map(|a| a.parse().ok()).filter(|a| !loopback.contains(a)));
            all.push(loopback[1]);
            all
        }
    }
}

/// The status of the answer to a GET.
async fn get(endpoint: &Endpoint, addresses: &[String], path: &str) -> io::Result<u16> {
    let mut head = Vec::new();
    let mut stream = ask(endpoint, addresses, path).await?;
    // `HTTP/1.1 200`
    while head.len() < 12 {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    status(&head)
}

/// The status of the answer to a GET, and the beginning of what came with it.
pub(crate) async fn page(endpoint: &Endpoint, addresses: &[String], path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = ask(endpoint, addresses, path).await?;
    let mut answer = Vec::new();
    while answer.len() < PAGE {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) => {}
            // A server that has said enough may be rude.
            Err(error) if answer.len() < 12 => return Err(error),
            Err(_) => break,
        }
    }
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = status(&answer)?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| answer.split_off(at + 4));
    Ok((status, body.unwrap_or_default()))
}

/// An error of the system without its number.
pub(crate) fn sentence(error: &io::Error) -> String {
    match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        (None, io::ErrorKind::UnexpectedEof) => "closed the connection without an answer".into(),
        (None, io::ErrorKind::InvalidData) => "answered, and not over HTTP".into(),
        (None, _) => error.to_string(),
    }
}

async fn ask(endpoint: &Endpoint, addresses: &[String], path: &str) -> io::Result<Box<dyn Connection>> {
    let mut stream = connect(endpoint, addresses).await?;
    let host = if endpoint.address.is_empty() || endpoint.protocol == "unix" { "localhost" } else { &endpoint.address };
    let host =
        if host.contains(':') { format!("[{host}]:{}", endpoint.port) } else { format!("{host}:{}", endpoint.port) };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: byname\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

fn status(head: &[u8]) -> io::Result<u16> {
    std::str::from_utf8(head.get(..12).unwrap_or_default())
        .ok()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.get(9..12)?.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A timer that is finer than the runtime's, whose unit is a millisecond.
struct Pause(Option<AsyncFd<OwnedFd>>);

impl Pause {
    fn new() -> Pause {
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
        // SAFETY: the timer's descriptor is open, owned by the `AsyncFd` from here on, and never replaced.
        Pause(timer.ok().and_then(|fd| unsafe { AsyncFd::register(fd) }.ok()))
    }

    async fn wait(&mut self, time: Duration) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Some(timer) = &self.0
            && let Ok(it_value) = Timespec::try_from(time)
            && rustix::time::timerfd_settime(
                timer,
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval: zero, it_value },
            )
            .is_ok()
            && let Ok(mut guard) = timer.readable().await
        {
            let _ = rustix::io::read(timer, &mut [0; 8]);
            guard.clear_ready();
        } else {
            tokio::time::sleep(time).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_looked_for_where_it_can_be() {
        assert_eq!(candidates("10.0.0.1", &[]), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(candidates("0.0.0.0", &[]).len(), 2);
        assert_eq!(candidates("", &["10.0.0.2".into(), "127.0.0.1".into()]).len(), 3);
    }

    #[tokio::test]
    async fn a_listener_is_found_as_soon_as_it_listens() {
        let chosen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = chosen.local_addr().unwrap().port();
        drop(chosen);
        let endpoint = Endpoint { protocol: "tcp".into(), address: String::new(), port };
        assert!(!probe(std::slice::from_ref(&endpoint), &[]).await);
        let waiting = tokio::spawn({
            let endpoint = endpoint.clone();
            async move { wait(&[endpoint], &[], None).await }
        });
        let _listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert!(probe(&[endpoint], &[]).await);
    }
}
