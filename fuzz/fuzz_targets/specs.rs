//! Declarations as TOML tree files and as JSON: reading, checking, and what is written reads back.

#![no_main]

use std::collections::BTreeMap;

use byname_api::object::Spec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(tree) = toml::from_str::<BTreeMap<String, Spec>>(text) {
        tree.values().for_each(check);
    }
    if let Ok(spec) = toml::from_str::<Spec>(text) {
        check(&spec);
    }
    if let Ok(spec) = serde_json::from_str::<Spec>(text) {
        check(&spec);
    }
});

fn check(spec: &Spec) {
    let json = serde_json::to_string(spec).expect("a declaration can be written");
    let again: Spec = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    // Numbers that JSON does not have (nan, inf) leave as null, which is refused above or means none.
    assert_eq!(format!("{again:?}"), format!("{spec:?}"), "{json}");
    assert_eq!(again.check().is_ok(), spec.check().is_ok());
    let mut whole = spec.clone();
    whole.overlay(spec);
    assert_eq!(format!("{whole:?}"), format!("{spec:?}"));
}
