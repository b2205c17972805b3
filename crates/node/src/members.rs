//! The servers of the cluster, as the tree and the operations know them.

use std::time::Duration;

use byname_api::request::Member;
use byname_name::Name;

use crate::Inner;

/// A server that was heard within this time is there.
const UP: Duration = Duration::from_secs(2);

impl Inner {
    /// The servers of the cluster.
    pub(crate) fn members(&self) -> Vec<Member> {
        let members = self.cluster.members().into_iter();
        let one = |member: byname_cluster::Member| {
            let id = member.server.id;
            let own = id == self.config.id;
            let heard = member.silent.is_some_and(|silent| silent < UP);
            Some(Member {
                id,
                name: Name::parse(&format!("/byname/servers/{id}")).ok()?,
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
