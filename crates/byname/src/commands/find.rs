//! `find`: where is it?

use byname_api::request::{FindReply, FindRequest};
use byname_api::service::Instance;

use super::{Session, address};
use crate::cli::FindArgs;
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Paint, Screen, Table};

/// Runs it.
pub(crate) async fn run(session: &mut Session, args: FindArgs) -> Outcome {
    let request = FindRequest {
        name: session.name(&args.name)?,
        start: !args.no_start,
        all: args.all,
        timeout: args.timeout,
        consistent: args.consistent,
        failed: args.failed,
    };
    let reply = session.service.find(&session.cx, request).await?;
    session.warn_stale(&reply.fresh);
    print(&mut session.screen, &reply)
}

fn print(screen: &mut Screen, reply: &FindReply) -> Outcome {
    if screen.format == Format::Json {
        return Ok(screen.json(reply)?);
    }
    if let Some(value) = &reply.value {
        screen.raw(value.as_bytes())?;
        if !value.ends_with('\n') {
            screen.raw(b"\n")?;
        }
    }
    for line in reply.members.iter().chain(&reply.addresses).flatten() {
        screen.line(line)?;
    }
    match screen.format {
        Format::Name => {
            for endpoint in reply.instances.iter().flat_map(|i| &i.endpoints) {
                screen.line(&address(endpoint))?;
            }
        }
        Format::Table | Format::Json => instances(screen, &reply.instances)?,
    }
    Ok(())
}

/// The table of instances: a line for each endpoint.
pub(crate) fn instances(screen: &mut Screen, instances: &[Instance]) -> Outcome {
    let mut table = Table::new(&["ADDRESS", "PROTOCOL", "PID", "STATE", "INSTANCE"]);
    for instance in instances {
        let about = [
            Cell::from(instance.pid),
            Cell::new(instance.state.as_str(), Paint::of(instance.state)),
            Cell::from(instance.id.to_string()),
        ];
        if instance.endpoints.is_empty() {
            table.row([Cell::from("-"), Cell::from("-")].into_iter().chain(about.clone()));
        }
        for endpoint in &instance.endpoints {
            let place = [Cell::from(address(endpoint)), Cell::from(endpoint.protocol.as_str())];
            table.row(place.into_iter().chain(about.clone()));
        }
    }
    Ok(table.print(screen)?)
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn a_service_gives_a_line_for_each_endpoint() {
        assert_eq!(
            run("find /BVODS/QS").await.out,
            "ADDRESS          PROTOCOL  PID   STATE    INSTANCE\n\
             127.0.0.1:41234  tcp       4242  running  i7\n\
             [::1]:80         http      4242  running  i7\n"
        );
        assert_eq!(run("find -o name /BVODS/QS").await.out, "127.0.0.1:41234\n[::1]:80\n");
    }

    #[tokio::test]
    async fn json_is_the_reply() {
        let done = run("find -o json /BVODS/QS").await;
        let reply: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(reply["instances"][0]["endpoints"][0]["port"], 41234);
        assert_eq!(reply["name"], "/BVODS/QS");
    }

    #[tokio::test]
    async fn other_kinds_give_what_they_hold() {
        assert_eq!(run("find /conf/motd").await.out, "Hello\nworld\n");
        assert_eq!(run("find /team").await.out, "/people/a\n/people/b\n");
        assert_eq!(run("find /computers/h").await.out, "192.0.2.1\n");
    }

    #[tokio::test]
    async fn options_reach_the_server_and_names_are_relative_to_the_context() {
        let done = run("find --root /BVODS QS --no-start --all --timeout 5s --consistent --failed i3").await;
        assert_eq!(
            done.log,
            ["find /BVODS/QS start=false all=true timeout=Some(Span(5000)) consistent=true failed=Some(InstanceId(3))"]
        );
    }

    #[tokio::test]
    async fn errors_are_told_and_set_the_status() {
        let done = run("find /none").await;
        assert_eq!((done.status, done.out.as_str()), (3, ""));
        assert_eq!(done.talk, "byname: not-found: there is no `/none`\n");
        let done = run("find a//b").await;
        assert_eq!(done.status, 2);
        assert!(done.talk.starts_with("byname: invalid-name: `a//b`: "), "{}", done.talk);
        assert_eq!(run("find /failed").await.status, 1);
    }
}
