//! Servers that are killed, and started anew on purpose.

use std::time::{Duration, Instant};

use crate::load::Load;
use crate::support::Hosts;

#[test]
fn answered_writes_outlive_a_primary_that_is_killed_again_and_again() {
    let Some(hosts) = Hosts::servers() else { return };
    let outcome = kill_primaries(&hosts, 4, Duration::ZERO);
    assert_eq!(outcome.violations, [""; 0]);
    assert_eq!(outcome.errors, [""; 0], "the clerks try again within their patience");
}

/// For the record: `cargo nextest run -p byname --test fleet --run-ignored only --no-capture two_hundred`.
#[test]
#[ignore = "takes many minutes"]
fn two_hundred_primaries_are_killed_and_no_answered_write_is_lost() {
    let Some(hosts) = Hosts::servers() else { return };
    // At full speed the log that a server reads at its start would soon be most of the time.
    let outcome = kill_primaries(&hosts, 200, Duration::from_millis(200));
    assert_eq!(outcome.violations, [""; 0]);
}

/// Kills the primary so often while 64 clients write and read, so much time apart, each time at another moment, and starts it again.
fn kill_primaries(hosts: &Hosts, times: u64, pause: Duration) -> crate::load::Outcome {
    let load = Load::start_at(hosts, 64, pause);
    let begun = Instant::now();
    load.goes_on(100);
    let mut dice = 7_u64;
    for round in 0..times {
        let (primary, term) = hosts.primary();
        // Some writes more or less, so that it does not always happen at the same moment of its life.
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        load.goes_on(1 + (dice >> 33) % 300);
        hosts.fleet.kill(&primary).unwrap();
        load.goes_on(64);
        hosts.fleet.start_again(&[&primary]).unwrap();
        hosts.caught_up();
        if times > 20 && round % 10 == 9 {
            eprintln!("{} kills, term {term}, {} writes, {:?}", round + 1, load.answered(), begun.elapsed());
        }
    }
    load.goes_on(100);
    let outcome = load.stop(hosts);
    eprintln!(
        "{times} kills in {:?}: {} answered writes, {} failed operations, longest pause {:?}, {} violations",
        begun.elapsed(),
        outcome.answered,
        outcome.errors.len(),
        outcome.pause,
        outcome.violations.len()
    );
    outcome
}

#[test]
fn all_servers_are_killed_at_once_and_know_everything_when_they_are_back() {
    let Some(hosts) = Hosts::servers() else { return };
    let load = Load::start(&hosts, 16);
    load.goes_on(200);
    for host in hosts.fleet.servers() {
        hosts.fleet.kill(host).unwrap();
    }
    hosts.fleet.start_again(&hosts.fleet.servers()).unwrap();
    hosts.primary();
    load.goes_on(100);
    // Writes may fail here: nobody answers for longer than a clerk tries.
    assert_eq!(load.stop(&hosts).violations, [""; 0]);
}

#[test]
fn a_rolling_restart_fails_no_request() {
    let Some(hosts) = Hosts::servers() else { return };
    let load = Load::start(&hosts, 16);
    load.goes_on(100);
    for host in hosts.fleet.servers() {
        hosts.fleet.terminate(host).unwrap();
        load.goes_on(50);
        hosts.fleet.start_again(&[host]).unwrap();
        hosts.caught_up();
    }
    load.goes_on(50);
    let outcome = load.stop(&hosts);
    assert_eq!(outcome.errors, [""; 0]);
    assert_eq!(outcome.violations, [""; 0]);
    assert!(outcome.pause < Duration::from_secs(5), "{:?}", outcome.pause);
}
