//! Cables that are cut, in both directions or in one, and such as lose packets.

use byname_api::Code;
use byname_testkit::eventually;

use crate::load::Load;
use crate::support::{Hosts, look, put, runtime};

#[test]
fn a_primary_that_is_cut_off_refuses_writes_and_marks_what_it_reads_while_the_others_go_on() {
    let Some(hosts) = Hosts::servers() else { return };
    let clients = runtime();
    let _within = clients.enter();
    clients.block_on(put(&hosts.clerk(), "/before", "yes")).unwrap();
    let (old, term) = hosts.primary();
    let alone = hosts.clerk_of(&old);
    hosts.fleet.network().cut(&old).unwrap();
    let others = hosts.others(&old);
    let (new, newer) = eventually("a primary among the others", || hosts.primary_among(&others));
    assert!(newer > term, "{newer} after {term}");
    clients.block_on(put(&hosts.clerk_of(&new), "/meanwhile", "yes")).unwrap();
    // The one that is alone goes on answering from what it had, and says so.
    eventually("a reading that is marked stale", || {
        let found = clients.block_on(look(&alone, "/before", false)).unwrap();
        assert_eq!(found.value.as_deref(), Some("yes"));
        found.fresh.stale.then_some(())
    });
    assert_eq!(clients.block_on(look(&alone, "/meanwhile", false)).unwrap_err().code(), Code::NotFound);
    let refused = clients.block_on(put(&alone, "/alone", "no")).unwrap_err();
    assert!([Code::Unavailable, Code::Timeout].contains(&refused.code()), "{refused}");
    let refused = clients.block_on(look(&alone, "/before", true)).unwrap_err();
    assert!([Code::Unavailable, Code::Timeout].contains(&refused.code()), "{refused}");

    hosts.fleet.network().heal().unwrap();
    eventually("what it missed, and no mark", || {
        let found = clients.block_on(look(&alone, "/meanwhile", false)).ok()?;
        (!found.fresh.stale).then_some(())
    });
    let (_, last) = hosts.primary();
    clients.block_on(put(&alone, "/after", "yes")).unwrap();
    assert!(last >= newer);
    let lost = clients.block_on(look(&hosts.clerk(), "/alone", true));
    assert!(lost.is_err(), "a refused write was done after all: {lost:?}");
}

#[test]
fn a_primary_that_hears_and_is_not_heard_gives_up_the_lead() {
    let Some(hosts) = Hosts::servers() else { return };
    let load = Load::start(&hosts, 8);
    load.goes_on(50);
    let (old, term) = hosts.primary();
    hosts.fleet.network().silence(&old).unwrap();
    let others = hosts.others(&old);
    let (_, newer) = eventually("a primary among the others", || hosts.primary_among(&others));
    assert!(newer > term, "{newer} after {term}");
    load.goes_on(50);
    hosts.fleet.network().heal().unwrap();
    hosts.caught_up();
    load.goes_on(50);
    assert_eq!(load.stop(&hosts).violations, [""; 0]);
}

#[test]
fn writes_go_on_where_three_of_ten_packets_are_lost() {
    let Some(hosts) = Hosts::servers() else { return };
    let load = Load::start(&hosts, 8);
    load.goes_on(20);
    let (primary, _) = hosts.primary();
    let other = hosts.others(&primary)[0];
    for host in [&primary, other] {
        hosts.fleet.network().lose(host, 30).unwrap();
    }
    load.goes_on(100);
    hosts.fleet.network().heal().unwrap();
    load.goes_on(20);
    assert_eq!(load.stop(&hosts).violations, [""; 0]);
}
