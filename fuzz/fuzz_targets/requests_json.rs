//! Requests in JSON, as the HTTP front reads them: what is written reads back.
//!
//! The first byte chooses the type.

#![no_main]

use std::fmt::Debug;

use byname_api::agent;
use byname_api::request::{BatchReply, BatchRequest, FindReply, ListReply, Op, ReadReply, WatchReply};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((choice, json)) = data.split_first() else { return };
    match choice % 9 {
        0 | 1 => check::<BatchRequest>(json),
        2 => check::<Op>(json),
        3 => check::<BatchReply>(json),
        4 => check::<FindReply>(json),
        5 => check::<ReadReply>(json),
        6 => check::<ListReply>(json),
        7 => check::<WatchReply>(json),
        _ => {
            check::<agent::Order>(json);
            check::<agent::Report>(json);
        }
    }
});

fn check<T: Serialize + DeserializeOwned + Debug>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else { return };
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(format!("{again:?}"), format!("{value:?}"), "{}", String::from_utf8_lossy(&written));
}
