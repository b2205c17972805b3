//! What an agent and a holder say to each other, and the small files that a holder leaves.

#![no_main]

use byname_launch::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fuzzing::frames(data);
    fuzzing::files(data);
});
