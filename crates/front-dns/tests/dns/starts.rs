//! Look-ups that start services.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use crate::fake::{World, service};
use crate::message::*;

async fn world() -> World {
    let launch = |starts: bool| json!({"launch": {"program": "p", "dns_start": starts}});
    World::new(&[
        ("/s", service(&[], launch(true))),
        ("/t", service(&[], launch(true))),
        ("/never", service(&[], launch(false))),
        ("/manual", service(&[], json!({"launch": {"program": "p", "dns_start": true, "start": "manual"}}))),
    ])
    .await
}

/// The whole cookie of a client.
async fn cookie(world: &World) -> Vec<u8> {
    send(world.address, &with_cookie(query("corp.example", SOA), b"client01")).await.unwrap().cookie().unwrap()
}

fn starts(world: &World) -> u32 {
    world.tree.starts.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_datagram_from_nobody_starts_nothing() {
    let world = world().await;
    let plain = ask(world.address, "s.corp.example", A).await;
    assert!(plain.has_tc() && plain.answer.is_empty(), "{plain:?}");
    // RFC 7873 section 5.2.3: "the server … generate a BADCOOKIE", with one that is good the next time.
    let bad = send(world.address, &with_cookie(query("s.corp.example", A), b"client01")).await.unwrap();
    assert_eq!((bad.rcode, bad.answer.len()), (BADCOOKIE, 0));
    assert_eq!(starts(&world), 0);
    let good = send(world.address, &with_cookie(query("s.corp.example", A), &bad.cookie().unwrap())).await.unwrap();
    assert_eq!((good.rcode, good.of(A)), (NOERROR, vec!["192.0.2.99"]));
    assert_eq!(starts(&world), 1);
    // Now that it runs anybody is answered.
    assert_eq!(ask(world.address, "s.corp.example", A).await.of(A), ["192.0.2.99"]);
}

#[tokio::test]
async fn a_connection_starts_and_everybody_waits_for_one_start() {
    let world = world().await;
    *world.tree.start_takes.lock() = Duration::from_millis(300);
    let cookie = cookie(&world).await;
    let asked = (0..30).map(|number| {
        let (address, cookie) = (world.address, cookie.clone());
        async move {
            let (name, qtype) = match number % 3 {
                0 => ("s.corp.example", A),
                1 => ("_http._tcp.s.corp.example", SRV),
                _ => ("S.corp.example", A),
            };
            if number % 2 == 0 {
                return ask_tcp(address, name, qtype).await;
            }
            send(address, &with_cookie(query(name, qtype), &cookie)).await.unwrap()
        }
    });
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!((answer.rcode, answer.answer.len()), (NOERROR, 1), "{answer:?}");
    }
    assert_eq!(starts(&world), 1);
}

#[tokio::test]
async fn others_are_answered_while_somebody_waits() {
    let world = world().await;
    *world.tree.start_takes.lock() = Duration::from_millis(500);
    let mut tcp = Tcp::to(world.address).await;
    let mut second = query("never.corp.example", A);
    second[0] = 0x99;
    tcp.send(&[query("s.corp.example", A), second]).await;
    // RFC 7766 section 6.2.1.1: answers come as they are ready.
    assert_eq!(tcp.next().await.unwrap().id >> 8, 0x99);
    assert_eq!(tcp.next().await.unwrap().of(A), ["192.0.2.99"]);
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_told_in_time_and_tried_again() {
    let world = world().await;
    *world.tree.start_takes.lock() = Duration::from_secs(60);
    let begun = std::time::Instant::now();
    let answer = ask_tcp(world.address, "s.corp.example", A).await;
    assert_eq!(answer.rcode, SERVFAIL);
    assert!((1_500..3_500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    *world.tree.start_takes.lock() = Duration::ZERO;
    assert_eq!(ask_tcp(world.address, "s.corp.example", A).await.of(A), ["192.0.2.99"]);
}

#[tokio::test]
async fn what_may_not_start_is_there_and_has_nothing_for_a_moment() {
    let world = world().await;
    for name in ["never.corp.example", "manual.corp.example", "_http._tcp.never.corp.example"] {
        let answer = ask_tcp(world.address, name, A).await;
        if name.starts_with('_') {
            continue;
        }
        assert_eq!((answer.rcode, answer.answer.len(), answer.authority[0].ttl <= 5), (NOERROR, 0, true), "{name}");
    }
    // What is no address starts nothing.
    assert_eq!(ask_tcp(world.address, "s.corp.example", TXT).await.rcode, NOERROR);
    assert_eq!(starts(&world), 0);
}

#[tokio::test]
async fn starts_of_one_service_are_bounded() {
    let world = world().await;
    let mut refused = 0;
    for _ in 0..12 {
        let answer = ask_tcp(world.address, "s.corp.example", A).await;
        refused += u32::from(answer.rcode == SERVFAIL);
        // It ends at once.
        world.tree.put("/s", service(&[], json!({"launch": {"program": "p", "dns_start": true}})));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !ask(world.address, "s.corp.example", A).await.has_tc() {
            assert!(std::time::Instant::now() < deadline);
        }
    }
    assert!(refused >= 3 && starts(&world) <= 9, "{refused} refused, {} started", starts(&world));
    assert_eq!(ask_tcp(world.address, "t.corp.example", A).await.rcode, NOERROR, "another service");
}

#[tokio::test]
async fn a_use_is_noted_so_that_what_is_asked_for_stays() {
    let launch = json!({"launch": {"program": "p", "idle_stop": "400ms"}});
    let world = World::new(&[("/s", service(&[("ia", "192.0.2.1", 1)], launch))]).await;
    let looks = || world.tree.looks.load(Ordering::SeqCst);
    // The first is noted before it is answered.
    assert_eq!(ask(world.address, "s.corp.example", A).await.of(A), ["192.0.2.1"]);
    assert_eq!(looks(), 1);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while looks() < 4 {
        assert_eq!(ask(world.address, "s.corp.example", A).await.of(A), ["192.0.2.1"]);
        assert!(std::time::Instant::now() < deadline);
    }
}
