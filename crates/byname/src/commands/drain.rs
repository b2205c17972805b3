//! `drain` and `undrain`: hosts that are emptied and used again.

use std::time::Duration;

use byname_api::host::{DrainAct, DrainReply, DrainRequest, HostState};

use super::Session;
use super::cluster::computer;
use crate::cli::keep::{DrainArgs, UndrainArgs};
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Paint, Table};

/// How often it is asked how far a drain is.
const LOOK: Duration = Duration::from_millis(500);

/// `drain`: says what is left each time that changes, until nothing is.
pub(crate) async fn drain(session: &mut Session, args: DrainArgs) -> Outcome {
    let name = computer(&args.host)?;
    let request = DrainRequest { name: name.clone(), act: DrainAct::Drain, timeout: Some(args.timeout) };
    let mut reply = session.service.drain_host(&session.cx, request).await?;
    let mut told = usize::MAX;
    // Somebody else may have said `undrain` meanwhile.
    while !args.no_wait && !reply.copies.is_empty() && reply.state == HostState::Draining {
        if reply.copies.len() != told && session.screen.format == Format::Table {
            told = reply.copies.len();
            session.screen.say(&format!("byname: {} left: {}", copies(told), services(&reply)));
        }
        tokio::time::sleep(LOOK).await;
        let look = DrainRequest { name: name.clone(), act: DrainAct::Look, timeout: None };
        reply = session.service.drain_host(&session.cx, look).await?;
    }
    show(session, &reply)
}

/// `undrain`.
pub(crate) async fn undrain(session: &mut Session, args: UndrainArgs) -> Outcome {
    let request = DrainRequest { name: computer(&args.host)?, act: DrainAct::Undrain, timeout: None };
    let reply = session.service.drain_host(&session.cx, request).await?;
    show(session, &reply)
}

fn copies(count: usize) -> String {
    match count {
        1 => "1 copy".into(),
        _ => format!("{count} copies"),
    }
}

/// The services of the copies, each once.
fn services(reply: &DrainReply) -> String {
    let mut names: Vec<&str> = reply.copies.iter().map(|copy| copy.service.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// The colour of a host's state.
pub(super) fn paint(state: HostState) -> Paint {
    match state {
        HostState::Up => Paint::Green,
        HostState::Draining => Paint::Yellow,
        HostState::Down => Paint::Red,
    }
}

fn show(session: &mut Session, reply: &DrainReply) -> Outcome {
    match session.screen.format {
        Format::Json => Ok(session.screen.json(reply)?),
        Format::Name => Ok(session.screen.line(reply.computer.as_str())?),
        Format::Table => {
            let mut table = Table::new(&["NAME", "STATE", "COPIES"]);
            let state = Cell::new(reply.state.as_str(), paint(reply.state));
            table.row([reply.computer.as_str().into(), state, reply.copies.len().to_string().into()]);
            Ok(table.print(&mut session.screen)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn a_drain_is_followed_until_nothing_is_left() {
        let done = run("drain --timeout 10s mojave").await;
        assert_eq!(
            done.log,
            [
                "drain /computers/mojave drain timeout=Some(10s)",
                "drain /computers/mojave look timeout=None",
                "drain /computers/mojave look timeout=None"
            ]
        );
        assert_eq!(done.talk, "byname: 2 copies left: /a, /b\nbyname: 1 copy left: /a\n");
        assert_eq!(done.out, "NAME               STATE     COPIES\n/computers/mojave  draining  0\n");
    }

    #[tokio::test]
    async fn it_need_not_be_waited_for() {
        let done = run("drain --no-wait -o json /computers/mojave").await;
        assert_eq!(done.log, ["drain /computers/mojave drain timeout=Some(5m)"]);
        let reply: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(reply["copies"].as_array().unwrap().len(), 2);
        assert_eq!(run("undrain mojave").await.log, ["drain /computers/mojave undrain timeout=None"]);
    }
}
