//! `advertise` and `withdraw`: where a service answers that Byname did not start, or that takes its ticket by itself.

use std::future::Future;
use std::io::Read;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use byname_api::object::InstanceId;
use byname_api::request::{AdvertiseReply, AdvertiseRequest, ReportRequest, WithdrawRequest};
use byname_api::service::Endpoint;
use byname_api::span::Span;
use byname_api::{Code, Error, Result};
use byname_name::Name;
use sha2::{Digest, Sha256};

use super::{Session, may_pass};
use crate::cli::{AdvertiseArgs, ReportArgs, WithdrawArgs};
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::reach::write_note;
use crate::screen::Format;

/// How long a lease that is held in the foreground lasts without renewal.
pub(crate) const HELD_TTL: Span = Span::from_secs(30);

/// `advertise`. Ends when `stop` does, unless it only had to say it once.
pub(crate) async fn advertise(
    session: &mut Session,
    args: AdvertiseArgs,
    env: &Environment,
    stop: impl Future<Output = ()>,
) -> Outcome {
    let name = session.name(&args.name)?;
    let mut endpoints = args.endpoints.iter().map(|e| endpoint(e)).collect::<Result<Vec<_>>>()?;
    endpoints.extend(args.port.map(|port| Endpoint { protocol: "tcp".into(), address: String::new(), port }));
    let request = AdvertiseRequest {
        name: Some(name.clone()),
        endpoints,
        ttl: Some(args.ttl.unwrap_or(HELD_TTL)),
        weight: args.weight,
        pid: args.pid,
        ..AdvertiseRequest::default()
    };
    if let Some(ticket) = own_ticket(env, &name)? {
        let file = args.credential_file.as_deref().or(env.own_credential_file.as_deref());
        return with_ticket(session, request, ticket, file).await;
    }
    let reply = session.service.advertise(&session.cx, request.clone()).await?;
    print(session, &name, &reply)?;
    if args.ttl.is_some() {
        return Ok(());
    }
    hold(session, &name, request, reply, stop).await
}

/// `withdraw`.
pub(crate) async fn withdraw(session: &mut Session, args: WithdrawArgs) -> Outcome {
    let request = WithdrawRequest { name: session.name(&args.name)?, instance: args.instance, credential: None };
    let reply = session.service.withdraw(&session.cx, request).await?;
    match session.screen.format {
        Format::Json => session.screen.json(&reply)?,
        Format::Name | Format::Table => {
            for instance in &reply.withdrawn {
                session.screen.line(&instance.to_string())?;
            }
        }
    }
    Ok(())
}

/// `report`. Within a launched program the instance is its own.
pub(crate) async fn report(session: &mut Session, args: ReportArgs, env: &Environment) -> Outcome {
    let name = session.name(&args.name)?;
    let own = env.own_name.as_deref().is_some_and(|own| Name::parse(own).is_ok_and(|own| own == name));
    let instance = match (args.instance, env.own_instance.as_deref().filter(|_| own)) {
        (None, Some(own)) => Some(own.parse()?),
        (given, _) => given,
    };
    let request = ReportRequest {
        name: Some(name.clone()),
        instance,
        load: args.load,
        uses: args.uses,
        health: args.health,
        note: args.note,
        credential: None,
    };
    let reply = session.service.report(&session.cx, request).await?;
    match session.screen.format {
        Format::Json => session.screen.json(&reply)?,
        Format::Name => session.screen.line(&reply.instance.to_string())?,
        Format::Table => session.screen.line(&format!("reported {name} ({})", reply.instance))?,
    }
    Ok(())
}

/// Renews until `stop`, then withdraws.
pub(crate) async fn hold(
    session: &mut Session,
    name: &Name,
    request: AdvertiseRequest,
    mut held: AdvertiseReply,
    stop: impl Future<Output = ()>,
) -> Outcome {
    tokio::pin!(stop);
    let mut well = true;
    loop {
        // A third of the lease: two renewals may be lost before it ends.
        let pause = Duration::from_millis((held.ttl_ms.unwrap_or(HELD_TTL.as_millis()) / 3).max(10));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stop => break,
        }
        let renewal =
            AdvertiseRequest { instance: Some(held.instance), credential: held.credential.clone(), ..request.clone() };
        let renewed = async {
            match session.service.advertise(&session.cx, renewal).await {
                // The lease ended meanwhile, or the server does not know it any more: begin anew.
                Err(e) if !may_pass(e.code()) => session.service.advertise(&session.cx, request.clone()).await,
                answer => answer,
            }
        };
        let answer = tokio::select! {
            answer = renewed => answer,
            () = &mut stop => break,
        };
        match answer {
            Ok(renewed) => {
                if renewed.instance != held.instance {
                    print(session, name, &renewed)?;
                }
                let credential = renewed.credential.clone().or(held.credential.take());
                held = AdvertiseReply { credential, ..renewed };
                well = true;
            }
            Err(e) if may_pass(e.code()) => {
                if std::mem::replace(&mut well, false) {
                    session.screen.say(&format!("byname: note: cannot renew at the moment ({e}); trying again"));
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    let request = WithdrawRequest { name: name.clone(), instance: Some(held.instance), credential: held.credential };
    session.service.withdraw(&session.cx, request).await?;
    Ok(())
}

pub(crate) fn print(session: &mut Session, name: &Name, reply: &AdvertiseReply) -> Outcome {
    match session.screen.format {
        // The credential is this process's own and shown to nobody.
        Format::Json => session.screen.json(&AdvertiseReply { credential: None, ..reply.clone() })?,
        Format::Name => session.screen.line(&reply.instance.to_string())?,
        Format::Table => session.screen.line(&format!("advertised {name} ({})", reply.instance))?,
    }
    Ok(session.screen.flush()?)
}

/// The two halves of a launched program's ticket, in hex.
struct Ticket {
    program: String,
    server: String,
    instance: Option<InstanceId>,
}

/// The ticket of this start, when this process was launched for this name.
fn own_ticket(env: &Environment, name: &Name) -> Result<Option<Ticket>> {
    let (Some(fd), Some(own)) = (env.ticket_fd, &env.own_name) else { return Ok(None) };
    if !Name::parse(own).is_ok_and(|own| own == *name) {
        return Ok(None);
    }
    let bad = |why: &str| Error::new(Code::Unauthenticated, format!("descriptor {fd} of BYNAME_TICKET_FD {why}"));
    let mut text = String::new();
    std::fs::File::open(format!("/proc/self/fd/{fd}"))
        .and_then(|file| file.take(1_024).read_to_string(&mut text))
        .map_err(|e| bad(&format!("cannot be read: {e}")))?;
    let mut halves = text.split_whitespace().map(str::to_owned);
    match (halves.next(), halves.next()) {
        (Some(program), Some(server)) => {
            let instance = env.own_instance.as_deref().map(str::parse).transpose()?;
            Ok(Some(Ticket { program, server, instance }))
        }
        _ => Err(bad("does not hold a ticket; it can be read once")),
    }
}

/// Advertises a launched instance: it lives as long as its process, so nothing is held.
async fn with_ticket(
    session: &mut Session,
    request: AdvertiseRequest,
    ticket: Ticket,
    credential_file: Option<&Path>,
) -> Outcome {
    let name = request.name.clone().unwrap_or_else(Name::root);
    let request = AdvertiseRequest { ticket: Some(ticket.program), instance: ticket.instance, ttl: None, ..request };
    let reply = session.service.advertise(&session.cx, request).await?;
    let expected = unhex(&ticket.server).map(|half| hex(&Sha256::digest(half)));
    if expected.is_none() || reply.proof != expected {
        let message = "whoever answered does not know the other half of the ticket: it is not the server that launched this program";
        return Err(Error::new(Code::Unauthenticated, message).into());
    }
    if let (Some(file), Some(credential)) = (credential_file, &reply.credential) {
        write_note(file, credential.as_bytes())
            .map_err(|e| Failure::System(format!("advertised, but cannot write {}: {e}", file.display())))?;
    }
    print(session, &name, &reply)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// `tcp://HOST:PORT`, `HOST:PORT`, `:PORT` or `unix:/PATH`. Names of hosts are looked up here and now.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint> {
    let bad = || {
        let message =
            format!("`{}` is no endpoint: write tcp://HOST:PORT, HOST:PORT or unix:/PATH", text.escape_debug());
        Error::invalid("endpoint", message)
    };
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path.starts_with('/') {
            true => Ok(Endpoint { protocol: "unix".into(), address: path.into(), port: 0 }),
            false => Err(bad()),
        };
    }
    let (protocol, rest) = text.split_once("://").unwrap_or(("tcp", text));
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().ok().filter(|p| *p > 0).ok_or_else(bad)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let address = if host.is_empty() || host.parse::<IpAddr>().is_ok() {
        host.to_owned()
    } else {
        let found = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
        let message = format!("the host `{}` is not known", host.escape_debug());
        found.ok_or_else(|| Error::invalid("endpoint", message))?.ip().to_string()
    };
    Ok(Endpoint { protocol: protocol.into(), address, port })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;
    use crate::fake::{Fake, run};
    use crate::screen::Screen;

    #[test]
    fn endpoints_read() {
        for (text, protocol, address, port) in [
            ("tcp://127.0.0.1:80", "tcp", "127.0.0.1", 80),
            ("http://[::1]:8080/", "http", "::1", 8080),
            ("192.0.2.1:5", "tcp", "192.0.2.1", 5),
            (":5", "tcp", "", 5),
            ("unix:/run/x", "unix", "/run/x", 0),
            ("unix:///run/x", "unix", "/run/x", 0),
        ] {
            let expected = Endpoint { protocol: protocol.into(), address: address.into(), port };
            assert_eq!(endpoint(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "80", "tcp://h", "h:0", "h:99999", "unix:x"] {
            assert_eq!(endpoint(bad).unwrap_err().at_field(), Some("endpoint"), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_report_is_of_the_instance_that_is_meant() {
        let done = run("report /web --load 0.25 --uses 3 --instance i5").await;
        assert_eq!(done.log, ["report /web instance=Some(InstanceId(5)) load=Some(0.25) uses=Some(3)"]);
        let done = run("report /web --health warning --note why --instance i5").await;
        let expected = "report /web instance=Some(InstanceId(5)) load=None uses=None health=warning note=Some(\"why\")";
        assert_eq!(done.log, [expected]);
        assert_eq!(done.out, "reported /web (i5)\n");
        for (own, expected) in [("/web", "Some(InstanceId(9))"), ("/other", "None")] {
            let env =
                Environment { own_name: Some(own.into()), own_instance: Some("i9".into()), ..Environment::default() };
            let done = crate::fake::run_in("report -o name /web --uses 1", &env).await;
            assert_eq!(done.log, [format!("report /web instance={expected} load=None uses=Some(1)")]);
        }
    }

    #[tokio::test]
    async fn with_a_ttl_it_is_said_once() {
        let done = run("advertise /web --port 80 --ttl 5m").await;
        assert_eq!(done.log, ["advertise /web [tcp://:80] ttl=Some(Span(300000)) instance=None credential=None"]);
        assert_eq!(done.out, "advertised /web (im)\n");
        assert!(!run("advertise -o json /web --port 80 --ttl 5m").await.out.contains("credential"));
    }

    #[tokio::test]
    async fn without_one_it_is_renewed_and_withdrawn_at_the_end() {
        let (service, mut calls) = Fake::watched();
        let (screen, out, _) = Screen::captured(Format::Name, false);
        let mut session = Session::new(Arc::new(service), Name::root(), screen);
        let (end, ended) = oneshot::channel::<()>();
        let args = AdvertiseArgs {
            name: "/web".into(),
            endpoints: Vec::new(),
            port: Some(80),
            ttl: None,
            weight: None,
            pid: None,
            credential_file: None,
        };
        let task = tokio::spawn(async move {
            let stop = async { drop(ended.await) };
            advertise(&mut session, args, &Environment::default(), stop).await
        });
        let first = calls.recv().await.unwrap();
        assert!(first.ends_with("instance=None credential=None"), "{first}");
        for _ in 0..2 {
            let renewal = calls.recv().await.unwrap();
            assert!(renewal.ends_with("instance=Some(InstanceId(20)) credential=Some(\"c0ffee\")"), "{renewal}");
        }
        end.send(()).unwrap();
        let mut last = String::new();
        while let Some(call) = calls.recv().await {
            last = call;
        }
        assert_eq!(last, "withdraw /web instance=Some(InstanceId(20)) credential=Some(\"c0ffee\")");
        task.await.unwrap().unwrap();
        assert_eq!(out.take(), "im\n");
    }

    #[tokio::test]
    async fn a_launched_program_shows_its_ticket_and_checks_the_proof() {
        use std::os::fd::AsRawFd;
        let ticket = tempfile::NamedTempFile::new().unwrap();
        for (server, ok) in [("00ff", true), ("00fe", false)] {
            std::fs::write(ticket.path(), format!("aa11 {server}\n")).unwrap();
            let env = Environment {
                own_name: Some("/web".into()),
                own_instance: Some("im".into()),
                ticket_fd: u32::try_from(ticket.as_file().as_raw_fd()).ok(),
                ..Environment::default()
            };
            let (screen, _, _) = Screen::captured(Format::Table, false);
            let mut session = Session::new(Arc::new(Fake::default()), Name::root(), screen);
            let ticket = own_ticket(&env, &"/WEB".parse().unwrap()).unwrap().unwrap();
            let request = AdvertiseRequest { name: Some("/web".parse().unwrap()), ..AdvertiseRequest::default() };
            let kept = tempfile::tempdir().unwrap();
            let file = kept.path().join("credential");
            assert_eq!(with_ticket(&mut session, request, ticket, Some(&file)).await.is_ok(), ok);
            let credential = std::fs::read_to_string(file).ok();
            assert_eq!(credential.as_deref(), ok.then_some("c0ffee\n"), "kept when it is the right server");
            assert!(own_ticket(&env, &"/other".parse().unwrap()).unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn withdraw_says_what_is_gone() {
        let done = run("withdraw /web --instance i20").await;
        assert_eq!((done.out.as_str(), done.status), ("i20\n", 0));
    }
}
