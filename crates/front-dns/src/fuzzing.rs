//! The way in for fuzzing: a message and its answer, and texts of records. Built with `--cfg fuzzing` and for tests only.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use byname_api::object::Object;
use byname_name::Name;

use crate::answer::{Answers, Asker, Scratch, Settings, Verdict};
use crate::cookie::Cookies;
use crate::forward::Forward;
use crate::render::{self, World};
use crate::tsig::{self, Algorithm, Key};
use crate::wire::{Asked, HEADER, Query, Rcode, rtype, skip_name, u16_at};
use crate::zone::Image;
use crate::{UDP_BYTES, rdata, transfer};

const SUFFIX: &str = "corp.example";

/// A few objects, as JSON: of every kind that is answered in a way of its own.
const OBJECTS: &str = r#"[
  {"name": "/a", "kind": "computer", "addresses": ["192.0.2.1", "2001:db8::1"], "public": ["mx", "t"],
   "attributes": {"mx": ["10 /a"], "t": ["some text"]}},
  {"name": "/s", "kind": "service", "choose": "all", "launch": {"program": "p"}, "status": {"name": "/s", "state": "running",
   "starts": 1, "failures": 0, "instances": [{"id": "i1", "state": "running", "endpoints":
   [{"protocol": "https", "address": "192.0.2.2", "port": 443}]}]}},
  {"name": "/stopped", "kind": "service", "launch": {"program": "p", "dns_start": true},
   "status": {"name": "/stopped", "state": "stopped", "starts": 0, "failures": 0, "instances": []}},
  {"name": "/alias", "kind": "alias", "target": "/s"},
  {"name": "/second", "kind": "alias", "target": "/alias"},
  {"name": "/self", "kind": "alias", "target": "/self"}
]"#;

fn answers() -> &'static Answers {
    static ANSWERS: OnceLock<Answers> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        let image = Arc::new(Image::new(SUFFIX).expect("a zone"));
        image.put(b"", render::server_entry(&[]));
        image.put(crate::follow::SERVERS, render::server_entry(&[IpAddr::from([192, 0, 2, 53])]));
        let stamp = serde_json::json!({"at": "2026-01-01T00:00:00Z", "by": "fuzz"});
        let objects: Vec<serde_json::Value> = serde_json::from_str(OBJECTS).expect("objects");
        for mut given in objects {
            for (key, value) in
                [("id", "o1".into()), ("version", "v1".into()), ("created", stamp.clone()), ("modified", stamp.clone())]
            {
                given[key] = value;
            }
            let object: Object = serde_json::from_value(given).expect("an object");
            let labels = render::labels_of(&object.name, SUFFIX).expect("a form");
            let world = World { suffix: SUFFIX, leaving: &|_: &Name| false };
            let entry = render::entry(&object, &labels, &world);
            image.list(&labels, &[], entry.service.as_ref().map(|s| &s.kinds[..]).unwrap_or_default());
            image.put(&labels, entry);
        }
        let back = render::reverse_entry(render::wire_of(&Name::parse("/a").expect("a name"), SUFFIX).expect("a form"));
        image.set_outside(&render::reverse_of(IpAddr::from([192, 0, 2, 1])), Some(back));
        image.set_complete(true);
        let settings = Settings { udp_bytes: UDP_BYTES, forward: Forward::new(Vec::new(), Vec::new()) };
        let uses = tokio::sync::mpsc::channel(1).0;
        Answers { image, cookies: Cookies::with_secret([7; 16]), settings, uses }
    })
}

/// Answers a message as it comes over UDP and over TCP.
///
/// # Panics
///
/// When an answer is too long, cannot be read, or is not one to this message.
pub fn message(bytes: &[u8]) {
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    for tcp in [false, true] {
        for waited in [false, true] {
            let address = IpAddr::from([192, 0, 2, 200]);
            let asker = Asker { address, tcp, turn: bytes.len() as u32, now: 1_700_000_000, waited };
            if let Verdict::Answer(_) = answers().answer(bytes, asker, &mut scratch, &mut out) {
                check(bytes, &out, if tcp { usize::from(u16::MAX) } else { usize::from(UDP_BYTES) });
            }
        }
    }
}

/// Reads a message's signature and the serial of a query for differences: with a key that signed nothing of it.
///
/// # Panics
///
/// When a signature counts that was guessed.
pub fn signed(bytes: &[u8]) {
    let mut name = Asked::default();
    let Ok(query) = Query::read(bytes, &mut name) else { return };
    let _ = transfer::serial_of(bytes, &query);
    let Some(at) = query.tsig else { return };
    let key = Key::new("k", Algorithm::Sha256, &[7; 32], true).expect("a key");
    match tsig::check(bytes, at, &[Arc::new(key)], 1_700_000_000) {
        Ok(_) => panic!("nobody has signed this"),
        Err(tsig::Refusal::Form) => {}
        Err(tsig::Refusal::Wrong(answering)) => {
            let mut answer = Vec::new();
            crate::answer::refuse(bytes, Rcode::NotAuth, &mut answer);
            answering.push(&mut answer);
            check(bytes, &answer, usize::from(u16::MAX));
        }
    }
}

fn check(message: &[u8], answer: &[u8], most: usize) {
    assert!(answer.len() <= most, "{} bytes", answer.len());
    assert_eq!(answer.get(..2), message.get(..2), "the number comes back");
    let word = |at: usize| usize::from(u16_at(answer, at).expect("it is there"));
    assert!(word(2) & 0x8000 != 0, "it is an answer");
    let mut at = HEADER;
    for _ in 0..word(4) {
        at = skip_name(answer, at).expect("a name") + 4;
    }
    assert_eq!(answer.get(HEADER..at), message.get(HEADER..at), "the question comes back");
    for _ in 0..word(6) + word(8) + word(10) {
        follow(answer, at);
        at = skip_name(answer, at).expect("a name");
        let (kind, length) = (word(at) as u16, word(at + 8));
        if matches!(kind, rtype::CNAME | rtype::NS | rtype::PTR) {
            follow(answer, at + 10);
        }
        at += 10 + length;
    }
    assert_eq!(at, answer.len(), "nothing is left over");
}

/// A name ends, and its pointers lead backwards.
fn follow(answer: &[u8], mut at: usize) {
    let mut length = 0;
    loop {
        let size = usize::from(*answer.get(at).expect("a name ends"));
        if size >= 0xc0 {
            let to = usize::from(u16_at(answer, at).expect("a pointer") & 0x3fff);
            assert!(to < at, "a pointer leads backwards");
            at = to;
            continue;
        }
        assert!(size <= 63, "a label");
        length += size + 1;
        assert!(length <= 255, "a name has 255 bytes at most");
        if size == 0 {
            return;
        }
        at += size + 1;
    }
}

/// Reads a text as a record of a type.
///
/// # Panics
///
/// When what was read cannot be in a message.
pub fn record(rtype: u16, text: &str) {
    if let Some(data) = rdata::read(rtype, text, SUFFIX) {
        let again = format!("\\# {} {}", data.len(), data.iter().map(|b| format!("{b:02x}")).collect::<String>());
        if data.len() <= 4096 {
            assert_eq!(rdata::read(rtype, &again, SUFFIX), Some(data), "{again}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn seeds() -> Vec<Vec<u8>> {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dns");
        let files = std::fs::read_dir(corpus).expect("the seeds of the fuzz target");
        let mut seeds: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        seeds.retain(|seed| !seed.starts_with(&[0xff, 0xff]));
        seeds.sort();
        seeds
    }

    #[test]
    fn every_seed_is_answered() {
        seeds().iter().for_each(|seed| super::message(seed));
    }

    /// The message with a record behind it that looks like a signature.
    fn with_signature(mut message: Vec<u8>) -> Vec<u8> {
        let Some(count) = message.get(11).map(|count| count.wrapping_add(1)) else { return message };
        message[11] = count;
        message.extend(b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x3d\x0bhmac-sha256\0\0\0\x65\x53\xf1\0\x01\x2c\0\x20");
        message.extend([9; 32]);
        message.extend([0x12, 0x34, 0, 0, 0, 0]);
        message
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn whatever_comes_the_answer_is_one(
            seed in 0..seeds().len(),
            edits in proptest::collection::vec((0usize..80, any::<u8>()), 0..6),
            cut in 0usize..120,
            more in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut message = seeds().swap_remove(seed);
            for (at, byte) in edits {
                if let Some(place) = message.get_mut(at) {
                    *place = byte;
                }
            }
            message.truncate(cut.max(12));
            message.extend(more);
            super::message(&message);
            super::signed(&message);
            super::signed(&with_signature(message));
        }
    }
}
