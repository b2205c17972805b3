//! What the HTTP front reads before any operation: the first bytes of a connection, paths, queries, conditions, bodies.

#![no_main]

use byname_front_http::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    if choice % 2 == 0 {
        fuzzing::sniff(rest, usize::from(choice / 2) + 1);
    } else {
        fuzzing::request(rest);
    }
});
