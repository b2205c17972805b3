//! Whether anybody uses an instance: the agent's half of `idle_stop`.

use std::sync::Arc;

use byname_api::object::InstanceId;
use byname_api::service::Endpoint;

use crate::agent::Inner;
use crate::connections::{self, Seen};

/// Closes the gate in front of an instance, and then counts its connections; none when there is no such instance. With
/// any, the gate is opened again.
///
/// In this order nothing slips through: whoever connects to a stable socket from now on waits in the kernel's queue
/// until the gate is open, or for the next copy. Two ways past the gate remain: a client that was told the copy's own
/// endpoint, and a program that has the sockets themselves, which may accept between the count and its end. Such a
/// program serves what it has accepted before it leaves, as programs for LISTEN_FDS do.
pub(crate) async fn rest(agent: &Arc<Inner>, instance: InstanceId) -> Option<Seen> {
    let (service, endpoints) = agent.living(instance)?;
    let relayed = agent.rest(service, instance).await;
    let known = count(agent, vec![(instance, service, endpoints)]).await;
    let known = known.and_then(|counts| counts.first().map(|(_, seen)| *seen));
    // A relayed connection is one of those that the kernel counts, so the numbers are not added up. What cannot be
    // counted is taken for busy.
    let seen = match (relayed, known) {
        (Some(relayed), Some(known)) => Seen {
            connections: relayed.relays.max(known.connections),
            unused_ms: relayed.unused_ms.into_iter().chain(known.unused_ms).min(),
        },
        _ => Seen { connections: 1, unused_ms: None },
    };
    if seen.connections > 0 {
        agent.wake(service, instance);
    }
    Some(seen)
}

/// What connections each of these instances has; none when the kernel does not say.
pub(crate) async fn count(
    agent: &Arc<Inner>,
    instances: Vec<(InstanceId, u64, Vec<Endpoint>)>,
) -> Option<Vec<(InstanceId, Seen)>> {
    let (mut ids, mut places) = (Vec::new(), Vec::new());
    for (id, service, mut endpoints) in instances {
        endpoints.extend(agent.places(service, id));
        ids.push(id);
        places.push(endpoints);
    }
    let counted = tokio::task::spawn_blocking(move || connections::count(&places)).await;
    match counted.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(counts) => Some(ids.into_iter().zip(counts).collect()),
        Err(error) => {
            tracing::warn!(%error, "connections cannot be counted");
            None
        }
    }
}
