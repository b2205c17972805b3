//! The audit log: what it can be asked, and that changing or cutting it is seen.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use byname_testkit::Server;

use crate::support::{audit, dev};

/// A server with some records.
fn with_records() -> Server {
    let server = dev();
    server.byname(&["principal", "add", "/people/liu"]).lines();
    crate::support::certificate(&server, "/people/liu", "liu");
    for n in 0..8 {
        server.byname(&["add", &format!("/shop/item{n}"), "--value", "a shelf"]).lines();
    }
    server
}

#[test]
fn it_is_searched_by_whom_what_and_when() {
    let server = with_records();
    let (https, ca) = (server.https(), server.ca());
    let as_liu = ["--server", &*https, "--ca", ca.to_str().unwrap(), "--cert", "liu"];
    let refused = server.byname(&[&["edit", "/shop/item1", "--value", "mine"], &as_liu[..]].concat());
    assert_eq!(refused.status, 4, "{refused:#?}");
    let by_liu = audit(&server, &["--by", "/people/liu"]);
    assert!(by_liu.iter().all(|record| record["by"] == "/people/liu"), "{by_liu:?}");
    let denied = by_liu.iter().find(|record| record["outcome"] == "denied").unwrap();
    assert_eq!((&denied["name"], &denied["operation"]), (&"/shop/item1".into(), &"modify".into()));
    assert!(denied["how"].as_str().unwrap().starts_with("certificate "), "{denied}");
    let of_item = audit(&server, &["--name", "/shop/item1"]);
    assert_eq!(of_item.len(), 2, "{of_item:?}");
    assert_eq!(audit(&server, &["--name", "/shop/*", "--operation", "add"]).len(), 8);
    assert_eq!(audit(&server, &["--name", "/shop/*", "--limit", "3"]).len(), 3);
    assert!(audit(&server, &["--since", "1h"]).len() >= 9);
    assert_eq!(audit(&server, &["--since", "2100-01-01"]).len(), 0);
    assert_eq!(audit(&server, &["--until", "2020-01-01"]).len(), 0);
    let verified = server.byname(&["audit", "--verify", "--limit", "1", "-o", "json"]).json();
    assert_eq!(verified["verified"]["intact"], true, "{verified}");
    assert!(verified["verified"]["records"].as_u64().unwrap() >= 10, "{verified}");
    // Whoever may not administer all of it may not read it.
    let curious = server.byname(&[&["audit"], &as_liu[..]].concat());
    assert!(curious.status == 4 && curious.out.is_empty(), "{curious:#?}");
}

/// The files of the log, in order.
fn segments(data: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = walk(&data.join("audit"));
    files.sort();
    files
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Where these bytes are: the file and the offset.
fn find(data: &Path, needle: &str) -> (PathBuf, usize) {
    let place = |file: PathBuf| {
        let bytes = fs::read(&file).unwrap();
        let at = bytes.windows(needle.len()).position(|part| part == needle.as_bytes())?;
        Some((file, at))
    };
    segments(data).into_iter().find_map(place).unwrap_or_else(|| panic!("{needle} is not in the audit log"))
}

#[test]
fn one_changed_byte_is_found_and_its_place_is_told() {
    let mut server = with_records();
    let changed = audit(&server, &["--name", "/shop/item3"])[0]["sequence"].clone();
    assert_eq!(server.terminate(), 0);
    let (file, at) = find(server.data(), "/shop/item3");
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(b"9", (at + "/shop/item".len()) as u64).unwrap();
    // A server that somebody could stop in this way would be worse: it starts, and says it whenever it is asked.
    server.start_again();
    let verified = server.byname(&["audit", "--verify", "-o", "json"]);
    assert_eq!(verified.status, 1, "{verified:#?}");
    let reply: serde_json::Value = serde_json::from_str(&verified.out).unwrap();
    assert_eq!(reply["verified"]["intact"], false, "{reply}");
    let told = server.byname(&["audit", "--verify"]);
    assert!(told.status == 1 && told.talk.contains("NOT intact"), "{told:#?}");
    assert!(told.talk.contains(&format!("line {changed} was changed")), "it says where: {}", told.talk);
}

#[test]
fn a_tail_that_was_cut_off_is_missed() {
    let mut server = with_records();
    // An orderly end anchors the head of the chain in the log of the tree, which the knife does not reach.
    assert_eq!(server.terminate(), 0);
    let (file, at) = find(server.data(), "/shop/item4");
    let bytes = fs::read(&file).unwrap();
    // A whole number of records is left: what is there is well formed, and too short.
    let end = bytes[..at].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    OpenOptions::new().write(true).open(&file).unwrap().set_len(end as u64).unwrap();
    server.start_again();
    let told = server.byname(&["audit", "--verify"]);
    assert_eq!(told.status, 1, "{told:#?}");
    assert!(told.talk.contains("NOT intact") && told.talk.contains("anchor"), "{}", told.talk);
}
