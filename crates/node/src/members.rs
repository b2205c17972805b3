//! The servers of the cluster, as the tree and the operations know them.

use std::sync::Arc;
use std::time::Duration;

use byname_api::error::{Code, Error, NO_PRIMARY, Result};
use byname_api::object::{Kind, ObjectId, Spec};
use byname_api::request::{ChangeServers, Member, Op};
use byname_cluster::ChangeError;
use byname_name::{Name, Pattern};
use byname_registry::command::Revoked;
use byname_registry::{Command, Tree};

use crate::{Inner, Node};

/// A server that was heard within this time is there.
const UP: Duration = Duration::from_secs(2);
/// How often the primary looks whether newcomers have caught up.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most servers that an invitation names.
const MAX_TOLD: usize = 16;
/// No cluster ever had so many servers.
const MANY: u32 = 10_000;

/// The name of a server.
pub(crate) fn name_of(id: u64) -> Result<Name> {
    Ok(Name::parse(&format!("/byname/servers/{id}"))?)
}

/// The numbers of all servers that ever were: the objects of those that were removed stay.
pub(crate) fn server_numbers(tree: &Tree) -> impl Iterator<Item = u64> + use<> {
    let listed = Pattern::parse("/byname/servers/*")
        .ok()
        .and_then(|pattern| byname_registry::query::list(tree, &pattern, Some(MANY), None, None, None).ok());
    let entries = listed.map(|listed| listed.entries).unwrap_or_default();
    entries.into_iter().filter_map(|entry| byname_api::caller::server_number(entry.name.as_str()))
}

/// Gives a vote to each server that has none and has caught up: what a join began is finished by whoever leads then.
pub(crate) async fn promote(inner: Arc<Inner>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !inner.stopping() {
        every.tick().await;
        if !inner.reigns() {
            continue;
        }
        let ready = |member: &byname_cluster::Member| {
            let heard = member.silent.is_some_and(|silent| silent < UP);
            !member.voter && heard && member.is_near()
        };
        for member in inner.cluster.members().into_iter().filter(ready) {
            let id = member.server.id;
            match inner.cluster.add_server(member.server).await {
                Ok(()) => tracing::info!(server = id, "a new server has caught up, and has a vote"),
                Err(error) => tracing::warn!(server = id, %error, "a new server gets no vote now"),
            }
        }
    }
}

/// Before it is tried again to say in the tree who is left out.
const AGAIN: Duration = Duration::from_secs(1);

impl Node {
    /// A server that is alone refuses all others that its tree knows from now on: those that it had before `stand-alone` and
    /// `restore`, and those whose removal did not get to its end. They would believe to be its cluster still. To be called
    /// before anybody is answered.
    pub async fn lock_out_others(&self) {
        if let Err(error) = self.inner.lock_out_others().await {
            tracing::warn!(
                error = error.log_line(),
                "servers that are left out cannot be noted in the tree now; trying again"
            );
            let inner = self.inner.clone();
            tokio::spawn(async move {
                while !inner.stopping() && inner.lock_out_others().await.is_err() {
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
    }
}

impl Inner {
    async fn lock_out_others(&self) -> Result<()> {
        let own = self.config.id;
        if self.cluster.members().iter().any(|member| member.server.id != own) || !self.cluster.is_primary() {
            return Ok(());
        }
        let others: Vec<u64> = server_numbers(&self.view.load()).filter(|id| *id != own).collect();
        for id in others {
            let name = name_of(id)?;
            let object = self.view.load().get(&name).map(|node| node.id);
            if let Some(object) = object.filter(|_| !self.was_removed(&name)) {
                self.propose("byname", None, Command::Revoke(Revoked::Principal(object))).await?;
                tracing::warn!(server = id, "it does not belong to this cluster any more: what it shows is refused");
            }
        }
        Ok(())
    }

    /// Whether this server was taken out of the cluster.
    pub(crate) fn was_removed(&self, name: &Name) -> bool {
        let tree = self.view.load();
        tree.get(name).is_some_and(|node| tree.credentials(node.id).is_some())
    }

    /// A number that no server ever had: objects of those that were removed stay.
    pub(crate) fn next_server(&self) -> u64 {
        let tree = self.view.load();
        let members = self.cluster.members().into_iter().map(|member| member.server.id);
        let known = server_numbers(&tree).collect::<Vec<_>>();
        members.chain(known).max().unwrap_or(0) + 1
    }

    /// Makes a newcomer one of the cluster, without a vote yet.
    pub(crate) async fn let_in(&self, server: byname_cluster::Server) -> Result<()> {
        self.cluster.add_learner(server).await.map_err(refused)
    }

    /// Where servers are reached: this one's own word first, then the others.
    pub(crate) fn reachable(&self, own: &[String]) -> Vec<String> {
        let mut all = own.to_vec();
        let others = self.members().into_iter().filter(|member| member.id != self.config.id && member.voter);
        all.extend(others.map(|member| member.address).filter(|address| !address.is_empty()));
        all.truncate(MAX_TOLD);
        all
    }

    /// The object of a server that has none yet.
    async fn make_object(&self, name: &Name) -> Result<ObjectId> {
        let add = Op::Add { name: name.clone(), spec: Spec::of(Kind::Service) };
        self.propose("byname", None, Command::Batch { ops: vec![add], set: None }).await?;
        let made = self.view.load().get(name).map(|node| node.id);
        made.ok_or_else(|| Error::internal(format!("`{name}` was made and is not there")))
    }

    /// Takes a server out, or hands the lead to one.
    pub(crate) async fn change_servers(&self, change: ChangeServers) -> Result<()> {
        match change {
            ChangeServers::Remove(id) => {
                let name = name_of(id)?;
                let known = self.view.load().get(&name).map(|node| node.id);
                let member = self.cluster.members().iter().any(|member| member.server.id == id);
                let object = match known {
                    Some(object) => object,
                    None if member => self.make_object(&name).await?,
                    None => return Err(refused(ChangeError::Refused(format!("there is no server {id}")))),
                };
                if id == self.config.id && member && self.cluster.members().len() > 1 {
                    // Another one takes this server out: whoever is out cannot log that it is.
                    self.cluster.hand_over().await;
                    let what = "the lead is handed over first: ask again";
                    return Err(Error::new(Code::Unavailable, what).field(NO_PRIMARY));
                }
                // One that is out already may have been taken out by a request that did not get to its end.
                if member {
                    self.cluster.remove_server(id).await.map_err(refused)?;
                }
                // Whatever certificate it shows from now on is refused.
                return self.propose("byname", None, Command::Revoke(Revoked::Principal(object))).await.map(drop);
            }
            ChangeServers::Transfer(to) => self.cluster.transfer(to).await,
        }
        .map_err(refused)
    }

    /// The servers of the cluster.
    pub(crate) fn members(&self) -> Vec<Member> {
        let members = self.cluster.members().into_iter();
        let one = |member: byname_cluster::Member| {
            let id = member.server.id;
            let own = id == self.config.id;
            let heard = member.silent.is_some_and(|silent| silent < UP);
            Some(Member {
                id,
                name: name_of(id).ok()?,
                address: if member.server.address.is_empty() {
                    String::new()
                } else {
                    format!("https://{}", member.server.address)
                },
                voter: member.voter,
                primary: member.primary,
                up: own || heard || (member.primary && !self.cluster.freshness().stale),
                behind: member.behind.unwrap_or(0),
            })
        };
        members.filter_map(one).collect()
    }
}

fn refused(error: ChangeError) -> Error {
    let what = error.to_string();
    match error {
        ChangeError::NotPrimary { .. } => Error::new(Code::Unavailable, what).field(NO_PRIMARY),
        ChangeError::Refused(_) => Error::new(Code::Conflict, what),
        ChangeError::Stopped => Error::new(Code::Unavailable, what),
    }
}
