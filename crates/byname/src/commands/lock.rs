//! `lock` and `unlock`: one holder at a time.

use std::time::{Duration, Instant};

use byname_api::request::{LockReply, LockRequest, ReadRequest, UnlockRequest};
use byname_api::{Code, Error};
use byname_launch::foreground::Foreground;
use byname_name::Name;

use super::{Session, may_pass};
use crate::cli::keep::{LockArgs, UnlockArgs};
use crate::failure::{Failure, Outcome};
use crate::screen::Format;

/// `lock`. Without a command it holds the lock until `stop`.
pub(crate) async fn lock(session: &mut Session, args: LockArgs, stop: impl Future<Output = ()>) -> Outcome {
    let name = session.name(&args.name)?;
    let request = LockRequest { name: name.clone(), ttl: args.ttl, wait: args.wait, key: None, renew: false };
    let asked = Instant::now();
    tokio::pin!(stop);
    let reply = tokio::select! {
        reply = session.service.lock(&session.cx, request.clone()) => reply?,
        // It may have been taken at this moment; then it ends with its lease.
        () = &mut stop => return Err(Failure::System(format!("interrupted before the lock of `{name}` was had"))),
    };
    let mut held = Held {
        request: LockRequest { wait: None, key: reply.key.clone(), renew: true, ..request },
        until: asked,
        ttl: Duration::ZERO,
    };
    held.renewed(asked, &reply);
    let outcome = if args.words.is_empty() {
        match print(session, &reply) {
            Ok(()) => tokio::select! {
                error = held.keep(session) => Err(error.into()),
                () = &mut stop => Ok(()),
            },
            Err(failure) => Err(failure),
        }
    } else {
        command(session, &args.words, &reply, &mut held).await
    };
    let request = UnlockRequest { name, key: held.request.key };
    match (session.service.unlock(&session.cx, request).await, &outcome) {
        (Err(error), Ok(()) | Err(Failure::Told(_))) if error.code() != Code::NotFound => {
            let ttl = reply.ttl_ms;
            session
                .screen
                .say(&format!("byname: note: cannot unlock ({error}); the lock ends within {ttl}ms by itself"));
        }
        _ => {}
    }
    outcome
}

/// `unlock`: a lock is its holder's, so it is only taken away with `--break`.
pub(crate) async fn unlock(session: &mut Session, args: UnlockArgs) -> Outcome {
    let name = session.name(&args.name)?;
    if !args.broken {
        let object =
            session.service.read(&session.cx, ReadRequest { name: name.clone(), consistent: true }).await?.object;
        if let Some(lock) = object.lock {
            let message = format!(
                "`{name}` is locked by {} since {}: its holder lets go when it ends; --break takes the lock away from it",
                lock.by, lock.since
            );
            return Err(Error::new(Code::Conflict, message).into());
        }
    }
    let released = match args.broken {
        true => session.service.unlock(&session.cx, UnlockRequest { name: name.clone(), key: None }).await?,
        false => byname_api::request::UnlockReply { released: false },
    };
    match session.screen.format {
        Format::Json => session.screen.json(&released)?,
        Format::Name if released.released => session.screen.line(name.as_str())?,
        Format::Name => {}
        Format::Table if released.released => session.screen.line(&format!("unlocked {name}"))?,
        Format::Table => session.screen.line(&format!("{name} is not locked"))?,
    }
    Ok(())
}

/// A lock that is renewed.
struct Held {
    request: LockRequest,
    /// The lease that was surely granted ends then.
    until: Instant,
    ttl: Duration,
}

impl Held {
    fn renewed(&mut self, asked: Instant, reply: &LockReply) {
        self.ttl = Duration::from_millis(reply.ttl_ms);
        self.until = asked + self.ttl;
    }

    /// Renews for ever; gives the error with which the lock was lost.
    async fn keep(&mut self, session: &mut Session) -> Error {
        let mut well = true;
        loop {
            let pause = (self.ttl / 3).max(Duration::from_millis(10));
            tokio::time::sleep(pause.min(self.until.saturating_duration_since(Instant::now()))).await;
            let left = self.until.saturating_duration_since(Instant::now());
            let asked = Instant::now();
            let renewal = session.service.lock(&session.cx, self.request.clone());
            match tokio::time::timeout(left, renewal).await {
                Ok(Ok(reply)) => {
                    self.renewed(asked, &reply);
                    well = true;
                }
                Ok(Err(error)) if may_pass(error.code()) && left > Duration::ZERO => {
                    if std::mem::replace(&mut well, false) {
                        session
                            .screen
                            .say(&format!("byname: note: cannot renew at the moment ({error}); trying again"));
                    }
                }
                Ok(Err(error)) => return lost(&self.request.name, error.message()),
                Err(_) => return lost(&self.request.name, "it could not be renewed in time"),
            }
        }
    }
}

fn lost(name: &Name, why: &str) -> Error {
    Error::new(Code::Conflict, format!("the lock of `{name}` is lost: {why}"))
}

/// Runs a command while the lock is held. What it writes is its own, so the lock is told to it only.
async fn command(session: &mut Session, words: &[String], reply: &LockReply, held: &mut Held) -> Outcome {
    let fence = [("BYNAME_FENCE".to_owned(), reply.fence.to_string())];
    let mut program = super::run::start(words, &fence)?;
    let error = tokio::select! {
        status = program.wait() => return ended(status?),
        error = held.keep(session) => error,
    };
    session.screen.say("byname: note: the command is told to end (SIGTERM), because its lock is lost");
    Foreground::terminate(&program);
    program.wait().await?;
    Err(error.into())
}

/// The status of a command as one's own.
pub(super) fn ended(status: u8) -> Outcome {
    if status == 0 { Ok(()) } else { Err(Failure::Told(status)) }
}

fn print(session: &mut Session, reply: &LockReply) -> Outcome {
    let screen = &mut session.screen;
    match screen.format {
        // The key is this process's own and shown to nobody.
        Format::Json => screen.json(&LockReply { key: None, ..reply.clone() })?,
        Format::Name => screen.line(&reply.fence.to_string())?,
        Format::Table => screen.line(&format!("locked {} (fence {})", reply.name, reply.fence))?,
    }
    Ok(screen.flush()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;
    use crate::fake::{Fake, run};
    use crate::screen::Screen;

    #[tokio::test]
    async fn it_is_renewed_with_its_key_and_let_go_at_the_end() {
        let (service, mut calls) = Fake::watched();
        let (screen, out, _) = Screen::captured(Format::Name, false);
        let mut session = Session::new(Arc::new(service), Name::root(), screen);
        let (end, ended) = oneshot::channel::<()>();
        let args = LockArgs { name: "/l".into(), ttl: None, wait: None, words: Vec::new() };
        let task = tokio::spawn(async move { lock(&mut session, args, async { drop(ended.await) }).await });
        assert_eq!(calls.recv().await.unwrap(), "lock /l ttl=None wait=None key=None");
        assert_eq!(calls.recv().await.unwrap(), "lock /l ttl=None wait=None key=Some(\"c0ffee\")");
        assert_eq!(out.take(), "42\n");
        drop(end);
        task.await.unwrap().unwrap();
        let last = std::iter::from_fn(|| calls.try_recv().ok()).last().unwrap();
        assert_eq!(last, "unlock /l key=Some(\"c0ffee\")");
    }

    #[tokio::test]
    async fn an_interrupt_before_the_lock_is_had_is_no_good_end() {
        let (screen, out, _) = Screen::captured(Format::Name, false);
        let mut session = Session::new(Arc::new(Fake::default()), Name::root(), screen);
        let args = LockArgs {
            name: "/slow".into(),
            ttl: None,
            wait: Some("1h".parse().unwrap()),
            words: vec!["false".into()],
        };
        let outcome = lock(&mut session, args, async {}).await;
        assert_eq!((outcome.unwrap_err().exit_status(), out.take()), (1, String::new()));
    }

    #[tokio::test]
    async fn a_command_runs_under_the_lock_with_the_fence() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fence");
        // The line is split at blanks only.
        std::fs::write(folder.path().join("sh"), format!("echo $BYNAME_FENCE > {}; exit 7", file.display())).unwrap();
        let script = folder.path().join("sh");
        let done = run(&format!("lock --wait 5s --ttl 10s /l -- sh {}", script.display())).await;
        assert_eq!((done.status, done.out.as_str(), done.talk.as_str()), (7, "", ""));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "42\n");
        assert_eq!(
            done.log,
            ["lock /l ttl=Some(Span(10000)) wait=Some(Span(5000)) key=None", "unlock /l key=Some(\"c0ffee\")"]
        );
    }

    #[tokio::test]
    async fn a_command_whose_lock_is_lost_is_told_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let (script, told) = (folder.path().join("sh"), folder.path().join("told"));
        // It goes by itself in the end, so that nothing is left behind when it is not told.
        let text = format!(
            "trap 'echo TERM > {}; exit' TERM; n=0; while [ $n -lt 500 ]; do n=$((n + 1)); sleep 0.02; done",
            told.display()
        );
        std::fs::write(&script, text).unwrap();
        let done = run(&format!("lock --ttl 3s /lost -- sh {}", script.display())).await;
        assert_eq!(done.status, 6);
        assert_eq!(std::fs::read_to_string(told).unwrap(), "TERM\n");
        assert!(done.talk.contains("SIGTERM") && done.talk.contains("is lost: the lock is not held"), "{}", done.talk);
    }

    #[tokio::test]
    async fn what_another_holds_is_a_conflict() {
        assert_eq!(run("lock /taken -- false").await.status, 6);
        let done = run("unlock /BVODS/QS").await;
        assert_eq!(done.status, 6);
        assert!(done.talk.contains("locked by uid:7") && done.talk.contains("--break"), "{}", done.talk);
        let done = run("unlock --break /BVODS/QS").await;
        assert_eq!((done.out.as_str(), done.log), ("unlocked /BVODS/QS\n", vec!["unlock /BVODS/QS key=None".into()]));
        assert_eq!(run("unlock /failed").await.out, "/failed is not locked\n");
        assert_eq!(run("unlock -o json --break /free").await.out, "{\"released\":false}\n");
    }
}
