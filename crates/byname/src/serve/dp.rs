//! The protocol of the Tcl-DP name server, where a server speaks it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use byname_api::caller::Gate;
use byname_api::error::Result;
use byname_api::request::Context;
use byname_front_dp::{Front, Pairs, Vouched};
use byname_name::Name;
use byname_node::{Node, Paired};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::listeners::cannot;
use crate::cli::serve::Listen;

/// Where it is spoken, and with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where.
    pub(crate) listen: Listen,
    /// With callers on other hosts, too, as nobody in particular.
    pub(crate) anyone: bool,
}

/// A socket for it.
pub(crate) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    anyone: bool,
}

impl Bound {
    /// Binds it, unless it is off.
    pub(super) async fn at(settings: Settings) -> Result<Option<Bound>> {
        let Listen::At(wanted) = settings.listen else { return Ok(None) };
        let told = |error| cannot(&wanted.to_string(), &error);
        let listener = TcpListener::bind(wanted).await.map_err(told)?;
        let address = listener.local_addr().map_err(told)?;
        Ok(Some(Bound { listener, address, anyone: settings.anyone }))
    }

    /// Where programs of this host reach it.
    pub(super) fn reached_at(&self) -> SocketAddr {
        let here: IpAddr = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(here, self.address.port())
    }

    /// Speaks it from now on.
    pub(super) fn serve(self, node: &Node) -> Serving {
        let pairs = Arc::new(OfNode(node.clone()));
        let gate = Gate::before(node.authenticator());
        let front = Front::new(Arc::new(node.clone()), gate, pairs, self.anyone);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(byname_front_dp::serve(self.listener, front, async {
            let _ = stopped.await;
        }));
        tracing::info!("speaking the protocol of Tcl-DP on {}", self.address);
        Serving { address: self.address, stop, task }
    }
}

/// A front end that answers.
pub(super) struct Serving {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Where.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers what was begun, and goes.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(super::DRAIN, self.task).await;
    }
}

/// The pairs of the programs that this server's cluster started.
struct OfNode(Node);

impl Pairs for OfNode {
    fn pair(&self, cx: &Context, name: &Name) -> Result<Option<Vouched>> {
        let vouched = |Paired { name, instance, endpoint, pair }: Paired| Vouched { name, instance, endpoint, pair };
        Ok(self.0.pair_of(cx, name)?.map(vouched))
    }
}
