//! Transfers of the zone and signatures, asked for by dig.

use std::process::Command;

use byname_front_dns::{Algorithm, Key};
use serde_json::json;

use crate::fake::{World, service};
use crate::message::{REFUSED, ask};

const AXFR: u16 = 252;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const SECRET_TEXT: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_TEXT: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWc=";

fn dig(world: &World, words: &str) -> String {
    let (address, port) = (world.address.ip().to_string(), world.address.port().to_string());
    let run = || {
        Command::new("dig")
            .args([&format!("@{address}"), "-p", &port, "+norecurse", "+tries=1", "+time=10"])
            .args(words.split(' '))
            .output()
            .expect("dig is there: bind9-dnsutils")
    };
    String::from_utf8(tokio::task::block_in_place(run).stdout).unwrap()
}

/// The records of a transfer, with one space between words.
fn transfer(world: &World, words: &str) -> Vec<String> {
    let said = dig(world, &format!("+noall +answer {words} corp.example AXFR").replace("  ", " "));
    let lines = said.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

async fn world(address: bool) -> World {
    let mut objects = vec![
        ("/h".to_owned(), json!({"kind": "computer", "addresses": ["192.0.2.1", "2001:db8::1"]})),
        ("/d/web".to_owned(), service(&[("ia", "192.0.2.2", 80)], json!({}))),
        ("/www".to_owned(), json!({"kind": "alias", "target": "/d/web"})),
        ("/lost".to_owned(), json!({"kind": "alias", "target": "/nothing"})),
    ];
    // More than fits into one message.
    for number in 0..2_000 {
        objects.push((format!("/many/h{number}"), json!({"kind": "computer", "addresses": ["192.0.2.9"]})));
    }
    let objects: Vec<_> = objects.iter().map(|(name, object)| (name.as_str(), object.clone())).collect();
    World::with(&objects, |config| {
        if address {
            config.transfer = vec!["127.0.0.0/8".parse().unwrap()];
        }
        let key = |name, transfer| Key::new(name, Algorithm::Sha256, SECRET, transfer).unwrap();
        config.keys = vec![key("secondary.", true), key("other", false)];
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_zone_goes_to_whom_it_may() {
    let world = world(true).await;
    let records = transfer(&world, "");
    // RFC 5936 section 2.2: the SOA is the first and the last.
    assert!(records.len() > 2_010, "{} {records:?}", records.len());
    assert_eq!(records.first(), records.last());
    assert!(
        records[0].starts_with("corp.example. 60 IN SOA ns.corp.example. hostmaster.corp.example. "),
        "{}",
        records[0]
    );
    for expected in [
        "corp.example. 60 IN NS ns.corp.example.",
        "ns.corp.example. 60 IN A 192.0.2.53",
        "h.corp.example. 60 IN A 192.0.2.1",
        "h.corp.example. 60 IN AAAA 2001:db8::1",
        "web.d.corp.example. 5 IN A 192.0.2.2",
        "ia.web.d.corp.example. 5 IN A 192.0.2.2",
        "_http._tcp.web.d.corp.example. 5 IN SRV 0 1 80 ia.web.d.corp.example.",
        "_http._tcp.d.corp.example. 5 IN PTR web._http._tcp.d.corp.example.",
        "web._http._tcp.d.corp.example. 5 IN SRV 0 1 80 ia.web.d.corp.example.",
        "_services._dns-sd._udp.d.corp.example. 5 IN PTR _http._tcp.d.corp.example.",
        "www.corp.example. 60 IN CNAME web.d.corp.example.",
    ] {
        assert_eq!(records.iter().filter(|record| *record == expected).count(), 1, "{expected}");
    }
    assert_eq!(records.iter().filter(|record| record.contains(".many.corp.example. ")).count(), 2_000);
    assert!(!records.iter().any(|record| record.contains("lost")), "an alias to nothing tells nothing");
    // What is sent is what is answered.
    let soa = dig(&world, "+short corp.example SOA");
    assert!(records[0].ends_with(soa.trim()), "{soa}");
    // RFC 5936 section 2.2.1: a zone is asked for by its own name; section 4.2: and over TCP.
    assert!(dig(&world, "h.corp.example AXFR").contains("Transfer failed"));
    let answer = ask(world.address, "corp.example", AXFR).await;
    assert_eq!((answer.rcode, answer.answer.len()), (REFUSED, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_serial_gets_no_more_than_that() {
    let world = world(true).await;
    let soa = dig(&world, "+short corp.example SOA");
    let serial: u32 = soa.split(' ').nth(2).unwrap().parse().unwrap();
    let count = |serial: u32| {
        let said = dig(&world, &format!("+noall +answer +tcp corp.example IXFR={serial}"));
        said.lines().filter(|line| line.contains("IN")).count()
    };
    // RFC 1995 section 2, with RFC 1982's order of serials.
    assert_eq!(count(serial), 1);
    assert_eq!(count(serial + 1), 1);
    assert!(count(serial - 1) > 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_needs_a_right() {
    let world = world(false).await;
    assert!(dig(&world, "corp.example AXFR").contains("Transfer failed"));
    let key = |name: &str, secret: &str| format!("-y hmac-sha256:{name}:{secret}");
    assert!(transfer(&world, &key("other", SECRET_TEXT)).is_empty());
    assert!(transfer(&world, &key("secondary", OTHER_TEXT)).is_empty());
    // Each of many messages is signed, and dig checks each.
    let said = dig(&world, &format!("{} corp.example AXFR", key("secondary", SECRET_TEXT)));
    assert!(said.contains("XFR size: 20") && !said.contains("TSIG verify"), "{}", said.lines().last().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_checked_and_given() {
    let world = world(false).await;
    for (words, code, error) in [
        (format!("-y hmac-sha256:other:{SECRET_TEXT}"), "NOERROR", "NOERROR"),
        (format!("+tcp -y hmac-sha256:OTHER:{SECRET_TEXT}"), "NOERROR", "NOERROR"),
        // RFC 8945 section 5.2.1 to 5.2.3.
        (format!("-y hmac-sha256:nobody:{SECRET_TEXT}"), "NOTAUTH", "BADKEY"),
        (format!("-y hmac-sha512:other:{SECRET_TEXT}"), "NOTAUTH", "BADKEY"),
        (format!("-y hmac-sha256:other:{OTHER_TEXT}"), "NOTAUTH", "BADSIG"),
        (format!("+fuzztime=1000000 -y hmac-sha256:other:{SECRET_TEXT}"), "NOTAUTH", "BADTIME"),
    ] {
        let said = dig(&world, &format!("{words} h.corp.example A"));
        assert!(said.contains(&format!("status: {code}")) && said.contains(error), "{words}: {said}");
        assert_eq!(said.contains("192.0.2.1\n"), code == "NOERROR", "{words}: {said}");
        if code == "NOERROR" {
            assert!(!said.contains("WARNING"), "{words}: {said}");
        }
    }
}
