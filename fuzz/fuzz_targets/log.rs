//! The log and its snapshots as a start finds them.
//!
//! The first byte says what: bit 0 a snapshot instead of log files, bit 1 that checksums are made right first, so that
//! what lies behind them is reached. For the log the second byte says where the rest is cut into two files, in
//! sixteenths.

#![no_main]

use byname_cluster::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [choice, cut, rest @ ..] = data else { return };
    let reseal = choice & 2 != 0;
    if choice & 1 != 0 {
        fuzzing::read_snapshot(rest, reseal);
        return;
    }
    let (first, second) = rest.split_at(rest.len() * usize::from(cut % 17) / 16);
    let files: Vec<&[u8]> = [first, second].into_iter().filter(|file| !file.is_empty()).collect();
    fuzzing::recover(&files, reseal);
});
