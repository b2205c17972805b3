//! `launch`, `stop`, `restart`, `reset`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt, iter};
use tokio::time::Instant;

use byname_api::agent::Order;
use byname_api::caller::Right;
use byname_api::error::{Code, Error, Result};
use byname_api::request::{ActReply, ActRequest, Acted, Context, Problem, Verb};
use byname_api::service::State;
use byname_name::Pattern;
use byname_registry::query::{self, Wants};
use byname_registry::{Command, Node as Object};

use crate::Inner;
use crate::find::deadline;
use crate::keep;

/// Services that are worked on at once.
const AT_ONCE: usize = 64;
/// Beyond a program's own time to stop, before the wait for its end is given up.
const MARGIN: Duration = Duration::from_secs(5);

impl Inner {
    pub(crate) async fn act(self: &Arc<Self>, cx: &Context, request: ActRequest) -> Result<ActReply> {
        if request.patterns.is_empty() {
            return Err(Error::invalid("patterns", "say which services: names or patterns"));
        }
        let patterns = request
            .patterns
            .iter()
            .enumerate()
            .map(|(i, p)| {
                let field = format!("patterns[{i}]");
                Pattern::parse(p).map_err(|e| Error::new(Code::InvalidName, e.to_string()).field(field))
            })
            .collect::<Result<Vec<_>>>()?;
        // Before anything is looked up, so that a caller who may not act learns nothing.
        for pattern in &patterns {
            self.authorise(&cx.caller, Right::Launch, &pattern.literal_prefix())?;
        }
        let services = query::services(&self.view.load(), &patterns)?;
        // What a pattern matches and the caller may not see is as if it were not there.
        let named = |node: &Object| patterns.iter().any(|p| p.as_exact().is_some() && p.matches(&node.name));
        let tree = self.view.load_full();
        let services: Vec<_> =
            services.into_iter().filter(|node| named(node) || self.sees(&tree, &cx.caller, &node.name)).collect();
        for service in &services {
            self.authorise(&cx.caller, Right::Launch, &service.name)?;
        }
        let mut acted: Vec<Acted> =
            iter(services).map(|node| self.act_on(cx, &request, node)).buffer_unordered(AT_ONCE).collect().await;
        acted.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(ActReply { services: acted })
    }

    async fn act_on(self: &Arc<Self>, cx: &Context, request: &ActRequest, node: Arc<Object>) -> Acted {
        let done = match request.verb {
            Verb::Launch => self.launch(cx, request, &node).await,
            Verb::Stop => {
                let wanted_always = node.spec.launch.as_ref().is_some_and(|l| keep::always(l).is_some());
                self.stop(cx, request, &node, request.hold || wanted_always, false).await
            }
            Verb::Restart => match self.stop(cx, request, &node, false, false).await {
                Ok(()) => self.launch(cx, request, &node).await,
                Err(error) => Err(error),
            },
            Verb::Reset => self.stop(cx, request, &node, false, true).await,
        };
        let tree = self.view.load();
        let status = tree.by_id(node.id).and_then(|n| query::service_status(&tree, &n));
        let (state, instances) = status.map_or((State::Stopped, Vec::new()), |s| (s.state, s.instances));
        Acted { name: node.name.clone(), state, instances, error: done.err().as_ref().map(Problem::from) }
    }

    async fn launch(self: &Arc<Self>, cx: &Context, request: &ActRequest, node: &Object) -> Result<()> {
        let by = &cx.caller.principal;
        self.propose(by, None, Command::Release { service: node.id }).await?;
        let wants = Wants { start: true, may_start: true, force: true, all: false, turn: 0 };
        let asker = Some((&cx.caller, Right::Launch));
        let why = format!("launched by {by}");
        self.await_running(&node.name, wants, deadline(request.timeout), &why, asker).await.map(drop)
    }

    async fn stop(
        self: &Arc<Self>,
        cx: &Context,
        request: &ActRequest,
        node: &Object,
        hold: bool,
        reset: bool,
    ) -> Result<()> {
        let stop = Command::Stop { service: node.id, hold, reset };
        self.propose(&cx.caller.principal, None, stop).await?;
        let tree = self.view.load_full();
        let live: Vec<_> =
            tree.by_id(node.id).and_then(|n| n.service.clone()).map(|s| s.instances.clone()).unwrap_or_default();
        if request.now {
            for instance in &live {
                if let Some(computer) = &instance.computer {
                    let order = Order::Stop { term: self.order_term(), instance: instance.id, now: true };
                    self.agents.send(computer, order);
                }
            }
        }
        let patience = match request.timeout {
            Some(timeout) => timeout.duration(),
            None => node.spec.launch.clone().unwrap_or_default().stop_timeout().duration() + MARGIN,
        };
        // Copies that are started meanwhile, because the service shall always run, are not waited for.
        let stopped =
            |n: &Object| n.service.as_ref().is_none_or(|s| live.iter().all(|gone| s.instance(gone.id).is_none()));
        if self.await_service(node.id, Instant::now() + patience, stopped).await {
            return Ok(());
        }
        Err(Error::new(
            Code::Timeout,
            format!("`{}` has not ended yet: `byname stop --now {}` kills it", node.name, node.name),
        ))
    }
}
