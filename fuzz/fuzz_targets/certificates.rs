//! Certificates and requests for them, as DER and as PEM; what is past their signatures too.

#![no_main]

use std::sync::LazyLock;

use byname_api::span::Timestamp;
use byname_identity::authority::{Authority, Purpose, Roots, SigningRequest, show, verify};
use byname_identity::fuzzing;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

static ROOTS: LazyLock<Roots> =
    LazyLock::new(|| Authority::create("corp.example", NOW).expect("an authority").roots().clone());

fuzz_target!(|bytes: &[u8]| {
    let _ = SigningRequest::parse(bytes);
    fuzzing::certificate(bytes);
    for purpose in [Purpose::Client, Purpose::Server] {
        assert!(verify(&ROOTS, &[bytes, bytes], purpose, NOW).is_err(), "nobody has the root's key");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(shown) = show(text) {
        shown.iter().for_each(|one| drop(one.to_string()));
    }
    if let Ok(roots) = Roots::from_pem(text) {
        let again = Roots::from_pem(&roots.to_pem()).expect("what was written reads back");
        assert!(again.fingerprints().eq(roots.fingerprints()));
    }
});
