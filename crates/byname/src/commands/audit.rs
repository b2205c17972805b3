//! `audit`: who did what, when, and what proved it.

use std::path::Path;

use byname_api::audit::{AuditReply, AuditRequest, Outcome as Ended, Record, Verification};
use byname_api::span::{Span, Timestamp};
use byname_api::{Code, Error};

use super::Session;
use crate::cli::trust::AuditArgs;
use crate::failure::{Failure, Outcome};
use crate::screen::{Cell, Format, Paint, Screen, Table, printable};

/// The most records that are asked for at once.
const PAGE: u32 = 1_000;

/// Runs it: follows the pages by itself.
pub(crate) async fn run(session: &mut Session, args: AuditArgs) -> Outcome {
    let mut request = request(session, &args)?;
    let mut left = args.limit;
    let mut whole = AuditReply::default();
    loop {
        request.limit = left.min(PAGE);
        let mut page = session.service.audit(&session.cx, request.clone()).await?;
        left = left.saturating_sub(u32::try_from(page.records.len()).unwrap_or(u32::MAX));
        whole.records.append(&mut page.records);
        whole.verified = whole.verified.or(page.verified);
        whole.next = page.next;
        // Once is enough.
        request.verify = false;
        match &whole.next {
            Some(next) if left > 0 => request.next = Some(next.clone()),
            _ => break,
        }
    }
    print(&mut session.screen, &whole)
}

/// `--verify --data`: the files of a server that does not run. Heads that the cluster remembers are not known here, so a
/// log of which the end was cut off looks whole.
pub(crate) fn files(screen: &mut Screen, data: &Path) -> Outcome {
    let verified = Some(byname_audit::verify_files(&data.join("audit"), &[])?);
    print(screen, &AuditReply { verified, ..AuditReply::default() })
}

fn request(session: &Session, args: &AuditArgs) -> Outcome<AuditRequest> {
    let time = |text: &Option<String>, field: &str| {
        text.as_deref().map(|text| moment(text, session.now).map_err(|e| e.field(field))).transpose()
    };
    let by = match args.by.as_deref() {
        // Callers without an object, as they appear in stamps.
        Some(word @ ("token" | "byname")) => Some(word.to_owned()),
        Some(text) => Some(session.subject(text)?.to_string()),
        None => None,
    };
    let name = args.name.as_deref().map(|text| session.pattern(text)).transpose()?;
    Ok(AuditRequest {
        by,
        name: name.map(|pattern| pattern.to_string()),
        operation: args.operation.clone(),
        outcome: args.outcome,
        since: time(&args.since, "since")?,
        until: time(&args.until, "until")?,
        verify: args.verify,
        ..AuditRequest::default()
    })
}

/// A point in time, a day in UTC, or so long ago.
fn moment(text: &str, now: Timestamp) -> byname_api::Result<Timestamp> {
    if let Ok(span) = text.parse::<Span>() {
        return Ok(Timestamp(now.0.saturating_sub(span.as_millis())));
    }
    let read = |text: String| serde_json::from_value::<Timestamp>(text.into()).ok();
    read(text.to_owned()).or_else(|| read(format!("{text}T00:00:00Z"))).ok_or_else(|| {
        let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
        let message =
            format!("`{shown}` is no time: write 2026-11-24T17:00:00Z, 2026-11-24, or how long ago, such as 2h");
        Error::new(Code::InvalidArgument, message)
    })
}

fn print(screen: &mut Screen, reply: &AuditReply) -> Outcome {
    match screen.format {
        Format::Json => screen.json(reply)?,
        Format::Name => {
            for record in &reply.records {
                screen.line(&record.sequence.to_string())?;
            }
        }
        Format::Table => {
            let mut table = Table::new(&["TIME", "BY", "OPERATION", "NAME", "OUTCOME", "HOW", "NOTE"]);
            for record in &reply.records {
                table.row(row(record));
            }
            table.print(screen)?;
        }
    }
    if reply.next.is_some() && screen.format != Format::Json {
        screen.say("byname: note: there may be more records; raise --limit to see them");
    }
    let Some(verified) = &reply.verified else { return Ok(()) };
    if screen.format == Format::Table {
        screen.flush()?;
        screen.say(&said(verified));
    }
    // The records were shown; that they cannot be trusted is what the status says.
    if verified.intact { Ok(()) } else { Err(Failure::Told(1)) }
}

fn row(record: &Record) -> [Cell; 7] {
    let paint = match record.outcome {
        Ended::Ok => Paint::Green,
        Ended::Failed => Paint::Yellow,
        Ended::Denied | Ended::Unauthenticated => Paint::Red,
    };
    let outcome = match &record.code {
        Some(code) if code != record.outcome.as_str() => format!("{} ({code})", record.outcome.as_str()),
        _ => record.outcome.as_str().to_owned(),
    };
    let how = match &record.from {
        Some(from) => format!("{} from {from}", record.how),
        None => record.how.clone(),
    };
    let times = (record.count > 1).then(|| format!("{} times", record.count));
    let note: Vec<String> = times.into_iter().chain(record.detail.clone()).collect();
    [
        record.at.to_string().into(),
        record.by.clone().into(),
        record.operation.clone().into(),
        Cell::from(record.name.clone()),
        Cell::new(outcome, paint),
        how.into(),
        note.join("; ").into(),
    ]
}

fn said(verified: &Verification) -> String {
    let Verification { server, records, first, last, head, anchors, intact, trouble } = verified;
    let short: String = head.chars().take(12).collect();
    if *intact {
        return format!(
            "byname: the log of server {server} is intact: {records} records, {first} to {last}, {anchors} anchors, head {short}"
        );
    }
    let trouble = trouble.as_deref().map_or("it does not say why", |t| t);
    format!("byname: the log of server {server} is NOT intact: {}", printable(trouble))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::run;

    #[tokio::test]
    async fn records_are_searched_page_by_page() {
        let done = run("audit --by people/liu --name BV* --root / --operation add --outcome denied --since 1m").await;
        assert_eq!(
            done.out,
            "TIME                      BY           OPERATION  NAME  OUTCOME            HOW                                 NOTE\n\
             2023-11-14T22:13:20.000Z  /people/liu  add        /a    ok                 password session 8c from 192.0.2.9\n\
             2023-11-14T22:13:20.000Z  /people/liu  add        /a    denied             password session 8c from 192.0.2.9\n\
             2023-11-14T22:13:20.000Z  /people/liu  add        /a    failed (conflict)  password session 8c                 12 times; bad\\u{1b}\n"
        );
        assert_eq!(
            done.log,
            [
                r#"audit {"by":"/people/liu","name":"/BV*","operation":"add","outcome":"denied","since":"2023-11-14T22:13:50.000Z","limit":100}"#,
                r#"audit {"by":"/people/liu","name":"/BV*","operation":"add","outcome":"denied","since":"2023-11-14T22:13:50.000Z","limit":98,"next":"7"}"#,
            ]
        );
        let done = run("audit -o name --limit 1").await;
        assert_eq!(done.out, "9\n");
        assert_eq!(done.talk, "byname: note: there may be more records; raise --limit to see them\n");
    }

    #[tokio::test]
    async fn a_log_that_is_not_intact_is_told_and_is_the_status() {
        let done = run("audit --verify --limit 1").await;
        assert_eq!(done.status, 0);
        assert!(done.talk.ends_with("is intact: 9 records, 1 to 9, 3 anchors, head abcdef012345\n"), "{}", done.talk);
        let done = run("audit --verify --by /people/liu").await;
        assert_eq!(done.status, 1);
        assert!(done.talk.contains("NOT intact: audit/1.log:3: the hash differs"), "{}", done.talk);
        assert_eq!(run("audit -o json --verify --by x").await.status, 1);
    }

    #[test]
    fn files_are_verified_without_their_server() {
        let dir = tempfile::tempdir().unwrap();
        let (mut screen, _, talk) = Screen::captured(Format::Table, false);
        assert_eq!(files(&mut screen, dir.path()).unwrap_err().exit_status(), 3, "there is no log");
        drop(byname_audit::Audit::open(&dir.path().join("audit"), 1, None).unwrap());
        files(&mut screen, dir.path()).unwrap();
        assert!(talk.take().contains("the log of server 1 is intact: 1 records"));
    }

    #[test]
    fn times_are_given_as_people_write_them() {
        let now = Timestamp(1_700_000_000_000);
        let at = |text: &str| moment(text, now).map(|t| t.to_string()).map_err(|e| e.code());
        assert_eq!(at("2h").unwrap(), "2023-11-14T20:13:20.000Z");
        assert_eq!(at("2023-11-14").unwrap(), "2023-11-14T00:00:00.000Z");
        assert_eq!(at("2023-11-14T01:02:03+01:00").unwrap(), "2023-11-14T00:02:03.000Z");
        assert_eq!(at("yesterday"), Err(Code::InvalidArgument));
    }
}
