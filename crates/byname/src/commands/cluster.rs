//! `cluster`: hosts that join.

use byname_api::Error;
use byname_api::identity::{InviteReply, InviteRequest, JoinAs};
use byname_identity::join::JoinToken;
use byname_name::Name;

use super::Session;
use super::advertise::unhex;
use crate::cli::trust::ClusterCommand;
use crate::failure::Outcome;
use crate::screen::Format;

/// Runs it.
pub(crate) async fn run(session: &mut Session, command: ClusterCommand) -> Outcome {
    let ClusterCommand::Invite { agent: _, server, computer, ttl } = command;
    let join_as = if server { JoinAs::Server } else { JoinAs::Agent };
    let computer = computer.as_deref().map(self::computer).transpose()?;
    let reply = session.service.invite(&session.cx, InviteRequest { join_as, computer, ttl }).await?;
    let token = token(&reply)?;
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "token": token, "expires": reply.expires }))?,
        Format::Name | Format::Table => screen.line(&token)?,
    }
    if screen.format == Format::Table {
        screen.flush()?;
        screen.say(&format!("byname: good once, until {}; whoever has it can join", reply.expires));
    }
    Ok(())
}

/// A computer by its label, or by its name.
pub(super) fn computer(text: &str) -> Outcome<Name> {
    let computers = Name::root().child("computers").map_err(Error::from)?;
    Ok(Name::resolve(&computers, text).map_err(|e| Error::from(e).field("computer"))?)
}

/// The text that a host joins with: where the servers are, how to know them, and the secret.
fn token(reply: &InviteReply) -> Outcome<String> {
    let digits = |text: &str| unhex(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let (Some(secret), Some(root)) = (digits(&reply.secret.0), digits(&reply.root)) else {
        return Err(Error::internal("the server's invitation has no hexadecimal digits").into());
    };
    Ok(JoinToken::of(reply.servers.clone(), root, secret)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::run;

    #[tokio::test]
    async fn an_invitation_is_a_token_alone_on_its_line() {
        let done = run("cluster invite --computer mojave --ttl 2h").await;
        assert_eq!(done.log, [r#"invite {"join_as":"agent","computer":"/computers/mojave","ttl":"2h"}"#]);
        let token: JoinToken = done.out.trim_end().parse().unwrap();
        assert_eq!((token.servers.as_slice(), token.root), (&["https://192.0.2.1:7600".to_owned()][..], [0xcd; 32]));
        assert_eq!(token.secret(), &[0xab; 32]);
        assert!(done.talk.contains("good once, until 2023-11-14"), "{}", done.talk);
        let done = run("cluster invite --name-server --computer /computers/a").await;
        assert_eq!(done.log, [r#"invite {"join_as":"server","computer":"/computers/a","ttl":null}"#]);
    }
}
