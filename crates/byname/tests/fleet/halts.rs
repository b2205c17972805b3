//! Servers that stand still for a while and go on as if nothing had been.

use std::time::Duration;

use byname_testkit::eventually;

use crate::load::Load;
use crate::support::{Hosts, look, put, runtime};

#[test]
fn a_primary_that_stands_still_for_a_moment_keeps_the_lead() {
    let Some(hosts) = Hosts::servers() else { return };
    let load = Load::start(&hosts, 8);
    load.goes_on(50);
    let (primary, term) = hosts.primary();
    for _ in 0..3 {
        hosts.fleet.halt(&primary);
        // The time is what is tested.
        std::thread::sleep(Duration::from_millis(200));
        hosts.fleet.go_on(&primary);
        load.goes_on(50);
    }
    let outcome = load.stop(&hosts);
    assert_eq!(hosts.primary(), (primary, term), "no election");
    assert_eq!((outcome.errors, outcome.violations), (vec![], vec![]));
}

#[test]
fn a_primary_that_stood_still_for_long_comes_back_as_a_backup() {
    let Some(hosts) = Hosts::servers() else { return };
    let clients = runtime();
    let _within = clients.enter();
    let load = Load::start(&hosts, 8);
    load.goes_on(50);
    let (old, term) = hosts.primary();
    hosts.fleet.halt(&old);
    let others = hosts.others(&old);
    let (_, newer) = eventually("another primary", || hosts.primary_among(&others));
    assert!(newer > term, "{newer} after {term}");
    load.goes_on(50);
    // What it is asked while it stands still is waiting there when it goes on, and it still believes that it leads.
    let late = clients.spawn({
        let clerk = hosts.clerk_of(&old);
        async move { put(&clerk, "/late", "yes").await }
    });
    hosts.fleet.go_on(&old);
    eventually("the old one as a backup", || (hosts.fleet.info(&old)?["primary"] == false).then_some(()));
    let answered = clients.block_on(late).unwrap().is_ok();
    let found = clients.block_on(look(&hosts.clerk(), "/late", true));
    assert!(!answered || found.is_ok(), "answered and lost: {found:?}");
    hosts.caught_up();
    let outcome = load.stop(&hosts);
    assert_eq!(outcome.violations, [""; 0]);
}
