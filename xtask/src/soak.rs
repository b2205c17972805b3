//! `soak`: the simulations, of clusters (`crates/cluster/tests/simulation/`) and of a server
//! (`crates/node/tests/simulation.rs`), for longer and with seeds that nobody tried.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

const MINUTES: u64 = 10;

/// Package, test, and its share of the time in tenths.
const SIMULATIONS: [(&str, &str, u64); 2] = [
    ("byname-cluster", "clusters_answer_like_one_machine_whatever_fails", 7),
    ("byname-node", "what_was_answered_is_there_after_every_fault_and_once", 3),
];

/// Reads the words behind `soak`; none when they make no sense.
pub(crate) fn minutes(words: &[&str]) -> Option<u64> {
    match words {
        [] => Some(MINUTES),
        ["--minutes", minutes] => minutes.parse().ok().filter(|minutes| *minutes > 0),
        _ => None,
    }
}

/// Runs them, built for debugging: overflows are checked. False when a seed fails. A failure names its seed and how to repeat it.
pub(crate) fn run(root: &Path, minutes: u64) -> anyhow::Result<bool> {
    let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) << 20;
    eprintln!("soak: {minutes} minutes, from seed {first}");
    let mut good = true;
    for (package, test, share) in SIMULATIONS {
        let status = Command::new("cargo")
            .args(["test", "--package", package, "--test", "simulation", test, "--", "--exact", "--nocapture"])
            .env("BYNAME_SIMULATION_SECONDS", (minutes * 6 * share).to_string())
            .env("BYNAME_SIMULATION_SEED", first.to_string())
            .current_dir(root)
            .status()
            .context("cannot start cargo")?;
        good &= status.success();
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_behind_soak() {
        assert_eq!(minutes(&[]), Some(MINUTES));
        assert_eq!(minutes(&["--minutes", "90"]), Some(90));
        assert_eq!(minutes(&["--minutes", "0"]), None);
        assert_eq!(minutes(&["90"]), None);
    }
}
