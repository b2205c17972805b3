//! `launch`, `stop`, `restart` and `reset`.

use byname_api::request::{ActRequest, Verb};
use byname_api::{Code, Error};

use super::{Session, addresses};
use crate::cli::{ActArgs, StopArgs};
use crate::failure::{Failure, Outcome};
use crate::screen::{Cell, Format, Paint, Table};

/// `launch`, `restart` and `reset`.
pub(crate) async fn run(session: &mut Session, verb: Verb, args: ActArgs) -> Outcome {
    act(session, verb, args, false, false).await
}

/// `stop`.
pub(crate) async fn stop(session: &mut Session, args: StopArgs) -> Outcome {
    act(session, Verb::Stop, args.act, args.hold, args.now).await
}

async fn act(session: &mut Session, verb: Verb, args: ActArgs, hold: bool, now: bool) -> Outcome {
    let patterns = args.names.iter().map(|n| Ok(session.pattern(n)?.to_string())).collect::<Outcome<Vec<_>>>()?;
    let request = ActRequest { verb, patterns, hold, now, timeout: args.timeout };
    let reply = session.service.act(&session.cx, request).await?;
    if reply.services.is_empty() {
        return Err(Error::new(Code::NotFound, format!("no service matches {}", args.names.join(" "))).into());
    }
    match session.screen.format {
        Format::Json => session.screen.json(&reply)?,
        Format::Name => {
            for service in reply.services.iter().filter(|s| s.error.is_none()) {
                session.screen.line(service.name.as_str())?;
            }
        }
        Format::Table => {
            let mut table = Table::new(&["NAME", "STATE", "PID", "ADDRESS"]);
            for service in &reply.services {
                let name = || Cell::from(service.name.as_str());
                if service.instances.is_empty() {
                    let state = Cell::new(service.state.as_str(), Paint::of(service.state));
                    table.row([name(), state, "-".into(), "-".into()]);
                }
                for instance in &service.instances {
                    let state = Cell::new(instance.state.as_str(), Paint::of(instance.state));
                    table.row([name(), state, Cell::from(instance.pid), addresses(&instance.endpoints).into()]);
                }
            }
            table.print(&mut session.screen)?;
        }
    }
    session.screen.flush()?;
    let mut status = None;
    for service in &reply.services {
        let Some(problem) = &service.error else { continue };
        status.get_or_insert(problem.code.exit_status());
        // With JSON the errors are in the reply, each at its service.
        if session.screen.format != Format::Json {
            session.screen.tell_error(&Error::from(problem.clone()).within(&service.name));
        }
    }
    status.map_or(Ok(()), |status| Err(Failure::Told(status)))
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn each_service_has_a_line_and_the_first_failure_is_the_status() {
        let done = run("launch --root /BVODS QS /failed --timeout 1s").await;
        assert_eq!(done.log, ["launch /BVODS/QS /failed hold=false now=false timeout=Some(Span(1000))"]);
        assert_eq!(
            done.out,
            "NAME       STATE    PID   ADDRESS\n\
             /BVODS/QS  running  4242  127.0.0.1:41234,[::1]:80\n\
             /failed    failed   -     -\n"
        );
        assert_eq!(done.talk, "byname: start-timeout: /failed: it took too long\n");
        assert_eq!(done.status, 5);
        let done = run("launch -o json /BVODS/QS /failed").await;
        assert_eq!((done.status, done.talk.as_str()), (5, ""));
        assert_eq!(run("launch -o name /BVODS/QS /failed").await.out, "/BVODS/QS\n");
    }

    #[tokio::test]
    async fn stop_says_how() {
        let done = run("stop --hold --now /BVODS/*").await;
        assert_eq!(done.log, ["stop /BVODS/* hold=true now=true timeout=None"]);
        assert_eq!(done.status, 0);
    }

    #[tokio::test]
    async fn nothing_that_matches_is_not_found() {
        let done = run("reset /none/*").await;
        assert_eq!(done.status, 3);
        assert_eq!(done.talk, "byname: not-found: no service matches /none/*\n");
    }
}
