//! What the DNS reads: messages over UDP and TCP, and records that attributes name.

#![no_main]

use byname_front_dns::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match data {
        // A message never begins so: it would be an answer to a question without a number.
        [0xff, 0xff, high, low, text @ ..] => {
            if let Ok(text) = std::str::from_utf8(text) {
                fuzzing::record(u16::from_be_bytes([*high, *low]), text);
            }
        }
        message => {
            fuzzing::message(message);
            fuzzing::signed(message);
        }
    }
});
