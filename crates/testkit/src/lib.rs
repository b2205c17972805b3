//! What the tests of several crates share.
//!
//! - [`contract`]: what every implementation of `NameService` must do; run on `node` in this process and on `client`
//!   over the wire.
//! - [`Server`]: a real `byname dev` on a folder of its own, which can be killed and started again.
//! - [`scenario`]: readable scripts of commands with their full output.
//! - [`page`]: pages of a guide in Markdown, of which every command is run.
//! - [`PlayedAgent`]: an agent that starts nothing and reports as if it had.
//! - [`eventually`]: the one way to wait for something.
//!
//! This crate spawns processes and reads `/proc`; nothing that ships depends on it.

#![forbid(unsafe_code)]

pub mod contract;
mod diff;
pub mod page;
mod played_agent;
mod process;
pub mod scenario;
mod server;
mod wait;

pub use diff::diff;
pub use played_agent::PlayedAgent;
pub use process::{alive, kill, running_with};
pub use server::{Ended, Options, Output, Server, run};
pub use wait::{PATIENCE, eventually, eventually_async};
