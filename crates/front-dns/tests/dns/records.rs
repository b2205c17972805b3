//! What objects are in the DNS.

use serde_json::json;

use crate::fake::{World, service};
use crate::message::*;

/// Asks until the answer is as wished: changes reach the image in a moment.
async fn until(world: &World, name: &str, qtype: u16, wished: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let answer = ask(world.address, name, qtype).await;
        if wished(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_service_is_where_its_copies_are() {
    let copies = [("ia", "192.0.2.1", 8001), ("ib", "2001:db8::2", 8002), ("ic", "192.0.2.3", 8003)];
    let world = World::new(&[("/BVODS/QS", service(&copies, json!({"choose": "all"})))]).await;
    let four = ask(world.address, "QS.bvods.corp.example", A).await;
    assert_eq!((four.rcode, four.has_aa()), (NOERROR, true));
    let mut addresses = four.of(A);
    addresses.sort_unstable();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.3"]);
    assert_eq!(ask(world.address, "qs.bvods.corp.example", AAAA).await.of(AAAA), ["2001:db8::2"]);
    // RFC 2782: `_Service._Proto.Name`, with the addresses of the targets beside them.
    let places = ask(world.address, "_http._tcp.qs.bvods.corp.example", SRV).await;
    assert_eq!(
        places.of(SRV),
        [
            "0 1 8001 ia.qs.bvods.corp.example.",
            "0 1 8002 ib.qs.bvods.corp.example.",
            "0 1 8003 ic.qs.bvods.corp.example."
        ]
    );
    let beside: Vec<_> = places.additional.iter().map(|r| (r.name.as_str(), r.data.as_str())).collect();
    assert_eq!(beside[1], ("ib.qs.bvods.corp.example.", "2001:db8::2"));
    assert_eq!(ask(world.address, "ic.qs.bvods.corp.example", A).await.of(A), ["192.0.2.3"]);
    assert_eq!(ask(world.address, "ix.qs.bvods.corp.example", A).await.rcode, NXDOMAIN);
    assert_eq!(ask(world.address, "_ftp._tcp.qs.bvods.corp.example", SRV).await.rcode, NXDOMAIN);
    assert_eq!(ask(world.address, "_tcp.qs.bvods.corp.example", SRV).await.rcode, NOERROR, "it leads to others");
    assert_eq!(ask(world.address, "_http.qs.bvods.corp.example", SVCB).await.answer.len(), 3);
}

#[tokio::test]
async fn what_speaks_tls_says_so_to_browsers() {
    let mut object = service(&[("ia", "192.0.2.1", 8443)], json!({}));
    object["status"]["instances"][0]["endpoints"][0]["protocol"] = json!("https");
    let world = World::new(&[("/s", object), ("/plain", service(&[("ib", "192.0.2.2", 80)], json!({})))]).await;
    // RFC 9460 section 2.2: priority 1, the target, port (3), ipv4hint (4).
    let target = "0269610173".to_owned() + "04636f7270076578616d706c6500";
    let expected = format!("0001{target}0003000220fb00040004c0000201");
    assert_eq!(ask(world.address, "s.corp.example", 65).await.of(65), [expected.as_str()]);
    assert_eq!(ask(world.address, "_https.s.corp.example", SVCB).await.of(SVCB), [expected.as_str()]);
    // Section 9.5: to a plain one a browser would not speak plainly any more.
    assert!(ask(world.address, "plain.corp.example", 65).await.answer.is_empty());
}

#[tokio::test]
async fn only_the_copies_that_answer_best_are_named() {
    let mut object = service(&[("ia", "192.0.2.1", 1), ("ib", "192.0.2.2", 2), ("ic", "192.0.2.3", 3)], json!({}));
    object["choose"] = json!("all");
    let copies = &mut object["status"]["instances"];
    copies[0]["health"] = json!("critical");
    copies[1]["health"] = json!("warning");
    let world = World::new(&[("/s", object.clone())]).await;
    assert_eq!(ask(world.address, "s.corp.example", A).await.of(A), ["192.0.2.3"]);
    object["status"]["instances"][2]["state"] = json!("stopping");
    world.tree.put("/s", object);
    until(&world, "s.corp.example", A, |answer| answer.of(A) == ["192.0.2.2"]).await;
}

#[tokio::test]
async fn the_rule_of_choice_says_which_copies_and_in_what_order() {
    let copies = [("ia", "192.0.2.1", 1), ("ib", "192.0.2.2", 2)];
    let world = World::new(&[
        ("/first", service(&copies, json!({}))),
        ("/turns", service(&copies, json!({"choose": "round-robin"}))),
    ])
    .await;
    let mut begins = std::collections::BTreeSet::new();
    for _ in 0..50 {
        assert_eq!(ask(world.address, "first.corp.example", A).await.of(A), ["192.0.2.1"]);
        begins.insert(ask(world.address, "turns.corp.example", A).await.of(A)[0].to_owned());
    }
    assert_eq!(begins.len(), 2, "each is the first in turn");
    let places = ask(world.address, "_http._tcp.first.corp.example", SRV).await;
    // RFC 2782: "A client MUST attempt to contact the target host with the lowest-numbered priority".
    assert_eq!(places.of(SRV), ["0 1 1 ia.first.corp.example.", "1 1 2 ib.first.corp.example."]);
}

#[tokio::test]
async fn a_copy_goes_with_its_host() {
    let mut object = service(&[("ia", "192.0.2.1", 1), ("ib", "192.0.2.2", 2)], json!({"choose": "all"}));
    object["status"]["instances"][0]["computer"] = json!("/h1");
    let host =
        |state: &str| json!({"kind": "computer", "addresses": ["192.0.2.1"], "host": {"state": state, "instances": 1}});
    let world = World::new(&[("/h1", host("up")), ("/s", object)]).await;
    assert_eq!(ask(world.address, "s.corp.example", A).await.of(A).len(), 2);
    world.tree.put("/h1", host("draining"));
    until(&world, "s.corp.example", A, |answer| answer.of(A) == ["192.0.2.2"]).await;
    world.tree.put("/h1", host("up"));
    until(&world, "s.corp.example", A, |answer| answer.of(A).len() == 2).await;
}

#[tokio::test]
async fn times_to_live_leave_time_for_the_next_use() {
    let launch = json!({"launch": {"program": "p", "idle_stop": "7s"}, "ttl": "1h"});
    let world = World::new(&[
        ("/idle", service(&[("ia", "192.0.2.1", 1)], launch)),
        ("/said", service(&[("ia", "192.0.2.1", 1)], json!({"ttl": "40s"}))),
    ])
    .await;
    assert_eq!(ask(world.address, "idle.corp.example", A).await.answer[0].ttl, 3);
    assert_eq!(ask(world.address, "said.corp.example", A).await.answer[0].ttl, 40);
}

#[tokio::test]
async fn only_public_attributes_leave() {
    let world = World::new(&[(
        "/people/liu",
        json!({"kind": "principal", "public": ["title", "ready", "mx", "loc", "type65400"], "attributes": {
            "title": ["Dr", "Prof"], "ready": [true], "salary": [1000], "mx": ["10 /mail", "nonsense"],
            "loc": ["52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m"], "type65400": ["\\# 2 beef"],
        }}),
    )])
    .await;
    let name = "liu.people.corp.example";
    // RFC 6763 section 6.4: a key alone is an attribute that is there.
    assert_eq!(ask(world.address, name, TXT).await.of(TXT), ["title=Dr|title=Prof|ready"]);
    assert_eq!(ask(world.address, name, MX).await.of(MX), ["10 mail.corp.example."]);
    assert_eq!(ask(world.address, name, 29).await.answer.len(), 1);
    // RFC 3597 section 2: "Servers MUST also exactly preserve the RDATA of RRs of known type".
    assert_eq!(ask(world.address, name, 65400).await.of(65400), ["beef"]);
    assert_eq!(ask(world.address, name, A).await.rcode, NOERROR);
}

#[tokio::test]
async fn an_alias_is_a_cname_and_what_it_stands_for() {
    let world = World::new(&[
        ("/CMS", json!({"kind": "directory"})),
        ("/CMS/Host1", service(&[("ia", "192.0.2.1", 80)], json!({}))),
        ("/BVODS/CMS", json!({"kind": "alias", "target": "/CMS/Host1"})),
        ("/Second", json!({"kind": "alias", "target": "/BVODS/CMS"})),
        ("/Nowhere", json!({"kind": "alias", "target": "/gone"})),
        ("/Files", json!({"kind": "alias", "target": "/CMS"})),
    ])
    .await;
    let answer = ask(world.address, "second.corp.example", A).await;
    let seen: Vec<_> = answer.answer.iter().map(|r| (r.name.as_str(), r.rtype, r.data.as_str())).collect();
    // RFC 1034 section 4.3.2 step 3a: copy the CNAME, and go on with what it names.
    assert_eq!(
        seen,
        [
            ("second.corp.example.", CNAME, "cms.bvods.corp.example."),
            ("cms.bvods.corp.example.", CNAME, "host1.cms.corp.example."),
            ("host1.cms.corp.example.", A, "192.0.2.1"),
        ]
    );
    // RFC 1034 section 3.6.2: a question for the CNAME itself does not follow it.
    assert_eq!(ask(world.address, "second.corp.example", CNAME).await.answer.len(), 1);
    let places = ask(world.address, "_http._tcp.cms.bvods.corp.example", SRV).await;
    assert_eq!(places.of(CNAME), ["_http._tcp.host1.cms.corp.example."]);
    assert_eq!(places.of(SRV), ["0 1 80 ia.host1.cms.corp.example."]);
    assert_eq!(ask(world.address, "host1.files.corp.example", A).await.of(A), ["192.0.2.1"]);
    let beneath = ask(world.address, "host9.files.corp.example", A).await;
    assert_eq!((beneath.rcode, beneath.answer.len()), (NXDOMAIN, 0));
    // What leads nowhere, or to what is hidden, tells nothing of where it leads.
    for name in ["nowhere.corp.example", "Nowhere.corp.example"] {
        let answer = ask(world.address, name, A).await;
        assert_eq!((answer.rcode, answer.answer.len()), (NOERROR, 0), "{name}");
    }
    world.tree.hide("/CMS", true);
    until(&world, "second.corp.example", A, |answer| answer.answer.len() == 1 || answer.answer.is_empty()).await;
    let text = format!("{:?}", ask(world.address, "cms.bvods.corp.example", A).await);
    assert!(!text.contains("host1"), "{text}");
}

#[tokio::test]
async fn what_anyone_may_not_find_is_not_there() {
    let world = World::new(&[
        ("/open", json!({"kind": "directory"})),
        ("/open/a", json!({"kind": "computer", "addresses": ["192.0.2.1"]})),
        ("/open/a/b", json!({"kind": "computer", "addresses": ["192.0.2.2"]})),
    ])
    .await;
    assert_eq!(ask(world.address, "b.a.open.corp.example", A).await.of(A), ["192.0.2.2"]);
    world.tree.hide("/open", true);
    for name in ["b.a.open.corp.example", "a.open.corp.example", "open.corp.example"] {
        until(&world, name, A, |answer| answer.rcode == NXDOMAIN).await;
    }
    // Made while it is hidden.
    world.tree.put("/open/c", json!({"kind": "computer", "addresses": ["192.0.2.3"]}));
    world.tree.put("/seen", json!({"kind": "computer", "addresses": ["192.0.2.4"]}));
    until(&world, "seen.corp.example", A, |answer| answer.rcode == NOERROR).await;
    assert_eq!(ask(world.address, "c.open.corp.example", A).await.rcode, NXDOMAIN);
    world.tree.hide("/open", false);
    until(&world, "c.open.corp.example", A, |answer| answer.of(A) == ["192.0.2.3"]).await;
    until(&world, "b.a.open.corp.example", A, |answer| answer.of(A) == ["192.0.2.2"]).await;
    // One beneath is hidden: what is beneath that too, and what is above is only on the way to nothing.
    world.tree.hide("/open/a", true);
    until(&world, "b.a.open.corp.example", A, |answer| answer.rcode == NXDOMAIN).await;
    assert_eq!(ask(world.address, "c.open.corp.example", A).await.rcode, NOERROR);
}

#[tokio::test]
async fn what_is_deleted_goes_and_so_does_what_only_led_to_it() {
    let world = World::new(&[("/a/b/c", json!({"kind": "computer", "addresses": ["192.0.2.1"]}))]).await;
    // RFC 8020 and RFC 4592 section 2.2.2: an empty non-terminal is there.
    assert_eq!(ask(world.address, "b.a.corp.example", A).await.rcode, NOERROR);
    world.tree.delete("/a/b/c");
    until(&world, "c.b.a.corp.example", A, |answer| answer.rcode == NXDOMAIN).await;
    assert_eq!(ask(world.address, "a.corp.example", A).await.rcode, NXDOMAIN);
}

#[tokio::test]
async fn an_address_leads_back() {
    let world = World::new(&[
        ("/h1", json!({"kind": "computer", "addresses": ["192.0.2.7", "2001:db8::7"]})),
        ("/backmap/192.0.2.7", json!({"kind": "alias", "target": "/h1"})),
        ("/backmap/2001:db8::7", json!({"kind": "alias", "target": "/h1"})),
        ("/backmap/192.0.2.8", json!({"kind": "alias", "target": "/h2"})),
    ])
    .await;
    assert_eq!(ask(world.address, "7.2.0.192.in-addr.arpa", PTR).await.of(PTR), ["h1.corp.example."]);
    let six = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    assert_eq!(ask(world.address, six, PTR).await.of(PTR), ["h1.corp.example."]);
    let nothing = ask(world.address, "7.2.0.192.in-addr.arpa", A).await;
    assert_eq!((nothing.rcode, nothing.authority[0].rtype), (NOERROR, SOA));
    // One that leads to nothing that is there is nobody's here.
    assert_eq!(ask(world.address, "8.2.0.192.in-addr.arpa", PTR).await.rcode, REFUSED);
    world.tree.hide("/h1", true);
    until(&world, "7.2.0.192.in-addr.arpa", PTR, |answer| answer.rcode == REFUSED).await;
}

#[tokio::test]
async fn services_can_be_browsed() {
    let public = json!({"public": ["path"], "attributes": {"path": ["/x"]}});
    let world = World::new(&[
        ("/BVODS/QS", service(&[("ia", "192.0.2.1", 80)], public)),
        ("/BVODS/CMS", service(&[("ib", "192.0.2.2", 81)], json!({}))),
    ])
    .await;
    // RFC 6763 section 9: the kinds; section 4.1: those of one kind; section 4.1.1: where one is.
    let kinds = ask(world.address, "_services._dns-sd._udp.bvods.corp.example", PTR).await;
    assert!(kinds.of(PTR).contains(&"_http._tcp.bvods.corp.example."), "{kinds:?}");
    let one = ask(world.address, "_http._tcp.bvods.corp.example", PTR).await;
    assert_eq!(one.of(PTR), ["cms._http._tcp.bvods.corp.example.", "qs._http._tcp.bvods.corp.example."]);
    let place = ask(world.address, "qs._http._tcp.bvods.corp.example", SRV).await;
    assert_eq!(place.of(SRV), ["0 1 80 ia.qs.bvods.corp.example."]);
    assert_eq!(ask(world.address, "qs._http._tcp.bvods.corp.example", TXT).await.of(TXT), ["path=/x"]);
    // Section 6.1: "DNS-SD uses DNS TXT records … every service MUST have a TXT record", even an empty one.
    assert_eq!(ask(world.address, "cms._http._tcp.bvods.corp.example", TXT).await.of(TXT), [""]);
    // Section 11: a domain that can be browsed.
    assert_eq!(ask(world.address, "b._dns-sd._udp.bvods.corp.example", PTR).await.of(PTR), ["bvods.corp.example."]);
    world.tree.delete("/BVODS/CMS");
    until(&world, "_http._tcp.bvods.corp.example", PTR, |answer| answer.answer.len() == 1).await;
}

#[tokio::test]
async fn the_zone_says_who_is_in_charge() {
    let world = World::new(&[("/a", json!({"kind": "directory"}))]).await;
    let soa = ask(world.address, "corp.example", SOA).await;
    let serial = world.tree.revision();
    assert_eq!(soa.of(SOA), [format!("ns.corp.example. hostmaster.corp.example. {serial} 3600 600 604800 5").as_str()]);
    let servers = ask(world.address, "corp.example", NS).await;
    assert_eq!(servers.of(NS), ["ns.corp.example."]);
    assert_eq!(servers.additional[0].data, "192.0.2.53");
    assert_eq!(ask(world.address, "ns.corp.example", A).await.of(A), ["192.0.2.53"]);
    // Name servers of the tree take the place of what the server knows of itself, whoever may find them.
    let one = service(&[("ia", "192.0.2.54", 7600)], json!({}));
    world.tree.put("/byname", json!({"kind": "directory"}));
    world.tree.hide("/byname", true);
    world.tree.put("/byname/servers/1", one);
    until(&world, "ns.corp.example", A, |answer| answer.of(A) == ["192.0.2.54"]).await;
    let later = ask(world.address, "corp.example", SOA).await;
    assert!(later.of(SOA)[0].contains(&format!(" {} ", world.tree.revision())), "{later:?}");
}
