//! `cluster`: its servers, and hosts that join.

use std::io::Write;
use std::path::Path;

use futures_util::StreamExt;

use byname_api::identity::{InviteReply, InviteRequest, JoinAs};
use byname_api::request::{ChangeServers, ServerInfo};
use byname_api::{Code, Error};
use byname_identity::join::JoinToken;
use byname_name::Name;

use super::Session;
use super::advertise::unhex;
use crate::cli::trust::ClusterCommand;
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Paint, Screen, Table};

/// Runs it.
pub(crate) async fn run(session: &mut Session, command: ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Invite { agent: _, server, computer, ttl } => {
            let join_as = if server { JoinAs::Server } else { JoinAs::Agent };
            let computer = computer.as_deref().map(self::computer).transpose()?;
            invite(session, InviteRequest { join_as, computer, ttl }).await
        }
        ClusterCommand::Status => {
            let info = session.info().await?;
            status(&mut session.screen, &info)
        }
        ClusterCommand::Remove { server } => {
            let info = session.service.change_servers(&session.cx, ChangeServers::Remove(server)).await?;
            changed(&mut session.screen, &info, &format!("server {server} was taken out; destroy its disk"))
        }
        ClusterCommand::Transfer { server } => {
            let info = session.service.change_servers(&session.cx, ChangeServers::Transfer(server)).await?;
            changed(&mut session.screen, &info, &format!("server {server} leads"))
        }
        ClusterCommand::Backup { file } => backup(session, &file).await,
        // They ask no server.
        ClusterCommand::Restore { .. } | ClusterCommand::StandAlone { .. } => {
            Err(Error::internal("a command without a server asks one").into())
        }
    }
}

async fn invite(session: &mut Session, request: InviteRequest) -> Outcome {
    let reply = session.service.invite(&session.cx, request).await?;
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

/// The servers, one a line.
fn status(screen: &mut Screen, info: &ServerInfo) -> Outcome {
    match screen.format {
        Format::Json => screen.json(info)?,
        Format::Name => {
            for member in &info.members {
                screen.line(member.name.as_str())?;
            }
        }
        Format::Table => {
            let mut table = Table::new(&["SERVER", "ROLE", "STATE", "BEHIND", "ADDRESS"]);
            for member in &info.members {
                let role = match (member.primary, member.voter) {
                    (true, _) => "primary",
                    (false, true) => "backup",
                    (false, false) => "joining",
                };
                let (state, paint) = if member.up { ("up", Paint::Green) } else { ("silent", Paint::Red) };
                // Only the primary knows, and of those that it hears.
                let behind = if info.primary && member.up { member.behind.to_string() } else { "-".to_owned() };
                let address = if member.address.is_empty() { "-" } else { member.address.as_str() };
                table.row([
                    Cell::new(member.id.to_string(), Paint::Plain),
                    Cell::new(role, Paint::Plain),
                    Cell::new(state, paint),
                    Cell::new(behind, Paint::Plain),
                    Cell::new(address, Paint::Plain),
                ]);
            }
            table.print(screen)?;
            if !info.members.iter().any(|member| member.primary) {
                screen.flush()?;
                screen.say("byname: note: there is no primary: writes wait for a majority of the servers");
            }
            if let Some(why) = &info.stalled {
                screen.flush()?;
                screen.say(&format!("byname: note: writes wait on server {}: {why}", info.server));
            }
        }
    }
    Ok(())
}

fn changed(screen: &mut Screen, info: &ServerInfo, what: &str) -> Outcome {
    match screen.format {
        Format::Json => screen.json(info)?,
        Format::Name => {}
        Format::Table => screen.say(&format!("byname: {what}")),
    }
    Ok(())
}

/// Writes the backup beside its place and puts it there when it is whole.
async fn backup(session: &mut Session, file: &Path) -> Outcome {
    let new = file.with_extension("new");
    let failed = |path: &Path, error: &std::io::Error| {
        Error::new(Code::Unavailable, format!("cannot write {}: {error}", path.display()))
    };
    let mut pieces = session.service.backup(&session.cx).await?;
    let mut open = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
    let mut out = open.write(true).create(true).truncate(true).open(&new).map_err(|e| failed(&new, &e))?;
    let mut bytes = 0;
    let written = async {
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            out.write_all(&piece).map_err(|e| failed(&new, &e))?;
            bytes += piece.len() as u64;
        }
        out.sync_all().map_err(|e| failed(&new, &e))?;
        std::fs::rename(&new, file).map_err(|e| failed(file, &e))
    }
    .await;
    if let Err(error) = written {
        let _ = std::fs::remove_file(&new);
        return Err(error.into());
    }
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "file": file.display().to_string(), "bytes": bytes }))?,
        Format::Name => screen.line(&file.display().to_string())?,
        Format::Table => screen.say(&format!("byname: wrote {bytes} bytes to {}", file.display())),
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
