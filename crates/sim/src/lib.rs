//! Whole clusters on one thread, in an order that a seed decides.
//!
//! For tests; part of no program. What a test needs for a world that can be lived through again:
//!
//! - [`was_world`], [`world`], [`worlds`]: a world is a future in a process of its own, with a paused clock. Everything that
//!   asks the operating system for chance or time inside it, in whatever library, gets the seed's (`os.rs`).
//! - [`Network`]: carries calls between servers and from clients; loses, delays, doubles, reorders and is cut.
//! - [`FaultyDisk`]: loses power, tears what was written, fails to sync, fills up, is slow.
//! - [`note`], [`trace`], [`seen`], [`violation`]: the timeline of the world. Its hash shows that two runs were the same.
//! - [`linear`]: whether what clients saw could have come from one machine without concurrency.
//!
//! # How a server ends
//!
//! Tasks cannot be killed from outside of the libraries that spawn them. So a process that is killed is cut off instead: its
//! disk takes no change any more ([`FaultyDisk::after_kill`], [`FaultyDisk::after_power_cut`]), nothing reaches it, nothing
//! that it says arrives ([`Network::end`]), and it is shut down while nobody looks. The next process on the same host has a
//! port and a disk of its own, with what the first has left.
//!
//! # When a seed fails
//!
//! The test says how to see it again. `RUST_LOG=info` (or `openraft=debug`) adds what the servers say, and changes nothing.
//! A seed is the same run as long as the code is the same.

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
