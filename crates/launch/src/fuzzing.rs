//! The way in for fuzzing: frames between agent and holder, and a holder's files. Built with `--cfg fuzzing` only.

use crate::folder::Intent;
use crate::wire::{End, FORMAT, HolderState, Running, ToHolder, frame, seal, take_frame, unseal};

/// Reads a stream of frames as both sides do.
///
/// # Panics
/// When a message that was read is another one after it was written.
pub fn frames(stream: &[u8]) {
    let mut buffer = stream.to_vec();
    while let Ok(Some(json)) = take_frame(&mut buffer) {
        let _ = serde_json::from_slice::<ToHolder>(&json);
        let Ok(state) = serde_json::from_slice::<HolderState>(&json) else { continue };
        let mut written = frame(&state).expect("a short message");
        let again = take_frame(&mut written).expect("our own frame").expect("a whole frame");
        let again: HolderState = serde_json::from_slice(&again).expect("our own message");
        assert_eq!(format!("{again:?}"), format!("{state:?}"));
        assert!(written.is_empty());
    }
}

/// Reads the files of an instance: as they are, and with their first line made right.
///
/// # Panics
/// When what was read is something else after it was written.
pub fn files(bytes: &[u8]) {
    for kind in ["running", "exit", "intent"] {
        let mut whole = format!("byname-{kind} {FORMAT} {:08x}\n", crc32c::crc32c(bytes)).into_bytes();
        whole.extend_from_slice(bytes);
        whole.push(b'\n');
        for file in [bytes, &whole] {
            let _ = unseal::<Intent>(kind, file);
            if let Some(running) = unseal::<Running>(kind, file) {
                let written = seal(kind, &running).expect("memory takes it");
                assert_eq!(unseal(kind, &written), Some(running));
            }
            if let Some(end) = unseal::<End>(kind, file) {
                let written = seal(kind, &end).expect("memory takes it");
                assert_eq!(unseal(kind, &written), Some(end));
            }
        }
    }
}
