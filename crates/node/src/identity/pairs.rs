//! The ticket pairs of programs that are launched in the convention of Tcl-DP (DESIGN section 6). That protocol shows them
//! again and again: the program its half in each advertisement, the server its half in each authentication. So they
//! live as long as the program.
//!
//! Both halves are computed from the instance's id under the cluster key. They need not be kept anywhere, every server
//! of the cluster knows them, and whoever has read the log or a backup cannot make one.

use sha2::{Digest, Sha256};

use byname_api::agent::TicketPair;
use byname_api::caller::Right;
use byname_api::error::{Code, Error, Result};
use byname_api::launch::{Convention, Launch};
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_api::service::{Endpoint, State};
use byname_name::Name;
use byname_registry::query;

use crate::{Inner, Node};

/// A running copy that has shown its half of a pair that lives as long as it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// The service, by its own name.
    pub name: Name,
    /// The copy.
    pub instance: InstanceId,
    /// Where it takes connections.
    pub endpoint: Endpoint,
    /// The pair.
    pub pair: TicketPair,
}

impl Node {
    /// The pair of a running copy; none when there is no such service, or it does not run.
    ///
    /// # Errors
    ///
    /// `denied` when no running copy has shown such a ticket, or it was revoked.
    pub fn pair_of(&self, cx: &Context, name: &Name) -> Result<Option<Paired>> {
        let done = self.inner.pair_of(cx, name);
        self.inner.note_change(cx, "authenticate", Some(name), &done);
        done
    }
}

impl Inner {
    fn pair_of(&self, cx: &Context, name: &Name) -> Result<Option<Paired>> {
        let nothing = |error: Error| match error.code() {
            Code::NotFound => Ok(None),
            _ => Err(error),
        };
        if let Err(error) = self.authorise(&cx.caller, Right::Find, name) {
            return nothing(error);
        }
        let tree = self.view.load_full();
        let node = match query::service_named(&tree, name) {
            Ok(node) => node,
            Err(error) => return nothing(error),
        };
        let (Some(service), Some(status)) = (&node.service, query::service_status(&tree, &node)) else {
            return Ok(None);
        };
        let running: Vec<_> = status.instances.into_iter().filter(|copy| copy.state == State::Running).collect();
        if running.is_empty() {
            return Ok(None);
        }
        for copy in running {
            let pair = self.lasting_pair(copy.id)?;
            let shown = service.instance(copy.id).filter(|known| known.holds_ticket());
            let endpoint = copy.endpoints.into_iter().find(|at| at.protocol != "unix" && at.port != 0);
            if shown.and_then(|known| known.credential) == Some(Sha256::digest(pair.program).into())
                && let Some(endpoint) = endpoint
            {
                return Ok(Some(Paired { name: node.name.clone(), instance: copy.id, endpoint, pair }));
            }
        }
        Err(Error::new(
            Code::Denied,
            format!(
                "`{}` cannot be vouched for: no copy of it has shown a ticket in the convention of Tcl-DP",
                node.name
            ),
        ))
    }

    /// The pair that a new instance is started with.
    pub(crate) fn new_pair(&self, launch: &Launch, instance: InstanceId) -> Result<TicketPair> {
        match launch.convention() {
            Convention::Dp => self.lasting_pair(instance),
            Convention::Byname => Ok(TicketPair { program: rand::random(), server: rand::random() }),
        }
    }

    /// The pair of an instance, for as long as it lives.
    fn lasting_pair(&self, instance: InstanceId) -> Result<TicketPair> {
        let key = &self.own_identity()?.key;
        let id = instance.0.to_be_bytes();
        Ok(TicketPair { program: key.mac(PROGRAM, &id)?, server: key.mac(SERVER, &id)? })
    }

    /// The half that a program shows as long as it lives, if this is the hash of its ticket.
    pub(crate) fn lasting_ticket(&self, instance: InstanceId, ticket: &[u8; 32]) -> Option<[u8; 32]> {
        let pair = self.lasting_pair(instance).ok()?;
        (<[u8; 32]>::from(Sha256::digest(pair.program)) == *ticket).then_some(pair.program)
    }
}

const PROGRAM: &str = "dp program";
const SERVER: &str = "dp server";
