//! The clerk and the front end, with a port between them.

#![allow(unreachable_pub)]

mod cache;
mod clerk;
mod failover;
mod fake;
mod foreign;
mod identity;
mod tree;
mod trust;
