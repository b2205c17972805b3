//! Whole clusters on one thread, in an order that a seed decides.

mod disk;
pub mod linear;
mod network;
mod os;
mod timeline;
mod world;

pub use disk::{FaultyDisk, Pace};
pub use network::{Answer, Network, Port, Weather};
pub use os::{elapsed, jump_wall_clock};
pub use timeline::{note, seen, trace, violation};
pub use world::{Outcome, Seeds, Setup, Summary, again, only_world, was_world, world, worlds};
