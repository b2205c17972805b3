//! `passwd` and `passkey`: the ways in which a principal can prove who it is.

use byname_api::identity::{Blob, EnrolReply, EnrolRequest};
use byname_api::{Code, Error};
use byname_identity::password::Registration;
use byname_name::Name;

use super::{Session, login};
use crate::cli::who::{PasskeyCommand, PasswdArgs};
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::prompt;
use crate::screen::{Format, Paint, printable};

/// `passwd`.
pub(crate) async fn passwd(session: &mut Session, args: PasswdArgs, env: &Environment) -> Outcome {
    let principal = session.principal(args.principal.as_deref()).await?;
    if args.remove {
        done(&enrol(session, EnrolRequest::PasswordRemove { principal: principal.clone() }).await?)?;
        return told(session, &principal, "removed the password of");
    }
    let text = prompt::password(env, args.file.password_file.as_deref(), "new password", true)?;
    let (registration, message) = Registration::start(&text)?;
    let start = EnrolRequest::PasswordStart { principal: principal.clone(), message: Blob(message) };
    let reply = enrol(session, start).await?;
    let EnrolReply::Challenge { message: answer, .. } = reply else { return Err(unexpected(&reply)) };
    let message = Blob(registration.finish(&answer.0)?);
    done(&enrol(session, EnrolRequest::PasswordFinish { principal: principal.clone(), message }).await?)?;
    told(session, &principal, "set the password of")
}

/// `passkey`.
pub(crate) async fn passkey(session: &mut Session, command: PasskeyCommand, env: &Environment) -> Outcome {
    match command {
        PasskeyCommand::Add { principal, no_browser } => {
            // Another's page is for another's browser.
            let open = principal.is_none() && !no_browser && env.desktop && env.terminal;
            add(session, principal.as_deref(), open).await
        }
        PasskeyCommand::List { principal } => list(session, principal.as_deref()).await,
        PasskeyCommand::Remove { label, principal } => {
            let principal = session.principal(principal.as_deref()).await?;
            let request = EnrolRequest::PasskeyRemove { principal: principal.clone(), label: label.clone() };
            done(&enrol(session, request).await?)?;
            told(session, &principal, &format!("removed the passkey `{}` of", label.escape_debug()))
        }
    }
}

async fn add(session: &mut Session, principal: Option<&str>, open: bool) -> Outcome {
    let principal = session.principal(principal).await?;
    let reply = enrol(session, EnrolRequest::PasskeyPage { principal: principal.clone() }).await?;
    let EnrolReply::Page { path, expires } = reply else { return Err(unexpected(&reply)) };
    let url = login::page(&session.target.servers, &path);
    match session.screen.format {
        Format::Json => session
            .screen
            .json(&serde_json::json!({ "principal": principal, "url": url, "path": path, "expires": expires }))?,
        Format::Name | Format::Table => session.screen.line(&url)?,
    }
    session.screen.flush()?;
    if session.screen.format == Format::Table {
        session.screen.say(&format!("byname: this page makes a passkey for {principal}, once, until {expires}"));
    }
    if open {
        // A browser that is there already takes the page at once.
        let bound = std::time::Duration::from_secs(2);
        let _ = tokio::time::timeout(bound, login::opened(true, &url)).await;
    }
    Ok(())
}

async fn list(session: &mut Session, principal: Option<&str>) -> Outcome {
    let principal = session.principal(principal).await?;
    let reply = enrol(session, EnrolRequest::List { principal: principal.clone() }).await?;
    let EnrolReply::Credentials { password, passkeys } = &reply else { return Err(unexpected(&reply)) };
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => {
            screen.json(&serde_json::json!({ "principal": principal, "password": password, "passkeys": passkeys }))?;
        }
        Format::Name | Format::Table => {
            for label in passkeys {
                screen.line(&printable(label))?;
            }
        }
    }
    if passkeys.is_empty() && screen.format == Format::Table {
        screen.say(&format!("byname: {principal} has no passkeys"));
    }
    Ok(())
}

/// How a principal can prove who it is, in words; nothing when one may not ask.
pub(super) async fn ways(session: &Session, principal: &Name) -> Outcome<Option<(bool, Vec<String>)>> {
    match enrol(session, EnrolRequest::List { principal: principal.clone() }).await {
        Ok(EnrolReply::Credentials { password, passkeys }) => Ok(Some((password, passkeys))),
        Ok(other) => Err(unexpected(&other)),
        Err(Failure::Error(e)) if matches!(e.code(), Code::Denied | Code::Unauthenticated | Code::Unsupported) => {
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

async fn enrol(session: &Session, request: EnrolRequest) -> Outcome<EnrolReply> {
    Ok(session.service.enrol(&session.cx, request).await?)
}

fn done(reply: &EnrolReply) -> Outcome {
    if *reply == EnrolReply::Done { Ok(()) } else { Err(unexpected(reply)) }
}

fn unexpected(reply: &EnrolReply) -> Failure {
    let step = serde_json::to_value(reply).ok().and_then(|v| v["step"].as_str().map(str::to_owned));
    let step = step.unwrap_or_default();
    Error::new(Code::Unsupported, format!("the server answered with the step `{step}`, which was not asked for")).into()
}

fn told(session: &mut Session, principal: &Name, what: &str) -> Outcome {
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "principal": principal }))?,
        Format::Name => screen.line(principal.as_str())?,
        Format::Table => {
            let what = screen.paint(Paint::Yellow, what);
            screen.line(&format!("{what} {principal}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn a_password_is_taken_away_and_one_that_is_too_short_is_not_sent() {
        let done = run("passwd --remove people/ann").await;
        assert_eq!(done.out, "removed the password of /people/ann\n");
        assert_eq!(done.log, [r#"enrol {"step":"password-remove","principal":"/people/ann"}"#]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "short").unwrap();
        let done = run(&format!("passwd /people/ann --password-file {}", file.path().display())).await;
        assert_eq!((done.status, done.log.len()), (2, 0), "{}", done.talk);
    }

    #[tokio::test]
    async fn passkeys_are_one_s_own_unless_somebody_is_named() {
        let done = run("passkey add").await;
        assert_eq!(done.out, "https://names.example:7600/passkey#secret\n");
        assert!(done.talk.contains("for /people/liu, once, until"), "{}", done.talk);
        assert_eq!(done.log, [r#"enrol {"step":"passkey-page","principal":"/people/liu"}"#]);
        assert_eq!(run("passkey list").await.out, "blue\nred\\u{1b}\n");
        let done = run("passkey list -o json /people/bob").await;
        assert_eq!(
            done.out,
            "{\"passkeys\":[\"blue\",\"red\\u001b\"],\"password\":true,\"principal\":\"/people/bob\"}\n"
        );
        let done = run("passkey remove blue /people/bob").await;
        assert_eq!(done.out, "removed the passkey `blue` of /people/bob\n");
        assert_eq!(done.log, [r#"enrol {"step":"passkey-remove","principal":"/people/bob","label":"blue"}"#]);
    }
}
