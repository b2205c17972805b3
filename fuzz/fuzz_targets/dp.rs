//! The protocol of Tcl-DP: frames, the lists in them, commands and patterns.

#![no_main]

use byname_front_dp::command::{Command, known};
use byname_front_dp::frame::{Frame, MAX_FRAME};
use byname_front_dp::glob::Glob;
use byname_front_dp::list::{merge, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    frames(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    lists(text);
    let _ = (Command::parse(text), known(text));
    if let Some((pattern, name)) = text.split_once('\n') {
        globs(pattern, name);
    }
});

/// Frames one after the other: each ends where it says, and what was read is written as bytes that read the same.
fn frames(mut bytes: &[u8]) {
    while let Ok(Some((frame, length))) = Frame::decode(bytes) {
        assert!((16..MAX_FRAME).contains(&length) && frame.message.len() == length - 16);
        let written = frame.encode().expect("what was a frame is one");
        assert_eq!(Frame::decode(&written), Ok(Some((frame, length))));
        // Whatever is missing, it is waited for and not refused.
        for end in [0, 1, 7, 15, length - 1] {
            assert_eq!(Frame::decode(&written[..end]), Ok(None));
        }
        bytes = &bytes[length..];
    }
}

/// What is split and put together is the same list.
fn lists(text: &str) {
    const MOST: usize = 1_000;
    let Ok(words) = split(text, MOST) else { return };
    let list = merge(&words);
    assert_eq!(split(&list, MOST).expect("what is written is a list"), words, "{list:?}");
}

/// A second way to match, which tries everything.
fn globs(pattern: &str, name: &str) {
    if pattern.len() > 24 || name.len() > 24 || pattern.contains(['[', '\\']) {
        let _ = Glob::new(&pattern.chars().take(200).collect::<String>()).matches(name);
        return;
    }
    fn all(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, name) => name.is_none(),
            (Some(('*', rest)), _) => (0..=name.len()).any(|at| all(rest, &name[at..])),
            (Some((p, rest)), Some((n, further))) => (*p == '?' || p == n) && all(rest, further),
            (Some(_), None) => false,
        }
    }
    if pattern.matches('*').count() > 4 {
        return;
    }
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    assert_eq!(Glob::new(pattern).matches(name), all(&p, &n), "{pattern:?} {name:?}");
}
