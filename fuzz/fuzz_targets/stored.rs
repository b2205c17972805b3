//! What the registry finds on disk: commands, remembered replies and snapshots.
//!
//! The first byte chooses; for a snapshot the rest stands behind its magic number and format.

#![no_main]

use byname_registry::{Registry, stored};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 4 {
        0 => command(bytes),
        1 => snapshot(bytes),
        2 => {
            let mut whole = b"byname-snapshot".to_vec();
            whole.push(stored::FORMAT);
            whole.extend_from_slice(bytes);
            snapshot(&whole);
        }
        _ => {
            if let Ok(reply) = stored::decode_reply(bytes) {
                let written = stored::encode_reply(&reply);
                let again = stored::decode_reply(&written).expect("what was written is read");
                assert_eq!(format!("{again:?}"), format!("{reply:?}"));
            }
        }
    }
});

/// A command that reads is applied too: the log does not know whether it came from us.
fn command(bytes: &[u8]) {
    let Ok(entry) = stored::decode_command(bytes) else { return };
    let written = stored::encode_command(&entry);
    let again = stored::decode_command(&written).expect("what was written is read");
    assert_eq!(format!("{again:?}"), format!("{entry:?}"));
    let mut registry = Registry::default();
    registry.apply(&entry, &mut Vec::new());
    registry.apply(&entry, &mut Vec::new());
    let bytes = write(&registry);
    let restored = stored::read_snapshot(&mut &bytes[..]).expect("what was written is read");
    assert_eq!(write(&restored), bytes);
}

fn snapshot(bytes: &[u8]) {
    let Ok(registry) = stored::read_snapshot(&mut &*bytes) else { return };
    let first = write(&registry);
    let again = stored::read_snapshot(&mut &first[..]).expect("what was written is read");
    assert_eq!(write(&again), first);
}

fn write(registry: &Registry) -> Vec<u8> {
    let mut out = Vec::new();
    stored::write_snapshot(registry, &mut out).expect("memory takes it");
    out
}
