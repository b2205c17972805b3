//! The clerk and the front end, with a port between them.

#![allow(unreachable_pub)]

mod clerk;
mod fake;
mod foreign;
mod identity;
mod trust;
