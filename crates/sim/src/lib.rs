//! Whole clusters on one thread, in an order that a seed decides.

mod os;

pub use os::{elapsed, jump_wall_clock};
