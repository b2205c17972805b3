//! `find`: where is it?

use byname_api::request::{FindReply, FindRequest, Junction};
use byname_api::service::{Health, Instance};

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
    match (&reply.junction, screen.format) {
        (Some(found), Format::Name) => {
            for server in &found.servers {
                screen.line(server)?;
            }
        }
        (Some(found), _) => junction(screen, found)?,
        (None, _) => {}
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
    let samples = Samples::of(instances);
    let heads = ["ADDRESS", "PROTOCOL", "PID", "STATE", "INSTANCE"].into_iter().chain(samples.heads());
    let mut table = Table::new(&heads.collect::<Vec<_>>());
    for instance in instances {
        let about: Vec<Cell> = [
            Cell::from(instance.pid),
            Cell::new(instance.state.as_str(), Paint::of(instance.state)),
            Cell::from(instance.id.to_string()),
        ]
        .into_iter()
        .chain(samples.cells(Some(instance)))
        .collect();
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

/// Which columns of samples a table has: those that some instance has a value for.
#[derive(Clone, Copy)]
pub(crate) struct Samples {
    health: bool,
    load: bool,
    connections: bool,
}

impl Samples {
    /// The columns for these instances.
    pub(crate) fn of<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> Self {
        let mut samples = Samples { health: false, load: false, connections: false };
        for instance in instances {
            samples.health |= instance.health.is_some();
            samples.load |= instance.load.is_some();
            samples.connections |= instance.connections.is_some();
        }
        samples
    }

    /// Their headings.
    pub(crate) fn heads(self) -> impl Iterator<Item = &'static str> {
        let heads = [(self.health, "HEALTH"), (self.load, "LOAD"), (self.connections, "CONNECTIONS")];
        heads.into_iter().filter(|(on, _)| *on).map(|(_, head)| head)
    }

    /// Their cells in the line of an instance, or of a service that has none.
    pub(crate) fn cells(self, of: Option<&Instance>) -> impl Iterator<Item = Cell> {
        let word = |health: Health| Cell::new(health.as_str(), Paint::of_health(health));
        let health = self.health.then(|| of.and_then(|i| i.health).map_or_else(|| Cell::from("-"), word));
        let load = self.load.then(|| Cell::from(of.and_then(|i| i.load)));
        let connections = self.connections.then(|| Cell::from(of.and_then(|i| i.connections)));
        health.into_iter().chain(load).chain(connections)
    }
}

/// Where the tree goes on: a line for each server.
fn junction(screen: &mut Screen, junction: &Junction) -> Outcome {
    let mut table = Table::new(&["SERVER", "INTERFACE", "CHOOSE", "PARAMETER"]);
    let choose = serde_json::to_value(junction.choose)?;
    for server in &junction.servers {
        table.row([
            Cell::from(server.as_str()),
            Cell::from(junction.interface.as_str()),
            Cell::from(choose.as_str()),
            Cell::from(junction.parameter.as_ref()),
        ]);
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
        assert_eq!(
            run("find /dns").await.out,
            "SERVER  INTERFACE  CHOOSE  PARAMETER\n\
             /dns1   dns        random  corp.example\n\
             /dns2   dns        random  corp.example\n"
        );
        assert_eq!(run("find -o name /dns").await.out, "/dns1\n/dns2\n");
    }

    #[tokio::test]
    async fn samples_have_columns_when_there_are_any() {
        assert_eq!(
            run("find /busy").await.out,
            "ADDRESS       PROTOCOL  PID   STATE    INSTANCE  LOAD  CONNECTIONS\n\
             127.0.0.1:80  tcp       4242  running  i8        0.5   12\n"
        );
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
