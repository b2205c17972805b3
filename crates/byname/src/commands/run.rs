//! `run`: a command under a name. The name is advertised when the command answers and withdrawn when it ends.

use std::time::Duration;

use byname_api::request::{AdvertiseReply, AdvertiseRequest};
use byname_api::service::Endpoint;
use byname_api::{Code, Error, Result};
use byname_launch::foreground::{self, Foreground};
use byname_name::Name;
use tokio::sync::oneshot;

use super::advertise::{self, HELD_TTL, endpoint};
use super::lock::ended;
use super::{Session, may_pass};
use crate::cli::keep::RunArgs;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};

/// Runs it; the status is that of the command.
pub(crate) async fn run(session: &mut Session, args: RunArgs, env: &Environment) -> Outcome {
    let name = session.name(&args.name)?;
    let mut endpoints = args.endpoints.iter().map(|e| endpoint(e)).collect::<Result<Vec<_>>>()?;
    if endpoints.is_empty() {
        let port = match args.port.filter(|port| *port > 0) {
            // Whoever has it already would be taken for the command.
            Some(port) if is_taken(port) => {
                return Err(Error::new(Code::Conflict, format!("something listens on port {port} already")).into());
            }
            Some(port) => port,
            None => foreground::free_port().ok_or_else(|| Error::new(Code::Unavailable, "no port is free"))?,
        };
        endpoints.push(Endpoint { protocol: "tcp".into(), address: String::new(), port });
    }
    let waits = args.endpoints.is_empty() || args.ready_port;
    let port = endpoints.iter().map(|e| e.port).find(|port| *port > 0);
    let words: Vec<String> = args.words.iter().map(|word| expand(word, port, &name)).collect();
    let mut variables = vec![("BYNAME_NAME".to_owned(), name.to_string())];
    variables.extend(env.server.clone().map(|server| ("BYNAME_SERVER".to_owned(), server)));
    variables.extend(port.map(|port| ("PORT".to_owned(), port.to_string())));
    let mut program = start(&words, &variables)?;
    if waits {
        tokio::select! {
            // An end comes first: what answers then is not this command.
            biased;
            status = program.wait() => {
                session.screen.say("byname: note: the command ended before it took connections, so it never had the name");
                return ended(status?);
            }
            () = foreground::listening(&endpoints) => {}
        }
    }
    let request = AdvertiseRequest {
        name: Some(name.clone()),
        endpoints,
        ttl: Some(args.ttl.unwrap_or(HELD_TTL)),
        pid: program.pid(),
        ..AdvertiseRequest::default()
    };
    let reply = tokio::select! {
        reply = advertised(session, request.clone()) => reply,
        status = program.wait() => return ended(status?),
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            // A command that cannot have the name is not what was asked for.
            program.terminate();
            program.wait().await?;
            return Err(error.into());
        }
    };
    session.screen.say(&format!("byname: {name} is advertised ({})", reply.instance));
    // Side by side, so that a signal does not wait for an answer of the server; and the command outlives its name.
    let (end, over) = oneshot::channel::<()>();
    let waiting = async {
        let status = program.wait().await;
        drop(end);
        status
    };
    let keeping = async {
        let held = advertise::hold(session, &name, request, reply, async { drop(over.await) }).await;
        if let Err(Failure::Error(error)) = &held {
            session.screen.say(&format!("byname: note: the name is not kept any more: {error}"));
        }
    };
    let (status, ()) = tokio::join!(waiting, keeping);
    ended(status?)
}

fn is_taken(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
}

/// Starts a command in the foreground.
pub(super) fn start(words: &[String], variables: &[(String, String)]) -> Outcome<Foreground> {
    Foreground::start(words, variables).map_err(|e| {
        let program = words.first().map_or("", String::as_str);
        Failure::System(format!("cannot start `{}`: {e}", program.escape_debug()))
    })
}

/// Advertises for the first time, however long no server answers.
async fn advertised(session: &mut Session, request: AdvertiseRequest) -> Result<AdvertiseReply> {
    let mut well = true;
    loop {
        match session.service.advertise(&session.cx, request.clone()).await {
            Err(error) if may_pass(error.code()) => {
                if std::mem::replace(&mut well, false) {
                    session
                        .screen
                        .say(&format!("byname: note: cannot advertise at the moment ({error}); trying again"));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            answer => return answer,
        }
    }
}

/// `${PORT}` and `${NAME}` in a word; `$${` stands for `${`, as in a launch.
fn expand(word: &str, port: Option<u16>, name: &Name) -> String {
    let mut done = String::new();
    let mut rest = word;
    while let Some(at) = rest.find("${") {
        let (before, found) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            done.push_str(escaped);
            done.push_str("${");
            rest = found.get(2..).unwrap_or_default();
            continue;
        }
        done.push_str(before);
        if let Some(after) = found.strip_prefix("${PORT}").filter(|_| port.is_some()) {
            done.push_str(&port.map(|p| p.to_string()).unwrap_or_default());
            rest = after;
        } else if let Some(after) = found.strip_prefix("${NAME}") {
            done.push_str(name.as_str());
            rest = after;
        } else {
            done.push_str("${");
            rest = found.get(2..).unwrap_or_default();
        }
    }
    done.push_str(rest);
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{run, run_in};

    #[test]
    fn words_expand_as_those_of_a_launch() {
        let name: Name = "/a/b".parse().unwrap();
        for (word, expanded) in [
            ("--port=${PORT}", "--port=80"),
            ("${NAME}${PORT}${HOME}", "/a/b80${HOME}"),
            ("$${PORT} $PORT ${", "${PORT} $PORT ${"),
        ] {
            assert_eq!(expand(word, Some(80), &name), expanded, "{word}");
        }
        assert_eq!(expand("${PORT}", None, &name), "${PORT}");
    }

    #[tokio::test]
    async fn a_command_that_answers_is_advertised_and_withdrawn_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("serve.py");
        // It ends when it was asked for once: that is the look whether it takes connections.
        let text = "import os, socket, sys\nassert sys.argv[1] == os.environ['PORT'] and os.environ['BYNAME_NAME'] == '/web'\n\
                    assert os.environ['BYNAME_SERVER'] == 'unix:///s'\n\
                    s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\ns.accept()\n\
                    sys.stdin.read()\nimport time\ntime.sleep(0.2)\nsys.exit(5)\n";
        std::fs::write(&script, text).unwrap();
        let env = Environment { server: Some("unix:///s".into()), ..Environment::default() };
        let line = format!("run /web --ttl 1m -- python3 -IS {} ${{PORT}}", script.display());
        let done = run_in(&line, &env).await;
        assert_eq!(done.status, 5, "{}", done.talk);
        assert!(done.log[0].starts_with("advertise /web [tcp://:"), "{:?}", done.log);
        assert_eq!(done.log.last().unwrap(), "withdraw /web instance=Some(InstanceId(20)) credential=Some(\"c0ffee\")");
        assert_eq!((done.out.as_str(), done.talk.as_str()), ("", "byname: /web is advertised (im)\n"));
    }

    #[tokio::test]
    async fn a_command_that_ends_early_never_has_the_name() {
        let done = run("run /web -- sh -c exit${NAME}").await;
        assert_ne!(done.status, 0);
        assert_eq!(done.log.len(), 0);
        assert!(done.talk.contains("never had the name"), "{}", done.talk);
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port();
        assert_eq!(run(&format!("run /web --port {port} -- true")).await.status, 6);
        let done = run("run /web -- /does/not/exist").await;
        assert_eq!(done.status, 1);
        assert!(done.talk.contains("cannot start `/does/not/exist`"), "{}", done.talk);
    }
}
