//! How many connections a copy takes at this moment.
//!
//! Where the queue of a listener is full, the kernel drops the last word of the handshake: the end that connected counts
//! as connected, and the program may never hear of it. A crowd that has waited for a start would do just that to a
//! program with a short queue, so the queue is looked at before it is filled.

use std::collections::HashMap;

use byname_api::launch::StableSocket;
use byname_api::object::InstanceId;

use crate::connections;

/// How many connections are made at once to a copy whose queue cannot be looked at.
const UNSEEN: u32 = 32;

/// How many connections may be made to each copy before its queue is looked at again.
#[derive(Default)]
pub(super) struct Rooms(HashMap<InstanceId, u32>);

impl Rooms {
    /// Takes a place in a copy's queue; false when there is none.
    pub(super) fn take(&mut self, instance: InstanceId, place: Option<&StableSocket>) -> bool {
        // A unix socket whose queue is full says so when it is connected to.
        let Some(StableSocket::Tcp(at)) = place else { return true };
        let room = self.0.entry(instance).or_default();
        if *room == 0 {
            *room = match connections::backlog(*at) {
                // Others may connect to it at the same time, so not all of it is ours.
                Some((waiting, most)) => most.saturating_sub(waiting).div_ceil(2),
                None => UNSEEN,
            };
        }
        let has = *room > 0;
        *room = room.saturating_sub(1);
        has
    }

    /// It has ended.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.0.remove(&instance);
    }
}
