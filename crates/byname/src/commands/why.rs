//! `why` and `logs`: what happened.

use std::fmt::Write;

use futures_util::StreamExt;

use byname_api::object::ServiceStatus;
use byname_api::request::{LogsRequest, WhyReply};
use byname_api::service::State;

use super::Session;
use super::look::not_listening;
use crate::cli::{LogsArgs, NameArgs};
use crate::failure::Outcome;
use crate::screen::{Format, Paint, printable};

/// `why`.
pub(crate) async fn why(session: &mut Session, args: NameArgs) -> Outcome {
    let name = session.name(&args.name)?;
    let reply = session.service.why(&session.cx, name).await?;
    session.warn_stale(&reply.fresh);
    match session.screen.format {
        Format::Json => session.screen.json(&reply)?,
        Format::Name => session.screen.line(reply.status.name.as_str())?,
        Format::Table => {
            let text = story(session, &reply);
            session.screen.raw(text.as_bytes())?;
        }
    }
    Ok(())
}

/// `logs`.
pub(crate) async fn logs(session: &mut Session, args: LogsArgs) -> Outcome {
    let request = LogsRequest { name: session.name(&args.name)?, tail: args.lines, follow: args.follow };
    let mut pieces = session.service.logs(&session.cx, request).await?;
    while let Some(piece) = pieces.next().await {
        session.screen.raw(&piece?)?;
        session.screen.flush()?;
    }
    Ok(())
}

fn story(session: &Session, reply: &WhyReply) -> String {
    let status = &reply.status;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_story(session, reply, status, &mut text);
    text
}

fn write_story(session: &Session, reply: &WhyReply, status: &ServiceStatus, text: &mut String) -> std::fmt::Result {
    let screen = &session.screen;
    let name = screen.paint(Paint::Bold, status.name.as_str());
    let state = screen.paint(Paint::of(status.state), status.state.as_str());
    write!(text, "{name} is {state}; {} since it was made", counted(status.starts, "start"))?;
    if status.failures > 0 {
        write!(text, ", {} within the restart window", counted(status.failures.into(), "failure"))?;
    }
    writeln!(text, ".")?;
    if let Some(held) = &status.held {
        writeln!(
            text,
            "It is held: {} stopped it at {} ({} ago).",
            printable(&held.by),
            held.at,
            session.age(held.at)
        )?;
    }
    for wrong in status.listening.iter().filter_map(not_listening) {
        writeln!(text, "It {}.", printable(&wrong))?;
    }
    if !reply.story.is_empty() {
        writeln!(text)?;
    }
    for happening in &reply.story {
        let at = screen.paint(Paint::Dim, &happening.at.to_string());
        let instance = happening.instance.map_or_else(String::new, |i| format!("{i}: "));
        writeln!(text, "  {at}  {instance}{}", printable(&happening.what))?;
    }
    if let Some(exit) = &status.last_exit {
        writeln!(
            text,
            "\nThe last end: {} {} at {} ({} ago).",
            exit.instance,
            exit.how,
            exit.at,
            session.age(exit.at)
        )?;
        if !exit.last_lines.is_empty() {
            writeln!(text, "Its last lines:")?;
        }
        for line in exit.last_lines.lines() {
            writeln!(text, "  | {}", printable(line))?;
        }
    }
    writeln!(text, "\n{}", screen.paint(Paint::Bold, &advice(status)))
}

/// The one thing to do next.
fn advice(status: &ServiceStatus) -> String {
    let name = &status.name;
    match status.state {
        _ if status.held.is_some() => format!("What to do: `byname launch {name}` starts it and ends the hold."),
        State::Failed => {
            format!(
                "What to do: mend what the last lines tell (all of them: `byname logs {name}`), then `byname reset {name}`."
            )
        }
        State::Unhealthy => {
            format!("What to do: `byname logs {name}` may tell what is wrong; `byname restart {name}` starts afresh.")
        }
        State::Stopped if status.failures > 0 => {
            format!(
                "What to do: mend what the last lines tell (all of them: `byname logs {name}`); `byname find {name}` tries again."
            )
        }
        _ if status.listening.iter().any(|s| s.error.is_some()) => {
            "What to do: mend what keeps the socket from being listened on.".into()
        }
        State::Stopped => {
            format!("What to do: `byname find {name}` starts it, or `byname launch {name}` if it is manual.")
        }
        State::Starting => format!("What to do: wait until it is ready; `byname logs -f {name}` shows what it does."),
        State::Stopping => {
            format!("What to do: wait until it has ended; `byname find {name}` waits and starts it again.")
        }
        State::Running => "What to do: nothing, it runs.".into(),
    }
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn why_is_a_story_that_ends_in_advice() {
        assert_eq!(
            run("why /failed").await.out,
            "/failed is failed; 6 starts since it was made, 5 failures within the restart window.\n\
             \n\
             \x20 2023-11-14T22:13:20.000Z  i9: started on h\n\
             \x20 2023-11-14T22:13:21.000Z  gave up\n\
             \n\
             The last end: i9 exited with status 1 at 2023-11-14T22:13:20.000Z (90s ago).\n\
             Its last lines:\n\
             \x20 | no such file\n\
             \x20 | bye\\u{1b}[2J\n\
             \n\
             What to do: mend what the last lines tell (all of them: `byname logs /failed`), then `byname reset /failed`.\n"
        );
    }

    #[tokio::test]
    async fn logs_come_as_they_were_written() {
        let done = run("logs -f -n 2 /BVODS/QS").await;
        assert_eq!(done.out, "one\ntwo\u{1b}[0m");
        assert_eq!(done.log, ["logs /BVODS/QS tail=Some(2) follow=true"]);
        let done = run("logs /broken").await;
        assert_eq!((done.status, done.out.as_str()), (5, "begin\n"));
    }
}
