//! Search filters (RFC 4515): what is displayed reads back as the same filter.

#![no_main]

use byname_api::filter::{Filter, MAX_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(filter) = Filter::parse(text) else { return };
    let shown = filter.to_string();
    // Escapes make it longer.
    if shown.len() <= MAX_BYTES {
        assert_eq!(Filter::parse(&shown).expect("what is displayed is a filter"), filter, "{shown}");
    }
});
