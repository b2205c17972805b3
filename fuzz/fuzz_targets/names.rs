//! Names: parsing, canonical text, keys and their order.
//!
//! The input is two texts with a line feed between.

#![no_main]

use byname_name::{MAX_DEPTH, MAX_LABEL_BYTES, MAX_NAME_BYTES, Name, NameError, NameKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let mut next = || {
        let bytes = parts.next().unwrap_or_default();
        (bytes, Name::parse_bytes(bytes))
    };
    let ((one_text, one), (other_text, other)) = (next(), next());
    for (text, name) in [(one_text, &one), (other_text, &other)] {
        match name {
            Ok(name) => check(name),
            Err(NameError { position, .. }) => assert!(*position <= text.len()),
        }
        if let Some(key) = NameKey::from_bytes(text) {
            assert_eq!(key.as_bytes(), text);
        }
    }
    if let (Ok(one), Ok(other)) = (one, other) {
        let (one_key, other_key) = (one.key(), other.key());
        assert_eq!(one.cmp(&other), one_key.cmp(&other_key));
        assert_eq!(one == other, one_key == other_key);
        assert_eq!(one.is_under(&other), one_key.is_under(&other_key));
        assert_eq!(one.is_under(&other), other == one || one.ancestors().any(|above| above == other));
        if one.is_under(&other) {
            assert!(one >= other);
        }
    }
});

fn check(name: &Name) {
    assert!(name.as_str().len() <= MAX_NAME_BYTES && name.depth() <= MAX_DEPTH);
    assert!(name.labels().all(|label| (1..=MAX_LABEL_BYTES).contains(&label.len())));
    let again = Name::parse(name.as_str()).expect("a displayed name is a name");
    assert_eq!(again.as_str(), name.as_str());
    let key = name.key();
    assert_eq!(NameKey::from_bytes(key.as_bytes()), Some(key.clone()));
    assert!(name.with_key(|text| text == key.as_str()));
    assert_eq!(key.depth(), name.depth());
    // Folding what is folded changes nothing. It may be too long for a name.
    let folded = format!("/{}", key.labels().collect::<Vec<_>>().join("/"));
    if let Ok(folded) = Name::parse(&folded) {
        assert_eq!(folded.key(), key);
    }
    if let (Some(parent), Some(leaf)) = (name.parent(), name.leaf()) {
        assert_eq!(parent.child(leaf).expect("a child").as_str(), name.as_str());
        assert!(parent < *name && name.is_under(&parent));
    }
}
