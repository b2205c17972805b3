//! `ticket`: introductions (figure 7 of the paper).
//!
//! A client is given a pair. It shows the ticket to the service, the service asks the server who that was, and answers
//! with the proof; the client compares.

use std::path::Path;

use byname_api::identity::{IntroduceReply, IntroduceRequest, RevokeRequest, Secret, VerifyRequest};
use byname_api::object::InstanceId;
use byname_api::request::ListRequest;
use byname_api::{Code, Error};

use super::{Session, addresses};
use crate::cli::trust::TicketCommand;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::prompt;
use crate::screen::{Format, Paint, printable};

/// The most bytes of a file that holds a ticket or a credential.
const MAX_BYTES: usize = 4_096;

/// Runs it.
pub(crate) async fn run(session: &mut Session, command: TicketCommand, env: &Environment) -> Outcome {
    match command {
        TicketCommand::Pair { name, instance } => pair(session, &name, instance).await,
        TicketCommand::Verify { ticket, instance, credential } => {
            verify(session, &ticket, instance, credential.as_deref(), env).await
        }
        TicketCommand::Revoke { of } => revoke(session, &of).await,
    }
}

async fn pair(session: &mut Session, name: &str, instance: Option<InstanceId>) -> Outcome {
    let request = IntroduceRequest { name: session.name(name)?, instance };
    let reply = session.service.introduce(&session.cx, request).await?;
    let IntroduceReply { name, instance, endpoints, ticket, proof, expires } = &reply;
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&reply)?,
        Format::Name => screen.line(&format!("{} {} {instance} {}", ticket.0, proof.0, addresses(endpoints)))?,
        Format::Table => {
            let line = |key: &str, value: &str| (key.to_owned(), value.to_owned());
            let lines = [
                line("instance", &instance.to_string()),
                line("address", &addresses(endpoints)),
                line("ticket", &ticket.0),
                line("proof", &proof.0),
                line("until", &expires.to_string()),
            ];
            screen.pairs(name.as_str(), &lines)?;
        }
    }
    Ok(())
}

async fn verify(
    session: &mut Session,
    ticket: &str,
    instance: Option<InstanceId>,
    credential: Option<&Path>,
    env: &Environment,
) -> Outcome {
    let ticket = match ticket {
        "-" => prompt::whole(Path::new("-"), MAX_BYTES, "ticket")?,
        given => given.to_owned(),
    };
    let instance = match (instance, &env.own_instance) {
        (None, Some(own)) => Some(own.parse()?),
        (given, _) => given,
    };
    let file = credential.or(env.own_credential_file.as_deref());
    let credential = file.map(|file| prompt::whole(file, MAX_BYTES, "credential")).transpose()?;
    if credential.is_some() && instance.is_none() {
        return Err(Failure::usage("say with --instance whose the credential is"));
    }
    let secret = |text: String| Secret(text.trim().to_owned());
    let request = VerifyRequest { ticket: secret(ticket), instance, credential: credential.map(secret) };
    let reply = session.service.verify(&session.cx, request).await?;
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&reply)?,
        Format::Name => screen.line(&format!("{} {}", reply.proof.0, printable(&reply.client)))?,
        Format::Table => {
            let mut lines = vec![("proof".to_owned(), reply.proof.0.clone())];
            lines.extend(reply.client_id.map(|id| ("id".to_owned(), id.to_string())));
            screen.pairs(&printable(&reply.client), &lines)?;
        }
    }
    Ok(())
}

/// Revokes an instance, or all of a service's.
async fn revoke(session: &mut Session, of: &str) -> Outcome {
    let instances = match of.parse::<InstanceId>() {
        Ok(instance) => vec![instance],
        Err(_) => {
            let name = session.name(of)?;
            let status = session.service.status(&session.cx, ListRequest::new(name.as_str())).await?;
            let Some(service) = status.services.into_iter().next() else {
                return Err(Error::new(Code::NotFound, format!("there is no service `{name}`")).into());
            };
            service.instances.into_iter().map(|instance| instance.id).collect()
        }
    };
    for instance in &instances {
        session.service.revoke(&session.cx, RevokeRequest::Instance { instance: *instance }).await?;
    }
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "revoked": instances }))?,
        Format::Name => {
            for instance in &instances {
                screen.line(&instance.to_string())?;
            }
        }
        Format::Table if instances.is_empty() => screen.say("byname: no instance of it runs"),
        Format::Table => {
            let word = screen.paint(Paint::Red, "revoked");
            for instance in &instances {
                screen.line(&format!("{word} {instance}"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::environment::Environment;
    use crate::fake::{run, run_in};

    #[tokio::test]
    async fn a_pair_is_shown_with_where_it_is_good() {
        let done = run("ticket pair /BVODS/QS --instance i7").await;
        assert_eq!(
            done.out,
            "/BVODS/QS\n  instance  i7\n  address   127.0.0.1:41234,[::1]:80\n  ticket    t1\n  proof     t2\n  \
             until     2023-11-14T22:13:20.000Z\n"
        );
        assert_eq!(done.log, ["introduce /BVODS/QS instance=Some(InstanceId(7))"]);
        assert_eq!(run("ticket pair -o name /BVODS/QS").await.out, "t1 t2 i7 127.0.0.1:41234,[::1]:80\n");
        assert!(run("ticket pair -o json /BVODS/QS").await.out.contains("\"proof\":\"t2\""));
    }

    #[tokio::test]
    async fn a_launched_program_asks_with_what_it_was_given() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "c0ffee\n").unwrap();
        let env = Environment {
            own_instance: Some("i7".into()),
            own_credential_file: Some(file.path().to_owned()),
            ..Environment::default()
        };
        let done = run_in("ticket verify t1", &env).await;
        assert_eq!(done.out, "/people/liu\n  proof  t2\n  id     o5\n");
        assert_eq!(done.log, [r#"verify {"ticket":"t1","instance":"i7","credential":"c0ffee"}"#]);
        assert_eq!(run_in("ticket verify -o name t1", &env).await.out, "t2 /people/liu\n");
        let line = format!("ticket verify t1 --credential {}", file.path().display());
        assert_eq!(run(&line).await.status, 2, "whose credential is it?");
        let done = run(&format!("{line} --instance i9")).await;
        assert_eq!(done.log, [r#"verify {"ticket":"t1","instance":"i9","credential":"c0ffee"}"#]);
    }

    #[tokio::test]
    async fn a_name_stands_for_all_its_instances() {
        assert_eq!(run("ticket revoke i20").await.log, [r#"revoke {"what":"instance","instance":"i20"}"#]);
        let done = run("ticket revoke /BVODS/QS").await;
        assert_eq!((done.out.as_str(), done.log.len()), ("revoked i7\n", 1));
        assert_eq!(run("ticket revoke /held").await.talk, "byname: no instance of it runs\n");
        assert_eq!(run("ticket revoke /none").await.status, 3);
    }
}
