//! What a label may hold.

use crate::error::{NameError, NameRule};
use crate::fold;

/// The most bytes a label has, in NFC. The same limit as a DNS label's.
pub const MAX_LABEL_BYTES: usize = 63;
/// The most bytes a name has, slashes included, in NFC.
pub const MAX_NAME_BYTES: usize = 1_023;
/// The most labels a name has.
pub const MAX_DEPTH: usize = 64;

/// NFC never shrinks a text to less than a third; a raw label beyond this is not worth normalising.
const MAX_RAW_LABEL_BYTES: usize = 8 * MAX_LABEL_BYTES;

/// Checks one label of a text and appends it to `out` in NFC. `at` is where it stands in the text.
pub(crate) fn push_checked(raw: &str, at: usize, out: &mut String) -> Result<(), NameError> {
    check(raw, at)?;
    if raw.is_ascii() {
        out.push_str(raw);
    } else {
        out.push_str(&fold::nfc(raw));
    }
    Ok(())
}

/// Checks one label; `at` is where it stands in its text.
pub(crate) fn check(raw: &str, at: usize) -> Result<(), NameError> {
    check_characters(raw, at)?;
    if raw.is_ascii() {
        return check_length(raw.len(), at);
    }
    if raw.len() > MAX_RAW_LABEL_BYTES {
        return Err(NameError::new(NameRule::LabelTooLong, at));
    }
    // No canonical mapping leads to a forbidden character today; checked, because stored names rely on it.
    let normal = fold::nfc(raw);
    check_characters(&normal, at).map_err(|error| NameError::new(error.rule, at))?;
    check_length(normal.len(), at)
}

/// Whether names may not hold `c` at all.
pub(crate) fn forbidden(c: char) -> Option<NameRule> {
    match c {
        '*' | '?' | '[' | ']' | '{' | '}' => Some(NameRule::PatternCharacter(c)),
        '/' => Some(NameRule::SlashInLabel),
        c if c.is_control() => Some(NameRule::ControlCharacter(c)),
        _ => None,
    }
}

fn check_length(bytes: usize, at: usize) -> Result<(), NameError> {
    if bytes > MAX_LABEL_BYTES { Err(NameError::new(NameRule::LabelTooLong, at)) } else { Ok(()) }
}

fn check_characters(label: &str, at: usize) -> Result<(), NameError> {
    match label {
        "" => return Err(NameError::new(NameRule::EmptyLabel, at)),
        "." | ".." => return Err(NameError::new(NameRule::DotLabel, at)),
        _ => {}
    }
    for (offset, c) in label.char_indices() {
        if let Some(rule) = forbidden(c) {
            return Err(NameError::new(rule, at + offset));
        }
    }
    if label.starts_with(char::is_whitespace) {
        return Err(NameError::new(NameRule::LeadingSpace, at));
    }
    if let Some((offset, c)) = label.char_indices().next_back()
        && c.is_whitespace()
    {
        return Err(NameError::new(NameRule::TrailingSpace, at + offset));
    }
    Ok(())
}
