//! The protocol, line by line of the standards.

use std::time::Duration;

use serde_json::json;

use crate::fake::{World, service};
use crate::message::*;

async fn world() -> World {
    let long: Vec<String> = (0..30).map(|n| format!("{n:02}{}", "x".repeat(100))).collect();
    World::new(&[
        ("/a", json!({"kind": "computer", "addresses": ["192.0.2.1"]})),
        ("/long", json!({"kind": "directory", "public": ["text"], "attributes": {"text": long}})),
        ("/s", service(&[("ia", "192.0.2.2", 2)], json!({}))),
    ])
    .await
}

#[tokio::test]
async fn what_is_not_there_says_for_how_long() {
    let world = world().await;
    // RFC 2308 section 3: the SOA in the authority section, its TTL the lesser of its own and MINIMUM.
    for (name, qtype, rcode) in [("b.corp.example", A, NXDOMAIN), ("a.corp.example", AAAA, NOERROR)] {
        let answer = ask(world.address, name, qtype).await;
        assert_eq!((answer.rcode, answer.answer.len(), answer.has_aa()), (rcode, 0, true), "{name}");
        let soa = &answer.authority[0];
        assert_eq!((soa.name.as_str(), soa.rtype, soa.ttl), ("corp.example.", SOA, 5));
    }
}

#[tokio::test]
async fn names_of_others_are_refused() {
    let world = world().await;
    for name in ["example.com", "", "xcorp.example", "example", "1.0.0.127.in-addr.arpa"] {
        let answer = ask(world.address, name, A).await;
        assert_eq!((answer.rcode, answer.has_aa(), answer.answer.len()), (REFUSED, false, 0), "{name}");
    }
}

#[tokio::test]
async fn the_spelling_of_the_question_comes_back() {
    let world = world().await;
    // RFC 4343 section 4.1, and the 0x20 bits that resolvers set at random.
    let answer = ask(world.address, "A.cOrP.eXAMple", A).await;
    assert_eq!(answer.question, Some(("A.cOrP.eXAMple.".into(), A)));
    assert_eq!(answer.answer[0].name, "A.cOrP.eXAMple.");
    assert_eq!(answer.id, 0x1234);
}

#[tokio::test]
async fn any_gets_one_small_record() {
    // RFC 8482 section 4.2.
    let answer = ask(world().await.address, "a.corp.example", ANY).await;
    assert_eq!(answer.of(HINFO), ["RFC8482|"]);
}

#[tokio::test]
async fn types_and_classes_that_nobody_knows_are_asked_for_in_vain() {
    let world = world().await;
    // RFC 3597 section 5: an unknown type is asked for like any other.
    let answer = ask(world.address, "a.corp.example", 4711).await;
    assert_eq!((answer.rcode, answer.answer.len(), answer.authority.len()), (NOERROR, 0, 1));
    for class in [3u16, 4, 254, 255, 4711] {
        let mut bytes = query("a.corp.example", A);
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&class.to_be_bytes());
        assert_eq!(send(world.address, &bytes).await.unwrap().rcode, REFUSED, "{class}");
    }
    for (meta, rcode) in [(41, FORMERR), (250, FORMERR), (249, NOTIMP), (253, NOTIMP), (254, NOTIMP)] {
        assert_eq!(ask(world.address, "a.corp.example", meta).await.rcode, rcode, "{meta}");
    }
}

#[tokio::test]
async fn other_operations_are_not_known() {
    let world = world().await;
    for opcode in [1u8, 2, 3, 6, 15] {
        let mut bytes = query("a.corp.example", A);
        bytes[2] |= opcode << 3;
        let answer = send(world.address, &bytes).await.unwrap();
        assert_eq!((answer.rcode, (answer.flags >> 11) as u8 & 0xf), (NOTIMP, opcode));
    }
}

#[tokio::test]
async fn what_breaks_the_form_is_told_so_or_passed_over() {
    let world = world().await;
    let good = query("a.corp.example", A);
    let mut two = good.clone();
    two[5] = 2;
    let mut none = good[..12].to_vec();
    none[5] = 0;
    // RFC 1035 section 4.1.4: a pointer leads to a *prior* place; one in the first name leads into itself.
    let header = &good[..12];
    let looping = [header, &[0xc0, 12, 0, 1, 0, 1]].concat();
    let forward = [header, &[0xc0, 0xff, 0, 1, 0, 1]].concat();
    let reserved = [header, &[0x41, 1, 0, 0, 1, 0, 1]].concat();
    let endless = [header, &[63; 2000]].concat();
    let mut too_many = good.clone();
    too_many[9] = 9;
    for (what, bytes) in [
        ("RFC 9619: more than one question", two),
        ("no question and no cookie", none),
        ("a pointer to itself", looping),
        ("a pointer forward", forward),
        ("a label type of 01", reserved),
        ("a name of more than 255 bytes", endless),
        ("a question that ends early", good[..good.len() - 1].to_vec()),
        ("records that are not there", too_many),
    ] {
        assert_eq!(send(world.address, &bytes).await.expect(what).rcode, FORMERR, "{what}");
    }
    // Too short to be answered, and an answer: silence, or two servers would never end. The next is answered.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut answer = good.clone();
    answer[2] |= 0x80;
    let mut last = good.clone();
    last[0] = 0x77;
    for bytes in [&good[..11], &answer[..], &[][..], &last[..]] {
        socket.send_to(bytes, world.address).await.unwrap();
    }
    let mut room = [0; 512];
    let got = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut room)).await.unwrap().unwrap();
    assert_eq!(Answer::read(&room[..got]).id >> 8, 0x77);
}

#[tokio::test]
async fn extensions_are_answered_by_extensions_alone() {
    let world = world().await;
    // RFC 6891 section 7: a responder adds OPT only to answer one.
    assert_eq!(ask(world.address, "a.corp.example", A).await.edns, None);
    let answer = send(world.address, &with_edns(query("a.corp.example", A), 4096, 0, &[])).await.unwrap();
    let (size, version, options) = answer.edns.unwrap();
    assert_eq!((size, version, options.len()), (1232, 0, 0));
    // Section 6.1.3: an unknown version gets BADVERS with the highest one known.
    let answer = send(world.address, &with_edns(query("a.corp.example", A), 4096, 7, &[])).await.unwrap();
    assert_eq!((answer.rcode, answer.edns.unwrap().1, answer.answer.len()), (BADVERS, 0, 0));
    // Section 6.1.1: more than one OPT is FORMERR.
    let twice = with_edns(with_edns(query("a.corp.example", A), 4096, 0, &[]), 4096, 0, &[]);
    assert_eq!(send(world.address, &twice).await.unwrap().rcode, FORMERR);
    // Section 6.1.2: an option that nobody knows is passed over.
    let unknown = with_edns(query("a.corp.example", A), 4096, 0, &[(65001, b"what")]);
    assert_eq!(send(world.address, &unknown).await.unwrap().rcode, NOERROR);
    let mut broken = with_edns(query("a.corp.example", A), 4096, 0, &[(65001, b"what")]);
    let end = broken.len();
    broken[end - 6..end - 4].copy_from_slice(&99u16.to_be_bytes());
    assert_eq!(send(world.address, &broken).await.unwrap().rcode, FORMERR);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_off_and_whole_over_tcp() {
    let world = world().await;
    // RFC 1035 section 4.2.1 and RFC 6891 section 6.2.3: 512 bytes, or what the client says, 512 at least.
    for (bytes, most) in [
        (query("long.corp.example", TXT), 512),
        (with_edns(query("long.corp.example", TXT), 100, 0, &[]), 512),
        (with_edns(query("long.corp.example", TXT), 65535, 0, &[]), 1232),
    ] {
        let answer = send(world.address, &bytes).await.unwrap();
        // RFC 2181 section 9: what is cut off is not to be used, so nothing of it is there.
        assert!(answer.has_tc() && answer.answer.is_empty() && answer.bytes <= most, "{answer:?}");
    }
    let whole = ask_tcp(world.address, "long.corp.example", TXT).await;
    assert!(!whole.has_tc() && whole.of(TXT)[0].len() > 3_000);
}

#[tokio::test]
async fn cookies_are_made_checked_and_never_needed_for_what_is_there() {
    let world = world().await;
    let asked = |cookie: &[u8]| with_cookie(query("a.corp.example", A), cookie);
    // RFC 7873 section 5.2.3: the client's half alone is answered with both.
    let first = send(world.address, &asked(b"client01")).await.unwrap();
    let cookie = first.cookie().unwrap();
    assert_eq!((first.rcode, cookie.len(), &cookie[..8]), (NOERROR, 24, &b"client01"[..]));
    assert_eq!(send(world.address, &asked(&cookie)).await.unwrap().cookie().unwrap(), cookie);
    // Section 5.2.4: a wrong one is answered as if there were none, with a right one.
    let wrong = [&cookie[..23], &[!cookie[23]]].concat();
    let answer = send(world.address, &asked(&wrong)).await.unwrap();
    assert_eq!((answer.rcode, answer.answer.len(), answer.cookie().unwrap()), (NOERROR, 1, cookie.clone()));
    // Section 5.2.2: of a wrong length it is FORMERR.
    for length in [0, 7, 9, 15, 41] {
        assert_eq!(send(world.address, &asked(&vec![1; length])).await.unwrap().rcode, FORMERR, "{length}");
    }
    // Section 5.4: a cookie can be asked for alone.
    let mut alone = query("", A)[..12].to_vec();
    alone[5] = 0;
    let answer = send(world.address, &with_cookie(alone.clone(), b"client01")).await.unwrap();
    assert_eq!((answer.rcode, answer.cookie().unwrap().len()), (BADCOOKIE, 24));
    assert_eq!(send(world.address, &with_cookie(alone, &cookie)).await.unwrap().rcode, NOERROR);
}

#[tokio::test]
async fn a_connection_carries_many_questions_in_pieces_of_any_size() {
    let world = world().await;
    let mut tcp = Tcp::to(world.address).await;
    // RFC 7766 section 6.2.1.1: pipelining.
    let mut messages = Vec::new();
    for number in 0..200u16 {
        let mut message = query(if number % 2 == 0 { "a.corp.example" } else { "b.corp.example" }, A);
        message[..2].copy_from_slice(&number.to_be_bytes());
        messages.push(message);
    }
    tcp.send(&messages).await;
    for number in 0..200u16 {
        let answer = tcp.next().await.unwrap();
        assert_eq!((answer.id, answer.rcode), (number, if number % 2 == 0 { NOERROR } else { NXDOMAIN }));
    }
    // RFC 7766 section 8: the length and the message may come in any pieces.
    let message = query("a.corp.example", A);
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    for byte in framed {
        tcp.send_bytes(&[byte]).await;
    }
    assert_eq!(tcp.next().await.unwrap().rcode, NOERROR);
    // What cannot be answered ends the connection.
    tcp.send_bytes(&[0, 3, 1, 2, 3]).await;
    assert!(tcp.next().await.is_none());
}

#[tokio::test]
async fn a_message_that_does_not_get_on_ends_its_connection() {
    let world = world().await;
    let mut tcp = Tcp::to(world.address).await;
    let begun = std::time::Instant::now();
    let message = query("a.corp.example", A);
    tcp.send_bytes(&(message.len() as u16).to_be_bytes()).await;
    // RFC 7766 section 6.2.3: idle connections are closed; one that is kept busy with nothing is no better.
    let ended = async {
        for byte in message.iter().cycle() {
            if !tcp.try_byte(*byte).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(25), ended).await.expect("it is closed");
    assert!(begun.elapsed() > Duration::from_secs(5));
    assert_eq!(ask_tcp(world.address, "a.corp.example", A).await.rcode, NOERROR);
}

#[tokio::test]
async fn connections_of_one_source_are_bounded() {
    let world = world().await;
    let mut held = Vec::new();
    for _ in 0..250 {
        held.push(Tcp::to(world.address).await);
    }
    let mut served = 0;
    for tcp in &mut held {
        if tcp.try_byte(0).await && tcp.try_bytes(&query("a.corp.example", A)).await && tcp.next().await.is_some() {
            served += 1;
        }
    }
    assert!((150..=200).contains(&served), "{served}");
    drop(held);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut tcp = Tcp::to(world.address).await;
        if tcp.try_framed(&query("a.corp.example", A)).await && tcp.next().await.is_some() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "there is room again");
    }
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_was_asked() {
    for (bound, asked) in [
        ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.1.2.3"][..]),
        ("[::]:0", &["::1", "127.0.0.1", "127.0.0.2"]),
        ("[::1]:0", &["::1"]),
    ] {
        let world = World::at(bound, &[("/a", json!({"kind": "computer", "addresses": ["192.0.2.1"]}))], |_| {}).await;
        for address in asked {
            let to = std::net::SocketAddr::new(address.parse().unwrap(), world.address.port());
            let own = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let socket = tokio::net::UdpSocket::bind(own).await.unwrap();
            // A connected socket takes nothing from elsewhere.
            socket.connect(to).await.unwrap();
            socket.send(&query("a.corp.example", A)).await.unwrap();
            let mut room = [0; 512];
            let got = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut room)).await;
            let got = got.unwrap_or_else(|_| panic!("{bound}: nothing from {address}")).unwrap();
            assert_eq!(Answer::read(&room[..got]).of(A), ["192.0.2.1"]);
            assert_eq!(ask_tcp(to, "a.corp.example", A).await.of(A), ["192.0.2.1"]);
        }
    }
}

#[tokio::test]
async fn questions_for_others_are_passed_on_where_that_is_configured() {
    let elsewhere = World::new(&[("/x", json!({"kind": "computer", "addresses": ["192.0.2.77"]}))]).await;
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = elsewhere.address;
    let own = |forward_for: &str| {
        let forward_for = vec![forward_for.parse().unwrap()];
        let forward = vec![dead.local_addr().unwrap(), resolver];
        World::with(&[], move |config| {
            config.suffix = "own.example".into();
            (config.forward, config.forward_for) = (forward, forward_for);
        })
    };
    let world = own("127.0.0.0/8").await;
    let answer = ask(world.address, "X.corp.example", A).await;
    assert_eq!((answer.rcode, answer.of(A), answer.has_aa()), (NOERROR, vec!["192.0.2.77"], false));
    assert_eq!((answer.id, answer.answer[0].name.as_str()), (0x1234, "X.corp.example."));
    // Without RD nobody is asked.
    let mut plain = query("x.corp.example", A);
    plain[2] &= !1;
    assert_eq!(send(world.address, &plain).await.unwrap().rcode, REFUSED);
    assert_eq!(ask(world.address, "nothing.own.example", A).await.rcode, NXDOMAIN);
    let closed = own("192.0.2.0/24").await;
    assert_eq!(ask(closed.address, "x.corp.example", A).await.rcode, REFUSED);
}
