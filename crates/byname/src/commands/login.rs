//! `login`, `logout` and `whoami`: the session of a person at a command line.

use std::path::Path;
use std::time::Duration;

use byname_api::identity::{Blob, LoginReply, LoginRequest, LogoutRequest, Secret, Session as Granted, WhoamiReply};
use byname_api::{Code, Error};
use byname_identity::password::Login;
use byname_launch::foreground::Foreground;
use byname_name::Name;

use super::Session;
use crate::cli::who::{LoginArgs, LogoutArgs};
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::screen::{Format, Paint, printable};
use crate::{prompt, sessions};

/// `login`. Waiting for a page ends with `stop`.
pub(crate) async fn login(
    session: &mut Session,
    args: LoginArgs,
    env: &Environment,
    stop: impl Future<Output = ()>,
) -> Outcome {
    let principal = args.principal.as_deref().map(|text| session.name(text)).transpose()?;
    let granted = if args.passkey {
        let open = env.desktop && !args.no_browser;
        by_page(session, principal, open, stop).await?
    } else {
        let principal = match principal {
            Some(principal) => principal,
            None => {
                let text = prompt::line(env, "Principal", "the principal: `byname login /people/liu`")?;
                session.name(&text)?
            }
        };
        let file = args.file.password_file.as_deref();
        by_password(session, principal, env, file).await?
    };
    keep(session, env, &granted)
}

/// Signs in with a password, in two steps.
async fn by_password(session: &Session, principal: Name, env: &Environment, file: Option<&Path>) -> Outcome<Granted> {
    let text = prompt::password(env, file, "password", false)?;
    let (login, message) = Login::start(&text)?;
    let start = LoginRequest::PasswordStart { principal, message: Blob(message) };
    let (attempt, answer) = match session.service.login(&session.cx, start).await? {
        LoginReply::Challenge { attempt, message } => (attempt, message),
        other => return Err(unexpected(&other)),
    };
    let finished = login.finish(&answer.0);
    // With a wrong password there is nothing to finish. The server is told all the same, for its audit log.
    let message = Blob(finished.clone().unwrap_or_default());
    let reply = session.service.login(&session.cx, LoginRequest::PasswordFinish { attempt, message }).await;
    // Whatever it says then: it has not proved to be the server that knows this password.
    finished?;
    match reply? {
        LoginReply::Session(granted) => Ok(granted),
        other => Err(unexpected(&other)),
    }
}

/// Has somebody sign in on a page, and waits for it.
async fn by_page(
    session: &mut Session,
    principal: Option<Name>,
    open: bool,
    stop: impl Future<Output = ()>,
) -> Outcome<Granted> {
    let reply = session.service.login(&session.cx, LoginRequest::PageStart { principal }).await?;
    let LoginReply::Page { attempt, path, code, every_ms } = reply else { return Err(unexpected(&reply)) };
    let url = page(&session.target.servers, &path);
    session.screen.say(&format!("Sign in at {url}\nThe page shows the code {code}."));
    tokio::pin!(stop);
    let browser = opened(open, &url);
    let polling = poll(session, attempt, Duration::from_millis(every_ms.clamp(10, 60_000)));
    tokio::select! {
        granted = polling => granted,
        never = browser => match never {},
        () = &mut stop => Err(Failure::System("interrupted before anybody signed in".into())),
    }
}

/// Asks until somebody has signed in, or the attempt has ended.
async fn poll(session: &Session, attempt: Secret, every: Duration) -> Outcome<Granted> {
    loop {
        tokio::time::sleep(every).await;
        let poll = LoginRequest::PagePoll { attempt: attempt.clone() };
        match session.service.login(&session.cx, poll).await {
            Ok(LoginReply::Pending) => {}
            Ok(LoginReply::Session(granted)) => return Ok(granted),
            Ok(other) => return Err(unexpected(&other)),
            Err(error) if super::may_pass(error.code()) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Shows a page in a browser, if it shall and can, and never ends: without a browser there is still the address.
pub(super) async fn opened(open: bool, url: &str) -> std::convert::Infallible {
    if open && url.contains("://") {
        let words = ["xdg-open".to_owned(), url.to_owned()];
        if let Ok(mut browser) = Foreground::start(&words, &[]) {
            let _ = browser.wait().await;
        }
    }
    std::future::pending().await
}

/// The address of a page of the server's. The socket has none that a browser knows: then it is the server's own, as its
/// `endpoints.json` beside the socket tells, or the path alone.
pub(super) fn page(servers: &str, path: &str) -> String {
    let first = servers.split(',').next().unwrap_or_default().trim();
    let base = if first.starts_with("http://") || first.starts_with("https://") {
        Some(first.to_owned())
    } else {
        let socket = Path::new(first.trim_start_matches("unix://").trim_start_matches("unix:"));
        let text = std::fs::read(socket.with_file_name("endpoints.json")).ok();
        let object = text.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        object.and_then(|object| object["api"].as_str().map(str::to_owned))
    };
    match base {
        Some(base) => format!("{}/{}", for_browsers(base.trim_end_matches('/')), path.trim_start_matches('/')),
        None => path.to_owned(),
    }
}

/// Browsers use passkeys under a name and never under an address, and this host has one that they trust without TLS.
fn for_browsers(base: &str) -> String {
    let port = base.strip_prefix("http://127.0.0.1").or_else(|| base.strip_prefix("http://[::1]"));
    match port.filter(|port| port.is_empty() || port.starts_with(':')) {
        Some(port) => format!("http://localhost{port}"),
        None => base.to_owned(),
    }
}

fn unexpected(reply: &LoginReply) -> Failure {
    let step = serde_json::to_value(reply).ok().and_then(|v| v["step"].as_str().map(str::to_owned));
    let step = step.unwrap_or_default();
    Error::new(Code::Unsupported, format!("the server answered with the step `{step}`, which was not asked for")).into()
}

/// Keeps a session for later commands, and says so. The token is shown to nobody.
fn keep(session: &mut Session, env: &Environment, granted: &Granted) -> Outcome {
    let servers = &session.target.servers;
    sessions::keep(env, servers, granted)
        .map_err(|e| Failure::System(format!("signed in, but the session cannot be kept: {e}")))?;
    let principal = &granted.principal;
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({
            "principal": principal, "expires": granted.expires, "server": servers,
        }))?,
        Format::Name => screen.line(principal.as_str())?,
        Format::Table => screen.line(&format!("signed in as {principal} until {}", granted.expires))?,
    }
    screen.flush()?;
    if servers.split(',').all(|server| !server.trim().starts_with("http")) {
        screen.flush()?;
        screen.say(&format!(
            "byname: note: over the unix socket you stay who the kernel says; `--as {principal}` uses the session there"
        ));
    }
    Ok(())
}

/// `logout`.
pub(crate) async fn logout(session: &mut Session, args: LogoutArgs, env: &Environment) -> Outcome {
    let principal = args.principal.as_deref().map(|text| session.name(text)).transpose()?;
    let own = session.target.signed_in.clone();
    if principal.is_none() && own.is_none() && !args.everywhere {
        let ended = session.target.ended.clone();
        if let Some(ended) = &ended {
            sessions::forget(env, &session.target.servers, ended)?;
        }
        let note = match ended {
            Some(name) => format!("byname: the session of {name} had ended"),
            None => "byname: nobody is signed in at this server".into(),
        };
        session.screen.say(&note);
        return Ok(());
    }
    let request = LogoutRequest { everywhere: args.everywhere, principal: principal.clone() };
    let answer = session.service.logout(&session.cx, request).await;
    let whose = principal.or(own);
    // A session that the server does not know any more is one that has ended.
    let over = answer.is_ok() || answer.as_ref().is_err_and(|e| e.code() == Code::Unauthenticated && !args.everywhere);
    if let Some(name) = whose.as_ref().filter(|_| over) {
        sessions::forget(env, &session.target.servers, name)?;
    }
    if !over {
        answer?;
    }
    let name = whose.map_or_else(|| "you".to_owned(), |name| name.to_string());
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "signed_out": name, "everywhere": args.everywhere }))?,
        Format::Name => screen.line(&name)?,
        Format::Table if args.everywhere => screen.line(&format!("signed out {name} everywhere"))?,
        Format::Table => screen.line(&format!("signed out {name}"))?,
    }
    Ok(())
}

/// `whoami`.
pub(crate) async fn whoami(session: &mut Session) -> Outcome {
    let reply = session.service.whoami(&session.cx).await?;
    match session.screen.format {
        Format::Json => session.screen.json(&reply)?,
        Format::Name => session.screen.line(&printable(&reply.principal))?,
        Format::Table => {
            let lines = describe(session, &reply);
            session.screen.pairs(&printable(&reply.principal), &lines)?;
        }
    }
    Ok(())
}

fn describe(session: &Session, reply: &WhoamiReply) -> Vec<(String, String)> {
    let mut lines = vec![("proved by".to_owned(), reply.mechanism.to_string())];
    let mut add = |key: &str, value: Option<String>| lines.extend(value.map(|value| (key.to_owned(), value)));
    add("id", reply.id.map(|id| id.to_string()));
    add("instance", reply.instance.map(|id| id.to_string()));
    add("until", reply.expires.map(|at| at.to_string()));
    let groups: Vec<&str> = reply.groups.iter().map(Name::as_str).collect();
    add("groups", (!groups.is_empty()).then(|| groups.join(", ")));
    let may = session.screen.paint(Paint::Yellow, "everything");
    add("may", reply.admin.then_some(may));
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use byname_api::span::Timestamp;

    use super::*;
    use crate::cli::who::PasswdArgs;
    use crate::commands::credentials;
    use crate::fake::{Fake, run, run_in};
    use crate::screen::Screen;
    use crate::sessions::Found;

    const SERVER: &str = "https://names.example:7600";

    fn kept(env: &Environment) -> Found {
        sessions::find(env, SERVER, None, Timestamp(1_700_000_000_000))
    }

    #[tokio::test]
    async fn a_password_that_was_set_signs_in_and_another_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            crate::cli::who::PasswordArgs { password_file: Some(path) }
        };
        let (good, bad) = (file("good", "open sesame\n"), file("bad", "open barley\n"));
        let (screen, out, _) = Screen::captured(Format::Json, false);
        let mut session = Session::new(Arc::new(Fake::default()), Name::root(), screen);
        session.target.servers = SERVER.into();
        let set = PasswdArgs { file: good.clone(), ..PasswdArgs::default() };
        credentials::passwd(&mut session, set, &env).await.unwrap();
        assert_eq!(out.take(), "{\"principal\":\"/people/liu\"}\n");
        let with = |file| LoginArgs { principal: Some("people/liu".into()), file, ..LoginArgs::default() };
        let wrong = login(&mut session, with(bad), &env, std::future::pending()).await.unwrap_err();
        assert_eq!(wrong.exit_status(), 4);
        assert_eq!(kept(&env), Found::Nothing);
        login(&mut session, with(good), &env, std::future::pending()).await.unwrap();
        let shown = out.take();
        assert!(shown.contains("\"principal\":\"/people/liu\"") && !shown.contains("bn1.token"), "{shown}");
        let Found::Session(session) = kept(&env) else { panic!("not kept") };
        assert_eq!(session.token.0, "bn1.token");
    }

    #[tokio::test]
    async fn a_page_is_waited_for_until_somebody_has_signed_in_there() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let done = run_in("login --passkey /people/liu", &env).await;
        assert_eq!(
            (done.status, done.out.as_str(), done.talk.as_str()),
            (
                0,
                "signed in as /people/liu until 2023-11-14T23:13:20.000Z\n",
                "Sign in at https://names.example:7600/login?code=XK-42\nThe page shows the code XK-42.\n"
            )
        );
        assert_eq!(done.log[0], r#"login {"step":"page-start","principal":"/people/liu"}"#);
        assert_eq!(done.log.len(), 4, "{:?}", done.log);
        assert!(matches!(kept(&env), Found::Session(_)));
        let done = run_in("login --passkey --no-browser", &env).await;
        assert_eq!((done.status, done.out.as_str()), (4, ""));
        assert!(done.talk.ends_with("byname: unauthenticated: nobody signed in there in time\n"), "{}", done.talk);
    }

    #[tokio::test]
    async fn without_a_terminal_it_says_what_is_missing() {
        for (line, part) in [("login", "byname login /people/liu"), ("login /people/liu", "--password-file FILE")] {
            let done = run(line).await;
            assert!(done.status == 2 && done.talk.contains(part), "{}", done.talk);
        }
    }

    #[tokio::test]
    async fn a_session_is_forgotten_where_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let done = run_in("logout", &env).await;
        assert_eq!((done.status, done.talk.as_str()), (0, "byname: nobody is signed in at this server\n"));
        assert_eq!(done.log.len(), 0);
        run_in("login --passkey /people/liu", &env).await;
        let (screen, out, _) = Screen::captured(Format::Table, false);
        let mut session = Session::new(Arc::new(Fake::default()), Name::root(), screen);
        session.target.servers = SERVER.into();
        session.target.signed_in = Some("/people/liu".parse().unwrap());
        logout(&mut session, LogoutArgs::default(), &env).await.unwrap();
        assert_eq!(out.take(), "signed out /people/liu\n");
        assert_eq!(kept(&env), Found::Nothing);
        let done = run_in("logout --everywhere /people/ann", &env).await;
        assert_eq!(done.out, "signed out /people/ann everywhere\n");
        assert_eq!(done.log, [r#"logout {"everywhere":true,"principal":"/people/ann"}"#]);
    }

    #[tokio::test]
    async fn whoami_says_what_the_server_knows() {
        assert_eq!(
            run("whoami").await.out,
            "/people/liu\n  proved by  password\n  id         o5\n  until      2023-11-14T22:13:20.000Z\n  \
             groups     /groups/media, /byname/admins\n  may        everything\n"
        );
        assert_eq!(run("whoami -o name").await.out, "/people/liu\n");
    }

    #[test]
    fn a_page_is_on_the_server_s_own_address() {
        assert_eq!(page("http://127.0.0.1:7600/,https://b:1", "/login"), "http://localhost:7600/login");
        assert_eq!(page("http://127.0.0.10:7600", "/login"), "http://127.0.0.10:7600/login");
        assert_eq!(page("unix:///nowhere/byname.sock", "/login"), "/login");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("endpoints.json"), r#"{"api": "https://127.0.0.1:1"}"#).unwrap();
        let socket = format!("unix://{}/byname.sock", dir.path().display());
        assert_eq!(page(&socket, "/login#x"), "https://127.0.0.1:1/login#x");
    }
}
