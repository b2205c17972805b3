//! What goes into the audit log: every change, launch, refusal and authentication with its evidence, and reads where an
//! object asks for them.

use std::sync::Arc;
use std::time::Duration;

use byname_api::audit::{AuditReply, AuditRequest, Outcome};
use byname_api::caller::{Caller, Right};
use byname_api::error::{Code, Error, Result};
use byname_api::request::{BatchRequest, Context, Op};
use byname_audit::{Anchor, Entry};
use byname_name::Name;
use byname_registry::{Command, access};

use crate::{Inner, start};

/// How often the head of the chain goes into the replicated log.
const ANCHOR_EVERY: Duration = Duration::from_secs(10);
/// A batch with more changes is one record that names the first of them.
const SINGLY: usize = 256;

impl Inner {
    /// Notes what a caller did, or was refused.
    pub(crate) fn note(&self, caller: &Caller, operation: &str, name: Option<&Name>, result: Result<(), &Error>) {
        let Some(audit) = self.identity().and_then(|identity| identity.audit.as_ref()) else { return };
        let (outcome, code) = match result {
            Ok(()) => (Outcome::Ok, None),
            Err(error) => (
                match error.code() {
                    Code::Denied => Outcome::Denied,
                    Code::Unauthenticated => Outcome::Unauthenticated,
                    _ => Outcome::Failed,
                },
                Some(error.code().as_str().to_owned()),
            ),
        };
        audit.record(Entry {
            at: start::now(),
            by: caller.principal.clone(),
            how: how(caller),
            from: caller.address.map(|address| address.to_string()),
            operation: operation.to_owned(),
            name: name.map(|name| name.as_str().to_owned()),
            outcome,
            code,
            count: 1,
            detail: result.err().map(|error| error.message().to_owned()),
        });
    }

    /// Notes that a caller may not.
    pub(crate) fn note_refusal(&self, caller: &Caller, operation: &str, name: Option<&Name>, error: &Error) {
        metrics::counter!("byname_denials_total").increment(1);
        let asked = name.map(Name::as_str).unwrap_or_default();
        tracing::info!(by = caller.principal, operation, name = asked, "denied");
        self.note(caller, operation, name, Err(error));
    }

    /// Notes the end of an operation that changes something, unless it was a refusal that is noted already.
    pub(crate) fn note_change<T>(&self, cx: &Context, operation: &str, name: Option<&Name>, result: &Result<T>) {
        match result {
            Ok(_) => self.note(&cx.caller, operation, name, Ok(())),
            Err(error) if matches!(error.code(), Code::Denied | Code::Unauthenticated) => {}
            Err(error) => self.note(&cx.caller, operation, name, Err(error)),
        }
    }

    /// Notes a read where the object asks for it.
    pub(crate) fn note_read<T>(&self, cx: &Context, operation: &str, name: &Name, result: &Result<T>) {
        if self.identity().is_none() {
            return;
        }
        // Whatever the name by which it was read.
        let tree = self.view.load();
        let end = || tree.follow(name, true, None).ok().filter(|end| end != name);
        if access::audited_reads(&tree, name) || end().is_some_and(|end| access::audited_reads(&tree, &end)) {
            self.note_change(cx, operation, Some(name), result);
        }
    }

    /// Notes the changes of a batch, one by one unless they are very many.
    pub(crate) fn note_batch<T>(&self, cx: &Context, ops: &[(&'static str, Name)], result: &Result<T>) {
        if ops.len() <= SINGLY {
            for (operation, name) in ops {
                self.note_change(cx, operation, Some(name), result);
            }
            return;
        }
        let operation = format!("batch of {}", ops.len());
        self.note_change(cx, &operation, ops.first().map(|(_, name)| name), result);
    }

    /// `audit`.
    pub(crate) async fn audit(self: &Arc<Self>, cx: &Context, request: AuditRequest) -> Result<AuditReply> {
        self.authorise(&cx.caller, Right::Admin, &Name::root())?;
        let inner = self.clone();
        let searched = tokio::task::spawn_blocking(move || {
            let audit = inner.identity().and_then(|identity| identity.audit.as_ref()).ok_or_else(no_log)?;
            let mut reply = audit.search(&request)?;
            if request.verify {
                reply.verified = Some(audit.verify(&inner.anchors())?);
            }
            Ok(reply)
        });
        searched.await.map_err(|_| Error::internal("the search of the audit log panicked"))?
    }

    fn anchors(&self) -> Vec<Anchor> {
        let known = self.view.load().anchors(self.config.id);
        known.into_iter().map(|(sequence, hash)| Anchor { sequence, hash }).collect()
    }
}

fn no_log() -> Error {
    Error::new(Code::Unsupported, "this server keeps no audit log")
}

/// Puts the head of the audit log into the replicated log, so that a tail that is cut off is missed.
pub(crate) async fn anchor(inner: Arc<Inner>) {
    let mut last = 0;
    let mut every = tokio::time::interval(ANCHOR_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if inner.stopping() {
            return;
        }
        last = anchor_now(&inner, last).await;
    }
}

/// Anchors what is there, if it is more than was anchored last; gives how far that is.
pub(crate) async fn anchor_now(inner: &Arc<Inner>, last: u64) -> u64 {
    let synced = {
        let inner = inner.clone();
        tokio::task::spawn_blocking(move || inner.identity().and_then(|i| i.audit.as_ref()).map(|audit| audit.sync()))
    };
    let head = match synced.await {
        Ok(Some(Ok(head))) if head.sequence > last => head,
        _ => return last,
    };
    let command = Command::Anchor { server: inner.config.id, sequence: head.sequence, hash: head.hash };
    match inner.propose("byname", None, command).await {
        Ok(_) => head.sequence,
        Err(error) => {
            tracing::debug!(error = error.log_line(), "the audit log's head is not anchored now");
            last
        }
    }
}

/// How a caller proved itself, in words.
pub(crate) fn how(caller: &Caller) -> String {
    match &caller.evidence {
        Some(evidence) => format!("{} {evidence}", caller.mechanism),
        None => caller.mechanism.to_string(),
    }
}

/// The operations of a batch, as the audit log names them.
pub(crate) fn operations(request: &BatchRequest) -> Vec<(&'static str, Name)> {
    let named = |op: &Op| match op {
        Op::Add { name, .. } => ("add", name.clone()),
        Op::Put { name, .. } => ("put", name.clone()),
        Op::Declare { name, .. } => ("declare", name.clone()),
        Op::Modify { name, .. } => ("modify", name.clone()),
        Op::Delete { name, .. } => ("delete", name.clone()),
        Op::Check { name, .. } => ("check", name.clone()),
    };
    request.ops.iter().map(named).filter(|(operation, _)| *operation != "check").collect()
}
