//! Servers and agents on hosts of their own: what happens to answered writes, to the lead and to services while servers are
//! killed and halted, cables cut, and disks full.
//!
//! Each host is a network namespace, which needs root, iproute2 and nftables. Where that cannot be had these tests say so and
//! do nothing; `cargo xtask cluster check` says why.

mod cables;
mod disk;
mod dp;
mod halts;
mod history;
mod kills;
mod load;
mod services;
mod support;
