//! The protocol of the Tcl-DP name server of 1995, for its unmodified clients: frames over TCP, each with one Tcl list
//! in it, answered from [`NameService`].
//!
//! - [`frame`] and [`list`] read what comes, [`command`] looks it up in a table. **Nothing is ever evaluated.**
//! - `connection` holds one peer: its commands are done one after the other, as the original did them.
//! - `answer` translates to the operations of the interface and back; `services` finds what a pattern means.
//! - `call` is the other direction: the server asks a service to show its half of the ticket pair.
//!
//! Memory is bounded whatever peers do: so many connections, so many commands at once, and so many that may hold a long
//! frame or a long answer; whoever does not go on sending or reading in time is disconnected.

mod answer;
mod call;
pub mod command;
mod connection;
pub mod frame;
pub mod glob;
pub mod list;
mod register;
mod services;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use byname_api::NameService;
use byname_api::agent::TicketPair;
use byname_api::caller::Gate;
use byname_api::error::Result;
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_api::service::Endpoint;
use byname_name::Name;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

/// The pause after a failed accept: most of these mean that descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds on what peers may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; one address elsewhere may hold a quarter of them.
    pub connections: usize,
    /// Commands that are worked on at once, over all connections.
    pub working: usize,
    /// Frames and answers beyond 64 KiB that are held at once, while they come and go.
    pub long: usize,
    /// How long a peer may take to send the rest of a frame, and to take an answer.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 1_024, working: 256, long: 32, patience: Duration::from_secs(30) }
    }
}

/// A running copy that was started with a ticket pair of this protocol and has shown its half.
#[derive(Clone, Debug, PartialEq)]
pub struct Vouched {
    /// The service, by its own name.
    pub name: Name,
    /// The copy.
    pub instance: InstanceId,
    /// Where it said that it listens.
    pub endpoint: Endpoint,
    /// The pair that it was started with: it answers `server` with `program`.
    pub pair: TicketPair,
}

/// Who knows the pairs that programs were started with.
pub trait Pairs: Send + Sync + 'static {
    /// The pair of a running copy; none when there is no such service, or when it does not run.
    ///
    /// # Errors
    ///
    /// Those of a find; `denied` when no copy has shown its ticket.
    fn pair(&self, cx: &Context, name: &Name) -> Result<Option<Vouched>>;
}

/// What is behind the protocol.
pub struct Front {
    service: Arc<dyn NameService>,
    gate: Gate,
    pairs: Arc<dyn Pairs>,
    anyone_from_elsewhere: bool,
    /// How many use each service, as they say.
    uses: Mutex<HashMap<Name, u64>>,
    /// Which instance a service advertised itself as, so that it replaces that and is not there twice.
    advertised: Mutex<HashMap<Name, InstanceId>>,
    /// Services that are being launched because a peer asked for it.
    launching: Mutex<HashMap<Name, AbortHandle>>,
    working: Semaphore,
    long: Semaphore,
    crowd: Mutex<HashMap<IpAddr, usize>>,
    limits: Limits,
}

impl Front {
    /// A front end to a service. `anyone_from_elsewhere`: callers on other hosts are let in, as nobody in particular.
    /// The protocol has neither encryption nor any proof of who calls.
    pub fn new(service: Arc<dyn NameService>, gate: Gate, pairs: Arc<dyn Pairs>, anyone_from_elsewhere: bool) -> Front {
        Front::with(Limits::default(), service, gate, pairs, anyone_from_elsewhere)
    }

    /// The same with other bounds.
    pub fn with(
        limits: Limits,
        service: Arc<dyn NameService>,
        gate: Gate,
        pairs: Arc<dyn Pairs>,
        anyone_from_elsewhere: bool,
    ) -> Front {
        Front {
            service,
            gate,
            pairs,
            anyone_from_elsewhere,
            uses: Mutex::default(),
            advertised: Mutex::default(),
            launching: Mutex::default(),
            working: Semaphore::new(limits.working),
            long: Semaphore::new(limits.long),
            crowd: Mutex::default(),
            limits,
        }
    }
}

/// Serves on this socket until `shutdown` is ready; what was begun is answered, and then every connection is closed.
pub async fn serve(listener: TcpListener, front: Front, shutdown: impl Future<Output = ()>) {
    metrics::describe_gauge!("byname_dp_connections", "Connections of the Tcl-DP protocol.");
    metrics::describe_counter!("byname_dp_refused_total", "Connections of the Tcl-DP protocol that were refused.");
    metrics::describe_counter!("byname_dp_requests_total", "Commands of the Tcl-DP protocol, by command and outcome.");
    let front = Arc::new(front);
    let (stop, stopping) = watch::channel(false);
    // Every connection holds a sender: the channel ends when the last one has gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let room = Arc::new(Semaphore::new(front.limits.connections));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = room.clone().try_acquire_owned().ok();
        let turn = place.as_ref().and_then(|_| Turn::take(&front, peer));
        let (front, stopping, alive) = (front.clone(), stopping.clone(), alive.clone());
        tokio::spawn(async move {
            let full = turn.is_none();
            connection::converse(&front, stream, peer, full, stopping).await;
            drop((turn, place, alive));
        });
    }
    drop((listener, alive));
    stop.send_replace(true);
    all_gone.recv().await;
}

/// A place among those of one address.
struct Turn(Arc<Front>, IpAddr);

impl Turn {
    fn take(front: &Arc<Front>, peer: SocketAddr) -> Option<Turn> {
        let address = peer.ip().to_canonical();
        let mut crowd = front.crowd.lock();
        let count = crowd.entry(address).or_default();
        if *count >= front.limits.connections.div_ceil(4) && !address.is_loopback() {
            return None;
        }
        *count += 1;
        metrics::gauge!("byname_dp_connections").increment(1.0);
        Some(Turn(front.clone(), address))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut crowd = self.0.crowd.lock();
        if let Some(count) = crowd.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                crowd.remove(&self.1);
            }
        }
        metrics::gauge!("byname_dp_connections").decrement(1.0);
    }
}
